"""One model call per step, no memory: Euler's method and its stochastic relatives."""

from __future__ import annotations

import math
from typing import TypeVar

from ksched.grid import Grid
from ksched.options import Bound, NonNegative
from ksched.samplers.blocks import ancestral, churn, ddim
from ksched.tape import Vector, Verbs

__all__ = ["ddim_eta", "ddpm", "euler", "euler_ancestral"]

V = TypeVar("V", bound=Vector)


def euler(
    run: Verbs[V],
    grid: Grid,
    x: V,
    *,
    s_churn: NonNegative = 0.0,
    s_tmin: NonNegative = 0.0,
    s_tmax: Bound = math.inf,
    s_noise: NonNegative = 1.0,
) -> V:
    """Euler's method on the probability-flow ODE, with EDM's churn.

    First order, one model call per step; deterministic unless ``s_churn`` > 0. The same as DDIM.

    Notes
    -----
    Karras et al. 2022, arXiv:2206.00364, algorithm 2 without its second-order part. Churn is done in sigma / alpha, so
    that it is right for flow processes as well, where k-diffusion's formula is not.
    """
    for s, t in grid.steps():
        hat, x = churn(run, grid, s, x, s_churn, s_tmin, s_tmax, s_noise)
        x = ddim(hat, t, x, run.denoise(x, hat))
    return x


def euler_ancestral(run: Verbs[V], grid: Grid, x: V, *, eta: NonNegative = 1.0, s_noise: NonNegative = 1.0) -> V:
    """Euler's method to less noise than the next level has, then fresh noise up to it.

    First order, one model call and one noise per step. ``eta`` = 0 is `euler`.

    Notes
    -----
    k-diffusion's ``sample_euler_ancestral``, in units of sigma / alpha. ComfyUI's flow form measures eta differently.
    """
    for s, t in grid.steps():
        down, up = ancestral(s, t, eta)
        x = ddim(s, down, x, run.denoise(x, s))
        if up > 0:
            x = x + s_noise * up * run.noise(s, t)
    return x


def ddim_eta(run: Verbs[V], grid: Grid, x: V, *, eta: NonNegative = 0.0, s_noise: NonNegative = 1.0) -> V:
    """DDIM: deterministic at ``eta`` = 0, DDPM's posterior at 1. The table of `euler_ancestral` with the same eta.

    First order, one model call per step, one noise per step if ``eta`` > 0.

    Notes
    -----
    Song et al. 2020, arXiv:2010.02502, eq. 12 and 16.
    """
    return euler_ancestral(run, grid, x, eta=eta, s_noise=s_noise)


def ddpm(run: Verbs[V], grid: Grid, x: V, *, s_noise: NonNegative = 1.0) -> V:
    """Ancestral sampling of DDPM with the posterior variance. The table of `euler_ancestral` at eta 1.

    First order, one model call and one noise per step.

    Notes
    -----
    Ho et al. 2020, arXiv:2006.11239, algorithm 2 with the smaller variance ("fixed small").
    """
    return euler_ancestral(run, grid, x, eta=1.0, s_noise=s_noise)
