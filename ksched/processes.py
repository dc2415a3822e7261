"""What a model was trained on: the maps between timestep, sigma and alpha.

A *contract sigma* is k-diffusion's: for VP, VE and EDM models a state is ``x = x0 + sigma * eps``; for flow models it
is ``x = (1 - sigma) * x0 + sigma * eps``. Formulas never assume either: they read ``alpha``, ``sigma`` (the noise std
of the state) and ``lam`` from a `Level`, so the same sampler is right for all of them.
"""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, ClassVar, NamedTuple, TypeVar, cast

import numpy as np

from ksched.types import Array, ArrayLike, Tensor, is_tensor

__all__ = ["EDM", "VE", "VP", "Flow", "Level", "Process", "default_process"]

Value = TypeVar("Value", bound="float | ArrayLike | Tensor")  # a float, an array or a tensor; answered in kind


class Level(NamedTuple):
    """One noise level, in the coordinates the state lives in.

    ``x = alpha * x0 + sigma * eps`` with eps standard normal; ``lam`` = log(alpha / sigma), half the log-SNR (+inf at
    sigma 0, -inf at alpha 0); ``label`` is the contract sigma that the denoiser is called with and that users see.
    """

    label: float
    alpha: float
    sigma: float
    lam: float


def _answer(formula: Callable[[Any, Any], Any], value: Value) -> Value:
    """``formula(value, array library)`` of the same kind as ``value``: float, float64 array or tensor."""
    if is_tensor(value):
        import torch

        return cast(Value, formula(value, torch))
    result = formula(np.asarray(value, dtype=np.float64), np)
    return cast(Value, result if isinstance(value, np.ndarray | list | tuple) else float(result))


class Process(ABC):
    """Base of the processes: what every one of them answers, and what follows from the answers."""

    #: whether spacing rules take whole entries of the training table, as peers do for discrete models
    rounds_time: ClassVar[bool] = False

    @property
    def sigma_limit(self) -> float:
        """Largest contract sigma that a state can hold."""
        return sys.float_info.max

    @property
    @abstractmethod
    def time_unit(self) -> float:
        """Distance between neighbours of `sigmas` in the process's own time."""

    #: smallest and largest contract sigma of training; the largest is the level of start noise
    sigma_min: float
    sigma_max: float

    @cached_property
    def sigmas(self) -> Array:
        """Contract sigmas of the training table (or 1000 of a continuous range), increasing, read-only."""
        table = self._table_sigmas()
        table.setflags(write=False)
        return table

    def timestep(self, sigma: Value) -> Value:
        """What the network is told at contract sigma: exact inverse of `sigma` inside the training range.

        Like all the maps of a process it takes a float, an array or a tensor and answers in kind.
        """
        return _answer(self._timestep, sigma)

    def sigma(self, timestep: Value) -> Value:
        """Contract sigma of what the network calls ``timestep``."""
        return _answer(self._sigma, timestep)

    def time(self, sigma: Value) -> Value:
        """The process's own time, in which spacing rules such as `simple` are even; increasing in sigma."""
        return _answer(self._time, sigma)

    def sigma_at(self, time: Value) -> Value:
        """Contract sigma at the process's own time: inverse of `time`."""
        return _answer(self._sigma_at, time)

    def alpha(self, sigma: Value) -> Value:
        """Signal scale of a state at contract sigma; 1 for everything but flow and variance-preserving states."""
        return _answer(self._alpha, sigma)

    def noise_std(self, sigma: Value) -> Value:
        """Noise std of a state at contract sigma; sigma itself but for variance-preserving states."""
        return _answer(self._noise_std, sigma)

    @abstractmethod
    def _table_sigmas(self) -> Array: ...

    # The formulas, for arrays of the library ``xp`` (numpy or torch).

    @abstractmethod
    def _timestep(self, sigma: Any, xp: Any) -> Any: ...

    @abstractmethod
    def _sigma(self, timestep: Any, xp: Any) -> Any: ...

    def _time(self, sigma: Any, xp: Any) -> Any:
        return self._timestep(sigma, xp)

    def _sigma_at(self, time: Any, xp: Any) -> Any:
        return self._sigma(time, xp)

    def _alpha(self, sigma: Any, xp: Any) -> Any:
        return xp.ones_like(sigma)

    def _noise_std(self, sigma: Any, xp: Any) -> Any:
        return sigma

    def level(self, sigma: float) -> Level:
        """The level at a contract sigma."""
        lam = math.inf if sigma == 0 else -math.log(sigma)
        return Level(sigma, 1.0, sigma, lam)

    def level_at(self, lam: float) -> Level:
        """The level with half log-SNR ``lam``."""
        return self.level(math.exp(-lam))

    def add_noise(self, x0: Any, noise: Any, sigma: Any) -> Any:
        """Noised state ``alpha * x0 + std * noise``.

        Parameters
        ----------
        x0, noise : tensors or arrays of one shape, batch first
        sigma : contract sigma; a float, or one per item of the batch

        Returns
        -------
        like ``x0``
        """
        if not isinstance(sigma, float | int):
            if not is_tensor(sigma):
                sigma = np.asarray(sigma, dtype=np.float64)
                sigma = x0.new_tensor(sigma) if is_tensor(x0) else sigma
            sigma = sigma.reshape(sigma.shape + (1,) * (x0.ndim - sigma.ndim))
        return self.alpha(sigma) * x0 + self.noise_std(sigma) * noise


def _positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number; got {value}")


#: alpha-bar that stands in for exactly zero at the end of a zero-terminal-SNR table, because a state
#: ``x0 + sigma * eps`` cannot hold sigma = inf (ComfyUI's figure, sigma 4518.8; diffusers takes 2 ** -24, sigma 4096).
TERMINAL_ALPHA_BAR = 4.8973451890853435e-08


@dataclass(frozen=True, repr=False)
class VP(Process):
    """Variance-preserving diffusion over a table of betas (DDPM, Stable Diffusion); scaled-linear unless given.

    ``sigma`` is ``sqrt((1 - alpha_bar) / alpha_bar)``. A timestep is an index of the table, interpolated linearly in
    log sigma between entries as k-diffusion does; outside the table it is the nearest end.

    Parameters
    ----------
    betas : noise added by each training step, each in (0, 1) (1 allowed for the last); None is `scaled_linear`
    zero_terminal_snr : rescale so that the last training step is pure noise (Lin et al. 2023, arXiv:2305.08891). Its
        sigma would be infinite, so the table ends at 4518.8 (see ``TERMINAL_ALPHA_BAR``)
    variance_preserving : states are ``(x0 + sigma * eps) / sqrt(1 + sigma ** 2)``, as DDIM papers write them, not
        ``x0 + sigma * eps``. Then a run may start at sigma = inf, exact zero signal: pass ``sigmas=[inf, ...]``

    Raises
    ------
    ValueError : betas that are not one list of at least two numbers in (0, 1]

    Notes
    -----
    Ho et al. 2020, arXiv:2006.11239; sigma as in Karras et al. 2022, arXiv:2206.00364.
    """

    betas: tuple[float, ...] = field(repr=False)
    zero_terminal_snr: bool = False
    variance_preserving: bool = False
    sigma_min: float = field(init=False, repr=False, compare=False)
    sigma_max: float = field(init=False, repr=False, compare=False)
    rounds_time: ClassVar[bool] = True

    def __init__(
        self, betas: ArrayLike | None = None, *, zero_terminal_snr: bool = False, variance_preserving: bool = False
    ) -> None:
        table = _scaled_linear_betas(0.00085, 0.012, 1000) if betas is None else np.array(betas, dtype=np.float64)
        if table.ndim != 1 or len(table) < 2:
            raise ValueError(f"betas must be one list of at least two numbers; got shape {table.shape}")
        wrong = np.flatnonzero(~((table > 0) & (table < 1 + (np.arange(len(table)) == len(table) - 1))))
        if len(wrong) or table[-1] > 1:
            i = int(wrong[0]) if len(wrong) else len(table) - 1
            raise ValueError(f"every beta must lie in (0, 1); got betas[{i}]={table[i]}")
        object.__setattr__(self, "betas", tuple(table.tolist()))
        object.__setattr__(self, "zero_terminal_snr", bool(zero_terminal_snr))
        object.__setattr__(self, "variance_preserving", bool(variance_preserving))
        object.__setattr__(self, "sigma_min", float(self.sigmas[0]))
        object.__setattr__(self, "sigma_max", float(self.sigmas[-1]))

    @classmethod
    def scaled_linear(cls, beta_start: float = 0.00085, beta_end: float = 0.012, steps: int = 1000, **how: bool) -> VP:
        """Betas whose square roots are evenly spaced (latent diffusion, Stable Diffusion)."""
        return cls(_scaled_linear_betas(beta_start, beta_end, steps), **how)

    @classmethod
    def linear(cls, beta_start: float = 0.0001, beta_end: float = 0.02, steps: int = 1000, **how: bool) -> VP:
        """Evenly spaced betas (DDPM)."""
        return cls(np.linspace(beta_start, beta_end, steps), **how)

    @classmethod
    def cosine(cls, steps: int = 1000, offset: float = 0.008, max_beta: float = 0.999, **how: bool) -> VP:
        """Squared-cosine alpha-bar (Nichol & Dhariwal 2021, arXiv:2102.09672), betas capped at ``max_beta``."""
        alpha_bar = np.cos((np.linspace(0, 1, steps + 1) + offset) / (1 + offset) * np.pi / 2) ** 2
        return cls(np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], max_beta), **how)

    @property
    def sigma_limit(self) -> float:
        """No limit for variance-preserving states; any finite sigma for the others."""
        return math.inf if self.variance_preserving else super().sigma_limit

    @property
    def time_unit(self) -> float:
        """One table entry."""
        return 1.0

    @cached_property
    def alphas_cumprod(self) -> Array:
        """alpha-bar of every training step, decreasing, read-only; the last is exactly 0 for zero terminal SNR."""
        root = np.sqrt(np.cumprod(1 - np.array(self.betas)))
        if self.zero_terminal_snr:
            root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
        alpha_bar: Array = root**2
        alpha_bar.setflags(write=False)
        return alpha_bar

    def _table_sigmas(self) -> Array:
        alpha_bar = self.alphas_cumprod.copy()
        if self.zero_terminal_snr:
            alpha_bar[-1] = TERMINAL_ALPHA_BAR
        sigmas: Array = np.sqrt((1 - alpha_bar) / alpha_bar)
        return sigmas

    @cached_property
    def _tables(self) -> dict[Any, Any]:
        return {}

    def _table(self, like: Any) -> Any:
        """``sigmas`` as an array or as a tensor beside ``like``, uploaded once per device and dtype."""
        if not is_tensor(like):
            return self.sigmas
        key = like.device, like.dtype
        if key not in self._tables:
            self._tables[key] = like.new_tensor(self.sigmas)
        return self._tables[key]

    def _timestep(self, sigma: Any, xp: Any) -> Any:
        table = self._table(sigma)
        value = xp.clip(sigma, table[0], table[-1])
        low = xp.clip(xp.searchsorted(table, value, side="right") - 1, 0, len(table) - 2)
        return low + xp.log(value / table[low]) / xp.log(table[low + 1] / table[low])

    def _sigma(self, timestep: Any, xp: Any) -> Any:
        table = self._table(timestep)
        position = xp.clip(timestep, 0, len(table) - 1)
        low = xp.clip(xp.asarray(position, dtype=xp.int64), 0, len(table) - 2)
        part = position - low
        return table[low] ** (1 - part) * table[low + 1] ** part  # a table entry itself at whole timesteps

    def _alpha(self, sigma: Any, xp: Any) -> Any:
        return (1 + sigma * sigma) ** -0.5 if self.variance_preserving else xp.ones_like(sigma)

    def _noise_std(self, sigma: Any, xp: Any) -> Any:
        if not self.variance_preserving:
            return sigma
        return xp.where(sigma < 1e8, sigma * self._alpha(xp.clip(sigma, 0, 1e8), xp), 1.0)

    def level(self, sigma: float) -> Level:
        """The level at a contract sigma, infinity included for variance-preserving states."""
        ve = super().level(sigma)
        return Level(sigma, self.alpha(sigma), self.noise_std(sigma), ve.lam) if self.variance_preserving else ve

    def __repr__(self) -> str:
        ends = f"<{len(self.betas)} betas, sigma {self.sigma_min:.4g} to {self.sigma_max:.6g}>"
        flags = [f", {f}=True" for f in ("zero_terminal_snr", "variance_preserving") if getattr(self, f)]
        return f"VP({ends}{''.join(flags)})"


def _scaled_linear_betas(start: float, end: float, steps: int) -> Array:
    return np.linspace(start**0.5, end**0.5, steps) ** 2


def _check_range(sigma_min: float, sigma_max: float) -> None:
    if not (0 < sigma_min < sigma_max < math.inf):
        raise ValueError(f"sigma_min must be > 0 and < sigma_max; got sigma_min={sigma_min}, sigma_max={sigma_max}")


#: entries of `sigmas` for processes that were trained on a continuous range, as in ComfyUI
_TABLE = 1000


@dataclass(frozen=True)
class EDM(Process):
    """Karras et al.'s process: states ``x0 + sigma * eps``, the network is told ``log(sigma) / 4``.

    Parameters
    ----------
    sigma_min, sigma_max : range of training, 0 < sigma_min < sigma_max
    sigma_data : std of the data, for the network's preconditioning (see `Denoiser`)

    Raises
    ------
    ValueError : a range out of order, or sigma_data that is not positive

    Notes
    -----
    Karras et al. 2022, arXiv:2206.00364, table 1.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5

    def __post_init__(self) -> None:
        _check_range(self.sigma_min, self.sigma_max)
        _positive("sigma_data", self.sigma_data)

    def _table_sigmas(self) -> Array:
        return np.geomspace(self.sigma_min, self.sigma_max, _TABLE)

    @property
    def time_unit(self) -> float:
        """1/999 of the range."""
        return math.log(self.sigma_max / self.sigma_min) / 4 / (_TABLE - 1)

    def _timestep(self, sigma: Any, xp: Any) -> Any:
        return xp.log(sigma) / 4

    def _sigma(self, timestep: Any, xp: Any) -> Any:
        return xp.exp(4 * timestep)


@dataclass(frozen=True)
class VE(Process):
    """Variance-exploding diffusion: states ``x0 + sigma * eps``, sigma geometric in a time from 0 to 1.

    Parameters
    ----------
    sigma_min, sigma_max : range of training, 0 < sigma_min < sigma_max

    Raises
    ------
    ValueError : a range out of order

    Notes
    -----
    Song et al. 2021, arXiv:2011.13456, appendix C. The timestep is their continuous time t in [0, 1].
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        _check_range(self.sigma_min, self.sigma_max)

    def _table_sigmas(self) -> Array:
        return np.geomspace(self.sigma_min, self.sigma_max, _TABLE)

    @property
    def time_unit(self) -> float:
        """1/999 of the range."""
        return 1 / (_TABLE - 1)

    def _timestep(self, sigma: Any, xp: Any) -> Any:
        return xp.log(sigma / self.sigma_min) / math.log(self.sigma_max / self.sigma_min)

    def _sigma(self, timestep: Any, xp: Any) -> Any:
        return self.sigma_min * xp.exp(timestep * math.log(self.sigma_max / self.sigma_min))


@dataclass(frozen=True)
class Flow(Process):
    """Flow matching on straight paths (rectified flow): states ``(1 - sigma) * x0 + sigma * eps``, sigma from 0 to 1.

    The network is told ``timestep_scale * sigma``, whatever the shift: sigma is the noise level that it sees. The shift
    bends the process's own time u, in which spacing rules are even: ``sigma = shift * u / (1 + (shift - 1) * u)``.

    Parameters
    ----------
    shift : > 0; 1 leaves time even, larger values spend more steps at high noise (SD3 takes 3; Flux's mu is log(shift))
    num_timesteps : length of the training table; its smallest sigma is that of u = 1 / num_timesteps
    timestep_scale : the timestep at sigma 1 (1000 for most networks, 1 for some)

    Raises
    ------
    ValueError : a shift, table length or scale that is not positive

    Notes
    -----
    Liu et al. 2022, arXiv:2209.03003; Lipman et al. 2022, arXiv:2210.02747; shift: Esser et al. 2024, arXiv:2403.03206.
    """

    shift: float = 1.0
    num_timesteps: int = 1000
    timestep_scale: float = 1000.0
    sigma_min: float = field(init=False, repr=False, compare=False)
    sigma_max: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _positive("shift", self.shift)
        _positive("num_timesteps", self.num_timesteps)
        _positive("timestep_scale", self.timestep_scale)
        object.__setattr__(self, "sigma_min", self.sigma_at(1 / self.num_timesteps))
        object.__setattr__(self, "sigma_max", 1.0)

    @property
    def sigma_limit(self) -> float:
        """1: pure noise."""
        return 1.0

    @property
    def time_unit(self) -> float:
        """Distance between neighbours of the training table in u."""
        return 1 / self.num_timesteps

    def _table_sigmas(self) -> Array:
        return self.sigma_at(np.arange(1, self.num_timesteps + 1) / self.num_timesteps)

    def _timestep(self, sigma: Any, xp: Any) -> Any:
        return self.timestep_scale * sigma

    def _sigma(self, timestep: Any, xp: Any) -> Any:
        return timestep / self.timestep_scale

    def _time(self, sigma: Any, xp: Any) -> Any:
        return sigma / (self.shift - (self.shift - 1) * sigma)

    def _sigma_at(self, time: Any, xp: Any) -> Any:
        return self.shift * time / (1 + (self.shift - 1) * time)

    def _alpha(self, sigma: Any, xp: Any) -> Any:
        return 1 - sigma

    def level(self, sigma: float) -> Level:
        """The level at a contract sigma in [0, 1]."""
        lam = math.inf if sigma == 0 else -math.inf if sigma == 1 else math.log1p(-sigma) - math.log(sigma)
        return Level(sigma, 1 - sigma, sigma, lam)

    def level_at(self, lam: float) -> Level:
        """The level with half log-SNR ``lam``."""
        sigma = 1 / (1 + math.exp(lam))
        return Level(sigma, 1 / (1 + math.exp(-lam)), sigma, lam)


@cache
def default_process() -> VP:
    """Stable Diffusion's process, used where none is given: scaled-linear VP, sigma 0.0292 to 14.6146."""
    return VP()
