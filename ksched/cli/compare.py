"""``ksched compare``: one image with many samplers, schedules and numbers of steps, on a sheet."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ksched.cli.common import Options
from ksched.cli.configurations import given_of, parts_of, split_options, wanted_of, whole_number
from ksched.cli.image_options import (
    Device,
    DType,
    Force,
    Guidance,
    Height,
    Init,
    Mask,
    Model,
    Negative,
    Rescale,
    Strength,
    Threads,
    What,
    Width,
    digests,
    facts,
    is_sheet_there,
    load,
    make_writable,
    quoted,
    save_sheet,
    shows_progress,
    threads_for,
    told_of_interruption,
)
from ksched.cli.paths import PATH
from ksched.names.enums import NoiseSchedule
from ksched.samplers.registry import sampler_spec
from ksched.schedules import schedule_options

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["compare_images"]


def compare_images(
    what: What = None,
    samplers: Annotated[str, typer.Option("--samplers", metavar="A,B,...", help="See 'ksched list'.")] = (
        "euler,dpmpp_2m,uni_pc"
    ),
    schedules: Annotated[
        str, typer.Option("--schedules", metavar="A,B,...", help="See 'ksched list'.")
    ] = "karras,beta",
    steps: Annotated[str, typer.Option("--steps", "-n", metavar="N,N,...", help="1 to 150.")] = "4,8,16",
    option: Options = None,
    negative: Negative = None,
    guidance: Guidance = None,
    guidance_rescale: Rescale = None,
    seed: Annotated[int | None, typer.Option("--seed", help="Of every image.", show_default="0")] = None,
    width: Width = None,
    height: Height = None,
    init: Init = None,
    mask: Mask = None,
    strength: Strength = None,
    model: Model = None,
    device: Device = None,
    dtype: DType = None,
    threads: Threads = None,
    out: Annotated[Path, typer.Option("--out", **PATH, help="A .png.")] = Path("compare.png"),
    force: Force = False,
) -> None:
    """Draw one image with samplers, schedules and numbers of steps: a row for each pair, a column for each number.

    All have the same seed, so that they differ by the numbers alone. An option goes to all that have it.
    """
    from ksched.stable_diffusion import SamplingConfig

    if out.suffix.lower() != ".png":
        raise ValueError(f"a sheet is one .png; got --out {out}")
    counts = [whole_number("--steps", part) for part in parts_of("--steps", steps)]
    names = [sampler_spec(part).name for part in parts_of("--samplers", samplers)]
    rules = [NoiseSchedule.parse(part).value for part in parts_of("--schedules", schedules)]
    split = split_options(names, rules, option)
    common = given_of(
        negative_prompt=negative,
        guidance_scale=guidance,
        guidance_rescale=guidance_rescale,
        seed=seed,
        width=width,
        height=height,
        strength=strength,
    )
    (base, *more) = wanted_of(what, None, common, None)
    if more:
        raise ValueError(f"compare draws one prompt or configuration; {what} has {1 + len(more)}")
    pairs = [(name, rule) for name in names for rule in rules]
    configs = []
    for name, rule in pairs:
        has = {
            "sampler_options": {*sampler_spec(name).options},
            "schedule_options": {*schedule_options(NoiseSchedule(rule)), "sigma_min", "sigma_max"},
        }
        own = {key: {n: v for n, v in split[key].items() if n in has[key]} for key in has}
        one = {**base.config.single(0).to_dict(), "sampler": name, "schedule": rule, **own}
        configs.append([SamplingConfig.from_dict({**one, "steps": count}) for count in counts])
    made = load(model, device, dtype)
    with told_of_interruption(kept=False), threads_for(made, threads, folder=False):
        shown = {"model": made.name, "configs": [[config.to_dict() for config in row] for row in configs]}
        shown |= digests({"init_image": init, "mask": mask})
        runs = [
            [made.sampler(config, whole=init is None) for config in row] for row in configs
        ]  # refuses what cannot be
        if is_sheet_there(out, shown, force):
            return
        make_writable(out)
        with _bar(len(pairs) * len(counts)) as advance:
            cells: list[list[Image.Image]] = []
            for row in configs:
                cells.append([])
                for config in row:
                    cells[-1] += made.generate(config, init_image=init, mask=mask)
                    advance()
        save_sheet(
            cells,
            out,
            shown,
            force,
            rows=[f"{name}\n{rule}" for name, rule in pairs],
            columns=[f"{count} step{'' if count == 1 else 's'}" for count in counts],
            captions=[["adaptive" if run.spec.adaptive else _calls(run.nfe) for run in row] for row in runs],
            title=quoted(base.config.prompt),
            note=facts(made, base.config, plain=True),
        )


def _calls(nfe: int) -> str:
    return f"{nfe} call{'' if nfe == 1 else 's'}"


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
