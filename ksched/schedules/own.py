"""User-defined schedules: how a function from steps to levels is called, and a check of what it returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, get_origin

from ksched.options import Option, options_of
from ksched.processes import Process
from ksched.schedules.grid import check_sigmas
from ksched.types import Array

__all__ = ["CallForm", "ask_own", "name_of", "own_options"]

_RANGE = ("sigma_min", "sigma_max")


class CallForm(NamedTuple):
    """The arguments that a schedule function takes after the number of steps, from its signature.

    Attributes
    ----------
    by_name : bool
        Whether the remaining arguments are passed by name instead of by position.
    ranged : tuple of bool
        Whether it takes sigma_min and sigma_max.
    process : tuple of bool
        Whether it accepts a process, and whether it requires one.
    """

    by_name: bool
    ranged: tuple[bool, bool]
    process: tuple[bool, bool] = (False, False)

    @classmethod
    def of(cls, function: Callable[..., Any]) -> CallForm:
        """The form of a function, or a TypeError that lists the supported forms."""
        try:
            parameters = inspect.signature(function).parameters
        except (TypeError, ValueError):  # some compiled functions have no signature
            return cls(False, (True, True))
        ranged = "sigma_min" in parameters, "sigma_max" in parameters
        takes = "process" in parameters
        if any(ranged) or takes:
            return cls(True, ranged, (takes, takes and parameters["process"].default is inspect.Parameter.empty))
        kinds = inspect.Parameter
        plain = [p for p in parameters.values() if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
        needed = sum(p.default is kinds.empty for p in plain)
        by_place = needed == 3 or any(p.kind is kinds.VAR_POSITIONAL for p in parameters.values())
        if (needed > 1 and not by_place) or not (plain or by_place):
            raise TypeError(
                "function must take (steps), (steps, process) or (steps, sigma_min, sigma_max); "
                f"got {inspect.signature(function)}"
            )
        return cls(False, (by_place, by_place))


def name_of(function: Callable[..., Any]) -> str:
    """Name of a function in error messages."""
    return str(getattr(function, "__name__", type(function).__name__))


def own_options(function: Callable[..., Any]) -> Mapping[str, Option]:
    """Options of a schedule function: keywords that are numbers, choices or booleans, by annotation or default.

    Parameters
    ----------
    function : as for `ask_own`
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())[1:]
    except (TypeError, ValueError):
        return {}
    found: dict[str, Option] = {}
    for p in parameters:
        if p.name in (*_RANGE, "process") or p.default is p.empty:
            continue
        if p.annotation is not p.empty:
            others = tuple(other.name for other in parameters if other is not p)
            option = options_of(function, skip=(*others, *_first(function)))[p.name]
            if option.kind in (bool, int, float) or get_origin(option.kind) is Literal:
                found[p.name] = option
        elif isinstance(p.default, bool | int | float):
            found[p.name] = Option(p.name, bool if isinstance(p.default, bool) else float, p.default)
    return found


def _first(function: Callable[..., Any]) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)[:1]


def ask_own(
    name: str,
    function: Callable[..., Any],
    steps: int,
    process: Process,
    sigma_min: float | None,
    sigma_max: float | None,
    options: Mapping[str, Any],
) -> Array:
    """Levels of a user-defined schedule, checked.

    Parameters
    ----------
    name : str
        The schedule's name, for error messages.
    function : callable
        ``(steps)``, ``(steps, process)`` or ``(steps, sigma_min, sigma_max)``, recognised by its signature; a parameter
        ``process``, and one end of the range without the other, are passed by name.
    steps, process : int and Process
        Steps and process of the run.
    sigma_min, sigma_max : float or None
        Ends of the range; None means the process's end.
    options : mapping
        Options of the function.

    Raises
    ------
    TypeError, ValueError
        For an end of the range that the function does not take; levels that are not ``steps + 1`` falling numbers
        within the process's limits.
    """
    form = CallForm.of(function)
    given = dict(zip(_RANGE, (sigma_min, sigma_max), strict=True))
    for end, taken in zip(_RANGE, form.ranged, strict=True):
        if given[end] is None:
            given[end] = getattr(process, end)
        elif not taken:
            raise TypeError(f"schedule {name} takes no {end}; leave it out")
    if form.by_name:
        named: dict[str, Any] = {end: given[end] for end, taken in zip(_RANGE, form.ranged, strict=True) if taken}
        levels = function(steps, **named, **({"process": process} if form.process[0] else {}), **options)
    else:
        levels = function(steps, *(given.values() if form.ranged[0] else ()), **options)
    levels = levels.detach().cpu() if hasattr(levels, "detach") else levels
    try:
        values = check_sigmas(levels, process.sigma_limit)
    except (TypeError, ValueError) as error:
        raise type(error)(f"schedule {name}({steps}): {str(error).partition('. ')[0]}") from None
    if len(values) != steps + 1:
        raise ValueError(f"schedule {name} must return steps + 1 = {steps + 1} levels, the last 0; got {len(values)}")
    return values
