"""A sampler function run directly on tensors, without a plan."""

from __future__ import annotations

import math
from typing import Any

import torch

from ksched.denoisers.answer import Model, answer
from ksched.execution.adaptive_run import S
from ksched.execution.registers import WRITTEN
from ksched.kernels.torch_internals import writes_to
from ksched.noise.sources import NoiseSource
from ksched.plan.intervals import disjoint, snr
from ksched.plan.rows import Draw
from ksched.processes import Level
from ksched.processes.host_levels import carry

__all__ = ["EagerContext"]


class EagerContext:
    """A sampler context on tensors: the sampler function simply runs.

    It is the oracle of the tests, and useful for debugging: put a breakpoint into the sampler. Nothing is fused or
    freed.

    Parameters
    ----------
    denoiser, x : as for `ksched.Sampler.sample`
    noise : NoiseSource
        Source of unit noise.
    noise_scale : float
        Noise scale of the process; every noise is multiplied by it.
    """

    def __init__(self, denoiser: Model, x: torch.Tensor, noise: NoiseSource, *, noise_scale: float = 1.0) -> None:
        self._denoiser = denoiser
        self._like = x
        self._noise = noise
        self._scale = noise_scale
        self._visit = 0
        self._requests: list[Draw] = []
        self._clock: dict[float, float] = {}
        self._drawn: dict[Draw, torch.Tensor] = {}

    def denoise(self, x: torch.Tensor, level: Level, told: Level | None = None) -> torch.Tensor:
        """The model's x0 prediction."""
        return self._call(x, told or level, both=False)[0]

    def denoise_both(
        self, x: torch.Tensor, level: Level, told: Level | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The prediction and its unconditional twin."""
        return self._call(x, told or level, both=True)

    def noise(self, start: Level, end: Level, stream: int = 0, limit: float = math.inf) -> torch.Tensor:
        """Noise of the interval, in the process's noise scale."""
        self._visit += end.label > start.label
        self._clock |= {level.label: snr(level) for level in (start, end)}
        request = Draw(start.label, end.label, self._visit, stream, limit)
        self._requests = [*(r for r in self._requests if r != request), request]
        parts = disjoint(self._requests, self._clock)[-1]  # as in a plan: inner intervals come first
        for part, _ in parts:
            if part not in self._drawn:
                self._drawn[part] = self._noise(part, self._like)
        total = self._drawn[parts[0][0]] * parts[0][1]
        for part, weight in parts[1:]:
            total = total + self._drawn[part] * weight
        return total * self._scale

    def keep(self, value: torch.Tensor) -> torch.Tensor:
        """The value, unchanged."""
        return value

    def checkpoint(self, state: S) -> S:
        """The state, unchanged."""
        return state

    def _call(self, x: torch.Tensor, level: Level, both: bool) -> tuple[torch.Tensor, Any]:
        sigma = torch.full((x.shape[0],), level.label, dtype=x.dtype, device=x.device)
        carry(sigma, (level.label,) * len(x))
        before = writes_to(x)
        denoised, uncond = answer(self._denoiser, x, sigma, both)
        if writes_to(x) != before:
            raise RuntimeError(WRITTEN)
        return denoised.clone(), None if uncond is None else uncond.clone()
