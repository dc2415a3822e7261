"""``ksched tune``, and its plans in the other commands."""

from __future__ import annotations

import errno
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command import Command, command_of

import ksched
from ksched import Plan
from ksched.types import Array


@cache
def samples() -> Array:
    return np.asarray(ksched.exact.digits().sample(150, 0).reshape(150, 8, 8))


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """The command in this process, in a folder with samples."""
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", samples())
    np.save("labels.npy", np.arange(150) % 3)

    return command_of(capsys)


@pytest.mark.parametrize("how", [{"level": 0}, pytest.param({}, marks=pytest.mark.exhaustive)], ids=str)
def test_a_plan_is_made_kept_and_printed(command: Command, how: dict[str, Any]) -> None:
    level = [text for name, value in how.items() for text in (f"--{name}", str(value))]
    made = command("tune", "--data", "x.npy", "--steps", "3", "--out", "plan.json", "--seed", "2", *level)
    assert made.code == 0, made.err
    plan = Plan.from_json(Path("plan.json").read_text())
    assert plan == ksched.tune(np.load("x.npy"), 3, seed=2, **how)
    assert plan.report["why"] in made.out.replace("\n", " ")
    printed = command("plan", "plan.json")
    assert printed.code == 0, printed.err
    assert str(plan) in printed.out
    again = command("tune", "--data", "x.npy", "--steps", "3", "--out", "plan.json")
    assert again.code == 2
    assert "--out must be a new file; plan.json exists" in again.err


def test_a_sampler_is_kept_with_its_options(command: Command) -> None:
    made = command(
        "tune", "--data", "x.npy", "-n", "3", "--sampler", "DPM++ 2M", "-o", "solver_type=heun", "--level", "0"
    )
    assert made.code == 0, made.err
    plan = Plan.from_json(Path("plan.json").read_text())
    assert plan == ksched.build_sampler("dpmpp_2m", sigmas=plan.sigmas, solver_type="heun").plan


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--data", "none.npy"], "cannot read none.npy"),
        (["--data", "x.npy", "--steps", "99"], "at most 50"),
        (["--data", "x.npy", "--out", "nowhere/plan.json"], "the folder of --out must exist"),
        (["--data", "x.npy", "--labels", "x.npy"], "labels must have one entry for each"),
        (["--data", "labels.npy"], "samples must differ"),
        (["--data", "x.npy", "--sampler", "eulr"], "unknown sampler 'eulr'"),
        (["--data", "x.npy", "-o", "eta=1"], "--option sets options of --sampler"),
        (["--data", "x.npy", "--end", "now"], "end must be 'integral'"),
        (["--data", "x.npy", "--level", "2"], "level 2 needs a denoiser"),
        (["--data", "x.npy", "--shift", "3"], "--shift belongs to"),
    ],
)
def test_mistakes_are_one_clear_error_and_write_nothing(command: Command, arguments: list[str], said: str) -> None:
    answer = command("tune", *arguments)
    assert answer.code == 2
    assert said in answer.err
    assert "Traceback" not in answer.err
    assert not Path("plan.json").exists()


def test_a_file_that_is_no_plan_is_refused(command: Command) -> None:
    Path("bad.json").write_text('{"format": "other"}')
    for arguments in (["plan", "bad.json"], ["generate", "a seven", "--plan", "bad.json"]):
        answer = command(*arguments)
        assert answer.code == 2
        assert "bad.json: not a ksched plan" in answer.err
    assert "cannot read none.json" in command("plan", "none.json").err
    Path("plan.json").write_text(ksched.build_sampler("auto", steps=4).plan.to_json())
    assert "leave out --plan or --label" in command("generate", "x", "--plan", "plan.json", "--label", "Euler a").err
    assert "the plan has 4 steps; got --steps 9" in command("generate", "x", "--plan", "plan.json", "--steps", "9").err


def test_auto_is_printed_and_listed(command: Command) -> None:
    assert str(ksched.build_sampler("auto", steps=6).plan) in command("plan", "auto", "-n", "6").out
    assert "leave out schedule" in command("plan", "auto", "--schedule", "karras").err
    assert "data_std" in command("list", "auto").out


@cache
def quick_plan() -> Plan:
    """What `QUICK` makes."""
    return ksched.tune(samples(), 2, level=0)


QUICK = ("tune", "--data", "x.npy", "--steps", "2", "--level", "0")


def names() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


@pytest.mark.parametrize("before", [pytest.param(None, marks=pytest.mark.exhaustive), b"a good plan"])
def test_row_50_a_disk_that_is_full_at_the_end(
    command: Command, monkeypatch: pytest.MonkeyPatch, before: bytes | None
) -> None:
    sync, probed = os.fsync, 0

    def full(handle: int) -> None:
        nonlocal probed
        probed += 1
        if probed > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    if before is not None:
        Path("plan.json").write_bytes(before)
    there = names()
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        code, out, err = command(*QUICK, *(["--force"] if before else []))
    assert code == 1
    assert err == "ksched: cannot write plan.json: No space left on device; the plan is printed instead\n"
    assert Plan.from_json(out) == quick_plan()
    assert names() == there
    assert before is None or Path("plan.json").read_bytes() == before
    if before is None:
        assert command(*QUICK).code == 0  # nothing blocks the next try


def test_a_plan_that_another_process_wrote_meanwhile_stays(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    tune = ksched.tuning.tune

    def meanwhile(*args: Any, **how: Any) -> Plan:
        Path("plan.json").write_bytes(b"another")
        return tune(*args, **how)

    monkeypatch.setattr("ksched.tuning.tune", meanwhile)
    code, out, err = command(*QUICK)
    assert (code, err.count("\n")) == (1, 1)
    assert Plan.from_json(out).steps == 2
    assert Path("plan.json").read_bytes() == b"another"


def test_what_cannot_be_written_is_found_out_before_the_work(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    there = names()
    monkeypatch.setattr("ksched.tuning.tune", lambda *_, **__: pytest.fail("worked before it looked"))
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        answer = command(*QUICK)
    assert answer == (1, "", "ksched: cannot write plan.json: No space left on device\n")
    with monkeypatch.context() as patch:
        patch.setattr("os.access", lambda _, mode: mode != os.W_OK)
        answer = command(*QUICK)
    assert answer == (2, "", "ksched: cannot write plan.json: Permission denied\n")
    assert command(*QUICK, "--out", ".", "--force").code == 2
    assert names() == there


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no such device")
def test_the_device_that_is_always_full(command: Command) -> None:
    code, out, err = command(*QUICK, "--out", "/dev/full", "--force")
    assert (code, err.count("\n")) == (1, 1)
    assert Plan.from_json(out).steps == 2


@pytest.mark.parametrize("text", ["[" * 50_000, '{"a":' * 50_000, "\0", '{"version": ' + "9" * 5000 + "}"])
def test_a_damaged_plan_is_one_line(command: Command, text: str) -> None:
    Path("bad.json").write_text(text)
    for arguments in (["plan", "bad.json"], ["generate", "a seven", "--plan", "bad.json"]):
        code, out, err = command(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "bad.json: not a ksched plan" in err
        assert len(err) < 200


def test_a_plan_in_another_encoding(command: Command) -> None:
    Path("bad.json").write_bytes(b"\xff\xfe{")
    answer = command("plan", "bad.json")
    assert answer == (2, "", "ksched: bad.json: it must be text in UTF-8; byte 0 is not\n")


@pytest.mark.parametrize("data", [b"PK\x03\x04 no archive", b"\x93NUMPY\x01\x00\x40\x1f" + b"(" * 8000, b""])
def test_damaged_samples_are_one_line(command: Command, data: bytes) -> None:
    Path("bad.npy").write_bytes(data)
    code, out, err = command("tune", "--data", "bad.npy")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--data must be a .npy file" in err
