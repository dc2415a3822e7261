"""How a stochastic step divides an interval between fresh noise and the ODE."""

from __future__ import annotations

import math
from typing import Literal

from ksched.plan.protocol import SamplerContext
from ksched.processes import Level
from ksched.samplers.blocks.weights import V
from ksched.schedules.grid import Grid

__all__ = [
    "AncestralRule",
    "ancestral",
    "ancestral_above",
    "churn",
    "fresh_std",
    "grown",
    "length",
    "raised",
    "renoise",
]


#: how ``eta`` splits a level's noise on a flow process; on other processes both rules agree
AncestralRule = Literal["variance", "comfyui"]


# ------------------------------------------------------------------------------------------------ noise added to states
def ancestral(grid: Grid, s: Level, t: Level, eta: float, rule: AncestralRule = "variance") -> tuple[Level, float]:
    """Split of ``t``'s noise into the part that a step from ``s`` keeps and the part it draws afresh.

    Parameters
    ----------
    grid : Grid
        Grid of the run.
    s, t : Level
        Level left and level reached.
    eta : float
        0 draws nothing; 1 is the posterior of DDPM.
    rule : str
        "variance" is the published rule, in units of sigma / alpha; "comfyui" keeps, on flow processes, ``sigma_t * (1
        + eta * (sigma_t / sigma_s - 1))`` of flow's own sigma, which is linear in eta.

    Returns
    -------
    (``t`` with only the kept noise, std of the fresh noise); the variances sum to ``t.sigma ** 2``

    Notes
    -----
    Song et al. 2020, arXiv:2010.02502, eq. 16; k-diffusion's ``get_ancestral_step``.
    """
    if eta == 0:
        return t, 0.0
    if rule == "comfyui" and grid.process.is_flow and t.sigma > 0:
        share = max(1 + eta * (t.sigma / s.sigma - 1), 0.0)
        down = t.sigma * share  # for a state whose alpha is 1 - down
        kept = share * t.alpha / (1 - down)
        fresh = math.sqrt(max((1 - kept) * (1 + kept), 0.0))
    else:
        q = t.sigma * s.alpha / (s.sigma * t.alpha)  # ratio of the noise-to-signal ratios, finite for pure noise too
        fresh = eta * math.sqrt((1 - q) * (1 + q))
        if fresh >= 1:
            kept, fresh = 0.0, 1.0
        else:
            kept = math.sqrt((1 - eta) * (1 + eta) + (eta * q) ** 2)  # no cancellation at eta = 1, where it is q
    sigma = t.sigma * kept
    return t._replace(sigma=sigma, lam=math.log(t.alpha / sigma) if sigma > 0 else math.inf), t.sigma * fresh


def ancestral_above(grid: Grid, s: Level, t: Level, eta: float, last: Level) -> tuple[Level, float]:
    """`ancestral` that keeps at least the noise of the last level; DPM-Solver's steps do not go below it."""
    down, up = ancestral(grid, s, t, eta)
    if eta == 0 or down.lam <= last.lam:
        return down, up
    sigma = t.alpha / last.alpha * last.sigma
    return t._replace(sigma=sigma, lam=last.lam), math.sqrt(max(t.sigma**2 - sigma**2, 0.0))


def length(grid: Grid, s: Level, t: Level, eta: float) -> float:
    """Length in log-SNR of a step that keeps the noise `ancestral` keeps at this eta."""
    down, _ = ancestral(grid, s, t, eta)
    return down.lam - s.lam


def renoise(
    run: SamplerContext[V], s: Level, t: Level, x: V, std: float, stream: int = 0, limit: float = math.inf
) -> V:
    """``x`` plus noise for the interval from ``s`` to ``t``; none is drawn if ``std`` is 0."""
    return x + std * run.noise(s, t, stream, limit) if std > 0 else x


def churn(
    run: SamplerContext[V],
    grid: Grid,
    s: Level,
    x: V,
    s_churn: float,
    s_tmin: float,
    s_tmax: float,
    s_noise: float,
    capped: bool,
) -> tuple[Level, V]:
    """Raise the noise of ``x`` before a step as EDM does: the level reached and the state there.

    Notes
    -----
    Karras et al. 2022, algorithm 2: sigma grows by gamma = min(s_churn / steps, sqrt(2) - 1) where s_tmin <= sigma <=
    s_tmax. If it is not capped, gamma is s_churn / steps.
    """
    limit = math.sqrt(2) - 1 if capped else math.inf
    gamma = min(s_churn / len(grid), limit) if s_tmin <= s.label <= s_tmax else 0.0
    return raised(run, grid, s, x, gamma, s_noise)


def raised(run: SamplerContext[V], grid: Grid, s: Level, x: V, gamma: float, s_noise: float) -> tuple[Level, V]:
    """Raise the noise of ``x`` by the share ``gamma`` of itself: the level reached and the state there.

    sigma / alpha grows: this is sigma for VE and VP, and correct for flow. Pure noise cannot be raised.
    """
    if gamma == 0 or s.alpha == 0:
        return s, x
    hat = grid.at(s.lam - math.log1p(gamma))
    scale = hat.alpha / s.alpha
    return hat, scale * x + s_noise * scale * s.sigma * math.sqrt(gamma * (2 + gamma)) * run.noise(s, hat)


def fresh_std(s: Level, t: Level, eta: float, eps: bool = False) -> float:
    """Std of the noise that an `exponential` step needs to keep its level's law; with ``eps``, SDE-DPM-Solver's std."""
    h = t.lam - s.lam
    if eta == 0:
        return 0.0
    return t.sigma * math.sqrt(eta * math.expm1(2 * h) if eps and math.isfinite(h) else -math.expm1(-2 * eta * h))


def grown(run: SamplerContext[V], before: Level, level: Level, noise: V | None, eta: float) -> V:
    """Noise of a reverse-SDE step up to ``level``, grown from that up to the level before (None at the start)."""
    new = fresh_std(before, level, eta) * run.noise(before, level)
    if noise is None:
        return new
    return (math.exp(-eta * (level.lam - before.lam)) * level.sigma / before.sigma) * noise + new
