"""Options of samplers and schedules as data: listed, checked and described from the function's signature."""

from __future__ import annotations

import inspect
import math
import sys
import types as _types
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import cache
from numbers import Integral, Real
from typing import Annotated, Any, Literal, NamedTuple, cast, get_args, get_origin, get_type_hints

from ksched.names.spelling import did_you_mean

__all__ = [
    "Between",
    "Bound",
    "Count",
    "Dial",
    "DialShare",
    "Exponent",
    "Finite",
    "NonNegative",
    "Option",
    "Order",
    "PeerValue",
    "PerStep",
    "Positive",
    "Share",
    "WholePositive",
    "Window",
    "check_calls",
    "check_options",
    "check_steps",
    "check_whole",
    "one_number",
    "options_of",
    "our_words",
    "per_step",
    "settled",
    "window",
]


_MOST_CALLS = 100_000  # a plan with this many rows takes a few seconds to build


class Between(NamedTuple):
    """Closed range that an option's value must lie in."""

    low: float
    high: float


class PeerValue(tuple[Any, ...]):
    """Option values that reproduce another program's behaviour, its mistakes included.

    What ksched proves about the other values does not hold for these.
    """

    def __new__(cls, *values: Any) -> PeerValue:
        """Collect the values."""
        return super().__new__(cls, values)


class PerStep(NamedTuple):
    """Marks an option that may be one number per step; samplers read it with `Grid.steps_with`."""


NonNegative = Annotated[float, Between(0.0, sys.float_info.max)]
Dial = Annotated[float | tuple[float, ...], Between(0.0, sys.float_info.max), PerStep()]  # amount of noise: 0 is none
DialShare = Annotated[float | tuple[float, ...], Between(0.0, 1.0), PerStep()]
Bound = Annotated[float, Between(0.0, math.inf)]  # a limit on sigma; infinity means no limit
Finite = Annotated[float, Between(-sys.float_info.max, sys.float_info.max)]
Positive = Annotated[float, Between(sys.float_info.min, sys.float_info.max)]
Exponent = Annotated[float, Between(0.01, 1000.0)]
Order = Annotated[int, Between(1, 8)]
Count = Annotated[int, Between(0, 2**31)]
Share = Annotated[float, Between(0.0, 1.0)]  # of a run or of a step
WholePositive = Annotated[int, Between(1, 2**31)]  # tokens, pixels


class Option(NamedTuple):
    """One option of a sampler or schedule."""

    name: str
    kind: Any  # bool, int, float or a Literal
    default: Any  # if the default is None, None may also be given
    low: float = -math.inf
    high: float = math.inf
    quirks: tuple[Any, ...] = ()  # values that the proofs do not cover
    per_step: bool = False  # whether it may be a list with one number per step

    def is_peer_value(self, value: Any) -> bool:
        """Whether a value only reproduces another program; for numeric options, every value but the default does."""
        values = value if isinstance(value, tuple) else (value,)
        numbers = bool(self.quirks) and self.kind in (int, float)
        return value in self.quirks or (numbers and any(each != self.default for each in values))

    def check(self, owner: str, value: Any) -> Any:
        """The value converted to the option's type; raises an error that names owner, option and the rule."""
        if value is None and self.default is None:
            return None
        if self.kind is float and (many := _as_many(value)) is not None:
            return self._check_many(owner, many)
        if get_origin(self.kind) is Literal:
            choices = get_args(self.kind)
            if value not in choices:
                raise ValueError(f"{owner}: {self.name} must be one of {', '.join(map(repr, choices))}; got {value!r}")
            return value
        if self.kind is bool:
            if not isinstance(value, bool):
                raise TypeError(f"{owner}: {self.name} must be True or False; got {value!r}")
            return value
        wanted, word = (Integral, "a whole number") if self.kind is int else (Real, "a number")
        if isinstance(value, bool) or not isinstance(value, wanted):
            raise TypeError(f"{owner}: {self.name} must be {word}; got {value!r}")
        try:
            number = (int if self.kind is int else float)(cast(Any, value))
        except OverflowError:
            raise ValueError(f"{owner}: {self.name} must be a number that fits in a float") from None
        if not self.low <= number <= self.high:  # NaN is in no range
            raise ValueError(f"{owner}: {self.name} must be {self._limits}; got {value}")
        return number

    def _check_many(self, owner: str, many: Window | Sequence[Any]) -> Window | tuple[float, ...]:
        """A window or a list of numbers, with each number checked."""
        if not self.per_step:
            raise TypeError(f"{owner}: {self.name} must be one number, not one per step; got {many!r}")
        if isinstance(many, Window):
            self.check(owner, many["value"])
            return many
        return tuple(
            self._replace(name=f"{self.name}[{k}]", per_step=False).check(owner, each) for k, each in enumerate(many)
        )

    @property
    def _limits(self) -> str:
        """The allowed range, in words."""
        if self.high < sys.float_info.max:
            return f"at least {self.low:g} and at most {self.high:g}"
        finite = "a finite number" if self.high < math.inf else "a number"
        if self.low < -1e300:
            return finite
        return f"{finite} above 0" if 0 < self.low < 1e-300 else f"{finite} of at least {self.low:g}"

    def __str__(self) -> str:
        return f"{self.name}={self.default!r}"


@cache
def options_of(function: Callable[..., Any], skip: tuple[str, ...] = ()) -> Mapping[str, Option]:
    """Options of a function: its parameters with a default, except those in ``skip``, in order, read-only."""
    parameters = inspect.signature(function).parameters
    names = [name for name, p in parameters.items() if p.default is not p.empty and name not in skip]
    # only the annotations of options are read: those of states may name types that are not imported yet
    written = _types.SimpleNamespace(__annotations__={name: parameters[name].annotation for name in names})
    # a preset resolves names where the function it wraps was defined
    names_of = getattr(inspect.unwrap(function), "__globals__", {})
    hints = get_type_hints(written, globalns=names_of, include_extras=True)
    found = {}
    for name in names:
        hint = hints[name]
        if parameters[name].default is None:  # None is allowed as well as the type's values
            hint = next(part for part in get_args(hint) if part is not type(None))
        kind, *limits = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        dial = any(isinstance(limit, PerStep) for limit in limits)
        low, high = next((limit for limit in limits if isinstance(limit, Between)), Between(-math.inf, math.inf))
        quirks = tuple(next((limit for limit in limits if isinstance(limit, PeerValue)), ()))
        found[name] = Option(name, float if dial else kind, parameters[name].default, low, high, quirks, dial)
    return _types.MappingProxyType(found)


# ----------------------------------------------------------------------------------------------- numbers for every step
class Window(dict[str, Any]):
    """A number at some steps and 0 at all others, made by `window`. It is a dict, so it can be saved as JSON."""

    def __repr__(self) -> str:
        return f"window({self['value']!r}, steps={self['steps']!r})"


def window(value: float, *, steps: Iterable[int]) -> Window:
    """An option value that applies at some steps of a run and is 0 at all others, where no noise is drawn.

    Parameters
    ----------
    value : float
        The option's value at those steps, such as an eta.
    steps : iterable of int
        Step numbers, counted from 0; negative numbers count from the end, so -1 is the last step.

    Raises
    ------
    TypeError
        If the value is not a number, or a step is not a whole number.
    ValueError
        If a step is given twice.

    Examples
    --------
    >>> import ksched
    >>> sampler = ksched.build_sampler("euler_ancestral", "karras", 6, eta=ksched.window(0.7, steps=[1, 2]))
    >>> [draw.sigma_to for draw in sampler.plan.draws] == sampler.sigmas[2:4].tolist()
    True
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"the value of a window must be a number; got {value!r}")
    if isinstance(steps, str) or not isinstance(steps, Iterable):
        raise TypeError(f"the steps of a window must be a list of whole numbers; got {steps!r}")
    listed = list(steps)
    for step in listed:
        if isinstance(step, bool) or not isinstance(step, Integral):
            raise TypeError(f"the steps of a window must be whole numbers; got {step!r}")
    numbers = [int(step) for step in listed]
    _check_once(numbers, numbers)
    return Window(value=float(value), steps=numbers)


def _check_once(steps: Sequence[int], given: Sequence[int]) -> None:
    """Raise a ValueError if a window names a step twice."""
    for k, step in enumerate(steps):
        if step in steps[:k]:
            raise ValueError(
                f"each step of a window may be given only once; got {given[steps.index(step)]} and {given[k]}"
            )


def _as_many(value: Any) -> Window | Sequence[Any] | None:
    """A window, or a list of values; None for anything else."""
    if isinstance(value, Mapping):
        return window(**value) if value.keys() == {"value", "steps"} else None  # a saved window
    if hasattr(value, "tolist") and getattr(value, "ndim", 0) == 1:  # arrays, tensors
        value = value.tolist()
    return value if isinstance(value, list | tuple) else None


def per_step(value: Any, steps: int, what: str = "a dial") -> tuple[float, ...]:
    """One number for each step, from a number for all steps, a list of one per step, or a `window`.

    Parameters
    ----------
    value : float, sequence of float or Window
        Number, list of numbers or `Window`.
    steps : int
        Number of steps of the run.
    what : str
        The option's name, for error messages.

    Raises
    ------
    ValueError
        For a list of the wrong length, or a window over steps that the run does not have.
    """
    many = _as_many(value)
    if many is None:
        return (value,) * steps
    if isinstance(many, Window):
        wrong = [step for step in many["steps"] if not -steps <= step < steps]
        if wrong:
            raise ValueError(
                f"{what} must be a window over steps of the run, 0 to {steps - 1} or -{steps} to -1; got {wrong[0]}"
            )
        places = [step % steps for step in many["steps"]]
        _check_once(places, many["steps"])
        return tuple(float(many["value"]) if step in places else 0.0 for step in range(steps))
    if len(many) != steps:
        raise ValueError(f"{what} must be one number, or one for each of the {steps} steps; got {len(many)} numbers")
    return tuple(map(float, many))


def settled(owner: str, given: Mapping[str, Any], steps: int) -> tuple[tuple[str, Any], ...]:
    """Checked options of ``owner``; lists and windows become one number per step (see `per_step`)."""
    many = {name: value for name, value in given.items() if _as_many(value) is not None}
    numbers = {name: per_step(value, steps, f"{owner}: {name}") for name, value in many.items()}
    return tuple({**given, **numbers}.items())


def one_number(what: str, value: Any, why: str) -> Any:
    """The value, or a ValueError if it is one per step; ``why`` completes "because ..."."""
    if _as_many(value) is not None:
        raise ValueError(f"{what} must be one number, because {why}; got {value!r}")
    return value


#: option names of other programs, and option values of earlier versions; saved settings may have either
_WORDS: Mapping[str, str] = {"max_order": "order", "solver_order": "order"}
_VALUES: Mapping[tuple[str, str], str] = {("end", "denoise"): "denoised"}


def our_words(known: Container[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Options renamed from another program's words to ours: ``max_order`` becomes ``order`` where that is known.

    Raises
    ------
    ValueError
        If the same option is given under two names.
    """
    found: dict[str, Any] = {}
    for word, value in given.items():
        ours = _WORDS.get(word, word)
        name = ours if word not in known and ours in known else word
        if name in found or (name != word and name in given):
            raise ValueError(f"{word} is another name for {name}: give only one of the two")
        found[name] = _VALUES.get((name, value), value) if isinstance(value, str) else value
    return found


def check_options(
    owner: str, known: Mapping[str, Option], given: Mapping[str, Any], *, beside: Iterable[str] = ()
) -> dict[str, Any]:
    """Given options under ksched's names, each converted to its own type.

    Parameters
    ----------
    owner : str
        Whose options they are, for error messages.
    known : mapping
        The options that the owner has.
    given : mapping
        Option values by name.
    beside : iterable of str
        Other names that the caller may have meant, such as arguments of the function called.

    Raises
    ------
    TypeError, ValueError
        If ``owner`` has no such option, or a value has the wrong type or is out of range.
    """
    given = our_words(known, given)
    for name in given:
        if name not in known:
            raise TypeError(f"{owner} has no option {name!r}{_instead(name, known, beside)}")
    return {name: known[name].check(owner, value) for name, value in given.items()}


def _instead(name: str, known: Mapping[str, Option], beside: Iterable[str]) -> str:
    """Suggestion to use in place of an unknown option."""
    near = did_you_mean(name, [*known, *beside])
    if near or not known:
        return near or "; it has none"
    return f"; it has {', '.join(known)}"


def check_steps(steps: Any) -> int:
    """``steps`` as an int.

    Raises
    ------
    TypeError
        For anything that is not a whole number.
    ValueError
        If it is below 1.
    """
    if isinstance(steps, bool) or not isinstance(steps, Integral):
        raise TypeError(f"steps must be a whole number of at least 1; got {steps!r}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1; got {steps}")
    return int(steps)


def check_calls(calls: Any) -> int:
    """``calls``, a number of model calls (NFE) to spend, as an int.

    Raises
    ------
    TypeError
        For anything that is not a whole number.
    ValueError
        If it is below 1, or so large that building the plan would take minutes.
    """
    if isinstance(calls, bool) or not isinstance(calls, Integral):
        raise TypeError(f"calls must be a whole number of at least 1; got {calls!r}")
    if calls < 1:
        raise ValueError(f"calls must be a whole number of at least 1; got {calls}")
    if int(calls) > _MOST_CALLS:
        raise ValueError(f"calls must be at most {_MOST_CALLS}; got {calls}")
    return int(calls)


def check_whole(name: str, value: Any, least: int) -> None:
    """Raise a ValueError unless ``value`` is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}; got {value!r}")
