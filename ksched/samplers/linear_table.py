"""One model call per step with free rows, which may be no means, and levels of their own that the model is told."""

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
    """Noise levels, what the model is told at them, and free rows, apart from any process and scale of data.

    Attributes
    ----------
    levels : as of `Table`: of the states, falling to 0, one more than there are calls
    told : what the model is told at every call, in the same unit
    rows : for every step what is kept of the state, then the weights of all predictions up to that of the step: between
        flow states (1 - s) * x0 + s * eps of data of standard deviation 1, at the levels that the model is told

    Raises
    ------
    ValueError : levels that do not fall to 0, rows of another length, a number that is not finite
    """

    levels: tuple[float, ...]
    told: tuple[float, ...]
    rows: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        levels, calls = self.levels, len(self.levels) - 1
        if not all(a > b for a, b in pairwise(levels)) or calls < 1 or levels[-1] != 0:
            raise ValueError(f"levels of a table must fall to 0; got {levels}")
        if len(self.told) != calls or not all(level > 0 for level in self.told):
            raise ValueError(f"a table of {calls} calls tells as many levels, above 0; got {self.told}")
        if [len(row) for row in self.rows] != list(range(2, calls + 2)):
            raise ValueError(f"a table of {calls} calls has rows of 2, 3, 4, ... numbers; got {self.rows}")
        if not all(math.isfinite(value) for row in self.rows for value in row):
            raise ValueError("rows of a table must be finite")

    @property
    def calls(self) -> int:
        """Number of model calls."""
        return len(self.rows)

    def sigmas(self, process: Process, data_std: float = 1.0) -> list[float]:
        """The levels as contract sigmas of a process; the first is its largest, which a run starts from."""
        return sigmas_of(self.levels, process, data_std)

    def told_levels(self, process: Process, data_std: float = 1.0) -> list[Level]:
        """What the model is told, as levels of a process; what is told of the first level is its largest too."""
        first, *others = self.told
        begins = process.sigma_max if first == self.levels[0] else sigmas_of((1.0, first, 0.0), process, data_std)[1]
        sigmas = [begins, *sigmas_of((1.0, *others, 0.0), process, data_std)[1:-1]]
        return [process.level(sigma) for sigma in sigmas]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, which has no infinity."""
        columns = {"levels": self.levels, "told": self.told}
        numbers = {
            name: ["inf" if math.isinf(level) else level for level in levels] for name, levels in columns.items()
        }
        return {**numbers, "rows": [list(row) for row in self.rows]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LinearTable:
        """The table that `to_dict` wrote."""
        levels, told = (tuple(map(float, data[name])) for name in ("levels", "told"))
        return cls(levels, told, tuple(tuple(map(float, row)) for row in data["rows"]))


def linear(run: SamplerContext[V], grid: Grid, x: V, *, table: LinearTable, data_std: float = 1.0) -> V:
    """The rows of a table, on its levels.

    One model call per step, deterministic. Every linear method of one call per step is this with some rows; it is exact
    for a constant prediction only if these make it so.

    Parameters
    ----------
    table : rows, and what the model is told
    data_std : standard deviation of the data
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
