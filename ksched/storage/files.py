"""Atomic file writes: a file is whole or absent, even with other writers, killed processes and full disks."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

__all__ = ["check_writable", "path_of", "remove_parts", "sole_user", "write_whole"]


fcntl: ModuleType | None


try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


_PROBE = 1 << 16  # bytes; plans and pictures have about this size


_ATTEMPTS = 3


_PART = re.compile(r"\.(?P<name>.+?)(?:\.(?:[0-9]+-)?[0-9a-f]{8})?\.part", re.DOTALL)


def path_of(name: str, path: str | os.PathLike[str]) -> Path:
    """A path, which must not be empty: ``Path("")`` is the current folder, which is rarely intended.

    Raises
    ------
    ValueError
        For an empty path; ``name`` is its name in the error.
    """
    if not os.fspath(path):
        raise ValueError(
            f"{name} must be a path; got an empty text, which an unset shell variable produces. "
            "Write . for the current folder"
        )
    return Path(path)


def check_writable(path: Path) -> None:
    """Raise unless a file can be written, before the work that fills it begins. An existing file is not changed.

    Raises
    ------
    OSError
        If the path is a folder; its folder does not exist; it is read-only, or the disk is full.
    """
    with _named(path):
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        target = _target(path)
        if _is_device(target):
            return
        if not os.access(target.parent, os.F_OK):
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        if not os.access(target.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        part = _part_of(target)
        try:
            _write(part, bytes(_PROBE))
        finally:
            part.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes, *, replace: bool = True) -> None:
    """Write a file next to a path, then rename it to that path.

    Parameters
    ----------
    path : Path
        In an existing folder; for a link, its target is written, not the link.
    data : bytes
        Contents of the file.
    replace : bool
        Whether an existing file may be replaced.

    Raises
    ------
    FileExistsError
        If the file exists, and ``replace`` is false.
    OSError
        If the file cannot be written; an existing file is unchanged, and nothing else is left behind.
    """
    with _named(path):
        if path.is_dir():  # the part file would be written, but could not be renamed to a folder's name
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        target = _target(path)
        if _is_device(target):
            with target.open("wb") as file:
                file.write(data)
            return
        for attempt in range(_ATTEMPTS):
            part = _part_of(target)
            try:
                _write(part, data)
                _rename(part, target, replace)
                return
            except FileNotFoundError:  # another writer of the same file removed our part as a dead process's
                if part.exists() or attempt == _ATTEMPTS - 1 or not target.parent.is_dir():
                    raise
            finally:
                part.unlink(missing_ok=True)  # after Ctrl-C too


def remove_parts(paths: Iterable[Path]) -> None:
    """Remove partial files of killed processes, in one folder, where the whole file now exists."""
    targets = [_target(path) for path in paths]
    names = {name for target in targets for name in (target.name, _short(target.name))}
    if not targets:
        return
    with suppress(OSError), os.scandir(targets[0].parent) as entries:
        stale = [Path(entry) for entry in entries if (m := _PART.fullmatch(entry.name)) and m["name"] in names]
        for part in stale:
            with suppress(OSError):
                part.unlink()


@contextmanager
def sole_user(folder: Path) -> Iterator[None]:
    """Raise if another process uses a folder exclusively; else use it exclusively until the end of the context.

    The lock also ends with the process. On systems that cannot lock folders, nothing happens.

    Raises
    ------
    BlockingIOError
        Another process uses the folder.
    """
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(errno.EAGAIN, f"{folder} is in use: another process writes to it") from None
        except OSError:  # some network file systems cannot lock folders; writes are atomic without it
            pass
        yield
    finally:
        os.close(handle)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Errors that name the file instead of its part."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"cannot write {path}: {error.strerror or error}") from error


def _target(path: Path) -> Path:
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _is_device(path: Path) -> bool:
    """Whether a path is a terminal, a pipe or the like, which takes bytes and must not be replaced."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _short(name: str) -> str:
    """A name, shortened if its part files' names would be too long for a file system."""
    return name if len(os.fsencode(name)) <= 200 else hashlib.sha256(os.fsencode(name)).hexdigest()[:32]


def _part_of(path: Path) -> Path:
    return path.with_name(f".{_short(path.name)}.{os.getpid()}-{secrets.token_hex(4)}.part")


def _write(part: Path, data: bytes) -> None:
    with part.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())  # some disks report only here that they are full


def _rename(part: Path, target: Path, replace: bool) -> None:
    if replace:
        part.replace(target)
        return
    try:
        os.link(part, target)  # the only way to rename that fails if the target exists
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if not part.exists():
            raise
        if target.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from None
        part.replace(target)
