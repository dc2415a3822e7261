"""How `KSchedScheduler` drives a run step by step."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["identity_mark", "split_variance"]


def split_variance(output: torch.Tensor, sample: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The prediction of a network, and the variance it may have predicted beside it."""
    if not isinstance(output, torch.Tensor) or not isinstance(sample, torch.Tensor):
        raise TypeError(f"model_output and sample must be tensors; got {type(output)} and {type(sample)}")
    if output.shape == sample.shape:
        return output, None
    if output.ndim == sample.ndim > 1 and output.shape[1] == 2 * sample.shape[1]:
        prediction, variance = output.chunk(2, dim=1)
        if prediction.shape == sample.shape:
            return prediction, variance
    raise ValueError(
        f"model_output must have sample's shape {tuple(sample.shape)}, or twice its channels; got {tuple(output.shape)}"
    )


def identity_mark(tensor: torch.Tensor) -> tuple[Any, ...] | None:
    """What tells whether a tensor is one that was handed out, unchanged; None if nothing can."""
    if tensor.is_inference():
        return None
    return tensor.data_ptr(), tensor._version, tensor.shape, tensor.dtype
