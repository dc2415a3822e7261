"""`Process`: maps between timestep, sigma, alpha and the training table, and noise levels."""

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

# a float, an array or a tensor; results have the same kind
Value = TypeVar("Value", bound="float | ArrayLike | Tensor")


class Level(NamedTuple):
    """One noise level, in the coordinates of the state.

    ``x = alpha * x0 + sigma * eps`` with normal eps of std `Process.noise_scale` (1 except for some flow models).
    ``lam`` = log(alpha / sigma) is half the log-SNR of unit noise (+inf at sigma 0, -inf at alpha 0). ``label`` is the
    contract sigma that the denoiser receives and that users see.
    """

    label: float
    alpha: float
    sigma: float
    lam: float


def _answer(formula: Callable[[Any, Any], Any], value: Value) -> Value:
    """``formula(value, array library)``, with a result of the kind of ``value``: float, float64 array or tensor."""
    if is_tensor(value):
        import torch

        return cast(Value, formula(value, torch))
    result = formula(np.asarray(value, dtype=np.float64), np)
    return cast(Value, result if isinstance(value, np.ndarray | list | tuple) else float(result))


def clip(value: Any, low: Any, high: Any, xp: Any) -> Any:
    """``value`` inside two bounds; much faster than ``numpy.clip`` for short numpy arrays."""
    return np.minimum(np.maximum(value, low), high) if xp is np else xp.clip(value, low, high)


class Process(ABC):
    """Base class of the noise processes: the maps that each defines, and everything that follows from them."""

    #: whether rules over the training table use whole entries of it, as other programs do for discrete models
    is_discrete: ClassVar[bool] = False

    #: whether states are ``(1 - sigma) * x0 + sigma * eps``, with sigma from 0 to 1
    is_flow: ClassVar[bool] = False

    #: std of the data that networks were trained on, for their preconditioning
    sigma_data: float = 1.0

    #: whether the last training level is pure noise, where eps contains nothing of the data
    zero_terminal_snr: bool = False

    #: whether ``alpha ** 2 + std ** 2`` is 1 at every level
    variance_preserving: bool = False

    #: shift of a flow process's time; 1 means none
    shift: float = 1.0

    #: std of the noise that sigma multiplies; samplers multiply every draw by it
    noise_scale: float = 1.0

    @property
    def sigma_limit(self) -> float:
        """Largest contract sigma that a state can have."""
        return sys.float_info.max

    @property
    def predictions(self) -> tuple[str, ...]:
        """What networks of this process may predict, as names of `ksched.Prediction`."""
        return "epsilon", "score", "v_prediction", "sample", "flow", "velocity_to_data", "edm"

    #: smallest and largest contract sigma of training; the largest is the level of the start noise
    sigma_min: float
    sigma_max: float

    @cached_property
    def sigmas(self) -> Array:
        """Contract sigmas of the training table (or 1000 of a continuous range), increasing, read-only."""
        table = self._table_sigmas()
        table.setflags(write=False)
        return table

    def timestep(self, sigma: Value) -> Value:
        """Timestep that the network receives at a contract sigma: exact inverse of `sigma` inside the training range.

        Like all maps of a process, it takes a float, an array or a tensor and returns the same kind.
        """
        return _answer(self._timestep, sigma)

    def sigma(self, timestep: Value) -> Value:
        """Contract sigma of the network's ``timestep``."""
        return _answer(self._sigma, timestep)

    def time(self, sigma: Value) -> Value:
        """The process's own time, in which rules such as `normal` are evenly spaced; increasing in sigma."""
        return _answer(self._time, sigma)

    def sigma_at(self, time: Value) -> Value:
        """Contract sigma at the process's own time: inverse of `time`."""
        return _answer(self._sigma_at, time)

    def position(self, sigma: Value) -> Value:
        """Position of sigma in the training table `sigmas`, as an index with a fraction."""
        return _answer(self._position, sigma)

    @cached_property
    def end_positions(self) -> tuple[float, float]:
        """Positions of sigma_min and sigma_max in the training table."""
        return self.position(self.sigma_min), self.position(self.sigma_max)

    def sigma_at_position(self, position: Value) -> Value:
        """Contract sigma at a position in the training table: inverse of `position`."""
        return _answer(self._sigma_at_position, position)

    def alpha(self, sigma: Value) -> Value:
        """Signal scale of a state at a contract sigma; 1 except for flow and variance-preserving states."""
        return _answer(self._alpha, sigma)

    def noise_std(self, sigma: Value) -> Value:
        """Noise std of a state at a contract sigma: sigma, except for variance-preserving states and `noise_scale`."""
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
        """Divisor of a network's input that gives it the variance the network was trained on."""
        return self.alpha(sigma)

    def level(self, sigma: float) -> Level:
        """The level at a contract sigma."""
        lam = math.inf if sigma == 0 else -math.log(sigma)
        return Level(sigma, 1.0, sigma, lam)

    def level_at(self, lam: float) -> Level:
        """The level with half log-SNR ``lam``."""
        return self.level(math.exp(-lam))

    def sigma_after(self, share: float) -> float:
        """The level at a share of the process's time, as other programs mean "start at 20 %".

        Parameters
        ----------
        share : float
            0 is the start (sigma infinite, or 1 for flow), 1 the end (sigma 0).

        Notes
        -----
        ComfyUI's ``percent_to_sigma``, which uses 999999999.9 in place of infinity.
        """
        if not 0 < share < 1:
            return 0.0 if share >= 1 else 1.0 if self.is_flow else math.inf
        return self._sigma_after(float(share))

    def _sigma_after(self, share: float) -> float:
        return self.sigma_at_position((len(self.sigmas) - 1) * (1 - share))

    def add_noise(self, x0: Any, noise: Any, sigma: Any) -> Any:
        """The noised state ``alpha * x0 + std * noise``.

        Parameters
        ----------
        x0, noise : ndarray or Tensor
            Tensors or arrays of one shape, batch first.
        sigma : float, array_like or Tensor
            Contract sigma; a float, or one per item of the batch.

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
    """Raise a ValueError unless ``value`` is a positive number, and a TypeError where it is no number."""
    try:
        positive = 0 < value < math.inf
    except TypeError:
        raise TypeError(f"{name} must be a positive number; got {value!r}") from None
    if not positive:
        raise ValueError(f"{name} must be a positive number; got {value}")


def check_process(process: object) -> Process:
    """``process`` itself, or a TypeError if it is not a `Process`."""
    if not isinstance(process, Process):
        raise TypeError(f"process must be a ksched process such as VP() or Flow(); got {process!r}")
    return process
