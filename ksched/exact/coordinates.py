"""Flow coordinates ``y = x / (alpha + std)``, in which all processes become the same.

A state is ``y = a * x0 + s * eps`` with ``s = std / (alpha + std)`` in [0, 1] and ``a = 1 - s``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from ksched.processes import Process

__all__ = ["Level", "Place", "flattened", "here", "level_of", "place_of"]


# Replaces an a or s of 0, per working dtype. Its square is a normal number, and a squared distance divided by that
# square is still finite.
_TINY = {torch.float32: 1e-15, torch.float64: 1e-140}


class Level(NamedTuple):
    """A noise level in flow coordinates; x = scale * y."""

    a: float
    s: float
    scale: float


class Place(NamedTuple):
    """States and levels of a batch in flow coordinates."""

    y: torch.Tensor  # (batch, dimension)
    a: torch.Tensor  # (batch, 1) or (1, 1), like the next two
    s: torch.Tensor
    scale: torch.Tensor

    def divisors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """``a`` and ``s``, kept away from 0."""
        tiny = _TINY[self.y.dtype]
        return self.a.clamp_min(tiny), self.s.clamp_min(tiny)


def here(y: torch.Tensor, s: float) -> Place:
    """The place of float64 states on the host that share one s."""
    return Place(y, y.new_full((1, 1), 1 - s), y.new_full((1, 1), s), y.new_ones((1, 1)))


def level_of(process: Process, sigma: float) -> Level:
    """The level of a contract sigma of a process."""
    alpha, std = process.alpha(sigma), process.noise_std(sigma)
    if not (sigma >= 0 and alpha >= 0 and std >= 0 and alpha + std < math.inf):
        raise ValueError(f"sigma must be a noise level of {process!r}; got {sigma}")
    return Level(alpha / (alpha + std), std / (alpha + std), alpha + std)


def flattened(x: torch.Tensor, dimension: int) -> torch.Tensor:
    """States as (batch, dimension); an error if they have another dimension."""
    if x.ndim < 2 or math.prod(x.shape[1:]) != dimension or not x.is_floating_point():
        raise ValueError(
            f"x must be floating point, of shape (batch, *shape) with prod(shape) = {dimension}; "
            f"got {x.dtype} of shape {tuple(x.shape)}"
        )
    return x.reshape(len(x), dimension)


def place_of(process: Process, flat: torch.Tensor, sigma: float | torch.Tensor) -> Place:
    """The place of states (batch, dimension) at contract sigmas, in float32 unless they are float64."""
    flat = flat if flat.dtype == torch.float64 else flat.float()
    if isinstance(sigma, torch.Tensor):
        if sigma.numel() not in (1, len(flat)):
            raise ValueError(f"sigma must be one number, or one for each of {len(flat)} items; got {sigma.numel()}")
        sigma = sigma.to(flat).reshape(-1, 1)
        alpha, std = process.alpha(sigma), process.noise_std(sigma)
        scale = alpha + std
        return Place(flat / scale, alpha / scale, std / scale, scale)
    a, s, scale = (flat.new_full((1, 1), value) for value in level_of(process, float(sigma)))
    return Place(flat / scale, a, s, scale)
