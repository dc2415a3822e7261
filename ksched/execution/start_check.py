"""Whether the start of a run can be what the sampler takes it for."""

from __future__ import annotations

import math
import warnings

import torch

from ksched.processes import Level, Process

__all__ = ["StartCheck"]

_LEAST = 256  # a start of fewer numbers is not judged
_LARGEST = torch.finfo(torch.float32).max  # states are held in float32 at least
_LOOKED_AT = 64  # numbers of a start, whose spread tells that it is none: it is known within a tenth or so


class StartCheck:
    """Warns of a start that should be noise almost alone and is far too small or too large.

    Parameters
    ----------
    process : of the run
    level : where it starts
    """

    def __init__(self, process: Process, level: Level) -> None:
        self.sigma = level.label
        std = float(process.noise_std(level.label))
        hidden = level.alpha == 0 or std >= 5 * level.alpha * process.sigma_data
        self.std = std if hidden else 0.0  # 0 where data shows: its spread is nobody's business

    def check_dtype(self, dtype: torch.dtype) -> None:
        """Raise if a state cannot hold the level."""
        if _LARGEST < self.sigma < math.inf and dtype != torch.float64:
            raise ValueError(
                f"sigmas must be numbers that the state's dtype can hold; got {self.sigma:g} for {dtype}: take "
                "float64, or smaller ones"
            )

    def judges(self, x: object) -> bool:
        """Whether a start is looked at: a tensor on the processor, large enough, where noise hides the data."""
        return bool(self.std) and isinstance(x, torch.Tensor) and x.is_cpu and x.numel() >= _LEAST

    def __call__(self, x: torch.Tensor) -> None:
        """Warn if a state that a run holds has another spread by more than a factor of 3."""
        # A run holds its states without gaps, so numbers at equal distances in memory are from all over it. As a list,
        # since torch has nothing to read back for that, and nothing else takes less time.
        values = x.as_strided((_LOOKED_AT,), (x.numel() // _LOOKED_AT,)).tolist()
        spread = math.hypot(*values) / math.sqrt(_LOOKED_AT)
        if not 1 / 3 <= spread / self.std <= 3:
            warnings.warn(
                f"the start of a run must be a state at sigma {self.sigma:.6g}, whose spread is about "
                f"{self.std:.4g}; got one of {spread:.4g}. Pure noise for "
                "it is sampler.initial_state(shape, seed=...); an image is noised by process.add_noise(x0, noise, "
                "sigmas[0]).",
                RuntimeWarning,
                stacklevel=2,
            )
