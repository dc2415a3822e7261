"""Building blocks of the rules for diffusers' sigmas: the training table, places in it, spacings."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ksched.dialects.diffusers.betas import TERMINAL_ALPHA_BAR, Settings, vp_of
from ksched.types import Array

__all__ = [
    "ClassFacts",
    "DiffusersLevels",
    "LevelRequest",
    "between",
    "check_at_most",
    "check_falling",
    "ends_at_zero",
    "karras",
    "places_of",
    "rule_bounds",
    "rule_of",
    "sigma_table",
    "stretched",
    "timesteps_of",
]


#: settings that respace the sigmas by a rule, in order of priority
_RULES = {
    "karras": "use_karras_sigmas",
    "lu": "use_lu_lambdas",
    "exponential": "use_exponential_sigmas",
    "beta": "use_beta_sigmas",
}


class DiffusersLevels(NamedTuple):
    """The levels of a diffusers scheduler after ``set_timesteps``, in float64 (whole timesteps as int64)."""

    sigmas: Array | None  # None for classes that only use timesteps
    timesteps: Array | npt.NDArray[np.int64]
    init_noise_sigma: float = 1.0  # also 1 if the class has none
    sigmas_interpol: Array | None = (
        None  # KDPM2's second stages; for the ancestral one what a step adds and goes down to
    )
    sigmas_up: Array | None = None
    sigmas_down: Array | None = None


class LevelRequest(NamedTuple):
    """The caller's arguments; ``steps`` is the length of the list if there is one."""

    steps: int
    timesteps: Array | None
    sigmas: Array | None
    mu: float | None
    original_inference_steps: int | None
    strength: float
    max_timesteps: float | None = None
    intermediate_timesteps: float | None = None


@dataclass(frozen=True)
class ClassFacts:
    """The peculiarities of a scheduler class."""

    levels: Callable[[ClassFacts, Settings, LevelRequest], DiffusersLevels]
    has: str  # its groups of settings (`_SETTINGS`); others in a configuration are ignored, as in diffusers
    takes: str = ""  # arguments of set_timesteps besides the number of steps
    steps_beside_lists: Literal["never", "same", "ignored"] = "never"
    more_betas: str = ""  # beta schedules besides linear, scaled_linear and squaredcos_cap_v2
    stages: Callable[[Array, Array, Array], DiffusersLevels] | None = None  # inserts second stages between the levels
    whole: str = ""  # rules whose timesteps are rounded; family B truncates the others
    whole_unless_cosine: bool = False  # DPMSolverMultistep does not round them for squaredcos_cap_v2
    final_twice: bool = False  # sigmas made by a rule end with a repeat of the last one, not with the table's lowest
    never_zero: bool = False  # no final 0: the last step has length 0, or ends at the table's lowest sigma
    upward: bool = False  # for inversion: timesteps rise and lose the repeats they had before truncation
    every_timestep: bool = False  # TCD picks among all timesteps if original_inference_steps is given
    angle: bool = False  # the network is called with an angle, not a logarithm


def sigma_table(s: Settings) -> Array:
    """Sigmas of the training table, in rising order."""
    zero = bool(s["rescale_betas_zero_snr"])
    vp = vp_of({**s, "snr_shift_scale": None})
    alpha_bar = np.append(vp.alphas_cumprod[:-1], TERMINAL_ALPHA_BAR) if zero else np.cumprod(1 - np.array(vp.betas))
    table: Array = np.sqrt((1 - alpha_bar) / alpha_bar)
    return table


def places_of(s: Settings, n: int, *, cut: int = 0, drop: int | None = None) -> Array:
    """Rising places in a table shortened by ``cut`` at the top; ``drop`` places one more and leaves out that one."""
    length = s["num_train_timesteps"]
    top, points = length - cut, n if drop is None else n + 1
    match s["timestep_spacing"]:
        case "trailing":  # as many as strides fit; with rounding this may be n + 1, the lowest then at -1
            return (np.arange(top, 0, -length / n).round() - 1)[::-1]
        case "linspace":
            places = np.linspace(0, top - 1, points)
        case _:  # "leading"
            places = np.arange(points) * float(top // points) + s["steps_offset"]
    return places if drop is None else np.delete(places, drop).round()


def rule_of(s: Settings) -> str | None:
    """The rule that respaces the sigmas, if there is one."""
    rules = [rule for rule, key in _RULES.items() if s[key]]
    if len(set(rules) - {"lu"}) > 1:
        raise ValueError(f"only one of karras, exponential and beta sigmas can be used; got {' and '.join(rules)}")
    return rules[0] if rules else None


def rule_bounds(s: Settings, first: float, last: float) -> tuple[float, float]:
    """Ends of a rule: those of the existing sigmas, unless the settings say otherwise."""
    low, high = s["sigma_min"], s["sigma_max"]
    return (first if high is None else high), (last if low is None else low)


def between(rule: str, first: float, last: float, n: int) -> Array:
    """``n`` sigmas from ``first`` to ``last``, which may be the higher one, by a rule.

    They equal ksched's karras and exponential except in the last bit, because the end values are computed here and set
    exactly there. That bit decides how a timestep is truncated to a whole number.
    """
    share, first, last = np.linspace(0, 1, n), float(first), float(last)
    if rule == "karras":
        return karras(share, first, last, 7.0)
    if rule == "beta":
        from scipy.special import betaincinv

        quantiles: Array = last + betaincinv(0.6, 0.6, 1 - share) * (first - last)
        return quantiles
    # "lu" is uniform in log sigma like "exponential"; only the rounding of its timesteps differs
    levels: Array = np.exp(np.linspace(math.log(first), math.log(last), n))
    return levels


def karras(share: Array, first: float, last: float, rho: float) -> Array:
    """Sigmas at shares of the way from ``first`` to ``last``, uniform in ``sigma ** (1 / rho)``."""
    root = 1 / rho
    levels: Array = (first**root + share * (last**root - first**root)) ** rho
    return levels


def timesteps_of(sigmas: Array, table: Array) -> Array:
    """Places of sigmas in a table, linear in log sigma and clipped to its ends.

    They are counted from the last entry that is not above, because a zero-terminal-SNR table may fall at the sigma that
    stands for infinity.
    """
    logs, log_sigma = np.log(table), np.log(np.maximum(sigmas, 1e-10))
    last = np.where(logs <= log_sigma[:, np.newaxis], np.arange(len(table)), 0).max(axis=1)
    low = np.minimum(last, len(table) - 2)
    share = np.clip((logs[low] - log_sigma) / (logs[low] - logs[low + 1]), 0, 1)
    places: Array = (1 - share) * low + share * (low + 1)
    return places


def stretched(sigmas: Array, terminal: float | None) -> Array:
    """Flow sigmas stretched to end at ``terminal``; unchanged if that is None."""
    if not terminal:
        return sigmas
    if sigmas[-1] == 1:
        raise ValueError("shift_terminal needs a last sigma below 1; got 1, the only sigma of one step. Use 2 steps.")
    levels: Array = 1 - (1 - sigmas) / ((1 - sigmas[-1]) / (1 - terminal))
    return levels


def ends_at_zero(s: Settings) -> bool:
    """Whether a run ends at 0 instead of at the lowest sigma."""
    if s["final_sigmas_type"] not in ("zero", "sigma_min"):
        raise ValueError(f"final_sigmas_type must be 'zero' or 'sigma_min'; got {s['final_sigmas_type']!r}")
    return bool(s["final_sigmas_type"] == "zero")


def check_falling(timesteps: Array, s: Settings) -> Array:
    """The timesteps of a list, checked to fall and to be within the training."""
    if np.any(np.diff(timesteps) >= 0) or timesteps[0] >= s["num_train_timesteps"]:
        raise ValueError(f"timesteps must fall and start below {s['num_train_timesteps']}; got {timesteps.tolist()}")
    return timesteps


def check_at_most(steps: int, most: int, name: str) -> None:
    """Raise an error for more steps than there are levels."""
    if steps > most:
        raise ValueError(f"steps must be at most {name}, {most}; got {steps}")
