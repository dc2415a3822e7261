"""Where a run of a plan stands: its level, step and model calls."""

from __future__ import annotations

import torch

from ksched.execution.call_levels import CallLevels
from ksched.execution.registers import Registers
from ksched.plan.plan import Plan
from ksched.processes import Level

__all__ = ["Progress"]


class Progress:
    """What can be read of a run of a plan, besides its numbers.

    Attributes
    ----------
    plan : what is run
    """

    plan: Plan
    _registers: Registers
    _call_levels: CallLevels

    @property
    def registers(self) -> Registers:
        """The numbers of the run, for a `Batch`."""
        return self._registers

    @property
    def shape(self) -> torch.Size:
        """Of the states, batch first."""
        return self._registers.shape

    @property
    def dtype(self) -> torch.dtype:
        """Of the states that the model sees, and of the result."""
        return self._registers.dtype

    @property
    def device(self) -> torch.device:
        """Where the states are."""
        return self._registers.device

    @property
    def done(self) -> bool:
        """Whether the result has been reached."""
        return self._registers.turn is None

    @property
    def level(self) -> Level:
        """The level the model must be called at.

        Raises
        ------
        RuntimeError : the run is done
        """
        return self.plan.levels[self._call]

    @property
    def state_level(self) -> Level:
        """The level that the state is at: `level`, unless the plan tells the model another one.

        Raises
        ------
        RuntimeError : the run is done
        """
        return self.plan.state_levels[self._call]

    @property
    def _call(self) -> int:
        if self.done:
            raise RuntimeError("the run is done: there is no level left to call the model at")
        return self._registers.calls

    @property
    def end(self) -> Level:
        """The level that the run ends at."""
        return self.plan.end

    @property
    def sigma(self) -> torch.Tensor:
        """Contract sigma for the model, shape (batch,); float32 (float64 if the state is).

        Raises
        ------
        RuntimeError : the run is done
        """
        return self._call_levels.sigma()

    @property
    def timestep(self) -> torch.Tensor:
        """The process's timestep for the network, shape (batch,), of `sigma`'s dtype.

        Raises
        ------
        RuntimeError : the run is done, or was started without a process
        """
        return self._call_levels.timestep()

    @property
    def step(self) -> int:
        """The schedule step that the next model call belongs to; the number of steps when done."""
        return self.plan.steps if self.done else self.plan.call_steps[self._registers.calls]

    @property
    def steps(self) -> int:
        """Number of schedule steps."""
        return self.plan.steps

    @property
    def sigma_next(self) -> float:
        """Contract sigma that the present step goes to."""
        return self.plan.sigmas[self.step + 1]

    @property
    def nfe(self) -> int:
        """Model calls answered so far."""
        return self._registers.calls

    @property
    def needs_uncond(self) -> bool:
        """Whether the next answer must come with its unconditional twin."""
        turn = self._registers.turn
        return turn is not None and turn.both

    @property
    def takes_output(self) -> bool:
        """Whether `feed_output` will do for all calls: no sampler of classifier-free guidance's two predictions."""
        return not self._registers.layout.both
