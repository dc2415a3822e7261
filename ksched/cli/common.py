"""What the commands have in common: their options, how values are read, where tables go."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias, get_args, get_origin

import typer
from rich.console import Console

from ksched.cli.process import ProcessName
from ksched.names.enums import Dialect, NoiseSchedule, SamplerType
from ksched.options import Option, check_options

if TYPE_CHECKING:
    from ksched.plan.plan import Plan

__all__ = [
    "LONGEST",
    "LONGEST_PLAN",
    "AsJSON",
    "Calls",
    "DialectName",
    "Options",
    "ProcessOption",
    "SamplerName",
    "ScheduleName",
    "Shift",
    "SigmaMax",
    "SigmaMin",
    "Sigmas",
    "Steps",
    "ZeroSNR",
    "complete_name",
    "complete_sampler",
    "complete_schedule",
    "plain_number",
    "read_options",
    "read_plan",
    "read_sigmas",
    "read_text",
    "screen",
]

#: steps beyond which a command would fill memory, or run for hours, before it had anything to show
LONGEST, LONGEST_PLAN = 1_000_000, 100_000

Steps: TypeAlias = Annotated[int, typer.Option("--steps", "-n", max=LONGEST, help="Number of steps, at least 1.")]
ProcessOption: TypeAlias = Annotated[ProcessName, typer.Option("--process", help="What the model was trained on.")]
Shift: TypeAlias = Annotated[float | None, typer.Option("--shift", help="Shift of the flow or cascade process.")]
ZeroSNR: TypeAlias = Annotated[
    bool, typer.Option("--zero-terminal-snr", help="Rescale a VP table so that it ends in pure noise.")
]
DialectName: TypeAlias = Annotated[
    str, typer.Option("--dialect", help=f"Whose numbers the name means: {', '.join(Dialect)}.")
]
SigmaMin: TypeAlias = Annotated[float | None, typer.Option("--sigma-min", help="Last level above 0.")]
SigmaMax: TypeAlias = Annotated[float | None, typer.Option("--sigma-max", help="First level.")]
Options: TypeAlias = Annotated[
    list[str] | None, typer.Option("--option", "-o", metavar="NAME=VALUE", help="An option; may be repeated.")
]
Calls: TypeAlias = Annotated[
    int | None,
    typer.Option("--calls", min=1, max=LONGEST_PLAN, help="Instead of steps: as many as so many model calls allow."),
]
Sigmas: TypeAlias = Annotated[
    str | None, typer.Option("--sigmas", metavar="A,B,...", help="Levels to run instead of a schedule.")
]
AsJSON: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def complete_sampler(incomplete: str) -> list[str]:
    """Names of samplers that a shell may complete a word to."""
    return [name for name in (*SamplerType, "auto") if name.startswith(incomplete)]


def complete_schedule(incomplete: str) -> list[str]:
    """Names of noise schedules that a shell may complete a word to."""
    return [name for name in NoiseSchedule if name.startswith(incomplete)]


def complete_name(incomplete: str) -> list[str]:
    """Names of both."""
    return complete_sampler(incomplete) + complete_schedule(incomplete)


def read_plan(file: Path) -> Plan:
    """The plan in a file, or an error that says what is wrong with it."""
    from ksched.plan.plan import Plan

    try:
        return Plan.from_json(read_text(file))
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def read_text(file: Path) -> str:
    """The text in a file, or an error that says what is wrong with it."""
    try:
        return file.read_text(encoding="utf-8")
    except OSError as error:
        raise OSError(error.errno, f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"it must be text in UTF-8; byte {error.start} is none") from None


def read_sigmas(text: str | None) -> list[float] | None:
    """Noise levels between commas."""
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"--sigmas must be numbers separated by commas, such as 14.6,5,1.5,0; got {text!r}") from None


def screen() -> Console:
    """Where tables go; as wide as they need to be if nobody watches."""
    return Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 240)


SamplerName: TypeAlias = Annotated[
    str, typer.Option("--sampler", help="Sampler; see 'ksched list'.", autocompletion=complete_sampler)
]
ScheduleName: TypeAlias = Annotated[
    str, typer.Option("--schedule", help="Noise schedule; see 'ksched list'.", autocompletion=complete_schedule)
]


def plain_number(value: Any) -> Any:
    """A value for JSON, which has no infinity: "inf" and "-inf" as in the JSON of a plan."""
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def read_options(texts: Sequence[str] | None, owner: str, known: Mapping[str, Option]) -> dict[str, Any]:
    """``name=value`` texts as checked options, every value read as its option's own type."""
    values: dict[str, Any] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise ValueError(f"--option must be name=value, such as eta=0.5; got {text!r}")
        if name in values:
            raise ValueError(f"--option {name} is given twice")
        values[name] = _read(value.strip(), known[name]) if name in known else value
    return check_options(owner, known, values)


def _read(text: str, option: Option) -> Any:
    """A text as an option's type, one per step with commas between; the text itself, to be refused, if it is none."""
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
