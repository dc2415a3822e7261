"""Real-time chunking: action chunks that continue the chunk that a robot is still executing."""

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
    """A denoiser whose action chunks continue the previous chunk: real-time chunking.

    Actions before ``delay`` are executed while the new chunk is computed, so they should equal those of ``previous``.
    From there to ``horizon`` the new chunk is pulled towards ``previous`` less and less; beyond, it is free.

    Parameters
    ----------
    denoiser : callable
        Denoiser of chunks (batch, time, dim), differentiable with respect to x.
    previous : Tensor
        The rest of the previous chunk, from the action at which the new chunk starts: (time, dim), or (batch, time,
        dim) with a batch of 1 or the state's. Its time may be shorter than the state's.
    delay : int
        Number of actions executed meanwhile, 0 to ``horizon``.
    horizon : int
        Action at which the overlap ends; at most the length of ``previous``.
    max_weight : float
        Limit of the guidance weight, at least 0; 0 is ``denoiser`` exactly. Without a limit the weight is large at both
        ends, which is unstable in few steps.
    process : Process, KnowsProcess or None
        A `Flow`; None takes the denoiser's own if it knows one, and otherwise ``Flow()``.

    Returns
    -------
    callable
        Denoiser that returns a pair or a tensor as ``denoiser`` does, without gradient; ``uncond`` is moved by as much
        as the prediction.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type or size, or the process is not a flow; at a call, ``previous`` does not fit
        the state, or the denoiser has no gradient.

    Notes
    -----
    Black, Galliker and Levine 2025, arXiv:2506.07339, equations 2 to 5. With ``sigma = 1 - tau``, the velocity is moved
    by ``min(max_weight, sigma / ((1 - sigma) r ** 2))`` times the transposed Jacobian of the prediction applied to the
    weighted error, with ``r ** 2 = sigma ** 2 / (sigma ** 2 + (1 - sigma) ** 2)``. The prediction is moved by sigma
    times that.
    """
    check_callable("denoiser", denoiser)
    if process is None and process_of_model(denoiser) is None:
        process = Flow()
    world = process_given(process, denoiser)
    if not world.is_flow:
        raise ValueError(f"chunked: process must be a Flow, as for all chunk policies; got {world!r}")
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
                f"previous must fit the state (batch, time, dim) with no more time; got {tuple(wanted.shape)} "
                f"for a state of shape {tuple(x.shape)}"
            )
        here = placed(world, math.inf, x, sigma, "the chunking")
        if limit == 0:
            return denoiser(x, here.sigma)
        found = look(denoiser, x, here.sigma)
        error = torch.zeros_like(found.denoised)
        share = weights.to(error)[:, None]
        error[:, :length] = share * (wanted.to(error) - found.denoised[:, :length])
        # sigma times the weight of the velocity; at alpha 0 this is the limit
        size = torch.minimum(limit * here.std, (here.alpha**2 + here.std**2) / here.alpha.clamp_min(0))
        return found.moved(size * found.pull(error), x.dtype)

    return denoise


def chunk_weights(length: int, delay: int, horizon: int) -> torch.Tensor:
    """Weight of each action's pull towards the previous chunk: 1 before delay, falling to the horizon, 0 beyond.

    Parameters
    ----------
    length : int
        Number of weights.
    delay, horizon : int
        As for `chunked`, or if ``delay`` is at most ``horizon``, and ``horizon`` at most ``length``.

    Returns
    -------
    Tensor
        float64, shape (length,).

    Raises
    ------
    TypeError, ValueError
        If a count is not a whole number, or the counts are out of order.

    Notes
    -----
    Equation 5 of arXiv:2506.07339: ``c (exp(c) - 1) / (e - 1)`` with c falling linearly from 1 at ``delay - 1`` to 0 at
    ``horizon``.
    """
    horizon = Option("horizon", int, None, 0, length).check("chunked", horizon)
    delay = Option("delay", int, None, 0, horizon).check("chunked", delay)
    place = torch.arange(length, dtype=torch.float64)
    c = ((horizon - place) / (horizon - delay + 1)).clamp(0, 1)
    falling = c * torch.expm1(c) / math.expm1(1)
    return torch.where(place < delay, 1.0, falling)
