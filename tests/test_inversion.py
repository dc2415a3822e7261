"""Inversion: from an image back to the noise that a deterministic sampler makes it of."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import COORDINATES, SPECS, can_be_silent, gaussian_denoiser, no_noise, paired

import ksched
from ksched import VP, Flow, Process, build_sampler
from ksched.exact import Gaussian, GaussianMixture
from ksched.registry import SamplerSpec

SILENT = [spec for spec in SPECS if can_be_silent(spec)]


@pytest.mark.parametrize("process", COORDINATES.values(), ids=COORDINATES)
@pytest.mark.parametrize("spec", SILENT, ids=lambda s: s.name)
def test_the_round_trip_is_exact_on_linear_models(spec: SamplerSpec, process: Process) -> None:
    model = paired(gaussian_denoiser(process))
    x = torch.linspace(-1.5, 1.7, 12, dtype=torch.float64).reshape(2, 6)
    for steps in (3, 9):  # a single step from pure noise forgets where it began
        sampler = build_sampler(spec.name, "karras", steps, process=process, **no_noise(spec))
        start = sampler.invert(model, x)
        torch.testing.assert_close(sampler.sample(model, start), x, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "heun", "uni_pc"])
def test_the_round_trip_is_exact_with_any_covariance(name: str) -> None:
    covariance = [[1.0, 0.6, 0.1], [0.6, 0.5, 0.0], [0.1, 0.0, 0.2]]
    model = Gaussian([0.3, -0.2, 0.1], covariance)
    x = torch.tensor([[0.4, -0.1, 0.9], [1.0, 0.3, -0.5]], dtype=torch.float64)
    sampler = build_sampler(name, "karras", 10)
    torch.testing.assert_close(sampler.sample(model, sampler.invert(model, x)), x, rtol=0, atol=1e-11)


@pytest.mark.parametrize("process", [VP(), Flow(3.0)], ids=["vp", "flow"])
def test_on_a_mixture_and_in_float32(process: Process) -> None:
    model = GaussianMixture([0.6, 0.4], [[1.0, 0.0], [-0.7, 0.5]], [[0.04, 0.04], [0.12, 0.12]], process=process)
    x = torch.tensor([[0.9, 0.1], [-0.6, 0.4]])
    sampler = build_sampler("dpmpp_2m", "karras", 20, process=process)
    start = sampler.invert(model, x)
    assert start.dtype == x.dtype
    torch.testing.assert_close(sampler.sample(model, start), x, rtol=0, atol=1e-3)


def test_without_rounds_it_only_runs_upwards() -> None:
    model = gaussian_denoiser(VP())
    x = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3)
    rough, exact = (build_sampler("euler", "karras", 20).invert(model, x, rounds=n) for n in (0, 25))
    back = build_sampler("euler", "karras", 20).sample(model, rough)
    assert 0.01 < float((back - x).abs().max()) < 0.5
    assert 0.1 < float((rough - exact).abs().max()) < 10


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("euler_ancestral", {}, "euler_ancestral draws some: give eta=0"),
        ("sa_solver", {}, "give tau=0"),
        ("lcm", {}, "take a deterministic one"),
        ("dpm_adaptive", {}, "cannot be run back"),
    ],
)
def test_what_cannot_be_inverted_says_so(name: str, options: dict[str, Any], message: str) -> None:
    def never(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the model was called")

    with pytest.raises(ValueError, match=message):
        build_sampler(name, "karras", 5, **options).invert(never, torch.ones(1, 2))


def test_bad_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="rounds must be a whole number of at least 0; got -1"):
        build_sampler("euler").invert(lambda x, sigma: x, torch.ones(1, 2), rounds=-1)
    with pytest.raises(TypeError, match="x must be a torch tensor"):
        build_sampler("euler").invert(lambda x, sigma: x, [1.0])  # type: ignore[arg-type]


def test_a_model_that_cannot_be_inverted_warns() -> None:
    sampler = ksched.build_sampler("euler", "karras", 4)
    with pytest.warns(RuntimeWarning, match="does not come back to x"):
        sampler.invert(lambda x, sigma: torch.zeros_like(x), torch.ones(1, 2), rounds=3)
