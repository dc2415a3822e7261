"""What a tensor of sigmas tells on the host: its values, and where the steps from there go; nobody reads them back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from ksched.types import is_tensor

__all__ = ["carry", "carry_joined", "carry_rows", "host_goals", "host_levels"]

_LEVELS = "_ksched_host_levels"
_GOALS = "_ksched_host_goals"


def carry(sigma: Any, levels: Iterable[float] | None, goals: Iterable[float] | None = None) -> None:
    """Let a tensor of sigmas for a model carry numbers on the host; None is nothing.

    Parameters
    ----------
    sigma : of any shape
    levels : its values, one per number of it, in order
    goals : the sigmas that the steps from there jump to; NaN where the step is no jump (see `ksched.plan.jumps`)
    """
    if levels is not None:
        setattr(sigma, _LEVELS, tuple(levels))
    if goals is not None:
        setattr(sigma, _GOALS, tuple(goals))


def host_levels(sigma: Any) -> tuple[float, ...] | None:
    """The values that a tensor of sigmas came with, one per number of it; None if it came with none."""
    return getattr(sigma, _LEVELS, None) if is_tensor(sigma) else None


def host_goals(sigma: Any) -> tuple[float, ...] | None:
    """Where the steps from a tensor of sigmas go, as it came with it; None if it came with nothing."""
    return getattr(sigma, _GOALS, None) if is_tensor(sigma) else None


def carry_joined(joined: Any, parts: Sequence[Any]) -> None:
    """Let sigmas that were put one below the other carry what the parts did, if all did."""
    known = [[found for part in parts if (found := read(part)) is not None] for read in (host_levels, host_goals)]
    carry(joined, *(sum(found, ()) if len(found) == len(parts) else None for found in known))


def carry_rows(chosen: Any, sigma: Any, rows: Iterable[int], *, highest: float = math.inf) -> None:
    """Let some rows of sigmas carry what they did in the whole; values above ``highest`` as that."""
    every = list(rows)
    width = math.prod(sigma.shape[1:])
    numbers = [row * width + k for row in every for k in range(width)]
    levels, goals = (
        (None if found is None else [found[k] for k in numbers]) for found in (host_levels(sigma), host_goals(sigma))
    )
    carry(chosen, None if levels is None else [min(level, highest) for level in levels], goals)
