"""One call of a model, whatever form its answer has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch

__all__ = ["Model", "answer", "pair_of"]


Model: TypeAlias = Callable[[torch.Tensor, torch.Tensor], Any]


def answer(model: Model, x: torch.Tensor, sigma: torch.Tensor, both: bool) -> tuple[Any, Any]:
    """One model call, as (denoised, uncond); a model may always return the pair, a sampler may not need it."""
    denoised, uncond = pair_of(model(x, sigma))
    return denoised, uncond if both else None


def pair_of(result: Any) -> tuple[Any, Any]:
    """What a model returned, as (denoised, uncond); None where it returned no pair."""
    return result if isinstance(result, tuple) and len(result) == 2 else (result, None)
