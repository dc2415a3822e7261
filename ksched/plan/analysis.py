"""Exact properties of a plan, computed from its table without calling a model or sampling.

Every state of a plan is linear in its inputs. If the model's prediction is affine in the state (a constant, or the
exact denoiser of Gaussian data), the whole plan therefore reduces to a few vectors of numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ksched.plan.plan import Plan
from ksched.processes import Level, Process
from ksched.types import Array, ArrayLike

__all__ = [
    "Law",
    "Marginal",
    "gaussian_covariance",
    "gaussian_distance",
    "gaussian_error",
    "gaussian_errors",
    "gaussian_law",
    "marginals",
    "measured_order",
    "table",
    "warped_sigmas",
]


Answer = tuple[Array, Array]  # (denoised, uncond)


class Marginal(NamedTuple):
    """Mean and variance of one state if all data is a single point x0: ``alpha * x0`` and ``variance``.

    ``level`` is the level that the state should have: alpha equal to ``level.alpha``, variance equal to
    ``(noise_scale * level.sigma) ** 2`` with the plan's ``noise_scale``, which is usually 1. ``rounding`` bounds the
    float64 error of alpha and of the standard deviation. It is small, except on grids whose steps differ by orders of
    magnitude, where some methods subtract numbers much larger than the result.
    """

    row: int
    level: Level
    alpha: float
    variance: float
    rounding: float


class Law(NamedTuple):
    """Mean and variance of a state."""

    mean: float
    variance: float


def _propagate(plan: Plan, first: Array, noises: Array, answer: Callable[[Level, Array], Answer]) -> list[Array]:
    """All states of a plan as vectors over a basis, with ``answer(level, state)`` as the model."""
    registers: dict[str, list[Array]] = {"x": [], "D": [], "U": [], "xi": list(noises)}
    for row in plan.rows:
        state = np.zeros_like(first) if row.terms else first
        for (kind, index), value in row.terms:
            state = state + value * registers[kind][index]
        registers["x"].append(state)
        if row.level is not None:
            denoised, uncond = answer(row.level, state)
            registers["D"].append(denoised)
            registers["U"].append(uncond)
    return registers["x"]


def marginals(plan: Plan) -> list[Marginal]:
    """Mean and variance of the result and of every state that the model evaluates, for a constant denoiser.

    A sampler is consistent with its process if and only if each has ``alpha == level.alpha`` and ``variance ==
    (plan.noise_scale * level.sigma) ** 2``. It then samples one-point data without error, on any grid.
    """
    basis = np.eye(2 + len(plan.draws))  # x0, start noise, draws
    first = plan.start.alpha * basis[0] + _noise_std(plan, plan.start) * basis[1]
    states = _propagate(plan, first, basis[2:], lambda level, state: (basis[0], basis[0]))
    levels = [row.at for row in plan.rows[:-1]] + [plan.end]
    bounds = _rounding(plan, [float(np.linalg.norm(state)) for state in states])
    return [
        Marginal(k, level, float(state[0]), float(state[1:] @ state[1:]), bound)
        for k, (level, state, bound) in enumerate(zip(levels, states, bounds, strict=True))
        if level is not None
    ]


def _noise_std(plan: Plan, level: Level) -> float:
    """Noise std of a state at a level."""
    return plan.noise_scale * level.sigma


def _rounding(plan: Plan, sizes: list[float]) -> list[float]:
    """Bound on the error of each state: the errors of its terms plus one rounding per product."""
    bounds: list[float] = []
    for row, size in zip(plan.rows, sizes, strict=True):
        bound = float(np.spacing(size))
        for (kind, k), value in row.terms:
            bound += abs(value) * (bounds[k] + np.spacing(sizes[k]) if kind == "x" else np.finfo(float).eps)
        bounds.append(bound)
    return bounds


def table(plan: Plan) -> Array:
    """The plan in canonical form: every evaluated state and the result, over start, model outputs and draws.

    Returns
    -------
    float64 array, shape (nfe + 1, 1 + 2 * nfe + draws). Columns are the start state, then D and U of each model call,
    then the draws. Two samplers are the same method on a grid if and only if their tables agree.
    """
    outputs = 2 * plan.nfe
    basis = np.eye(1 + outputs + len(plan.draws))
    pairs = zip(basis[1 : 1 + outputs : 2], basis[2 : 1 + outputs : 2], strict=True)
    states = _propagate(plan, basis[0], basis[1 + outputs :], lambda level, state: next(pairs))
    seen = [state for row, state in zip(plan.rows, states, strict=True) if row.level is not None]
    return np.array([*seen, states[-1]])


def _gaussian_result(plan: Plan, std: Array) -> Array:
    """The result over (data mean, start state, draws) for normal data of each std and the exact model."""
    basis = np.eye(2 + len(plan.draws))[..., None] * np.ones(len(std))

    def answer(level: Level, state: Array) -> Answer:
        gain = level.alpha * std**2 / ((level.alpha * std) ** 2 + _noise_std(plan, level) ** 2)
        denoised = gain * state + (1 - gain * level.alpha) * basis[0]
        return denoised, denoised

    return _propagate(plan, basis[1], basis[2:], answer)[-1]


def gaussian_law(plan: Plan, mean: float = 0.0, std: float = 1.0, *, start: Law | None = None) -> Law:
    """Exact law (mean and variance) of a plan's result for normal data and the exact denoiser.

    The correct law has mean ``end.alpha * mean`` and variance ``(end.alpha * std) ** 2 + (noise_scale * end.sigma) **
    2``.

    Parameters
    ----------
    mean, std : float
        Mean and standard deviation of the data.
    start : Law or None
        Mean and variance of the start state; None means those of the first level. Programs often start from pure noise
        although the first level still has some signal; that is ``Law(0, (noise_scale * start.sigma) ** 2)``.
    """
    result = _gaussian_result(plan, np.array([std]))[:, 0]
    if start is None:
        first = plan.start
        start = Law(first.alpha * mean, (first.alpha * std) ** 2 + _noise_std(plan, first) ** 2)
    return Law(
        float(result[0] * mean + result[1] * start.mean),
        float(result[1] ** 2 * start.variance + result[2:] @ result[2:]),
    )


def gaussian_errors(plan: Plan, means: ArrayLike, stds: ArrayLike, *, weak: bool = False) -> Array:
    """`gaussian_error` for many means and standard deviations at once.

    Parameters
    ----------
    means, stds : array_like
        Means and standard deviations of the data, one-dimensional and of equal length.
    weak : as for `gaussian_error`

    Returns
    -------
    errors, of the same shape
    """
    mean, std = np.asarray(means, dtype=np.float64), np.asarray(stds, dtype=np.float64)
    start, end = plan.start, plan.end
    before, after = (np.hypot(level.alpha * std, _noise_std(plan, level)) for level in (start, end))
    result = _gaussian_result(plan, std)
    noise = (result[2:] ** 2).sum(0)
    if weak:
        spread = np.sqrt((result[1] * before) ** 2 + noise)
        return np.asarray(np.hypot((result[0] + result[1] * start.alpha - end.alpha) * mean, spread - after))
    slope = result[1] - after / before
    offset = result[0] - end.alpha + after / before * start.alpha
    return np.asarray(np.sqrt(((offset + slope * start.alpha) * mean) ** 2 + (slope * before) ** 2 + noise))


def gaussian_error(plan: Plan, mean: float = 1.0, std: float = 1.0, *, weak: bool = False) -> float:
    """Error of a plan on normal data, with the exact denoiser.

    Parameters
    ----------
    mean, std : float
        Mean and standard deviation of the data.
    weak : bool
        Compare the laws of the results (for samplers that draw noise) instead of results from the same start state.

    Returns
    -------
    without weak: root mean square distance from the exact solution of the probability-flow ODE, over start states from
    the exact law. With weak: Wasserstein-2 distance of the two normal laws. Both are lengths in units of the data
    """
    return float(gaussian_errors(plan, [mean], [std], weak=weak)[0])


def gaussian_covariance(
    plan: Plan, covariance: ArrayLike, *, start: ArrayLike | None = None, steps: ArrayLike | None = None
) -> Array:
    """Exact covariance of a plan's result for normal data of mean 0 and the exact denoiser, from pure noise.

    Parameters
    ----------
    plan : Plan
        The plan to analyse.
    covariance : array_like
        Covariance of the data, shape (n, n).
    start, steps : array_like or None
        Covariances of the start noise and of the noise drawn in the steps, shape (n, n), such as those of
        `ksched.noise.Correlated.covariance`; None means white noise of variance 1.

    Returns
    -------
    float64, shape (n, n)

    Notes
    -----
    A plan acts on each principal axis of the data separately. In these axes, the start noise and each draw are
    multiplied by one number per axis, so their covariances are multiplied elementwise by products of two such numbers.
    """
    variances, axes = np.linalg.eigh(np.asarray(covariance, dtype=np.float64))
    result = _gaussian_result(plan, np.sqrt(np.maximum(variances, 0.0)))
    first = result[1] * _noise_std(plan, plan.start)
    noises = [
        np.eye(len(axes)) if noise is None else axes.T @ np.asarray(noise, dtype=np.float64) @ axes
        for noise in (start, steps)
    ]
    found = noises[0] * np.outer(first, first) + noises[1] * (result[2:].T @ result[2:])
    return np.asarray(axes @ found @ axes.T)


def gaussian_distance(a: ArrayLike, b: ArrayLike) -> float:
    """Wasserstein-2 distance between two normal laws of mean 0, from their covariances of shape (n, n).

    It is a length over all n numbers; ``sqrt(trace(b))`` is the size of the second law.
    """
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    root = _root(second)
    squared = np.trace(first) + np.trace(second) - 2 * np.trace(_root(root @ first @ root))
    return math.sqrt(max(float(squared), 0.0))


def _root(matrix: Array) -> Array:
    """The square root of a symmetric positive semi-definite matrix."""
    values, axes = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray(axes * np.sqrt(np.maximum(values, 0.0)) @ axes.T)


def warped_sigmas(
    process: Process, steps: int, sigma_max: float | None = None, sigma_min: float | None = None
) -> Array:
    """A smooth grid that is not evenly spaced in any common variable; even grids hide errors of the order.

    Parameters
    ----------
    process : Process
        Gives the range and the variable that is warped: sigma / (alpha + sigma), finite for pure noise too.
    steps : int
        Number of steps.
    sigma_max, sigma_min : float or None
        First and last contract sigma; by default the sigmas where sigma / alpha is 4 and 1/4.

    Returns
    -------
    float64 array, shape (steps + 1,), strictly decreasing; it ends above 0
    """
    high = process.level_at(-math.log(4)) if sigma_max is None else process.level(sigma_max)
    low = process.level_at(math.log(4)) if sigma_min is None else process.level(sigma_min)
    first, last = (level.sigma / (level.alpha + level.sigma) for level in (high, low))
    u = np.linspace(0, 1, steps + 1)
    share = first + (last - first) * (u + 0.3 / math.pi * np.sin(math.pi * u) ** 2 + 0.08 * np.sin(2 * math.pi * u))
    inner = [process.level_at(math.log((1 - r) / r)).label for r in share[1:-1]]
    return np.array([high.label, *inner, low.label])


def measured_order(
    build: Callable[[Array], Plan],
    process: Process,
    *,
    weak: bool = False,
    steps: Sequence[int] = (64, 128),
    sigma_max: float | None = None,
) -> float:
    """Measured order of convergence of a sampler, from the exact errors of its plans on normal data.

    Parameters
    ----------
    build : callable
        Builds the plan for given contract sigmas.
    process : Process
        The process of these sigmas.
    weak : bool
        Measure the order of the law, for samplers that draw noise.
    steps : sequence of int
        The two numbers of steps to compare.
    sigma_max : float or None
        Start of the grid; see `warped_sigmas`.

    Returns
    -------
    p such that the largest error over data of std 0.3, 0.5, 1 and 2 falls as steps ** -p between the two
    """
    few, many = steps
    plans = [build(warped_sigmas(process, n, sigma_max)) for n in (few, many)]
    # the largest of several errors, because a single error may cross zero by chance
    errors = [float(gaussian_errors(plan, np.ones(4), [0.3, 0.5, 1.0, 2.0], weak=weak).max()) for plan in plans]
    return math.log(errors[0] / errors[1]) / math.log(many / few)
