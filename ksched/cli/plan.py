"""``ksched plan``: the table of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from ksched import __version__
from ksched.cli.common import (
    LONGEST_PLAN,
    AsJSON,
    Calls,
    DialectName,
    Options,
    ProcessOption,
    Shift,
    SigmaMax,
    SigmaMin,
    Sigmas,
    ZeroSNR,
    complete_sampler,
    complete_schedule,
    read_options,
    read_plan,
    read_sigmas,
)
from ksched.cli.paths import PATH
from ksched.cli.process import ProcessName, make_process
from ksched.export import Format, export
from ksched.names.enums import NoiseSchedule
from ksched.samplers.registry import plan_spec, sampler_spec
from ksched.schedules.select import schedule_name, schedule_options
from ksched.storage.files import write_whole

if TYPE_CHECKING:
    from ksched.sampler import Sampler

__all__ = ["print_plan"]

AfterSampler: TypeAlias = Annotated[
    str | None,
    typer.Argument(
        metavar="schedule", help="The same as --schedule.", show_default=False, autocompletion=complete_schedule
    ),
]
AsFormat: TypeAlias = Annotated[
    Format | None,
    typer.Option("--format", help="JSON, or source code that runs the plan.", show_default="a table to read"),
]


def print_plan(
    sampler: Annotated[
        str,
        typer.Argument(
            help="Sampler, see 'ksched list'; auto; or a plan in a .json file.", autocompletion=complete_sampler
        ),
    ],
    after_sampler: AfterSampler = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            "--schedule",
            help="Noise schedule; see 'ksched list'.",
            show_default="simple",
            autocompletion=complete_schedule,
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", "-n", max=LONGEST_PLAN, help="At least 1.", show_default="20")
    ] = None,
    calls: Calls = None,
    sigmas: Sigmas = None,
    process: ProcessOption = ProcessName.VP,
    shift: Shift = None,
    zero_terminal_snr: ZeroSNR = False,
    sigma_min: SigmaMin = None,
    sigma_max: SigmaMax = None,
    dialect: DialectName = "ksched",
    option: Options = None,
    as_json: AsJSON = False,
    format: AsFormat = None,
    out: Annotated[
        Path | None, typer.Option("--output", "--out", **PATH, help="Where to write it.", show_default="stdout")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file.")] = False,
) -> None:
    """Print a sampler on a schedule as the table of numbers that it is.

    As c, rust or js it is a file of that language, the table and a reader of it that needs nothing else.
    """
    from ksched.sampler import build_sampler

    if after_sampler is not None and schedule is not None:
        raise ValueError(f"give one schedule, {after_sampler} or --schedule {schedule}")
    schedule = after_sampler if schedule is None else schedule
    if as_json and format not in (None, Format.JSON):
        raise ValueError(f"give either --json or --format {format}")
    named = read_plan(Path(sampler)) if sampler.lower().endswith(".json") else sampler
    spec = sampler_spec(named) if isinstance(named, str) else plan_spec(named)
    rule = schedule_name(schedule or NoiseSchedule.default())
    known = {**({} if spec.levels else schedule_options(rule)), **spec.options}
    owner = f"sampler {spec.name}" + ("" if spec.levels else f" with schedule {rule}")
    options = read_options(option, owner, known)
    limits = {"sigma_min": sigma_min, "sigma_max": sigma_max}
    options |= {name: value for name, value in limits.items() if value is not None}
    made = make_process(process, shift, zero_terminal_snr)
    where: dict[str, Any] = {"process": made, "sigmas": read_sigmas(sigmas), "calls": calls, "dialect": dialect}
    built = build_sampler(named, schedule, steps, **where, **options)
    _write(_text(built, Format.JSON if as_json else format), out, force)


def _text(sampler: Sampler, format: Format | None) -> str:
    """The plan of a sampler in a format; None is for people."""
    plan = sampler.plan
    if format is not None:
        return export(plan, format, f"{sampler!r}, written by ksched {__version__}.")
    facts = (
        f"# {_count(plan.nfe, 'model call')}, {_count(len(plan.draws), 'noise')}, "
        f"{_count(plan.widest_row, 'term')} in the widest row, {_count(plan.live_registers, 'live register')}"
    )
    return f"{plan}\n{facts}\n"


def _write(text: str, out: Path | None, force: bool) -> None:
    """Print a text, or write it to a file and print the name of that."""
    if out is None:
        print(text, end="")
        return
    if out.exists() and not force:
        raise ValueError(f"{out} is there already; give another --output, or --force to replace it")
    write_whole(out, text.encode(), replace=force)
    print(out)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
