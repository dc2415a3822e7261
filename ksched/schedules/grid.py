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


# A method of order n takes ratios of levels to powers of about n.
_SMALLEST, _LARGEST = 1e-60, 1e60


def as_numbers(sigmas: ArrayLike) -> Array:
    """A new one-dimensional float64 array of at least one number."""
    try:
        values = np.asarray(sigmas, dtype=np.float64).copy()  # asarray, because tensors refuse array
    except (TypeError, ValueError) as error:
        raise TypeError(f"sigmas must be a list of numbers; got {sigmas!r}") from error
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"sigmas must be one list of at least one number; got shape {values.shape}")
    return values


def check_sigmas(sigmas: ArrayLike, limit: float) -> Array:
    """Noise levels as a new float64 array: finite, strictly decreasing, >= 0, the first at most ``limit``.

    Raises
    ------
    TypeError : not numbers
    ValueError : anything else; the message names the first offending index and value
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
                f"sigmas must be 0 or between {_SMALLEST:g} and {_LARGEST:g}, or their powers are no numbers; got "
                f"sigmas[{i}]={value:g}"
            )
        if i and value >= values[i - 1]:
            raise ValueError(
                f"sigmas must be strictly decreasing; got sigmas[{i - 1}]={values[i - 1]}, sigmas[{i}]={value}. "
                "They are run exactly as given: sort them or remove repeated levels yourself."
            )
    if values[0] > limit:
        raise ValueError(f"sigmas must be at most {limit:g} on this process; got sigmas[0]={values[0]}")
    return values


@dataclass(frozen=True)
class Grid:
    """Levels of one run on one process.

    Attributes
    ----------
    process : gives the levels between those of the grid too, for samplers with intermediate stages
    levels : one more than there are steps, from noise to data
    """

    process: Process
    levels: tuple[Level, ...]

    @classmethod
    def of(cls, sigmas: ArrayLike, process: Process) -> Grid:
        """Grid of contract sigmas, exactly as given.

        Raises
        ------
        TypeError, ValueError : sigmas that are not finite, strictly decreasing and >= 0 (see `check_sigmas`)
        """
        values = check_sigmas(sigmas, process.sigma_limit)
        return cls(process, tuple(process.level(float(value)) for value in values))

    def steps(self, levels: Sequence[Level] | None = None) -> Iterator[tuple[Level, Level]]:
        """(level left, level reached) of every step; of other levels than its own, if a method has some."""
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
        """`steps` with the value of each dial there: options that may be one number, or one per step of the grid.

        Where a method has more levels than the grid, the steps between them go on with the last value.

        Raises
        ------
        ValueError : another number of values than the grid has steps
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
