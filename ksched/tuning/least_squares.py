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

from ksched.tuning.fit import Family, Problem
from ksched.types import Array

__all__ = ["least_squares"]

_STEP = 0.01  # by which a number is moved
_DAMPING, _LESS, _MORE, _TRIES = 1e-3, 3.0, 5.0, 4  # of a step: at first, after a good one, after a bad one
_ENOUGH = 0.003  # gain in the loss, relative to a typical error; the fit ends with a smaller one
_VALUES = 4096  # of an item, whose derivatives are kept; of more, these are drawn by chance


@dataclass(frozen=True)
class _Run:
    """A run of all items, with what a later run may reuse.

    Attributes
    ----------
    apart : Tensor
        Result less exact result, over the spread, divided by the root of the dimension: (items, dimension).
    noise : Tensor
        What the noise assumed in each prediction adds to every result: (calls,).
    """

    levels: torch.Tensor
    rows: torch.Tensor
    known: list[torch.Tensor]
    apart: torch.Tensor
    noise: torch.Tensor

    @property
    def errors(self) -> torch.Tensor:
        """Relative error of every item, as `Problem.errors`."""
        return (self.apart.square().sum(1) + self.noise.square().sum() + 1e-12).sqrt()

    @property
    def loss(self) -> float:
        """Mean error, in which errors above 1 count by their logarithm, as in `Problem.means`."""
        return self.errors.nan_to_num(nan=1e6, posinf=1e6).asinh().mean().item()


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

    Gauss-Newton steps with damping (Levenberg, Marquardt), on squares that are weighted so that their sum follows the
    mean of the errors: an item that ends in another mode does not count by its square.

    Parameters
    ----------
    problem : Problem
        One model, with states of shape (items, dimension).
    start : ndarray of float64
        Numbers to start from. A change of one of them by 0.01 should be small, and not lost in rounding.
    calls : int
        Largest number of model calls, counted per item.
    rounds : int
        Largest number of steps.
    progress : callable or None
        Called with the loss after every step.
    """
    numbers, damping, spent = np.array(start, dtype=np.float64), _DAMPING, 0
    if len(numbers) * len(problem.start) * len(family.rows(torch.from_numpy(numbers))[0]) / 2 > calls:
        return numbers
    dimension = problem.start.shape[-1]
    drawn = torch.randperm(dimension, generator=torch.Generator().manual_seed(0))[:_VALUES]
    kept = drawn.sort().values.to(problem.start.device)

    def run(at: Array, before: _Run | None = None) -> _Run:
        nonlocal spent
        found, made = _run(problem, *family.rows(torch.from_numpy(at)), before)
        spent += made * len(problem.start)
        return found

    def moved(k: int) -> tuple[torch.Tensor, torch.Tensor]:
        at = numbers.copy()
        at[k] += _STEP
        found = run(at, here)
        return (found.apart[:, kept] - here.apart[:, kept]) / _STEP, (found.noise - here.noise) / _STEP

    here = run(numbers)
    for _ in range(rounds):
        begun = spent
        slopes = [torch.stack(part) for part in zip(*map(moved, range(len(numbers))), strict=True)]
        normal, slope = _normal_equations(here, here.apart[:, kept], *slopes)
        size = normal.diagonal().mean() * torch.eye(len(normal), dtype=normal.dtype)
        for _ in range(_TRIES):
            change = -torch.linalg.solve(normal + damping * size, slope).numpy()
            there = run(numbers + change, here)
            if there.loss < here.loss:
                break
            damping *= _MORE
        else:
            break
        gained = (here.loss - there.loss) / here.errors.nanmedian().item()
        numbers, here, damping = numbers + change, there, damping / _LESS
        if progress is not None:
            progress(here.loss)
        if gained < _ENOUGH or 2 * spent - begun > calls:  # another round would cost too much
            break
    return numbers


def _run(problem: Problem, levels: torch.Tensor, rows: torch.Tensor, before: _Run | None) -> tuple[_Run, int]:
    """A run, and how many calls it took: those before the first difference from another run are taken from there."""
    start, known, made = problem.start, list[torch.Tensor](), 0
    state = start
    for i, level in enumerate(levels):
        if before is not None and made == 0 and level == before.levels[i] and torch.equal(rows[i], before.rows[i]):
            known.append(before.known[i])
        else:
            known.append(problem.denoise(state, level))
            made += 1
        state = rows[i + 1, 0] * start + torch.stack(known, -1) @ rows[i + 1, 1 : i + 2]
    apart = (state - problem.ends) / problem.spread / math.sqrt(state.shape[-1])
    return _Run(levels, rows, known, apart, problem.noise * rows[-1, 1:]), made


def _normal_equations(
    here: _Run, apart: torch.Tensor, slopes: torch.Tensor, of_noise: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The matrix and the slope of the weighted squares.

    Parameters
    ----------
    apart : Tensor
        Those values of ``here.apart`` that are kept.
    slopes, of_noise : Tensor
        Derivatives of ``apart`` and of ``here.noise`` in every number.
    """
    weight = 1 / (here.errors * (1 + here.errors.square()).sqrt())  # of an item: the slope of asinh, over its error
    known = here.errors.isfinite() & slopes.isfinite().flatten(2).all(2).all(0)  # others exploded, and say nothing
    weight, slopes = torch.where(known, weight, 0.0), torch.where(known[:, None], slopes, 0.0)
    apart = torch.where(known[:, None], apart, 0.0)
    share = here.apart.shape[1] / apart.shape[1]
    weighted = (slopes * weight[:, None] * share).flatten(1)
    normal = weighted @ slopes.flatten(1).T + weight.sum() * of_noise @ of_noise.T
    return normal.double().cpu(), (weighted @ apart.flatten() + weight.sum() * of_noise @ here.noise).double().cpu()
