"""Classifier-free guidance and its relatives: rules that combine a conditional and an unconditional prediction."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import torch

from ksched.denoisers.answer import Model, answer
from ksched.guidance.rules import guided, output_origin
from ksched.guidance.scale import Scale, checked_number, scale_function
from ksched.guidance.tensors import (
    FINITE,
    SHARE,
    TINY,
    PairModel,
    along,
    check_callable,
    checked_prediction,
    item_dot,
    item_std,
    towards,
)
from ksched.names.enums import Prediction
from ksched.options import Between
from ksched.processes import Process

__all__ = ["Momentum", "apg", "cfg", "cfg_zero_star", "perp_neg", "rescale"]


def cfg(cond: Model, uncond: Model | None, scale: Scale) -> PairModel:
    """Classifier-free guidance (CFG): ``uncond + scale * (cond - uncond)``.

    Parameters
    ----------
    cond : callable
        Denoiser with the condition.
    uncond : callable or None
        Denoiser without the condition, or with a negative one; None if ``cond`` returns the pair itself (see
        `batched`).
    scale : float or callable
        Guidance scale. 1 is ``cond`` exactly, 0 is ``uncond`` to rounding. It may be a function of sigma (shape
        (batch,), on the device) that returns one number or one per item.

    Returns
    -------
    callable
        Denoiser that returns (guided, uncond). ``uncond`` is also called at scale 1, because CFG++ samplers need it.

    Raises
    ------
    TypeError, ValueError
        If an argument cannot be called, or the scale is not finite; at a call, a prediction or scale has the wrong type
        or shape.

    Notes
    -----
    Ho & Salimans 2022, arXiv:2207.12598, whose w is ``scale - 1``.
    """
    weigh = scale_function("cfg", scale)

    def rule(x: torch.Tensor, sigma: torch.Tensor, c: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        return towards(c, c - u, weigh(sigma, x))

    return guided(cond, uncond, rule)


def rescale(
    cond: Model, uncond: Model | None, scale: Scale, process: Process, prediction: Prediction | str, *, phi: float = 0.7
) -> PairModel:
    """CFG with the result rescaled to the standard deviation of the conditional network output.

    Parameters
    ----------
    cond, uncond, scale : callable, float or None
        As for `cfg`.
    process : Process
        The process that the network was trained on.
    prediction : Prediction or str
        The output, as for `Denoiser`, in which standard deviations are measured. The one that the network predicts
        gives the paper and diffusers' ``guidance_rescale``; "v_prediction" for all networks gives ComfyUI's RescaleCFG;
        "sample" is x0.
    phi : float
        Share of the rescaled result, 0 to 1; 0 is `cfg` exactly.

    Returns
    -------
    callable
        Denoiser that returns (guided, uncond).

    Raises
    ------
    TypeError, ValueError
        As for `cfg`, or if ``phi`` is out of range; the process cannot have this prediction.

    Notes
    -----
    Lin et al. 2023, arXiv:2305.08891, section 3.4; standard deviations are over all axes but the batch. An item whose
    guided output is constant cannot be rescaled and stays as it is.
    """
    weigh = scale_function("rescale", scale)
    phi = checked_number("rescale", "phi", phi, SHARE)
    origin = output_origin(process, prediction)

    def rule(x: torch.Tensor, sigma: torch.Tensor, c: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        raised = towards(c, c - u, weigh(sigma, x))
        zero = origin(x, sigma)
        # A network output is a multiple of D - zero, the same for both, so the factor cancels in the ratio.
        wanted, found = item_std(c - zero), item_std(raised - zero)
        ratio = torch.where(found > 0, wanted / found.clamp_min(TINY), torch.ones_like(found))
        return raised + phi * (ratio - 1) * (raised - zero)

    return guided(cond, uncond, rule)


@dataclass(eq=False)
class Momentum:
    """The running sum of guidance directions in one run of `apg`.

    It changes at every model call, so it belongs to one run. For each run make a new one, and a new `apg` around it. To
    resume a run elsewhere, keep ``average`` and pass it to the new one.

    Parameters
    ----------
    beta : float
        Share of the old sum that is kept, -1 to 1. It is negative in the paper (-0.75 to -0.5), which pushes away from
        the direction that guidance has taken.
    average : Tensor or None
        The sum so far, in the shape of the state; None before the first call.
    """

    beta: float
    average: torch.Tensor | None = None

    def __post_init__(self) -> None:
        self.beta = checked_number("Momentum", "beta", self.beta, Between(-1.0, 1.0))

    def update(self, direction: torch.Tensor) -> torch.Tensor:
        """The new sum, ``direction + beta * average``.

        Raises
        ------
        ValueError
            If the direction has another shape than the earlier ones.
        """
        if self.average is not None:
            if self.average.shape != direction.shape:
                raise ValueError(
                    f"a Momentum must be used in one run only; this one has shape {tuple(self.average.shape)} and "
                    f"got {tuple(direction.shape)}. Make a new one for each run"
                )
            direction = direction + self.beta * self.average
        self.average = direction
        return direction


def apg(
    cond: Model,
    uncond: Model | None,
    scale: Scale,
    *,
    eta: float = 0.0,
    norm_threshold: float = math.inf,
    momentum: Momentum | None = None,
) -> PairModel:
    """Adaptive projected guidance (APG): CFG with less of the part along the conditional prediction.

    That part causes oversaturation.

    Parameters
    ----------
    cond, uncond, scale : callable, float or None
        As for `cfg`.
    eta : float
        Share of the parallel part that is kept; 0 in the paper, 1 keeps it all.
    norm_threshold : float
        Largest norm of an item's direction, > 0; inf is no limit (where peers write 0). 2.5 to 15 in the paper, for
        latents.
    momentum : Momentum or None
        A new `Momentum` for each run; None is no momentum, and then the wrapper holds no state.

    Returns
    -------
    callable
        Denoiser that returns (guided, uncond); with eta 1, no threshold and no momentum it is `cfg` exactly.

    Raises
    ------
    TypeError, ValueError
        As for `cfg`, or if an option is out of range; the `Momentum` has been used with another shape.

    Notes
    -----
    Sadat et al. 2024, arXiv:2410.02416, algorithm 1: ``cond + (scale - 1) * update``, on x0 predictions, norms over all
    axes but the batch. diffusers adds ``scale * update`` to ``uncond``, which gives the same only without threshold,
    projection and momentum.
    """
    weigh = scale_function("apg", scale)
    eta = checked_number("apg", "eta", eta, FINITE)
    threshold = checked_number("apg", "norm_threshold", norm_threshold, Between(sys.float_info.min, math.inf))
    if momentum is not None and not isinstance(momentum, Momentum):
        raise TypeError(
            f"momentum must be a new ksched.guidance.Momentum(beta) for each run, or None; got {momentum!r}"
        )

    def rule(x: torch.Tensor, sigma: torch.Tensor, c: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        update = c - u if momentum is None else momentum.update(c - u)
        if threshold < math.inf:
            update = update * (threshold / item_dot(update, update).clamp_min(TINY).sqrt()).clamp_max(1)
        return towards(c, update - (1 - eta) * along(update, c), weigh(sigma, x))

    return guided(cond, uncond, rule)


def cfg_zero_star(cond: Model, uncond: Model | None, scale: Scale, process: Process) -> PairModel:
    """CFG-Zero*: CFG for flow models, with the unconditional velocity scaled to fit the conditional one best.

    Parameters
    ----------
    cond, uncond, scale : callable, float or None
        As for `cfg`.
    process : Process
        `Flow` or `FlowVE`.

    Returns
    -------
    callable
        Denoiser that returns (guided, uncond), uncond unscaled.

    Raises
    ------
    TypeError, ValueError
        As for `cfg`, or if the process has no flow networks.

    Notes
    -----
    Fan et al. 2025, arXiv:2503.18886: ``s * v_uncond + scale * (v_cond - s * v_uncond)`` with s the least-squares fit
    of v_cond by v_uncond, per item. The paper's other half, zero velocity in the first k steps, needs no wrapper: run
    on ``sigmas=sampler.sigmas[k:]`` from the unchanged start noise.
    """
    weigh = scale_function("cfg_zero_star", scale)
    origin = output_origin(process, "flow")

    def rule(x: torch.Tensor, sigma: torch.Tensor, c: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        zero = origin(x, sigma)  # velocities are the same multiple of D - zero
        return towards(c, (c - zero) - along(c - zero, u - zero), weigh(sigma, x))

    return guided(cond, uncond, rule)


def perp_neg(cond: Model, negative: Model, uncond: Model, scale: Scale, *, negative_scale: float = 1.0) -> PairModel:
    """Guidance away from a negative condition, only in directions perpendicular to the positive one (Perp-Neg).

    Parameters
    ----------
    cond, uncond, scale : callable or float
        As for `cfg`, or if ``uncond`` has no condition at all.
    negative : callable
        Denoiser conditioned on what to avoid.
    negative_scale : float
        Weight of its part that is perpendicular to ``cond - uncond``; 0 is `cfg` exactly.

    Returns
    -------
    callable
        Denoiser that returns (guided, uncond).

    Raises
    ------
    TypeError, ValueError
        As for `cfg`.

    Notes
    -----
    Armandpour et al. 2023, arXiv:2304.04968: ``uncond + scale * (p - negative_scale * (n - n along p))`` with p and n
    the differences to ``uncond``. Projections are per item, so an item's result does not depend on its batch. Three
    model calls.
    """
    weigh = scale_function("perp_neg", scale)
    factor = checked_number("perp_neg", "negative_scale", negative_scale, FINITE)
    models = {"cond": cond, "negative": negative, "uncond": uncond}
    for name, model in models.items():
        check_callable(name, model)

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        c, n, u = (checked_prediction(name, answer(m, x, sigma, False)[0], x, copy=True) for name, m in models.items())
        weight = weigh(sigma, c)
        across = (n - u) - along(n - u, c - u)
        return (towards(c, c - u, weight) - weight * factor * across).to(x.dtype), u.to(x.dtype)

    return denoise
