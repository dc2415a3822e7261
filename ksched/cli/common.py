"""Shared by the commands: options, the parsing of values, and the console that tables are printed to."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, get_args, get_origin

import typer
from rich.console import Console

from ksched.cli.help import option_names
from ksched.cli.process import ProcessName
from ksched.cli.values import choice, number, shown, starting_with, whole
from ksched.names.enums import Dialect, NoiseSchedule, SamplerType
from ksched.options import Option, check_options

if TYPE_CHECKING:
    from ksched.plan.plan import Plan

__all__ = [
    "LEVELS",
    "AsJSON",
    "Calls",
    "DialectName",
    "Options",
    "PlanSteps",
    "ProcessOption",
    "SamplerName",
    "ScheduleName",
    "Seed",
    "Shift",
    "SigmaMax",
    "SigmaMin",
    "Sigmas",
    "Steps",
    "StepsArgument",
    "ZeroSNR",
    "complete_name",
    "complete_sampler",
    "complete_schedule",
    "one_of",
    "plain_number",
    "read_options",
    "read_plan",
    "read_sigmas",
    "read_text",
    "screen",
]

#: with more steps, a command would fill memory or run for hours before it could show anything
LONGEST, LONGEST_PLAN = 1_000_000, 100_000
_MEMORY = ", so that its tables fit into memory"

LEVELS = "Noise levels"  # a heading in the help

complete_sampler = starting_with(lambda: (*SamplerType, "auto"))
complete_schedule = starting_with(lambda: NoiseSchedule)
complete_name = starting_with(lambda: (*SamplerType, "auto", *NoiseSchedule))


def _steps(most: int) -> Any:
    return typer.Option(
        "--steps", "-n", **whole(1, most, _MEMORY), help="Number of steps.", show_default="20", rich_help_panel=LEVELS
    )


Steps: TypeAlias = Annotated[int | None, _steps(LONGEST)]
PlanSteps: TypeAlias = Annotated[int | None, _steps(LONGEST_PLAN)]
StepsArgument: TypeAlias = Annotated[
    int | None,
    typer.Argument(
        **{**whole(1, LONGEST_PLAN, _MEMORY), "metavar": "STEPS"}, help="Number of steps, the same as --steps."
    ),
]
ProcessOption: TypeAlias = Annotated[
    ProcessName,
    typer.Option(
        "--process",
        **choice("a process", ProcessName),
        help=f"What the model was trained on: {', '.join(ProcessName)}.",
        rich_help_panel=LEVELS,
    ),
]
Shift: TypeAlias = Annotated[
    float | None,
    typer.Option(
        "--shift",
        **number(0.0, above=True),
        help="Shift of the process flow or cascade.",
        rich_help_panel=LEVELS,
    ),
]
ZeroSNR: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--zero-terminal-snr", help="Rescale a vp process so that it ends in pure noise.", rich_help_panel=LEVELS
    ),
]
DialectName: TypeAlias = Annotated[
    Dialect,
    typer.Option(
        "--dialect",
        **choice("a dialect", Dialect, Dialect.parse),
        help=f"Program whose definition of the schedule is used: {', '.join(Dialect)}.",
        rich_help_panel=LEVELS,
    ),
]
SigmaMin: TypeAlias = Annotated[
    float | None,
    typer.Option("--sigma-min", **number(0.0, above=True), help="Last noise level above 0.", rich_help_panel=LEVELS),
]
SigmaMax: TypeAlias = Annotated[
    float | None,
    typer.Option("--sigma-max", **number(0.0, above=True), help="First noise level.", rich_help_panel=LEVELS),
]
Calls: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--calls",
        **whole(1, LONGEST_PLAN, _MEMORY),
        help="Budget of model calls (NFE): runs as many steps as fit into it. Replaces --steps.",
        rich_help_panel=LEVELS,
    ),
]
Sigmas: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--sigmas",
        metavar="A,B,...",
        help="Your own noise levels, decreasing, such as 14.6,5,1.5,0. Replaces the schedule and --steps.",
        rich_help_panel=LEVELS,
    ),
]


def _complete_option(incomplete: str) -> list[str]:
    return [f"{name}=" for name in option_names() if name.startswith(incomplete)]


Options: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        "-o",
        metavar="NAME=VALUE",
        help="Option of the sampler or schedule, such as rho=5. May be repeated. --rho 5 means the same.",
        autocompletion=_complete_option,
    ),
]
AsJSON: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SamplerName: TypeAlias = Annotated[
    str,
    typer.Option("--sampler", metavar="NAME", help="Sampler; see 'ksched list'.", autocompletion=complete_sampler),
]
ScheduleName: TypeAlias = Annotated[
    str,
    typer.Option(
        "--schedule", metavar="NAME", help="Noise schedule; see 'ksched list'.", autocompletion=complete_schedule
    ),
]
Seed: TypeAlias = Annotated[int, typer.Option("--seed", **whole(0, 2**63 - 1), help="Random seed.")]


def one_of(flag: str, option: Any, argument: Any) -> Any:
    """Return a value that can be given as an argument or as an option; None if it was not given."""
    if option is not None and argument is not None:
        raise ValueError(f"{flag} must be given once; got {shown(argument)} and {flag} {option}, which mean the same")
    return argument if option is None else option


def read_plan(file: Path) -> Plan:
    """Read a plan from a file; an error says what is wrong with the file."""
    from ksched.plan.plan import Plan

    try:
        return Plan.from_json(read_text(file))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def read_text(file: Path) -> str:
    """Read a text file; an error says what is wrong with the file."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise OSError(error.errno, f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"it must be text in UTF-8; byte {error.start} is not") from None


def read_sigmas(text: str | None) -> list[float] | None:
    """Parse noise levels that are separated by commas."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(
            f"--sigmas must be numbers separated by commas, such as 14.6,5,1.5,0; got {shown(text)}"
        ) from None


def screen() -> Console:
    """Return the console for tables: as wide as the terminal or COLUMNS; wide enough for any table in a pipe."""
    wide = None if sys.stdout.isatty() or os.environ.get("COLUMNS", "").isdigit() else 240
    return Console(markup=False, highlight=False, width=wide)


def plain_number(value: Any) -> Any:
    """Convert a value for JSON, which has no infinity: "inf" and "-inf", as in the JSON of a plan."""
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def read_options(texts: Sequence[str] | None, owner: str, known: Mapping[str, Option]) -> dict[str, Any]:
    """Parse ``name=value`` texts into checked options, each value converted to the type of its option."""
    values: dict[str, Any] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise ValueError(f"--option must be name=value, such as eta=0.5; got {shown(text)}")
        if name in values:
            raise ValueError(f"--option {name} is given twice")
        values[name] = _read(value.strip(), known[name]) if name in known else value
    return check_options(owner, known, values)


def _read(text: str, option: Option) -> Any:
    """Convert a text to an option's type, or to a list of one value per step if it has commas.

    A text that cannot be converted is returned unchanged, so that `check_options` refuses it.
    """
    kind = option.kind
    if option.per_step and "," in text:
        return [_read(part.strip(), option) for part in text.split(",")]
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    if get_origin(kind) is Literal:
        return next((choice for choice in get_args(kind) if str(choice) == text), text)
    try:
        return kind(text)
    except ValueError:
        return text
