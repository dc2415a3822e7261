"""Many images by many processes: any number of processes writes the same files, even if one is killed."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import weakref
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

import tiny_pipelines

from ksched.stable_diffusion import SamplingConfig, StableDiffusion, jobs, save_png
from ksched.stable_diffusion.many import Place, run_many

# diffusers renames an argument whose old name older versions need
pytestmark = pytest.mark.filterwarnings("ignore:.torch_dtype. is deprecated:FutureWarning")

CONFIG = SamplingConfig(
    prompt="a red fox", sampler="euler_ancestral", steps=2, width=16, height=16, count=7, guidance_scale=2.0
)

#: two processes that share one import of all that they need, as `torchrun` starts, watches and ends them
WORKER = """
import os, signal, socket, sys
import torch
torch.set_num_threads(1)
from ksched.stable_diffusion import SamplingConfig, StableDiffusion, jobs, save_png
from ksched.stable_diffusion.many import run_many

folder, out, count, batch, die = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
save, saved = jobs.save_png, []

def save_and_die(image, path):
    if os.environ.get("RANK") == "1" and len(saved) == die:
        path.with_name(f".{path.name}.part").write_bytes(b"half of it")  # as if killed while it wrote
        os.kill(os.getpid(), signal.SIGKILL)
    save(image, path)
    saved.append(path)

jobs.save_png = save_and_die
config = SamplingConfig.from_json(CONFIG).from_dict({**SamplingConfig.from_json(CONFIG).to_dict(), "count": count})
model = StableDiffusion.from_folder(folder)
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
workers = []
for rank in range(2):
    workers.append(os.fork())
    if not workers[-1]:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        made = run_many(model, config, out, batch_size=batch)
        os._exit(len(made) != count)
_, ended = os.waitpid(workers[1], 0)
if ended:
    os.kill(workers[0], signal.SIGKILL)
sys.exit(bool(os.waitpid(workers[0], 0)[1] or ended))
""".replace("CONFIG", repr(CONFIG.to_json()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "sd15"
    tiny_pipelines.build("sd15").pipe.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> StableDiffusion:
    return StableDiffusion.from_folder(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def in_two_processes(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=300)


@pytest.mark.exhaustive  # two processes import torch and diffusers
@pytest.mark.skipif(os.name == "nt", reason="kills a process as POSIX does")
def test_two_processes_one_of_them_killed_then_one_alone(model: StableDiffusion, folder: Path, tmp_path: Path) -> None:
    run_many(model, CONFIG, tmp_path / "whole", batch_size=3)
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    command = [sys.executable, str(script), *map(str, (folder, tmp_path / "out", 7, 3, 2))]
    died = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert died.returncode != 0
    there = contents(tmp_path / "out")
    pictures = {name for name in there if name.endswith(".png")}
    assert 2 <= len(pictures) < 7, died.stderr
    assert any(name.endswith(".part") for name in there)
    assert json.loads(there["manifest.json"])["config"]["count"] == 7
    untouched = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in pictures}
    run_many(model, CONFIG, tmp_path / "out", batch_size=3)
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in pictures} == untouched
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.exhaustive  # a pair of processes takes longest of all
def test_two_processes_of_the_command(model: StableDiffusion, folder: Path, tmp_path: Path) -> None:
    run_many(model, CONFIG, tmp_path / "whole")
    (tmp_path / "fox.json").write_text(CONFIG.to_json())
    done = in_two_processes(
        "-m",
        "ksched",
        "generate",
        tmp_path / "fox.json",
        "--model",
        folder,
        "--device",
        "cpu",
        "--out",
        tmp_path / "out",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{tmp_path / 'out'}\n"  # the first process alone says so
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_the_manifest_tells_everything(model: StableDiffusion, tmp_path: Path) -> None:
    paths = run_many(model, CONFIG, tmp_path / "out", batch_size=3)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert {name: manifest[name] for name in ("batch_size", "threads", "dtype", "device")} == {
        "batch_size": 3,
        "threads": 1,
        "dtype": "float32",
        "device": "cpu",
    }
    assert manifest["sha256"] == {path.name: sha256(path.read_bytes()).hexdigest() for path in paths}
    assert list(manifest["sha256"]) == [f"{number:05d}.png" for number in range(7)]
    assert SamplingConfig.from_dict(manifest["config"]) == CONFIG


def test_a_finished_folder_is_left_alone(
    model: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_many(model, CONFIG, tmp_path / "out", batch_size=3)
    before = contents(tmp_path / "out")
    monkeypatch.setattr(model, "prepare", None)  # nothing is drawn
    run_many(model, CONFIG, tmp_path / "out", batch_size=3)
    assert contents(tmp_path / "out") == before


def test_a_batch_grows(model: StableDiffusion, tmp_path: Path) -> None:
    def of(count: int) -> SamplingConfig:
        return SamplingConfig.from_dict({**CONFIG.to_dict(), "count": count})

    run_many(model, of(2), tmp_path / "out", batch_size=2)
    run_many(model, of(5), tmp_path / "out", batch_size=2)
    run_many(model, of(5), tmp_path / "whole", batch_size=2)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    with pytest.raises(ValueError, match="cannot be extended"):
        run_many(model, of(6), tmp_path / "out", batch_size=2)
    with pytest.raises(ValueError, match="has 5 images of a batch, more than 4"):
        run_many(model, of(4), tmp_path / "out", batch_size=2)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("other", [{"batch_size": 3}, {"batch_size": 2, "threads": 2}])
def test_a_folder_is_drawn_in_one_way(model: StableDiffusion, tmp_path: Path, other: dict[str, Any]) -> None:
    threads = torch.get_num_threads()
    run_many(model, CONFIG, tmp_path / "out", batch_size=2)
    before = contents(tmp_path / "out")
    with pytest.raises(ValueError, match=r"was begun with (batch size 2 and not 3|threads 1 and not 2)"):
        run_many(model, CONFIG, tmp_path / "out", **other)
    assert contents(tmp_path / "out") == before
    assert torch.get_num_threads() == threads


def test_a_folder_of_something_else(model: StableDiffusion, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "an app"}')
    with pytest.raises(ValueError, match="must be a batch's manifest"):
        run_many(model, CONFIG, tmp_path)
    assert contents(tmp_path) == {"manifest.json": b'{"name": "an app"}'}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "00003.png").write_bytes(b"a holiday")
    with pytest.raises(ValueError, match="but is not that image"):
        run_many(model, CONFIG, tmp_path / "out")
    assert (tmp_path / "out" / "00003.png").read_bytes() == b"a holiday"


def test_pictures_are_not_kept(model: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many there are, no more than a batch is in memory."""
    alive: list[weakref.ref[Any]] = []
    most = 0
    save = save_png

    def counted(image: Any, path: Path) -> None:
        nonlocal most
        alive.append(weakref.ref(image))
        gc.collect()
        most = max(most, sum(one() is not None for one in alive))
        save(image, path)

    monkeypatch.setattr(jobs, "save_png", counted)
    gc.freeze()  # what was there before need not be looked at again and again
    try:
        run_many(model, CONFIG, tmp_path / "out", batch_size=2)
    finally:
        gc.unfreeze()
    assert len(alive) == 7
    assert most <= 3


def test_a_process_group_that_is_there_is_taken(model: StableDiffusion, tmp_path: Path) -> None:
    from torch import distributed

    run_many(model, CONFIG, tmp_path / "whole")
    distributed.init_process_group("gloo", init_method=(tmp_path / "store").as_uri(), rank=0, world_size=1)
    try:
        run_many(model, CONFIG, tmp_path / "out")
        assert distributed.is_initialized()
    finally:
        distributed.destroy_process_group()
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_what_cannot_be(model: StableDiffusion, tmp_path: Path) -> None:
    for wrong in ({"batch_size": 0}, {"threads": 0}, {"batch_size": True}, {"threads": 1.5}):
        with pytest.raises(ValueError, match="must be a whole number of at least 1"):
            run_many(model, CONFIG, tmp_path / "out", **wrong)
    assert not (tmp_path / "out").exists()


def test_where_a_process_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert Place.of_environment() == Place(0, 1, 0)
    for name, value in {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert Place.of_environment() == Place(5, 8, 1)
    monkeypatch.setenv("RANK", "")
    with pytest.raises(ValueError, match="whole numbers that torchrun sets"):
        Place.of_environment()


def test_a_folder_is_drawn_into_by_one_team(model: StableDiffusion, tmp_path: Path) -> None:
    """A second process that comes while the first draws, and one that comes after it was killed."""
    fcntl = pytest.importorskip("fcntl")
    folder = tmp_path / "out"
    said: list[str] = []

    def second() -> bool:
        if not said:
            with pytest.raises(BlockingIOError, match="out is in use by another process that draws into it") as caught:
                run_many(model, CONFIG, folder)
            said.append(str(caught.value))
        return False

    run_many(model, CONFIG, folder, cancel=second)
    assert said
    whole = contents(folder)
    assert len(whole) == 8
    assert contents(folder) == whole
    lock = os.open(folder, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.close(lock)  # as the end of a process does
    (folder / "00003.png").unlink()
    run_many(model, CONFIG, folder)
    assert contents(folder) == whole


def test_a_worker_that_was_left_still_writes(
    model: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that belongs to a team whose first process is dead."""
    run_many(model, CONFIG, tmp_path / "whole")
    folder, sync = tmp_path / "out", os.fsync
    calls = 0

    def meanwhile(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            model.run(CONFIG, folder, numbers=[1, 2])
        sync(handle)

    monkeypatch.setattr("os.fsync", meanwhile)
    run_many(model, CONFIG, folder)
    assert contents(folder) == contents(tmp_path / "whole")


def test_two_batches_do_not_begin_in_one_folder(
    model: StableDiffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, other = os.fsync, replace(CONFIG, prompt="a hare")
    calls = 0

    def meanwhile(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            model.run(other, tmp_path, numbers=[])
        sync(handle)

    monkeypatch.setattr("os.fsync", meanwhile)
    with pytest.raises(ValueError, match="belongs to another batch, with another prompt"):
        run_many(model, CONFIG, tmp_path)
    assert list(contents(tmp_path)) == ["manifest.json"]


@pytest.mark.parametrize("text", ["[" * 50_000, "[]", '{"config": ' + "[" * 50_000, "3", '{"config": {"prompt": 3}}'])
def test_a_manifest_that_makes_no_sense(model: StableDiffusion, tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(ValueError, match="must be a batch's manifest; choose another folder"):
        run_many(model, CONFIG, tmp_path)
    assert contents(tmp_path) == {"manifest.json": text.encode()}


def test_bounds_of_what_is_asked(model: StableDiffusion, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="threads must be at most 1024; got 100000000"):
        run_many(model, CONFIG, tmp_path / "out", threads=100_000_000)
    with pytest.raises(ValueError, match="out_dir must be a path; got an empty text"):
        run_many(model, CONFIG, "")
    with pytest.raises(ValueError, match="out_dir must be a path; got an empty text"):
        model.run(CONFIG, "")
    with pytest.raises(ValueError, match="path must be a path; got an empty text"):
        StableDiffusion.from_folder("")
    assert not (tmp_path / "out").exists()
