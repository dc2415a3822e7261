"""Turn a recorded run of a diffusers scheduler into one call of our public API (the runs: golden/README).

``run_diffusers_case(case)`` returns the final sample, or None if no option of ours reproduces it; ``reason(case)`` then
says why.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

import ksched
from ksched.dialects.diffusers.classes import request_of
from ksched.dialects.diffusers.level_blocks import DiffusersLevels
from ksched.dialects.diffusers.request import NotRepresentedError, Request
from ksched.execution.loop import drive
from ksched.execution.run import Run

Settings = Mapping[str, Any]


#: what of these classes has clip_sample=True by default
CLIPPED = ("DDIM", "DDPM")


def request(case: Mapping[str, Any]) -> Request | str:
    """What the package makes of a case, or why it makes nothing of it."""
    if case.get("error"):
        return f"it raises {case['error']}"
    sigmas = None if case.get("sigmas") is None else np.array(case["sigmas"])
    levels = DiffusersLevels(sigmas, np.array(case["timesteps"]))
    steps = case["n"] or len(case["timesteps"])
    try:
        return request_of(f"{case['sampler']}Scheduler", case["config"], levels, steps, case["step_kwargs"])
    except NotRepresentedError as error:
        return str(error)


def reason(case: Mapping[str, Any]) -> str | None:
    """Why a run is not repeated, None if it is."""
    asked = request(case)
    return asked if isinstance(asked, str) else None


def run_diffusers_case(case: Mapping[str, Any]) -> Any:
    """The final sample of a case, None if it has a `reason`."""
    asked = request(case)
    if isinstance(asked, str):
        return None
    if asked.literal is not None:
        plan = asked.literal(0, {})
    else:
        plan = ksched.build_sampler(
            asked.sampler, sigmas=asked.sigmas, process=asked.process, dialect="diffusers", **asked.options
        ).plan

    def raw(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        level = asked.process.level(float(sigma[0]))
        return torch.from_numpy(case["_denoise"](x.numpy(), level.alpha, level.sigma))

    edited = wrapped(raw, case["config"], case["sampler"])

    calls = 0

    def model(x: torch.Tensor, sigma: torch.Tensor) -> Any:
        nonlocal calls
        calls += 1
        return (edited(x, sigma), raw(x, sigma)) if asked.pair else edited(x, sigma)

    drawn = 0

    def noise(sigma_from: float, sigma_to: float) -> torch.Tensor:
        nonlocal drawn
        number = asked.sigmas.index(sigma_from) if asked.noise_by_step else drawn + sum(asked.draws_before[:calls])
        drawn += 1
        return torch.from_numpy(np.asarray(case["_noise"][number]))

    return drive(Run(plan, torch.from_numpy(np.asarray(case["_x"])), noise=noise), model).numpy()


def wrapped(model: Any, s: Settings, scheduler: str) -> Any:
    """The model with what the class does to its predictions."""
    if s.get("thresholding"):
        return ksched.guidance.dynamic_thresholding(
            model, s.get("dynamic_thresholding_ratio", 0.995), s.get("sample_max_value", 1.0)
        )
    if s.get("clip_sample", scheduler in CLIPPED):
        most = s.get("clip_sample_range", 1.0)
        return ksched.guidance.clip(model, -most, most)
    return model
