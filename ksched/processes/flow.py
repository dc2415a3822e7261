"""Flow matching on straight paths (rectified flow)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, cast

import numpy as np

from ksched.processes.base import Level, Process, check_positive
from ksched.types import Array, set_fields

__all__ = ["Flow"]


@dataclass(frozen=True, repr=False)
class Flow(Process):
    """Flow matching on straight paths (rectified flow): states ``(1 - sigma) * x0 + sigma * eps``, sigma from 0 to 1.

    With a ``noise_scale``, states are ``(1 - sigma) * x0 + sigma * noise_scale * eps``.

    The network's timestep is ``timestep_scale * sigma``, with any shift: sigma is the noise level that it receives.
    With ``reverse_time`` it is ``timestep_scale * (1 - sigma)``, a time that runs from noise at 0 to data. The shift
    bends the process's own time u, in which spacing rules are even: ``sigma = shift * u / (1 + (shift - 1) * u)``.

    Parameters
    ----------
    shift : float
        Above 0; 1 leaves time unchanged, larger values spend more steps at high noise (SD3 uses 3; Flux's mu is
        log(shift)).
    num_timesteps : int
        Length of the training table; its smallest sigma is that of u = 1 / num_timesteps.
    timestep_scale : float
        The timestep at sigma 1, or at sigma 0 with ``reverse_time``; None means 1000, as for most networks, and 1 with
        ``reverse_time``.
    noise_scale : float
        Above 0, std of the noise (about 8 for HiDream-O1, which denoises pixels). It does not change levels or
        timesteps; start noise and every draw of a sampler are multiplied by it.
    reverse_time : bool
        The network's time runs from noise to data, as in Meta's flow_matching, torchcfm and GR00T. Sigma is still the
        noise level. Most of these networks predict "velocity_to_data" (see `Denoiser`).

    Raises
    ------
    ValueError
        For a shift, table length or scale that is not positive.

    Notes
    -----
    A state with a noise scale is ``noise_scale`` times a state without one, of data divided by it. A sampler's
    deterministic coefficients therefore do not depend on it, and its error is that on data of the divided size.
    Liu et al. 2022, arXiv:2209.03003; Lipman et al. 2022, arXiv:2210.02747; shift: Esser et al. 2024, arXiv:2403.03206.
    """

    shift: float = 1.0
    num_timesteps: int = 1000
    timestep_scale: float = field(default=cast(float, None))  # a number after __post_init__
    noise_scale: float = field(default=1.0, kw_only=True)
    reverse_time: bool = field(default=False, kw_only=True)
    sigma_min: float = field(init=False, repr=False, compare=False)
    sigma_max: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_positive("shift", self.shift)
        check_positive("num_timesteps", self.num_timesteps)
        if self.timestep_scale is None:
            set_fields(self, timestep_scale=1.0 if self.reverse_time else 1000.0)
        check_positive("timestep_scale", self.timestep_scale)
        check_positive("noise_scale", self.noise_scale)
        set_fields(self, sigma_min=float(self._sigma_at(1 / self.num_timesteps, np)), sigma_max=1.0)

    @classmethod
    def of_mu(
        cls,
        mu: float = 1.15,
        *,
        num_timesteps: int = 10000,
        timestep_scale: float = 1.0,
        noise_scale: float = 1.0,
        reverse_time: bool = False,
    ) -> Flow:
        """Flow with shift ``exp(mu)``, in Flux's notation; see `mu_for_tokens` for the mu of a resolution."""
        return cls(math.exp(mu), num_timesteps, timestep_scale, noise_scale=noise_scale, reverse_time=reverse_time)

    is_flow: ClassVar[bool] = True

    @property
    def sigma_limit(self) -> float:
        """1: pure noise."""
        return 1.0

    @property
    def predictions(self) -> tuple[str, ...]:
        """A velocity, of either sign, or x0."""
        return "flow", "velocity_to_data", "sample"

    def _table_sigmas(self) -> Array:
        return self.sigma_at(np.arange(1, self.num_timesteps + 1) / self.num_timesteps)

    def _timestep(self, sigma: Any, xp: Any) -> Any:
        return self.timestep_scale * (1 - sigma if self.reverse_time else sigma)

    def _sigma(self, timestep: Any, xp: Any) -> Any:
        share = timestep / self.timestep_scale
        return 1 - share if self.reverse_time else share

    def _time(self, sigma: Any, xp: Any) -> Any:
        return sigma / (self.shift - (self.shift - 1) * sigma)

    def _sigma_at(self, time: Any, xp: Any) -> Any:
        return self.shift * time / (1 + (self.shift - 1) * time)

    def _position(self, sigma: Any, xp: Any) -> Any:
        return self._time(sigma, xp) * self.num_timesteps - 1

    def _sigma_at_position(self, position: Any, xp: Any) -> Any:
        return self._sigma_at((position + 1) / self.num_timesteps, xp)

    def _sigma_after(self, share: float) -> float:
        return self.sigma_at(1 - share)

    def _alpha(self, sigma: Any, xp: Any) -> Any:
        return 1 - sigma

    def _noise_std(self, sigma: Any, xp: Any) -> Any:
        return sigma if self.noise_scale == 1 else sigma * self.noise_scale

    def input_norm(self, sigma: Any) -> Any:
        """1."""
        return sigma * 0 + 1

    def level(self, sigma: float) -> Level:
        """The level at a contract sigma in [0, 1]; above 1, where only other programs' churn goes, alpha is below 0."""
        lam = math.inf if sigma == 0 else -math.inf if sigma >= 1 else math.log1p(-sigma) - math.log(sigma)
        return Level(sigma, 1 - sigma, sigma, lam)

    def level_at(self, lam: float) -> Level:
        """The level with half log-SNR ``lam``."""
        sigma = 1 / (1 + math.exp(lam))
        return Level(sigma, 1 / (1 + math.exp(-lam)), sigma, lam)

    def __repr__(self) -> str:
        plain = {"noise_scale": 1.0, "reverse_time": False}  # defaults that repr leaves out
        shown = [f.name for f in fields(self) if f.repr and getattr(self, f.name) != plain.get(f.name)]
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"
