"""Real-time chunking: a chunk of actions that goes on from the one a robot is still executing."""

from __future__ import annotations

import math
import sys
from typing import Any

import torch

from ksched.denoisers.answer import Model
from ksched.guidance.gradients import look, placed
from ksched.guidance.scale import checked_number
from ksched.guidance.tensors import check_callable
from ksched.options import Between, Option
from ksched.processes import Flow, Process
from ksched.processes.agreement import KnowsProcess, process_given, process_of_model

__all__ = ["chunk_weights", "chunked"]


def chunked(
    denoiser: Model,
    previous: torch.Tensor,
    delay: int = 4,
    horizon: int = 10,
    max_weight: float = 5.0,
    *,
    process: Process | KnowsProcess | None = None,
) -> Model:
    """The denoiser of an action chunk that continues the one before it: real-time chunking.

    Actions below ``delay`` are executed before the new chunk is there, so they shall be those of ``previous``. From
    there to ``horizon`` the new chunk is drawn to it less and less, and beyond it is free.

    Parameters
    ----------
    denoiser : denoiser of chunks (batch, time, dim), differentiable by x
    previous : what is left of the chunk before, from the action at which the new one starts: (time, dim), or (batch,
        time, dim) with a batch of 1 or the state's; its time may be shorter than the state's
    delay : number of actions that are executed meanwhile, 0 to ``horizon``
    horizon : action at which the overlap ends; no further than ``previous`` goes
    max_weight : limit of the guidance weight, at least 0; 0 is ``denoiser`` exactly. The unlimited weight is large at
        both ends, and few steps do not bear it
    process : a `Flow`; None is the denoiser's own if it knows one, else ``Flow()``

    Returns
    -------
    denoiser that returns what ``denoiser`` does, a pair or a tensor, without gradient; ``uncond`` is moved by as much
    as the prediction

    Raises
    ------
    TypeError, ValueError : arguments of the wrong type or size, a process that is no flow; at a call, a state that
        ``previous`` does not fit, or a denoiser without gradient

    Notes
    -----
    Black, Galliker and Levine 2025, arXiv:2506.07339, equations 2 to 5. With ``sigma = 1 - tau`` the velocity gets
    ``min(max_weight, sigma / ((1 - sigma) r ** 2))`` times the transposed Jacobian of the prediction on the weighted
    error, ``r ** 2 = sigma ** 2 / (sigma ** 2 + (1 - sigma) ** 2)``; the prediction gets sigma times that.
    """
    check_callable("denoiser", denoiser)
    if process is None and process_of_model(denoiser) is None:
        process = Flow()
    world = process_given(process, denoiser)
    if not world.is_flow:
        raise ValueError(f"chunked: process must be a Flow, as chunk policies are; got {world!r}")
    limit = checked_number("chunked", "max_weight", max_weight, Between(0.0, sys.float_info.max))
    if not isinstance(previous, torch.Tensor) or not previous.is_floating_point() or previous.ndim not in (2, 3):
        got = tuple(previous.shape) if isinstance(previous, torch.Tensor) else type(previous).__name__
        raise TypeError(f"previous must be a floating-point tensor (time, dim) or (batch, time, dim); got {got}")
    with torch.inference_mode(False):
        wanted = previous.detach().clone().reshape(-1, *previous.shape[-2:])
    if not bool(wanted.isfinite().all()):
        raise ValueError("previous must be finite; got nan or infinity")
    length = wanted.shape[1]
    weights = chunk_weights(
        length, delay, min(Option("horizon", int, None, 0, sys.maxsize).check("chunked", horizon), length)
    )

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> Any:
        if (
            x.ndim != 3
            or wanted.shape[0] not in (1, x.shape[0])
            or x.shape[1] < length
            or x.shape[2] != wanted.shape[2]
        ):
            raise ValueError(
                f"previous must fit the state (batch, time, dim), with no more time than it: {tuple(wanted.shape)} "
                f"before a state of shape {tuple(x.shape)}"
            )
        here = placed(world, math.inf, x, sigma, "the chunking")
        if limit == 0:
            return denoiser(x, here.sigma)
        found = look(denoiser, x, here.sigma)
        error = torch.zeros_like(found.denoised)
        share = weights.to(error)[:, None]
        error[:, :length] = share * (wanted.to(error) - found.denoised[:, :length])
        # sigma times the weight of the velocity, which at alpha 0 is the limit
        size = torch.minimum(limit * here.std, (here.alpha**2 + here.std**2) / here.alpha.clamp_min(0))
        return found.moved(size * found.pull(error), x.dtype)

    return denoise


def chunk_weights(length: int, delay: int, horizon: int) -> torch.Tensor:
    """How much each action is drawn to the chunk before: 1 below delay, falling to the horizon, 0 beyond.

    Parameters
    ----------
    length : number of weights
    delay, horizon : as for `chunked`, delay at most horizon, and that at most length

    Returns
    -------
    float64, shape (length,)

    Raises
    ------
    TypeError, ValueError : counts that are not whole, or out of order

    Notes
    -----
    Equation 5 of arXiv:2506.07339: ``c (exp(c) - 1) / (e - 1)`` with c falling evenly from 1 at ``delay - 1`` to 0 at
    ``horizon``.
    """
    horizon = Option("horizon", int, None, 0, length).check("chunked", horizon)
    delay = Option("delay", int, None, 0, horizon).check("chunked", delay)
    place = torch.arange(length, dtype=torch.float64)
    c = ((horizon - place) / (horizon - delay + 1)).clamp(0, 1)
    falling = c * torch.expm1(c) / math.expm1(1)
    return torch.where(place < delay, 1.0, falling)
