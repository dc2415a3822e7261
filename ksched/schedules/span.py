"""The range of noise levels that a schedule covers, and entries of a training table."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Literal

import numpy as np

from ksched.processes import Process
from ksched.processes.base import check_process
from ksched.schedules.power import check_bounds
from ksched.types import Array

__all__ = ["Entries", "Span"]


#: whether a rule uses whole entries of the table: only for a discrete process ("auto"), never, or always
Entries = Literal["auto", "never", "always"]


@dataclasses.dataclass(frozen=True, eq=False)
class Span:
    """The part of the training range that a schedule uses."""

    process: Process
    sigma_min: float
    sigma_max: float

    @classmethod
    def of(cls, process: Process, sigma_min: float | None, sigma_max: float | None) -> Span:
        """The whole range of a process, or the part between two of its sigmas."""
        check_process(process)
        low, high = check_bounds(
            process.sigma_min if sigma_min is None else sigma_min, process.sigma_max if sigma_max is None else sigma_max
        )
        # allow rounding errors above the range, but not levels that were never trained
        if low < process.sigma_min * (1 - 1e-6) or high > process.sigma_max * (1 + 1e-6):
            raise ValueError(
                f"this schedule needs sigma_min and sigma_max in the training range, {process.sigma_min:.6g} to "
                f"{process.sigma_max:.6g}; got sigma_min={low:.6g}, sigma_max={high:.6g}. To leave the training range, "
                f"use "
                "karras, exponential or linear."
            )
        return cls(process, low, high)

    @cached_property
    def positions(self) -> tuple[float, float]:
        """Lowest and highest position in the table."""
        if (self.sigma_min, self.sigma_max) == (self.process.sigma_min, self.process.sigma_max):
            return self.process.end_positions
        low, high = self.process.position(np.array([self.sigma_min, self.sigma_max])).tolist()
        return low, high

    def crowded(self, steps: int) -> bool:
        """Whether the table has fewer entries than steps, so strides of whole entries do not fit."""
        low, high = self.positions
        return steps > (high - low + 1) * (1 + 1e-9)

    def spread(self, steps: int) -> Array:
        """Levels spaced evenly over the table, both ends included, for more steps than it has entries."""
        low, high = self.positions
        return self.at(np.linspace(high, low, steps))

    def at(self, positions: Array) -> Array:
        """Levels at positions in the table, then 0."""
        return self._finish(self.process.sigma_at_position(positions))

    def at_time(self, times: Array, process: Process | None = None) -> Array:
        """Levels at times, then 0."""
        return self._finish((process or self.process).sigma_at(times))

    def _finish(self, levels: Array) -> Array:
        """Levels and a final 0, clipped so that rounding neither leaves the span nor moves its upper end."""
        ended = np.zeros(len(levels) + 1)
        np.minimum(levels, self.sigma_max, out=ended[:-1])
        if ended[0] >= self.sigma_max * (1 - 1e-10):
            ended[0] = self.sigma_max
        return ended

    def whole(self, entries: Entries) -> bool:
        """Whether to use whole entries of the table."""
        return entries == "always" or (entries == "auto" and self.process.is_discrete)
