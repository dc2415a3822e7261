"""Plans as plain data for JSON: writing them, and reading them with an error for anything invalid."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ksched.plan.rows import Draw, Register, Row
from ksched.processes import Level

__all__ = ["mapping", "read", "written"]

Parts = tuple[tuple[Row, ...], tuple[Draw, ...], Level, Level, tuple[float, ...], dict[str, Any], float]


def written(
    rows: Sequence[Row], draws: Sequence[Draw], ends: tuple[Level, Level], sigmas: tuple[float, ...]
) -> dict[str, Any]:
    """A plan without its report and noise scale. The order of keys affects its digest."""
    packed = [
        {
            "terms": [[str(r), v] for r, v in row.terms],
            "level": _pack(row.level),
            "step": row.step,
            "both": row.both,
            **({"state_level": _pack(row.state_level)} if row.state_level is not None else {}),
        }
        for row in rows
    ]
    # Plans without state levels keep version 1, so their text and digest do not change.
    version = 1 if all(row.state_level is None for row in rows) else 2
    head = {"format": "ksched-plan", "version": version, "sigmas": _pack(sigmas)}
    start, end = map(_pack, ends)
    return {**head, "start": start, "end": end, "draws": [_pack(_draw_values(draw)) for draw in draws], "rows": packed}


def read(data: Mapping[str, Any], version: int) -> Parts:
    """Rows, draws, start, end, sigmas, report and noise scale from what `Plan.to_json` wrote."""
    if data["format"] != "ksched-plan" or data["version"] != version:
        raise ValueError(f"format {_short(data['format'])}, version {_short(data['version'])}")
    sigmas = tuple(_number("sigmas", value) for value in _typed("sigmas", data["sigmas"], list))
    start, end = (_level(name, data[name]) for name in ("start", "end"))
    draws = tuple(_draw(f"draws[{m}]", draw) for m, draw in enumerate(_typed("draws", data["draws"], list)))
    known: dict[str, Register] = {}  # one shared object per register
    given = enumerate(_typed("rows", data["rows"], list))
    rows = tuple(_row(f"rows[{k}]", row, known, version) for k, row in given)
    if version == 2 and all(row.state_level is None for row in rows):
        raise ValueError("a plan of version 2 must have state levels; without them it is version 1")
    report = _typed("report", data.get("report", {}), dict)
    scale = _number("noise_scale", data.get("noise_scale", 1.0))
    return rows, draws, start, end, sigmas, report, scale


def mapping(value: Any) -> dict[str, Any]:
    """The value, or an error if it is not a mapping."""
    found: dict[str, Any] = _typed("it", value, dict)
    return found


def _pack(values: tuple[Any, ...] | None) -> list[Any] | None:
    """Numbers as JSON can hold them, which has no infinity."""
    # an empty tuple stays one, which mypy sees as another type
    return values and [str(v) if isinstance(v, float) and math.isinf(v) else v for v in values]  # type: ignore[return-value]


_REGISTER = re.compile(r"(x|D|U|xi)([0-9]{1,9})", re.ASCII)


_INFINITE = {"inf": math.inf, "-inf": -math.inf}


_KINDS = {dict: "a mapping", list: "a list", int: "a whole number", bool: "true or false", str: "text"}


def _typed(name: str, value: Any, kind: type) -> Any:
    if type(value) is not kind:  # a bool must not pass as an int
        raise ValueError(f"{name} must be {_KINDS[kind]}; got {_short(value)}")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _number(name: str, value: Any) -> float:
    """A number as `_pack` writes it."""
    if type(value) is str and value in _INFINITE:
        return _INFINITE[value]
    if type(value) is not float and type(value) is not int:
        raise ValueError(f"{name} must be a number; got {_short(value)}")
    return float(value)


def _list(name: str, values: Any, length: int) -> list[Any]:
    if len(_typed(name, values, list)) != length:
        raise ValueError(f"{name} must have {length} values; got {len(values)}")
    found: list[Any] = values
    return found


def _level(name: str, values: Any) -> Level:
    return Level(*(_number(name, value) for value in _list(name, values, 4)))


def _draw(name: str, values: Any) -> Draw:
    limited = len(_typed(name, values, list)) == 5
    start, end, visit, stream, *limit = _list(name, values, 5 if limited else 4)
    whole = (_typed(name, value, int) for value in (visit, stream))
    return Draw(_number(name, start), _number(name, end), *whole, *(_number(name, value) for value in limit))


def _draw_values(draw: Draw) -> tuple[Any, ...]:
    """The values of a draw, without the limit if it has none."""
    return draw if draw.limit < math.inf else draw[:4]


def _row(name: str, data: Any, known: dict[str, Register], version: int) -> Row:
    level = _typed(name, data, dict)["level"]
    state_level = data.get("state_level") if version > 1 else None
    return Row(
        tuple(_term(name, term, known) for term in _typed(name, data["terms"], list)),
        None if level is None else _level(name, level),
        _typed(name, data["step"], int),
        _typed(name, data["both"], bool),
        None if state_level is None else _level(name, state_level),
    )


def _term(name: str, term: Any, known: dict[str, Register]) -> tuple[Register, float]:
    written, value = _list(name, term, 2)
    register = known.get(_typed(name, written, str))
    if register is None:
        found = _REGISTER.fullmatch(written)
        if found is None:
            raise ValueError(f"{name} must name registers such as x0, D0, U0 and xi0; got {_short(written)}")
        register = known[written] = Register(found[1], int(found[2]))
    return register, _number(name, value)
