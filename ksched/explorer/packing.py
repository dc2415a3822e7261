"""Plans as the page stores them: what many share is written once, and each process and schedule is compressed alone.

A *shape* is a plan without its numbers: which registers every row reads, and where the model is called. Samplers have
few shapes and many plans. A block of text has all plans of one process and schedule, so that the page unpacks what is
looked at and nothing else.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections.abc import Callable, Iterable
from typing import Any

from ksched.explorer.selection import Selection
from ksched.plan.plan import Plan
from ksched.processes import Level

__all__ = ["DIGITS", "compressed", "pack"]

#: significant digits of a coefficient. Levels and draws keep every bit, since noise is seeded with these bits.
DIGITS = 12


class _Table:
    """Values, each of which is written once; an index stands for it elsewhere."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[str, int] = {}

    def place(self, value: Any) -> int:
        """The index of a value, which is added if it is new."""
        key = json.dumps(value)
        if key not in self._places:
            self._places[key] = len(self.values)
            self.values.append(value)
        return self._places[key]


def pack(selection: Selection) -> dict[str, Any]:
    """All plans of a selection as plain data with compressed texts.

    Returns
    -------
    ``{"shapes": text, "blocks": {process: {schedule: text}}}``; each text is compressed JSON. A block is
    ``{"levels": [...], "draws": [...], "plans": [[sampler, variant, steps, shape, levels, draws, coefficients], ...]}``
    in which shape, levels and draws are indices
    """
    shapes = _Table()
    blocks: dict[str, dict[str, dict[str, Any]]] = {}
    tables: dict[tuple[str, str], tuple[_Table, _Table]] = {}
    for case in selection.cases():
        plan = case.plan
        levels, draws = tables.setdefault((case.process, case.schedule), (_Table(), _Table()))
        block = blocks.setdefault(case.process, {}).setdefault(
            case.schedule, {"levels": levels.values, "draws": draws.values, "plans": []}
        )
        block["plans"].append(
            [
                case.sampler,
                case.variant,
                case.steps,
                shapes.place(_shape(plan)),
                levels.place(_levels(plan)),
                draws.place([list(_plain(draw)) for draw in plan.draws]),
                [_short(value) for row in plan.rows for _, value in row.terms],
            ]
        )
    return {
        "shapes": compressed(shapes.values),
        "blocks": {name: {key: compressed(block) for key, block in by.items()} for name, by in blocks.items()},
    }


def _shape(plan: Plan) -> list[str]:
    """Each row as text: "c" where the model is called, "b" for both predictions; its step; what it reads."""
    return [
        f"{'' if row.level is None else 'b' if row.both else 'c'}{row.step} "
        + " ".join(str(register) for register, _ in row.terms)
        for row in plan.rows
    ]


def _levels(plan: Plan) -> list[Any]:
    """The schedule's sigmas, a rule, what the model is told at each call, and what it is not told of its state.

    The rule says what a level is written as: 1 and 2 are its label alone, from which alpha and sigma follow; 0 is all
    three, and start and end come last.
    """

    def numbers(level: Level) -> list[float]:
        return [level.label, level.alpha, level.sigma * plan.noise_scale]  # in the page noise has variance 1

    told, ends = [*map(numbers, plan.levels)], [*map(numbers, (plan.start, plan.end))]
    states = [*map(numbers, plan.state_levels)] if plan.tells_others else []
    every = [*told, *states, *ends]
    if all(abs(sigma - label) <= _ROUNDING * label for label, _, sigma in every):
        for rule, alpha_of in _RULES.items():
            if all(abs(alpha - alpha_of(label)) <= _ROUNDING for label, alpha, _ in every):
                return [list(plan.sigmas), rule, [level[0] for level in told], [level[0] for level in states]]
    return [list(plan.sigmas), 0, told, states, ends]


_ROUNDING = 1e-15
_RULES: dict[int, Callable[[float], float]] = {1: lambda _: 1.0, 2: lambda sigma: 1 - sigma}


def _plain(values: Iterable[Any]) -> Iterable[Any]:
    """Numbers for JSON, which has no infinity."""
    return (str(value) if isinstance(value, float) and math.isinf(value) else value for value in values)


def _short(value: float) -> float | int:
    rounded = float(f"{value:.{DIGITS}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 10**DIGITS else rounded


def compressed(value: Any) -> str:
    """Plain data as JSON, deflated, in base64."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode("ascii")
