"""``ksched tune``: a plan made for samples of the data."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ksched.cli.common import Options, ProcessOption, Shift, ZeroSNR, screen
from ksched.cli.paths import PATH
from ksched.cli.process import ProcessName, make_process
from ksched.samplers.registry import sampler_spec
from ksched.storage.files import check_writable, remove_parts, write_whole

__all__ = ["tune_plan"]


def tune_plan(
    data: Annotated[
        Path, typer.Option("--data", **PATH, help="Samples or latents, a few hundred: a .npy of shape (samples, ...).")
    ],
    steps: Annotated[int, typer.Option("--steps", "-n", help="Of the plan, 1 to 50.")] = 8,
    out: Annotated[Path, typer.Option("--out", **PATH, help="Where to write the plan.")] = Path("plan.json"),
    process: ProcessOption = ProcessName.VP,
    shift: Shift = None,
    zero_terminal_snr: ZeroSNR = False,
    sampler: Annotated[
        str | None, typer.Option("--sampler", help="Keep this sampler and choose the noise levels alone.")
    ] = None,
    option: Options = None,
    guidance: Annotated[float, typer.Option("--guidance", help="Scale of guidance that the plan is for.")] = 1.0,
    labels: Annotated[
        Path | None, typer.Option("--labels", **PATH, help="With guidance: a .npy with the class of every sample.")
    ] = None,
    data_std: Annotated[
        float | None, typer.Option("--data-std", help="Standard deviation of the data.", show_default="measured")
    ] = None,
    end: Annotated[
        str | None, typer.Option("--end", help="denoise ends with the last prediction, for noisy models.")
    ] = None,
    level: Annotated[int, typer.Option("--level", help="0 chooses among what there is; 1 fits a plan.")] = 1,
    seed: Annotated[int, typer.Option("--seed", help="Of everything random.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace a file.")] = False,
) -> None:
    """Make a plan for data: noise levels and weights for a number of model calls.

    No model is called: a mixture of Gaussians fitted to the samples stands in for it. The plan is compared with the
    best pairs of sampler and schedule, and is one of these where it is not better. Use it with ksched generate --plan,
    or in Python with ksched.build_sampler(ksched.Plan.from_json(...)).
    """
    from ksched.cli.common import read_options
    from ksched.tuning import tune

    if out.exists() and not force:
        raise ValueError(f"{out} is there already; give another --out, or --force to replace it")
    if not out.parent.is_dir():
        raise ValueError(f"--out needs a folder that exists; got {out}")
    check_writable(out)
    options: dict[str, Any] = {}
    if sampler is not None:
        spec = sampler_spec(sampler)
        options = read_options(option, f"sampler {spec.name}", spec.options)
    elif option:
        raise ValueError("--option is for --sampler; give one")
    how: dict[str, Any] = {"end": end, "level": level, "guidance": guidance, "data_std": data_std, "seed": seed}
    how |= {"labels": None if labels is None else _array("--labels", labels)}
    made = make_process(process, shift, zero_terminal_snr)
    plan = tune(
        _array("--data", data), steps, process=made, sampler=sampler, progress=sys.stderr.isatty(), **how, **options
    )
    text = plan.to_json()
    try:
        write_whole(out, f"{text}\n".encode(), replace=force)
    except OSError as error:  # minutes of work are not lost
        print(text)
        print(f"ksched: {error.strerror}; the plan is printed instead", file=sys.stderr)
        raise typer.Exit(1) from None
    remove_parts([out])
    print(f"Errors relative to the spread of the data, on {plan.report['held_out']}:")
    screen().print(_table(plan.report))
    print(f"{plan.report['why']}.")
    print(out)


def _array(flag: str, file: Path) -> Any:
    """The array in a .npy file."""
    import numpy as np

    try:
        with file.open("rb") as opened:
            found = np.load(opened, allow_pickle=False)
    except OSError as error:
        raise ValueError(f"{flag}: cannot read {file}: {error.strerror or error}") from None
    except Exception:  # damaged files raise errors of many kinds
        raise ValueError(f"{flag} must be a .npy file with an array of numbers; {file} is none") from None
    if not isinstance(found, np.ndarray):
        raise ValueError(f"{flag} must be one array, as numpy.save writes it; {file} has several")
    return found


def _table(report: Any) -> Any:
    """The comparison, the best first."""
    from rich import box
    from rich.table import Table

    table = Table("plan", "mean", "90 %", "worst", box=box.SIMPLE_HEAD)
    for row in report["compared"][:8]:
        mark = " *" if row["name"] == report["chosen"] else ""
        table.add_row(row["name"] + mark, *(f"{row[key]:.4f}" for key in ("mean", "p90", "worst")))
    return table
