"""The validated noise levels of one run."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np

from ksched.options import per_step
from ksched.processes import Level, Process
from ksched.types import Array, ArrayLike

__all__ = ["Grid", "as_numbers", "check_sigmas"]


# A method of order n raises ratios of levels to powers of about n; these limits keep such powers finite.
_SMALLEST, _LARGEST = 1e-60, 1e60


def as_numbers(sigmas: ArrayLike) -> Array:
    """A new one-dimensional float64 array with at least one number."""
    try:
        values = np.asarray(sigmas, dtype=np.float64).copy()  # np.asarray works on tensors, np.array does not
    except (TypeError, ValueError) as error:
        raise TypeError(f"sigmas must be a list of numbers; got {sigmas!r}") from error
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"sigmas must be a one-dimensional list of at least one number; got shape {values.shape}")
    return values


def check_sigmas(sigmas: ArrayLike, limit: float) -> Array:
    """Noise levels as a new float64 array: finite, strictly decreasing, >= 0, the first at most ``limit``.

    Raises
    ------
    TypeError
        For values that are not numbers.
    ValueError
        For anything else; the message names the first offending index and value.
    """
    values = as_numbers(sigmas)
    for i, value in enumerate(values):
        if math.isnan(value) or (math.isinf(value) and not (i == 0 and value > 0 and limit == math.inf)):
            raise ValueError(
                f"sigmas must be finite (infinity only first, and only on VP(variance_preserving=True)); "
                f"got sigmas[{i}]={value}"
            )
        if value < 0:
            raise ValueError(f"sigmas must be >= 0; got sigmas[{i}]={value}")
        if 0 < value < _SMALLEST or _LARGEST < value < math.inf:
            raise ValueError(
                f"sigmas must be 0 or between {_SMALLEST:g} and {_LARGEST:g}, so that their powers stay finite; got "
                f"sigmas[{i}]={value:g}"
            )
        if i and value >= values[i - 1]:
            raise ValueError(
                f"sigmas must be strictly decreasing; got sigmas[{i - 1}]={values[i - 1]}, sigmas[{i}]={value}. "
                "They are run exactly as given: sort them and remove repeated levels first."
            )
    if values[0] > limit:
        raise ValueError(f"sigmas must be at most {limit:g} on this process; got sigmas[0]={values[0]}")
    return values


@dataclass(frozen=True)
class Grid:
    """Noise levels of one run on one process.

    Attributes
    ----------
    process : Process
        The process; it also gives levels between those of the grid, for samplers with intermediate stages.
    levels : tuple of Level
        Steps + 1 levels, from noise to data.
    """

    process: Process
    levels: tuple[Level, ...]

    @classmethod
    def of(cls, sigmas: ArrayLike, process: Process) -> Grid:
        """Grid of contract sigmas, used exactly as given.

        Raises
        ------
        TypeError, ValueError
            For sigmas that are not finite, strictly decreasing and >= 0 (see `check_sigmas`).
        """
        values = check_sigmas(sigmas, process.sigma_limit)
        return cls(process, tuple(process.level(float(value)) for value in values))

    def steps(self, levels: Sequence[Level] | None = None) -> Iterator[tuple[Level, Level]]:
        """(level left, level reached) of every step; of ``levels`` instead, for a method that uses others."""
        return itertools.pairwise(self.levels if levels is None else levels)

    @overload
    def steps_with(
        self, dial: float | Sequence[float], /, *, levels: Sequence[Level] | None = None
    ) -> Iterator[tuple[Level, Level, float]]: ...
    @overload
    def steps_with(
        self, dial: float | Sequence[float], other: float | Sequence[float], /, *, levels: Sequence[Level] | None = None
    ) -> Iterator[tuple[Level, Level, float, float]]: ...
    @overload
    def steps_with(
        self,
        dial: float | Sequence[float],
        other: float | Sequence[float],
        third: float | Sequence[float],
        /,
        *,
        levels: Sequence[Level] | None = None,
    ) -> Iterator[tuple[Level, Level, float, float, float]]: ...
    def steps_with(
        self, *dials: float | Sequence[float], levels: Sequence[Level] | None = None
    ) -> Iterator[tuple[Any, ...]]:
        """`steps` together with each dial's value at the step; a dial is one number, or one number per step.

        If a method has more levels than the grid, the steps between them reuse the last value.

        Raises
        ------
        ValueError
            If the number of values is not the number of steps of the grid.
        """
        values = [per_step(dial, len(self)) or (0.0,) for dial in dials]
        return (
            (s, t, *(each[min(i, len(each) - 1)] for each in values)) for i, (s, t) in enumerate(self.steps(levels))
        )

    def at(self, lam: float) -> Level:
        """The process's level with half log-SNR ``lam``."""
        return self.process.level_at(lam)

    def __len__(self) -> int:
        return len(self.levels) - 1
