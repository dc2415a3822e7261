"""``ksched compare``: one sheet with the same image from several samplers, schedules and numbers of steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ksched.cli.common import Options, complete_sampler, complete_schedule
from ksched.cli.configurations import given_of, parts_of, split_options, wanted_of, whole_number
from ksched.cli.image_options import (
    PICTURE,
    CanvasOptions,
    Force,
    GuidanceOptions,
    ModelOptions,
    What,
    make_writable,
    shows_progress,
    threads_for,
    told_of_interruption,
    with_groups,
)
from ksched.cli.paths import PATH
from ksched.cli.printing import printed_files
from ksched.cli.sheets import digests, facts, is_sheet_there, quoted, save_sheet
from ksched.cli.values import whole
from ksched.names.enums import NoiseSchedule
from ksched.samplers.registry import sampler_spec
from ksched.schedules.select import schedule_name, schedule_options

if TYPE_CHECKING:
    from PIL import Image

    from ksched.sampler import Sampler
    from ksched.stable_diffusion import SamplingConfig, StableDiffusion

__all__ = ["compare_images"]


def _complete_samplers(incomplete: str) -> list[str]:
    """Complete the last of several names separated by commas."""
    before, comma, last = incomplete.rpartition(",")
    return [before + comma + name for name in complete_sampler(last)]


def _complete_schedules(incomplete: str) -> list[str]:
    before, comma, last = incomplete.rpartition(",")
    return [before + comma + name for name in complete_schedule(last)]


@with_groups
def compare_images(
    what: What = None,
    *,
    samplers: Annotated[
        str,
        typer.Option(
            "--samplers", metavar="A,B,...", help="Samplers; see 'ksched list'.", autocompletion=_complete_samplers
        ),
    ] = "euler,dpmpp_2m,uni_pc",
    schedules: Annotated[
        str,
        typer.Option(
            "--schedules",
            metavar="A,B,...",
            help="Noise schedules; see 'ksched list'.",
            autocompletion=_complete_schedules,
        ),
    ] = "karras,beta",
    steps: Annotated[
        str, typer.Option("--steps", "-n", metavar="N,N,...", help="Numbers of steps, each from 1 to 1000.")
    ] = "4,8,16",
    option: Options = None,
    prompted: GuidanceOptions,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed",
            **whole(0, 2**63 - 1),
            help="Seed of every image.",
            show_default="0",
            rich_help_panel=PICTURE,
        ),
    ] = None,
    canvas: CanvasOptions,
    drawn_by: ModelOptions,
    out: Annotated[
        Path, typer.Option("--out", **PATH, help="File to write, ending in .png.", rich_help_panel="Output")
    ] = Path("compare.png"),
    force: Force = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the name of the file as JSON.", rich_help_panel="Output")
    ] = False,
) -> None:
    """Draw one image with several samplers, schedules and numbers of steps, on one sheet.

    The sheet has a row for each sampler and schedule and a column for each number of steps, with the model calls (NFE)
    under each image. All images start from the same noise. An option applies to every sampler or schedule that has it.

    Examples
    --------
    ksched compare "a handwritten seven"
    ksched compare "seven" --samplers euler,dpmpp_2m,auto --schedules karras --steps 4,8 --out grid.png
    ksched compare fox.json --model path/to/model --seed 7
    """
    if out.suffix.lower() != ".png":
        raise ValueError(f"--out must be a file that ends in .png; got {out}")
    counts = [whole_number("--steps", part) for part in parts_of("--steps", steps)]
    names = [sampler_spec(part).name for part in parts_of("--samplers", samplers)]
    rules = [str(schedule_name(part)) for part in parts_of("--schedules", schedules)]
    split = split_options(names, rules, option)
    (base, *more) = wanted_of(what, None, given_of(**prompted.settings, **canvas.settings, seed=seed), None)
    if more:
        raise ValueError(f"compare draws one prompt or configuration; {what} has {1 + len(more)}")
    pairs = _pairs(names, rules)
    configs = [_row(base.config, name, rule, counts, split) for name, rule in pairs]
    made = drawn_by.load()
    interrupted, threads = told_of_interruption(kept=False), threads_for(made, drawn_by.threads, folder=False)
    with printed_files(as_json) as printed, interrupted, threads:
        shown = _contents(made, configs, canvas.pictures)
        whole = canvas.init is None
        runs = [
            [made.sampler(config, whole=whole) for config in row] for row in configs
        ]  # raises for impossible settings
        if is_sheet_there(out, shown, force, printed):
            return
        make_writable(out)
        save_sheet(
            _drawn(made, configs, canvas.pictures),
            out,
            shown,
            force,
            printed,
            rows=[f"{name}\n{rule or 'own levels'}" for name, rule in pairs],
            columns=[_counted(count, "step") for count in counts],
            captions=[[_caption(run) for run in row] for row in runs],
            title=quoted(base.config.prompt),
            note=facts(made, base.config, plain=True),
        )


def _pairs(samplers: Sequence[str], schedules: Sequence[str]) -> list[tuple[str, str | None]]:
    """Combine every sampler with every schedule; a sampler that brings its own noise levels has None."""
    own: list[str | None] = [None]
    return [(name, rule) for name in samplers for rule in (own if sampler_spec(name).levels else schedules)]


def _row(
    base: SamplingConfig,
    sampler: str,
    schedule: str | None,
    counts: Sequence[int],
    options: Mapping[str, Mapping[str, Any]],
) -> list[SamplingConfig]:
    """Return one configuration per number of steps, with a sampler, a schedule and the options that they accept."""
    from ksched.stable_diffusion import SamplingConfig

    known = {
        "sampler_options": {*sampler_spec(sampler).options},
        "schedule_options": set() if schedule is None else {*schedule_options(schedule), "sigma_min", "sigma_max"},
    }
    schedule = str(NoiseSchedule.default()) if schedule is None else schedule
    own = {key: {name: value for name, value in options[key].items() if name in known[key]} for key in known}
    entries = {**base.single(0).to_dict(), "sampler": sampler, "schedule": schedule, **own, "sigmas": None}
    return [SamplingConfig.from_dict({**entries, "steps": count}) for count in counts]


def _drawn(
    model: StableDiffusion, configs: Sequence[Sequence[SamplingConfig]], pictures: Mapping[str, Any]
) -> list[list[Image.Image]]:
    """Draw the images of all configurations, row by row, with one progress bar."""
    cells: list[list[Image.Image]] = []
    with _bar(sum(map(len, configs))) as advance:
        for row in configs:
            cells.append([])
            for config in row:
                cells[-1] += model.generate(config, **pictures)
                advance()
    return cells


def _contents(
    model: StableDiffusion, configs: Sequence[Sequence[SamplingConfig]], pictures: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the description of a sheet that is stored in its file."""
    entries = [[config.to_dict() for config in row] for row in configs]
    return {"model": model.name, "configs": entries, **digests(pictures)}


def _caption(sampler: Sampler) -> str:
    """Return the caption of an image: the cost of its run."""
    return "adaptive" if sampler.spec.adaptive else _counted(sampler.nfe, "call")


def _counted(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


@contextmanager
def _bar(total: int) -> Iterator[Any]:
    if not shows_progress():
        yield lambda: None
        return
    from ksched.execution.loop import progress_bar

    bar = progress_bar(total, 0)
    bar.unit = "image"
    try:
        yield bar.update
    finally:
        bar.close()
