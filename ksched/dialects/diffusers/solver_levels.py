"""The sigmas of diffusers' multistep solvers: family B of `ksched.dialects.diffusers.level_rules`."""

from __future__ import annotations

import math

import numpy as np

from ksched.dialects.diffusers.betas import Settings, flow_shift
from ksched.dialects.diffusers.level_blocks import (
    ClassFacts,
    DiffusersLevels,
    LevelRequest,
    between,
    ends_at_zero,
    places_of,
    rule_bounds,
    rule_of,
    sigma_table,
    stretched,
    timesteps_of,
)
from ksched.processes import Flow
from ksched.types import Array

__all__ = ["family_b"]


def family_b(facts: ClassFacts, s: Settings, ask: LevelRequest) -> DiffusersLevels:
    """Sigmas of the multistep solvers, such as DPMSolverMultistep and UniPC."""
    _check(s, ask)
    table, rule, flow = sigma_table(s), rule_of(s), s["use_flow_sigmas"]
    # DPMSolverSinglestep, which has no spacing, uses as many flow sigmas as the list has entries
    if ask.timesteps is not None and (rule or (flow and "spacing" in facts.has)):
        raise ValueError("a list of timesteps excludes karras, lu, exponential, beta and flow sigmas")
    # sigmas whose half log-SNR is below the limit are cut off at the noisy end
    cut = int(np.sum(-np.log(table) < s["lambda_min_clipped"]))
    if rule:
        sigmas, timesteps = _by_rule(facts, s, ask, table, rule)
    elif flow:
        sigmas = _of_flow(s, ask)
        timesteps = sigmas * s["num_train_timesteps"]
    else:
        sigmas, timesteps = _in_table(facts, s, ask, table, cut)
    final = _final(facts, s, sigmas, table, respaced=bool(rule or flow), cut=cut)
    if facts.upward:
        timesteps = timesteps[np.sort(np.unique(timesteps, return_index=True)[1])]
    return DiffusersLevels(np.append(sigmas, final), timesteps.astype(np.int64))


def _is_uni_pc(s: Settings) -> bool:
    """Whether the class is UniPC, which is the only one with this setting and has its own flow sigmas."""
    return "shift_terminal" in s


def _check(s: Settings, ask: LevelRequest) -> None:
    """Raise an error for settings that do not fit together, or do not fit the arguments."""
    uni_pc, dynamic = _is_uni_pc(s), s["use_dynamic_shifting"]
    if not uni_pc and ask.mu is not None and not (dynamic and s["time_shift_type"] == "exponential"):
        raise ValueError("mu needs use_dynamic_shifting=True and time_shift_type='exponential'")
    if uni_pc and dynamic:
        flow_shift(s, ask.mu)  # requires mu even if nothing is shifted
    if s["algorithm_type"] not in ("dpmsolver++", "sde-dpmsolver++") and ends_at_zero(s):
        raise ValueError(f"algorithm_type {s['algorithm_type']!r} needs final_sigmas_type='sigma_min'")
    if not s["use_flow_sigmas"] and (ask.sigmas is not None or (uni_pc and s["shift_terminal"] is not None)):
        raise ValueError("shift_terminal and a list of sigmas need use_flow_sigmas=True")


def _by_rule(facts: ClassFacts, s: Settings, ask: LevelRequest, table: Array, rule: str) -> tuple[Array, Array]:
    """Sigmas of a rule between the ends of the table or of a list, and their timesteps."""
    trained = table if ask.sigmas is None else ask.sigmas
    first, last = rule_bounds(s, trained[-1], trained[0])
    sigmas = between(rule, last, first, ask.steps) if facts.upward else between(rule, first, last, ask.steps)
    if _is_uni_pc(s) and rule == "karras" and s["use_flow_sigmas"]:
        sigmas = sigmas / (1 + sigmas)
        return sigmas, sigmas * s["num_train_timesteps"]
    timesteps = timesteps_of(sigmas, trained)
    cosine = facts.whole_unless_cosine and s["beta_schedule"] == "squaredcos_cap_v2"
    return sigmas, timesteps.round() if rule in facts.whole.split() and not cosine else timesteps


def _of_flow(s: Settings, ask: LevelRequest) -> Array:
    """Sigmas of a flow model, uniform before its shift."""
    even = np.linspace(1, 1 / s["num_train_timesteps"], ask.steps + 1)
    if not _is_uni_pc(s):  # starts one step of the table below 1
        levels: Array = Flow(s["flow_shift"] if ask.mu is None else math.exp(ask.mu)).sigma_at(1 - even)[:0:-1]
        return levels
    sigmas = Flow(flow_shift(s, ask.mu)).sigma_at(even[:-1] if ask.sigmas is None else ask.sigmas)
    sigmas = stretched(sigmas, s["shift_terminal"])
    sigmas[0] -= 1e-6 * (abs(sigmas[0] - 1) < 1e-6)  # keeps its log-SNR finite
    return sigmas


def _in_table(facts: ClassFacts, s: Settings, ask: LevelRequest, table: Array, cut: int) -> tuple[Array, Array]:
    """Entries of the table at whole timesteps."""
    if ask.timesteps is not None:
        timesteps = np.trunc(ask.timesteps)
    elif facts.upward:
        timesteps = places_of(s, ask.steps, cut=cut, drop=-1)
    else:
        timesteps = places_of(s, ask.steps, cut=cut, drop=0)[::-1]
    return np.interp(timesteps, np.arange(len(table)), table), timesteps


def _final(facts: ClassFacts, s: Settings, sigmas: Array, table: Array, *, respaced: bool, cut: int) -> float:
    """The sigma after the last one."""
    length = s["num_train_timesteps"]
    if not facts.never_zero and ends_at_zero(s):
        return 0.0
    if facts.final_twice and respaced:
        return float(sigmas[-1])
    if not facts.upward:
        return float(table[0])
    if len(table) < length:
        raise ValueError(f"trained_betas must have num_train_timesteps={length} numbers; got {len(table)}")
    return float(table[length - cut - 1])
