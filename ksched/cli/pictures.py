"""``ksched demo`` and ``ksched plot``: pictures of numbers."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from ksched.cli.common import (
    LONGEST_PLAN,
    DialectName,
    Options,
    ProcessOption,
    ScheduleName,
    Shift,
    ZeroSNR,
    read_options,
    screen,
)
from ksched.cli.drawing import SHIPPED, quiet
from ksched.cli.paths import PATH
from ksched.cli.process import ProcessName, make_process
from ksched.schedules import schedule_options
from ksched.types import Dialect, NoiseSchedule

if TYPE_CHECKING:
    from ksched.demo import Error, Report

__all__ = ["draw_demo", "draw_schedules"]

_LONGEST_DEMO = 1000  # steps of every sampler on every schedule


def draw_demo(
    sampler: Annotated[str, typer.Option("--sampler", help="Sampler; see 'ksched list'.")] = "dpmpp_2m",
    schedule: ScheduleName = "karras",
    steps: Annotated[int, typer.Option("--steps", "-n", max=_LONGEST_DEMO, help="Number of steps, at least 1.")] = 20,
    process: ProcessOption = ProcessName.VP,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the start noise and of the sampler.")] = 0,
    out: Annotated[Path, typer.Option("--out", **PATH, help="Folder for the pictures.")] = Path("demo"),
) -> None:
    """Sample 64 handwritten digits, measure every sampler on every schedule, and draw it all.

    With the extra diffusers, digits are drawn of words too.
    """
    from ksched import demo

    report = demo.run(sampler, schedule, steps, process=make_process(process), seed=seed, out=out, progress=True)
    console = screen()
    console.print(_error_table(report))
    prompted: tuple[Path, ...] = ()
    if (SHIPPED / "model_index.json").is_file() and all(map(find_spec, ("diffusers", "transformers"))):
        with quiet():
            prompted = demo.from_text(SHIPPED, sampler, schedule, steps, seed=seed, out=out)
    for picture in (*prompted, *report.pictures):
        print(picture)


def _error_table(report: Report) -> Table:
    """Errors of all samplers at the steps that were asked for: with the schedule that was, and with their best one."""
    steps, asked = report.sampler.steps, report.sampler.schedule
    table = Table(
        box=box.SIMPLE,  # 80 columns are enough
        show_edge=False,
        pad_edge=False,
        padding=(0, 0, 0, 2),
        title=f"Error after {steps} {'step' if steps == 1 else 'steps'}, in % of the digits' spread",
        caption="without noise: rms distance to the exact ODE solution, on digits\n"
        "with noise: Wasserstein-2 distance to the exact law, on Gaussian data\n"
        "* best of its kind",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("sampler", no_wrap=True)
    for column in ("calls", "noise", str(asked), "best"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("with", no_wrap=True)
    for noise, errors in (("no", report.at_steps(report.path)), ("yes", report.at_steps(report.law))):
        rows: dict[str, list[Error]] = {}
        for error in errors:
            rows.setdefault(error.sampler, []).append(error)
        least = min(errors, key=lambda error: error.value, default=None)
        for sampler, row in sorted(rows.items(), key=lambda entry: min(error.value for error in entry[1])):
            best = min(row, key=lambda error: error.value)
            here = [_percent(error.value) for error in row if error.schedule == asked]
            most = Text(_percent(best.value) + "*", style="bold green") if best is least else _percent(best.value) + " "
            table.add_row(sampler, str(best.nfe), noise, *here, most, best.schedule.value)
        table.add_section()
    return table


def _percent(value: float) -> str:
    return f"{100 * value:.{2 if value < 0.01 else 1 if value < 0.1 else 0}f}"


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
    names = list(dict.fromkeys(map(NoiseSchedule.parse, schedule)))
    spoken = Dialect.parse(dialect)
    made = make_process(process, shift, zero_terminal_snr)
    known = {key: value for name in reversed(names) for key, value in schedule_options(name).items()}
    options = read_options(option, f"schedule {' or '.join(names)}", known)

    from ksched import plots

    figure = plots.schedule_curves(names, steps, made, dialect=spoken, options=options)
    words = [*names] if len(names) <= 4 else [f"{len(names)}-schedules"]
    words += [f"{steps}-step{'' if steps == 1 else 's'}", process, *([] if shift is None else [f"shift-{shift:g}"])]
    words += ["zero-terminal-snr"] * zero_terminal_snr + [spoken] * (spoken is not Dialect.KSCHED)
    words += [f"{name}-{value:g}" if isinstance(value, float) else f"{name}-{value}" for name, value in options.items()]
    path = out or Path("-".join(words) + ".png")
    for picture in plots.save({path: figure}):
        print(picture)
