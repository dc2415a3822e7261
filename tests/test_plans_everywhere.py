"""`auto` and plans as JSON text, in every integration: they run exactly as in `build_sampler`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_comfy
import numpy as np
import pytest
import torch

import ksched
from ksched import VP, Plan, build_sampler
from ksched.execution.loop import run_plan
from ksched.integrations import k_diffusion
from ksched.integrations.comfyui.nodes import NODES
from ksched.stable_diffusion import SamplingConfig

PLAN = replace(build_sampler("auto", steps=5).plan, report={"why": "a test"})
MODEL = ksched.exact.Gaussian(np.zeros(12), np.geomspace(1, 0.01, 12))
X = torch.randn(2, 12, generator=torch.Generator().manual_seed(0)) * VP().sigma_max


def test_k_diffusion() -> None:
    sampler = build_sampler("auto", steps=5)
    sigmas = torch.from_numpy(np.array(sampler.sigmas)).float()
    found = k_diffusion.sample_auto(MODEL, X, sigmas, disable=True, process=VP())
    torch.testing.assert_close(found, sampler.sample(MODEL, X), rtol=1e-5, atol=1e-5)
    assert "sample_auto" in dir(k_diffusion)


def test_comfyui_nodes() -> None:
    nodes = {node.name: node for node in NODES}
    sampling = fake_comfy.sampling(fake_comfy.EPS, fake_comfy.ModelSamplingDiscrete)
    model = SimpleNamespace(get_model_object=lambda name: sampling)
    for plan in ("auto", PLAN.to_json()):
        sigmas = nodes["KSchedPlanSigmas"].run(model=model, plan=plan, steps=5)
        assert sigmas.tolist() == pytest.approx(list(PLAN.sigmas), rel=1e-4)
        with fake_comfy.installed():
            function = nodes["KSchedPlanSampler"].run(plan=plan).sampler_function
        found = function(Told(sampling), X, sigmas, extra_args={"seed": 0})
        torch.testing.assert_close(found, run_plan(PLAN, MODEL, X), rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="takes a schedule"):
        nodes["KSchedPlanSigmas"].run(model=model, plan="euler", steps=5)
    with pytest.raises(ValueError, match="the plan has 5 steps"):
        nodes["KSchedPlanSigmas"].run(model=model, plan=PLAN.to_json(), steps=9)


class Told:
    """A model as ComfyUI's samplers are given it."""

    def __init__(self, sampling: Any) -> None:
        self.inner_model = SimpleNamespace(inner_model=SimpleNamespace(model_sampling=sampling))

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, **_: Any) -> torch.Tensor:
        return MODEL(x, sigma)


def test_a_configuration_carries_the_plan() -> None:
    config = SamplingConfig("a fox", sampler=PLAN.to_json(), steps=5)
    for again in (SamplingConfig.from_json(config.to_json()), SamplingConfig.from_toml(config.to_toml())):
        assert again == config
        assert Plan.from_json(again.sampler) == PLAN
        assert Plan.from_json(again.sampler).report == PLAN.report
    assert SamplingConfig("a fox", sampler="auto", sampler_options={"end": "denoised"}).sampler == "auto"


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"sampler": PLAN.to_json()}, "steps must be 5"),
        ({"sampler": PLAN.to_json(), "steps": 5, "schedule": "karras"}, "has its own sigmas; leave out schedule"),
        ({"sampler": "auto", "schedule_options": {"sigma_max": 3.0}}, "leave out schedule_options|no option"),
        ({"sampler": '{"format": 3}'}, "not a ksched plan"),
        ({"sampler": "auto", "sampler_options": {"end": "now"}}, "end must be one of"),
    ],
)
def test_a_configuration_refuses_what_does_not_go_together(how: dict[str, Any], said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        SamplingConfig("a fox", **how)


# ---------------------------------------------------------------------------------------------------------- diffusers


def scheduler(**how: Any) -> Any:
    pytest.importorskip("diffusers")
    from diffusers import EulerDiscreteScheduler

    from ksched.integrations.diffusers.scheduler import KSchedScheduler

    stock = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    return KSchedScheduler.from_config(stock.config, **how)


@pytest.mark.parametrize("sampler", ["auto", PLAN.to_json()], ids=["auto", "plan"])
def test_a_scheduler_of_diffusers_runs_it(sampler: str, tmp_path: Path) -> None:
    made = scheduler(sampler=sampler)
    made.save_pretrained(tmp_path)
    for ours in (made, type(made).from_pretrained(tmp_path)):
        ours.set_timesteps(5)
        assert len(ours.timesteps) == 5
        x = X / VP().sigma_max * ours.init_noise_sigma
        for t in ours.timesteps:
            level = float(ours.sigmas[int((ours.timesteps == t).nonzero())])
            denoised = MODEL(x, level)
            x = ours.step((x - denoised) / level, t, x).prev_sample
        torch.testing.assert_close(x, run_plan(PLAN, MODEL, X), rtol=1e-3, atol=1e-3)


def test_a_scheduler_goes_on_from_the_middle() -> None:
    """As for image to image: the end of the levels, by the general method."""
    plan = build_sampler("auto", steps=5, consistent=True).plan  # others start at the sigma that the model receives
    ours = scheduler(sampler=plan.to_json())
    ours.set_timesteps(5)
    ours.set_begin_index(2)
    x = torch.randn(2, 12, generator=torch.Generator().manual_seed(1)) * float(ours.sigmas[2])
    want = build_sampler(plan, sigmas=plan.sigmas[2:]).sample(MODEL, x)
    for k in range(2, 5):
        level = float(ours.sigmas[k])
        x = ours.step((x - MODEL(x, level)) / level, ours.timesteps[k], x).prev_sample
    torch.testing.assert_close(x, want, rtol=1e-3, atol=1e-3)


def test_a_scheduler_refuses_another_number_of_steps_and_a_schedule() -> None:
    with pytest.raises(ValueError, match="the plan has 5 steps"):
        scheduler(sampler=PLAN.to_json()).set_timesteps(8)
    with pytest.raises(ValueError, match="has its own sigmas"):
        scheduler(sampler="auto", schedule="karras")


@pytest.mark.parametrize("name", ["sd15", "flux", "sd15_img2img"])
def test_pipelines_run_auto(name: str) -> None:
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    from tiny_pipelines import build

    from ksched.integrations.diffusers.scheduler import KSchedScheduler

    tiny = build(name)
    ours = KSchedScheduler.from_config(tiny.pipe.scheduler.config, sampler="auto")
    first = tiny.use(ours).run(6)
    assert np.isfinite(first).all()
    assert len(ours.timesteps) == 6 or name == "sd15_img2img"
    process = ours._iterations.method.process
    if name != "sd15_img2img":
        plan = build_sampler("auto", steps=6, process=process).plan
        want = [*plan.call_sigmas, 0.0]  # pipelines show the sigmas that the model receives
        assert ours.sigmas.tolist() == pytest.approx(want, rel=1e-5)
