"""Host-side copies of the values in a tensor of sigmas, and of where the steps go, so that nothing is read back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from ksched.types import is_tensor

__all__ = ["carry", "carry_joined", "carry_rows", "host_goals", "host_levels"]

_LEVELS = "_ksched_host_levels"
_GOALS = "_ksched_host_goals"


def carry(sigma: Any, levels: Iterable[float] | None, goals: Iterable[float] | None = None) -> None:
    """Attach host numbers to a tensor of sigmas for a model; None attaches nothing.

    Parameters
    ----------
    sigma : Tensor
        A tensor of any shape.
    levels : iterable of float or None
        Its values in order, one per number.
    goals : iterable of float or None
        The sigmas that the steps from there jump to; NaN where the step is not a jump (see `ksched.plan.jumps`).
    """
    if levels is not None:
        setattr(sigma, _LEVELS, tuple(levels))
    if goals is not None:
        setattr(sigma, _GOALS, tuple(goals))


def host_levels(sigma: Any) -> tuple[float, ...] | None:
    """The values attached to a tensor of sigmas, one per number; None if there are none."""
    return getattr(sigma, _LEVELS, None) if is_tensor(sigma) else None


def host_goals(sigma: Any) -> tuple[float, ...] | None:
    """The sigmas attached to a tensor of sigmas as the steps' targets; None if there are none."""
    return getattr(sigma, _GOALS, None) if is_tensor(sigma) else None


def carry_joined(joined: Any, parts: Sequence[Any]) -> None:
    """Attach to concatenated sigmas the values of their parts, if every part has some."""
    known = [[found for part in parts if (found := read(part)) is not None] for read in (host_levels, host_goals)]
    carry(joined, *(sum(found, ()) if len(found) == len(parts) else None for found in known))


def carry_rows(chosen: Any, sigma: Any, rows: Iterable[int], *, highest: float = math.inf) -> None:
    """Attach to some rows of sigmas their values from the whole; values above ``highest`` become ``highest``."""
    every = list(rows)
    width = math.prod(sigma.shape[1:])
    numbers = [row * width + k for row in every for k in range(width)]
    levels, goals = (
        (None if found is None else [found[k] for k in numbers]) for found in (host_levels(sigma), host_goals(sigma))
    )
    carry(chosen, None if levels is None else [min(level, highest) for level in levels], goals)
