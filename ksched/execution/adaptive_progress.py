"""The progress of an adaptive run: its level, tries and model calls."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ksched.processes import Level
from ksched.schedules.grid import Grid

__all__ = ["AdaptiveProgress", "ModelCall"]


class ModelCall(NamedTuple):
    """A model call that a sampler waits for: state, level, and whether the unconditional prediction is needed.

    The remaining fields are the number of writes to the state, and the state's own level.
    """

    x: torch.Tensor
    level: Level
    both: bool
    writes: int
    state_level: Level


class AdaptiveProgress:
    """The readable progress of an adaptive sampler's run."""

    _grid: Grid
    _calls: int
    _state: Any  # state of the last checkpoint
    _asked: ModelCall | None

    @property
    def level(self) -> Level:
        """The level at which the model must be called.

        Raises
        ------
        RuntimeError
            If the run is done.
        """
        return self._waiting.level

    @property
    def state_level(self) -> Level:
        """The level of the state: `level`, unless the sampler gives the model another; errors as there."""
        return self._waiting.state_level

    @property
    def _waiting(self) -> ModelCall:
        if self._asked is None:
            raise RuntimeError("the run is done, so there is no level at which to call the model")
        return self._asked

    @property
    def end(self) -> Level:
        """The level at which the run ends."""
        return self._grid.levels[-1]

    @property
    def step(self) -> int:
        """Index of the try, from 0."""
        return self.accepted + self.rejected

    @property
    def steps(self) -> None:
        """None: the number of tries is not known in advance."""
        return None

    @property
    def state(self) -> Any:
        """The sampler's state at its last checkpoint, between two tries (ours: `ksched.samplers.adaptive.Tried`)."""
        return self._state

    @property
    def sigma_next(self) -> float:
        """Contract sigma of the last level above 0."""
        levels = self._grid.levels
        return levels[-2 if levels[-1].sigma == 0 and len(levels) > 1 else -1].label

    @property
    def accepted(self) -> int:
        """Number of tries accepted so far."""
        return 0 if self._state is None else int(self._state.accepted)

    @property
    def rejected(self) -> int:
        """Number of tries rejected so far."""
        return 0 if self._state is None else int(self._state.rejected)

    @property
    def nfe(self) -> int:
        """Number of model calls answered so far (NFE)."""
        return self._calls

    @property
    def needs_uncond(self) -> bool:
        """Whether the next answer must include the unconditional prediction."""
        return self._asked is not None and self._asked.both
