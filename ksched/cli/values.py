"""How the values of options are read: each as what it must be, or an error that says so."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any, TypeVar

import typer

from ksched.names.spelling import did_you_mean, spelling_key

__all__ = ["choice", "number", "shown", "starting_with", "whole"]

C = TypeVar("C", bound=StrEnum)


def shown(text: object, most: int = 60) -> str:
    """What came, for a message: quoted, and cut where it is long."""
    words = repr(str(text))
    return words if len(words) <= most else f"{words[: most - 4]}...{words[0]}"


def whole(low: int, high: int | None = None, why: str = "") -> dict[str, Any]:
    """Arguments of ``typer.Option`` for a whole number.

    Parameters
    ----------
    low, high : the least and the largest that it may be; None is no limit
    why : what the upper limit is for, such as ", so that it fits into memory"
    """

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise typer.BadParameter(f"must be a whole number of at least {low}; got {shown(text)}") from None
        if value < low:
            raise typer.BadParameter(f"must be a whole number of at least {low}; got {value}")
        if high is not None and value > high:
            raise typer.BadParameter(f"must be at most {high}{why}; got {shown(text).strip(chr(39))}")
        return value

    return {"parser": read, "metavar": "N"}


def number(low: float = -math.inf, *, above: bool = False, why: str = "") -> dict[str, Any]:
    """Arguments of ``typer.Option`` for a finite number.

    Parameters
    ----------
    low : the least that it may be
    above : whether it must be more than that
    why : what stands behind "must be a finite number"
    """
    limits = "" if low == -math.inf else f" above {low:g}" if above else f" of at least {low:g}"

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or value < low or (above and value == low):
            raise typer.BadParameter(f"must be a finite number{limits}{why}; got {shown(text)}")
        return value

    return {"parser": read, "metavar": "X"}


def choice(what: str, members: type[C], parse: Callable[[str], C] | None = None) -> dict[str, Any]:
    """Arguments of ``typer.Option`` for one of some names, in any spelling; a shell completes them.

    Parameters
    ----------
    what : the names are of, such as "a process"
    members : the names
    parse : what reads more spellings of them, or raises a ValueError
    """
    known = {spelling_key(member): member for member in members}

    def read(text: str) -> C:
        try:
            return known[spelling_key(str(text))] if parse is None else parse(str(text))
        except (KeyError, ValueError):
            near = did_you_mean(str(text), map(str, members))
        raise typer.BadParameter(f"must be {what}: {', '.join(members)}; got {shown(text)}{near}")

    return {"parser": read, "metavar": "NAME", "autocompletion": starting_with(lambda: members)}


def starting_with(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """A completion for a shell: the names that begin as a word does."""

    def complete(incomplete: str) -> list[str]:
        return [str(name) for name in names() if str(name).startswith(incomplete)]

    return complete
