"""The law of each noisy step of a plan, given the states and predictions before it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

from ksched.plan.plan import Plan
from ksched.plan.rows import Register, form_text

__all__ = ["GaussianRow", "Transition", "read_without_noise", "transitions"]

Form = dict[Register, float]

# below this share of a state's noise, the noise that earlier states leave unknown is rounding
_NOTHING = 1e-7

_LOG_TAU = math.log(2 * math.pi)

# the start of a run whose state gets noise before the first model call
_GIVEN = Register("given", 0)


class GaussianRow(NamedTuple):
    """The law of one state, number by number: normal with mean ``mean`` and standard deviation ``std``.

    Attributes
    ----------
    state : int
        Index of the state as in `ksched.Trajectory`: the state of call k is k, and the result is the last.
    std : float
        Standard deviation of each number of the state, independently.
    mean : tuple of tuple
        (register, coefficient) pairs: state ``x``, prediction ``D`` and unconditional prediction ``U``, each with the
        index of its model call.
    """

    state: int
    std: float
    mean: tuple[tuple[Register, float], ...]


@dataclass(frozen=True)
class Transition:
    """The law of a noisy step's draws, given all earlier states of the run.

    Attributes
    ----------
    step : int
        Index of the schedule step.
    rows : tuple of GaussianRow
        The states that noise enters, in order, each given those before it; one for most samplers, several if noise
        enters between the model calls of a step.
    """

    step: int
    rows: tuple[GaussianRow, ...]

    @property
    def state(self) -> int:
        """Index of the state in which the step ends."""
        return self.rows[-1].state

    @property
    def mean(self) -> tuple[tuple[Register, float], ...]:
        """Mean of the state in which the step ends, as (register, coefficient) pairs."""
        return self.rows[-1].mean

    @cached_property
    def std(self) -> float:
        """Standard deviation of each number; the geometric mean over the rows if there are several."""
        return math.exp(math.fsum(math.log(row.std) for row in self.rows) / len(self.rows))

    @property
    def entropy(self) -> float:
        """Differential entropy, in nats, of a state of one number; n numbers have n times as much."""
        return len(self.rows) * (math.log(self.std) + (1 + _LOG_TAU) / 2)

    @cached_property
    def calls(self) -> tuple[int, ...]:
        """The model calls whose predictions the means read, in order."""
        return tuple(sorted({r.number for row in self.rows for r, _ in row.mean if r.kind != "x"}))

    def __str__(self) -> str:
        laws = (f"x{row.state} ~ N({form_text(row.mean)}, {row.std:.6g}^2)" for row in self.rows)
        return f"step {self.step}: " + "; ".join(laws)


def transitions(plan: Plan) -> tuple[Transition, ...]:
    """The law of each noisy step of a plan.

    Every state is a sum of earlier states, predictions and unit noises. Given a run up to a state, a noise that entered
    an earlier state is known as far as that state reveals it, and the rest is normal. If each step has fresh noise, the
    mean is the row without its noise. If a noise is used in several rows (`seeds_2`, `dpmpp_sde`, `sa_solver`), the law
    is the conditional of their joint normal law, so the log-probabilities add up to that of the run.

    Parameters
    ----------
    plan : Plan
        A plan of any sampler.

    Returns
    -------
    one law per step that draws noise, in order; none for a deterministic sampler. Noise that is added to the state of
    the first model call is not counted, because that state is the start of a run

    Raises
    ------
    ValueError
        For noise that is clipped at a limit, or that enters both the first and a later state: the law of a step is then
        not a normal law of independent numbers.
    """
    forms = list(_states(plan))
    _check_noises(plan, forms)
    rows = []
    innovations: list[tuple[Form, Form]] = []  # orthonormal combinations of noises, and their known values as forms
    for state, form in enumerate(forms):
        noises = {r: value for r, value in form.items() if r.kind == "xi"}
        if not state or not noises:
            continue
        mean = {r: value for r, value in form.items() if r.kind != "xi"}
        left, size = dict(noises), _length(noises)
        for direction, known in innovations:
            share = math.fsum(noises.get(r, 0.0) * value for r, value in direction.items())
            if share:
                _add(mean, known, share)
                _add(left, direction, -share)
        std = _length(left)
        if std <= _NOTHING * size:  # earlier states determine it completely
            continue
        terms = tuple((r, value) for r, value in _in_order(mean))
        rows.append(GaussianRow(state, std, terms))
        residual = {Register("x", state): 1 / std}
        _add(residual, mean, -1 / std)
        innovations.append(({r: value / std for r, value in left.items()}, residual))
        innovations = _needed(innovations, forms[state + 1 :])
    by_step = groupby(rows, key=lambda row: plan.call_steps[row.state - 1])
    return tuple(Transition(step, tuple(group)) for step, group in by_step)


def read_without_noise(plan: Plan) -> frozenset[int]:
    """The model calls whose predictions enter a state, or the result, for which no fresh noise is drawn."""
    drawn = {row.state for law in transitions(plan) for row in law.rows}
    fixed = (form for state, form in enumerate(_states(plan)) if state and state not in drawn)
    return frozenset(r.number for form in fixed for r in form if r.kind in ("D", "U"))


def _states(plan: Plan) -> Iterator[Form]:
    """The state of each model call, and the result, as sums of earlier states, predictions and noises."""
    forms: list[Form] = []  # form of each row
    calls = 0
    for k, row in enumerate(plan.rows):
        form: Form = {}
        for register, value in row.terms:
            _add(form, forms[register.number] if register.kind == "x" else {register: 1.0}, value)
        if row.level is not None:
            yield form
            forms.append({Register("x", calls): 1.0})
            calls += 1
        elif k == len(plan.rows) - 1:
            yield form
        else:
            forms.append(form or {_GIVEN: 1.0})


def _check_noises(plan: Plan, forms: list[Form]) -> None:
    """Raise unless all steps have normal laws."""
    for m, draw in enumerate(plan.draws):
        if draw.limit < math.inf:
            raise ValueError(
                f"the steps of this sampler must have normal laws, but noise xi{m} ({draw.sigma_from:g} to "
                f"{draw.sigma_to:g}) is clipped at {draw.limit:g} standard deviations; leave out the option that "
                f"limits it"
            )
    first = {r for r in forms[0] if r.kind == "xi"}
    if any(r in first or r == _GIVEN for form in forms[1:] for r in form):
        raise ValueError(
            "the steps of this sampler must have laws given its first state, but a noise of the first state enters a "
            "later state again"
        )


def _needed(innovations: list[tuple[Form, Form]], later: list[Form]) -> list[tuple[Form, Form]]:
    """The pairs in which a later state has a part."""
    read = {r for form in later for r in form if r.kind == "xi"}
    return [one for one in innovations if not read.isdisjoint(one[0])]


def _add(form: Form, other: Mapping[Register, float], factor: float) -> None:
    """Add a multiple of another form to a form."""
    for register, value in other.items():
        total = form.get(register, 0.0) + factor * value
        if total:
            form[register] = total
        else:
            form.pop(register, None)


def _length(form: Form) -> float:
    return math.sqrt(math.fsum(value * value for value in form.values()))


_KINDS = ("x", "D", "U")


def _in_order(form: Form) -> list[tuple[Register, float]]:
    """Terms in order: states, then predictions, the newest first."""
    return sorted(form.items(), key=lambda term: (_KINDS.index(term[0].kind), -term[0].number))
