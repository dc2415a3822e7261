"""A flow process whose network is told a timestep that is not exactly ``timestep_scale * sigma``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from ksched.processes import Flow, Process, TrigFlow
from ksched.types import Array, is_tensor

__all__ = ["FlowAsTold", "as_told"]

#: how far a told timestep may lie from the process's own, relative, and still be the same
_SAME = 1e-9


@dataclass(frozen=True, repr=False)
class FlowAsTold(Flow):
    """A `Flow` whose network is told a table of timesteps; linear between the levels of the table.

    UniPC and DPM-Solver of diffusers tell whole numbers, which their levels are not.

    Parameters
    ----------
    shift, num_timesteps, timestep_scale, noise_scale : as for `Flow`
    levels : sigmas of the table, rising
    told : what the network is told at each, rising
    """

    levels: tuple[float, ...] = field(default=(0.0, 1.0), kw_only=True)
    told: tuple[float, ...] = field(default=(0.0, 1000.0), kw_only=True)

    def _timestep(self, sigma: Any, xp: Any) -> Any:
        return _between(sigma, self.levels, self.told, xp)

    def _sigma(self, timestep: Any, xp: Any) -> Any:
        return _between(timestep, self.told, self.levels, xp)

    def __repr__(self) -> str:
        own = {f.name for f in fields(Flow)}
        shown = [f.name for f in fields(self) if f.name in own and f.repr]
        values = ", ".join(f"{name}={getattr(self, name)!r}" for name in shown)
        return f"FlowAsTold({values}, <{len(self.told)} timesteps>)"


def as_told(processes: Sequence[Process], levels: Array, told: Array) -> Process:
    """The process that tells a network these timesteps at these levels.

    Parameters
    ----------
    processes : that mean the states of the run, the likeliest first
    levels : of the model calls
    told : the timestep of each
    """
    for process in processes:
        if np.allclose(process.timestep(levels), told, rtol=_SAME, atol=_SAME):
            return process
    process = processes[0]
    if isinstance(process, TrigFlow) and np.isinf(levels[0]):
        return replace(process, noise_angle=float(told[0]))
    if type(process) is not Flow:
        return process
    own = {name: getattr(process, name) for name in ("shift", "num_timesteps", "timestep_scale", "noise_scale")}
    table = dict(zip(levels.tolist(), told.tolist(), strict=True))
    ends = {0.0: 0.0, 1.0: process.timestep_scale}
    pairs = sorted(({} if 1.0 in table else ends) | {0.0: 0.0} | table)
    told_at = ends | table
    return FlowAsTold(**own, levels=tuple(pairs), told=tuple(told_at[level] for level in pairs))


def _between(value: Any, xs: tuple[float, ...], ys: tuple[float, ...], xp: Any) -> Any:
    """Linear interpolation, for arrays and tensors."""
    if not is_tensor(value):
        return np.interp(value, xs, ys)
    x, y = value.new_tensor(xs), value.new_tensor(ys)
    low = (xp.searchsorted(x, value.contiguous(), side="right") - 1).clamp(0, len(xs) - 2)
    return y[low] + (value - x[low]) * ((y[low + 1] - y[low]) / (x[low + 1] - x[low]))
