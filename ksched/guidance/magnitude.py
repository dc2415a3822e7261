"""Guidance that looks at the sizes and angles of the two network outputs."""

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
    """Tangential damping guidance: of the unconditional output only what it shares with the conditional one.

    Parameters
    ----------
    cond, uncond, scale : as for `cfg`
    process : what the network was trained on
    prediction : in which output directions are measured, as for `Denoiser`; what the network itself predicts is the
        paper, for which that is eps, and diffusers

    Returns
    -------
    denoiser that returns (guided, uncond), uncond undamped

    Raises
    ------
    TypeError, ValueError : as for `cfg`; a prediction that this process cannot have

    Notes
    -----
    Kwon et al. 2025, arXiv:2503.18137. Of the two outputs, as rows of a matrix with two singular vectors, the first is
    kept of the unconditional one: ``u' + scale * (c - u')`` with u' its projection. It is the axis of the plane of c
    and u that holds most of both, so u' is ``sin(t) cos(t) c + sin(t)**2 u`` with ``tan(2 t) = 2 c.u / (c.c - u.u)``:
    no decomposition is needed, and no axis is free but where c and u are of one length and perpendicular. There u stays
    as it is. Where c and u are parallel it is `cfg`.
    """
    weigh = scale_function("tcfg", scale)
    origin = output_origin(process, prediction)

    def rule(x: torch.Tensor, sigma: torch.Tensor, c: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        zero = origin(x, sigma)  # outputs are one multiple of D - zero
        cond_output, uncond_output = c - zero, u - zero
        difference = item_dot(cond_output, cond_output) - item_dot(uncond_output, uncond_output)
        twice = 2 * item_dot(cond_output, uncond_output)
        length = (difference.square() + twice.square()).clamp_min(TINY).sqrt()
        sine, cosine = twice / length, difference / length  # of 2 t
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
    """Magnitude-aware guidance: a lower scale where the two outputs are far apart, as they are in the first steps.

    Parameters
    ----------
    cond, uncond : as for `cfg`
    scale : the highest, where the outputs are the same; as for `cfg`
    process : what the network was trained on
    prediction : in which output distances are measured, as for `Denoiser`; what the network itself predicts is the
        paper, for which that is a flow's velocity, and diffusers
    alpha : how fast the scale falls towards 1, from 0; 8 in diffusers, 0 is `cfg` exactly

    Returns
    -------
    denoiser that returns (guided, uncond)

    Raises
    ------
    TypeError, ValueError : as for `cfg`; an alpha out of range; a prediction that this process cannot have

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
    """The length of every item, kept off 0."""
    return item_dot(a, a).clamp_min(TINY).sqrt()
