"""Steps along straight lines in a coordinate of the process."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from ksched.processes import Level
from ksched.samplers.blocks.weights import V
from ksched.schedules.grid import Grid

__all__ = ["StraightLine"]


# ------------------------------------------------------------------------------------------------- methods in sigma
@dataclass(frozen=True)
class StraightLine:
    """Coordinates in which a state moves along a straight line while the prediction is constant.

    In ``x / scale`` and ``time`` the ODE is dx/dt = (x - D) / t: the slope (x - D) / t of a state is constant along a
    line, and time 0 is D itself. The coordinates use sigma / alpha for states ``x0 + sigma * eps``. They use flow's own
    sigma for flow processes and for runs from pure noise, where sigma / alpha is infinite.

    Attributes
    ----------
    grid : Grid
        Grid of the run.
    """

    grid: Grid

    @property
    def _flow(self) -> bool:
        return self.grid.process.is_flow or self.grid.levels[0].alpha == 0

    def scale(self, level: Level) -> float:
        """Divisor of a state at a level."""
        return level.alpha + level.sigma if self._flow else level.alpha

    def time(self, level: Level) -> float:
        """Time of a level."""
        return level.sigma / self.scale(level)

    def level(self, time: float) -> Level:
        """Level of a time above 0."""
        return self.grid.at(math.log((1 - time) / time) if self._flow else -math.log(time))

    def between(self, s: Level, t: Level) -> Level:
        """The level half way in log time, which DPM-Solver-2 uses."""
        return self.level(math.sqrt(self.time(s) * self.time(t)))

    def slope(self, level: Level, x: V, denoised: V) -> V:
        """Slope at a state."""
        return (x / self.scale(level) - denoised) / self.time(level)

    def slope_to(self, s: Level, t: Level, x: V, target: V) -> V:
        """Slope from a state at ``s`` to one at ``t``."""
        return (target / self.scale(t) - x / self.scale(s)) / (self.time(t) - self.time(s))

    def advance(self, s: Level, t: Level, slope: V) -> V:
        """The change that a slope makes to the state at ``t``."""
        return (self.scale(t) * (self.time(t) - self.time(s))) * slope

    def move(self, s: Level, t: Level, x: V, slope: V) -> V:
        """The state at ``t`` reached along a slope."""
        return (self.scale(t) / self.scale(s)) * x + self.advance(s, t, slope)

    def seen_from(self, s: Level, level: Level, mixed: V, denoised: V) -> V:
        """The prediction at ``s`` that has the slope found at ``level``.

        ``mixed`` is the prediction with which `ddim` went from ``s`` to ``level``; ``denoised`` is the answer there. A
        Runge-Kutta method in this time is therefore `ddim` with mixed predictions, and stores no slopes.
        """
        return mixed + (self.time(s) / self.time(level)) * (denoised - mixed)

    def nodes(self, s: Level, t: Level, levels: Iterable[Level]) -> list[float]:
        """Times of levels, scaled to 0 at ``s`` and 1 at ``t``."""
        start, length = self.time(s), self.time(t) - self.time(s)
        return [(self.time(level) - start) / length for level in levels]
