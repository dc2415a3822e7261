"""What the commands that draw have in common: their options, the model, sheets, how they end."""

from __future__ import annotations

import errno
import inspect
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, get_type_hints

import typer

from ksched.cli.paths import PATH
from ksched.samplers.registry import sampler_spec
from ksched.storage.files import check_writable, remove_parts, write_whole
from ksched.storage.texts import parse_json

if TYPE_CHECKING:
    from PIL import Image

    from ksched.stable_diffusion import SamplingConfig, StableDiffusion


__all__ = [
    "SHEET",
    "SHIPPED",
    "CanvasOptions",
    "Force",
    "GuidanceOptions",
    "ModelOptions",
    "Precision",
    "What",
    "carried",
    "digests",
    "facts",
    "is_sheet_there",
    "make_folder",
    "make_writable",
    "quiet",
    "quoted",
    "save_sheet",
    "sheet_of",
    "shows_progress",
    "threads_for",
    "told_of_interruption",
    "with_groups",
]


#: the model that comes with the package
SHIPPED = Path(__file__).parents[1] / "data" / "handwritten_digits"


#: networks of fewer parameters run faster on one core than on several
_SMALL = 50_000_000


#: the name of the text in a PNG that says what a sheet shows
SHEET = "ksched_sheet"


class Precision(StrEnum):
    """Number formats of weights."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


What: TypeAlias = Annotated[
    str | None,
    typer.Argument(metavar="PROMPT|FILE|FOLDER", help="What to draw; or a .json or .toml file that says it, or many."),
]


Force: TypeAlias = Annotated[bool, typer.Option("--force", help="Replace a file that is another picture.")]


@dataclass(frozen=True)
class GuidanceOptions:
    """How the prompt steers the image."""

    negative: Annotated[str | None, typer.Option("--negative", help="What to keep away from.")] = None
    guidance: Annotated[
        float | None,
        typer.Option("--guidance", help="Scale of classifier-free guidance; 1 is none.", show_default="7.5"),
    ] = None
    guidance_rescale: Annotated[
        float | None, typer.Option("--guidance-rescale", help="Share of the added contrast to take away, 0 to 1.")
    ] = None

    @property
    def settings(self) -> dict[str, Any]:
        """The fields of a configuration that they set; None where they leave it open."""
        return {
            "negative_prompt": self.negative,
            "guidance_scale": self.guidance,
            "guidance_rescale": self.guidance_rescale,
        }


@dataclass(frozen=True)
class CanvasOptions:
    """The size of the image, and the picture that it starts from."""

    width: Annotated[int | None, typer.Option("--width", help="In pixels.", show_default="the model's own")] = None
    height: Annotated[int | None, typer.Option("--height", help="In pixels.", show_default="the model's own")] = None
    init: Annotated[Path | None, typer.Option("--init", **PATH, help="Picture to start from.")] = None
    mask: Annotated[
        Path | None,
        typer.Option("--mask", **PATH, help="White where to change --init, black where to keep every pixel."),
    ] = None
    strength: Annotated[
        float | None, typer.Option("--strength", help="How much --init is changed, above 0 to 1.", show_default="0.75")
    ] = None

    @property
    def settings(self) -> dict[str, Any]:
        """The fields of a configuration that they set; None where they leave it open."""
        return {"width": self.width, "height": self.height, "strength": self.strength}

    @property
    def pictures(self) -> dict[str, Any]:
        """The pictures that are changed, as arguments of a job."""
        return {"init_image": self.init, "mask": self.mask}


@dataclass(frozen=True)
class ModelOptions:
    """Which model draws, and on what."""

    model: Annotated[
        Path | None,
        typer.Option("--model", **PATH, help="Folder of diffusers.", show_default="the digits that come with ksched"),
    ] = None
    device: Annotated[
        str | None, typer.Option("--device", help="Such as cpu or cuda:1.", show_default="a GPU, if there is one")
    ] = None
    dtype: Annotated[
        Precision | None, typer.Option("--dtype", help="Of weights.", show_default="float32 on cpu, else float16")
    ] = None
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            min=1,
            max=1024,
            help="Of the processor; the last bits of a picture depend on it.",
            show_default="1 for small models and folders",
        ),
    ] = None

    def load(self, local: int = 0) -> StableDiffusion:
        """The model, on GPU ``local`` if there is one and no device is named."""
        return load(self.model, self.device, self.dtype, local)


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """A command for typer, whose parameters that are dataclasses are an option for each field, in their place."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, type[Any]] = {
        name: hint for name, hint in hints.items() if isinstance(hint, type) and is_dataclass(hint)
    }
    flat: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            types = get_type_hints(groups[name], include_extras=True)
            named = [(field.name, field.default, types[field.name]) for field in fields(groups[name])]
        else:
            named = [(name, parameter.default, hints[name])]
        flat += [
            inspect.Parameter(each, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
            for each, default, annotation in named
        ]

    def grouped(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{field.name: values.pop(field.name) for field in fields(group)})
        command(**values)

    grouped.__module__, grouped.__name__, grouped.__doc__ = command.__module__, command.__name__, command.__doc__
    grouped.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}  # typer reads both
    vars(grouped)["__signature__"] = inspect.Signature(flat)
    return grouped


def load(path: Path | None, device: str | None, dtype: Precision | None, local: int = 0) -> StableDiffusion:
    """The model of a folder, on a device, with nothing said but errors."""
    import torch

    if path is None and not (SHIPPED / "model_index.json").is_file():
        raise ImportError("the model that comes with ksched is not installed; give the folder of another with --model")

    from ksched.stable_diffusion import StableDiffusion

    if device is None and torch.cuda.is_available():
        device = f"cuda:{local}"
    try:
        place = torch.device("cpu" if device is None else device)
    except RuntimeError:
        raise ValueError(f"--device must be such as cpu, cuda or cuda:1; got {device!r}") from None
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: torch finds no GPU here")
    with quiet():
        return StableDiffusion.from_folder(
            path or SHIPPED, device=place, dtype=None if dtype is None else getattr(torch, dtype)
        )


@contextmanager
def quiet() -> Iterator[None]:
    """No bars and no warnings of other libraries while they load."""
    import diffusers.utils.logging as of_diffusers
    import transformers.utils.logging as of_transformers

    for library in (of_diffusers, of_transformers):
        library.set_verbosity_error()
        library.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def threads_for(model: StableDiffusion, asked: int | None, *, folder: bool) -> Iterator[None]:
    """As many threads as asked for, or as suit the model; out of memory is one line."""
    import torch

    from ksched.stable_diffusion.many import threads_of_torch

    network = getattr(model.pipeline, "unet", None) or model.pipeline.transformer
    small = folder or sum(weights.numel() for weights in network.parameters()) < _SMALL
    try:
        with threads_of_torch(asked or (1 if small else torch.get_num_threads())):
            yield
    except RuntimeError as error:  # of a GPU, and of a processor, whose errors have no class of their own
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise MemoryError("out of memory; take a smaller --batch, a smaller picture, or --dtype float16") from None


@contextmanager
def told_of_interruption(*, kept: bool = True) -> Iterator[None]:
    """Say at Ctrl-C what is left of the work."""
    try:
        yield
    except KeyboardInterrupt:
        said = "what was finished is kept, and the same command goes on from there" if kept else "nothing is written"
        print(f"\nksched: interrupted; {said}", file=sys.stderr)
        raise typer.Exit(130) from None


def make_folder(folder: Path) -> None:
    """Make a folder, or find that it can be written to."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def make_writable(file: Path) -> None:
    """Make the folder of a file, and find out that the file can be written there before the work begins."""
    make_folder(file.parent)
    check_writable(file)


def carried(file: Path) -> tuple[SamplingConfig, dict[str, Any]] | None:
    """What a file says that it is the picture of; None if it says nothing that makes sense."""
    from ksched.stable_diffusion import read_config
    from ksched.stable_diffusion.files import opened, origin_of

    try:
        picture = opened("picture", file)
        return read_config(picture), origin_of(picture)
    except (ValueError, TypeError):
        return None


def sheet_of(file: Path) -> Any:
    """What a sheet says that it shows; None if the picture is no sheet."""
    from ksched.stable_diffusion.files import opened

    text = opened("picture", file).info.get(SHEET)
    try:
        return None if text is None else parse_json(text, constants=True)
    except ValueError as error:
        raise ValueError(f"{file} carries text that cannot be used: {error}") from None


def shows_progress() -> bool:
    """Whether somebody watches."""
    return sys.stderr.isatty()


def digests(pictures: Mapping[str, Path | None]) -> dict[str, str]:
    """Hashes of the pictures that are changed, where there are any."""
    from ksched.stable_diffusion.files import digest, opened

    return {name: str(digest(opened(name, path))) for name, path in pictures.items() if path is not None}


def quoted(prompt: str) -> str:
    """A prompt for a title."""
    return f"“{prompt if len(prompt) <= 90 else prompt[:89] + '…'}”"


def _names(config: SamplingConfig) -> list[str]:
    """Sampler and schedule, if it takes one."""
    spec = sampler_spec(config.sampler)
    if spec.levels is not None:
        return [spec.name]
    return [spec.name, config.schedule if config.sigmas is None else "noise levels of its own"]


def facts(model: StableDiffusion, config: SamplingConfig, plain: bool = False) -> str:
    """What all images of a sheet have in common."""
    width, height = config.width or model.size[0], config.height or model.size[1]
    steps = f"{config.steps} step{'' if config.steps == 1 else 's'}"
    words = [f"seed {config.seeds[0]}"] if plain else [*_names(config), steps]
    words += [f"guidance {config.guidance_scale:g}", f"model {model.name}", f"{width} x {height}"]
    words += [f"without {quoted(config.negative_prompt)}"] * bool(config.negative_prompt)
    return ", ".join(words)


def is_sheet_there(path: Path, shown: Mapping[str, Any], force: bool) -> bool:
    """Whether a sheet is there already; an error if it is something else."""
    from ksched.stable_diffusion.files import opened

    if force or not path.exists():
        return False
    try:
        there = opened("picture", path).info.get(SHEET)
    except ValueError:
        there = None
    if there != json.dumps(shown):
        raise ValueError(f"{path} is another picture; give another --out, or --force to replace it")
    print(path)
    print("ksched: it is there already", file=sys.stderr)
    return True


def save_sheet(
    cells: Sequence[Sequence[Image.Image]], path: Path, shown: Mapping[str, Any], force: bool, **words: Any
) -> None:
    """Write a sheet that carries what it shows; ``words`` as for `ksched.pictures.sheet.sheet`."""
    from PIL import PngImagePlugin

    from ksched.pictures.sheet import sheet

    notes = PngImagePlugin.PngInfo()
    notes.add_text(SHEET, json.dumps(shown))
    buffer = io.BytesIO()
    sheet(cells, **words).save(buffer, "PNG", pnginfo=notes)
    try:
        write_whole(path, buffer.getvalue(), replace=force)
    except FileExistsError:  # another process was faster
        is_sheet_there(path, shown, force)
        return
    remove_parts([path])
    print(path)
