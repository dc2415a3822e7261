"""The probability distribution of each step of a run."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from ksched.dialects.diffusers.iterations import Iterations
from ksched.integrations.diffusers.configuration import Configuration
from ksched.plan.plan import Plan
from ksched.policy.transitions import GaussianRow, transitions

__all__ = ["StepLaw", "step_laws"]


class StepLaw(NamedTuple):
    """The normal distribution of the state after an iteration, elementwise, given everything before it.

    Attributes
    ----------
    std : float
        Standard deviation of every element; 0 where no noise is drawn.
    of_sample, of_output : float
        Coefficients of the state and of the network's output in the mean.
    of_earlier : tuple of float
        Coefficients of the x0 predictions of earlier calls, the newest first.
    reads_states : bool
        Whether the mean also depends on earlier states.
    of_x, of_said : float
        Coefficients of the state and of the network's output in the iteration's x0 prediction.
    length : float
        Length of the step in sigma.
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
    """The distribution of every iteration of a run, starting with its first one.

    Raises
    ------
    ValueError
        If a step is not a linear combination of states and outputs, because a diffusers class reads its output
        differently, predictions are edited or the network predicts the variance; or the noise is truncated.
    """
    edits = [name for name in ("thresholding", "clip_sample") if getattr(configuration.entries, name)]
    if edits:
        raise ValueError(f"steps are not normal if predictions are edited; leave out {' and '.join(edits)}")
    request = iterations.method.request
    if iterations.read is not None or (request is not None and request.learned_variance is not None):
        raise ValueError(f"the law of {configuration.entries.stock_class}'s steps is not known; name a sampler")
    plan = iterations.method.whole
    rows = _rows(plan)
    return tuple(_law(iterations, number, rows.get(number + 1)) for number in range(plan.nfe))


@lru_cache(maxsize=32)
def _rows(plan: Plan) -> dict[int, GaussianRow]:
    """The laws of a plan's noisy states, cached because trainers request the same plans repeatedly."""
    return {row.state: row for step in transitions(plan) for row in step.rows}


def _law(iterations: Iterations, number: int, row: GaussianRow | None) -> StepLaw:
    """The law of one iteration; ``row`` is None for a step without noise."""
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
