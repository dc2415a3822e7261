"""Functions that edit the noise levels of a run on any process: validated once, on the host, in float64.

The functions are pure: they take levels as any list of numbers and return a new float64 array. Nothing applies them but
your own call. ``truncate`` and ``stretch`` are the two meanings of an image-to-image strength.
"""

from __future__ import annotations

import itertools
import math
import sys
from typing import Any, Literal

import numpy as np

from ksched.options import Option, check_steps
from ksched.processes import Process
from ksched.schedules.grid import as_numbers, check_sigmas
from ksched.schedules.select import Schedule, calculate_sigmas
from ksched.types import Array, ArrayLike

__all__ = [
    "drop_penultimate",
    "extend",
    "flip",
    "set_first",
    "split",
    "split_at",
    "split_at_strength",
    "stretch",
    "truncate",
]


LARGEST = sys.float_info.max


Rule = Literal["down", "nearest", "a1111"]


def option_value(owner: str, name: str, kind: Any, value: Any, low: float = -LARGEST, high: float = LARGEST) -> Any:
    """``value`` as the type ``kind``, or an error that names the function, the argument and the rule."""
    return Option(name, kind, None, low, high).check(owner, value)


def distinct(owner: str, values: Array) -> Array:
    """``values``, or a ValueError if rounding made two levels equal."""
    same = np.flatnonzero(~(np.diff(values) < 0))
    if len(same):
        i = int(same[0])
        raise ValueError(
            f"{owner} must keep the levels apart in float64; got result[{i}]={values[i]}, "
            f"result[{i + 1}]={values[i + 1]}. Use a milder argument or fewer levels."
        )
    return values


def _kept(owner: str, steps: int, strength: float, rule: Rule) -> int:
    """Number of steps, out of ``steps``, that a strength keeps."""
    strength = option_value(owner, "strength", float, strength, 0, 1)
    option_value(owner, "rule", Rule, rule)
    if rule == "nearest":
        return round(steps * strength)
    if rule == "a1111":
        return min(int(min(strength, 0.999) * steps) + 1, steps)
    return int(steps * strength)


def truncate(sigmas: ArrayLike, strength: float, *, rule: Rule = "down") -> Array:
    """The last part of a grid, with fewer steps, to change an image by ``strength`` (image-to-image).

    Parameters
    ----------
    sigmas : array_like
        Levels of all steps, strictly decreasing.
    strength : float
        Share of the steps to keep, 0 to 1.
    rule : str
        How n steps are cut. "down": keep ``int(n * strength)``, in floating point (50 steps at 0.58 keep 28);
        "nearest": ``round(n * strength)``, half to even; "a1111": ``int(n * min(strength, 0.999)) + 1``, at most n.

    Returns
    -------
    ndarray of float64
        The last ``kept + 1`` levels. Start from the image noised to the first of them. Strength 1 keeps all levels
        (with "a1111" up to 1000 steps). If no step is kept, only the last level is left: a run of no steps, which
        returns the image unchanged.

    Raises
    ------
    TypeError, ValueError
        For levels out of order, strength outside 0 to 1, an unknown rule.

    Notes
    -----
    "down" is diffusers' image-to-image, "nearest" is ComfyUI's table schedulers and SplitSigmasDenoise, and "a1111" is
    A1111's. ComfyUI's KSampler means something else by denoise: see `stretch`.
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
    """The last ``steps`` steps of a longer grid, to change an image by ``strength`` (image-to-image).

    Parameters
    ----------
    schedule, process, options : as for `ksched.calculate_sigmas`
    steps : int
        Number of steps to run.
    strength : float
        Above 0, at most 1. The grid is built with ``int(steps / strength)`` steps; the last ``steps`` are kept.
    drop_penultimate : bool
        Build one more step and leave out the second-last level, see `drop_penultimate`.

    Returns
    -------
    ndarray of float64
        Shape (steps + 1,), strictly decreasing, last element 0; strength 1 returns the schedule itself.

    Raises
    ------
    TypeError, ValueError
        As for `ksched.calculate_sigmas`; strength out of range, or so small that the grid would have more than ten
        million steps.

    Notes
    -----
    ComfyUI's ``denoise`` of KSampler and BasicScheduler. `truncate` keeps fewer steps instead, as diffusers does.
    """
    steps = check_steps(steps)
    strength = option_value("stretch", "strength", float, strength)
    if not 0 < strength <= 1:
        raise ValueError(
            f"stretch: strength must be above 0 and at most 1; got {strength}. To change nothing, skip the run or use "
            "truncate, which then keeps no step."
        )
    if not steps / strength <= 1e7:
        raise ValueError(f"stretch: steps / strength must be at most ten million; got {steps} / {strength}")
    drop = option_value("stretch", "drop_penultimate", bool, drop_penultimate)
    built = calculate_sigmas(schedule, int(steps / strength) + drop, process, **options)
    return (_without_penultimate(built) if drop else built)[-(steps + 1) :]


def split(sigmas: ArrayLike, step: int) -> tuple[Array, Array]:
    """The two parts of a grid before and after a step, to run in turn.

    Parameters
    ----------
    sigmas : array_like
        Levels, strictly decreasing.
    step : int
        Number of steps in the first part, 0 to all.

    Returns
    -------
    tuple of ndarray of float64
        ``(high, low)``: the last level of ``high`` is the first of ``low``. A part with one level is a run of no steps.

    Raises
    ------
    TypeError, ValueError
        For levels out of order, a step outside the grid.

    Notes
    -----
    With the same seeds, the two runs equal the whole run if the sampler remembers nothing between steps. A sampler with
    memory starts the second part without it. In that case drive one `ksched.Run` over the whole grid instead: two
    models may answer it, and `ksched.Run.state_dict` carries it to another process.
    """
    values = check_sigmas(sigmas, math.inf)
    step = option_value("split", "step", int, step, 0, len(values) - 1)
    return values[: step + 1].copy(), values[step:].copy()


def split_at(sigmas: ArrayLike, sigma: float) -> tuple[Array, Array]:
    """`split` at a noise level: the steps that start at ``sigma`` or above, and the rest.

    Parameters
    ----------
    sigmas : array_like
        Levels, strictly decreasing.
    sigma : float
        Lowest level at which a step of the first part starts, as for `ksched.guidance.experts`.

    Returns
    -------
    tuple of ndarray of float64
        ``(high, low)``, sharing one level, which is below ``sigma``; a part may be a run of no steps.

    Raises
    ------
    TypeError, ValueError
        For levels out of order, a negative sigma.
    """
    values = check_sigmas(sigmas, math.inf)
    sigma = option_value("split_at", "sigma", float, sigma, 0, math.inf)
    return split(values, int(np.count_nonzero(values[:-1] >= sigma)))


def split_at_strength(sigmas: ArrayLike, strength: float, *, rule: Rule = "nearest") -> tuple[Array, Array]:
    """`split` so that ``low`` is what `truncate` keeps at this strength.

    Parameters
    ----------
    sigmas : array_like
        Levels, strictly decreasing.
    strength : float
        Share of the steps in the second part, 0 to 1.
    rule : as for `truncate`

    Returns
    -------
    tuple of ndarray of float64
        ``(high, low)``, sharing one level; at strength 0, ``high`` has all levels and ``low`` only the last.

    Raises
    ------
    TypeError, ValueError
        As for `truncate`.

    Notes
    -----
    ComfyUI's SplitSigmasDenoise, except that its ``high`` is empty at strength 0.
    """
    steps = len(as_numbers(sigmas)) - 1
    return split(sigmas, steps - _kept("split_at_strength", steps, strength, rule))


def flip(sigmas: ArrayLike, *, zero: float = 1e-4) -> Array:
    """The levels in reverse order: rising if they fall, falling if they rise.

    Parameters
    ----------
    sigmas : array_like
        Levels, strictly decreasing or strictly increasing.
    zero : float
        Replacement for a 0 that would come first, because samplers cannot divide by it; 0 keeps it.

    Returns
    -------
    ndarray of float64
        Of the same length; flipping twice returns the input, except for a replaced 0.

    Raises
    ------
    TypeError, ValueError
        For levels in no order, ``zero`` not below the next level.

    Notes
    -----
    ComfyUI's FlipSigmas. Rising levels are for inversion, from data to noise; ksched's samplers refuse them.
    """
    values = as_numbers(sigmas)
    if len(values) > 1 and values[0] < values[1]:
        return check_sigmas(values[::-1], math.inf)
    result = check_sigmas(values, math.inf)[::-1].copy()
    if len(result) > 1 and result[0] == 0:
        zero = option_value("flip", "zero", float, zero, 0)
        if zero >= result[1]:
            raise ValueError(f"flip: zero must be below the next level; got zero={zero}, next {result[1]}")
        result[0] = zero
    return result


Spacing = Literal["linear", "cosine", "sine"]


def extend(
    sigmas: ArrayLike, steps: int = 2, *, start_at: float = -1.0, end_at: float = 12.0, spacing: Spacing = "linear"
) -> Array:
    """Split every step that starts in a range of sigmas into several.

    Parameters
    ----------
    sigmas : array_like
        Levels, strictly decreasing.
    steps : int
        Number of steps that replace each step, at least 1; 1 changes nothing.
    start_at, end_at : float
        A step is split if it starts at a level of at most ``start_at`` and at least ``end_at``; a negative ``start_at``
        means no limit.
    spacing : str
        How the new levels are spaced: "linear"; "cosine", denser at the lower level; "sine", denser at the upper level.

    Returns
    -------
    ndarray of float64
        Strictly decreasing, including the given levels.

    Raises
    ------
    TypeError, ValueError
        For levels out of order, an unknown spacing, a split from an infinite level.

    Notes
    -----
    ComfyUI's ExtendIntermediateSigmas, with its defaults.
    """
    values = check_sigmas(sigmas, math.inf)
    steps = check_steps(steps)
    start, end = (
        option_value("extend", k, float, v, -math.inf, math.inf)
        for k, v in (("start_at", start_at), ("end_at", end_at))
    )
    option_value("extend", "spacing", Spacing, spacing)
    u = np.arange(1, steps) / steps
    share = {"linear": u, "cosine": np.sin(u * (math.pi / 2)), "sine": 1 - np.cos(u * (math.pi / 2))}[spacing]
    parts = [values[:1]]
    for sigma, following in itertools.pairwise(values):
        if end <= sigma <= (math.inf if start < 0 else start):
            if math.isinf(sigma) and steps > 1:
                raise ValueError(f"extend: start_at must be finite for levels that start at infinity; got {start_at}")
            parts.append(sigma + share * (following - sigma))
        parts.append(np.array([following]))
    return distinct("extend", np.concatenate(parts))


def set_first(sigmas: ArrayLike, sigma: float) -> Array:
    """The levels with the first one replaced: ComfyUI's SetFirstSigma.

    Parameters
    ----------
    sigmas : array_like
        Levels, strictly decreasing.
    sigma : float
        The new first level, above the second.

    Returns
    -------
    ndarray of float64
        Of the same length.

    Raises
    ------
    TypeError, ValueError
        For levels out of order, before or after.
    """
    values = check_sigmas(sigmas, math.inf)
    values[0] = option_value("set_first", "sigma", float, sigma, 0, math.inf)
    return check_sigmas(values, math.inf)


def drop_penultimate(sigmas: ArrayLike) -> Array:
    """The levels without the second-last one, so the last step starts from a higher level.

    Parameters
    ----------
    sigmas : array_like
        Levels of at least two steps, strictly decreasing.

    Returns
    -------
    ndarray of float64
        One shorter.

    Raises
    ------
    TypeError, ValueError
        For levels out of order, a single step.

    Notes
    -----
    ComfyUI's KSampler does this for dpm_2, dpm_2_ancestral and uni_pc, A1111 for DPM2 and DPM++ 3M SDE, after adding
    one step. ksched does it only if you call this function.
    """
    return _without_penultimate(check_sigmas(sigmas, math.inf))


def _without_penultimate(values: Array) -> Array:
    if len(values) < 3:
        raise ValueError(f"drop_penultimate: sigmas must have at least two steps; got {len(values)} levels")
    return np.append(values[:-2], values[-1])
