"""Parts that the model receives but no step changes: clean context, and the result of a run that is done."""

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
    x : Tensor
        The state, which is handed out directly.
    sigma, timestep : float
        Its level, as host numbers.

    Attributes
    ----------
    x : Tensor
        The state.
    sigma, timestep : float
        Of shape (batch,), in at least float32.
    """

    def __init__(self, x: torch.Tensor, sigma: float = 0.0, timestep: float = 0.0) -> None:
        self.x = x
        dtype = torch.promote_types(x.dtype, torch.float32)
        self.sigma = torch.full((len(x),), sigma, dtype=dtype, device=x.device)
        carry(self.sigma, (sigma,) * len(x), (sigma,) * len(x))  # it stays there
        self.timestep = torch.full((len(x),), timestep, dtype=dtype, device=x.device)
        self._writes = writes_to(x)

    def check(self) -> None:
        """Raise RuntimeError if the state was written to."""
        if writes_to(self.x) != self._writes:
            raise RuntimeError(WRITTEN)
