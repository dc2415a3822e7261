"""What every process answers: maps between timestep, sigma, alpha and its training table, and levels."""

from __future__ import annotations

import math
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar, NamedTuple, TypeVar, cast

import numpy as np

from ksched.types import Array, ArrayLike, Tensor, is_tensor

__all__ = ["Level", "Process", "Value", "check_positive", "check_process", "clip"]

Value = TypeVar("Value", bound="float | ArrayLike | Tensor")  # a float, an array or a tensor; answered in kind


class Level(NamedTuple):
    """One noise level, in the coordinates the state lives in.

    ``x = alpha * x0 + sigma * eps`` with eps normal, of std `Process.noise_scale` (1 for all but some flow models);
    ``lam`` = log(alpha / sigma), half the log-SNR of unit noise (+inf at sigma 0, -inf at alpha 0); ``label`` is the
    contract sigma that the denoiser is called with and that users see.
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


def clip(value: Any, low: Any, high: Any, xp: Any) -> Any:
    """``value`` inside two bounds; for short numpy arrays much faster than ``numpy.clip``."""
    return np.minimum(np.maximum(value, low), high) if xp is np else xp.clip(value, low, high)


class Process(ABC):
    """Base of the processes: what every one of them answers, and what follows from the answers."""

    #: whether rules over the training table take whole entries of it, as peers do for discrete models
    is_discrete: ClassVar[bool] = False

    #: whether states are ``(1 - sigma) * x0 + sigma * eps``, with sigma from 0 to 1
    is_flow: ClassVar[bool] = False

    #: std of the data that networks were trained for, as their preconditioning takes it
    sigma_data: float = 1.0

    #: whether the last level of training is pure noise, of which eps says nothing
    zero_terminal_snr: bool = False

    #: whether ``alpha ** 2 + std ** 2`` is 1 for states
    variance_preserving: bool = False

    #: the shift of a flow's time; 1 is none
    shift: float = 1.0

    #: std of the noise that sigma multiplies; every draw of a sampler is multiplied by it
    noise_scale: float = 1.0

    @property
    def sigma_limit(self) -> float:
        """Largest contract sigma that a state can hold."""
        return sys.float_info.max

    @property
    def predictions(self) -> tuple[str, ...]:
        """What networks of this process may predict, in the words of `ksched.Denoiser`."""
        return "epsilon", "score", "v_prediction", "sample", "flow", "velocity_to_data", "edm"

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
        """Noise std of a state at contract sigma; sigma itself but for variance-preserving states and `noise_scale`."""
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
            return 0.0 if share >= 1 else 1.0 if self.is_flow else math.inf
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


def check_positive(name: str, value: float) -> None:
    """Raise a ValueError unless ``value`` is a positive number."""
    if not 0 < value < math.inf:
        raise ValueError(f"{name} must be a positive number; got {value}")


def check_process(process: object) -> Process:
    """The same, if it is a `Process`; else a TypeError."""
    if not isinstance(process, Process):
        raise TypeError(f"process must be a ksched process such as VP() or Flow(); got {process!r}")
    return process
