"""Check that an installed ksched works: ``python tests/smoke.py EXTRA`` in an environment with one extra.

``no torch`` is numpy and scipy alone, ``torch`` the package without an extra; `nox -s smoke` runs all of them.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import metadata
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import ksched

CLONE = Path(__file__).resolve().parents[1]


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run([sys.executable, "-m", "ksched", *arguments], capture_output=True, text=True, check=False)


def expect(wanted: bool, what: str) -> None:
    """Say what holds, or stop."""
    if not wanted:
        raise SystemExit(f"not so: {what}")
    print(f"ok: {what}")


def always() -> None:
    """What needs neither torch nor an extra."""
    expect(Path(ksched.__file__).resolve().parent != CLONE / "ksched", "the package is the installed one")
    expect(metadata("ksched")["Version"] == ksched.__version__, "the version of the metadata is that of the package")
    expect(files("ksched").joinpath("py.typed").is_file(), "the package says that it has types")
    sampler = ksched.build_sampler("dpmpp_2m", "karras", 20)
    end = ksched.arrays.run(sampler.plan, lambda x, sigma: x / (1 + sigma**2), np.ones((2, 3)))
    expect(end.shape == (2, 3) and bool(np.isfinite(end).all()), "a plan runs on NumPy")
    expect("auto" in repr(ksched.build_sampler("auto", calls=8)), "the tables of auto are in the package")
    expect(len(ksched.recipes) > 50, "the recipes are in the package")


def no_torch() -> None:
    """What is said where torch is missing."""
    expect(find_spec("torch") is None, "torch is not installed")
    try:
        ksched.build_sampler("euler", "karras", 2).initial_state((1, 3), seed=0)
    except ImportError as error:
        expect("torch" in str(error), "what needs torch says so")
    else:
        expect(False, "what needs torch says so")


def with_torch() -> None:
    """Sampling on tensors, and which extra a missing package belongs to."""
    model = ksched.exact.digits()
    sampler = ksched.build_sampler("euler_ancestral", "karras", 4)
    end = sampler.sample(model, sampler.initial_state((2, 64), seed=0), seed=0)
    expect(bool(end.isfinite().all()), "a sampler runs on torch")
    uses: dict[tuple[str, str], Callable[[], str]] = {
        ("typer", "cli"): lambda: command("list").stderr,
        ("matplotlib", "plot"): lambda: said(lambda: ksched.plots),
        ("hypothesis", "testing"): lambda: said(lambda: ksched.testing.strategies),
        ("diffusers", "diffusers"): lambda: said(lambda: importlib.import_module("ksched.integrations.diffusers")),
    }
    for (module, extra), use in uses.items():
        if find_spec(module) is None:
            expect(f"ksched[{extra}]" in use(), f"without {module}, ksched names its extra {extra}")


def said(use: Callable[[], object]) -> str:
    """The message of the ImportError; empty if there is none."""
    try:
        use()
    except ImportError as error:
        return str(error)
    return ""


def cli() -> None:
    """The command."""
    for arguments in (("--version",), ("list",), ("plan", "dpmpp_2m", "karras", "--steps", "4")):
        expect(command(*arguments).returncode == 0, f"ksched {' '.join(arguments)}")


def plot() -> None:
    """Pictures."""
    with tempfile.TemporaryDirectory() as folder:
        (file,) = ksched.plots.save({Path(folder, "a.png"): ksched.plots.schedule_curves(["karras", "beta"], 10)})
        expect(file.stat().st_size > 1000, "a picture is drawn")


def diffusers() -> None:
    """The scheduler in a pipeline, on the checkpoint that comes along."""
    from diffusers import StableDiffusionPipeline

    from ksched.integrations.diffusers import KSchedScheduler

    pipe = StableDiffusionPipeline.from_pretrained(str(files("ksched") / "data" / "handwritten_digits"))
    pipe.scheduler = KSchedScheduler.from_config(pipe.scheduler.config, sampler="dpmpp_2m", schedule="karras")
    expect(pipe("a handwritten seven", num_inference_steps=2).images[0].size == (32, 32), "a pipeline draws")


def testing() -> None:
    """The checks for schedules of one's own."""
    ksched.testing.check_schedule(ksched.calculate_karras_sigmas)
    print("ok: a schedule is checked")


def everything() -> None:
    """All extras at once, and the command that needs them."""
    for part in (cli, plot, diffusers):
        part()
    with tempfile.TemporaryDirectory() as folder:
        seven = Path(folder, "seven.png")
        expect(
            command("generate", "a handwritten seven", "--steps", "2", "--out", str(seven)).returncode == 0, "generate"
        )
        expect(seven.is_file(), "the picture is there")


EXTRAS: dict[str, Callable[[], None]] = {
    "no torch": no_torch,
    "torch": lambda: None,
    "cli": cli,
    "plot": plot,
    "diffusers": diffusers,
    "testing": testing,
    "all": everything,
}

if __name__ == "__main__":
    (extra,) = sys.argv[1:]
    always()
    if extra != "no torch":
        with_torch()
    EXTRAS[extra]()
