// Seeded noise: the numbers that ksched draws in Python from the same seed, by its rule "ksched noise 3".
//
// A hash (BLAKE2b) of the seed and of the place in the run is the key of a counter-based generator (Philox4x64-10), and
// 16 bits of its words look up rows in a table of normal numbers. All of it is integers, a table and float32 sums, so
// the numbers are the same everywhere. A 64-bit word is two numbers of 32 bits here, the low half first: BigInt would
// be too slow for thousands of particles.

const SCHEME = "ksched noise 3";
const TWO_32 = 2 ** 32;

/** 64-bit words in hexadecimal as pairs of halves. */
function halves(text) {
  return text.split(" ").flatMap((word) => [parseInt(word.slice(8), 16), parseInt(word.slice(0, 8), 16)]);
}

// BLAKE2b, RFC 7693: where it starts from, and in which order a round takes the words of the message.
const START = halves(
  "6a09e667f3bcc908 bb67ae8584caa73b 3c6ef372fe94f82b a54ff53a5f1d36f1 " +
    "510e527fade682d1 9b05688c2b3e6c1f 1f83d9abfb41bd6b 5be0cd19137e2179",
);
const ORDER = [
  ..."0123456789abcdef ea489fd61c02b753 b8c052fdae367194 7931dcbe265a40f8 905724afe1bc683d".split(" "),
  ..."2c6a0b834d75fe19 c51fed4a0763928b db7ec13950f4862a 6fe9b308c2d714a5 a2847615fb9e3cd0".split(" "),
].map((round) => [...round].map((digit) => parseInt(digit, 16)));
const COLUMNS_AND_DIAGONALS = [
  [0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15],
  [0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14],
];

/** v[a] += v[b] (+ m[k] if k >= 0), all words of 64 bits. */
function add(v, a, b, m, k) {
  let low = v[2 * a] + v[2 * b];
  let high = v[2 * a + 1] + v[2 * b + 1];
  if (k >= 0) {
    low += m[2 * k];
    high += m[2 * k + 1];
  }
  v[2 * a] = low; // the array keeps 32 bits of it
  v[2 * a + 1] = high + Math.floor(low / TWO_32);
}

/** v[a] ^= v[b], then rotated right by so many bits. */
function mix(v, a, b, bits) {
  let low = v[2 * a] ^ v[2 * b];
  let high = v[2 * a + 1] ^ v[2 * b + 1];
  if (bits >= 32) [low, high] = [high, low];
  const rest = bits % 32;
  v[2 * a] = rest ? (low >>> rest) | (high << (32 - rest)) : low;
  v[2 * a + 1] = rest ? (high >>> rest) | (low << (32 - rest)) : high;
}

/** One compression of BLAKE2b: a block of 32 halves into the state of 16. */
function compress(state, block, bytes, last) {
  const v = new Uint32Array(32);
  v.set(state);
  v.set(START, 16);
  v[24] ^= bytes;
  if (last) {
    v[28] = ~v[28];
    v[29] = ~v[29];
  }
  for (let round = 0; round < 12; round++) {
    const order = ORDER[round % 10];
    for (let g = 0; g < 8; g++) {
      const [a, b, c, d] = COLUMNS_AND_DIAGONALS[g];
      add(v, a, b, block, order[2 * g]);
      mix(v, d, a, 32);
      add(v, c, d, block, -1);
      mix(v, b, c, 24);
      add(v, a, b, block, order[2 * g + 1]);
      mix(v, d, a, 16);
      add(v, c, d, block, -1);
      mix(v, b, c, 63);
    }
  }
  return state.map((value, i) => value ^ v[i] ^ v[16 + i]);
}

/** The state of the hash after its key, the scheme's name, with a seed as salt; it serves all draws of that seed. */
function hashOfSeed(seed) {
  const state = Uint32Array.from(START);
  state[0] ^= 0x01010000 ^ (SCHEME.length << 8) ^ 16; // fanout and depth 1, length of the key, 16 bytes of result
  for (let i = 0, rest = BigInt.asUintN(128, BigInt(seed)); i < 4; i++, rest >>= 32n) {
    state[8 + i] ^= Number(rest & 0xffffffffn);
  }
  const bytes = new Uint8Array(128);
  bytes.set([...SCHEME].map((letter) => letter.charCodeAt(0)));
  return compress(state, wordsOf(new DataView(bytes.buffer)), 128, false);
}

function wordsOf(view) {
  return Uint32Array.from({ length: 32 }, (_, i) => view.getUint32(4 * i, true));
}

/** The block that is hashed for a draw: its two sigmas, visit and stream, as Python packs them. */
function blockOfDraw(draw) {
  const view = new DataView(new ArrayBuffer(128));
  view.setFloat64(0, draw.from, true);
  view.setFloat64(8, draw.to, true);
  view.setBigInt64(16, BigInt(draw.visit), true);
  view.setBigInt64(24, BigInt(draw.stream), true);
  return wordsOf(view);
}

// Philox4x64-10, Salmon et al. 2011.
const [M0_LOW, M0_HIGH, M1_LOW, M1_HIGH] = halves("d2e7470ee14c6c93 ca5a826395121157");
const [B0_LOW, B0_HIGH, B1_LOW, B1_HIGH] = halves("9e3779b97f4a7c15 bb67ae8584caa73b");

/** The 128 bits of a product of two 64-bit words, as four halves from the lowest, by 16 bits at a time. */
function product(aLow, aHigh, bLow, bHigh, out) {
  const a = [aLow & 0xffff, aLow >>> 16, aHigh & 0xffff, aHigh >>> 16];
  const b = [bLow & 0xffff, bLow >>> 16, bHigh & 0xffff, bHigh >>> 16];
  let carry = 0;
  let low = 0;
  for (let k = 0; k < 8; k++) {
    let sum = carry; // below 2 ** 35
    for (let i = Math.max(0, k - 3); i <= Math.min(k, 3); i++) sum += a[i] * b[k - i];
    const digit = sum % 65536;
    carry = (sum - digit) / 65536;
    if (k % 2) out[k >> 1] = low + digit * 65536;
    else low = digit;
  }
}

/** The lowest 16 bits of the first word of a block of the stream of a key. */
function firstLane(key, counter, p, q) {
  let [k0Low, k0High, k1Low, k1High] = key;
  let [a0, a1, b0, b1, c0, c1, d0, d1] = [counter, 0, 0, 0, 0, 0, 0, 0];
  for (let round = 0; round < 10; round++) {
    if (round) {
      const low0 = k0Low + B0_LOW;
      const low1 = k1Low + B1_LOW;
      k0High = (k0High + B0_HIGH + (low0 >= TWO_32 ? 1 : 0)) >>> 0;
      k1High = (k1High + B1_HIGH + (low1 >= TWO_32 ? 1 : 0)) >>> 0;
      k0Low = low0 >>> 0;
      k1Low = low1 >>> 0;
    }
    product(a0, a1, M0_LOW, M0_HIGH, p);
    product(c0, c1, M1_LOW, M1_HIGH, q);
    [a0, a1] = [(q[2] ^ b0 ^ k0Low) >>> 0, (q[3] ^ b1 ^ k0High) >>> 0];
    [c0, c1] = [(p[2] ^ d0 ^ k1Low) >>> 0, (p[3] ^ d1 ^ k1High) >>> 0];
    [b0, b1, d0, d1] = [q[0], q[1], p[0], p[1]];
  }
  return a0 & 0xffff;
}

// The table of normal numbers. Algorithm AS 241 (Wichura 1988) has the quantiles, as Python's statistics module has.
const CENTRE = [
  [2509.0809287301226727, 33430.575583588128105, 67265.770927008700853, 45921.953931549871457, 13731.693765509461125,
    1971.5909503065514427, 133.14166789178437745, 3.387132872796366608],
  [5226.495278852854561, 28729.085735721942674, 39307.89580009271061, 21213.794301586595867, 5394.1960214247511077,
    687.1870074920579083, 42.313330701600911252, 1.0],
];
const TAIL = [
  [7.7454501427834140764e-4, 0.0227238449892691845833, 0.24178072517745061177, 1.27045825245236838258,
    3.64784832476320460504, 5.7694972214606914055, 4.6303378461565452959, 1.42343711074968357734],
  [1.05075007164441684324e-9, 5.475938084995344946e-4, 0.0151986665636164571966, 0.14810397642748007459,
    0.68976733498510000455, 1.6763848301838038494, 2.05319162663775882187, 1.0],
];

function polynomial(coefficients, r) {
  return coefficients.reduce((sum, value) => sum * r + value);
}

/** The normal quantile of a probability from 0.5 to 1 - 2e-6. */
function quantile(p) {
  const q = p - 0.5;
  if (q <= 0.425) {
    const r = 0.180625 - q * q;
    return (polynomial(CENTRE[0], r) * q) / polynomial(CENTRE[1], r);
  }
  const r = Math.sqrt(-Math.log(1 - p)) - 1.6;
  return polynomial(TAIL[0], r) / polynomial(TAIL[1], r);
}

let quantiles = null;

/** 65536 quantiles of the normal law times 1/2, in order; the outermost are such that the variance is right. */
function table() {
  if (quantiles) return quantiles;
  const size = 32768;
  const half = Array.from({ length: size - 1 }, (_, i) => quantile(0.5 + (i + 0.5) / (2 * size)));
  let sum = 0;
  let lost = 0; // by rounding: Kahan's sum
  for (const value of half) {
    const term = value * value - lost;
    const next = sum + term;
    lost = next - sum - term;
    sum = next;
  }
  half.push(Math.sqrt(size - sum));
  quantiles = new Float32Array(2 * size);
  half.forEach((value, i) => {
    quantiles[size + i] = value / 2;
    quantiles[size - 1 - i] = -value / 2;
  });
  return quantiles;
}

// A row of the table is four quantiles, paired by a lattice; a particle has two coordinates and needs the first two.
const LATTICE = [1, 13723];

function entry(lane, column) {
  return table()[Math.floor((((2 * lane + 1) * LATTICE[column]) % 131072) / 2)];
}

/** Two normal numbers of a key: rows from four quarters of the stream are added and subtracted in float32. */
function pair(key, out, at, p, q) {
  const lanes = [1, 2, 3, 4].map((counter) => firstLane(key, counter, p, q));
  for (let column = 0; column < 2; column++) {
    const [a, b, c, d] = lanes.map((lane) => entry(lane, column));
    out[at + column] = Math.fround(Math.fround(a + c) + Math.fround(b - d));
  }
}

/** What is drawn before a run, and makes its start state. */
export const START_DRAW = { from: Infinity, to: Infinity, visit: 0, stream: 0, limit: Infinity };

/**
 * The noise of particles in the plane: `source(draw)` is a Float64Array of x and y of every particle, the same whenever
 * it is asked for. Particle i has the seed `seed + i`, as item i of a batch has in Python.
 */
export function seededNoise(seed, count) {
  const seeds = Array.from({ length: count }, (_, i) => hashOfSeed(BigInt(seed) + BigInt(i)));
  const drawn = new Map();
  return (draw) => {
    const name = [draw.from, draw.to, draw.visit, draw.stream].join();
    if (!drawn.has(name)) drawn.set(name, numbers(seeds, blockOfDraw(draw)));
    const values = drawn.get(name);
    const limit = Math.fround(draw.limit);
    return limit === Infinity ? values : values.map((value) => Math.max(-limit, Math.min(limit, value)));
  };
}

function numbers(seeds, block) {
  const out = new Float64Array(2 * seeds.length);
  const [p, q] = [new Float64Array(4), new Float64Array(4)];
  seeds.forEach((state, i) => pair(compress(state, block, 160, true), out, 2 * i, p, q));
  return out;
}
