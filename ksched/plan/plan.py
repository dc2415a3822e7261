"""`Plan`: a sampler as data, a table of numbers.

Every state of a run is a linear combination of earlier registers: states ``x``, model outputs ``D`` (denoised) and
``U`` (unconditional), and unit noises ``xi``. The noise levels are known in advance, so the coefficients are too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ksched.plan.checks import check_draws, check_level, check_rows, check_sigmas
from ksched.plan.jumps import jump_goals
from ksched.plan.plain_data import mapping, read, written
from ksched.plan.rows import Draw, Register, Row, form_text, most_held
from ksched.plan.skipping import answers_of, calls_to_skip, in_steps, rows_without
from ksched.processes import Level
from ksched.processes.base import check_positive
from ksched.storage.texts import parse_json

__all__ = ["Plan"]


@dataclass(frozen=True)
class Plan:
    """The table of numbers of a whole run: rows of float64 coefficients over registers.

    Attributes
    ----------
    rows : tuple of Row
        States in the order in which they are formed; the first is the start, the last the result.
    draws : tuple of Draw
        The noises that the rows use.
    start, end : Level
        Levels of the first and the last state.
    sigmas : tuple of float
        Contract sigmas of the schedule, one more than the number of steps.
    report : mapping
        How `ksched.tune` or `skip` made and measured the plan; plain data, ignored when plans are compared.
    noise_scale : float
        `Process.noise_scale` of the process that it was made for. The noise coefficients already include it; it gives
        the scale of the states and is ignored when plans are compared.

    Raises
    ------
    ValueError
        For a table that cannot be run: a row that refers forward, a number that is not finite, a noise that is never
        used, a level whose alpha, sigma and lam disagree, steps that decrease or exceed the schedule's.

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
        check_sigmas(self.sigmas)
        for name, level, sigma in (("start", self.start, self.sigmas[0]), ("end", self.end, self.sigmas[-1])):
            check_level(name, level)
            if level.label != sigma:
                raise ValueError(
                    f"the {name} level of a plan must be that of its sigmas, {sigma:g}; got {level.label:g}"
                )
        check_rows(self.rows, len(self.draws), self.steps, (self.start, self.end))
        check_draws(self.draws, self.last_use)

    @property
    def steps(self) -> int:
        """Number of schedule steps."""
        return len(self.sigmas) - 1

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """The level that the model receives at each call, in order."""
        return tuple(row.level for row in self.rows if row.level is not None)

    @cached_property
    def state_levels(self) -> tuple[Level, ...]:
        """The level of the state at each call: the one in `levels`, unless the plan gives the model another."""
        return tuple(row.at for row in self.rows if row.at is not None)

    @cached_property
    def tells_others(self) -> bool:
        """Whether the model receives, at some call, another level than its state's."""
        return self.state_levels != self.levels

    @cached_property
    def call_sigmas(self) -> npt.NDArray[np.float64]:
        """Contract sigma that the model receives at each call; read-only."""
        values = np.array([level.label for level in self.levels])
        values.setflags(write=False)
        return values

    @cached_property
    def call_steps(self) -> tuple[int, ...]:
        """The schedule step of each model call."""
        return tuple(row.step for row in self.rows if row.level is not None)

    @cached_property
    def goals(self) -> tuple[float, ...]:
        """For each model call, the sigma that its prediction takes the state to; `ksched.FlowMap` needs these.

        NaN everywhere if a step is not a jump, because it reads earlier predictions or calls the model more than once.
        """
        return jump_goals(self.rows, self.sigmas)

    @property
    def nfe(self) -> int:
        """Number of model calls (NFE)."""
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
        """Largest number of registers held at once, including the one being formed.

        A noise counts only if a row after another model call needs it again.
        """
        return most_held(self.rows, self.last_use)

    def skip(self, calls: str | Iterable[int], by: Literal["reuse", "line"] = "reuse") -> Plan:
        """A plan that skips some model calls, as step caches do: earlier predictions replace theirs.

        Parameters
        ----------
        calls : str or iterable of int
            Indices of the model calls to skip, from 0; negative indices count from the end. Or a mask with one entry
            per call, 1 to call the model and 0 to skip, as in cache-dit: a list, or text such as "1,1,0,1".
        by : str
            Replacement for a skipped prediction: "reuse" takes the last one made; "line" takes the line through the
            last two made at different levels, in lam = log(alpha / sigma), or only the last if there was just one or
            one was at pure noise.

        Returns
        -------
        an ordinary plan: pass it to `ksched.build_sampler` to sample, or to `ksched.explain` to see its cost. A step
        without a model call becomes part of the step before it. All noises stay the same, so a seed draws the same
        ones. ``report["skipped"]`` has the calls, the rule and this plan; a report from `tune` no longer holds and is
        dropped. If nothing is skipped, you get this plan itself

        Raises
        ------
        TypeError, ValueError
            If there are no such calls or rule, and for the first call, which has no replacement.

        Notes
        -----
        Both rules reproduce a constant prediction, so the plan keeps the mean and variance of every state that the
        model evaluates, with or without noise.

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
        """Fingerprint of the table: the same for equal plans, on any machine."""
        return hashlib.sha256(json.dumps(self._table(), allow_nan=False).encode()).hexdigest()

    def __hash__(self) -> int:
        return hash(self.digest)

    def __reduce__(self) -> tuple[Any, ...]:
        # leave out derived values: the layout contains memory addresses of this process
        return Plan, (self.rows, self.draws, self.start, self.end, self.sigmas, self.report, self.noise_scale)

    def __deepcopy__(self, memo: object) -> Plan:
        return self  # immutable

    def _table(self) -> dict[str, Any]:
        """Everything except the report, as plain data."""
        return written(self.rows, self.draws, (self.start, self.end), self.sigmas)

    def to_json(self) -> str:
        """The plan as JSON text, with its report; floats keep every bit."""
        more: dict[str, Any] = {"noise_scale": self.noise_scale} if self.noise_scale != 1 else {}
        more |= {"report": dict(self.report)} if self.report else {}
        return json.dumps({**self._table(), **more}, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """The plan from the text that `to_json` wrote.

        Raises
        ------
        ValueError
            For text that is not such a plan, or a plan that cannot be run.
        """
        version = 1
        try:
            data = mapping(parse_json(text))
            version = 2 if data.get("version") == 2 else 1
            return cls(*read(data, version))
        except KeyError as error:
            why = f"{error} is missing"
        except (TypeError, ValueError) as error:
            why = str(error)
        raise ValueError(f"not a ksched plan in JSON, version {version}: {why}")

    def __str__(self) -> str:
        calls = [_call_text(row) for row in self.rows]
        width = max(14, 2 + max(map(len, calls)))
        lines = (f"x{k:<4}{calls[k]:<{width}}{form_text(row.terms)}" for k, row in enumerate(self.rows))
        return "\n".join(line.rstrip() for line in lines)


def _call_text(row: Row) -> str:
    """The model call of a row, as printed."""
    if row.level is None:
        return ""
    apart = "" if row.state_level is None else f" at {row.state_level.label:g}"
    return f"eval s={row.level.label:g}{apart}"
