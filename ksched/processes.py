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
from dataclasses import dataclass, field, fields
from functools import cache, cached_property
from typing import Any, ClassVar, NamedTuple, TypeVar, cast

import numpy as np

from ksched.types import Array, ArrayLike, Tensor, is_tensor

__all__ = ["EDM", "VE", "VP", "AngleV", "Cascade", "Flow", "FlowVE", "Level", "Process", "default_process"]

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


def _clip(value: Any, low: Any, high: Any, xp: Any) -> Any:
    """``value`` inside two bounds; for short numpy arrays much faster than ``numpy.clip``."""
    return np.minimum(np.maximum(value, low), high) if xp is np else xp.clip(value, low, high)


class Process(ABC):
    """Base of the processes: what every one of them answers, and what follows from the answers."""

    #: whether rules over the training table take whole entries of it, as peers do for discrete models
    is_discrete: ClassVar[bool] = False

    @property
    def sigma_limit(self) -> float:
        """Largest contract sigma that a state can hold."""
        return sys.float_info.max

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
        """The process's own time, in which rules such as `normal` are even; increasing in sigma."""
        return _answer(self._time, sigma)

    def sigma_at(self, time: Value) -> Value:
        """Contract sigma at the process's own time: inverse of `time`."""
        return _answer(self._sigma_at, time)

    def position(self, sigma: Value) -> Value:
        """Where sigma stands in the training table `sigmas`, as an index with a fraction."""
        return _answer(self._position, sigma)

    @cached_property
    def end_positions(self) -> tuple[float, float]:
        """Places of sigma_min and sigma_max in the training table."""
        return self.position(self.sigma_min), self.position(self.sigma_max)

    def sigma_at_position(self, position: Value) -> Value:
        """Contract sigma at a place in the training table: inverse of `position`."""
        return _answer(self._sigma_at_position, position)

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

    @abstractmethod
    def _position(self, sigma: Any, xp: Any) -> Any: ...

    @abstractmethod
    def _sigma_at_position(self, position: Any, xp: Any) -> Any: ...

    def _alpha(self, sigma: Any, xp: Any) -> Any:
        return xp.ones_like(sigma)

    def _noise_std(self, sigma: Any, xp: Any) -> Any:
        return sigma

    def input_norm(self, sigma: Any) -> Any:
        """What a network's input is divided by, so that it has the variance the network was trained on."""
        return self.alpha(sigma)

    def level(self, sigma: float) -> Level:
        """The level at a contract sigma."""
        lam = math.inf if sigma == 0 else -math.log(sigma)
        return Level(sigma, 1.0, sigma, lam)

    def level_at(self, lam: float) -> Level:
        """The level with half log-SNR ``lam``."""
        return self.level(math.exp(-lam))

    def sigma_after(self, share: float) -> float:
        """The level that divides a run at a share of its time, as programs mean "start at 20 %".

        Parameters
        ----------
        share : 0 is before everything (sigma infinite, or 1 for flow), 1 the very end (sigma 0)

        Notes
        -----
        ComfyUI's ``percent_to_sigma``, whose stand-in for infinity is 999999999.9.
        """
        if not 0 < share < 1:
            return 0.0 if share >= 1 else 1.0 if self.sigma_limit == 1 else math.inf
        return self._sigma_after(float(share))

    def _sigma_after(self, share: float) -> float:
        return self.sigma_at_position((len(self.sigmas) - 1) * (1 - share))

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
    snr_shift : > 0, sigma grows by its square root (CogVideoX takes 3, before zero terminal SNR)
    every : keep each so-manieth training step, the last among them (a model distilled to 50 of 1000 takes 20)
    log_sigma_timesteps : the network is told ``log(sigma) / 4`` instead of the index (Stable Video Diffusion); then
        time is that, and only the table stays what it is

    Raises
    ------
    ValueError : betas that are not one list of at least two numbers in (0, 1]; options out of range

    Notes
    -----
    Ho et al. 2020, arXiv:2006.11239; sigma as in Karras et al. 2022, arXiv:2206.00364.
    """

    betas: tuple[float, ...] = field(repr=False)
    zero_terminal_snr: bool = False
    variance_preserving: bool = False
    snr_shift: float = 1.0
    every: int = 1
    log_sigma_timesteps: bool = False
    sigma_min: float = field(init=False, repr=False, compare=False)
    sigma_max: float = field(init=False, repr=False, compare=False)
    is_discrete: ClassVar[bool] = True

    def __init__(
        self,
        betas: ArrayLike | None = None,
        *,
        zero_terminal_snr: bool = False,
        variance_preserving: bool = False,
        snr_shift: float = 1.0,
        every: int = 1,
        log_sigma_timesteps: bool = False,
    ) -> None:
        table = _scaled_linear_betas(0.00085, 0.012, 1000) if betas is None else np.array(betas, dtype=np.float64)
        if table.ndim != 1 or len(table) < 2:
            raise ValueError(f"betas must be one list of at least two numbers; got shape {table.shape}")
        wrong = np.flatnonzero(~((table > 0) & (table < 1 + (np.arange(len(table)) == len(table) - 1))))
        if len(wrong) or table[-1] > 1:
            i = int(wrong[0]) if len(wrong) else len(table) - 1
            raise ValueError(f"every beta must lie in (0, 1); got betas[{i}]={table[i]}")
        _positive("snr_shift", snr_shift)
        if len(table) % every or every < 1 or len(table) // every < 2:
            raise ValueError(f"every must divide the {len(table)} training steps; got {every}")
        vars(self).update(
            betas=tuple(table.tolist()),
            zero_terminal_snr=bool(zero_terminal_snr),
            variance_preserving=bool(variance_preserving),
            snr_shift=float(snr_shift),
            every=int(every),
            log_sigma_timesteps=bool(log_sigma_timesteps),
        )
        vars(self).update(sigma_min=float(self.sigmas[0]), sigma_max=float(self.sigmas[-1]))

    @classmethod
    def scaled_linear(cls, beta_start: float = 0.00085, beta_end: float = 0.012, steps: int = 1000, **how: Any) -> VP:
        """Betas whose square roots are evenly spaced (latent diffusion, Stable Diffusion)."""
        return cls(_scaled_linear_betas(beta_start, beta_end, steps), **how)

    @classmethod
    def linear(cls, beta_start: float = 0.0001, beta_end: float = 0.02, steps: int = 1000, **how: Any) -> VP:
        """Evenly spaced betas (DDPM)."""
        return cls(np.linspace(beta_start, beta_end, steps), **how)

    @classmethod
    def sigmoid(cls, beta_start: float = 0.0001, beta_end: float = 0.02, steps: int = 1000, **how: Any) -> VP:
        """Betas on a logistic curve from -6 to 6 (GeoDiff)."""
        return cls(beta_start + (beta_end - beta_start) / (1 + np.exp(-np.linspace(-6, 6, steps))), **how)

    @classmethod
    def of_alpha_bar(
        cls, alpha_bar: Callable[[Array], Array], steps: int = 1000, max_beta: float = 0.999, **how: Any
    ) -> VP:
        """Betas of a curve alpha-bar over time in [0, 1], capped at ``max_beta``."""
        curve = alpha_bar(np.linspace(0, 1, steps + 1))
        return cls(np.minimum(1 - curve[1:] / curve[:-1], max_beta), **how)

    @classmethod
    def cosine(cls, steps: int = 1000, offset: float = 0.008, max_beta: float = 0.999, **how: Any) -> VP:
        """Squared-cosine alpha-bar (Nichol & Dhariwal 2021, arXiv:2102.09672), betas capped at ``max_beta``."""
        return cls.of_alpha_bar(lambda t: np.cos((t + offset) / (1 + offset) * np.pi / 2) ** 2, steps, max_beta, **how)

    @classmethod
    def exponential(cls, steps: int = 1000, rate: float = 12.0, max_beta: float = 0.999, **how: Any) -> VP:
        """alpha-bar that falls as ``exp(-rate * t)``, betas all the same (diffusers' "exp")."""
        return cls.of_alpha_bar(lambda t: np.exp(-rate * t), steps, max_beta, **how)

    @cached_property
    def alphas_cumprod(self) -> Array:
        """alpha-bar of every training step, decreasing, read-only; the last is exactly 0 for zero terminal SNR."""
        root = np.sqrt(np.cumprod(1 - np.array(self.betas)))
        if self.snr_shift != 1:
            root = root / np.sqrt(self.snr_shift + (1 - self.snr_shift) * root**2)
        if self.zero_terminal_snr:
            root = (root - root[-1]) * (root[0] / (root[0] - root[-1]))
        alpha_bar: Array = root**2
        alpha_bar.setflags(write=False)
        return alpha_bar

    def _table_sigmas(self) -> Array:
        alpha_bar = self.alphas_cumprod[self.every - 1 :: self.every].copy()
        if self.zero_terminal_snr:
            alpha_bar[-1] = TERMINAL_ALPHA_BAR
        sigmas: Array = np.sqrt((1 - alpha_bar) / alpha_bar)
        return sigmas

    @property
    def sigma_limit(self) -> float:
        """No limit for variance-preserving states; any finite sigma for the others."""
        return math.inf if self.variance_preserving else super().sigma_limit

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

    def _position(self, sigma: Any, xp: Any) -> Any:
        table = self._table(sigma)
        value = _clip(sigma, table[0], table[-1], xp)
        low = _clip(xp.searchsorted(table, value, side="right") - 1, 0, len(table) - 2, xp)
        return low + xp.log(value / table[low]) / xp.log(table[low + 1] / table[low])

    def _sigma_at_position(self, position: Any, xp: Any) -> Any:
        table = self._table(position)
        place = _clip(position, 0, len(table) - 1, xp)
        low = xp.asarray(place, dtype=xp.int64)
        high = _clip(low + 1, 0, len(table) - 1, xp)
        return table[low] * (table[high] / table[low]) ** (place - low)  # a table entry itself at whole positions

    def _timestep(self, sigma: Any, xp: Any) -> Any:
        if self.log_sigma_timesteps:
            return xp.log(sigma) / 4
        return self._position(sigma, xp) * self.every + (self.every - 1)

    def _sigma(self, timestep: Any, xp: Any) -> Any:
        if self.log_sigma_timesteps:
            return xp.exp(4 * timestep)
        return self._sigma_at_position((timestep - (self.every - 1)) / self.every, xp)

    def _sigma_after(self, share: float) -> float:
        place = (len(self.betas) - 1) * (1 - share)  # a training step, also where only some are kept
        return self.sigma_at_position((place - (self.every - 1)) / self.every)

    def _alpha(self, sigma: Any, xp: Any) -> Any:
        return (1 + sigma * sigma) ** -0.5 if self.variance_preserving else xp.ones_like(sigma)

    def _noise_std(self, sigma: Any, xp: Any) -> Any:
        if not self.variance_preserving:
            return sigma
        return xp.where(sigma < 1e8, sigma * self._alpha(xp.clip(sigma, 0, 1e8), xp), 1.0)

    def input_norm(self, sigma: Any) -> Any:
        """``sqrt(1 + sigma ** 2)``, or 1 for states that have it inside."""
        return self.alpha(sigma) * 0 + 1 if self.variance_preserving else (1 + sigma * sigma) ** 0.5

    def level(self, sigma: float) -> Level:
        """The level at a contract sigma, infinity included for variance-preserving states."""
        ve = super().level(sigma)
        return Level(sigma, self.alpha(sigma), self.noise_std(sigma), ve.lam) if self.variance_preserving else ve

    def __repr__(self) -> str:
        ends = f"<{len(self.betas)} betas, sigma {self.sigma_min:.4g} to {self.sigma_max:.6g}>"
        named = (f for f in fields(self) if f.init and f.name != "betas" and getattr(self, f.name) != f.default)
        return f"VP({ends}{''.join(f', {f.name}={getattr(self, f.name)!r}' for f in named)})"


def _scaled_linear_betas(start: float, end: float, steps: int) -> Array:
    return np.linspace(start**0.5, end**0.5, steps) ** 2


def _check_range(sigma_min: float, sigma_max: float) -> None:
    if not (0 < sigma_min < sigma_max < math.inf):
        raise ValueError(f"sigma_min must be > 0 and < sigma_max; got sigma_min={sigma_min}, sigma_max={sigma_max}")


class _LogRange(Process):
    """A process trained on a continuous range, whose table is 1000 sigmas even in log sigma, as in ComfyUI."""

    def _table_sigmas(self) -> Array:
        return np.geomspace(self.sigma_min, self.sigma_max, 1000)

    def _position(self, sigma: Any, xp: Any) -> Any:
        return xp.log(sigma / self.sigma_min) * (999 / math.log(self.sigma_max / self.sigma_min))

    def _sigma_at_position(self, position: Any, xp: Any) -> Any:
        return self.sigma_min * xp.exp(position * (math.log(self.sigma_max / self.sigma_min) / 999))


@dataclass(frozen=True)
class EDM(_LogRange):
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

    def _timestep(self, sigma: Any, xp: Any) -> Any:
        return xp.log(sigma) / 4

    def _sigma(self, timestep: Any, xp: Any) -> Any:
        return xp.exp(4 * timestep)

    def input_norm(self, sigma: Any) -> Any:
        """``sqrt(sigma_data ** 2 + sigma ** 2)``."""
        return (self.sigma_data**2 + sigma * sigma) ** 0.5


@dataclass(frozen=True)
class AngleV(EDM):
    """A v-prediction process told its angle: the timestep is ``2 / pi * atan(sigma)`` (Stable Audio).

    Parameters
    ----------
    sigma_min, sigma_max : range of training, 0 < sigma_min < sigma_max
    sigma_data : std of the data, for the network's preconditioning

    Raises
    ------
    ValueError : a range out of order, or sigma_data that is not positive

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
    """Flow matching with states ``x0 + sigma * eps``: the network is told ``sigma / (1 + sigma)`` (Cosmos).

    The network sees ``x / (1 + sigma)``, which is a `Flow` state at that time.

    Parameters
    ----------
    sigma_min, sigma_max : range of training, 0 < sigma_min < sigma_max

    Raises
    ------
    ValueError : a range out of order
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        _check_range(self.sigma_min, self.sigma_max)

    def _timestep(self, sigma: Any, xp: Any) -> Any:
        return sigma / (1 + sigma)

    def _sigma(self, timestep: Any, xp: Any) -> Any:
        return timestep / (1 - timestep)

    def input_norm(self, sigma: Any) -> Any:
        """``1 + sigma``."""
        return 1 + sigma


@dataclass(frozen=True)
class VE(_LogRange):
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
    shift : > 0; Stable Cascade takes 2 for its first stage and 1 for its second
    num_timesteps : length of the training table

    Raises
    ------
    ValueError : a shift or table length that is not positive

    Notes
    -----
    Pernias et al. 2023, arXiv:2306.00637. ComfyUI's map back from sigma to time forgets the shift; this one does not.
    """

    shift: float = 2.0
    num_timesteps: int = 10000
    sigma_min: float = field(init=False, repr=False, compare=False)
    sigma_max: float = field(init=False, repr=False, compare=False)
    _offset: ClassVar[float] = 0.008

    def __post_init__(self) -> None:
        _positive("shift", self.shift)
        _positive("num_timesteps", self.num_timesteps)
        vars(self).update(sigma_min=float(self.sigmas[0]), sigma_max=float(self.sigmas[-1]))

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
        vars(self).update(sigma_min=self.sigma_at(1 / self.num_timesteps), sigma_max=1.0)

    @classmethod
    def of_mu(cls, mu: float = 1.15, *, num_timesteps: int = 10000, timestep_scale: float = 1.0) -> Flow:
        """Flow with shift ``exp(mu)``, as Flux writes it; see `mu_for_tokens` for the mu of a resolution."""
        return cls(math.exp(mu), num_timesteps, timestep_scale)

    @property
    def sigma_limit(self) -> float:
        """1: pure noise."""
        return 1.0

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

    def _position(self, sigma: Any, xp: Any) -> Any:
        return self._time(sigma, xp) * self.num_timesteps - 1

    def _sigma_at_position(self, position: Any, xp: Any) -> Any:
        return self._sigma_at((position + 1) / self.num_timesteps, xp)

    def _sigma_after(self, share: float) -> float:
        return self.sigma_at(1 - share)

    def _alpha(self, sigma: Any, xp: Any) -> Any:
        return 1 - sigma

    def input_norm(self, sigma: Any) -> Any:
        """1."""
        return sigma * 0 + 1

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
