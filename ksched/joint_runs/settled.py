"""What the model sees and no step changes: context that was given, and the result of a run that is done."""

from __future__ import annotations

import torch

from ksched.execution.registers import WRITTEN
from ksched.kernels.torch_internals import writes_to
from ksched.processes.host_levels import carry

__all__ = ["Settled"]


class Settled:
    """A state at its last level.

    Parameters
    ----------
    x : the state, which is handed out as it is
    sigma, timestep : where it is, host numbers

    Attributes
    ----------
    x : the state
    sigma, timestep : of shape (batch,), in float32 at least
    """

    def __init__(self, x: torch.Tensor, sigma: float = 0.0, timestep: float = 0.0) -> None:
        self.x = x
        dtype = torch.promote_types(x.dtype, torch.float32)
        self.sigma = torch.full((len(x),), sigma, dtype=dtype, device=x.device)
        carry(self.sigma, (sigma,) * len(x), (sigma,) * len(x))  # it stays there
        self.timestep = torch.full((len(x),), timestep, dtype=dtype, device=x.device)
        self._writes = writes_to(x)

    def check(self) -> None:
        """Raise RuntimeError if somebody has written to the state."""
        if writes_to(self.x) != self._writes:
            raise RuntimeError(WRITTEN)
