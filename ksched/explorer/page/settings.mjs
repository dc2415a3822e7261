// Settings of the page, as the fragment of its address has them:
//   #a=process/schedule/sampler/steps/options&b=...&data=moons&class=0&scale=3&seed=7&t=0.5
// Without b one run is shown. Without t the particles start to move.

const SHARED = { data: "moons", class: "", scale: 1, seed: 7 };

/** Decoded text; as it is where somebody cut a link in the middle of a letter. */
function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

/** One run by name: what a or b of the fragment say. */
function readRun(text) {
  if (!text) return null;
  const [process, schedule, sampler, steps, variant = ""] = text.split("/").map(decoded);
  return { process, schedule, sampler, steps: Number(steps), variant };
}

function writeRun({ process, schedule, sampler, steps, variant }) {
  return [process, schedule, sampler, String(steps), ...(variant ? [variant] : [])].map(encodeURIComponent).join("/");
}

/** The parts of a fragment, still encoded; a run's own slashes separate what may hold encoded ones. */
function partsOf(fragment) {
  const pairs = fragment.replace(/^#/, "").split("&").map((part) => part.split(/=(.*)/s));
  return new Map(pairs.filter(([name]) => name));
}

function limited(text, least, most, otherwise) {
  const value = Number(text);
  if (!text || !Number.isFinite(value)) return otherwise;
  return Math.min(most, Math.max(least, value));
}

/** Settings of a fragment; what it does not say, or says wrongly, is the default. */
export function readSettings(fragment, content) {
  const parts = partsOf(fragment);
  const label = parts.get("class");
  return {
    a: readRun(parts.get("a")),
    b: readRun(parts.get("b")),
    data: Object.hasOwn(content.data, parts.get("data") ?? "") ? parts.get("data") : SHARED.data,
    class: label === "0" || label === "1" ? label : SHARED.class,
    scale: limited(parts.get("scale"), 0, 20, SHARED.scale),
    seed: Math.floor(limited(parts.get("seed"), 0, 9007199254740000, SHARED.seed)),
    t: parts.has("t") ? limited(parts.get("t"), 0, 1, 0) : null,
  };
}

/** The fragment of settings; what is as usual is left out. */
export function writeSettings(settings) {
  const parts = [`a=${writeRun(settings.a)}`];
  if (settings.b) parts.push(`b=${writeRun(settings.b)}`);
  for (const [name, usual] of Object.entries(SHARED)) {
    if (settings[name] !== usual) parts.push(`${name}=${encodeURIComponent(settings[name])}`);
  }
  if (settings.t !== null) parts.push(`t=${Number(settings.t.toFixed(3))}`);
  return `#${parts.join("&")}`;
}
