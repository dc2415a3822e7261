"""``ksched list``: samplers and noise schedules with their facts."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from rich import box
from rich.table import Table

from ksched.cli.common import AsJSON, complete_name, plain_number, screen
from ksched.dialects.peer_samplers import SAMPLER_PEERS
from ksched.dialects.peer_schedules import PEERS
from ksched.names.enums import Dialect
from ksched.options import Option
from ksched.samplers.coordinates import VIEW_OPTIONS
from ksched.samplers.facts import allowed, option_texts, sampler_facts
from ksched.samplers.registry import AUTO, dialect_options, sampler_spec, samplers
from ksched.samplers.spec import SamplerSpec
from ksched.schedules.select import DIALECTS, schedule_name, schedule_options, schedule_spec, schedules

__all__ = ["list_names"]

_SAMPLER_COLUMNS = ("sampler", "order", "weak", "calls", "to 0", "noise", "also")


def list_names(
    name: Annotated[
        str | None, typer.Argument(help="A sampler or noise schedule, to read all of it.", autocompletion=complete_name)
    ] = None,
    only_samplers: Annotated[bool, typer.Option("--samplers", help="Only the samplers.")] = False,
    only_schedules: Annotated[bool, typer.Option("--schedules", help="Only the noise schedules.")] = False,
    as_json: AsJSON = False,
) -> None:
    """List samplers and noise schedules with their facts; with a name, everything about that one."""
    both = only_samplers == only_schedules
    of_samplers, of_schedules = both or only_samplers, both or only_schedules
    specs = list(samplers()) if of_samplers else []
    rules = list(schedules()) if of_schedules else []
    if name is not None:
        specs, rules = _found(name, [*specs, *([AUTO] * of_samplers)], rules)
        of_samplers, of_schedules = bool(specs), bool(rules)
    if as_json:
        facts = {"samplers": [_sampler_json(spec) for spec in specs]} if of_samplers else {}
        facts |= {"schedules": [_schedule_json(rule) for rule in rules]} if of_schedules else {}
        print(json.dumps(facts, indent=2, allow_nan=False))
    elif name is not None:
        width = min(screen().width, 100)
        print("\n\n".join([*(_sampler_page(s, width) for s in specs), *(_schedule_page(s, width) for s in rules)]))
    else:
        _print_tables(specs, rules)


def _print_tables(specs: Sequence[SamplerSpec], rules: Sequence[str]) -> None:
    console = screen()
    if specs:
        console.print(_sampler_table(specs, console.width))
    if rules:
        console.print(_schedule_table())


def _found(name: str, specs: list[SamplerSpec], rules: list[str]) -> tuple[list[SamplerSpec], list[str]]:
    """Of the listed, the sampler and the schedule of a name, in any spelling; an exact name goes before others."""
    exact = [spec for spec in specs if spec.name == name], [rule for rule in rules if rule == name]
    if any(exact):
        return exact
    errors: list[str] = []
    found: tuple[list[SamplerSpec], list[str]] = ([], [])
    try:
        found[0].extend([sampler_spec(name)] if specs else [])
    except ValueError as error:
        errors.append(str(error))
    try:
        found[1].extend([schedule_name(name)] if rules else [])
    except ValueError as error:
        errors.append(str(error))
    if not any(found):
        near = [error for error in errors if "did you mean" in error]
        raise ValueError(" ".join(near) or f"nothing is named {name!r}; 'ksched list' shows every name")
    return found


def _sampler_table(specs: Sequence[SamplerSpec], width: int) -> Table:
    wide = width >= 120
    table = Table(title="Samplers", box=box.SIMPLE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    columns = [*_SAMPLER_COLUMNS, *(["what it is"] if wide else [])]
    if width < 76:  # names are never cut: these are on the page of each
        columns = [column for column in columns if column not in ("weak", "to 0", "also")]
    for column in columns:
        table.add_column(column, no_wrap=column == "sampler")
    table.title_justify = table.caption_justify = "left"
    table.caption = "calls and noise: per step; weak: order of the law with noise\n'ksched list NAME' tells all of one"
    for spec in specs:
        calls = spec.calls if isinstance(spec.calls, int) else "varies"
        to_zero = spec.calls_to_zero if isinstance(spec.calls, int) and not spec.adaptive else "-"
        noise = "varies" if spec.draws is None else spec.draws or "-"
        also = ", ".join(word for word in ("uncond", "adaptive", "flow_only") if getattr(spec, word))
        weak = "-" if spec.weak_order is None else spec.weak_order
        cells: dict[str, object] = dict(
            zip(_SAMPLER_COLUMNS, (spec.name, spec.order, weak, calls, to_zero, noise, also), strict=True)
        )
        cells["what it is"] = spec.summary.replace("`", "")
        table.add_row(*(str(cells[column]) for column in columns))
    return table


def _schedule_table() -> Table:
    table = Table(title="Noise schedules")
    table.add_column("schedule", no_wrap=True)
    for column in ("levels", "options", "source"):
        table.add_column(column, overflow="fold")
    for name, rule in schedules().items():
        options = "\n".join(f"{option.name}={option.default}" for option in schedule_options(name).values())
        table.add_row(str(name), rule.formula, options or "-", rule.source)
    return table


def _sampler_page(spec: SamplerSpec, width: int) -> str:
    """Everything about a sampler, as text."""
    dialects = {dialect: dialect_options(spec, dialect) for dialect in Dialect}
    names = [(peer.program, peer.name) for peer in SAMPLER_PEERS if peer.sampler == spec.name]
    facts = {**sampler_facts(spec), "source": spec.source or "none given"}
    facts["also"] = f"{', '.join(map(str, VIEW_OPTIONS.values()))}: options that every sampler has"
    texts, summary = option_texts(spec.function), spec.summary.replace("`", "")
    return _page(f"sampler {spec.name}", summary, facts, spec.own_options, texts, dialects, names, width)


def _schedule_page(name: str, width: int) -> str:
    """Everything about a noise schedule, as text."""
    rule = schedule_spec(name)
    dialects = {dialect: DIALECTS[dialect].get(name, {}) for dialect in Dialect}
    names = [(peer.program, peer.name) for peer in PEERS if peer.schedule == name]
    facts = {"source": rule.source}
    texts, options = option_texts(rule.function), schedule_options(name)
    return _page(f"schedule {name}", rule.formula, facts, options, texts, dialects, names, width)


def _page(
    title: str,
    summary: str,
    facts: Mapping[str, str],
    options: Mapping[str, Option],
    texts: Mapping[str, str],
    dialects: Mapping[Dialect, Mapping[str, Any]],
    names: Sequence[tuple[Dialect, str]],
    width: int,
) -> str:
    def wrapped(text: str, indent: str, first: str = "") -> str:
        return textwrap.fill(text, width, initial_indent=first or indent, subsequent_indent=indent)

    lines = [title, wrapped(summary, "  ")]
    lines += [wrapped(text, " " * 15, f"  {name:<12} ") for name, text in facts.items()]
    lines += ["  options"] * bool(options)
    for option in options.values():
        lines.append(f"    {option.name}={option.default!r}: {allowed(option)}".replace("'", '"'))
        lines += [wrapped(texts[option.name], " " * 8)] if option.name in texts else []
        if option.quirks:
            lines.append(wrapped(f"({_quirks(option)} repeats another program; not covered by the proofs)", " " * 8))
    means = {dialect: changes for dialect, changes in dialects.items() if changes}
    lines += ["  in the dialect of"] * bool(means)
    for dialect, changes in means.items():
        said = ", ".join(f"{name}={value!r}" for name, value in changes.items()).replace("'", '"')
        lines.append(wrapped(said, " " * 16, f"    {dialect:<11} "))
    programs = {program: [name for owner, name in names if owner is program] for program in Dialect}
    lines += ["  called"] * bool(names)
    lines += [wrapped(", ".join(own), " " * 16, f"    {program:<11} ") for program, own in programs.items() if own]
    return "\n".join(lines)


def _quirks(option: Option) -> str:
    """The values of an option that are outside the proofs."""
    if option.kind in (int, float):
        return "any other value"
    return " and ".join(f'"{value}"' if isinstance(value, str) else str(value) for value in option.quirks)


def _sampler_json(spec: SamplerSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "order": spec.order,
        "weak_order": spec.weak_order,
        "calls": spec.calls if isinstance(spec.calls, int) else None,  # not the same in every step
        "calls_to_zero": spec.calls_to_zero,
        "draws": spec.draws,
        "uncond": spec.uncond,
        "adaptive": spec.adaptive,
        "keeps_variance": spec.keeps_variance,
        "flow_only": spec.flow_only,
        "options": _option_facts(spec.options),
        "summary": spec.summary,
        "source": spec.source,
    }


def _schedule_json(name: str) -> dict[str, Any]:
    rule = schedule_spec(name)
    options = _option_facts(schedule_options(name))
    return {"name": name, "formula": rule.formula, "source": rule.source, "options": options}


def _option_facts(options: Mapping[str, Option]) -> list[dict[str, Any]]:
    return [
        {
            "name": option.name,
            "type": "choice" if get_origin(option.kind) is Literal else option.kind.__name__,
            "choices": list(get_args(option.kind)),
            "default": plain_number(option.default),
            "low": plain_number(option.low),
            "high": plain_number(option.high),
            "quirks": list(option.quirks),
            "per_step": option.per_step,
        }
        for option in options.values()
    ]
