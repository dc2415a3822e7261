"""Configurations of diffusers' schedulers: which class one is of, what that sets, and what became of it here."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

import diffusers
import numpy as np
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from ksched.dialects.diffusers.classes import CLASSES, stock_class
from ksched.dialects.diffusers.levels import level_settings
from ksched.dialects.diffusers.process import is_flow
from ksched.dialects.diffusers.request import NotRepresentedError
from ksched.types import Array

__all__ = ["Translation", "adopted", "class_of", "defaults_of", "is_foreign", "own_table", "step_arguments_of"]


@dataclass(frozen=True)
class Translation:
    """What became of a scheduler of diffusers.

    Attributes
    ----------
    scheduler : its class; empty if none is known
    sampler, options : ours, in the diffusers dialect
    used : its settings that bear on the numbers
    ignored : its settings that do not
    different : what cannot be represented, and what happens instead
    """

    scheduler: str
    sampler: str
    options: Mapping[str, Any] = field(default_factory=dict)
    used: Mapping[str, Any] = field(default_factory=dict)
    ignored: Mapping[str, Any] = field(default_factory=dict)
    different: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{self.scheduler or 'no class'} -> {self.sampler} {dict(self.options)}"]
        lines += [f"  used       {name} = {value!r}" for name, value in self.used.items()]
        lines += [f"  ignored    {name} = {value!r}" for name, value in self.ignored.items()]
        lines += [f"  different  {name}: {text}" for name, text in self.different.items()]
        return "\n".join(lines)


def is_foreign(config: Mapping[str, Any], own: str) -> bool:
    """Whether a configuration is of a scheduler that never was one of ours."""
    return config.get("_class_name") != own and not {"stock_class", "sampler", "schedule"} & config.keys()


def adopted(config: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of diffusers with its class made explicit."""
    name: Any = config.pop("_class_name", None) or class_of(config)
    own = {key: value for key, value in config.items() if not key.startswith("_")}
    if name not in CLASSES:
        if "sampler" not in changes or "schedule" not in changes:
            if name is None:
                raise ValueError(
                    "the class of this configuration cannot be told: give sampler and schedule, or the scheduler "
                    "itself to KSchedScheduler.from_diffusers"
                )
            stock_class(name)  # says why there is none
        return {**_of_table(name), **own}
    kept = {**own, "stock_class": name}
    if changes.get("schedule") is not None and is_flow({**defaults_of(name), **kept}, name):
        kept["use_flow_sigmas"] = True  # pipelines then ask for a number of steps, not for a list of their own
    return kept


def _of_table(name: Any) -> dict[str, Any]:
    """Defaults of a class whose loop is its own, and whose model is one of a table of betas.

    Raises
    ------
    NotRepresentedError : a class of diffusers whose models are no such ones
    """
    kind = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not (inspect.isclass(kind) and issubclass(kind, SchedulerMixin)):
        return {}
    its = defaults_of(str(name))
    if "beta_schedule" not in its:
        stock_class(str(name))  # says why there is none
        raise NotRepresentedError(f"{name} has no drop-in here: its models are on no process that is known")
    return {key: value for key, value in its.items() if value is not None}


def defaults_of(name: str) -> dict[str, Any]:
    """The settings of a class, with their defaults; those of its levels where its own extra is not installed."""
    return dict(_defaults_of(name))


@cache
def _defaults_of(name: str) -> dict[str, Any]:
    parameters = inspect.signature(getattr(diffusers, name).__init__).parameters.values()
    written = {p.name: p.default for p in parameters if p.default is not p.empty}
    of_cosine = {"sigma_data": 1.0, "prediction_type": "v_prediction"} if name.startswith("Cosine") else {}
    return written or {**level_settings(CLASSES[name].levels or name), **of_cosine}


@cache
def step_arguments_of(name: str) -> frozenset[str]:
    """Arguments of the ``step`` of a class; none where its own extra is not installed."""
    try:
        step = getattr(diffusers, name).step
    except ImportError:
        return frozenset()
    return frozenset(inspect.signature(step).parameters)


def own_table(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The betas of a class as its table has them, whose numbers it rounds; nothing if there is no plain table."""
    names = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
    told = {key: config[key] for key in names if config.get(key) is not None}
    has = inspect.signature(getattr(diffusers, name).__init__).parameters
    if config.get("rescale_betas_zero_snr") or "snr_shift_scale" in has or "beta_start" not in has:
        return {}
    betas = _betas_of.__wrapped__(name, **told) if "trained_betas" in told else _betas_of(name, **told)
    return {"trained_betas": betas} if np.all((betas > 0) & (betas < 1)) else {}  # else rounding has the last word


@lru_cache(maxsize=64)
def _betas_of(name: str, **told: Any) -> Array:
    """The betas in the table of a new scheduler, of which some classes take a second to be made."""
    alpha_bars = getattr(diffusers, name)(**told).alphas_cumprod.double().numpy()
    betas: Array = 1 - alpha_bars / np.append(1.0, alpha_bars[:-1])
    betas.setflags(write=False)
    return betas


#: settings that pipelines add to the configuration of their scheduler
_REGISTERED = frozenset(("sigma_max", "sigma_min", "sigma_data", "final_sigmas_type"))


#: in names of classes that have the settings of another one, which is meant unless the name is there
_RARE = ("Parallel", "Inverse", "CogVideoXDPM", "FlowMap")


def class_of(config: Mapping[str, Any]) -> str | None:
    """The class of a configuration that does not name it: the one with exactly these settings, and these defaults."""
    keys = {key for key in config if not key.startswith("_")}
    unset = set(config.get("_use_default_values", ())) & keys
    fits = []
    for name in CLASSES:
        defaults = defaults_of(name) if hasattr(diffusers, name) else {}
        # Cosmos 2 registers settings that its flow class does not have
        beside = _REGISTERED - set(defaults) if name.startswith("FlowMatch") else frozenset()
        if set(defaults) == keys - beside and all(config[key] == defaults[key] for key in unset):
            fits.append(name)
    plain = [name for name in fits if not any(word in name for word in _RARE)] or fits
    return plain[0] if len(plain) == 1 else None
