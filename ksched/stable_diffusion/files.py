"""Images as files: the metadata they carry, atomic writing, and the folder of a batch.

A file gets its name only when it is complete, and is never overwritten.
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

#: an image, or its path
Picture: TypeAlias = Image.Image | str | Path

#: names of the texts in a PNG: the configuration, and what else the image depends on
CONFIG, ORIGIN = "ksched", "ksched_origin"
#: the file that says which batch a folder belongs to
MANIFEST = "manifest.json"
_FORMAT = 1


def save_png(image: Image.Image, path: str | Path, *, replace: bool = True) -> None:
    """Write an image with the configuration that made it, completely or not at all.

    Parameters
    ----------
    image : Image
        An image, for example from `StableDiffusion.generate`.
    path : str or Path
        Path in an existing folder.
    replace : bool
        Whether an existing file may be replaced.

    Raises
    ------
    FileExistsError
        If the file exists, and ``replace`` is false.
    OSError
        If the disk is full, or the folder cannot be written to; nothing is left behind.
    """
    notes = PngImagePlugin.PngInfo()
    for key in (CONFIG, ORIGIN):
        if key in image.info:
            notes.add_text(key, image.info[key])
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=notes)
    _write(path_of("path", path), buffer.getvalue(), replace=replace)


def read_config(picture: Picture) -> SamplingConfig:
    """The configuration that an image carries, with which it can be drawn again.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, it is not an image, or it carries no configuration.
    """
    text = opened("picture", picture).info.get(CONFIG)
    name = "the picture" if isinstance(picture, Image.Image) else picture
    if text is None:
        raise ValueError(f"{name} must carry a ksched configuration; another program made it, or removed the metadata")
    try:
        return SamplingConfig.from_json(text)
    except (ValueError, TypeError) as error:
        raise ValueError(f"the configuration that {name} carries cannot be used: {error}") from None


def origin_of(picture: Image.Image) -> dict[str, Any]:
    """What else an image depends on, according to its metadata; empty if they do not say.

    Raises
    ------
    ValueError
        If the metadata are invalid.
    """
    text = picture.info.get(ORIGIN)
    return {} if text is None else _mapping(ORIGIN, parse_json(text))


def opened(name: str, picture: Picture) -> Image.Image:
    """An image, read from a file if it is a path.

    Raises
    ------
    TypeError, FileNotFoundError, ValueError
        If it is neither, or cannot be read; ``name`` is its name in the message.
    """
    if isinstance(picture, Image.Image):
        return picture
    if not isinstance(picture, str | Path):
        raise TypeError(f"{name} must be a Pillow image or a path; got {type(picture).__name__}")
    if not Path(picture).is_file():
        raise FileNotFoundError(f"{name} must be an existing file; there is none at {picture}")
    try:
        with Image.open(picture) as image:
            image.load()
            return image
    except Exception as error:  # damaged files raise many kinds of errors
        raise ValueError(f"{name} must be a readable image; {picture}: {error}") from None


def digest(image: Image.Image | None) -> str | None:
    """A hash of the pixels."""
    return None if image is None else hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()


def claim(folder: Path, config: SamplingConfig, origin: Mapping[str, Any]) -> None:
    """Make a folder the folder of a batch, or check that it is; the batch may have grown.

    Raises
    ------
    OSError
        If the folder cannot be created or written to.
    ValueError
        If the folder belongs to another batch.
    """
    manifest = folder / MANIFEST
    try:
        folder.mkdir(parents=True, exist_ok=True)
        found = read_manifest(folder) if manifest.exists() else None
        before = None if found is None else SamplingConfig.from_dict(found["config"])
    except OSError as error:
        raise OSError(error.errno, f"cannot use {folder} for images: {error.strerror or error}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{manifest} must be a batch's manifest; choose another folder ({error})") from None
    if found is not None and before is not None:
        common = min(len(config.seeds), len(before.seeds))
        kept, ours = (replace(one, seed=one.seeds[:common], count=common).to_dict() for one in (before, config))
        kept, ours = {**kept, **_mapping("origin", found.get("origin", {}))}, {**ours, **origin}
        if different := [name for name in ours if kept.get(name) != ours[name]]:
            raise ValueError(
                f"{folder} belongs to another batch, with another {', another '.join(different)}; choose another "
                f"folder or continue with the settings in its {MANIFEST}"
            )
        if common == len(config.seeds):
            return
    entries = {"format": _FORMAT, "config": config.to_dict(), "origin": dict(origin)}
    try:
        write_manifest(folder, entries, replace=found is not None)
    except FileExistsError:  # another process was faster
        claim(folder, config, origin)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of images.

    Raises
    ------
    OSError, ValueError
        If there is no manifest, or it is not one.
    """
    return _mapping(MANIFEST, parse_json((folder / MANIFEST).read_text(encoding="utf-8"), constants=True))


def write_manifest(folder: Path, entries: Mapping[str, Any], *, replace: bool = True) -> None:
    """Write the manifest of a folder of images; arguments and errors as for `save_png`."""
    _write(folder / MANIFEST, json.dumps(entries, indent=1).encode(), replace=replace)


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be a mapping; got {type(value).__name__}")
    return value


def is_finished(path: Path, config: SamplingConfig) -> bool:
    """Whether the image of a configuration exists.

    Raises
    ------
    ValueError
        If another file has its name.
    """
    if not path.exists():
        return False
    try:
        same = read_config(path) == config
    except ValueError:
        same = False
    if not same:
        raise ValueError(f"{path} has the name of an image of this batch, but is not that image; move it away")
    return True


def _write(path: Path, data: bytes, *, replace: bool = True) -> None:
    """As `ksched.storage.files.write_whole`, with advice in the error message."""
    try:
        write_whole(path, data, replace=replace)
    except FileExistsError:
        raise
    except OSError as error:
        raise OSError(
            error.errno, f"{error.strerror}. Finished files are intact; fix the problem and run the same again"
        ) from error
