"""Paths of the exact probability-flow ODE in flow coordinates, ``dy/ds = (y - E[x0 | y]) / s``."""

from __future__ import annotations

from collections.abc import Callable

import torch
from scipy.integrate import DOP853

from ksched.exact.coordinates import Place, here
from ksched.types import Array

__all__ = ["follow"]


def follow(
    y: torch.Tensor,
    s: float,
    target: float,
    *,
    denoised: Callable[[Place], torch.Tensor],
    slope: Callable[[Place], torch.Tensor],
    settled: Callable[[Place], torch.Tensor],
    halves: bool,
) -> torch.Tensor:
    """States at ``target`` on the ODE paths that pass through y at s.

    Parameters
    ----------
    y : Tensor
        float64 states on the host, shape (batch, dimension).
    s, target : float
        Level of the states, and level to reach.
    denoised, slope : callable
        Posterior mean of x0 and dy/ds at a place, both (batch, dimension).
    settled : callable
        Items whose path is straight from a place down to s = 0, shape (batch,).
    halves : bool
        Whether to go down by halving s, removing settled items from the integrator after each halving.
    """
    while s != target:
        at, falling = here(y, s), target < s
        straight = settled(at) if falling else torch.zeros(len(y), dtype=torch.bool)
        # A settled item must leave the integrator, where (y - D) / s soon consists only of rounding errors.
        halve = falling and halves and not straight.all()
        stop = max(target, s / 2) if halve else target
        following = torch.empty_like(y)
        if straight.any():
            ends = denoised(at)[straight]
            following[straight] = ends + stop / s * (y[straight] - ends)
        if not straight.all():
            following[~straight] = _integrated(y[~straight], s, stop, slope)
        y, s = following, stop
    return y


def _integrated(y: torch.Tensor, s: float, target: float, slope: Callable[[Place], torch.Tensor]) -> torch.Tensor:
    """The same by DOP853, with all items as one system."""

    def derivative(s: float, flat: Array) -> Array:
        result: Array = slope(here(torch.from_numpy(flat).reshape(y.shape), s)).reshape(-1).numpy()
        return result

    solver = DOP853(derivative, s, y.reshape(-1).numpy(), target, rtol=1e-13, atol=1e-14)
    while solver.status == "running":
        failure = solver.step()
        if failure:
            raise ArithmeticError(f"the ODE could not be followed past s = {solver.t}: {failure}")
    return torch.from_numpy(solver.y).reshape(y.shape)
