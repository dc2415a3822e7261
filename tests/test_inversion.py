"""Inversion: from an image back to the noise that a deterministic sampler would turn into it."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from cases import COORDINATES, SPECS, can_be_silent, gaussian_denoiser, no_noise, paired, process_for
from representatives import in_turn, is_kind, short

import ksched
from ksched import VP, Flow, Process, build_sampler
from ksched.exact.mixture import Gaussian, GaussianMixture
from ksched.samplers.spec import SamplerSpec

SILENT = [spec for spec in SPECS if can_be_silent(spec)]


@short(lambda spec, process: is_kind(spec.name) and process == in_turn(SPECS.index(spec), COORDINATES.values()))
@pytest.mark.parametrize("process", COORDINATES.values(), ids=COORDINATES)
@pytest.mark.parametrize("spec", SILENT, ids=lambda s: s.name)
def test_the_round_trip_is_exact_on_linear_models(spec: SamplerSpec, process: Process) -> None:
    process = process_for(spec, process)
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
        ("euler_ancestral", {}, "euler_ancestral draws noise: give eta=0"),
        ("sa_solver", {}, "give tau=0"),
        ("lcm", {}, "use a deterministic sampler"),
        ("dpm_adaptive", {}, "cannot be inverted"),
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
    with pytest.warns(RuntimeWarning, match="does not return x"):
        sampler.invert(lambda x, sigma: torch.zeros_like(x), torch.ones(1, 2), rounds=3)


MIX = GaussianMixture(
    [0.5, 0.3, 0.2],
    [[1.0, 0.0], [-0.7, 0.5], [0.2, -1.0]],
    [[0.04, 0.04], [0.12, 0.12], [0.02, 0.05]],
)


def states(batch: int = 64, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn((batch, 2), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def errors(sampler: ksched.Sampler, model: Any, start: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """How far the run from a start ends from x, of every item."""
    return (sampler.sample(model, start) - x).abs().flatten(1).amax(1)


@short(lambda name, dtype: (name == "euler") == (dtype == torch.float32))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("name", "schedule"), [("dpmpp_2m", "karras"), ("euler", "simple")])
def test_row_25_an_item_that_cannot_be_inverted_fails_alone(name: str, schedule: str, dtype: torch.dtype) -> None:
    x, sampler = states(dtype=dtype), build_sampler(name, schedule, 28)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        start = sampler.invert(MIX, x)
    assert bool(start.isfinite().all())
    off = errors(sampler, MIX, start, x) / x.abs().amax(1).clamp(min=1)
    failed = int((off > torch.finfo(dtype).eps ** 0.5).sum())
    assert failed <= 8  # of the few that the method does not find
    assert float(off.median()) < 1000 * torch.finfo(dtype).eps
    assert len(caught) == (failed > 0)
    if failed:
        assert f"does not return x for {failed} of 64 items" in str(caught[0].message)


def bent(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """A model that is no linear one, every number by itself."""
    share = 1 / (1 + 2 * sigma.reshape(-1, 1) ** 2)
    return share * x + (1 - share) * 0.5 * torch.tanh(x * share.sqrt())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_an_item_alone_is_the_item_in_its_batch(dtype: torch.dtype) -> None:
    x, sampler = states(12, dtype), build_sampler("dpmpp_2m", "karras", 12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        together = sampler.invert(bent, x)
        for i in range(len(x)):
            assert torch.equal(sampler.invert(bent, x[i : i + 1]), together[i : i + 1])


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), 1e300])
def test_a_model_that_answers_with_no_number_for_an_item_spoils_no_other(wrong: float) -> None:
    """Whenever it does: at all levels, at low ones, or far out only."""
    x, sampler = states(3), build_sampler("dpmpp_2m", "karras", 12)
    alone = sampler.invert(bent, x[::2])

    for low, high in ((0.0, 99.0), (0.0, 1.0), (5.0, 99.0)):

        def model(x: torch.Tensor, sigma: torch.Tensor, low: float = low, high: float = high) -> torch.Tensor:
            answer = bent(x, sigma)
            if low <= float(sigma[0]) <= high:
                answer[1] = wrong
            return answer

        with pytest.warns(RuntimeWarning, match=r"does not return x for 1 of 3 items: item 1 (by|not at all)"):
            start = sampler.invert(model, x)
        assert torch.equal(start[::2], alone)
        assert bool(start.isfinite().all())


def test_a_state_of_no_number_spoils_no_other() -> None:
    x, sampler = states(3), build_sampler("dpmpp_2m", "karras", 12)
    alone = sampler.invert(bent, x[::2])
    for wrong in (float("nan"), float("inf"), 1e308):
        x[1] = wrong
        with pytest.warns(RuntimeWarning, match="does not return x for 1 of 3 items: item 1 "):
            start = sampler.invert(bent, x)
        assert torch.equal(start[::2], alone)
        assert bool(start.isfinite().all())
    x[1, 0] = float("nan")
    with pytest.warns(RuntimeWarning, match="1 of 3 items: item 1 not at all"):
        rough = sampler.invert(bent, x, rounds=0)
    assert bool(rough.isfinite().all())


def test_large_states_are_inverted_as_well() -> None:
    sampler = build_sampler("dpmpp_2m", "karras", 12)
    x = torch.tensor([[1e6, -3e5], [0.1, 0.2]], dtype=torch.float64)
    assert bool((errors(sampler, bent, sampler.invert(bent, x), x) < torch.tensor([1e-6, 1e-12])).all())
    half = torch.tensor([[60000.0, 1.0]], dtype=torch.float16)  # its start is no number of float16
    with pytest.warns(RuntimeWarning, match="does not return x"):
        start = sampler.invert(lambda x, sigma: x * 0, half)
    assert start.dtype == torch.float16
    assert bool(start.isfinite().all())


@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0,)])
@pytest.mark.parametrize("rounds", [0, 25])
def test_nothing_to_invert_is_an_empty_result(shape: tuple[int, ...], rounds: int) -> None:
    def never(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the model was called")

    start = build_sampler("dpmpp_2m", "karras", 12).invert(never, torch.zeros(shape), rounds=rounds)
    assert start.shape == shape
    assert start.dtype == torch.float32


def test_many_failures_are_counted_and_a_few_named() -> None:
    x = torch.ones(20, 2)
    with pytest.warns(RuntimeWarning, match="for 20 of 20 items: item 0 by 1, .* item 4 by 1, and 15 more") as caught:
        build_sampler("euler", "karras", 4).invert(lambda x, sigma: torch.zeros_like(x), x, rounds=3)
    assert len(str(caught[0].message)) < 250
    assert caught[0].filename == __file__
