"""How models of proteins, the weather and robots are sampled, against their algorithms written out in NumPy."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from cases import COORDINATES
from hypothesis import given
from hypothesis import strategies as st

import ksched
from ksched import EDM, VE, Flow, build_sampler
from ksched.plan.analysis import marginals, table
from ksched.testing import check_plan
from ksched.testing.strategies import sigma_curves

Array = np.ndarray[Any, Any]
#: AlphaFold 3's levels: 16 * (160^(1/7) + k / n * ((4e-4)^(1/7) - 160^(1/7)))^7, which do not end at 0
PROTEINS = EDM(sigma_min=16 * 4e-4, sigma_max=16 * 160.0, sigma_data=16.0)


def denoised(x: Array, sigma: float) -> Array:
    """A model that is not linear and knows its level; atoms that are masked are not seen."""
    return np.tanh(x / (1 + sigma)) + 0.3 * x / (1 + sigma**2)


def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    s = sigma.reshape(-1, *[1] * (x.ndim - 1))
    return torch.tanh(x / (1 + s)) + 0.3 * x / (1 + s**2)


def algorithm_18(x: Array, levels: list[float], normal: list[Array], setting: dict[str, float]) -> Array:
    """AlphaFold 3's, with the direction of the authors' program and without centring and augmentation."""
    draws = iter(normal)
    for before, after in pairwise(levels):
        gamma = setting["gamma_0"] if after > setting["gamma_min"] else 0.0
        hat = before * (gamma + 1)
        if gamma > 0:
            x = x + setting["noise_scale"] * math.sqrt(hat**2 - before**2) * next(draws)
        delta = (x - denoised(x, hat)) / hat
        x = x + setting["step_scale"] * (after - hat) * delta
    return x


def gencast(x: Array, levels: list[float], normal: list[Array], churn: dict[str, float]) -> Array:
    """DPM-Solver++ (2S) with churn, as GenCast's program has it."""
    draws = iter(normal)
    for before, after in pairwise(levels):
        inside = churn["s_tmin"] <= before <= churn["s_tmax"]
        rate = min(churn["s_churn"] / (len(levels) - 1), math.sqrt(2) - 1) if inside else 0.0
        hat = before * (1 + rate)
        if rate > 0:
            x = x + churn["s_noise"] * math.sqrt(hat**2 - before**2) * next(draws)
        middle, first = math.sqrt(hat * after), denoised(x, hat)
        second = first if after == 0 else denoised(middle / hat * x + (1 - middle / hat) * first, middle)
        x = after / hat * x + (1 - after / hat) * second
    return x


def run(name: str, levels: list[float], shape: tuple[int, ...], **options: float) -> tuple[Array, Array, list[Array]]:
    """The result of a run in float64, its start, and the noise that it took, in order."""
    rng = np.random.default_rng(5)
    x, taken = levels[0] * rng.standard_normal(shape), list[Array]()

    def noise(sigma_from: float, sigma_to: float) -> torch.Tensor:
        taken.append(rng.standard_normal(shape))
        return torch.from_numpy(taken[-1])

    sampler = build_sampler(name, sigmas=levels, process=PROTEINS, **options)
    return sampler.sample(model, torch.from_numpy(x), noise=noise).numpy(), x, taken


SETTINGS = {
    "alphafold3": {"gamma_0": 0.8, "gamma_min": 1.0, "noise_scale": 1.003, "step_scale": 1.5},
    "boltz1": {"gamma_0": 0.605, "gamma_min": 1.107, "noise_scale": 0.901, "step_scale": 1.638},
    "no noise": {"gamma_0": 0.0, "gamma_min": 1.0, "noise_scale": 1.003, "step_scale": 1.2},
    "far": {"gamma_0": 3.0, "gamma_min": 0.05, "noise_scale": 1.1, "step_scale": 0.7},
}


@pytest.mark.parametrize("to_zero", [False, True], ids=["alphafold3's end", "to sigma 0"])
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
def test_af3_is_algorithm_18(setting: dict[str, float], to_zero: bool) -> None:
    levels = build_sampler("af3", "karras", 20, process=PROTEINS).sigmas[:-1].tolist()
    levels += [0.0] * to_zero
    got, x, taken = run("af3", levels, (2, 7, 3), **setting)
    assert len(taken) == (0 if setting["gamma_0"] == 0 else sum(after > setting["gamma_min"] for after in levels[1:]))
    np.testing.assert_allclose(got, algorithm_18(x, levels, taken, setting), rtol=1e-12, atol=1e-12)


def test_sigma_is_raised_by_more_than_edm_allows() -> None:
    sigmas = [2560.0, 300.0, 40.0, 5.0, 1.0, 0.1, 0.0]
    plan = build_sampler("af3", sigmas=sigmas, process=PROTEINS).plan
    raised = [row.level.sigma / s for row, s in zip([row for row in plan.rows if row.level], sigmas, strict=False)]
    assert raised == pytest.approx([1.8, 1.8, 1.8, 1, 1, 1])  # the step from 5 ends at 1, not above it


@given(data=st.data())
def test_with_full_steps_and_unit_noise_af3_keeps_the_law(data: st.DataObject) -> None:
    """It is `euler` with its churn, where that is below 41 %, and without a limit above; on every process."""
    gamma = data.draw(st.floats(0.01, 3.0))
    for name, process in COORDINATES.items():
        sigmas = data.draw(sigma_curves(process), name)
        how = {"gamma_0": gamma, "gamma_min": 0.0, "noise_scale": 1.0, "step_scale": 1.0}
        plan = build_sampler("af3", sigmas=sigmas, process=process, **how).plan
        check_plan(plan)
        steps = len(sigmas) - 1
        if gamma < 0.41 and sigmas[-1] > 0:
            churned = build_sampler("euler", sigmas=sigmas, process=process, s_churn=gamma * steps).plan
            np.testing.assert_allclose(table(plan), table(churned), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("process", [VE(), Flow()], ids=repr)
def test_a_step_scale_keeps_the_mean_and_not_the_variance(process: ksched.Process) -> None:
    """For data of one point: so it is declared, and the check of the mean is what it must pass."""
    how = {"gamma_0": 0.0, "noise_scale": 1.0}
    plan = build_sampler("af3", "simple", 6, process=process, step_scale=1.5, **how).plan
    check_plan(plan, keeps_variance=False)
    states = [state for state in marginals(plan) if 0 < state.level.sigma < process.sigma_max]
    assert any(abs(state.variance / state.level.sigma**2 - 1) > 0.1 for state in states)


@pytest.mark.parametrize("churn", [2.5, 0.0, 90.0])
def test_dpmpp_2s_with_churn_is_gencasts(churn: float) -> None:
    setting = {"s_churn": churn, "s_tmin": 0.75, "s_tmax": 60.0, "s_noise": 1.05}
    levels = build_sampler("dpmpp_2s", "karras", 20, process=EDM(0.03, 80.0)).sigmas.tolist()
    got, x, taken = run("dpmpp_2s", levels, (2, 5, 4), **setting)
    assert bool(taken) is (churn > 0)
    np.testing.assert_allclose(got, gencast(x, levels, taken, setting), rtol=1e-12, atol=1e-12)


def test_fireflow_is_its_algorithm() -> None:
    """In flow's own time: a half step along the slope found in the step before, and a whole one along that there."""
    times = [1.0, 0.83, 0.6, 0.42, 0.2, 0.0]
    shape = (2, 3)
    x = np.random.default_rng(1).standard_normal(shape)
    state, velocity = x, x - denoised(x, 1.0)
    for t, after in pairwise(times):
        middle = (t + after) / 2
        half = state + (middle - t) * velocity
        velocity = (half - denoised(half, middle)) / middle
        state = state + (after - t) * velocity
    sampler = build_sampler("fireflow", sigmas=times, process=Flow())
    assert sampler.nfe == 6
    np.testing.assert_allclose(sampler.sample(model, torch.from_numpy(x)).numpy(), state, rtol=1e-12, atol=1e-12)
