"""ksched's names in the menus of ComfyUI's KSampler nodes."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch

from ksched.integrations.comfyui.sampling import (
    AUTO,
    NodeDialect,
    calculate_sigmas,
    node_dialect,
    sampler_function,
)
from ksched.names.enums import Dialect
from ksched.samplers.registry import samplers as all_samplers
from ksched.schedules.select import schedules

__all__ = ["register"]


def register(
    samplers: bool = True,
    schedules: bool = True,
    *,
    prefix: str = "ksched_",
    dialect: NodeDialect | str = AUTO,
) -> list[str]:
    """Add ksched's samplers and schedules to the menus of KSampler, for every workflow.

    Existing names, ComfyUI's or others', are never replaced, so a second call adds nothing. For some of its own
    samplers KSampler builds one more level and drops the last but one; it does the same for ksched's samplers of those
    names.

    Parameters
    ----------
    samplers, schedules : bool
        What to add.
    prefix : str
        Prefix of every name, such as "ksched_dpmpp_2m".
    dialect : NodeDialect or str
        Program whose method or noise levels a name means; "auto" is ComfyUI, except for samplers that overshoot on flow
        models (see `sampler_function`).

    Returns
    -------
    list of str
        The names that were added.

    Raises
    ------
    ImportError
        If ComfyUI is not there; call this from within ComfyUI, for example in a node package.
    """
    comfy: Any = importlib.import_module("comfy.samplers")
    spoken = node_dialect(dialect)
    return [
        *(_samplers(comfy, prefix, spoken) if samplers else []),
        *(_schedules(comfy, prefix, Dialect.COMFYUI if spoken == AUTO else spoken) if schedules else []),
    ]


def _samplers(comfy: Any, prefix: str, dialect: NodeDialect) -> list[str]:
    functions: Any = importlib.import_module("comfy.k_diffusion.sampling")
    menus = _distinct(comfy.SAMPLER_NAMES, comfy.KSampler.SAMPLERS)
    dropping: set[str] = getattr(comfy.KSampler, "DISCARD_PENULTIMATE_SIGMA_SAMPLERS", set())
    added = []
    for spec in all_samplers():
        name = prefix + spec.name
        attribute = f"sample_{name}"  # where ComfyUI looks up a sampler
        if any(name in menu for menu in menus) or hasattr(functions, attribute):
            continue
        setattr(functions, attribute, sampler_function(spec.name, dialect=dialect))
        for menu in menus:
            menu.append(name)
        if spec.name in dropping:
            dropping.add(name)
        added.append(name)
    return added


def _schedules(comfy: Any, prefix: str, dialect: Dialect) -> list[str]:
    handlers = comfy.SCHEDULER_HANDLERS
    menus = _distinct(comfy.SCHEDULER_NAMES, comfy.KSampler.SCHEDULERS)
    added = []
    for schedule in schedules():
        name = prefix + schedule
        if name in handlers or any(name in menu for menu in menus):
            continue
        handlers[name] = comfy.SchedulerHandler(_handler(schedule, dialect), True)
        for menu in menus:
            menu.append(name)
        added.append(name)
    return added


def _handler(schedule: str, dialect: Dialect) -> Callable[[Any, int], torch.Tensor]:
    return lambda model_sampling, steps: calculate_sigmas(model_sampling, schedule, steps, dialect=dialect)


def _distinct(*lists: list[str]) -> list[list[str]]:
    """The lists without duplicates of the same object."""
    return list({id(names): names for names in lists}.values())
