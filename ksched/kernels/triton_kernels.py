"""A run's sums and the numbers of its noise on a GPU, each in one kernel launch. Needs Triton.

Nothing here synchronises with the device. `combine` and `normals` copy nothing to it either: coefficients and keys are
launch arguments, so a CUDA graph can be captured. Block sizes are derived from the bytes that a multiprocessor must
keep in flight, not measured.
"""

# No `from __future__ import annotations`: before 3.2, Triton's interpreter must find `tl.constexpr` itself there.
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import triton  # pyright: ignore[reportMissingImports] - no dependency
import triton.language as tl  # pyright: ignore[reportMissingImports] - no dependency

__all__ = ["DTYPES", "combine", "combine_many", "normals"]


#: dtypes that a kernel reads; it sums in float32
DTYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


# terms per launch: more than the rows of all but the longest multistep samplers have, few enough for registers
_TERMS = 12


# Elements per program. With 128 threads each has eight: two 16-byte accesses in float32 and one in half precision; a
# state of 4 x 64 x 64 already has 16 programs.
_BLOCK, _WARPS = 1024, 4


# Every product is added by an explicit fused multiply-add, and the additions of noise stand alone: nothing is left for
# the compiler to fuse, so a sum has the same bytes in every variant of a kernel.
_EXACT = {"enable_fp_fusion": False}


def combine(tensors: Sequence[torch.Tensor], coefficients: Sequence[float], out: torch.Tensor) -> None:
    """A sum of coefficient times tensor, in the given order; one launch for up to 12 terms.

    Parameters
    ----------
    tensors : sequence of Tensor
        At least one, of a dtype in `DTYPES`, each with the strides of ``out``.
    coefficients : sequence of float
        One host number per tensor; new numbers need no recompilation.
    out : Tensor
        float32, dense in some order of its axes; it may be the first tensor itself, and overlaps no other.

    Notes
    -----
    Kernels are compiled for the number of terms and their dtypes, for whether size and addresses are multiples of 16,
    and for more than 2**31 elements.
    """
    count = out.numel()
    while count:
        sources, numbers = tensors[:_TERMS], [float(value) for value in coefficients[:_TERMS]]
        tensors, coefficients = tensors[_TERMS:], coefficients[_TERMS:]
        # every launch argument takes time, so short sums get kernels with few
        room, kernel = next((room, kernel) for room, kernel in _COMBINE if room >= len(sources))
        left = room - len(sources)
        arguments = (*sources, *[None] * left, *numbers, *[0.0] * left)
        _launch(kernel, (-(-count // _BLOCK),), out.device, out, count, *arguments, BLOCK=_BLOCK, num_warps=_WARPS)
        if not tensors:
            return
        tensors, coefficients = [out, *tensors], [1.0, *coefficients]


def combine_many(entries: Sequence[tuple[Sequence[torch.Tensor], Sequence[float], torch.Tensor]]) -> None:
    """`combine` for many independent runs in one launch, each with its own terms, coefficients and size.

    Parameters
    ----------
    entries : sequence of tuple
        (tensors, coefficients, out), each as for `combine`, all on one device. Of the half precision dtypes only one
        may occur: that of the model that answered. No entry may read or write what another entry writes.

    Raises
    ------
    ValueError
        For sources of both float16 and bfloat16.

    Notes
    -----
    Addresses and coefficients are uploaded as one small table, from pinned memory that torch keeps until the copy is
    done. During CUDA graph capture each entry is a separate launch, because the graph would read that memory at each
    replay. The results have the same bytes.

    Whether a source is float32 or has the model's dtype differs between entries. A kernel that branches on it would
    wait for one source after the other, so each source is loaded as both, and masks let only one load reach memory.
    """
    if not entries:
        return
    device = entries[0][2].device
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        for tensors, coefficients, out in entries:
            combine(tensors, coefficients, out)
        return
    while entries:
        _combine_at_once([(tensors[:_TERMS], numbers[:_TERMS], out) for tensors, numbers, out in entries], device)
        entries = [
            ([out, *tensors[_TERMS:]], [1.0, *numbers[_TERMS:]], out)
            for tensors, numbers, out in entries
            if len(tensors) > _TERMS
        ]


def _combine_at_once(
    entries: Sequence[tuple[Sequence[torch.Tensor], Sequence[float], torch.Tensor]], device: torch.device
) -> None:
    halves = {tensor.dtype for tensors, _, _ in entries for tensor in tensors} - {torch.float32}
    if len(halves) > 1:
        raise ValueError(f"besides float32, sources may have only one dtype; got {sorted(map(str, halves))}")
    width = max(len(tensors) for tensors, _, _ in entries)
    width = next(size for size in (2, 4, 8, _TERMS) if size >= width)  # one compiled kernel per width
    addresses = np.zeros((len(entries), width), np.int64)
    # Missing terms add -0.0 times 0: the only addition that changes nothing, not even the sign of a zero.
    numbers = np.full((len(entries), width), -0.0, np.float32)
    kinds = np.full((len(entries), width), -1, np.int64)
    for i, (tensors, coefficients, _) in enumerate(entries):
        used = slice(len(tensors))
        addresses[i, used] = [tensor.data_ptr() for tensor in tensors]
        numbers[i, used] = coefficients
        kinds[i, used] = [tensor.dtype != torch.float32 for tensor in tensors]
    targets = np.array([(out.data_ptr(), out.numel()) for _, _, out in entries], np.int64)
    terms = np.stack([addresses, kinds << 32 | numbers.view(np.uint32)], axis=2)
    most = int(targets[:, 1].max())
    if not most:
        return
    table = torch.from_numpy(np.concatenate([targets, terms.reshape(len(entries), -1)], axis=1))
    if device.type != "cpu":
        table = table.pin_memory().to(device, non_blocking=True)
    _launch(
        _combine_many,
        (-(-most // _BLOCK), len(entries)),
        device,
        table,
        torch.empty(1, dtype=halves.pop(), device=device) if halves else None,
        TERMS=width,
        ALIGNED=not (addresses % 16).any() and not (targets % 16).any(),
        BLOCK=_BLOCK,
        num_warps=_WARPS,
    )


# per launch of `normals`: number of items, and blocks of a quarter chunk per program. A warp has that many threads,
# each with one block of every quarter, so numbers that are mixed meet in registers.
_ITEMS, _BLOCKS = 8, 32


def normals(
    keys: Sequence[tuple[int, int]],
    table: torch.Tensor,
    out: torch.Tensor,
    count: int | None = None,
    chunk: int = 0,
) -> None:
    """`SeededNoise`'s numbers from some streams; one launch for up to eight.

    Parameters
    ----------
    keys : sequence of tuple of int
        For each item, the two words of its stream's key, signed or unsigned.
    table : Tensor
        The 65536 rows of four numbers, float32, contiguous, on the device.
    out : Tensor
        float32, shape (items, width), contiguous; one item per row, in row-major order.
    count : int or None
        Number of numbers in an item; None means ``width``, which is all of them.
    chunk : int
        Number of the item's chunks of 65536 before the first number wanted.

    Notes
    -----
    The keys are launch arguments, so captured graphs need no separate path. Eight keys cover a batch of usual size in
    one launch, and an argument costs a fraction of a microsecond.
    """
    items, width = out.shape
    count = width if count is None else count
    # an item's last chunk is made like a whole one, so use as many programs as for a width that ends with a chunk
    whole, rest = divmod(min(-(-width // 65536) * 65536, count - 65536 * chunk), 65536)
    programs = whole * (256 // _BLOCKS) + -(-rest // (256 * _BLOCKS))
    for first in range(0, items if width else 0, _ITEMS):
        given = keys[first : first + _ITEMS]
        padded = [*given, *[given[-1]] * (_ITEMS - len(given))]
        words = [_signed(word) for pair in padded for word in pair]
        grid = programs, len(given)
        _launch(
            _normals, grid, out.device, out[first:], table, count, width, chunk, *words, BLOCKS=_BLOCKS, num_warps=1
        )


def _signed(word: int) -> int:
    """The int64 with a word's bits: Triton then sees nearly all words that are not small as one type."""
    return (word + (1 << 63)) % (1 << 64) - (1 << 63)


def _launch(kernel: Any, grid: tuple[int, ...], device: torch.device, *args: Any, **options: Any) -> None:
    """Launch a kernel on a device; Triton launches only on the current one."""
    if device.type == "cuda" and device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            kernel[grid](*args, **options, **_EXACT)
    else:
        kernel[grid](*args, **options, **_EXACT)


@triton.jit
def _combine_2(out, count, x0, x1, c0, c1, BLOCK: tl.constexpr):
    at, inside = _place(count, BLOCK)
    total = _added(_first(x0, c0, at, inside), x1, c1, at, inside)
    tl.store(out + at, total, mask=inside)


@triton.jit
def _combine_4(out, count, x0, x1, x2, x3, c0, c1, c2, c3, BLOCK: tl.constexpr):
    at, inside = _place(count, BLOCK)
    total = _added(_first(x0, c0, at, inside), x1, c1, at, inside)
    total = _added(_added(total, x2, c2, at, inside), x3, c3, at, inside)
    tl.store(out + at, total, mask=inside)


@triton.jit
def _combine_12(
    out, count,
    x0, x1, x2, x3, x4, x5, x6, x7, x8, x9, x10, x11,
    c0, c1, c2, c3, c4, c5, c6, c7, c8, c9, c10, c11,
    BLOCK: tl.constexpr,
):  # fmt: skip
    at, inside = _place(count, BLOCK)
    total = _added(_first(x0, c0, at, inside), x1, c1, at, inside)
    total = _added(_added(total, x2, c2, at, inside), x3, c3, at, inside)
    total = _added(_added(total, x4, c4, at, inside), x5, c5, at, inside)
    total = _added(_added(total, x6, c6, at, inside), x7, c7, at, inside)
    total = _added(_added(total, x8, c8, at, inside), x9, c9, at, inside)
    total = _added(_added(total, x10, c10, at, inside), x11, c11, at, inside)
    tl.store(out + at, total, mask=inside)


_COMBINE = ((2, _combine_2), (4, _combine_4), (_TERMS, _combine_12))


@triton.jit
def _place(count, BLOCK: tl.constexpr):
    # all tensors have the same memory order, and programs go through them in that order
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    return at, at < count


@triton.jit
def _first(x, c, at, inside):
    return c * tl.load(x + at, mask=inside).to(tl.float32)


@triton.jit
def _added(total, x, c, at, inside):
    if x is not None:
        total = tl.fma(tl.load(x + at, mask=inside).to(tl.float32), c, total)
    return total


@triton.jit
def _combine_many(table, half, TERMS: tl.constexpr, ALIGNED: tl.constexpr, BLOCK: tl.constexpr):
    # A row holds the result's address and number of elements; then for each term its address and one word with the bits
    # of its coefficient below its kind: 0 for float32, 1 for half precision, -1 for no term.
    row = table + tl.program_id(1).to(tl.int64) * (2 + 2 * TERMS)
    count = tl.load(row + 1)
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for term in tl.static_range(TERMS):
        address, word = tl.load(row + 2 + 2 * term), tl.load(row + 3 + 2 * term)
        c, kind = word.to(tl.int32).to(tl.float32, bitcast=True), word >> 32
        inside = _inside(at, tl.where(kind == 0, count, 0), ALIGNED)
        x = tl.load(_pointers(address.to(tl.pointer_type(tl.float32)), at, ALIGNED), mask=inside, other=0.0)
        if half is not None:  # a tensor that is passed only for its dtype
            inside = _inside(at, tl.where(kind == 1, count, 0), ALIGNED)
            other = tl.load(_pointers(address.to(half.dtype), at, ALIGNED), mask=inside, other=0.0)
            x = tl.where(inside, other.to(tl.float32), x)
        total = c * x if term == 0 else tl.fma(x, c, total)
    out = _pointers(tl.load(row).to(tl.pointer_type(tl.float32)), at, ALIGNED)
    tl.store(out, total, mask=_inside(at, count, ALIGNED))


@triton.jit
def _pointers(start, at, ALIGNED: tl.constexpr):
    # tell the compiler what it cannot know of an address from a table: sixteen bytes may be read at once
    pointers = start + at
    if ALIGNED:
        pointers = tl.max_contiguous(tl.multiple_of(pointers, 16), 16)
    return pointers


@triton.jit
def _inside(at, count, ALIGNED: tl.constexpr):
    inside = at < count
    if ALIGNED:
        inside = tl.max_constancy(inside, 16)
    return inside


@triton.jit(do_not_specialize=["before", *(f"{half}{item}" for half in "ab" for item in range(_ITEMS))])
def _normals(
    out, table, count, width, before,
    a0, b0, a1, b1, a2, b2, a3, b3, a4, b4, a5, b5, a6, b6, a7, b7,
    BLOCKS: tl.constexpr,
):  # fmt: skip
    item, program = tl.program_id(1), tl.program_id(0)
    k0, k1 = a0.to(tl.int64), b0.to(tl.int64)
    k0, k1 = tl.where(item == 1, a1, k0), tl.where(item == 1, b1, k1)
    k0, k1 = tl.where(item == 2, a2, k0), tl.where(item == 2, b2, k1)
    k0, k1 = tl.where(item == 3, a3, k0), tl.where(item == 3, b3, k1)
    k0, k1 = tl.where(item == 4, a4, k0), tl.where(item == 4, b4, k1)
    k0, k1 = tl.where(item == 5, a5, k0), tl.where(item == 5, b5, k1)
    k0, k1 = tl.where(item == 6, a6, k0), tl.where(item == 6, b6, k1)
    k0, k1 = tl.where(item == 7, a7, k0), tl.where(item == 7, b7, k1)
    k0, k1 = k0.to(tl.uint64, bitcast=True), k1.to(tl.uint64, bitcast=True)
    # A chunk has 65536 numbers and a block 64, so a quarter has 256 blocks. The last chunk has fewer.
    place = (program // (256 // BLOCKS)).to(tl.int64)
    chunk = place + before
    quarter = tl.minimum((count - 65536 * chunk + 255) // 256, 256)
    first = program % (256 // BLOCKS) * BLOCKS
    block = (1 + 1024 * chunk + first + tl.arange(0, BLOCKS)).to(tl.uint64)  # a stream starts with block 1
    step = quarter.to(tl.uint64)
    a0, a1, a2, a3 = _philox(block, k0, k1)
    b0, b1, b2, b3 = _philox(block + step, k0, k1)
    c0, c1, c2, c3 = _philox(block + 2 * step, k0, k1)
    d0, d1, d2, d3 = _philox(block + 3 * step, k0, k1)
    lane = tl.arange(0, 4 * BLOCKS)
    at = (65536 * place + 64 * (first + lane // 4) + lane % 4 * 4)[:, None] + tl.arange(0, 4)[None, :]
    end = tl.where(first + lane // 4 < quarter, width, 0)[:, None]
    row = out + item.to(tl.int64) * width
    _mixed(row, table, at, end, 64 * quarter, a0, b0, c0, d0)
    _mixed(row, table, at + 16, end, 64 * quarter, a1, b1, c1, d1)
    _mixed(row, table, at + 32, end, 64 * quarter, a2, b2, c2, d2)
    _mixed(row, table, at + 48, end, 64 * quarter, a3, b3, c3, d3)


@triton.jit
def _mixed(row, table, at, end, quarter, a, b, c, d):
    # the numbers from one word of every block, at the same position in each quarter
    a, b, c, d = _rows(table, a), _rows(table, b), _rows(table, c), _rows(table, d)
    sum1, sum2, difference1, difference2 = a + c, b + d, b - d, a - c
    tl.store(row + at, sum1 + difference1, mask=at < end)
    at += quarter
    tl.store(row + at, sum2 + difference2, mask=at < end)
    at += quarter
    tl.store(row + at, sum1 - difference1, mask=at < end)
    at += quarter
    tl.store(row + at, sum2 - difference2, mask=at < end)


@triton.jit
def _rows(table, word):
    # four numbers for each quarter of a word, the lowest first
    q0, q1 = (word & 0xFFFF).to(tl.int32), ((word >> 16) & 0xFFFF).to(tl.int32)
    q2, q3 = ((word >> 32) & 0xFFFF).to(tl.int32), (word >> 48).to(tl.int32)
    lanes = tl.interleave(tl.interleave(q0, q2), tl.interleave(q1, q3))
    return tl.load(table + (4 * lanes)[:, None] + tl.arange(0, 4)[None, :])


@triton.jit
def _philox(block, k0, k1):
    # Philox4x64-10, see ksched.kernels.philox
    M0: tl.constexpr = 0xD2E7470EE14C6C93
    M1: tl.constexpr = 0xCA5A826395121157
    BUMP0: tl.constexpr = 0x9E3779B97F4A7C15
    BUMP1: tl.constexpr = 0xBB67AE8584CAA73B
    w0 = block
    w1 = tl.zeros_like(block)
    w2 = tl.zeros_like(block)
    w3 = tl.zeros_like(block)
    for _ in tl.static_range(10):
        high0, low0 = tl.umulhi(w0, M0), w0 * M0
        high1, low1 = tl.umulhi(w2, M1), w2 * M1
        w0, w1, w2, w3 = high1 ^ w1 ^ k0, low1, high0 ^ w3 ^ k1, low0
        k0, k1 = k0 + BUMP0, k1 + BUMP1
    return w0, w1, w2, w3
