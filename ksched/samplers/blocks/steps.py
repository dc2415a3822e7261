"""Formulas that samplers share. They read alpha, sigma and lam of a level, and so hold on VE, VP and flow alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from ksched.plan.protocol import SamplerContext
from ksched.processes import Level
from ksched.samplers.blocks.weights import V, combine, lagrange_weights, moments
from ksched.schedules.grid import Grid

__all__ = [
    "Integrals",
    "adams",
    "ddim",
    "eps_step",
    "exponential",
    "half_step",
    "midpoint",
    "order_left",
    "output",
    "with_last_twice",
]


def ddim(s: Level, t: Level, x: V, denoised: V) -> V:
    """The state at ``t`` if the prediction stays what it is: exact step of the ODE for constant ``denoised``."""
    r = t.sigma / s.sigma
    return r * x + (t.alpha - r * s.alpha) * denoised


def eps_step(s: Level, t: Level, x: V, denoised: V, weights: Sequence[float], eps: Sequence[V]) -> V:
    """The state at ``t`` if eps is what ``weights`` make of it, the first being that of ``x`` and ``denoised``.

    Written as `ddim` and what changes of eps add to it, which cancels nothing. Pure noise (alpha 0) has no use for eps.
    """
    gain = t.sigma - t.alpha / s.alpha * s.sigma
    state = ddim(s, t, x, denoised)
    for weight, later in zip(weights[1:], eps[1:], strict=True):
        if weight != 0:
            state = state + (gain * weight) * (later - eps[0])
    return state


def exponential(s: Level, t: Level, x: V, denoised: V, eta: float = 0.0) -> V:
    """First-order step of the reverse SDE without its noise, for constant ``denoised``; `ddim` at eta 0.

    Notes
    -----
    Lu et al. 2022, arXiv:2211.01095, eq. 14, with the noise term scaled by eta; see `fresh_std` for what is missing.
    """
    if eta == 0:
        return ddim(s, t, x, denoised)
    h = t.lam - s.lam  # infinite from pure noise, of which nothing is kept
    return (math.exp(-eta * h) * t.sigma / s.sigma) * x - (t.alpha * math.expm1(-(1 + eta) * h)) * denoised


#: steps below which a run is short: DPM-Solver's program, and all that have it from there, lower the order at its end
FEW_STEPS = 15


def with_last_twice(grid: Grid) -> tuple[Level, ...]:
    """Levels of a run whose last step, where it is not to sigma 0, is followed by one of length 0."""
    return grid.levels if grid.levels[-1].sigma == 0 else (*grid.levels, grid.levels[-1])


def order_left(order: int, left: int, done: int) -> int:
    """Order with ``left`` steps to go after ``done``: in a short run it falls, and the last step is of order 1."""
    return min(order, left) if done + left < FEW_STEPS else order


#: (step in log-SNR times 1 + eta, exact integrals of the powers of a step's share) -> those that a method takes
Integrals = Callable[[float, list[float]], list[float]]


def half_step(z: float, exact: list[float]) -> list[float]:
    """Where two values are known, half of the step for the change between them: UniPC with B(h) = h, SA-Solver."""
    return [exact[0], z / 2] if len(exact) == 2 else exact


def midpoint(z: float, exact: list[float]) -> list[float]:
    """Where two values are known, half of the first for the change between them: DPM-Solver, UniPC with its other B."""
    return [exact[0], exact[0] / 2] if len(exact) == 2 else exact


def output(run: SamplerContext[V], s: Level, x: V, denoised: V, eps: bool) -> V:
    """What `adams` remembers of a model call: the prediction, or eps, which pure noise does not have."""
    return run.keep((x - s.alpha * denoised) / s.sigma) if eps and s.alpha > 0 else denoised


def adams(
    s: Level,
    t: Level,
    x: V,
    past: Sequence[tuple[float, V]],
    eta: float,
    *,
    rule: Integrals | None = None,
    denoised: V | None = None,
) -> V:
    """A step of the reverse SDE, without its noise, with the polynomial through known predictions.

    Parameters
    ----------
    past : (lam, `output`) of levels, that of ``s`` among them and perhaps that of ``t``; or of one level alone
    eta : of the SDE
    rule : the integrals that a method takes where it departs from the exact ones; not from pure noise
    denoised : where the outputs are eps, the prediction that with ``x`` makes the eps of ``s``. With noise that is the
        published SDE-DPM-Solver, which does not keep the law of a level, as eps is not the same all along a step

    Notes
    -----
    Lu et al. 2022, arXiv:2206.00927 and arXiv:2211.01095; the weights are exact integrals of Lagrange polynomials in
    log-SNR times an exponential; from pure noise, in alpha / sigma.
    """
    h = t.lam - s.lam
    known = sorted(past, key=lambda p: p[0] != s.lam)  # that of s first
    if math.isinf(h):
        nodes = [math.exp(lam - t.lam) for lam, _ in known]
        weights = lagrange_weights(nodes, [(1 + eta) / (1 + eta + k) for k in range(len(known))])
    else:
        z = (1 + eta) * h if denoised is None else -h
        exact = [z * moment for moment in moments(-z, len(known))]
        nodes = [(lam - s.lam) / h for lam, _ in known]
        weights = lagrange_weights(nodes, rule(z, exact) if rule else exact)
        if denoised is not None:
            return _adams_eps(s, t, x, denoised, weights, known, eta)
    rest = (math.exp(-eta * h) if eta > 0 else 1.0) * t.sigma / s.sigma
    return rest * x + combine([t.alpha * weight for weight in weights], [value for _, value in known])


def _adams_eps(
    s: Level, t: Level, x: V, denoised: V, weights: Sequence[float], known: Sequence[tuple[float, V]], eta: float
) -> V:
    """`adams` in eps: as for `eps_step`, written as `ddim` and what changes of eps add to it."""
    lam, own = known[0]
    if lam != s.lam:
        own = (x - s.alpha * denoised) / s.sigma
    state = ddim(s, t, x, denoised)
    for weight, (lam, eps) in zip(weights, known, strict=True):
        if lam != s.lam and weight != 0:
            state = state + (t.sigma * (1 + eta) * weight) * (eps - own)
    return state - (t.sigma * eta * math.expm1(t.lam - s.lam)) * own if eta > 0 else state
