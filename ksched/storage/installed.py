"""Files that are put into another program's folder, and taken out again without touching anything else there."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ksched.storage.files import write_whole

__all__ = ["Removed", "put", "take_out"]

#: in the folder: what was written there, by its path in the folder, with a digest of its content
_LIST = ".ksched.json"


class Removed(NamedTuple):
    """Paths that `take_out` removed, and those that it left because somebody else wrote or changed them."""

    removed: tuple[Path, ...]
    left: tuple[Path, ...]

    @property
    def text(self) -> str:
        """A line for each."""
        left = [f"left {path}: ksched did not write it, or it was changed" for path in self.left]
        return "\n".join([*(f"removed {path}" for path in self.removed), *left])


def put(folder: Path, files: Mapping[str, bytes], ours: Callable[[Path], bool] = lambda path: False) -> None:
    """Write files into a folder of our own, which is made; what an earlier version wrote there goes.

    Parameters
    ----------
    folder : in a folder that exists
    files : contents by path within the folder, with "/"
    ours : whether a file that is in no list was written by a version that kept none

    Raises
    ------
    ValueError : the folder holds something that was not written by this, or was changed since; nothing is written
    OSError : a file cannot be written
    """
    written = _written(folder, ours)
    strange = [path for path in _contents(folder) if path not in written]
    if strange:
        raise ValueError(f"{folder} is something else already, or was changed: {strange[0].name}. Move it away first")
    for path in written:
        path.unlink()
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
    digests = {name: _digest(content) for name, content in files.items()}
    write_whole(folder / _LIST, (json.dumps(digests, indent=1) + "\n").encode())


def take_out(folder: Path, ours: Callable[[Path], bool] = lambda path: False) -> Removed:
    """Remove what `put` wrote into a folder, and the folders that are empty then.

    Files that are not in the list or whose content is another now stay.

    Raises
    ------
    ValueError : there is nothing that `put` wrote
    """
    written = _written(folder, ours)
    if not written:
        raise ValueError(f"{folder} has nothing that ksched wrote")
    left = tuple(path for path in _contents(folder) if path not in written)
    for path in (*written, folder / _LIST):
        path.unlink(missing_ok=True)
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*.pyc") if path.suffix == ".py" else ():
            compiled.unlink()
    for inside in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
        with suppress(OSError):  # not empty
            inside.rmdir()
    with suppress(OSError):
        folder.rmdir()
    return Removed(written, left)


def _contents(folder: Path) -> list[Path]:
    """The files of a folder but for our list and what Python compiled."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir()]
    return [path for path in files if path.name != _LIST and path.parent.name != "__pycache__"]


def _written(folder: Path, ours: Callable[[Path], bool]) -> tuple[Path, ...]:
    """The files of a folder that we wrote and nobody changed."""
    digests: object = {}
    with suppress(OSError, ValueError):
        digests = json.loads((folder / _LIST).read_text(encoding="utf-8"))
    known = digests if isinstance(digests, dict) else {}

    def is_ours(path: Path) -> bool:
        name = str(PurePosixPath(path.relative_to(folder)))
        if path.is_symlink():
            return False
        return known[name] == _digest(path.read_bytes()) if name in known else not known and ours(path)

    return tuple(path for path in _contents(folder) if is_ours(path))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
