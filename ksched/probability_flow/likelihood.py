"""Log-likelihood of data under the probability-flow ODE of a denoiser."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.integrate import solve_ivp

from ksched.denoisers.answer import answer
from ksched.execution.registers import check_output, check_state
from ksched.noise.seeded import SeededNoise
from ksched.noise.sources import Seed, item_seeds
from ksched.plan.rows import Draw
from ksched.processes import Process
from ksched.processes.agreement import check_agreement, process_given
from ksched.samplers.blocks.straight_line import StraightLine
from ksched.schedules.grid import Grid
from ksched.types import Array

__all__ = ["Likelihood", "log_likelihood"]


class Likelihood(NamedTuple):
    """Log-densities in nats, one per item, and the number of model calls (NFE)."""

    value: torch.Tensor
    nfe: int


def log_likelihood(
    denoiser: Callable[..., Any],
    x: torch.Tensor,
    process: Process | None = None,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    seed: Seed = 0,
    probes: int = 1,
    rtol: float = 1e-4,
    atol: float = 1e-4,
) -> Likelihood:
    """Log-density of states under a model, from the divergence along the ODE up to pure noise.

    Parameters
    ----------
    denoiser : callable
        ``(x, sigma) -> denoised``, differentiable; of (denoised, uncond), only denoised is used.
    x : Tensor
        States at ``sigma_min``, batch first; the data itself if that is small.
    process : Process or None
        The noise process that the model was trained on; None means the denoiser's, if it has one as a `Denoiser` does,
        else Stable Diffusion's VP table.
    sigma_min, sigma_max : float or None
        Contract sigmas between which to integrate; None means the process's own.
    seed : int or sequence of int
        Seed of the probes: one whole number, or one per item.
    probes : int
        Number of random directions from which the divergence is estimated (Hutchinson); each costs a backward pass. In
        one dimension, one is exact.
    rtol, atol : float
        Errors allowed in a step, relative and absolute, for states and log-densities.

    Returns
    -------
    `Likelihood`; value has shape (batch,) and at least float32

    Raises
    ------
    TypeError, ValueError
        As for `Run`; levels out of order; probes below 1; a denoiser that knows its process, if that means other states
        than ``process``.
    RuntimeError
        If the integration fails.

    Notes
    -----
    Song et al. 2021, arXiv:2011.13456, appendix D.2; k-diffusion's ``log_likelihood``, with the same tolerances. Uses
    scipy's Dormand-Prince pair, on the host in float64, in the log of sigma or of flow's own time t, where
    dx / d log t = x - D.
    """
    check_state(x)
    process = process_given(process, denoiser)
    low = process.sigma_min if sigma_min is None else sigma_min
    high = process.sigma_max if sigma_max is None else sigma_max
    if not 0 < low < high <= process.sigma_limit:
        raise ValueError(f"sigma_min must be above 0 and below sigma_max; got sigma_min={low}, sigma_max={high}")
    check_agreement(denoiser, process, [high, math.sqrt(high) * math.sqrt(low), low])
    if probes < 1:
        raise ValueError(f"probes must be at least 1; got {probes}")
    top, bottom = process.level(high), process.level(low)
    straight = StraightLine(Grid(process, (top, bottom)))
    dtype = torch.promote_types(x.dtype, torch.float32)
    noise = SeededNoise(item_seeds(seed, len(x)))
    if not x.numel():
        return Likelihood(x.new_zeros(len(x), dtype=dtype), 0)
    signs = [noise(Draw(math.inf, math.inf, 0, stream), x.to(dtype)).sign() for stream in range(probes)]
    shape = (len(x), math.prod(x.shape[1:]) + 1)  # each item's state has one more number, its log-density so far

    def slope(log_time: float, flat: Array) -> Array:
        level = top if log_time >= ends[1] else straight.level(math.exp(log_time))
        state = torch.from_numpy(flat.reshape(shape)[:, :-1]).to(x.device, dtype).reshape(x.shape)
        with torch.enable_grad():
            at = state.requires_grad_()
            sigma = torch.full((len(x),), level.label, dtype=dtype, device=x.device)
            denoised, _ = answer(denoiser, (at * straight.scale(level)).to(x.dtype), sigma, both=False)
            check_output("D", denoised, at.shape, at.device)
            move = at - denoised.to(dtype)
            seen = [torch.autograd.grad((move * sign).sum(), at, retain_graph=True)[0] * sign for sign in signs]
        divergence = torch.stack(seen).mean(0).flatten(1).sum(1)
        both = torch.cat([move.detach().flatten(1), divergence[:, None]], 1)
        return np.asarray(both.double().cpu().numpy().ravel())

    ends = math.log(straight.time(bottom)), math.log(straight.time(top))
    start = np.zeros(shape)
    start[:, :-1] = (x.detach().double() / straight.scale(bottom)).flatten(1).cpu().numpy()
    solution = solve_ivp(slope, ends, start.ravel(), method="RK45", rtol=rtol, atol=atol)
    if not solution.success:
        raise RuntimeError(f"the ODE could not be integrated: {solution.message}")
    end = solution.y[:, -1].reshape(shape)
    size, std = shape[1] - 1, process.noise_std(high) / straight.scale(top)
    prior = -0.5 * ((end[:, :-1] / std) ** 2).sum(1) - size * (0.5 * math.log(2 * math.pi) + math.log(std))
    # the density of x itself, not of x over its scale
    value = prior + end[:, -1] - size * math.log(straight.scale(bottom))
    return Likelihood(torch.from_numpy(value).to(x.device, dtype), int(solution.nfev))
