"""``ksched list``: samplers and noise schedules with their properties."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
from rich.table import Table

from ksched.cli.common import AsJSON, complete_name, plain_number, screen
from ksched.cli.printing import print_json
from ksched.cli.values import shown
from ksched.dialects.peer_samplers import SAMPLER_PEERS
from ksched.dialects.peer_schedules import PEERS
from ksched.names.enums import Dialect
from ksched.names.spelling import did_you_mean, spelling_key
from ksched.options import Option
from ksched.samplers.coordinates import VIEW_OPTIONS
from ksched.samplers.facts import allowed, option_texts, sampler_facts
from ksched.samplers.registry import AUTO, dialect_options, families, sampler_spec, samplers
from ksched.samplers.spec import FAMILIES, SamplerSpec
from ksched.schedules.select import DIALECTS, schedule_name, schedule_options, schedule_spec, schedules

__all__ = ["list_names"]

_LEGEND = """
order: order of the ODE method      weak: weak order, with noise
calls: model calls (NFE) per step   to 0: model calls of the step to sigma 0
noise: draws per step               also: special needs"""


def _complete_family(incomplete: str) -> list[str]:
    return [name for name in FAMILIES if name.startswith(incomplete)]


def list_names(
    name: Annotated[
        str | None,
        typer.Argument(help="Sampler or noise schedule to show in detail.", autocompletion=complete_name),
    ] = None,
    only_samplers: Annotated[bool, typer.Option("--samplers", help="Only samplers.")] = False,
    only_schedules: Annotated[bool, typer.Option("--schedules", help="List noise schedules only.")] = False,
    family: Annotated[
        str | None,
        typer.Option(
            "--family",
            metavar="NAME",
            help=f"List samplers of one family only: {', '.join(FAMILIES)}.",
            autocompletion=_complete_family,
        ),
    ] = None,
    as_json: AsJSON = False,
) -> None:
    """List samplers and noise schedules; with a name, show everything about that one.

    Samplers are grouped by family. Names from ComfyUI, A1111, k-diffusion and diffusers are accepted.

    Examples
    --------
    ksched list
    ksched list --family exponential_multistep
    ksched list dpmpp_2m
    ksched list "DPM++ 2M SDE"
    ksched list --schedules --json
    """
    specs, rules = _listed(only_samplers, only_schedules, None if family is None else _family(family))
    if name is not None:
        specs, rules = _named(name, specs, rules, family)
    if as_json:
        facts = {"samplers": [_sampler_json(spec) for spec in specs], "schedules": [*map(_schedule_json, rules)]}
        facts = {kind: entries for kind, entries in facts.items() if entries}
        print_json(facts)
    elif name is not None:
        width = min(screen().width, 100)
        print("\n\n".join([*(_sampler_page(s, width) for s in specs), *(_schedule_page(s, width) for s in rules)]))
    else:
        _print_tables(specs, rules)


def _listed(only_samplers: bool, only_schedules: bool, family: str | None) -> tuple[list[SamplerSpec], list[str]]:
    """Select the samplers and schedules to list."""
    if family is not None:
        if only_schedules:
            raise ValueError("--family selects samplers; leave out --family or --schedules")
        return [spec for spec in samplers() if spec.family == family], []
    both = only_samplers == only_schedules
    return list(samplers()) if both or only_samplers else [], list(schedules()) if both or only_schedules else []


def _named(
    name: str, specs: list[SamplerSpec], rules: list[str], family: str | None
) -> tuple[list[SamplerSpec], list[str]]:
    """Find the sampler and the schedule of a name among those listed."""
    found = _found(name, [*specs, *([AUTO] * (bool(specs) and family is None))], rules)
    if family is not None and found[0][0].family != specs[0].family:
        raise ValueError(
            f"sampler {found[0][0].name} belongs to the family {found[0][0].family}, not {specs[0].family}"
        )
    return found


def _family(name: str) -> str:
    """Return a sampler family by its name or heading."""
    known = {spelling_key(word): family for family, heading in FAMILIES.items() for word in (family, heading)}
    if spelling_key(name) not in known:
        raise ValueError(
            f"--family must be a family of samplers: {', '.join(FAMILIES)}; got {shown(name)}"
            + did_you_mean(name, FAMILIES)
        )
    return known[spelling_key(name)]


def _print_tables(specs: Sequence[SamplerSpec], rules: Sequence[str]) -> None:
    console = screen()
    wide = max((len(spec.name) for spec in specs), default=0)
    for k, (heading, members) in enumerate(families(specs).items()):
        print(f"{chr(10) * (k > 0)}{heading}")
        console.print(_sampler_table(members, console.width, wide))
    if specs and console.width >= 76:
        print(_LEGEND)
    if rules:
        print(f"{chr(10) * bool(specs)}Noise schedules")
        console.print(_schedule_table(rules, console.width))
    print("\n'ksched list NAME' shows everything about one.")


def _found(name: str, specs: list[SamplerSpec], rules: list[str]) -> tuple[list[SamplerSpec], list[str]]:
    """Find the listed sampler and schedule of a name in any spelling; an exact match has precedence."""
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
        raise ValueError(" ".join(near) or f"no sampler or schedule is named {name!r}; 'ksched list' shows every name")
    return found


def _sampler_table(specs: Sequence[SamplerSpec], width: int, wide: int) -> Table:
    """Tabulate the samplers of a family; names are never cut, and a narrow screen shows fewer columns."""
    columns = {"sampler": wide, "order": 5, "weak": 4, "calls": 6, "to 0": 4, "noise": 6, "also": 8}
    if width >= 120:
        columns["what it is"] = 0
    for least, names in ((76, ("weak", "to 0", "also")), (52, ("noise",)), (44, ("calls",)), (36, ("order",))):
        columns = {name: size for name, size in columns.items() if width >= least or name not in names}
    table = Table(box=None, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="dim")
    for column, size in columns.items():
        table.add_column(column, no_wrap=column == "sampler", min_width=size, overflow="fold")
    for spec in specs:
        also = ", ".join(word for word in ("uncond", "adaptive", "flow_only") if getattr(spec, word))
        cells: dict[str, object] = {
            "sampler": spec.name,
            "order": spec.order,
            "weak": "-" if spec.weak_order is None else spec.weak_order,
            "calls": spec.calls if isinstance(spec.calls, int) else "varies",
            "to 0": spec.calls_to_zero if isinstance(spec.calls, int) and not spec.adaptive else "-",
            "noise": "varies" if spec.draws is None else spec.draws or "-",
            "also": also,
            "what it is": spec.summary.replace("`", ""),
        }
        table.add_row(*(str(cells[column]) for column in columns))
    return table


def _schedule_table(rules: Sequence[str], width: int) -> Table:
    """Tabulate the noise schedules; a narrow screen shows fewer columns."""
    columns = ["schedule", *(["options"] if width >= 52 else []), *(["levels", "source"] if width >= 100 else [])]
    table = Table(box=None, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, no_wrap=column == "schedule", overflow="fold")
    for name in rules:
        rule = schedule_spec(name)
        options = ", ".join(f"{option.name}={option.default}" for option in schedule_options(name).values())
        cells = {"schedule": str(name), "levels": rule.formula, "options": options or "-", "source": rule.source}
        table.add_row(*(cells[column] for column in columns))
    return table


def _sampler_page(spec: SamplerSpec, width: int) -> str:
    """Format everything about a sampler as text."""
    dialects = {dialect: dialect_options(spec, dialect) for dialect in Dialect}
    names = [(peer.program, peer.name) for peer in SAMPLER_PEERS if peer.sampler == spec.name]
    facts = {**sampler_facts(spec), "source": spec.source or "none given"}
    facts["also"] = f"{', '.join(map(str, VIEW_OPTIONS.values()))}: options of every sampler"
    texts, summary = option_texts(spec.function), spec.summary.replace("`", "")
    return _page(f"sampler {spec.name}", summary, facts, spec.own_options, texts, dialects, names, width)


def _schedule_page(name: str, width: int) -> str:
    """Format everything about a noise schedule as text."""
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
            lines.append(wrapped(f"({_quirks(option)} reproduces another program; not covered by the proofs)", " " * 8))
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
    """Return the values of an option that the proofs do not cover."""
    if option.kind in (int, float):
        return "any other value"
    return " and ".join(f'"{value}"' if isinstance(value, str) else str(value) for value in option.quirks)


def _sampler_json(spec: SamplerSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "family": spec.family,
        "order": spec.order,
        "weak_order": spec.weak_order,
        "calls": spec.calls if isinstance(spec.calls, int) else None,  # None: the number varies between steps
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
