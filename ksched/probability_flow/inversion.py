"""Inversion: from an image back to the noise from which a deterministic sampler makes it."""

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


MEMORY = 5  # number of earlier corrections used to choose the next one


_GOOD = 100  # times the goal: an item this close is not tried with another plan


_NAMED = 5  # largest number of items that a warning names


def rising_plans(spec: SamplerSpec, grid: Grid, options: dict[str, Any]) -> list[Plan]:
    """Plans of a sampler on a grid run upwards, from its last level to its first.

    Parameters
    ----------
    spec, options : SamplerSpec or dict
        Of the sampler.
    grid : Grid
        Grid of the run down; a last level of 0, by which nothing can be divided, is replaced by a small one.

    Returns
    -------
    the sampler's own plan, then Euler's. Some samplers have no plan on rising levels, such as methods in log-SNR if the
    last level is pure noise; then only Euler's

    Raises
    ------
    ValueError
        If the sampler draws noise.
    """
    if spec.adaptive:
        raise ValueError(f"{spec.name} chooses its steps from the model's answers, so it cannot be inverted")
    if spec.plan(grid, options).draws:
        hints = [f"{name}=0" for name, option in spec.own_options.items() if option.per_step and name != "s_noise"]
        hint = f"give {' or '.join(hints)}" if hints else "use a deterministic sampler, such as euler or dpmpp_2m"
        raise ValueError(f"only a sampler without noise can be inverted; {spec.name} draws noise: {hint}")
    levels = list(grid.levels[::-1])
    if levels[0].sigma == 0 and len(levels) > 1:
        levels[0] = grid.process.level(min(1e-4, levels[1].label / 10))
    upwards = replace(grid, levels=tuple(levels))
    plans: list[Plan] = []
    with (
        np.errstate(all="ignore"),
        contextlib.suppress(ArithmeticError, LookupError, ValueError, np.linalg.LinAlgError),
    ):
        own = spec.plan(upwards, options)  # refuses numbers that are not finite
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
    down : Plan
        The plan to invert.
    ups : sequence of Plan
        Approximate inverses; if corrections with one fail for some items, the next one is tried for these.
    denoiser, x, rounds, tolerance : as for `Sampler.invert`

    Notes
    -----
    Each round corrects z by the image, under ``up``, of its error: z + up(x) - up(down(z)). Anderson's method (1965)
    combines the corrections for each item; for linear models it solves the equations. An item that is done, or that
    cannot be inverted, changes nothing for the others.
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
    """The items that cannot be inverted, and the size of their errors."""
    items = [i for i, fails in enumerate(failed) if fails]
    words = [f"item {i} by {off[i]:.2g}" if math.isfinite(off[i]) else f"item {i} not at all" for i in items]
    more = f", and {len(items) - _NAMED} more" if len(items) > _NAMED else ""
    return (
        f"sampling does not return x for {len(items)} of {len(failed)} items: {', '.join(words[:_NAMED])}{more}. "
        "The best starts found are returned for them"
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
    """For each item, the best start found in some rounds from the best one known, and its error.

    An item that a correction moves too far goes back and tries half of it. An item that has reached the goal stays.
    """
    best, least = known
    wanted = run_plan(up, denoiser, aim)
    settled = least <= _GOOD * goal
    size = aim.abs().flatten(1).amax(1).clamp(min=1.0) if aim.ndim > 1 else aim.abs().clamp(min=1.0)
    z, share = best, torch.ones_like(least)
    # the correction that led to the best start, which may be further back than `past`
    origin, first_step = torch.zeros_like(best), best
    past: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []  # (z, correction, items that it counts for)
    for _ in range(rounds):
        image = run_plan(down, denoiser, z)
        error = (image - aim).abs().reshape(len(aim), -1).amax(1) / size
        step = wanted - run_plan(up, denoiser, _finite(image, aim))
        usable = _whole(step.isfinite())
        # a comparison with NaN is false; for linear models, a distant point does no harm
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
    """For each item, whether all of its entries are true."""
    return entries.reshape(len(entries), -1).all(1)


def _where(items: torch.Tensor, new: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    return torch.where(items.reshape(-1, *[1] * (new.ndim - 1)), new, old)


def _finite(states: torch.Tensor, instead: torch.Tensor) -> torch.Tensor:
    """States of finite numbers; an item with any other number is replaced."""
    return _where(_whole(states.isfinite()), states, instead.nan_to_num(0.0, 0.0, 0.0))


def _next(past: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]], items: torch.Tensor) -> torch.Tensor:
    """The next states of Anderson's method, from the last states and corrections; computed separately for each item."""
    z, step, _ = past[-1]
    following = z + step
    counts = torch.stack([counted for _, _, counted in past]).tolist()
    for i in items.nonzero().flatten().tolist():  # one by one, so that no item changes the last bit of another
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
        sizes = changes.norm(dim=0).clamp(min=1e-300)  # later changes are far smaller than earlier ones
        with contextlib.suppress(torch.linalg.LinAlgError):  # type: ignore[attr-defined]  # torch's stub omits it
            weights = torch.linalg.pinv(changes / sizes, rtol=1e-8) @ step[i].flatten().double()
            following[i] -= ((moves + changes) @ (weights / sizes)).to(z.dtype).reshape(z.shape[1:])
    return following
