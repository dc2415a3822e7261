"""Random words from a key by Philox4x64-10, on the host; `ksched.kernels.on_device` makes the same bits on a device.

Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3". It is a counter-based generator:
block i of a stream is a function of the key and of i, so there is no state, and any part of a stream can be made alone.
The first block of a stream has counter 1, as in NumPy.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = [
    "BLOCK",
    "BUMPS",
    "LANE",
    "LANES",
    "MULTIPLIERS",
    "ROUNDS",
    "Key",
    "Words",
    "words",
    "words_of_many",
]


#: words in a block
BLOCK = 4


#: a quarter of a word, 16 bits; the lowest come first
LANE = np.dtype("<u2")


LANES = 4


_WORD = np.dtype("<u8")


_LITTLE = sys.byteorder == "little"


#: two whole numbers below 2**64, which name a stream
Key: TypeAlias = tuple[int, int]


Words: TypeAlias = npt.NDArray[np.uint64]


#: multipliers of the words in a block, increments of the key after each round, and number of rounds
MULTIPLIERS = (0xD2E7470EE14C6C93, 0xCA5A826395121157)


BUMPS = (0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B)  # the golden ratio and sqrt(3) - 1, in 64 bits


ROUNDS = 10


_LOW = 0xFFFFFFFF


class _Generator(threading.local):
    """NumPy's generator, one per thread, because its state is set at every use.

    Setting the state takes a tenth of the time of a new generator, and with Python ints a quarter of the time that it
    takes with arrays.
    """

    def __init__(self) -> None:
        self.bits: Any = np.random.Philox(0)
        self.counter = [0, 0, 0, 0]
        self.start: dict[str, Sequence[int]] = {"counter": self.counter, "key": (0, 0)}
        self.state = {
            "bit_generator": "Philox",
            "state": self.start,
            "buffer": (0, 0, 0, 0),
            "buffer_pos": 4,  # buffer used up: the next word starts a new block
            "has_uint32": 0,
            "uinteger": 0,
        }


_generator = _Generator()


def words(key: Key, block: int, count: int) -> Words:
    """Words of a stream on the host, little-endian in memory.

    Parameters
    ----------
    key : tuple of int
        Key of the stream.
    block : int
        Number of blocks before the first word, below 2**64.
    count : int
        Number of words.
    """
    generator = _generator
    generator.counter[0] = block
    generator.start["key"] = key
    generator.bits.state = generator.state
    random: Words = generator.bits.random_raw(count)
    return random if _LITTLE else random.astype(_WORD)


def words_of_many(keys: Sequence[Key], count: int) -> Words:
    """The first words of many streams on the host, little-endian in memory, shape (len(keys), count).

    About 300 NumPy passes over all streams at once, for a few words from each of many streams, where `words` would be
    dominated by call overhead.
    """
    k0, k1 = np.array(keys, np.uint64).T[:, :, None]
    c0 = np.arange(1, -(-count // BLOCK) + 1, dtype=np.uint64)
    c1 = c2 = c3 = np.zeros_like(c0)
    for i in range(ROUNDS):
        if i:
            k0, k1 = k0 + np.uint64(BUMPS[0]), k1 + np.uint64(BUMPS[1])
        (high0, low0), (high1, low1) = _product_of(c0, MULTIPLIERS[0]), _product_of(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
    random: Words = np.stack(np.broadcast_arrays(c0, c1, c2, c3), axis=-1).reshape(len(keys), -1)[:, :count]
    return random if _LITTLE else random.astype(_WORD)


def _product_of(x: Words, factor: int) -> tuple[Words, Words]:
    """High and low 64 bits of an unsigned product, computed by halves."""
    mask, half = np.uint64(_LOW), np.uint64(32)
    low, high = np.uint64(factor & _LOW), np.uint64(factor >> 32)
    x_low, x_high = x & mask, x >> half
    cross, other = x_high * low, x_low * high
    middle = ((x_low * low) >> half) + (cross & mask) + (other & mask)
    return x_high * high + (cross >> half) + (other >> half) + (middle >> half), x * np.uint64(factor)
