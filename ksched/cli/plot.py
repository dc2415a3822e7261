"""``ksched plot``: pictures of schedules."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ksched.cli.common import (
    LONGEST_PLAN,
    DialectName,
    Options,
    ProcessOption,
    Shift,
    ZeroSNR,
    read_options,
)
from ksched.cli.paths import PATH
from ksched.cli.process import ProcessName, make_process
from ksched.names.enums import Dialect
from ksched.schedules.select import schedule_name, schedule_options

if TYPE_CHECKING:
    pass


__all__ = ["draw_schedules"]


def draw_schedules(
    schedule: Annotated[list[str], typer.Argument(help="Noise schedules; see 'ksched list'.")],
    steps: Annotated[int, typer.Option("--steps", "-n", max=LONGEST_PLAN, help="Number of steps, at least 1.")] = 20,
    process: ProcessOption = ProcessName.VP,
    shift: Shift = None,
    zero_terminal_snr: ZeroSNR = False,
    dialect: DialectName = "ksched",
    option: Options = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", **PATH, help="Picture to write; its ending says the format.", show_default="a name"),
    ] = None,
) -> None:
    """Draw sigma, half log-SNR and timestep of noise schedules by step; an option goes to all that have it."""
    names = list(dict.fromkeys(map(schedule_name, schedule)))
    spoken = Dialect.parse(dialect)
    made = make_process(process, shift, zero_terminal_snr)
    known = {key: value for name in reversed(names) for key, value in schedule_options(name).items()}
    options = read_options(option, f"schedule {' or '.join(names)}", known)

    from ksched.pictures import plots

    figure = plots.schedule_curves(names, steps, made, dialect=spoken, options=options)
    words = [*names] if len(names) <= 4 else [f"{len(names)}-schedules"]
    words += [f"{steps}-step{'' if steps == 1 else 's'}", process, *([] if shift is None else [f"shift-{shift:g}"])]
    words += ["zero-terminal-snr"] * zero_terminal_snr + [spoken] * (spoken is not Dialect.KSCHED)
    words += [f"{name}-{value:g}" if isinstance(value, float) else f"{name}-{value}" for name, value in options.items()]
    path = out or Path("-".join(words) + ".png")
    for picture in plots.save({path: figure}):
        print(picture)
