"""``ksched tune``: a plan fitted to samples of the data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ksched.cli.common import (
    AsJSON,
    Options,
    ProcessOption,
    Seed,
    Shift,
    ZeroSNR,
    complete_sampler,
    read_options,
    screen,
)
from ksched.cli.paths import PATH
from ksched.cli.printing import print_files
from ksched.cli.process import ProcessName, make_process
from ksched.cli.values import number, starting_with, whole
from ksched.samplers.registry import sampler_spec
from ksched.storage.files import check_writable, remove_parts, write_whole

__all__ = ["tune_plan"]


def tune_plan(
    data: Annotated[
        Path,
        typer.Option("--data", **PATH, help="A few hundred samples or latents: a .npy file of shape (samples, ...)."),
    ],
    steps: Annotated[int, typer.Option("--steps", "-n", **whole(1, 50), help="Steps of the plan.")] = 8,
    out: Annotated[Path, typer.Option("--out", **PATH, help="File for the plan.")] = Path("plan.json"),
    process: ProcessOption = ProcessName.VP,
    shift: Shift = None,
    zero_terminal_snr: ZeroSNR = False,
    sampler: Annotated[
        str | None,
        typer.Option(
            "--sampler",
            metavar="NAME",
            help="Use this sampler and tune only its noise levels.",
            autocompletion=complete_sampler,
        ),
    ] = None,
    option: Options = None,
    guidance: Annotated[
        float, typer.Option("--guidance", **number(0.0), help="Scale of classifier-free guidance (CFG) to tune for.")
    ] = 1.0,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", **PATH, help="With --guidance: a .npy file with the class of each sample."),
    ] = None,
    data_std: Annotated[
        float | None,
        typer.Option(
            "--data-std", **number(0.0, above=True), help="Standard deviation of the data.", show_default="measured"
        ),
    ] = None,
    end: Annotated[
        str | None,
        typer.Option(
            "--end",
            metavar="NAME",
            help="Last step: denoised returns the last prediction (for noisy models); integral integrates.",
            show_default="the better of the two",
            autocompletion=starting_with(lambda: ("denoised", "integral")),
        ),
    ] = None,
    level: Annotated[
        int,
        typer.Option("--level", **whole(0), help="0 chooses among known samplers and schedules; 1 fits a new plan."),
    ] = 1,
    seed: Seed = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace the file of --out if it exists.")] = False,
    as_json: AsJSON = False,
) -> None:
    """Make a plan for your data: noise levels and weights for a given number of steps.

    Your model is not called: a Gaussian mixture, fitted to the samples, replaces it. The new plan is compared with the
    best known samplers and schedules; if it is not better, the best of those is written instead. The file works
    with ksched generate --plan, and with ksched.Plan.from_json in Python.

    Examples
    --------
    ksched tune --data latents.npy --steps 8
    ksched tune --data latents.npy --steps 6 --process flow --shift 3 --out plan.json
    ksched tune --data latents.npy --sampler dpmpp_2m --level 0
    """
    from ksched.tuning import tune

    if out.exists() and not force:
        raise ValueError(f"--out must be a new file; {out} exists: give another name, or --force to replace it")
    if not out.parent.is_dir():
        raise ValueError(f"the folder of --out must exist; got {out}")
    check_writable(out)
    options: dict[str, Any] = {}
    if sampler is not None:
        spec = sampler_spec(sampler)
        options = read_options(option, f"sampler {spec.name}", spec.options)
    elif option:
        raise ValueError("--option sets options of --sampler; add --sampler, or leave --option out")
    how: dict[str, Any] = {"end": end, "level": level, "guidance": guidance, "data_std": data_std, "seed": seed}
    how |= {"labels": None if labels is None else _array("--labels", labels)}
    made = make_process(process, shift, zero_terminal_snr)
    plan = tune(
        _array("--data", data), steps, process=made, sampler=sampler, progress=sys.stderr.isatty(), **how, **options
    )
    text = plan.to_json()
    try:
        write_whole(out, f"{text}\n".encode(), replace=force)
    except OSError as error:  # do not lose minutes of work
        print(text)
        print(f"ksched: {error.strerror}; the plan is printed instead", file=sys.stderr)
        raise typer.Exit(1) from None
    remove_parts([out])
    if as_json:
        print_files([out], True, **{name: plan.report[name] for name in ("chosen", "why", "held_out", "compared")})
        return
    print(f"Errors relative to the spread of the data, on {plan.report['held_out']}:")
    screen().print(_table(plan.report))
    print(f"{plan.report['why']}.")
    print(out)


def _array(flag: str, file: Path) -> Any:
    """Read the array in a .npy file."""
    import numpy as np

    try:
        with file.open("rb") as opened:
            found = np.load(opened, allow_pickle=False)
    except OSError as error:
        raise ValueError(f"{flag}: cannot read {file}: {error.strerror or error}") from None
    except Exception:  # damaged files raise errors of many kinds
        raise ValueError(f"{flag} must be a .npy file with an array of numbers; {file} is not one") from None
    if not isinstance(found, np.ndarray):
        raise ValueError(f"{flag} must be one array, as numpy.save writes it; {file} has several arrays")
    return found


def _table(report: Any) -> Any:
    """Tabulate the comparison, best plan first."""
    from rich import box
    from rich.table import Table

    table = Table("plan", "mean", "90 %", "worst", box=box.SIMPLE_HEAD if sys.stdout.isatty() else None)
    for row in report["compared"][:8]:
        mark = " *" if row["name"] == report["chosen"] else ""
        table.add_row(row["name"] + mark, *(f"{row[key]:.4f}" for key in ("mean", "p90", "worst")))
    return table
