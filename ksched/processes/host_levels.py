"""Sigmas on a device that go with their values on the host, so that nobody has to read them back to choose by them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ksched.types import is_tensor

__all__ = ["carry", "host_levels"]

_HOST = "_ksched_host_levels"


def carry(sigma: Any, levels: Iterable[float] | None) -> None:
    """Let a tensor of sigmas for a model carry their values on the host, one per item; None is nothing."""
    if levels is not None:
        setattr(sigma, _HOST, tuple(levels))


def host_levels(sigma: Any) -> tuple[float, ...] | None:
    """The values that a tensor of sigmas came with, one per item; None if it came with none."""
    return getattr(sigma, _HOST, None) if is_tensor(sigma) else None
