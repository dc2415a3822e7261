"""Configurations of diffusers schedulers: finding their class, its defaults, and what each setting becomes."""

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
    """How ksched represents a diffusers scheduler.

    Attributes
    ----------
    scheduler : str
        Its class; empty if none is known.
    sampler, options : str or mapping
        Ksched's sampler and options, in the diffusers dialect.
    used : mapping
        Settings that affect the numbers.
    ignored : mapping
        Settings that do not.
    different : mapping of str to str
        Settings that cannot be represented, and what happens instead.
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
    """Whether a configuration comes from a scheduler that is not a `KSchedScheduler`."""
    return config.get("_class_name") != own and not {"stock_class", "sampler", "schedule"} & config.keys()


def adopted(config: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A diffusers configuration with its class made explicit."""
    name: Any = config.pop("_class_name", None) or class_of(config)
    own = {key: value for key, value in config.items() if not key.startswith("_")}
    if name not in CLASSES:
        if "sampler" not in changes or "schedule" not in changes:
            if name is None:
                raise ValueError(
                    "the class of this configuration must be known, and it is not; pass sampler and schedule, or the "
                    "scheduler itself to KSchedScheduler.from_diffusers"
                )
            stock_class(name)  # raises an error that says why there is none
        return {**_of_table(name), **own}
    kept = {**own, "stock_class": name}
    if changes.get("schedule") is not None and is_flow({**defaults_of(name), **kept}, name):
        kept["use_flow_sigmas"] = True  # pipelines then pass a number of steps, not their own list
    return kept


def _of_table(name: Any) -> dict[str, Any]:
    """Defaults of a class with its own sampling loop whose model uses a table of betas.

    Raises
    ------
    NotRepresentedError
        If the models of this diffusers class use no such table.
    """
    kind = getattr(diffusers, name, None) if isinstance(name, str) else None
    if not (inspect.isclass(kind) and issubclass(kind, SchedulerMixin)):
        return {}
    its = defaults_of(str(name))
    if "beta_schedule" not in its:
        stock_class(str(name))  # raises an error that says why there is none
        raise NotRepresentedError(f"{name} has no drop-in in ksched, because the process of its models is not known")
    return {key: value for key, value in its.items() if value is not None}


def defaults_of(name: str) -> dict[str, Any]:
    """The settings of a class with their defaults; only those of its levels if its own extra is not installed."""
    return dict(_defaults_of(name))


@cache
def _defaults_of(name: str) -> dict[str, Any]:
    parameters = inspect.signature(getattr(diffusers, name).__init__).parameters.values()
    written = {p.name: p.default for p in parameters if p.default is not p.empty}
    of_cosine = {"sigma_data": 1.0, "prediction_type": "v_prediction"} if name.startswith("Cosine") else {}
    return written or {**level_settings(CLASSES[name].levels or name), **of_cosine}


@cache
def step_arguments_of(name: str) -> frozenset[str]:
    """Arguments of a class's ``step``; empty if its own extra is not installed."""
    try:
        step = getattr(diffusers, name).step
    except ImportError:
        return frozenset()
    return frozenset(inspect.signature(step).parameters)


def own_table(name: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """The betas in a class's table, including its rounding; empty if it has no plain table."""
    names = ("num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas")
    told = {key: config[key] for key in names if config.get(key) is not None}
    has = inspect.signature(getattr(diffusers, name).__init__).parameters
    if config.get("rescale_betas_zero_snr") or "snr_shift_scale" in has or "beta_start" not in has:
        return {}
    betas = _betas_of.__wrapped__(name, **told) if "trained_betas" in told else _betas_of(name, **told)
    return {"trained_betas": betas} if np.all((betas > 0) & (betas < 1)) else {}  # else they are lost to rounding


@lru_cache(maxsize=64)
def _betas_of(name: str, **told: Any) -> Array:
    """The betas in the table of a new scheduler, cached because some classes take a second to construct."""
    alpha_bars = getattr(diffusers, name)(**told).alphas_cumprod.double().numpy()
    betas: Array = 1 - alpha_bars / np.append(1.0, alpha_bars[:-1])
    betas.setflags(write=False)
    return betas


#: settings that pipelines add to their scheduler's configuration
_REGISTERED = frozenset(("sigma_max", "sigma_min", "sigma_data", "final_sigmas_type"))


#: parts of class names that share the settings of another class, which is meant unless the configuration says so
_RARE = ("Parallel", "Inverse", "CogVideoXDPM", "FlowMap")


def class_of(config: Mapping[str, Any]) -> str | None:
    """The class of a configuration that does not name it: the only one with exactly these settings and defaults."""
    keys = {key for key in config if not key.startswith("_")}
    unset = set(config.get("_use_default_values", ())) & keys
    fits = []
    for name in CLASSES:
        defaults = defaults_of(name) if hasattr(diffusers, name) else {}
        # Cosmos 2 adds settings that its flow class does not have
        beside = _REGISTERED - set(defaults) if name.startswith("FlowMatch") else frozenset()
        if set(defaults) == keys - beside and all(config[key] == defaults[key] for key in unset):
            fits.append(name)
    plain = [name for name in fits if not any(word in name for word in _RARE)] or fits
    return plain[0] if len(plain) == 1 else None
