"""Checks for schedules and samplers of your own, and the hypothesis strategies that they draw from.

One line in a test of yours says what is wrong with a function, on the smallest example that shows it::

    from ksched.testing import check_sampler, check_schedule


    def test_my_schedule():
        check_schedule(my_sigmas)  # my_sigmas(steps, sigma_min, sigma_max), or my_sigmas(steps)


    def test_my_sampler():
        check_sampler(my_sampler, order=2)  # my_sampler(run, grid, x, *, ...), as ksched.register_sampler takes it

A check returns nothing, or raises an AssertionError of one sentence. The examples are the same in every run.
"""

from __future__ import annotations

import inspect
import itertools
import math
import random
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np

from ksched.options import check_steps
from ksched.plan.analysis import marginals, measured_order
from ksched.plan.plan import Plan
from ksched.plan.protocol import SamplerFunction
from ksched.plan.trace import TraceError, trace
from ksched.processes import EDM, VE, VP, Flow, Process
from ksched.schedules.grid import Grid
from ksched.schedules.transforms import shift
from ksched.types import Array, ArrayLike, is_tensor

try:
    import hypothesis
    from hypothesis import strategies as st
    from hypothesis.errors import NoSuchExample
except ImportError as error:  # pragma: no cover - tested in a process of its own
    raise ImportError(
        'ksched.testing draws its examples with hypothesis, which is not installed: pip install "ksched[test]"'
    ) from error

__all__ = [
    "check_plan",
    "check_sampler",
    "check_schedule",
    "check_shift",
    "check_sigma_curve",
    "grids",
    "processes",
    "sigma_curves",
    "step_counts",
]

#: Step counts that are always tried: every small one, and the round and odd ones around the length of a table.
STEPS = (*range(1, 34), 40, 50, 64, 100, 250, 999, 1000, 1001)
#: Range of the first tries, of which no end is a float32 number.
PLAIN_RANGE = (0.03, 14.6)

T = TypeVar("T")


# Strategies


def step_counts(most: int = 1001) -> st.SearchStrategy[int]:
    """Numbers of steps from 1 to ``most``; the short runs, where rules break, as often as all others."""
    return st.integers(1, min(4, most)) | st.integers(1, most)


@cache
def _named_processes() -> tuple[Process, ...]:
    return (VP(), VE(), Flow(), EDM(), Flow(3.0), VP(variance_preserving=True), VP.cosine(), VP(zero_terminal_snr=True))


def processes() -> st.SearchStrategy[Process]:
    """Processes of every kind, with the usual settings and with drawn ranges and shifts."""
    exponents = st.floats(-3, 0), st.floats(0.5, 3)
    return st.one_of(
        st.deferred(lambda: st.sampled_from(_named_processes())),
        st.builds(lambda shift: Flow(10**shift), st.floats(-1, 1.5)),
        st.builds(lambda scale: Flow(3.0, noise_scale=10**scale), st.floats(-1, 1.5)),
        st.builds(lambda low, high: VE(10**low, 10**high), *exponents),
        st.builds(lambda low, high: EDM(10**low, 10**high), *exponents),
    )


@st.composite
def _gaps(draw: st.DrawFn, count: int) -> Array:
    """Positive distances between neighbours, in units of their own: even, smoothly uneven, or any."""
    if count > 40 or not draw(st.booleans()):
        u = (np.arange(count) + 0.5) / max(count, 1)
        tilt, depth = draw(st.floats(-6, 6)), draw(st.floats(0, 0.9))
        waves = draw(st.integers(1, 3))
        return np.asarray(np.exp(tilt * u) * (1 + depth * np.cos(2 * math.pi * waves * u)))
    return np.array([10.0 ** draw(st.floats(-4, 1)) for _ in range(count)])  # close pairs and long jumps


@st.composite
def sigma_curves(
    draw: st.DrawFn,
    /,
    process: Process | None = None,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    steps: int | None = None,
    most: int = 12,
    final_zero: bool | None = None,
) -> Array:
    """Valid levels: smooth, warped or clustered curves, close pairs, jumps over many orders.

    Parameters
    ----------
    process : whose contract sigmas they are; None is a process without a range, `ksched.VE`'s
    sigma_min, sigma_max : the last non-zero and the first level; None draws it
    steps : how many steps; None draws 1 to ``most``
    final_zero : whether the last level is 0; None draws it

    Returns
    -------
    strategy of float64 arrays, strictly decreasing, that `ksched.build_sampler` takes as ``sigmas``. Where no
    ``sigma_max`` is given a curve may start at pure noise if the process has a level of it
    """
    process = VE() if process is None else process
    n = draw(st.integers(1, most)) if steps is None else check_steps(steps)
    ends_at_0 = draw(st.booleans()) if final_zero is None else final_zero
    gaps = draw(_gaps(n - 1 if ends_at_0 else n))
    if sigma_min is None and sigma_max is None:
        # In log-SNR, which reaches every order of sigma and, on flow, comes close to 1.
        first = draw(st.floats(-5, 3))
        span = min(float(gaps.sum()), 20.0) if draw(st.booleans()) else draw(st.floats(0.1, 20))
        lam = first + np.concatenate([[0.0], np.cumsum(gaps)]) * (span / gaps.sum() if len(gaps) else 0.0)
        levels = np.array([process.level_at(float(value)).label for value in lam])
        if process.sigma_limit in (1.0, math.inf) and draw(st.booleans()):
            levels[0] = process.sigma_limit  # pure noise
    else:
        if sigma_max is None:
            room = math.log10(min(process.sigma_limit, 1e300) / sigma_min) if sigma_min else 0.0
            sigma_max = (sigma_min or 1.0) * 10 ** draw(st.floats(min(0.1, room), min(6.0, room)))
        if sigma_min is None:
            sigma_min = sigma_max / 10 ** draw(st.floats(0.1, 6))
        if not 0 < sigma_min < sigma_max <= process.sigma_limit:
            raise ValueError(
                f"sigma_min must be above 0, below sigma_max and within the process; got {sigma_min} and {sigma_max}"
            )
        part = np.concatenate([[0.0], np.cumsum(gaps)]) / (gaps.sum() if len(gaps) else 1.0)
        levels = sigma_max * (sigma_min / sigma_max) ** part
        levels[-1] = sigma_min
        levels[0] = sigma_max
    levels = np.append(levels, 0.0) if ends_at_0 else levels
    hypothesis.assume((np.diff(levels) < 0).all())  # rounding may join levels of a narrow range
    return levels


@st.composite
def grids(draw: st.DrawFn, /, process: Process | None = None, **how: Any) -> Grid:
    """Grids of `sigma_curves` on a process, or on drawn ones.

    Parameters
    ----------
    process : None draws it from `processes`
    how : as for `sigma_curves`
    """
    process = draw(processes()) if process is None else process
    return Grid.of(draw(sigma_curves(process, **how)), process)


# How a counterexample is found


def _smallest(examples: st.SearchStrategy[T], problem: Callable[[T], str | None], tries: int) -> str | None:
    """The problem of the simplest example that has one, or None. The same in every run."""
    settings = hypothesis.settings(
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=tries,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),  # explaining would answer with a larger example
    )
    try:
        found = hypothesis.find(examples, lambda example: problem(example) is not None, settings=settings)
    except NoSuchExample:
        return None
    return problem(found)


class _State(NamedTuple):
    """A global random state: its owner, what to compare it by, and how to put it back."""

    owner: str
    value: Any
    restore: Callable[[], object]


def _random_states() -> list[_State]:
    python, back = random.getstate(), cast(Any, np.random.get_state())  # noqa: NPY002 - this is what must not move
    numpy = (back[0], back[1].tobytes(), *back[2:])
    states = [
        _State("Python", python, lambda: random.setstate(python)),
        _State("numpy", numpy, lambda: np.random.set_state(back)),  # noqa: NPY002
    ]
    if "torch" in sys.modules:
        import torch

        state = torch.random.get_rng_state()
        states.append(_State("torch", state.numpy().tobytes(), lambda: torch.random.set_rng_state(state)))
    return states


def _moved(before: Sequence[_State]) -> str | None:
    """What to say of global random states that are no longer what they were; they are put back."""
    now = {state.owner: state.value for state in _random_states()}
    moved = [state for state in before if state.value != now[state.owner]]
    for state in moved:
        state.restore()
    owners = " and ".join(state.owner for state in moved)
    return f"it moved the global random state of {owners}; draw from a generator of your own" if moved else None


# Levels


def _as_levels(sigmas: Any) -> Array | str:
    """The levels as a float64 array of their own, or what is wrong with their type."""
    if is_tensor(sigmas):
        kind = str(sigmas.dtype).removeprefix("torch.")
        values = sigmas.detach().cpu().numpy() if kind != "bfloat16" else np.zeros(1)
    else:
        try:
            values = np.asarray(sigmas)
        except ValueError:
            return "levels must be one list of numbers"
        kind = str(values.dtype)
    if kind != "float64":
        return (
            f"levels must be float64; got {kind if values.dtype != object else f'{type(sigmas).__name__} of objects'}"
        )
    if values.ndim != 1:
        return f"levels must be one list of numbers; got shape {values.shape}"
    return np.array(values)


def _is_float32(levels: Array) -> int | None:
    """Index of a level that shows that all were rounded to float32, or None.

    Rounded are levels that all survive float32, unless they are short binary fractions such as 0.75, which do anyway.
    """
    inner = np.arange(len(levels))[levels > 0]
    inner = inner[1:-1] if len(inner) >= 4 else inner  # the ends are often copied from the arguments
    values = levels[inner]
    with np.errstate(over="ignore"):
        survive = values.astype(np.float32) == values
    mantissa = np.frexp(values)[0] * 2.0**16
    long = inner[mantissa != np.round(mantissa)]
    return int(long[0]) if survive.all() and len(long) >= 2 else None


def _curve_problem(
    sigmas: Any, steps: int | None, sigma_min: float | None, sigma_max: float | None, final_zero: bool | None
) -> str | None:
    levels = _as_levels(sigmas)
    if isinstance(levels, str):
        return levels
    if steps is not None and len(levels) != steps + 1:
        hint = ". Is the final 0 missing?" if len(levels) == steps and steps and levels[-1] > 0 else ""
        return f"levels must be steps + 1 = {steps + 1} numbers; got {len(levels)}{hint}"
    if len(levels) == 0:
        return "levels must be at least one number; got none"
    for i, level in enumerate(levels):
        if not math.isfinite(level):
            return f"levels must be finite; got levels[{i}]={level}"
        if level < 0:
            return f"levels must be >= 0; got levels[{i}]={level}"
    positive = levels[levels > 0]
    ends = (sigma_min, sigma_max)
    if (
        len(positive) > 1
        and None not in ends
        and np.allclose(positive[[0, -1]], np.array(ends, float), rtol=1e-6, atol=0)
    ):
        return f"sigma_min and sigma_max are swapped: levels rise from {positive[0]} to {positive[-1]}"
    if (i := _is_float32(levels)) is not None:  # type: ignore[assignment]
        return f"levels must be computed in float64; they are rounded to float32, as levels[{i}]={levels[i]} shows"
    for i, (before, after) in enumerate(itertools.pairwise(levels)):
        if after >= before:
            how = "is repeated" if after == before else "is followed by a larger one"
            return f"levels must be strictly decreasing; levels[{i}]={before} {how}: levels[{i + 1}]={after}"
    if final_zero and levels[-1] != 0:
        return f"the last level must be 0; got levels[{len(levels) - 1}]={levels[-1]}"
    if final_zero is False and levels[-1] == 0:
        return f"the last level must be above 0; got levels[{len(levels) - 1}]=0"
    if sigma_max is not None and abs(levels[0] - sigma_max) > 1e-9 * sigma_max:
        hint = ""
        if sigma_min is not None and abs(levels[0] - sigma_min) <= 1e-6 * sigma_min:
            hint = ", which is sigma_min: the two are swapped, or one step takes the wrong end"
        return f"the first level must be sigma_max={sigma_max}; got levels[0]={levels[0]}{hint}"
    if sigma_min is not None and len(positive) and positive[-1] < sigma_min * (1 - 1e-9):
        return (
            f"the last level above 0 must be at least sigma_min={sigma_min}; "
            f"got levels[{len(positive) - 1}]={positive[-1]}"
        )
    return None


def check_sigma_curve(
    sigmas: ArrayLike,
    *,
    steps: int | None = None,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    final_zero: bool | None = True,
) -> None:
    """Noise levels of a run keep the contract: float64, finite, strictly decreasing, >= 0, the ends where they must be.

    Parameters
    ----------
    sigmas : an array, list or tensor
    steps : number of steps they are for; None is any
    sigma_min : no level but a final 0 may be below; None does not check it
    sigma_max : the first level, to 1e-9; None does not check it
    final_zero : whether the last level must be 0; None does not check it

    Raises
    ------
    AssertionError : one sentence with the index and the values of the first level that is wrong
    """
    problem = _curve_problem(sigmas, steps, sigma_min, sigma_max, final_zero)
    if problem:
        raise AssertionError(problem)


# Schedules


class _Schedule(NamedTuple):
    """A schedule function as it is checked: called by the names that its signature has."""

    function: Callable[..., Any]
    process: Process | None
    by_name: bool
    ranged: tuple[bool, bool]  # whether it takes sigma_min, sigma_max
    takes_process: bool

    @classmethod
    def of(cls, function: Callable[..., Any], process: Process | None) -> _Schedule:
        try:
            parameters = inspect.signature(function).parameters
        except (TypeError, ValueError):  # some compiled functions have no signature
            return cls(function, process, False, (True, True), False)
        ranged = "sigma_min" in parameters, "sigma_max" in parameters
        takes_process = "process" in parameters
        if takes_process and process is None and parameters["process"].default is inspect.Parameter.empty:
            raise TypeError("the function takes a process: give check_schedule(..., process=)")
        if any(ranged) or takes_process:
            return cls(function, process, True, ranged, takes_process and process is not None)
        kinds = inspect.Parameter
        plain = [p for p in parameters.values() if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
        needed = sum(p.default is kinds.empty for p in plain)
        ranged_by_place = needed == 3 or any(p.kind is kinds.VAR_POSITIONAL for p in parameters.values())
        if needed > 1 and not ranged_by_place:
            raise TypeError(
                f"function must take (steps), (steps, process) or (steps, sigma_min, sigma_max); "
                f"got {inspect.signature(function)}"
            )
        return cls(function, process, False, (ranged_by_place, ranged_by_place), False)

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
    """What a schedule is asked for."""

    steps: int
    low: float | None
    high: float | None


def _same(a: Any, b: Any) -> bool:
    return bool(np.shape(a) == np.shape(b) and np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True))


def _spoil(result: Any) -> None:
    """Write into a result, where that is possible."""
    if is_tensor(result):
        result.fill_(0)
    elif isinstance(result, list):
        result[:] = [0.0] * len(result)
    elif isinstance(result, np.ndarray) and result.flags.writeable:
        result.fill(0)


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
    """What must hold for a schedule; `problem` says what does not for one try."""

    schedule: _Schedule
    moves: tuple[bool, bool]  # whether sigma_min, sigma_max may be moved to see whether they matter
    known: tuple[bool, bool]  # whether the levels must respect them
    final_zero: bool | None
    even: bool

    def problem(self, tried: _Try) -> str | None:
        before = _random_states()
        try:
            said = self._problem(tried)
        except Exception as error:  # whatever it raises is the finding
            said = f"it raised {type(error).__name__}: {error}"
        said = _moved(before) or said
        return said and f"{self.schedule.text(*tried)}: {said}"

    def _problem(self, tried: _Try) -> str | None:
        call, (steps, low, high) = self.schedule, tried
        first = call(steps, low, high)
        levels = _as_levels(first)
        if isinstance(levels, str):
            return levels
        known_min, known_max = (end if known else None for end, known in zip((low, high), self.known, strict=True))
        wrong = _curve_problem(first, steps, known_min, known_max, self.final_zero)
        if wrong and _curve_problem(first, steps, None, None, self.final_zero):
            return wrong
        if wrong := self._ignored(tried, levels) or wrong:
            return wrong
        if self.even and (wrong := _even_problem(levels, call.process or Flow())):
            return wrong
        second = call(steps, low, high)
        if not _same(second, levels):
            return "it must be a function of its arguments: two calls gave different levels"
        _spoil(first)
        _spoil(second)
        if not _same(call(steps, low, high), levels):
            return "it keeps the array that it returned: writing to the result changes what the next call returns"
        return None

    def _ignored(self, tried: _Try, levels: Array) -> str | None:
        steps, low, high = tried
        if low is None or high is None:
            return None
        middle = math.sqrt(low * high)
        # one step has no level at sigma_min, and one that takes it for sigma_max is told so
        above = steps > 1 or abs(levels[0] - low) > 1e-6 * low
        for name, moves, other, values in (
            ("sigma_max", self.moves[1] and above, (low, middle), (high, middle)),
            ("sigma_min", self.moves[0] and steps > 1, (middle, high), (low, middle)),
        ):
            if moves and _same(self.schedule(steps, *other), levels):
                return f"{name} is ignored: the levels are the same for {name}={values[0]} and {values[1]}"
        return None


def _ranges(process: Process | None, sigma_min: float | None, sigma_max: float | None) -> st.SearchStrategy[Any]:
    """(sigma_min, sigma_max) to ask for: given ends as they are, others inside the process or over many orders."""
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


def check_schedule(
    function: Callable[..., Any],
    *,
    steps: int | Iterable[int] | None = None,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    process: Process | None = None,
    even: bool = False,
    final_zero: bool | None = True,
    max_examples: int = 100,
) -> None:
    """A schedule of yours keeps the contract of a noise schedule, at every number of steps and over any range.

    That is: float64, ``steps + 1`` levels, finite, strictly decreasing, the first ``sigma_max``, the last 0, no other
    below ``sigma_min``; defined from one step on; both ends of the range matter; not rounded to float32; the same
    levels for the same arguments, in an array of their own; no global random state moved.

    Parameters
    ----------
    function : ``(steps, sigma_min, sigma_max) -> levels`` or ``(steps) -> levels``; it is told apart by its signature.
        Parameters named sigma_min, sigma_max and process are given by name, either end of the range alone too
    steps : the number or numbers of steps to try; None is 1 to 33 and some up to 1001
    sigma_min, sigma_max : ends of the range; None draws them. For a function of steps alone, what its levels must
        respect; None does not check it
    process : what the levels are for: ranges are drawn inside it, and the function gets it if it takes a process
    even : the levels above 0 must be even in ``process.time``; on a shifted flow process that is: shifted exactly once
    final_zero : whether the last level must be 0; None does not check it
    max_examples : how many drawn examples to try, after one range at all numbers of steps

    Raises
    ------
    AssertionError : one sentence: the smallest call found that shows a mistake, and what is wrong with its levels
    TypeError : a function of other arguments

    Examples
    --------
    >>> import numpy as np
    >>> from ksched.testing import check_schedule
    >>> check_schedule(lambda steps, sigma_min, sigma_max: np.append(np.geomspace(sigma_max, sigma_min, steps), 0.0))
    >>> check_schedule(lambda steps: np.linspace(1, 0, steps))
    Traceback (most recent call last):
    AssertionError: <lambda>(steps=1): levels must be steps + 1 = 2 numbers; got 1. Is the final 0 missing?
    """
    schedule = _Schedule.of(function, process)
    counts = STEPS if steps is None else tuple(steps) if isinstance(steps, Iterable) else (steps,)
    counts = tuple(sorted(map(check_steps, counts)))
    if not counts:
        raise ValueError("steps must name at least one number of steps; got none")
    if sigma_min is not None and sigma_max is not None and not 0 < sigma_min < sigma_max:
        raise ValueError(f"sigma_min must be above 0 and below sigma_max; got {sigma_min} and {sigma_max}")
    given = sigma_min is not None, sigma_max is not None
    known = schedule.ranged[0] or given[0], schedule.ranged[1] or given[1] or process is not None
    moves = schedule.ranged[0] and not given[0], schedule.ranged[1] and not given[1]
    check = _ScheduleCheck(schedule, moves, known, final_zero, even)
    plain = (process.sigma_min, process.sigma_max) if process else PLAIN_RANGE
    low, high = plain[0] if sigma_min is None else sigma_min, plain[1] if sigma_max is None else sigma_max
    if not low < high:  # one given end beyond the plain range
        low, high = (low, low * 500) if given[0] else (high / 500, high)
    problem = next(filter(None, (check.problem(_Try(n, low, high)) for n in counts)), None)
    if problem is None and any(moves):
        some = st.sampled_from(counts) if steps is not None else step_counts(100)
        tries = st.tuples(some, _ranges(process, sigma_min, sigma_max)).map(lambda t: _Try(t[0], *t[1]))
        problem = _smallest(tries, check.problem, max_examples)
    if problem:
        raise AssertionError(problem)


def check_shift(
    function: Callable[[int, float], Any], *, steps: int | Iterable[int] = (1, 2, 5, 20), max_examples: int = 50
) -> None:
    """A flow schedule of yours applies its shift exactly once: with shift s it is `ksched.schedules.transforms.shift` of that with 1.

    Parameters
    ----------
    function : ``(steps, shift) -> levels`` of a flow process
    steps : numbers of steps to try
    max_examples : how many drawn shifts to try

    Raises
    ------
    AssertionError : one sentence: the call, and whether the shift acts twice, not at all, inversely or otherwise

    Examples
    --------
    >>> import ksched
    >>> from ksched.testing import check_shift
    >>> check_shift(lambda steps, shift: ksched.calculate_sigmas("simple", steps, ksched.Flow(shift)))
    """
    counts = tuple(sorted({steps} if isinstance(steps, int) else set(steps)))

    def problem(tried: tuple[int, float]) -> str | None:
        n, s = tried
        plain, shifted = (_as_levels(function(n, value)) for value in (1.0, s))
        called = f"{getattr(function, '__name__', 'function')}(steps={n}, shift={s!r}): "
        for levels in (plain, shifted):
            wrong = levels if isinstance(levels, str) else _curve_problem(levels, n, None, None, None)
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
        return called + f"the shift {what}: levels[{i}]={shifted[i]}, and one shift by {s} of {plain[i]} is {once[i]}"

    shifts = st.one_of(st.sampled_from((3.0, 0.5)), st.floats(-1.5, 1.5).map(lambda e: 10**e))
    if said := _smallest(st.tuples(st.sampled_from(counts), shifts), problem, max_examples):
        raise AssertionError(said)


# Samplers


def _plan_problem(plan: Plan) -> str | None:
    for row, level, alpha, variance, rounding in marginals(plan):
        tolerance = max(1e-10, 4 * rounding)
        where = "the result" if row == len(plan.rows) - 1 else f"state x{row}"
        at = f"its level, sigma={level.label:.6g}, has"
        if not abs(alpha - level.alpha) <= tolerance:
            return f"{where} holds {alpha:.6g} of the data where {at} {level.alpha:.6g}: a coefficient is wrong"
        std, scale = plan.noise_scale * level.sigma, plan.noise_scale
        if not abs(variance - std**2) <= tolerance * max(scale, std) ** 2:
            return f"{where} has noise of variance {variance:.6g} where {at} {std**2:.6g}: a coefficient is wrong"
    return None


def check_plan(plan: Plan) -> None:
    """Every state of a plan has the mean and the variance of its level if all data is one point, and so has the result.

    Parameters
    ----------
    plan : of a sampler whose noise has unit variance (``s_noise`` = 1)

    Raises
    ------
    AssertionError : one sentence that names the first state that has not
    """
    if problem := _plan_problem(plan):
        raise AssertionError(problem)


def _end_problem(plan: Plan) -> str | None:
    last = plan.rows[-1].terms
    if plan.end.label != 0 or (len(last) == 1 and last[0][0].kind == "D" and abs(last[0][1] - 1) <= 1e-12):
        return None
    made = " ".join(f"{value:+.6g} {register}" for register, value in last)
    return f"a step to sigma 0 must end at the denoised prediction, +1 D{plan.nfe - 1}; the result is {made}"


def check_sampler(
    function: SamplerFunction,
    *,
    options: Mapping[str, Any] | None = None,
    order: float | None = None,
    weak_order: float | None = None,
    processes: Sequence[Process] | None = None,
    ends_at_denoised: bool = True,
    max_examples: int = 60,
) -> None:
    """A sampler of yours is right on any grid of VE, variance-preserving and flow processes.

    That is: it can be traced to a table of finite numbers, the same twice; each state has the mean and variance of its
    level for one-point data; a step to sigma 0 returns the denoised prediction; and it converges with its order.

    Parameters
    ----------
    function : ``(run, grid, x, *, options) -> x``, as `ksched.register_sampler` takes it
    options : values of its keyword-only arguments
    order : declared order of convergence, measured on normal data; None does not measure it
    weak_order : declared order of the law of the results, for a sampler that draws noise
    processes : None is VE, VP with variance-preserving states, and Flow
    ends_at_denoised : False for a sampler that ends otherwise at sigma 0, on purpose
    max_examples : how many grids to draw for each process

    Raises
    ------
    AssertionError : one sentence: process and the smallest grid found that shows a mistake, and which state is wrong

    Examples
    --------
    >>> from ksched.testing import check_sampler
    >>> def euler(run, grid, x):
    ...     for s, t in grid.steps():
    ...         x = x + (t.sigma - s.sigma) / s.sigma * (x - run.denoise(x, s))
    ...     return x
    >>> check_sampler(euler, order=1)
    Traceback (most recent call last):
    AssertionError: euler on VP...
    """
    options = dict(options or {})
    name = getattr(function, "__name__", "function")
    right: list[str] = []
    for process in (VE(), VP(variance_preserving=True), Flow()) if processes is None else processes:

        def plan_of(sigmas: Array, process: Process = process) -> Plan:
            return trace(function, Grid.of(sigmas, process), options)

        def problem(
            sigmas: Array, process: Process = process, plan_of: Callable[[Array], Plan] = plan_of
        ) -> str | None:
            before = _random_states()
            try:
                plan = plan_of(sigmas)
                said = _plan_problem(plan) or (_end_problem(plan) if ends_at_denoised else None)
                if said is None and plan_of(sigmas) != plan:
                    said = "it must be a function of its arguments: two traces gave different tables"
            except TraceError as error:
                said = str(error)
            except Exception as error:  # whatever it raises is the finding
                said = f"it raised {type(error).__name__}: {error}"
            said = _moved(before) or said
            return said and f"{name} on {process!r}, sigmas={sigmas.tolist()}: {said}"

        if said := _smallest(sigma_curves(process), problem, max_examples):
            if right and "a coefficient is wrong" in said:
                said += f". It is right on {right[0]}: read alpha of the levels, and do not take it for 1"
            raise AssertionError(said)
        right.append(repr(process))
        draws = bool(plan_of(np.array([0.9, 0.5, 0.2])).draws)
        if order is not None and draws:
            raise AssertionError(
                f"{name} draws noise, so single runs have no order: declare weak_order=, or give options that switch "
                "the noise off"
            )
        for declared, weak, word in ((order, False, "order"), (weak_order, True, "weak order")):
            if declared is None:
                continue
            measured = measured_order(plan_of, process, weak=weak)
            if not measured >= declared - 0.15:
                raise AssertionError(
                    f"{name} on {process!r}: {word} {declared:g} is declared; {measured:.2f} is measured on "
                    "normal data between 64 and 128 steps"
                )
