"""The format in which the page stores plans: shared parts once, and each process and schedule compressed separately.

A *shape* is a plan without its numbers: which registers every row reads, and where the model is called. Samplers have
few shapes and many plans. A block of text has all plans of one process and schedule, so that the page unpacks only the
plans it shows.
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

#: significant digits of a coefficient. Levels and draws are stored exactly, because their bits seed the noise.
DIGITS = 12


class _Table:
    """A list of distinct values, which are referred to by index."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self._places: dict[str, int] = {}

    def place(self, value: Any) -> int:
        """Return the index of a value; a new value is added."""
        key = json.dumps(value)
        if key not in self._places:
            self._places[key] = len(self.values)
            self.values.append(value)
        return self._places[key]


def pack(selection: Selection) -> dict[str, Any]:
    """Convert all plans of a selection to plain data with compressed texts.

    Returns
    -------
    dict
        ``{"shapes": text, "blocks": {process: {schedule: text}}}``, where each text is compressed JSON. A block is
        ``{"levels": [...], "draws": [...], "plans": [...]}``, and a plan is ``[sampler, variant, steps, shape, levels,
        draws, coefficients]`` with shape, levels and draws as indices.
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
    """Write each row as text: "c" if it calls the model, "b" for both predictions; its step; the registers it reads."""
    return [
        f"{'' if row.level is None else 'b' if row.both else 'c'}{row.step} "
        + " ".join(str(register) for register, _ in row.terms)
        for row in plan.rows
    ]


def _levels(plan: Plan) -> list[Any]:
    """Return the schedule's sigmas, a rule, the level passed to each model call, and the state's level if it differs.

    The rule is the format of a level: 1 and 2 mean the label only, from which alpha and sigma follow; 0 means label,
    alpha and sigma, with the start and end levels appended.
    """

    def numbers(level: Level) -> list[float]:
        return [level.label, level.alpha, level.sigma * plan.noise_scale]  # noise in the page has variance 1

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
    """Replace infinities, which JSON does not have."""
    return (str(value) if isinstance(value, float) and math.isinf(value) else value for value in values)


def _short(value: float) -> float | int:
    rounded = float(f"{value:.{DIGITS}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 10**DIGITS else rounded


def compressed(value: Any) -> str:
    """Encode plain data as JSON, deflated, in base64."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return base64.b64encode(zlib.compress(text.encode(), 9)).decode("ascii")
