"""The iterations of a `KSchedScheduler`, and where timesteps are among them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ksched.dialects.diffusers.classes import CLASSES
from ksched.dialects.diffusers.iterations import Iterations
from ksched.dialects.diffusers.process import start_std
from ksched.integrations.diffusers.configuration import Configuration
from ksched.types import Array

__all__ = ["Course"]


class Course:
    """The iterations of a configuration for the arguments of ``set_timesteps``.

    Attributes
    ----------
    configuration : Configuration
        The current configuration; the scheduler keeps it up to date.
    iterations : Iterations or None
        None before `set_timesteps`.
    """

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.iterations: Iterations | None = None
        self._request: dict[str, Any] | None = None
        self._made_of: Configuration | None = None
        self._timesteps: torch.Tensor | None = None
        self._levels: Array | None = None
        self._churn: dict[str, Any] | None = None

    def set_timesteps(self, request: dict[str, Any], device: Any) -> Iterations:
        """Set the iterations of a run.

        Parameters
        ----------
        request : dict
            Arguments, see `run_request`.
        device : object
            Device of `timesteps`.
        """
        iterations, self.configuration = self.iterations, self.configuration.current
        if iterations is None or self._made_of is not self.configuration or self._request != request:
            iterations = self.configuration.iterations(request)  # otherwise its plans exist already
        self.iterations, self._request, self._made_of, self._levels = iterations, request, self.configuration, None
        kind = torch.int64 if iterations.whole else torch.float32
        self._timesteps = torch.tensor(iterations.timesteps.tolist(), dtype=torch.float64).to(kind).to(device)
        self._churn = None
        return iterations

    @property
    def timesteps(self) -> torch.Tensor:
        """The network's timestep at every iteration; before `set_timesteps`, every training timestep."""
        if self._timesteps is None:
            length = self.configuration.entries.num_train_timesteps
            return torch.arange(length - 1, -1, -1, dtype=torch.float32)
        return self._timesteps

    @timesteps.setter
    def timesteps(self, same: torch.Tensor) -> None:
        self._timesteps = same  # on another device, or of another dtype

    @property
    def is_told(self) -> bool:
        """Whether `set_timesteps` was called."""
        return self._timesteps is not None

    @property
    def request(self) -> Mapping[str, Any]:
        """The arguments of `set_timesteps`."""
        return self._request or {}

    def relevel(self, levels: Array | None) -> None:
        """Run at other sigmas than those of `set_timesteps`, or with another table at the same timesteps.

        Raises
        ------
        ValueError
            If the run's sigmas are not a list of its own.
        """
        self.iterations = self.configuration.iterations(self.request, self._churn, levels)
        self._levels, self._made_of = levels, None

    def churn(self, given: dict[str, Any]) -> None:
        """Use iterations that churn, with the arguments given to ``step``."""
        self.iterations = self.configuration.iterations(self.request, given, self._levels)
        self._made_of, self._churn = None, given

    def prepare(self) -> None:
        """Make every training timestep an iteration, as some classes do before `set_timesteps`."""
        if self.iterations is not None:
            return
        configuration = self.configuration
        if not (configuration.is_stock and CLASSES[configuration.entries.stock_class].begins_untold):
            raise ValueError("set_timesteps must be called before step, since it sets the number of inference steps")
        self.iterations = configuration.through_training()
        self._request = {"num_inference_steps": int(configuration.entries.num_train_timesteps)}
        self._made_of = None

    def place(self, timestep: Any) -> int | None:
        """The iteration of a timestep, found by its place in memory or else as the nearest; None if there are none."""
        own = self.timesteps
        if isinstance(timestep, torch.Tensor) and timestep.numel():
            offset, rest = divmod(timestep.data_ptr() - own.data_ptr(), own.element_size())
            if timestep.device == own.device and not rest and 0 <= offset < len(own):
                return int(offset)
            timestep = float(timestep.flatten()[0])
        if timestep is None or self.iterations is None:
            return None
        return int(np.argmin(np.abs(self.iterations.timesteps - float(timestep))))

    def index(self, known: int | None, timestep: Any) -> int:
        """The next iteration; if it is not known, the one at the timestep."""
        return (self.place(timestep) or 0) if known is None else known

    def input_norm(self, known: int | None, timestep: Any) -> float:
        """The number by which the network's input is divided at the next iteration."""
        if self.iterations is None:
            process = self.configuration.trained
            return float(process.input_norm(float(process.sigma(float(timestep)))))
        return self.iterations.conversions[min(self.index(known, timestep), len(self.iterations) - 1)][0]

    @property
    def sigmas(self) -> Array:
        """Sigma of every iteration and of the end; before `set_timesteps`, those of the training."""
        if self.iterations is None:
            return np.append(self.configuration.trained.sigmas[::-1], 0.0)
        return self.iterations.shown

    @property
    def init_noise_sigma(self) -> float:
        """The factor of the start noise."""
        if self.iterations is None:
            process = self.configuration.trained
            return start_std(process, process.sigma_max, self.configuration.settings)
        return self.iterations.init_noise_sigma

    @property
    def order(self) -> int:
        """Number of iterations per step."""
        return self.configuration.order if self.iterations is None else self.iterations.order

    def after(self, timestep: Any) -> Any:
        """The timestep of the iteration after another one; -1 after the last."""
        if self._timesteps is None:
            return timestep - 1
        place = self.place(timestep)
        return self.timesteps[place + 1] if place is not None and place + 1 < len(self.timesteps) else torch.tensor(-1)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "iterations": None, "_made_of": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._request is not None:
            self.iterations = self.configuration.iterations(self._request, self._churn, self._levels)
