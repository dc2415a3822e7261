"""Step formulas that samplers share. They use a level's alpha, sigma and lam, so they hold on VE, VP and flow alike."""

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
    """The DDIM step: the exact ODE step from ``s`` to ``t`` for a constant prediction."""
    r = t.sigma / s.sigma
    return r * x + (t.alpha - r * s.alpha) * denoised


def eps_step(s: Level, t: Level, x: V, denoised: V, weights: Sequence[float], eps: Sequence[V]) -> V:
    """The step to ``t`` with a weighted sum of eps; the first eps belongs to ``x`` and ``denoised``.

    It is written as `ddim` plus the changes of eps, which avoids cancellation. From pure noise (alpha 0), eps is
    unused.
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
    Lu et al. 2022, arXiv:2211.01095, eq. 14, with the noise term scaled by eta; `fresh_std` gives the missing noise.
    """
    if eta == 0:
        return ddim(s, t, x, denoised)
    h = t.lam - s.lam  # infinite from pure noise, so that nothing of x is kept
    return (math.exp(-eta * h) * t.sigma / s.sigma) * x - (t.alpha * math.expm1(-(1 + eta) * h)) * denoised


#: runs below this number of steps are short: DPM-Solver's program and its descendants lower the order at their end
FEW_STEPS = 15


def with_last_twice(grid: Grid) -> tuple[Level, ...]:
    """Levels of a run, with the last one repeated if it is above 0, for a final step of length 0."""
    return grid.levels if grid.levels[-1].sigma == 0 else (*grid.levels, grid.levels[-1])


def order_left(order: int, left: int, done: int) -> int:
    """Order with ``left`` steps to go after ``done``: it falls in a short run, and the last step has order 1."""
    return min(order, left) if done + left < FEW_STEPS else order


#: (step in log-SNR times 1 + eta, exact integrals of powers of the step's share) -> the integrals that a method uses
Integrals = Callable[[float, list[float]], list[float]]


def half_step(z: float, exact: list[float]) -> list[float]:
    """With two known values, half the step for the change between them: UniPC with B(h) = h, SA-Solver."""
    return [exact[0], z / 2] if len(exact) == 2 else exact


def midpoint(z: float, exact: list[float]) -> list[float]:
    """With two known values, half the first integral for the change between them: DPM-Solver, UniPC's other B(h)."""
    return [exact[0], exact[0] / 2] if len(exact) == 2 else exact


def output(run: SamplerContext[V], s: Level, x: V, denoised: V, eps: bool) -> V:
    """The quantity `adams` remembers of a model call: the prediction, or eps, which pure noise does not have."""
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
    """A step of the reverse SDE, without its noise, from the polynomial through known predictions.

    Parameters
    ----------
    past : sequence of tuple
        (lam, `output`) of levels, including ``s`` and possibly ``t``; or of only one level.
    eta : float
        Noise of the SDE.
    rule : callable or None
        The integrals of a method that departs from the exact ones; not from pure noise.
    denoised : Tensor or None
        If the outputs are eps, the prediction that gives the eps of ``s`` together with ``x``. With noise this is the
        published SDE-DPM-Solver, which does not keep a level's law because eps is not constant along a step.

    Notes
    -----
    Lu et al. 2022, arXiv:2206.00927 and arXiv:2211.01095. The weights are exact integrals of Lagrange polynomials times
    an exponential, in log-SNR; from pure noise, in alpha / sigma.
    """
    h = t.lam - s.lam
    known = sorted(past, key=lambda p: p[0] != s.lam)  # s comes first
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
    """`adams` in eps, written like `eps_step`: as `ddim` plus the changes of eps."""
    lam, own = known[0]
    if lam != s.lam:
        own = (x - s.alpha * denoised) / s.sigma
    state = ddim(s, t, x, denoised)
    for weight, (lam, eps) in zip(weights, known, strict=True):
        if lam != s.lam and weight != 0:
            state = state + (t.sigma * (1 + eta) * weight) * (eps - own)
    return state - (t.sigma * eta * math.expm1(t.lam - s.lam)) * own if eta > 0 else state
