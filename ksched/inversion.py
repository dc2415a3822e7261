"""From an image back to the noise that a deterministic sampler makes it of."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from ksched.grid import Grid
from ksched.plan import Plan
from ksched.registry import SamplerSpec, sampler_spec

__all__ = ["invert", "rising_plans"]

MEMORY = 5  # earlier corrections that the next one is chosen with


def rising_plans(spec: SamplerSpec, grid: Grid, options: dict[str, Any]) -> list[Plan]:
    """Plans of a sampler on a grid run upwards, from its last level to its first.

    Parameters
    ----------
    spec, options : of the sampler
    grid : of the run down; a last level of 0, where nothing can be divided by it, becomes a small one

    Returns
    -------
    the sampler's own plan, unless it has none on rising levels, as methods in log-SNR have not if the last of them is
    pure noise; then Euler's

    Raises
    ------
    ValueError : the sampler draws noise
    """
    if spec.adaptive:
        raise ValueError(f"{spec.name} chooses its steps by what it meets on the way, so it cannot be run back")
    if spec.plan(grid, options).draws:
        hints = [f"{name}=0" for name in ("eta", "tau", "s_churn") if name in spec.own_options]
        hint = f"give {' or '.join(hints)}" if hints else "take a deterministic one, such as euler or dpmpp_2m"
        raise ValueError(f"only a sampler without noise can be run back; {spec.name} draws some: {hint}")
    levels = list(grid.levels[::-1])
    if levels[0].sigma == 0 and len(levels) > 1:
        levels[0] = grid.process.level(min(1e-4, levels[1].label / 10))
    upwards = replace(grid, levels=tuple(levels))
    plans: list[Plan] = []
    with (
        np.errstate(all="ignore"),
        contextlib.suppress(ArithmeticError, LookupError, ValueError, np.linalg.LinAlgError),
    ):
        own = spec.plan(upwards, options)  # which refuses numbers that are not finite
        plans += [] if own.draws else [own]
    return [*plans, sampler_spec("euler").plan(upwards, {})]


def invert(
    down: Plan,
    ups: Sequence[Plan],
    denoiser: Callable[..., Any],
    x: torch.Tensor,
    rounds: int,
    tolerance: float | None,
) -> torch.Tensor:
    """The start that a plan turns into ``x``.

    Parameters
    ----------
    down : the plan to invert
    ups : roughly its inverse; the next is tried where corrections with one do not lead there
    denoiser, x, rounds, tolerance : as for `Sampler.invert`

    Notes
    -----
    z is corrected by what ``up`` makes of the error of its image: z + up(x) - up(down(z)). The corrections are combined
    by Anderson's method (1965) for each item, which for linear models solves the equations.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    aim, eps = x.to(dtype), torch.finfo(dtype).eps
    goal = 100 * eps if tolerance is None else tolerance
    start: torch.Tensor = ups[0].run(denoiser, aim)
    known = start, torch.full((len(aim),), math.inf, dtype=dtype, device=aim.device)
    for up in ups if rounds else ():
        known = _corrected(down, up, denoiser, aim, known, rounds, goal)
        if float(known[1].max()) <= 100 * goal:
            break
    worst = float(known[1].max()) if len(aim) else 0.0
    if rounds and worst > max(goal, math.sqrt(eps)):
        warnings.warn(f"the run does not come back to x: it is {worst:.2g} off", RuntimeWarning, stacklevel=3)
    return known[0].to(x.dtype)


def _corrected(
    down: Plan,
    up: Plan,
    denoiser: Callable[..., Any],
    aim: torch.Tensor,
    known: tuple[torch.Tensor, torch.Tensor],
    rounds: int,
    goal: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """For every item, the best start found in a number of rounds from the best one known, and its error.

    An item that a correction takes out of sight goes back, and tries half of it.
    """
    best, least = known
    wanted, batch = up.run(denoiser, aim), len(aim)
    size = aim.abs().reshape(batch, -1).amax(1).clamp(min=1.0)
    z, first_step, share = best, torch.zeros_like(best), torch.ones_like(least)
    past: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []  # (z, correction, which items it counts for)
    for _ in range(rounds):
        image = down.run(denoiser, z)
        error = (image - aim).abs().reshape(batch, -1).amax(1) / size
        nearer, near = error < least, error < 1000 * least  # nothing is near NaN; for linear models far is no harm
        step = wanted - up.run(denoiser, image)
        best, first_step = _where(nearer, z, best), _where(nearer, step, first_step)
        least = torch.where(nearer, error, least)
        share = torch.where(near, torch.ones_like(share), share / 2)
        if float(least.max()) <= goal:
            break
        back = best + first_step * share.reshape(-1, *[1] * (step.ndim - 1))
        past = [*((a, b, counts & near) for a, b, counts in past), (z, step, near)][-MEMORY:]
        z = _where(near, _next(past), back)
    return best, least


def _where(items: torch.Tensor, new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    return torch.where(items.reshape(-1, *[1] * (new.ndim - 1)), new, old)


def _next(past: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    """Where Anderson's method goes from the last states and their corrections, each item by itself."""
    z, step, _ = past[-1]
    if len(past) < 2:
        return z + step
    batch = len(z)
    moves, changes = (
        torch.stack(
            [(later[i] - earlier[i]).reshape(batch, -1) * earlier[2][:, None] for earlier, later in pairwise(past)], 2
        ).double()
        for i in (0, 1)
    )
    sizes = changes.norm(dim=1, keepdim=True).clamp(min=1e-300)  # the last are far smaller than the first
    weights = torch.linalg.pinv(changes / sizes, rtol=1e-8) @ step.reshape(batch, -1, 1).double()
    following: torch.Tensor = z + step - ((moves + changes) @ (weights / sizes.mT)).to(z.dtype).reshape(z.shape)
    return following
