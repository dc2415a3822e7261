"""Plans of one model call per step as tables of weights, and noise levels apart from any process."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from ksched.plan import analysis
from ksched.plan.plan import Plan
from ksched.processes import Flow
from ksched.samplers.linear_multistep import Table, ratio
from ksched.samplers.linear_table import LinearTable
from ksched.schedules.grid import Grid
from ksched.types import Array

__all__ = ["canonical", "flow_level", "linear_of", "on_flow", "states", "table_of"]


def table_of(plan: Plan, data_std: float = 1.0) -> Table:
    """The table of a plan that calls the model once a step and draws no noise, to sigma 0.

    Raises
    ------
    ValueError : a plan that is no such table, because it is not exact for a constant prediction
    """
    rows, unit_std = states(plan), data_std / plan.noise_scale
    if plan.tells_others:
        raise ValueError("the plan tells the model other levels than those of its states; `linear_of` has its table")
    weights = []
    for i, (s, t) in enumerate(pairwise([*plan.levels, plan.end])):
        kept = t.sigma / s.sigma
        row = (rows[i + 1] - kept * rows[i]) / (t.alpha - kept * s.alpha)
        if abs(row[0]) * s.sigma > 1e-8 or abs(row[1:].sum() - 1) > 1e-8:
            raise ValueError(f"step {i} of the plan is no mean of predictions: it is inconsistent, or not one step")
        weights.append(tuple(float(value) for value in row[1 : i + 1]))
    return Table(tuple(ratio(level) / unit_std for level in [*plan.levels, plan.end]), tuple(weights))


def linear_of(plan: Plan, data_std: float = 1.0) -> LinearTable:
    """The table of a plan that calls the model once a step and draws no noise, to sigma 0, whatever its rows are.

    Raises
    ------
    ValueError : a plan with several calls in a step, with noise, or with an end above 0; a state that keeps nothing of
        the start, and is no linear step from the one before
    """
    if plan.nfe != plan.steps or plan.end.sigma > 0:
        raise ValueError(f"a table is of one model call per step, to sigma 0; got {plan.nfe} in {plan.steps} steps")
    (_, rows), unit_std = canonical(plan, data_std), data_std / plan.noise_scale
    steps = []
    for i, (before, after) in enumerate(pairwise(rows)):
        kept = 0.0 if after[0] == 0 else float(after[0] / before[0])
        if not math.isfinite(kept):
            raise ValueError(f"step {i} of the plan starts from a state that keeps nothing of the start")
        steps.append((kept, *(float(value) for value in (after - kept * before)[1 : i + 2])))
    levels, told = (
        tuple(ratio(level) / unit_std for level in each) for each in ((*plan.state_levels, plan.end), plan.levels)
    )
    return LinearTable(levels, told, tuple(steps))


def states(plan: Plan) -> Array:
    """Every state that the model sees, and the result, over the start and the predictions: (nfe + 1, nfe + 1).

    Raises
    ------
    ValueError : a plan that draws noise or reads unconditional predictions
    """
    if plan.draws or any(row.both for row in plan.rows):
        raise ValueError("a plan to be tuned must draw no noise and need no unconditional prediction")
    rows = analysis.table(plan)
    result: Array = np.concatenate([rows[:, :1], rows[:, 1 : 1 + 2 * plan.nfe : 2]], axis=1)
    return result


def canonical(plan: Plan, data_std: float) -> tuple[Array, Array]:
    """A plan in flow coordinates of data of standard deviation 1.

    Returns
    -------
    levels of the model calls (nfe,), and rows as of `states`
    """
    unit_std = data_std / plan.noise_scale
    scales = np.array([level.alpha * unit_std + level.sigma for level in (*plan.levels, plan.end)])
    rows = states(plan) * unit_std / scales[:, None]
    rows[:, 0] *= scales[0] / unit_std
    return np.array([level.sigma for level in plan.levels]) / scales[:-1], rows


def flow_level(ratio: float) -> float:
    """Level s of a flow with a noise to signal: states alpha * x0 + s * eps with alpha + s = 1."""
    return 1.0 if math.isinf(ratio) else ratio / (1 + ratio)


def on_flow(levels: Sequence[float]) -> Grid:
    """Noise to signal as a grid of `Flow`."""
    return Grid.of([flow_level(level) for level in levels], Flow())
