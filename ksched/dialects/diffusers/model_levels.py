"""Sigmas of the diffusers classes that were made for one model."""

from __future__ import annotations

import numpy as np

from ksched.dialects.diffusers.betas import Settings
from ksched.dialects.diffusers.level_blocks import ClassFacts, DiffusersLevels, LevelRequest, check_at_most
from ksched.processes import Flow

__all__ = ["flow_map_levels", "minimax_levels", "scm_levels"]


def flow_map_levels(facts: ClassFacts, s: Settings, ask: LevelRequest) -> DiffusersLevels:
    """AnyFlow: uniform from 1 to 0, shifted."""
    length = s["num_train_timesteps"]
    if ask.sigmas is not None:
        even = ask.sigmas
    else:
        even = np.linspace(1, 0, ask.steps + 1)[:-1] if ask.timesteps is None else ask.timesteps / length
    sigmas = Flow(s["shift"]).sigma_at(even)
    return DiffusersLevels(np.append(sigmas, 0.0), sigmas * length)


def minimax_levels(facts: ClassFacts, s: Settings, ask: LevelRequest) -> DiffusersLevels:
    """MiniMax H3: ``steps`` counts the sigmas, including the final 0; sigmas equal in float32 occur once."""
    if ask.sigmas is not None:
        sigmas = ask.sigmas
        if len(sigmas) < 2 or np.any(np.diff(sigmas) >= 0) or sigmas[-1] != 0:
            raise ValueError(f"sigmas must fall and end with 0, at least two; got {sigmas.tolist()}")
    else:
        if ask.steps < 2:
            raise ValueError(f"steps must be at least 2, since they count the sigmas; got {ask.steps}")
        sigmas = Flow(s["shift"]).sigma_at(np.linspace(1, 0, ask.steps))
        single = sigmas.astype(np.float32)
        sigmas = sigmas[np.append(True, single[1:] != single[:-1])]
    return DiffusersLevels(sigmas, 1 - sigmas[:-1])


def scm_levels(facts: ClassFacts, s: Settings, ask: LevelRequest) -> DiffusersLevels:
    """SANA-Sprint: angles, including that of the end."""
    if ask.timesteps is not None:
        if ask.max_timesteps is not None:
            raise ValueError("pass a list of timesteps or max_timesteps, not both")
        return DiffusersLevels(None, ask.timesteps)
    check_at_most(ask.steps, s["num_train_timesteps"], "num_train_timesteps")
    top = 1.57080 if ask.max_timesteps is None else ask.max_timesteps
    if ask.intermediate_timesteps is not None and ask.steps != 2:
        raise ValueError(f"intermediate_timesteps needs steps=2; got {ask.steps}")
    if ask.steps == 2:
        middle = 1.3 if ask.intermediate_timesteps is None else ask.intermediate_timesteps
        return DiffusersLevels(None, np.array([top, middle, 0.0]))
    return DiffusersLevels(None, np.linspace(top, 0, ask.steps + 1))
