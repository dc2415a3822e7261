"""Sampling loops that only diffusers' schedulers have."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeVar

from ksched.plan.plan import Plan
from ksched.plan.protocol import SamplerContext, SamplerFunction, Vector
from ksched.plan.trace import trace
from ksched.processes import Level, Process
from ksched.samplers.blocks.noise_split import ancestral, renoise
from ksched.samplers.blocks.steps import ddim
from ksched.samplers.blocks.straight_line import StraightLine
from ksched.samplers.blocks.weights import combine, lagrange_weights, moments
from ksched.schedules.grid import Grid

__all__ = [
    "Conversion",
    "cogvideox_dpm",
    "ddim_by_strides",
    "ddim_upwards",
    "euler_churned",
    "heun_churned_off_flow",
    "lms_by_place",
    "plms_by_strides",
    "prk_by_strides",
    "traced",
    "walk",
]


V = TypeVar("V", bound=Vector)


def lms_by_place(run: SamplerContext[V], grid: Grid, x: V, *, levels: Sequence[Level], begin: int, order: int) -> V:
    """LMS with weights for its position in the whole run, even if fewer slopes are known.

    Parameters
    ----------
    levels : sequence of Level
        Levels of the whole run.
    begin : int
        Number of the first step.
    order : int
        Largest number of slopes used.
    """
    straight, past = StraightLine(grid), list[V]()
    for i in range(begin, len(levels) - 1):
        s, t = levels[i], levels[i + 1]
        past = [run.keep(straight.slope(s, x, run.denoise(x, s))), *past][:order]
        nodes = straight.nodes(s, t, [levels[k] for k in range(i, i - min(i + 1, order), -1)])
        weights = lagrange_weights(nodes, moments(0.0, len(nodes)))
        x = straight.move(s, t, x, combine(weights[: len(past)], past))
    return x


def ddim_by_strides(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    levels: Sequence[Level],
    arrivals: Sequence[Level],
    eta: float,
    pair: bool,
) -> V:
    """DDIM from every level to its own arrival level, which may differ from where the next step starts.

    Parameters
    ----------
    levels, arrivals : sequence of Level
        Levels of the steps; the noise of a step leads up to the next level.
    eta : float
        Share of the noise that is drawn anew.
    pair : bool
        Whether the prediction is edited, and eps comes from the unedited one.
    """
    for i, (s, t) in enumerate(zip(levels, arrivals, strict=True)):
        denoised, source = run.denoise_both(x, s) if pair else (run.denoise(x, s),) * 2
        down, up = ancestral(grid, s, t, eta)
        x = t.alpha * denoised + (down.sigma / s.sigma) * (x - s.alpha * source)
        x = renoise(run, s, levels[i + 1] if i + 1 < len(levels) else grid.levels[-1], x, up)
    return x


def traced(function: SamplerFunction, process: Process, first: Level) -> Plan:
    """The plan of a loop with its own levels."""
    return trace(function, Grid(process, (first, process.level(0.0))), {})


#: weights of stored slopes, the newest first, in linear multistep steps of equal length
_PLMS = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def plms_by_strides(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    levels: Sequence[Level],
    steps: Sequence[tuple[Level, Level]],
    slopes: str,
) -> V:
    """PLMS with the calls and steps of its program: the second call repeats the first step with the mean slope.

    Parameters
    ----------
    levels : sequence of Level
        Levels of the model calls.
    steps : sequence of tuple of Level
        For every call (level left, level reached).
    slopes : str
        "eps", or "v" if the model predicts that.
    """
    start, past = x, list[V]()
    for i, (level, (s, t)) in enumerate(zip(levels, steps, strict=True)):
        slope = _slope(run, level, x, slopes)
        if i == 1:
            mean, x = 0.5 * slope + 0.5 * past[0], start
        else:
            past = [slope, *past][:4]
            mean = combine(_PLMS[len(past) - 1], past)
        x = _strided(s, t, x, mean, slopes)
    return x


def prk_by_strides(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    levels: Sequence[Level],
    steps: Sequence[tuple[Level, Level]],
    slopes: str,
) -> V:
    """PLMS after three Runge-Kutta steps, with the calls and steps of its program.

    Parameters
    ----------
    levels : sequence of Level
        Levels of the model calls; the first twelve are four for each Runge-Kutta step.
    steps : sequence of tuple of Level
        For every call (level left, level reached).
    slopes : str
        As for `plms_by_strides`.
    """
    past, start, mean = list[V](), x, x
    for i, (level, (s, t)) in enumerate(zip(levels, steps, strict=True)):
        slope = _slope(run, level, x, slopes)
        if i >= 12:
            past = [slope, *past][:4]
            taken, start = combine(_PLMS[len(past) - 1], past), x
        elif i % 4 == 0:
            past, start, mean, taken = [slope, *past], x, (1 / 6) * slope, slope
        elif i % 4 < 3:
            mean, taken = run.keep(mean + (1 / 3) * slope), slope
        else:
            taken = mean + (1 / 6) * slope
        x = run.keep(_strided(s, t, start, taken, slopes))
    return x


def _slope(run: SamplerContext[V], level: Level, x: V, slopes: str) -> V:
    """The model's answer at a level, as eps or v."""
    denoised = run.denoise(x, level)
    if slopes == "eps":
        return run.keep((x - level.alpha * denoised) / level.sigma)
    return run.keep((level.alpha * x - denoised) / level.sigma)


def _strided(s: Level, t: Level, x: V, mean: V, slopes: str) -> V:
    """The step from one level to another along a slope."""
    if slopes == "v":
        mean = s.alpha * mean + s.sigma * x
    return (t.alpha / s.alpha) * x + (t.sigma - t.alpha / s.alpha * s.sigma) * mean


def walk(run: SamplerContext[V], grid: Grid, x: V, *, levels: Sequence[Level], anew: bool) -> V:
    """Euler steps through levels in any order; a step of length 0, or from data, changes nothing.

    Parameters
    ----------
    levels : sequence of Level
        Levels of the run.
    anew : bool
        Draw all noise anew in each step.
    """
    for s, t in pairwise(levels):
        denoised = run.denoise(x, s)
        if anew:
            x = renoise(run, s, t, t.alpha * denoised, t.sigma)
        else:
            x = run.keep(ddim(s, t, x, denoised) if s != t and s.sigma > 0 else 1.0 * x)
    return x


#: how to read an answer: (divisor of the input, then coefficients of state and output in x0)
Conversion = tuple[float, float, float]


def euler_churned(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    levels: Sequence[Level],
    begin: int,
    hats: Sequence[float],
    of_call: Sequence[Conversion],
    of_hat: Sequence[Conversion],
    s_noise: float,
) -> V:
    """Euler in sigma that adds noise after the model call and uses the prediction as if made for the new state.

    Parameters
    ----------
    levels, begin : sequence of Level or int
        Levels of the whole run, and number of the first step.
    hats : sequence of float
        Sigmas to which the levels are raised.
    of_call, of_hat : sequence of Conversion
        How the denoiser reads an answer at a level, and how the loop reads it at the raised one.
    s_noise : float
        Factor of the noise.
    """
    for i in range(begin, len(levels) - 1):
        s, t, hat = levels[i], levels[i + 1], hats[i]
        denoised = run.denoise(x, s)
        if hat > s.label:
            output = (denoised - of_call[i][1] * x) / of_call[i][2]
            x = x + s_noise * (hat * hat - s.label * s.label) ** 0.5 * run.noise(s, grid.process.level(hat))
            denoised = of_hat[i][1] * x + of_hat[i][2] * output
        x = run.keep((t.label / hat) * x + (1 - t.label / hat) * denoised)
    return x


def heun_churned_off_flow(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    levels: Sequence[Level],
    begin: int,
    stretch: Sequence[float],
    s_noise: float,
) -> V:
    """Heun's method on flow states that adds noise after the first call of a step as if alpha were 1.

    Parameters
    ----------
    levels : sequence of Level
        Levels of the steps.
    begin : int
        Number of the first model call; of an unfinished step only its end is known.
    stretch : sequence of float
        Raised sigma over sigma, for every level.
    s_noise : float
        Factor of the noise.
    """
    first = (begin + 1) // 2
    if begin % 2:
        run.denoise(x, levels[first])
        x = run.keep(1.0 * x)
    for s, t, factor in zip(levels[first:], levels[first + 1 :], stretch[first:], strict=False):
        hat = s.label * factor
        slope = run.keep((x - run.denoise(x, s)) / hat)
        if factor > 1:
            x = x + s_noise * s.label * (factor * factor - 1) ** 0.5 * run.noise(s, t)
        x = run.keep(x)
        reached = run.keep(x + (t.label - hat) * slope)
        if t.label == 0:
            return reached
        second = (reached - run.denoise(reached, t)) / t.label
        x = run.keep(x + (t.label - hat) * 0.5 * (slope + second))
    return x


def ddim_upwards(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    reached: Sequence[Level],
    left: Sequence[Level],
    prediction: str,
    pair: bool,
) -> V:
    """DDIM from data to noise: the answer of a call at the level reached is read as one at the level left.

    Parameters
    ----------
    reached, left : sequence of Level
        Levels of the steps.
    prediction : str
        What the network predicts, in diffusers' words.
    pair : bool
        Whether the model also returns the edited prediction at the level left, before that at the level reached.
    """
    for s, t in zip(left, reached, strict=True):
        edited, source = run.denoise_both(x, t) if pair else (None, run.denoise(x, t))
        if prediction == "v_prediction":
            v = (t.alpha * x - source) / t.sigma
            denoised, eps = s.alpha * x - s.sigma * v, s.alpha * v + s.sigma * x
        elif prediction == "sample":
            denoised, eps = source, (x - s.alpha * source) / s.sigma
        else:
            eps = (x - t.alpha * source) / t.sigma
            denoised = (x - s.sigma * eps) / s.alpha
        x = run.keep(t.alpha * (denoised if edited is None else edited) + t.sigma * eps)
    return x


def cogvideox_dpm(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    levels: Sequence[Level],
    arrivals: Sequence[Level],
    inside: Sequence[bool],
) -> V:
    """DPM-Solver++(2M) with noise, from every level to its own arrival level.

    Parameters
    ----------
    levels, arrivals : sequence of Level
        Levels of the steps.
    inside : sequence of bool
        Whether the arrival is a training level; that of the last step is not, so it is of first order.
    """
    before: tuple[float, V] | None = None
    for s, t, within in zip(levels, arrivals, inside, strict=True):
        mean = denoised = run.denoise(x, s)
        h = t.lam - s.lam
        if before is not None and within and math.isfinite(before[0]):
            share = h / (2 * (s.lam - before[0]))
            mean = (1 + share) * denoised - share * before[1]
        before = s.lam, denoised
        kept = t.sigma / s.sigma * math.exp(-h)
        x = kept * x - t.alpha * math.expm1(-2 * h) * mean
        x = renoise(run, s, t, x, t.sigma * math.sqrt(-math.expm1(-2 * h)))
    return x
