"""``ksched doctor``: versions, extras and devices, and a self-check that can fail."""

from __future__ import annotations

import json
import math
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from command import Command, command_of

import ksched
from ksched.cli import doctor, self_check
from ksched.cli.self_check import recorded


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """The command in this process."""
    return command_of(capsys)


def test_it_says_what_is_here_and_passes(command: Command) -> None:
    code, out, err = command("doctor", "--json")
    assert (code, err) == (0, "")
    facts = json.loads(out)
    assert facts["ksched"] == ksched.__version__
    assert facts["packages"]["numpy"] == np.__version__
    assert facts["extras"]["cli"] == {"installed": True, "missing": [], "install": 'pip install "ksched[cli]"'}
    assert facts["devices"][0]["name"] == "cpu"
    runs = [(check["what"], check["where"]) for check in facts["self_check"]["checks"]]
    assert {("dpmpp_2m", "numpy"), ("dpmpp_2m_sde", "numpy"), ("dpmpp_2m_sde", "cpu")} <= set(runs)
    assert all(check["passed"] for check in facts["self_check"]["checks"])
    code, out, err = command("doctor")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= max(80, len(str(Path(doctor.__file__).parents[1])) + 13)
    assert out.endswith("ksched gives the recorded results here.\n")


def test_the_record_is_what_this_version_makes() -> None:
    record = json.loads(self_check.RECORD.read_text(encoding="utf-8"))
    made = recorded()
    assert made.keys() == record.keys()
    for name, run in made.items():
        assert run["start"] == record[name]["start"]
        np.testing.assert_allclose(run["result"], record[name]["result"], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("place", "off"), [("result", 1e-8), ("result", math.nan), ("start", None)])
def test_a_wrong_result_is_code_1(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str, off: float | None
) -> None:
    record = json.loads(self_check.RECORD.read_text(encoding="utf-8"))
    run = record["dpmpp_2m_sde karras 8"]
    if off is None:
        run["start"] = run["start"][::-1]
    else:
        run[place][1][2] = None if math.isnan(off) else run[place][1][2] + off
    (tmp_path / "record.json").write_text(json.dumps(record))
    monkeypatch.setattr(self_check, "RECORD", tmp_path / "record.json")
    code, out, err = command("doctor", "--json")
    assert (code, err) == (1, "")
    failed = [check["where"] for check in json.loads(out)["self_check"]["checks"] if not check["passed"]]
    assert "numpy" in failed
    code, out, _ = command("doctor")
    assert code == 1
    assert "FAIL" in out
    assert "ksched doctor --json" in out


@pytest.mark.parametrize("text", [None, "{", "[]", "{}"])
def test_a_record_that_is_damaged_fails_and_says_so(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None
) -> None:
    if text is not None:
        (tmp_path / "record.json").write_text(text)
    monkeypatch.setattr(self_check, "RECORD", tmp_path / "record.json")
    code, out, err = command("doctor")
    assert (code, err) == (1, "")
    assert "FAIL the recorded results" in out


def test_what_is_missing_comes_with_its_command(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    version = metadata.version

    def without(name: str) -> str:
        if name in ("transformers", "torch"):
            raise metadata.PackageNotFoundError(name)
        return "0.29.9" if name == "diffusers" else version(name)

    for name in ("transformers", "torch"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("importlib.metadata.version", without)
    code, out, err = command("doctor")
    assert (code, err) == (0, "")
    assert "missing: diffusers 0.30 or newer (here 0.29.9), transformers" in out
    assert 'get it: pip install "ksched[diffusers]"' in out
    assert "get it: pip install torch" in out
    assert "NumPy only" in out
    assert " on cpu" not in out
    facts = json.loads(command("doctor", "--json").out)
    assert facts["packages"]["torch"] is None
    assert not facts["extras"]["diffusers"]["installed"]


def test_a_torch_that_cannot_be_imported_is_told(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> tuple[None, str]:
        return None, "OSError: libtorch.so: cannot open shared object file"

    monkeypatch.setattr(doctor, "_torch", broken)
    code, out, _ = command("doctor")
    assert code == 0
    assert "torch cannot be imported: OSError: libtorch.so" in out
