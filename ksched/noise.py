"""Noise as a value: each draw is a function of the item's seed and of where in the run it acts, and of nothing else.

So it does not depend on batch size or order, on the device, on how often anybody asked before, or on where a run was
split; the global random state is neither read nor moved.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol, SupportsIndex, TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch

from ksched.plan import Draw

__all__ = ["CallableNoise", "NoiseSource", "Seed", "SeededNoise", "item_seeds"]

#: One whole number, or one per item of the batch.
Seed: TypeAlias = SupportsIndex | Sequence[SupportsIndex] | npt.NDArray[np.integer[Any]]

#: Names the rule from (seed, draw) to numbers. A new rule gets a new name; an old one never changes.
SCHEME = b"ksched noise 1"


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
