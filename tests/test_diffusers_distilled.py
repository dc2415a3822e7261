"""`KSchedScheduler` in place of LCM's and TCD's schedulers: arguments of `set_timesteps`, and results."""

from __future__ import annotations

from typing import Any

import pytest
import torch

diffusers = pytest.importorskip("diffusers")

from ksched.integrations.diffusers.scheduler import KSchedScheduler  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def lcm(**config: Any) -> Any:
    return diffusers.LCMScheduler(**{**SD, **config})


def test_row_17_timesteps_of_lcm() -> None:
    ours = KSchedScheduler.from_diffusers(lcm())
    ours.set_timesteps(4, original_inference_steps=50)
    assert ours.timesteps.tolist() == [999, 759, 499, 259]


ASKED: list[dict[str, Any]] = [
    {"num_inference_steps": 4},
    {"num_inference_steps": 4, "original_inference_steps": 50},
    {"num_inference_steps": 4, "original_inference_steps": 25},
    {"num_inference_steps": 3, "original_inference_steps": 100, "strength": 0.6},
    {"num_inference_steps": 4, "original_inference_steps": None, "strength": 0.5},
    {"num_inference_steps": 1, "strength": 0.3},
    {"timesteps": [999, 499, 259, 19]},
    {"timesteps": [999, 700, 259, 19], "original_inference_steps": 10, "strength": 0.5},
]


def run(scheduler: Any, asked: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """The last state, and the last prediction, which the pipelines decode."""
    scheduler.set_timesteps(**asked)
    generator, x = torch.Generator().manual_seed(0), torch.linspace(-2, 2, 48).view(1, 3, 4, 4)
    denoised = x
    for t in scheduler.timesteps:
        output = torch.tanh(0.8 * x + t / 1000)
        x, denoised = scheduler.step(output, t, x, generator=generator, return_dict=False)
    return x, denoised


@pytest.mark.parametrize("config", [{}, {"timestep_scaling": 0.01, "original_inference_steps": 20}], ids=str)
@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_as_lcm(asked: dict[str, Any], config: dict[str, Any]) -> None:
    stock = lcm(**config)
    ours = KSchedScheduler.from_diffusers(stock)
    (x, denoised), (want, want_denoised) = run(ours, asked), run(stock, asked)
    assert ours.timesteps.tolist() == stock.timesteps.tolist()
    assert ours.timesteps.dtype == stock.timesteps.dtype
    torch.testing.assert_close(denoised, want_denoised, rtol=1e-4, atol=1e-4)
    if not ("timesteps" in asked and "strength" in asked):  # theirs ends on noise there, which no pipeline looks at
        torch.testing.assert_close(x, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("asked", [*ASKED[:6], {"timesteps": [999, 499, 259, 19]}], ids=str)
def test_as_tcd(asked: dict[str, Any]) -> None:
    stock = diffusers.TCDScheduler()
    ours = KSchedScheduler.from_diffusers(stock)
    ours.set_timesteps(**asked)
    stock.set_timesteps(**asked)
    assert ours.timesteps.tolist() == stock.timesteps.tolist()


@pytest.mark.parametrize(
    "asked",
    [
        {"num_inference_steps": 51},
        {"num_inference_steps": 20, "strength": 0.2},
        {"num_inference_steps": 4, "original_inference_steps": 1001},
        {"num_inference_steps": 5, "original_inference_steps": 4},
        {"timesteps": [259, 499]},
        {"timesteps": [1000, 499]},
        {"num_inference_steps": 4, "timesteps": [999, 499]},
        {},
    ],
    ids=str,
)
def test_what_lcm_refuses(asked: dict[str, Any]) -> None:
    for scheduler in (lcm(), KSchedScheduler.from_diffusers(lcm())):
        with pytest.raises(ValueError):  # noqa: PT011 - the words are each one's own
            scheduler.set_timesteps(**asked)


@pytest.mark.parametrize("strength", [0.0, -0.5, 1.5, float("nan"), "half"])
@pytest.mark.parametrize("how", [{}, {"sampler": "dpmpp_2m", "schedule": "karras"}], ids=str)
def test_strength_out_of_range(how: dict[str, Any], strength: Any) -> None:
    ours = KSchedScheduler.from_diffusers(lcm(), **how)
    with pytest.raises((TypeError, ValueError), match="strength must be"):
        ours.set_timesteps(4, strength=strength)


@pytest.mark.parametrize("original", [0, -1, 2.5, True])
@pytest.mark.parametrize("how", [{}, {"sampler": "dpmpp_2m", "schedule": "karras"}], ids=str)
def test_original_steps_out_of_range(how: dict[str, Any], original: Any) -> None:
    ours = KSchedScheduler.from_diffusers(lcm(), **how)
    with pytest.raises((TypeError, ValueError), match="original_inference_steps must be"):
        ours.set_timesteps(4, original_inference_steps=original)


def test_other_classes_take_neither() -> None:
    euler = KSchedScheduler.from_diffusers(diffusers.EulerDiscreteScheduler(**SD))
    with pytest.raises(ValueError, match="takes no strength"):
        euler.set_timesteps(4, strength=0.5)
    with pytest.raises(ValueError, match="takes no original_inference_steps"):
        euler.set_timesteps(4, original_inference_steps=50)
    flow = KSchedScheduler.from_config(
        diffusers.FlowMatchEulerDiscreteScheduler().config, sampler="dpmpp_2m", schedule="simple"
    )
    with pytest.raises(ValueError, match="strength"):
        flow.set_timesteps(4, strength=0.5)
    euler.set_timesteps(4, original_inference_steps=None, strength=1.0)
    assert len(euler.timesteps) == 4


@pytest.mark.parametrize("how", [
    {"sampler": "lcm"}, {"sampler": "dpmpp_2m"}, {"schedule": "simple"}, {"sampler": "lcm", "schedule": "simple"},
    {"sampler": "dpmpp_2m", "schedule": "karras"}, {"sampler": "tcd", "schedule": "sgm_uniform"},
    {"sampler": "euler", "schedule": "normal"},
], ids=str)  # fmt: skip
def test_other_samplers_begin_where_the_strength_says(how: dict[str, Any]) -> None:
    """The image was noised to the level of ``strength``, so the run begins there. A perfect model ends clean."""
    ours = KSchedScheduler.from_diffusers(lcm(), **how)
    ours.set_timesteps(4, original_inference_steps=50, strength=0.5)
    assert 479 <= float(ours.timesteps[0]) <= 499
    assert len(ours.timesteps) == 4
    x = ours.add_noise(torch.full((1, 3, 4, 4), 2.0), torch.ones(1, 3, 4, 4), ours.timesteps[:1])
    for t in ours.timesteps:
        level = ours._iterations.levels[ours._index(t)]
        x, _ = ours.step((x - 2 * level.alpha) / level.sigma, t, x, torch.Generator(), return_dict=False)
    torch.testing.assert_close(x, torch.full_like(x, 2.0), rtol=0, atol=1e-4)


def test_a_copy_keeps_what_was_asked() -> None:
    import copy

    ours = KSchedScheduler.from_diffusers(lcm())
    ours.set_timesteps(3, original_inference_steps=100, strength=0.6)
    other = copy.deepcopy(ours)
    assert other.timesteps.tolist() == ours.timesteps.tolist()
    assert other._iterations.timesteps.tolist() == ours._iterations.timesteps.tolist()
    ours.set_timesteps(3)  # and nothing of it is left for the next run
    assert ours.timesteps[0] == 999


def test_a_share_of_a_timestep_is_cut_as_it_is_meant() -> None:
    """0.7 times 360 is 252, in double precision 251.99999999999997."""
    stock = diffusers.TCDScheduler()
    x = torch.linspace(-1, 1, 12).view(1, 3, 2, 2)
    results = []
    for scheduler in (stock, KSchedScheduler.from_diffusers(stock)):
        scheduler.set_timesteps(timesteps=[799, 360, 100])
        state, generator = x, torch.Generator().manual_seed(0)
        for t in scheduler.timesteps:
            state = scheduler.step(0.3 * state, t, state, eta=0.3, generator=generator).prev_sample
        results.append(state)
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-5)
