"""Correlated noise, chosen by name, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch

from ksched.kernels.on_device import map_axis_on
from ksched.noise.brownian import BrownianNoise
from ksched.noise.kinds import Correlated, Library, correlated_numbers, drawn
from ksched.noise.seeded import SeededNoise, is_host, limited, target
from ksched.plan.rows import Draw
from ksched.types import Array

__all__ = ["CorrelatedNoise"]


@dataclass(frozen=True)
class CorrelatedNoise:
    """Noise of a kind for each (item seed, draw), made from white noise of the same seeds.

    Attributes
    ----------
    kind : Correlated
        The kind of noise.
    base : SeededNoise or BrownianNoise
        Makes the white noise.
    """

    kind: Correlated
    base: SeededNoise | BrownianNoise

    def __call__(self, draw: Draw, like: torch.Tensor, *, out: torch.Tensor | None = None) -> torch.Tensor:
        """Noise of one draw for the whole batch; arguments and errors are those of `SeededNoise`."""
        out = target(self.base.seeds, like, out)
        if not out.numel():
            return out
        if is_host(out):
            return out.copy_(torch.from_numpy(correlated_numbers(self.kind, draw, out.shape, self._white_on_host)))

        def white(own: Draw, shape: tuple[int, ...]) -> torch.Tensor:
            return self.base(own, torch.empty(shape, dtype=torch.float32, device=out.device))

        out.copy_(drawn(self.kind, draw, out.shape, white, _TORCH))
        return limited(out, draw, self.kind.std(out.shape))

    def with_seeds(self, seeds: tuple[int, ...]) -> CorrelatedNoise:
        """The same kind of noise, for items with other seeds."""
        if isinstance(self.base, BrownianNoise):
            return replace(self, base=BrownianNoise(seeds, self.base.process))
        return replace(self, base=SeededNoise(seeds))

    def _white_on_host(self, draw: Draw, shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        numbers: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
        numbers = self.base(draw, torch.empty(shape, dtype=torch.float32, device="cpu")).numpy()
        return numbers


def _filtered_on(white: torch.Tensor, gains: Array, axes: Sequence[int]) -> torch.Tensor:
    """Noise with its frequencies scaled, item by item, so that no item depends on the batch size."""
    sizes, inner = [white.shape[axis] for axis in axes], [axis - 1 for axis in axes]
    factors = _gains_on(gains.tobytes(), gains.shape, white.device)
    return torch.stack(
        [torch.fft.irfftn(torch.fft.rfftn(item, dim=inner) * factors, s=sizes, dim=inner) for item in white]
    )


@lru_cache(maxsize=32)
def _gains_on(gains: bytes, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Gains on a device; they are uploaded once, before any graph is captured."""
    values = np.frombuffer(gains).reshape(shape).astype(np.float32)
    return torch.from_numpy(values).to(device, non_blocking=True)


_TORCH = Library(map_axis_on, _filtered_on)
