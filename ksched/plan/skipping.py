"""Plans that call the model less often: some predictions are made of earlier ones, as step caches do."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from operator import index
from typing import Any, Literal

import numpy as np

from ksched.plan.analysis import gaussian_errors
from ksched.plan.plan import Plan
from ksched.plan.rows import Register, Row, in_order, without_unused
from ksched.processes import Level

__all__ = ["STDS", "normal_errors", "skipped"]

#: of the normal data on which the cost of skipping is reported; its mean is 1
STDS = (0.3, 0.5, 1.0, 2.0)


def skipped(plan: Plan, calls: str | Iterable[int], by: Literal["reuse", "line"] = "reuse") -> Plan:
    """See `Plan.skip`."""
    if by not in ("reuse", "line"):
        raise ValueError(f"by must be 'reuse' or 'line'; got {by!r}")
    gone = _skipped_calls(calls, plan.nfe)
    if not gone:
        return plan
    answers = _answers(plan.levels, gone, by)
    rows = _merged([_rewritten(row, answers) for row in _without_calls(plan, gone)], plan)
    rows, draws = without_unused(_with_pairs(rows), plan.draws)
    rows, sigmas = _in_steps(rows, plan.sigmas)
    report: dict[str, Any] = {"calls": sorted(gone), "by": by, "nfe": plan.nfe, "stds": list(STDS)}
    report |= {"errors": normal_errors(plan), "growth": max(math.hypot(*answers[call].values()) for call in gone)}
    return replace(plan, rows=tuple(rows), draws=draws, sigmas=sigmas, report={"skipped": report})


def normal_errors(plan: Plan) -> list[float]:
    """Exact errors on normal data of mean 1 and of every std of `STDS`; of the law, if the plan draws noise."""
    return [float(error) for error in gaussian_errors(plan, [1.0] * len(STDS), STDS, weak=bool(plan.draws))]


def _skipped_calls(calls: str | Iterable[int], nfe: int) -> set[int]:
    """Which calls are skipped, from their numbers or from a mask.

    Whether numbers are a mask is no guess: as numbers of calls, 0s and 1s for every call would skip the first.
    """
    if isinstance(calls, str):
        entries = [entry.strip() for entry in calls.split(",")]
        if not set(entries) <= {"0", "1"}:
            raise ValueError(f"a mask in text is of 0 and 1 with commas between them; got {calls!r}")
        numbers, mask = [int(entry) for entry in entries], True
    else:
        numbers = _whole_numbers(calls)
        mask = len(numbers) == nfe and set(numbers) <= {0, 1}
    if mask and len(numbers) != nfe:
        raise ValueError(f"a mask needs a 0 or 1 for each of the {nfe} model calls; got {len(numbers)} of them")
    if wrong := [number for number in numbers if not (mask or -nfe <= number < nfe)]:
        raise ValueError(f"calls must be from {-nfe} to {nfe - 1}, those of the plan; got {wrong[0]}")
    gone = {k for k, kept in enumerate(numbers) if not kept} if mask else {number % nfe for number in numbers}
    if 0 in gone:
        raise ValueError("the first call cannot be skipped: there is no earlier prediction to take instead")
    return gone


def _whole_numbers(calls: Iterable[Any]) -> list[int]:
    try:
        entries = list(calls)
        numbers = [index(entry) for entry in entries if not isinstance(entry, bool | np.bool)]
    except TypeError:
        raise TypeError(f"calls must be whole numbers, or a mask such as '1,1,0,1'; got {calls!r}") from None
    if len(numbers) < len(entries):
        raise TypeError(
            "a mask of True and False may mean either; write 1 for a call that is made, 0 for a skipped one"
        )
    return numbers


def _answers(levels: Sequence[Level], gone: set[int], by: str) -> list[dict[int, float]]:
    """Every prediction as a combination of those that are made, which are numbered anew."""
    made: list[int] = []
    answers: list[dict[int, float]] = []
    for call, level in enumerate(levels):
        if call not in gone:
            answers.append({len(made): 1.0})
            made.append(call)
            continue
        last = len(made) - 1
        answer = {last: 1.0}
        here, newest = level.lam, levels[made[last]].lam
        before = next((k for k in range(last - 1, -1, -1) if levels[made[k]].lam != newest), None)
        if by == "line" and before is not None and math.isfinite(here) and math.isfinite(newest):
            # A prediction at pure noise is infinitely far away, so that the line through it is level.
            beyond = (here - newest) / (newest - levels[made[before]].lam)
            answer = {last: 1 + beyond, before: -beyond} if beyond else answer
        answers.append(answer)
    return answers


def _without_calls(plan: Plan, gone: set[int]) -> list[Row]:
    """The rows, where the model is not called on some states."""
    rows, call = [], 0
    for row in plan.rows:
        skip = row.level is not None and call in gone
        call += row.level is not None
        rows.append(row._replace(level=None, both=False) if skip else row)
    return rows


def _rewritten(row: Row, answers: Sequence[Mapping[int, float]]) -> Row:
    """A row that reads only predictions that are made."""
    terms: dict[Register, float] = {}
    for register, value in row.terms:
        parts = answers[register.number] if register.kind in ("D", "U") else {register.number: 1.0}
        for number, weight in parts.items():
            part = register._replace(number=number)
            terms[part] = terms.get(part, 0.0) + value * weight
    return row._replace(terms=in_order({register: value for register, value in terms.items() if value}))


def _merged(rows: list[Row], plan: Plan) -> list[Row]:
    """Rows that read what a state is made of, where they alone read it and the model is no longer called on it."""
    readers = Counter(register for row in rows for register, _ in row.terms)
    inlined: dict[Register, tuple[tuple[Register, float], ...]] = {}
    merged = []
    for k, row in enumerate(rows):
        terms: dict[Register, float] = {}
        for register, value in row.terms:
            for part, weight in inlined.get(register, ((register, 1.0),)):
                terms[part] = terms.get(part, 0.0) + value * weight
        here = row._replace(terms=in_order({register: value for register, value in terms.items() if value}))
        if row.level is None and plan.rows[k].level is not None and readers[Register("x", k)] == 1:
            inlined[Register("x", k)] = here.terms
        merged.append(here)
    return merged


def _with_pairs(rows: list[Row]) -> list[Row]:
    """Rows whose calls return the unconditional prediction wherever it is read."""
    read = {register.number for row in rows for register, _ in row.terms if register.kind == "U"}
    paired, call = [], 0
    for row in rows:
        paired.append(row._replace(both=row.both or call in read) if row.level is not None else row)
        call += row.level is not None
    return paired


def _in_steps(rows: list[Row], sigmas: tuple[float, ...]) -> tuple[list[Row], tuple[float, ...]]:
    """Rows and schedule in which a step without a model call is part of the step before it."""
    called = {row.step for row in rows if row.level is not None} | {0}
    steps = [step for step in range(len(sigmas) - 1) if step in called]
    number = {step: sum(other <= step for other in steps) - 1 for step in {row.step for row in rows}}
    placed = [row._replace(step=number[row.step]) for row in rows]
    return placed, (*(sigmas[step] for step in steps), sigmas[-1])
