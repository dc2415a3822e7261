"""Shared by the commands that draw: their options, the model, threads and interruption."""

from __future__ import annotations

import errno
import inspect
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, get_args, get_type_hints

import typer

from ksched.cli.common import LEVELS
from ksched.cli.paths import PATH
from ksched.cli.values import choice, number, starting_with, whole
from ksched.noise.kinds import NoiseName
from ksched.storage.files import check_writable

if TYPE_CHECKING:
    from ksched.stable_diffusion import StableDiffusion


__all__ = [
    "MODEL",
    "PICTURE",
    "SHIPPED",
    "CanvasOptions",
    "Force",
    "GuidanceOptions",
    "ModelOptions",
    "Precision",
    "Steps",
    "What",
    "make_folder",
    "make_writable",
    "quiet",
    "shows_progress",
    "threads_for",
    "told_of_interruption",
    "with_groups",
]


#: the model in the package
SHIPPED = Path(__file__).parents[1] / "data" / "handwritten_digits"


#: configuration fields whose flag has another name
_FLAGS = {
    "init_image": "--init",
    "guidance_scale": "--guidance",
    "guidance_rescale": "--guidance-rescale",
    "negative_prompt": "--negative",
}


#: networks with fewer parameters run faster on one core than on several
_SMALL = 50_000_000


PICTURE, MODEL = "Picture", "Model"  # headings in the help


class Precision(StrEnum):
    """Number formats of the weights."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


_complete_noise = starting_with(lambda: get_args(NoiseName))


What: TypeAlias = Annotated[
    str | None,
    typer.Argument(
        metavar="PROMPT|FILE|FOLDER",
        help="Text to draw, a .json or .toml file with a configuration, or a folder of such files.",
    ),
]


Force: TypeAlias = Annotated[
    bool, typer.Option("--force", help="Replace a file that holds another picture.", rich_help_panel="Output")
]


Steps: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--steps",
        "-n",
        **whole(1, 1000, ", the number of timesteps that models are trained with"),
        help="Number of steps.",
        show_default="20",
        rich_help_panel=LEVELS,
    ),
]


@dataclass(frozen=True)
class GuidanceOptions:
    """Options for guidance: how strongly the image follows the prompt."""

    negative: Annotated[
        str | None,
        typer.Option("--negative", metavar="TEXT", help="What to keep out of the image.", rich_help_panel=PICTURE),
    ] = None
    guidance: Annotated[
        float | None,
        typer.Option(
            "--guidance",
            **number(0.0),
            help="Scale of classifier-free guidance (CFG); 1 turns it off.",
            show_default="7.5",
            rich_help_panel=PICTURE,
        ),
    ] = None
    guidance_rescale: Annotated[
        float | None,
        typer.Option(
            "--guidance-rescale",
            **number(0.0),
            help="How much of the contrast that guidance adds to remove, 0 to 1.",
            show_default="0",
            rich_help_panel=PICTURE,
        ),
    ] = None

    @property
    def settings(self) -> dict[str, Any]:
        """Return the configuration fields that these options set; None if not given."""
        return {
            "negative_prompt": self.negative,
            "guidance_scale": self.guidance,
            "guidance_rescale": self.guidance_rescale,
        }


@dataclass(frozen=True)
class CanvasOptions:
    """Options for the size of the image and the picture that it starts from."""

    width: Annotated[
        int | None,
        typer.Option(
            "--width", **whole(8), help="Width in pixels.", show_default="the model's own", rich_help_panel=PICTURE
        ),
    ] = None
    height: Annotated[
        int | None,
        typer.Option(
            "--height", **whole(8), help="Height in pixels.", show_default="the model's own", rich_help_panel=PICTURE
        ),
    ] = None
    init: Annotated[
        Path | None,
        typer.Option("--init", **PATH, help="Picture to start from (image to image).", rich_help_panel=PICTURE),
    ] = None
    mask: Annotated[
        Path | None,
        typer.Option(
            "--mask",
            **PATH,
            help="Mask for --init: white areas are redrawn, black ones keep every pixel.",
            rich_help_panel=PICTURE,
        ),
    ] = None
    strength: Annotated[
        float | None,
        typer.Option(
            "--strength",
            **number(0.0, above=True),
            help="How strongly to change --init: above 0, at most 1.",
            show_default="0.75",
            rich_help_panel=PICTURE,
        ),
    ] = None
    noise: Annotated[
        str | None,
        typer.Option(
            "--noise",
            metavar="NAME",
            help="Noise at the start and in the steps: white, pink, brown, blue, violet, pyramid, offset or brownian. "
            "Options follow a colon, as in pyramid:strength=0.5.",
            show_default="white",
            autocompletion=_complete_noise,
            rich_help_panel=PICTURE,
        ),
    ] = None

    @property
    def settings(self) -> dict[str, Any]:
        """Return the configuration fields that these options set; None if not given."""
        return {"width": self.width, "height": self.height, "strength": self.strength, "noise": self.noise}

    @property
    def pictures(self) -> dict[str, Any]:
        """Return the input pictures as arguments of a job."""
        return {"init_image": self.init, "mask": self.mask}


@dataclass(frozen=True)
class ModelOptions:
    """Options for the model and the hardware."""

    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            **PATH,
            help="Folder with a diffusers model.",
            show_default="the handwritten digits that come with ksched",
            rich_help_panel=MODEL,
        ),
    ] = None
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            metavar="NAME",
            help="Device, such as cpu or cuda:1.",
            show_default="a GPU if there is one",
            rich_help_panel=MODEL,
        ),
    ] = None
    dtype: Annotated[
        Precision | None,
        typer.Option(
            "--dtype",
            **choice("a number format", Precision),
            help=f"Number format of the weights: {', '.join(Precision)}.",
            show_default="float32 on cpu, else float16",
            rich_help_panel=MODEL,
        ),
    ] = None
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads",
            **whole(1, 1024),
            help="CPU threads. Pixels can differ in the last bit between numbers of threads.",
            show_default="1 for small models and folders",
            rich_help_panel=MODEL,
        ),
    ] = None

    def load(self, local: int = 0) -> StableDiffusion:
        """Load the model, on GPU number ``local`` if a GPU exists and no device is given."""
        return load(self.model, self.device, self.dtype, local)


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Prepare a command for typer: each dataclass parameter becomes one option per field."""
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
        try:
            command(**values)
        except (ValueError, TypeError, FileNotFoundError) as error:
            if type(error) not in (ValueError, TypeError, FileNotFoundError) or getattr(error, "errno", None):
                raise
            raise type(error)(_with_flags(str(error))) from error

    grouped.__module__, grouped.__name__, grouped.__doc__ = command.__module__, command.__name__, command.__doc__
    grouped.__annotations__ = {
        parameter.name: parameter.annotation for parameter in flat
    }  # typer reads both the signature and this
    vars(grouped)["__signature__"] = inspect.Signature(flat)
    return grouped


def _with_flags(message: str) -> str:
    """Rewrite a message about a configuration field as one about its flag; messages about files do not change."""
    for field, flag in _FLAGS.items():
        message = re.sub(rf"\b{field}\b", flag, message)
    return re.sub(r"^(mask|strength|width|height|steps|seed|count|noise|preset)(?= must| says)", r"--\1", message)


def load(path: Path | None, device: str | None, dtype: Precision | None, local: int = 0) -> StableDiffusion:
    """Load the model of a folder onto a device, without messages other than errors."""
    import torch

    if path is None and not (SHIPPED / "model_index.json").is_file():
        raise ImportError("the model that comes with ksched is not installed; use --model with the folder of another")

    from ksched.stable_diffusion import StableDiffusion

    if device is None and torch.cuda.is_available():
        device = f"cuda:{local}"
    try:
        place = torch.device("cpu" if device is None else device)
    except RuntimeError:
        raise ValueError(f"--device must be a device such as cpu, cuda or cuda:1; got {device!r}") from None
    if place.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: torch finds no GPU here; leave out --device for the CPU")
    try:
        torch.zeros(1, device=place).cpu()
    except (RuntimeError, AssertionError):  # NotImplementedError is a RuntimeError
        raise ValueError(f"--device must be a device that torch finds here, such as cpu; got {device!r}") from None
    with quiet():
        return StableDiffusion.from_folder(
            path or SHIPPED, device=place, dtype=None if dtype is None else getattr(torch, dtype)
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bars and warnings of other libraries."""
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
    """Set the number of threads, given or chosen to suit the model; running out of memory prints one line."""
    import torch

    from ksched.stable_diffusion.many import threads_of_torch

    network = getattr(model.pipeline, "unet", None) or model.pipeline.transformer
    small = folder or sum(weights.numel() for weights in network.parameters()) < _SMALL
    try:
        with threads_of_torch(asked or (1 if small else torch.get_num_threads())):
            yield
    except RuntimeError as error:  # out of memory on a GPU, or on a CPU, which has no exception class for it
        if not isinstance(error, torch.OutOfMemoryError) and "allocate memory" not in str(error):
            raise
        raise MemoryError("out of memory; use a smaller --batch, a smaller picture, or --dtype float16") from None


@contextmanager
def told_of_interruption(*, kept: bool = True) -> Iterator[None]:
    """Report at Ctrl-C whether finished work remains."""
    try:
        yield
    except KeyboardInterrupt:
        said = "finished images remain, and the same command resumes" if kept else "nothing was written"
        print(f"\nksched: interrupted; {said}", file=sys.stderr)
        raise typer.Exit(130) from None


def make_folder(folder: Path) -> None:
    """Create a folder, or check that an existing one is writable."""
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def make_writable(file: Path) -> None:
    """Create the folder of a file and check that the file can be written, before the work begins."""
    make_folder(file.parent)
    check_writable(file)


def shows_progress() -> bool:
    """Whether to show progress: only on a terminal."""
    return sys.stderr.isatty()
