"""Linear maps along an axis of an array, with a few weights per number: interpolation and blur, as data.

NumPy and torch apply them with the same products and sums in the same order, so float32 results agree bit for bit, and
an item's result does not depend on the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["AxisMap", "doubling", "halved", "halving", "interpolation", "last_axes", "map_axis"]


#: blur before an axis is halved and after it is doubled: the binomial kernel of Burt & Adelson 1983
_BLUR = np.array([1, 4, 6, 4, 1]) / 16


@dataclass(frozen=True, eq=False)
class AxisMap:
    """A linear map along an axis.

    Attributes
    ----------
    indices : ndarray
        Indices of the numbers that make up each number of the result, shape (taps, size of the result).
    weights : ndarray
        Weight of each of them, float64, of the same shape.
    """

    indices: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]


def map_axis(mapping: AxisMap, array: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
    """A NumPy array mapped along an axis, in its own dtype; `ksched.kernels.on_device` does the same to a tensor."""
    size = [1] * array.ndim
    size[axis] = -1
    weights = mapping.weights.astype(array.dtype).reshape(len(mapping.weights), *size)
    result: npt.NDArray[Any] = array.take(mapping.indices[0], axis) * weights[0]
    for indices, weight in zip(mapping.indices[1:], weights[1:], strict=True):
        result += array.take(indices, axis) * weight
    return result


def last_axes(ndim: int) -> tuple[int, ...]:
    """The spatial axes of a state of some rank: the last two, or those after batch and channel."""
    return tuple(range(ndim))[max(1, min(2, ndim - 1), ndim - 2) :]


@cache
def interpolation(coarse: int, fine: int, *, unit: bool = False) -> AxisMap:
    """Linear interpolation between two sizes, with the numbers in the middle of cells that divide the axis.

    Parameters
    ----------
    coarse, fine : int
        Size before and after.
    unit : bool
        Scale the weights so that independent numbers of variance 1 give numbers of variance 1.
    """
    matrix = _interpolated(np.eye(coarse), fine)
    return _sparse(matrix / np.linalg.norm(matrix, axis=1, keepdims=True) if unit else matrix)


@cache
def halving(size: int) -> AxisMap:
    """From an axis to the next level of its Gaussian pyramid, half the size rounded up: blurred, then sampled.

    A number of the result lies between two of the axis, in half-pixel coordinates.
    """
    return _sparse(_interpolated(_blurred(np.eye(size)), halved(size)))


@cache
def doubling(size: int) -> AxisMap:
    """The inverse direction of `halving`, to an axis of the given size: interpolated, then blurred."""
    return _sparse(_blurred(_interpolated(np.eye(halved(size)), size)))


def halved(size: int) -> int:
    """The size of the next level of a pyramid."""
    return -(-size // 2)


def _interpolated(rows: npt.NDArray[np.float64], size: int) -> npt.NDArray[np.float64]:
    count = len(rows)
    place = np.clip((np.arange(size) + 0.5) * count / size - 0.5, 0, count - 1)
    below = np.minimum(place.astype(np.int64), max(count - 2, 0))
    share = (place - below)[:, None]
    result: npt.NDArray[np.float64] = rows[below] * (1 - share) + rows[np.minimum(below + 1, count - 1)] * share
    return result


def _blurred(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Rows blurred, with mirrored ends."""
    count, result = len(rows), np.zeros_like(rows)
    period = max(2 * count - 2, 1)
    for offset, weight in zip(range(-2, 3), _BLUR, strict=True):
        place = (np.arange(count) + offset) % period
        result += weight * rows[np.minimum(place, period - place) % max(count, 1)]
    return result


def _sparse(matrix: npt.NDArray[np.float64]) -> AxisMap:
    """A matrix, shape (numbers of the result, numbers), by its non-zero entries."""
    taps = int((matrix != 0).sum(1).max())
    # a stable sort, so that the taps of a number are added from left to right
    indices = np.sort(np.argsort(matrix == 0, axis=1, kind="stable")[:, :taps], axis=1)
    weights = np.take_along_axis(matrix, indices, 1)
    return AxisMap(np.ascontiguousarray(indices.T), np.ascontiguousarray(weights.T))
