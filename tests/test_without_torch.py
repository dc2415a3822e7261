"""The mathematics without torch: everything except runs on tensors works where torch cannot be imported.

Each test runs in a process in which importing torch fails, so the tests prove the same where torch is installed. The
session ``no_torch`` runs them, and other tests that need no tensor, in an environment without torch.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from ksched.kernels.torch_needed import torch_needed

BLOCKED = """
import importlib.abc, json, os, pickle, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import ksched
"""


def after(script: str) -> Any:
    """The JSON that a script prints in a process without torch."""
    done = subprocess.run([sys.executable, "-c", BLOCKED + script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_sampler_is_all_there_but_for_its_runs() -> None:
    described = after("""
from ksched.samplers.registry import samplers
described = []
for spec in samplers():
    for process in (ksched.VP(), ksched.Flow(3.0), ksched.EDM()):
        if not spec.runs_on(process):
            continue
        sampler = ksched.build_sampler(str(spec.name), steps=5, process=process)
        copy = pickle.loads(pickle.dumps(sampler))
        assert copy == sampler and hash(copy) == hash(sampler)
        assert len(sampler.sigmas) == sampler.steps + 1
        if not spec.adaptive:
            assert len(sampler.timesteps) == sampler.nfe == sampler.plan.nfe
            assert ksched.Plan.from_json(sampler.plan.to_json()) == sampler.plan
            sampler.order, str(sampler.plan), sampler.plan.digest
        described.append(repr(sampler))
steps = ksched.build_sampler("dpmpp_2m_sde", steps=4).transitions
assert [step.std > 0 for step in steps] == [True] * 3
dialled = ksched.build_sampler(
    "flow_sde", "simple", 6, process=ksched.Flow(3.0), noise_level=ksched.window(0.7, steps=[2, 3])
)
assert [step.step for step in dialled.transitions] == [2, 3]
assert isinstance(dialled.transitions[0], ksched.Transition)
assert dialled.transitions[0].mean and ksched.joint_runs.pyramid
assert "torch" not in sys.modules
assert ksched.build_sampler("auto", steps=6).nfe == 6 and ksched.build_sampler("heun", calls=9).nfe <= 9
print(json.dumps(described))
""")
    assert len(described) > 100
    assert len(set(described)) == len(described)


def test_the_rest_of_the_mathematics() -> None:
    noise = after("""
plan = ksched.build_sampler("dpmpp_2m_sde", "karras", 6).plan
assert ksched.analysis.table(plan).shape[0] == plan.nfe + 1
assert ksched.Plan is type(plan)
ksched.build_sampler(plan).sigmas
assert ksched.peers.__all__
sys.stdout, out = open(os.devnull, "w"), sys.stdout
print(ksched.explain("DPM++ 2M Karras"))
sys.stdout = out
for name in ksched.NoiseSchedule:
    ksched.calculate_sigmas(name, 5)
ksched.schedules.truncate([2.0, 1.0, 0.0], 1)
ksched.register_sampler("mine", lambda run, grid, x: [x := run.denoise(x, s) for s, t in grid.steps()][-1], order=1)
ksched.VP().add_noise(1.0, 0.5, 3.0)
assert "torch" not in sys.modules
print(json.dumps(ksched.noise.item_seeds(7, 2)))
""")
    assert noise == [7, 8]


RUNS = """
def denoise(x, sigma):
    return (0.1 + x / (1 + sigma**2), 0.5 * x) if both else 0.1 + x / (1 + sigma**2)

results = {}
for name in ("heun", "uni_pc", "dpmpp_3m_sde", "euler_cfg_pp"):
    sampler, both = ksched.build_sampler(name, "karras", 6), name == "euler_cfg_pp"
    x = ksched.arrays.initial_state(sampler, (2, 3), seed=3, dtype="float64")
    results[name] = ksched.arrays.run(sampler, denoise, x, seed=7).tolist()
    init, step, tables = ksched.arrays.scan(sampler)
    noise = ksched.arrays.noise(sampler, x.shape, seed=7)
    state = init(x, noise[0])
    for call in zip(tables, noise[1:]):
        state, _ = step(denoise, state, call)
    assert abs(state[0] - results[name]).max() < 1e-12 * 15
"""


def test_runs_on_arrays() -> None:
    results = after(f"{RUNS}\nprint(json.dumps(results))")
    if importlib.util.find_spec("torch") is None:
        return
    import torch

    import ksched

    for name, result in results.items():
        sampler = ksched.build_sampler(name, "karras", 6)

        def denoise(x: Any, sigma: Any) -> Any:
            denoised = 0.1 + x / (1 + sigma.reshape(-1, 1) ** 2)
            return denoised, 0.5 * x

        x = sampler.initial_state((2, 3), seed=3, dtype=torch.float64)
        assert np.abs(sampler.sample(denoise, x, seed=7).numpy() - np.array(result)).max() < 1e-12 * 15


def test_what_needs_torch_says_so_and_what_to_do() -> None:
    said = after("""
sampler, adaptive = ksched.build_sampler("dpmpp_2m_sde", steps=4), ksched.build_sampler("dpm_adaptive")
x = [[1.0]]
attempts = {
    "Sampler.initial_state": lambda: sampler.initial_state((1, 2), seed=1),
    "Sampler.start": lambda: sampler.start(x, seed=1),
    "Sampler.sample": lambda: sampler.sample(lambda x, sigma: x, x, seed=1),
    "Sampler.invert": lambda: sampler.invert(lambda x, sigma: x, x),
    "Sampler.live": lambda: adaptive.live(lambda x, sigma: x, x),
    "Sampler.matrices": lambda: sampler.matrices,
    "Sampler.parallel": lambda: sampler.parallel(lambda x, sigma: x, x, seed=1),
    "Sampler.rollout": lambda: sampler.rollout(lambda x, sigma: x, x, seed=1),
    "Sampler.log_prob": lambda: sampler.log_prob(lambda x, sigma: x, None),
    "Sampler.kl_divergence": lambda: sampler.kl_divergence(lambda x, sigma: x, lambda x, sigma: x, None),
}
for name in ("Denoiser", "Run", "AdaptiveRun", "StepInfo", "Trajectory", "Likelihood", "log_likelihood", "ModelReport",
             "check_model", "tune", "RoundInfo", "Streams", "Frames", "frames", "steer", "exact", "guidance",
             "batch", "networks"):
    attempts[f"ksched.{name}"] = lambda name=name: getattr(ksched, name)
def imports_a_public_module():
    import ksched.batch
attempts["ksched.batch "] = imports_a_public_module
said = {}
for name, attempt in attempts.items():
    try:
        attempt()
    except ImportError as error:
        said[name] = str(error)
    else:
        said[name] = "no error"
print(json.dumps(said))
""")
    for name, words in said.items():
        assert words == (
            f"{name.strip()} needs torch, which is not installed: pip install torch; without it, ksched.arrays.run "
            "runs plans on NumPy, JAX and other arrays"
        )


def test_another_module_that_is_missing_is_told_as_ever() -> None:
    with pytest.raises(ModuleNotFoundError, match="'absent_module'"), torch_needed("it"):
        importlib.import_module("absent_module")


def test_the_command_needs_no_torch_for_tables() -> None:
    pytest.importorskip("typer")
    printed = after("""
import contextlib, io
from ksched.cli import main
printed = []
for arguments in (["plan", "euler", "karras"], ["plan", "heun", "--format", "c"], ["sigmas", "karras"], ["list"],
                  ["doctor"]):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            main(arguments)
        except SystemExit as end:
            assert not end.code, arguments
    printed.append(out.getvalue())
from ksched.explorer import Selection, page_html
printed.append(page_html(Selection(schedules=("karras",), steps=(2,), few=())))
assert "torch" not in sys.modules
print(json.dumps(printed))
""")
    assert all(len(text) > 300 for text in printed)


def test_a_command_that_needs_torch_names_it_and_how_to_get_it() -> None:
    pytest.importorskip("typer")
    said = after("""
import contextlib, io
from ksched.cli import main
said = {}
for arguments in (["demo"], ["generate", "a seven"], ["compare", "a seven"], ["show", "x.png"],
                  ["tune", "--data", "x.npy", "--steps", "4"]):
    with contextlib.redirect_stderr(io.StringIO()) as words:
        try:
            main(arguments)
        except SystemExit as end:
            assert end.code == 1, arguments
    said[arguments[0]] = words.getvalue()
print(json.dumps(said))
""")
    assert said == {
        command: f"ksched: the command '{command}' needs torch, which is not installed: pip install torch. "
        "'ksched doctor' lists what else is missing.\n"
        for command in said
    }


def test_recipes_are_all_there() -> None:
    built = after("""
print(json.dumps([[float(t) for t in recipe.build().timesteps[:1]] for recipe in ksched.recipes.values()]))
""")
    assert len(built) >= 40
