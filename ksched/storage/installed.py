"""Install files into another program's folder, and remove them again without touching anything else there."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ksched.storage.files import write_whole

__all__ = ["Removed", "put", "report", "take_out"]

#: file in the folder that lists the files written there, with a digest of each
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
    """Write files into a new folder, or replace what an earlier version wrote there.

    Parameters
    ----------
    folder : Path
        Folder to write, inside an existing one.
    files : mapping
        Contents by path within the folder, with "/".
    ours : callable
        Whether a file that is not listed was written by a version that kept no list.

    Raises
    ------
    ValueError
        If the folder holds a file that this function did not write, or that was changed since. Nothing is written then.
    OSError
        If a file cannot be written.
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
    """Remove the files that `put` wrote, and folders that are then empty.

    Files that are not in the list, or that were changed since, stay.

    Raises
    ------
    ValueError
        If there is nothing that `put` wrote.
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


def report(action: Callable[[], object]) -> int:
    """Print the result of an action, or its error as one line on stderr; return the exit code, 0 or 2."""
    try:
        print(action())
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _contents(folder: Path) -> list[Path]:
    """The files of a folder, without our list and without compiled Python."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir()]
    return [path for path in files if path.name != _LIST and path.parent.name != "__pycache__"]


def _written(folder: Path, ours: Callable[[Path], bool]) -> tuple[Path, ...]:
    """The files of a folder that `put` wrote and that are unchanged."""
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
