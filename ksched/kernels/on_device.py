"""Random words, the table of normals and axis maps on a device, in plain operations with the host's bits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, lru_cache

import torch

from ksched.kernels import philox
from ksched.kernels.axis_maps import AxisMap
from ksched.kernels.normal_table import table
from ksched.kernels.philox import Key

__all__ = ["lanes", "map_axis_on", "table_on", "words_on"]


_LOW = 0xFFFFFFFF


def words_on(device: torch.device, keys: Sequence[Key], count: int, block: int = 0) -> torch.Tensor:
    """Words of some streams on a device: int64 with the bits of uint64, shape (len(keys), count).

    In each stream, the words start after ``block`` blocks.

    Nothing synchronises with the device and nothing is copied to it, so a CUDA graph can be captured: the keys arrive
    as scalar arguments. It takes two operations per key, and about 350 for all keys together.
    """
    key = torch.empty((2, len(keys), 1), dtype=torch.int64, device=device)
    for i, pair in enumerate(keys):
        for word, value in zip(key, pair, strict=True):
            word[i].fill_(_signed(value))
    k0, k1 = key
    c0 = torch.arange(1 + block, -(-count // philox.BLOCK) + 1 + block, dtype=torch.int64, device=device)
    c1 = c2 = c3 = torch.zeros_like(c0)
    for i in range(philox.ROUNDS):
        if i:
            k0, k1 = k0 + _signed(philox.BUMPS[0]), k1 + _signed(philox.BUMPS[1])
        (high0, low0), (high1, low1) = _product(c0, philox.MULTIPLIERS[0]), _product(c2, philox.MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
    return torch.stack((c0, c1, c2, c3), dim=-1).reshape(len(keys), -1)[:, :count]


def lanes(random: torch.Tensor) -> torch.Tensor:
    """Four indices below 65536 from each word on a device, lowest bits first; int32, one axis."""
    return (random.contiguous().view(torch.int16).to(torch.int32) & 0xFFFF).reshape(-1)


def _product(x: torch.Tensor, factor: int) -> tuple[torch.Tensor, torch.Tensor]:
    """High and low 64 bits of an unsigned product, computed by halves, because int64 arithmetic drops the high bits."""
    x_low, x_high = x & _LOW, (x >> 32) & _LOW
    low, high = factor & _LOW, factor >> 32
    cross, other = x_high * low, x_low * high
    middle = (((x_low * low) >> 32) & _LOW) + (cross & _LOW) + (other & _LOW)
    return x_high * high + ((cross >> 32) & _LOW) + ((other >> 32) & _LOW) + (middle >> 32), x * _signed(factor)


def _signed(value: int) -> int:
    """The number whose int64 has the bits of an unsigned number."""
    return value - (1 << 64) if value >> 63 else value


@cache
def table_on(device: torch.device) -> torch.Tensor:
    """The table on a device, uploaded once."""
    values = torch.tensor(table(), device="cpu")
    if device.type != "cuda":
        return values.to(device)
    if torch.cuda.is_current_stream_capturing():
        raise RuntimeError("the first noise on a device uploads its table: draw once before you capture a graph")
    # upload on a separate stream and wait there: other streams are not delayed, and each may use the table from now on
    with torch.cuda.stream(torch.cuda.Stream(device)):  # type: ignore[no-untyped-call]  # torch's stub
        result = values.to(device, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]  # torch's stub
        arrived.record()
    arrived.synchronize()
    return result


def map_axis_on(mapping: AxisMap, tensor: torch.Tensor, axis: int) -> torch.Tensor:
    """A tensor mapped along an axis, in its own dtype: the same bits as `ksched.kernels.axis_maps.map_axis`."""
    indices, weights = _taps_on(mapping, tensor.device, tensor.dtype)
    size = [1] * tensor.ndim
    size[axis] = -1
    parts = [
        tensor.index_select(axis, places) * weight.view(size) for places, weight in zip(indices, weights, strict=True)
    ]
    result: torch.Tensor = parts[0]
    for part in parts[1:]:
        result = result + part
    return result


@lru_cache(maxsize=256)
def _taps_on(mapping: AxisMap, device: torch.device, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """A map's numbers on a device, in a dtype; uploaded once, before any graph is captured."""
    indices = torch.tensor(mapping.indices.tolist(), dtype=torch.int64, device="cpu")
    weights = torch.tensor(mapping.weights.tolist(), dtype=dtype, device="cpu")
    return indices.to(device, non_blocking=True), weights.to(device, non_blocking=True)
