"""``ksched compare``: one image with many samplers, schedules and numbers of steps, on a sheet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ksched.cli.common import Options
from ksched.cli.configurations import given_of, parts_of, split_options, wanted_of, whole_number
from ksched.cli.image_options import (
    CanvasOptions,
    Force,
    GuidanceOptions,
    ModelOptions,
    What,
    digests,
    facts,
    is_sheet_there,
    make_writable,
    quoted,
    save_sheet,
    shows_progress,
    threads_for,
    told_of_interruption,
    with_groups,
)
from ksched.cli.paths import PATH
from ksched.samplers.registry import sampler_spec
from ksched.schedules.select import schedule_name, schedule_options

if TYPE_CHECKING:
    from PIL import Image

    from ksched.sampler import Sampler
    from ksched.stable_diffusion import SamplingConfig, StableDiffusion

__all__ = ["compare_images"]


@with_groups
def compare_images(
    what: What = None,
    *,
    samplers: Annotated[str, typer.Option("--samplers", metavar="A,B,...", help="See 'ksched list'.")] = (
        "euler,dpmpp_2m,uni_pc"
    ),
    schedules: Annotated[
        str, typer.Option("--schedules", metavar="A,B,...", help="See 'ksched list'.")
    ] = "karras,beta",
    steps: Annotated[str, typer.Option("--steps", "-n", metavar="N,N,...", help="1 to 1000.")] = "4,8,16",
    option: Options = None,
    prompted: GuidanceOptions,
    seed: Annotated[int | None, typer.Option("--seed", help="Of every image.", show_default="0")] = None,
    canvas: CanvasOptions,
    drawn_by: ModelOptions,
    out: Annotated[Path, typer.Option("--out", **PATH, help="A .png.")] = Path("compare.png"),
    force: Force = False,
) -> None:
    """Draw one image with samplers, schedules and numbers of steps: a row for each pair, a column for each number.

    All have the same seed, so that they differ by the numbers alone. An option goes to all that have it.
    """
    if out.suffix.lower() != ".png":
        raise ValueError(f"a sheet is one .png; got --out {out}")
    counts = [whole_number("--steps", part) for part in parts_of("--steps", steps)]
    names = [sampler_spec(part).name for part in parts_of("--samplers", samplers)]
    rules = [str(schedule_name(part)) for part in parts_of("--schedules", schedules)]
    split = split_options(names, rules, option)
    (base, *more) = wanted_of(what, None, given_of(**prompted.settings, **canvas.settings, seed=seed), None)
    if more:
        raise ValueError(f"compare draws one prompt or configuration; {what} has {1 + len(more)}")
    pairs = [(name, rule) for name in names for rule in rules]
    configs = [_row(base.config, name, rule, counts, split) for name, rule in pairs]
    made = drawn_by.load()
    with told_of_interruption(kept=False), threads_for(made, drawn_by.threads, folder=False):
        shown = _contents(made, configs, canvas.pictures)
        whole = canvas.init is None
        runs = [[made.sampler(config, whole=whole) for config in row] for row in configs]  # refuses what cannot be
        if is_sheet_there(out, shown, force):
            return
        make_writable(out)
        save_sheet(
            _drawn(made, configs, canvas.pictures),
            out,
            shown,
            force,
            rows=[f"{name}\n{rule}" for name, rule in pairs],
            columns=[_counted(count, "step") for count in counts],
            captions=[[_caption(run) for run in row] for row in runs],
            title=quoted(base.config.prompt),
            note=facts(made, base.config, plain=True),
        )


def _row(
    base: SamplingConfig, sampler: str, schedule: str, counts: Sequence[int], options: Mapping[str, Mapping[str, Any]]
) -> list[SamplingConfig]:
    """One configuration with a sampler, a schedule and the options that they have, at every number of steps."""
    from ksched.stable_diffusion import SamplingConfig

    known = {
        "sampler_options": {*sampler_spec(sampler).options},
        "schedule_options": {*schedule_options(schedule), "sigma_min", "sigma_max"},
    }
    own = {key: {name: value for name, value in options[key].items() if name in known[key]} for key in known}
    entries = {**base.single(0).to_dict(), "sampler": sampler, "schedule": schedule, **own, "sigmas": None}
    return [SamplingConfig.from_dict({**entries, "steps": count}) for count in counts]


def _drawn(
    model: StableDiffusion, configs: Sequence[Sequence[SamplingConfig]], pictures: Mapping[str, Any]
) -> list[list[Image.Image]]:
    """The images of configurations by row, with a bar over all of them."""
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
    """What a sheet shows, as it carries it."""
    entries = [[config.to_dict() for config in row] for row in configs]
    return {"model": model.name, "configs": entries, **digests(pictures)}


def _caption(sampler: Sampler) -> str:
    """The cost of a run, as it is written under its image."""
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
