"""The sums of a turn on the processor, in one pass over memory. Needs Numba.

One kernel, compiled once and kept on disk, runs any `ksched.program.Table`: it goes through the states in parts that
stay in the processor's nearest cache, and on each does all operations of the table. Products and sums are rounded one
by one, from left to right, so that a number comes out the same wherever in a tensor it stands.
"""

# No `from __future__ import annotations`: nothing here is annotated for Numba, which reads the bytecode.
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from itertools import pairwise
from os import getpid
from typing import Any

import numpy as np
import torch
from numba import carray, njit, types  # type: ignore[attr-defined]
from numba.extending import intrinsic

from ksched.program import NOWHERE, RESULTS

__all__ = ["form"]

_PART = 2048  # numbers: five tensors' parts fill 40 KiB, so that what is read twice comes from the nearest cache
_PER_THREAD = 1 << 19  # below that a thread gains less than it costs to wake it up


def form(sources: int, results: int, integers: int, coefficients: int, count: int) -> None:
    """Do all operations of a table, in as many threads as torch uses.

    Parameters
    ----------
    sources : address of the addresses of float32 tensors: what slots -2, -1, 0, 1 and so on stand for
    results : address of the addresses of where the results go; one may be a source that is the first term of its sum,
        and overlaps no other
    integers, coefficients : the table, see `ksched.program.Table.addresses`
    count : numbers in each tensor, which all lie in memory in one order
    """
    if count < 2 * _PER_THREAD:
        _form(sources, results, integers, coefficients, 0, count)
        return
    threads = max(1, min(torch.get_num_threads(), count // _PER_THREAD))
    ends = [count * i // threads // _PART * _PART for i in range(threads)] + [count]
    others = [
        _pool(getpid()).submit(_form, sources, results, integers, coefficients, first, last)
        for first, last in pairwise(ends[1:])
    ]
    try:
        _form(sources, results, integers, coefficients, 0, ends[1])
    finally:
        wait(others)  # whatever interrupts us, the memory must stay until they are done


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Threads of a process: those of its parent are not there after a fork."""
    return ThreadPoolExecutor(max(1, torch.get_num_threads() - 1), thread_name_prefix="ksched")


def _at(kind: Any) -> Any:
    """A compiled function from an address to a pointer to numbers of a kind."""

    @intrinsic
    def pointer(typing: Any, address: Any) -> Any:
        made = types.CPointer(kind)

        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(made))

        return made(types.int64), code

    return pointer


_integers, _floats = _at(types.int64), _at(types.float32)


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
    for start in range(first, last, _PART):
        part = min(_PART, last - start)
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
                    if copy == NOWHERE:
                        _put(out, used, x, p, y, q, z, r, w, s)
                    else:
                        other = _part(sources, results, copy, start, part)
                        _put_and_copy(out, other, used, x, p, y, q, z, r, w, s)
                elif copy == NOWHERE:
                    _add(out, p, used, y, q, z, r, w, s)
                else:
                    other = _part(sources, results, copy, start, part)
                    _add_and_copy(out, other, p, used, y, q, z, r, w, s)
                begun = True
                at, c, left = at + used, c + 4 * used, left - used
