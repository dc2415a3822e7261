"""Flow models whose noise variance is not 1: states ``(1 - sigma) * x0 + sigma * noise_scale * eps``."""

from __future__ import annotations

import copy
import pickle
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from cases import ADAPTIVE, NAMES, SPECS, corners, gaussian_denoiser, paired
from representatives import each, short

from ksched import VE, VP, Denoiser, Dialect, Flow, Plan, Process, build_sampler, log_likelihood, tune
from ksched.exact.mixture import Gaussian, GaussianMixture
from ksched.execution.loop import run_plan
from ksched.plan.analysis import gaussian_error, gaussian_law, table
from ksched.processes import Level
from ksched.sampler import Sampler
from ksched.samplers.spec import SamplerSpec
from ksched.testing.samplers import check_plan

PLAIN, WIDE = Flow(3.0), Flow(3.0, noise_scale=8.0)


def scaled(plan: Plan, factor: float) -> np.ndarray[Any, Any]:
    """The table of a plan with its noises multiplied."""
    whole = table(plan)
    whole[:, 1 + 2 * plan.nfe :] *= factor
    return whole


def test_what_a_state_is() -> None:
    assert WIDE.noise_scale == 8
    assert PLAIN.noise_scale == VP().noise_scale == VE().noise_scale == 1
    assert WIDE.alpha(0.25) == 0.75
    assert WIDE.noise_std(0.25) == 2.0
    assert WIDE.add_noise(torch.ones(1, 2), torch.ones(1, 2), 0.25).tolist() == [[2.75, 2.75]]
    assert WIDE.add_noise(torch.ones(2, 1), torch.ones(2, 1), [0.25, 0.5]).tolist() == [[2.75], [4.5]]
    np.testing.assert_array_equal(WIDE.sigmas, PLAIN.sigmas)  # the contract sigma is what it was
    assert WIDE.level(0.25) == PLAIN.level(0.25) == Level(0.25, 0.75, 0.25, PLAIN.level(0.25).lam)
    assert WIDE.timestep(0.25) == 250
    assert Flow.of_mu(1.0, noise_scale=2.0).noise_scale == 2


def test_it_is_part_of_what_a_process_is() -> None:
    same = Flow(3.0, noise_scale=8)
    assert WIDE != PLAIN
    assert (same, hash(same)) == (WIDE, hash(WIDE))
    assert repr(WIDE).endswith(", noise_scale=8.0)")
    assert "noise_scale" not in repr(PLAIN)
    assert eval(repr(WIDE)) == WIDE
    assert eval(repr(PLAIN)) == PLAIN
    assert pickle.loads(pickle.dumps(WIDE)) == WIDE == copy.deepcopy(WIDE)
    for wrong in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="noise_scale must be a positive number"):
            Flow(noise_scale=wrong)
    with pytest.raises(TypeError):
        Flow(3.0, 1000, 1000.0, 8.0)  # type: ignore[call-arg]


@each("spec", SPECS)
def test_row_5_every_draw_is_multiplied_and_nothing_else_changes(spec: SamplerSpec) -> None:
    for options in corners(spec):
        plain, wide = (build_sampler(spec.name, "karras", 5, process=p, **options).plan for p in (PLAIN, WIDE))
        assert plain.draws == wide.draws
        # to the bit, as 8 is a power of 2
        np.testing.assert_array_equal(table(wide), scaled(plain, 8.0), err_msg=str(options))
        check_plan(wide, keeps_variance=spec.keeps_variance)


@each("dialect", Dialect)
def test_in_every_dialect(dialect: Dialect) -> None:
    for name in NAMES:
        plain, wide = (build_sampler(name, "simple", 4, process=p, dialect=dialect).plan for p in (PLAIN, WIDE))
        np.testing.assert_array_equal(table(wide), scaled(plain, 8.0), err_msg=name)


NOISY = [spec for spec in SPECS if build_sampler(spec.name, "simple", 4, process=PLAIN).plan.draws]


@short(lambda scale: scale == 7.5)
@pytest.mark.parametrize("scale", [2.0, 7.5, 8.0])
@pytest.mark.parametrize("spec", NOISY, ids=lambda spec: spec.name)
def test_row_5_the_law_of_the_results_is_that_of_data_over_the_scale(spec: SamplerSpec, scale: float) -> None:
    for steps in (6, 40):
        wide, plain = (
            build_sampler(spec.name, "simple", steps, process=p).plan for p in (Flow(3.0, noise_scale=scale), PLAIN)
        )
        mean, variance = gaussian_law(wide, mean=0.3, std=0.5)
        expected = gaussian_law(plain, mean=0.3 / scale, std=0.5 / scale)
        assert mean == pytest.approx(expected.mean * scale, abs=1e-12)
        assert variance**0.5 == pytest.approx(expected.variance**0.5 * scale, rel=1e-9)


def test_the_end_of_euler_ancestral_by_hand() -> None:
    sigmas, variance, std = build_sampler("euler_ancestral", "simple", 60, process=PLAIN).sigmas, 64.0, 0.5
    for s, t in pairwise(sigmas):
        gain = (1 - s) * std**2 / ((1 - s) ** 2 * std**2 + (8 * s) ** 2)  # the exact prediction is gain * x
        if t == 0:
            variance *= gain**2
            break
        # in units of sigma / alpha, as for variance-exploding states: k-diffusion's rule
        up = min(t / (1 - t), (t / (1 - t)) * np.sqrt(1 - (t / (1 - t) / (s / (1 - s))) ** 2)) if s < 1 else t / (1 - t)
        down = np.sqrt((t / (1 - t)) ** 2 - up**2) * (1 - t)
        kept = down / s
        variance = (kept + ((1 - t) - kept * (1 - s)) * gain) ** 2 * variance + (8 * up * (1 - t)) ** 2
    plan = build_sampler("euler_ancestral", "simple", 60, process=WIDE).plan
    assert gaussian_law(plan, std=std).variance ** 0.5 == pytest.approx(variance**0.5, rel=1e-9)
    assert variance**0.5 == pytest.approx(0.33, abs=0.005)
    x = WIDE.noise_std(1.0) * torch.randn((2, 10000), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sampler = build_sampler("euler_ancestral", "simple", 60, process=WIDE)
    assert float(sampler.sample(gaussian_denoiser(WIDE, 0.0, std), x, seed=3).std()) == pytest.approx(0.33, abs=0.01)


def test_exact_models_and_their_errors() -> None:
    model = Gaussian(0.4, 0.25, process=WIDE)
    x = torch.tensor([[3.0], [-5.0]], dtype=torch.float64)
    expected = gaussian_denoiser(WIDE, 0.4, 0.5)(x, torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(model(x, 0.5), expected)
    plan = build_sampler("heun", "beta", 400, process=WIDE).plan
    assert gaussian_error(plan, 0.4, 0.5) < 1e-3
    torch.testing.assert_close(run_plan(plan, model, x), model.solve(x, [1.0, 0.0])[-1], rtol=0, atol=1e-3)


@pytest.mark.parametrize("scale", [8.0, 7.5])
@pytest.mark.parametrize("name", ["dpmpp_2m_sde", "euler_ancestral", "seeds_3", "restart"])
def test_a_plan_keeps_it(name: str, scale: float) -> None:
    process = Flow(3.0, noise_scale=scale)
    plan = build_sampler(name, "simple", 4, process=process).plan
    read = Plan.from_json(plan.to_json())
    assert read == plan
    assert read.digest == plan.digest
    assert read.noise_scale == scale
    check_plan(read)
    again = build_sampler(read, process=process)
    assert again.plan == plan
    x = torch.full((2, 3), 2.0, dtype=torch.float64)
    model = paired(gaussian_denoiser(process))
    result = build_sampler(name, "simple", 4, process=process).sample(model, x, seed=5)
    assert torch.equal(again.sample(model, x, seed=5), result)
    torch.testing.assert_close(again.live(model, x, seed=5), result, rtol=0, atol=1e-12)


def test_a_plan_on_a_process_of_another_scale() -> None:
    for made, run in ((PLAIN, WIDE), (WIDE, PLAIN), (Flow(noise_scale=2.0), Flow(noise_scale=7.5))):
        plan = build_sampler("dpmpp_sde", "simple", 4, process=made).plan
        moved = build_sampler(plan, process=run).plan
        assert moved.noise_scale == run.noise_scale
        np.testing.assert_allclose(
            table(moved), scaled(plan, run.noise_scale / made.noise_scale), rtol=1e-14, atol=1e-14
        )
        check_plan(moved)


def test_a_plan_of_no_scale_is_written_as_before() -> None:
    plan = build_sampler("euler_ancestral", "simple", 4, process=PLAIN).plan
    assert plan.noise_scale == 1
    assert "noise_scale" not in plan.to_json()
    text = build_sampler("euler", "simple", 4, process=WIDE).plan.to_json()
    for wrong in ("0.0", "-1.0", '"Infinity"', "[]"):
        with pytest.raises(ValueError, match=r"noise_scale must be a positive number|not a ksched plan"):
            Plan.from_json(text.replace('"noise_scale": 8.0', f'"noise_scale": {wrong}'))


def test_deterministic_plans_are_equal_whatever_the_scale() -> None:
    for name in ("euler", "dpmpp_2m", "heun"):
        plain, wide = (build_sampler(name, "simple", 4, process=p).plan for p in (PLAIN, WIDE))
        assert plain == wide
        assert plain.digest == wide.digest
        assert gaussian_error(wide, std=0.5) == pytest.approx(8 * gaussian_error(plain, mean=1 / 8, std=0.5 / 8))


@pytest.mark.parametrize("kind", ["seeded", "brownian"])
def test_live_is_the_plan(kind: Any) -> None:
    x = torch.full((2, 3), 2.0, dtype=torch.float64)
    for spec in NOISY:
        sampler, model = build_sampler(spec.name, "simple", 4, process=WIDE), paired(gaussian_denoiser(WIDE))
        noise = None if kind == "seeded" else kind
        live = sampler.live(model, x, seed=5, noise=noise)
        torch.testing.assert_close(live, sampler.sample(model, x, seed=5, noise=noise))


@pytest.mark.parametrize("spec", [s for s in ADAPTIVE if "eta" in s.own_options], ids=lambda spec: spec.name)
def test_an_adaptive_run_is_that_of_data_over_the_scale(spec: SamplerSpec) -> None:
    options: dict[str, Any] = {"eta": 1.0, "rtol": 0.05}
    wide: Sampler = build_sampler(spec.name, sigmas=[0.9, 0.02], process=WIDE, atol=0.08, **options)
    plain = build_sampler(spec.name, sigmas=[0.9, 0.02], process=PLAIN, atol=0.01, **options)
    x = torch.linspace(-4, 4, 6, dtype=torch.float64).reshape(2, 3)
    result = wide.sample(gaussian_denoiser(WIDE, 0.4, 0.8), x, seed=3)
    expected = plain.sample(gaussian_denoiser(PLAIN, 0.05, 0.1), x / 8, seed=3)
    torch.testing.assert_close(result, expected * 8)


@pytest.mark.parametrize("process", [PLAIN, WIDE], ids=["plain", "wide"])
def test_auto_sees_the_data_over_the_scale(process: Process) -> None:
    for steps in (4, 8, 30):
        auto = build_sampler("auto", steps=steps, process=process, data_std=0.8 * process.noise_scale)
        np.testing.assert_allclose(auto.sigmas, build_sampler("auto", steps=steps, process=PLAIN, data_std=0.8).sigmas)


@pytest.mark.parametrize("prediction", ["flow", "sample"])
def test_a_network_predicts_the_noise_as_it_was_added(prediction: Any) -> None:
    """A velocity is dx / dsigma of a path, whose noise has the scale."""
    model = Gaussian(0.4, 0.25, process=WIDE)

    def network(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        sigma = timestep / 1000
        x0 = model(x, sigma)
        return x0 if prediction == "sample" else (x - x0) / sigma[:, None]

    denoiser = Denoiser(network, WIDE, prediction)
    x = torch.tensor([[3.0], [-5.0]], dtype=torch.float64)
    torch.testing.assert_close(denoiser(x, 0.5), model(x, 0.5))
    assert denoiser.conversions([0.5]) == Denoiser(network, PLAIN, prediction).conversions([0.5])
    sampler = build_sampler("dpmpp_2m_sde", "simple", 6, process=WIDE)
    torch.testing.assert_close(sampler.sample(denoiser, x, seed=1), sampler.sample(model, x, seed=1))


def test_the_density_of_a_mixture() -> None:
    model = GaussianMixture([0.6, 0.4], [[1.0], [-0.7]], [[0.2], [0.3]], process=WIDE)
    x = torch.linspace(-1.5, 1.8, 5, dtype=torch.float64)[:, None]
    found = log_likelihood(model, x, WIDE, sigma_min=0.01, sigma_max=1.0, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found.value, model.log_density(x, 0.01), rtol=0, atol=1e-5)


def test_tune_takes_data_and_noise_in_one_unit() -> None:
    samples = np.random.default_rng(1).normal(0.2, 0.5, (200, 4))
    wide = tune(samples * 8, steps=4, process=WIDE, level=0)
    plain = tune(samples, steps=4, process=PLAIN, level=0)
    assert wide == plain
    assert wide.noise_scale == 8
