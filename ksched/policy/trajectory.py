"""A recorded run: its states, and the log-probabilities of its noisy steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

__all__ = ["Trajectory"]


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The record of a run by `ksched.Sampler.rollout`: plain tensors and numbers, which can be saved and sent.

    Attributes
    ----------
    states : tuple of Tensor
        The state of each model call, and the result, in at least float32, each of shape (batch, ...).
    log_prob : Tensor
        Log-probability of each noisy step, summed over all numbers of an item; shape (noisy steps, batch).
    steps : tuple of int
        Schedule step of each row of ``log_prob``.
    dtype : dtype
        Dtype of the states that the model received, and of the result.
    plan : str
        Digest of the plan.
    seeds : tuple of int or None
        Seeds of the items; None for noise of your own.
    """

    states: tuple[torch.Tensor, ...]
    log_prob: torch.Tensor
    steps: tuple[int, ...]
    dtype: torch.dtype
    plan: str
    seeds: tuple[int, ...] | None

    @property
    def x(self) -> torch.Tensor:
        """The result: that of `ksched.Sampler.sample` with the same arguments, bit for bit."""
        return self.states[-1].to(self.dtype)

    def __len__(self) -> int:
        """Number of items."""
        return len(self.states[0])

    def take(self, indices: Sequence[int] | torch.Tensor) -> Trajectory:
        """The trajectory of some items, in the given order, such as a minibatch.

        Parameters
        ----------
        indices : sequence of int or Tensor
            Whole numbers, or a tensor of whole numbers.

        Raises
        ------
        TypeError, IndexError
            For indices that are not whole numbers, or have no item.
        """
        index = torch.as_tensor(indices, device="cpu")
        if index.ndim != 1 or index.is_floating_point() or index.dtype == torch.bool:
            raise TypeError(f"indices must be a one-dimensional list of whole numbers; got {indices!r}")
        index = index.to(torch.int64)
        if index.numel() and not (-len(self) <= int(index.min()) and int(index.max()) < len(self)):
            raise IndexError(f"indices must be those of {len(self)} items; got {indices!r}")
        index = index.remainder(max(len(self), 1))
        seeds = None if self.seeds is None else tuple(self.seeds[i] for i in index.tolist())
        there = index.to(self.states[0].device)
        states = tuple(state.index_select(0, there) for state in self.states)
        return replace(self, states=states, log_prob=self.log_prob.index_select(1, there), seeds=seeds)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Trajectory:
        """The trajectory with its tensors moved to a device."""
        moved: dict[str, Any] = {"log_prob": self.log_prob.to(device, non_blocking=non_blocking)}
        states = tuple(state.to(device, non_blocking=non_blocking) for state in self.states)
        return replace(self, states=states, **moved)

    def __repr__(self) -> str:
        shape = tuple(self.states[0].shape)
        return f"Trajectory(states={len(self.states)} of {shape}, steps={self.steps}, dtype={self.dtype})"
