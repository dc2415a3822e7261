"""ksched's samplers and noise schedules in the menus of A1111, Forge and reForge."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from typing import Any

import torch

from ksched.integrations.k_diffusion.process import process_of
from ksched.integrations.k_diffusion.samplers import sampler_function
from ksched.integrations.k_diffusion.schedules import schedule_function
from ksched.names.enums import NoiseSchedule
from ksched.processes import default_process
from ksched.samplers.registry import AUTO, samplers
from ksched.samplers.spec import SamplerSpec
from ksched.schedules import SCHEDULES

__all__ = ["register"]

_LABEL, _NAME = "ksched ", "ksched_"
#: the arguments with which a host calls every schedule
_RANGE = {"n", "sigma_min", "sigma_max", "device"}


def register() -> list[str]:
    """Add ksched's samplers and noise schedules to the menus, as "ksched dpmpp_2m" and "ksched beta".

    The script of an extension calls this inside the program. Existing entries stay, so a second call adds nothing.
    CFG++ samplers are left out, because these programs pass on no unconditional prediction; so are samplers for flow
    models only. "ksched auto" is both a sampler and a schedule: with the schedule "Automatic" the sampler uses its own
    sigmas.

    Returns
    -------
    list of str
        The labels that were added.

    Raises
    ------
    ImportError
        If this is not such a program, or one older than A1111 1.9, which had no menu of schedules.
    """
    names = ("sd_samplers", "sd_samplers_common", "sd_samplers_kdiffusion", "sd_schedulers")
    modules: list[Any] = [importlib.import_module(f"modules.{name}") for name in names]
    menu, common, host, schedulers = modules
    added = []
    for spec in (AUTO, *samplers()):
        label = _LABEL + spec.name
        if label not in menu.all_samplers_map and not spec.uncond and not spec.flow_only:
            data = common.SamplerData(label, _constructor(host, spec), [], _options(spec))
            menu.all_samplers.append(data)
            menu.all_samplers_map[label] = data
            added.append(label)
    menu.set_samplers()
    for name, function, needs_model in _schedules():
        label = _LABEL + name
        if label not in schedulers.schedulers_map:
            scheduler = schedulers.Scheduler(_NAME + name, label, function, -1, needs_model)
            schedulers.schedulers.append(scheduler)
            schedulers.schedulers_map |= {scheduler.name: scheduler, label: scheduler}
            added.append(label)
    return added


def _constructor(host: Any, spec: SamplerSpec) -> Callable[[Any], Any]:
    return lambda model: host.KDiffusionSampler(sampler_function(spec), model, _options(spec))


def _options(spec: SamplerSpec) -> dict[str, Any]:
    """The options of a sampler that the program needs."""
    facts = {
        "scheduler": _NAME + spec.name if spec is AUTO else None,
        "second_order": spec.calls == 2,  # for the progress bar
        "brownian_noise": spec.brownian_tree,  # which the program then makes
        "uses_ensd": spec.draws != 0,
    }
    return {name: value for name, value in facts.items() if value}


def _schedules() -> list[tuple[str, Callable[..., torch.Tensor], bool]]:
    """Names, functions, and whether each needs the model. Schedules whose function takes no range are left out."""
    found: list[tuple[str, Callable[..., torch.Tensor], bool]] = [(AUTO.name, _auto_levels, True)]
    for schedule in NoiseSchedule:
        function = schedule_function(schedule)
        if inspect.signature(function).parameters.keys() >= _RANGE:
            found.append((schedule.value, function, SCHEDULES[schedule].needs_process))
    return found


def _auto_levels(n: int, sigma_min: Any, sigma_max: Any, inner_model: Any, device: Any = "cpu") -> torch.Tensor:
    """The sigmas of ``auto`` on the process of a model. The process has its own range."""
    assert AUTO.levels is not None
    levels = AUTO.levels(n, process_of(inner_model) or default_process())
    return torch.tensor([float(level) for level in levels], device=device)
