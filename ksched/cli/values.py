"""Parsers for the values of options; each raises an error that says what the value must be."""

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
    """Quote a given value for a message, shortened if it is long."""
    words = repr(str(text))
    return words if len(words) <= most else f"{words[: most - 4]}...{words[0]}"


def whole(low: int, high: int | None = None, why: str = "") -> dict[str, Any]:
    """Arguments of ``typer.Option`` for a whole number.

    Parameters
    ----------
    low : int
        Smallest allowed value.
    high : int, optional
        Largest allowed value; None is no limit.
    why : str
        Reason for the upper limit, such as ", so that the tables fit into memory".
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
    low : float
        Lower limit.
    above : bool
        Whether the value must be greater than ``low``, not equal to it.
    why : str
        Text to add after "must be a finite number".
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
    """Arguments of ``typer.Option`` for a choice among names, in any spelling, with shell completion.

    Parameters
    ----------
    what : str
        Noun for the message, such as "a process".
    members : type of StrEnum
        The names.
    parse : callable, optional
        Function that accepts further spellings, or raises ValueError.
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
    """Return a shell completion: the names that start with the incomplete word."""

    def complete(incomplete: str) -> list[str]:
        return [str(name) for name in names() if str(name).startswith(incomplete)]

    return complete
