"""The noise levels that diffusers' scheduler classes run at, in float64, without diffusers.

What the classes differ in is data (`_CLASSES`); the formulas are written once. Timesteps are placed in three ways:

A  Euler, Heun, LMS, KDPM2, DPMSolverSDE: n places with both ends of the table, not rounded
B  DPM-Solver, UniPC, DEIS, SA-Solver: n + 1 places, the lowest dropped, whole numbers
C  DDIM, DDPM, PNDM: n places with both ends, whole numbers; no sigmas
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ksched.options import check_steps
from ksched.processes import VP, Flow
from ksched.types import Array, ArrayLike

__all__ = ["DiffusersLevels", "diffusers_levels", "flow_shift", "level_settings", "vp_of"]

#: alpha-bar that stands in for the 0 at the end of a zero-terminal-SNR table: sigma 4096
TERMINAL_ALPHA_BAR = 2.0**-24


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


class _Request(NamedTuple):
    """What the caller asked for; ``steps`` is the length of the list where there is one."""

    steps: int
    timesteps: Array | None
    sigmas: Array | None
    mu: float | None
    original_inference_steps: int | None
    strength: float


_Settings = Mapping[str, Any]


@dataclass(frozen=True)
class _Class:
    """What is particular to a scheduler class."""

    levels: Callable[[_Class, _Settings, _Request], DiffusersLevels]
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


# ---------------------------------------------------------------- blocks


def vp_of(config: Mapping[str, Any], **how: Any) -> VP:
    """The process of a configuration with betas; what it does not say is as in most classes.

    Parameters
    ----------
    config : ``beta_schedule``, ``beta_start``, ``beta_end``, ``num_train_timesteps``, or ``trained_betas``;
        ``rescale_betas_zero_snr`` and ``snr_shift_scale``
    how : as for `VP`

    Raises
    ------
    ValueError : another ``beta_schedule``
    """
    s: dict[str, Any] = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "num_train_timesteps": 1000}
    s |= {name: config[name] for name in s if config.get(name) is not None}
    how["zero_terminal_snr"] = bool(config.get("rescale_betas_zero_snr"))
    how["snr_shift"] = float(config.get("snr_shift_scale") or 1.0)
    betas = config.get("trained_betas")
    if betas is not None:
        s["beta_schedule"] = tuple(np.asarray(betas, dtype=np.float64).tolist())
    return _vp(*s.values(), tuple(how.items()))


@lru_cache(maxsize=32)
def _vp(start: float, end: float, kind: str | tuple[float, ...], length: int, flags: tuple[tuple[str, Any], ...]) -> VP:
    how = dict(flags)
    match kind:
        case tuple():
            return VP(kind, **how)
        case "linear":
            return VP.linear(start, end, length, **how)
        case "scaled_linear":
            return VP.scaled_linear(start, end, length, **how)
        case "sigmoid":
            return VP.sigmoid(start, end, length, **how)
        case "squaredcos_cap_v2":
            return VP.cosine(length, **how)
        case "exp":
            return VP.exponential(length, **how)
    raise ValueError(
        "beta_schedule must be one of linear, scaled_linear, sigmoid, squaredcos_cap_v2, exp; "
        f"got {kind!r}. Give trained_betas instead."
    )


def _table(s: _Settings) -> Array:
    """Sigmas of the training table, increasing."""
    zero = bool(s["rescale_betas_zero_snr"])
    vp = vp_of({**s, "snr_shift_scale": None})
    alpha_bar = np.append(vp.alphas_cumprod[:-1], TERMINAL_ALPHA_BAR) if zero else np.cumprod(1 - np.array(vp.betas))
    table: Array = np.sqrt((1 - alpha_bar) / alpha_bar)
    return table


def _places(s: _Settings, n: int, *, cut: int = 0, drop: int | None = None) -> Array:
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


def _rule(s: _Settings) -> str | None:
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


def flow_shift(s: _Settings, mu: float | None) -> float:
    """The flow shift of settings: the static one, or what ``mu`` says where shifting is dynamic.

    Raises
    ------
    ValueError : no mu where it is needed; an unknown kind of shift
    """
    if not s["use_dynamic_shifting"]:
        return float(s["flow_shift"] if "shift" not in s else s["shift"])
    if mu is None:
        raise ValueError("mu must be given where use_dynamic_shifting is True")
    if s["time_shift_type"] not in ("exponential", "linear"):
        raise ValueError(f"time_shift_type must be 'exponential' or 'linear'; got {s['time_shift_type']!r}")
    return math.exp(mu) if s["time_shift_type"] == "exponential" else float(mu)


def _stretched(sigmas: Array, terminal: float | None) -> Array:
    """Flow sigmas stretched so that the last is ``terminal``, where that is not None."""
    if not terminal:
        return sigmas
    if sigmas[-1] == 1:
        raise ValueError("shift_terminal needs a last level below 1; got 1, the only level of one step. Take 2 steps.")
    levels: Array = 1 - (1 - sigmas) / ((1 - sigmas[-1]) / (1 - terminal))
    return levels


def _ends_at_zero(s: _Settings) -> bool:
    if s["final_sigmas_type"] not in ("zero", "sigma_min"):
        raise ValueError(f"final_sigmas_type must be 'zero' or 'sigma_min'; got {s['final_sigmas_type']!r}")
    return bool(s["final_sigmas_type"] == "zero")


def _falling(timesteps: Array, s: _Settings) -> Array:
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


def _heun(sigmas: Array, timesteps: Array, table: Array) -> DiffusersLevels:
    return DiffusersLevels(_doubled(sigmas)[:-1], _doubled(timesteps))


def _midpoint(timesteps: Array, between: Array, table: Array) -> Array:
    """Timesteps with those of the levels between put between."""
    both = _doubled(timesteps)
    both[1::2] = _timesteps_of(between, table)
    return both


def _sde(sigmas: Array, timesteps: Array, table: Array) -> DiffusersLevels:
    """Heun's sigmas; that the second stages are half way in log sigma shows in the timesteps alone."""
    between = np.sqrt(sigmas[:-2] * sigmas[1:-1])
    return DiffusersLevels(_doubled(sigmas)[:-1], _midpoint(timesteps, between, table))


def _kdpm2(sigmas: Array, timesteps: Array, table: Array) -> DiffusersLevels:
    between = np.sqrt(sigmas[:-1] * sigmas[1:])
    interpol = _as_long(np.append(np.nan, between))  # nothing comes before the first
    return DiffusersLevels(_as_long(sigmas), _midpoint(timesteps, between[:-1], table), sigmas_interpol=interpol)


def _kdpm2_ancestral(sigmas: Array, timesteps: Array, table: Array) -> DiffusersLevels:
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


def _family_a(facts: _Class, s: _Settings, ask: _Request) -> DiffusersLevels:
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


def _family_b(facts: _Class, s: _Settings, ask: _Request) -> DiffusersLevels:
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


def _family_c(facts: _Class, s: _Settings, ask: _Request) -> DiffusersLevels:
    if facts.upward and s["timestep_spacing"] == "linspace":
        raise ValueError("timestep_spacing must be 'leading' or 'trailing' for inversion; got 'linspace'")
    if ask.timesteps is not None:
        places = _falling(ask.timesteps, s)
    else:
        _at_most(ask.steps, s["num_train_timesteps"], "num_train_timesteps")
        places = _places(s, ask.steps).round()[:: 1 if facts.upward else -1]
    return DiffusersLevels(None, places.astype(np.int64))


def _pndm(facts: _Class, s: _Settings, ask: _Request) -> DiffusersLevels:
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


def _distilled(facts: _Class, s: _Settings, ask: _Request) -> DiffusersLevels:
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


def _ipndm(facts: _Class, s: _Settings, ask: _Request) -> DiffusersLevels:
    """Timesteps are the angle whose sine is the noise std; that is sin(pi t / 2) ** 2 at even t."""
    std = np.sin(np.linspace(1, 0, ask.steps + 1) * math.pi / 2) ** 2
    std = std if s["trained_betas"] is None else np.asarray(s["trained_betas"], dtype=np.float64)
    return DiffusersLevels(None, np.arctan2(std, np.sqrt(1 - std**2))[:-1] / math.pi * 2)


def _flow(facts: _Class, s: _Settings, ask: _Request) -> DiffusersLevels:
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


def _flow_as_given(facts: _Class, s: _Settings, ask: _Request) -> DiffusersLevels:
    """LTX: a list is taken as it is, its last entry counted among the timesteps, and a list of timesteps as sigmas."""
    sigmas = ask.timesteps if ask.sigmas is None else ask.sigmas
    return _flow(facts, s, ask) if sigmas is None else DiffusersLevels(sigmas, sigmas * s["num_train_timesteps"])


def _edm(facts: _Class, s: _Settings, ask: _Request) -> DiffusersLevels:
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


def _consistency(facts: _Class, s: _Settings, ask: _Request) -> DiffusersLevels:
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

#: groups of settings that bear on levels, with their defaults
_SETTINGS: Mapping[str, _Settings] = {
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
_CLASSES: Mapping[str, _Class] = {
    f"{name}Scheduler": facts
    for name, facts in {
        "EulerDiscrete": _Class(_family_a, "betas spacing rules zero_snr final range how", "timesteps sigmas"),
        "EulerAncestralDiscrete": _Class(_family_a, "betas spacing zero_snr"),
        "HeunDiscrete": _Class(_family_a, "latent spacing rules", "timesteps", more_betas="exp", stages=_heun),
        "LMSDiscrete": _Class(_family_a, "betas spacing rules"),
        "KDPM2Discrete": _Class(_family_a, "latent spacing rules", whole="karras", stages=_kdpm2),
        "KDPM2AncestralDiscrete": _Class(_family_a, "latent spacing rules", whole="karras", stages=_kdpm2_ancestral),
        "DPMSolverSDE": _Class(_family_a, "latent spacing rules", stages=_sde),
        "DPMSolverMultistep": _Class(
            _family_b,
            "betas spacing rules lu zero_snr final vp_flow dynamic clipped solver",
            "timesteps mu",
            whole="karras lu",
            whole_unless_cosine=True,
        ),
        "DPMSolverSinglestep": _Class(
            _family_b, "betas rules final vp_flow dynamic clipped solver", "timesteps mu", whole="karras"
        ),
        "UniPCMultistep": _Class(
            _family_b,
            "betas spacing rules zero_snr final range vp_flow dynamic terminal",
            "sigmas mu",
            "ignored",
            whole="karras",
            final_twice=True,
        ),
        "DEISMultistep": _Class(_family_b, "betas spacing rules vp_flow dynamic", "mu", **_DEIS),
        "SASolver": _Class(_family_b, "betas spacing rules vp_flow clipped", **_DEIS),
        "DPMSolverMultistepInverse": _Class(_family_b, "betas spacing rules vp_flow clipped", upward=True, **_DEIS),
        "DDIM": _Class(_family_c, "betas leading"),
        "DDIMParallel": _Class(_family_c, "betas leading"),
        "DDIMInverse": _Class(_family_c, "betas leading", upward=True),
        "DDPM": _Class(_family_c, "betas leading", "timesteps", more_betas="laplace sigmoid"),
        "DDPMParallel": _Class(_family_c, "betas leading", "timesteps", more_betas="sigmoid"),
        "PNDM": _Class(_pndm, "betas leading prk"),
        "LCM": _Class(_distilled, "betas distilled", _DISTILLED),
        "TCD": _Class(_distilled, "betas distilled", _DISTILLED, every_timestep=True),
        "IPNDM": _Class(_ipndm, "trained"),
        "FlowMatchEulerDiscrete": _Class(_flow, _FLOW, _LISTS_MU, "same"),
        "FlowMatchLCM": _Class(_flow, _FLOW, _LISTS_MU, "same"),
        "FlowMatchHeunDiscrete": _Class(_flow, "flow", stages=_heun),
        "LTXEulerAncestralRF": _Class(_flow_as_given, "", _LISTS_MU, "ignored"),
        "EDMEuler": _Class(_edm, "edm final", "sigmas", "ignored", final_twice=True),
        "EDMDPMSolverMultistep": _Class(_edm, "edm final"),
        "CosineDPMSolverMultistep": _Class(_edm, "cosine_edm final", angle=True),
        "CMStochasticIterative": _Class(_consistency, "consistency", "timesteps"),
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
) -> DiffusersLevels:
    """The levels a diffusers scheduler runs at, in float64 where it computes them in float32.

    Parameters
    ----------
    scheduler : name of the class, such as "EulerDiscreteScheduler"
    config : its configuration, as in a ``scheduler_config.json``; settings that the class does not have are ignored
    steps, timesteps, sigmas, mu, original_inference_steps, strength : what ``set_timesteps`` is given; classes differ
        in which of them they take. Lists and arrays are the same

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
        hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(_CLASSES)}."
        raise ValueError(f"unknown scheduler class {scheduler!r}; {hint}")
    facts = _CLASSES[scheduler]
    given = {"timesteps": timesteps, "sigmas": sigmas, "mu": mu, "original_inference_steps": original_inference_steps}
    for name, value in (given | {"strength": None if strength == 1 else strength}).items():
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
    return facts.levels(facts, s, _Request(count, *lists, mu, original_inference_steps, strength))


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


def _count(scheduler: str, facts: _Class, steps: int | None, lengths: list[int]) -> int:
    """Number of steps, from ``steps`` or from the lists."""
    if not lengths:
        return check_steps(steps)
    if facts.steps_beside_lists == "never" and (steps is not None or len(lengths) > 1):
        raise ValueError(f"{scheduler} takes one of steps, timesteps and sigmas; got more than one")
    if facts.steps_beside_lists == "same" and len({*lengths, lengths[0] if steps is None else steps}) > 1:
        raise ValueError(f"{scheduler} takes lists as long as each other and as steps; got {lengths}, steps={steps}")
    return lengths[-1]
