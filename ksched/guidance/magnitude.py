"""Guidance that depends on the lengths and angles of the two network outputs."""

from __future__ import annotations

import torch

from ksched.denoisers.answer import Model
from ksched.guidance.rules import guided, output_origin
from ksched.guidance.scale import Scale, checked_number, scale_function
from ksched.guidance.tensors import NOT_NEGATIVE_FINITE, TINY, PairModel, item_dot, towards
from ksched.names.enums import Prediction
from ksched.processes import Process

__all__ = ["mag", "tcfg"]


def tcfg(cond: Model, uncond: Model | None, scale: Scale, process: Process, prediction: Prediction | str) -> PairModel:
    """Tangential damping guidance (TCFG): only the part of the unconditional output shared with the conditional one.

    Parameters
    ----------
    cond, uncond, scale : callable, float or None
        As for `cfg`.
    process : Process
        The process that the network was trained on.
    prediction : Prediction or str
        The output, as for `Denoiser`, in which directions are compared. Pass the one that the network predicts, as the
        paper (with eps) and diffusers do.

    Returns
    -------
    callable
        Denoiser that returns (guided, uncond), uncond undamped.

    Raises
    ------
    TypeError, ValueError
        As for `cfg`, or if the process cannot have this prediction.

    Notes
    -----
    Kwon et al. 2025, arXiv:2503.18137. The two outputs c and u form a matrix with two rows and two singular vectors.
    The unconditional output is projected on the first, and the result is ``u' + scale * (c - u')`` with u' the
    projection. The first singular vector is the axis in the plane of c and u that holds most of both, so u' is
    ``sin(t) cos(t) c + sin(t)**2 u`` with ``tan(2 t) = 2 c.u / (c.c - u.u)``, and no decomposition is needed. If c and
    u have equal length and are perpendicular, the axis is undefined and u stays as it is. If they are parallel, the
    result is that of `cfg`.
    """
    weigh = scale_function("tcfg", scale)
    origin = output_origin(process, prediction)

    def rule(x: torch.Tensor, sigma: torch.Tensor, c: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        zero = origin(x, sigma)  # outputs are the same multiple of D - zero
        cond_output, uncond_output = c - zero, u - zero
        difference = item_dot(cond_output, cond_output) - item_dot(uncond_output, uncond_output)
        twice = 2 * item_dot(cond_output, uncond_output)
        length = (difference.square() + twice.square()).clamp_min(TINY).sqrt()
        sine, cosine = twice / length, difference / length  # of the angle 2 t
        free = (difference == 0) & (twice == 0)
        of_cond = sine / 2
        of_uncond = torch.where(free, torch.ones_like(cosine), (1 - cosine) / 2)
        return towards(c, cond_output - (of_cond * cond_output + of_uncond * uncond_output), weigh(sigma, x))

    return guided(cond, uncond, rule)


def mag(
    cond: Model,
    uncond: Model | None,
    scale: Scale,
    process: Process,
    prediction: Prediction | str,
    *,
    alpha: float = 8.0,
) -> PairModel:
    """Magnitude-aware guidance (MAMBO-G): a lower scale where the two outputs differ much, as in the first steps.

    Parameters
    ----------
    cond, uncond : callable or None
        As for `cfg`.
    scale : float or callable
        Highest scale, used where the two outputs are equal; as for `cfg`.
    process : Process
        The process that the network was trained on.
    prediction : Prediction or str
        The output, as for `Denoiser`, in which distances are measured. Pass the one that the network predicts, as the
        paper (with a flow's velocity) and diffusers do.
    alpha : float
        Rate at which the scale falls towards 1, at least 0; diffusers uses 8, and 0 is `cfg` exactly.

    Returns
    -------
    callable
        Denoiser that returns (guided, uncond).

    Raises
    ------
    TypeError, ValueError
        As for `cfg`, or if ``alpha`` is out of range; the process cannot have this prediction.

    Notes
    -----
    Zhu et al. 2025, MAMBO-G, arXiv:2508.03442: `cfg` with ``1 + (scale - 1) * exp(-alpha * |c - u| / |u|)``, norms over
    all axes but the batch.
    """
    weigh = scale_function("mag", scale)
    alpha = checked_number("mag", "alpha", alpha, NOT_NEGATIVE_FINITE)
    origin = output_origin(process, prediction)

    def rule(x: torch.Tensor, sigma: torch.Tensor, c: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        direction, output = c - u, u - origin(x, sigma)
        ratio = _norm(direction) / _norm(output)
        return towards(c, torch.exp(-alpha * ratio) * direction, weigh(sigma, x))

    return guided(cond, uncond, rule)


def _norm(a: torch.Tensor) -> torch.Tensor:
    """The length of every item, kept away from 0."""
    return item_dot(a, a).clamp_min(TINY).sqrt()
