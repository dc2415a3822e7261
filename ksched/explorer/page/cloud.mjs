// The particles of a run on a canvas, over the density of the noised data, beside the exact ODE.

import { placeOf } from "./mixture.mjs";

const REACH = 2.7; // the picture is this far from its middle, in flow coordinates
const CELLS = 90; // of the density along a side

function colours(element) {
  const style = getComputedStyle(element);
  const [dot, ring, shade] = ["--particle", "--exact", "--density"].map((name) => style.getPropertyValue(name).trim());
  return { dot, ring, shade: shade.match(/[\d.]+/g).map(Number) };
}

/** The states of a run that are shown, one for every model call and the last: where they are and at what level. */
export function framesOf(plan, states, paths) {
  const shown = plan.rows.map((row, k) => ({ k, level: row.state ?? (k === plan.rows.length - 1 ? plan.end : null) }));
  return shown.filter(({ level }) => level).map(({ k, level }) => {
    const { s, scale } = placeOf(level);
    const known = [...paths.keys()];
    const near = paths.has(s) ? s : known[0]; // churn may go above the start, where the ODE has not been
    return { k, s, label: level.label, y: states[k].map((value) => value / scale), exact: paths.get(near) };
  });
}

const between = (a, b, share) => a + (b - a) * share;

/** Where a picture is in time: the frame before, the one after, and the share between them. */
export function placeInTime(frames, progress) {
  const at = progress * (frames.length - 1);
  const k = Math.min(frames.length - 2, Math.floor(at));
  return { k, before: frames[k], after: frames[k + 1], share: at - k };
}

function densityAt(mixture, s, out) {
  const a = 1 - s;
  const { weights, means, variances } = mixture;
  let most = 0;
  for (let j = 0; j < CELLS; j++) {
    const y1 = REACH - (2 * REACH * (j + 0.5)) / CELLS;
    for (let i = 0; i < CELLS; i++) {
      const y0 = (2 * REACH * (i + 0.5)) / CELLS - REACH;
      let sum = 0;
      for (let k = 0; k < weights.length; k++) {
        const total = a * a * variances[k] + s * s;
        const far = ((y0 - a * means[k][0]) ** 2 + (y1 - a * means[k][1]) ** 2) / (2 * total);
        if (far < 12) sum += (weights[k] / total) * Math.exp(-far);
      }
      out[j * CELLS + i] = sum;
      if (sum > most) most = sum;
    }
  }
  return most;
}

/** Draws frames on a canvas. */
export class Cloud {
  constructor(canvas) {
    this.canvas = canvas;
    this.pen = canvas.getContext("2d");
    this.small = document.createElement("canvas");
    this.small.width = this.small.height = CELLS;
    this.values = new Float64Array(CELLS * CELLS);
  }

  /** The size of the canvas in pixels of the screen. */
  fit() {
    const side = Math.max(200, this.canvas.clientWidth);
    this.ratio = Math.min(2, window.devicePixelRatio || 1);
    this.side = side;
    if (this.canvas.width !== Math.round(side * this.ratio)) {
      this.canvas.width = this.canvas.height = Math.round(side * this.ratio);
    }
  }

  x(value) {
    return ((value + REACH) / (2 * REACH)) * this.side;
  }

  y(value) {
    return ((REACH - value) / (2 * REACH)) * this.side;
  }

  draw(frames, progress, mixture, { exact, follows }) {
    this.fit();
    const { pen } = this;
    const inks = colours(this.canvas);
    const time = placeInTime(frames, progress);
    pen.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    pen.clearRect(0, 0, this.side, this.side);
    this.shade(mixture, between(time.before.s, time.after.s, time.share), inks.shade);
    this.trails(frames, time, inks.dot);
    this.particles(time, inks, exact, follows);
  }

  shade(mixture, s, [red, green, blue, alpha]) {
    const most = densityAt(mixture, s, this.values);
    const pen = this.small.getContext("2d");
    const image = pen.createImageData(CELLS, CELLS);
    this.values.forEach((value, i) => {
      image.data.set([red, green, blue, 255 * alpha * Math.sqrt(value / most)], 4 * i);
    });
    pen.putImageData(image, 0, 0);
    this.pen.imageSmoothingEnabled = true;
    this.pen.imageSmoothingQuality = "high";
    this.pen.drawImage(this.small, 0, 0, this.side, this.side);
  }

  /** Where particles were in the last two frames, fading. */
  trails(frames, { k, before, after, share }, ink) {
    const { pen } = this;
    pen.strokeStyle = ink;
    pen.lineWidth = 1;
    const parts = [[before.y, after.y, share, 0.3]];
    for (let back = 1; back <= 2 && k - back >= 0; back++) {
      parts.push([frames[k - back].y, frames[k - back + 1].y, 1, 0.22 - 0.09 * back]);
    }
    for (const [from, to, upTo, alpha] of parts) {
      pen.globalAlpha = alpha;
      pen.beginPath();
      for (let i = 0; i < from.length; i += 2) {
        pen.moveTo(this.x(from[i]), this.y(from[i + 1]));
        pen.lineTo(this.x(between(from[i], to[i], upTo)), this.y(between(from[i + 1], to[i + 1], upTo)));
      }
      pen.stroke();
    }
    pen.globalAlpha = 1;
  }

  particles({ before, after, share }, inks, exact, follows) {
    const { pen } = this;
    const at = (from, to, i) => [
      this.x(between(from[i], to[i], share)),
      this.y(between(from[i + 1], to[i + 1], share)),
    ];
    const count = before.y.length;
    if (exact) {
      pen.strokeStyle = inks.ring;
      pen.lineWidth = 1.1;
      pen.beginPath();
      for (let i = 0; i < count; i += 2) {
        const [x, y] = at(before.exact, after.exact, i);
        pen.moveTo(x + 3.6, y);
        pen.arc(x, y, 3.6, 0, 2 * Math.PI);
        if (follows) {
          pen.moveTo(x, y); // to where the sampler is: its error
          pen.lineTo(...at(before.y, after.y, i));
        }
      }
      pen.stroke();
    }
    pen.fillStyle = inks.dot;
    for (let i = 0; i < count; i += 2) {
      pen.beginPath();
      pen.arc(...at(before.y, after.y, i), 2.4, 0, 2 * Math.PI);
      pen.fill();
    }
  }
}
