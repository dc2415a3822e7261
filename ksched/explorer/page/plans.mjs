// Plans: how the page unpacks them, runs them, and writes them as text.
//
// A plan is a list of rows. A row is a state: a sum of earlier registers, x (states), D and U (what the model returned,
// denoised and unconditional) and xi (noises), each times a number. `row.call` is the level at which the model is
// called on that state; without it the model is not called.

/** Text that Python deflated and wrote in base64, as the value that it is the JSON of. */
export async function inflated(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

const number = (value) => (typeof value === "string" ? Number(value.replace("inf", "Infinity")) : value);

/** The levels of a block: three numbers each, or the label alone where alpha and sigma follow from it by a rule. */
function levelReader(rule) {
  if (rule === 1) return (label) => ({ label, alpha: 1, sigma: label });
  if (rule === 2) return (label) => ({ label, alpha: 1 - label, sigma: label });
  return ([label, alpha, sigma]) => ({ label, alpha, sigma });
}

/** A plan of a block, as `ksched.explorer.packing` wrote it. */
export function unpacked(block, entry, shapes) {
  const [sampler, variant, steps, shapePlace, levelsPlace, drawsPlace, coefficients] = entry;
  const [sigmas, rule, told, at, ends] = block.levels[levelsPlace];
  const level = levelReader(rule);
  const [start, end] = (ends ?? [sigmas[0], sigmas.at(-1)]).map(level);
  const draws = block.draws[drawsPlace].map((values) => {
    const [from, to, visit, stream, limit] = values.map(number);
    return { from, to, visit, stream, limit };
  });
  let [calls, used] = [0, 0];
  const rows = shapes[shapePlace].map((text) => {
    const [mark, ...registers] = text.split(" ").filter(Boolean);
    const [, kind, step] = mark.match(/^([cb]?)([0-9]+)$/);
    const terms = registers.map((name) => ({ ...register(name), value: coefficients[used++] }));
    const call = kind ? level(told[calls]) : null;
    const state = kind ? level(at.length ? at[calls] : told[calls]) : null;
    calls += kind ? 1 : 0;
    return { terms, step: Number(step), call, state, both: kind === "b" };
  });
  return { sampler, variant, steps, sigmas, start, end, draws, rows, calls };
}

function register(name) {
  const [, kind, place] = name.match(/^(xi|x|D|U)([0-9]+)$/);
  return { name, kind, place: Number(place) };
}

/**
 * The run of a plan: the whole executor of a sampler, whichever it is.
 *
 * `predict(x, level)` returns { denoised, uncond }, and `noise(draw)` unit normal numbers, both arrays like x. The
 * result has the states of all rows.
 */
export function run(plan, x, predict, noise) {
  const held = new Map();
  const states = [];
  let calls = 0;
  plan.rows.forEach((row, k) => {
    const state = k === 0 ? x : new Float64Array(x.length);
    for (const { name, kind, place, value } of row.terms) {
      const source = kind === "xi" ? noise(plan.draws[place]) : held.get(name);
      for (let i = 0; i < x.length; i++) state[i] += value * source[i];
    }
    held.set(`x${k}`, state);
    states.push(state);
    if (row.call) {
      const { denoised, uncond } = predict(state, row.call);
      held.set(`D${calls}`, denoised);
      held.set(`U${calls}`, uncond);
      calls += 1;
    }
  });
  return states;
}

/** The start state: noise as wide as the level that the run starts from. */
export function startState(plan, noise, draw) {
  return noise(draw).map((value) => value * plan.start.sigma);
}

/** A number with six digits, as Python's "g" writes it. */
export function general(value) {
  if (value === Infinity) return "inf";
  const [digits, exponent] = value.toExponential(5).split("e").map(Number);
  if (value !== 0 && (exponent < -4 || exponent > 5)) {
    const size = String(Math.abs(exponent)).padStart(2, "0");
    return `${digits}e${exponent < 0 ? "-" : "+"}${size}`;
  }
  return String(Number(value.toPrecision(6)));
}

const signed = (value) => `${value < 0 || Object.is(value, -0) ? "-" : "+"}${Math.abs(value).toFixed(6)}`;

/** A row's sum as people read it. */
export function rowText(row) {
  return row.terms.map(({ name, value }) => `${signed(value)} ${name}`).join("  ");
}

/** A plan as Python prints it. */
export function planText(plan) {
  const calls = plan.rows.map(({ call, state }) => {
    if (!call) return "";
    return `eval s=${general(call.label)}${state.label === call.label ? "" : ` at ${general(state.label)}`}`;
  });
  const width = Math.max(14, 2 + Math.max(...calls.map((text) => text.length)));
  const lines = plan.rows.map((row, k) => `x${String(k).padEnd(4)}${calls[k].padEnd(width)}${rowText(row)}`.trimEnd());
  return lines.join("\n");
}
