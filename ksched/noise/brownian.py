"""One Brownian path cut into intervals, so that a picture stays when the number of steps changes."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch

from ksched.kernels import philox
from ksched.kernels.normal_table import PER_BLOCK, PER_WORD, Floats, room, table
from ksched.kernels.on_device import lanes, table_on, words_on
from ksched.kernels.philox import Key, Words
from ksched.noise.seeded import SeededNoise, fill, is_host, limited, target
from ksched.noise.streams import Stream, key_of
from ksched.plan.rows import Draw
from ksched.processes import Process

__all__ = ["SCHEME", "BrownianNoise"]


#: The name of the rule of `BrownianNoise`. A new rule gets a new name; an old one never changes.
SCHEME = "ksched brownian 3"


# Where a Brownian path is known: cells of equal width in lam. They are grouped into blocks of width 1, but for one wide
# block at the noisy end, whose left end stands for all sigmas above 160000 and for pure noise. Sigmas below 4e-18 count
# as that.
_CELLS = (
    64  # in a unit of lam: with half of them pictures move about twice as much, with twice a draw needs a normal more
)


_LOWEST, _WIDE, _HIGHEST = -12 * _CELLS, -4 * _CELLS, 40 * _CELLS


class _Path(NamedTuple):
    visit: int
    stream: int
    rising: bool


@dataclass(frozen=True)
class BrownianNoise:
    """Increments of one Brownian path for every (item seed, visit, stream), each scaled to unit variance.

    Grids of different length see the same path, so an item keeps its picture when the number of steps changes.

    Attributes
    ----------
    seeds : one per item of the batch
    process : tells the lam of a level

    Notes
    -----
    *Clock.* The path W runs in ``v = exp(2 lam) = (alpha / sigma)**2``, from 0 at pure noise: for a constant prediction
    and eta = 1 the state over ``sigma**2 / alpha`` is a Brownian motion with drift in v, so that all grids reach the
    same state at a common level. Noise of a rising interval acts in ``1 / v``, on a path of its own.

    *Path.* Blocks of the lam axis have independent increments, and each is refined by halving in lam with Brownian
    bridges (Lévy and Ciesielski), down to cells of width 1/64, to which the ends of an interval are rounded. An
    increment is then a sum of independent normals, one per block and one per bridge, with coefficients that are host
    numbers of the interval. Their squares add up to 1: no long increments are subtracted to get a short one.

    *Law.* Noises of disjoint intervals are independent of each other and have variance 1, rounded or not; rounding only
    lets the paths of two grids differ, by a cell at the ends. An interval that rounds to nothing or ends at sigma 0,
    where v is infinite, has a noise of its own, of `SeededNoise`. The normals of the sum are looked up, four at a time,
    in the table of `SeededNoise`, whose sums of four these are not: as a rule two to six of the up to twenty in a sum
    carry its variance; it is one alone where the interval is a whole block, and then no number is above 4.4.

    *State.* The random bits of the last end are kept for the next interval: at most 11 nodes, half a byte per number of
    the state each. They change nothing but the time it takes; a source should still belong to one run.

    *Rule.* A hash of path and node, keyed by the item's seed, is the key of a stream of random words, each of them four
    indices of 16 bits into the table of rows. The numbers of each node are multiplied by twice its coefficient, rounded
    to float32, and added up in the order of `_increment`, block by block and then down the bridges. The coefficients
    come from exp and sqrt of the machine, so another C library may round one of them in 1e8 the other way.

    k-diffusion's ``BrownianTreeNoiseSampler`` serves the same end with torchsde's tree, in the clock sigma.
    """

    seeds: tuple[int, ...]
    process: Process
    _kept: dict[tuple[_Path, int, torch.device], dict[int, Any]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __call__(self, draw: Draw, like: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        """Noise of one draw for the whole batch; arguments and errors as for `SeededNoise`."""
        found = self._along_path(draw)
        if found is None or not like.numel():
            return SeededNoise(self.seeds)(draw, like, out=out)
        out = target(self.seeds, like, out)
        path, terms, onward = found
        sources = self._streams(path, [node for node, _ in terms], onward, out)
        scaled = [(sources[node], np.float32(2 * value)) for node, value in terms]  # the table's variance is 1/4
        if not is_host(out):
            noise = _combination_on(out.device, scaled, _words_of(out))
            return limited(out.copy_(noise[:, : out[0].numel()].view(out.shape)), draw)
        by_item = ([(streams[i], scale) for streams, scale in scaled] for i in range(len(out)))
        fill(out, [partial(_combination, item) for item in by_item])
        return limited(out, draw)

    def streams(self, draw: Draw, count: int) -> list[Stream]:
        """The numbers of one draw, before any limit, for whoever wants them part by part; as for `SeededNoise`.

        Nothing is kept for the next interval.
        """
        found = self._along_path(draw)
        if found is None:
            return SeededNoise(self.seeds).streams(draw, count)
        path, terms, _ = found
        scales = [(node, np.float32(2 * value)) for node, value in terms]
        return [
            partial(_combination, [(_node_key(path, node, seed), scale) for node, scale in scales])
            for seed in self.seeds
        ]

    def slice_on(self, device: torch.device, draw: Draw, count: int, first: int, width: int) -> torch.Tensor:
        """A part of the numbers of every item on a device, as for `SeededNoise`; nothing is kept."""
        found = self._along_path(draw)
        if found is None:
            return SeededNoise(self.seeds).slice_on(device, draw, count, first, width)
        path, terms, _ = found
        scaled: list[tuple[list[Key] | torch.Tensor, np.float32]] = [
            ([_node_key(path, node, seed) for seed in self.seeds], np.float32(2 * value)) for node, value in terms
        ]
        block, before = divmod(first, PER_BLOCK)
        numbers = _combination_on(device, scaled, -(-(before + width) // PER_WORD), block)
        return numbers[:, before : before + width]

    def _along_path(self, draw: Draw) -> tuple[_Path, tuple[tuple[int, float], ...], tuple[int, ...]] | None:
        """Which path a draw is an increment of, as `_increment` says it; None if its noise is its own."""
        start, end = (self.process.level(sigma).lam for sigma in draw[:2])
        rising = start > end
        if rising:
            start, end = -start, -end
        if end == math.inf or _cell(start) == _cell(end):
            return None
        return _Path(draw.visit, draw.stream, rising), *_increment(_cell(start), _cell(end))

    def _streams(self, path: _Path, nodes: Sequence[int], onward: Sequence[int], out: torch.Tensor) -> dict[int, Any]:
        """The random words of nodes for every item, or their keys; those of ``onward`` are kept for the next call."""
        count = _words_of(out)
        known = self._kept.get((path, count, out.device), {})
        keys = {node: [_node_key(path, node, seed) for seed in self.seeds] for node in nodes if node not in known}
        kept = {
            node: known[node] if node in known else _stored(keys[node], count, out)
            for node in onward
            if node in known or node in keys
        }
        for other in [other for other in list(self._kept) if other[0].visit != path.visit]:
            self._kept.pop(other, None)  # a visit is over when another begins
        self._kept[path, count, out.device] = kept
        return keys | known | kept


def _words_of(out: torch.Tensor) -> int:
    """Random words that the normals of one item take."""
    return -(-out[0].numel() // PER_WORD)


def _cell(lam: float) -> int:
    """The end of a cell that is nearest."""
    return round(min(max(lam * _CELLS, _LOWEST), _HIGHEST))


@cache
def _clock(cell: int) -> float:
    """The clock v at an end of a cell."""
    return math.exp(2 * cell / _CELLS) if cell > _LOWEST else 0.0


def _block(cell: int) -> tuple[int, int]:
    """The block that begins at or before a cell's end and goes on behind it."""
    if cell < _WIDE:
        return _LOWEST, _WIDE
    return cell // _CELLS * _CELLS, cell // _CELLS * _CELLS + _CELLS


def _bridges(end: int) -> list[tuple[int, int, int]]:
    """The bridges (left, middle, right) that lead from a block to an end inside it; none to the end of a block."""
    left, right = _block(end)
    result = []
    while left < end < right:
        middle = (left + right) // 2
        result.append((left, middle, right))
        left, right = (left, middle) if end < middle else (middle, right)
    return result


@lru_cache(maxsize=1024)
def _increment(a: int, b: int) -> tuple[tuple[tuple[int, float], ...], tuple[int, ...]]:
    """The path's increment over cells a to b, of unit variance, as (node, coefficient of the node's normal).

    A block's node is its left end, a bridge's its middle: no two are the same. Also the nodes that an increment from b
    on will need.
    """
    v_a, v_b = _clock(a), _clock(b)

    def covered(v_left: float, v_right: float) -> float:
        """How much of v the interval has in common with another."""
        return max(0.0, min(v_b, v_right) - max(v_a, v_left))

    terms = {}
    left = a
    while left < b:
        left, right = _block(left)
        v_left, v_right = _clock(left), _clock(right)
        terms[left] = covered(v_left, v_right) / math.sqrt(v_right - v_left)
        left = right
    for left, middle, right in dict.fromkeys(_bridges(a) + _bridges(b)):
        v_left, v_middle, v_right = _clock(left), _clock(middle), _clock(right)
        lower, upper = v_middle - v_left, v_right - v_middle
        share = covered(v_left, v_middle) / lower - covered(v_middle, v_right) / upper
        terms[middle] = math.sqrt(lower * upper / (lower + upper)) * share
    std = math.sqrt(v_b - v_a)
    onward = (_block(b)[0], *(middle for _, middle, _ in _bridges(b)))
    return tuple((node, value / std) for node, value in terms.items()), onward


def _node_key(path: _Path, node: int, seed: int) -> Key:
    return key_of(struct.pack("<qq?q", *path, node), SCHEME, seed)


def _stored(keys: list[Key], count: int, like: torch.Tensor) -> Any:
    """Words of a node for every item: arrays on the host, or one tensor on a device."""
    if not is_host(like):
        return words_on(like.device, keys, count)
    return [philox.words(key, 0, count) for key in keys]


def _combination(terms: list[tuple[Key | Words, np.float32]], first: int, out: Floats) -> None:
    """Sum of the normals of some nodes, each times its scale, on the host: a `Stream` once the terms are given.

    Parameters
    ----------
    terms : the stream of each node, as its key or as its words, and the scale
    first, out : as for a `Stream`
    """
    count, before = -(-len(out) // PER_WORD), first // PER_WORD
    indices = room.indices[: philox.LANES * count]
    rows = room.numbers[0, : PER_WORD * count].reshape(len(indices), -1)
    numbers = rows.reshape(-1)[: len(out)]
    for i, (stream, scale) in enumerate(terms):
        if isinstance(stream, tuple):
            words = philox.words(stream, before // philox.BLOCK, count)
        else:
            words = stream[before : before + count]
        indices[...] = words.view(philox.LANE)
        table().take(indices, 0, rows, "wrap")
        np.multiply(numbers, scale, numbers if i else out)
        if i:
            np.add(out, numbers, out)


def _combination_on(
    device: torch.device, terms: list[tuple[list[Key] | torch.Tensor, np.float32]], count: int, block: int = 0
) -> torch.Tensor:
    """The same for all items on a device, from ``count`` words each; no product is contracted with a sum.

    Words are those behind so many blocks where streams are told by their keys.
    """
    values = table_on(device)
    sums: list[torch.Tensor] = []
    for streams, scale in terms:
        words = streams if isinstance(streams, torch.Tensor) else words_on(device, streams, count, block)
        numbers = values.index_select(0, lanes(words)).view(len(words), -1).mul_(float(scale))
        sums = [sums[0].add_(numbers) if sums else numbers]
    return sums[0]
