"""Denoiser: an exact network gives the exact answer back, in every prediction type."""

from __future__ import annotations

import math
import pickle
from functools import partial
from typing import Any

import pytest
import torch
from cases import gaussian_denoiser, start_state

from ksched import EDM, VE, VP, AngleV, Cascade, Denoiser, Flow, FlowVE, Process, build_sampler
from ksched.denoisers.denoiser import Prediction
from ksched.execution import batch

VARIANTS: list[Process] = [
    VP(),
    VP(variance_preserving=True),
    VP.cosine(zero_terminal_snr=True),
    EDM(),
    EDM(sigma_data=1.0),
    AngleV(),
    Cascade(),
    VE(),
    Flow(3.0),
    FlowVE(),
]
FITTING: list[tuple[Process, Prediction]] = [
    (process, prediction)  # type: ignore[misc]
    for process in VARIANTS
    for prediction in process.predictions
    if not (prediction in ("epsilon", "score") and getattr(process, "zero_terminal_snr", False))
]


def network_for(process: Process, prediction: str, x: torch.Tensor, sigma: torch.Tensor, truth: torch.Tensor) -> Any:
    """A network that computes each prediction type from ``truth`` by definition, and checks its inputs."""
    sigma = sigma.reshape(-1, 1)
    a, s = process.alpha(sigma), process.noise_std(sigma)
    eps = (x - a * truth) / s
    data = process.sigma_data if isinstance(process, EDM) else 1.0
    unit_variance = isinstance(process, VP | EDM | Cascade)
    scale = (s**2 + (a * data) ** 2).sqrt() if unit_variance else a + s if isinstance(process, FlowVE) else s * 0 + 1
    # v and F by their definitions in the network's unit-variance coordinates: angle phi, x = cos * x0/data + sin * eps
    cos, sin = a * data / scale, s / scale
    outputs = {
        "epsilon": eps,
        "sample": truth,
        "flow": eps - truth,
        "velocity_to_data": truth - eps,
        "score": -scale / s * eps,  # a gradient with respect to x / scale
        "v_prediction": cos * eps - sin * truth / data,
        "edm": -(cos * eps - sin * truth / data),
    }

    def network(shown: torch.Tensor, timestep: torch.Tensor, *, extra: float = 0.0) -> torch.Tensor:
        torch.testing.assert_close(shown, x / scale)
        torch.testing.assert_close(process.sigma(timestep).reshape(-1, 1), sigma)
        return outputs[prediction] + extra

    return network


@pytest.mark.parametrize(("process", "prediction"), FITTING, ids=lambda v: v if isinstance(v, str) else repr(v))
def test_truth_comes_back(process: Process, prediction: Prediction) -> None:
    sigma = torch.tensor([process.sigma_min * 3, (process.sigma_min * process.sigma_max) ** 0.5], dtype=torch.float64)
    truth = torch.tensor([[0.3, -1.0, 2.0], [1.0, 0.5, -0.2]], dtype=torch.float64)
    x = process.add_noise(truth, start_state(VE(), 1.0, (2, 3)), sigma)
    denoiser = Denoiser(network_for(process, prediction, x, sigma, truth), process, prediction)
    torch.testing.assert_close(denoiser(x, sigma), truth, rtol=1e-9, atol=1e-9)
    for dtype in (torch.float32, torch.bfloat16):
        plain = Denoiser(lambda shown, timestep: torch.zeros_like(shown), process, prediction)
        assert plain(x.to(dtype), sigma.float()).dtype == dtype


def test_a_number_is_a_sigma_too_and_conditioning_is_handed_on() -> None:
    denoiser = Denoiser(lambda x, t, shift: x + shift, VP(), "sample")
    x = torch.ones(2, 3)
    assert torch.equal(denoiser(x, 2.0, shift=1.0), denoiser(x, torch.full((2,), 2.0), shift=1.0))


def test_zero_terminal_snr_starts_from_exactly_pure_noise() -> None:
    """sigma = inf is a level like others for variance-preserving states and v-prediction."""
    process = VP(zero_terminal_snr=True, variance_preserving=True)
    exact = gaussian_denoiser(process)

    def network(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        sigma = torch.where(timestep == 999, torch.full_like(timestep, math.inf), process.sigma(timestep))
        a, s = process.alpha(sigma).reshape(-1, 1), process.noise_std(sigma).reshape(-1, 1)
        truth = exact(x, sigma)
        return (a * x - truth) / s  # v, from x = a x0 + s eps

    sampler = build_sampler("dpmpp_2m", sigmas=[math.inf, 40, 10, 3, 1, 0.3, 0.1, 0], process=process)
    x = start_state(process, math.inf)
    got = sampler.sample(Denoiser(network, process, "v_prediction"), x)
    torch.testing.assert_close(got, sampler.sample(exact, x), rtol=1e-9, atol=1e-9)
    assert torch.isfinite(got).all()


class Output:
    """As diffusers has them."""

    def __init__(self, sample: torch.Tensor) -> None:
        self.sample = sample


class Unet(torch.nn.Module):
    """A network with a text before its timestep, as many transformers of diffusers have."""

    def forward(self, hidden_states: Any, encoder_hidden_states: Any = 0.0, timestep: Any = None) -> Any:
        return (0.2 * hidden_states + 0.001 * timestep.reshape(-1, 1, 1, 1) + encoder_hidden_states,)


def plain(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
    return 0.2 * x + 0.001 * timestep.reshape(-1, 1, 1, 1)


@pytest.mark.parametrize(
    "network",
    [
        lambda x, t: Output(plain(x, t)),
        lambda x, t: (plain(x, t), "more"),
        lambda x, t: {"sample": plain(x, t)},
        lambda x, t: torch.cat([plain(x, t), x], 1),
        lambda x, t: Output(torch.cat([plain(x, t), x], 1)),
        Unet(),
        partial(Unet(), encoder_hidden_states=0.0),
    ],
)
def test_whatever_a_network_returns_it_is_the_same_network(network: Any) -> None:
    """Four ways to call it: in the loop, directly, in a batch, and as a denoiser."""
    usual, other = (Denoiser(n, VP(), "v_prediction") for n in (plain, network))
    x = start_state(VP(), 14.6, (2, 2, 3, 3), dtype=torch.float32)
    sampler = build_sampler("dpmpp_2m", "karras", 5)
    expected = sampler.sample(usual, x)
    assert torch.equal(sampler.sample(other, x), expected)
    seen = []
    sampler.sample(other, x, callback=lambda info: seen.append(info.denoised))
    assert torch.equal(seen[-1], expected)
    torch.testing.assert_close(sampler.sample(lambda x, sigma: other(x, sigma), x), expected)
    together = batch.Batch()
    run = together.add(sampler.start(x))
    while together:
        together.tick(other)
    assert torch.equal(run.x, expected)


def test_given_conditioning_is_handed_on_at_every_call() -> None:
    denoiser = Denoiser(Unet(), VP())
    x = start_state(VP(), 14.6, (2, 2, 3, 3), dtype=torch.float32)
    text = torch.full((2, 1, 1, 1), 0.4)
    given = denoiser.given(encoder_hidden_states=text)
    assert torch.equal(given(x, 3.0), denoiser(x, 3.0, encoder_hidden_states=text))
    assert not torch.equal(given(x, 3.0), denoiser(x, 3.0))
    sampler = build_sampler("euler", "simple", 3)
    called = sampler.sample(lambda x, sigma: denoiser(x, sigma, encoder_hidden_states=text), x)
    torch.testing.assert_close(sampler.sample(given, x), called)
    again = pickle.loads(pickle.dumps(given))
    assert torch.equal(again(x, 3.0), given(x, 3.0))


def test_a_denoiser_is_refused_as_a_network() -> None:
    class DiscreteEpsDDPMDenoiser:
        inner_model = sigma_to_t = None

        def __call__(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            return x

    for network in (DiscreteEpsDDPMDenoiser(), Denoiser(plain, VP())):
        with pytest.raises(TypeError, match="is already a denoiser"):
            Denoiser(network, VP())


@pytest.mark.parametrize(
    "process",
    [p for p in VARIANTS if not p.zero_terminal_snr],
    ids=[repr(p) for p in VARIANTS if not p.zero_terminal_snr],
)
def test_a_score_and_a_velocity_to_data_are_the_plain_forms(process: Process) -> None:
    """Runs with networks of the same knowledge, through the conversions of the loop and as denoisers."""
    plain, other = (
        ("flow", "velocity_to_data") if process.is_flow or isinstance(process, FlowVE) else ("epsilon", "score")
    )

    def usual(z: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return torch.tanh(z) + 0.1 * timestep.reshape(-1, 1) / (1 + timestep.abs().reshape(-1, 1))

    def turned(z: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        sigma = process.sigma(timestep).reshape(-1, 1)
        std = process.noise_std(sigma) / process.input_norm(sigma)
        return -usual(z, timestep) / (std if other == "score" else 1)

    x = start_state(process, process.sigma_max, (2, 3))
    sampler = build_sampler("dpmpp_2m", "simple", 6, process=process)
    first, second = Denoiser(usual, process, plain), Denoiser(turned, process, other)
    torch.testing.assert_close(sampler.sample(second, x), sampler.sample(first, x), rtol=1e-12, atol=1e-12)
    sigma = torch.tensor([process.sigma_min, 0.7 * process.sigma_max], dtype=torch.float64)
    torch.testing.assert_close(second(x, sigma), first(x, sigma), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("process", [VE(), VP(variance_preserving=True), VP()], ids=repr)
def test_the_score_is_the_gradient_of_the_log_density(process: Process) -> None:
    """Of what the network is shown, by autograd; the denoiser of that score is the posterior mean."""
    exact = gaussian_denoiser(process)

    def score(z: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        sigma = process.sigma(timestep)[:, None]
        norm = process.input_norm(sigma)
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            a, s = process.alpha(sigma) / norm, process.noise_std(sigma) / norm
            law = torch.distributions.Normal(a * 0.3, ((a * 0.7) ** 2 + s**2).sqrt())
            return torch.autograd.grad(law.log_prob(z).sum(), z)[0]  # type: ignore[no-untyped-call]

    x = start_state(VE(), 1.0, (2, 3))
    sigma = torch.tensor([0.3, 2.0], dtype=torch.float64)
    torch.testing.assert_close(Denoiser(score, process, "score")(x, sigma), exact(x, sigma), rtol=1e-9, atol=1e-9)
