"""``ksched demo`` and ``ksched plot``: pictures of numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from ksched.cli.common import (
    AsJSON,
    ProcessOption,
    SamplerName,
    ScheduleName,
    Seed,
    plain_number,
    screen,
)
from ksched.cli.image_options import SHIPPED, quiet, shows_progress
from ksched.cli.paths import PATH
from ksched.cli.printing import print_files
from ksched.cli.process import ProcessName, make_process
from ksched.cli.values import whole

if TYPE_CHECKING:
    from ksched.pictures.demo import Error, Report


__all__ = ["draw_demo"]


_MEASURED_SHARE = 0.8  # share of the time, when digits are drawn from text too


def draw_demo(
    sampler: SamplerName = "dpmpp_2m",
    schedule: ScheduleName = "karras",
    steps: Annotated[
        int,
        typer.Option(
            "--steps",
            "-n",
            **whole(1, 1000, ", so that the demo ends within minutes"),
            help="Number of sampling steps.",
        ),
    ] = 20,
    process: ProcessOption = ProcessName.VP,
    seed: Seed = 0,
    out: Annotated[Path, typer.Option("--out", **PATH, help="Folder for the pictures.")] = Path("demo"),
    as_json: AsJSON = False,
) -> None:
    """Sample 64 handwritten digits, and measure every sampler on every schedule at equal model calls (NFE).

    The pictures show the digits, the noise levels and the errors. With the extra diffusers installed, the demo also
    draws digits from text.

    Examples
    --------
    ksched demo
    ksched demo --sampler heun --schedule beta --steps 10 --out pictures
    """
    from ksched.cli import demo_of_words
    from ksched.pictures import demo
    from ksched.pictures.progress import progress_line

    with_words = (SHIPPED / "model_index.json").is_file() and all(map(find_spec, ("diffusers", "transformers")))
    prompted: tuple[Path, ...] = ()
    with progress_line() if shows_progress() else nullcontext(lambda doing, share: None) as tell:

        def part(start: float, end: float) -> Callable[[str, float], object]:
            return lambda doing, share: tell(doing, start + (end - start) * share)

        first = _MEASURED_SHARE if with_words else 1.0
        report = demo.run(
            sampler, schedule, steps, process=make_process(process), seed=seed, out=out, progress=part(0, first)
        )
        if with_words:
            with quiet():
                prompted = demo_of_words.from_text(
                    SHIPPED, sampler, schedule, steps, seed=seed, out=out, progress=part(first, 1)
                )
    if not as_json:
        screen().print(_error_table(report))
    print_files([*prompted, *report.pictures], as_json, **(_facts(report) if as_json else {}))
    if not as_json:
        print(_try_next(with_words))


def _facts(report: Report) -> dict[str, Any]:
    """Return the errors of all samplers for --json."""
    errors = [error for count in report.maps for error in report.at(count)]
    return {"errors": [{**error._asdict(), "value": plain_number(float(error.value))} for error in errors]}


def _try_next(with_words: bool) -> str:
    """Suggest three commands to try after the demo; each works when pasted."""
    commands = {
        "ksched plan dpmpp_2m karras --steps 4": "a sampler as a table of numbers",
        "ksched list": "all samplers and noise schedules",
        "ksched plot karras beta --steps 20 --out schedules.png": "noise levels side by side",
    }
    if with_words:
        commands = {'ksched generate "a handwritten seven" --out seven.png': "a picture from text", **commands}
    lines = [f"  {command}\n      {what}" for command, what in list(commands.items())[:3]]
    return "\n".join(["", "Try next:", *lines])


def _error_table(report: Report) -> Table:
    """Tabulate the errors of all samplers at equal NFE, with the requested schedule and with each one's best."""
    asked, counts = report.sampler.schedule, report.maps
    table = _empty_table(asked, counts)
    found: dict[tuple[str, int], list[Error]] = {}
    for error in (error for count in counts for error in report.at(count)):
        found.setdefault((error.sampler, error.calls), []).append(error)
    best = {key: min(row, key=lambda error: error.value) for key, row in found.items()}
    last = counts[-1]
    for noise, errors in (("no", report.path), ("yes", report.law)):
        names = dict.fromkeys(error.sampler for error in errors if error.calls in counts)
        least = {c: min(best[n, c].value for n in names if (n, c) in best) for c in counts} if names else {}
        for name in sorted(names, key=lambda n: best[n, last].value if (n, last) in best else math.inf):
            cells: list[str | Text] = []
            for count in counts:
                cells += [_percent(e.value) for e in found.get((name, count), []) if e.schedule in (asked, None)] or [
                    "-"
                ]
                cells.append(_best_cell(best.get((name, count)), least[count]))
            table.add_row(name, noise, *cells, _levels_of(best.get((name, last))))
        table.add_section()
    return table


def _empty_table(asked: str | None, counts: Sequence[int]) -> Table:
    """Build the table of errors with its headings and no rows."""
    table = Table(
        box=box.SIMPLE,  # 80 columns are enough
        show_edge=False,
        pad_edge=False,
        padding=(0, 0, 0, 1),
        title=f"Error at {' and '.join(map(str, counts))} model calls (NFE), in % of the digits' spread",
        caption="without noise: mean distance to the exact ODE solution, on digits\n"
        "with noise: Wasserstein-2 distance to the exact distribution, on Gaussian data\n"
        "a sampler with two calls per step runs half the steps; - cannot run in so few\n"
        "* smallest error without or with noise; auto has its own noise levels",
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("sampler", no_wrap=True)
    table.add_column("noise", justify="right", no_wrap=True)
    for count in counts:
        table.add_column(f"at {count}\n{asked}", justify="right")
        table.add_column(f"at {count}\nbest", justify="right")
    table.add_column("with", no_wrap=True)
    return table


def _best_cell(best: Error | None, least: float) -> str | Text:
    """Format a sampler's smallest error; a star marks the smallest of all samplers."""
    if best is None:
        return "- "
    if best.value == least:
        return Text(_percent(best.value) + "*", style="bold green")
    return _percent(best.value) + " "


def _levels_of(best: Error | None) -> str:
    """Return the schedule with which a sampler has its smallest error."""
    if best is None:
        return ""
    return "its own levels" if best.schedule is None else str(best.schedule)


def _percent(value: float) -> str:
    return f"{100 * value:.{2 if value < 0.01 else 1 if value < 0.1 else 0}f}"
