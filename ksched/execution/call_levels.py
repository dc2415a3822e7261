"""Sigma and timestep of each model call of a run, as tensors for the model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ksched.execution.registers import Registers
from ksched.processes import Process
from ksched.processes.agreement import Levels, mark
from ksched.processes.host_levels import carry

__all__ = ["CallLevels"]


class CallLevels:
    """Sigmas and timesteps of all model calls, uploaded to the device together on first use.

    Parameters
    ----------
    registers : Registers
        Registers of the run.
    process : Process or None
        Gives the timesteps; None if there are none.
    levels : tuple or None
        Levels attached to the sigmas for a model that knows its process; None attaches nothing.
    """

    def __init__(self, registers: Registers, process: Process | None, levels: Levels | None) -> None:
        self._registers, self._process, self._levels = registers, process, levels
        self._sigmas: Sequence[torch.Tensor] | None = None
        self._timesteps: Sequence[torch.Tensor] | None = None

    def sigma(self) -> torch.Tensor:
        """Contract sigma of the present call, shape (batch,); raises RuntimeError if the run is done."""
        call = self._call()
        if self._sigmas is None:
            levels, items = self._registers.plan.call_sigmas, self._registers.shape[0]
            self._sigmas = self._uploaded(levels)
            goals = self._registers.plan.goals
            for sigma, level, goal in zip(self._sigmas, levels.tolist(), goals, strict=True):
                carry(sigma, (level,) * items, (goal,) * items)
                if self._levels is not None:
                    mark(sigma, (self._levels,))
        return self._sigmas[call]

    def timestep(self) -> torch.Tensor:
        """The process's timestep of the present call; raises RuntimeError if the run is done or has no process."""
        if self._process is None:
            raise RuntimeError("a bare plan has no timesteps; start the run from a Sampler, or give a process")
        call = self._call()
        if self._timesteps is None:
            self._timesteps = self._uploaded(self._process.timestep(self._registers.plan.call_sigmas))
        return self._timesteps[call]

    def _call(self) -> int:
        """Index of the present call."""
        if self._registers.turn is None:
            raise RuntimeError("the run is done, so there is no level at which to call the model")
        return self._registers.calls

    def _uploaded(self, values: Any) -> Sequence[torch.Tensor]:
        """Host numbers, each expanded to every item of the batch, on the device."""
        registers = self._registers
        device, batch, dtype = registers.device, registers.shape[0], registers.compute
        # nothing can be copied from the host during capture
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return [torch.full((batch,), value, dtype=dtype, device=device) for value in values.tolist()]
        table = torch.tensor(values.tolist(), dtype=dtype, device="cpu").view(-1, 1)
        if batch != 1:
            table = table.expand(-1, batch).contiguous()
        return table.to(device, non_blocking=True).unbind()
