"""Jobs: generate the images of a configuration, in memory or into files, with cancellation and continuation."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import torch
from PIL import Image

from ksched.execution.loop import StepInfo, progress_bar
from ksched.options import check_whole
from ksched.stable_diffusion.config import SamplingConfig
from ksched.stable_diffusion.files import CONFIG, ORIGIN, Picture, claim, digest, is_finished, opened, save_png
from ksched.stable_diffusion.preview import Preview
from ksched.storage.files import remove_parts

if TYPE_CHECKING:
    from ksched.stable_diffusion.components import Components, Drawing

__all__ = ["Cancel", "Cancelled", "Job", "Progress", "generate", "run"]


class _Flag(Protocol):
    def is_set(self) -> bool: ...


#: a function that returns True to stop, or a `threading.Event`
Cancel: TypeAlias = Callable[[], object] | _Flag


@dataclass(frozen=True)
class Progress:
    """Progress of a job, reported once per step.

    Attributes
    ----------
    image, images : int
        Number of the image, from 0, and number of images; for images drawn at once, the first one.
    step, steps : int or None
        Step of this image, and number of steps; None for an adaptive sampler.
    sigma : float
        Current sigma.
    """

    image: int
    images: int
    step: int
    steps: int | None
    sigma: float


class Cancelled(Exception):  # noqa: N818 - not an error: the caller asked for it
    """A job was cancelled; ``finished`` are the images or files so far."""

    def __init__(self, finished: Sequence[Any] = ()) -> None:
        super().__init__(f"cancelled; {len(finished)} finished")
        self.finished = list(finished)


def generate(
    model: Components, config: SamplingConfig, *, init_image: Picture | None, mask: Picture | None, **how: Any
) -> list[Image.Image]:
    """Generate images; arguments and errors as for `StableDiffusion.generate`."""
    job = Job.of(model, config, init_image, mask)
    made = list[Image.Image]()
    try:
        for _, image in job.draw(range(len(job.config.seeds)), **how):
            made.append(image)
    except Cancelled:
        raise Cancelled(made) from None
    return made


def run(
    model: Components,
    config: SamplingConfig,
    folder: Path,
    *,
    init_image: Picture | None,
    mask: Picture | None,
    numbers: Sequence[int] | None,
    **how: Any,
) -> list[Path]:
    """Generate images into the files of a folder; arguments and errors as for `StableDiffusion.run`."""
    job = Job.of(model, config, init_image, mask)
    count = len(job.config.seeds)
    paths = {number: folder / f"{number:05d}.png" for number in (range(count) if numbers is None else numbers)}
    if wrong := [number for number in paths if not 0 <= number < count]:
        raise ValueError(f"numbers of images must be from 0 to {count - 1}; got {wrong[0]}")
    claim(folder, job.config, job.origin)
    done = {number for number, path in paths.items() if is_finished(path, job.config.single(number))}
    try:
        for number, image in job.draw(list(paths), done=frozenset(done), **how):
            save_png(image, paths[number])
            done.add(number)
    except Cancelled:
        raise Cancelled([path for number, path in paths.items() if number in done]) from None
    remove_parts(paths.values())
    return list(paths.values())


@dataclass(frozen=True)
class Job:
    """A configuration with all open values set, and its images loaded."""

    model: Components
    config: SamplingConfig
    original: Image.Image | None
    mask: Image.Image | None

    @classmethod
    def of(cls, model: Components, config: SamplingConfig, init_image: Picture | None, mask: Picture | None) -> Job:
        """Create a job; arguments that do not fit together raise an error."""
        original, shape = _opened(init_image, mask)
        width, height = model.size if original is None else _size_of(original, shape, model.multiple, config)
        config = replace(config, width=config.width or width, height=config.height or height)
        model.sampler(config, whole=original is None)  # an error for an invalid run, before anything is written
        size = (config.width or 0, config.height or 0)
        if original is not None and original.size != size:
            original = model.pipeline.image_processor.resize(original, size[1], size[0])
        if shape is not None and shape.size != size:
            shape = shape.resize(size, Image.Resampling.NEAREST)
        return cls(model, config, original, shape)

    @property
    def origin(self) -> dict[str, str | None]:
        """What else an image depends on."""
        return {"model": self.model.name, "init_image": digest(self.original), "mask": digest(self.mask)}

    def draw(
        self,
        numbers: Sequence[int],
        *,
        done: frozenset[int] = frozenset(),
        batch_size: int = 1,
        progress: Callable[[Progress], object] | bool = False,
        preview: Callable[[Image.Image, Progress], object] | None = None,
        cancel: Cancel | None = None,
    ) -> Iterator[tuple[int, Image.Image]]:
        """Images with these numbers, except those in ``done``.

        Which images are drawn together does not depend on ``done``, because it affects the last bits of an image.
        """
        parts = [part for part in _parts(numbers, batch_size) if not done.issuperset(part)]
        stop = _asking(cancel)
        if not parts:
            return
        if stop():
            raise Cancelled
        _check_memory(self.model, self.config, max(map(len, parts)))
        drawing = self._prepared()
        paint = None if preview is None else _painted(Preview(self.model), preview)
        tell = progress if callable(progress) else None
        steps = None if drawing.sampler.spec.adaptive else drawing.sampler.steps * len(parts)
        bar = progress_bar(steps, 0) if progress is True else None
        watch = _Watch(len(self.config.seeds), stop, None if bar is None else bar.update, tell, paint)
        try:
            for part in parts:
                seeds = [self.config.seeds[number] for number in part]
                latents = drawing(seeds, partial(watch.step, part[0]))
                pictures = zip(part, self._pictures(part, latents), strict=True)
                yield from (found for found in pictures if found[0] not in done)
        finally:
            if bar is not None:
                bar.close()
            self.model.pipeline.maybe_free_model_hooks()

    def _prepared(self) -> Drawing:
        init = mask = None
        if self.original is not None:
            processor = self.model.pipeline.image_processor
            init = processor.preprocess(self.original, height=self.config.height, width=self.config.width)
        if self.mask is not None:
            mask = torch.from_numpy(np.array(self.mask, dtype=np.float32) / 255)[None, None]
        return self.model.prepare(self.config, init=init, mask=mask)

    def _pictures(self, numbers: Sequence[int], latents: torch.Tensor) -> list[Image.Image]:
        processor = self.model.pipeline.image_processor
        values = processor.pt_to_numpy(self.model.decode(latents))
        if not np.isfinite(values).all():
            raise FloatingPointError(
                f"the model must return finite numbers, but returned nan or infinity in {self.model.pipeline.dtype}; "
                "load it with dtype=torch.bfloat16 or float32, or use more steps or another sampler"
            )
        drawn: list[Image.Image] = processor.numpy_to_pil(values)
        if self.original is not None and self.mask is not None:  # keep the original's exact pixels where the mask is 0
            drawn = [Image.composite(image, self.original, self.mask) for image in drawn]
        for number, image in zip(numbers, drawn, strict=True):
            image.info |= {CONFIG: self.config.single(number).to_json(), ORIGIN: json.dumps(self.origin)}
        return drawn


@dataclass(frozen=True)
class _Watch:
    """Reports every step to its listeners, and may stop the job."""

    images: int
    stop: Callable[[], object]
    advance: Callable[[], object] | None
    tell: Callable[[Progress], object] | None
    paint: Callable[[torch.Tensor, Progress], object] | None

    def step(self, image: int, info: StepInfo) -> None:
        """Called after one step of the images from number ``image`` on."""
        if self.stop():
            raise Cancelled
        place = Progress(image, self.images, info.step, info.steps, info.sigma)
        if self.advance is not None:
            self.advance()
        if self.tell is not None:
            self.tell(place)
        if self.paint is not None:
            self.paint(info.denoised[:1], place)


def _painted(
    paint: Preview, show: Callable[[Image.Image, Progress], object]
) -> Callable[[torch.Tensor, Progress], object]:
    return lambda latents, place: show(paint(latents), place)


def _parts(numbers: Sequence[int], size: int) -> list[Sequence[int]]:
    """Numbers of images as batches of one size; the last batch may be smaller."""
    check_whole("batch_size", size, 1)
    return [numbers[i : i + size] for i in range(0, len(numbers), size)]


def _opened(init_image: Picture | None, mask: Picture | None) -> tuple[Image.Image | None, Image.Image | None]:
    """The initial image in RGB and its mask in grey; an error if they do not fit."""
    if mask is not None and init_image is None:
        raise ValueError("mask needs init_image, since it says where to change it; pass both")
    original = None if init_image is None else opened("init_image", init_image).convert("RGB")
    shape = None if mask is None else opened("mask", mask).convert("L")
    if original is not None and shape is not None and original.size != shape.size:
        raise ValueError(f"mask must have the size of init_image, {original.size}; got {shape.size}")
    return original, shape


def _size_of(
    original: Image.Image, shape: Image.Image | None, multiple: int, config: SamplingConfig
) -> tuple[int, int]:
    """Width and height of an image, rounded down to what the model can draw."""
    width, height = (max(side - side % multiple, multiple) for side in original.size)
    if shape is not None and original.size != (width, height) and not (config.width and config.height):
        raise ValueError(
            f"both sides of a masked image must be multiples of {multiple}, because the rest of it is kept; got "
            f"{original.width} x {original.height}. Crop it, or pass width "
            "and height to resize it"
        )
    return width, height


def _check_memory(model: Components, config: SamplingConfig, images: int) -> None:
    """Raise an error if the decoder needs more memory than the machine has; the system might kill the process."""
    vae = model.pipeline.vae
    if model.device.type != "cpu" or getattr(vae, "use_tiling", False) or not hasattr(os, "sysconf"):
        return
    images = 1 if getattr(vae, "use_slicing", False) else images
    # the last block of a decoder holds its input, its output and the residual
    widest = 3 * images * (config.width or 0) * (config.height or 0) * 4 * vae.config.block_out_channels[0]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if widest > memory:
        raise MemoryError(
            f"{images} image{'s' * (images > 1)} of {config.width} x {config.height} at once need more than "
            f"{widest / 2**30:.0f} GiB of memory, and there are {memory / 2**30:.0f}; draw smaller ones or fewer at "
            "once, or use a VAE with tiling"
        )


def _asking(cancel: Cancel | None) -> Callable[[], object]:
    if cancel is None:
        return lambda: False
    if callable(cancel):
        return cancel
    if hasattr(cancel, "is_set"):
        return cancel.is_set
    raise TypeError(f"cancel must be a function or a threading.Event; got {type(cancel).__name__}")
