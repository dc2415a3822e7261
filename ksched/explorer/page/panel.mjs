// One run on the page: its menus, facts and drawings.

import { drawLevels, drawMatrix, escaped } from "./charts.mjs";
import { Cloud, framesOf, placeInTime } from "./cloud.mjs";
import { exactPaths, distributionDistance, meanDistance } from "./mixture.mjs";
import { START_DRAW } from "./noise.mjs";
import { general, planText, run, startState } from "./plans.mjs";
import { distinct } from "./store.mjs";

function option(value, label, chosen) {
  return `<option value="${escaped(value)}"${value === chosen ? " selected" : ""}>${escaped(label)}</option>`;
}

function groups(parts) {
  const shown = parts.filter(([, options]) => options.length);
  return shown.map(([label, options]) => `<optgroup label="${escaped(label)}">${options.join("")}</optgroup>`).join("");
}

function percent(share) {
  const value = 100 * share;
  return `${value >= 0.001 ? Number(value.toPrecision(3)) : value.toExponential(1)} %`;
}

/** A run with its menus; `changed(choice)` is called when the user chooses. */
export class Panel {
  constructor(letter, store, changed) {
    this.letter = letter;
    this.store = store;
    this.element = document.querySelector("#panel").content.firstElementChild.cloneNode(true);
    this.element.classList.add(letter);
    this.find = (selector) => this.element.querySelector(selector);
    this.find(".letter").textContent = letter.toUpperCase();
    this.find("form").setAttribute("aria-label", `Run ${letter.toUpperCase()}`);
    this.cloud = new Cloud(this.find("canvas"));
    this.find("form").addEventListener("submit", (event) => event.preventDefault());
    this.find("form").addEventListener("change", (event) => {
      const value = event.target.name === "steps" ? Number(event.target.value) : event.target.value;
      changed({ ...this.choice, [event.target.name]: value });
    });
  }

  /** Show a run on data: fill the menus, run the plan, and draw. */
  async show(choice, setting) {
    this.choice = choice;
    this.plan = await this.store.plan(choice);
    await this.fillMenus();
    this.compute(setting);
    this.drawCharts();
    this.writeFacts(setting);
  }

  async fillMenus() {
    const { content } = this.store;
    const { process, schedule, sampler, steps, variant } = this.choice;
    const entries = await this.store.entries(process, schedule);
    const own = entries.filter((entry) => entry[0] === sampler);
    const menu = (name, markup) => {
      const select = this.find(`select[name=${name}]`);
      select.innerHTML = markup;
      select.disabled = select.options.length < 2;
    };
    const names = Object.keys(content.blocks);
    menu("process", names.map((name) => option(name, content.processes[name], process)).join(""));
    menu("schedule", this.scheduleMenu(process, schedule));
    menu("sampler", this.samplerMenu(distinct(entries, 0), sampler));
    const counts = distinct(own, 2).sort((left, right) => left - right);
    const calls = await this.store.callsOf(own, variant);
    menu("steps", counts.map((count) => option(count, `${count} (${calls.get(count)} calls)`, steps)).join(""));
    const variants = distinct(own.filter((entry) => entry[2] === steps), 1);
    menu("variant", variants.map((text) => option(text, text || this.defaults(), variant)).join(""));
  }

  /** What the menu calls default options. */
  defaults() {
    const { defaults } = this.about() ?? {};
    return defaults ? `defaults (${defaults})` : "defaults";
  }

  /** What is known of the sampler; nothing of one that was registered under a name of its own. */
  about() {
    const { families } = this.store.content;
    return Object.values(families).find((members) => this.choice.sampler in members)?.[this.choice.sampler];
  }

  scheduleMenu(process, schedule) {
    const { blocks, trained, whole, few, schedules: known } = this.store.content;
    const part = (kept) =>
      Object.keys(blocks[process]).filter(kept).map((name) => option(name, name, schedule));
    const single = (name) => !trained.includes(process) || !Object.hasOwn(known, name);
    return groups([
      ["with every sampler", part((name) => !single(name) && whole.includes(name))],
      [`with ${few.length} samplers`, part((name) => !single(name) && !whole.includes(name))],
      ["single plans", part(single)],
    ]);
  }

  samplerMenu(stored, sampler) {
    const { families } = this.store.content;
    const known = Object.values(families).flatMap(Object.keys);
    const part = (names) => names.filter((name) => stored.includes(name)).map((name) => option(name, name, sampler));
    const others = stored.filter((name) => !known.includes(name));
    return groups([
      ...Object.entries(families).map(([heading, members]) => [heading, part(Object.keys(members))]),
      ["Others", part(others)],
    ]);
  }

  compute({ model, noise, cache }) {
    const { plan } = this;
    const x = startState(plan, noise, START_DRAW);
    const levels = [plan.start, ...plan.rows.map((row) => row.state).filter(Boolean), plan.end];
    const name = [cache.name, plan.start.sigma, ...levels.map(({ alpha, sigma }) => `${alpha} ${sigma}`)].join();
    if (!cache.paths.has(name)) cache.paths.set(name, exactPaths(model, x, levels));
    const paths = cache.paths.get(name);
    this.states = run(plan, x, model.predict, noise);
    this.frames = framesOf(plan, this.states, paths);
    this.target = model.target;
  }

  drawCharts() {
    this.moveCursor = drawLevels(this.find(".levels svg"), this.plan);
    const cell = this.find("output.cell");
    cell.textContent = "";
    this.markRow = drawMatrix(this.find(".matrix svg"), this.plan, (words) => (cell.textContent = words));
    this.find("pre").textContent = planText(this.plan);
  }

  /** The run in numbers. */
  writeFacts({ guided }) {
    const { plan, frames } = this;
    const last = frames.at(-1);
    const follows = plan.draws.length === 0;
    const [own, exact] = [last.y, last.exact].map((states) => distributionDistance(states, this.target).toFixed(3));
    const facts = [
      ["Model calls (NFE)", String(plan.calls), "How often the network is called: nearly all of the time of a run."],
      ["Noises drawn", String(plan.draws.length), "0 is an ODE solver."],
      [
        "Error",
        follows ? percent(meanDistance(last.y, last.exact)) : "draws noise",
        "Mean distance between the final samples and those of the exact ODE, in % of the standard deviation of the " +
          "data. A sampler that draws noise takes other paths on purpose: compare distances to the data distribution.",
      ],
      [
        "Distance to the data distribution",
        guided ? "not with guidance" : `${own} (exact ODE ${exact})`,
        "Maximum mean discrepancy of the final samples, with a Gaussian kernel of width 0.5; 0 is perfect.",
      ],
    ];
    const part = ([name, value, why]) =>
      `<div title="${escaped(why)}"><dt>${escaped(name)}</dt><dd>${escaped(value)}</dd></div>`;
    this.find(".facts").innerHTML = facts.map(part).join("");
    this.writeWords(facts);
    this.follows = follows;
  }

  writeWords(facts) {
    const { sampler, schedule, steps } = this.choice;
    const formula = this.store.content.schedules[schedule];
    const words = [this.about()?.summary, formula && `Levels: ${formula}.`];
    this.find(".title").textContent = `${sampler}, ${schedule}, ${steps} steps`;
    this.find(".summary").textContent = words.filter(Boolean).join(" ");
    const said = facts.map(([name, value]) => `${name}: ${value}`).join("; ");
    this.find("canvas").setAttribute("aria-label", `Particles of ${sampler} on ${schedule}. ${said}`);
  }

  /** Draw the run at a progress between 0 and 1; the answer says where that is. */
  draw(progress, exact) {
    this.cloud.draw(this.frames, progress, this.target, { exact, follows: this.follows });
    const { k, share } = placeInTime(this.frames, progress);
    this.moveCursor(k + share);
    const now = share > 0.999 ? k + 1 : k;
    this.markRow(this.frames[now].k);
    const calls = this.frames.length - 1;
    return now === calls ? "the end" : `call ${now + 1} of ${calls}, sigma ${general(this.frames[now].label)}`;
  }
}
