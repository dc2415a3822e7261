"""Tensor arithmetic used by all guidance: sums in float32, lengths and directions per item."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import torch

from ksched.options import Between

__all__ = [
    "FINITE",
    "NOT_NEGATIVE",
    "NOT_NEGATIVE_FINITE",
    "SHARE",
    "TINY",
    "PairModel",
    "along",
    "check_callable",
    "checked_prediction",
    "item_dot",
    "item_rows",
    "item_std",
    "per_item",
    "sum_dtype",
    "towards",
]


PairModel: TypeAlias = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


FINITE = Between(-sys.float_info.max, sys.float_info.max)


NOT_NEGATIVE = Between(0.0, math.inf)


NOT_NEGATIVE_FINITE = Between(0.0, sys.float_info.max)


SHARE = Between(0.0, 1.0)


#: keeps a squared norm away from 0
TINY = torch.finfo(torch.float32).tiny


def sum_dtype(x: torch.Tensor) -> torch.dtype:
    """The dtype that sums are computed in: at least float32."""
    return torch.promote_types(x.dtype, torch.float32)


def towards(cond: torch.Tensor, direction: torch.Tensor, scale: Any) -> torch.Tensor:
    """``cond`` moved by scale - 1 times the direction; at scale 1 it is ``cond`` bit for bit."""
    guided: torch.Tensor = cond + (scale - 1) * direction
    return guided


def along(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The component of ``a`` along ``b``, per item; 0 where b is 0."""
    return item_dot(a, b) / item_dot(b, b).clamp_min(TINY) * b


def item_dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The dot product of every item, shaped to multiply a state."""
    return per_item((item_rows(a) * item_rows(b)).sum(1), a)


def item_std(a: torch.Tensor) -> torch.Tensor:
    """The standard deviation of every item, shaped to multiply a state."""
    rows = item_rows(a)
    return per_item(rows.std(1, correction=0) if rows.numel() else rows.new_zeros(len(rows)), a)


def item_rows(x: torch.Tensor) -> torch.Tensor:
    """One row of values per item, shape (batch, values)."""
    return x[..., None].flatten(1)


def per_item(value: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Numbers of shape (batch,) or () shaped to multiply a state."""
    return value.reshape(value.shape + (1,) * (x.ndim - value.ndim))


def check_callable(name: str, value: Any, form: str = "(x, sigma) -> denoised") -> None:
    """Raise TypeError unless the value can be called."""
    if not callable(value):
        raise TypeError(f"{name} must be callable, {form}; got {type(value).__name__}")


def checked_prediction(name: str, value: Any, x: torch.Tensor, copy: bool = False) -> torch.Tensor:
    """A prediction, checked and converted to the dtype of sums."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name} must return a tensor; got {type(value).__name__}")
    if value.shape != x.shape:
        raise ValueError(f"{name} must return the state's shape {tuple(x.shape)}; got {tuple(value.shape)}")
    return value.to(sum_dtype(x), copy=copy)
