"""The sums of a turn on the processor, and the noises in them, in one pass over memory. Needs Numba.

One kernel, compiled once and kept on disk, runs any `ksched.execution.layout.FlatOperations`: it goes through the
states in parts that stay in the processor's nearest cache, and on each does all operations of the table. Products and
sums are rounded one by one, from left to right, so that a number comes out the same wherever in a tensor it stands.
Noise is made for a part when it is wanted there, and never stands in memory as a whole.
"""

# No `from __future__ import annotations`: nothing here is annotated for Numba, which reads the bytecode.
from array import array
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import numpy as np
from llvmlite.ir import IntType  # type: ignore[import-untyped]
from numba import carray, njit, types  # type: ignore[attr-defined]
from numba.extending import intrinsic

from ksched.kernels import normal_table, philox
from ksched.kernels.slots import NO_SLOT, RESULTS
from ksched.kernels.workers import shared

__all__ = ["LEAST_SHARED", "form", "form_with_noise", "noises_work", "normals", "path", "sums_work"]


_PART = 2048  # numbers: five tensors' parts fill 40 KiB, so that what is read twice comes from the nearest cache


_PER_THREAD = 1 << 19  # below that a thread gains less than it costs to wake it up


_NOISE_IS_DEARER = 8


#: Fewer numbers than that are never shared among threads, with noise or without.
LEAST_SHARED = 2 * _PER_THREAD // _NOISE_IS_DEARER


def form(sources: int, results: int, integers: int, coefficients: int, count: int, owners: object = None) -> None:
    """Do all operations of a table, in as many threads as torch uses.

    Parameters
    ----------
    sources : address of the addresses of float32 tensors: what slots -2, -1, 0, 1 and so on stand for
    results : address of the addresses of where the results go; one may be a source that is the first term of its sum,
        and overlaps no other
    integers, coefficients : the table, see `ksched.execution.layout.Table.addresses`
    count : numbers in each tensor, which all lie in memory in one order
    owners : whatever keeps the memory at these addresses; a thread holds it for as long as it works there
    """
    if count < 2 * _PER_THREAD:
        if count:
            _form(sources, results, integers, coefficients, 0, count)
    else:
        shared(partial(_form, sources, results, integers, coefficients), count, _PART, owners)


def form_with_noise(
    sources: int,
    many: int,
    results: int,
    integers: int,
    coefficients: int,
    count: int,
    places: Sequence[int],
    keys: Sequence[Sequence[philox.Key]],
    owners: object = None,
) -> None:
    """`form` where some sources are noises, which are made on the way.

    Parameters
    ----------
    sources, results, integers, coefficients, count, owners : as for `form`; the tensors are in row-major order, batch
        first
    many : how many sources there are
    places : the slots of the noises
    keys : for each noise, those of the items' streams, see `ksched.noise.seeded.SeededNoise`
    """
    if not count:
        return
    slots, items = array("q", places), len(keys[0])
    words = array("Q", [word for by_item in zip(*keys, strict=True) for key in by_item for word in key])
    noise = slots.buffer_info()[0], len(slots), words.buffer_info()[0], _rows()
    chunks = -(-count // items // normal_table.CHUNK)
    work = partial(_form_with_noise, sources, many, results, integers, coefficients, count // items, *noise)
    if count < 2 * _PER_THREAD // _NOISE_IS_DEARER:
        work(0, items * chunks)
    else:
        shared(work, items * chunks, 1, (slots, words, owners))


def normals(key: philox.Key, count: int, first: int, out: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    """Numbers of one item on the host; see `ksched.noise.seeded.fill_normals`."""
    _normals(np.uint64(key[0]), np.uint64(key[1]), count, first, out.ctypes.data, len(out), _rows())


def path(terms: Sequence[tuple[philox.Key, np.float32]], first: int, out: np.ndarray[Any, Any]) -> None:
    """Numbers of one item of a Brownian path on the host; see `ksched.brownian`."""
    keys = array("Q", [word for key, _ in terms for word in key])
    scales = array("f", [float(scale) for _, scale in terms])
    where = keys.buffer_info()[0], scales.buffer_info()[0], len(terms)
    _path(*where, first // normal_table.PER_BLOCK, out.ctypes.data, len(out), _rows())


@cache
def _rows() -> int:
    """Address of the table of normals, which is never given up."""
    address: int = normal_table.table().ctypes.data
    return address


def sums_work() -> bool:
    """Whether `form` gives the right numbers here: Numba may be there without a compiler that works."""
    x, y, out = (np.full(5, value, np.float32) for value in (3.0, 5.0, 0.0))
    integers, coefficients = array("q", [1, RESULTS, NO_SLOT, 2, 0, 1]), array("f", [0.5, 0.25, 0, 0, 0])
    sources, results = array("q", [0, 0, x.ctypes.data, y.ctypes.data]), array("q", [out.ctypes.data])
    where = (numbers.buffer_info()[0] for numbers in (sources, results, integers, coefficients))
    _form(*where, 0, len(out))
    return bool((out == 2.75).all())


def noises_work() -> bool:
    """The same of the kernels that make noise: their bytes are those made without Numba."""
    key, numbers, sums = (1, 2), np.zeros(300, np.float32), np.zeros(300, np.float32)
    expected = np.empty(300, np.float32)
    normal_table.fill_normals_by_numpy(key, 300, 0, expected)
    normals(key, 300, 0, numbers)
    path([(key, np.float32(1.0))], 0, np.zeros(300, np.float32))
    integers, coefficients = array("q", [1, RESULTS, NO_SLOT, 1, 0]), array("f", [1.0, 0, 0, 0])
    sources, results = array("q", [0, 0, 0]), array("q", [sums.ctypes.data])
    where = sources.buffer_info()[0], 3, results.buffer_info()[0]
    form_with_noise(*where, integers.buffer_info()[0], coefficients.buffer_info()[0], 300, [0], [[key]])
    return bool((numbers == expected).all() and (sums == expected).all())


def _at(kind: Any) -> Any:
    """A compiled function from an address to a pointer to numbers of a kind."""

    @intrinsic
    def pointer(typing: Any, address: Any) -> Any:
        made = types.CPointer(kind)

        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(made))

        return made(types.int64), code

    return pointer


_integers, _words, _floats, _rows_at = map(_at, (types.int64, types.uint64, types.float32, types.complex128))


def _compiled(function: Any) -> Any:
    try:
        return njit(nogil=True, cache=True, error_model="numpy")(function)
    except RuntimeError:  # no place to keep it
        return njit(nogil=True, error_model="numpy")(function)


# A loop for every number of terms, and for a first term that is written over: where a loop names an array twice the
# compiler need not ask whether two arrays overlap, and where they do not it uses whole vectors.
@_compiled
def _put(out, terms, x, p, y, q, z, r, w, s):
    """The sum of one to four arrays."""
    if terms == 1:
        for i in range(len(out)):
            out[i] = p * x[i]
    elif terms == 2:
        for i in range(len(out)):
            out[i] = p * x[i] + q * y[i]
    elif terms == 3:
        for i in range(len(out)):
            out[i] = p * x[i] + q * y[i] + r * z[i]
    else:
        for i in range(len(out)):
            out[i] = p * x[i] + q * y[i] + r * z[i] + s * w[i]


@_compiled
def _put_and_copy(out, copy, terms, x, p, y, q, z, r, w, s):
    """The sum of two to four arrays, and the second of them."""
    if terms == 2:
        for i in range(len(out)):
            copied = y[i]
            out[i] = p * x[i] + q * copied
            copy[i] = copied
    elif terms == 3:
        for i in range(len(out)):
            copied = y[i]
            out[i] = p * x[i] + q * copied + r * z[i]
            copy[i] = copied
    else:
        for i in range(len(out)):
            copied = y[i]
            out[i] = p * x[i] + q * copied + r * z[i] + s * w[i]
            copy[i] = copied


@_compiled
def _add(out, p, terms, y, q, z, r, w, s):
    """An array times a number, and up to three arrays added to it; ``terms`` counts the array too."""
    if terms == 1:
        for i in range(len(out)):
            out[i] = p * out[i]
    elif terms == 2:
        for i in range(len(out)):
            out[i] = p * out[i] + q * y[i]
    elif terms == 3:
        for i in range(len(out)):
            out[i] = p * out[i] + q * y[i] + r * z[i]
    else:
        for i in range(len(out)):
            out[i] = p * out[i] + q * y[i] + r * z[i] + s * w[i]


@_compiled
def _add_and_copy(out, copy, p, terms, y, q, z, r, w, s):
    """`_add` of one to three arrays, and the first of these."""
    if terms == 2:
        for i in range(len(out)):
            copied = y[i]
            out[i] = p * out[i] + q * copied
            copy[i] = copied
    elif terms == 3:
        for i in range(len(out)):
            copied = y[i]
            out[i] = p * out[i] + q * copied + r * z[i]
            copy[i] = copied
    else:
        for i in range(len(out)):
            copied = y[i]
            out[i] = p * out[i] + q * copied + r * z[i] + s * w[i]
            copy[i] = copied


@_compiled
def _address(sources, results, slot):
    if slot >= RESULTS:
        return carray(_integers(results), 1 << 30)[slot - RESULTS]
    return carray(_integers(sources), 1 << 30)[slot + 2]


@_compiled
def _part(sources, results, slot, start, count):
    """Some of the numbers of what a slot stands for."""
    return carray(_floats(_address(sources, results, slot) + 4 * start), count)


@_compiled
def _form(sources, results, integers, coefficients, first, last):
    """The operations of a table on the numbers from the first to before the last."""
    table = carray(_integers(integers), 1 << 30)
    # Parts are for what is read twice, and cost a little each.
    most = last - first if table[0] == 1 and table[3] <= 4 else _PART
    for start in range(first, last, most):
        part = min(most, last - start)
        at, c = 1, coefficients
        for _ in range(table[0]):
            slot, copy, left = table[at], table[at + 1], table[at + 2]
            at += 3
            out = _part(sources, results, slot, start, part)
            x = _part(sources, results, table[at], start, part)
            begun = False
            while left:
                # From the second round on the sum so far is the first term, and nothing of the table.
                used = min(left, 3 if begun else 4)
                y = z = w = out
                head = 0 if begun else 1
                if used > head:
                    y = _part(sources, results, table[at + head], start, part)
                if used > head + 1:
                    z = _part(sources, results, table[at + head + 1], start, part)
                if used > head + 2:
                    w = _part(sources, results, table[at + head + 2], start, part)
                numbers = carray(_floats(c), 4)
                p, q, r, s = numbers[0], numbers[1], numbers[2], numbers[3]
                if begun:
                    _add(out, np.float32(1), used + 1, y, p, z, q, w, r)
                elif _address(sources, results, table[at]) != _address(sources, results, slot):
                    if copy == NO_SLOT:
                        _put(out, used, x, p, y, q, z, r, w, s)
                    else:
                        other = _part(sources, results, copy, start, part)
                        _put_and_copy(out, other, used, x, p, y, q, z, r, w, s)
                elif copy == NO_SLOT:
                    _add(out, p, used, y, q, z, r, w, s)
                else:
                    other = _part(sources, results, copy, start, part)
                    _add_and_copy(out, other, p, used, y, q, z, r, w, s)
                begun = True
                at, c, left = at + used, c + 4 * used, left - used


def _high_half(typing: Any, x: Any, y: Any) -> Any:
    """A compiled function: the high half of a product of two words."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        double, word = IntType(128), IntType(64)
        product = builder.mul(*(builder.zext(argument, double) for argument in arguments))
        return builder.trunc(builder.lshr(product, double(64)), word)

    return types.uint64(types.uint64, types.uint64), code


_high: Any = intrinsic(_high_half)


_ROUNDS, _PER_BLOCK, _LEAST, _CHUNK = philox.ROUNDS, normal_table.PER_BLOCK, normal_table.LEAST, normal_table.CHUNK


_FACTOR0, _FACTOR1 = map(np.uint64, philox.MULTIPLIERS)


_BUMP0, _BUMP1 = map(np.uint64, philox.BUMPS)


_LANE, _LANE_BITS = np.uint64(0xFFFF), np.uint64(16)


@_compiled
def _block(before, key0, key1):
    """The words of a block of Philox4x64-10, behind so many others."""
    w0, w1, w2, w3 = np.uint64(before + 1), np.uint64(0), np.uint64(0), np.uint64(0)
    for _ in range(_ROUNDS):
        high0, low0 = _high(w0, _FACTOR0), w0 * _FACTOR0
        high1, low1 = _high(w2, _FACTOR1), w2 * _FACTOR1
        w0, w1, w2, w3 = high1 ^ w1 ^ key0, low1, high0 ^ w3 ^ key1, low0
        key0, key1 = key0 + _BUMP0, key1 + _BUMP1
    return w0, w1, w2, w3


@_compiled
def _path(keys, scales, terms, before, out, count, rows):
    """The sum of the normals of all terms, each times its scale, from blocks behind so many."""
    key, scale = carray(_words(keys), 2 * terms), carray(_floats(scales), terms)
    table, numbers = carray(_rows_at(rows), 1 << 16), carray(_floats(out), count)
    total, normal = np.empty(_PER_BLOCK, np.float32), np.empty(_PER_BLOCK, np.float32)
    looked_up = carray(_rows_at(normal.ctypes.data), _PER_BLOCK // 4)
    for start in range(0, count, _PER_BLOCK):
        for term in range(terms):
            at, factor = 0, scale[term]
            for word in _block(before + start // _PER_BLOCK, key[2 * term], key[2 * term + 1]):
                for _ in range(4):
                    looked_up[at] = table[np.int64(word & _LANE)]
                    word >>= _LANE_BITS
                    at += 1
            if term:
                for i in range(_PER_BLOCK):
                    total[i] += factor * normal[i]
            else:
                for i in range(_PER_BLOCK):
                    total[i] = factor * normal[i]
        for i in range(min(_PER_BLOCK, count - start)):
            numbers[start + i] = total[i]


@_compiled
def _normals(key0, key1, count, first, out, wanted, rows):
    """`seeded.fill_normals`, from the address of its table to that of the numbers."""
    size = -(-min(count - first, _CHUNK) // _LEAST) * _LEAST
    room = np.empty(size if wanted < size else 0, np.float32)
    chunk = room.ctypes.data if wanted < size else out
    looked_up, table = carray(_rows_at(chunk), size // 4), carray(_rows_at(rows), 1 << 16)
    for i in range(size // _PER_BLOCK):
        w0, w1, w2, w3 = _block(first // _PER_BLOCK + i, key0, key1)
        at = 16 * i
        for word in (w0, w1, w2, w3):
            for _ in range(4):
                looked_up[at] = table[np.int64(word & _LANE)]
                word >>= _LANE_BITS
                at += 1
    numbers, quarter = carray(_floats(chunk), size), size // 4
    for i in range(quarter):
        a, b, c, d = numbers[i], numbers[quarter + i], numbers[2 * quarter + i], numbers[3 * quarter + i]
        sum1, sum2, difference1, difference2 = a + c, b + d, b - d, a - c
        numbers[i], numbers[quarter + i] = sum1 + difference1, sum2 + difference2
        numbers[2 * quarter + i], numbers[3 * quarter + i] = sum1 - difference1, sum2 - difference2
    if wanted < size:
        carray(_floats(out), wanted)[:] = room[:wanted]


@_compiled
def _form_with_noise(sources, many, results, integers, coefficients, count, places, noises, keys, rows, first, last):
    """`_form` on some of the chunks of all items, of ``count`` numbers each."""
    own = carray(_integers(sources), many).copy()
    place, key = carray(_integers(places), noises), carray(_words(keys), 1 << 30)
    room = np.empty((noises, min(-(-count // _LEAST) * _LEAST, _CHUNK)), np.float32)
    chunks = -(-count // _CHUNK)
    for number in range(first, last):
        item, start = number // chunks, number % chunks * _CHUNK
        size = min(count - start, _CHUNK)
        before = item * count + start
        for k in range(noises):
            at = 2 * (item * noises + k)
            address = room[k].ctypes.data
            _normals(key[at], key[at + 1], count, start, address, room.shape[1], rows)
            own[place[k] + 2] = address - 4 * before
        _form(own.ctypes.data, results, integers, coefficients, before, before + size)
