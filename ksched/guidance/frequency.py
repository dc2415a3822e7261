"""Guidance with a separate scale for each frequency band."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ksched.denoisers.answer import Model
from ksched.guidance.rules import guided
from ksched.guidance.scale import Scale, checked_number, scale_function
from ksched.guidance.tensors import FINITE, PairModel, along
from ksched.kernels.axis_maps import doubling, halving, last_axes
from ksched.kernels.on_device import map_axis_on

__all__ = ["fdg"]


def fdg(cond: Model, uncond: Model | None, scales: Sequence[Scale], *, parallel: float = 1.0) -> PairModel:
    """Frequency-decoupled guidance (FDG): bands of a Laplacian pyramid with separate scales.

    Details can then be guided more strongly than the composition.

    Parameters
    ----------
    cond, uncond : callable or None
        As for `cfg`.
    scales : sequence of (float or callable)
        Scales of the bands from the finest to the coarsest, each as for `cfg`, so `within` may limit one. Each band has
        half the resolution of the one before. diffusers' default is (10, 5). A single scale gives `cfg`.
    parallel : float
        Share that is kept of each band's component parallel to the conditional prediction's band; 1 keeps it all.

    Returns
    -------
    callable
        Denoiser that returns (guided, uncond); with ``parallel=1`` and equal scales it is `cfg` to rounding.

    Raises
    ------
    TypeError, ValueError
        As for `cfg`, or if ``scales`` is not a list with at least one scale; ``parallel`` is not finite.

    Notes
    -----
    Sadat et al. 2025, arXiv:2506.19713: ``cond + (scale - 1) * update`` in every band. With ``parallel=1`` this equals
    diffusers, for x0 and every other prediction. Otherwise diffusers adds ``scale * update`` to ``uncond``; to get the
    same there, pass ``use_original_formulation`` and scales that are lower by 1.

    Bands lie along the last two axes of a state, or along as many as follow batch and channel. A level of the pyramid
    is the one before it, blurred by (1, 4, 6, 4, 1) / 16 with mirrored ends and interpolated to half the size, as in
    kornia. Axes may have any length, since half sizes are rounded up. (kornia enlarges images whose size is not a power
    of two, and diffusers then raises an error.)
    """
    if not isinstance(scales, Sequence) or isinstance(scales, str) or not scales:
        raise TypeError(f"fdg: scales must be a list of scales, finest band first, such as (10, 5); got {scales!r}")
    weights = [scale_function("fdg", scale) for scale in scales]
    parallel = checked_number("fdg", "parallel", parallel, FINITE)

    def rule(x: torch.Tensor, sigma: torch.Tensor, c: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        bands = laplacian(c - u, len(weights))
        if parallel != 1:
            of_cond = laplacian(c, len(weights))
            bands = [band - (1 - parallel) * along(band, own) for band, own in zip(bands, of_cond, strict=True)]
        scaled = [(weigh(sigma, x) - 1) * band for weigh, band in zip(weights, bands, strict=True)]
        return c + collapsed(scaled)

    return guided(cond, uncond, rule)


def laplacian(x: torch.Tensor, levels: int) -> list[torch.Tensor]:
    """The bands of a Laplacian pyramid, finest first; the last is the remaining coarse image."""
    bands = []
    for _ in range(levels - 1):
        smaller = x
        for axis in last_axes(x.ndim):
            smaller = map_axis_on(halving(x.shape[axis]), smaller, axis)
        bands.append(x - _enlarged(smaller, x))
        x = smaller
    return [*bands, x]


def collapsed(bands: Sequence[torch.Tensor]) -> torch.Tensor:
    """The tensor that has these bands."""
    result = bands[-1]
    for band in reversed(bands[:-1]):
        result = _enlarged(result, band) + band
    return result


def _enlarged(x: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A level resized to the size of the one before it."""
    for axis in last_axes(x.ndim):
        x = map_axis_on(doubling(like.shape[axis]), x, axis)
    return x
