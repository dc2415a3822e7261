"""A Gaussian of several parts. Its denoiser is known even if every value has its own noise level.

A linear denoiser makes the whole run linear. So a batch of basis vectors gives the map from starts and noises to
results, and with it the exact distribution of the results, without random samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from ksched import Process

Matrix = np.ndarray[Any, np.dtype[np.float64]]


def gain(covariance: Matrix, process: Process, sigmas: Matrix) -> torch.Tensor:
    """The matrix K with ``E[x0 | x] = K x``, where value number i is at sigma number i."""
    a, s = np.broadcast_to(process.alpha(sigmas), sigmas.shape), process.noise_std(sigmas)
    return torch.from_numpy(covariance * a @ np.linalg.pinv(a[:, None] * covariance * a + np.diag(s**2)))


class Basis:
    """Noises that are basis vectors: every item of the batch follows one number of one draw.

    Parameters
    ----------
    size : values of an item, all parts together
    most : draws there are room for
    """

    def __init__(self, size: int, most: int = 0) -> None:
        self.size, self.items, self.drawn = size, size * (1 + most), 0

    def start(self, first: int, shape: Sequence[int]) -> torch.Tensor:
        """The start of a part whose first value is that number: unit vectors in the first items."""
        x = torch.zeros(self.items, math.prod(shape), dtype=torch.float64)
        x[first : first + x.shape[1]] = torch.eye(x.shape[1], dtype=torch.float64)
        return x.view(self.items, *shape)

    def noise(self, shape: Sequence[int]) -> Callable[[float, float], torch.Tensor]:
        """A noise function of a part: each of its draws has items of its own."""

        def draw(sigma_from: float, sigma_to: float) -> torch.Tensor:
            number, self.drawn = math.prod(shape), self.drawn + 1
            noise = torch.zeros(self.items, number, dtype=torch.float64)
            first = self.size * self.drawn
            noise[first : first + number] = torch.eye(number, dtype=torch.float64)
            return noise.view(self.items, *shape)

        return draw

    def covariance(self, results: torch.Tensor, start: Matrix) -> Matrix:
        """Of the results, for starts of a covariance and noises of variance 1; results of shape (items, size)."""
        rows = results.numpy()
        first, others = rows[: self.size], rows[self.size :]
        found: Matrix = first.T @ start @ first + others.T @ others
        return found


def spd(size: int, seed: int = 0) -> Matrix:
    """A covariance of values that have much to do with each other."""
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((size, size)) / math.sqrt(size) + 0.3
    return root @ root.T + 0.3 * np.eye(size)


def orders(error: Callable[[int], float], steps: Sequence[int]) -> list[float]:
    """What a doubling of the steps gains, as powers of 2."""
    errors = [error(n) for n in steps]
    return [math.log2(one / other) for one, other in pairwise(errors)]
