"""What a name means, and how two configurations differ: in words, options, sigmas and plans."""

from __future__ import annotations

import contextlib
import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from ksched.dialects.peers import find_sampler
from ksched.names.enums import Dialect, NoiseSchedule, SamplerType
from ksched.names.labels import parse_label
from ksched.options import check_options
from ksched.plan.described import described
from ksched.plan.plan import Plan
from ksched.processes import Process, default_process
from ksched.samplers.auto import choose
from ksched.samplers.coordinates import view
from ksched.samplers.facts import option_texts
from ksched.samplers.linear_table import LinearTable
from ksched.samplers.registry import AUTO, dialect_options, sampler_spec
from ksched.schedules.select import (
    DIALECTS,
    calculate_sigmas,
    schedule_name,
    schedule_options,
    schedule_spec,
    schedules,
)
from ksched.types import Array

__all__ = ["Configuration", "explain"]


@dataclass(frozen=True)
class Configuration:
    """A sampler, a schedule or both, as one program means them.

    Attributes
    ----------
    dialect : Dialect
        Program whose names they are.
    sampler, schedule : SamplerType, NoiseSchedule, str or None
        None if the text does not name one.
    preset : tuple of tuple of (str, object)
        Options implied by the sampler's name in that program, in addition to its dialect.
    note : str
        Note on the sampler's name in `ksched.peers`.
    """

    dialect: Dialect
    sampler: SamplerType | None
    schedule: NoiseSchedule | str | None
    preset: tuple[tuple[str, Any], ...] = ()
    note: str = ""

    @classmethod
    def parse(cls, text: str) -> Configuration:
        """Read "dialect:sampler+schedule", "dialect:label", "dialect:sampler" or "dialect:schedule".

        The default dialect is ksched. A label in A1111's style without a schedule has the one of "Automatic"; a sampler
        of another program has none.

        Raises
        ------
        TypeError
            If the text is not a string.
        ValueError
            If the dialect, sampler or schedule is unknown, or ksched has no sampler for the name.
        """
        if not isinstance(text, str):
            raise TypeError(f"a configuration must be a string such as 'comfyui:dpmpp_2m_sde+karras'; got {text!r}")
        head, colon, body = text.partition(":")
        dialect = Dialect.parse(head.strip()) if colon else Dialect.KSCHED
        body = body if colon else head
        # a plus between two names, not one of "DPM++"
        name, plus, schedule = body.replace("++", "pp").partition("+")
        if plus:
            return cls._of(dialect, name.strip(), schedule_name(schedule.strip()))
        body = body.strip()
        if body not in schedules() and (found := cls._named(dialect, body)):
            labels = dialect in (Dialect.KSCHED, Dialect.A1111)
            return replace(found, schedule=parse_label(f"{found.sampler}")[1]) if labels else found
        try:
            return cls(dialect, None, schedule_name(body))
        except ValueError:
            return cls._label(dialect, body)

    @classmethod
    def _label(cls, dialect: Dialect, label: str) -> Configuration:
        """A sampler and a schedule in words, split so that both parts are names."""
        words = label.split()
        for cut in range(len(words) - 1, 0, -1):
            found = cls._named(dialect, " ".join(words[:cut]))
            with contextlib.suppress(ValueError):
                sampler, schedule = parse_label(f"{found.sampler if found else ''} {' '.join(words[cut:])}")
                if found and sampler is found.sampler:
                    return replace(found, schedule=schedule)
        return cls(dialect, *parse_label(label))  # raises an error with similar names

    @classmethod
    def _of(cls, dialect: Dialect, name: str, schedule: NoiseSchedule | str) -> Configuration:
        return replace(cls._named(dialect, name) or cls(dialect, SamplerType.parse(name), None), schedule=schedule)

    @classmethod
    def _named(cls, dialect: Dialect, name: str) -> Configuration | None:
        """The sampler of a program's own name, or of any spelling; None if nothing has that name."""
        try:
            peer = find_sampler(dialect, name)
        except ValueError:
            try:
                return cls(dialect, SamplerType.parse(name), None)
            except ValueError:
                return None
        if peer.sampler is None:
            raise ValueError(f"ksched has no sampler for {peer.program}'s {peer.name!r}: {peer.note}")
        return cls(dialect, peer.sampler, None, tuple(peer.options.items()), peer.note)

    @property
    def options(self) -> dict[str, Any]:
        """Every option of the schedule, with the dialect's values."""
        if self.schedule is None:
            return {}
        own = {name: option.default for name, option in schedule_options(self.schedule).items()}
        return {**own, **DIALECTS[self.dialect].get(self.schedule, {})}

    @property
    def sampler_options(self) -> dict[str, Any]:
        """Every option of the sampler, with the values of the dialect and the name."""
        if self.sampler is None:
            return {}
        spec = sampler_spec(self.sampler)
        own = {name: option.default for name, option in spec.options.items()}
        return {**own, **dialect_options(spec, self.dialect), **dict(self.preset)}

    @property
    def in_ours(self) -> Configuration:
        """The same names in ksched's dialect."""
        return Configuration(Dialect.KSCHED, self.sampler, self.schedule)

    def __str__(self) -> str:
        names = "+".join(str(name) for name in (self.sampler, self.schedule) if name is not None)
        return f"{self.dialect.value}:{names}"


def explain(
    a: str | Plan, b: str | None = None, *, steps: int = 10, process: Process | None = None, **options: Any
) -> str:
    """Print and return how two configurations differ, or what one is and how it differs from ksched's.

    Parameters
    ----------
    a, b : str, Plan or None
        Texts such as "comfyui:dpmpp_2m_sde+karras", "a1111:DPM++ 2M SDE Karras", "diffusers:UniPCMultistepScheduler" or
        "beta". "auto", without ``b``, explains what it chooses and why. A `Plan`, without ``b``, explains which sigmas
        it tells the model, its exact errors, and what `Plan.skip` did to them.
    steps, process : int, Process or None
        The run on which sigmas and plans are compared.
    options : object
        Options of "auto": end, data_std and guidance.

    Raises
    ------
    TypeError, ValueError
        If a text names no configuration, or steps or process are invalid.
    """
    process = default_process() if process is None else process
    if isinstance(a, Plan):
        check_options("explain, of a plan", {}, options)
        if b is not None:
            raise ValueError("a plan must be explained alone, since it has its own sigmas; leave out b")
        print(text := "\n".join(_filled(described(a))))
        return text
    if AUTO.name in (a, b):
        if b is not None:
            raise ValueError('"auto" must be explained alone, since it has its own sigmas; leave out the other')
        text = "\n".join(_chosen(steps, process, check_options(f"sampler {AUTO.name}", AUTO.options, options)))
        print(text)
        return text
    check_options("explain", {}, options)
    first = Configuration.parse(a)
    if b is None:
        second = first.in_ours
        lines = [f"{first}", *_described(first)]
        if first.dialect is not Dialect.KSCHED:
            lines += [f"{second}", *_differences(first, second, steps, process)]
    else:
        second = Configuration.parse(b)
        lines = [f"{first}", f"{second}", *_differences(first, second, steps, process)]
    text = "\n".join(_filled(lines))
    print(text)
    return text


def _filled(lines: list[str]) -> list[str]:
    return [textwrap.fill(line, 110, subsequent_indent="    ") if line[0] == " " else line for line in lines]


def _chosen(steps: int, process: Process, options: Mapping[str, Any]) -> list[str]:
    """The plan that "auto" chooses, and why."""
    choice = choose(steps, process, **options)
    levels = ", ".join(f"{sigma:.4g}" for sigma in choice.sigmas)
    lines = [f"auto, {steps} model calls on {process!r}: {choice.name}", f"  why: {choice.why}"]
    if choice.table is None:
        lines.append("  method: exponential predictor-corrector (exp_pc); from pure noise, Adams in sigma (lms)")
    else:
        size = math.sqrt(sum(value**2 for value in choice.table.last))
        if isinstance(choice.table, LinearTable):
            lines.append("  method: free rows; the result is a weighted mean of all predictions")
        else:
            lines.append("  method: DDIM steps, each with a weighted mean of all predictions so far")
        lines.append(f"  white noise of the model comes out {size:.2f} times as large; with end='denoised' unchanged")
    return [*lines, f"  sigmas: {levels}"]


def _described(one: Configuration) -> list[str]:
    lines = []
    if one.sampler is not None:
        spec = sampler_spec(one.sampler)
        lines.append(f"  {one.sampler}: {spec.summary.replace('`', '')} {spec.source}.")
        lines += [f"  note: {one.note.replace('`', '')}"] if one.note else []
    if one.schedule is not None:
        rule = schedule_spec(one.schedule)
        lines.append(f"  {one.schedule}: {rule.formula}." + (f" {rule.source}." if rule.source else ""))
    return lines


def _differences(first: Configuration, second: Configuration, steps: int, process: Process) -> list[str]:
    lines = []
    for what in ("sampler", "schedule"):
        one, two = getattr(first, what), getattr(second, what)
        if one != two:
            lines.append(f"- {what}: {one or 'none named'} and {two or 'none named'}")
    if first.sampler is not None and second.sampler is not None:
        lines += _compare_options("sampler", first, second)
    lines += _compare_options("schedule", first, second)
    ours, theirs = (_levels(one, other, steps, process) for one, other in ((first, second), (second, first)))
    if first.schedule is not None or second.schedule is not None:
        lines.append(_compare_levels(ours, theirs, f"{steps} steps on {process!r}"))
    if first.sampler is not None and second.sampler is not None:
        lines.append(_compare_tables(first, second, ours, process))
    return lines


def _compare_options(what: Literal["sampler", "schedule"], first: Configuration, second: Configuration) -> list[str]:
    here, there = (one.sampler_options if what == "sampler" else one.options for one in (first, second))
    lines = []
    for name in {**here, **there}:
        values = [options.get(name, "not an option") for options in (here, there)]
        owner, shared = first if name in here else second, name in here and name in there
        if values[0] == values[1] or (
            what == "sampler" and not shared and owner.in_ours.sampler_options[name] in values
        ):
            continue  # both are equal, or only one sampler has the option and it is at ksched's default
        lines.append(f"- {name} of the {what}: {values[0]!r} and {values[1]!r}")
        texts = _texts(owner, what)
        lines += [f"  {name}: {texts[name].partition('. ')[0]}"] if name in texts else []
    return lines


def _texts(one: Configuration, what: Literal["sampler", "schedule"]) -> Mapping[str, str]:
    if what == "sampler":
        return option_texts(view) | option_texts(sampler_spec(one.sampler or "").function)
    return {} if one.schedule is None else option_texts(schedule_spec(one.schedule).function)


def _levels(one: Configuration, other: Configuration, steps: int, process: Process) -> Array:
    """Sigmas of a configuration; if it names no schedule, of the other's schedule, or of the default one."""
    schedule = one.schedule or other.schedule or NoiseSchedule.default()
    dialect = one.dialect if one.schedule is not None else other.dialect
    return calculate_sigmas(schedule, steps, process, dialect=dialect)


def _compare_levels(a: Array, b: Array, where: str) -> str:
    if len(a) != len(b):
        return f"- noise levels, {where}: {len(a)} of them and {len(b)}, ending {_end(a)} and {_end(b)}"
    apart = np.abs(a - b) / np.maximum(np.maximum(np.abs(a), np.abs(b)), 1e-300)
    worst = int(apart.argmax())
    if apart[worst] < 1e-9:
        return f"= the same noise levels, {where}"
    return f"- noise levels, {where}: most different at level {worst}, {a[worst]:.6g} and {b[worst]:.6g}"


def _end(levels: Array) -> str:
    return f"{levels[-2]:.4g}, {levels[-1]:.4g}"


def _compare_tables(first: Configuration, second: Configuration, levels: Array, process: Process) -> str:
    from ksched.plan.analysis import table
    from ksched.sampler import build_sampler

    adaptive = [one.sampler for one in (first, second) if one.sampler and sampler_spec(one.sampler).adaptive]
    if adaptive:
        why = f"{' and '.join(dict.fromkeys(adaptive))} chooses its steps by the model's answers: no table to compare"
        same = first.sampler == second.sampler and first.sampler_options == second.sampler_options
        return f"= the same sampler with the same options; {why}" if same else f"- {why}"
    try:
        plans = [
            build_sampler(
                one.sampler or "", sigmas=levels, process=process, dialect=one.dialect, **dict(one.preset)
            ).plan
            for one in (first, second)
        ]
    except ValueError as error:  # a program's schedule may make sigmas that no ksched run can have
        return f"- no table of the run on the first's levels: {error}"
    costs = [f"{plan.nfe} model calls and {len(plan.draws)} noises" for plan in plans]
    if costs[0] != costs[1]:
        return f"- cost of the run: {costs[0]}; {costs[1]}"
    same = plans[0].draws == plans[1].draws and np.allclose(table(plans[0]), table(plans[1]), rtol=1e-9, atol=1e-9)
    return f"{'= the same table' if same else '- another table'} of the run on the first's levels, {costs[0]}"
