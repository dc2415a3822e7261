"""A prediction together with products of its Jacobian, for rules that look through the denoiser."""

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


# Smallest alpha at which a Jacobian is read. The covariance of x0 is the Jacobian over alpha, 0 / 0 at alpha 0. Here it
# is right to 1e-3, in float32 too, where a velocity's Jacobian has lost three digits.
_LEAST_ALPHA = 1e-3


@dataclass(frozen=True)
class Placed:
    """Where the items of a batch stand.

    Attributes
    ----------
    sigma : what the denoiser is called with
    alpha, std : of the states, made to multiply them; alpha is at least 1e-3
    """

    sigma: torch.Tensor
    alpha: torch.Tensor
    std: torch.Tensor


@dataclass(frozen=True)
class Looked:
    """A prediction and what it is a function of.

    Attributes
    ----------
    denoised : prediction without a gradient, in the dtype of sums
    uncond : its twin, as the denoiser returned it; None if there is none
    pull : the transposed Jacobian of ``denoised`` by x, times a vector of the state's shape
    """

    denoised: torch.Tensor
    uncond: torch.Tensor | None
    pull: Callable[[torch.Tensor], torch.Tensor]

    def moved(self, step: torch.Tensor, dtype: torch.dtype) -> Any:
        """The denoiser's answer with a step added to the prediction, and to its twin if there is one."""
        denoised = (self.denoised + step).to(dtype)
        return denoised if self.uncond is None else (denoised, (self.uncond + step).to(dtype))


def highest_level(process: Process) -> float:
    """The largest sigma at which a Jacobian is read; inf where the signal of a state never fades."""
    level = process.level_at(math.log(_LEAST_ALPHA))
    return level.label if level.alpha < 0.5 else math.inf


def placed(process: Process, highest: float, x: torch.Tensor, sigma: Any, what: str) -> Placed:
    """Where a batch stands, moved off alpha 0.

    Parameters
    ----------
    process : of the states
    highest : from `highest_level`
    x, sigma : what a denoiser is called with
    what : whose process it is, for the message

    Raises
    ------
    ValueError : sigma comes from a run on another process
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
    """One model call whose Jacobian can be asked for; x is not written to, and the results hold no gradient.

    Raises
    ------
    ValueError : a prediction that autograd cannot follow back to x, or of another shape
    TypeError : no tensor
    """
    with gradients():
        leaf = (x.clone() if x.is_inference() else x.detach()).requires_grad_()
        first, uncond = answer(denoiser, leaf, sigma, both=True)
        denoised = checked_prediction("denoiser", first, x)
    if not denoised.requires_grad:
        raise ValueError(
            "the denoiser's prediction must have a gradient by x, and it has none: take torch.no_grad(), "
            "torch.inference_mode() and detach() out of it"
        )

    def pull(vector: torch.Tensor) -> torch.Tensor:
        (product,) = torch.autograd.grad(denoised, leaf, vector.to(denoised.dtype), retain_graph=True)
        return product.to(denoised.dtype)

    twin = None if uncond is None else checked_prediction("uncond", uncond, x).detach()
    return Looked(denoised.detach(), twin, pull)


@contextmanager
def gradients() -> Iterator[None]:
    """Autograd on, also inside of ``torch.no_grad`` and ``torch.inference_mode``."""
    with torch.inference_mode(False), torch.enable_grad():
        yield
