"""The noise levels of one run, validated once, on the host, in float64; and functions from levels to levels.

The functions are pure: they take levels as any list of numbers, return a new float64 array, and are applied where you
call them and nowhere else. ``truncate`` and ``stretch`` are the two meanings of an image-to-image strength.
"""

from __future__ import annotations

import itertools
import math
import sys
from typing import Any, Literal

import numpy as np

from ksched.options import Option, check_steps
from ksched.processes import Process
from ksched.schedules.curves import stretched_to
from ksched.schedules.grid import as_numbers, check_sigmas
from ksched.schedules.select import Schedule, calculate_sigmas
from ksched.types import Array, ArrayLike

__all__ = [
    "drop_penultimate",
    "extend",
    "flip",
    "set_first",
    "shift",
    "shift_mu",
    "split",
    "split_at",
    "split_at_strength",
    "stretch",
    "stretch_terminal",
    "truncate",
]


LARGEST = sys.float_info.max


Rule = Literal["down", "nearest", "a1111"]


def _option(owner: str, name: str, kind: Any, value: Any, low: float = -LARGEST, high: float = LARGEST) -> Any:
    """``value`` in the type ``kind``, or an error that names the function, the argument and what must hold."""
    return Option(name, kind, None, low, high).check(owner, value)


def _distinct(owner: str, values: Array) -> Array:
    """``values``, or a ValueError if rounding has put two levels on one number."""
    same = np.flatnonzero(~(np.diff(values) < 0))
    if len(same):
        i = int(same[0])
        raise ValueError(
            f"{owner} must keep the levels apart in float64; got result[{i}]={values[i]}, "
            f"result[{i + 1}]={values[i + 1]}. Take a milder argument or fewer levels."
        )
    return values


def _kept(owner: str, steps: int, strength: float, rule: Rule) -> int:
    """How many of ``steps`` steps a strength keeps."""
    strength = _option(owner, "strength", float, strength, 0, 1)
    _option(owner, "rule", Rule, rule)
    if rule == "nearest":
        return round(steps * strength)
    if rule == "a1111":
        return min(int(min(strength, 0.999) * steps) + 1, steps)
    return int(steps * strength)


def truncate(sigmas: ArrayLike, strength: float, *, rule: Rule = "down") -> Array:
    """The end of a grid: fewer steps, for an image that is to be changed by ``strength`` only.

    Parameters
    ----------
    sigmas : levels of all steps, strictly decreasing
    strength : share of the steps to keep, 0 to 1
    rule : how many of n steps that is. "down": ``int(n * strength)``, in floating point (50 steps at 0.58 keep 28);
        "nearest": ``round(n * strength)``, half to even; "a1111": ``int(n * min(strength, 0.999)) + 1``, at most n

    Returns
    -------
    float64 array: the last ``kept + 1`` levels. Start from the image noised to the first of them. Strength 1 is all of
    them (with "a1111" up to 1000 steps), and none kept is the last level alone: a run of no steps, which returns the
    image as it came

    Raises
    ------
    TypeError, ValueError : levels out of order, strength outside 0 to 1, an unknown rule

    Notes
    -----
    "down" is diffusers' image-to-image, "nearest" what ComfyUI's table schedulers and SplitSigmasDenoise do, "a1111"
    A1111's. ComfyUI's KSampler means something else by denoise: `stretch`.
    """
    values = check_sigmas(sigmas, math.inf)
    kept = _kept("truncate", len(values) - 1, strength, rule)
    return values[len(values) - 1 - kept :]


def stretch(
    schedule: Schedule,
    steps: int,
    strength: float,
    process: Process | None = None,
    *,
    drop_penultimate: bool = False,
    **options: Any,
) -> Array:
    """The end of a longer grid: always ``steps`` steps, for an image that is to be changed by ``strength`` only.

    Parameters
    ----------
    schedule, process, options : as for `ksched.calculate_sigmas`
    steps : steps to run
    strength : above 0, at most 1; the grid is built with ``int(steps / strength)`` steps, the last ``steps`` are kept
    drop_penultimate : build one step more and leave out the last level but one, see `drop_penultimate`

    Returns
    -------
    float64 array, shape (steps + 1,), strictly decreasing, last element 0; strength 1 is the schedule itself

    Raises
    ------
    TypeError, ValueError : as for `ksched.calculate_sigmas`; strength out of range, or so small that the grid would
        have more than ten million steps

    Notes
    -----
    ComfyUI's ``denoise`` of KSampler and BasicScheduler. For fewer steps instead, as in diffusers, see `truncate`.
    """
    steps = check_steps(steps)
    strength = _option("stretch", "strength", float, strength)
    if not 0 < strength <= 1:
        raise ValueError(
            f"stretch: strength must be above 0 and at most 1; got {strength}. To change nothing, run nothing, or take "
            "truncate, which then keeps no step."
        )
    if not steps / strength <= 1e7:
        raise ValueError(f"stretch: steps / strength must be at most ten million; got {steps} / {strength}")
    drop = _option("stretch", "drop_penultimate", bool, drop_penultimate)
    built = calculate_sigmas(schedule, int(steps / strength) + drop, process, **options)
    return (_without_penultimate(built) if drop else built)[-(steps + 1) :]


def split(sigmas: ArrayLike, step: int) -> tuple[Array, Array]:
    """The two parts of a grid before and after a step, to run one after the other.

    Parameters
    ----------
    sigmas : levels, strictly decreasing
    step : steps of the first part, 0 to all of them

    Returns
    -------
    (high, low): the last level of ``high`` is the first of ``low``. A part of one level is a run of no steps

    Raises
    ------
    TypeError, ValueError : levels out of order, a step that the grid does not have

    Notes
    -----
    With the same seeds the two runs are the whole run where the sampler remembers nothing from step to step. One that
    does begins the second part anew; drive one `ksched.Run` of the whole grid instead, which two models may answer, and
    which `ksched.Run.state_dict` carries to another process.
    """
    values = check_sigmas(sigmas, math.inf)
    step = _option("split", "step", int, step, 0, len(values) - 1)
    return values[: step + 1].copy(), values[step:].copy()


def split_at(sigmas: ArrayLike, sigma: float) -> tuple[Array, Array]:
    """`split` at a level: the steps that begin at ``sigma`` or above, and the rest.

    Parameters
    ----------
    sigmas : levels, strictly decreasing
    sigma : lowest level at which a step of the first part begins, as for `ksched.guidance.experts`

    Returns
    -------
    (high, low), sharing one level, which is below ``sigma``; a part may be a run of no steps

    Raises
    ------
    TypeError, ValueError : levels out of order, a negative sigma
    """
    values = check_sigmas(sigmas, math.inf)
    sigma = _option("split_at", "sigma", float, sigma, 0, math.inf)
    return split(values, int(np.count_nonzero(values[:-1] >= sigma)))


def split_at_strength(sigmas: ArrayLike, strength: float, *, rule: Rule = "nearest") -> tuple[Array, Array]:
    """`split` where ``low`` is what `truncate` keeps at this strength.

    Parameters
    ----------
    sigmas : levels, strictly decreasing
    strength : share of the steps of the second part, 0 to 1
    rule : as for `truncate`

    Returns
    -------
    (high, low), sharing one level; at strength 0 ``high`` is everything and ``low`` the last level

    Raises
    ------
    TypeError, ValueError : as for `truncate`

    Notes
    -----
    ComfyUI's SplitSigmasDenoise, whose ``high`` is empty at 0 where this one's is everything.
    """
    steps = len(as_numbers(sigmas)) - 1
    return split(sigmas, steps - _kept("split_at_strength", steps, strength, rule))


def flip(sigmas: ArrayLike, *, zero: float = 1e-4) -> Array:
    """The levels in reverse: rising if they fall, falling if they rise.

    Parameters
    ----------
    sigmas : levels, strictly decreasing or strictly increasing
    zero : what a 0 becomes that would come first, where nothing can be divided by it; 0 leaves it

    Returns
    -------
    float64 array of the same length; flipped twice it is the input, but for a replaced 0

    Raises
    ------
    TypeError, ValueError : levels in no order, ``zero`` not below the next level

    Notes
    -----
    ComfyUI's FlipSigmas. Rising levels are for inversion, from data to noise; a sampler here refuses them.
    """
    values = as_numbers(sigmas)
    if len(values) > 1 and values[0] < values[1]:
        return check_sigmas(values[::-1], math.inf)
    result = check_sigmas(values, math.inf)[::-1].copy()
    if len(result) > 1 and result[0] == 0:
        zero = _option("flip", "zero", float, zero, 0)
        if zero >= result[1]:
            raise ValueError(f"flip: zero must be below the next level; got zero={zero}, next {result[1]}")
        result[0] = zero
    return result


Spacing = Literal["linear", "cosine", "sine"]


def extend(
    sigmas: ArrayLike, steps: int = 2, *, start_at: float = -1.0, end_at: float = 12.0, spacing: Spacing = "linear"
) -> Array:
    """Every step that starts in a range of sigma, cut into several.

    Parameters
    ----------
    sigmas : levels, strictly decreasing
    steps : what one step becomes, >= 1; 1 changes nothing
    start_at, end_at : a step is cut if it leaves a level of at most ``start_at`` and at least ``end_at``; a negative
        ``start_at`` is no limit
    spacing : where the new levels lie between the two: "linear"; "cosine", crowded at the lower one; "sine", crowded
        at the upper one

    Returns
    -------
    float64 array, strictly decreasing, with the given levels among its own

    Raises
    ------
    TypeError, ValueError : levels out of order, an unknown spacing, a cut from an infinite level

    Notes
    -----
    ComfyUI's ExtendIntermediateSigmas, with its defaults.
    """
    values = check_sigmas(sigmas, math.inf)
    steps = check_steps(steps)
    start, end = (
        _option("extend", k, float, v, -math.inf, math.inf) for k, v in (("start_at", start_at), ("end_at", end_at))
    )
    _option("extend", "spacing", Spacing, spacing)
    u = np.arange(1, steps) / steps
    share = {"linear": u, "cosine": np.sin(u * (math.pi / 2)), "sine": 1 - np.cos(u * (math.pi / 2))}[spacing]
    parts = [values[:1]]
    for sigma, following in itertools.pairwise(values):
        if end <= sigma <= (math.inf if start < 0 else start):
            if math.isinf(sigma) and steps > 1:
                raise ValueError(f"extend: start_at must be finite for levels that start at infinity; got {start_at}")
            parts.append(sigma + share * (following - sigma))
        parts.append(np.array([following]))
    return _distinct("extend", np.concatenate(parts))


def set_first(sigmas: ArrayLike, sigma: float) -> Array:
    """The levels with another first one: ComfyUI's SetFirstSigma.

    Parameters
    ----------
    sigmas : levels, strictly decreasing
    sigma : the new first level, above the second

    Returns
    -------
    float64 array of the same length

    Raises
    ------
    TypeError, ValueError : levels out of order, before or after
    """
    values = check_sigmas(sigmas, math.inf)
    values[0] = _option("set_first", "sigma", float, sigma, 0, math.inf)
    return check_sigmas(values, math.inf)


def drop_penultimate(sigmas: ArrayLike) -> Array:
    """The levels without the last but one, so that the last step goes to the end from further up.

    Parameters
    ----------
    sigmas : levels of at least two steps, strictly decreasing

    Returns
    -------
    float64 array, one shorter

    Raises
    ------
    TypeError, ValueError : levels out of order, a single step

    Notes
    -----
    ComfyUI's KSampler does this for dpm_2, dpm_2_ancestral and uni_pc, A1111 for DPM2 and DPM++ 3M SDE, after asking
    for one step more. Off here unless you call it.
    """
    return _without_penultimate(check_sigmas(sigmas, math.inf))


def _without_penultimate(values: Array) -> Array:
    if len(values) < 3:
        raise ValueError(f"drop_penultimate: sigmas must have at least two steps; got {len(values)} levels")
    return np.append(values[:-2], values[-1])


def _flow_sigmas(owner: str, sigmas: ArrayLike) -> Array:
    values = check_sigmas(sigmas, math.inf)
    if values[0] > 1:
        raise ValueError(
            f"{owner}: sigmas must be levels of a flow process, at most 1; got sigmas[0]={values[0]}. "
            "On other processes change sigma_min and sigma_max instead."
        )
    return values


def shift(sigmas: ArrayLike, s: float) -> Array:
    """Flow levels moved towards noise: ``s * sigma / (1 + (s - 1) * sigma)``, which multiplies sigma / alpha by ``s``.

    Parameters
    ----------
    sigmas : levels of a flow process, strictly decreasing, from at most 1
    s : > 0; above 1 more steps are spent at high noise, 1 changes nothing

    Returns
    -------
    float64 array of the same length; 1 and 0 stay what they are

    Raises
    ------
    TypeError, ValueError : levels out of order or above 1, a shift that is not positive or so extreme that two levels
        would be one

    Notes
    -----
    Esser et al. 2024, arXiv:2403.03206, eq. 23. ``shift(shift(x, a), b)`` is ``shift(x, a * b)``, and so
    ``shift(x, 1 / s)`` undoes it. The levels that a schedule makes for ``Flow(s)`` have their shift already.
    """
    values = _flow_sigmas("shift", sigmas)
    s = _option("shift", "s", float, s, sys.float_info.min)
    return _shifted("shift", values, s)


def _shifted(owner: str, values: Array, s: float) -> Array:
    return _distinct(owner, values / (values + (1 - values) / s))  # this form leaves 1 and 0 exact


def shift_mu(sigmas: ArrayLike, mu: float) -> Array:
    """`shift` by ``exp(mu)``, as Flux writes it.

    Parameters
    ----------
    sigmas : levels of a flow process, strictly decreasing, from at most 1
    mu : any number; 0 changes nothing. See `mu_for_tokens`

    Returns
    -------
    float64 array of the same length

    Raises
    ------
    TypeError, ValueError : as for `shift`
    """
    values = _flow_sigmas("shift_mu", sigmas)
    mu = _option("shift_mu", "mu", float, mu, -700, 700)  # exp of more leaves float64
    return _shifted("shift_mu", values, math.exp(mu))


def stretch_terminal(sigmas: ArrayLike, terminal: float) -> Array:
    """Flow levels with alpha scaled so that the last non-zero level is ``terminal``.

    Parameters
    ----------
    sigmas : levels of a flow process, strictly decreasing, from at most 1
    terminal : level to end at before the final 0, above 0 and below 1

    Returns
    -------
    float64 array of the same length; 1 and a final 0 stay what they are. One step has only its start, which stays

    Raises
    ------
    TypeError, ValueError : levels out of order or above 1, ``terminal`` outside 0 to 1

    Notes
    -----
    diffusers' ``shift_terminal`` and ComfyUI's LTXVScheduler, both of which are not a number at one step.
    """
    values = _flow_sigmas("stretch_terminal", sigmas)
    terminal = _option("stretch_terminal", "terminal", float, terminal, 0, 1)
    if terminal in (0, 1):
        raise ValueError(f"stretch_terminal: terminal must be above 0 and below 1; got {terminal}")
    count = int(np.count_nonzero(values))
    if count > 1:
        values[:count] = stretched_to(values[:count], terminal)
    return _distinct("stretch_terminal", values)
