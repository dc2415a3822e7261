"""Runs with their log-probabilities, and the same numbers recomputed for another network, or with gradients."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from numbers import Integral
from typing import Literal, Protocol

import torch

from ksched.execution.buffers import combine
from ksched.execution.layout import combination
from ksched.execution.run import Run
from ksched.plan.rows import Register
from ksched.policy.predictions import Predictions
from ksched.policy.trajectory import Trajectory
from ksched.policy.transitions import GaussianRow, Transition

__all__ = ["Reduction", "chosen", "density", "divergences", "log_probs", "recorded", "reduced"]

Reduction = Literal["sum", "mean"]


class Known(Protocol):
    """Predictions by register."""

    def __getitem__(self, register: Register, /) -> torch.Tensor: ...


class States(Protocol):
    """States by index."""

    def __getitem__(self, number: int, /) -> torch.Tensor: ...


@torch.no_grad()
def recorded(run: Run, laws: Sequence[Transition], predictions: Predictions) -> Trajectory:
    """Drive a run to its end and record it.

    Parameters
    ----------
    run : Run
        A run at its start.
    laws : sequence of Transition
        Laws of the plan's noisy steps.
    predictions : Predictions
        Of the model.
    """
    states: list[torch.Tensor] = []
    scores = []
    waiting = list(laws)
    while not run.done:
        state = run.registers.full_state()
        states.append(state)
        predictions.ask(run.nfe, state, run)
        if waiting and waiting[0].state == run.nfe:
            scores.append(_score(waiting.pop(0), [*states, run.registers.full_state()], predictions))
        _forget(predictions, waiting)
    states.append(run.registers.full_state())
    table = torch.stack(scores) if scores else states[0].new_zeros(0, len(states[0]))
    steps = tuple(law.step for law in laws)
    return Trajectory(tuple(states), table, steps, run.dtype, run.plan.digest, run.seeds)


def log_probs(
    path: Trajectory,
    laws: Sequence[Transition],
    predictions: Predictions,
    reduce: Reduction,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """Log-probabilities of the recorded states of some steps, shape (steps, batch)."""
    scores = []
    for law in _asked(path, laws, [predictions]):
        scores.append(_score(law, path.states, predictions, reduce, mask))
    return _stacked(scores, path)


def divergences(
    path: Trajectory,
    laws: Sequence[Transition],
    first: Predictions,
    second: Predictions,
    reduce: Reduction,
    mask: torch.Tensor | None,
) -> torch.Tensor:
    """KL divergence of one model's steps from another's, given the recorded states, (steps, batch)."""
    results = []
    for law in _asked(path, laws, [first, second]):
        total = None
        for row in law.rows:
            gap = _mean(row, path.states, first) - _mean(row, path.states, second)
            square = reduced((gap * (1 / row.std)).square() * 0.5, reduce, mask)
            total = square if total is None else total + square
        assert total is not None
        results.append(total)
    return _stacked(results, path)


def chosen(laws: Sequence[Transition], steps: Sequence[int] | None) -> list[int]:
    """Positions of the requested schedule steps among the noisy steps; all if none were requested.

    Raises
    ------
    TypeError, ValueError
        For steps that are not whole numbers, draw no noise, or occur twice.
    """
    if steps is None:
        return list(range(len(laws)))
    noisy = [law.step for law in laws]
    for step in steps:
        if isinstance(step, bool) or not isinstance(step, Integral):
            raise TypeError(f"steps must be whole numbers, indices of schedule steps; got {step!r}")
        if step not in noisy:
            raise ValueError(f"steps must be steps that draw noise, {', '.join(map(str, noisy))}; got {step}")
    if len(set(steps)) < len(steps):
        raise ValueError(f"steps must all be different; got {list(steps)}")
    return [noisy.index(int(step)) for step in steps]


def _asked(path: Trajectory, laws: Sequence[Transition], models: Sequence[Predictions]) -> Iterator[Transition]:
    """Steps in order, each once all models made the predictions that its mean reads; others are never requested."""
    waiting = list(laws)
    while waiting:
        law = waiting[0]
        for predictions in models:
            for call in law.calls:
                if call not in predictions:
                    predictions.ask(call, path.states[call])
        yield waiting.pop(0)
        for predictions in models:
            _forget(predictions, waiting)


def _forget(predictions: Predictions, waiting: Sequence[Transition]) -> None:
    """Drop predictions that no later step reads."""
    predictions.forget_before(min((call for law in waiting for call in law.calls[:1]), default=len(_EVER)))


_EVER = range(2**62)


def _stacked(rows: list[torch.Tensor], path: Trajectory) -> torch.Tensor:
    return torch.stack(rows) if rows else path.states[0].new_zeros(0, len(path))


def _score(
    law: Transition,
    states: Sequence[torch.Tensor],
    predictions: Predictions,
    reduce: Reduction = "sum",
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Log-probability of the states that a step formed, for each item."""
    total = None
    for row in law.rows:
        each = reduced(density(row, states, predictions), reduce, mask)
        total = each if total is None else total + each
    assert total is not None
    return total


def density(row: GaussianRow, states: States, predictions: Known) -> torch.Tensor:
    """Log-density of each number of a state."""
    error = (states[row.state] - _mean(row, states, predictions)) * (1 / row.std)
    return error.square() * -0.5 - (math.log(row.std) + math.log(2 * math.pi) / 2)


def _mean(row: GaussianRow, states: States, predictions: Known) -> torch.Tensor:
    """Mean of a state, computed by the same operations in the same order every time."""
    if not row.mean:
        return torch.zeros_like(states[row.state])
    read = [states[r.number] if r.kind == "x" else predictions[r] for r, _ in row.mean]
    terms = tuple((place, value) for place, (_, value) in enumerate(row.mean))
    return combine(read, combination(-1, terms))


def reduced(values: torch.Tensor, reduce: Reduction, mask: torch.Tensor | None) -> torch.Tensor:
    """Sum or mean over all axes but the batch, of the numbers that a mask selects.

    Halves are added to each other, so that every item is summed in the same order. The order of torch's own sum depends
    on the number of items.
    """
    if mask is not None:
        values = values * mask
    total = _folded(values)
    if reduce == "sum":
        return total
    count = math.prod(values.shape[1:]) if mask is None else _folded(mask.expand_as(values))
    return total / count


def _folded(values: torch.Tensor) -> torch.Tensor:
    """Sum over all axes but the batch."""
    values = values.reshape(len(values), math.prod(values.shape[1:]))
    if values.shape[1] == 0:
        return values.new_zeros(len(values))
    while values.shape[1] > 1:
        half = values.shape[1] // 2
        rest = values[:, 2 * half :]
        values = values[:, :half] + values[:, half : 2 * half]
        if rest.shape[1]:
            values = torch.cat([values, rest], 1)
    return values[:, 0]
