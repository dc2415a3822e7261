"""Noise as a value: each draw is a function of the item's seed and of where in the run it acts, and of nothing else.

So it does not depend on batch size or order, on the device, on how often anybody asked before, or on where a run was
split; the global random state is neither read nor moved. `SeededNoise` is new for every interval; `BrownianNoise` cuts
one path into intervals, so that a picture stays when the number of steps changes.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from numbers import Integral
from statistics import NormalDist
from typing import Any, NamedTuple, Protocol, SupportsIndex, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch

from ksched.plan import Draw
from ksched.processes import Process, default_process

__all__ = [
    "BrownianNoise",
    "CallableNoise",
    "NoiseSource",
    "Seed",
    "SeededNoise",
    "brownian_sampler",
    "item_seeds",
    "seeded_source",
]

#: One whole number, or one per item of the batch.
Seed: TypeAlias = SupportsIndex | Sequence[SupportsIndex] | npt.NDArray[np.integer[Any]]

_Words: TypeAlias = npt.NDArray[np.uint64]

#: Names the rule from (seed, draw) to numbers. A new rule gets a new name; an old one never changes.
SCHEME = b"ksched noise 1"
BROWNIAN_SCHEME = b"ksched brownian 1"

# Where a Brownian path is known: cells of equal width in lam. They are grouped into blocks of width 1, but for one wide
# block at the noisy end, whose left end stands for all sigmas above 160000 and for pure noise. Sigmas below 4e-18 count
# as that.
_CELLS = (
    64  # in a unit of lam: with half of them pictures move about twice as much, with twice a draw needs a normal more
)
_LOWEST, _WIDE, _HIGHEST = -12 * _CELLS, -4 * _CELLS, 40 * _CELLS

# Words of 64 bits that make the numbers of a chunk, which then stay in the processor's cache while they are summed.
_CHUNK = 4096


class NoiseSource(Protocol):
    """What the executor asks for noise."""

    def __call__(self, draw: Draw, like: torch.Tensor) -> torch.Tensor:
        """Unit-normal noise of ``like``'s shape, dtype and device."""
        ...


def item_seeds(seed: Seed, batch: int) -> tuple[int, ...]:
    """One seed per item: those given, or ``seed, seed + 1, ...`` so that every item can be made again alone.

    Raises
    ------
    TypeError, ValueError : seeds that are not whole numbers, or not one per item
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
            f"seed must be one number or one per batch item; got {len(seeds)} seeds for a batch of {batch}"
        )
    return seeds


@dataclass(frozen=True)
class SeededNoise:
    """Independent noise for every (item seed, draw).

    Attributes
    ----------
    seeds : one per item of the batch
    """

    seeds: tuple[int, ...]

    def __call__(self, draw: Draw, like: torch.Tensor) -> torch.Tensor:
        """Noise of one draw for the whole batch.

        The numbers are drawn in float32 on the host whatever the state's dtype and device, so that all of them see
        the same ones.
        """
        noise = torch.empty(like.shape, dtype=torch.float32)
        for item, seed in zip(noise, self.seeds, strict=True):
            generator = torch.Generator().manual_seed(_key(seed, draw))
            torch.randn(item.shape, generator=generator, out=item)
        return noise.to(device=like.device, dtype=like.dtype)


def _key(seed: int, draw: Draw) -> int:
    """64 bits of a hash: every bit of seed and position matters."""
    position = struct.pack("<ddqq", *draw)
    return int.from_bytes(hashlib.blake2b(position, digest_size=8, key=SCHEME, salt=_salt(seed)).digest(), "little")


def _salt(seed: int) -> bytes:
    return (seed % (1 << 128)).to_bytes(16, "little")


@dataclass(frozen=True)
class CallableNoise:
    """Noise from the caller's own function ``(sigma_from, sigma_to) -> tensor like x``, of unit variance."""

    function: Callable[[float, float], Any]

    def __call__(self, draw: Draw, like: torch.Tensor) -> torch.Tensor:
        """The function's answer, checked.

        Raises
        ------
        TypeError, ValueError : the answer is not a tensor of the state's shape
        """
        noise = self.function(draw.sigma_from, draw.sigma_to)
        if not isinstance(noise, torch.Tensor):
            raise TypeError(f"noise(sigma_from, sigma_to) must return a tensor; got {type(noise).__name__}")
        if noise.shape != like.shape:
            raise ValueError(f"noise must have the state's shape {tuple(like.shape)}; got {tuple(noise.shape)}")
        return noise.to(device=like.device, dtype=like.dtype)


def seeded_source(kind: str, seeds: tuple[int, ...], process: Process | None) -> NoiseSource:
    """The noise of a kind, "seeded" or "brownian", for items of these seeds.

    Raises
    ------
    ValueError : another kind; a Brownian path without a process to say where its levels are
    """
    if kind == "seeded":
        return SeededNoise(seeds)
    if kind != "brownian":
        raise ValueError(f'the kind of seeded noise must be "seeded" or "brownian"; got {kind!r}')
    if process is None:
        raise ValueError('noise="brownian" needs a process; start the run from a Sampler, or give a process')
    return BrownianNoise(seeds, process)


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
    where v is infinite, has a noise of its own. The normals of the sum are not drawn but looked up, four at a time, in
    a table of 65536 rows of four, which makes a path about as cheap as `SeededNoise`. As a rule two to six of the up to
    twenty in a sum carry its variance; it is one alone where the interval is a whole block.

    *State.* The random bits of the last end are kept for the next interval: at most 11 nodes, half a byte per number of
    the state each. They change nothing but the time it takes; a source should still belong to one run.

    k-diffusion's ``BrownianTreeNoiseSampler`` serves the same end with torchsde's tree, in the clock sigma.
    """

    seeds: tuple[int, ...]
    process: Process
    _kept: dict[tuple[_Path, int], dict[int, _Words]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    _bits: np.random.SFC64 = field(default_factory=lambda: np.random.SFC64(0), init=False, repr=False, compare=False)

    def __call__(self, draw: Draw, like: torch.Tensor) -> torch.Tensor:
        """Noise of one draw for the whole batch, made in float32 on the host whatever the state's dtype and device."""
        start, end = (self.process.level(sigma).lam for sigma in draw[:2])
        rising = start > end
        if rising:
            start, end = -start, -end
        if end == math.inf or _cell(start) == _cell(end) or not like.numel():
            return SeededNoise(self.seeds)(draw, like)
        if len(self.seeds) != len(like):
            raise ValueError(f"noise needs one seed per item; got {len(self.seeds)} for a batch of {len(like)}")
        size = math.prod(like.shape[1:])
        words = -(-size // 16)  # per item: four numbers for 16 bits
        path = _Path(draw.visit, draw.stream, rising)
        known = self._kept.get((path, words), {})
        terms, onward = _increment(_cell(start), _cell(end))
        bits = {node: known[node] if node in known else self._words(path, node, words) for node, _ in terms}
        for other in [other for other in self._kept if other[0].visit != draw.visit]:
            del self._kept[other]  # a visit is over when another begins
        self._kept[path, words] = {node: bits[node] for node in onward if node in bits}
        noise = _combination([(bits[node], coefficient) for node, coefficient in terms])
        noise = noise.reshape(len(like), -1)[:, :size].reshape(like.shape)
        return torch.from_numpy(noise).to(device=like.device, dtype=like.dtype)

    def _words(self, path: _Path, node: int, count: int) -> _Words:
        """Random words of a node, ``count`` for every item."""
        position = struct.pack("<qq?q", *path, node)
        rows = []
        for seed in self.seeds:
            key = hashlib.blake2b(position, digest_size=32, key=BROWNIAN_SCHEME, salt=_salt(seed)).digest()
            # The whole state of the generator, which needs no seeding since these bits are random already.
            self._bits.state = {
                "bit_generator": "SFC64",
                "state": {"state": np.frombuffer(key, np.uint64)},
                "has_uint32": 0,
                "uinteger": 0,
            }
            rows.append(self._bits.random_raw(count))
        return rows[0] if len(rows) == 1 else np.concatenate(rows)


def brownian_sampler(
    x: torch.Tensor, seed: Seed, process: Process | None = None
) -> Callable[[float | torch.Tensor, float | torch.Tensor], torch.Tensor]:
    """The path of `BrownianNoise` as a function, for code that takes k-diffusion's ``noise_sampler``.

    Parameters
    ----------
    x : a tensor of the shape, dtype and device that the noise shall have, batch first
    seed : one whole number (item i takes ``seed + i``) or one per item
    process : what a sigma means; None is `default_process`, and right wherever states are ``x0 + sigma * eps``

    Returns
    -------
    ``(sigma_from, sigma_to) -> tensor like x`` of unit variance; sigmas may be floats or tensors of one element

    Raises
    ------
    TypeError, ValueError : seeds as for `item_seeds`
    """
    source = BrownianNoise(item_seeds(seed, len(x)), default_process() if process is None else process)

    def noise(sigma_from: float | torch.Tensor, sigma_to: float | torch.Tensor) -> torch.Tensor:
        return source(Draw(float(sigma_from), float(sigma_to)), x)

    return noise


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


def _combination(terms: list[tuple[_Words, float]]) -> npt.NDArray[np.float32]:
    """Sum of coefficient times the normals that words stand for, 16 for each word."""
    table, count = _table(), len(terms[0][0])
    total = np.empty(16 * count, np.float32)
    rows = np.empty(4 * min(count, _CHUNK), np.complex128)
    for first in range(0, count, _CHUNK):
        part = total[16 * first : 16 * (first + _CHUNK)]
        chunk = rows[: len(part) // 4]
        normals = chunk.view(np.float32)
        for i, (words, coefficient) in enumerate(terms):
            # No index is out of range; "wrap" is the fastest way not to look.
            table.take(words[first : first + _CHUNK].view(np.uint16), out=chunk, mode="wrap")
            np.multiply(normals, coefficient, out=normals if i else part)
            if i:
                part += normals
    return total


@cache
def _table() -> npt.NDArray[np.complex128]:
    """65536 rows of four float32 normals, of which 16 random bits choose one; each row as one complex number.

    Every column has the quantiles of the normal law in the middles of 16384 equal shares, scaled to variance 1: mean 0,
    kurtosis 2.997, largest number 4.01. Rows come in groups of eight that differ in their signs alone, so that products
    of two or three columns have mean 0 exactly; those of four have the means of independent normals within 0.007. Sizes
    are paired by a Korobov lattice, whose generator is the best of all by these means. Every number is far from where
    float32 would round the other way (1e-12 of itself), so that the table is the same on every machine.
    """
    size = 1 << 13
    quantile = NormalDist().inv_cdf
    half = np.array([quantile(0.5 + (i + 0.5) / (2 * size)) for i in range(size)])
    half /= math.sqrt(float(np.mean(half**2)))
    lattice = [np.arange(size) * pow(825, power, size) % size for power in range(5)]
    sizes = np.stack([half[column] for column in lattice[:4]], axis=1)
    sizes[lattice[4] >= size // 2, 3] *= -1  # else the product of all four would be positive in every row
    signs = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]])  # Hadamard
    rows = sizes[:, None, :] * np.concatenate([signs, -signs])
    table = np.ascontiguousarray(rows, dtype=np.float32).view(np.complex128).ravel()
    table.setflags(write=False)
    return table
