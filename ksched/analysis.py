"""What a plan does, computed from its table: no model is called and nothing is sampled.

Every state of a plan is linear in what goes in. So a model whose prediction is affine in the state (a constant, or the
exact denoiser of Gaussian data) turns the whole plan into a few vectors of numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from ksched.plan import Plan
from ksched.processes import Level
from ksched.types import Array

__all__ = ["GaussianError", "Marginal", "gaussian_error", "gaussian_law", "marginals", "measured_order", "table"]


class Marginal(NamedTuple):
    """Law of one state when all data is one point x0: mean ``alpha * x0`` and variance ``variance``.

    ``level`` is the level the state should be at: alpha equal to ``level.alpha``, variance to ``level.sigma ** 2``.
    """

    row: int
    level: Level
    alpha: float
    variance: float


def propagate(plan: Plan, first: Array, noises: Array, denoise: Callable[[Level, Array], Array]) -> list[Array]:
    """All states of a plan as vectors over some basis, the model being ``denoise(level, state)``."""
    states: list[Array] = []
    outputs: list[Array] = []
    for row in plan.rows:
        state = first if not states else np.zeros_like(first)
        for (kind, index), value in row.terms:
            state = state + value * {"x": states, "xi": noises}.get(kind, outputs)[index]
        states.append(state)
        if row.level is not None:
            outputs.append(denoise(row.level, state))
    return states


def marginals(plan: Plan) -> list[Marginal]:
    """Mean and variance of every state that the model sees, and of the result, for a constant denoiser.

    A sampler is consistent with its process exactly if each has ``alpha == level.alpha`` and ``variance ==
    level.sigma ** 2``: then it samples one-point data without error whatever the grid.
    """
    basis = np.eye(2 + len(plan.draws))  # x0, start noise, draws
    first = plan.start.alpha * basis[0] + plan.start.sigma * basis[1]
    states = propagate(plan, first, basis[2:], lambda level, state: basis[0])
    levels = [row.level for row in plan.rows[:-1]] + [plan.end]
    return [
        Marginal(k, level, float(state[0]), float(state[1:] @ state[1:]))
        for k, (level, state) in enumerate(zip(levels, states, strict=True))
        if level is not None
    ]


def table(plan: Plan) -> Array:
    """The plan in canonical form: every state the model sees, and the result, over start, outputs and draws.

    Returns
    -------
    float64 array, shape (nfe + 1, 1 + 2 * nfe + draws); columns are the start state, then D and U of every model
    call, then the draws. Two samplers are the same method on a grid exactly if these agree.
    """
    calls = plan.nfe
    basis = np.eye(1 + 2 * calls + len(plan.draws))
    outputs = iter(range(calls))
    merged = _merge_uncond(plan)
    states = propagate(merged, basis[0], basis[1 + 2 * calls :], lambda level, state: basis[1 + next(outputs)])
    seen = [state for row, state in zip(plan.rows, states, strict=True) if row.level is not None]
    return np.array([*seen, states[-1]])
