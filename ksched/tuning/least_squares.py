"""Fits through a model by least squares, with differences of whole runs in place of gradients.

A run's result is a smooth function of a plan's numbers, and there are few numbers: 17 for free rows at four calls, 32
at six. So the derivative of all results costs as many further runs, and each of them only the calls after the number
that was moved. With these derivatives the method of Gauss and Newton needs three or four steps where a method that
knows only the gradient of the error needs dozens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ksched.tuning.fit import Family, Problem, bounded
from ksched.types import Array

__all__ = ["least_squares"]

_STEP = 0.01  # by which a number is moved
_DAMPING, _LESS, _MORE, _TRIES = 1e-3, 3.0, 5.0, 4  # of a step: at first, after a good one, after a bad one
_ENOUGH = 0.003  # gain in the loss, relative to a typical error; the fit ends with a smaller one
_VALUES = 4096  # of an item, whose derivatives are kept; of more, these are drawn by chance


@torch.no_grad()
def least_squares(
    family: Family,
    problem: Problem,
    start: Array,
    *,
    calls: int,
    rounds: int = 6,
    progress: Callable[[float], object] | None = None,
) -> Array:
    """Numbers of a family with a small mean error on runs of a model; the model need not be differentiable.

    Gauss-Newton steps with damping (Levenberg 1944, Marquardt 1963), on squares that are weighted so that their sum
    follows the mean of the errors: an item that ends in another mode does not count by its square.

    Parameters
    ----------
    problem : Problem
        One model, with states of shape (items, dimension).
    start : ndarray of float64
        Numbers to start from. A change of one of them by 0.01 should be small, and not lost in rounding.
    calls : int
        Largest number of model calls, counted per item. If one round would take more, the result is ``start``.
    rounds : int
        Largest number of steps.
    progress : callable or None
        Called with the loss after every step.
    """
    numbers, damping, runs = np.array(start, dtype=np.float64), _DAMPING, _Runs(family, problem)
    if runs.calls_of_a_round(numbers) > calls:
        return numbers
    here = runs.run(numbers)
    for _ in range(rounds):
        begun = runs.spent
        matrix, slope = _normal_equations(here, *runs.slopes(numbers, here))
        for _ in range(_TRIES):
            change = -torch.linalg.solve(matrix + damping * _unit(matrix), slope).numpy()
            there = runs.run(numbers + change, here)
            if there.loss < here.loss:
                break
            damping *= _MORE
        else:
            break
        gained = (here.loss - there.loss) / here.errors.nanmedian().item()
        numbers, here, damping = numbers + change, there, damping / _LESS
        if progress is not None:
            progress(here.loss)
        if gained < _ENOUGH or 2 * runs.spent - begun > calls:  # another round would cost too much
            break
    return numbers


@dataclass(frozen=True)
class _Run:
    """A run of all items, with what a later run may reuse.

    Attributes
    ----------
    apart : Tensor
        Some values of the result less those of the exact result, over the spread and the root of how many they are:
        (items, values). The sum of their squares is that of an error.
    noise : Tensor
        What the noise assumed in each prediction adds to every result: (calls,).
    errors : Tensor
        Relative error of every item.
    """

    levels: torch.Tensor
    rows: torch.Tensor
    known: list[torch.Tensor]
    apart: torch.Tensor
    noise: torch.Tensor
    errors: torch.Tensor

    @property
    def loss(self) -> float:
        """Mean of the bounded errors."""
        return bounded(self.errors).mean().item()


class _Runs:
    """Runs of a model with numbers of a family.

    Attributes
    ----------
    spent : int
        Model calls so far, counted per item.
    """

    def __init__(self, family: Family, problem: Problem) -> None:
        self._family, self._problem, self.spent = family, problem, 0
        dimension = problem.start.shape[-1]
        drawn = torch.randperm(dimension, generator=torch.Generator().manual_seed(0))[:_VALUES]
        self._kept = drawn.sort().values.to(problem.start.device)

    def calls_of_a_round(self, numbers: Array) -> float:
        """About how many model calls a round takes: half a run for every number."""
        return len(numbers) * len(self._problem.start) * len(self._family.rows(torch.from_numpy(numbers))[0]) / 2

    def run(self, numbers: Array, before: _Run | None = None) -> _Run:
        """A run; predictions before the first difference from another run are taken from there."""
        problem = self._problem
        levels, rows = (part.to(problem.start.dtype) for part in self._family.rows(torch.from_numpy(numbers)))
        first = [] if before is None else before.known[: _shared(levels, rows, before)]
        states, known = problem.run(levels, rows, first)
        self.spent += (len(levels) - len(first)) * len(problem.start)
        apart = (states[-1] - problem.ends)[:, self._kept] / problem.spread / math.sqrt(len(self._kept))
        errors = problem.errors_of(states[-1], rows)
        return _Run(levels, rows, known, apart, problem.noise * rows[-1, 1:], errors)

    def slopes(self, numbers: Array, here: _Run) -> tuple[torch.Tensor, torch.Tensor]:
        """Derivatives of ``apart`` and of ``noise`` in every number, by differences."""
        apart, noise = [], []
        for step in _STEP * np.eye(len(numbers)):
            moved = self.run(numbers + step, here)
            apart.append((moved.apart - here.apart) / _STEP)
            noise.append((moved.noise - here.noise) / _STEP)
        return torch.stack(apart), torch.stack(noise)


def _shared(levels: torch.Tensor, rows: torch.Tensor, other: _Run) -> int:
    """How many predictions a run shares with another: those up to the first level or state that differs."""
    same = (levels == other.levels) & (rows == other.rows).all(1)[:-1]
    return int(same.cumprod(0).sum())


def _normal_equations(here: _Run, slopes: torch.Tensor, of_noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The matrix and the slope of the weighted squares; arguments as from `_Runs.slopes`."""
    known = here.errors.isfinite() & slopes.isfinite().all(2).all(0)  # other items exploded, and say nothing
    weight = torch.where(known, 1 / (here.errors * (1 + here.errors.square()).sqrt()), 0.0)  # asinh' over the error
    slopes, apart = (torch.where(known[:, None], part, 0.0) for part in (slopes, here.apart))
    weighted = (slopes * weight[:, None]).flatten(1)
    matrix = weighted @ slopes.flatten(1).T + weight.sum() * of_noise @ of_noise.T
    slope = weighted @ apart.flatten() + weight.sum() * of_noise @ here.noise
    return matrix.double().cpu(), slope.double().cpu()


def _unit(matrix: torch.Tensor) -> torch.Tensor:
    """The unit matrix, as large as a matrix is on average along its diagonal."""
    return matrix.diagonal().mean() * torch.eye(len(matrix), dtype=matrix.dtype)
