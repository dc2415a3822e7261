"""Where a run of an adaptive sampler stands: its level, tries and model calls."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from ksched.processes import Level
from ksched.schedules.grid import Grid

__all__ = ["AdaptiveProgress", "ModelCall"]


class ModelCall(NamedTuple):
    """What a sampler waits for: a state, the level to call the model at, whether the unconditional twin is asked.

    Then writes to the state, and the level that it is at.
    """

    x: torch.Tensor
    level: Level
    both: bool
    writes: int
    state_level: Level


class AdaptiveProgress:
    """What can be read of a run of an adaptive sampler, besides its numbers."""

    _grid: Grid
    _calls: int
    _state: Any  # of the last checkpoint
    _asked: ModelCall | None

    @property
    def level(self) -> Level:
        """The level the model must be called at.

        Raises
        ------
        RuntimeError : the run is done
        """
        return self._waiting.level

    @property
    def state_level(self) -> Level:
        """The level that the state is at: `level`, unless the sampler tells the model another one; errors as there."""
        return self._waiting.state_level

    @property
    def _waiting(self) -> ModelCall:
        if self._asked is None:
            raise RuntimeError("the run is done: there is no level left to call the model at")
        return self._asked

    @property
    def end(self) -> Level:
        """The level that the run ends at."""
        return self._grid.levels[-1]

    @property
    def step(self) -> int:
        """Number of the try, from 0."""
        return self.accepted + self.rejected

    @property
    def steps(self) -> None:
        """None: nobody knows how many there will be."""
        return None

    @property
    def state(self) -> Any:
        """What the sampler knew at its last checkpoint, between two tries (ours: `ksched.samplers.adaptive.Tried`)."""
        return self._state

    @property
    def sigma_next(self) -> float:
        """Contract sigma of the last level above 0."""
        levels = self._grid.levels
        return levels[-2 if levels[-1].sigma == 0 and len(levels) > 1 else -1].label

    @property
    def accepted(self) -> int:
        """Tries that were accepted so far."""
        return 0 if self._state is None else int(self._state.accepted)

    @property
    def rejected(self) -> int:
        """Tries that were rejected so far."""
        return 0 if self._state is None else int(self._state.rejected)

    @property
    def nfe(self) -> int:
        """Model calls answered so far."""
        return self._calls

    @property
    def needs_uncond(self) -> bool:
        """Whether the next answer must come with its unconditional twin."""
        return self._asked is not None and self._asked.both
