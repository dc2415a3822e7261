// Two drawings in SVG: the noise levels of a run, and its plan as a matrix. Shapes get classes, and the style sheet has
// the colours, so that light and dark need no redrawing.

import { general, rowText } from "./plans.mjs";

/** Text that may stand in markup. */
export function escaped(text) {
  const names = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
  return String(text).replace(/[&<>"]/g, (letter) => names[letter]);
}

function text(x, y, words, kind = "", anchor = "middle") {
  return `<text x="${x}" y="${y}" class="${kind}" text-anchor="${anchor}">${escaped(words)}</text>`;
}

// Noise levels

const LEFT = 44;
const BOTTOM = 24;
const TOP = 10;

/** Where a sigma stands between bottom and top: by its logarithm where the range is wide. */
function heights(values) {
  const positive = values.filter((value) => value > 0 && value < Infinity);
  const [low, high] = [Math.min(...positive), Math.max(...positive)];
  if (high / low < 20 || high <= 1) {
    return { place: (v) => v / high, ticks: [0, high / 2, high] };
  }
  const [first, last] = [Math.log10(low), Math.log10(high)];
  const span = last - first;
  const decades = [];
  for (let power = Math.ceil(first); power <= Math.floor(last); power++) decades.push(10 ** power);
  // The last level is 0, which has no logarithm: it stands below a gap.
  return { place: (v) => (v > 0 ? 0.14 + (0.86 * (Math.log10(v) - first)) / span : 0), ticks: [0, ...decades] };
}

/** The curve of the levels of all model calls, down to where the run ends; `at` moves its cursor. */
export function drawLevels(svg, plan) {
  const width = Math.max(240, svg.clientWidth || 320);
  const height = 170;
  const levels = plan.rows.filter((row) => row.call).map((row) => row.call.label);
  const values = [...levels, plan.end.label];
  const { place, ticks } = heights(values);
  const x = (k) => LEFT + ((width - LEFT - 10) * k) / (values.length - 1);
  const y = (value) => TOP + (height - TOP - BOTTOM) * (1 - place(value));
  const grid = ticks.map(
    (value) =>
      `<line class="grid" x1="${LEFT}" x2="${width - 10}" y1="${y(value)}" y2="${y(value)}"/>` +
      text(LEFT - 6, y(value) + 4, general(value), "tick", "end"),
  );
  const dots = values.map((value, k) => {
    const said = k < levels.length ? `call ${k + 1}: sigma ${general(value)}` : `end: sigma ${general(value)}`;
    const radius = values.length > 60 ? 2 : 3.5;
    return `<circle class="level" cx="${x(k)}" cy="${y(value)}" r="${radius}"><title>${said}</title></circle>`;
  });
  const line = values.map((value, k) => `${x(k)},${y(value)}`).join(" ");
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("height", height);
  const said = `from ${general(values[0])} to ${general(values.at(-1))} in ${levels.length} model calls`;
  svg.setAttribute("aria-label", `Noise levels, sigma ${said}`);
  svg.innerHTML =
    grid.join("") +
    `<polyline class="curve" points="${line}"/>` +
    `<line class="cursor" x1="0" x2="0" y1="${TOP}" y2="${height - BOTTOM}"/>` +
    dots.join("") +
    text(LEFT, height - 6, "call 1", "tick") +
    text(x(values.length - 1), height - 6, "end", "tick", "end");
  const cursor = svg.querySelector(".cursor");
  return (at) => cursor.setAttribute("transform", `translate(${x(at)} 0)`);
}

// The plan

const GROUPS = [
  ["x", "states x"],
  ["D", "denoised D"],
  ["U", "unconditional U"],
  ["xi", "noises ξ"],
];
const GAP = 10;
const HEAD = 22;
const SIDE = 30;

/** The registers that some row reads, group by group, and the x of each column. */
function columnsOf(plan, room) {
  const read = new Map(plan.rows.flatMap((row) => row.terms.map((term) => [term.name, term])));
  const groups = GROUPS.map(([kind, label]) => {
    const members = [...read.values()].filter((term) => term.kind === kind);
    return { label, members: members.sort((left, right) => left.place - right.place).map((term) => term.name) };
  }).filter(({ members }) => members.length);
  const count = groups.reduce((sum, { members }) => sum + members.length, 0);
  const cell = Math.max(8, Math.min(46, Math.floor((room - SIDE - GAP * groups.length) / count)));
  const places = new Map();
  let x = SIDE;
  for (const group of groups) {
    group.x = x;
    for (const name of group.members) {
      places.set(name, x);
      x += cell;
    }
    x += GAP;
  }
  return { groups, places, cell, width: x - GAP + 1 };
}

const FULL = 0.8; // a number inside a cell must stay legible

/** How strong the colour of a coefficient is, by its logarithm: sizes below a thousandth still show. */
function strength(value) {
  const size = Math.min(1, Math.max(1e-3, Math.abs(value)));
  return FULL * (1 + Math.log10(size) / 3.4);
}

function cellOf(row, k, term, column, y, cell, height) {
  const middle = `${column + cell / 2}" y="${y + height / 2 + 4}`;
  const number = `<text class="inside" x="${middle}" text-anchor="middle">${term.value.toFixed(2)}</text>`;
  const size = `width="${cell - 1}" height="${height - 1}" fill-opacity="${strength(term.value).toFixed(3)}"`;
  const box = `<rect class="${term.value < 0 ? "minus" : "plus"}" x="${column}" y="${y}" rx="2" ${size}/>`;
  return `<g class="cell" data-row="${k}" data-name="${term.name}">${box}${cell >= 34 ? number : ""}</g>`;
}

/** The matrix of a plan; `at` marks the row of a state. Pointer and arrow keys choose a cell, whose number is told. */
export function drawMatrix(svg, plan, told) {
  const room = svg.parentElement.clientWidth || 320;
  const { groups, places, cell, width } = columnsOf(plan, room);
  const height = Math.max(10, Math.min(24, cell));
  const y = (k) => HEAD + (k - 1) * height; // the first state is given, and reads nothing
  const rows = plan.rows.map((row, k) => {
    if (k === 0) return "";
    const name = height >= 12 || k % 5 === 0 ? text(SIDE - 6, y(k) + height / 2 + 4, `x${k}`, "tick", "end") : "";
    const cells = row.terms.map((term) => cellOf(row, k, term, places.get(term.name), y(k), cell, height));
    const band = `<rect class="band" x="${SIDE}" y="${y(k)}" width="${width - SIDE - 1}" height="${height - 1}"/>`;
    return `<g class="row" data-row="${k}">${band}${name}${cells.join("")}</g>`;
  });
  const bottom = HEAD + (plan.rows.length - 1) * height + 2;
  svg.setAttribute("viewBox", `0 0 ${width} ${bottom}`);
  svg.setAttribute("width", width);
  svg.setAttribute("height", bottom);
  svg.setAttribute("aria-label", `Plan of ${plan.rows.length - 1} rows; arrow keys read its numbers`);
  svg.innerHTML = groups.map((group) => heading(group, cell)).join("") + rows.join("");
  choosing(svg, plan, told);
  const lines = [...svg.querySelectorAll(".row")];
  return (k) => lines.forEach((line) => line.classList.toggle("now", Number(line.dataset.row) === k));
}

/** The heading of a group of columns; the letter alone where the words would not fit. */
function heading({ label, x, members }, cell) {
  const fits = members.length * cell + GAP > 6.6 * label.length;
  return text(x, HEAD - 8, fits ? label : label.split(" ").at(-1), "head", "start");
}

/** What is said of a cell: the number, and the whole row it stands in. */
function cellText(plan, k, name) {
  const row = plan.rows[k];
  const term = row.terms.find((one) => one.name === name);
  return `${term.value} × ${name} in x${k} = ${rowText(row)}`;
}

function choosing(svg, plan, told) {
  const cells = [...svg.querySelectorAll(".cell")];
  let chosen = -1;
  const choose = (next) => {
    cells[chosen]?.classList.remove("chosen");
    chosen = next;
    if (!cells[chosen]) return told("");
    cells[chosen].classList.add("chosen");
    told(cellText(plan, Number(cells[chosen].dataset.row), cells[chosen].dataset.name));
  };
  const rowOf = (k) => Number(cells[k].dataset.row);
  const moved = {
    ArrowRight: () => Math.min(cells.length - 1, chosen + 1),
    ArrowLeft: () => Math.max(0, chosen - 1),
    ArrowDown: () => cells.findIndex((_, k) => rowOf(k) > (chosen < 0 ? 0 : rowOf(chosen))),
    ArrowUp: () => cells.findIndex((_, k) => rowOf(k) === Math.max(1, (chosen < 0 ? 1 : rowOf(chosen)) - 1)),
    Home: () => 0,
    End: () => cells.length - 1,
  };
  svg.onkeydown = (event) => {
    if (!moved[event.key]) return;
    event.preventDefault();
    const next = moved[event.key]();
    if (next >= 0) choose(next);
  };
  svg.onpointerover = (event) => {
    const cell = event.target.closest(".cell");
    if (cell) choose(cells.indexOf(cell));
  };
  svg.onblur = () => choose(-1);
}
