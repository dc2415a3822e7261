"""The sigmas and timesteps of diffusers' scheduler classes, in float64, without diffusers.

The formulas are written once; the differences between the classes are data (`ksched.dialects.diffusers.levels`).
Timesteps are placed in three ways:

A  Euler, Heun, LMS, KDPM2, DPMSolverSDE: n places with both ends of the table, not rounded
B  DPM-Solver, UniPC, DEIS, SA-Solver: n + 1 places, the lowest dropped, whole numbers
C  DDIM, DDPM, PNDM: n places with both ends, whole numbers; no sigmas
"""

from __future__ import annotations

import math

import numpy as np

from ksched.dialects.diffusers.betas import Settings, flow_shift
from ksched.dialects.diffusers.level_blocks import (
    ClassFacts,
    DiffusersLevels,
    LevelRequest,
    between,
    check_at_most,
    check_falling,
    ends_at_zero,
    karras,
    places_of,
    rule_bounds,
    rule_of,
    sigma_table,
    stretched,
    timesteps_of,
)
from ksched.options import check_steps
from ksched.processes import Flow
from ksched.types import Array

__all__ = [
    "consistency_levels",
    "distilled_levels",
    "edm_levels",
    "family_a",
    "family_c",
    "flow_levels",
    "given_flow_levels",
    "heun_levels",
    "ipndm_levels",
    "kdpm2_ancestral_levels",
    "kdpm2_levels",
    "pndm_levels",
    "sde_levels",
]


# ---------------------------------------------------------------- classes with two stages; their sigmas end with 0
def _doubled(values: Array) -> Array:
    """Every value but the first twice."""
    return np.concatenate([values[:1], np.repeat(values[1:], 2)])


def heun_levels(sigmas: Array, timesteps: Array, table: Array) -> DiffusersLevels:
    """Levels and timesteps of Heun's method, which calls the model twice at every level except the first and last."""
    return DiffusersLevels(_doubled(sigmas)[:-1], _doubled(timesteps))


def _midpoint(timesteps: Array, between: Array, table: Array) -> Array:
    """Timesteps with those of the intermediate levels inserted."""
    both = _doubled(timesteps)
    both[1::2] = timesteps_of(between, table)
    return both


def sde_levels(sigmas: Array, timesteps: Array, table: Array) -> DiffusersLevels:
    """Heun's sigmas; only the timesteps show that second stages are half-way in log sigma."""
    between = np.sqrt(sigmas[:-2] * sigmas[1:-1])
    return DiffusersLevels(_doubled(sigmas)[:-1], _midpoint(timesteps, between, table))


def kdpm2_levels(sigmas: Array, timesteps: Array, table: Array) -> DiffusersLevels:
    """Levels and timesteps of KDPM2: every step has a second call at the geometric mean of its sigmas."""
    between = np.sqrt(sigmas[:-1] * sigmas[1:])
    interpol = _as_long(np.append(np.nan, between))  # there is nothing before the first
    return DiffusersLevels(_as_long(sigmas), _midpoint(timesteps, between[:-1], table), sigmas_interpol=interpol)


def kdpm2_ancestral_levels(sigmas: Array, timesteps: Array, table: Array) -> DiffusersLevels:
    """As `kdpm2_levels`, but each step first goes down below its end."""
    here, after = sigmas[:-1], sigmas[1:]
    up = np.sqrt(after**2 * (here**2 - after**2) / here**2)
    down = np.sqrt(after**2 - up**2)  # equals after ** 2 / here, except for cancellation on long steps
    between = np.exp((np.log(here[:-1]) + np.log(down[:-1])) / 2)
    tables = sigmas, np.append(between, [0.0, 0.0]), np.append(up, np.nan), np.append(down, 0.0)
    levels, *others = (_as_long(values) for values in tables)
    return DiffusersLevels(levels, _midpoint(timesteps, between, table), 1.0, *others)


def _as_long(values: Array) -> Array:
    """Values per level as stored by KDPM2: each twice, except the first once and the last three times."""
    return np.concatenate([_doubled(values), values[-1:]])


# ---------------------------------------------------------------- families of classes
def family_a(facts: ClassFacts, s: Settings, ask: LevelRequest) -> DiffusersLevels:
    """Levels of the classes derived from k-diffusion, such as EulerDiscrete: sigmas are interpolated in a table."""
    table, rule = sigma_table(s), rule_of(s)
    continuous = s["timestep_type"] == "continuous" and s["prediction_type"] == "v_prediction"
    if ask.timesteps is not None and (rule or continuous):
        raise ValueError("a list of timesteps excludes karras, exponential, beta and continuous timesteps")
    if ask.sigmas is not None:  # the list includes the last one
        sigmas, timesteps = ask.sigmas, timesteps_of(ask.sigmas[:-1], table)
    else:
        sigmas, timesteps = _interpolated(s, ask, table)
        if rule:  # between the ends of the chosen levels, not of the table
            sigmas = between(rule, *rule_bounds(s, sigmas[0], sigmas[-1]), ask.steps)
            timesteps = timesteps_of(sigmas, table)
            timesteps = timesteps.round() if rule in facts.whole.split() else timesteps
        sigmas = np.append(sigmas, 0.0 if ends_at_zero(s) else table[0])
    if continuous:
        timesteps = np.log(sigmas[:-1]) / 4
    levels = facts.stages(sigmas, timesteps, table) if facts.stages else DiffusersLevels(sigmas, timesteps)
    top = float(sigmas.max())
    return levels._replace(init_noise_sigma=math.sqrt(top**2 + 1) if s["timestep_spacing"] == "leading" else top)


def _interpolated(s: Settings, ask: LevelRequest, table: Array) -> tuple[Array, Array]:
    """Sigmas and timesteps before a rule is applied."""
    timesteps = places_of(s, ask.steps)[::-1] if ask.timesteps is None else ask.timesteps
    if s["interpolation_type"] == "linear":
        return np.interp(timesteps, np.arange(len(table)), table), timesteps
    if s["interpolation_type"] == "log_linear":  # over the whole table, and one level too many: n + 2 in all
        return between("exponential", table[-1], table[0], ask.steps + 1), timesteps
    raise ValueError(f"interpolation_type must be 'linear' or 'log_linear'; got {s['interpolation_type']!r}")


def family_c(facts: ClassFacts, s: Settings, ask: LevelRequest) -> DiffusersLevels:
    """Levels of the classes that count timesteps, such as DDIM and DDPM."""
    if facts.upward and s["timestep_spacing"] == "linspace":
        raise ValueError("timestep_spacing must be 'leading' or 'trailing' for inversion; got 'linspace'")
    if ask.timesteps is not None:
        places = check_falling(ask.timesteps, s)
    else:
        check_at_most(ask.steps, s["num_train_timesteps"], "num_train_timesteps")
        places = places_of(s, ask.steps).round()[:: 1 if facts.upward else -1]
    return DiffusersLevels(None, places.astype(np.int64))


def pndm_levels(facts: ClassFacts, s: Settings, ask: LevelRequest) -> DiffusersLevels:
    """Runge-Kutta calls for the first strides, with half strides between, then the rest; or one step taken twice."""
    places = places_of(s, ask.steps).round()
    if s["skip_prk_steps"]:
        timesteps = np.concatenate([places[:-1], places[-2:-1], places[-1:]])[::-1]
    elif len(places) < 4:
        raise ValueError(f"steps must be at least 4 unless skip_prk_steps=True; got {ask.steps}")
    else:
        halves = np.repeat(places[-4:], 2)
        halves[1::2] += s["num_train_timesteps"] // ask.steps // 2
        timesteps = np.concatenate([np.repeat(halves[:-1], 2)[1:-1][::-1], places[:-3][::-1]])
    return DiffusersLevels(None, timesteps.astype(np.int64))


def distilled_levels(facts: ClassFacts, s: Settings, ask: LevelRequest) -> DiffusersLevels:
    """LCM and TCD: even picks, from the top, among the timesteps that the model was distilled on."""
    length, given = s["num_train_timesteps"], ask.original_inference_steps
    original = check_steps(s["original_inference_steps"] if given is None else given)
    if facts.every_timestep and given is not None:
        origin = np.arange(int(length * ask.strength))
    else:
        check_at_most(original, length, "num_train_timesteps")
        origin = np.arange(1, int(original * ask.strength) + 1) * (length // original) - 1
    if ask.timesteps is not None:
        timesteps = check_falling(ask.timesteps, s)
        timesteps = timesteps[max(len(timesteps) - int(len(timesteps) * ask.strength), 0) :]
        return DiffusersLevels(None, timesteps.astype(np.int64))
    check_at_most(ask.steps, min(length, original), "original_inference_steps")
    check_at_most(ask.steps, len(origin), "original_inference_steps * strength")
    picks = np.floor(np.linspace(0, len(origin), ask.steps, endpoint=False)).astype(np.int64)
    return DiffusersLevels(None, origin[::-1][picks])


def ipndm_levels(facts: ClassFacts, s: Settings, ask: LevelRequest) -> DiffusersLevels:
    """Timesteps are the angle whose sine is the noise std, which is sin(pi t / 2) ** 2 at uniform t."""
    std = np.sin(np.linspace(1, 0, ask.steps + 1) * math.pi / 2) ** 2
    std = std if s["trained_betas"] is None else np.asarray(s["trained_betas"], dtype=np.float64)
    return DiffusersLevels(None, np.arctan2(std, np.sqrt(1 - std**2))[:-1] / math.pi * 2)


def flow_levels(facts: ClassFacts, s: Settings, ask: LevelRequest) -> DiffusersLevels:
    """Levels of the flow-matching classes, such as FlowMatchEulerDiscrete."""
    length, rule, shift = s["num_train_timesteps"], rule_of(s), flow_shift(s, ask.mu)
    if ask.sigmas is not None:
        sigmas = ask.sigmas
    elif ask.timesteps is not None:
        sigmas = ask.timesteps / length
    else:  # uniform down to the table's lowest level, which already includes a static shift, so that acts twice there
        lowest = 1 / length if s["use_dynamic_shifting"] else Flow(shift).sigma_at(1 / length)
        sigmas = np.linspace(1, lowest, ask.steps)
    sigmas = stretched(Flow(shift).sigma_at(sigmas), s.get("shift_terminal"))
    sigmas = between(rule, *rule_bounds(s, sigmas[0], sigmas[-1]), len(sigmas)) if rule else sigmas
    if s["invert_sigmas"]:
        return DiffusersLevels(np.append(1 - sigmas, 1.0), (1 - sigmas) * length)
    timesteps = sigmas * length if ask.timesteps is None else ask.timesteps
    levels = np.append(sigmas, 0.0)
    return facts.stages(levels, timesteps, levels) if facts.stages else DiffusersLevels(levels, timesteps)


def given_flow_levels(facts: ClassFacts, s: Settings, ask: LevelRequest) -> DiffusersLevels:
    """LTX: lists are used unchanged, with the last entry as a timestep, and a list of timesteps counts as sigmas."""
    sigmas = ask.timesteps if ask.sigmas is None else ask.sigmas
    return flow_levels(facts, s, ask) if sigmas is None else DiffusersLevels(sigmas, sigmas * s["num_train_timesteps"])


def edm_levels(facts: ClassFacts, s: Settings, ask: LevelRequest) -> DiffusersLevels:
    """Levels of the EDM classes."""
    low, high, rule = s["sigma_min"], s["sigma_max"], s["sigma_schedule"]
    if rule == "karras":  # a list of "sigmas" is actually a list of shares
        sigmas = karras(np.linspace(0, 1, ask.steps) if ask.sigmas is None else ask.sigmas, high, low, s["rho"])
    elif rule == "exponential":  # a single level is the lowest one
        sigmas = between(rule, low if ask.steps == 1 else high, low, ask.steps)
    else:
        raise ValueError(f"sigma_schedule must be 'karras' or 'exponential'; got {rule!r}")
    final = 0.0 if ends_at_zero(s) else sigmas[-1] if facts.final_twice else low
    told = np.arctan(sigmas) / math.pi * 2 if facts.angle else np.log(sigmas) / 4
    return DiffusersLevels(np.append(sigmas, final), told, math.sqrt(high**2 + 1))


def consistency_levels(facts: ClassFacts, s: Settings, ask: LevelRequest) -> DiffusersLevels:
    """Entries of a karras table, counted from the noisiest."""
    length = s["num_train_timesteps"]
    if ask.timesteps is not None:
        entries = np.trunc(check_falling(ask.timesteps, s)[::-1])
    else:
        check_at_most(ask.steps, length, "num_train_timesteps")
        entries = np.arange(ask.steps) * float(length // ask.steps)
    sigmas = karras(entries / (length - 1), s["sigma_max"], s["sigma_min"], s["rho"])
    return DiffusersLevels(np.append(sigmas, s["sigma_min"]), 250 * np.log(sigmas), float(s["sigma_max"]))
