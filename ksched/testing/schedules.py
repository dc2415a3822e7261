"""Properties of a noise schedule, tested on every process."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from hypothesis import strategies as st

from ksched.options import check_steps
from ksched.processes import Flow, Process
from ksched.schedules.flow_transforms import shift
from ksched.schedules.own import CallForm
from ksched.schedules.select import schedule_spec
from ksched.testing.levels import as_levels, curve_problem, same_values, spoil
from ksched.testing.random_state import random_states, what_moved
from ksched.testing.strategies import smallest_problem, step_counts
from ksched.types import Array

__all__ = ["check_schedule", "check_shift"]


#: Step counts that are always tested: all small ones, and round and odd ones around the length of a table.
STEPS = (*range(1, 34), 40, 50, 64, 100, 250, 999, 1000, 1001)


#: Range of the first tests; neither end is a float32 number.
PLAIN_RANGE = (0.03, 14.6)


class _Schedule(NamedTuple):
    """A schedule function to be checked, called by the parameter names in its signature."""

    function: Callable[..., Any]
    process: Process | None
    by_name: bool
    ranged: tuple[bool, bool]  # whether it takes sigma_min, sigma_max
    takes_process: bool

    @classmethod
    def of(cls, function: Callable[..., Any], process: Process | None) -> _Schedule:
        form = CallForm.of(function)
        takes, must = form.process
        if must and process is None:
            raise TypeError("the function needs a process; pass check_schedule(..., process=)")
        return cls(function, process, form.by_name, form.ranged, takes and process is not None)

    def arguments(self, steps: int, low: float | None, high: float | None) -> tuple[list[Any], dict[str, Any]]:
        if not self.by_name:
            return [steps, low, high] if any(self.ranged) else [steps], {}
        named = {"sigma_min": low, "sigma_max": high}
        taken = {name: value for taken, (name, value) in zip(self.ranged, named.items(), strict=True) if taken}
        return [steps], taken | ({"process": self.process} if self.takes_process else {})

    def __call__(self, steps: int, low: float | None, high: float | None) -> Any:
        positional, named = self.arguments(steps, low, high)
        return self.function(*positional, **named)

    def text(self, steps: int, low: float | None, high: float | None) -> str:
        _, named = self.arguments(steps, low, high)
        ends = {"sigma_min": low, "sigma_max": high} if any(self.ranged) and not self.by_name else {}
        shown = ", ".join(f"{k}={v!r}" for k, v in ({"steps": steps} | ends | named).items())
        return f"{getattr(self.function, '__name__', 'function')}({shown})"


class _Try(NamedTuple):
    """The arguments of one call of a schedule."""

    steps: int
    low: float | None
    high: float | None


def _even_problem(levels: Array, process: Process) -> str | None:
    times = process.time(levels[levels > 0])
    gaps = np.diff(times)
    if len(gaps) < 2 or np.ptp(gaps) <= 1e-6 * abs(times[0] - times[-1]):
        return None
    wrong = f"levels must be even in the time of {process!r}; got time {times[0]:.6g}, {times[1]:.6g}, {times[2]:.6g}"
    if process.is_flow and process.shift != 1:
        again = process.time(times)
        if np.ptp(np.diff(again)) <= 1e-6:
            once = process.sigma_at(float(again[1]))
            return f"the shift is applied twice: levels[1]={levels[1]}, and one shift by {process.shift} gives {once}"
    return wrong


class _ScheduleCheck(NamedTuple):
    """The properties of a schedule; `problem` says what is wrong in one call."""

    schedule: _Schedule
    moves: tuple[bool, bool]  # whether sigma_min, sigma_max may be changed to see whether they matter
    known: tuple[bool, bool]  # whether the levels must respect them
    final_zero: bool | None
    even: bool

    def problem(self, tried: _Try) -> str | None:
        before = random_states()
        try:
            said = self._problem(tried)
        except Exception as error:  # any error is a finding
            said = f"it raised {type(error).__name__}: {error}"
        said = what_moved(before) or said
        return said and f"{self.schedule.text(*tried)}: {said}"

    def _problem(self, tried: _Try) -> str | None:
        call, (steps, low, high) = self.schedule, tried
        first = call(steps, low, high)
        levels = as_levels(first)
        if isinstance(levels, str):
            return levels
        known_min, known_max = (end if known else None for end, known in zip((low, high), self.known, strict=True))
        wrong = curve_problem(first, steps, known_min, known_max, self.final_zero)
        if wrong and curve_problem(first, steps, None, None, self.final_zero):
            return wrong
        if wrong := self._ignored(tried, levels) or wrong:
            return wrong
        if self.even and (wrong := _even_problem(levels, call.process or Flow())):
            return wrong
        second = call(steps, low, high)
        if not same_values(second, levels):
            return "it must be a function of its arguments; two calls gave different levels"
        spoil(first)
        spoil(second)
        if not same_values(call(steps, low, high), levels):
            return "it must return a new array every time; writing to the result changes what the next call returns"
        return None

    def _ignored(self, tried: _Try, levels: Array) -> str | None:
        steps, low, high = tried
        if low is None or high is None:
            return None
        middle = math.sqrt(low * high)
        # one step has no level at sigma_min; using it for sigma_max is reported elsewhere
        above = steps > 1 or abs(levels[0] - low) > 1e-6 * low
        for name, moves, other, values in (
            ("sigma_max", self.moves[1] and above, (low, middle), (high, middle)),
            ("sigma_min", self.moves[0] and steps > 1, (middle, high), (low, middle)),
        ):
            if moves and same_values(self.schedule(steps, *other), levels):
                return f"{name} is ignored: the levels are the same for {name}={values[0]} and {values[1]}"
        return None


def _ranges(process: Process | None, sigma_min: float | None, sigma_max: float | None) -> st.SearchStrategy[Any]:
    """Strategy for (sigma_min, sigma_max): given ends unchanged, others inside the process or over many orders."""
    if process is None:
        highs = st.floats(-2, 4).map(lambda e: 10**e) if sigma_max is None else st.just(sigma_max)
        ratios = st.floats(0.1, 6).map(lambda e: 10**e)
        if sigma_min is not None:
            return (
                ratios.map(lambda r: (sigma_min, sigma_min * r))
                if sigma_max is None
                else st.just((sigma_min, sigma_max))
            )
        return st.tuples(highs, ratios).map(lambda hr: (hr[0] / hr[1], hr[0]))
    low, high = (
        process.sigma_min if sigma_min is None else sigma_min,
        process.sigma_max if sigma_max is None else sigma_max,
    )

    def part(cuts: tuple[float, float]) -> tuple[float, float]:
        a, b = (low * (high / low) ** cut for cut in cuts)
        return low if sigma_min is not None or cuts[0] == 0 else a, high if sigma_max is not None or cuts[1] == 1 else b

    return st.tuples(st.floats(0, 0.45), st.floats(0, 0.45).map(lambda cut: 1 - cut)).map(part)


def _step_counts(steps: int | Iterable[int] | None) -> tuple[int, ...]:
    """The numbers of steps to test, checked, the smallest first."""
    counts = STEPS if steps is None else tuple(steps) if isinstance(steps, Iterable) else (steps,)
    counts = tuple(sorted(map(check_steps, counts)))
    if not counts:
        raise ValueError("steps must name at least one number of steps; got none")
    return counts


def _first_range(process: Process | None, sigma_min: float | None, sigma_max: float | None) -> tuple[float, float]:
    """(sigma_min, sigma_max) of the first tests: the given ends, or those of the process or of a plain range."""
    plain = (process.sigma_min, process.sigma_max) if process else PLAIN_RANGE
    low, high = plain[0] if sigma_min is None else sigma_min, plain[1] if sigma_max is None else sigma_max
    if low < high:
        return low, high
    return (high / 500, high) if sigma_min is None else (low, low * 500)  # one given end is beyond the plain range


def check_schedule(
    function: Callable[..., Any] | str,
    *,
    steps: int | Iterable[int] | None = None,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    process: Process | None = None,
    even: bool = False,
    final_zero: bool | None = True,
    max_examples: int = 100,
) -> None:
    """Check that your schedule keeps the contract of a noise schedule, for every number of steps and over any range.

    The contract is: float64, ``steps + 1`` levels, finite, strictly decreasing, the first ``sigma_max``, the last 0, no
    other below ``sigma_min``; defined from one step on; both ends of the range matter; not rounded to float32; the same
    levels for the same arguments, in a new array; no change of the global random state.

    Parameters
    ----------
    function : callable or str
        ``(steps, sigma_min, sigma_max) -> levels`` or ``(steps) -> levels``, recognised by its signature. Parameters
        named sigma_min, sigma_max and process are passed by name, even one end of the range alone. Or the name of a
        schedule, such as one given to `ksched.register_schedule`.
    steps : int, iterable of int or None
        Number or numbers of steps to test; None is 1 to 33 and some up to 1001.
    sigma_min, sigma_max : float or None
        Ends of the range; None draws them. For a function of steps alone, limits of its levels; None does not check
        them.
    process : Process or None
        Process that the levels are for: ranges are drawn inside it, and a function with such a parameter gets it.
    even : bool
        Require the levels above 0 to be uniform in ``process.time``; on a shifted flow process this means that they are
        shifted exactly once.
    final_zero : bool or None
        Whether the last level must be 0; None does not check it.
    max_examples : int
        Number of drawn examples, after one range with all numbers of steps.

    Raises
    ------
    AssertionError
        If the schedule is wrong; one sentence with the smallest call that shows it, and what is wrong.
    TypeError
        If the function has other parameters.

    Examples
    --------
    >>> import numpy as np
    >>> from ksched.testing import check_schedule
    >>> check_schedule(lambda steps, sigma_min, sigma_max: np.append(np.geomspace(sigma_max, sigma_min, steps), 0.0))
    >>> check_schedule(lambda steps: np.linspace(1, 0, steps))
    Traceback (most recent call last):
    AssertionError: <lambda>(steps=1): levels must be steps + 1 = 2 numbers; got 1. Is the final 0 missing?
    """
    function = schedule_spec(function).function if isinstance(function, str) else function
    schedule = _Schedule.of(function, process)
    counts = _step_counts(steps)
    if sigma_min is not None and sigma_max is not None and not 0 < sigma_min < sigma_max:
        raise ValueError(f"sigma_min must be above 0 and below sigma_max; got {sigma_min} and {sigma_max}")
    given = sigma_min is not None, sigma_max is not None
    known = schedule.ranged[0] or given[0], schedule.ranged[1] or given[1] or process is not None
    moves = schedule.ranged[0] and not given[0], schedule.ranged[1] and not given[1]
    check = _ScheduleCheck(schedule, moves, known, final_zero, even)
    low, high = _first_range(process, sigma_min, sigma_max)
    problem = next(filter(None, (check.problem(_Try(n, low, high)) for n in counts)), None)
    if problem is None and any(moves):
        some = st.sampled_from(counts) if steps is not None else step_counts(100)
        tries = st.tuples(some, _ranges(process, sigma_min, sigma_max)).map(lambda t: _Try(t[0], *t[1]))
        problem = smallest_problem(tries, check.problem, max_examples)
    if problem:
        raise AssertionError(problem)


def check_shift(
    function: Callable[[int, float], Any], *, steps: int | Iterable[int] = (1, 2, 5, 20), max_examples: int = 50
) -> None:
    """Check that your flow schedule applies its shift once, as `ksched.schedules.shift` does to the unshifted levels.

    Parameters
    ----------
    function : callable
        ``(steps, shift) -> levels`` of a flow process.
    steps : int or iterable of int
        Numbers of steps to test.
    max_examples : int
        Number of drawn shifts.

    Raises
    ------
    AssertionError
        If the shift is wrong; one sentence with the call, and whether the shift acts twice, not at all, inversely or
        otherwise.

    Examples
    --------
    >>> import ksched
    >>> from ksched.testing import check_shift
    >>> check_shift(lambda steps, shift: ksched.calculate_sigmas("simple", steps, ksched.Flow(shift)))
    """
    counts = tuple(sorted({steps} if isinstance(steps, int) else set(steps)))

    def problem(tried: tuple[int, float]) -> str | None:
        n, s = tried
        plain, shifted = (as_levels(function(n, value)) for value in (1.0, s))
        called = f"{getattr(function, '__name__', 'function')}(steps={n}, shift={s!r}): "
        for levels in (plain, shifted):
            wrong = levels if isinstance(levels, str) else curve_problem(levels, n, None, None, None)
            if wrong or isinstance(levels, str):
                return called + str(wrong)
            if levels[0] > 1:
                return called + f"levels of a flow process must be at most 1; got levels[0]={levels[0]}"
        assert not isinstance(plain, str)
        once = shift(plain, s)
        far = np.abs(np.asarray(shifted) - once) > 1e-9 * once
        if not far.any():
            return None
        acts = {
            "is applied twice": shift(once, s),
            "is not applied": plain,
            "is applied inversely": shift(plain, 1 / s),
        }
        fitting = [act for act, other in acts.items() if np.allclose(np.asarray(shifted), other, rtol=1e-9, atol=0)]
        what = fitting[0] if fitting else "is not applied as one shift"
        i = int(np.flatnonzero(far)[0])
        return called + f"the shift {what}: levels[{i}]={shifted[i]}, but {plain[i]} shifted once by {s} is {once[i]}"

    shifts = st.one_of(st.sampled_from((3.0, 0.5)), st.floats(-1.5, 1.5).map(lambda e: 10**e))
    if said := smallest_problem(st.tuples(st.sampled_from(counts), shifts), problem, max_examples):
        raise AssertionError(said)
