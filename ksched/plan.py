"""A sampler as data: the plan, a table of numbers.

Every state of a run is a linear combination of earlier registers: states ``x``, model outputs ``D`` (denoised) and
``U`` (unconditional), and unit noises ``xi``. Because the noise levels are known beforehand, so are the coefficients.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ksched.processes import Level
from ksched.processes.base import check_positive

if TYPE_CHECKING:
    from ksched.program import Program

__all__ = ["Draw", "Plan", "Register", "Row"]


class Register(NamedTuple):
    """What a row may refer to: state "x", output "D" or "U", noise "xi", and its number."""

    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.kind}{self.number}"


class Draw(NamedTuple):
    """One unit-normal noise of a run, named by where in the run it acts, not by when it is asked for.

    ``visit`` counts how often the run was noised up again before it (churn, restarts); ``stream`` tells apart
    independent noises of one interval.
    """

    sigma_from: float
    sigma_to: float
    visit: int = 0
    stream: int = 0


class Row(NamedTuple):
    """One state that the sampler forms.

    Attributes
    ----------
    terms : (register, coefficient) pairs whose sum is the state; empty for the first, which is given
    level : where the model is called on it; None: it is not
    step : the step of the schedule it belongs to
    both : whether the call must return the unconditional prediction too
    """

    terms: tuple[tuple[Register, float], ...]
    level: Level | None
    step: int
    both: bool = False


@dataclass(frozen=True)
class Plan:
    """The table of a whole run: rows of float64 coefficients over registers.

    Attributes
    ----------
    rows : states in the order they are formed; the first is the start, the last the result
    draws : the noises that the rows refer to
    start, end : levels of the first and the last state
    sigmas : contract sigmas of the schedule, one more than there are steps
    report : how it was made and measured, by `ksched.tune`; plain data, no part of what the plan is
    noise_scale : `Process.noise_scale` of the process it was made for. The coefficients of noises have it inside; it
        tells how wide the states are, and is no part of what the plan is

    Raises
    ------
    ValueError : a table that cannot be run: a row that refers forward, a number that is not finite, a noise that is
        never used

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
        if len(self.rows) < 2 or self.rows[0].terms or self.rows[-1].level is not None:
            raise ValueError("a plan needs a first row that is given and a last row that is the result")
        calls, used = 0, set()
        outputs: set[Register] = set()
        for k, row in enumerate(self.rows):
            for register, value in row.terms:
                known = {"x": register.number < k, "xi": register.number < len(self.draws)}
                if register.number < 0 or not known.get(register.kind, register in outputs):
                    raise ValueError(f"row x{k} refers to {register}, which does not exist yet")
                if not math.isfinite(value):
                    raise ValueError(f"row x{k} (step {row.step}) has a coefficient of {value} for {register}")
                used.add(register)
            if k and not row.terms:
                raise ValueError(f"row x{k} is empty; only the first is given")
            if row.level is not None:
                outputs |= {Register(kind, calls) for kind in ("DU" if row.both else "D")}
                calls += 1
        for m, draw in enumerate(self.draws):
            if Register("xi", m) not in used:
                raise ValueError(f"noise xi{m} ({draw.sigma_from:g} to {draw.sigma_to:g}) is never used")

    @property
    def steps(self) -> int:
        """Number of schedule steps."""
        return len(self.sigmas) - 1

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """Level of every model call, in order."""
        return tuple(row.level for row in self.rows if row.level is not None)

    @cached_property
    def call_sigmas(self) -> npt.NDArray[np.float64]:
        """Contract sigma of every model call; read-only."""
        values = np.array([level.label for level in self.levels])
        values.setflags(write=False)
        return values

    @cached_property
    def call_steps(self) -> tuple[int, ...]:
        """The schedule step of every model call."""
        return tuple(row.step for row in self.rows if row.level is not None)

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
        alive: set[Register] = set()
        most, calls = 0, 0
        for k, row in enumerate(self.rows):
            alive |= {Register("x", k), *(r for r, _ in row.terms if r.kind == "xi" and self._outlives_a_call(r))}
            most = max(most, len(alive))
            alive = {r for r in alive if self.last_use.get(r, -1) > k or r == Register("x", k)}
            if row.level is not None:
                alive |= {Register(kind, calls) for kind in ("DU" if row.both else "D")}
                calls += 1
                most = max(most, len(alive))
        return most

    def _outlives_a_call(self, register: Register) -> bool:
        """Whether a model call lies between the rows that read a register."""
        readers = [k for k, row in enumerate(self.rows) if register in dict(row.terms)]
        return any(row.level is not None for row in self.rows[readers[0] : readers[-1]])

    @cached_property
    def program(self) -> Program:
        """The rows laid out in memory, as the executor runs them."""
        from ksched.program import lay_out

        return lay_out(self)

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

    def run(self, denoiser: Callable[..., Any], x: Any, noise: Callable[..., Any] | None = None) -> Any:
        """Run the plan on tensors.

        Parameters
        ----------
        denoiser : ``(x, sigma) -> denoised``, sigma a tensor of shape (batch,)
        x : start state, batch first
        noise : ``(sigma_from, sigma_to) -> tensor like x`` of unit variance; needed if the plan draws noise
        """
        from ksched.loop import drive
        from ksched.runner import Run

        return drive(Run(self, x, noise=noise), denoiser)

    def _table(self) -> dict[str, Any]:
        """All but the report, as plain data."""
        rows = [
            {
                "terms": [[str(r), v] for r, v in row.terms],
                "level": _pack(row.level),
                "step": row.step,
                "both": row.both,
            }
            for row in self.rows
        ]
        head = {"format": "ksched-plan", "version": 1, "sigmas": _pack(self.sigmas)}
        ends = {"start": _pack(self.start), "end": _pack(self.end), "draws": [_pack(draw) for draw in self.draws]}
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
        ValueError : text that is not such a plan
        """
        try:
            data = json.loads(text)
            if data["format"] != "ksched-plan" or data["version"] != 1:
                raise ValueError(f"format {data['format']!r}, version {data['version']!r}")
            rows = tuple(
                Row(
                    tuple((_register(name), float(value)) for name, value in row["terms"]),
                    Level(*_unpack(row["level"])) if row["level"] else None,
                    int(row["step"]),
                    bool(row["both"]),
                )
                for row in data["rows"]
            )
            draws = tuple(Draw(float(draw[0]), float(draw[1]), int(draw[2]), int(draw[3])) for draw in data["draws"])
            ends = Level(*_unpack(data["start"])), Level(*_unpack(data["end"]))
            sigmas = _unpack(data["sigmas"])
            report, noise_scale = dict(data.get("report", {})), float(data.get("noise_scale", 1.0))
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise ValueError(f"not a ksched plan in JSON, version 1: {error!r}") from error
        return cls(rows, draws, *ends, sigmas, report, noise_scale)

    def __str__(self) -> str:
        calls = [f"eval s={row.level.label:g}" if row.level is not None else "" for row in self.rows]
        width = max(14, 2 + max(map(len, calls)))
        lines = (f"x{k:<4}{calls[k]:<{width}}{form_text(row.terms)}" for k, row in enumerate(self.rows))
        return "\n".join(line.rstrip() for line in lines)


def form_text(terms: Iterable[tuple[Register, float]]) -> str:
    """A linear combination as people read it."""
    return "  ".join(f"{value:+.6f} {register}" for register, value in terms)


def _pack(values: tuple[Any, ...] | None) -> list[Any] | None:
    """Numbers for JSON, which has no infinity."""
    return values and [str(v) if isinstance(v, float) and math.isinf(v) else v for v in values]  # type: ignore[return-value]


def _unpack(values: list[Any]) -> tuple[float, ...]:
    return tuple(float(v) for v in values)


def _register(name: str) -> Register:
    kind = name.rstrip("0123456789")
    return Register(kind, int(name[len(kind) :]))
