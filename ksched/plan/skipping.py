"""Plans that skip model calls: earlier predictions replace some, as in step caches."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import index
from typing import Any

import numpy as np

from ksched.plan.rows import Draw, Register, Row, in_order, without_unused
from ksched.processes import Level

__all__ = ["answers_of", "calls_to_skip", "in_steps", "rows_without"]


def calls_to_skip(calls: str | Iterable[int], nfe: int) -> set[int]:
    """The skipped calls, from their indices or from a mask.

    A mask is unambiguous: read as indices, 0s and 1s for every call would skip the first call, which is not allowed.
    """
    if isinstance(calls, str):
        entries = [entry.strip() for entry in calls.split(",")]
        if not set(entries) <= {"0", "1"}:
            raise ValueError(f"a mask as text must be 0s and 1s separated by commas; got {calls!r}")
        numbers, mask = [int(entry) for entry in entries], True
    else:
        numbers = _whole_numbers(calls)
        mask = len(numbers) == nfe and set(numbers) <= {0, 1}
    if mask and len(numbers) != nfe:
        raise ValueError(f"a mask must have a 0 or 1 for each of the {nfe} model calls; got {len(numbers)} of them")
    if wrong := [number for number in numbers if not (mask or -nfe <= number < nfe)]:
        raise ValueError(f"calls must be from {-nfe} to {nfe - 1}, the plan's model calls; got {wrong[0]}")
    skipped = {k for k, made in enumerate(numbers) if not made} if mask else {number % nfe for number in numbers}
    if 0 in skipped:
        raise ValueError("the first call cannot be skipped, because no earlier prediction can replace it")
    return skipped


def _whole_numbers(calls: Iterable[Any]) -> list[int]:
    try:
        entries = list(calls)
        numbers = [index(entry) for entry in entries if not isinstance(entry, bool | np.bool)]
    except TypeError:
        raise TypeError(f"calls must be whole numbers, or a mask such as '1,1,0,1'; got {calls!r}") from None
    if len(numbers) < len(entries):
        raise TypeError(
            "a mask of True and False is ambiguous; write 1 for a call that is made and 0 for a skipped one"
        )
    return numbers


def answers_of(levels: Sequence[Level], skipped: set[int], by: str) -> list[dict[int, float]]:
    """Every prediction as a combination of the predictions made, which are renumbered.

    Parameters
    ----------
    levels : sequence of Level
        Levels of all calls.
    skipped : set of int
        Indices of the skipped calls, from `calls_to_skip`.
    by : str
        "reuse" or "line", as for `Plan.skip`.
    """
    if by not in ("reuse", "line"):
        raise ValueError(f"by must be 'reuse' or 'line'; got {by!r}")
    made: list[int] = []
    answers: list[dict[int, float]] = []
    for call, level in enumerate(levels):
        if call not in skipped:
            answers.append({len(made): 1.0})
            made.append(call)
            continue
        last = len(made) - 1
        answer = {last: 1.0}
        here, newest = level.lam, levels[made[last]].lam
        before = next((k for k in range(last - 1, -1, -1) if levels[made[k]].lam != newest), None)
        if by == "line" and before is not None and math.isfinite(here) and math.isfinite(newest):
            # a prediction at pure noise is infinitely far away, so the line through it is constant
            beyond = (here - newest) / (newest - levels[made[before]].lam)
            answer = {last: 1 + beyond, before: -beyond} if beyond else answer
        answers.append(answer)
    return answers


def rows_without(
    rows: Sequence[Row], draws: Sequence[Draw], skipped: set[int], answers: Sequence[Mapping[int, float]]
) -> tuple[list[Row], tuple[Draw, ...]]:
    """The rows of a plan without the skipped calls, and the noises that they read.

    Parameters
    ----------
    answers : sequence of mapping
        From `answers_of`.
    """
    without, idle, call = [], set[Register](), 0
    for k, row in enumerate(rows):
        skip = row.level is not None and call in skipped
        call += row.level is not None
        if skip:
            idle.add(Register("x", k))
        without.append(_rewritten(row._replace(level=None, both=False, state_level=None) if skip else row, answers))
    found, drawn = without_unused(_merged(without, idle), draws)
    return _with_pairs(found), drawn


def _rewritten(row: Row, answers: Sequence[Mapping[int, float]]) -> Row:
    """A row that reads only predictions that are made."""
    terms: dict[Register, float] = {}
    for register, value in row.terms:
        parts = answers[register.number] if register.kind in ("D", "U") else {register.number: 1.0}
        for number, weight in parts.items():
            part = register._replace(number=number)
            terms[part] = terms.get(part, 0.0) + value * weight
    return row._replace(terms=in_order({register: value for register, value in terms.items() if value}))


def _merged(rows: Sequence[Row], idle: set[Register]) -> list[Row]:
    """Rows with idle states replaced by their terms, if only these rows read them."""
    readers = Counter(register for row in rows for register, _ in row.terms)
    inlined: dict[Register, tuple[tuple[Register, float], ...]] = {}
    merged = []
    for k, row in enumerate(rows):
        terms: dict[Register, float] = {}
        for register, value in row.terms:
            for part, weight in inlined.get(register, ((register, 1.0),)):
                terms[part] = terms.get(part, 0.0) + value * weight
        merged.append(row._replace(terms=in_order({register: value for register, value in terms.items() if value})))
        state = Register("x", k)
        if state in idle and readers[state] == 1:
            inlined[state] = merged[-1].terms
    return merged


def _with_pairs(rows: list[Row]) -> list[Row]:
    """Rows whose calls return the unconditional prediction if any row reads it."""
    read = {register.number for row in rows for register, _ in row.terms if register.kind == "U"}
    paired, call = [], 0
    for row in rows:
        paired.append(row._replace(both=row.both or call in read) if row.level is not None else row)
        call += row.level is not None
    return paired


def in_steps(rows: Sequence[Row], sigmas: Sequence[float]) -> tuple[list[Row], tuple[float, ...]]:
    """Rows and schedule in which a step without a model call is merged into the step before it."""
    called = {row.step for row in rows if row.level is not None} | {0}
    steps = [step for step in range(len(sigmas) - 1) if step in called]
    number = {step: sum(other <= step for other in steps) - 1 for step in {row.step for row in rows}}
    placed = [row._replace(step=number[row.step]) for row in rows]
    return placed, (*(sigmas[step] for step in steps), sigmas[-1])
