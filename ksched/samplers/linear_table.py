"""Linear methods with free rows, which need not be means, and with separate levels given to the model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

from ksched.plan.protocol import SamplerContext, Vector
from ksched.processes import Level, Process
from ksched.samplers.linear_multistep import sigmas_of
from ksched.schedules.grid import Grid

__all__ = ["LinearTable", "linear"]


V = TypeVar("V", bound=Vector)


@dataclass(frozen=True)
class LinearTable:
    """Noise levels, the levels given to the model, and free rows, independent of process and data scale.

    Attributes
    ----------
    levels : tuple of float
        Levels of the states, as in `Table`; falling to 0, one more than the number of calls.
    told : tuple of float
        The level given to the model at each call, in the same unit.
    rows : tuple of tuple of float
        For each step, the factor on the state, then the weights of all predictions up to that step's. They hold between
        flow states (1 - s) * x0 + s * eps of data of standard deviation 1, at the levels given to the model.

    Raises
    ------
    ValueError
        For levels that do not fall to 0, a row of the wrong length, a number that is not finite.
    """

    levels: tuple[float, ...]
    told: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        levels, calls = self.levels, len(self.levels) - 1
        if not all(a > b for a, b in pairwise(levels)) or calls < 1 or levels[-1] != 0:
            raise ValueError(f"levels of a table must fall strictly to 0; got {levels}")
        if len(self.told) != calls or not all(level > 0 for level in self.told):
            raise ValueError(f"told must have one level above 0 for each of {calls} calls; got {self.told}")
        if [len(row) for row in self.rows] != list(range(2, calls + 2)):
            raise ValueError(f"rows of a table of {calls} calls must have 2, 3, 4, ... numbers; got {self.rows}")
        if not all(math.isfinite(value) for row in self.rows for value in row):
            raise ValueError("rows of a table must be finite")

    @property
    def last(self) -> tuple[float, ...]:
        """Weights of all predictions in the last step, which are those in the result if it does not read its state."""
        return self.rows[-1][1:]

    @property
    def lowest(self) -> float:
        """The lowest level given to the model."""
        return min(self.told)

    @property
    def calls(self) -> int:
        """Number of model calls."""
        return len(self.rows)

    def sigmas(self, process: Process, data_std: float = 1.0) -> list[float]:
        """The levels as contract sigmas of a process; the first is the process's largest, where a run starts."""
        return sigmas_of(self.levels, process, data_std)

    def told_levels(self, process: Process, data_std: float = 1.0) -> list[Level]:
        """The levels given to the model, as levels of a process; the one for the first level is its largest too."""
        first, *others = self.told
        begins = process.sigma_max if first == self.levels[0] else sigmas_of((1.0, first, 0.0), process, data_std)[1]
        sigmas = [begins, *sigmas_of((1.0, *others, 0.0), process, data_std)[1:-1]]
        return [process.level(sigma) for sigma in sigmas]

    def run(self, run: SamplerContext[V], grid: Grid, x: V, data_std: float = 1.0) -> V:
        """Run the table on its levels, for data of a standard deviation."""
        return linear(run, grid, x, table=self, data_std=data_std)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, which has no infinity."""
        columns = {"levels": self.levels, "told": self.told}
        numbers = {
            name: ["inf" if math.isinf(level) else level for level in levels] for name, levels in columns.items()
        }
        return {**numbers, "rows": [list(row) for row in self.rows]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LinearTable:
        """The table from the data of `to_dict`."""
        levels, told = (tuple(map(float, data[name])) for name in ("levels", "told"))
        return cls(levels, told, tuple(tuple(map(float, row)) for row in data["rows"]))


def linear(run: SamplerContext[V], grid: Grid, x: V, *, table: LinearTable, data_std: float = 1.0) -> V:
    """Run the rows of a table on its levels.

    One model call per step, deterministic. Every linear method with one call per step is this with suitable rows. It is
    exact for a constant prediction only if the rows make it so.

    Parameters
    ----------
    table : LinearTable
        Rows, and the levels given to the model.
    data_std : float
        Standard deviation of the data.
    """
    unit_std = data_std / grid.process.noise_scale
    told = table.told_levels(grid.process, data_std)
    scales = [level.alpha * unit_std + level.sigma for level in (*told, grid.levels[-1])]
    known: list[V] = []
    for i, (s, _) in enumerate(grid.steps()):
        known.append(run.denoise(x, s, told[i]))
        x = (table.rows[i][0] * scales[i + 1] / scales[i]) * x + _weighted(table.rows[i][1:], known) * (
            scales[i + 1] / unit_std
        )
    return x


def _weighted(weights: Sequence[float], known: Sequence[V]) -> V:
    total = weights[0] * known[0]
    for weight, denoised in zip(weights[1:], known[1:], strict=True):
        total = total + weight * denoised
    return total
