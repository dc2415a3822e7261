// The page: reads the settings, runs one or two plans, and moves the particles.

import { aboutMarkup } from "./about.mjs";
import { escaped } from "./charts.mjs";
import { exactModel } from "./mixture.mjs";
import { seededNoise } from "./noise.mjs";
import { Panel } from "./panel.mjs";
import { readSettings, writeSettings } from "./settings.mjs";
import { Store, result } from "./store.mjs";

const PARTICLES = 256;
const SECONDS = 5; // from noise to data

const find = (selector) => document.querySelector(selector);

class Page {
  constructor(content) {
    this.content = content;
    this.store = new Store(content);
    this.cache = { paths: new Map(), noise: new Map() };
    this.panels = { a: this.panel("a"), b: this.panel("b") };
    this.progress = 0;
    this.playing = false;
    this.work = Promise.resolve();
    this.listen();
    find("#about").innerHTML = aboutMarkup(content, PARTICLES);
  }

  panel(letter) {
    return new Panel(letter, this.store, (choice) => this.next(() => this.change({ [letter]: choice })));
  }

  /** Do something after all that is under way, so that menus that are changed fast never show two runs at once. */
  next(task) {
    this.work = this.work.then(task).catch(failed);
    return this.work;
  }

  // Settings

  /** Take the settings of the address; say what of them is not in this file. */
  async open(fragment) {
    const asked = readSettings(fragment, this.content);
    this.settings = { ...asked, a: await this.store.nearest(asked.a) };
    this.settings.b = asked.b ? await this.store.nearest(asked.b) : null;
    this.notice(["a", "b"].filter((letter) => asked[letter] && differs(asked[letter], this.settings[letter])), asked);
    this.progress = asked.t ?? 0;
    await this.refresh();
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (asked.t === null && still) this.moveTo(1);
    else if (asked.t === null) this.play(true);
  }

  notice(letters, asked) {
    const text = letters.map((letter) => {
      const { process, schedule, sampler, steps, variant } = asked[letter];
      const words = [sampler, schedule, `${steps} steps`, process, variant].filter(Boolean).join(", ");
      return `This file does not store ${words}; the nearest plan that it stores is shown.`;
    });
    find("#notice").textContent = text.join(" ");
    find("#notice").hidden = !text.length;
  }

  /** Change some settings; a run is moved to what is stored. */
  async change(some) {
    const settings = { ...this.settings, ...some };
    for (const letter of ["a", "b"]) {
      if (settings[letter]) settings[letter] = await this.store.nearest(settings[letter]);
    }
    this.settings = settings;
    this.notice([], {});
    await this.refresh();
  }

  async refresh() {
    const shown = ["a", "b"].filter((letter) => this.settings[letter]);
    if (shown.join() !== this.shown?.join()) {
      // Not at every change: an element that is put in again loses the focus.
      find("#panels").replaceChildren(...shown.map((letter) => this.panels[letter].element));
      find("#panels").classList.toggle("two", shown.length === 2);
    }
    this.fillShared();
    for (const letter of shown) await this.panels[letter].show(this.settings[letter], this.setting());
    this.shown = shown;
    this.writeAddress();
    this.draw();
  }

  /** The data and noise that all runs of the page share. */
  setting() {
    const { data, class: label, scale, seed } = this.settings;
    const name = [data, label, scale, seed].join();
    if (!this.cache.noise.has(seed)) this.cache.noise = new Map([[seed, seededNoise(seed, PARTICLES)]]);
    if (this.cache.name !== name) Object.assign(this.cache, { name, paths: new Map() });
    const chosen = label === "" ? null : Number(label);
    const model = exactModel(this.content.data[data], chosen, scale);
    return { model, noise: this.cache.noise.get(seed), cache: this.cache, guided: chosen !== null && scale !== 1 };
  }

  fillShared() {
    const form = find("#shared").elements;
    if (!form.data.options.length) {
      form.data.innerHTML = Object.entries(this.content.data)
        .map(([name, { label }]) => `<option value="${escaped(name)}">${escaped(label)}</option>`)
        .join("");
    }
    const { data, class: label, scale, seed, b } = this.settings;
    Object.assign(form.data, { value: data });
    Object.assign(form.class, { value: label });
    Object.assign(form.scale, { value: scale, disabled: label === "" });
    Object.assign(form.seed, { value: seed });
    form.compare.checked = b !== null;
  }

  writeAddress() {
    history.replaceState(null, "", writeSettings(this.settings));
  }

  // Time

  moveTo(progress) {
    this.progress = progress;
    this.draw();
  }

  draw() {
    const exact = find("#shared").elements.exact.checked;
    const said = this.shown.map((letter) => this.panels[letter].draw(this.progress, exact));
    const range = find("#progress");
    range.value = Math.round(1000 * this.progress);
    const words = said.length === 1 ? said[0] : said.map((text, k) => `${"AB"[k]}: ${text}`).join(" · ");
    range.setAttribute("aria-valuetext", words);
    find("#where").textContent = words;
  }

  play(on) {
    if (on && this.progress >= 1) this.progress = 0;
    if (on) this.settings.t = null; // a link shows a moment only if somebody went to it
    this.playing = on;
    const button = find("#play");
    button.classList.toggle("on", on);
    button.setAttribute("aria-label", on ? "Pause" : "Play");
    let last = null;
    const frame = (now) => {
      if (!this.playing) return;
      this.progress = Math.min(1, this.progress + (last === null ? 0 : (now - last) / 1000 / SECONDS));
      last = now;
      this.draw();
      if (this.progress < 1) requestAnimationFrame(frame);
      else this.play(false);
    };
    if (on) requestAnimationFrame(frame);
    else this.writeAddress();
  }

  // What the user does

  listen() {
    find("#shared").addEventListener("submit", (event) => event.preventDefault());
    find("#shared").addEventListener("change", ({ target }) => this.next(() => this.sharedChanged(target)));
    find("#play").addEventListener("click", () => this.play(!this.playing));
    find("#progress").addEventListener("input", (event) => {
      this.settings.t = Number(event.target.value) / 1000;
      this.play(false);
      this.moveTo(this.settings.t);
    });
    find("#copy").addEventListener("click", () => this.copy());
    window.addEventListener("hashchange", () => this.next(() => this.open(location.hash)));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    window.addEventListener("message", ({ data }) => this.next(() => this.paint(data?.theme)));
    let width = window.innerWidth;
    window.addEventListener("resize", () => {
      if (window.innerWidth === width) return; // a phone's bars come and go
      width = window.innerWidth;
      this.shown.forEach((letter) => this.panels[letter].drawCharts());
      this.draw();
    });
  }

  sharedChanged({ name, value, checked }) {
    if (name === "exact") return this.draw();
    if (name === "compare") return this.change({ b: checked ? this.otherRun() : null });
    // Written and read again, so that what is typed is held to the same limits as a link.
    const text = writeSettings({ ...this.settings, [name]: value });
    const read = readSettings(text, this.content);
    return this.change({ [name]: read[name] });
  }

  /** Light or dark, as the page says that has this one in a frame; "auto" is what the system says. */
  paint(theme) {
    if (!["light", "dark", "auto"].includes(theme)) return;
    document.documentElement.style.colorScheme = theme === "auto" ? "" : theme;
    this.draw();
  }

  /** What a second run shows at first: Euler's method, or a better one beside it. */
  otherRun() {
    const { a } = this.settings;
    return { ...a, sampler: a.sampler === this.content.few[0] ? "dpmpp_2m" : this.content.few[0], variant: "" };
  }

  async copy() {
    this.writeAddress();
    const button = find("#copy");
    try {
      await navigator.clipboard.writeText(location.href);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Copy the address bar"; // a browser may forbid the clipboard to a file
    }
    setTimeout(() => (button.textContent = "Copy link"), 2000);
  }
}

const NAMES = ["process", "schedule", "sampler", "steps", "variant"];
const differs = (one, other) => NAMES.some((name) => one[name] !== other[name]);

/** Say that something went wrong, and let the console have the reason. */
function failed(error) {
  const words = `Something went wrong: ${error.message}. The explorer needs a browser of 2024 or newer.`;
  Object.assign(find("#notice"), { textContent: words, hidden: false });
  console.error(error);
}

async function boot() {
  const content = JSON.parse(find("#content").textContent);
  const page = new Page(content);
  await page.next(() => page.open(location.hash || `#${content.start}`));
  return page;
}

if (typeof document !== "undefined") {
  const ready = boot();
  window.explorer = {
    ready,
    result: async (asked) => result((await ready).store, asked),
    settings: async () => (await ready).settings,
  };
}
