"""Noise as k-diffusion's programs pass it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch

from ksched.noise.sources import Seed, brownian_sampler

__all__ = ["BrownianTreeNoiseSampler", "NoiseSampler", "global_noise"]


NoiseSampler: TypeAlias = Callable[[Any, Any], torch.Tensor]


# ---------------------------------------------------------------------------------------------------------------- noise
class BrownianTreeNoiseSampler:
    """k-diffusion's noise sampler, unit-variance increments of a Brownian path, on ksched's noise.

    Parameters
    ----------
    x : tensor of the shape, dtype and device that the noise shall have, batch first
    sigma_min, sigma_max : ends of the range
    seed : one per item of the batch; or one whole number, of which item i takes ``seed + i``; None takes one from
        torch's global generator
    transform : from sigma, a tensor, to the time that the path runs in
    cpu : taken for the sake of ComfyUI's class; the noise is the same on every device

    Raises
    ------
    TypeError, ValueError : seeds as for `ksched.noise.item_seeds`

    Notes
    -----
    Needs no torchsde, and gives other numbers than it. As there, noise of overlapping intervals comes from one path,
    and noise of an interval taken backwards is its negative. The ends of an interval are rounded to 3 % of the path's
    time (see `ksched.noise.BrownianNoise`).
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
        ends = [self._time(sigma) for sigma in (sigma_min, sigma_max)]
        self._start = min(0.0, *ends)
        self._sign = 1 if ends[0] < ends[1] else -1
        if seed is None:
            seed = int(torch.randint(0, 2**63 - 1, []))
        self._path = brownian_sampler(x, seed)

    def _time(self, sigma: Any) -> float:
        return float(self.transform(torch.as_tensor(sigma)))

    def __call__(self, sigma: Any, sigma_next: Any) -> torch.Tensor:
        """Noise of the interval between two sigmas."""
        start, end = (self._time(value) - self._start for value in (sigma, sigma_next))
        sign = self._sign if start < end else -self._sign
        # The path of `brownian_sampler` runs in 1 / sigma ** 2, which is thus made the time of this one.
        low, high = (time**-0.5 if time > 0 else math.inf for time in sorted((start, end)))
        return self._path(low, high).mul_(sign)


def _randn_like(x: torch.Tensor) -> torch.Tensor:
    """What ``torch.randn_like`` is to k-diffusion: its hosts put another in its place, with a seed for every image."""
    source = getattr(sys.modules.get("k_diffusion.sampling"), "torch", torch)
    noise: torch.Tensor = source.randn_like(x)
    return noise


def global_noise(x: torch.Tensor, each_of: Sequence[float] | None) -> Callable[[float, float], torch.Tensor]:
    """Noise of torch's global generator.

    ``each_of`` are the levels of a run whose sampler, in k-diffusion, draws before each step whether it uses it or not.
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
