"""Sheets of images, and the settings that a picture stores."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ksched.cli.printing import Printed
from ksched.samplers.registry import sampler_spec
from ksched.storage.files import remove_parts, write_whole
from ksched.storage.texts import parse_json

if TYPE_CHECKING:
    from PIL import Image

    from ksched.stable_diffusion import SamplingConfig, StableDiffusion


__all__ = ["SHEET", "carried", "digests", "facts", "is_sheet_there", "quoted", "save_sheet", "sheet_of"]


#: key of the PNG text that describes a sheet
SHEET = "ksched_sheet"


def carried(file: Path) -> tuple[SamplingConfig, dict[str, Any]] | None:
    """Read the settings that a picture stores; None if it stores none, or none that can be read."""
    from ksched.stable_diffusion import read_config
    from ksched.stable_diffusion.files import opened, origin_of

    try:
        picture = opened("picture", file)
        return read_config(picture), origin_of(picture)
    except (ValueError, TypeError):
        return None


def sheet_of(file: Path) -> Any:
    """Read the description that a sheet stores; None if the picture is not a sheet."""
    from ksched.stable_diffusion.files import opened

    text = opened("picture", file).info.get(SHEET)
    try:
        return None if text is None else parse_json(text, constants=True)
    except ValueError as error:
        raise ValueError(f"{file} stores a description that cannot be read: {error}") from None


def digests(pictures: Mapping[str, Path | None]) -> dict[str, str]:
    """Hash the input pictures, if there are any."""
    from ksched.stable_diffusion.files import digest, opened

    return {name: str(digest(opened(name, path))) for name, path in pictures.items() if path is not None}


def quoted(prompt: str) -> str:
    """Quote a prompt for a title, shortened if it is long."""
    return f"“{prompt if len(prompt) <= 90 else prompt[:89] + '…'}”"


def _names(config: SamplingConfig) -> list[str]:
    """Return the names of sampler and schedule; the latter only if the sampler takes one."""
    spec = sampler_spec(config.sampler)
    if spec.levels is not None:
        return [spec.name]
    return [spec.name, config.schedule if config.sigmas is None else "own noise levels"]


def facts(model: StableDiffusion, config: SamplingConfig, plain: bool = False) -> str:
    """Describe the settings that all images of a sheet share."""
    width, height = config.width or model.size[0], config.height or model.size[1]
    steps = f"{config.steps} step{'' if config.steps == 1 else 's'}"
    words = [f"seed {config.seeds[0]}"] if plain else [*_names(config), steps]
    words += [f"guidance {config.guidance_scale:g}", f"model {model.name}", f"{width} x {height}"]
    words += [f"noise {config.noise}"] * bool(config.noise)
    words += [f"without {quoted(config.negative_prompt)}"] * bool(config.negative_prompt)
    return ", ".join(words)


def is_sheet_there(path: Path, shown: Mapping[str, Any], force: bool, printed: Printed) -> bool:
    """Whether the sheet exists already; raise if the file is something else."""
    from ksched.stable_diffusion.files import opened

    if force or not path.exists():
        return False
    try:
        there = opened("picture", path).info.get(SHEET)
    except ValueError:
        there = None
    if there != json.dumps(shown):
        raise ValueError(f"{path} is another picture; give another --out, or --force to replace it")
    printed.file(path)
    print("ksched: the sheet exists already", file=sys.stderr)
    return True


def save_sheet(
    cells: Sequence[Sequence[Image.Image]],
    path: Path,
    shown: Mapping[str, Any],
    force: bool,
    printed: Printed,
    **words: Any,
) -> None:
    """Write a sheet that stores its description; ``words`` as for `ksched.pictures.sheet.sheet`."""
    from PIL import PngImagePlugin

    from ksched.pictures.sheet import sheet

    notes = PngImagePlugin.PngInfo()
    notes.add_text(SHEET, json.dumps(shown))
    buffer = io.BytesIO()
    sheet(cells, **words).save(buffer, "PNG", pnginfo=notes)
    try:
        write_whole(path, buffer.getvalue(), replace=force)
    except FileExistsError:  # another process was faster
        is_sheet_there(path, shown, False, printed)
        return
    remove_parts([path])
    printed.file(path)
