"""The one arithmetic operation of a run: a linear combination of tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch

__all__ = ["combine"]


def combine(terms: Sequence[tuple[torch.Tensor, float]]) -> torch.Tensor:
    """Sum of ``coefficient * tensor`` as a new tensor.

    Parameters
    ----------
    terms : tensors of one shape, dtype and device with host numbers; at least one. None of them is written to, and the
        result shares memory with none
    """
    (first, scale), *rest = terms
    total = first * scale
    for tensor, coefficient in rest:
        total.add_(tensor, alpha=coefficient)
    return total
