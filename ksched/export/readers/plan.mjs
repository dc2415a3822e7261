// @TITLE@
//
// await run(x, denoise, noise): x is an array or a typed array, the start state at sigma @START@, which stays as it is.
// denoise(x, sigma) returns denoised, @UNCOND_NOTE@, or a promise of it.
// noise(sigma_from, sigma_to) returns unit normal noise like x, or a promise of it@NOISE_NOTE@.

export const buffers = @BUFFERS@, result = @RESULT@, denoisedBuffer = @DENOISED@, both = @BOTH@;

// ["call", buffer, sigma], ["noise", buffer, sigma_from, sigma_to, limit], ["form", buffer, [source, weight], ...]
export const steps = [
@STEPS@
];

export async function run(x, denoise, noise) {
  const held = Array.from({ length: buffers }, () => x.slice());
  for (const [what, out, ...more] of steps) {
    if (what === "call") {
      const answer = await denoise(held[out], more[0]);
      [held[denoisedBuffer], held[denoisedBuffer + 1]] = both ? answer : [answer];
    } else if (what === "noise") {
      const [from, to, limit] = more;
      held[out].set ? held[out].set(await noise(from, to)) : (held[out] = [...(await noise(from, to))]);
      if (limit < Infinity) held[out] = held[out].map((value) => Math.max(-limit, Math.min(limit, value)));
    } else {
      for (let i = 0; i < x.length; i++) {
        let sum = 0;
        for (const [source, weight] of more) sum += weight * held[source][i];
        held[out][i] = sum; // it may be one of the sources
      }
    }
  }
  return held[result];
}
