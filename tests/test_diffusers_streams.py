"""A pipeline that steps video and audio with two schedulers, as LTX-2's does, equals `Streams`."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from ksched import Denoiser, Flow, Streams, build_sampler

diffusers = pytest.importorskip("diffusers")

from ksched.integrations.diffusers import KSchedScheduler  # noqa: E402

STEPS = 8
SHAPES = {"video": (2, 6, 4), "audio": (2, 3, 5)}  # packed latents: batch, tokens, channels


def transformer(
    video: torch.Tensor, audio: torch.Tensor, video_timestep: torch.Tensor, audio_timestep: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Velocities of both, each of which depends on both states and both timesteps."""
    a, b = video.mean((1, 2)), audio.mean((1, 2))
    mixed = (torch.tanh(a + 2 * b) + torch.cos(video_timestep / 300) - torch.sin(audio_timestep / 200)).reshape(
        -1, 1, 1
    )
    return torch.tanh(video) + mixed / 3, torch.sin(audio) - mixed / 2


def start(name: str) -> torch.Tensor:
    seed = torch.Generator().manual_seed(len(name))
    return torch.randn(SHAPES[name], generator=seed)


def pipeline_loop(video_scheduler: Any, audio_scheduler: Any, through_x0: bool) -> dict[str, torch.Tensor]:
    """The denoising loop of such a pipeline, in short."""
    latents, audio_latents = start("video"), start("audio")
    for i, (t, audio_t) in enumerate(zip(video_scheduler.timesteps, audio_scheduler.timesteps, strict=True)):
        video, audio = transformer(latents, audio_latents, t.expand(2), audio_t.expand(2))
        if through_x0:  # where guidance is done
            sigma, audio_sigma = video_scheduler.sigmas[i], audio_scheduler.sigmas[i]
            video = (latents - (latents - video * sigma)) / sigma
            audio = (audio_latents - (audio_latents - audio * audio_sigma)) / audio_sigma
        latents = video_scheduler.step(video, t, latents, return_dict=False)[0]
        audio_latents = audio_scheduler.step(audio, audio_t, audio_latents, return_dict=False)[0]
    return {"video": latents, "audio": audio_latents}


def streams_of(samplers: dict[str, str], schedulers: dict[str, Any]) -> Streams:
    """Runs on the levels that the schedulers have."""
    runs: dict[str, Any] = {
        name: build_sampler(samplers[name], sigmas=schedulers[name].sigmas.double(), process=Flow()).start(start(name))
        for name in SHAPES
    }
    return Streams(**runs)


def model(x: Any, sigma: Any) -> dict[str, torch.Tensor]:
    timestep = {name: 1000 * sigma[name] for name in x}
    outputs = transformer(x["video"], x["audio"], timestep["video"], timestep["audio"])
    return {name: x[name] - sigma[name].reshape(-1, 1, 1) * output for name, output in zip(x, outputs, strict=True)}


def close(found: Any, wanted: Any) -> None:
    for name in SHAPES:
        assert torch.allclose(found[name], wanted[name], rtol=0, atol=1e-5), name


@pytest.mark.parametrize("through_x0", [False, True])
@pytest.mark.parametrize(
    "settings", [({"shift": 12.0}, {"shift": 3.0}), ({"use_dynamic_shifting": True, "shift_terminal": 0.1},) * 2]
)
def test_the_stock_class_for_both(settings: tuple[dict[str, Any], dict[str, Any]], through_x0: bool) -> None:
    """Euler: stock schedulers, ours in their place, and streams, with shifts of their own or LTX-2's dynamic ones."""
    stock = {}
    for (name, mu), config in zip({"video": 2.05, "audio": 0.95}.items(), settings, strict=True):
        stock[name] = diffusers.FlowMatchEulerDiscreteScheduler(**config)
        ours = KSchedScheduler.from_diffusers(stock[name])
        for scheduler in (stock[name], ours):
            dynamic = {"mu": mu} if "use_dynamic_shifting" in config else {}
            scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / STEPS, STEPS).tolist(), **dynamic)
        stock[name + " ours"] = ours
    wanted = pipeline_loop(copy.deepcopy(stock["video"]), copy.deepcopy(stock["audio"]), through_x0)
    close(pipeline_loop(stock["video ours"], stock["audio ours"], through_x0), wanted)
    close(streams_of({"video": "euler", "audio": "euler"}, stock).sample(model), wanted)


@pytest.mark.parametrize(("video", "audio"), [("dpmpp_2m", "dpmpp_2m"), ("uni_pc", "euler"), ("euler", "deis")])
def test_two_samplers_of_ours(video: str, audio: str) -> None:
    samplers = {"video": video, "audio": audio}
    schedulers = {}
    for name, shift in ("video", 12.0), ("audio", 3.0):
        config = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift).config
        schedulers[name] = KSchedScheduler.from_config(config, sampler=samplers[name])
        schedulers[name].set_timesteps(STEPS)
    found = streams_of(samplers, schedulers)
    for name, scheduler in schedulers.items():
        assert torch.allclose(found.timestep[name], scheduler.timesteps[0].expand(2), atol=1e-3)
    close(found.sample(model), pipeline_loop(schedulers["video"], schedulers["audio"], through_x0=False))


def test_a_denoiser_takes_one_level_for_each_frame() -> None:
    """The network of a `Denoiser` is told a timestep for every frame, and its answer is read at the level of each."""
    told = []

    def network(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        told.append(timestep)
        return torch.tanh(x) * (1 + timestep[..., None] / 1000)

    process, x = Flow(3.0), start("video")
    sigma = torch.tensor([[0.0, 0.1, 0.2, 0.5, 0.9, 1.0]] * 2)
    denoised = Denoiser(network, process, "flow")(x, sigma)
    assert told[0].shape == (2, 6)
    for k in range(6):
        alone = Denoiser(network, process, "flow")(x[:, k], sigma[:, k])
        assert torch.allclose(denoised[:, k], alone)
