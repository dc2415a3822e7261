"""Tracing: a sampler function runs on symbols, and a tracer records the rows of the plan."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, cast

from ksched.plan.intervals import disjoint, snr
from ksched.plan.plan import Plan
from ksched.plan.protocol import SamplerFunction
from ksched.plan.rows import Draw, Register, Row, form_text, in_order, without_unused
from ksched.processes import Level
from ksched.schedules.grid import Grid

__all__ = ["Symbol", "TraceError", "Tracer", "trace"]


class TraceError(TypeError):
    """A sampler did something with a symbol that a table of numbers cannot express."""


def _refuse(doing: str) -> NoReturn:
    raise TraceError(
        f"a sampler may only add, subtract and scale its states; got {doing}. The plan is a table of numbers made "
        f"before "
        "any tensor exists. Compute with the levels of the grid instead, or wrap the model if the rule looks at the "
        "data."
    )


class Symbol:
    """A linear combination of registers. It adds, subtracts and scales by numbers, and refuses everything else."""

    __slots__ = ("terms",)
    __array_ufunc__ = None  # so that numpy scalars times a symbol use __rmul__

    def __init__(self, terms: Mapping[Register, float]) -> None:
        self.terms = {register: value for register, value in terms.items() if value != 0}

    def _scaled(self, factor: Any, doing: str) -> Symbol:
        if isinstance(factor, Symbol) or not isinstance(factor, float | int):
            _refuse(f"{doing} {type(factor).__name__}")
        return Symbol({register: value * float(factor) for register, value in self.terms.items()})

    def __add__(self, other: Any) -> Symbol:
        if not isinstance(other, Symbol):
            if isinstance(other, int) and other == 0:  # the start value of sum()
                return self
            _refuse(f"adding {other!r}")
        total = dict(self.terms)
        for register, value in other.terms.items():
            total[register] = total.get(register, 0.0) + value
        return Symbol(total)

    __radd__ = __add__

    def __neg__(self) -> Symbol:
        return self._scaled(-1.0, "negating by")

    def __sub__(self, other: Any) -> Symbol:
        if not isinstance(other, Symbol):
            _refuse(f"subtracting {other!r}")
        return self + -other

    def __rsub__(self, other: Any) -> Symbol:
        return (-self).__add__(other)

    def __mul__(self, factor: Any) -> Symbol:
        return self._scaled(factor, "multiplying by a")

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> Symbol:
        return self._scaled(1.0 / divisor if isinstance(divisor, float | int) else divisor, "dividing by a")

    def __rtruediv__(self, other: Any) -> NoReturn:
        _refuse("dividing by a symbol")

    def __pow__(self, other: Any) -> NoReturn:
        _refuse("taking a power")

    def __bool__(self) -> NoReturn:
        _refuse("asking whether a symbol is true")

    def __eq__(self, other: object) -> NoReturn:
        _refuse("comparing symbols")

    __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __eq__
    __hash__ = None  # type: ignore[assignment]  # Python's way to say unhashable

    def __float__(self) -> NoReturn:
        _refuse("making a number of a symbol")

    def __abs__(self) -> NoReturn:
        _refuse("taking the absolute value")

    def __getitem__(self, key: Any) -> NoReturn:
        _refuse("taking a part of a symbol")

    def __iter__(self) -> NoReturn:
        _refuse("looping over a symbol")

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        _refuse(f"calling or reading .{name}")

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:
        _refuse(f"torch's {getattr(function, '__name__', function)}")

    def __repr__(self) -> str:
        return form_text(self.terms.items()) or "0"


class Tracer:
    """Records a sampler as it runs on symbols.

    Parameters
    ----------
    noise_scale : float
        Noise scale of the process; every noise includes it.
    """

    def __init__(self, noise_scale: float = 1.0) -> None:
        self.noise_scale = noise_scale
        self.x = Symbol({Register("x", 0): 1.0})
        self.step = 0
        self._rows = [Row((), None, 0)]
        self._calls = 0
        self._requests: dict[Draw, int] = {}  # index of each requested noise
        self._clock: dict[float, float] = {}  # signal-to-noise ratio at the ends of the requested noises
        self._visit = 0

    def denoise(self, x: Symbol, level: Level, told: Level | None = None) -> Symbol:
        """A new output register; ``x`` becomes the state that the model evaluates."""
        return self._call(x, level, told, both=False)[0]

    def denoise_both(self, x: Symbol, level: Level, told: Level | None = None) -> tuple[Symbol, Symbol]:
        """A new pair of output registers, from one model call."""
        return self._call(x, level, told, both=True)

    def noise(self, start: Level, end: Level, stream: int = 0, limit: float = math.inf) -> Symbol:
        """The noise register of an interval, in the scale of the process."""
        if end.label > start.label:  # the run goes up in noise: a new path begins
            self._visit += 1
        self._clock |= {level.label: snr(level) for level in (start, end)}
        request = Draw(start.label, end.label, self._visit, stream, limit)
        number = self._requests.setdefault(request, len(self._requests))
        return Symbol({Register("xi", number): self.noise_scale})

    def keep(self, value: Symbol) -> Symbol:
        """A new state register; ``value`` now refers to it."""
        self._check(value, "keep")
        self._state(value)
        return value

    def checkpoint(self, state: Any) -> NoReturn:
        """Refused: only samplers that look at their states use it."""
        raise TraceError(
            "this sampler is adaptive: it chooses its steps from the model's answers, so it has no plan. Run it with "
            "sample() or start()."
        )

    def finish(self, result: Symbol, grid: Grid) -> Plan:
        """The plan, without unused states and noises, and with overlapping noises made disjoint."""
        self._check(result, "return")
        rows = [*_in_steps(self._rows, grid), Row(in_order(result.terms), None, max(len(grid) - 1, 0))]
        pieces = disjoint([*self._requests], self._clock)
        draws = list(dict.fromkeys(draw for request in pieces for draw, _ in request))
        numbers = {draw: m for m, draw in enumerate(draws)}
        rows = [row._replace(terms=_substitute(row.terms, pieces, numbers)) for row in rows]
        rows, drawn = without_unused(rows, draws)
        ends, sigmas = (grid.levels[0], grid.levels[-1]), tuple(level.label for level in grid.levels)
        return Plan(tuple(rows), drawn, *ends, sigmas, noise_scale=self.noise_scale)

    def _call(self, x: Symbol, level: Level, told: Level | None, both: bool) -> tuple[Symbol, Symbol]:
        self._check(x, "denoise")
        k = self._state(x)
        own = None if told is None or told == level else level
        row = self._rows[k]._replace(level=level if told is None else told, state_level=own)
        self._rows[k] = row._replace(step=self.step, both=both)
        self._calls += 1
        return (Symbol({Register("D", self._calls - 1): 1.0}), Symbol({Register("U", self._calls - 1): 1.0}))

    def _state(self, form: Symbol) -> int:
        """Number of the state ``form``: a new one, unless it is a state that can still be evaluated."""
        if list(form.terms.values()) == [1.0]:
            ((kind, k),) = form.terms
            if kind == "x" and all(row.level is None for row in self._rows[k:]):
                return k
        self._rows.append(Row(in_order(form.terms), None, self.step))
        form.terms = {Register("x", len(self._rows) - 1): 1.0}
        return len(self._rows) - 1

    @staticmethod
    def _check(form: Any, verb: str) -> None:
        if not isinstance(form, Symbol):
            raise TraceError(
                f"a sampler must {verb} a state that it was given, or a combination of such states; got {form!r}"
            )


def _in_steps(rows: list[Row], grid: Grid) -> list[Row]:
    """Rows with their steps; taken from their levels if the sampler listed all steps before its first model call."""
    first = next((row.step for row in rows if row.level is not None), 0)
    if first == 0:
        return rows
    labels, step, found = [level.label for level in grid.levels], 0, []
    for row in rows:
        if row.at is not None:  # steps never go back, even where noise is added again
            step = max(step, sum(label >= row.at.label for label in labels[:-1]) - 1)
        found.append(row._replace(step=step))
    return found


def _substitute(
    terms: tuple[tuple[Register, float], ...], pieces: list[list[tuple[Draw, float]]], numbers: Mapping[Draw, int]
) -> tuple[tuple[Register, float], ...]:
    """Terms with every requested noise replaced by its disjoint, numbered pieces."""
    total: dict[Register, float] = {}
    for register, value in terms:
        if register.kind != "xi":
            total[register] = total.get(register, 0.0) + value
            continue
        for draw, weight in pieces[register.number]:
            piece = Register("xi", numbers[draw])
            total[piece] = total.get(piece, 0.0) + value * weight
    return in_order(total)


@dataclass(frozen=True)
class _WatchedGrid(Grid):
    """A grid that tells the tracer which step is being recorded."""

    tape: Tracer

    def steps(self, levels: Sequence[Level] | None = None) -> Iterator[tuple[Level, Level]]:
        for i, pair in enumerate(super().steps(levels)):
            self.tape.step = max(self.tape.step, min(i, len(self) - 1))  # a second pass counts as the last step
            yield pair


def trace(function: SamplerFunction, grid: Grid, options: Mapping[str, Any]) -> Plan:
    """The plan of a sampler on a grid.

    Raises
    ------
    TraceError
        The sampler did something with a state that a table cannot express.
    """
    tape = Tracer(grid.process.noise_scale)
    result = function(tape, _WatchedGrid(grid.process, grid.levels, tape), tape.x, **options)
    return tape.finish(cast(Symbol, result), grid)
