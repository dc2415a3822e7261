"""A flow process whose network takes timesteps that are not exactly ``timestep_scale * sigma``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from ksched.processes import Flow, Process, TrigFlow
from ksched.types import Array, is_tensor

__all__ = ["FlowAsTold", "as_told"]

#: relative difference below which a timestep counts as the process's own
_SAME = 1e-9


@dataclass(frozen=True, repr=False)
class FlowAsTold(Flow):
    """A `Flow` with a table of timesteps for the network, interpolated linearly between its sigmas.

    diffusers' UniPC and DPM-Solver round timesteps to whole numbers, so they do not match the sigmas.

    Parameters
    ----------
    shift, num_timesteps, timestep_scale, noise_scale : float
        As for `Flow`.
    levels : tuple of float
        Rising sigmas of the table.
    told : tuple of float
        Rising timesteps of the table.
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
    """The process with these timesteps at these sigmas.

    Parameters
    ----------
    processes : sequence of Process
        Processes with the states of the run, the most likely first.
    levels : ndarray of float64
        Sigmas of the model calls.
    told : ndarray of float64
        Timestep of each call.
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
