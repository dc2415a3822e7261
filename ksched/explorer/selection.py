"""The plans of a page: all combinations of some processes, schedules, samplers and step counts, plus single plans."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ksched.names.enums import NoiseSchedule
from ksched.options import check_options
from ksched.plan.plan import Plan
from ksched.processes import EDM, VP, Flow, Process
from ksched.samplers.registry import samplers
from ksched.samplers.spec import SamplerSpec
from ksched.schedules.grid import Grid
from ksched.schedules.select import calculate_sigmas

__all__ = ["Case", "Selection", "options_text"]


class Case(NamedTuple):
    """A plan of a page, with its names in the page's menus.

    Attributes
    ----------
    process, schedule, sampler : str
        Names.
    steps : int
        Number of schedule steps.
    variant : str
        Options with values other than their defaults, as text.
    plan : Plan
        The plan.
    """

    process: str
    schedule: str
    sampler: str
    steps: int
    variant: str
    plan: Plan

    @property
    def names(self) -> tuple[str, str, str, int, str]:
        """All fields except the plan."""
        return self[:5]


def options_text(options: Mapping[str, Any]) -> str:
    """Format options for the page: ``eta=0.5 order=2``."""
    return " ".join(f"{name}={_value_text(value)}" for name, value in options.items())


def _value_text(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ",".join(map(_value_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _default_processes() -> dict[str, Process]:
    return {"vp": VP(), "edm": EDM(), "flow": Flow()}


@dataclass(frozen=True)
class Selection:
    """The plans that a page stores.

    Attributes
    ----------
    processes : mapping of str to Process
        Processes by name.
    schedules : sequence of NoiseSchedule
        Schedules that are stored with every sampler that has a plan, and with all values of eta.
    steps : sequence of int
        Numbers of schedule steps.
    etas : sequence of float
        Values of the option eta in addition to its default, for samplers that have it.
    few : sequence of SamplerType
        Samplers that are stored with all other schedules too, with their default options.
    more : sequence of Case
        Further single plans.
    """

    processes: Mapping[str, Process] = field(default_factory=_default_processes)
    schedules: tuple[str, ...] = ("simple", "karras", "exponential", "beta")
    steps: tuple[int, ...] = (5, 10, 20)
    etas: tuple[float, ...] = (0.0, 0.5, 1.0)
    few: tuple[str, ...] = ("euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde", "uni_pc")
    more: tuple[Case, ...] = ()

    def cases(self) -> Iterator[Case]:
        """Yield every plan once."""
        seen = set()
        for case in self._product():
            seen.add(case.names)
            yield case
        for case in self.more:
            if case.names not in seen:
                seen.add(case.names)
                yield case

    def _product(self) -> Iterator[Case]:
        specs = [spec for spec in samplers() if not spec.adaptive and not spec.levels]
        names = dict.fromkeys((*self.schedules, *map(str, NoiseSchedule if self.few else ())))
        for process, trained in self.processes.items():
            for schedule in names:
                whole = schedule in self.schedules
                chosen = [spec for spec in specs if (whole or spec.name in self.few) and spec.runs_on(trained)]
                for steps in self.steps:
                    grid = Grid.of(calculate_sigmas(schedule, steps, trained), trained)
                    for spec in chosen:
                        for options in self._variants(spec) if whole else ({},):
                            plan = spec.plan(grid, check_options(f"sampler {spec.name}", spec.options, options))
                            yield Case(process, schedule, spec.name, steps, options_text(options), plan)

    def _variants(self, spec: SamplerSpec) -> list[dict[str, Any]]:
        """Return the default options first, then the other values of eta."""
        eta = spec.own_options.get("eta")
        others = () if eta is None else (value for value in self.etas if value != eta.default)
        return [{}, *({"eta": value} for value in others)]
