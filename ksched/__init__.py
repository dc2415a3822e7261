"""Sampling mathematics for diffusion and flow-matching models: how a model is sampled, and at which noise levels.

Names that need torch are imported when they are first used, so that schedules alone stay light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ksched import schedules
from ksched.dialects.explain import explain
from ksched.names.enums import Dialect, NoiseSchedule, SamplerType
from ksched.names.labels import parse_label
from ksched.processes import EDM, VE, VP, AngleV, Cascade, Flow, FlowVE, Level, Process
from ksched.processes.resolution_shift import mu_for_flux2, mu_for_tokens
from ksched.schedules import *
from ksched.schedules import transforms
from ksched.schedules.transforms import *

if TYPE_CHECKING:
    from ksched import exact, guidance, noise, testing
    from ksched.check.model_check import check_model
    from ksched.check.report import ModelReport
    from ksched.denoisers.denoiser import Denoiser
    from ksched.dialects import peers
    from ksched.dialects.diffusers import networks
    from ksched.execution import batch, compiled
    from ksched.execution.adaptive_run import LiveRun
    from ksched.execution.loop import StepInfo
    from ksched.execution.run import Run
    from ksched.pictures import plots
    from ksched.plan import analysis
    from ksched.plan.plan import Plan
    from ksched.probability_flow.likelihood import Likelihood, log_likelihood
    from ksched.sampler import Sampler, build_sampler
    from ksched.samplers.registry import register_sampler
    from ksched.tuning import tune

__version__ = "0.1.0"

__all__ = [
    "EDM",
    "VE",
    "VP",
    "AngleV",
    "Cascade",
    "Denoiser",
    "Dialect",
    "Flow",
    "FlowVE",
    "Level",
    "Likelihood",
    "LiveRun",
    "ModelReport",
    "NoiseSchedule",
    "Plan",
    "Process",
    "Run",
    "Sampler",
    "SamplerType",
    "StepInfo",
    "analysis",
    "batch",
    "build_sampler",
    "check_model",
    "exact",
    "explain",
    "guidance",
    "log_likelihood",
    "matrices",
    "mu_for_flux2",
    "mu_for_tokens",
    "networks",
    "noise",
    "parse_label",
    "peers",
    "plots",
    "register_sampler",
    "testing",
    "tune",
]
__all__ += transforms.__all__
__all__ += schedules.__all__

_MODULES = ("analysis", "batch", "exact", "guidance", "matrices", "networks", "noise", "peers", "plots", "testing")
_LATE = {
    "Denoiser": "denoiser",
    "Plan": "plan",
    "Likelihood": "likelihood",
    "LiveRun": "live",
    "ModelReport": "check",
    "Run": "runner",
    "Sampler": "sampler",
    "StepInfo": "loop",
    "build_sampler": "sampler",
    "check_model": "check",
    "log_likelihood": "likelihood",
    "register_sampler": "registry",
    "tune": "tuning",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"ksched.{name}")
    if name in _LATE:
        return getattr(importlib.import_module(f"ksched.{_LATE[name]}"), name)
    raise AttributeError(f"module 'ksched' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
