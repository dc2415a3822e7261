"""The handwritten-digits network with guidance, as a test problem that solvers are fitted to and tested on."""

from __future__ import annotations

import math
from functools import cached_property

import torch
from digits_in_few_calls import SHAPE, TUNE_BATCH, guided
from digits_recognised import FOLDER, SCALE, Checkpoint, asked_for
from free_rows import SECOND_SEED, start_noise

from ksched.processes import Process
from ksched.tuning.canonical_model import Canonical
from ksched.tuning.fit import Denoise, Problem, exact_ends

STD = 1.02  # std of the network's samples with guidance; real latents have about 0.98
STEPS = 64  # steps of a run that counts as exact


class Digits:
    """The network as a ``Bed`` of ``_learned.py``; item n of a batch uses prompt n."""

    data_std = STD
    shape, batch, items = SHAPE, TUNE_BATCH, 80
    scale = SCALE

    def __init__(self, images: int = 200) -> None:
        self._checkpoint = Checkpoint(FOLDER)
        for parameter in self._checkpoint.denoiser.network.parameters():
            parameter.requires_grad_(False)
        self._images = images
        with torch.no_grad():
            self._model = guided(self._checkpoint, asked_for(TUNE_BATCH)[0])

    @property
    def process(self) -> Process:
        """The network's process."""
        return self._checkpoint.process

    @cached_property
    def canonical(self) -> Canonical:
        """The denoiser in flow coordinates."""
        return Canonical(self._model, self.process, SHAPE, STD, torch.empty(0), TUNE_BATCH)

    @property
    def low(self) -> float:
        """Lowest noise-to-signal ratio of a call, divided by the std of the data."""
        return self.canonical.low

    @property
    def first(self) -> float:
        """Noise-to-signal ratio at the start of runs, divided by the std of the data."""
        return self.canonical.first

    @property
    def denoise(self) -> Denoise:
        """The denoiser in flow coordinates."""
        return self.canonical

    def starts(self, items: int, seed: int) -> torch.Tensor:
        """Draw states of pure noise."""
        generator = torch.Generator().manual_seed(seed)
        return self.canonical.s * torch.randn(items, math.prod(SHAPE), generator=generator, dtype=torch.float64)

    def problem(self, denoise: Denoise, start: torch.Tensor) -> Problem:
        """Solve runs from some states with a fourth-order method."""
        with torch.no_grad():
            ends = exact_ends(denoise, start, self.canonical.s, steps=STEPS, low=self.low, end="denoised")
        return Problem.of(denoise, start, ends)

    @cached_property
    def _test(self) -> Problem:
        half = self._images // 2
        noise = torch.cat([start_noise(half, 0), start_noise(half, SECOND_SEED)]).flatten(1).double()
        return self.problem(self.denoise, self.canonical.s * noise)

    def test(self) -> Problem:
        """Start noise of two seeds, half of each."""
        return self._test

    def answer(self, x: torch.Tensor, sigma: torch.Tensor) -> object:
        """Answer a call of `tune`."""
        return self._model(x, sigma)
