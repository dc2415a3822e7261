"""Formulas that samplers share. They read alpha, sigma and lam of a level, and so hold on VE, VP and flow alike."""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np

from ksched.grid import Grid
from ksched.processes import Level
from ksched.tape import Vector, Verbs

__all__ = ["ancestral", "churn", "ddim", "middle", "phi", "unified"]

V = TypeVar("V", bound=Vector)


def ddim(s: Level, t: Level, x: V, denoised: V) -> V:
    """The state at ``t`` if the prediction stays what it is: exact step of the ODE for constant ``denoised``."""
    r = t.sigma / s.sigma
    return r * x + (t.alpha - r * s.alpha) * denoised


def ancestral(s: Level, t: Level, eta: float) -> tuple[Level, float]:
    """Split of ``t``'s noise into what a step from ``s`` keeps and what it draws anew.

    Returns
    -------
    (``t`` with only the kept noise, std of the fresh noise); the variances sum to ``t.sigma ** 2``. ``eta`` = 0 draws
    nothing, 1 is the posterior of DDPM.

    Notes
    -----
    Song et al. 2020, arXiv:2010.02502, eq. 16, in units of sigma / alpha; k-diffusion's ``get_ancestral_step``.
    """
    q = t.sigma * s.alpha / (s.sigma * t.alpha)  # ratio of the two noise-to-signal ratios, finite for pure noise too
    fresh = eta * math.sqrt((1 - q) * (1 + q))
    if fresh >= 1:
        kept, fresh = 0.0, 1.0
    else:
        kept = math.sqrt((1 - eta) * (1 + eta) + (eta * q) ** 2)  # no cancellation at eta = 1, where it is q
    sigma = t.sigma * kept
    return t._replace(sigma=sigma, lam=math.log(t.alpha / sigma) if sigma > 0 else math.inf), t.sigma * fresh


def churn(
    run: Verbs[V], grid: Grid, s: Level, x: V, s_churn: float, s_tmin: float, s_tmax: float, s_noise: float
) -> tuple[Level, V]:
    """Raise the noise of ``x`` before a step: the level reached and the state there.

    Notes
    -----
    Karras et al. 2022, algorithm 2: sigma grows by gamma = min(s_churn / steps, sqrt(2) - 1) where s_tmin <= sigma <=
    s_tmax. Here it is sigma / alpha that grows, which is the same for VE and VP, and right for flow. Pure noise has
    nothing to add to.
    """
    gamma = min(s_churn / len(grid), math.sqrt(2) - 1) if s_tmin <= s.label <= s_tmax else 0.0
    if gamma == 0 or s.alpha == 0:
        return s, x
    hat = grid.at(s.lam - math.log1p(gamma))
    scale = hat.alpha / s.alpha
    return hat, scale * x + s_noise * scale * s.sigma * math.sqrt(gamma * (2 + gamma)) * run.noise(s, hat)


def middle(grid: Grid, s: Level, down: Level, t: Level) -> Level:
    """The level half way in log-SNR from ``s`` to ``down``, the noise that a step to ``t`` keeps.

    From pure noise (lam = -inf) it is half way in alpha / sigma, the variable in which that step is an integral of the
    denoised prediction over a finite range; where nothing is kept it is ``t`` itself.
    """
    if math.isinf(s.lam):
        return grid.at(min(down.lam, t.lam) - math.log(2))
    return t if math.isinf(down.lam) else grid.at((s.lam + down.lam) / 2)


def phi(k: int, z: float) -> float:
    """phi_k(z) of exponential integrators: phi_0 = exp, phi_k = (phi_{k-1} - 1 / (k-1)!) / z; phi_k(0) = 1 / k!."""
    if abs(z) < 1:  # the recursion cancels, the series does not
        term = total = 1 / math.factorial(k)
        for n in range(1, 20):
            term *= z / (n + k)
            total += term
        return total
    return math.exp(z) if k == 0 else (phi(k - 1, z) - 1 / math.factorial(k - 1)) / z


def unified(s: Level, t: Level, x: V, past: list[tuple[float, V]], at_t: V | None, bh2: bool) -> V:
    """UniPC's update from ``s`` to ``t``: a predictor, or a corrector if the prediction at ``t`` is given.

    Parameters
    ----------
    past : (lam, denoised) of earlier levels, the last that of ``s``
    at_t : denoised prediction at ``t``; None for the predictor
    bh2 : take B(h) = exp(h) - 1 rather than h where only one difference is known

    Notes
    -----
    Zhao et al. 2023, arXiv:2302.04867, algorithms 5 to 8, data prediction. With two or more differences B(h) cancels.
    """
    h, newest = t.lam - s.lam, past[-1][1]
    ratios = [(lam - s.lam) / h for lam, _ in past[:-1]] + ([] if at_t is None else [1.0])
    outputs = [denoised for _, denoised in past[:-1]] + ([] if at_t is None else [at_t])
    x = ddim(s, t, x, newest)
    if len(ratios) == 1:
        weights = [0.5 * (math.expm1(-h) if bh2 or math.isinf(h) else -h)]
    else:
        powers = np.array([[r**i for r in ratios] for i in range(len(ratios))])
        moments = [-h * phi(i + 1, -h) * math.factorial(i) for i in range(1, len(ratios) + 1)]
        weights = np.linalg.solve(powers, moments).tolist() if ratios else []
    for r, weight, denoised in zip(ratios, weights, outputs, strict=True):
        x = x - t.alpha * weight / r * (denoised - newest)
    return x
