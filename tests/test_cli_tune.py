"""``ksched tune``, and its plans in the other commands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command import Command, command_of

import ksched
from ksched import Plan


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Command:
    """The command in this process, in a folder with samples."""
    monkeypatch.chdir(tmp_path)
    mixture = ksched.exact.digits()
    np.save("x.npy", mixture.sample(150, 0).reshape(150, 8, 8))
    np.save("labels.npy", np.arange(150) % 3)

    return command_of(capsys)


def test_a_plan_is_made_kept_and_printed(command: Command) -> None:
    made = command("tune", "--data", "x.npy", "--steps", "3", "--out", "plan.json", "--seed", "2")
    assert made.code == 0, made.err
    plan = Plan.from_json(Path("plan.json").read_text())
    assert plan == ksched.tune(np.load("x.npy"), 3, seed=2)
    assert plan.report["why"] in made.out.replace("\n", " ")
    printed = command("plan", "plan.json")
    assert printed.code == 0, printed.err
    assert str(plan) in printed.out
    again = command("tune", "--data", "x.npy", "--steps", "3", "--out", "plan.json")
    assert again.code == 2
    assert "is there already" in again.err


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
        (["--data", "x.npy", "--out", "nowhere/plan.json"], "needs a folder that exists"),
        (["--data", "x.npy", "--labels", "x.npy"], "labels must be one for each"),
        (["--data", "labels.npy"], "samples must differ"),
        (["--data", "x.npy", "--sampler", "eulr"], "unknown sampler 'eulr'"),
        (["--data", "x.npy", "-o", "eta=1"], "--option is for --sampler"),
        (["--data", "x.npy", "--end", "now"], "end must be 'integral'"),
        (["--data", "x.npy", "--level", "2"], "level 2 goes through a model"),
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
    assert "leave out --label" in command("generate", "x", "--plan", "plan.json", "--label", "Euler a").err
    assert "the plan has 4 steps; got --steps 9" in command("generate", "x", "--plan", "plan.json", "--steps", "9").err


def test_auto_is_printed_and_listed(command: Command) -> None:
    assert str(ksched.build_sampler("auto", steps=6).plan) in command("plan", "auto", "-n", "6").out
    assert "leave out schedule" in command("plan", "auto", "--schedule", "karras").err
    assert "data_std" in command("list", "auto").out
