"""Denoisers that edit the prediction of another one: clipping, thresholding, inpainting."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import torch

from ksched.denoisers.answer import Model, answer
from ksched.guidance.scale import checked_number
from ksched.guidance.tensors import SHARE, check_callable, checked_prediction, item_rows, per_item, sum_dtype
from ksched.noise.seeded import SeededNoise
from ksched.noise.sources import Seed, item_seeds
from ksched.options import Between
from ksched.plan.rows import Draw
from ksched.processes import Process
from ksched.processes.agreement import check_sigma
from ksched.processes.base import check_process

__all__ = ["clip", "dynamic_thresholding", "inpaint"]


def clip(denoiser: Model, low: float = -1.0, high: float = 1.0) -> Model:
    """A denoiser whose prediction, and ``uncond`` too, is clipped to a range.

    Parameters
    ----------
    denoiser : callable
        Denoiser to wrap.
    low, high : float
        Range of the data, low < high. Meant for pixels, since latents have no fixed range.

    Returns
    -------
    callable
        Denoiser that returns a pair or a tensor as ``denoiser`` does.

    Raises
    ------
    TypeError, ValueError
        If ``denoiser`` cannot be called, or the bounds are out of order; at a call, a prediction has the wrong type or
        shape.

    Notes
    -----
    This is diffusers' ``clip_sample``.
    """
    low, high = (
        checked_number("clip", name, value, Between(-math.inf, math.inf))
        for name, value in (("low", low), ("high", high))
    )
    if not low < high:
        raise ValueError(f"clip: low must be below high; got low={low}, high={high}")
    return _edited(denoiser, lambda denoised: denoised.clamp(low, high))


def dynamic_thresholding(denoiser: Model, percentile: float = 0.995, max_value: float = math.inf) -> Model:
    """A denoiser whose prediction is clipped to [-s, s] and divided by s, where s is a quantile of each item.

    ``uncond``, if there is one, has its own s.

    Parameters
    ----------
    denoiser : callable
        Denoiser to wrap.
    percentile : float
        s is this quantile of the absolute values of an item, but at least 1; 0 to 1.
    max_value : float
        Largest s, above 0. If it is below 1, s is ``max_value`` itself, as in diffusers, whose default of 1 makes this
        `clip` to [-1, 1].

    Returns
    -------
    callable
        Denoiser that returns a pair or a tensor as ``denoiser`` does, with values in [-1, 1].

    Raises
    ------
    TypeError, ValueError
        If ``denoiser`` cannot be called, or an option is out of range; at a call, a prediction has the wrong type or
        shape.

    Notes
    -----
    Saharia et al. 2022, arXiv:2205.11487, section 2.3. The quantile is interpolated linearly as by ``torch.quantile``,
    but items may be of any size.
    """
    percentile = checked_number("dynamic_thresholding", "percentile", percentile, SHARE)
    max_value = checked_number("dynamic_thresholding", "max_value", max_value, Between(sys.float_info.min, math.inf))

    def threshold(denoised: torch.Tensor) -> torch.Tensor:
        size = item_rows(denoised).abs()
        place = percentile * (size.shape[1] - 1)
        rank = math.floor(place)
        # torch.quantile raises an error for more than 2 ** 24 values, and sorts all of them.
        largest = size.topk(size.shape[1] - rank, dim=1).values
        below, above = largest[:, -1], largest[:, -2:][:, 0]
        s = per_item(torch.lerp(below, above, place - rank).clamp(1, max_value), denoised)
        return denoised.clamp(-s, s) / s

    return _edited(denoiser, threshold)


def inpaint(
    denoiser: Model,
    mask: torch.Tensor | Callable[[torch.Tensor], torch.Tensor],
    original: torch.Tensor,
    process: Process,
    *,
    noise: torch.Tensor | Seed,
) -> Model:
    """A denoiser that samples only the masked part of an image and keeps the rest.

    Before each call, the kept part of x is replaced by ``original`` noised to sigma; after it, the kept part of the
    prediction is replaced by ``original``. A run to sigma 0 therefore returns ``original`` where the mask is 0. This
    holds bit for bit with samplers whose last step returns the prediction, which is all but `cfgpp_ud10_ab`; with that
    one it holds to rounding.

    Parameters
    ----------
    denoiser : callable
        Denoiser to wrap.
    mask : Tensor or callable
        1 where to sample, 0 where to keep, values between for a soft edge. It has the rank of ``original``, and each
        axis has the same length or 1. A function of sigma (shape (batch,), on the device) that returns such a mask
        gives differential diffusion.
    original : Tensor
        x0, with the shape and device of the state.
    process : Process
        The sampler's process.
    noise : Tensor, int or sequence of int
        Unit-variance noise of ``original``'s shape, preferably that of the start state; or a seed, as for
        `ksched.Sampler.sample`. One draw is used for the whole run.

    Returns
    -------
    callable
        Denoiser that returns a pair or a tensor as ``denoiser`` does; ``original`` is put into ``uncond`` too.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or shape, or the mask leaves [0, 1]; at a call, x has another shape or device
        than ``original``, or the prediction or mask has the wrong type or shape.

    Notes
    -----
    Equals ComfyUI's masked sampling.
    """
    check_callable("denoiser", denoiser)
    check_process(process)
    if not isinstance(original, torch.Tensor) or not original.is_floating_point() or original.ndim == 0:
        raise TypeError("original must be a floating-point tensor, batch first; got " + _described(original))
    mask_at = _mask_function(mask, original)
    if isinstance(noise, torch.Tensor):
        eps = noise.to(original.device)
    else:
        eps = SeededNoise(item_seeds(noise, original.shape[0]))(Draw(math.inf, math.inf), original.float())
    if eps.shape != original.shape:
        raise ValueError(f"noise must have original's shape {tuple(original.shape)}; got {tuple(eps.shape)}")

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> Any:
        if x.shape != original.shape or x.device != original.device:
            raise ValueError(
                f"original must have the state's shape {tuple(x.shape)} and be on its device {x.device}; got "
                f"{tuple(original.shape)} on {original.device}"
            )
        if not torch.compiler.is_compiling():
            check_sigma(process, sigma, "the inpainting")
        kind = sum_dtype(x)
        share, clean = mask_at(sigma).to(kind), original.to(kind)
        noised = process.add_noise(clean, eps.to(kind), sigma.to(kind))
        seen = _mixed(noised, x.to(kind), share).to(x.dtype)
        return _edited(denoiser, lambda denoised: _mixed(clean, denoised, share))(seen, sigma)

    return denoise


def _edited(denoiser: Model, edit: Callable[[torch.Tensor], torch.Tensor]) -> Model:
    """A denoiser with each of its predictions edited."""
    check_callable("denoiser", denoiser)

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> Any:
        first, second = answer(denoiser, x, sigma, both=True)
        denoised = edit(checked_prediction("denoiser", first, x)).to(x.dtype)
        return denoised if second is None else (denoised, edit(checked_prediction("uncond", second, x)).to(x.dtype))

    return denoise


def _mixed(kept: torch.Tensor, sampled: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The blend of two states; where the mask is 0 it is exactly ``kept``, even if the other has nan."""
    return torch.where(mask > 0, torch.lerp(kept, sampled, mask), kept)


def _mask_function(mask: Any, original: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """The mask as a function of sigma, checked."""
    if not isinstance(mask, torch.Tensor):
        if not callable(mask):
            raise TypeError(f"mask must be a tensor or a function sigma -> tensor; got {type(mask).__name__}")
        return lambda sigma: _fitting(mask(sigma), original)
    fixed = _fitting(mask, original).to(original.device)
    if not bool(((fixed >= 0) & (fixed <= 1)).all()):
        raise ValueError(f"mask must lie in [0, 1], 1 where to sample; got {fixed.min()} to {fixed.max()}")
    return lambda sigma: fixed


def _fitting(mask: Any, original: torch.Tensor) -> torch.Tensor:
    if not isinstance(mask, torch.Tensor):
        raise TypeError(f"mask(sigma) must return a tensor; got {type(mask).__name__}")
    if mask.ndim != original.ndim or any(m not in (1, n) for m, n in zip(mask.shape, original.shape, strict=True)):
        raise ValueError(
            f"mask must have the rank of original, {tuple(original.shape)}, each axis of equal length or 1; got "
            f"{tuple(mask.shape)}. Add the missing axes, as in mask[None, None]"
        )
    return mask


def _described(value: Any) -> str:
    return f"{value.dtype} of rank {value.ndim}" if isinstance(value, torch.Tensor) else type(value).__name__
