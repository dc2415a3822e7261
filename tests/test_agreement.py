"""If the model knows its process, runs use it by default and refuse a sampler whose states differ."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from representatives import each

import ksched
from ksched import EDM, VE, VP, Denoiser, Flow, FlowVE, Process, build_sampler
from ksched.exact.mixture import Gaussian
from ksched.execution.batch import Batch


def flow_denoiser(process: Process, std: float = 0.5) -> Denoiser:
    """The exact velocity network of data of one std."""

    def network(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        t: torch.Tensor = process.sigma(timestep).reshape(-1, 1)
        variance = ((1 - t) * std) ** 2 + t**2
        velocity: torch.Tensor = x * (t - (1 - t) * std**2) / variance
        return velocity

    return Denoiser(network, process, prediction="flow")


def vp_denoiser(process: Process, std: float = 0.5) -> Denoiser:
    """The exact network of data of one std that predicts x0."""

    def network(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        sigma: torch.Tensor = process.sigma(timestep).reshape(-1, 1)
        norm: torch.Tensor = process.input_norm(sigma)
        return norm * x * std**2 / (std**2 + sigma**2)

    return Denoiser(network, process, prediction="sample")


def refuse(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("the network was called")


def silent(process: Process) -> Denoiser:
    return Denoiser(refuse, process, prediction="sample")


def fed(sampler: ksched.Sampler, model: Callable[..., Any], x: torch.Tensor) -> torch.Tensor:
    run = sampler.start(x)
    while not run.done:
        run.feed(model(run.x, run.sigma))
    return run.x


def ticked(sampler: ksched.Sampler, model: Callable[..., Any], x: torch.Tensor) -> torch.Tensor:
    batch = Batch()
    run = batch.add(sampler.start(x))
    while batch:
        batch.tick(model)
    return run.x


WAYS: dict[str, Callable[[ksched.Sampler, Any, torch.Tensor], Any]] = {
    "sample": lambda sampler, model, x: sampler.sample(model, x),
    "a wrapped model": lambda sampler, model, x: sampler.sample(ksched.guidance.clip(model, -9, 9), x),
    "feed": fed,
    "tick": ticked,
    "tick of a wrapped model": lambda sampler, model, x: ticked(sampler, lambda x, sigma: model(x, sigma), x),
    "live": lambda sampler, model, x: sampler.live(model, x),
    "invert": lambda sampler, model, x: sampler.invert(model, x, rounds=0),
    "matrices": lambda sampler, model, x: sampler.matrices.sample(model, x, step=ksched.execution.compiled.step),
}

DISAGREE = {
    "a flow model on VP levels": (Flow(3.0), VP()),
    "a VP model on flow levels": (VP(), Flow()),
    "EDM on flow levels": (EDM(), Flow(3.0)),
    "preserving states or not": (VP(), VP(variance_preserving=True)),
    "preserved states on exploding ones": (VP(variance_preserving=True), VP()),
    "flow in other coordinates": (FlowVE(), Flow()),
}

AGREE = {
    "another shift": (Flow(), Flow(3.0)),
    "another table": (VP.linear(), VP()),
    "exploding levels": (VP(), VE(0.03, 14.0)),
    "EDM": (VP(), EDM()),
    "another scale of timesteps": (Flow(timestep_scale=1.0), Flow(2.0)),
}


@pytest.mark.parametrize("way", WAYS)
@each("model, run", DISAGREE.values())
def test_other_states_are_refused_before_the_first_call(model: Process, run: Process, way: str) -> None:
    sampler = build_sampler("dpmpp_2m", "simple", 4, process=run)
    x = sampler.initial_state((2, 3), seed=0)
    with pytest.raises(
        ValueError,
        match=r"denoiser and the sampler must mean the same states; the denoiser is for .*, the sampler for ",
    ):
        WAYS[way](sampler, silent(model), x)


@pytest.mark.parametrize("way", WAYS)
@each("model, run", AGREE.values())
def test_the_same_states_are_no_disagreement(model: Process, run: Process, way: str) -> None:
    sampler = build_sampler("euler", "simple", 4, process=run)
    denoiser = flow_denoiser(model) if model.sigma_limit == 1 else vp_denoiser(model)
    WAYS[way](sampler, denoiser, sampler.initial_state((2, 3), seed=0))


def test_an_adaptive_sampler_and_exact_models_are_no_exception() -> None:
    sampler = build_sampler("dpm_adaptive", "simple", 4)
    for model in (silent(Flow()), Gaussian([0.0], [[0.25]], Flow())):
        for way in ("sample", "feed", "tick", "a wrapped model"):
            with pytest.raises(ValueError, match="must mean the same states"):
                WAYS[way](sampler, model, sampler.initial_state((2, 1), seed=0))


def test_inpainting_noises_states_and_is_asked_too() -> None:
    """Also where the denoisers inside know none."""
    sampler = build_sampler("euler", "simple", 4)
    x = sampler.initial_state((2, 3), seed=0)

    def plain(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return x / 2

    model = ksched.guidance.inpaint(plain, torch.ones(1, 3), torch.zeros(2, 3), Flow(), noise=0)
    with pytest.raises(ValueError, match=r"the inpainting is for Flow.*the sampler for VP"):
        sampler.sample(model, x)


def test_levels_where_two_processes_mean_the_same_are_no_disagreement() -> None:
    """Only alpha and the noise at levels of the run count; a run of one level has no others."""
    sampler = build_sampler("euler", sigmas=[1e-9, 0], process=VP())
    sampler.sample(flow_denoiser(Flow()), 1e-9 * torch.ones(1, 2))


def test_the_process_of_a_model_is_taken() -> None:
    """Data of std .5 through a flow network, on a sampler that was given the network."""
    denoiser = flow_denoiser(Flow(3.0))
    sampler = build_sampler("dpmpp_2m", "simple", 40, process=denoiser)
    assert sampler.process is denoiser.process
    samples = sampler.sample(denoiser, sampler.initial_state((4096, 1), seed=0))
    assert float(samples.std()) == pytest.approx(0.5, abs=0.02)
    assert build_sampler("euler", process=Gaussian([0.0], [[1.0]], Flow(2.0))).process == Flow(2.0)
    with pytest.raises(TypeError, match=r"process must be a ksched process.*got <object"):
        build_sampler("euler", process=object())  # type: ignore[arg-type]


def test_likelihood_is_that_of_the_models_process() -> None:
    model = Gaussian([0.0], [[0.25]], Flow(3.0))
    x = torch.tensor([[0.0], [0.3], [-0.8]], dtype=torch.float64)
    truth = -0.5 * (x[:, 0] / 0.5) ** 2 - math.log(0.5 * math.sqrt(2 * math.pi))
    found = ksched.log_likelihood(model, x, sigma_min=1e-4, rtol=1e-7, atol=1e-7).value
    assert (found - truth).abs().max() < 1e-3  # the state at sigma 1e-4 is no data yet
    denoiser = flow_denoiser(Flow(3.0))
    assert (ksched.log_likelihood(denoiser, x, sigma_min=1e-4).value - truth).abs().max() < 1e-2
    with pytest.raises(ValueError, match="must mean the same states"):
        ksched.log_likelihood(denoiser, x, VP())
    ksched.log_likelihood(denoiser, x, Flow())  # another shift, the same states


def test_tune_and_check_model_take_the_process_of_the_model() -> None:
    mixture = ksched.exact.GaussianMixture([0.5, 0.5], [[-1.0, 0.5], [1.0, 0.0]], [0.1, 0.2], Flow(3.0))
    plan = ksched.tune(mixture, 3, level=0, items=16)
    assert plan.start == Flow(3.0).level(1.0)
    with pytest.raises(ValueError, match="must mean the same states"):
        ksched.tune(mixture, 3, level=0, process=VP())
    data = torch.tensor(mixture.sample(64, seed=0)).float()
    report = ksched.check_model(mixture, data=data, levels=3)
    assert report.ok, report


def test_a_sigma_that_is_saved_is_plain_data() -> None:
    """The levels of a run come along, and loading needs no trust."""
    run = build_sampler("euler", "karras", 3).start(torch.ones(1, 2) * 14)
    file = io.BytesIO()
    torch.save(run.sigma, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=True), run.sigma)


def test_a_level_that_the_model_does_not_have_is_named() -> None:
    sampler = build_sampler("euler", sigmas=[5.0, 0.5, 0.0])
    with pytest.raises(ValueError, match="ends at sigma 1, but the run has sigma 5"):
        sampler.sample(silent(Flow()), sampler.initial_state((2, 3), seed=0))
