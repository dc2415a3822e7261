"""What differs between two configurations: in words, in options, in noise levels, in the table of the run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ksched.processes import Process, default_process
from ksched.schedules import DIALECTS, calculate_sigmas, schedule_options
from ksched.types import Array, Dialect, NoiseSchedule, SamplerType, parse_label

__all__ = ["Configuration", "explain"]


@dataclass(frozen=True)
class Configuration:
    """A sampler, a schedule or both, as one program means them."""

    dialect: Dialect
    sampler: SamplerType | None
    schedule: NoiseSchedule

    @classmethod
    def parse(cls, text: str) -> Configuration:
        """Read "dialect:sampler+schedule", "dialect:label" or "dialect:schedule"; without a dialect it is ours.

        Raises
        ------
        TypeError : not text
        ValueError : an unknown dialect, sampler or schedule
        """
        if not isinstance(text, str):
            raise TypeError(f"a configuration is text such as 'comfyui:dpmpp_2m_sde+karras'; got {text!r}")
        head, colon, body = text.partition(":")
        dialect = Dialect.parse(head.strip()) if colon else Dialect.KSCHED
        body = body if colon else head
        # a plus between names, not those of "DPM++"
        sampler, plus, schedule = body.replace("++", "pp").partition("+")
        if plus:
            return cls(dialect, SamplerType.parse(sampler.strip()), NoiseSchedule.parse(schedule.strip()))
        try:
            return cls(dialect, None, NoiseSchedule.parse(body.strip()))
        except ValueError:
            return cls(dialect, *parse_label(body.strip()))

    @property
    def options(self) -> dict[str, Any]:
        """Every option of the schedule, with the dialect's values."""
        own = {name: option.default for name, option in schedule_options(self.schedule).items()}
        return {**own, **DIALECTS[self.dialect].get(self.schedule, {})}

    def __str__(self) -> str:
        names = "+".join(name.value for name in (self.sampler, self.schedule) if name is not None)
        return f"{self.dialect.value}:{names}"


def explain(a: str, b: str, *, steps: int = 10, process: Process | None = None) -> str:
    """Print, and return, what differs between two configurations.

    Parameters
    ----------
    a, b : such as "comfyui:dpmpp_2m_sde+karras", "a1111:DPM++ 2M SDE Karras", "beta", "diffusers:beta"
    steps, process : the run on which their noise levels and tables are compared

    Raises
    ------
    TypeError, ValueError : a text that names no configuration; steps or process that cannot be
    """
    first, second = Configuration.parse(a), Configuration.parse(b)
    process = default_process() if process is None else process
    lines = [f"{first}", f"{second}"]
    for what in ("sampler", "schedule"):
        one, two = getattr(first, what), getattr(second, what)
        if one != two:
            lines.append(f"- {what}: {one or 'none named'} and {two or 'none named'}")
    for name in {**first.options, **second.options}:
        values = [c.options.get(name, "not an option") for c in (first, second)]
        if values[0] != values[1]:
            lines.append(f"- {name} of the schedule: {values[0]!r} and {values[1]!r}")
    ours, theirs = (calculate_sigmas(c.schedule, steps, process, dialect=c.dialect) for c in (first, second))
    lines.append(_compare_levels(ours, theirs, f"{steps} steps on {process!r}"))
    if first.sampler is not None and second.sampler is not None:
        lines.append(_compare_tables(first.sampler, second.sampler, ours, process))
    text = "\n".join(lines)
    print(text)
    return text


def _compare_levels(a: Array, b: Array, where: str) -> str:
    if len(a) != len(b):
        return f"- noise levels, {where}: {len(a)} of them and {len(b)}, ending {_end(a)} and {_end(b)}"
    apart = np.abs(a - b) / np.maximum(np.maximum(np.abs(a), np.abs(b)), 1e-300)
    worst = int(apart.argmax())
    if apart[worst] < 1e-9:
        return f"= the same noise levels, {where}"
    return f"- noise levels, {where}: most apart at level {worst}, {a[worst]:.6g} and {b[worst]:.6g}"


def _end(levels: Array) -> str:
    return f"{levels[-2]:.4g}, {levels[-1]:.4g}"


def _compare_tables(a: SamplerType, b: SamplerType, levels: Array, process: Process) -> str:
    from ksched.analysis import table
    from ksched.sampler import build_sampler

    plans = [build_sampler(name, sigmas=levels, process=process).plan for name in (a, b)]
    costs = [f"{plan.nfe} model calls and {len(plan.draws)} noises" for plan in plans]
    if costs[0] != costs[1]:
        return f"- cost of the run: {costs[0]}; {costs[1]}"
    same = np.allclose(table(plans[0]), table(plans[1]), rtol=1e-9, atol=1e-9)
    return f"{'= the same table' if same else '- another table'} of the run on the first's levels, {costs[0]}"
