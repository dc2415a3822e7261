"""The numbers of seeded noise, in NumPy alone: the stream of each item and draw, and its contents."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from numbers import Integral
from typing import Any, SupportsIndex, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from ksched.kernels.normal_table import CHUNK, Floats, fill_normals, short_normals
from ksched.kernels.philox import Key
from ksched.plan.rows import Draw

__all__ = [
    "SCHEME",
    "Seed",
    "Stream",
    "are_short",
    "checked_shape",
    "draw_keys",
    "draw_streams",
    "fill_items",
    "item_seeds",
    "key_of",
    "seeded_numbers",
    "short_groups",
]


#: name of the rule of `ksched.noise.SeededNoise`; a new rule gets a new name, and an old one never changes
SCHEME = "ksched noise 3"


# from _MANY items of at most _SHORT numbers on, items are made together, in groups of _GROUP that fit into a cache
_MANY, _SHORT, _GROUP = 48, 512, 1024


#: one whole number, or one per item of the batch
Seed: TypeAlias = SupportsIndex | Sequence[SupportsIndex] | npt.NDArray[np.integer[Any]]


#: ``stream(first, out)`` fills a contiguous one-dimensional array with the numbers of one item from ``first`` on, a
#: multiple of `CHUNK`; the array has at most that length, and may end anywhere
Stream: TypeAlias = Callable[[int, Floats], None]


def item_seeds(seed: Seed, batch: int) -> tuple[int, ...]:
    """One seed per item: those given, or ``seed, seed + 1, ...``, so that each item can be reproduced alone.

    Raises
    ------
    TypeError, ValueError
        For seeds that are not whole numbers, or not one per item.
    """
    one = not isinstance(seed, list | tuple | range | np.ndarray)
    given = [seed] if one else list(cast(Sequence[SupportsIndex], seed))
    for value in given:
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"seed must be a whole number or one per batch item; got {value!r}")
    seeds = tuple(int(cast(int, value)) for value in given)
    if one:
        return tuple(seeds[0] + i for i in range(batch))
    if len(seeds) != batch:
        raise ValueError(
            f"seed must be one whole number or one per batch item; got {len(seeds)} seeds for a batch of {batch}"
        )
    return seeds


def checked_shape(shape: Any) -> tuple[int, ...]:
    """``shape`` as a tuple with a batch axis, or a TypeError or ValueError."""
    try:
        sizes = tuple(shape)
    except TypeError as error:
        raise TypeError(f"shape must be a list of whole numbers, batch first; got {shape!r}") from error
    for size in sizes:
        if isinstance(size, bool) or not isinstance(size, Integral):
            raise TypeError(f"shape must be a list of whole numbers, batch first; got {shape!r}")
    if not sizes or min(sizes) < 0:
        raise ValueError(f"shape must have a batch axis first and no negative size; got {sizes}")
    return tuple(map(int, sizes))


def key_of(position: bytes, scheme: str, seed: int) -> Key:
    """The key of a stream: 128 bits of a hash that depends on every bit of seed and position."""
    salt = (seed % (1 << 128)).to_bytes(16, "little")
    digest = hashlib.blake2b(position, digest_size=16, key=scheme.encode(), salt=salt).digest()
    return struct.unpack("<QQ", digest)


def draw_keys(seeds: Sequence[int], draw: Draw) -> list[Key]:
    """Keys of all items' streams, for one draw."""
    position = struct.pack("<ddqq", *draw[:4])
    return [key_of(position, SCHEME, seed) for seed in seeds]


def draw_streams(seeds: Sequence[int], draw: Draw, count: int) -> list[Stream]:
    """Streams of all items for one draw, with ``count`` numbers each."""
    return [partial(fill_normals, key, count) for key in draw_keys(seeds, draw)]


def are_short(items: int, count: int) -> bool:
    """Whether items are so many and so short that `short_groups` makes them together instead of one by one."""
    return items >= _MANY and count <= _SHORT


def short_groups(keys: Sequence[Key], count: int) -> Iterator[tuple[slice, Floats]]:
    """The numbers of many short items in groups: a slice of items, and an array of shape (items, count)."""
    for first in range(0, len(keys), _GROUP):
        group = slice(first, first + _GROUP)
        yield group, short_normals(keys[group], count)


def fill_items(out: Floats, streams: Sequence[Stream]) -> None:
    """Fill a contiguous one-dimensional array with the numbers of all items, one item after the other."""
    count = len(out) // len(streams)
    for i, stream in enumerate(streams):
        for first in range(0, count, CHUNK):
            stream(first, out[i * count + first : i * count + min(count, first + CHUNK)])


def seeded_numbers(seeds: Sequence[int], draw: Draw, shape: Sequence[int]) -> Floats:
    """The numbers that `ksched.noise.SeededNoise` draws, as an array: the same bytes.

    Parameters
    ----------
    seeds : sequence of int
        One per item of the batch.
    draw : Draw
        Where in the run.
    shape : sequence of int
        Shape of the noise, batch first.

    Returns
    -------
    float32, of that shape
    """
    out = np.empty(shape, np.float32)
    if out.size:
        count = out.size // len(seeds)
        if are_short(len(seeds), count):
            for group, numbers in short_groups(draw_keys(seeds, draw), count):
                out.reshape(len(seeds), count)[group] = numbers
        else:
            fill_items(out.reshape(-1), draw_streams(seeds, draw, count))
    if draw.limit < math.inf:
        np.clip(out, -draw.limit, draw.limit, out=out)
    return out
