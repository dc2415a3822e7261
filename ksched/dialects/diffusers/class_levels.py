"""The sigmas of a scheduler class for a whole configuration, including settings that do not affect them."""

from __future__ import annotations

from typing import Any

from ksched.dialects.diffusers.betas import Settings
from ksched.dialects.diffusers.classes import settings_of, stock_class
from ksched.dialects.diffusers.level_blocks import DiffusersLevels
from ksched.dialects.diffusers.levels import diffusers_levels
from ksched.types import ArrayLike

__all__ = ["stock_levels"]


def stock_levels(
    stock: str,
    config: Settings,
    steps: int | None,
    timesteps: ArrayLike | None = None,
    sigmas: ArrayLike | None = None,
    mu: float | None = None,
    original_inference_steps: int | None = None,
    strength: float = 1.0,
    **angles: float | None,
) -> tuple[DiffusersLevels, int]:
    """Sigmas and timesteps of a class, and the number of steps that it counts."""
    given: dict[str, Any] = {"timesteps": timesteps, "sigmas": sigmas, "mu": mu}
    given |= {"original_inference_steps": original_inference_steps, **angles}
    known = settings_of(stock)
    settings = {name: value for name, value in config.items() if value is not None and name in known}
    name = stock_class(stock).levels or stock
    asked: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    levels = diffusers_levels(name, settings, steps, strength=strength, **asked)
    return levels, len(levels.timesteps) if steps is None else steps
