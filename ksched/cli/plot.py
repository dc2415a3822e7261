"""``ksched plot``: plots of noise schedules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from ksched.cli.common import (
    AsJSON,
    DialectName,
    Options,
    PlanSteps,
    ProcessOption,
    Shift,
    ZeroSNR,
    complete_schedule,
    read_options,
)
from ksched.cli.paths import PATH
from ksched.cli.printing import print_files
from ksched.cli.process import ProcessName, make_process
from ksched.cli.values import shown
from ksched.names.enums import Dialect
from ksched.schedules.select import schedule_name, schedule_options

__all__ = ["draw_schedules"]


def draw_schedules(
    schedule: Annotated[
        list[str], typer.Argument(help="Noise schedules; see 'ksched list'.", autocompletion=complete_schedule)
    ],
    steps: PlanSteps = None,
    process: ProcessOption = ProcessName.VP,
    shift: Shift = None,
    zero_terminal_snr: ZeroSNR = False,
    dialect: DialectName = Dialect.KSCHED,
    option: Options = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            **PATH,
            help="Picture to write; its extension sets the format.",
            show_default="named after its settings",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file of --out if it exists.")] = False,
    as_json: AsJSON = False,
) -> None:
    """Draw noise schedules: sigma, half log-SNR and timestep against the step.

    An option applies to every schedule that has it.

    Examples
    --------
    ksched plot karras beta simple
    ksched plot karras exponential --steps 30 --rho 5 --out curves.svg
    ksched plot simple beta --process flow --shift 3
    """
    names, count = list(dict.fromkeys(map(schedule_name, schedule))), steps or 20
    made = make_process(process, shift, zero_terminal_snr)
    known = {key: value for name in reversed(names) for key, value in schedule_options(name).items()}
    options = read_options(option, f"schedule {' or '.join(names)}", known)
    if out is not None and out.is_file() and not force:
        raise ValueError(f"--out must be a new file; {out} exists: give another name, or --force to replace it")

    from ksched.pictures import plots

    figure = plots.schedule_curves(names, count, made, dialect=dialect, options=options)
    formats = figure.canvas.get_supported_filetypes()
    if out is not None and out.suffix and out.suffix[1:].lower() not in formats:
        raise ValueError(f"--out must end in a picture format: {', '.join(formats)}; got {shown(out)}")
    path = out or _named(names, count, process, shift, zero_terminal_snr, dialect, options)
    print_files(plots.save({path: figure}), as_json)


def _named(
    names: Sequence[str],
    count: int,
    process: ProcessName,
    shift: float | None,
    zero_terminal_snr: bool,
    dialect: Dialect,
    options: Mapping[str, Any],
) -> Path:
    """Name a file after all settings of the plot."""
    words = [*names] if len(names) <= 4 else [f"{len(names)}-schedules"]
    words += [f"{count}-step{'' if count == 1 else 's'}", process, *([] if shift is None else [f"shift-{shift:g}"])]
    words += ["zero-terminal-snr"] * zero_terminal_snr + [dialect] * (dialect is not Dialect.KSCHED)
    words += [f"{name}-{value:g}" if isinstance(value, float) else f"{name}-{value}" for name, value in options.items()]
    return Path("-".join(words) + ".png")
