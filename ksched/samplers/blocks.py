"""Formulas that samplers share. They read alpha, sigma and lam of a level, and so hold on VE, VP and flow alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from ksched.plan.protocol import Vector, Verbs
from ksched.processes import Level
from ksched.schedules.grid import Grid

__all__ = [
    "AncestralRule",
    "Integrals",
    "Straight",
    "adams",
    "ancestral",
    "ancestral_above",
    "churn",
    "combine",
    "ddim",
    "eps_step",
    "exponential",
    "fresh_std",
    "grown",
    "half_step",
    "inner",
    "lagrange_weights",
    "middle",
    "midpoint",
    "moments",
    "order_left",
    "output",
    "phi",
    "renoise",
    "stages",
    "with_last_twice",
]

V = TypeVar("V", bound=Vector)

#: How ``eta`` splits the noise of a level on a flow process; elsewhere both are the same.
AncestralRule = Literal["variance", "comfyui"]


def ddim(s: Level, t: Level, x: V, denoised: V) -> V:
    """The state at ``t`` if the prediction stays what it is: exact step of the ODE for constant ``denoised``."""
    r = t.sigma / s.sigma
    return r * x + (t.alpha - r * s.alpha) * denoised


def combine(weights: Iterable[float], values: Iterable[V]) -> V:
    """Sum of ``weight * value``, without those of weight 0."""
    terms = [weight * value for weight, value in zip(weights, values, strict=True) if weight != 0]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


# ------------------------------------------------------------------------------------------------ noise added to states


def ancestral(grid: Grid, s: Level, t: Level, eta: float, rule: AncestralRule = "variance") -> tuple[Level, float]:
    """Split of ``t``'s noise into what a step from ``s`` keeps and what it draws anew.

    Parameters
    ----------
    grid : of the run
    s, t : level left and level reached
    eta : 0 draws nothing; 1 is the posterior of DDPM
    rule : "variance", the published one, in units of sigma / alpha; "comfyui" on flow processes keeps
        ``sigma_t * (1 + eta * (sigma_t / sigma_s - 1))`` of flow's own sigma, linear in eta

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
        down = t.sigma * share  # of a state whose alpha is 1 - down
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
    """`ancestral` that keeps at least the noise of the last level, below which DPM-Solver's steps do not go."""
    down, up = ancestral(grid, s, t, eta)
    if eta == 0 or down.lam <= last.lam:
        return down, up
    sigma = t.alpha / last.alpha * last.sigma
    return t._replace(sigma=sigma, lam=last.lam), math.sqrt(max(t.sigma**2 - sigma**2, 0.0))


def renoise(run: Verbs[V], s: Level, t: Level, x: V, std: float, stream: int = 0) -> V:
    """``x`` with noise of the interval from ``s`` to ``t`` added; none is drawn where ``std`` is 0."""
    return x + std * run.noise(s, t, stream) if std > 0 else x


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


# ------------------------------------------------------------------------------------------------- methods in sigma


@dataclass(frozen=True)
class Straight:
    """Coordinates in which a state moves along a line while the prediction stays what it is.

    In ``x / scale`` and ``time`` the ODE is dx/dt = (x - D) / t, the slope (x - D) / t of a state does not change on a
    line, and time 0 is D itself. They are sigma / alpha for states ``x0 + sigma * eps``, and flow's own sigma for flow
    processes and for runs from pure noise, where sigma / alpha is infinite.

    Attributes
    ----------
    grid : of the run
    """

    grid: Grid

    @property
    def _flow(self) -> bool:
        return self.grid.process.is_flow or self.grid.levels[0].alpha == 0

    def scale(self, level: Level) -> float:
        """What the state of a level is divided by."""
        return level.alpha + level.sigma if self._flow else level.alpha

    def time(self, level: Level) -> float:
        """Time of a level."""
        return level.sigma / self.scale(level)

    def level(self, time: float) -> Level:
        """Level of a time above 0."""
        return self.grid.at(math.log((1 - time) / time) if self._flow else -math.log(time))

    def between(self, s: Level, t: Level) -> Level:
        """The level half way in log time, as DPM-Solver-2 takes it."""
        return self.level(math.sqrt(self.time(s) * self.time(t)))

    def slope(self, level: Level, x: V, denoised: V) -> V:
        """Slope at a state."""
        return (x / self.scale(level) - denoised) / self.time(level)

    def slope_to(self, s: Level, t: Level, x: V, target: V) -> V:
        """Slope from a state at ``s`` to one at ``t``."""
        return (target / self.scale(t) - x / self.scale(s)) / (self.time(t) - self.time(s))

    def advance(self, s: Level, t: Level, slope: V) -> V:
        """What a slope adds to the state at ``t``."""
        return (self.scale(t) * (self.time(t) - self.time(s))) * slope

    def move(self, s: Level, t: Level, x: V, slope: V) -> V:
        """The state at ``t`` along a slope."""
        return (self.scale(t) / self.scale(s)) * x + self.advance(s, t, slope)

    def seen_from(self, s: Level, level: Level, mixed: V, denoised: V) -> V:
        """The prediction that at ``s`` gives the slope found at ``level``.

        ``mixed`` is the one with which `ddim` went from ``s`` to ``level``, ``denoised`` the answer there. So a
        Runge-Kutta method in this time is `ddim` with mixed predictions, and no slope needs to be kept.
        """
        return mixed + (self.time(s) / self.time(level)) * (denoised - mixed)

    def nodes(self, s: Level, t: Level, levels: Iterable[Level]) -> list[float]:
        """Times of levels, 0 at ``s`` and 1 at ``t``."""
        start, length = self.time(s), self.time(t) - self.time(s)
        return [(self.time(level) - start) / length for level in levels]


# --------------------------------------------------------------------------------------------- methods in log-SNR


def phi(k: int, z: float) -> float:
    """phi_k(z) of exponential integrators: phi_0 = exp, phi_k = (phi_{k-1} - 1 / (k-1)!) / z; phi_k(0) = 1 / k!."""
    if abs(z) < 1:  # the recursion cancels, the series does not
        term = total = 1 / math.factorial(k)
        for n in range(1, 20):
            term *= z / (n + k)
            total += term
        return total
    return math.exp(z) if k == 0 else (phi(k - 1, z) - 1 / math.factorial(k - 1)) / z


def moments(z: float, count: int) -> list[float]:
    """Integrals of ``exp(z * (1 - u)) * u ** k`` over u from 0 to 1, for k below ``count``."""
    return [math.factorial(k) * phi(k + 1, z) for k in range(count)]


def lagrange_weights(nodes: Sequence[float], integrals: Sequence[float]) -> list[float]:
    """Weights of values at nodes, the first of which is 0, in the integral of the polynomial through them.

    Parameters
    ----------
    nodes : all different
    integrals : of the powers 0, 1, ... of the variable, with whatever weight function; one for each node
    """
    others = np.array(nodes[1:])
    if not len(others):
        return [integrals[0]]
    powers = others ** np.arange(1, len(nodes))[:, None]
    scale = np.abs(powers).max(axis=1)  # rows of one size: nodes may lie far apart
    weights = np.linalg.solve(powers / scale[:, None], np.array(integrals[1:]) / scale).tolist()
    return [integrals[0] - sum(weights), *weights]


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


def fresh_std(s: Level, t: Level, eta: float, eps: bool = False) -> float:
    """Std of the noise that an `exponential` step needs to keep the law of its level; for eps, SDE-DPM-Solver's."""
    h = t.lam - s.lam
    if eta == 0:
        return 0.0
    return t.sigma * math.sqrt(eta * math.expm1(2 * h) if eps and math.isfinite(h) else -math.expm1(-2 * eta * h))


def grown(run: Verbs[V], before: Level, level: Level, noise: V | None, eta: float) -> V:
    """Noise of a step of the reverse SDE up to ``level``, from that up to the level before, None at the start."""
    new = fresh_std(before, level, eta) * run.noise(before, level)
    if noise is None:
        return new
    return (math.exp(-eta * (level.lam - before.lam)) * level.sigma / before.sigma) * noise + new


def inner(grid: Grid, s: Level, t: Level, share: float) -> Level:
    """The level a share of the way in log-SNR from ``s`` to ``t``.

    From pure noise it is that share of ``t``'s alpha / sigma, the variable in which the step is an integral of the
    prediction over a finite range.
    """
    if share == 1:
        return t
    return grid.at(t.lam + math.log(share) if math.isinf(s.lam) else s.lam + share * (t.lam - s.lam))


def middle(grid: Grid, s: Level, down: Level, t: Level) -> Level:
    """The level half way to ``down``, the noise that a step to ``t`` keeps; ``t`` itself where nothing is kept."""
    if s.alpha == 0:
        return inner(grid, s, down if down.lam < t.lam else t, 0.5)
    return t if down.sigma == 0 else inner(grid, s, down, 0.5)


def shares(s: Level, levels: Iterable[Level]) -> list[float]:
    """How far into a step its levels are, the last being 1: what `inner` was asked for."""
    lams = [level.lam for level in levels]
    if math.isinf(s.lam):
        return [math.exp(lam - lams[-1]) for lam in lams]
    return [(lam - s.lam) / (lams[-1] - s.lam) for lam in lams]


#: (shares of the levels, z of the whole step) -> weights of the predictions so far for every level; each row sums to 1
Rows = Callable[[list[float], float], list[list[float]]]


def stages(
    run: Verbs[V],
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
    levels : inner levels, then the one that is reached
    rows : of the method; z is the step in log-SNR, times 1 + eta
    nodes : where the inner levels are, if they were made by `inner`, free of the rounding of levels
    eta, s_noise : of the reverse SDE; its noise at the inner levels is part of that of the whole step
    predict : what is taken for a polynomial: the denoised prediction, or eps (with eta 0; not from pure noise, where
        eps says nothing of the data)
    each_call : called before every model call, for methods whose stages are steps of the grid
    known : the prediction at ``s``, if the model has been called there

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


#: steps below which a run is short: DPM-Solver's program, and all that have it from there, lower the order at its end
SHORT = 15


def with_last_twice(grid: Grid) -> tuple[Level, ...]:
    """Levels of a run whose last step, where it is not to sigma 0, is followed by one of length 0."""
    return grid.levels if grid.levels[-1].sigma == 0 else (*grid.levels, grid.levels[-1])


def order_left(order: int, left: int, done: int) -> int:
    """Order with ``left`` steps to go after ``done``: in a short run it falls, and the last step is of order 1."""
    return min(order, left) if done + left < SHORT else order


#: (step in log-SNR times 1 + eta, exact integrals of the powers of a step's share) -> those that a method takes
Integrals = Callable[[float, list[float]], list[float]]


def half_step(z: float, exact: list[float]) -> list[float]:
    """Where two values are known, half of the step for the change between them: UniPC with B(h) = h, SA-Solver."""
    return [exact[0], z / 2] if len(exact) == 2 else exact


def midpoint(z: float, exact: list[float]) -> list[float]:
    """Where two values are known, half of the first for the change between them: DPM-Solver, UniPC with its other B."""
    return [exact[0], exact[0] / 2] if len(exact) == 2 else exact


def output(run: Verbs[V], s: Level, x: V, denoised: V, eps: bool) -> V:
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
