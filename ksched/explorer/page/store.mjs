// The plans that the page stores, by name.

import { exactModel } from "./mixture.mjs";
import { START_DRAW, seededNoise } from "./noise.mjs";
import { inflated, planText, run, startState, unpacked } from "./plans.mjs";

/** The plans of the page, by name; texts are unpacked when they are first asked for. */
export class Store {
  constructor(content) {
    this.content = content;
    this.opened = new Map();
    this.shapes = inflated(content.shapes);
  }

  block(process, schedule) {
    const name = `${process}/${schedule}`;
    if (!this.opened.has(name)) this.opened.set(name, inflated(this.content.blocks[process][schedule]));
    return this.opened.get(name);
  }

  /** What is stored under a process and schedule: [sampler, variant, steps] of every plan. */
  async entries(process, schedule) {
    return (await this.block(process, schedule)).plans;
  }

  /** The number of model calls by the number of steps, of some entries of one sampler. */
  async callsOf(entries, variant) {
    const shapes = await this.shapes;
    const counted = entries.map((entry) => [entry[2], shapes[entry[3]].filter((row) => /^[cb]/.test(row)).length]);
    return new Map([...counted, ...counted.filter((_, k) => entries[k][1] === variant)]);
  }

  async plan({ process, schedule, sampler, steps, variant }) {
    const block = await this.block(process, schedule);
    const entry = block.plans.find((one) => one[0] === sampler && one[1] === variant && one[2] === steps);
    return unpacked(block, entry, await this.shapes);
  }

  /** The run that is asked for, as far as it is stored; what is not is replaced by what is. */
  async nearest(asked) {
    const { blocks } = this.content;
    const process = pick(asked?.process, Object.keys(blocks));
    const schedule = pick(asked?.schedule, Object.keys(blocks[process]), "karras");
    const entries = await this.entries(process, schedule);
    const sampler = pick(asked?.sampler, distinct(entries, 0), "dpmpp_2m");
    const own = entries.filter((entry) => entry[0] === sampler);
    const steps = pick(asked?.steps, distinct(own, 2), 10);
    const variant = pick(asked?.variant, distinct(own.filter((entry) => entry[2] === steps), 1), "");
    return { process, schedule, sampler, steps, variant };
  }
}

export const distinct = (entries, place) => [...new Set(entries.map((entry) => entry[place]))];

function pick(asked, known, usual) {
  return known.includes(asked) ? asked : known.includes(usual) ? usual : known[0];
}

/** The final states of a run by name, on its own: what tests compare with Python. */
export async function result(store, { data, label = null, scale = 1, seed, count, ...choice }) {
  const plan = await store.plan(choice);
  const noise = seededNoise(seed, count);
  const { predict } = exactModel(store.content.data[data], label, scale);
  const states = run(plan, startState(plan, noise, START_DRAW), predict, noise);
  return { x: [...states.at(-1)], nfe: plan.calls, text: planText(plan) };
}
