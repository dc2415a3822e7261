"""Properties that every sigma curve must have."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np

from ksched.types import Array, ArrayLike, is_tensor

__all__ = ["as_levels", "check_sigma_curve", "curve_problem", "same_values", "spoil"]


def as_levels(sigmas: Any) -> Array | str:
    """The levels as a new float64 array, or a message if their type is wrong."""
    if is_tensor(sigmas):
        kind = str(sigmas.dtype).removeprefix("torch.")
        values = sigmas.detach().cpu().numpy() if kind != "bfloat16" else np.zeros(1)
    else:
        try:
            values = np.asarray(sigmas)
        except ValueError:
            return "levels must be one list of numbers"
        kind = str(values.dtype)
    if kind != "float64":
        return (
            f"levels must be float64; got {kind if values.dtype != object else f'{type(sigmas).__name__} of objects'}"
        )
    if values.ndim != 1:
        return f"levels must be one list of numbers; got shape {values.shape}"
    return np.array(values)


def _is_float32(levels: Array) -> int | None:
    """Index of a level that shows that all of them were rounded to float32, or None.

    Levels count as rounded if float32 can represent all of them; short binary fractions such as 0.75 prove nothing.
    """
    inner = np.arange(len(levels))[levels > 0]
    inner = inner[1:-1] if len(inner) >= 4 else inner  # the ends are often copied from the arguments
    values = levels[inner]
    with np.errstate(over="ignore"):
        survive = values.astype(np.float32) == values
    mantissa = np.frexp(values)[0] * 2.0**16
    long = inner[mantissa != np.round(mantissa)]
    return int(long[0]) if survive.all() and len(long) >= 2 else None


def curve_problem(
    sigmas: Any, steps: int | None, sigma_min: float | None, sigma_max: float | None, final_zero: bool | None
) -> str | None:
    """A sentence that says what is wrong with a sigma curve; None if nothing is."""
    levels = as_levels(sigmas)
    if isinstance(levels, str):
        return levels
    return (
        _count_problem(levels, steps)
        or _value_problem(levels)
        or _order_problem(levels, sigma_min, sigma_max)
        or _end_problem(levels, final_zero)
        or _range_problem(levels, sigma_min, sigma_max)
    )


def _count_problem(levels: Array, steps: int | None) -> str | None:
    if steps is not None and len(levels) != steps + 1:
        hint = ". Is the final 0 missing?" if len(levels) == steps and steps and levels[-1] > 0 else ""
        return f"levels must be steps + 1 = {steps + 1} numbers; got {len(levels)}{hint}"
    return "levels must be at least one number; got none" if len(levels) == 0 else None


def _value_problem(levels: Array) -> str | None:
    for i, level in enumerate(levels):
        if not math.isfinite(level):
            return f"levels must be finite; got levels[{i}]={level}"
        if level < 0:
            return f"levels must be >= 0; got levels[{i}]={level}"
    return None


def _order_problem(levels: Array, sigma_min: float | None, sigma_max: float | None) -> str | None:
    """Problems with the order, after two mistakes that make levels rise or repeat in many places."""
    positive = levels[levels > 0]
    if len(positive) > 1 and sigma_min is not None and sigma_max is not None:
        ends = np.array((sigma_min, sigma_max), float)
        if np.allclose(positive[[0, -1]], ends, rtol=1e-6, atol=0):
            return f"sigma_min and sigma_max are swapped: levels rise from {positive[0]} to {positive[-1]}"
    if (rounded := _is_float32(levels)) is not None:
        return (
            "levels must be computed in float64; they are rounded to float32, as "
            f"levels[{rounded}]={levels[rounded]} shows"
        )
    for i, (before, after) in enumerate(itertools.pairwise(levels)):
        if after >= before:
            how = "is repeated" if after == before else "is followed by a larger one"
            return f"levels must be strictly decreasing; levels[{i}]={before} {how}: levels[{i + 1}]={after}"
    return None


def _end_problem(levels: Array, final_zero: bool | None) -> str | None:
    if final_zero and levels[-1] != 0:
        return f"the last level must be 0; got levels[{len(levels) - 1}]={levels[-1]}"
    if final_zero is False and levels[-1] == 0:
        return f"the last level must be above 0; got levels[{len(levels) - 1}]=0"
    return None


def _range_problem(levels: Array, sigma_min: float | None, sigma_max: float | None) -> str | None:
    if sigma_max is not None and abs(levels[0] - sigma_max) > 1e-9 * sigma_max:
        hint = ""
        if sigma_min is not None and abs(levels[0] - sigma_min) <= 1e-6 * sigma_min:
            hint = ", which is sigma_min: the two are swapped, or one step uses the wrong end"
        return f"the first level must be sigma_max={sigma_max}; got levels[0]={levels[0]}{hint}"
    positive = levels[levels > 0]
    if sigma_min is not None and len(positive) and positive[-1] < sigma_min * (1 - 1e-9):
        return (
            f"the last level above 0 must be at least sigma_min={sigma_min}; "
            f"got levels[{len(positive) - 1}]={positive[-1]}"
        )
    return None


def check_sigma_curve(
    sigmas: ArrayLike,
    *,
    steps: int | None = None,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    final_zero: bool | None = True,
) -> None:
    """Check that noise levels keep the contract: float64, finite, strictly decreasing, >= 0, with the right ends.

    Parameters
    ----------
    sigmas : array_like
        An array, list or tensor.
    steps : int or None
        Number of steps; None allows any.
    sigma_min : float or None
        Lowest level allowed, except for a final 0; None does not check it.
    sigma_max : float or None
        First level, to 1e-9; None does not check it.
    final_zero : bool or None
        Whether the last level must be 0; None does not check it.

    Raises
    ------
    AssertionError
        If the levels break the contract; one sentence with index and values of the first wrong level.
    """
    problem = curve_problem(sigmas, steps, sigma_min, sigma_max, final_zero)
    if problem:
        raise AssertionError(problem)


def same_values(a: Any, b: Any) -> bool:
    """Whether two results contain the same numbers."""
    return bool(np.shape(a) == np.shape(b) and np.array_equal(np.asarray(a), np.asarray(b), equal_nan=True))


def spoil(result: Any) -> None:
    """Overwrite a result, if that is possible."""
    if is_tensor(result):
        result.fill_(0)
    elif isinstance(result, list):
        result[:] = [0.0] * len(result)
    elif isinstance(result, np.ndarray) and result.flags.writeable:
        result.fill(0)
