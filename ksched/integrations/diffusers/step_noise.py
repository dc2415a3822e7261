"""Noise that is drawn for the steps of a `KSchedScheduler`."""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor

from ksched.processes import Level

__all__ = ["StepNoise", "learned_std"]


class StepNoise:
    """Noise as diffusers draws it: from the generator of the present step, like the network's output."""

    def __init__(self) -> None:
        self._generator: Any = None
        self._like: torch.Tensor | None = None
        self._drawn: torch.Tensor | None = None

    def take(self, generator: Any, like: torch.Tensor, given: torch.Tensor | None = None) -> None:
        """Draw from a generator from now on, or have the noise that is given."""
        self._generator, self._like, self._drawn = generator, like, given

    def release(self) -> None:
        """Keep nothing of the step."""
        self._generator = self._like = self._drawn = None

    def new(self) -> torch.Tensor:
        """Noise that nobody had before."""
        like = self._like
        assert like is not None
        noise: torch.Tensor = randn_tensor(
            tuple(like.shape), generator=self._generator, device=like.device, dtype=like.dtype
        )
        return noise

    def draw_ahead(self, dropped: int, also: bool) -> None:
        """Draw some noises that nobody uses, and the step's if that is ``also`` drawn, used or not."""
        for _ in range(dropped):
            self.new()
        self._drawn = self.new() if also else None

    def between(self, sigma_from: float, sigma_to: float) -> torch.Tensor:
        """Noise of the step, as a run asks for it."""
        return self.new() if self._drawn is None else self._drawn


def learned_std(variance: torch.Tensor | None, s: Level, t: Level, *, kind: str) -> torch.Tensor:
    """Std of DDPM's noise, by what the network says of it (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 15)."""
    if variance is None:
        raise ValueError(f"variance_type {kind!r} needs twice as many channels from the model as the state has")
    beta = 1 - (s.alpha / t.alpha) ** 2
    posterior = max((t.sigma / s.sigma) ** 2 * beta, 1e-20)
    if kind == "learned":
        return variance.sqrt()
    share = (variance.to(torch.float32) + 1) / 2
    return (0.5 * (share * math.log(beta) + (1 - share) * math.log(posterior))).exp()
