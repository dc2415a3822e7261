"""Aliases of arrays and tensors, and how a frozen class sets its own fields."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch

__all__ = ["Array", "ArrayLike", "Tensor", "is_tensor", "set_fields"]

Array: TypeAlias = npt.NDArray[np.float64]
ArrayLike: TypeAlias = npt.ArrayLike
Tensor: TypeAlias = "torch.Tensor"


def is_tensor(value: Any) -> bool:
    """Whether ``value`` is a torch tensor, without importing torch to find out."""
    return type(value).__module__.partition(".")[0] == "torch" or hasattr(value, "__torch_function__")


def set_fields(instance: object, **values: object) -> None:
    """Set fields of a frozen dataclass while it is being built, for values that follow from the other fields."""
    for name, value in values.items():
        object.__setattr__(instance, name, value)
