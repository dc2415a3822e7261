"""A sampler as data: the plan, a table of numbers.

Every state of a run is a linear combination of earlier registers: states ``x``, model outputs ``D`` (denoised) and
``U`` (unconditional), and unit noises ``xi``. Because the noise levels are known beforehand, so are the coefficients.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ksched.plan.jumps import jump_goals
from ksched.plan.rows import Draw, Register, Row, form_text
from ksched.plan.skipping import answers_of, calls_to_skip, in_steps, rows_without
from ksched.processes import Level
from ksched.processes.base import check_positive
from ksched.storage.texts import parse_json

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """The table of a whole run: rows of float64 coefficients over registers.

    Attributes
    ----------
    rows : states in the order they are formed; the first is the start, the last the result
    draws : the noises that the rows refer to
    start, end : levels of the first and the last state
    sigmas : contract sigmas of the schedule, one more than there are steps
    report : how it was made and measured, by `ksched.tune` or `skip`; plain data, no part of what the plan is
    noise_scale : `Process.noise_scale` of the process it was made for. The coefficients of noises have it inside; it
        tells how wide the states are, and is no part of what the plan is

    Raises
    ------
    ValueError : a table that cannot be run: a row that refers forward, a number that is not finite, a noise that is
        never used, a level whose alpha, sigma and lam disagree, steps that decrease or that the schedule does not have

    Examples
    --------
    >>> import ksched
    >>> print(ksched.build_sampler("dpmpp_2m", sigmas=[14.6, 5, 1.5, 0.4, 0]).plan)
    x0   eval s=14.6
    x1   eval s=5      +0.342466 x0  +0.657534 D0
    x2   eval s=1.5    +0.300000 x1  +1.093241 D1  -0.393241 D0
    x3   eval s=0.4    +0.266667 x2  +1.135871 D2  -0.402537 D1
    x4                 +1.000000 D3
    """

    rows: tuple[Row, ...]
    draws: tuple[Draw, ...]
    start: Level
    end: Level
    sigmas: tuple[float, ...]
    report: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    noise_scale: float = field(default=1.0, compare=False, repr=False)

    def __post_init__(self) -> None:
        check_positive("noise_scale", self.noise_scale)
        _check_sigmas(self.sigmas)
        for name, level, sigma in (("start", self.start, self.sigmas[0]), ("end", self.end, self.sigmas[-1])):
            _check_level(name, level)
            if level.label != sigma:
                raise ValueError(f"the {name} of a plan must be at that of its sigmas, {sigma:g}; got {level.label:g}")
        self._check_rows()
        self._check_draws()

    def _check_rows(self) -> None:
        if len(self.rows) < 2 or self.rows[0].terms or self.rows[-1].level is not None:
            raise ValueError("a plan needs a first row that is given and a last row that is the result")
        calls = 0
        pairs = set[int]()  # calls that return the unconditional prediction too
        last, steps = 0, max(self.steps, 1)
        checked = {self.start, self.end}
        for k, row in enumerate(self.rows):
            if not last <= row.step < steps:
                raise ValueError(
                    f"steps of rows must not decrease and must be below {steps}, as many as the schedule has; got "
                    f"{row.step} in row x{k}"
                )
            last = row.step
            _check_terms(k, row, {"x": k, "D": calls, "xi": len(self.draws)}, pairs)
            if row.level is not None:
                _check_told(k, row)
                for level in (row.level, row.state_level):
                    if level is not None and level not in checked:
                        _check_level(f"row x{k}", level)
                        checked.add(level)
                if row.both:
                    pairs.add(calls)
                calls += 1
            elif row.state_level is not None:
                raise ValueError(f"row x{k} must have no state_level, since the model is not called on it")

    def _check_draws(self) -> None:
        for m, draw in enumerate(self.draws):
            if not (draw.sigma_from >= 0 and draw.sigma_to >= 0):  # NaN is neither
                raise ValueError(f"noise xi{m} must be between sigmas of at least 0; got {draw}")
            if not (0 <= draw.visit < _LIMIT and -_LIMIT <= draw.stream < _LIMIT):
                raise ValueError(f"noise xi{m} must have a visit of at least 0 and a stream, of 64 bits; got {draw}")
            if not draw.limit > 0:
                raise ValueError(f"noise xi{m} must have a limit above 0; got {draw}")
            if Register("xi", m) not in self.last_use:
                raise ValueError(f"noise xi{m} ({draw.sigma_from:g} to {draw.sigma_to:g}) is never used")
        if len(set(self.draws)) < len(self.draws):
            (draw, _), *_ = Counter(self.draws).most_common(1)
            raise ValueError(f"every noise of a plan must be another one; {draw} is there twice")

    @property
    def steps(self) -> int:
        """Number of schedule steps."""
        return len(self.sigmas) - 1

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """The level that the model is told at every call, in order."""
        return tuple(row.level for row in self.rows if row.level is not None)

    @cached_property
    def state_levels(self) -> tuple[Level, ...]:
        """The level of the state of every call: that of `levels` but where the plan tells the model another one."""
        return tuple(row.at for row in self.rows if row.at is not None)

    @cached_property
    def tells_others(self) -> bool:
        """Whether the model is told a level, at some call, that its state is not at."""
        return self.state_levels != self.levels

    @cached_property
    def call_sigmas(self) -> npt.NDArray[np.float64]:
        """Contract sigma that the model is told at every call; read-only."""
        values = np.array([level.label for level in self.levels])
        values.setflags(write=False)
        return values

    @cached_property
    def call_steps(self) -> tuple[int, ...]:
        """The schedule step of every model call."""
        return tuple(row.step for row in self.rows if row.level is not None)

    @cached_property
    def goals(self) -> tuple[float, ...]:
        """For every model call, the sigma that its prediction takes the state to, which `ksched.FlowMap` needs.

        NaN everywhere if a step is no jump: it reads earlier predictions, or calls the model more than once.
        """
        return jump_goals(self.rows, self.sigmas)

    @property
    def nfe(self) -> int:
        """Number of model calls."""
        return len(self.levels)

    @property
    def widest_row(self) -> int:
        """Largest number of terms in a row."""
        return max(len(row.terms) for row in self.rows)

    @cached_property
    def last_use(self) -> Mapping[Register, int]:
        """The last row that reads each register."""
        return {register: k for k, row in enumerate(self.rows) for register, _ in row.terms}

    @cached_property
    def live_registers(self) -> int:
        """Largest number of registers that must be held at once, the one being formed included.

        A noise is one only if a row after another model call needs it again.
        """
        before = [0, *accumulate(row.level is not None for row in self.rows)]  # calls before each row
        first_use = {register: k for k, row in reversed([*enumerate(self.rows)]) for register, _ in row.terms}
        going = [0] * (len(self.rows) + 1)  # registers that are needed no more after each row
        most = held = 0
        for k, row in enumerate(self.rows):
            formed = [Register("x", k)]
            for register, _ in row.terms:
                if register.kind == "xi" and first_use[register] == k and before[self.last_use[register]] > before[k]:
                    formed.append(register)
            held += len(formed)
            most = max(most, held)
            for register in formed:
                going[self.last_use.get(register, k + 1)] += 1
            held -= going[k]
            if row.level is not None:
                outputs = [Register(kind, before[k]) for kind in ("DU" if row.both else "D")]
                for register in outputs:
                    going[self.last_use.get(register, k + 1)] += 1
                held += len(outputs)
                most = max(most, held)
        return most

    def skip(self, calls: str | Iterable[int], by: Literal["reuse", "line"] = "reuse") -> Plan:
        """A plan that calls the model less often, as step caches do: some predictions are made of earlier ones.

        Parameters
        ----------
        calls : numbers of the model calls to skip, from 0; negative ones count from the end. Or a mask with an entry
            for every call, 1 if the model is called and 0 if not, as cache-dit has it: a list, or text such as
            "1,1,0,1"
        by : what stands for a prediction that is skipped. "reuse", the last one that was made; "line", the line through
            the last two, at different levels, in lam = log(alpha / sigma), and the last one alone where only one was
            made or one was at pure noise

        Returns
        -------
        an ordinary plan: `ksched.build_sampler` makes a sampler of it, and `ksched.explain` prints what it costs. A
        step without a model call becomes part of the step before it. All noises stay as they were, so that a
        seed draws the same ones. ``report["skipped"]`` has the calls, the rule and this plan; a report of `tune` no
        longer holds and is left out. If nothing is skipped, this plan itself

        Raises
        ------
        TypeError, ValueError : no such calls or rule; the first call, which nothing can stand for

        Notes
        -----
        Both rules give a constant prediction back, so the plan keeps the mean and variance of every state that the
        model sees, with noise or without.

        Examples
        --------
        >>> import ksched
        >>> plan = ksched.build_sampler("euler", sigmas=[14.6, 5, 1.5, 0.4, 0]).plan
        >>> print(plan.skip([2], by="reuse"))
        x0   eval s=14.6
        x1   eval s=5      +0.342466 x0  +0.657534 D0
        x2   eval s=0.4    +0.080000 x1  +0.920000 D1
        x3                 +1.000000 D2
        """
        skipped = calls_to_skip(calls, self.nfe)
        answers = answers_of(self.levels, skipped, by)
        if not skipped:
            return self
        rows, draws = rows_without(self.rows, self.draws, skipped, answers)
        rows, sigmas = in_steps(rows, self.sigmas)
        whole = {**self._table(), "noise_scale": self.noise_scale}
        report = {"calls": sorted(skipped), "by": by, "whole": whole}
        return replace(self, rows=tuple(rows), draws=draws, sigmas=sigmas, report={"skipped": report})

    @cached_property
    def digest(self) -> str:
        """Fingerprint of the table: equal for equal plans, on any machine."""
        return hashlib.sha256(json.dumps(self._table(), allow_nan=False).encode()).hexdigest()

    def __hash__(self) -> int:
        return hash(self.digest)

    def __reduce__(self) -> tuple[Any, ...]:
        # Without what was derived from it: its layout knows addresses of this process.
        return Plan, (self.rows, self.draws, self.start, self.end, self.sigmas, self.report, self.noise_scale)

    def __deepcopy__(self, memo: object) -> Plan:
        return self  # it never changes

    def _table(self) -> dict[str, Any]:
        """All but the report, as plain data."""
        rows = [
            {
                "terms": [[str(r), v] for r, v in row.terms],
                "level": _pack(row.level),
                "step": row.step,
                "both": row.both,
                **({"state_level": _pack(row.state_level)} if row.state_level is not None else {}),
            }
            for row in self.rows
        ]
        # Version 1 is what every plan was before state levels: these keep their text, and with it their digest.
        version = 2 if self.tells_others else 1
        head = {"format": "ksched-plan", "version": version, "sigmas": _pack(self.sigmas)}
        draws = [_pack(_draw_values(draw)) for draw in self.draws]
        ends = {"start": _pack(self.start), "end": _pack(self.end), "draws": draws}
        return {**head, **ends, "rows": rows}

    def to_json(self) -> str:
        """The plan as JSON text, with its report; floats keep every bit."""
        more: dict[str, Any] = {"noise_scale": self.noise_scale} if self.noise_scale != 1 else {}
        more |= {"report": dict(self.report)} if self.report else {}
        return json.dumps({**self._table(), **more}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan that `to_json` wrote.

        Raises
        ------
        ValueError : text that is not such a plan, or a plan that cannot be run
        """
        version = 1
        try:
            data = _typed("it", parse_json(text), dict)
            version = 2 if data.get("version") == 2 else 1
            return cls._of_data(data, version)
        except KeyError as error:
            why = f"{error} is missing"
        except (TypeError, ValueError) as error:
            why = str(error)
        raise ValueError(f"not a ksched plan in JSON, version {version}: {why}")

    @classmethod
    def _of_data(cls, data: Mapping[str, Any], version: int) -> Plan:
        """The plan that `_table` made plain data of, and its report."""
        if data["format"] != "ksched-plan" or data["version"] != version:
            raise ValueError(f"format {_short(data['format'])}, version {_short(data['version'])}")
        sigmas = tuple(_number("sigmas", value) for value in _typed("sigmas", data["sigmas"], list))
        start, end = (_level(name, data[name]) for name in ("start", "end"))
        draws = tuple(_draw(f"draws[{m}]", draw) for m, draw in enumerate(_typed("draws", data["draws"], list)))
        known: dict[str, Register] = {}  # one object for each, however often it is read
        given = enumerate(_typed("rows", data["rows"], list))
        rows = tuple(_row(f"rows[{k}]", row, known, version) for k, row in given)
        if version == 2 and all(row.state_level is None for row in rows):
            raise ValueError("it tells the model the levels of its states, which version 1 does")
        report = _typed("report", data.get("report", {}), dict)
        scale = _number("noise_scale", data.get("noise_scale", 1.0))
        return cls(rows, draws, start, end, sigmas, report, scale)

    def __str__(self) -> str:
        calls = [_call_text(row) for row in self.rows]
        width = max(14, 2 + max(map(len, calls)))
        lines = (f"x{k:<4}{calls[k]:<{width}}{form_text(row.terms)}" for k, row in enumerate(self.rows))
        return "\n".join(line.rstrip() for line in lines)


def _call_text(row: Row) -> str:
    """The model call of a row as people read it."""
    if row.level is None:
        return ""
    apart = "" if row.state_level is None else f" at {row.state_level.label:g}"
    return f"eval s={row.level.label:g}{apart}"


def _pack(values: tuple[Any, ...] | None) -> list[Any] | None:
    """Numbers for JSON, which has no infinity."""
    return values and [str(v) if isinstance(v, float) and math.isinf(v) else v for v in values]  # type: ignore[return-value]


# ------------------------------------------------------------------------------------------------ plans as plain data
_LIMIT = 1 << 63


_REGISTER = re.compile(r"(x|D|U|xi)([0-9]{1,9})", re.ASCII)


_INFINITE = {"inf": math.inf, "-inf": -math.inf}


_KINDS = {dict: "a mapping", list: "a list", int: "a whole number", bool: "true or false", str: "text"}


def _typed(name: str, value: Any, kind: type) -> Any:
    if type(value) is not kind:  # a bool is no whole number
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
        raise ValueError(f"{name} must be numbers; got {_short(value)}")
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
    """Without the limit, where there is none."""
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


def _check_terms(k: int, row: Row, known: Mapping[str, int], pairs: Set[int]) -> None:
    """Raise unless row number ``k`` reads registers that exist by then, each once, with finite coefficients.

    Parameters
    ----------
    known : how many registers of each kind there are
    pairs : calls that return the unconditional prediction too
    """
    for register, value in row.terms:
        kind, number = register
        if not (0 <= number < known.get(kind, 0) or (kind == "U" and number in pairs)):
            raise ValueError(f"row x{k} refers to {register}, which does not exist yet")
        if not math.isfinite(value):
            raise ValueError(f"row x{k} (step {row.step}) has a coefficient of {value} for {register}")
    if k and not row.terms:
        raise ValueError(f"row x{k} is empty; only the first is given")
    if len(dict(row.terms)) < len(row.terms):
        raise ValueError(f"row x{k} has two coefficients for one register")


def _check_told(k: int, row: Row) -> None:
    """Raise for a row that says twice where its state is."""
    if row.state_level == row.level:
        raise ValueError(f"row x{k} must leave out its state_level, which is the level that the model is told")


def _check_sigmas(sigmas: tuple[float, ...]) -> None:
    """Raise unless these can be levels; a run may go up, and a caller's list may repeat one."""
    if not sigmas or not all(sigma >= 0 for sigma in sigmas) or math.inf in sigmas[1:-1]:  # NaN is none
        raise ValueError("the sigmas of a plan must be at least one, of at least 0, and finite between the ends")


def _check_level(where: str, level: Level) -> None:
    """Raise unless a level is one: numbers of which the last two follow from each other.

    Notes
    -----
    What a process makes of alpha and sigma is its own business: all that is asked is the half log-SNR, within what
    float32 formulas, and a share such as 1 - sigma, may get wrong.
    """
    label, alpha, sigma, lam = level
    # Churn of other programs goes beyond the pure noise of a flow, where alpha is below 0. NaN is no number.
    if not (label >= 0 and math.isfinite(alpha) and 0 <= sigma < math.inf and (alpha > 0 or sigma > 0)):
        raise ValueError(f"{where} must have a level of finite numbers, label and sigma at least 0; got {level}")
    if alpha <= 0 or sigma == 0:
        fits = lam == (math.inf if sigma == 0 else -math.inf) or (lam > 30 if sigma == 0 else lam < -30)
    else:
        rounding = 1e-6 * (1 + abs(lam)) + 1e-15 * (1 / alpha + 1 / sigma)
        fits = math.isfinite(lam) and abs(math.log(alpha) - math.log(sigma) - lam) <= rounding
    if not fits:
        raise ValueError(f"{where} must have a level whose lam is log(alpha / sigma); got {level}")
