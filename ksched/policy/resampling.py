"""Weights of items, and resampling in proportion to them."""

from __future__ import annotations

import math
import struct
from typing import Any, Literal, TypeAlias, overload

import numpy as np
import torch

from ksched.kernels import philox
from ksched.noise.streams import Seed, item_seeds, key_of
from ksched.options import check_whole
from ksched.types import Array

__all__ = ["Scheme", "drawn_of", "effective_sample_size", "log_mean_exp", "log_numbers", "normalized", "resampled"]


#: name of the rule from seeds to draws; a new rule gets a new name, and an old one never changes
_RULE = "ksched resampling 1"


Scheme: TypeAlias = Literal["systematic", "stratified", "residual", "multinomial"]


def log_mean_exp(values: Array) -> Array:
    """Log of the mean of exponentials along the last axis, which is kept with length 1."""
    largest = values.max(-1, keepdims=True, initial=-math.inf)
    largest[~np.isfinite(largest)] = 0.0
    with np.errstate(divide="ignore"):
        found: Array = largest + np.log(np.exp(values - largest).mean(-1, keepdims=True))
    return found


def normalized(log_weights: Array) -> Array:
    """Weights with sum 1 along the last axis; equal weights if all are 0."""
    mean = log_mean_exp(log_weights)
    dead = np.isneginf(mean)
    shifted = np.where(dead, 0.0, log_weights - np.where(dead, 0.0, mean))
    return np.asarray(np.exp(shifted) / log_weights.shape[-1])


def log_numbers(name: str, values: Any) -> Array:
    """Logs of weights, or rewards, on the host; -inf is allowed, NaN and inf are not."""
    array = np.array(values.tolist() if isinstance(values, torch.Tensor) else values, dtype=np.float64)
    if np.isnan(array).any() or np.isposinf(array).any():
        raise ValueError(f"{name} must be numbers below infinity; got {array[~(array < math.inf)].flat[0]}")
    return array


def effective_sample_size(log_weights: Any) -> Any:
    """Effective sample size (ESS), the equivalent number of equally weighted items.

    It is ``(sum of weights)**2 / (sum of squared weights)``.

    Parameters
    ----------
    log_weights : array_like or Tensor
        Logs of weights, which need not be normalised, shape (..., items); a tensor, array or list.

    Returns
    -------
    float64 of shape (...): from 1, if one item has all the weight, to the number of items; 0 if no item has any weight
    """
    values = log_numbers("log_weights", log_weights)
    if not values.ndim or not values.shape[-1]:
        raise ValueError(f"log_weights must have at least one item; got shape {values.shape}")
    found = 1 / (normalized(values) ** 2).sum(-1)
    found = np.where(np.isneginf(values).all(-1), 0.0, found)
    return found if found.ndim else float(found)


@overload
def resampled(
    log_weights: torch.Tensor, scheme: Scheme = ..., *, seed: Seed, count: int | None = None
) -> torch.Tensor: ...
@overload
def resampled(log_weights: Any, scheme: Scheme = ..., *, seed: Seed, count: int | None = None) -> Any: ...
def resampled(log_weights: Any, scheme: Scheme = "systematic", *, seed: Seed, count: int | None = None) -> Any:
    """Indices of items, drawn with replacement in proportion to their weights.

    Parameters
    ----------
    log_weights : array_like or Tensor
        Logs of weights, which need not be normalised, shape (items,) or (groups, items).
    scheme : str
        "systematic": one random number shifts an evenly spaced comb over the weights; "stratified": a random number in
        each of ``count`` equal parts; "residual": each item as often as its weight rounded down, the rest at random;
        "multinomial": all draws independent, the most random.
    seed : int or sequence of int
        One whole number, or one per group; a group's indices depend only on its weights and its seed, and the global
        random state is neither read nor changed.
    count : int or None
        Number of draws; None means as many as there are items.

    Returns
    -------
    int64, shape (count,) or (groups, count), in rising order: an array, or for a tensor a tensor on its device. An item
    of weight w (of sum 1) occurs ``count * w`` times on average, and in all schemes but "multinomial" always within
    less than one of that

    Raises
    ------
    TypeError, ValueError
        For an unknown scheme; weights of the wrong shape, all 0, or not numbers; seeds as for `Sampler.sample`.

    Notes
    -----
    The indices are computed on the host in float64, so they are the same on every device; a run needs them there
    anyway.

    Examples
    --------
    >>> import math
    >>> from ksched.steer import resampled
    >>> resampled([math.log(0.5), math.log(0.25), math.log(0.25), -math.inf], seed=0).tolist()
    [0, 0, 1, 2]
    """
    values = log_numbers("log_weights", log_weights)
    if values.ndim not in (1, 2) or not values.shape[-1]:
        raise ValueError(f"log_weights must have shape (items,) or (groups, items); got {values.shape}")
    if np.isneginf(values).all(-1).any():
        raise ValueError("log_weights must have an item with a weight above 0; got -inf for all")
    number = values.shape[-1] if count is None else count
    check_whole("count", number, 0)
    rows = np.atleast_2d(normalized(values))
    drawn = np.stack(
        [drawn_of(row, scheme, number, own, 0) for row, own in zip(rows, item_seeds(seed, len(rows)), strict=True)]
    ).reshape(*values.shape[:-1], number)
    return torch.from_numpy(drawn).to(log_weights.device) if isinstance(log_weights, torch.Tensor) else drawn


def drawn_of(weights: Array, scheme: Scheme, count: int, seed: int, number: int) -> np.ndarray[Any, Any]:
    """Indices of one group, from a seed's random numbers for resampling ``number``."""
    words = philox.words(key_of(struct.pack("<q", number), _RULE, seed), 0, max(count, 1))
    uniform: Array = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
    match scheme:
        case "systematic":
            return _at(weights, (np.arange(count) + uniform[0]) / max(count, 1))
        case "stratified":
            return _at(weights, (np.arange(count) + uniform[:count]) / max(count, 1))
        case "multinomial":
            return _at(weights, np.sort(uniform[:count]))
        case "residual":
            whole = np.floor(count * weights + 1e-9)  # a weight of n / count means n draws, despite rounding
            rest, left = np.maximum(count * weights - whole, 0.0), count - int(whole.sum())
            sure = np.repeat(np.arange(len(weights)), whole.astype(np.int64))
            return np.sort(np.concatenate([sure, _at(rest, uniform[:left])])) if left > 0 else sure[:count]
    known = ", ".join(map(repr, ("systematic", "stratified", "residual", "multinomial")))
    raise ValueError(f"scheme must be one of {known}; got {scheme!r}")


def _at(weights: Array, places: Array) -> np.ndarray[Any, Any]:
    """The items at positions from 0 to 1, with the items laid end to end at lengths equal to their weights."""
    ends = weights.cumsum()
    return np.searchsorted(ends / ends[-1], places, side="right")
