"""Atomic files: full disks, other writers, killed processes, links and devices."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ksched.storage import files
from ksched.storage.files import check_writable, path_of, remove_parts, sole_user, write_whole


def full(_: int) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def there(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("where", ["os.fsync", "pathlib.Path.replace"])
@pytest.mark.parametrize("kind", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_file_is_whole_or_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, kind: BaseException
) -> None:
    path = tmp_path / "plan.json"
    for before in ({}, {"plan.json": b"good"}):
        if before:
            path.write_bytes(b"good")

        def fail(*_: object) -> None:
            raise kind

        with monkeypatch.context() as patch:
            patch.setattr(where, fail)
            with pytest.raises(type(kind)) as caught:
                write_whole(path, b"new")
        if isinstance(kind, OSError):
            assert caught.value.args == (errno.ENOSPC, f"cannot write {path}: No space left on device")
        assert there(tmp_path) == before
    write_whole(path, b"new")
    assert there(tmp_path) == {"plan.json": b"new"}


def test_row_49_two_that_write_one_file_do_not_meet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, sync, inner = tmp_path / "a.png", os.fsync, 0

    def meanwhile(handle: int) -> None:
        nonlocal inner
        inner += 1
        if inner == 1:
            write_whole(path, b"the other's")
            remove_parts([path])  # as who is done does
        sync(handle)

    monkeypatch.setattr("os.fsync", meanwhile)
    write_whole(path, b"ours")
    assert there(tmp_path) == {"a.png": b"ours"}


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool) -> None:
    if not links:

        def none(*_: object) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr("os.link", none)
    path = tmp_path / "plan.json"
    write_whole(path, b"first", replace=False)
    with pytest.raises(FileExistsError, match=r"cannot write .*plan.json: File exists"):
        write_whole(path, b"second", replace=False)
    assert there(tmp_path) == {"plan.json": b"first"}


def test_it_is_known_before_the_work_whether_a_file_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(b"good")
    check_writable(path)
    check_writable(tmp_path / "new.json")
    with pytest.raises(IsADirectoryError, match="cannot write"):
        check_writable(tmp_path)
    with pytest.raises(IsADirectoryError, match="cannot write"):
        write_whole(tmp_path, b"")
    with pytest.raises(FileNotFoundError, match=r"cannot write .*No such file"):
        check_writable(tmp_path / "none" / "plan.json")
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match=r"cannot write .*plan.json: No space left"):
            check_writable(path)
    assert there(tmp_path) == {"plan.json": b"good"}


def test_names_of_any_length(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 120 + ".png")
    write_whole(path, b"1")
    part = files._part_of(path)
    part.write_bytes(b"half")
    remove_parts([path])
    assert there(tmp_path) == {path.name: b"1"}


def test_what_dead_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    kept = (".b.png.12-0123abcd.part", "a.png.part", ".a.png", ".a.pngs.part", ".a.png.12-0123abcd.part.txt")
    for name in (".a.png.part", ".a.png.0123abcd.part", ".a.png.12-0123abcd.part", *kept):
        (tmp_path / name).write_bytes(b"half")
    remove_parts([tmp_path / "a.png"])
    assert set(there(tmp_path)) == set(kept)
    remove_parts([])
    remove_parts([tmp_path / "none" / "a.png"])


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_where_a_link_leads_is_written(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "plan.json").symlink_to(tmp_path / "real" / "plan.json")
    for data in (b"1", b"2"):
        write_whole(tmp_path / "plan.json", data)
        assert there(tmp_path / "real") == {"plan.json": data}
        assert (tmp_path / "plan.json").is_symlink()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no such device")
def test_devices_are_written_to_and_stay() -> None:
    check_writable(Path("/dev/null"))
    write_whole(Path("/dev/null"), b"1")
    assert Path("/dev/null").is_char_device()
    with pytest.raises(OSError, match="cannot write /dev/full: No space left"):
        write_whole(Path("/dev/full"), b"1")
    assert Path("/dev/full").is_char_device()


@pytest.mark.skipif(files.fcntl is None, reason="has no such locks")
def test_a_folder_has_one_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with sole_user(tmp_path):
        with pytest.raises(BlockingIOError, match="is in use"), sole_user(tmp_path):
            pass
        assert not there(tmp_path)
    with sole_user(tmp_path):
        pass

    def cannot(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", cannot)
    with sole_user(tmp_path), sole_user(tmp_path):
        pass


def test_an_empty_path_is_not_the_current_folder() -> None:
    with pytest.raises(ValueError, match=r"out must be a path; got an empty text.* Write . for the current folder"):
        path_of("out", "")
    assert path_of("out", ".") == Path()
