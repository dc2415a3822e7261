"""Noise as a value: each draw is a function of the item's seed and of where in the run it acts, and of nothing else.

So it does not depend on batch size or order, on the device, on how often anybody asked before, or on where a run was
split; the global random state is neither read nor moved. `SeededNoise` is new for every interval; `BrownianNoise` cuts
one path into intervals, so that a picture stays when the number of steps changes.

The numbers are ksched's own, the same bytes with every version of numpy and torch and on every device: random words of
a published generator, Philox4x64-10, tables of float32 numbers, and single operations of float32.
"""

from __future__ import annotations

import hashlib
import math
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache, partial
from numbers import Integral
from statistics import NormalDist
from typing import Any, NamedTuple, Protocol, SupportsIndex, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch

from ksched import philox
from ksched.philox import Words
from ksched.plan import Draw
from ksched.processes import Process, default_process

__all__ = [
    "SCHEMES",
    "BrownianNoise",
    "CallableNoise",
    "NoiseSource",
    "Seed",
    "SeededNoise",
    "brownian_sampler",
    "item_seeds",
    "scheme_of",
    "seeded_source",
    "source_by_scheme",
]

#: One whole number, or one per item of the batch.
Seed: TypeAlias = SupportsIndex | Sequence[SupportsIndex] | npt.NDArray[np.integer[Any]]

_Floats: TypeAlias = npt.NDArray[np.float32]

#: The rule from (seed, draw) to numbers, for each kind of `seeded_source`. A new rule gets a new name; an old one never
#: changes.
SCHEMES = {"seeded": "ksched noise 2", "brownian": "ksched brownian 2"}
_SCHEMES = {kind: name.encode() for kind, name in SCHEMES.items()}

# Where a Brownian path is known: cells of equal width in lam. They are grouped into blocks of width 1, but for one wide
# block at the noisy end, whose left end stands for all sigmas above 160000 and for pure noise. Sigmas below 4e-18 count
# as that.
_CELLS = (
    64  # in a unit of lam: with half of them pictures move about twice as much, with twice a draw needs a normal more
)
_LOWEST, _WIDE, _HIGHEST = -12 * _CELLS, -4 * _CELLS, 40 * _CELLS

# The rows of a chunk are what is mixed with each other; how many numbers are made at once is no part of the rule, and
# fits into the processor's cache.
_ROW = 1024
_CHUNK = 4 * _ROW
_GROUP = 16 * _CHUNK
_LANES = 4  # of a word: each looks up one number of `SeededNoise`, or four of `BrownianNoise`
_PER_WORD = 4 * _LANES


class NoiseSource(Protocol):
    """What the executor asks for noise."""

    def __call__(self, draw: Draw, like: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        """Unit-normal noise of ``like``'s shape, dtype and device; ``out`` is such a tensor that may be filled."""
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

    Notes
    -----
    *Rule.* A hash of the draw, keyed by the item's seed, is the key of a stream of random words, and each word is four
    indices of 16 bits into a table of 65536 quantiles of the normal law, of variance 1/4. Every 4096 looked-up numbers
    are four rows a, b, c, d of 1024, which become (a + b) + (c + d), (a + b) - (c + d), (a - b) + (c - d) and
    (a - b) - (c - d): four uncorrelated rows of variance 1. The item takes them in row-major order.

    *Law.* A number is the sum of four independent ones. Its distribution function is that of the normal law within
    1.5e-7, its variance 1 + 5e-10, its kurtosis 3 - 2.6e-5, its sixth moment 15 - 6.9e-4. The largest number is 8.80;
    of the numbers that should be beyond 5, 6 and 7 there are 0.988, 0.93 and 0.73. The four that come from the same
    a, b, c, d are uncorrelated, and their squares correlate by -1.3e-5; all others are independent.
    """

    seeds: tuple[int, ...]

    def __call__(self, draw: Draw, like: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        """Noise of one draw for the whole batch.

        Drawn in float32 whatever the state's dtype, so that all dtypes see the same numbers, and on the state's device
        without waiting for it. There a table is needed that the first draw brings: before a CUDA graph is captured,
        draw once.

        Parameters
        ----------
        draw : where in the run
        like : a tensor of the shape, dtype and device that the noise shall have, batch first
        out : such a tensor to be filled and returned, in any layout

        Raises
        ------
        ValueError : not one seed per item; ``out`` is not like ``like``
        """
        out = _target(self.seeds, like, out)
        if not out.numel():
            return out
        position = struct.pack("<ddqq", *draw)
        keys = [_key(position, "seeded", seed) for seed in self.seeds]
        if _is_host(out.device):
            _fill(out, [partial(_normals, key) for key in keys])
            return out
        return _cast(normals(keys, math.prod(out.shape[1:]), out.device), out)


def _target(seeds: tuple[int, ...], like: torch.Tensor, out: torch.Tensor | None) -> torch.Tensor:
    if len(seeds) != len(like):
        raise ValueError(f"noise needs one seed per item; got {len(seeds)} for a batch of {len(like)}")
    if out is None:
        return torch.empty(like.shape, dtype=like.dtype, device=like.device)
    if out.shape != like.shape or out.dtype != like.dtype or out.device != like.device:
        raise ValueError(
            f"out must have the state's shape, dtype and device, {tuple(like.shape)}, {like.dtype}, {like.device}; "
            f"got {tuple(out.shape)}, {out.dtype}, {out.device}"
        )
    return out


def _is_host(device: torch.device) -> bool:
    return device.type == "cpu"


def _key(position: bytes, kind: str, seed: int) -> bytes:
    """128 bits of a hash, the key of a stream: every bit of seed and position matters."""
    salt = (seed % (1 << 128)).to_bytes(16, "little")
    return hashlib.blake2b(position, digest_size=16, key=_SCHEMES[kind], salt=salt).digest()


def _fill(out: torch.Tensor, streams: Sequence[Callable[[int, _Floats], None]]) -> None:
    """Fill a tensor on the host, each item with the numbers of its stream in row-major order.

    Parameters
    ----------
    out : float32 in that order is written to as it is, all else by way of small copies
    streams : each fills an array with numbers of its own, behind as many as it is told, a multiple of 4096
    """
    if out.dtype == torch.float32 and out.is_contiguous():
        for row, numbers in zip(out.numpy().reshape(len(out), -1), streams, strict=True):
            for first in range(0, len(row), _GROUP):
                numbers(first, row[first : first + _GROUP])
        return
    copies = np.empty(min(_GROUP, _CHUNK + out[0].numel()), np.float32)
    for item, numbers in zip(out, streams, strict=True):
        for first, part in _parts(item):
            before = first % _CHUNK
            copy = copies[: before + part.numel()]
            numbers(first - before, copy)
            part.copy_(torch.from_numpy(copy[before:]).view(part.shape))


def _parts(item: torch.Tensor, first: int = 0) -> Iterator[tuple[int, torch.Tensor]]:
    """Parts of an item, each after the number of elements that come before it in row-major order.

    Together with what comes before it in its chunk, none is larger than a group.
    """
    most = _GROUP - _CHUNK
    if item.numel() <= most:
        yield first, item
        return
    if item.is_contiguous():
        item = item.view(-1)
    size = item[0].numel()
    step = max(1, most // size)
    for start in range(0, len(item), step):
        part = item[start] if size > most else item[start : start + step]
        yield from _parts(part, first + start * size)


class _Room(threading.local):
    """Where a thread makes the numbers of a group: to ask for memory each time would take as long as the sums do."""

    def __init__(self) -> None:
        self.indices = np.empty(_GROUP, np.intp)
        self.numbers = np.empty((2, _GROUP), np.float32)
        self._views: dict[int, tuple[npt.NDArray[np.intp], _Floats, list[_Floats], list[_Floats]]] = {}

    def of(self, chunks: int) -> tuple[npt.NDArray[np.intp], _Floats, list[_Floats], list[_Floats]]:
        """Indices and one half of the numbers, shape (4, chunks, 1024), and the rows of both halves."""
        if chunks not in self._views:
            size, shape = chunks * _CHUNK, (4, chunks, _ROW)
            one, other = (half[:size].reshape(4, -1) for half in self.numbers)
            self._views[chunks] = self.indices[:size].reshape(shape), one.reshape(shape), list(one), list(other)
        return self._views[chunks]


_room = _Room()


def _normals(key: bytes, first: int, out: _Floats) -> None:
    """Numbers of `SeededNoise` on the host, at most a group, behind the first so many, a multiple of 4096."""
    whole, cut = divmod(len(out), _CHUNK)
    chunks = whole + (cut > 0)
    indices, mixed, (a, b, c, d), (sum1, sum2, difference1, difference2) = _room.of(chunks)
    words = philox.words(key, first // (_LANES * philox.BLOCK), chunks * _CHUNK // _LANES)
    indices[...] = words.view(philox.LANE).reshape(chunks, 4, _ROW).transpose(1, 0, 2)
    # No index is out of range; "wrap" is the fastest way not to look.
    _quantiles().take(indices, out=mixed, mode="wrap")
    np.add(a, b, sum1)
    np.add(c, d, sum2)
    np.subtract(a, b, difference1)
    np.subtract(c, d, difference2)
    np.add(sum1, sum2, a)
    np.subtract(sum1, sum2, b)
    np.add(difference1, difference2, c)
    np.subtract(difference1, difference2, d)
    by_chunk = mixed.transpose(1, 0, 2)
    if whole:
        out[: whole * _CHUNK].reshape(whole, 4, _ROW)[...] = by_chunk[:whole]
    if cut:
        out[whole * _CHUNK :] = by_chunk[whole].reshape(-1)[:cut]


def normals(keys: Sequence[bytes], count: int, device: torch.device) -> torch.Tensor:
    """The first numbers of `SeededNoise` of some streams on a device, float32, shape (len(keys), count).

    The one place for a faster way on some device, which must give the same bytes. Plain operations, some 370 for the
    whole batch and whatever its size, with six times the memory of the result. Integers, a table and additions only, so
    there is no product that could be contracted with a sum.
    """
    chunks = -(-count // _CHUNK)
    random = philox.words_on(device, keys, chunks * _CHUNK // _LANES)
    rows = _on(device, _quantiles).index_select(0, philox.lanes(random)).view(len(keys), chunks, 4, _ROW)
    a, b, c, d = rows.unbind(2)
    sum1, sum2, difference1, difference2 = a + b, c + d, a - b, c - d
    mixed = (sum1 + sum2, sum1 - sum2, difference1 + difference2, difference1 - difference2)
    return torch.stack(mixed, dim=2).view(len(keys), -1)[:, :count]


def _cast(noise: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
    return out.copy_(noise[:, : math.prod(out.shape[1:])].reshape(out.shape))


@cache
def _quantiles() -> _Floats:
    """65536 quantiles of the normal law times 1/2, in order, of which 16 random bits choose one.

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
    table = np.concatenate([-upper[::-1], upper]).astype(np.float32)
    table.setflags(write=False)
    return table


@cache
def _on(device: torch.device, table: Callable[[], npt.NDArray[np.generic]]) -> torch.Tensor:
    """A table on a device, float32; it gets there once."""
    values = torch.tensor(table().view(np.float32))
    if device.type != "cuda":
        return values.to(device)
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError("the first noise on a device brings its table there: draw once before you capture a graph")
    # On a stream of its own, and awaited there: no other stream is held up, and each may use the table from now on.
    with torch.cuda.stream(torch.cuda.Stream(device)):  # type: ignore[no-untyped-call]
        result = values.to(device, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record()
    arrived.synchronize()
    return result


@dataclass(frozen=True)
class CallableNoise:
    """Noise from the caller's own function ``(sigma_from, sigma_to) -> tensor like x``, of unit variance."""

    function: Callable[[float, float], Any]

    def __call__(self, draw: Draw, like: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        """The function's answer, checked; ``out`` is not used.

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


def scheme_of(source: NoiseSource) -> str:
    """The name of the rule that makes a source's numbers, for a state that is saved."""
    return SCHEMES["brownian" if isinstance(source, BrownianNoise) else "seeded"]


def source_by_scheme(scheme: str, seeds: tuple[int, ...], process: Process | None) -> NoiseSource:
    """The noise that goes on where a state was saved.

    Raises
    ------
    ValueError : a rule that this version does not have, whose noise would be other noise
    """
    for kind, name in SCHEMES.items():
        if name == scheme:
            return seeded_source(kind, seeds, process)
    known = " and ".join(map(repr, SCHEMES.values()))
    raise ValueError(
        f"this version of ksched makes noise by {known}; the state needs {scheme!r}: finish it with its own"
    )


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
    where v is infinite, has a noise of its own. The normals of the sum are looked up, four at a time, in a table of
    65536 rows of four; a path costs two to four times what `SeededNoise` does. As a rule two to six of the up to twenty
    in a sum carry its variance; it is one alone where the interval is a whole block.

    *State.* The random bits of the last end are kept for the next interval: at most 11 nodes, half a byte per number of
    the state each. They change nothing but the time it takes; a source should still belong to one run.

    *Rule.* A hash of path and node, keyed by the item's seed, is the key of a stream of random words, each of them four
    indices of 16 bits into the table of rows. The numbers of each node are multiplied by its coefficient, rounded to
    float32, and added up in the order of `_increment`, block by block and then down the bridges. The coefficients come
    from exp and sqrt of the machine, so another C library may round one of them in 1e8 the other way.

    k-diffusion's ``BrownianTreeNoiseSampler`` serves the same end with torchsde's tree, in the clock sigma.
    """

    seeds: tuple[int, ...]
    process: Process
    _kept: dict[tuple[_Path, int, torch.device], dict[int, Any]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __call__(self, draw: Draw, like: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        """Noise of one draw for the whole batch; arguments and errors as for `SeededNoise`."""
        start, end = (self.process.level(sigma).lam for sigma in draw[:2])
        rising = start > end
        if rising:
            start, end = -start, -end
        if end == math.inf or _cell(start) == _cell(end) or not like.numel():
            return SeededNoise(self.seeds)(draw, like, out=out)
        out = _target(self.seeds, like, out)
        path, device = _Path(draw.visit, draw.stream, rising), out.device
        count = -(-math.prod(out.shape[1:]) // _PER_WORD)
        terms, onward = _increment(_cell(start), _cell(end))
        known = self._kept.get((path, count, device), {})
        keys = {node: [_node_key(path, node, seed) for seed in self.seeds] for node, _ in terms if node not in known}
        kept = {
            node: known[node] if node in known else _stored(keys[node], count, device)
            for node in onward
            if node in known or node in keys
        }
        for other in [other for other in list(self._kept) if other[0].visit != draw.visit]:
            self._kept.pop(other, None)  # a visit is over when another begins
        self._kept[path, count, device] = kept
        sources = keys | known | kept
        if not _is_host(device):
            return _cast(_combination_on(device, [(sources[node], value) for node, value in terms], count), out)
        by_item = ([(sources[node][i], value) for node, value in terms] for i in range(len(out)))
        _fill(out, [partial(_combination, item) for item in by_item])
        return out


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


def _node_key(path: _Path, node: int, seed: int) -> bytes:
    return _key(struct.pack("<qq?q", *path, node), "brownian", seed)


def _stored(keys: list[bytes], count: int, device: torch.device) -> Any:
    """Words of a node for every item: an array on the host, or a tensor on a device."""
    if not _is_host(device):
        return philox.words_on(device, keys, count)
    return np.stack([philox.words(key, 0, count) for key in keys])


def _combination(terms: list[tuple[bytes | Words, float]], first: int, out: _Floats) -> None:
    """Sum of coefficient times normals on the host, at most a group, behind the first so many, a multiple of 4096.

    Parameters
    ----------
    terms : the stream of each node, as its key or as its words, and the coefficient
    """
    table, count, before = _table(), -(-len(out) // _PER_WORD), first // _PER_WORD
    indices = _room.indices[: _LANES * count]
    rows = _room.numbers[0].view(np.complex128)[: _LANES * count]
    numbers = rows.view(np.float32)[: len(out)]
    for i, (stream, coefficient) in enumerate(terms):
        if isinstance(stream, bytes):
            words = philox.words(stream, before // philox.BLOCK, count)
        else:
            words = stream[before : before + count]
        indices[...] = words.view(philox.LANE)
        table.take(indices, out=rows, mode="wrap")
        np.multiply(numbers, np.float32(coefficient), out=numbers if i else out)
        if i:
            out += numbers


def _combination_on(
    device: torch.device, terms: list[tuple[list[bytes] | torch.Tensor, float]], count: int
) -> torch.Tensor:
    """The same for all items on a device, from ``count`` words each; no product is contracted with a sum."""
    table = _on(device, _table).view(-1, 4)
    sums: list[torch.Tensor] = []
    for streams, coefficient in terms:
        words = streams if isinstance(streams, torch.Tensor) else philox.words_on(device, streams, count)
        numbers = table.index_select(0, philox.lanes(words)).view(len(words), -1).mul_(float(np.float32(coefficient)))
        sums = [sums[0].add_(numbers) if sums else numbers]
    return sums[0]


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
