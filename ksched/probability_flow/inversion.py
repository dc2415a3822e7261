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

from ksched.execution.loop import run_plan
from ksched.plan.plan import Plan
from ksched.samplers.registry import sampler_spec
from ksched.samplers.spec import SamplerSpec
from ksched.schedules.grid import Grid

__all__ = ["invert", "rising_plans"]


MEMORY = 5  # earlier corrections that the next one is chosen with


_GOOD = 100  # times the goal: so near, an item is not tried with another plan


_NAMED = 5  # items that a warning names, at most


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
        hints = [f"{name}=0" for name, option in spec.own_options.items() if option.per_step and name != "s_noise"]
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


@torch.no_grad()
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
    ups : roughly its inverse; the next is tried for the items that corrections with one do not lead there
    denoiser, x, rounds, tolerance : as for `Sampler.invert`

    Notes
    -----
    z is corrected by what ``up`` makes of the error of its image: z + up(x) - up(down(z)). The corrections are combined
    by Anderson's method (1965) for each item, which for linear models solves the equations. An item that is done, or
    that cannot be inverted, changes nothing for the others.
    """
    if x.numel() == 0:
        return x.clone()
    dtype = torch.promote_types(x.dtype, torch.float32)
    aim, eps = x.to(dtype), torch.finfo(dtype).eps
    goal = 100 * eps if tolerance is None else tolerance
    first = run_plan(ups[0], denoiser, aim)
    best = _finite(first, aim)
    off = torch.full((len(aim),), math.inf, dtype=dtype, device=aim.device)
    for up in ups if rounds else ():
        best, off = _corrected(down, up, denoiser, aim, (best, off), rounds, goal)
        if bool((off <= _GOOD * goal).all()):
            break
    largest = torch.finfo(x.dtype).max
    fits = _whole(best.abs() <= largest)
    failed = ~fits | (off > max(goal, math.sqrt(eps))) if rounds else ~fits | ~_whole(first.isfinite())
    if bool(failed.any()):
        warnings.warn(_report(failed.tolist(), off.tolist()), RuntimeWarning, stacklevel=4)
    return best.clamp(-largest, largest).to(x.dtype)


def _report(failed: list[bool], off: list[float]) -> str:
    """Which items cannot be inverted, and by how much they miss."""
    items = [i for i, fails in enumerate(failed) if fails]
    words = [f"item {i} by {off[i]:.2g}" if math.isfinite(off[i]) else f"item {i} not at all" for i in items]
    more = f", and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return (
        f"the run does not come back to x for {len(items)} of {len(failed)} items: {', '.join(words[:_NAMED])}{more}. "
        "Their best starts found are returned"
    )


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

    An item that a correction takes out of sight goes back, and tries half of it. One that is at the goal stays there.
    """
    best, least = known
    wanted = run_plan(up, denoiser, aim)
    settled = least <= _GOOD * goal
    size = aim.abs().flatten(1).amax(1).clamp(min=1.0) if aim.ndim > 1 else aim.abs().clamp(min=1.0)
    z, share = best, torch.ones_like(least)
    origin, first_step = torch.zeros_like(best), best  # what leads to the best start, where that itself is out of sight
    past: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []  # (z, correction, which items it counts for)
    for _ in range(rounds):
        image = run_plan(down, denoiser, z)
        error = (image - aim).abs().reshape(len(aim), -1).amax(1) / size
        step = wanted - run_plan(up, denoiser, _finite(image, aim))
        usable = _whole(step.isfinite())
        # nothing is nearer or near than NaN; for linear models far is no harm
        nearer, near = (error < least) & ~settled, (error < 1000 * least) & usable
        best, least = _where(nearer, z, best), torch.where(nearer, error, least)
        origin, first_step = _where(nearer & usable, z, origin), _where(nearer & usable, step, first_step)
        share = torch.where(near, torch.ones_like(share), share / 2)
        settled = settled | (least <= goal)
        if bool(settled.all()):
            break
        past = [*((a, b, counts & near) for a, b, counts in past), (z, step, near)][-MEMORY:]
        back = origin + first_step * share.reshape(-1, *[1] * (step.ndim - 1))
        z = _where(settled, best, _finite(_where(near, _next(past, near & ~settled), back), best))
    return best, least


def _whole(entries: torch.Tensor) -> torch.Tensor:
    """For every item, whether all of its entries are true."""
    return entries.reshape(len(entries), -1).all(1)


def _where(items: torch.Tensor, new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    return torch.where(items.reshape(-1, *[1] * (new.ndim - 1)), new, old)


def _finite(states: torch.Tensor, instead: torch.Tensor) -> torch.Tensor:
    """States of finite numbers: an item that has another is replaced."""
    return _where(_whole(states.isfinite()), states, instead.nan_to_num(0.0, 0.0, 0.0))


def _next(past: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]], items: torch.Tensor) -> torch.Tensor:
    """Where Anderson's method goes from the last states and their corrections; for ``items``, each by itself."""
    z, step, _ = past[-1]
    following = z + step
    counts = torch.stack([counted for _, _, counted in past]).tolist()
    for i in items.nonzero().flatten().tolist():  # one after the other, so that no other item can change the last bit
        first = next(k for k, counted in enumerate(counts) if counted[i])
        moves, changes = (
            torch.stack([(later[part][i] - earlier[part][i]).flatten() for earlier, later in pairwise(past[first:])], 1)
            if first < len(past) - 1
            else None
            for part in (0, 1)
        )
        if moves is None or changes is None:
            continue
        moves, changes = moves.double(), changes.double()
        sizes = changes.norm(dim=0).clamp(min=1e-300)  # the last are far smaller than the first
        with contextlib.suppress(torch.linalg.LinAlgError):  # type: ignore[attr-defined]  # torch's stub omits it
            weights = torch.linalg.pinv(changes / sizes, rtol=1e-8) @ step[i].flatten().double()
            following[i] -= ((moves + changes) @ (weights / sizes)).to(z.dtype).reshape(z.shape[1:])
    return following
