"""Files that an earlier version saved still load with the same meaning: states of runs, plans, pictures.

``python tests/test_saved_earlier.py`` rewrites the files with the installed version. The files in the repository were
written before the modules of the package were moved into folders.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ksched import EDM, VP, Flow, Plan, Sampler, build_sampler

SAVED = Path(__file__).parent / "data" / "saved"
SHAPE = (2, 3, 4)


def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x) / (1 + sigma.view(-1, 1, 1))


#: a run with two states a step and a seed, one on a Brownian path with uneven noise, an adaptive one; and when it stops
RUNS: dict[str, tuple[Sampler, dict[str, Any], int]] = {
    "heun_churned": (build_sampler("heun", "karras", 5, process=EDM(), s_churn=4.0), {"seed": 3}, 3),
    "sde_brownian": (build_sampler("dpmpp_2m_sde", "exponential", 6), {"seed": [5, 8], "noise": "brownian"}, 4),
    "adaptive": (build_sampler("dpm_adaptive", "karras", 6), {"seed": 1}, 7),
}
PLANS: dict[str, Sampler] = {
    "sde_vp": build_sampler("dpmpp_2m_sde", "karras", 6, process=VP()),
    "uni_pc_flow": build_sampler("uni_pc", "simple", 7, process=Flow(shift=3.0)),
    "auto_8": build_sampler("auto", steps=8),
}
PICTURES: dict[str, dict[str, Any]] = {
    "plain": {"prompt": "a red fox", "sampler": "euler_ancestral", "schedule": "karras", "steps": 30, "seed": 7},
    "options": {
        "prompt": "ein Bär, 熊",
        "sampler": "dpmpp_2m_sde",
        "sampler_options": {"eta": 0.5},
        "guidance_scale": 3.5,
    },
    "auto": {"prompt": "a lamp", "negative_prompt": "dark", "sampler": "auto", "steps": 8, "width": 256, "height": 512},
}


def start(sampler: Sampler) -> torch.Tensor:
    size = torch.Size(SHAPE).numel()
    return torch.linspace(-1, 1, size).reshape(SHAPE) * float(sampler.sigmas[0])


@pytest.mark.parametrize("name", RUNS)
def test_a_state_goes_on(name: str) -> None:
    sampler, how, _ = RUNS[name]
    saved = torch.load(SAVED / f"{name}.pt", weights_only=True)
    run = sampler.start(start(sampler), **how)
    run.load_state_dict(saved["state"])
    while not run.done:
        run.feed(model(run.x, run.sigma))
    torch.testing.assert_close(run.x, saved["result"], rtol=1e-5, atol=1e-6)
    whole = sampler.sample(model, start(sampler), **how)
    torch.testing.assert_close(whole, saved["result"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_is_the_same(name: str) -> None:
    text = (SAVED / f"{name}.json").read_text(encoding="utf-8")
    plan = Plan.from_json(text)
    assert json.loads(plan.to_json()) == json.loads(text)
    expected = torch.load(SAVED / f"{name}.pt", weights_only=True)
    sampler = build_sampler(plan, process=PLANS[name].process)
    found = sampler.sample(model, start(sampler), seed=4)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_says_how_it_was_made(name: str) -> None:
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    from ksched.stable_diffusion import SamplingConfig, read_config

    assert read_config(SAVED / f"{name}.png") == SamplingConfig(**PICTURES[name])


def write() -> None:
    """Write the files with the version that is installed."""
    from PIL import Image

    from ksched.stable_diffusion import SamplingConfig, save_png
    from ksched.stable_diffusion.files import CONFIG

    SAVED.mkdir(parents=True, exist_ok=True)
    for name, (sampler, how, calls) in RUNS.items():
        run = sampler.start(start(sampler), **how)
        for _ in range(calls):
            run.feed(model(run.x, run.sigma))
        state = run.state_dict()
        torch.save({"state": state, "result": sampler.sample(model, start(sampler), **how)}, SAVED / f"{name}.pt")
    for name, sampler in PLANS.items():
        (SAVED / f"{name}.json").write_text(sampler.plan.to_json(), encoding="utf-8")
        torch.save(sampler.sample(model, start(sampler), seed=4), SAVED / f"{name}.pt")
    for name, config in PICTURES.items():
        image = Image.new("RGB", (8, 8), "white")
        image.info[CONFIG] = SamplingConfig(**config).to_json()
        save_png(image, SAVED / f"{name}.png")


if __name__ == "__main__":
    write()
