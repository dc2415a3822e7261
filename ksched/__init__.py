"""Samplers, noise schedules and plans for diffusion and flow-matching models.

Names that need torch are imported on first use, so importing the schedules alone stays cheap.
"""

from __future__ import annotations

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from ksched import schedules
from ksched.dialects.explain import explain
from ksched.kernels.torch_needed import torch_needed
from ksched.names.enums import Dialect, NoiseSchedule, Prediction, SamplerType
from ksched.names.labels import parse_label
from ksched.names.sampler_type import SamplerName, ScheduleName
from ksched.options import window
from ksched.processes import EDM, VE, VP, AngleV, Cascade, Flow, FlowVE, Level, Process, TrigFlow
from ksched.processes.resolution_shift import mu_for_flux2, mu_for_tokens
from ksched.schedules import (
    calculate_ddim_uniform_sigmas,
    calculate_exponential_sigmas,
    calculate_karras_sigmas,
    calculate_sgm_uniform_sigmas,
    calculate_sigmas,
    calculate_simple_sigmas,
    few_step,
    register_schedule,
)

if TYPE_CHECKING:
    from ksched import arrays, exact, guidance, joint_runs, noise, testing
    from ksched.check.model_check import check_model
    from ksched.check.report import ModelReport
    from ksched.denoisers.denoiser import Denoiser
    from ksched.denoisers.flow_map import FlowMap
    from ksched.dialects import peers
    from ksched.dialects.diffusers import networks
    from ksched.execution import batch
    from ksched.execution.adaptive_run import AdaptiveRun
    from ksched.execution.loop import StepInfo
    from ksched.execution.parallel import RoundInfo
    from ksched.execution.run import Run
    from ksched.joint_runs.frames import Frames, frames
    from ksched.joint_runs.streams import Streams
    from ksched.model_settings.library import recipes
    from ksched.pictures import plots
    from ksched.plan import analysis
    from ksched.plan.plan import Plan
    from ksched.policy import steering as steer
    from ksched.policy.trajectory import Trajectory
    from ksched.policy.transitions import Transition
    from ksched.probability_flow.likelihood import Likelihood, log_likelihood
    from ksched.sampler import Sampler, build_sampler
    from ksched.samplers.registry import register_sampler
    from ksched.samplers.telling import tell
    from ksched.tuning import tune

__version__ = "0.1.0"

__all__ = [
    "EDM",
    "VE",
    "VP",
    "AdaptiveRun",
    "AngleV",
    "Cascade",
    "Denoiser",
    "Dialect",
    "Flow",
    "FlowMap",
    "FlowVE",
    "Frames",
    "Level",
    "Likelihood",
    "ModelReport",
    "NoiseSchedule",
    "Plan",
    "Prediction",
    "Process",
    "RoundInfo",
    "Run",
    "Sampler",
    "SamplerName",
    "SamplerType",
    "ScheduleName",
    "StepInfo",
    "Streams",
    "Trajectory",
    "Transition",
    "TrigFlow",
    "analysis",
    "arrays",
    "batch",
    "build_sampler",
    "calculate_ddim_uniform_sigmas",
    "calculate_exponential_sigmas",
    "calculate_karras_sigmas",
    "calculate_sgm_uniform_sigmas",
    "calculate_sigmas",
    "calculate_simple_sigmas",
    "check_model",
    "exact",
    "explain",
    "few_step",
    "frames",
    "guidance",
    "joint_runs",
    "log_likelihood",
    "mu_for_flux2",
    "mu_for_tokens",
    "networks",
    "noise",
    "parse_label",
    "peers",
    "plots",
    "recipes",
    "register_sampler",
    "register_schedule",
    "schedules",
    "steer",
    "tell",
    "testing",
    "tune",
    "window",
]

#: public modules in subfolders, each available as ``ksched.NAME`` too
_MODULES = {
    "analysis": "ksched.plan.analysis",
    "batch": "ksched.execution.batch",
    "networks": "ksched.dialects.diffusers.networks",
    "peers": "ksched.dialects.peers",
    "plots": "ksched.pictures.plots",
    "steer": "ksched.policy.steering",
}
#: public folders and names, imported on first use
_FOLDERS = ("arrays", "exact", "guidance", "joint_runs", "noise", "testing")
_LATE = {
    "Denoiser": "denoisers.denoiser",
    "FlowMap": "denoisers.flow_map",
    "Frames": "joint_runs.frames",
    "Likelihood": "probability_flow.likelihood",
    "AdaptiveRun": "execution.adaptive_run",
    "ModelReport": "check.report",
    "Plan": "plan.plan",
    "RoundInfo": "execution.parallel",
    "Run": "execution.run",
    "Sampler": "sampler",
    "StepInfo": "execution.loop",
    "Trajectory": "policy.trajectory",
    "Transition": "policy.transitions",
    "Streams": "joint_runs.streams",
    "build_sampler": "sampler",
    "check_model": "check.model_check",
    "frames": "joint_runs.frames",
    "log_likelihood": "probability_flow.likelihood",
    "recipes": "model_settings.library",
    "register_sampler": "samplers.registry",
    "tell": "samplers.telling",
    "tune": "tuning",
}


def __getattr__(name: str) -> Any:
    with torch_needed(f"ksched.{name}"):
        if name in _MODULES:
            return importlib.import_module(_MODULES[name])
        if name in _FOLDERS:
            return importlib.import_module(f"ksched.{name}")
        if name in _LATE:
            return getattr(importlib.import_module(f"ksched.{_LATE[name]}"), name)
    raise AttributeError(f"module 'ksched' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


class _PublicModules(MetaPathFinder, Loader):
    """Makes ``import ksched.batch`` and ``from ksched.batch import Batch`` work for public modules in subfolders."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        parent, _, last = name.rpartition(".")
        return ModuleSpec(name, type(self)()) if parent == __name__ and last in _MODULES else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        with torch_needed(spec.name):
            module = importlib.import_module(_MODULES[spec.name.rpartition(".")[2]])
        self._own = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._own  # the import system has just replaced it


sys.meta_path.append(_PublicModules())
