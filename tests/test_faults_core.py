"""Known problems in the core, one test each, named after its row in the list of faults.

Row 1: a model knows its process. 2: the start of a run. 27: empty batches. 28 and 47: copies and pickles. 29: damaged
states. 56: levels and options that make no sense. 58: a method that does not converge.
"""

from __future__ import annotations

import copy
import math
import os
import pickle
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import ADAPTIVE, half

import ksched
from ksched import VP, Denoiser, Flow, build_sampler
from ksched.exact import Empirical, Gaussian, GaussianMixture
from ksched.execution.batch import Batch


@pytest.mark.parametrize("sigma", [14.6, torch.tensor([0.5, 14.6]), torch.tensor(14.6)], ids=["float", "each", "one"])
def test_row_1_a_sigma_that_the_process_of_a_denoiser_does_not_have(sigma: Any) -> None:
    """A run's own sigma says whose it is; one that was copied or typed can still be no level at all."""
    denoiser = Denoiser(lambda x, timestep: x, Flow(3.0), prediction="flow")
    with pytest.raises(ValueError, match=r"at most 1 for the denoiser's process .*; got 14\.6"):
        denoiser(torch.ones(2, 3), sigma)
    assert denoiser(torch.ones(2, 3), torch.ones(2)).shape == (2, 3)
    assert Denoiser(lambda x, timestep: x, VP())(torch.ones(2, 3), 14.6).shape == (2, 3)


def test_row_2_a_live_run_warns_of_its_start_too() -> None:
    sampler = build_sampler("dpmpp_2m", "karras", 4)
    x = torch.randn(2, 300, generator=torch.Generator().manual_seed(0))
    with pytest.warns(RuntimeWarning, match="the start of a run must be a state at sigma 14.6"):
        sampler.live(half, x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler.live(half, sampler.initial_state((2, 300), seed=0).mT.contiguous().mT)


@pytest.mark.parametrize("name", ["euler", "dpm_adaptive"])
def test_row_2_a_model_that_writes_to_its_input_is_told_that_alone(name: str) -> None:
    """Not also that the start, which it has set to 0, is too small."""
    sampler = build_sampler(name, "karras", 4)

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        answer = 0.9 * x
        x.zero_()
        return answer

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeError, match="must not modify x"):
            sampler.sample(model, sampler.initial_state((2, 300), seed=0))


EXACT = {
    "gaussian": Gaussian(np.zeros(2), np.eye(2)),
    "mixture": GaussianMixture([0.5, 0.5], [[0.0, 0.0], [1.0, 1.0]], [1.0, 1.0]),
    "points": Empirical([[1.0, 2.0], [3.0, 4.0]]),
}


@pytest.mark.parametrize("name", EXACT)
def test_row_27_exact_denoisers_of_no_items(name: str) -> None:
    model, none = EXACT[name], torch.empty(0, 2, dtype=torch.float64)
    assert model(none, torch.empty(0)).shape == (0, 2)
    assert model.log_density(none, 2.0).shape == (0,)
    assert model.responsibilities(none, 2.0).shape[0] == 0
    assert model.solve(none, [3.0, 1.0]).shape == (2, 0, 2)


def test_row_27_the_model_is_not_checked_on_no_items() -> None:
    with pytest.raises(ValueError, match=r"data must hold at least one item and number; got shape \(0, 4\)"):
        ksched.check_model(lambda x, t: x, VP(), prediction="epsilon", data=torch.empty(0, 4))


def test_row_27_guidance_of_no_items() -> None:
    guided = ksched.guidance.rescale(half, None, 3.0, VP(), "epsilon")
    sampler = build_sampler("euler", "karras", 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for shape in ((0, 3), (2, 0)):
            assert sampler.sample(guided, sampler.initial_state(shape, seed=0)).shape == shape


@pytest.mark.parametrize("name", ["euler_ancestral", "seeds_2"])
def test_row_28_noise_that_cannot_be_pickled_names_the_state(name: str) -> None:
    sampler = build_sampler(name, "karras", 4)
    run = sampler.start(sampler.initial_state((1, 3), seed=0), noise=lambda sigma, sigma_next: torch.ones(1, 3))
    run.feed(run.x / 2)
    with pytest.raises(TypeError, match=r"cannot be pickled: save the run's state_dict\(\)"):
        pickle.dumps(run)
    twin = copy.deepcopy(run)  # the function is shared, as functions are
    while not run.done:
        for each in (run, twin):
            each.feed(each.x / 2)
    assert torch.equal(run.x, twin.x)


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickle.dumps])
def test_row_47_a_batch_is_not_copied(way: Callable[[Batch], object]) -> None:
    with pytest.raises(TypeError, match=r"a batch cannot be copied or pickled: save the state_dict\(\) of each run"):
        way(Batch())


@pytest.mark.parametrize("name", [spec.name for spec in ADAPTIVE])
@pytest.mark.parametrize("change", [{"version": True}, {"calls": 99}, {"calls": -1}, {"answers": 3}])
def test_row_29_a_damaged_state_of_an_adaptive_run(name: str, change: dict[str, Any]) -> None:
    sampler = build_sampler(name, "karras", 4)
    run = sampler.start(sampler.initial_state((1, 64), seed=0))
    for _ in range(3):
        run.feed(run.x / 2)
    state, before = run.state_dict(), run.x.clone()
    with pytest.raises(ValueError, match="state"):
        run.load_state_dict({**state, **change})
    assert torch.equal(run.x, before)
    run.load_state_dict(state)


STOCHASTIC = ["dpmpp_2m_sde", "er_sde", "seeds_2", "sa_solver", "euler", "heun", "uni_pc", "lcm", "rk4"]


@pytest.mark.parametrize("name", STOCHASTIC)
def test_row_56_a_start_below_the_second_level_is_refused(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"start_after must keep the start above the second level, 0\.954545; got 0\.5"
    ):
        build_sampler(name, "simple", 8, process=Flow(3.0), start_after=0.5)
    assert build_sampler(name, "simple", 8, process=Flow(3.0), start_after=0.01).plan.levels[0].label < 1


@pytest.mark.parametrize("name", ["dpm_fast", "euler", "dpmpp_2m", "heun", "lms", "uni_pc", "dpm_adaptive"])
def test_row_56_a_run_of_no_step(name: str) -> None:
    x = torch.ones(1, 3)
    for sigmas in ([0.0], [2.0]):
        assert torch.equal(build_sampler(name, sigmas=sigmas).sample(half, x), x)


@pytest.mark.parametrize("name", [spec.name for spec in ADAPTIVE])
@pytest.mark.parametrize("option", ["pcoeff", "icoeff", "dcoeff", "accept_safety"])
def test_row_56_coefficients_out_of_sense(name: str, option: str) -> None:
    with pytest.raises(ValueError, match=f"{option} must be at least 0 and at most"):
        build_sampler(name, "karras", 4, **{option: 1e6})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["dpm_adaptive", "euler", "dpmpp_2m", "uni_pc"])
def test_row_56_levels_that_a_state_cannot_hold(name: str) -> None:
    sampler = build_sampler(name, sigmas=[1e50, 1.0, 0.0])
    with pytest.raises(ValueError, match=r"sigmas must be numbers that the state's dtype can hold; got 1e\+50"):
        sampler.sample(half, torch.ones(1, 3))


@pytest.mark.parametrize("sigmas", [[1e300, 1.0, 0.0], [2.0, 1e-300, 0.0], [1e-320, 0.0]])
@pytest.mark.parametrize("process", [VP(), VP(variance_preserving=True), ksched.VE(0.01, 50.0)], ids=repr)
def test_row_56_levels_whose_powers_are_no_numbers(process: ksched.Process, sigmas: list[float]) -> None:
    with pytest.raises(ValueError, match="sigmas must be 0 or between 1e-60 and 1e"):
        build_sampler("dpmpp_2s_ancestral_cfg_pp", sigmas=sigmas, process=process)


def test_row_58_a_method_whose_last_change_stays() -> None:
    """With the unconditional prediction equal to the other, it ends off the exact end however many steps it takes."""
    model = Gaussian(np.zeros(1), [[0.25]])

    def both(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        answer = model(x, sigma)
        return answer, answer

    def off(**options: Any) -> float:
        sampler = build_sampler("cfgpp_ud10_ab", "karras", 400, **options)
        x = torch.full((1, 1), 14.0, dtype=torch.float64)
        exact = float(model.solve(x, [float(sampler.sigmas[0]), 0.0])[-1])
        return abs(float(sampler.sample(both, x)) / exact - 1)

    assert 0.03 < off() < 0.08
    assert off(uncond_history=0.0) < 0.002
    assert "does not\n    converge" in (build_sampler("cfgpp_ud10_ab").spec.function.__doc__ or "")
    assert math.isfinite(off(history=0.0))


@pytest.mark.parametrize(
    ("schedule", "options", "said"),
    [
        ("laplace", {"mu": 1e30}, "must have falling"),
        ("laplace", {"mu": -1e30}, "must have falling"),
        ("linear_quadratic", {"threshold_noise": 0.999999999}, "rise|below 0"),
        ("linear_quadratic", {"threshold_noise": 0.895}, "rise|below 0"),
        ("ltxv", {"base_shift": -1e30}, "levels that|shift"),
        ("ltxv", {"max_shift": 1e30}, "levels that|shift"),
    ],
)
@pytest.mark.parametrize("steps", [7, 29])
def test_row_56_options_of_a_schedule_out_of_sense(
    schedule: str, options: dict[str, Any], said: str, steps: int
) -> None:
    """Levels that are none are not returned, and the message names the option."""
    for process in (VP(), Flow(3.0)):
        try:
            levels = ksched.calculate_sigmas(schedule, steps, process, **options)
        except ValueError as error:
            message = str(error)
        else:
            assert (np.diff(levels) < 0).all()
            assert np.isfinite(levels).all()
            continue
        assert re.search(said, message)
        assert next(iter(options)) in message


def test_rows_44_to_46_the_processor_runs_torchs_operations_alone() -> None:
    """No code of ours writes to raw memory, starts threads of its own, or must be compiled first."""
    script = """
import sys, torch, ksched
sampler = ksched.build_sampler("dpmpp_2m_sde", "karras", 3)
sampler.sample(lambda x, sigma: x / 2, sampler.initial_state((1, 2_000_000), seed=0), seed=1)
import threading
assert not {"numba", "llvmlite", "cffi", "triton"} & sys.modules.keys()
assert threading.active_count() == 1
"""
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    sources = [path.read_text(encoding="utf-8") for path in Path(ksched.__file__).parent.rglob("*.py")]
    assert not [text for text in sources if re.search(r"^\s*(import|from) (numba|ctypes|cffi)", text, re.MULTILINE)]


def test_row_37_a_grid_has_a_level_between_two() -> None:
    """What a method of two stages needs, from pure noise too; the page on samplers of one's own has it in full."""
    grid = build_sampler("euler", "simple", 4, process=Flow(3.0)).grid
    s, t = grid.levels[1:3]
    between = grid.at((s.lam + t.lam) / 2)
    assert t.label < between.label < s.label
    assert math.isinf(grid.levels[0].lam)
    assert grid.levels[0].alpha == 0
