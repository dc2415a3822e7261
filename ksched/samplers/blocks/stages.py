"""Stages of a step: levels inside the step, and Runge-Kutta tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from ksched.plan.protocol import SamplerContext
from ksched.processes import Level
from ksched.samplers.blocks.noise_split import grown
from ksched.samplers.blocks.steps import eps_step, exponential
from ksched.samplers.blocks.weights import V, combine
from ksched.schedules.grid import Grid

__all__ = ["inner", "middle", "stages"]


def inner(grid: Grid, s: Level, t: Level, share: float) -> Level:
    """The level at a given share of the way from ``s`` to ``t``, in log-SNR.

    From pure noise it is that share of ``t``'s alpha / sigma instead, because in this variable the step integrates the
    prediction over a finite range.
    """
    if share == 1:
        return t
    return grid.at(t.lam + math.log(share) if math.isinf(s.lam) else s.lam + share * (t.lam - s.lam))


def middle(grid: Grid, s: Level, down: Level, t: Level) -> Level:
    """The level half way to ``down``, which a step to ``t`` keeps as noise; ``t`` itself if no noise is kept."""
    if s.alpha == 0:
        return inner(grid, s, down if down.lam < t.lam else t, 0.5)
    return t if down.sigma == 0 else inner(grid, s, down, 0.5)


def shares(s: Level, levels: Iterable[Level]) -> list[float]:
    """Positions of levels inside a step, as shares with the last one 1: the inverse of `inner`."""
    lams = [level.lam for level in levels]
    if math.isinf(s.lam):
        return [math.exp(lam - lams[-1]) for lam in lams]
    return [(lam - s.lam) / (lams[-1] - s.lam) for lam in lams]


#: (shares of the levels, z of the whole step) -> weights of the predictions so far, for each level; each row sums to 1
Rows = Callable[[list[float], float], list[list[float]]]


def stages(
    run: SamplerContext[V],
    s: Level,
    levels: Sequence[Level],
    x: V,
    rows: Rows,
    *,
    nodes: Sequence[float] | None = None,
    eta: float = 0.0,
    s_noise: float = 1.0,
    predict: Literal["denoised", "eps"] = "denoised",
    each_call: Callable[[], object] = lambda: None,
    known: V | None = None,
) -> V:
    """One step of a single-step exponential method: from ``s`` through inner levels to the last one.

    Parameters
    ----------
    levels : sequence of Level
        Inner levels, then the level reached.
    rows : callable
        Rows of the method; z is the step in log-SNR, times 1 + eta.
    nodes : sequence of float or None
        Positions of the inner levels, if `inner` made them; these are free of the levels' rounding.
    eta, s_noise : float
        Noise of the reverse SDE; noise at the inner levels is part of the whole step's noise.
    predict : str
        The quantity that is taken to be a polynomial: the denoised prediction, or eps (only with eta 0, and not from
        pure noise, where eps contains nothing of the data).
    each_call : callable
        Called before every model call, for methods whose stages are steps of the grid.
    known : Tensor or None
        The prediction at ``s``, if the model was already called there.

    Notes
    -----
    Hochbruck & Ostermann 2010, "Exponential integrators"; Gonzalez et al. 2023, arXiv:2305.14267, for the noise.
    """
    far = math.isinf(s.lam)
    eps = predict == "eps" and not far
    z = 0.0 if far else (1 + eta) * (levels[-1].lam - s.lam)
    outputs: list[V] = []
    state, before, noise, first = x, s, None, x
    places = shares(s, levels) if nodes is None else [*nodes, 1.0]
    for level, row in zip(levels, rows(places, -z if eps else z), strict=True):
        each_call()
        denoised = run.denoise(state, before) if known is None or outputs else known
        outputs.append(run.keep((state - before.alpha * denoised) / before.sigma) if eps else denoised)
        first = denoised if before is s else first
        if eps:
            state = eps_step(s, level, x, first, row, outputs)
        else:
            state = exponential(s, level, x, combine(row, outputs), eta)
        if eta > 0 and s_noise > 0:
            noise = grown(run, before, level, noise, eta)
            state = state + s_noise * noise
        before = level
    return state
