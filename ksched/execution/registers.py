"""What a run checks of its states and of a model's answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["FED_TWICE", "WRITTEN", "check_output", "check_state", "writes_to"]


WRITTEN = (
    "the model, like a callback, must leave the x that it is called with as it is; it wrote to it: give it x.clone()"
)


FED_TWICE = "a run belongs to one thread at a time, and another one is feeding it, or was interrupted while it did"


def writes_to(tensor: torch.Tensor) -> int:
    """How often torch has counted a write to a tensor or a view of it; 0 where it does not count."""
    try:
        return tensor._version
    except RuntimeError:  # made in inference mode
        return 0


def check_state(x: Any) -> None:
    """Raise unless ``x`` is a floating-point tensor with a batch axis."""
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"x must be a torch tensor; got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"x must be a floating-point tensor; got {x.dtype}")
    if x.ndim == 0:
        raise ValueError("x must have a batch axis first; got a tensor of no dimensions")


def check_output(kind: str, value: Any, shape: Sequence[int], device: torch.device) -> None:
    """Raise unless an output of the model, "D" or "U", is a tensor like the state."""
    if isinstance(value, torch.Tensor) and value.shape == shape and value.device == device:
        return
    what = {"D": "denoised", "U": "uncond"}[kind]
    if value is None and kind == "U":
        raise TypeError("this sampler needs (denoised, uncond) from the model; it returned denoised alone")
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{what} must be a tensor; got {type(value).__name__}")
    if value.device != device:
        raise ValueError(f"{what} must be on the state's device {device}; got {value.device}")
    raise ValueError(f"{what} must have the state's shape {tuple(shape)}; got {tuple(value.shape)}")
