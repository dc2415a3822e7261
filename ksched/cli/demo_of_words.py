"""``ksched demo`` with a prompt: the samplers side by side on a text-to-image model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ksched.execution.threads import one_thread
from ksched.names.enums import NoiseSchedule, SamplerType
from ksched.names.sampler_type import SamplerName, ScheduleName
from ksched.storage.files import path_of

if TYPE_CHECKING:
    pass


__all__ = ["from_text"]


_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


_COMPARED = [(sampler, schedule) for sampler in ("euler", "dpmpp_2m", "uni_pc") for schedule in ("karras", "beta")]


@one_thread()
def from_text(
    model: Path | str,
    sampler: SamplerName | SamplerType | str = SamplerType.DPMPP_2M,
    schedule: ScheduleName | NoiseSchedule | str = NoiseSchedule.KARRAS,
    steps: int = 20,
    *,
    seed: int = 0,
    out: Path | str = "demo",
    guidance_scale: float = 3.0,
    images: int = 4,
    compared: Sequence[int] = (4, 8, 16),
) -> tuple[Path, ...]:
    """Digits drawn of words, and one of them with some samplers, schedules and numbers of steps.

    Parameters
    ----------
    model : folder of diffusers, of a model that draws digits
    sampler, schedule, steps : of the first picture
    seed : of the first image of each word, and of the word that is compared
    out : folder for ``prompts.png`` and ``compared.png``; made if it does not exist
    guidance_scale : of classifier-free guidance
    images : of each word
    compared : numbers of steps

    Raises
    ------
    ImportError : diffusers or transformers are missing (extra ``diffusers``)
    OSError, TypeError, ValueError : as for `ksched.stable_diffusion.StableDiffusion`
    """
    from ksched.pictures.sheet import sheet
    from ksched.stable_diffusion import SamplingConfig, StableDiffusion, save_png

    drawn, folder = StableDiffusion.from_folder(model), path_of("out", out)
    how: dict[str, Any] = {"seed": seed, "guidance_scale": guidance_scale}
    shown = SamplingConfig("", sampler=str(sampler), schedule=str(schedule), steps=steps, count=images, **how)
    cells = [drawn.generate(replace(shown, prompt=f"a handwritten {word}"), batch_size=images) for word in _WORDS]
    words = f"{shown.sampler}, {shown.schedule}, {steps} step{'' if steps == 1 else 's'}, guidance {guidance_scale:g}"
    prompts = sheet([*zip(*cells, strict=True)], columns=_WORDS, title="“a handwritten …”", note=words)
    prompt = "a handwritten three"
    configs = [
        [SamplingConfig(prompt, sampler=name, schedule=rule, steps=number, **how) for number in compared]
        for name, rule in _COMPARED
    ]
    grid = sheet(
        [[drawn.generate(config)[0] for config in row] for row in configs],
        rows=[f"{name}\n{rule}" for name, rule in _COMPARED],
        columns=[f"{number} steps" for number in compared],
        title=f"“{prompt}”",
        note=f"seed {seed}, guidance {guidance_scale:g}",
    )
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {folder / "prompts.png": prompts, folder / "compared.png": grid}
    for path, picture in pictures.items():
        save_png(picture, path)
    return tuple(pictures)
