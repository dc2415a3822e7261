"""The part of ``ksched demo`` that draws from text: samplers side by side on a text-to-image model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ksched.execution.threads import one_thread
from ksched.names.enums import NoiseSchedule, SamplerType
from ksched.names.sampler_type import SamplerName, ScheduleName
from ksched.pictures.progress import Report as Progress
from ksched.pictures.progress import Stages
from ksched.storage.files import path_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from ksched.stable_diffusion import StableDiffusion


__all__ = ["from_text"]


_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


#: seconds that each stage takes on one core, for the progress bar
_SECONDS = {"loading a model": 4.2, "drawing digits from words": 4.5, "comparing samplers": 2.7}


_PROMPT = "a handwritten three"


# Samplers differ most at small NFE; all of these make one model call per step.
_COMPARED = (
    ("auto", None),
    ("euler", "karras"),
    ("dpmpp_2m", "karras"),
    ("dpmpp_2m", "normal"),
    ("uni_pc", "karras"),
    ("uni_pc", "normal"),
)


# the reference for the comparison: at this NFE all samplers agree
_MANY = ("dpmpp_2m", "karras")


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
    compared: Sequence[int] = (3, 4, 5, 6),
    many: int = 40,
    progress: Progress = lambda doing, share: None,
) -> tuple[Path, ...]:
    """Draw digits from text, and one of them with several samplers at small NFE.

    Parameters
    ----------
    model : path
        Diffusers folder with a model that draws digits.
    sampler, schedule : str
        Settings of the first picture.
    steps : int
        Number of steps of the first picture.
    seed : int
        Seed of the first image of each word, and of the compared images.
    out : path
        Folder for ``prompts.png`` and ``compared.png``, created if necessary.
    guidance_scale : float
        Scale of classifier-free guidance (CFG).
    images : int
        Number of images per word.
    compared : sequence of int
        The NFE at which samplers are compared.
    many : int
        NFE of the reference picture.
    progress : callable
        Called with the name of the current stage and the share of the work that is done.

    Raises
    ------
    ImportError
        If diffusers or transformers is missing (extra ``diffusers``).
    OSError, TypeError, ValueError
        As `ksched.stable_diffusion.StableDiffusion` raises them.
    """
    from ksched.pictures.sheet import sheet
    from ksched.stable_diffusion import SamplingConfig, StableDiffusion, save_png

    folder = path_of("out", out)
    how: dict[str, Any] = {"seed": seed, "guidance_scale": guidance_scale}
    shown = SamplingConfig("", sampler=str(sampler), schedule=str(schedule), steps=steps, count=images, **how)
    stages = Stages(_SECONDS, progress)
    with stages.stage("loading a model"):
        drawn = StableDiffusion.from_folder(model)
    with stages.stage("drawing digits from words") as advance:
        cells = []
        for word in _WORDS:
            cells.append(drawn.generate(replace(shown, prompt=f"a handwritten {word}"), batch_size=images))
            advance(_SECONDS["drawing digits from words"] / len(_WORDS))
    words = f"{shown.sampler}, {shown.schedule}, {steps} step{'' if steps == 1 else 's'}, guidance {guidance_scale:g}"
    prompts = sheet([*zip(*cells, strict=True)], columns=_WORDS, title="“a handwritten …”", note=words)
    with stages.stage("comparing samplers") as advance:
        grid = _few_calls(
            drawn, compared, many, how, lambda: advance(_SECONDS["comparing samplers"] / (len(_COMPARED) + 1))
        )
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {folder / "prompts.png": prompts, folder / "compared.png": grid}
    for path, picture in pictures.items():
        save_png(picture, path)
    return tuple(pictures)


def _few_calls(
    model: StableDiffusion, calls: Sequence[int], many: int, how: Mapping[str, Any], advance: Callable[[], object]
) -> Image:
    """Draw one digit with several samplers at several NFE, each with its distance to the reference picture."""
    import numpy as np

    from ksched.pictures.sheet import sheet
    from ksched.stable_diffusion import SamplingConfig

    def draw(sampler: str, schedule: str | None, steps: int) -> Image:
        own: dict[str, Any] = {} if schedule is None else {"schedule": schedule}
        return model.generate(SamplingConfig(_PROMPT, sampler=sampler, steps=steps, **own, **how))[0]

    def off(picture: Image) -> str:
        """Root mean square difference to the reference picture, in % of the greatest possible difference."""
        return f"{100 * np.sqrt(np.mean((np.asarray(picture, float) / 255 - exact) ** 2)):.1f} % off"

    target = draw(*_MANY, many)
    exact = np.asarray(target, float) / 255
    advance()
    rows = []
    for sampler, schedule in _COMPARED:
        rows.append([draw(sampler, schedule, number) for number in calls])
        advance()
    return sheet(
        [*rows, [target]],
        rows=[*("\n".join(filter(None, pair)) for pair in _COMPARED), "\n".join((*_MANY, f"{many} calls"))],
        columns=[f"{number} calls" for number in calls],
        captions=[*([off(picture) for picture in row] for row in rows), [""]],
        title=f"“{_PROMPT}” in few model calls",
        note=f"seed {how['seed']}, guidance {how['guidance_scale']:g}; % off: difference to {many} calls",
    )
