"""Log-probabilities of joint runs: a model call has the log-probability of all parts together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

import ksched

F64 = torch.float64
VIDEO = ksched.build_sampler("dpmpp_2m_sde", "simple", 6, process=ksched.Flow(12.0))
AUDIO = ksched.build_sampler("euler_ancestral", "simple", 4, process=ksched.Flow(3.0))
CLIP = ksched.build_sampler("dpmpp_3m_sde", "simple", 5, process=ksched.Flow(), eta=[0.5, 0.0, 1.0, 1.0, 0.0])
STILL = ksched.build_sampler("dpmpp_2m", "simple", 3, process=ksched.Flow())


def coupled(weight: Any) -> Callable[[Any, Any], dict[str, torch.Tensor]]:
    """A nonlinear model of all parts, whose answer for an item depends on no other."""

    def model(x: Mapping[str, torch.Tensor], sigma: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        mixed = sum(value.reshape(len(value), -1)[:, :2].tanh() for value in x.values())
        told = {}
        for name, value in x.items():
            level = sigma[name].reshape(sigma[name].shape + (1,) * (value.ndim - sigma[name].ndim))
            shared = (mixed[:, :1] * mixed[:, 1:]).reshape((-1,) + (1,) * (value.ndim - 1))  # type: ignore[index]
            told[name] = weight * value * (1 - level) + 0.2 * shared
        return told

    return model


class Drawn:
    """A noise source that remembers its draws."""

    def __init__(self, shape: tuple[int, ...], seed: int) -> None:
        self.generator, self.shape = torch.Generator().manual_seed(seed), shape
        self.draws: list[torch.Tensor] = []

    def __call__(self, sigma_from: float, sigma_to: float) -> torch.Tensor:
        self.draws.append(torch.randn(self.shape, generator=self.generator, dtype=F64))
        return self.draws[-1]


def made(**noises: Any) -> ksched.Streams:
    def start(sampler: ksched.Sampler, name: str, shape: tuple[int, ...]) -> Any:
        how = {"noise": noises[name]} if name in noises else {"seed": len(name)}
        x = sampler.initial_state(shape, seed=len(name) + 90, dtype=F64)
        return ksched.frames(sampler, x, offset=1, **how) if name == "clip" else sampler.start(x, **how)

    return ksched.Streams(
        video=start(VIDEO, "video", (3, 5)),
        audio=start(AUDIO, "audio", (3, 2)),
        clip=start(CLIP, "clip", (3, 4, 2)),
        still=start(STILL, "still", (3, 3)),
        context=torch.ones(3, 2, dtype=F64),
    )


def test_it_is_the_density_of_what_was_drawn() -> None:
    """Each state is mean + std * noise, so for any model its density is the noise's density over std."""
    noises = {"video": Drawn((3, 5), 1), "audio": Drawn((3, 2), 2), "clip": Drawn((3, 4, 2), 3)}
    path = made(**noises).rollout(coupled(0.7))
    right: dict[int, torch.Tensor] = {}

    def add(tick: int, std: float, eps: torch.Tensor) -> None:
        each = -0.5 * eps.square() - math.log(std) - 0.5 * math.log(2 * math.pi)
        right[tick] = right.get(tick, torch.zeros(3, dtype=F64)) + each.flatten(1).sum(1)

    for name, sampler in (("video", VIDEO), ("audio", AUDIO)):
        for law, eps in zip(sampler.transitions, noises[name].draws, strict=True):
            add(law.step, law.std, eps)
    for frame in range(4):  # a step of frame k is made k ticks later
        for law, eps in zip(CLIP.transitions, noises["clip"].draws, strict=True):
            add(law.step + frame, law.std, eps[:, frame])
    assert path.ticks == tuple(sorted(right))
    for row, tick in zip(path.log_prob, path.ticks, strict=True):
        assert torch.allclose(row, right[tick], rtol=1e-9, atol=1e-9)


def test_the_result_is_that_of_sample_and_scores_are_the_same_bits() -> None:
    path = made().rollout(coupled(0.7))
    results = made().sample(coupled(0.7))
    assert all(torch.equal(path.x[name], results[name]) for name in results)
    weight = torch.tensor(0.7, dtype=F64, requires_grad=True)
    again = made().log_prob(coupled(weight), path)
    assert torch.equal(again, path.log_prob)
    some = made().log_prob(coupled(0.7), path.take([2, 0]), ticks=[4, 1])
    assert torch.equal(some, path.log_prob[[path.ticks.index(4), path.ticks.index(1)]][:, [2, 0]])
    gradient = torch.autograd.grad(again.sum(), weight)[0]
    higher, lower = (made().log_prob(coupled(0.7 + step), path).sum() for step in (1e-6, -1e-6))
    assert float(gradient) == pytest.approx(float(higher - lower) / 2e-6, rel=1e-6)


def test_one_stream_is_a_rollout_of_its_sampler() -> None:
    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return 0.6 * x * (1 - sigma.reshape(-1, 1))

    x = VIDEO.initial_state((3, 5), seed=1)
    alone = VIDEO.rollout(model, x, seed=2)
    joint = ksched.Streams(part=VIDEO.start(x, seed=2)).rollout(
        lambda x, sigma: {"part": model(x["part"], sigma["part"])}
    )
    assert torch.equal(joint.log_prob, alone.log_prob)
    assert torch.equal(joint.x["part"], alone.x)


def test_frames_at_one_level_are_a_rollout_of_their_sampler() -> None:
    x = VIDEO.initial_state((3, 4, 2), seed=1, dtype=F64)
    alone = VIDEO.rollout(lambda x, sigma: 0.6 * x * (1 - sigma.reshape(-1, 1, 1)), x, seed=2)
    frames = ksched.frames(VIDEO, x, seed=2)
    path = frames.rollout(lambda x, sigma: 0.6 * x * (1 - sigma[..., None]))
    assert torch.equal(path.x, alone.x)
    assert torch.allclose(path.log_prob, alone.log_prob, rtol=1e-12)


def test_masks_and_means() -> None:
    path = made().rollout(coupled(0.7))
    scores = {
        name: made().log_prob(
            coupled(0.7),
            path,
            mask={name: torch.ones(1, dtype=F64)}
            | {
                other: torch.zeros(1, dtype=F64)
                for other in ("video", "audio", "clip", "still", "context")
                if other != name
            },
        )
        for name in ("video", "audio", "clip")
    }
    assert torch.allclose(sum(scores.values()), path.log_prob, rtol=1e-12)  # type: ignore[arg-type]
    first = path.ticks.index(0)
    mean = made().log_prob(coupled(0.7), path, ticks=[0], reduce="mean")
    numbers = 5 + 2 + 2  # video, audio and the first frame draw after the first call
    assert torch.allclose(mean[0] * numbers, path.log_prob[first], rtol=1e-12)


def test_what_cannot_be_scored_is_refused_in_words() -> None:
    path = made().rollout(coupled(0.7))
    under_way: Any = made()
    under_way.feed(**coupled(0.7)(under_way.x, under_way.sigma))
    still = ksched.Streams(still=STILL.start(STILL.initial_state((2, 3), seed=0)))
    adaptive = ksched.build_sampler("dpm_adaptive", "karras", 4)
    live = ksched.Streams(a=adaptive.start(adaptive.initial_state((2, 3), seed=0)))
    with pytest.raises(ValueError, match="already started"):
        under_way.rollout(coupled(0.7))
    with pytest.raises(ValueError, match="no part draws noise"):
        still.rollout(coupled(0.7))
    with pytest.raises(ValueError, match="adaptive part"):
        live.rollout(coupled(0.7))
    fresh: Any = made()
    with pytest.raises(ValueError, match=r"calls that draw noise, 0, .*; got 17"):
        fresh.log_prob(coupled(0.7), path, ticks=[17])
    with pytest.raises(TypeError, match="whole numbers"):
        fresh.log_prob(coupled(0.7), path, ticks=[0.5])
    with pytest.raises(ValueError, match="other plans"):
        ksched.Streams(a=AUDIO.start(AUDIO.initial_state((3, 2), seed=0), seed=0)).log_prob(coupled(0.7), path)
    with pytest.raises(TypeError, match="from rollout"):
        fresh.log_prob(coupled(0.7), path.x)
    with pytest.raises(TypeError, match="callable"):
        fresh.rollout(None)
