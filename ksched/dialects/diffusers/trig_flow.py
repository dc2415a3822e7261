"""The process of TrigFlow, on which the networks of SANA-Sprint are trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ksched.processes import Level, Process
from ksched.types import Array

__all__ = ["TrigFlow"]


@dataclass(frozen=True)
class TrigFlow(Process):
    """States ``cos(t) * x0 + sin(t) * sigma_data * eps`` of an angle t, which the network is told; sigma is ``tan(t)``.

    Parameters
    ----------
    noise_scale : ``sigma_data``, std of the data and of the noise
    sigma_min, sigma_max : range of rules for levels; the second is where the paper starts, ``atan(80 / 0.5)``

    Notes
    -----
    Lu & Song 2024, arXiv:2410.11081.
    """

    noise_scale: float = 0.5
    sigma_min: float = 0.004
    sigma_max: float = 160.0
    variance_preserving = True

    @property
    def sigma_limit(self) -> float:
        """Infinity: an angle of pi / 2 is pure noise."""
        return math.inf

    def _table_sigmas(self) -> Array:
        return np.geomspace(self.sigma_min, self.sigma_max, 1000)

    def _timestep(self, sigma: Any, xp: Any) -> Any:
        return xp.arctan(sigma)

    def _sigma(self, timestep: Any, xp: Any) -> Any:
        return xp.tan(timestep)

    def _position(self, sigma: Any, xp: Any) -> Any:
        return xp.log(sigma / self.sigma_min) * (999 / math.log(self.sigma_max / self.sigma_min))

    def _sigma_at_position(self, position: Any, xp: Any) -> Any:
        return self.sigma_min * xp.exp(position * (math.log(self.sigma_max / self.sigma_min) / 999))

    def _alpha(self, sigma: Any, xp: Any) -> Any:
        return xp.cos(xp.arctan(sigma))

    def _noise_std(self, sigma: Any, xp: Any) -> Any:
        return self.noise_scale * xp.sin(xp.arctan(sigma))

    def input_norm(self, sigma: Any) -> Any:
        """1: its pipelines divide by sigma_data themselves."""
        return 1.0 + 0.0 * sigma

    def level(self, sigma: float) -> Level:
        """The level at a contract sigma, the last of which is infinite."""
        if math.isinf(sigma):
            return Level(sigma, 0.0, 1.0, -math.inf)
        alpha = 1 / math.hypot(1.0, sigma)
        return Level(sigma, alpha, sigma * alpha, math.inf if sigma == 0 else -math.log(sigma))
