"""The process of a ComfyUI model, read from its parts."""

from __future__ import annotations

import contextlib
import math
from operator import attrgetter
from typing import Any

import numpy as np

from ksched.processes import EDM, VE, VP, AngleV, Cascade, Flow, FlowVE, Process
from ksched.processes.agreement import process_of_model
from ksched.types import Array

__all__ = ["process_around", "process_of"]


def process_of(model_sampling: Any) -> Process:
    """The process of a model, read from its ``model_sampling``.

    Parameters
    ----------
    model_sampling : object
        Object from ``model.get_model_object("model_sampling")``.

    Returns
    -------
    Process
        ``Flow`` with its shift and noise scale for CONST models; ``FlowVE`` for Cosmos; ``Cascade``, ``AngleV`` and
        ``EDM`` for their classes; ``VP`` with the model's own table for discrete models, whatever they predict; ``VE``
        over the model's range for all others.

    Notes
    -----
    Classes are recognised by name, so a subclass that a node creates at run time counts as what its bases are. States
    of VP models are ``x0 + sigma * eps``, as in ComfyUI.
    """
    kinds = {kind.__name__ for kind in type(model_sampling).__mro__}
    if "CONST" in kinds:
        return _flow(model_sampling, "ModelSamplingFlux" in kinds)
    if "StableCascadeSampling" in kinds:
        return Cascade(float(model_sampling.shift))
    if "ModelSamplingDiscrete" in kinds:
        with contextlib.suppress(ValueError):  # the table may repeat levels or come from no betas
            return _discrete(model_sampling, "ModelSamplingDiscreteEDM" in kinds)
    if not hasattr(model_sampling, "sigma_min"):
        raise TypeError(
            'model_sampling must be model.get_model_object("model_sampling"), which has sigma_min; '
            f"got {type(model_sampling).__name__}"
        )
    ends = float(model_sampling.sigma_min), float(model_sampling.sigma_max)
    if "ModelSamplingCosmosRFlow" in kinds:
        return FlowVE(*ends)
    if "ModelSamplingContinuousEDM" in kinds:
        data = float(getattr(model_sampling, "sigma_data", 1.0))
        return (AngleV if "ModelSamplingContinuousV" in kinds else EDM)(*ends, sigma_data=data)
    return VE(*ends)


def _table(model_sampling: Any) -> Array:
    return np.array(model_sampling.sigmas.tolist(), dtype=np.float64)


def _flow(model_sampling: Any, writes_mu: bool) -> Flow:
    """The flow process of a table, with the declared shift, or a measured one if the table differs from it."""
    table = _table(model_sampling)
    place = max(len(table) // 2, 1)
    u, sigma = place / len(table), float(table[place - 1])
    shift = sigma * (1 - u) / (u * (1 - sigma)) if 0 < u < 1 and 0 < sigma < 1 else 1.0
    declared = float(getattr(model_sampling, "shift", shift))
    declared = math.exp(declared) if writes_mu else declared
    if math.isclose(declared, shift, rel_tol=1e-4):
        shift = declared
    told = float(getattr(model_sampling, "multiplier", 1.0))
    return Flow(shift, len(table), told, noise_scale=float(getattr(model_sampling, "noise_scale", 1.0)))


def _discrete(model_sampling: Any, log_sigma: bool) -> VP:
    """The VP process with the model's table, at the float32 precision of ComfyUI."""
    logs = np.log(_table(model_sampling))
    every = int(getattr(model_sampling, "skip_steps", 1))
    if every > 1:  # the table has only some training steps; ComfyUI interpolates the others linearly
        places = (np.arange(len(logs) * every) - (every - 1)) / every
        below = np.minimum(places, 0) * (logs[1] - logs[0])
        logs = np.interp(places, np.arange(len(logs)), logs) + below
    alpha_bar = 1 / (1 + np.exp(2 * logs))
    betas = 1 - alpha_bar / np.append(1.0, alpha_bar[:-1])
    return VP(betas, keep_every=every, log_sigma_timesteps=log_sigma)


def process_around(model: Any, levels: list[float]) -> Process:
    """The process of the model that a sampler function is called with.

    Parameters
    ----------
    model : object
        The object between KSAMPLER and a network, or a denoiser that knows its process, such as a `ksched.Denoiser`.
    levels : list of float
        Sigmas of the run; a model without any information is VE over them.
    """
    for path in ("inner_model.inner_model", "inner_model", ""):
        with contextlib.suppress(AttributeError):
            part = attrgetter(path)(model) if path else model
            if (sampling := getattr(part, "model_sampling", None)) is not None:
                return process_of(sampling)
            if (own := process_of_model(part)) is not None:
                return own
    with contextlib.suppress(AttributeError):
        return process_of(model.inner_model.model_patcher.get_model_object("model_sampling"))
    positive = [level for level in levels if level > 0]
    low, high = min(positive, default=1.0), max(positive, default=1.0)
    return VE(low, high if high > low else 2 * low)
