"""One call of a model, whether it returns one prediction or a pair."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

__all__ = ["Model", "answer", "pair_of"]


Model: TypeAlias = Callable[[torch.Tensor, torch.Tensor], Any]


def answer(model: Model, x: torch.Tensor, sigma: torch.Tensor, both: bool) -> tuple[Any, Any]:
    """One model call, as (denoised, uncond); uncond is None if the model returns none or ``both`` is False."""
    denoised, uncond = pair_of(model(x, sigma))
    return denoised, uncond if both else None


def pair_of(result: Any) -> tuple[Any, Any]:
    """A model's return value as (denoised, uncond); uncond is None if it is not a pair."""
    return result if isinstance(result, tuple) and len(result) == 2 else (result, None)
