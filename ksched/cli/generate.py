"""``ksched generate``: images from text, into files, a folder or a sheet."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ksched.cli.common import Calls, Options, Sigmas, complete_sampler, complete_schedule, read_sigmas
from ksched.cli.configurations import Wanted, given_of, is_folder, of_plan, seeds_of, wanted_of
from ksched.cli.image_options import (
    MODEL,
    PICTURE,
    CanvasOptions,
    Force,
    GuidanceOptions,
    ModelOptions,
    Steps,
    What,
    make_writable,
    shows_progress,
    threads_for,
    told_of_interruption,
    with_groups,
)
from ksched.cli.paths import PATH
from ksched.cli.printing import Printed, printed_files
from ksched.cli.sheets import carried, digests, facts, is_sheet_there, quoted, save_sheet
from ksched.cli.values import starting_with, whole
from ksched.storage.files import remove_parts

if TYPE_CHECKING:
    from ksched.stable_diffusion import SamplingConfig, StableDiffusion

__all__ = ["generate_images"]

_MOST_ON_A_SHEET = 1024


@with_groups
def generate_images(
    what: What = None,
    *,
    sampler: Annotated[
        str | None,
        typer.Option(
            "--sampler",
            metavar="NAME",
            help="Sampler; see 'ksched list'.",
            show_default="euler",
            autocompletion=complete_sampler,
        ),
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            "--schedule",
            metavar="NAME",
            help="Noise schedule; see 'ksched list'.",
            show_default="simple",
            autocompletion=complete_schedule,
        ),
    ] = None,
    label: Annotated[
        str | None,
        typer.Option("--label", metavar="NAME", help='Sampler and schedule in one, such as "DPM++ 2M Karras".'),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset",
            metavar="NAME",
            help="Sampler, schedule and steps in one: fast, balanced or high_quality.",
            autocompletion=starting_with(lambda: ("fast", "balanced", "high_quality")),
        ),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            "--plan",
            **PATH,
            help="File with a plan from ksched tune or ksched plan --json. Replaces sampler, schedule and steps.",
        ),
    ] = None,
    option: Options = None,
    steps: Steps = None,
    calls: Calls = None,
    sigmas: Sigmas = None,
    prompted: GuidanceOptions,
    seed: Annotated[
        str | None,
        typer.Option(
            "--seed",
            metavar="N[,N...]",
            help="Seed of the first image, which rises by 1 with each further image; or one seed for each image.",
            show_default="0",
            rich_help_panel=PICTURE,
        ),
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            "--count", **whole(1, 1_000_000), help="Number of images.", show_default="1", rich_help_panel=PICTURE
        ),
    ] = None,
    canvas: CanvasOptions,
    again: Annotated[
        Path | None,
        typer.Option(
            "--from",
            **PATH,
            help="Picture to draw again, with the settings stored in it and the changes given here.",
            rich_help_panel=PICTURE,
        ),
    ] = None,
    drawn_by: ModelOptions,
    batch: Annotated[
        int,
        typer.Option(
            "--batch",
            **whole(1),
            help="Images drawn at once. Pixels can differ in the last bit between batch sizes.",
            rich_help_panel=MODEL,
        ),
    ] = 1,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            **PATH,
            help="File ending in .png (numbered if there are several images), or a folder.",
            show_default="a .png named after the prompt",
            rich_help_panel="Output",
        ),
    ] = None,
    grid: Annotated[
        bool,
        typer.Option(
            "--grid",
            help="Write one labelled sheet of all images instead of a file for each.",
            rich_help_panel="Output",
        ),
    ] = False,
    force: Force = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the names of the files as JSON.", rich_help_panel="Output")
    ] = False,
) -> None:
    """Draw images from text, with any sampler on any noise schedule.

    Each picture stores its settings: ksched show prints them, and --from draws the picture again. A picture that exists
    already with the same settings is not drawn again, so after Ctrl-C, a crash or a full disk the same command resumes.
    Any other existing file is overwritten only with --force. A folder that belongs to another batch is never
    overwritten.

    To draw with several processes, start the same command with torchrun. They share the folder and its manifest.json,
    and the files are the same, byte for byte, for any number of processes.

    Examples
    --------
    ksched generate "a handwritten seven" --out seven.png
    ksched generate "a handwritten seven" --sampler dpmpp_2m --schedule karras --steps 20 --rho 5
    ksched generate "a red fox" --label "DPM++ 2M Karras" --count 12 --grid --out foxes.png
    ksched generate "a red fox" --sigmas 14.6,5,1.5,0.4,0 --noise pink
    ksched generate fox.json --model path/to/model --seed 3,5,8
    ksched generate fox.json --init photo.png --mask mask.png --strength 0.6
    ksched generate --from fox.png --steps 50 --out again.png
    torchrun --nproc-per-node 8 -m ksched generate "a red fox" --count 50000 --out foxes
    """
    from ksched.stable_diffusion.many import Place, run_many

    place = Place.of_environment()
    changes = given_of(
        **prompted.settings,
        **canvas.settings,
        steps=steps,
        seed=seeds_of(seed),
        count=count,
        sampler=sampler,
        schedule=schedule,
        label=label,
        preset=preset,
        sigmas=read_sigmas(sigmas),
    )
    if calls is not None and (beside := {"steps", "preset", "sigmas"} & changes.keys()):
        raise ValueError(f"--calls sets the number of steps; leave out --calls or --{min(beside)}")
    changes |= {} if plan is None else of_plan(plan, changes)
    wanted = wanted_of(what, again, changes, option, calls)
    target = _target(out, what, again, wanted, grid)
    several = is_folder(what)
    batched = not grid and not several and not _is_file(target)
    _check_sharing(place.size, batched, force)
    made = drawn_by.load(place.local)
    given, threads = canvas.pictures, drawn_by.threads
    with printed_files(as_json) as printed, told_of_interruption(), threads_for(made, threads, folder=batched):
        if again is not None:
            _check_origin(made, again, given)
        if grid:
            _draw_sheet(made, wanted, target, batch, force, given, printed)
        elif not batched:
            for one in wanted:
                path = target / f"{one.name}.png" if several else target
                _draw_files(made, one.config, path, batch, force, given, printed)
        else:
            shown = shows_progress()
            run_many(made, wanted[0].config, target, batch_size=batch, threads=threads or 1, progress=shown, **given)
            if place.rank == 0:
                printed.file(target)


def _check_sharing(processes: int, batched: bool, force: bool) -> None:
    """Raise if several processes do not share the folder of one batch, or if --force would replace one."""
    if processes > 1 and not batched:
        raise ValueError(
            "several processes draw one batch into one folder: give --out a folder, and one prompt or configuration"
        )
    if batched and force:
        raise ValueError("--force replaces files, never the folder of another batch; choose another folder")


def _target(out: Path | None, what: str | None, again: Path | None, wanted: Sequence[Wanted], grid: bool) -> Path:
    """Return the path to write to: one that ends in .png is a file, any other is a folder."""
    many = is_folder(what)
    if out is None:
        named = Path(what or "images").name if many else wanted[0].name
        return Path(f"{named}-sheet.png" if grid else "images" if many else f"{named}.png")
    if _is_file(out):
        if many and not grid:
            raise ValueError(f"with a folder of configurations, --out must be a folder, or add --grid; got {out}")
        return out
    if grid:
        raise ValueError(f"--grid writes one .png file; got --out {out}")
    if out.suffix.lower() in (".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"):
        raise ValueError(f"images are written as .png, which stores exact pixels and the settings; got {out}")
    return out


def _is_file(path: Path) -> bool:
    return path.suffix.lower() == ".png" and not path.is_dir()


def _draw_files(
    model: StableDiffusion,
    config: SamplingConfig,
    path: Path,
    batch: int,
    force: bool,
    given: Mapping[str, Any],
    printed: Printed,
) -> None:
    """Draw images into one file or numbered files, and leave existing ones."""
    from ksched.stable_diffusion import save_png
    from ksched.stable_diffusion.jobs import Job

    job = Job.of(model, config, **given)
    count = len(job.config.seeds)
    paths = [path] if count == 1 else [path.with_stem(f"{path.stem}-{number:05d}") for number in range(count)]
    done = set()
    for number, file in enumerate(paths):
        if force or not file.exists():
            continue
        if carried(file) != (job.config.single(number), job.origin):
            raise ValueError(f"{file} is another picture; give another --out, or --force to replace it")
        done.add(number)
    if len(done) < count:
        make_writable(path)
    for number in sorted(done):
        printed.file(paths[number])
    if done:
        print(f"ksched: {len(done)} of {count} exist already", file=sys.stderr)
    progress = shows_progress()
    for number, image in job.draw(range(count), done=frozenset(done), batch_size=batch, progress=progress):
        try:
            save_png(image, paths[number], replace=force)
        except FileExistsError:  # another process was faster
            if carried(paths[number]) != (job.config.single(number), job.origin):
                raise
        printed.file(paths[number])
    remove_parts(paths)


def _draw_sheet(
    model: StableDiffusion,
    wanted: Sequence[Wanted],
    path: Path,
    batch: int,
    force: bool,
    given: Mapping[str, Any],
    printed: Printed,
) -> None:
    """Draw all images on one sheet: a row for each of several configurations, or a block for a single one."""
    total = sum(len(one.config.seeds) for one in wanted)
    if total > _MOST_ON_A_SHEET:
        raise ValueError(f"a sheet holds at most {_MOST_ON_A_SHEET} images; got {total}")
    shown = {"model": model.name, "configs": [one.config.to_dict() for one in wanted], **digests(given)}
    if is_sheet_there(path, shown, force, printed):
        return
    make_writable(path)
    how = {**given, "batch_size": batch, "progress": shows_progress()}
    cells = [model.generate(one.config, **how) for one in wanted]
    captions = [[f"seed {seed}" for seed in one.config.seeds] for one in wanted]
    config = wanted[0].config
    if len(wanted) == 1:
        wide = min(total, math.ceil(math.sqrt(1.5 * total)))
        cells = [cells[0][k : k + wide] for k in range(0, total, wide)]
        captions = [captions[0][k : k + wide] for k in range(0, total, wide)]
        words: dict[str, Any] = {"title": quoted(config.prompt), "note": facts(model, config)}
    else:
        words = {"rows": [one.name for one in wanted], "note": f"model {model.name}"}
    save_sheet(cells, path, shown, force, printed, captions=captions, **words)


def _check_origin(
    model: StableDiffusion,
    picture: Path,
    given: Mapping[str, Any],
) -> None:
    """Raise unless the model and the pictures that a picture was made from are given again."""
    from ksched.stable_diffusion.jobs import Job

    found = carried(picture)
    if found is None or not found[1]:
        return
    config, origin = found
    now = Job.of(model, config, **given).origin
    flags = {"model": "--model", "init_image": "--init", "mask": "--mask"}
    if other := [flag for name, flag in flags.items() if origin.get(name) != now[name]]:
        raise ValueError(
            f"{picture} was made by model {origin.get('model')!r}{' of a picture' * bool(origin.get('init_image'))}; "
            f"give the same {' and '.join(other)}. To use another, save the settings with ksched show and pass them to "
            "ksched generate"
        )
