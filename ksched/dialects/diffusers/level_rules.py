"""The noise levels that diffusers' scheduler classes run at, in float64, without diffusers.

What the classes differ in is data (`_CLASSES`); the formulas are written once. Timesteps are placed in three ways:

A  Euler, Heun, LMS, KDPM2, DPMSolverSDE: n places with both ends of the table, not rounded
B  DPM-Solver, UniPC, DEIS, SA-Solver: n + 1 places, the lowest dropped, whole numbers
C  DDIM, DDPM, PNDM: n places with both ends, whole numbers; no sigmas
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ksched.dialects.diffusers.betas import TERMINAL_ALPHA_BAR, Settings, flow_shift, vp_of
from ksched.options import check_steps
from ksched.processes import Flow
from ksched.types import Array

__all__ = [
    "ClassFacts",
    "DiffusersLevels",
    "LevelRequest",
    "consistency_levels",
    "distilled_levels",
    "edm_levels",
    "family_a",
    "family_b",
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


class DiffusersLevels(NamedTuple):
    """What a scheduler of diffusers holds after ``set_timesteps``, in float64 (whole timesteps as int64)."""

    sigmas: Array | None  # None for the classes that go by timesteps alone
    timesteps: Array | npt.NDArray[np.int64]
    init_noise_sigma: float = 1.0  # 1 too where the class does not say
    sigmas_interpol: Array | None = (
        None  # KDPM2's second stages; for the ancestral one what a step adds and goes down to
    )
    sigmas_up: Array | None = None
    sigmas_down: Array | None = None


class LevelRequest(NamedTuple):
    """What the caller asked for; ``steps`` is the length of the list where there is one."""

    steps: int
    timesteps: Array | None
    sigmas: Array | None
    mu: float | None
    original_inference_steps: int | None
    strength: float


@dataclass(frozen=True)
class ClassFacts:
    """What is particular to a scheduler class."""

    levels: Callable[[ClassFacts, Settings, LevelRequest], DiffusersLevels]
    has: str  # groups of settings (`_SETTINGS`) it has; others in a configuration are ignored, as they are there
    takes: str = ""  # arguments of set_timesteps beside the number of steps
    steps_beside_lists: Literal["never", "same", "ignored"] = "never"
    more_betas: str = ""  # beta schedules beside linear, scaled_linear and squaredcos_cap_v2
    stages: Callable[[Array, Array, Array], DiffusersLevels] | None = None  # second stages put between the levels
    whole: str = ""  # rules whose timesteps are rounded; family B cuts the fraction off the others
    whole_unless_cosine: bool = False  # DPMSolverMultistep does not round them for squaredcos_cap_v2
    final_twice: bool = False  # levels made by a rule end on a repeat of the last, not on the table's lowest
    never_zero: bool = False  # there is no 0 at the end: a last step of no length, or one to the table's lowest level
    upward: bool = False  # for inversion: timesteps rise and lose their repeats, those they had before the cut
    every_timestep: bool = False  # TCD picks among all timesteps once original_inference_steps is given
    angle: bool = False  # the network is told an angle, not a logarithm


def _table(s: Settings) -> Array:
    """Sigmas of the training table, increasing."""
    zero = bool(s["rescale_betas_zero_snr"])
    vp = vp_of({**s, "snr_shift_scale": None})
    alpha_bar = np.append(vp.alphas_cumprod[:-1], TERMINAL_ALPHA_BAR) if zero else np.cumprod(1 - np.array(vp.betas))
    table: Array = np.sqrt((1 - alpha_bar) / alpha_bar)
    return table


def _places(s: Settings, n: int, *, cut: int = 0, drop: int | None = None) -> Array:
    """Rising places in a table that is ``cut`` at the top; with ``drop`` one more is placed and that one left out."""
    length = s["num_train_timesteps"]
    top, points = length - cut, n if drop is None else n + 1
    match s["timestep_spacing"]:
        case "trailing":  # as many as strides fit: by rounding that may be n + 1, the lowest then at -1
            return (np.arange(top, 0, -length / n).round() - 1)[::-1]
        case "linspace":
            places = np.linspace(0, top - 1, points)
        case _:  # "leading"
            places = np.arange(points) * float(top // points) + s["steps_offset"]
    return places if drop is None else np.delete(places, drop).round()


def _rule(s: Settings) -> str | None:
    """The rule that respaces the sigmas, if any."""
    rules = [rule for rule, key in _RULES.items() if s[key]]
    if len(set(rules) - {"lu"}) > 1:
        raise ValueError(f"only one of karras, exponential and beta sigmas can be used; got {' and '.join(rules)}")
    return rules[0] if rules else None


def _between(rule: str, first: float, last: float, n: int) -> Array:
    """``n`` sigmas from ``first`` to ``last``, which may be the higher one, by a rule.

    These are ksched's karras and exponential but for the last bit, which decides where a timestep is cut to a whole
    number: here the ends are computed, there they are set.
    """
    share, first, last = np.linspace(0, 1, n), float(first), float(last)
    if rule == "karras":
        return _karras(share, first, last, 7.0)
    if rule == "beta":
        from scipy.special import betaincinv

        quantiles: Array = last + betaincinv(0.6, 0.6, 1 - share) * (first - last)
        return quantiles
    # "lu" is even in log sigma as "exponential" is; only the rounding of its timesteps differs
    levels: Array = np.exp(np.linspace(math.log(first), math.log(last), n))
    return levels


def _karras(share: Array, first: float, last: float, rho: float) -> Array:
    """Sigmas at shares of the way from ``first`` to ``last``, even in ``sigma ** (1 / rho)``."""
    root = 1 / rho
    levels: Array = (first**root + share * (last**root - first**root)) ** rho
    return levels


def _timesteps_of(sigmas: Array, table: Array) -> Array:
    """Places of sigmas in a table, linear in log sigma, those outside it at its ends.

    Counted from the last entry not above: a zero-terminal-SNR table may fall at the sigma that stands for infinity.
    """
    logs, log_sigma = np.log(table), np.log(np.maximum(sigmas, 1e-10))
    last = np.where(logs <= log_sigma[:, np.newaxis], np.arange(len(table)), 0).max(axis=1)
    low = np.minimum(last, len(table) - 2)
    share = np.clip((logs[low] - log_sigma) / (logs[low] - logs[low + 1]), 0, 1)
    places: Array = (1 - share) * low + share * (low + 1)
    return places


def _stretched(sigmas: Array, terminal: float | None) -> Array:
    """Flow sigmas stretched so that the last is ``terminal``, where that is not None."""
    if not terminal:
        return sigmas
    if sigmas[-1] == 1:
        raise ValueError("shift_terminal needs a last level below 1; got 1, the only level of one step. Take 2 steps.")
    levels: Array = 1 - (1 - sigmas) / ((1 - sigmas[-1]) / (1 - terminal))
    return levels


def _ends_at_zero(s: Settings) -> bool:
    if s["final_sigmas_type"] not in ("zero", "sigma_min"):
        raise ValueError(f"final_sigmas_type must be 'zero' or 'sigma_min'; got {s['final_sigmas_type']!r}")
    return bool(s["final_sigmas_type"] == "zero")


def _falling(timesteps: Array, s: Settings) -> Array:
    if np.any(np.diff(timesteps) >= 0) or timesteps[0] >= s["num_train_timesteps"]:
        raise ValueError(f"timesteps must fall and start below {s['num_train_timesteps']}; got {timesteps.tolist()}")
    return timesteps


def _at_most(steps: int, most: int, name: str) -> None:
    if steps > most:
        raise ValueError(f"steps must be at most {name}, {most}; got {steps}")


# ---------------------------------------------------------------- classes of two stages; their sigmas end with 0
def _doubled(values: Array) -> Array:
    """Every value twice but the first."""
    return np.concatenate([values[:1], np.repeat(values[1:], 2)])


def heun_levels(sigmas: Array, timesteps: Array, table: Array) -> DiffusersLevels:
    """Levels and timesteps of Heun's method, which calls the model twice at every level but the first and last."""
    return DiffusersLevels(_doubled(sigmas)[:-1], _doubled(timesteps))


def _midpoint(timesteps: Array, between: Array, table: Array) -> Array:
    """Timesteps with those of the levels between put between."""
    both = _doubled(timesteps)
    both[1::2] = _timesteps_of(between, table)
    return both


def sde_levels(sigmas: Array, timesteps: Array, table: Array) -> DiffusersLevels:
    """Heun's sigmas; that the second stages are half way in log sigma shows in the timesteps alone."""
    between = np.sqrt(sigmas[:-2] * sigmas[1:-1])
    return DiffusersLevels(_doubled(sigmas)[:-1], _midpoint(timesteps, between, table))


def kdpm2_levels(sigmas: Array, timesteps: Array, table: Array) -> DiffusersLevels:
    """Levels and timesteps of KDPM2: every step has a second call at the geometric mean of its sigmas."""
    between = np.sqrt(sigmas[:-1] * sigmas[1:])
    interpol = _as_long(np.append(np.nan, between))  # nothing comes before the first
    return DiffusersLevels(_as_long(sigmas), _midpoint(timesteps, between[:-1], table), sigmas_interpol=interpol)


def kdpm2_ancestral_levels(sigmas: Array, timesteps: Array, table: Array) -> DiffusersLevels:
    """As `kdpm2_levels`, where a step goes down below its end first."""
    here, after = sigmas[:-1], sigmas[1:]
    up = np.sqrt(after**2 * (here**2 - after**2) / here**2)
    down = np.sqrt(after**2 - up**2)  # after ** 2 / here, but for what the difference loses on long steps
    between = np.exp((np.log(here[:-1]) + np.log(down[:-1])) / 2)
    tables = sigmas, np.append(between, [0.0, 0.0]), np.append(up, np.nan), np.append(down, 0.0)
    levels, *others = (_as_long(values) for values in tables)
    return DiffusersLevels(levels, _midpoint(timesteps, between, table), 1.0, *others)


def _as_long(values: Array) -> Array:
    """Values per level as KDPM2 holds them: every one twice but the first, the last thrice."""
    return np.concatenate([_doubled(values), values[-1:]])


# ---------------------------------------------------------------- families of classes
def family_a(facts: ClassFacts, s: Settings, ask: LevelRequest) -> DiffusersLevels:
    """Levels of the classes that came from k-diffusion, such as EulerDiscrete: sigmas are interpolated in a table."""
    table, rule = _table(s), _rule(s)
    continuous = s["timestep_type"] == "continuous" and s["prediction_type"] == "v_prediction"
    if ask.timesteps is not None and (rule or continuous):
        raise ValueError("a list of timesteps goes with no karras, exponential, beta or continuous timesteps")
    if ask.sigmas is not None:  # the last one is there already
        sigmas, timesteps = ask.sigmas, _timesteps_of(ask.sigmas[:-1], table)
    else:
        timesteps = _places(s, ask.steps)[::-1] if ask.timesteps is None else ask.timesteps
        if s["interpolation_type"] == "linear":
            sigmas = np.interp(timesteps, np.arange(len(table)), table)
        elif s["interpolation_type"] == "log_linear":  # over the whole table and one level too many, n + 2 in all
            sigmas = _between("exponential", table[-1], table[0], ask.steps + 1)
        else:
            raise ValueError(f"interpolation_type must be 'linear' or 'log_linear'; got {s['interpolation_type']!r}")
        if rule:  # between the ends of the levels chosen, not of the table
            low, high = s["sigma_min"], s["sigma_max"]
            first, last = sigmas[0] if high is None else high, sigmas[-1] if low is None else low
            sigmas = _between(rule, first, last, ask.steps)
            timesteps = _timesteps_of(sigmas, table)
            timesteps = timesteps.round() if rule in facts.whole.split() else timesteps
        sigmas = np.append(sigmas, 0.0 if _ends_at_zero(s) else table[0])
    if continuous:
        timesteps = np.log(sigmas[:-1]) / 4
    levels = facts.stages(sigmas, timesteps, table) if facts.stages else DiffusersLevels(sigmas, timesteps)
    top = float(sigmas.max())
    return levels._replace(init_noise_sigma=math.sqrt(top**2 + 1) if s["timestep_spacing"] == "leading" else top)


def family_b(facts: ClassFacts, s: Settings, ask: LevelRequest) -> DiffusersLevels:
    """Levels of the multistep solvers, such as DPMSolverMultistep and UniPC."""
    unipc, flow = "shift_terminal" in s, s["use_flow_sigmas"]
    if not unipc and ask.mu is not None and not (s["use_dynamic_shifting"] and s["time_shift_type"] == "exponential"):
        raise ValueError("mu needs use_dynamic_shifting=True and time_shift_type='exponential'")
    if unipc and s["use_dynamic_shifting"]:
        flow_shift(s, ask.mu)  # asks for mu even where nothing is shifted
    if s["algorithm_type"] not in ("dpmsolver++", "sde-dpmsolver++") and _ends_at_zero(s):
        raise ValueError(f"algorithm_type {s['algorithm_type']!r} needs final_sigmas_type='sigma_min'")
    if not flow and (ask.sigmas is not None or (unipc and s["shift_terminal"] is not None)):
        raise ValueError("shift_terminal and a list of sigmas need use_flow_sigmas=True")
    table, rule, length, n = _table(s), _rule(s), s["num_train_timesteps"], ask.steps
    # DPMSolverSinglestep, which has no spacing, takes as many flow sigmas as the list is long
    if ask.timesteps is not None and (rule or (flow and "spacing" in facts.has)):
        raise ValueError("a list of timesteps goes with no karras, lu, exponential, beta or flow sigmas")
    # levels of a half log-SNR below the limit are cut from the noisy end
    cut = int(np.sum(-np.log(table) < s["lambda_min_clipped"]))
    if rule:
        trained = table if ask.sigmas is None else ask.sigmas
        low, high = s["sigma_min"], s["sigma_max"]
        first, last = trained[-1] if high is None else high, trained[0] if low is None else low
        sigmas = _between(rule, last, first, n) if facts.upward else _between(rule, first, last, n)
        if unipc and rule == "karras" and flow:
            sigmas = sigmas / (1 + sigmas)
            timesteps = sigmas * length
        else:
            timesteps = _timesteps_of(sigmas, trained)
            cosine = facts.whole_unless_cosine and s["beta_schedule"] == "squaredcos_cap_v2"
            timesteps = timesteps.round() if rule in facts.whole.split() and not cosine else timesteps
    elif flow:
        even = np.linspace(1, 1 / length, n + 1)
        if unipc:
            sigmas = Flow(flow_shift(s, ask.mu)).sigma_at(even[:-1] if ask.sigmas is None else ask.sigmas)
            sigmas = _stretched(sigmas, s["shift_terminal"])
            sigmas[0] -= 1e-6 * (abs(sigmas[0] - 1) < 1e-6)  # so that its log-SNR is finite
        else:  # starts a step of the table below 1
            sigmas = Flow(s["flow_shift"] if ask.mu is None else math.exp(ask.mu)).sigma_at(1 - even)[:0:-1]
        timesteps = sigmas * length
    else:
        if ask.timesteps is not None:
            timesteps = np.trunc(ask.timesteps)
        else:
            timesteps = _places(s, n, cut=cut, drop=-1) if facts.upward else _places(s, n, cut=cut, drop=0)[::-1]
        sigmas = np.interp(timesteps, np.arange(len(table)), table)
    if not facts.never_zero and _ends_at_zero(s):
        final = 0.0
    elif facts.final_twice and (rule or flow):
        final = sigmas[-1]
    elif len(table) < length and facts.upward:
        raise ValueError(f"trained_betas must be num_train_timesteps={length} numbers; got {len(table)}")
    else:
        final = table[length - cut - 1] if facts.upward else table[0]
    if facts.upward:
        timesteps = timesteps[np.sort(np.unique(timesteps, return_index=True)[1])]
    return DiffusersLevels(np.append(sigmas, final), timesteps.astype(np.int64))


def family_c(facts: ClassFacts, s: Settings, ask: LevelRequest) -> DiffusersLevels:
    """Levels of the classes that count timesteps, such as DDIM and DDPM."""
    if facts.upward and s["timestep_spacing"] == "linspace":
        raise ValueError("timestep_spacing must be 'leading' or 'trailing' for inversion; got 'linspace'")
    if ask.timesteps is not None:
        places = _falling(ask.timesteps, s)
    else:
        _at_most(ask.steps, s["num_train_timesteps"], "num_train_timesteps")
        places = _places(s, ask.steps).round()[:: 1 if facts.upward else -1]
    return DiffusersLevels(None, places.astype(np.int64))


def pndm_levels(facts: ClassFacts, s: Settings, ask: LevelRequest) -> DiffusersLevels:
    """Runge-Kutta calls for the first strides, half strides between, then the rest; or one step taken twice."""
    places = _places(s, ask.steps).round()
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
    """LCM and TCD: even picks, from the top, among the timesteps the model was distilled on."""
    length, given = s["num_train_timesteps"], ask.original_inference_steps
    original = check_steps(s["original_inference_steps"] if given is None else given)
    if facts.every_timestep and given is not None:
        origin = np.arange(int(length * ask.strength))
    else:
        _at_most(original, length, "num_train_timesteps")
        origin = np.arange(1, int(original * ask.strength) + 1) * (length // original) - 1
    if ask.timesteps is not None:
        timesteps = _falling(ask.timesteps, s)
        timesteps = timesteps[max(len(timesteps) - int(len(timesteps) * ask.strength), 0) :]
        return DiffusersLevels(None, timesteps.astype(np.int64))
    _at_most(ask.steps, min(length, original), "original_inference_steps")
    _at_most(ask.steps, len(origin), "original_inference_steps * strength")
    picks = np.floor(np.linspace(0, len(origin), ask.steps, endpoint=False)).astype(np.int64)
    return DiffusersLevels(None, origin[::-1][picks])


def ipndm_levels(facts: ClassFacts, s: Settings, ask: LevelRequest) -> DiffusersLevels:
    """Timesteps are the angle whose sine is the noise std; that is sin(pi t / 2) ** 2 at even t."""
    std = np.sin(np.linspace(1, 0, ask.steps + 1) * math.pi / 2) ** 2
    std = std if s["trained_betas"] is None else np.asarray(s["trained_betas"], dtype=np.float64)
    return DiffusersLevels(None, np.arctan2(std, np.sqrt(1 - std**2))[:-1] / math.pi * 2)


def flow_levels(facts: ClassFacts, s: Settings, ask: LevelRequest) -> DiffusersLevels:
    """Levels of the classes of flow matching, such as FlowMatchEulerDiscrete."""
    length, rule, shift = s["num_train_timesteps"], _rule(s), flow_shift(s, ask.mu)
    if ask.sigmas is not None:
        sigmas = ask.sigmas
    elif ask.timesteps is not None:
        sigmas = ask.timesteps / length
    else:  # even down to the table's lowest level, which a static shift is in already: it acts on that one twice
        lowest = 1 / length if s["use_dynamic_shifting"] else Flow(shift).sigma_at(1 / length)
        sigmas = np.linspace(1, lowest, ask.steps)
    sigmas = _stretched(Flow(shift).sigma_at(sigmas), s.get("shift_terminal"))
    sigmas = _between(rule, sigmas[0], sigmas[-1], len(sigmas)) if rule else sigmas
    if s["invert_sigmas"]:
        return DiffusersLevels(np.append(1 - sigmas, 1.0), (1 - sigmas) * length)
    timesteps = sigmas * length if ask.timesteps is None else ask.timesteps
    levels = np.append(sigmas, 0.0)
    return facts.stages(levels, timesteps, levels) if facts.stages else DiffusersLevels(levels, timesteps)


def given_flow_levels(facts: ClassFacts, s: Settings, ask: LevelRequest) -> DiffusersLevels:
    """LTX: a list is taken as it is, its last entry counted among the timesteps, and a list of timesteps as sigmas."""
    sigmas = ask.timesteps if ask.sigmas is None else ask.sigmas
    return flow_levels(facts, s, ask) if sigmas is None else DiffusersLevels(sigmas, sigmas * s["num_train_timesteps"])


def edm_levels(facts: ClassFacts, s: Settings, ask: LevelRequest) -> DiffusersLevels:
    """Levels of the EDM classes."""
    low, high, rule = s["sigma_min"], s["sigma_max"], s["sigma_schedule"]
    if rule == "karras":  # a list of "sigmas" is one of shares
        sigmas = _karras(np.linspace(0, 1, ask.steps) if ask.sigmas is None else ask.sigmas, high, low, s["rho"])
    elif rule == "exponential":  # a single level is the lowest
        sigmas = _between(rule, low if ask.steps == 1 else high, low, ask.steps)
    else:
        raise ValueError(f"sigma_schedule must be 'karras' or 'exponential'; got {rule!r}")
    final = 0.0 if _ends_at_zero(s) else sigmas[-1] if facts.final_twice else low
    told = np.arctan(sigmas) / math.pi * 2 if facts.angle else np.log(sigmas) / 4
    return DiffusersLevels(np.append(sigmas, final), told, math.sqrt(high**2 + 1))


def consistency_levels(facts: ClassFacts, s: Settings, ask: LevelRequest) -> DiffusersLevels:
    """Entries of a karras table, counted from the noisiest."""
    length = s["num_train_timesteps"]
    if ask.timesteps is not None:
        entries = np.trunc(_falling(ask.timesteps, s)[::-1])
    else:
        _at_most(ask.steps, length, "num_train_timesteps")
        entries = np.arange(ask.steps) * float(length // ask.steps)
    sigmas = _karras(entries / (length - 1), s["sigma_max"], s["sigma_min"], s["rho"])
    return DiffusersLevels(np.append(sigmas, s["sigma_min"]), 250 * np.log(sigmas), float(s["sigma_max"]))


# ---------------------------------------------------------------- the classes

#: in the order in which they win
_RULES = {"karras": "use_karras_sigmas", "lu": "use_lu_lambdas"}


_RULES |= {"exponential": "use_exponential_sigmas", "beta": "use_beta_sigmas"}
