"""A prediction together with products of its Jacobian, for rules that differentiate the denoiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ksched.denoisers.answer import Model, answer
from ksched.guidance.tensors import checked_prediction, per_item, sum_dtype
from ksched.processes import Process
from ksched.processes.agreement import check_sigma, mark, marks_of
from ksched.processes.host_levels import carry_rows

__all__ = ["Looked", "Placed", "gradients", "highest_level", "look", "placed"]


# Smallest alpha at which a Jacobian is read. The covariance of x0 is the Jacobian over alpha, which is 0 / 0 at alpha
# 0. At this alpha it is accurate to 1e-3 even in float32, where a velocity's Jacobian has lost three digits.
_LEAST_ALPHA = 1e-3


@dataclass(frozen=True)
class Placed:
    """Sigma, alpha and noise standard deviation of the items of a batch.

    Attributes
    ----------
    sigma : Tensor
        sigma that the denoiser is called with.
    alpha, std : Tensor
        alpha and noise standard deviation, shaped to multiply states; alpha is at least 1e-3.
    """

    sigma: torch.Tensor
    alpha: torch.Tensor
    std: torch.Tensor


@dataclass(frozen=True)
class Looked:
    """A prediction with products of its Jacobian.

    Attributes
    ----------
    denoised : Tensor
        Prediction without a gradient, in the dtype of sums.
    uncond : Tensor or None
        Its unconditional twin, as the denoiser returned it; None if there is none.
    pull : callable
        Maps a vector of the state's shape to the transposed Jacobian of ``denoised`` by x times that vector.
    """

    denoised: torch.Tensor
    uncond: torch.Tensor | None
    pull: Callable[[torch.Tensor], torch.Tensor]

    def moved(self, step: torch.Tensor, dtype: torch.dtype) -> Any:
        """The denoiser's answer with a step added to the prediction and, if there is one, to its twin."""
        denoised = (self.denoised + step).to(dtype)
        return denoised if self.uncond is None else (denoised, (self.uncond + step).to(dtype))


def highest_level(process: Process) -> float:
    """The largest sigma at which a Jacobian is read; inf if states always keep some signal."""
    level = process.level_at(math.log(_LEAST_ALPHA))
    return level.label if level.alpha < 0.5 else math.inf


def placed(process: Process, highest: float, x: torch.Tensor, sigma: Any, what: str) -> Placed:
    """Sigma, alpha and noise standard deviation of a batch, moved away from alpha 0.

    Parameters
    ----------
    process : Process
        Process of the states.
    highest : float
        Limit of sigma, from `highest_level`.
    x, sigma : Tensor or object
        Arguments that a denoiser is called with.
    what : str
        Name of what has the process, for the error message.

    Raises
    ------
    ValueError
        If sigma comes from a run on another process.
    """
    if not torch.compiler.is_compiling():
        check_sigma(process, sigma, what)
    near: torch.Tensor = sigma
    if not isinstance(sigma, torch.Tensor):
        near = torch.full((x.shape[0],), float(sigma), dtype=sum_dtype(x), device=x.device)
    if highest < math.inf:
        given, near = near, near.clamp_max(highest)
        if carried := marks_of(given):
            mark(near, carried)
        carry_rows(near, given, range(len(near)), highest=highest)
    exact = per_item(near.to(sum_dtype(x)), x)
    return Placed(near, process.alpha(exact), process.noise_std(exact))


def look(denoiser: Model, x: torch.Tensor, sigma: torch.Tensor) -> Looked:
    """One model call whose Jacobian can be multiplied; x is not modified, and the results carry no gradient.

    Raises
    ------
    ValueError
        If autograd cannot trace the prediction back to x, or the prediction has another shape.
    TypeError
        If the prediction is not a tensor.
    """
    with gradients():
        leaf = (x.clone() if x.is_inference() else x.detach()).requires_grad_()
        first, uncond = answer(denoiser, leaf, sigma, both=True)
        denoised = checked_prediction("denoiser", first, x)
    if not denoised.requires_grad:
        raise ValueError(
            "the denoiser's prediction must have a gradient with respect to x, and it has none; remove "
            "torch.no_grad(), torch.inference_mode() and detach() from it"
        )

    def pull(vector: torch.Tensor) -> torch.Tensor:
        (product,) = torch.autograd.grad(denoised, leaf, vector.to(denoised.dtype), retain_graph=True)
        return product.to(denoised.dtype)

    twin = None if uncond is None else checked_prediction("uncond", uncond, x).detach()
    return Looked(denoised.detach(), twin, pull)


@contextmanager
def gradients() -> Iterator[None]:
    """Turn autograd on, also inside of ``torch.no_grad`` and ``torch.inference_mode``."""
    with torch.inference_mode(False), torch.enable_grad():
        yield
