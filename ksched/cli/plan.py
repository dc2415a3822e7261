"""``ksched plan``: the table of numbers that a sampler runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from ksched import __version__
from ksched.cli.common import (
    LEVELS,
    AsJSON,
    Calls,
    DialectName,
    Options,
    PlanSteps,
    ProcessOption,
    Shift,
    SigmaMax,
    SigmaMin,
    Sigmas,
    StepsArgument,
    ZeroSNR,
    complete_sampler,
    complete_schedule,
    one_of,
    read_options,
    read_plan,
    read_sigmas,
)
from ksched.cli.paths import PATH
from ksched.cli.printing import print_files
from ksched.cli.process import ProcessName, make_process
from ksched.cli.values import choice
from ksched.export import Format, export
from ksched.names.enums import Dialect, NoiseSchedule
from ksched.samplers.registry import plan_spec, sampler_spec
from ksched.schedules.select import schedule_name, schedule_options
from ksched.storage.files import write_whole

if TYPE_CHECKING:
    from ksched.sampler import Sampler

__all__ = ["print_plan"]

AfterSampler: TypeAlias = Annotated[
    str | None,
    typer.Argument(
        metavar="SCHEDULE",
        help="Noise schedule, the same as --schedule.",
        show_default=False,
        autocompletion=complete_schedule,
    ),
]
AsFormat: TypeAlias = Annotated[
    Format | None,
    typer.Option(
        "--format",
        **choice("a format", Format),
        help=f"{', '.join(Format)}: source code that runs the plan, or its JSON.",
        show_default="a table to read",
    ),
]


def print_plan(
    sampler: Annotated[
        str,
        typer.Argument(
            help="Sampler (see 'ksched list'), auto, or a .json file with a plan.", autocompletion=complete_sampler
        ),
    ],
    after_sampler: AfterSampler = None,
    after_schedule: StepsArgument = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            "--schedule",
            metavar="NAME",
            help="Noise schedule; see 'ksched list'.",
            show_default="simple",
            autocompletion=complete_schedule,
            rich_help_panel=LEVELS,
        ),
    ] = None,
    steps: PlanSteps = None,
    calls: Calls = None,
    sigmas: Sigmas = None,
    process: ProcessOption = ProcessName.VP,
    shift: Shift = None,
    zero_terminal_snr: ZeroSNR = False,
    sigma_min: SigmaMin = None,
    sigma_max: SigmaMax = None,
    dialect: DialectName = Dialect.KSCHED,
    option: Options = None,
    as_json: AsJSON = False,
    format: AsFormat = None,
    out: Annotated[
        Path | None, typer.Option("--output", "--out", **PATH, help="File to write to.", show_default="the screen")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Print the plan of a sampler on a schedule: the table of numbers that it runs.

    Each row computes the next state from earlier states, model predictions and noise. --json prints the plan as JSON,
    which ksched generate --plan and ksched.Plan.from_json read. --format c, rust or js writes self-contained source
    code that runs the plan.

    Examples
    --------
    ksched plan euler karras
    ksched plan dpmpp_2m karras 10
    ksched plan dpmpp_2m_sde karras --eta 0.5 --rho 5
    ksched plan heun --calls 8 --process flow --shift 3
    ksched plan uni_pc --sigmas 14.6,5,1.5,0.4,0 --json
    ksched plan euler karras 20 --format c --output plan.h
    """
    from ksched.sampler import build_sampler

    schedule, steps = one_of("--schedule", schedule, after_sampler), one_of("--steps", steps, after_schedule)
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
    _write(_text(built, Format.JSON if as_json else format), out, force, as_json)


def _text(sampler: Sampler, format: Format | None) -> str:
    """Format the plan of a sampler; None gives a table to read."""
    plan = sampler.plan
    if format is not None:
        return export(plan, format, f"{sampler!r}, written by ksched {__version__}.")
    facts = (
        f"# {_count(plan.nfe, 'model call')}, {_count(len(plan.draws), 'noise')}, "
        f"{_count(plan.widest_row, 'term')} in the widest row, {_count(plan.live_registers, 'live register')}"
    )
    return f"{plan}\n{facts}\n"


def _write(text: str, out: Path | None, force: bool, as_json: bool) -> None:
    """Print a text, or write it to a file and print the file's name."""
    if out is None:
        print(text, end="")
        return
    if out.exists() and not force:
        raise ValueError(f"--output must be a new file; {out} exists: give another name, or --force to replace it")
    write_whole(out, text.encode(), replace=force)
    print_files([out], as_json)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
