"""Noise for the steps of a `KSchedScheduler`."""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor

from ksched.processes import Level

__all__ = ["StepNoise", "learned_std"]


class StepNoise:
    """Noise as diffusers draws it: from the current step's generator, with the network output's dtype and device."""

    def __init__(self) -> None:
        self._generator: Any = None
        self._like: torch.Tensor | None = None
        self._drawn: torch.Tensor | None = None

    def take(self, generator: Any, like: torch.Tensor, given: torch.Tensor | None = None) -> None:
        """Set the generator to draw from, or the given noise to use instead."""
        self._generator, self._like, self._drawn = generator, like, given

    def release(self) -> None:
        """Forget everything about the step."""
        self._generator = self._like = self._drawn = None

    def new(self) -> torch.Tensor:
        """Newly drawn noise."""
        like = self._like
        assert like is not None
        noise: torch.Tensor = randn_tensor(
            tuple(like.shape), generator=self._generator, device=like.device, dtype=like.dtype
        )
        return noise

    def draw_ahead(self, dropped: int, also: bool) -> None:
        """Draw and discard some noise, then draw the step's if ``also``, whether or not the step uses it."""
        for _ in range(dropped):
            self.new()
        self._drawn = self.new() if also else None

    def between(self, sigma_from: float, sigma_to: float) -> torch.Tensor:
        """Noise of the step, in the form that a run calls."""
        return self.new() if self._drawn is None else self._drawn


def learned_std(variance: torch.Tensor | None, s: Level, t: Level, *, kind: str) -> torch.Tensor:
    """Std of DDPM's noise, from the network's variance (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 15)."""
    if variance is None:
        raise ValueError(f"with variance_type {kind!r} the model must return twice as many channels as the state has")
    beta = 1 - (s.alpha / t.alpha) ** 2
    posterior = max((t.sigma / s.sigma) ** 2 * beta, 1e-20)
    if kind == "learned":
        return variance.sqrt()
    share = (variance.to(torch.float32) + 1) / 2
    return (0.5 * (share * math.log(beta) + (1 - share) * math.log(posterior))).exp()
