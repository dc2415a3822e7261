"""Sampling loops that only schedulers of diffusers have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from ksched.plan.plan import Plan
from ksched.plan.protocol import SamplerContext, SamplerFunction, Vector
from ksched.plan.trace import trace
from ksched.processes import Level, Process
from ksched.samplers.blocks.noise_split import ancestral, renoise
from ksched.samplers.blocks.straight_line import StraightLine
from ksched.samplers.blocks.weights import combine, lagrange_weights, moments
from ksched.schedules.grid import Grid

__all__ = ["ddim_by_strides", "lms_by_place", "plms_by_strides", "traced"]


V = TypeVar("V", bound=Vector)


def lms_by_place(run: SamplerContext[V], grid: Grid, x: V, *, levels: Sequence[Level], begin: int, order: int) -> V:
    """LMS whose weights are those of its place in the whole run, also where it has not seen so many slopes.

    Parameters
    ----------
    levels : of the whole run
    begin : number of the step to begin with
    order : how many slopes are used, at most
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
    """DDIM from every level to one of its own, wherever the next step starts from.

    Parameters
    ----------
    levels, arrivals : of the steps; the noise of a step is that up to the next level
    eta : share of the noise that is drawn anew
    pair : the prediction is an edited one, and eps comes from the one before
    """
    for i, (s, t) in enumerate(zip(levels, arrivals, strict=True)):
        denoised, source = run.denoise_both(x, s) if pair else (run.denoise(x, s),) * 2
        down, up = ancestral(grid, s, t, eta)
        x = t.alpha * denoised + (down.sigma / s.sigma) * (x - s.alpha * source)
        x = renoise(run, s, levels[i + 1] if i + 1 < len(levels) else grid.levels[-1], x, up)
    return x


def traced(function: SamplerFunction, process: Process, first: Level) -> Plan:
    """The plan of a loop that has levels of its own."""
    return trace(function, Grid(process, (first, process.level(0.0))), {})


#: slopes that were kept, the newest first, in the linear multistep steps of even length
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
    """PLMS, with the calls and steps of its program: the second call does the first step again, with the mean slope.

    Parameters
    ----------
    levels : of the model calls
    steps : for every call (level left, level reached)
    slopes : "eps", or "v" where that is what the model answers with
    """
    start, past = x, list[V]()
    for i, (level, (s, t)) in enumerate(zip(levels, steps, strict=True)):
        denoised = run.denoise(x, level)
        if slopes == "eps":
            slope = run.keep((x - level.alpha * denoised) / level.sigma)
        else:
            slope = run.keep((level.alpha * x - denoised) / level.sigma)
        if i == 1:
            mean, x = 0.5 * slope + 0.5 * past[0], start
        else:
            past = [slope, *past][:4]
            mean = combine(_PLMS[len(past) - 1], past)
        if slopes == "v":
            mean = s.alpha * mean + s.sigma * x
        x = (t.alpha / s.alpha) * x + (t.sigma - t.alpha / s.alpha * s.sigma) * mean
    return x
