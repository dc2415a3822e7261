"""Independent noise for each draw as tensors, and the filling of tensors from streams."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ksched.kernels import available
from ksched.kernels.normal_table import CHUNK, LEAST, PER_BLOCK, PER_WORD
from ksched.kernels.on_device import lanes, table_on, words_on
from ksched.kernels.philox import Key
from ksched.noise.streams import Stream, are_short, draw_keys, draw_streams, fill_items, short_groups
from ksched.plan.rows import Draw

__all__ = ["SeededNoise", "fill", "is_host", "limited", "normals", "target"]


@dataclass(frozen=True)
class SeededNoise:
    """Independent noise for each (item seed, draw).

    Attributes
    ----------
    seeds : tuple of int
        One per item of the batch.

    Notes
    -----
    *Rule.* A hash of the draw, keyed by the item's seed, is the key of a stream of random words. Each word holds four
    16-bit indices into a table of rows of four numbers. An item's numbers are made in chunks of 65536; the last chunk
    has the least multiple of 256 that holds the rest. Let a, b, c, d be the four quarters of the numbers that a chunk
    looks up. They become (a + c) + (b - d), (b + d) + (a - c), (a + c) - (b - d) and (b + d) - (a - c), and the item
    takes these in row-major order. In row r of the table, column j is quantile number ``((2 r + 1) g_j mod 131072) //
    2`` of 65536 of the normal law of variance 1/4, with g = (1, 13723, 35237, 36737).

    *Law.* A number is the sum of four independent ones. Its distribution function is the normal one within 1.5e-7, its
    variance 1 + 5e-10, its kurtosis 3 - 2.6e-5, its sixth moment 15 - 6.9e-4. The largest number is 8.80; beyond 5, 6
    and 7 there are 0.988, 0.93 and 0.73 of the numbers that there should be. Sixteen numbers come from the same four
    rows. Those of one column are uncorrelated, and their squares correlate by -1.3e-5. Those of two columns correlate
    by at most 1.5e-4 and their squares by 5.2e-5; their joint distribution function is that of independent normals
    within 1.2e-5, no joint cumulant of order 4 is above 7.4e-4, and means of odd order are 0. All other numbers are
    independent.
    """

    seeds: tuple[int, ...]

    def __call__(self, draw: Draw, like: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        """Noise of one draw for the whole batch.

        Numbers are drawn in float32 for every dtype of the state, so all dtypes get the same numbers, and on the
        state's device without synchronising. The first draw on a device uploads a table, so draw once before you
        capture a CUDA graph.

        Parameters
        ----------
        draw : Draw
            Where in the run.
        like : Tensor
            A tensor with the shape, dtype and device that the noise should have, batch first.
        out : Tensor or None
            A tensor like that, in any layout, to fill and return.

        Raises
        ------
        ValueError
            If the number of seeds is not the number of items; ``out`` is not like ``like``.
        """
        out = target(self.seeds, like, out)
        return limited(self._filled(draw, out), draw) if out.numel() else out

    def _filled(self, draw: Draw, out: torch.Tensor) -> torch.Tensor:
        """The tensor, filled with the numbers of a draw, before any limit."""
        numbers = out.numel()
        count = numbers // len(self.seeds)
        if is_host(out):
            if are_short(len(self.seeds), count):
                return self._many(draw, count, out)
            fill(out, self.streams(draw, count))
            return out
        plain = out.dtype == torch.float32 and out.is_contiguous()
        noise = normals(self.keys(draw), count, out.device, out.view(len(out), count) if plain else None)
        return out if plain else out.copy_(noise.view(out.shape))

    def _many(self, draw: Draw, count: int, out: torch.Tensor) -> torch.Tensor:
        """Noise of many short items on the host, in groups."""
        for group, numbers in short_groups(self.keys(draw), count):
            out[group].copy_(torch.from_numpy(numbers).view(-1, *out.shape[1:]))
        return out

    def streams(self, draw: Draw, count: int) -> list[Stream]:
        """The numbers of one draw on the host, in parts.

        Parameters
        ----------
        draw : Draw
            Where in the run.
        count : int
            Number of numbers in an item.

        Returns
        -------
        for each item a function ``stream(first, out)``. It fills a contiguous one-dimensional float32 array with the
        numbers from ``first`` on, a multiple of 65536; the array has at most that length, and may end anywhere
        """
        return draw_streams(self.seeds, draw, count)

    def slice_on(self, device: torch.device, draw: Draw, count: int, first: int, width: int) -> torch.Tensor:
        """A slice of each item's numbers, made on a device, before any limit; float32, shape (items, width).

        Parameters
        ----------
        device : device
            Device of the result.
        draw : Draw
            Where in the run.
        count : int
            Number of numbers in an item.
        first, width : int
            Start and length of the slice.
        """
        start = first // CHUNK * CHUNK
        return normals(self.keys(draw), count, device, part=(start, first + width - start))[:, first - start :]

    def keys(self, draw: Draw) -> list[Key]:
        """Keys of all items' streams, for one draw."""
        return draw_keys(self.seeds, draw)


def limited(noise: torch.Tensor, draw: Draw, std: float | torch.Tensor = 1.0) -> torch.Tensor:
    """Noise clipped in place at its draw's limit, in standard deviations."""
    if draw.limit == math.inf:
        return noise
    bound: Any = draw.limit * std
    return noise.clamp_(-bound, bound)


def target(seeds: tuple[int, ...], like: torch.Tensor, out: torch.Tensor | None) -> torch.Tensor:
    """The tensor to fill, checked if it is given."""
    if len(seeds) != len(like):
        raise ValueError(f"noise must have one seed per item; got {len(seeds)} seeds for a batch of {len(like)}")
    if out is None:
        return torch.empty(like.shape, dtype=like.dtype, device=like.device)
    if out.shape != like.shape or out.dtype != like.dtype or out.device != like.device:
        raise ValueError(
            f"out must have the state's shape, dtype and device, {tuple(like.shape)}, {like.dtype}, {like.device}; "
            f"got {tuple(out.shape)}, {out.dtype}, {out.device}"
        )
    return out


def is_host(x: torch.Tensor) -> bool:
    """Whether NumPy can write to a tensor."""
    return x.is_cpu


def fill(out: torch.Tensor, streams: Sequence[Stream]) -> None:
    """Fill a tensor on the host: each item gets the numbers of its stream in row-major order.

    Contiguous float32 tensors are written directly, all others through small copies.
    """
    count = out.numel() // len(streams)
    if out.dtype == torch.float32 and out.is_contiguous():
        fill_items(out.numpy().reshape(-1), streams)
        return
    copy = np.empty(min(count, CHUNK), np.float32)
    for item, stream in zip(out, streams, strict=True):
        for first in range(0, count, CHUNK):
            part = copy[: count - first]
            stream(first, part)
            _spread(torch.from_numpy(part), item, first)


def _spread(numbers: torch.Tensor, item: torch.Tensor, first: int) -> None:
    """Write numbers to an item, starting at element ``first`` in row-major order."""
    if item.is_contiguous():
        item.view(-1)[first : first + len(numbers)].copy_(numbers)
        return
    size = item[0].numel()
    while len(numbers):
        at, before = divmod(first, size)
        if before or len(numbers) < size:  # only part of an element group
            count = min(len(numbers), size - before)
            _spread(numbers[:count], item[at], before)
        else:
            whole = len(numbers) // size
            count = whole * size
            item[at : at + whole].copy_(numbers[:count].view(whole, *item.shape[1:]))
        numbers, first = numbers[count:], first + count


def normals(
    keys: Sequence[Key],
    count: int,
    device: torch.device,
    out: torch.Tensor | None = None,
    part: tuple[int, int] | None = None,
) -> torch.Tensor:
    """`SeededNoise`'s numbers for some items on a device, float32, shape (len(keys), count).

    Parameters
    ----------
    keys : sequence of tuple of int
        Keys of the items' streams.
    count : int
        Number of numbers in an item.
    device : device
        Device of the result.
    out : Tensor or None
        A tensor like the result, to fill and return.
    part : tuple of int or None
        None for all numbers; else (start, length) of a slice, with start a multiple of `CHUNK`.

    Notes
    -----
    Where Triton works, this is one launch for up to eight items. Elsewhere it takes about 370 plain operations for a
    batch of any size, and four times the memory of the result in addition. The bytes are the same: there are only
    integers, a table and additions, so no product could be fused with a sum.
    """
    start, width = part or (0, count)
    if out is None:
        out = torch.empty((len(keys), width), dtype=torch.float32, device=device)
    values, module = table_on(device), available.triton_kernels(device)
    if module is not None:
        module.normals(keys, values, out, count, start // CHUNK)
        return out
    padded, whole = -(-count // LEAST) * LEAST, count // CHUNK * CHUNK
    stop = min(-(-(start + width) // CHUNK) * CHUNK, padded)
    words = words_on(device, keys, (stop - start) // PER_WORD, start // PER_BLOCK)
    numbers = values.index_select(0, lanes(words)).view(len(keys), stop - start)
    for first, end, size in ((start, min(whole, stop), CHUNK), (max(start, whole), stop, padded - whole)):
        if first < end:
            chunks = numbers[:, first - start : end - start].view(len(keys), -1, 4, size // 4)
            a, b, c, d = chunks.unbind(2)
            sum1, sum2, difference1, difference2 = a + c, b + d, b - d, a - c
            mixed = (sum1 + difference1, sum2 + difference2, sum1 - difference1, sum2 - difference2)
            filled = out[:, first - start : end - start]
            filled.copy_(torch.stack(mixed, dim=2).view(len(keys), -1)[:, : filled.shape[1]])
    return out
