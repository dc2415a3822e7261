"""Which plans a page stores: a product of processes, schedules, samplers and step counts, and single plans more."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ksched.names.enums import NoiseSchedule
from ksched.options import check_options
from ksched.plan.plan import Plan
from ksched.processes import EDM, VP, Flow, Process
from ksched.samplers.registry import sampler_spec, samplers
from ksched.samplers.spec import SamplerSpec
from ksched.schedules.grid import Grid
from ksched.schedules.select import calculate_sigmas

__all__ = ["Case", "Selection"]


@dataclass(frozen=True)
class Case:
    """One plan of a page, by the names under which the page offers it.

    Attributes
    ----------
    process : name of the process, one of `Selection.processes`
    schedule, sampler : names
    steps : number of schedule steps
    options : options of the sampler; {} is its defaults
    schedule_options : options of the schedule
    """

    process: str
    schedule: str
    sampler: str
    steps: int
    options: Mapping[str, Any] = field(default_factory=dict)
    schedule_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def variant(self) -> str:
        """The options as text; empty for defaults."""
        given = {**self.options, **self.schedule_options}
        return " ".join(f"{name}={_text(value)}" for name, value in given.items())


def _text(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ",".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _default_processes() -> dict[str, Process]:
    return {"vp": VP(), "edm": EDM(), "flow": Flow()}


@dataclass(frozen=True)
class Selection:
    """What a page stores.

    Attributes
    ----------
    processes : by name
    schedules : those that are stored with every sampler, all step counts and all values of eta
    steps : numbers of schedule steps
    etas : values of the option eta, for samplers that have it, beside its default
    few : samplers that are stored with all other schedules too, with their default options
    more : single plans beside that product
    """

    processes: Mapping[str, Process] = field(default_factory=_default_processes)
    schedules: tuple[str, ...] = ("simple", "karras", "exponential", "beta")
    steps: tuple[int, ...] = (5, 10, 20)
    etas: tuple[float, ...] = (0.0, 0.5, 1.0)
    few: tuple[str, ...] = ("euler", "euler_ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde", "uni_pc")
    more: tuple[Case, ...] = ()

    def cases(self) -> Iterator[Case]:
        """Every plan, those of one process and schedule together; each is there once."""
        specs = [spec for spec in samplers() if not spec.adaptive]
        names = dict.fromkeys((*self.schedules, *(NoiseSchedule if self.few else ())))
        seen = set()
        for process, trained in self.processes.items():
            for schedule in map(str, names):
                whole = schedule in self.schedules
                kept = [spec for spec in specs if (whole or spec.name in self.few) and spec.runs_on(trained)]
                for steps in self.steps:
                    for spec in kept:
                        for options in self._variants(spec) if whole else ({},):
                            case = Case(process, schedule, spec.name, steps, options)
                            seen.add(_key(case))
                            yield case
        for case in self.more:
            if _key(case) not in seen:
                seen.add(_key(case))
                yield case

    def _variants(self, spec: SamplerSpec) -> list[dict[str, Any]]:
        """Default options first, then the other values of eta."""
        eta = spec.own_options.get("eta")
        others = () if eta is None else (value for value in self.etas if value != eta.default)
        return [{}, *({"eta": value} for value in others)]

    def plan(self, case: Case) -> Plan:
        """The plan of a case."""
        spec, process = sampler_spec(case.sampler), self.processes[case.process]
        options = check_options(f"sampler {spec.name}", spec.options, dict(case.options))
        levels = calculate_sigmas(case.schedule, case.steps, process, **case.schedule_options)
        return spec.plan(Grid.of(levels, process), options)


def _key(case: Case) -> tuple[Any, ...]:
    return case.process, case.schedule, case.sampler, case.steps, case.variant
