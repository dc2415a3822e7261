"""`KSchedScheduler` inside real pipelines of diffusers, with tiny networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from representatives import in_turn, is_form, is_schedule_form, short  # noqa: E402
from tiny_pipelines import REGISTRY, Tiny, build, rng, toy_image  # noqa: E402

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
        tiny = build(name)
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
    return [cls for cls in tiny.stock if cls not in (type(shipped).__name__, "CogVideoXDPMScheduler")]


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
