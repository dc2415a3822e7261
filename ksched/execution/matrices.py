"""A plan as one matrix per model call: plain numbers that any array library can run.

Between two model calls, everything is linear in the run's registers, the model's answer and the noises.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ksched.execution.layout import DENOISED, UNCOND, Segment, layout
from ksched.plan.plan import Plan
from ksched.types import Array

__all__ = ["Matrices", "product"]


def product(matrix: Iterable[Any], values: Sequence[Any]) -> tuple[Any, ...]:
    """Matrix times arrays, written out as sums: a compiler fuses them into one pass, but not a matrix product."""
    rows = []
    for weights in matrix:
        total = weights[0] * values[0]
        for j, value in enumerate(values[1:], 1):
            total = total + weights[j] * value
        rows.append(total)
    return tuple(rows)


@dataclass(frozen=True)
class Matrices:
    """The matrices of a plan.

    Attributes
    ----------
    plan : Plan
        The plan.

    Notes
    -----
    A matrix has one row for each register of the next state. Its columns are the weights of the present state's
    registers, of ``denoised``, of ``uncond`` if `both`, and of the noises. Register 0 is the state that the model
    receives, and finally the result. An unused register has a row of zeros.
    """

    plan: Plan

    @property
    def nfe(self) -> int:
        """Number of model calls (NFE)."""
        return self.plan.nfe

    @cached_property
    def registers(self) -> int:
        """Number of arrays in a state: the most that must be held during a model call."""
        return max(len(self._places(call)) for call in range(self.nfe + 1))

    @cached_property
    def both(self) -> bool:
        """Whether the model must return (denoised, uncond), at every call."""
        return layout(self.plan).both

    @cached_property
    def draws(self) -> int:
        """Number of noises that a step takes: the most that any step draws."""
        return max(len(self.turn(call).draws) for call in range(-1, self.nfe))

    @cached_property
    def first(self) -> Array:
        """The matrix from the start and its noises to the first state; float64, (registers, 1 + draws), read-only."""
        whole = self._matrix(-1)
        return _frozen(np.delete(whole, np.s_[1 : whole.shape[1] - self.draws], axis=1))

    @cached_property
    def matrices(self) -> Array:
        """The matrix of every call; float64, (nfe, registers, registers + 1 + both + draws), read-only."""
        found = [self._matrix(call) for call in range(self.nfe)]
        return _frozen(np.array(found).reshape(self.nfe, self.registers, -1))

    @cached_property
    def with_sigmas(self) -> Array:
        """`matrices`, each with the call's sigma as an additional last column; read-only."""
        column = np.broadcast_to(self.plan.call_sigmas.reshape(-1, 1, 1), (self.nfe, self.registers, 1))
        return _frozen(np.concatenate([self.matrices, column], axis=2))

    def turn(self, call: int) -> Segment:
        """The work after a call; before the first call if ``call`` is -1."""
        return layout(self.plan).segments[call] if call >= 0 else layout(self.plan).before

    def _places(self, call: int) -> list[int]:
        """The buffers of the registers held during a call, or at the end; the state's buffer first."""
        program = layout(self.plan)
        state = program.states[call]
        held = program.held[call] if call < self.nfe else ()
        return [state, *(place for _, place in held if place != state)]

    def _matrix(self, call: int) -> Array:
        """The matrix of a turn: its operations applied to unit vectors, one per column."""
        turn, output = self.turn(call), self.registers
        noises = output + 1 + self.both
        column = {place: k for k, place in enumerate(self._places(call) if call >= 0 else [turn.x])}
        column |= {place: noises + k for k, (_, place) in enumerate(turn.draws)} | {DENOISED: output}
        if turn.both:
            column[UNCOND] = output + 1
        unit = np.eye(noises + self.draws)
        vectors = {source: unit[k] for source, k in column.items()}
        for operation in turn.operations:
            vectors[operation.out] = np.sum([value * vectors[source] for source, value in operation.terms], axis=0)
        matrix = np.zeros((self.registers, len(unit)))
        for k, place in enumerate(self._places(call + 1)):
            matrix[k] = vectors[place]
        return matrix


def _frozen(values: Array) -> Array:
    values.setflags(write=False)
    return values
