"""Many images in a folder, drawn by one process or by many that share it, on one or more machines.

Image i always belongs to batch ``i // batch_size``, and one process draws a batch with a fixed number of threads,
because both affect the last bits of an image. The files therefore do not depend on the number of
processes or on interruptions.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from ksched.options import check_whole
from ksched.stable_diffusion.config import SamplingConfig
from ksched.stable_diffusion.files import MANIFEST, Picture, is_finished, read_manifest, write_manifest
from ksched.stable_diffusion.jobs import Cancel
from ksched.storage.files import path_of, remove_parts, sole_user

if TYPE_CHECKING:
    from ksched.stable_diffusion.adapter import StableDiffusion

__all__ = ["MOST_THREADS", "Place", "run_many", "threads_of_torch"]

#: largest number of torch threads; some libraries end the process if they cannot start enough threads
MOST_THREADS = 1024

_PATIENCE = timedelta(days=30)  # at the end, processes wait for the slowest; one that died is noticed at once


@dataclass(frozen=True)
class Place:
    """The place of this process among all, as ``torchrun`` sets it in the environment.

    Attributes
    ----------
    rank, size : int
        Number of this process, from 0, and number of processes on all machines.
    local : int
        Number of this process on its machine, which is the number of its GPU.
    """

    rank: int = 0
    size: int = 1
    local: int = 0

    @classmethod
    def of_environment(cls) -> Place:
        """The place from RANK, WORLD_SIZE and LOCAL_RANK; a single process without them.

        Raises
        ------
        ValueError
            If they are not whole numbers, or only some are set.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        given = [os.environ.get(name) for name in names]
        if given[1] is None:
            return cls()
        try:
            rank, size, local = (int(text or "") for text in given)
        except ValueError:
            raise ValueError(
                f"{', '.join(names)} must be the whole numbers that torchrun sets; got {', '.join(map(str, given))}"
            ) from None
        return cls(rank, size, local)


def run_many(
    model: StableDiffusion,
    config: SamplingConfig,
    out_dir: str | Path,
    *,
    init_image: Picture | None = None,
    mask: Picture | None = None,
    batch_size: int = 1,
    threads: int = 1,
    progress: bool = False,
    cancel: Cancel | None = None,
) -> list[Path]:
    """Generate the images of a configuration into a folder, byte for byte the same with any number of processes.

    Under ``torchrun`` (or in an existing process group of torch.distributed), every process calls this with the same
    arguments and draws its share. After an interruption of any kind, run the same again with any number of processes to
    continue.

    Parameters
    ----------
    model : StableDiffusion
        Model on the device of this process.
    config, init_image, mask, cancel : SamplingConfig, Picture, Cancel or None
        As for `StableDiffusion.run`.
    out_dir : str or Path
        Folder that all processes can access: a new one, or that of the same batch.
    batch_size : int
        Number of images to draw at once; recorded in the manifest.
    threads : int
        Number of CPU threads in each process; recorded in the manifest. With 1, start one process per core.
    progress : bool
        Show a bar over the steps of the first process (needs the extra ``cli``).

    Returns
    -------
    list of Path
        All files.

    Raises
    ------
    Cancelled, OSError, TypeError, ValueError
        As for `StableDiffusion.run`.
    BlockingIOError
        If another process, or group of processes, is drawing into the folder.
    ValueError
        If the folder was begun with another batch size, number of threads, dtype or kind of device.

    Notes
    -----
    ``manifest.json`` has the configuration from the start, and at the end the SHA-256 of each file. Processes
    communicate only before and after drawing, over gloo.
    """
    folder = path_of("out_dir", out_dir)
    how: dict[str, Any] = {"batch_size": _positive("batch_size", batch_size), "threads": _positive("threads", threads)}
    how |= {"dtype": str(model.pipeline.dtype).removeprefix("torch."), "device": model.device.type}
    given: dict[str, Any] = {"init_image": init_image, "mask": mask}
    with threads_of_torch(threads), _team() as team, ExitStack() as until_the_end:
        if team.rank == 0:
            is_new = not folder.is_dir()
            if not is_new:
                until_the_end.enter_context(_alone(folder))
            _claim(folder, config, how, lambda: model.run(config, folder, numbers=[], **given))
            if is_new:
                until_the_end.enter_context(_alone(folder))
        team.gather(None)  # wait until the folder exists
        whole = SamplingConfig.from_dict(read_manifest(folder)["config"])  # includes a size that was left open
        count = len(config.seeds)
        mine = _undrawn(team, folder, whole, batch_size)
        shown = progress and team.rank == 0
        model.run(config, folder, numbers=mine, batch_size=batch_size, progress=shown, cancel=cancel, **given)
        team.gather(None)  # wait until every file exists
        _finish(team, folder, count, how)
        team.gather(None)  # no process returns before everything is finished
    return [_path(folder, number) for number in range(count)]


@contextmanager
def threads_of_torch(threads: int) -> Iterator[None]:
    """Set torch's number of threads, and restore it afterwards.

    Raises
    ------
    ValueError
        If the number is above 1024, with which a process may crash.
    """
    if threads > MOST_THREADS:
        raise ValueError(f"threads must be at most {MOST_THREADS}; got {threads}")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# ------------------------------------------------------------------------------------------------------ the processes


@dataclass(frozen=True)
class _Team:
    """The processes that share a job."""

    rank: int
    size: int
    group: Any

    def share(self, things: Sequence[int]) -> Sequence[int]:
        """The items that belong to this process."""
        return things[self.rank :: self.size]

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, once every process has one."""
        found = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(found, value, group=self.group)
        return found


@contextmanager
def _team() -> Iterator[_Team]:
    if dist.is_available() and dist.is_initialized():  # by the caller, perhaps not with gloo
        group: Any = dist.new_group(backend="gloo", timeout=_PATIENCE)
        try:
            yield _Team(dist.get_rank(), dist.get_world_size(), group)
        finally:
            dist.destroy_process_group(group)
        return
    place = Place.of_environment()
    if place.size == 1:
        yield _Team(0, 1, None)
        return
    dist.init_process_group("gloo", rank=place.rank, world_size=place.size, timeout=_PATIENCE)
    try:
        yield _Team(place.rank, place.size, None)
    finally:
        dist.destroy_process_group()


# --------------------------------------------------------------------------------------------------------- the folder


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(sole_user(folder))
        except BlockingIOError as error:
            raise BlockingIOError(
                error.errno,
                f"{folder} is in use by another process that draws into it. Wait until it ends, choose another folder, "
                "or let torchrun start processes that share the work",
            ) from None
        yield


def _claim(folder: Path, config: SamplingConfig, how: Mapping[str, Any], claim: Callable[[], object]) -> None:
    """Make a folder the folder of a batch that is drawn in one way."""
    try:
        before = read_manifest(folder)
        counted = len(SamplingConfig.from_dict(before["config"]).seeds)
    except (OSError, ValueError, TypeError, KeyError):  # there is none yet, or `claim` will report what is wrong
        before, counted = {}, 0
    if different := [name for name in how if before.get(name, how[name]) != how[name]]:
        said = ", ".join(f"{name.replace('_', ' ')} {before[name]} and not {how[name]}" for name in different)
        raise ValueError(f"{folder} was begun with {said}, which affects the last bits of images; use the former")
    if counted > len(config.seeds):
        raise ValueError(f"{folder} has {counted} images of a batch, more than {len(config.seeds)}; ask for as many")
    if counted < len(config.seeds) and counted % how["batch_size"]:
        raise ValueError(
            f"the {counted} images of {folder}, drawn {how['batch_size']} at a time, cannot be extended, because the "
            "last ones were not drawn together with those that would follow; choose another folder"
        )
    claim()
    now = read_manifest(folder)
    if any(name not in now for name in how):
        write_manifest(folder, {**now, **how})


def _undrawn(team: _Team, folder: Path, config: SamplingConfig, batch_size: int) -> list[int]:
    """The images that this process must draw: its share of the batches with missing files."""
    count = len(config.seeds)
    parts = [range(k, min(k + batch_size, count)) for k in range(0, count, batch_size)]
    done = {k for k in team.share(range(len(parts))) if _all_there(folder, config, parts[k])}
    done = done.union(*team.gather(done))
    left = [k for k in range(len(parts)) if k not in done]
    return [number for k in team.share(left) for number in parts[k]]


def _finish(team: _Team, folder: Path, count: int, how: Mapping[str, Any]) -> None:
    """Write the hash of every file into the manifest, and remove half-written files of killed processes."""
    digests = {number: _digest(_path(folder, number)) for number in team.share(range(count))}
    digests = {number: digest for found in team.gather(digests) for number, digest in found.items()}
    if team.rank == 0:
        files = {_path(folder, number).name: digests[number] for number in range(count)}
        write_manifest(folder, {**read_manifest(folder), **how, "sha256": files})
        remove_parts([folder / MANIFEST, *(_path(folder, number) for number in range(count))])


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.png"


def _all_there(folder: Path, config: SamplingConfig, part: Sequence[int]) -> bool:
    paths = {number: _path(folder, number) for number in part}
    return all(path.exists() for path in paths.values()) and all(
        is_finished(path, config.single(number)) for number, path in paths.items()
    )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _positive(name: str, value: Any) -> int:
    check_whole(name, value, 1)
    return int(value)
