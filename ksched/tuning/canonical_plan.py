"""Plans with one model call per step as tables of weights, with noise levels that do not depend on a process."""

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
    """The table of a plan that calls the model once per step, draws no noise and ends at sigma 0.

    Raises
    ------
    ValueError
        If the plan has no such table, because it is not exact for a constant prediction.
    """
    rows, unit_std = states(plan), data_std / plan.noise_scale
    if plan.tells_others:
        raise ValueError("the plan tells the model sigmas other than its states' own; use `linear_of` instead")
    weights = []
    for i, (s, t) in enumerate(pairwise([*plan.levels, plan.end])):
        kept = t.sigma / s.sigma
        row = (rows[i + 1] - kept * rows[i]) / (t.alpha - kept * s.alpha)
        if abs(row[0]) * s.sigma > 1e-8 or abs(row[1:].sum() - 1) > 1e-8:
            raise ValueError(f"every step of the plan must be one call and average predictions; step {i} does not")
        weights.append(tuple(float(value) for value in row[1 : i + 1]))
    return Table(tuple(ratio(level) / unit_std for level in [*plan.levels, plan.end]), tuple(weights))


def linear_of(plan: Plan, data_std: float = 1.0) -> LinearTable:
    """The table of a plan with any rows that calls the model once per step, draws no noise and ends at sigma 0.

    Raises
    ------
    ValueError
        If the plan makes several calls in a step, draws noise, ends above sigma 0, or has a state that does not depend
        on the start and is not a linear step from the state before.
    """
    if plan.nfe != plan.steps or plan.end.sigma > 0:
        raise ValueError(f"a table needs one model call per step and an end at 0; got {plan.nfe} in {plan.steps} steps")
    (_, rows), unit_std = canonical(plan, data_std), data_std / plan.noise_scale
    steps = []
    for i, (before, after) in enumerate(pairwise(rows)):
        kept = 0.0 if after[0] == 0 else float(after[0] / before[0])
        if not math.isfinite(kept):
            raise ValueError(f"every state must depend on the start; the state before step {i} of the plan does not")
        steps.append((kept, *(float(value) for value in (after - kept * before)[1 : i + 2])))
    levels, told = (
        tuple(ratio(level) / unit_std for level in each) for each in ((*plan.state_levels, plan.end), plan.levels)
    )
    return LinearTable(levels, told, tuple(steps))


def states(plan: Plan) -> Array:
    """Every state passed to the model, and the result, as combinations of the start and the predictions.

    The shape is (nfe + 1, nfe + 1).

    Raises
    ------
    ValueError
        If the plan draws noise or reads unconditional predictions.
    """
    if plan.draws or any(row.both for row in plan.rows):
        raise ValueError("a plan to be tuned must draw no noise and read no unconditional prediction")
    rows = analysis.table(plan)
    result: Array = np.concatenate([rows[:, :1], rows[:, 1 : 1 + 2 * plan.nfe : 2]], axis=1)
    return result


def canonical(plan: Plan, data_std: float) -> tuple[Array, Array]:
    """A plan in flow coordinates of data of standard deviation 1.

    Returns
    -------
    tuple of ndarray of float64
        Levels of the model calls, shape (nfe,), and rows as from `states`.
    """
    unit_std = data_std / plan.noise_scale
    scales = np.array([level.alpha * unit_std + level.sigma for level in (*plan.levels, plan.end)])
    rows = states(plan) * unit_std / scales[:, None]
    rows[:, 0] *= scales[0] / unit_std
    return np.array([level.sigma for level in plan.levels]) / scales[:-1], rows


def flow_level(ratio: float) -> float:
    """Level s of a flow from a noise-to-signal ratio; its states are alpha * x0 + s * eps with alpha + s = 1."""
    return 1.0 if math.isinf(ratio) else ratio / (1 + ratio)


def on_flow(levels: Sequence[float]) -> Grid:
    """Noise-to-signal ratios as a grid of `Flow`."""
    return Grid.of([flow_level(level) for level in levels], Flow())
