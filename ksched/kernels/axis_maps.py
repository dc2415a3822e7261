"""Linear maps along one axis of an array that take a few numbers for each: interpolation and blur, as data.

NumPy and torch apply them by the same products and sums in the same order, so that float32 results agree bit for bit,
and those of one item do not depend on the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["AxisMap", "doubling", "halved", "halving", "interpolation", "last_axes", "map_axis"]


#: of a blur before an axis is halved, and after it is doubled: the binomial kernel of Burt & Adelson 1983
_BLUR = np.array([1, 4, 6, 4, 1]) / 16


@dataclass(frozen=True, eq=False)
class AxisMap:
    """A linear map along an axis.

    Attributes
    ----------
    indices : which numbers make up each number of the result, shape (taps, size of the result)
    weights : what each of them is multiplied by, float64, of the same shape
    """

    indices: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float64]


def map_axis(mapping: AxisMap, array: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
    """A NumPy array mapped along an axis, in its own dtype; `ksched.kernels.on_device` does the same with a tensor."""
    size = [1] * array.ndim
    size[axis] = -1
    weights = mapping.weights.astype(array.dtype).reshape(len(mapping.weights), *size)
    result: npt.NDArray[Any] = array.take(mapping.indices[0], axis) * weights[0]
    for indices, weight in zip(mapping.indices[1:], weights[1:], strict=True):
        result += array.take(indices, axis) * weight
    return result


def last_axes(ndim: int) -> tuple[int, ...]:
    """The axes along which states of a rank vary in space: the last two, or what is behind batch and channel."""
    return tuple(range(ndim))[max(1, min(2, ndim - 1), ndim - 2) :]


@cache
def interpolation(coarse: int, fine: int, *, unit: bool = False) -> AxisMap:
    """Linear interpolation from some numbers to others, both in the middle of cells that share the length of the axis.

    Parameters
    ----------
    coarse, fine : how many numbers there are, and shall be
    unit : scale the weights so that independent numbers of variance 1 become numbers of variance 1
    """
    matrix = _interpolated(np.eye(coarse), fine)
    return _sparse(matrix / np.linalg.norm(matrix, axis=1, keepdims=True) if unit else matrix)


@cache
def halving(size: int) -> AxisMap:
    """From an axis to the next level of its Gaussian pyramid, half as many numbers, rounded up: blurred, then sampled.

    A number of the result lies between two of those before, as half-pixel centres have it.
    """
    return _sparse(_interpolated(_blurred(np.eye(size)), halved(size)))


@cache
def doubling(size: int) -> AxisMap:
    """The way back from `halving` to an axis of that size: interpolated, then blurred."""
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
    """Rows blurred, mirrored at their ends."""
    count, result = len(rows), np.zeros_like(rows)
    period = max(2 * count - 2, 1)
    for offset, weight in zip(range(-2, 3), _BLUR, strict=True):
        place = (np.arange(count) + offset) % period
        result += weight * rows[np.minimum(place, period - place) % max(count, 1)]
    return result


def _sparse(matrix: npt.NDArray[np.float64]) -> AxisMap:
    """A matrix, shape (numbers of the result, numbers), by its entries that are not 0."""
    taps = int((matrix != 0).sum(1).max())
    # stable, so that the taps of a number are added up from left to right
    indices = np.sort(np.argsort(matrix == 0, axis=1, kind="stable")[:, :taps], axis=1)
    weights = np.take_along_axis(matrix, indices, 1)
    return AxisMap(np.ascontiguousarray(indices.T), np.ascontiguousarray(weights.T))
