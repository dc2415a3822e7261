"""Which part of a product of cases plain ``pytest`` runs: representatives of independent axes.

A test is parametrised over the whole product. ``@short(keep)`` keeps the ids for which ``keep`` is true in the short
suite and marks all others `exhaustive`. The executor, wrappers and adapters never see the name of a sampler, only the
rows of its plan. So one sampler of each kind of row represents all samplers with such rows.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any, TypeVar

import pytest
from cases import CORNERS, NAMES, process_for

from ksched import build_sampler
from ksched.plan.plan import Plan
from ksched.plan.rows import Row
from ksched.samplers.spec import SamplerSpec
from ksched.schedules import SCHEDULES

T = TypeVar("T")


def short(keep: Callable[..., bool]) -> pytest.MarkDecorator:
    """Mark a test whose short suite has only the ids that ``keep`` wants; its arguments are parameters by name."""
    return pytest.mark.short.with_args(keep)


def each(names: str, values: Iterable[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test on every value of an argument, one after the other under one id; a failure says on which.

    For checks so small that most of their time would be pytest's. Several names, with commas between them, take values
    that are tuples.
    """
    values, keys = list(values), [name.strip() for name in names.split(",")]

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(test)
        def of_all(**others: Any) -> None:
            skipped: list[BaseException] = []
            for value in values:
                try:
                    test(**dict(zip(keys, value if len(keys) > 1 else (value,), strict=True)), **others)
                except pytest.skip.Exception as reason:  # the other values are tried
                    skipped.append(reason)
                except BaseException as error:
                    error.add_note(f"{names}: {getattr(value, 'name', value)}")
                    raise
            if skipped and len(skipped) == len(values):
                raise skipped[0]

        whole = inspect.signature(test)
        others = [parameter for parameter in whole.parameters.values() if parameter.name not in keys]
        of_all.__signature__ = whole.replace(parameters=others)  # type: ignore[attr-defined]
        return of_all

    return decorate


def in_turn(number: int, values: Iterable[T]) -> T:
    """One value of an independent axis, another one for each number."""
    values = list(values)
    return values[number % len(values)]


def firsts(values: Iterable[T], key: Callable[[T], object]) -> list[T]:
    """The first value of each key, by its text."""
    found: dict[str, T] = {}
    for value in values:
        found.setdefault(str(key(value)), value)
    return list(found.values())


# Kinds of rows


def _shape(k: int, row: Row, calls: int) -> tuple[object, ...]:
    """What the executor sees of a row except its numbers: the age of each register, and what it asks of the model."""
    ages = {"x": k, "D": calls, "U": calls, "xi": 0}
    terms = tuple((register.kind, ages[register.kind] - register.number) for register, _ in row.terms)
    is_mean = math.isclose(sum(value for register, value in row.terms if register.kind != "xi"), 1, abs_tol=1e-12)
    return row.level is not None, row.both, terms, is_mean


def shapes_of_rows(plan: Plan) -> frozenset[tuple[object, ...]]:
    """The rows of a plan without their numbers."""
    shapes, calls = set(), 0
    for k, row in enumerate(plan.rows):
        shapes.add(_shape(k, row, calls))
        calls += row.level is not None
    return frozenset(shapes)


def _key(spec: SamplerSpec, options: dict[str, Any]) -> tuple[object, ...]:
    return str(spec.name), *options.items()


@cache
def _shapes() -> dict[tuple[object, ...], frozenset[tuple[object, ...]]]:
    """The shapes of the rows of every corner."""
    plans = {
        _key(spec, options): build_sampler(spec.name, "karras", 5, process=process_for(spec), **options).plan
        for spec, options in CORNERS
    }
    return {key: shapes_of_rows(plan) for key, plan in plans.items()}


def _cover(shapes: dict[tuple[object, ...], frozenset[tuple[object, ...]]]) -> dict[tuple[object, ...], int]:
    """A few keys, numbered, that have all shapes between them: always the one with most that are new."""
    missing, chosen = frozenset[tuple[object, ...]]().union(*shapes.values()), list[tuple[object, ...]]()
    while missing:
        chosen.append(max(shapes, key=lambda key: len(shapes[key] & missing)))
        missing -= shapes[chosen[-1]]
    return {key: number for number, key in enumerate(key for key in shapes if key in chosen)}


@cache
def _corner_numbers() -> dict[tuple[object, ...], int]:
    return _cover(_shapes())


def corner_number(spec: SamplerSpec, options: dict[str, Any]) -> int | None:
    """The number of a corner among a few that have every shape of a row between them; None for all others."""
    return _corner_numbers().get(_key(spec, options))


@cache
def _name_numbers() -> dict[str, int]:
    few = _cover({key: shapes for key, shapes in _shapes().items() if len(key) == 1})
    return {name: number for number, name in enumerate(name for name in NAMES if (name,) in few or is_form(name))}


def name_number(name: object) -> int | None:
    """The number of a sampler among a few that have, with default options, every shape of a row and every form.

    None for all others.
    """
    return _name_numbers().get(str(name))


def is_kind(name: object) -> bool:
    """Whether `name_number` has a number for a sampler."""
    return name_number(name) is not None


# Forms of samplers: what a wrapper around the model, or an adapter of a host program, can tell apart


def looks_back(plan: Plan) -> bool:
    """Whether a step reads more from before it than the state that it starts at."""
    firsts = {row.step: k for k, row in reversed([*enumerate(plan.rows)]) if row.level is not None}
    for step, first in firsts.items():
        reads = [register for row in plan.rows[first + 1 :] for register, _ in row.terms]
        if any(
            r.number < first if r.kind == "x" else r.kind in "DU" and plan.call_steps[r.number] < step for r in reads
        ):
            return True
    return False


@cache
def _forms() -> dict[str, tuple[bool, ...]]:
    firsts: dict[tuple[bool, ...], str] = {}
    for name in NAMES:
        plan = build_sampler(name, "karras", 5, process=process_for(name)).plan
        stages = plan.nfe > len(set(plan.call_steps))
        both = any(row.both for row in plan.rows)
        firsts.setdefault((looks_back(plan), stages, both, bool(plan.draws)), name)
    return {name: form for form, name in firsts.items()}


def is_form(name: object) -> bool:
    """Whether a sampler is the first with its answers to four questions.

    Does it read predictions of earlier steps, call the model several times a step, need the unconditional prediction,
    draw noise?
    """
    return str(name) in _forms()


def is_plain_form(name: object) -> bool:
    """Whether `is_form` is true for a sampler that needs no unconditional prediction and draws no noise."""
    return is_form(name) and not any(_forms()[str(name)][2:])


# Schedules


@cache
def _schedule_forms() -> tuple[str, ...]:
    firsts: dict[str, str] = {}
    for name, spec in SCHEDULES.items():
        firsts.setdefault(spec.family, str(name))
    return tuple(firsts.values())


def is_schedule_form(schedule: object) -> bool:
    """Whether a schedule is the first of its family, such as formulas in sigma, training tables, published levels."""
    return str(schedule) in _schedule_forms()
