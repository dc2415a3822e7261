"""The progress of a plan's run: its level, step and model calls."""

from __future__ import annotations

import torch

from ksched.execution.call_levels import CallLevels
from ksched.execution.registers import Registers
from ksched.plan.plan import Plan
from ksched.processes import Level

__all__ = ["Progress"]


class Progress:
    """The readable progress of a plan's run.

    Attributes
    ----------
    plan : Plan
        The plan that is run.
    """

    plan: Plan
    _registers: Registers
    _call_levels: CallLevels

    @property
    def registers(self) -> Registers:
        """The registers of the run, for a `Batch`."""
        return self._registers

    @property
    def shape(self) -> torch.Size:
        """Shape of the states, batch first."""
        return self._registers.shape

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the states that the model receives, and of the result."""
        return self._registers.dtype

    @property
    def device(self) -> torch.device:
        """Device of the states."""
        return self._registers.device

    @property
    def done(self) -> bool:
        """Whether the result has been reached."""
        return self._registers.turn is None

    @property
    def level(self) -> Level:
        """The level at which the model must be called.

        Raises
        ------
        RuntimeError
            If the run is done.
        """
        return self.plan.levels[self._call]

    @property
    def state_level(self) -> Level:
        """The level of the state: `level`, unless the plan gives the model another one.

        Raises
        ------
        RuntimeError
            If the run is done.
        """
        return self.plan.state_levels[self._call]

    @property
    def _call(self) -> int:
        if self.done:
            raise RuntimeError("the run is done, so there is no level at which to call the model")
        return self._registers.calls

    @property
    def end(self) -> Level:
        """The level at which the run ends."""
        return self.plan.end

    @property
    def sigma(self) -> torch.Tensor:
        """Contract sigma for the model, shape (batch,); float32 (float64 if the state is).

        Raises
        ------
        RuntimeError
            If the run is done.
        """
        return self._call_levels.sigma()

    @property
    def timestep(self) -> torch.Tensor:
        """The process's timestep for the network, shape (batch,), in `sigma`'s dtype.

        Raises
        ------
        RuntimeError
            If the run is done, or was started without a process.
        """
        return self._call_levels.timestep()

    @property
    def step(self) -> int:
        """Index of the schedule step of the next model call; the number of steps when the run is done."""
        return self.plan.steps if self.done else self.plan.call_steps[self._registers.calls]

    @property
    def steps(self) -> int:
        """Number of schedule steps."""
        return self.plan.steps

    @property
    def sigma_next(self) -> float:
        """Contract sigma to which the present step goes."""
        return self.plan.sigmas[self.step + 1]

    @property
    def nfe(self) -> int:
        """Number of model calls answered so far (NFE)."""
        return self._registers.calls

    @property
    def needs_uncond(self) -> bool:
        """Whether the next answer must include the unconditional prediction."""
        turn = self._registers.turn
        return turn is not None and turn.both

    @property
    def takes_output(self) -> bool:
        """Whether `feed_output` works for all calls: not for samplers that need the unconditional prediction."""
        return not self._registers.layout.both
