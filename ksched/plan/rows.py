"""The parts of a plan: registers, draws and rows."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from ksched.processes import Level

__all__ = ["Draw", "Register", "Row", "form_text", "in_order", "most_held", "without_unused"]


class Register(NamedTuple):
    """A value that a row may use: state "x", output "D" or "U", or noise "xi", with its number."""

    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.kind}{self.number}"


class Draw(NamedTuple):
    """One unit-normal noise of a run, named by where in the run it acts, not by when it is requested.

    ``visit`` counts how often the run was noised up again before it (churn, restarts); ``stream`` separates independent
    noises of one interval. Numbers beyond ``limit`` are clipped to it; ``limit`` does not affect where the noise acts.
    """

    sigma_from: float
    sigma_to: float
    visit: int = 0
    stream: int = 0
    limit: float = math.inf


class Row(NamedTuple):
    """One state that the sampler forms.

    Attributes
    ----------
    terms : tuple of tuple
        (register, coefficient) pairs whose sum is the state; empty for the first state, which is given.
    level : Level or None
        The level that the model receives when it is called on the state; None if it is not called.
    step : int
        The schedule step that the state belongs to.
    both : bool
        Whether the call must return the unconditional prediction too.
    state_level : Level or None
        The level of the state, if the model receives another one; None if it is ``level``.
    """

    terms: tuple[tuple[Register, float], ...]
    level: Level | None
    step: int
    both: bool = False
    state_level: Level | None = None

    @property
    def at(self) -> Level | None:
        """The level of the state; None if the model is not called on it."""
        return self.level if self.state_level is None else self.state_level


def form_text(terms: Iterable[tuple[Register, float]]) -> str:
    """A linear combination, as printed."""
    return "  ".join(f"{value:+.6f} {register}" for register, value in terms)


_KINDS = ("x", "D", "U", "xi")  # the order of terms in a row


def in_order(terms: Mapping[Register, float]) -> tuple[tuple[Register, float], ...]:
    """Terms by kind (states, predictions, noises), newest first: one order, so equal tables are equal bit by bit."""
    return tuple(sorted(terms.items(), key=lambda term: (_KINDS.index(term[0].kind), -term[0].number)))


def most_held(rows: Sequence[Row], last_use: Mapping[Register, int]) -> int:
    """`Plan.live_registers` from rows and the last row that reads each register."""
    before = [0, *accumulate(row.level is not None for row in rows)]  # calls before each row
    first_use = {register: k for k, row in reversed([*enumerate(rows)]) for register, _ in row.terms}
    going = [0] * (len(rows) + 1)  # registers no longer needed after each row
    most = held = 0
    for k, row in enumerate(rows):
        formed = [Register("x", k)]
        for register, _ in row.terms:
            if register.kind == "xi" and first_use[register] == k and before[last_use[register]] > before[k]:
                formed.append(register)
        held += len(formed)
        most = max(most, held)
        for register in formed:
            going[last_use.get(register, k + 1)] += 1
        held -= going[k]
        if row.level is not None:
            outputs = [Register(kind, before[k]) for kind in ("DU" if row.both else "D")]
            for register in outputs:
                going[last_use.get(register, k + 1)] += 1
            held += len(outputs)
            most = max(most, held)
    return most


def without_unused(rows: list[Row], draws: Sequence[Draw]) -> tuple[list[Row], tuple[Draw, ...]]:
    """Rows without unused states on which the model is not called, and the noises that they still read."""
    used = _read(rows)
    while dead := [k for k, row in enumerate(rows[1:-1], 1) if row.level is None and Register("x", k) not in used]:
        left = set(range(len(rows))).difference(dead)
        rows = _renamed([row for k, row in enumerate(rows) if k in left], "x", dead)
        used = _read(rows)
    idle = [m for m in range(len(draws)) if Register("xi", m) not in used]
    return _renamed(rows, "xi", idle), tuple(draw for m, draw in enumerate(draws) if Register("xi", m) in used)


def _read(rows: list[Row]) -> set[Register]:
    return {register for row in rows for register, _ in row.terms}


def _renamed(rows: list[Row], kind: str, gone: list[int]) -> list[Row]:
    """Rows with the registers of a kind renumbered to close the gaps in ``gone``, which is sorted."""

    def shift(register: Register) -> Register:
        return (
            Register(kind, register.number - bisect_left(gone, register.number)) if register.kind == kind else register
        )

    return [row._replace(terms=tuple((shift(r), v) for r, v in row.terms)) for row in rows]
