"""Pictures as files: what they carry, written whole or not at all, and the folder of a batch.

A file has its own name only when it is whole, and is never written again.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image, PngImagePlugin

from ksched.stable_diffusion.config import SamplingConfig
from ksched.storage.files import path_of, write_whole
from ksched.storage.texts import parse_json

__all__ = [
    "CONFIG",
    "MANIFEST",
    "ORIGIN",
    "Picture",
    "claim",
    "digest",
    "is_finished",
    "opened",
    "origin_of",
    "read_config",
    "read_manifest",
    "save_png",
    "write_manifest",
]

#: a picture, or where one is
Picture: TypeAlias = Image.Image | str | Path

#: names of the texts in a PNG: the configuration, and what else the picture depends on
CONFIG, ORIGIN = "ksched", "ksched_origin"
#: what a folder of images is the folder of
MANIFEST = "manifest.json"
_FORMAT = 1


def save_png(image: Image.Image, path: str | Path, *, replace: bool = True) -> None:
    """Write a picture with the configuration that it came with, whole or not at all.

    Parameters
    ----------
    image : such as `StableDiffusion.generate` returns
    path : in a folder that exists
    replace : whether a file that is there already may go

    Raises
    ------
    FileExistsError : there is a file, and ``replace`` is false
    OSError : the disk is full, the folder cannot be written to; nothing is left behind
    """
    notes = PngImagePlugin.PngInfo()
    for key in (CONFIG, ORIGIN):
        if key in image.info:
            notes.add_text(key, image.info[key])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=notes)
    _write(path_of("path", path), buffer.getvalue(), replace=replace)


def read_config(picture: Picture) -> SamplingConfig:
    """The configuration that a picture carries, which draws it again.

    Raises
    ------
    FileNotFoundError, ValueError : no such file, no picture, or one that carries none
    """
    text = opened("picture", picture).info.get(CONFIG)
    name = "the picture" if isinstance(picture, Image.Image) else picture
    if text is None:
        raise ValueError(f"{name} carries no configuration of ksched: another program made it, or took it out")
    try:
        return SamplingConfig.from_json(text)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name} carries a configuration that cannot be used: {error}") from None


def origin_of(picture: Image.Image) -> dict[str, Any]:
    """What else a picture depends on, as it says itself; nothing if it does not say.

    Raises
    ------
    ValueError : what it says makes no sense
    """
    text = picture.info.get(ORIGIN)
    return {} if text is None else _mapping(ORIGIN, parse_json(text))


def opened(name: str, picture: Picture) -> Image.Image:
    """A picture, read if it is a path.

    Raises
    ------
    TypeError, FileNotFoundError, ValueError : none of these; ``name`` is what the error calls it
    """
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


def digest(image: Image.Image | None) -> str | None:
    """A hash of the pixels."""
    return None if image is None else hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()


def claim(folder: Path, config: SamplingConfig, origin: Mapping[str, Any]) -> None:
    """Make a folder that of a batch, or find that it is; a batch may have grown.

    Raises
    ------
    OSError : it cannot be made or written to
    ValueError : it is that of another batch
    """
    manifest = folder / MANIFEST
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = read_manifest(folder) if manifest.exists() else None
        before = None if found is None else SamplingConfig.from_dict(found["config"])
    except OSError as error:
        raise OSError(error.errno, f"cannot use {folder} for images: {error.strerror or error}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{manifest} is no manifest of a batch; choose another folder ({error})") from None
    if found is not None and before is not None:
        common = min(len(config.seeds), len(before.seeds))
        kept, ours = (replace(one, seed=one.seeds[:common], count=common).to_dict() for one in (before, config))
        kept, ours = {**kept, **_mapping("origin", found.get("origin", {}))}, {**ours, **origin}
        if different := [name for name in ours if kept.get(name) != ours[name]]:
            raise ValueError(
                f"{folder} holds another batch, with another {', another '.join(different)}; choose another folder, or "
                f"go on with what its {MANIFEST} says"
            )
        if common == len(config.seeds):
            return
    entries = {"format": _FORMAT, "config": config.to_dict(), "origin": dict(origin)}
    try:
        write_manifest(folder, entries, replace=found is not None)
    except FileExistsError:  # another process was faster
        claim(folder, config, origin)


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a folder of images is the folder of.

    Raises
    ------
    OSError, ValueError : there is no manifest, or it is none
    """
    return _mapping(MANIFEST, parse_json((folder / MANIFEST).read_text(encoding="utf-8"), constants=True))


def write_manifest(folder: Path, entries: Mapping[str, Any], *, replace: bool = True) -> None:
    """Write what a folder of images is the folder of; arguments and errors as for `save_png`."""
    _write(folder / MANIFEST, json.dumps(entries, indent=1).encode(), replace=replace)


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a mapping; got {type(value).__name__}")
    return value


def is_finished(path: Path, config: SamplingConfig) -> bool:
    """Whether the image of a configuration is there.

    Raises
    ------
    ValueError : a file of its name that is another one
    """
    if not path.exists():
        return False
    try:
        same = read_config(path) == config
    except ValueError:
        same = False
    if not same:
        raise ValueError(f"{path} is not the image of this batch that has its name; move it away")
    return True


def _write(path: Path, data: bytes, *, replace: bool = True) -> None:
    """As `ksched.storage.files.write_whole`, with advice."""
    try:
        write_whole(path, data, replace=replace)
    except FileExistsError:
        raise
    except OSError as error:
        raise OSError(
            error.errno, f"{error.strerror}. What was finished is intact; mend that and run the same again"
        ) from error
