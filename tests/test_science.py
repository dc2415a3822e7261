"""Samplers for models of proteins, the weather and robots, against their algorithms written out in NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable
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
from ksched.plan.analysis import marginals, measured_order, table
from ksched.plan.plan import Plan
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


def run(name: str, levels: list[float], shape: tuple[int, ...], **options: Any) -> tuple[Array, Array, list[Array]]:
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
    told = [row.level.sigma for row in plan.rows if row.level]
    raised = [hat / sigma for hat, sigma in zip(told, sigmas, strict=False)]
    assert raised == pytest.approx([1.8, 1.8, 1.8, 1, 1, 1])  # the step from 5 ends at 1, not above it


@pytest.mark.parametrize("name", ["euler", "heun", "heunpp2", "dpm_2", "dpmpp_2s"])
def test_churn_is_capped_unless_told_not_to(name: str) -> None:
    def raised(**how: Any) -> list[float]:
        sampler = build_sampler(name, "karras", 8, process=PROTEINS, s_churn=8 * 0.8, **how)
        check_plan(sampler.plan)
        return [draw.sigma_to / draw.sigma_from for draw in sampler.plan.draws]

    assert raised() == pytest.approx([math.sqrt(2)] * 8)
    assert raised(capped=False) == pytest.approx([1.8] * 8)


@given(data=st.data())
def test_with_full_steps_and_unit_noise_af3_keeps_the_law(data: st.DataObject) -> None:
    """It is `euler` with churn that is not capped at 41 %; on every process."""
    gamma = data.draw(st.floats(0.01, 3.0))
    for name, process in COORDINATES.items():
        sigmas = data.draw(sigma_curves(process), name)
        how: dict[str, Any] = {"gamma_0": gamma, "gamma_min": 0.0, "noise_scale": 1.0, "step_scale": 1.0}
        plan = build_sampler("af3", sigmas=sigmas, process=process, **how).plan
        check_plan(plan)
        steps = len(sigmas) - 1
        if sigmas[-1] > 0:
            churned = build_sampler("euler", sigmas=sigmas, process=process, s_churn=gamma * steps, capped=False).plan
            np.testing.assert_allclose(table(plan), table(churned), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("process", [VE(), Flow()], ids=repr)
def test_a_step_scale_keeps_the_mean_and_not_the_variance(process: ksched.Process) -> None:
    """For one-point data. The sampler declares it, and must then pass the check of the mean."""
    how: dict[str, Any] = {"gamma_0": 0.0, "noise_scale": 1.0}
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


def rkg2(x: Array, h: float, expanded: Callable[[float], Array], stages: int, published: bool) -> Array:
    """A step of RKG2 (Skaras et al. 2021) with a given slope in place of calls, stage by stage as STORK-2's program."""
    b = [1.0, 1 / 3] + [4 * (j - 1) * (j + 4) / (3 * j * (j + 1) * (j + 2) * (j + 3)) for j in range(2, stages + 1)]
    width = 6 / ((stages + 4) * (stages - 1))
    # a stage's own time is what its recursion makes of a slope of 1; the program has the times of another method
    own, told = [0.0, width], [0.0, 4 / 3 / (stages**2 + stages - 2)]
    states: list[Array] = [x, x + width * h * expanded(0.0)]
    for j in range(2, stages + 1):
        mu, nu = (2 * j + 1) / j * b[j] / b[j - 1], -(j + 1) / j * b[j] / b[j - 2]
        of_start = -mu * width * (1 - j * (j + 1) / 2 * b[j - 1])
        time = (told if published else own)[j - 1]
        change = mu * width * expanded(time * h) + of_start * expanded(0.0)
        states.append(mu * states[j - 1] + nu * states[j - 2] + (1 - mu - nu) * x + h * change)
        own.append(mu * own[j - 1] + nu * own[j - 2] + mu * width + of_start)
        told.append((j**2 + j - 2) / (stages**2 + stages - 2))
    return states[-1]


@pytest.mark.parametrize("published", [False, True], ids=["exact", "published"])
@pytest.mark.parametrize("stages", [2, 9, 50])
@pytest.mark.parametrize("order", [2, 3])
def test_stork_is_its_algorithm(order: int, stages: int, published: bool) -> None:
    """A first step in halves, then steps of RKG2 on the polynomial through the last slopes, in flow's own time."""
    times = [1.0, 0.83, 0.6, 0.42, 0.2, 0.0]
    x = np.random.default_rng(1).standard_normal((2, 3))

    def slope(state: Array, t: float) -> Array:
        return (state - denoised(state, t)) / t

    slopes, half, state = [slope(x, 1.0)], (times[1] - 1) / 2, x
    state = state + half * slopes[0]
    state = state + half * (1.5 * slope(state, 1 + half) - 0.5 * slopes[0])
    for k in range(1, len(times) - 1):
        slopes.append(slope(state, times[k]))
        known = np.array(times[max(0, k + 1 - order) : k + 1]) - times[k]
        powers = np.linalg.solve(np.vander(known), np.array(slopes[-order:]).reshape(len(known), -1))
        h = times[k + 1] - times[k]
        if len(known) < order:
            state = state + h * slopes[-1] + h**2 / 2 * powers[0].reshape(x.shape)
        else:

            def expanded(u: float, powers: Array = powers) -> Array:
                return np.asarray(np.polyval(powers, u).reshape(x.shape))

            state = rkg2(state, h, expanded, stages, published)
    how: dict[str, Any] = {"order": order, "stages": stages, "abscissae": "published" if published else "exact"}
    sampler = build_sampler("stork", sigmas=times, process=Flow(), **how)
    assert sampler.nfe == 6
    np.testing.assert_allclose(sampler.sample(model, torch.from_numpy(x)).numpy(), state, rtol=1e-11, atol=1e-11)


def test_stork_is_second_order_with_exact_abscissae_alone() -> None:
    def order(**how: Any) -> float:
        def build(sigmas: Array) -> Plan:
            return build_sampler("stork", sigmas=sigmas, process=Flow(), **how).plan

        return measured_order(build, Flow(), steps=(61, 121))

    for stages in (2, 9, 50):
        assert order(stages=stages) > 1.85
    assert order(stages=2, abscissae="published") < 1.2


# ------------------------------------------------------------------------------------------- states that are no images
def test_padding_of_a_point_cloud_changes_nothing() -> None:
    """Clouds of different size in one batch, (batch, atoms, 3) with a mask that the network is given."""
    sizes, atoms = (5, 8), 8
    mask = torch.arange(atoms)[None, :] < torch.tensor(sizes)[:, None]
    rng = np.random.default_rng(3)
    start = torch.from_numpy(2560 * rng.standard_normal((2, atoms, 3)))
    normal: dict[tuple[float, float], torch.Tensor] = {}

    def noise(sigma_from: float, sigma_to: float) -> torch.Tensor:
        return normal.setdefault((sigma_from, sigma_to), torch.from_numpy(rng.standard_normal((2, atoms, 3))))

    def network(shown: torch.Tensor, timestep: torch.Tensor, *, mask: torch.Tensor) -> torch.Tensor:
        seen = mask[..., None]
        centre = (shown * seen).sum(1, keepdim=True) / seen.sum(1, keepdim=True)
        return torch.tanh(shown - centre) * timestep[:, None, None]

    sampler = build_sampler("af3", "karras", 12, process=PROTEINS)
    denoiser = ksched.Denoiser(network, PROTEINS, "edm")
    together = sampler.sample(denoiser.given(mask=mask), start, noise=noise)
    for k, size in enumerate(sizes):

        def own(sigma_from: float, sigma_to: float, k: int = k, size: int = size) -> torch.Tensor:
            return normal[sigma_from, sigma_to][k : k + 1, :size]

        alone = sampler.sample(denoiser.given(mask=mask[k : k + 1, :size]), start[k : k + 1, :size], noise=own)
        torch.testing.assert_close(together[k : k + 1, :size], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("to_data", [True, False], ids=["as GR00T", "as pi0"])
def test_actions_are_the_loop_of_the_policies(to_data: bool) -> None:
    """(batch, time, dim): ``x += dt * network(x, t)``, with time in either direction."""
    steps, rng = 10, np.random.default_rng(2)
    x = start = torch.from_numpy(rng.standard_normal((3, 16, 7)))

    def network(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x.cumsum(1)) * (0.5 + t[:, None, None])

    for k in range(steps):
        t = k / steps if to_data else 1 - k / steps
        v = network(x, torch.full((3,), t, dtype=torch.float64))
        x = x + (1 if to_data else -1) / steps * v
    process = Flow(reverse_time=True) if to_data else Flow(timestep_scale=1.0)
    denoiser = ksched.Denoiser(network, process, "velocity_to_data" if to_data else "flow")
    sampler = build_sampler("euler", "simple", steps, process=process)
    torch.testing.assert_close(sampler.sample(denoiser, start), x, rtol=1e-12, atol=1e-12)


def test_rows_of_a_table_do_not_see_each_other() -> None:
    """Shape (batch, features), with seeds: a row gets its solo result, and the distribution is that of the data."""
    process = EDM(sigma_data=1.0)
    truth = ksched.exact.Gaussian([1.0, -2.0, 0.5], [[1.0, 0.8, 0.0], [0.8, 1.0, 0.0], [0.0, 0.0, 0.04]], process)
    sampler = build_sampler("dpmpp_2s", "karras", 24, process=process, s_churn=4.0)
    x = sampler.initial_state((4000, 3), seed=0, dtype=torch.float64)
    rows = sampler.sample(truth, x, seed=list(range(4000)))
    torch.testing.assert_close(sampler.sample(truth, x[7:8], seed=[7]), rows[7:8], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(rows.mean(0), torch.tensor([1.0, -2.0, 0.5]).double(), rtol=0, atol=0.05)
    want = torch.tensor([[1.0, 0.8, 0.0], [0.8, 1.0, 0.0], [0.0, 0.0, 0.04]]).double()
    torch.testing.assert_close(torch.cov(rows.T), want, rtol=0, atol=0.06)
