"""A check that the start of a run can be a state at its first level."""

from __future__ import annotations

import math
import warnings

import torch

from ksched.processes import Level, Process

__all__ = ["StartCheck"]

_LEAST = 256  # starts with fewer numbers are not checked
_LARGEST = torch.finfo(torch.float32).max  # states are held in at least float32
_LOOKED_AT = 64  # sample size for the spread of a start, which is then known within about a tenth


class StartCheck:
    """Warns about a start that should be almost pure noise but is far too small or too large.

    Parameters
    ----------
    process : Process
        Process of the run.
    level : Level
        Level of its start.
    """

    def __init__(self, process: Process, level: Level) -> None:
        self.sigma = level.label
        std = float(process.noise_std(level.label))
        hidden = level.alpha == 0 or std >= 5 * level.alpha * process.sigma_data
        self.std = std if hidden else 0.0  # 0 where data shows, because its spread is unknown

    def check_dtype(self, dtype: torch.dtype) -> None:
        """Raise if a dtype cannot hold the level."""
        if _LARGEST < self.sigma < math.inf and dtype != torch.float64:
            raise ValueError(
                f"sigmas must be numbers that the state's dtype can hold; got {self.sigma:g} for {dtype}: use "
                "float64, or smaller sigmas"
            )

    def judges(self, x: object) -> bool:
        """Whether a start is checked: a tensor on the CPU, large enough, at a level where noise hides the data."""
        return bool(self.std) and isinstance(x, torch.Tensor) and x.is_cpu and x.numel() >= _LEAST

    def __call__(self, x: torch.Tensor) -> None:
        """Warn if the spread of a run's state is off by more than a factor of 3."""
        # A run holds its states without gaps, so equally spaced numbers in memory are a sample of the whole. A list is
        # fastest, because torch then has nothing to read back.
        values = x.as_strided((_LOOKED_AT,), (x.numel() // _LOOKED_AT,)).tolist()
        spread = math.hypot(*values) / math.sqrt(_LOOKED_AT)
        if not 1 / 3 <= spread / self.std <= 3:
            warnings.warn(
                f"the start of a run must be a state at sigma {self.sigma:.6g}, whose spread is about "
                f"{self.std:.4g}; got a spread of {spread:.4g}. To start from noise, use "
                "sampler.initial_state(shape, seed=...); to start from an image, use process.add_noise(x0, noise, "
                "sigmas[0]).",
                RuntimeWarning,
                stacklevel=2,
            )
