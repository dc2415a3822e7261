"""Jobs: pictures of a configuration, one after another, with progress, previews and an end at any moment; into files.

A file is written whole or not at all, under its own name only when it is whole, and is never written again.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import torch
from PIL import Image, PngImagePlugin

from ksched.loop import StepInfo
from ksched.stable_diffusion.config import SamplingConfig

if TYPE_CHECKING:
    from ksched.stable_diffusion.adapter import StableDiffusion

__all__ = ["Cancelled", "Progress", "draw", "read_config", "run", "save_png"]

#: a picture, or where one is
Picture: TypeAlias = Image.Image | str | Path

KEY, ORIGIN_KEY = "ksched", "ksched_origin"
MANIFEST = "manifest.json"
_FORMAT = 1


class _Flag(Protocol):
    def is_set(self) -> bool: ...


#: a function that returns True to stop, or a `threading.Event`
Cancel: TypeAlias = Callable[[], object] | _Flag


@dataclass(frozen=True)
class Progress:
    """Where a job is, once a step.

    Attributes
    ----------
    image, images : number of the image, from 0, and how many there are; of those drawn at once, the first
    step, steps : of this image; steps is None for an adaptive sampler
    sigma : noise level
    """

    image: int
    images: int
    step: int
    steps: int | None
    sigma: float


class Cancelled(Exception):  # noqa: N818 - the caller wanted it
    """A job that was told to stop. What was finished is in ``finished``: pictures, or the files they are in."""

    def __init__(self, finished: Sequence[Any] = ()) -> None:
        super().__init__(f"cancelled; {len(finished)} finished")
        self.finished = list(finished)


def draw(
    model: StableDiffusion,
    config: SamplingConfig,
    *,
    init_image: Picture | None = None,
    mask: Picture | None = None,
    numbers: Sequence[int] | None = None,
    batch_size: int = 1,
    progress: Callable[[Progress], object] | None = None,
    preview: Callable[[Image.Image, Progress], object] | None = None,
    cancel: Cancel | None = None,
) -> Iterator[tuple[int, Image.Image]]:
    """Images with their numbers, as they are finished; arguments and errors as for `StableDiffusion.generate`."""
    job = _Job.of(model, config, init_image, mask)
    chosen = _chosen(numbers, len(job.config.seeds))
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number of at least 1; got {batch_size!r}")
    stop = _asking(cancel)
    paint = None if preview is None else _Preview(model)
    for first in range(0, len(chosen), batch_size):
        part = chosen[first : first + batch_size]

        def told(info: StepInfo, number: int = part[0]) -> None:
            if stop():
                raise Cancelled
            place = Progress(number, len(job.config.seeds), info.step, info.steps, info.sigma)
            if progress is not None:
                progress(place)
            if preview is not None and paint is not None:
                preview(paint(info.denoised[:1]), place)

        if stop():
            raise Cancelled
        yield from zip(part, job.images(part, told), strict=True)


def run(
    model: StableDiffusion,
    config: SamplingConfig,
    folder: Path,
    *,
    init_image: Picture | None = None,
    mask: Picture | None = None,
    numbers: Sequence[int] | None = None,
    **how: Any,
) -> list[Path]:
    """Images into files of a folder; arguments and errors as for `StableDiffusion.run`."""
    job = _Job.of(model, config, init_image, mask)
    chosen = _chosen(numbers, len(job.config.seeds))
    _claim(folder, job)
    paths = {number: folder / f"{number:05d}.png" for number in chosen}
    finished = {number: path for number, path in paths.items() if _is_finished(path, job.text_of(number))}
    missing = [number for number in chosen if number not in finished]
    try:
        for number, image in draw(model, config, init_image=init_image, mask=mask, numbers=missing, **how):
            save_png(image, paths[number])
            finished[number] = paths[number]
    except Cancelled:
        raise Cancelled([finished[number] for number in sorted(finished)]) from None
    finally:
        model.pipeline.maybe_free_model_hooks()
    return list(paths.values())


@dataclass(frozen=True)
class _Job:
    """A configuration with all that was left open decided, and its pictures read."""

    model: StableDiffusion
    config: SamplingConfig
    original: Image.Image | None
    mask: Image.Image | None
    origin: str

    @classmethod
    def of(
        cls, model: StableDiffusion, config: SamplingConfig, init_image: Picture | None, mask: Picture | None
    ) -> _Job:
        if mask is not None and init_image is None:
            raise ValueError("mask says where to change init_image, and that is missing; give both")
        original = None if init_image is None else _opened("init_image", init_image).convert("RGB")
        shape = None if mask is None else _opened("mask", mask).convert("L")
        width, height = model.size
        if original is not None:
            width, height = (side - side % model.multiple for side in original.size)
        config = replace(config, width=config.width or width, height=config.height or height)
        size = (config.width or 0, config.height or 0)
        if original is not None and original.size != size:
            if shape is not None and (config.width, config.height) == (width, height):
                raise ValueError(
                    f"the sides of an image to be changed under a mask must be multiples of {model.multiple}, as the "
                    f"rest of it stays as it is; got {original.size[0]} x {original.size[1]}. Crop it, or give width "
                    "and height to resize it"
                )
            original = model.pipeline.image_processor.resize(original, size[1], size[0])
        if shape is not None and shape.size != size:
            shape = shape.resize(size, Image.Resampling.NEAREST)
        made = {"model": model.name, "init_image": _digest(original), "mask": _digest(shape)}
        model.sampler(config, whole=original is None)  # refuses what cannot run, before anything is written
        return cls(model, config, original, shape, json.dumps(made))

    def text_of(self, number: int) -> str:
        """What an image says of itself."""
        return self.config.single(number).to_json()

    def images(self, numbers: Sequence[int], callback: Callable[[StepInfo], object]) -> list[Image.Image]:
        """Images of some numbers, drawn at once."""
        model, config = self.model, self.config
        seeds = [config.seeds[number] for number in numbers]
        init = mask = None
        if self.original is not None:
            init = model.pipeline.image_processor.preprocess(self.original, height=config.height, width=config.width)
        if self.mask is not None:
            mask = torch.from_numpy(np.array(self.mask, dtype=np.float32) / 255)[None, None]
        latents = model.sample(replace(config, seed=seeds, count=None), init=init, mask=mask, callback=callback)
        with torch.no_grad():
            pixels = model.decode(latents)
        drawn: list[Image.Image] = model.pipeline.image_processor.numpy_to_pil(
            model.pipeline.image_processor.pt_to_numpy(pixels)
        )
        if self.original is not None and self.mask is not None:  # exactly the original where the mask is 0
            drawn = [Image.composite(image, self.original, self.mask) for image in drawn]
        for number, image in zip(numbers, drawn, strict=True):
            image.info |= {KEY: self.text_of(number), ORIGIN_KEY: self.origin}
        return drawn


class _Preview:
    """Pictures of latents, of a pixel a cell: the linear map that is nearest to the decoder."""

    def __init__(self, model: StableDiffusion) -> None:
        self._model = model
        self._map: torch.Tensor | None = None

    def __call__(self, latents: torch.Tensor) -> Image.Image:
        cells = latents.float()
        if self._map is None:
            self._map = self._fitted(cells.shape[1]).to(cells.device)
        ones = torch.ones_like(cells[:, :1])
        picture = torch.einsum("bchw,cd->bhwd", torch.cat([cells, ones], 1), self._map)[0].clamp(0, 1)
        return Image.fromarray((255 * picture).round().byte().cpu().numpy())

    @torch.no_grad()
    def _fitted(self, channels: int) -> torch.Tensor:
        """Colours by channel, and of a latent of 0, from one random latent with patches of 4 cells."""
        noise = torch.randn((1, channels, 8, 8), generator=torch.Generator("cpu").manual_seed(0))
        cells = torch.nn.functional.interpolate(noise, scale_factor=4.0, mode="nearest")
        colours = torch.nn.functional.adaptive_avg_pool2d(self._model.decode(cells.to(self._model.device)), (32, 32))
        rows = torch.cat([cells, torch.ones_like(cells[:, :1])], 1).flatten(2)[0].T
        return torch.linalg.lstsq(rows, colours.cpu().flatten(2)[0].T).solution


# --------------------------------------------------------------------------------------------------------------- files


def save_png(image: Image.Image, path: str | Path) -> None:
    """Write a picture with the configuration that it came with, whole or not at all.

    Parameters
    ----------
    image : such as `StableDiffusion.generate` returns
    path : in a folder that exists

    Raises
    ------
    OSError : the disk is full, the folder cannot be written to; nothing is left behind
    """
    notes = PngImagePlugin.PngInfo()
    for key in (KEY, ORIGIN_KEY):
        if key in image.info:
            notes.add_text(key, image.info[key])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=notes)
    _write(Path(path), buffer.getvalue())


def read_config(picture: str | Path | Image.Image) -> SamplingConfig:
    """The configuration that a picture carries, which draws it again.

    Raises
    ------
    FileNotFoundError, ValueError : no such file, no picture, or one that carries none
    """
    image = _opened("picture", picture)
    text = image.info.get(KEY)
    if text is None:
        raise ValueError(f"{_named(picture)} carries no configuration of ksched; another program made or stripped it")
    return SamplingConfig.from_json(text)


def _write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            with part.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # some disks say only now that they are full
            part.replace(path)
        except BaseException:  # Ctrl-C too
            part.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write {path}: {error.strerror or error}. What was finished is intact; mend that and run the same "
            "again to go on",
        ) from error


def _claim(folder: Path, job: _Job) -> None:
    """Make a folder this job's, or find that it is."""
    manifest = folder / MANIFEST
    ours = {"format": _FORMAT, "config": job.config.to_dict(), "origin": json.loads(job.origin)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = json.loads(manifest.read_text(encoding="utf-8")) if manifest.exists() else None
    except OSError as error:
        raise OSError(error.errno, f"cannot use {folder} for images: {error.strerror or error}") from error
    except ValueError:
        raise ValueError(f"{manifest} is no manifest of a batch; choose another folder") from None
    if found is None:
        _write(manifest, json.dumps(ours, indent=1).encode())
    elif different := _differences(found, ours):
        raise ValueError(
            f"{folder} holds another batch, with other {', '.join(different)}; choose another folder, or go on with "
            f"what {MANIFEST} there says"
        )


def _differences(found: Any, ours: dict[str, Any]) -> list[str]:
    if not isinstance(found, dict) or found.get("format") != ours["format"]:
        return ["format"]
    return [
        name
        for part in ("config", "origin")
        for name, value in ours[part].items()
        if found.get(part, {}).get(name) != value
    ]


def _is_finished(path: Path, text: str) -> bool:
    """Whether a file is there and is the image that it should be."""
    if not path.exists():
        return False
    try:
        same = read_config(path).to_json() == text
    except ValueError:
        same = False
    if not same:
        raise ValueError(f"{path} is not the image of this batch that has its name; move it away")
    return True


def _chosen(numbers: Sequence[int] | None, count: int) -> list[int]:
    chosen = list(range(count) if numbers is None else numbers)
    if wrong := [number for number in chosen if not 0 <= number < count]:
        raise ValueError(f"numbers of images must be from 0 to {count - 1}; got {wrong[0]}")
    return chosen


def _asking(cancel: Cancel | None) -> Callable[[], object]:
    if cancel is None:
        return lambda: False
    if callable(cancel):
        return cancel
    if hasattr(cancel, "is_set"):
        return cancel.is_set
    raise TypeError(f"cancel must be a function or a threading.Event; got {type(cancel).__name__}")


def _opened(name: str, picture: Picture) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture
    if not isinstance(picture, str | Path):
        raise TypeError(f"{name} must be a picture of Pillow or a path; got {type(picture).__name__}")
    if not Path(picture).is_file():
        raise FileNotFoundError(f"{name} must be a file; there is none at {picture}")
    try:
        with Image.open(picture) as image:
            image.load()
            return image
    except Exception as error:  # damaged files raise errors of many kinds
        raise ValueError(f"{name} must be a picture that can be read; {picture}: {error}") from None


def _named(picture: Picture) -> str:
    return "the picture" if isinstance(picture, Image.Image) else str(picture)


def _digest(image: Image.Image | None) -> str | None:
    return None if image is None else hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()
