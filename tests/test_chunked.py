"""Real-time chunking: the paper's weights, their limits, and the effect on the overlap of two chunks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from ksched import VP, Denoiser, Flow, build_sampler, exact, guidance
from ksched.guidance.chunking import chunk_weights

TIME, DIM = 8, 2


def policy(process: Flow | None = None) -> Callable[..., torch.Tensor]:
    """Smooth chunks: Gaussian actions that depend on their neighbours."""
    place = np.arange(TIME)
    smooth = np.exp(-((place[:, None] - place) ** 2) / 8) + 1e-3 * np.eye(TIME)
    model = exact.Gaussian(np.zeros(TIME * DIM), np.kron(smooth, np.eye(DIM)), process or Flow())

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return model(x.flatten(1), sigma).reshape(x.shape)

    return denoise


slopes: Callable[..., torch.Tensor] = torch.autograd.functional.jacobian


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_weights_are_those_of_the_paper() -> None:
    """Equation 5, an action at a time: d = 3 executed, overlap to 7 of 10."""
    want = []
    for i in range(10):
        c = (7 - i) / (7 - 3 + 1)
        want.append(1.0 if i < 3 else c * (math.exp(c) - 1) / (math.e - 1) if i < 7 else 0.0)
    np.testing.assert_allclose(chunk_weights(10, 3, 7), want, rtol=1e-12)
    assert chunk_weights(4, 4, 4).tolist() == [1] * 4
    assert chunk_weights(4, 0, 0).tolist() == [0] * 4
    assert chunk_weights(3, 2, 2).tolist() == [1, 1, 0]
    falling = chunk_weights(12, 0, 12)
    assert (falling.diff() < 0).all()
    assert 0 < falling[-1] < falling[0] < 1


@pytest.mark.parametrize("noise_scale", [1.0, 2.0])
def test_the_velocity_gets_the_guidance_of_the_paper(noise_scale: float) -> None:
    """Equations 2 to 4, in the paper's time, by the whole Jacobian."""
    process = Flow(noise_scale=noise_scale)
    model, previous, x = policy(process), random(TIME, DIM, seed=1), random(1, TIME, DIM, seed=2)
    weights = chunk_weights(TIME, 2, 6)
    for sigma in (0.05, 0.3, 0.5, 0.8, 0.97):
        at = torch.tensor([sigma], dtype=torch.float64)
        jacobian = slopes(lambda v, at=at: model(v, at), x).reshape(TIME * DIM, TIME * DIM)
        prediction = model(x, at)
        error = (weights[:, None] * (previous - prediction[0])).flatten()
        tau, std = 1 - sigma, sigma * noise_scale
        square = std**2 / (tau**2 + std**2)
        weight = min(5.0, std / (tau * square))
        want = prediction + std * weight * (jacobian.T @ error).reshape(x.shape)
        got = guidance.chunked(model, previous, 2, 6, process=process)(x, at)
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def run(max_weight: float, delay: int = 3, horizon: int = 6, name: str = "euler", steps: int = 10) -> torch.Tensor:
    sampler = build_sampler(name, "simple", steps, process=Flow())
    model = guidance.chunked(policy(), random(TIME, DIM, seed=1), delay, horizon, max_weight)
    return sampler.sample(model, random(32, TIME, DIM, seed=3), seed=0)


def overlap(chunks: torch.Tensor, delay: int = 3) -> float:
    return float((chunks[:, :delay] - random(TIME, DIM, seed=1)[:delay]).square().mean().sqrt())


def test_weight_0_is_the_plain_denoiser() -> None:
    sampler = build_sampler("euler", "simple", 10, process=Flow())
    assert torch.equal(run(0.0), sampler.sample(policy(), random(32, TIME, DIM, seed=3)))
    nothing = guidance.chunked(policy(), random(TIME, DIM, seed=1), 0, 0)
    x, sigma = random(2, TIME, DIM), torch.tensor([0.3, 1.0]).double()
    assert torch.equal(nothing(x, sigma), policy()(x, sigma))


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m", "euler_ancestral"])
def test_the_overlap_fits_better_with_more_weight(name: str) -> None:
    errors = [overlap(run(weight, name=name)) for weight in (0.0, 0.5, 1.0, 2.0, 5.0)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.3 * errors[0]


def test_actions_beyond_the_horizon_stay_free() -> None:
    free, near = run(5.0)[:, 6:], run(5.0)[:, :3]
    assert free.std(0).mean() > 3 * near.std(0).mean()


def test_a_delay_of_all_is_inpainting_of_the_whole_chunk() -> None:
    """Then every action is wanted, and the chunk comes back; the longer the run, the nearer."""
    whole = [overlap(run(50.0, TIME, TIME, "heun", steps), TIME) for steps in (40, 160)]
    assert whole[1] < whole[0] < 0.1
    limited = overlap(run(5.0, TIME, TIME, "heun", 40), TIME)
    assert whole[0] < limited < 0.5 * overlap(run(0.0, TIME, TIME), TIME)


def test_shapes_pairs_dtypes_and_modes() -> None:
    previous = random(2, 5, DIM, seed=1)
    x, sigma = random(2, TIME, DIM).float(), torch.tensor([0.3, 0.9])
    model = guidance.chunked(lambda x, s: (policy()(x, s), policy()(x, s)), previous, 2)
    denoised, twin = model(x, sigma)
    assert denoised.dtype == torch.float32
    assert torch.equal(denoised, twin)
    assert not denoised.requires_grad
    for i in range(2):
        alone = guidance.chunked(policy(), previous[i], 2)(x[i : i + 1], sigma[i : i + 1])
        torch.testing.assert_close(alone, denoised[i : i + 1])
    padded = torch.cat([previous, torch.full((2, TIME - 5, DIM), 99.0)], 1)
    assert torch.equal(guidance.chunked(policy(), padded, 2, 5)(x, sigma), denoised)
    with torch.inference_mode():
        assert torch.equal(guidance.chunked(policy(), previous.clone(), 2)(x.clone(), sigma), denoised)
    bounds = guidance.chunked(policy(), previous, 2)(x, torch.tensor([0.0, 1.0]))
    assert torch.isfinite(bounds).all()
    torch.testing.assert_close(bounds[0], x[0])


NOT_ONE: Any = 3


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: guidance.chunked(NOT_ONE, random(4, 2)), "denoiser must be callable"),
        (lambda: guidance.chunked(policy(), NOT_ONE), r"previous must be .* \(time, dim\) or \(batch, time, dim\)"),
        (lambda: guidance.chunked(policy(), random(4)), r"got \(4,\)"),
        (lambda: guidance.chunked(policy(), random(4, 2) * math.nan), "previous must be finite"),
        (lambda: guidance.chunked(policy(), random(8, 2), 5, 4), "chunked: delay must be at least 0 and at most 4"),
        (lambda: guidance.chunked(policy(), random(3, 2)), "chunked: delay must be at least 0 and at most 3; got 4"),
        (lambda: guidance.chunked(policy(), random(8, 2), 1.5), "chunked: delay must be a whole number"),  # type: ignore[arg-type]
        (lambda: guidance.chunked(policy(), random(8, 2), max_weight=-1), "max_weight must be .* at least 0"),
        (lambda: guidance.chunked(policy(), random(8, 2), max_weight=math.inf), "max_weight must be a finite number"),
        (lambda: guidance.chunked(policy(), random(8, 2), process=VP()), "process must be a Flow"),
        (lambda: guidance.chunked(Denoiser(lambda x, t: x, VP()), random(8, 2)), "process must be a Flow"),
        (lambda: guidance.chunked(policy(), random(9, 2))(random(1, TIME, DIM), torch.ones(1)), "must fit the state"),
        (lambda: guidance.chunked(policy(), random(2, 8, 2))(random(3, TIME, DIM), torch.ones(3)), r"\(2, 8, 2\)"),
        (lambda: guidance.chunked(lambda x, s: x.detach(), random(8, 2))(random(1, 8, 2), torch.ones(1)), "gradient"),
    ],
)
def test_mistakes(build: Callable[[], Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        build()


def test_a_run_on_another_process_is_refused() -> None:
    sampler = build_sampler("euler", "karras", 4)
    with pytest.raises(ValueError, match="the chunking is for Flow"):
        sampler.sample(guidance.chunked(policy(), random(8, 2)), 14 * random(1, TIME, DIM))
