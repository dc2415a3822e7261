"""Noise by timestep, and the targets that networks are trained on."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ksched.dialects.diffusers.classes import CLASSES
from ksched.dialects.diffusers.iterations import Iterations
from ksched.dialects.diffusers.words import prediction_word
from ksched.integrations.diffusers.attributes import Attributes
from ksched.integrations.diffusers.configuration import Configuration
from ksched.integrations.diffusers.driver import Driver
from ksched.processes import Level, Process

__all__ = ["TrainingNoise"]


class TrainingNoise:
    """Methods of a diffusers scheduler for programs that train a network or start from an image."""

    config: Any
    _attributes: Attributes

    def _as_stock(self, name: str, *given: Any) -> torch.Tensor | None:
        """The result of the diffusers class's own method before `set_timesteps`; None if it has none.

        ksched's own method is used with named samplers, and for arguments that the class does not support, such as
        timesteps outside its table.
        """
        run = self._run
        stock = self._attributes.stock.before_a_run(run) if run.configuration.is_stock else None
        if hasattr(stock, name):
            with contextlib.suppress(IndexError, RuntimeError, AttributeError, TypeError):
                answer: torch.Tensor = getattr(stock, name)(*given)
                return answer
        return None

    @property
    def _run(self) -> Driver:
        raise NotImplementedError

    @property
    def _next(self) -> int | None:
        raise NotImplementedError

    def add_noise(self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: Any) -> torch.Tensor:
        """Add noise to clean samples, at the sigma of the run's position, or else at the sigmas of the timesteps."""
        if (noised := self._as_stock("add_noise", original_samples, noise, timesteps)) is not None:
            return noised
        run = self._run
        self._attributes.levels.heed(run)
        levels = _levels_at(run.configuration, run.iterations, self._next, timesteps)
        return _noised(levels, original_samples, noise)

    def scale_noise(self, sample: torch.Tensor, timestep: Any, noise: torch.Tensor | None = None) -> torch.Tensor:
        """`add_noise` with the order of arguments of flow pipelines."""
        if noise is None:
            raise ValueError("scale_noise needs noise; pass a tensor like sample")
        if (noised := self._as_stock("scale_noise", sample, timestep, noise)) is not None:
            return noised
        return self.add_noise(sample, noise, timestep)

    def get_velocity(self, sample: torch.Tensor, noise: torch.Tensor, timesteps: Any) -> torch.Tensor:
        """The target of a network with v or flow prediction at training timesteps."""
        if (velocity := self._as_stock("get_velocity", sample, noise, timesteps)) is not None:
            return velocity
        configuration = self._run.configuration
        process = configuration.trained
        if process.is_flow:
            entries = configuration.entries
            to_data = entries.invert_sigmas or prediction_word(entries.prediction_type) == "velocity_to_data"
            return sample - noise if to_data else noise - sample
        levels = [_trained_level(process, t) for t in _numbers(timesteps)]
        sizes = [math.hypot(level.alpha, level.sigma) for level in levels]
        alpha = sample.new_tensor([level.alpha / size for level, size in zip(levels, sizes, strict=True)])
        sigma = sample.new_tensor([level.sigma / size for level, size in zip(levels, sizes, strict=True)])
        return _by_item(alpha, sample) * noise - _by_item(sigma, sample) * sample

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)


def _levels_at(
    configuration: Configuration, iterations: Iterations | None, index: int | None, timesteps: Any
) -> list[Level]:
    """Levels at which states get noise.

    Parameters
    ----------
    iterations, index : Iterations, int or None
        The run and its next iteration, if there are any; all states then get that iteration's level.
    timesteps : object
        Training timesteps, for states outside a run.
    """
    stock = configuration.entries.stock_class
    if configuration.is_stock and CLASSES[stock].noises_by_timestep and not configuration.is_flow:
        iterations = None
    if iterations is not None and index is not None:
        return [iterations.levels[index]]
    return [_level_at(configuration, iterations, t) for t in _numbers(timesteps)]


def _level_at(configuration: Configuration, iterations: Iterations | None, timestep: float) -> Level:
    """The level of the iteration at a timestep; without one, that of the training."""
    if iterations is None:
        return _trained_level(configuration.trained, timestep)
    distances = np.abs(iterations.timesteps - timestep)
    place = int(np.argmin(distances))
    if distances[place] <= 1e-4 * max(abs(timestep), 1.0):
        return iterations.levels[place]
    return _trained_level(iterations.process, timestep)


def _trained_level(process: Process, timestep: float) -> Level:
    return process.level(float(process.sigma(timestep)))


def _noised(levels: Sequence[Level], samples: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Clean samples with noise, at one level or one for each."""
    dtype = torch.promote_types(samples.dtype, torch.float32)
    alpha = torch.tensor([level.alpha for level in levels], dtype=dtype, device=samples.device)
    sigma = torch.tensor([level.sigma for level in levels], dtype=dtype, device=samples.device)
    return (_by_item(alpha, samples) * samples + _by_item(sigma, samples) * noise).to(samples.dtype)


def _numbers(timesteps: Any) -> list[float]:
    return [float(t) for t in torch.as_tensor(timesteps).flatten().tolist()]


def _by_item(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Values for the items of a batch, shaped to multiply it."""
    return values.view((-1,) + (1,) * (like.ndim - 1))
