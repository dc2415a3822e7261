"""Noise objects with k-diffusion's interface."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch

from ksched.noise.sources import Seed, brownian_sampler

__all__ = ["BatchedBrownianTree", "BrownianTreeNoiseSampler", "NoiseSampler", "global_noise"]


NoiseSampler: TypeAlias = Callable[[Any, Any], torch.Tensor]


# ---------------------------------------------------------------------------------------------------------------- noise
class BatchedBrownianTree:
    """k-diffusion's Brownian paths, one per item, with ksched's noise; an increment's variance is its time span.

    Parameters
    ----------
    x : Tensor
        Tensor with the shape, dtype and device of the increments, batch first.
    t0, t1 : object
        Ends of the time range.
    seed : int, sequence of int or None
        One per item of the batch; or one whole number, and then item i uses ``seed + i``; None takes one from torch's
        global generator.
    kwargs : object
        Arguments of torchsde's class; accepted and ignored.

    Raises
    ------
    TypeError, ValueError
        As for `ksched.noise.item_seeds`.

    Notes
    -----
    The numbers differ from torchsde's. The ends of an interval are rounded to 3 % of the path's time (see
    `ksched.noise.BrownianNoise`), so consecutive increments sum to the whole one only approximately.
    """

    def __init__(self, x: torch.Tensor, t0: Any, t1: Any, seed: Seed | None = None, **kwargs: Any) -> None:
        self._start = min(0.0, float(t0), float(t1))
        _, _, self.sign = self.sort(float(t0), float(t1))
        self.batched = not (seed is None or isinstance(seed, int))
        if seed is None:
            seed = int(torch.randint(0, 2**63 - 1, []))
        self._path = brownian_sampler(x, seed)

    @staticmethod
    def sort(a: Any, b: Any) -> tuple[Any, Any, int]:
        """Two times in order, and the sign of the direction between them."""
        return (a, b, 1) if a < b else (b, a, -1)

    def unit(self, t0: Any, t1: Any) -> torch.Tensor:
        """An increment divided by the square root of its time, with unit variance."""
        start, end, sign = self.sort(float(t0) - self._start, float(t1) - self._start)
        # The path of `brownian_sampler` runs in 1 / sigma ** 2, which is set to the time of this one.
        low, high = (time**-0.5 if time > 0 else math.inf for time in (start, end))
        return self._path(low, high).mul_(self.sign * sign)

    def __call__(self, t0: Any, t1: Any) -> torch.Tensor:
        """The increment between two times."""
        return self.unit(t0, t1).mul_(abs(float(t1) - float(t0)) ** 0.5)


class BrownianTreeNoiseSampler:
    """k-diffusion's noise sampler with ksched's noise: unit-variance increments of a Brownian path.

    Parameters
    ----------
    x : Tensor
        Tensor with the shape, dtype and device of the noise, batch first.
    sigma_min, sigma_max : object
        Ends of the range.
    seed : int, sequence of int or None
        One per item of the batch; or one whole number, and then item i uses ``seed + i``; None takes one from torch's
        global generator.
    transform : callable
        Function from sigma, a tensor, to the path's time.
    cpu : bool
        Accepted for compatibility with ComfyUI's class; the noise is the same on every device.

    Raises
    ------
    TypeError, ValueError
        As for `ksched.noise.item_seeds`.

    Notes
    -----
    torchsde is not needed, and the numbers differ from its. As there, overlapping intervals share one path, and
    reversing an interval negates its noise. The ends of an interval are rounded to 3 % of the path's time (see
    `ksched.noise.BrownianNoise`).
    """

    def __init__(
        self,
        x: torch.Tensor,
        sigma_min: Any,
        sigma_max: Any,
        seed: Seed | None = None,
        transform: Callable[[Any], Any] = lambda x: x,
        cpu: bool = False,
    ) -> None:
        self.transform = transform
        self.cpu = cpu
        self.tree = BatchedBrownianTree(x, self._time(sigma_min), self._time(sigma_max), seed)

    def _time(self, sigma: Any) -> float:
        return float(self.transform(torch.as_tensor(sigma)))

    def __call__(self, sigma: Any, sigma_next: Any) -> torch.Tensor:
        """Noise of the interval between two sigmas."""
        return self.tree.unit(self._time(sigma), self._time(sigma_next))


def _randn_like(x: torch.Tensor) -> torch.Tensor:
    """``torch.randn_like`` as k-diffusion sees it; host programs may replace it to use one seed per image."""
    source = getattr(sys.modules.get("k_diffusion.sampling"), "torch", torch)
    noise: torch.Tensor = source.randn_like(x)
    return noise


def global_noise(x: torch.Tensor, each_of: Sequence[float] | None) -> Callable[[float, float], torch.Tensor]:
    """Noise from torch's global generator.

    ``each_of`` are the sigmas of a run if k-diffusion's sampler draws before each step, whether or not it uses the
    noise.
    """
    drawn = 0

    def noise(sigma_from: float, sigma_to: float) -> torch.Tensor:
        nonlocal drawn
        while each_of is not None and drawn < each_of.index(sigma_from):
            _randn_like(x)
            drawn += 1
        drawn += 1
        return _randn_like(x)

    return noise
