"""`KSchedScheduler` inside real pipelines of diffusers, with tiny networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from cases import process_for  # noqa: E402
from representatives import in_turn, is_form, is_schedule_form, short  # noqa: E402
from tiny_pipelines import REGISTRY, Tiny, build, rng, toy_image  # noqa: E402
from tiny_video_pipelines import MORE, build_more  # noqa: E402

from ksched import NoiseSchedule, SamplerType  # noqa: E402
from ksched.integrations.diffusers.scheduler import KSchedScheduler  # noqa: E402
from ksched.samplers.registry import sampler_spec  # noqa: E402

# what diffusers and transformers warn of is their own affair
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::ResourceWarning"),
]

_built: dict[str, tuple[Tiny, Any]] = {}


def pipeline(name: str) -> tuple[Tiny, Any]:
    """A pipeline, built once, and the scheduler that it ships with."""
    if name not in _built:
        tiny = build_more(name) if name in MORE else build(name)
        _built[name] = tiny, tiny.pipe.scheduler
    tiny, shipped = _built[name]
    return tiny.use(shipped), shipped


def check_same_image(name: str, cls: str | None, steps: int) -> None:
    """By the scheduler that the pipeline ships with (None), or another that fits."""
    tiny, stock = pipeline(name)
    if cls is not None:
        stock = tiny.use_stock(cls).pipe.scheduler
    want = tiny.run(steps)
    got = tiny.use(KSchedScheduler.from_diffusers(stock)).run(steps)
    assert np.isfinite(want).all()
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4 * max(1.0, float(np.abs(want).max())), err_msg=str(cls))


@short(lambda name, steps: steps == 3)
@pytest.mark.parametrize("steps", [3, 8])
@pytest.mark.parametrize("name", REGISTRY)
def test_the_same_image_as_the_stock_scheduler(name: str, steps: int) -> None:
    check_same_image(name, None, steps)


def others(name: str) -> list[str]:
    tiny, shipped = pipeline(name)
    return [cls for cls in tiny.stock if cls != type(shipped).__name__]


@short(lambda name: name in list(REGISTRY)[::3])
@pytest.mark.parametrize("name", REGISTRY)
def test_the_same_image_as_one_other_stock_scheduler(name: str) -> None:
    for cls in others(name)[:1]:
        check_same_image(name, cls, 5)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", REGISTRY)
def test_the_same_image_as_every_other_stock_scheduler(name: str) -> None:
    for cls in others(name)[1:]:
        check_same_image(name, cls, 5)


PLAYABLE = [name for name in SamplerType if not sampler_spec(name).uncond and not sampler_spec(name).adaptive]


def finite_and_repeatable(tiny: Tiny, scheduler: Any, steps: int = 4) -> None:
    first = tiny.use(scheduler).run(steps)
    assert np.isfinite(first).all()
    assert np.array_equal(first, tiny.run(steps))


WHERE = [("sd15", "karras"), ("sd15", "simple"), ("sd15_img2img", "karras"), ("flux", "simple")]


@short(lambda name, sampler, schedule: is_form(sampler) and schedule == dict(WHERE[1:])[name])
@pytest.mark.parametrize("sampler", PLAYABLE)
@pytest.mark.parametrize(("name", "schedule"), WHERE)
def test_samplers(name: str, sampler: str, schedule: str) -> None:
    if process_for(sampler).is_flow:
        name, schedule = WHERE[-1]
    tiny, shipped = pipeline(name)
    finite_and_repeatable(tiny, KSchedScheduler.from_config(shipped.config, sampler=str(sampler), schedule=schedule))


@short(lambda name, sampler, schedule: sampler == "euler" and is_schedule_form(schedule))
@pytest.mark.parametrize("schedule", list(NoiseSchedule))
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
@pytest.mark.parametrize("name", ["sd15", "flux"])
def test_schedules(name: str, sampler: str, schedule: str) -> None:
    tiny, shipped = pipeline(name)
    finite_and_repeatable(tiny, KSchedScheduler.from_config(shipped.config, sampler=sampler, schedule=str(schedule)))


SEVERAL_CALLS_AND_NOISE = ["heun", "dpmpp_2m_sde"]


@short(
    lambda name, sampler: (
        name in list(REGISTRY)[1::4] and sampler == in_turn(list(REGISTRY).index(name) // 4, SEVERAL_CALLS_AND_NOISE)
    )
)
@pytest.mark.parametrize("sampler", SEVERAL_CALLS_AND_NOISE)
@pytest.mark.parametrize("name", list(REGISTRY))
def test_every_pipeline(name: str, sampler: str) -> None:
    tiny, shipped = pipeline(name)
    finite_and_repeatable(tiny, KSchedScheduler.from_diffusers(shipped, sampler=sampler, schedule="karras"), 6)


@short(lambda name: name in list(REGISTRY)[::4])
@pytest.mark.parametrize("name", list(REGISTRY))
def test_another_schedule_alone(name: str) -> None:
    tiny, shipped = pipeline(name)
    finite_and_repeatable(tiny, KSchedScheduler.from_diffusers(shipped, schedule="karras"))


@pytest.mark.parametrize("given", [{"timesteps": [999, 499, 259, 19]}, {"original_inference_steps": 100}], ids=str)
@pytest.mark.parametrize("name", ["lcm", "lcm_img2img"])
def test_what_lcm_pipelines_hand_on(name: str, given: dict[str, Any]) -> None:
    tiny, shipped = pipeline(name)
    how = {"num_inference_steps": 3, "output_type": "np", **given}
    how |= {"image": toy_image(), "strength": 0.8} if name == "lcm_img2img" else {"height": 32, "width": 32}
    images = [
        tiny.use(scheduler).pipe("a red fox", generator=rng(), **how).images
        for scheduler in (shipped, KSchedScheduler.from_diffusers(shipped))
    ]
    np.testing.assert_allclose(images[1], images[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["lcm", "lcm_img2img"])
def test_what_stable_diffusion_says_of_other_pipelines(name: str) -> None:
    from ksched.stable_diffusion import StableDiffusion

    tiny, shipped = pipeline(name)
    says = r"pipe.scheduler = KSchedScheduler.from_diffusers\(pipe.scheduler, sampler=..., schedule=...\)"
    with pytest.raises(ValueError, match=says):
        StableDiffusion(tiny.pipe)
    finite_and_repeatable(tiny, KSchedScheduler.from_diffusers(shipped, sampler="lcm", schedule="simple"))


def test_a_schedule_takes_effect_where_pipelines_bring_a_list() -> None:
    tiny, shipped = pipeline("flux")
    images = []
    for schedule in ("simple", "karras"):
        ours = KSchedScheduler.from_config(shipped.config, sampler="euler", schedule=schedule)
        images.append(tiny.use(ours).run(4))
    assert np.abs(images[0] - images[1]).max() > 1e-3


def test_saved_with_the_pipeline(tmp_path: Path) -> None:
    tiny, shipped = pipeline("ddpm")
    ours = KSchedScheduler.from_config(shipped.config, sampler="dpmpp_2m", schedule="karras")
    want = tiny.use(ours).run(4)
    tiny.pipe.save_pretrained(tmp_path)
    again = diffusers.DDPMPipeline.from_pretrained(tmp_path)
    again.set_progress_bar_config(disable=True)
    assert type(again.scheduler) is KSchedScheduler
    assert again.scheduler.config.sampler == "dpmpp_2m"
    np.testing.assert_array_equal(tiny.use(again.scheduler).run(4), want)
    handed = diffusers.DDPMPipeline.from_pretrained(tmp_path, scheduler=ours)
    assert handed.scheduler is ours


def test_noise_of_a_seed_needs_no_generator() -> None:
    tiny, shipped = pipeline("sd3")
    how = {"sampler": "euler_ancestral", "schedule": "simple"}
    images = [
        tiny.use(KSchedScheduler.from_config(shipped.config, **how, noise_seed=seed)).run(4) for seed in (1, 1, 2)
    ]
    assert np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


# ------------------------------------------------------- pipelines that ask more of a scheduler than a loop does
@short(lambda name, steps: steps == 3)
@pytest.mark.parametrize("steps", [3, 6])
@pytest.mark.parametrize("name", MORE)
def test_rows_18_to_24_the_same_image_as_the_stock_scheduler(name: str, steps: int) -> None:
    check_same_image(name, None, steps)


OWN: list[dict[str, Any]] = [{"sampler": "dpmpp_2m"}, {"sampler": "dpmpp_2m_sde", "noise_seed": 1}]


def test_row_24_two_steps_of_sana_sprint() -> None:
    check_same_image("sana_sprint", None, 2)


def test_row_24_cogvideox_with_its_dpm_class() -> None:
    check_same_image("cogvideox", "CogVideoXDPMScheduler", 5)


@short(lambda name, how: how == in_turn(list(MORE).index(name), OWN))
@pytest.mark.parametrize("how", OWN, ids=str)
@pytest.mark.parametrize("name", MORE)
def test_rows_18_to_24_with_own_samplers(name: str, how: dict[str, Any]) -> None:
    tiny, shipped = pipeline(name)
    finite_and_repeatable(tiny, KSchedScheduler.from_diffusers(shipped, **how))


@pytest.mark.parametrize("name", ["cosmos1", "cosmos2", "cosmos2_video", "sana_sprint", "anyflow"])
def test_rows_18_to_24_with_own_schedules(name: str) -> None:
    tiny, shipped = pipeline(name)
    images = []
    for schedule in ("karras", "exponential"):
        ours = KSchedScheduler.from_diffusers(shipped, sampler="euler", schedule=schedule)
        images.append(tiny.use(ours).run(4))
        assert np.isfinite(images[-1]).all()
    assert np.abs(images[0] - images[1]).max() > 1e-3


@pytest.mark.parametrize("name", ["cogview4", "mochi", "ltx_condition"])
def test_row_6_pipelines_whose_list_goes_before_a_schedule(name: str) -> None:
    tiny, shipped = pipeline(name)
    ours = KSchedScheduler.from_diffusers(shipped, sampler="dpmpp_2m", schedule="karras")
    with pytest.warns(UserWarning, match="overrides schedule='karras'"):
        got = tiny.use(ours).run(3)
    np.testing.assert_array_equal(got, tiny.use(KSchedScheduler.from_diffusers(shipped, sampler="dpmpp_2m")).run(3))


# ------------------------------------------------- loops of pipelines whose encoders are too large to be made here
def velocity(x: torch.Tensor, t: Any) -> torch.Tensor:
    return torch.tanh(0.8 * x + 0.001 * float(t)) - 0.3 * x


def glm_image(scheduler: Any, x: torch.Tensor) -> torch.Tensor:
    told = np.linspace(scheduler.config.num_train_timesteps, 1.0, 6 + 1)[:-1].astype(np.int64).astype(np.float32)
    scheduler.set_timesteps(timesteps=told, sigmas=told / scheduler.config.num_train_timesteps, mu=0.7)
    for t in scheduler.timesteps:
        x = scheduler.step(velocity(x, t - 1), t, x, return_dict=False)[0]
    return x


def log_snr_levels(count: int, top: float) -> list[float]:
    """Stable Audio 3's levels; from an audio, whose noise is less, the list rises at its first step."""
    t = torch.linspace(top, 0.0, count + 1)
    sigmas = torch.sigmoid(-(6.0 - t * (6.0 + 2.0)))
    sigmas[0] = top
    return sigmas[:-1].tolist()


def stable_audio(scheduler: Any, x: torch.Tensor, top: float = 1.0) -> torch.Tensor:
    scheduler.set_timesteps(sigmas=log_snr_levels(8, top))
    generator = rng(3)
    for t in scheduler.timesteps:
        x = scheduler.step(velocity(x, t), t, x, generator=generator).prev_sample
    return x


def stable_audio_from_audio(scheduler: Any, x: torch.Tensor) -> torch.Tensor:
    return stable_audio(scheduler, 0.4 * torch.ones_like(x) + 0.6 * x, 0.6)


def chrono_edit(scheduler: Any, x: torch.Tensor) -> torch.Tensor:
    """Frames are dropped in the middle of a run, and from what the scheduler remembers."""
    scheduler.set_timesteps(6)
    for i, t in enumerate(scheduler.timesteps):
        if i == 3:
            x = x[:, :, [0, -1]]
            for j in range(len(scheduler.model_outputs)):
                if scheduler.model_outputs[j] is not None and x.shape[-3] != scheduler.model_outputs[j].shape[-3]:
                    scheduler.model_outputs[j] = scheduler.model_outputs[j][:, :, [0, -1]]
            if scheduler.last_sample is not None:
                scheduler.last_sample = scheduler.last_sample[:, :, [0, -1]]
        x = scheduler.step(velocity(x, t), t, x, return_dict=False)[0]
    return x


FLOW = diffusers.FlowMatchEulerDiscreteScheduler
LOOPS: dict[str, tuple[Any, Any]] = {
    "GLM-Image": (glm_image, FLOW(use_dynamic_shifting=True, time_shift_type="linear")),
    "Stable Audio 3": (stable_audio, FLOW()),
    "Stable Audio 3, post-trained": (stable_audio, FLOW(stochastic_sampling=True)),
    "Stable Audio 3, from audio": (stable_audio_from_audio, FLOW()),
    "Stable Audio 3, from audio, post-trained": (stable_audio_from_audio, FLOW(stochastic_sampling=True)),
    "ChronoEdit": (
        chrono_edit,
        diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0),
    ),
}


@pytest.mark.parametrize("name", LOOPS)
def test_rows_6_and_21_loops_as_stock(name: str) -> None:
    loop, stock = LOOPS[name]
    x = torch.randn(1, 4, 5, 2, 2, generator=rng(1))
    want, got = (loop(scheduler, x) for scheduler in (stock, KSchedScheduler.from_diffusers(stock)))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "euler"])
@pytest.mark.parametrize("name", [name for name in LOOPS if name != "ChronoEdit"])
def test_rows_6_and_21_loops_with_own_samplers(name: str, sampler: str) -> None:
    loop, stock = LOOPS[name]
    x = torch.randn(1, 4, 5, 2, 2, generator=rng(1))
    assert torch.isfinite(loop(KSchedScheduler.from_diffusers(stock, sampler=sampler), x)).all()
