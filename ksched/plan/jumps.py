"""Targets of a plan's steps: the second time for a network that is given two times (a flow map)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ksched.plan.rows import Register, Row
from ksched.processes import Level

__all__ = ["jump_goals"]

#: relative distance within which a target counts as a level of the plan, not a rounding of it
_SAME = 1e-9


def jump_goals(rows: Sequence[Row], ends: Iterable[float]) -> tuple[float, ...]:
    """For each model call, the contract sigma that its prediction takes the state to; all NaN if a step is no jump.

    A step is a jump if the next state consists of the present state, the present prediction and fresh noise. The first
    two then form a multiple of the state at one level, on the line through state and prediction. That level is the next
    one for `euler`, 0 for `lcm`, which draws all noise afresh, and between the two for ancestral steps. Steps that read
    earlier states or predictions, or a prediction at another state, are not jumps.

    Parameters
    ----------
    rows, ends : sequence of Row or iterable of float
        Rows of a plan, and contract sigmas at the ends of its steps.
    """
    called = [(k, row.level) for k, row in enumerate(rows) if row.level is not None]
    known = sorted({*ends, *(level.label for _, level in called)})
    stops = [*(k for k, _ in called[1:]), len(rows) - 1]
    goals = []
    for call, ((k, level), stop) in enumerate(zip(called, stops, strict=True)):
        parts = _parts(rows, k, stop, call)
        goal = math.nan if parts is None else _goal(level, *parts)
        if math.isnan(goal):
            return (math.nan,) * len(called)
        goals.append(_level_near(goal, known))
    return tuple(goals)


def _parts(rows: Sequence[Row], first: int, last: int, call: int) -> tuple[float, float] | None:
    """The last row's weights of a call's state and prediction; None if it reads anything else."""
    found = {Register("x", first): (1.0, 0.0), Register("D", call): (0.0, 1.0)}
    for k in range(first + 1, last + 1):
        terms = [(register, value) for register, value in rows[k].terms if register.kind != "xi"]
        if all(register in found for register, _ in terms):
            of_x, of_d = (sum(value * found[register][part] for register, value in terms) for part in (0, 1))
            found[Register("x", k)] = of_x, of_d
    return found.get(Register("x", last))


def _goal(level: Level, of_state: float, of_prediction: float) -> float:
    """The contract sigma where ``of_state * x + of_prediction * x0`` is a multiple of the state; NaN if none."""
    noise, signal = of_state * level.sigma, of_state * level.alpha + of_prediction
    if level.label == level.sigma and level.alpha != 1:  # flow: sigma is the share of noise
        signal += noise
    return max(noise, 0.0) / signal if signal > 0 and noise >= -_SAME * signal else math.nan


def _level_near(goal: float, known: Sequence[float]) -> float:
    near = min(known, key=lambda level: abs(level - goal))
    return near if math.isclose(near, goal, rel_tol=_SAME, abs_tol=_SAME * min(1.0, known[-1])) else goal
