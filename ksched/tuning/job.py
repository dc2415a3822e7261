"""The arguments of one call of `tune`, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from ksched.options import check_options, check_whole
from ksched.plan.plan import Plan
from ksched.plan.trace import trace
from ksched.processes import Process
from ksched.processes.base import check_process
from ksched.sampler import build_sampler
from ksched.samplers.auto import AutoEnd
from ksched.samplers.linear_multistep import Table
from ksched.samplers.linear_table import LinearTable
from ksched.samplers.registry import sampler_spec
from ksched.schedules.grid import Grid
from ksched.tuning.baselines import ENDS, of_sampler, untuned
from ksched.types import Array

__all__ = ["Job"]


@dataclass(frozen=True)
class Job:
    """The request of one call of `tune`."""

    steps: int
    process: Process
    sampler: str | None
    options: Mapping[str, Any]
    level: int
    end: AutoEnd | None
    guidance: float
    labels: Array | None
    items: int
    seed: int
    progress: bool
    consistent: bool

    def check(self) -> None:
        """Raise an error if an argument is out of range or the sampler cannot be tuned."""
        check_process(self.process)
        if self.level not in (0, 1, 2) or isinstance(self.level, bool):
            raise ValueError(f"level must be 0, 1 or 2; got {self.level!r}")
        if self.end not in (None, "integral", "denoised"):
            raise ValueError(f"end must be 'integral', 'denoised' or None; got {self.end!r}")
        if not isinstance(self.items, int) or not 16 <= self.items <= 4096:
            raise ValueError(f"items must be from 16 to 4096; got {self.items!r}")
        if not 1 <= self.guidance <= 100:
            raise ValueError(f"guidance must be from 1 to 100; got {self.guidance!r}")
        check_whole("seed", self.seed, 0)
        if self.sampler is None:
            check_options("tune", {}, self.options)
            return
        spec = sampler_spec(self.sampler)
        check_options(f"sampler {spec.name}", spec.options, self.options)
        if spec.adaptive or spec.uncond or spec.levels is not None:
            raise ValueError(f"sampler {spec.name} has no sigmas to tune; choose another sampler, or sampler=None")
        if build_sampler(self.sampler, "karras", 4, process=self.process, **self.options).plan.draws:
            raise ValueError(
                f"sampler {spec.name} draws noise, so no exact result can be fitted; pass eta=0 or another"
            )

    def untuned(self) -> dict[str, Plan]:
        """The plans to beat, by name."""
        if self.sampler is not None:
            return dict(of_sampler(self.sampler, self.options, self.steps, self.process))
        return dict(untuned(self.steps, self.process, self.end))

    def built(self, table: Table | LinearTable, data_std: float) -> Plan:
        """The plan of a table."""
        grid = Grid.of(table.sigmas(self.process, data_std), self.process)
        return trace(partial(table.run, data_std=data_std), grid, {})

    @property
    def frees(self) -> bool:
        """Whether rows need not take means of predictions."""
        return self.level > 0 and self.sampler is None and not self.consistent and self.end != "denoised"

    def ends(self) -> tuple[AutoEnd, ...]:
        """The kinds of end to try."""
        return ENDS if self.end is None else (self.end,)
