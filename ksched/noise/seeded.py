"""Independent noise for every draw as tensors, and the ways of a stream's numbers into a tensor."""

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
    """Independent noise for every (item seed, draw).

    Attributes
    ----------
    seeds : one per item of the batch

    Notes
    -----
    *Rule.* A hash of the draw, keyed by the item's seed, is the key of a stream of random words, and each word is four
    indices of 16 bits into a table of rows of four numbers. An item's numbers are made in chunks of 65536; the last one
    has the least multiple of 256 that holds the rest. The four quarters a, b, c, d of the numbers that a chunk looks up
    become (a + c) + (b - d), (b + d) + (a - c), (a + c) - (b - d) and (b + d) - (a - c), and the item takes them in
    row-major order. In row r of the table, column j is quantile number ``((2 r + 1) g_j mod 131072) // 2`` of 65536 of
    the normal law, of variance 1/4, with g = (1, 13723, 35237, 36737).

    *Law.* A number is the sum of four independent ones. Its distribution function is that of the normal law within
    1.5e-7, its variance 1 + 5e-10, its kurtosis 3 - 2.6e-5, its sixth moment 15 - 6.9e-4. The largest number is 8.80;
    of the numbers that should be beyond 5, 6 and 7 there are 0.988, 0.93 and 0.73. Sixteen come from the same four
    rows. Those of one column are uncorrelated, and their squares correlate by -1.3e-5; those of two columns correlate
    by at most 1.5e-4, their squares by 5.2e-5, their joint distribution function is that of independent normals within
    1.2e-5, no joint cumulant of order 4 is above 7.4e-4, and means of odd order are 0. All other numbers are
    independent.
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
        out = target(self.seeds, like, out)
        return limited(self._filled(draw, out), draw) if out.numel() else out

    def _filled(self, draw: Draw, out: torch.Tensor) -> torch.Tensor:
        """The tensor with the numbers of a draw in it, before any limit."""
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
        """Noise of many short items on the host, a group of them at a time."""
        for group, numbers in short_groups(self.keys(draw), count):
            out[group].copy_(torch.from_numpy(numbers).view(-1, *out.shape[1:]))
        return out

    def streams(self, draw: Draw, count: int) -> list[Stream]:
        """The numbers of one draw for whoever wants them on the host and part by part.

        Parameters
        ----------
        draw : where in the run
        count : how many numbers an item has

        Returns
        -------
        for each item ``stream(first, out)``, which fills a contiguous float32 array of one axis with the numbers behind
        the first so many, a multiple of 65536; the array is no longer than that, and may end anywhere
        """
        return draw_streams(self.seeds, draw, count)

    def slice_on(self, device: torch.device, draw: Draw, count: int, first: int, width: int) -> torch.Tensor:
        """A part of the numbers of every item on a device, before any limit; float32, shape (items, width).

        Parameters
        ----------
        device : of the result
        draw : where in the run
        count : how many numbers an item has
        first, width : how many of them come before the part, and how many are in it
        """
        start = first // CHUNK * CHUNK
        return normals(self.keys(draw), count, device, part=(start, first + width - start))[:, first - start :]

    def keys(self, draw: Draw) -> list[Key]:
        """Of the stream of each item, for one draw."""
        return draw_keys(self.seeds, draw)


def limited(noise: torch.Tensor, draw: Draw, std: float | torch.Tensor = 1.0) -> torch.Tensor:
    """Noise with what is beyond the limit of its draw, in standard deviations, set to that: in place."""
    if draw.limit == math.inf:
        return noise
    bound: Any = draw.limit * std
    return noise.clamp_(-bound, bound)


def target(seeds: tuple[int, ...], like: torch.Tensor, out: torch.Tensor | None) -> torch.Tensor:
    """The tensor to be filled, checked if it is given."""
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


def is_host(x: torch.Tensor) -> bool:
    """Whether numpy can write to a tensor."""
    return x.is_cpu


def fill(out: torch.Tensor, streams: Sequence[Stream]) -> None:
    """Fill a tensor on the host, each item with the numbers of its stream in row-major order.

    Float32 in that order is written to as it is, all else by way of small copies.
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
    """Write numbers to an item, behind the first so many of its elements in row-major order."""
    if item.is_contiguous():
        item.view(-1)[first : first + len(numbers)].copy_(numbers)
        return
    size = item[0].numel()
    while len(numbers):
        at, before = divmod(first, size)
        if before or len(numbers) < size:  # a part of one
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
    """Numbers of some items of `SeededNoise` on a device, float32, shape (len(keys), count).

    Parameters
    ----------
    keys : of the items' streams
    count : how many numbers an item has
    device : of the result
    out : such a tensor to be filled and returned
    part : None is all of them; else how many come before, a multiple of `CHUNK`, and how many there shall be

    Notes
    -----
    One launch for up to eight items where Triton works. Elsewhere some 370 plain operations for the whole batch,
    whatever its size, with four times the memory of the result beside it. The bytes are the same: integers, a table and
    additions only, so there is no product that could be contracted with a sum.
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
