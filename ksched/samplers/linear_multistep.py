"""Linear multistep methods by their weights: one model call per step, and a mean of all predictions so far."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import numpy as np

from ksched.plan.protocol import SamplerContext, Vector
from ksched.processes import Level, Process
from ksched.samplers.blocks.steps import ddim
from ksched.schedules.grid import Grid

__all__ = ["Table", "ratio", "same_levels", "sigmas_of", "weighted"]


V = TypeVar("V", bound=Vector)


#: noise-to-signal ratio that stands for a start without signal where levels are laid out by its logarithm
_INFINITE = 100.0


def weighted(run: SamplerContext[V], grid: Grid, x: V, *, weights: Sequence[Sequence[float]]) -> V:
    """DDIM steps that use a weighted mean of all predictions so far instead of the last one.

    One model call per step, deterministic. Exact for a constant prediction, with any weights and on any process. Every
    linear method with one call per step has this form: all weights 0 is `euler`; the weights of `dpmpp_2m`, `lms`,
    `deis` or `exp_pc` follow from the levels.

    Parameters
    ----------
    weights : sequence of sequence of float
        One row per step, with one weight per earlier prediction; the step's own prediction gets 1 minus their sum.
    """
    known: list[V] = []
    for row, (s, t) in zip(weights, grid.steps(), strict=True):
        denoised = run.denoise(x, s)
        mean = (1 - sum(row)) * denoised
        for weight, earlier in zip(row, known, strict=True):
            mean = mean + weight * earlier
        x = ddim(s, t, x, mean)
        known.append(denoised)
    return x


def ratio(level: Level) -> float:
    """Noise-to-signal ratio of a level, in units of the process's noise scale; infinite for pure noise."""
    return level.sigma / level.alpha if level.alpha > 0 else math.inf


def same_levels(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two lists of contract sigmas agree, even if one was rounded to float32."""
    return len(a) == len(b) and bool(np.allclose(a, b, rtol=1e-5, atol=0))


def sigmas_of(levels: Sequence[float], process: Process, data_std: float) -> list[float]:
    """Levels of a table as contract sigmas; the first becomes the process's largest, and the last is 0."""
    lams = (-math.log(level * (data_std / process.noise_scale)) for level in levels[1:-1])
    return [process.sigma_max, *(process.level_at(lam).label for lam in lams), 0.0]


@dataclass(frozen=True)
class Table:
    """Noise levels and the weights of all predictions in each step, independent of process and data scale.

    Attributes
    ----------
    levels : tuple of float
        Noise-to-signal ratios, sigma / alpha, over the standard deviation of the data; falling, one more than the
        number of calls. The first is the start that the table was made for and may be infinite; the last is 0.
    weights : tuple of tuple of float
        Weights for `weighted`: one row per call, with one entry per earlier call.

    Raises
    ------
    ValueError
        For levels that do not fall to 0, a row of the wrong length, a number that is not finite.
    """

    levels: tuple[float, ...]
    weights: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        levels, rows = self.levels, [len(row) for row in self.weights]
        if not all(a > b for a, b in pairwise(levels)) or len(levels) < 2 or levels[-1] != 0:
            raise ValueError(f"levels of a table must fall strictly to 0; got {levels}")
        if rows != list(range(len(levels) - 1)):
            raise ValueError(f"rows of a table of {len(levels) - 1} calls must have 0, 1, 2, ... weights; got {rows}")
        if not all(math.isfinite(value) for row in self.weights for value in row):
            raise ValueError("weights of a table must be finite")

    @property
    def last(self) -> tuple[float, ...]:
        """Weights of all predictions in the final result."""
        row = self.weights[-1]
        return (*row, 1 - sum(row))

    @property
    def lowest(self) -> float:
        """The lowest level of a call."""
        return self.levels[-2]

    @property
    def calls(self) -> int:
        """Number of model calls."""
        return len(self.weights)

    def sigmas(self, process: Process, data_std: float = 1.0) -> list[float]:
        """The levels as contract sigmas of a process; the first is the process's largest, where a run starts."""
        return sigmas_of(self.levels, process, data_std)

    def run(self, run: SamplerContext[V], grid: Grid, x: V, data_std: float = 1.0) -> V:
        """Run the table on its levels; the standard deviation of the data does not matter to means."""
        return weighted(run, grid, x, weights=self.weights)

    def stretched(self, calls: int) -> Table:
        """The table interpolated to more calls: levels between this table's, and weights by age of a prediction.

        Each step stays exact for a constant prediction. A table of one call cannot be interpolated.
        """
        first = self.levels[0] if math.isfinite(self.levels[0]) else _INFINITE
        logs = np.log([first, *self.levels[1:-1]])
        ago = np.zeros((self.calls, max(self.calls, calls)))
        for i, row in enumerate(self.weights):
            ago[i, :i] = row[::-1]
        old, new = np.arange(self.calls), np.linspace(0, self.calls - 1, calls)
        levels = np.exp(np.interp(new, old, logs))[1:].tolist()
        between = np.array([np.interp(new, old, weights) for weights in ago.T])  # (calls ago, calls)
        rows = tuple(tuple(between[:i, i][::-1].tolist()) for i in range(calls))
        return Table((self.levels[0], *levels, 0.0), rows)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, which has no infinity."""
        levels = ["inf" if math.isinf(level) else level for level in self.levels]
        return {"levels": levels, "weights": [list(row) for row in self.weights]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Table:
        """The table from the data of `to_dict`."""
        return cls(tuple(map(float, data["levels"])), tuple(tuple(map(float, row)) for row in data["weights"]))
