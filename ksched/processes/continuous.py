"""Processes trained on a continuous range of noise. States are ``x0 + sigma * eps``, except for `TrigFlow`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ksched.processes.base import Level, Process, check_positive
from ksched.types import Array, set_fields

__all__ = ["EDM", "VE", "AngleV", "Cascade", "FlowVE", "TrigFlow"]


#: angles above this are read as pi / 2, which pipelines write with five digits
_RIGHT_ANGLE = 1.5707


def _check_range(sigma_min: float, sigma_max: float) -> None:
    if not (0 < sigma_min < sigma_max < math.inf):
        raise ValueError(f"sigma_min must be > 0 and < sigma_max; got sigma_min={sigma_min}, sigma_max={sigma_max}")


class _LogRange(Process):
    """A process trained on a continuous range. Its table is 1000 sigmas evenly spaced in log sigma, as in ComfyUI."""

    def _table_sigmas(self) -> Array:
        return np.geomspace(self.sigma_min, self.sigma_max, 1000)

    def _position(self, sigma: Any, xp: Any) -> Any:
        return xp.log(sigma / self.sigma_min) * (999 / math.log(self.sigma_max / self.sigma_min))

    def _sigma_at_position(self, position: Any, xp: Any) -> Any:
        return self.sigma_min * xp.exp(position * (math.log(self.sigma_max / self.sigma_min) / 999))


@dataclass(frozen=True)
class EDM(_LogRange):
    """The EDM process of Karras et al.: states ``x0 + sigma * eps``, timestep ``log(sigma) / 4``.

    Parameters
    ----------
    sigma_min, sigma_max : float
        Training range, 0 < sigma_min < sigma_max.
    sigma_data : float
        Std of the data, for the network's preconditioning (see `Denoiser`).

    Raises
    ------
    ValueError
        For a range out of order, or sigma_data that is not positive.

    Notes
    -----
    Karras et al. 2022, arXiv:2206.00364, table 1.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        _check_range(self.sigma_min, self.sigma_max)
        check_positive("sigma_data", self.sigma_data)

    @property
    def predictions(self) -> tuple[str, ...]:
        """Noise, a score, v, x0, or EDM's F."""
        return "epsilon", "score", "v_prediction", "sample", "edm"

    def _timestep(self, sigma: Any, xp: Any) -> Any:
        return xp.log(sigma) / 4

    def _sigma(self, timestep: Any, xp: Any) -> Any:
        return xp.exp(4 * timestep)

    def input_norm(self, sigma: Any) -> Any:
        """``sqrt(sigma_data ** 2 + sigma ** 2)``."""
        return (self.sigma_data**2 + sigma * sigma) ** 0.5


@dataclass(frozen=True)
class AngleV(EDM):
    """A v-prediction process that uses an angle as timestep: ``2 / pi * atan(sigma)`` (Stable Audio).

    Parameters
    ----------
    sigma_min, sigma_max : float
        Training range, 0 < sigma_min < sigma_max.
    sigma_data : float
        Std of the data, for the network's preconditioning.

    Raises
    ------
    ValueError
        For a range out of order, or sigma_data that is not positive.

    Notes
    -----
    Salimans & Ho 2022, arXiv:2202.00512; ComfyUI's "continuous V".
    """

    sigma_min: float = 0.03
    sigma_max: float = 500.0
    sigma_data: float = 1.0

    def _timestep(self, sigma: Any, xp: Any) -> Any:
        return xp.arctan(sigma) * (2 / math.pi)

    def _sigma(self, timestep: Any, xp: Any) -> Any:
        return xp.tan(timestep * (math.pi / 2))


@dataclass(frozen=True)
class FlowVE(_LogRange):
    """Flow matching with states ``x0 + sigma * eps`` and timestep ``sigma / (1 + sigma)`` (Cosmos).

    The network receives ``x / (1 + sigma)``, which is a `Flow` state at that time.

    Parameters
    ----------
    sigma_min, sigma_max : float
        Training range, 0 < sigma_min < sigma_max.

    Raises
    ------
    ValueError
        For a range out of order.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        _check_range(self.sigma_min, self.sigma_max)

    @property
    def predictions(self) -> tuple[str, ...]:
        """A velocity, of either sign, or x0."""
        return "flow", "velocity_to_data", "sample"

    def _timestep(self, sigma: Any, xp: Any) -> Any:
        return sigma / (1 + sigma)

    def _sigma(self, timestep: Any, xp: Any) -> Any:
        return timestep / (1 - timestep)

    def input_norm(self, sigma: Any) -> Any:
        """``1 + sigma``."""
        return 1 + sigma


@dataclass(frozen=True)
class VE(_LogRange):
    """Variance-exploding (VE) diffusion: states ``x0 + sigma * eps``, with sigma geometric in a time from 0 to 1.

    Parameters
    ----------
    sigma_min, sigma_max : float
        Training range, 0 < sigma_min < sigma_max.

    Raises
    ------
    ValueError
        For a range out of order.

    Notes
    -----
    Song et al. 2021, arXiv:2011.13456, appendix C. The timestep is their continuous time t in [0, 1].
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        _check_range(self.sigma_min, self.sigma_max)

    @property
    def predictions(self) -> tuple[str, ...]:
        """Noise, a score, or x0."""
        return "epsilon", "score", "sample"

    def _timestep(self, sigma: Any, xp: Any) -> Any:
        return xp.log(sigma / self.sigma_min) / math.log(self.sigma_max / self.sigma_min)

    def _sigma(self, timestep: Any, xp: Any) -> Any:
        return self.sigma_min * xp.exp(timestep * math.log(self.sigma_max / self.sigma_min))


@dataclass(frozen=True)
class Cascade(Process):
    """Diffusion on a continuous cosine alpha-bar with shifted log-SNR: states ``x0 + sigma * eps`` (Stable Cascade).

    Time goes from 0 to 1. The shift multiplies sigma; alpha-bar is kept inside [0.0001, 0.9999].

    Parameters
    ----------
    shift : float
        Above 0; Stable Cascade uses 2 for its first stage and 1 for its second.
    num_timesteps : int
        Length of the training table.

    Raises
    ------
    ValueError
        For a shift or table length that is not positive.

    Notes
    -----
    Pernias et al. 2023, arXiv:2306.00637. ComfyUI's map from sigma back to time leaves out the shift; this one does
    not.
    """

    shift: float = 2.0
    num_timesteps: int = 10000
    sigma_min: float = field(init=False, repr=False, compare=False)
    sigma_max: float = field(init=False, repr=False, compare=False)
    _offset: ClassVar[float] = 0.008

    def __post_init__(self) -> None:
        check_positive("shift", self.shift)
        check_positive("num_timesteps", self.num_timesteps)
        set_fields(self, sigma_min=float(self.sigmas[0]), sigma_max=float(self.sigmas[-1]))

    @property
    def predictions(self) -> tuple[str, ...]:
        """Noise, a score, v or x0."""
        return "epsilon", "score", "v_prediction", "sample"

    def _table_sigmas(self) -> Array:
        return self.sigma(np.arange(1, self.num_timesteps + 1) / self.num_timesteps)

    @property
    def _start(self) -> float:
        """alpha-bar before it is scaled to 1 at time 0."""
        return math.cos(self._offset / (1 + self._offset) * math.pi / 2) ** 2

    def _timestep(self, sigma: Any, xp: Any) -> Any:
        alpha_bar = 1 / (1 + (sigma / self.shift) ** 2)
        angle = xp.arccos((alpha_bar * self._start) ** 0.5)
        return angle / (math.pi / 2) * (1 + self._offset) - self._offset

    def _sigma(self, timestep: Any, xp: Any) -> Any:
        alpha_bar = xp.cos((timestep + self._offset) / (1 + self._offset) * (math.pi / 2)) ** 2 / self._start
        ends = [(1 / kept - 1) ** 0.5 for kept in (0.9999, 0.0001)]
        return xp.clip(self.shift * (1 / xp.clip(alpha_bar, 1e-30, 1.0) - 1) ** 0.5, *ends)

    def _position(self, sigma: Any, xp: Any) -> Any:
        return self._timestep(sigma, xp) * self.num_timesteps - 1

    def _sigma_at_position(self, position: Any, xp: Any) -> Any:
        return self._sigma((position + 1) / self.num_timesteps, xp)

    def _sigma_after(self, share: float) -> float:
        return self.sigma(1 - share)

    def input_norm(self, sigma: Any) -> Any:
        """``sqrt(1 + sigma ** 2)``."""
        return (1 + sigma * sigma) ** 0.5


@dataclass(frozen=True)
class TrigFlow(_LogRange):
    """States ``cos(t) * x0 + sin(t) * sigma_data * eps`` for an angle t, the network's timestep; sigma is ``tan(t)``.

    This is the process of sCM. Its sampler is `lcm`: the network predicts t = 0, and fresh noise is added.

    Parameters
    ----------
    noise_scale : float
        ``sigma_data``, std of the data and of the noise.
    sigma_min, sigma_max : float
        Range for schedules; sigma_max is where the paper starts, ``atan(80 / 0.5)``.
    noise_angle : float
        Angle that the network receives for pure noise: pi / 2, which SANA-Sprint rounds to 1.57080.

    Raises
    ------
    ValueError
        For a range out of order, noise_scale that is not positive, or noise_angle that is not pi / 2.

    Notes
    -----
    The paper's network F receives x over ``sigma_data`` and predicts v in units of the data: ``Denoiser(lambda x, t:
    sigma_data * F(x / sigma_data, t), TrigFlow(sigma_data), "v_prediction")``. Angles equal to pi / 2 to five digits,
    such as SANA-Sprint's 1.57080, count as pi / 2, where sigma is infinite. To get the levels of a list of angles:
    ``few_step([1.5708, 1.3], process=TrigFlow())``.

    Lu & Song 2024, arXiv:2410.11081.

    Examples
    --------
    >>> import ksched
    >>> process = ksched.TrigFlow()
    >>> process.sigma([1.1, 0.6]).round(4), round(process.timestep(80 / 0.5), 5)
    (array([1.9648, 0.6841]), 1.56455)
    """

    noise_scale: float = 0.5
    sigma_min: float = 0.004
    sigma_max: float = 160.0
    noise_angle: float = math.pi / 2
    variance_preserving = True

    def __post_init__(self) -> None:
        _check_range(self.sigma_min, self.sigma_max)
        check_positive("noise_scale", self.noise_scale)
        if not abs(self.noise_angle - math.pi / 2) < math.pi / 2 - _RIGHT_ANGLE:
            raise ValueError(
                f"noise_angle must be pi / 2 to within {math.pi / 2 - _RIGHT_ANGLE:.1g}; got {self.noise_angle}. "
                "Angles of other levels come from their sigmas"
            )

    @property
    def sigma_limit(self) -> float:
        """Infinite: an angle of pi / 2 is pure noise."""
        return math.inf

    def _timestep(self, sigma: Any, xp: Any) -> Any:
        return xp.where(sigma < math.inf, xp.arctan(sigma), self.noise_angle)

    def _sigma(self, timestep: Any, xp: Any) -> Any:
        return xp.where(timestep > _RIGHT_ANGLE, math.inf, xp.tan(timestep))

    def _alpha(self, sigma: Any, xp: Any) -> Any:
        return (1 + sigma * sigma) ** -0.5  # the cosine of the angle

    def _noise_std(self, sigma: Any, xp: Any) -> Any:
        sine = xp.where(sigma < 1e8, sigma * self._alpha(xp.clip(sigma, 0, 1e8), xp), 1.0)
        return sine * self.noise_scale

    def input_norm(self, sigma: Any) -> Any:
        """1: its networks receive states unscaled."""
        return self.alpha(sigma) * 0 + 1

    def level(self, sigma: float) -> Level:
        """The level at a contract sigma, which may be infinite."""
        if math.isinf(sigma):
            return Level(sigma, 0.0, 1.0, -math.inf)
        alpha = (1 + sigma * sigma) ** -0.5
        return Level(sigma, alpha, sigma * alpha, math.inf if sigma == 0 else -math.log(sigma))
