"""The ComfyUI adapter inside ComfyUI. Set the environment variable KSCHED_COMFYUI to the path of a checkout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = os.environ.get("KSCHED_COMFYUI")
pytestmark = pytest.mark.skipif(not CHECKOUT, reason="KSCHED_COMFYUI is no path of a ComfyUI")


@pytest.fixture(scope="module")
def report() -> Any:
    script = Path(__file__).parent / "comfyui_checkout.py"
    done = subprocess.run([sys.executable, script, str(CHECKOUT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout[done.stdout.index("{") :])


def cells(table: Any, *where: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every number of nested tables, and where it is."""
    if not isinstance(table, dict):
        yield where, table
        return
    for name, part in table.items():
        yield from cells(part, *where, name)


#: what docs/comfyui.md says differs
DIFFERS = {
    ("kl_optimal", "V, zero terminal SNR"),  # ComfyUI's arctangents in float32
    ("uni_pc", "Flux"),  # its levels rise at the end
    ("uni_pc_bh2", "Flux"),
}
#: samplers whose rounding shows, in float32
ROUNDED = ("dpm_adaptive", "dpmpp_sde", "uni_pc", "uni_pc_bh2")


@pytest.mark.parametrize("table", ["levels", "samplers", "flipped", "masks", "menus"])
def test_numbers_are_those_of_comfyui(report: Any, table: str) -> None:
    found = dict(cells(report[table]))
    wrong = {where: value for where, value in found.items() if not (isinstance(value, float) and value < 1e-5)}
    assert not wrong.keys() - DIFFERS, wrong


@pytest.mark.parametrize("kind", ["EPS", "V", "flow", "Flux"])
def test_numbers_in_float32_are_those_of_comfyui(report: Any, kind: str) -> None:
    found = {name: row[kind] for name, row in report["in float32"].items() if name not in ROUNDED}
    wrong = {where: value for where, value in found.items() if not (isinstance(value, float) and value < 1e-5)}
    assert not wrong


def test_nodes_of_both_kinds_are_found_and_do_the_same(report: Any) -> None:
    nodes = report["nodes"]
    assert nodes["classes"] == nodes["schemas"] == report["ours"]
    assert nodes["apart"] == 0
    assert nodes["alone"] < 1e-5
    assert nodes["taken out"] < 1e-5


def test_previews_and_interruption_are_comfyui_s_own(report: Any) -> None:
    assert report["previews"] == {"pictures": report["steps"], "interrupted": True}
