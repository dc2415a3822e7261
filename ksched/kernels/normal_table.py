"""The table of normal numbers that seeded noise is looked up in, and its sums on the host."""

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


#: How many numbers are made at once: enough to make calls of numpy cheap, few enough for the processor's cache. It is
#: part of the rule, since the quarters of a chunk are mixed with each other.
CHUNK = 1 << 16


_ROW = 4  # numbers that a lane looks up


_GENERATORS = (1, 13723, 35237, 36737)  # of the lattice that pairs them


PER_WORD = _ROW * philox.LANES


PER_BLOCK = PER_WORD * philox.BLOCK


LEAST = 4 * PER_BLOCK  # of a chunk: each quarter begins with a block


class _Room(threading.local):
    """Where a thread makes the numbers of a chunk: to ask for memory each time would take as long as the sums do."""

    def __init__(self) -> None:
        self.indices = np.empty(CHUNK // _ROW, np.intp)
        self.numbers = np.empty((2, CHUNK), np.float32)
        self._views: dict[int, tuple[npt.NDArray[np.intp], Floats, Floats, Floats, Floats]] = {}

    def of(self, size: int) -> tuple[npt.NDArray[np.intp], Floats, Floats, Floats, Floats]:
        """For so many numbers: indices, room for two halves of them, and the two parts of the second half."""
        if size not in self._views:
            indices, numbers, half, quarter = self.indices[: size // _ROW], self.numbers[0], size // 2, size // 4
            one, other = numbers[:half], numbers[half:size]
            self._views[size] = indices, one, other, other[:quarter], other[quarter:]
        return self._views[size]


room = _Room()


def fill_normals(key: Key, count: int, first: int, out: Floats) -> None:
    """Numbers of one item of `ksched.noise.SeededNoise` on the host: a chunk, or the beginning of one.

    Parameters
    ----------
    key : of the item's stream
    count : how many numbers the item has
    first : how many of them come before, a multiple of `CHUNK`
    out : where they go, contiguous and of one axis, no longer than a chunk
    """
    size = -(-min(count - first, CHUNK) // LEAST) * LEAST
    chunk = out if len(out) == size else room.numbers[1, :size]
    indices, sums, differences, difference1, difference2 = room.of(size)
    indices[...] = philox.words(key, first // PER_BLOCK, size // PER_WORD).view(philox.LANE)
    # No index is out of range; "wrap" is the fastest way not to look.
    table().take(indices, 0, chunk.reshape(-1, _ROW), "wrap")
    # Arrays of one axis without gaps, as few as do: numpy takes twice as long for rows of a larger one.
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
    """All numbers of many short items of `ksched.noise.SeededNoise` on the host, shape (len(keys), count)."""
    padded = -(-count // LEAST) * LEAST
    random = np.ascontiguousarray(philox.words_of_many(keys, padded // PER_WORD))
    lanes = random.view(philox.LANE).reshape(len(keys), 4, -1)
    if count < padded // 4:  # only a part of the first quarter is asked for, for which a part of each will do
        lanes = lanes[:, :, : -(-count // _ROW)]
    numbers = table()[lanes].reshape(len(keys), 4, -1)
    a, b, c, d = numbers[:, 0], numbers[:, 1], numbers[:, 2], numbers[:, 3]
    sum1, sum2, difference1, difference2 = a + c, b + d, b - d, a - c
    mixed = (sum1 + difference1, sum2 + difference2, sum1 - difference1, sum2 - difference2)
    result: Floats = np.concatenate(mixed, axis=1, dtype=np.float32)[:, :count]
    return result


_only_one = threading.Lock()


def table() -> Floats:
    """The table of `SeededNoise`, which is made once."""
    with _only_one:
        return _table()


@cache
def _table() -> Floats:
    """65536 rows of four float32 numbers, normal of variance 1/4, of which 16 random bits choose one.

    Every column is `_quantiles` in another order. Together they are a lattice of rank 1, half a step off its origin, so
    that the negative of every row is a row. Two numbers of a row correlate by at most 1.5e-4, no joint cumulant of
    order 4 is above 3.0e-3 at variance 1, and the joint distribution function of the shares that two were taken from is
    uniform within 8e-5. Among the lattices of which every pair of columns is one of the best 6 % of pairs, this one is
    within a twentieth of the best by the distance of sums of four rows from independent normals: the root of the sum of
    squares of their joint Hermite moments up to order 8 (6 for more than two columns), 1.5e-3.
    """
    odd = 2 * np.arange(1 << 16)[:, None] + 1
    result: Floats = _quantiles()[odd * _GENERATORS % (1 << 17) // 2]
    result.setflags(write=False)
    return result


def _quantiles() -> Floats:
    """65536 quantiles of the normal law times 1/2, in order.

    In the middles of equal shares, which is short of variance 1 by 2e-5, for want of large numbers. The two outermost
    are therefore moved out, from 4.32 to 4.40, until it is 1. That brings the sum of four nearer to normal than scaling
    all of them would, as the errors of its distribution function say (1.4e-7 against 2.2e-6), or than the means of the
    shares, scaled likewise (2.9e-7). Every number is far from where float32 would round the other way (1e-12 of itself;
    the outermost, whose last digits are less sure, much farther), so that the table is the same on every machine.
    """
    size = 1 << 15
    quantile = NormalDist().inv_cdf
    half = [quantile(0.5 + (i + 0.5) / (2 * size)) for i in range(size - 1)]
    half.append(math.sqrt(size - math.fsum(value * value for value in half)))
    upper = np.array(half) / 2
    return np.concatenate([-upper[::-1], upper]).astype(np.float32)
