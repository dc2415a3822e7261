// Exact data in the plane: a mixture of round Gaussians, its denoiser E[x0 | x], and the probability-flow ODE.
//
// Everything is in flow coordinates y = x / (alpha + sigma), s = sigma / (alpha + sigma), a = 1 - s, in which every
// process is the same one: y = a x0 + s eps, and dy/ds = (y - E[x0 | y]) / s.

/** Where a level is in flow coordinates; x = scale * y. */
export function placeOf({ alpha, sigma }) {
  const scale = alpha + sigma;
  return { a: alpha / scale, s: sigma / scale, scale };
}

/** The components of one class; all of them where the class is null. */
export function ofClass(mixture, label) {
  const kept = mixture.weights.map((_, k) => k).filter((k) => label === null || mixture.labels[k] === label);
  const total = kept.reduce((sum, k) => sum + mixture.weights[k], 0);
  return {
    weights: kept.map((k) => mixture.weights[k] / total),
    means: kept.map((k) => mixture.means[k]),
    variances: kept.map((k) => mixture.variances[k]),
  };
}

/** Means over the posterior shares of the components: of the mean m, of the pull, and of variance times pull. */
function posterior(mixture, y0, y1, a, s, out) {
  const { weights, means, variances } = mixture;
  const logs = out.logs;
  let most = -Infinity;
  for (let k = 0; k < weights.length; k++) {
    const total = a * a * variances[k] + s * s;
    const [d0, d1] = [y0 - a * means[k][0], y1 - a * means[k][1]];
    logs[k] = Math.log(weights[k] / total) - (d0 * d0 + d1 * d1) / (2 * total);
    if (logs[k] > most) most = logs[k];
  }
  let [sum, m0, m1, p0, p1, q0, q1] = [0, 0, 0, 0, 0, 0, 0];
  for (let k = 0; k < weights.length; k++) {
    const share = Math.exp(logs[k] - most);
    const pull = share / (a * a * variances[k] + s * s);
    sum += share;
    m0 += share * means[k][0];
    m1 += share * means[k][1];
    p0 += pull * (y0 - a * means[k][0]);
    p1 += pull * (y1 - a * means[k][1]);
    q0 += pull * variances[k] * (y0 - a * means[k][0]);
    q1 += pull * variances[k] * (y1 - a * means[k][1]);
  }
  out.mean = [m0 / sum, m1 / sum];
  out.pull = [p0 / sum, p1 / sum];
  out.wide = [q0 / sum, q1 / sum];
}

function room(mixture) {
  return { logs: new Float64Array(mixture.weights.length), mean: null, pull: null, wide: null };
}

/** The posterior mean of x0 for states of all particles at a level. */
function denoised(mixture, x, level) {
  const { a, s, scale } = placeOf(level);
  const [out, parts] = [new Float64Array(x.length), room(mixture)];
  for (let i = 0; i < x.length; i += 2) {
    const y = [x[i] / scale, x[i + 1] / scale];
    posterior(mixture, y[0], y[1], a, s, parts);
    for (let c = 0; c < 2; c++) {
      // Two forms of one number: the first loses nothing near the data, the second nothing in pure noise.
      out[i + c] = a > s ? y[c] / a - ((s * s) / a) * parts.pull[c] : parts.mean[c] + a * parts.wide[c];
    }
  }
  return out;
}

/** dy/ds at a place, of one particle: (y - E[x0 | y]) / s without the 0 / 0 at s = 0. */
function slope(mixture, y0, y1, s, parts) {
  const [a, y] = [1 - s, [y0, y1]];
  posterior(mixture, y0, y1, a, s, parts);
  return [0, 1].map((c) =>
    a > s ? -y[c] / a + (s / a) * parts.pull[c] : (y[c] - parts.mean[c] - a * parts.wide[c]) / s,
  );
}

/**
 * A model that knows its data: `predict(x, level)` gives denoised and uncond as ksched's samplers want them, and
 * `slope` the direction of the exact ODE. With a class, denoised is guided: uncond + scale * (cond - uncond).
 */
export function exactModel(data, label = null, scale = 1) {
  const [all, some] = [ofClass(data, null), ofClass(data, label)];
  const guided = (cond, uncond) => cond.map((value, i) => uncond[i] + scale * (value - uncond[i]));
  return {
    target: some,
    predict(x, level) {
      const uncond = denoised(all, x, level);
      return { denoised: label === null ? uncond : guided(denoised(some, x, level), uncond), uncond };
    },
    slopes() {
      const [roomAll, roomSome] = [room(all), room(some)];
      return (y0, y1, s) => {
        const uncond = slope(all, y0, y1, s, roomAll);
        return label === null ? uncond : guided(slope(some, y0, y1, s, roomSome), uncond);
      };
    },
  };
}

// Dormand and Prince's method of order 5 with an error estimate of order 4.
const NODES = [0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1];
const STAGES = [
  [],
  [1 / 5],
  [3 / 40, 9 / 40],
  [44 / 45, -56 / 15, 32 / 9],
  [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729],
  [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656],
  [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84],
];
const ERROR = [71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40];
const TOLERANCE = 1e-9;

/** One particle along the exact ODE from s to a lower one. */
function follow(slopeAt, y, s, target) {
  let h = (target - s) / 4;
  while (s > target) {
    h = Math.max(h, target - s); // both are negative
    const k = [];
    let [z0, z1] = y;
    for (let i = 0; i < 7; i++) {
      [z0, z1] = y;
      for (let j = 0; j < i; j++) {
        z0 += h * STAGES[i][j] * k[j][0];
        z1 += h * STAGES[i][j] * k[j][1];
      }
      k.push(slopeAt(z0, z1, Math.max(0, s + NODES[i] * h)));
    }
    const off = [0, 1].map((c) => Math.abs(h * k.reduce((sum, at, i) => sum + ERROR[i] * at[c], 0)));
    const error = Math.max(...off) / TOLERANCE;
    if (error <= 1) {
      s = h === target - s ? target : s + h;
      y = [z0, z1];
    }
    h *= Math.min(5, Math.max(0.2, 0.9 * Math.max(error, 1e-9) ** -0.2));
  }
  return y;
}

/** States of the exact ODE at every level, for particles that start as x at the first of them; a Map by place s. */
export function exactPaths(model, x, levels) {
  const places = levels.map(placeOf);
  const first = places[0];
  const order = [...new Set(places.map(({ s }) => s))].filter((s) => s <= first.s).sort((left, right) => right - left);
  const slopeAt = model.slopes();
  const states = new Map(order.map((s) => [s, new Float64Array(x.length)]));
  for (let i = 0; i < x.length; i += 2) {
    let [y, at] = [[x[i] / first.scale, x[i + 1] / first.scale], first.s];
    for (const s of order) {
      if (s < at) [y, at] = [follow(slopeAt, y, at, s), s];
      states.get(s).set(y, i);
    }
  }
  return states;
}

/** Mean distance of two clouds, particle by particle. */
export function meanDistance(one, other) {
  let sum = 0;
  for (let i = 0; i < one.length; i += 2) sum += Math.hypot(one[i] - other[i], one[i + 1] - other[i + 1]);
  return sum / (one.length / 2);
}

/**
 * How far a cloud is from the data distribution: the maximum mean discrepancy with a Gaussian kernel, whose means over
 * a mixture have closed forms. The estimate is without bias, so a perfect cloud is near 0.
 */
export function distributionDistance(cloud, mixture, width = 0.5) {
  const { weights, means, variances } = mixture;
  const h = width * width;
  const kernel = (x, y, spread) => (h / spread) * Math.exp(-((x[0] - y[0]) ** 2 + (x[1] - y[1]) ** 2) / (2 * spread));
  const points = Array.from({ length: cloud.length / 2 }, (_, i) => [cloud[2 * i], cloud[2 * i + 1]]);
  const n = points.length;
  let [within, across, between] = [0, 0, 0];
  points.forEach((x, i) => {
    for (let j = 0; j < i; j++) within += (2 * kernel(x, points[j], h)) / (n * (n - 1));
    means.forEach((m, k) => (across += (weights[k] * kernel(x, m, h + variances[k])) / n));
  });
  means.forEach((m, k) => {
    means.forEach((o, l) => (between += weights[k] * weights[l] * kernel(m, o, h + variances[k] + variances[l])));
  });
  return Math.sqrt(Math.max(0, within - 2 * across + between));
}
