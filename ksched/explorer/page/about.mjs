// What the page says of itself: what is stored, what runs, and what the picture shows.

import { escaped } from "./charts.mjs";

const code = (words) => `<code>${escaped(words)}</code>`;

/** Paragraphs about a page's content. */
export function aboutMarkup(content, particles) {
  const { families, whole, few, steps, etas, trained, digits, version } = content;
  const count = Object.values(families).reduce((sum, members) => sum + Object.keys(members).length, 0);
  const list = (words) => words.map(code).join(", ");
  const product = `the plans of all ${count} samplers that have one, with the schedules ${list(whole)}, at
    ${steps.join(", ")} steps, with default options, and with eta at ${etas.join(", ")} where there is an eta`;
  const others = `With all other schedules: the plans of ${list(few)}, with default options`;
  const paragraphs = [
    `<b>Stored</b> for ${list(trained)}: ${product}. ${others}.`,
    `What is not stored cannot be chosen. ${code("ksched explore --sampler NAME --schedule NAME -n 30 -o eta=0.7")}
    writes this page with any other plan added. Adaptive samplers choose their steps as they run, so they have no plan.
    Coefficients have ${digits} significant digits. Noise levels have every bit, since they are part of the seed of each
    noise.`,
    `<b>Run in the page:</b> ${particles} particles, the sums of the plan, the exact denoiser of the data, the exact ODE
    (Dormand-Prince, tolerance 1e-9) and the noise. Particle i has seed + i, and its numbers are those that ksched draws
    from that seed in Python.`,
    `<b>The picture:</b> states are divided by alpha + sigma, so that noise and data fit in one frame. Rings follow the
    exact probability-flow ODE from the same start. Where a sampler draws no noise, a line joins each particle to its
    ring: the line is the error. With a condition, the model is guided: uncond + scale (cond - uncond).`,
    `Written by ksched ${escaped(version)}.`,
  ];
  return paragraphs.map((text) => `<p>${text}</p>`).join("");
}
