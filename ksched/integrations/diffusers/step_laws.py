"""The law of every iteration of a run: what a step of the sampler is as a probability."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from ksched.dialects.diffusers.iterations import Iterations
from ksched.integrations.diffusers.configuration import Configuration
from ksched.plan.plan import Plan
from ksched.policy.transitions import GaussianRow, transitions

__all__ = ["StepLaw", "step_laws"]


class StepLaw(NamedTuple):
    """The law of the state after an iteration, number by number, given what was before: normal.

    Attributes
    ----------
    std : of every number; 0 where no noise is drawn
    of_sample, of_output : the mean, as a combination of the state and of what the network makes of it
    of_earlier : and of the x0 predictions of the calls before, the newest first
    reads_states : whether it reads earlier states too
    of_x, of_said : the x0 prediction of the iteration, as a combination of the state and of what the network says
    length : of the step, in sigma
    """

    std: float
    of_sample: float
    of_output: float
    of_earlier: tuple[float, ...]
    reads_states: bool
    of_x: float
    of_said: float
    length: float


def step_laws(iterations: Iterations, configuration: Configuration) -> tuple[StepLaw, ...]:
    """The law of every iteration of a run from its first one.

    Raises
    ------
    ValueError : steps that are no combination of states and outputs: a class of diffusers that reads its output
        otherwise, predictions that are edited, a variance that the network predicts; noise that is cut off
    """
    edits = [name for name in ("thresholding", "clip_sample") if getattr(configuration.entries, name)]
    if edits:
        raise ValueError(f"steps have no normal law where predictions are edited: leave out {' and '.join(edits)}")
    request = iterations.method.request
    if iterations.read is not None or (request is not None and request.learned_variance is not None):
        raise ValueError(f"the steps of {configuration.entries.stock_class} have no law here: give a sampler by name")
    plan = iterations.method.whole
    rows = _rows(plan)
    return tuple(_law(iterations, number, rows.get(number + 1)) for number in range(plan.nfe))


@lru_cache(maxsize=32)
def _rows(plan: Plan) -> dict[int, GaussianRow]:
    """The laws of the noisy states of a plan; trainers ask for the same over and over."""
    return {row.state: row for step in transitions(plan) for row in step.rows}


def _law(iterations: Iterations, number: int, row: GaussianRow | None) -> StepLaw:
    """Of one iteration; None is a step without noise."""
    _, of_x, of_said = iterations.conversions[number]
    length = float(iterations.sigmas[number] - iterations.sigmas[number + 1])
    of_state, of_prediction, earlier, reads_states = 0.0, 0.0, dict[int, float](), False
    for (kind, at), value in row.mean if row else ():
        if at == number:
            of_state, of_prediction = (value, of_prediction) if kind == "x" else (of_state, value)
        elif kind == "D":
            earlier[number - 1 - at] = value
        else:
            reads_states = True
    before = tuple(earlier.get(age, 0.0) for age in range(max(earlier, default=-1) + 1))
    std, of_sample = (row.std if row else 0.0), of_state + of_prediction * of_x
    return StepLaw(std, of_sample, of_prediction * of_said, before, reads_states, of_x, of_said, length)
