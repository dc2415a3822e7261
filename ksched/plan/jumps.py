"""Where the steps of a plan jump to: what a network that is told two times must be told as the second."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from ksched.plan.rows import Register, Row
from ksched.processes import Level

__all__ = ["jump_goals"]

#: how near a goal must be to a level of the plan, relative, to be that level and no rounding of it
_SAME = 1e-9


def jump_goals(rows: Sequence[Row], ends: Iterable[float]) -> tuple[float, ...]:
    """For every model call, the contract sigma that the prediction takes the state to; all NaN if one is no jump.

    A step is a jump if it forms the next state of the present one, the present prediction and fresh noise: then the
    first two are some multiple of the state at one level, on the line through state and prediction. That level is the
    next one for `euler`, 0 for `lcm`, which makes the noise anew, and between them for ancestral steps. Steps that
    read earlier states or predictions, or a prediction from elsewhere, are no jumps.

    Parameters
    ----------
    rows, ends : of a plan, and contract sigmas of its schedule
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
    """How much the last row has of the state and of the prediction of a call; None if it reads anything else."""
    found = {Register("x", first): (1.0, 0.0), Register("D", call): (0.0, 1.0)}
    for k in range(first + 1, last + 1):
        terms = [(register, value) for register, value in rows[k].terms if register.kind != "xi"]
        if all(register in found for register, _ in terms):
            of_x, of_d = (sum(value * found[register][part] for register, value in terms) for part in (0, 1))
            found[Register("x", k)] = of_x, of_d
    return found.get(Register("x", last))


def _goal(level: Level, of_state: float, of_prediction: float) -> float:
    """The contract sigma at which ``of_state * x + of_prediction * x0`` is a multiple of the state; NaN if at none."""
    noise, signal = of_state * level.sigma, of_state * level.alpha + of_prediction
    if level.label == level.sigma and level.alpha != 1:  # flow, whose sigma is the share of noise
        signal += noise
    return max(noise, 0.0) / signal if signal > 0 and noise >= -_SAME * signal else math.nan


def _level_near(goal: float, known: Sequence[float]) -> float:
    near = min(known, key=lambda level: abs(level - goal))
    return near if math.isclose(near, goal, rel_tol=_SAME, abs_tol=_SAME * min(1.0, known[-1])) else goal
