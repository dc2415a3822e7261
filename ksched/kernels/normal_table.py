"""The table of normal numbers from which seeded noise is looked up, and its sums on the host."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from ksched.kernels import philox
from ksched.kernels.philox import Key

__all__ = [
    "CHUNK",
    "LEAST",
    "PER_BLOCK",
    "PER_WORD",
    "Floats",
    "fill_normals",
    "room",
    "short_normals",
    "table",
]


Floats: TypeAlias = npt.NDArray[np.float32]


#: numbers made at once: enough to make NumPy calls cheap, few enough for the CPU cache. The size is part of the rule,
#: because the quarters of a chunk are mixed with each other
CHUNK = 1 << 16


_ROW = 4  # numbers per lookup


_GENERATORS = (1, 13723, 35237, 36737)  # of the lattice that combines the columns


PER_WORD = _ROW * philox.LANES


PER_BLOCK = PER_WORD * philox.BLOCK


LEAST = 4 * PER_BLOCK  # least size of a chunk: each quarter starts with a block


class _Room(threading.local):
    """A thread's working memory for a chunk; allocating it each time would take as long as the sums do."""

    def __init__(self) -> None:
        self.indices = np.empty(CHUNK // _ROW, np.intp)
        self.numbers = np.empty((2, CHUNK), np.float32)
        self._views: dict[int, tuple[npt.NDArray[np.intp], Floats, Floats, Floats, Floats]] = {}

    def of(self, size: int) -> tuple[npt.NDArray[np.intp], Floats, Floats, Floats, Floats]:
        """Buffers for ``size`` numbers: indices, two halves of the numbers, and the two parts of the second half."""
        if size not in self._views:
            indices, numbers, half, quarter = self.indices[: size // _ROW], self.numbers[0], size // 2, size // 4
            one, other = numbers[:half], numbers[half:size]
            self._views[size] = indices, one, other, other[:quarter], other[quarter:]
        return self._views[size]


room = _Room()


def fill_normals(key: Key, count: int, first: int, out: Floats) -> None:
    """`SeededNoise`'s numbers for one item on the host: a chunk, or the beginning of one.

    Parameters
    ----------
    key : tuple of int
        Key of the item's stream.
    count : int
        Number of numbers in the item.
    first : int
        Position of the chunk in the item, a multiple of `CHUNK`.
    out : ndarray
        Contiguous, one-dimensional array to fill, no longer than a chunk.
    """
    size = -(-min(count - first, CHUNK) // LEAST) * LEAST
    chunk = out if len(out) == size else room.numbers[1, :size]
    indices, sums, differences, difference1, difference2 = room.of(size)
    indices[...] = philox.words(key, first // PER_BLOCK, size // PER_WORD).view(philox.LANE)
    # No index is out of range; "wrap" is the fastest mode.
    table().take(indices, 0, chunk.reshape(-1, _ROW), "wrap")
    # Few contiguous one-dimensional arrays: NumPy takes twice as long for rows of a larger array.
    half, quarter = size // 2, size // 4
    one, other = chunk[:half], chunk[half:]
    np.add(one, other, sums)
    np.subtract(one[quarter:], other[quarter:], difference1)
    np.subtract(one[:quarter], other[:quarter], difference2)
    np.add(sums, differences, one)
    np.subtract(sums, differences, other)
    if chunk is not out:
        out[...] = chunk[: len(out)]


def short_normals(keys: Sequence[Key], count: int) -> Floats:
    """All numbers of many short items of `SeededNoise` on the host, shape (len(keys), count)."""
    padded = -(-count // LEAST) * LEAST
    random = np.ascontiguousarray(philox.words_of_many(keys, padded // PER_WORD))
    lanes = random.view(philox.LANE).reshape(len(keys), 4, -1)
    if count < padded // 4:  # only part of the first quarter is needed, so part of each quarter is enough
        lanes = lanes[:, :, : -(-count // _ROW)]
    numbers = table()[lanes].reshape(len(keys), 4, -1)
    a, b, c, d = numbers[:, 0], numbers[:, 1], numbers[:, 2], numbers[:, 3]
    sum1, sum2, difference1, difference2 = a + c, b + d, b - d, a - c
    mixed = (sum1 + difference1, sum2 + difference2, sum1 - difference1, sum2 - difference2)
    result: Floats = np.concatenate(mixed, axis=1, dtype=np.float32)[:, :count]
    return result


_only_one = threading.Lock()


def table() -> Floats:
    """The table of `SeededNoise`, made once."""
    with _only_one:
        return _table()


@cache
def _table() -> Floats:
    """65536 rows of four float32 numbers, normal with variance 1/4; 16 random bits choose a row.

    Every column is `_quantiles` in another order. Together the columns form a lattice of rank 1, shifted by half a
    step, so that the negative of every row is also a row. Two numbers of a row correlate by at most 1.5e-4, no joint
    cumulant of order 4 is above 3.0e-3 at variance 1, and the joint distribution function of the shares behind two of
    them is uniform within 8e-5. Only lattices in which every pair of columns is among the best 6 % of pairs were
    considered. This one is within a twentieth of the best by the distance of sums of four rows from independent
    normals: the root of the sum of squares of their joint Hermite moments up to order 8 (6 for more than two columns),
    1.5e-3.
    """
    odd = 2 * np.arange(1 << 16)[:, None] + 1
    result: Floats = _quantiles()[odd * _GENERATORS % (1 << 17) // 2]
    result.setflags(write=False)
    return result


def _quantiles() -> Floats:
    """65536 quantiles of the normal law times 1/2, in rising order.

    Quantiles at the middles of equal shares have a variance 2e-5 below 1, because large numbers are missing. The two
    outermost are therefore moved out, from 4.32 to 4.40, so that it is 1. This brings the sum of four closer to normal
    than scaling all quantiles would, by the error of its distribution function (1.4e-7 against 2.2e-6), or than scaled
    means of the shares (2.9e-7). Every number is far from where float32 rounding would change (1e-12 relative; the
    outermost, whose last digits are less certain, much farther), so the table is the same on every machine.
    """
    size = 1 << 15
    quantile = NormalDist().inv_cdf
    half = [quantile(0.5 + (i + 0.5) / (2 * size)) for i in range(size - 1)]
    half.append(math.sqrt(size - math.fsum(value * value for value in half)))
    upper = np.array(half) / 2
    return np.concatenate([-upper[::-1], upper]).astype(np.float32)
