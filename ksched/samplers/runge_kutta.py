"""Two model calls per step, no memory: second-order Runge-Kutta methods."""

from __future__ import annotations

import math
from typing import TypeVar

from ksched.grid import Grid
from ksched.options import Bound, NonNegative
from ksched.samplers.blocks import ancestral, churn, ddim, middle
from ksched.tape import Vector, Verbs

__all__ = ["dpmpp_2s_ancestral", "heun"]

V = TypeVar("V", bound=Vector)


def heun(
    run: Verbs[V],
    grid: Grid,
    x: V,
    *,
    s_churn: NonNegative = 0.0,
    s_tmin: NonNegative = 0.0,
    s_tmax: Bound = math.inf,
    s_noise: NonNegative = 1.0,
) -> V:
    """Heun's trapezoidal method on the probability-flow ODE, with EDM's churn.

    Second order, two model calls per step and one for the step to sigma 0; deterministic unless ``s_churn`` > 0.

    Notes
    -----
    Karras et al. 2022, arXiv:2206.00364, algorithm 2. The average of the two slopes (x - D) / sigma is, exactly, one
    `ddim` step with the mixed prediction below; written so, it also holds for variance-preserving states.
    """
    for s, t in grid.steps():
        hat, x = churn(run, grid, s, x, s_churn, s_tmin, s_tmax, s_noise)
        mixed = denoised = run.denoise(x, hat)
        if t.sigma > 0:
            after = run.denoise(ddim(hat, t, x, denoised), t)
            mixed = denoised + hat.sigma / (2 * t.sigma) * (after - denoised)
        x = ddim(hat, t, x, mixed)
    return x


def dpmpp_2s_ancestral(run: Verbs[V], grid: Grid, x: V, *, eta: NonNegative = 1.0, s_noise: NonNegative = 1.0) -> V:
    """DPM-Solver++ (2S), the exponential midpoint rule, to less noise than the next level has, then fresh noise.

    Second order, in law for every ``eta`` (each step solves the ODE and then adds noise exactly); two model calls per
    step and one for the step to sigma 0, one noise per step. At ``eta`` = 0 it is DPM-Solver++ (2S).

    Notes
    -----
    Lu et al. 2022, arXiv:2211.01095, algorithm 1 with r = 1/2; ancestral form of k-diffusion, in units of sigma /
    alpha.
    """
    for s, t in grid.steps():
        down, up = ancestral(s, t, eta)
        denoised = run.denoise(x, s)
        if t.sigma > 0:
            mid = middle(grid, s, down, t)
            denoised = run.denoise(ddim(s, mid, x, denoised), mid)
        x = ddim(s, down, x, denoised)
        if up > 0:
            x = x + s_noise * up * run.noise(s, t)
    return x
