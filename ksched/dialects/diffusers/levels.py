"""The noise levels that each scheduler class of diffusers runs for its settings."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ksched.dialects.diffusers.betas import Settings
from ksched.dialects.diffusers.level_blocks import ClassFacts, DiffusersLevels, LevelRequest
from ksched.dialects.diffusers.level_rules import (
    consistency_levels,
    distilled_levels,
    edm_levels,
    family_a,
    family_c,
    flow_levels,
    given_flow_levels,
    heun_levels,
    ipndm_levels,
    kdpm2_ancestral_levels,
    kdpm2_levels,
    pndm_levels,
    sde_levels,
)
from ksched.dialects.diffusers.model_levels import flow_map_levels, minimax_levels, scm_levels
from ksched.dialects.diffusers.solver_levels import family_b
from ksched.names.spelling import few
from ksched.options import check_steps
from ksched.types import Array, ArrayLike

__all__ = ["diffusers_levels", "level_settings"]


#: groups of settings that bear on levels, with their defaults
_SETTINGS: Mapping[str, Settings] = {
    "betas": {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "trained_betas": None},
    "latent": {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear", "trained_betas": None},
    "spacing": {"timestep_spacing": "linspace", "steps_offset": 0},
    "leading": {"timestep_spacing": "leading", "steps_offset": 0},
    "rules": {"use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False},
    "lu": {"use_lu_lambdas": False},
    "zero_snr": {"rescale_betas_zero_snr": False},
    "final": {"final_sigmas_type": "zero"},
    "range": {"sigma_min": None, "sigma_max": None},
    "how": {"interpolation_type": "linear", "timestep_type": "discrete", "prediction_type": "epsilon"},
    "clipped": {"lambda_min_clipped": -math.inf},
    "solver": {"algorithm_type": "dpmsolver++"},
    "vp_flow": {"use_flow_sigmas": False, "flow_shift": 1.0},
    "dynamic": {"use_dynamic_shifting": False, "time_shift_type": "exponential"},
    "terminal": {"shift_terminal": None},
    "flow": {"shift": 1.0},
    "steep": {"shift": 12.0},
    "invert": {"invert_sigmas": False},
    "prk": {"skip_prk_steps": False},
    "distilled": {"original_inference_steps": 50},
    "trained": {"trained_betas": None},
    "edm": {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_schedule": "karras", "rho": 7.0},
    "cosine_edm": {"sigma_min": 0.3, "sigma_max": 500.0, "sigma_schedule": "exponential", "rho": 7.0},
    "consistency": {"num_train_timesteps": 40, "sigma_min": 0.002, "sigma_max": 80.0, "rho": 7.0},
}


#: what a class goes by that does not have a setting
_WITHOUT = "lu rules zero_snr final range how clipped solver vp_flow dynamic invert spacing trained"


_FLOW = "flow dynamic rules terminal invert"


_LISTS_MU, _DISTILLED = "timesteps sigmas mu", "timesteps original_inference_steps strength"


_DEIS: Mapping[str, Any] = {"whole": "karras", "final_twice": True, "never_zero": True}


_CLASSES: Mapping[str, ClassFacts] = {
    f"{name}Scheduler": facts
    for name, facts in {
        "EulerDiscrete": ClassFacts(family_a, "betas spacing rules zero_snr final range how", "timesteps sigmas"),
        "EulerAncestralDiscrete": ClassFacts(family_a, "betas spacing zero_snr"),
        "HeunDiscrete": ClassFacts(family_a, "latent spacing rules", "timesteps", more_betas="exp", stages=heun_levels),
        "LMSDiscrete": ClassFacts(family_a, "betas spacing rules"),
        "KDPM2Discrete": ClassFacts(family_a, "latent spacing rules", whole="karras", stages=kdpm2_levels),
        "KDPM2AncestralDiscrete": ClassFacts(
            family_a, "latent spacing rules", whole="karras", stages=kdpm2_ancestral_levels
        ),
        "DPMSolverSDE": ClassFacts(family_a, "latent spacing rules", stages=sde_levels),
        "DPMSolverMultistep": ClassFacts(
            family_b,
            "betas spacing rules lu zero_snr final vp_flow dynamic clipped solver",
            "timesteps mu",
            whole="karras lu",
            whole_unless_cosine=True,
        ),
        "DPMSolverSinglestep": ClassFacts(
            family_b, "betas rules final vp_flow dynamic clipped solver", "timesteps mu", whole="karras"
        ),
        "UniPCMultistep": ClassFacts(
            family_b,
            "betas spacing rules zero_snr final range vp_flow dynamic terminal",
            "sigmas mu",
            "ignored",
            whole="karras",
            final_twice=True,
        ),
        "DEISMultistep": ClassFacts(family_b, "betas spacing rules vp_flow dynamic", "mu", **_DEIS),
        "SASolver": ClassFacts(family_b, "betas spacing rules vp_flow clipped", **_DEIS),
        "DPMSolverMultistepInverse": ClassFacts(family_b, "betas spacing rules vp_flow clipped", upward=True, **_DEIS),
        "DDIM": ClassFacts(family_c, "betas leading"),
        "DDIMParallel": ClassFacts(family_c, "betas leading"),
        "DDIMInverse": ClassFacts(family_c, "betas leading", upward=True),
        "DDPM": ClassFacts(family_c, "betas leading", "timesteps", more_betas="laplace sigmoid"),
        "DDPMParallel": ClassFacts(family_c, "betas leading", "timesteps", more_betas="sigmoid"),
        "PNDM": ClassFacts(pndm_levels, "betas leading prk"),
        "LCM": ClassFacts(distilled_levels, "betas distilled", _DISTILLED),
        "TCD": ClassFacts(distilled_levels, "betas distilled", _DISTILLED, every_timestep=True),
        "IPNDM": ClassFacts(ipndm_levels, "trained"),
        "FlowMatchEulerDiscrete": ClassFacts(flow_levels, f"{_FLOW} range", _LISTS_MU, "same"),
        "FlowMatchLCM": ClassFacts(flow_levels, f"{_FLOW} range", _LISTS_MU, "same"),
        "FlowMatchHeunDiscrete": ClassFacts(flow_levels, "flow", stages=heun_levels),
        "LTXEulerAncestralRF": ClassFacts(given_flow_levels, "", _LISTS_MU, "ignored"),
        "EDMEuler": ClassFacts(edm_levels, "edm final", "sigmas", "ignored", final_twice=True),
        "EDMDPMSolverMultistep": ClassFacts(edm_levels, "edm final"),
        "CosineDPMSolverMultistep": ClassFacts(edm_levels, "cosine_edm final", angle=True),
        "FlowMapEulerDiscrete": ClassFacts(flow_map_levels, "flow", "timesteps sigmas", "same"),
        "MiniMaxH3": ClassFacts(minimax_levels, "steep", "sigmas", "ignored"),
        "SCM": ClassFacts(scm_levels, "", "timesteps max_timesteps intermediate_timesteps", "ignored"),
        "CMStochasticIterative": ClassFacts(consistency_levels, "consistency", "timesteps"),
    }.items()
}


def diffusers_levels(
    scheduler: str,
    config: Mapping[str, Any],
    steps: int | None = None,
    *,
    timesteps: ArrayLike | None = None,
    sigmas: ArrayLike | None = None,
    mu: float | None = None,
    original_inference_steps: int | None = None,
    strength: float = 1.0,
    max_timesteps: float | None = None,
    intermediate_timesteps: float | None = None,
) -> DiffusersLevels:
    """The levels a diffusers scheduler runs at, in float64 where it computes them in float32.

    Parameters
    ----------
    scheduler : name of the class, such as "EulerDiscreteScheduler"
    config : its configuration, as in a ``scheduler_config.json``; settings that the class does not have are ignored
    steps, timesteps, sigmas, mu, original_inference_steps, strength, max_timesteps, intermediate_timesteps : what
        ``set_timesteps`` is given; classes differ in which of them they take. Lists and arrays are the same

    Returns
    -------
    `DiffusersLevels`: sigmas, timesteps, the std of start noise, and the further tables of KDPM2

    Raises
    ------
    TypeError : ``scheduler`` is not a string, or ``steps`` not a whole number
    ValueError : an unknown class, or something the class refuses

    Notes
    -----
    The rules of diffusers 0.42.1, with what is peculiar to them: levels may end on a repeat instead of on 0, stop one
    early, start at the lowest for a single step, or have a shift in them twice.
    """
    if not isinstance(scheduler, str):
        raise TypeError(f"a scheduler class is named by a string; got {scheduler!r}")
    if scheduler not in _CLASSES:
        near = difflib.get_close_matches(scheduler, _CLASSES, n=4, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {few(_CLASSES)}."
        raise ValueError(f"unknown scheduler class {scheduler!r}; {hint}")
    facts = _CLASSES[scheduler]
    given = {"timesteps": timesteps, "sigmas": sigmas, "mu": mu, "original_inference_steps": original_inference_steps}
    angles = {"max_timesteps": max_timesteps, "intermediate_timesteps": intermediate_timesteps}
    for name, value in (given | angles | {"strength": None if strength == 1 else strength}).items():
        if value is not None and name not in facts.takes.split():
            raise ValueError(f"{scheduler} takes no {name}; it takes {', '.join(['steps', *facts.takes.split()])}")
    own = {"num_train_timesteps": 1000} | _merged(facts.has)
    s = _merged(_WITHOUT) | own | {name: value for name, value in config.items() if name in own}
    betas = ["linear", "scaled_linear", "squaredcos_cap_v2", *facts.more_betas.split()]
    if s["trained_betas"] is None and s.get("beta_schedule", "linear") not in betas:
        raise ValueError(f"{scheduler}: beta_schedule must be one of {', '.join(betas)}; got {s['beta_schedule']!r}")
    if s["timestep_spacing"] not in ("linspace", "leading", "trailing"):
        raise ValueError(f"timestep_spacing must be 'linspace', 'leading' or 'trailing'; got {s['timestep_spacing']!r}")
    lists = _listed("timesteps", timesteps), _listed("sigmas", sigmas)
    count = _count(scheduler, facts, steps, [len(values) for values in lists if values is not None])
    return facts.levels(facts, s, LevelRequest(count, *lists, mu, original_inference_steps, strength, *angles.values()))


def level_settings(scheduler: str) -> Mapping[str, Any]:
    """The settings of a class that bear on its levels, with their defaults; none for an unknown class."""
    return {"num_train_timesteps": 1000} | _merged(_CLASSES[scheduler].has) if scheduler in _CLASSES else {}


def _merged(groups: str) -> dict[str, Any]:
    return {name: default for group in groups.split() for name, default in _SETTINGS[group].items()}


def _listed(name: str, values: ArrayLike | None) -> Array | None:
    if values is None:
        return None
    array = np.array(values, dtype=np.float64)
    if array.ndim != 1 or not len(array) or not np.all(np.isfinite(array)):
        raise ValueError(f"{name} must be a list of finite numbers, at least one; got {values!r}")
    return array


def _count(scheduler: str, facts: ClassFacts, steps: int | None, lengths: list[int]) -> int:
    """Number of steps, from ``steps`` or from the lists."""
    if not lengths:
        return check_steps(steps)
    if facts.steps_beside_lists == "never" and (steps is not None or len(lengths) > 1):
        raise ValueError(f"{scheduler} takes one of steps, timesteps and sigmas; got more than one")
    if facts.steps_beside_lists == "same" and len({*lengths, lengths[0] if steps is None else steps}) > 1:
        raise ValueError(f"{scheduler} takes lists as long as each other and as steps; got {lengths}, steps={steps}")
    return lengths[-1]
