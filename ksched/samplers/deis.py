"""DEIS: exponential Adams-Bashforth in the time of the VP table."""

from __future__ import annotations

from math import exp, log, log1p
from typing import Annotated, Literal

import numpy as np

from ksched.names.enums import Dialect
from ksched.options import Between, PeerValue
from ksched.plan.protocol import SamplerContext
from ksched.samplers.adams import lms
from ksched.samplers.blocks.quadrature import gauss_legendre
from ksched.samplers.blocks.steps import (
    adams,
    ddim,
    order_left,
    output,
)
from ksched.samplers.blocks.weights import combine
from ksched.samplers.dpmpp import V
from ksched.samplers.peer_names import a1111, comfyui, diffusers, res4lyf, sdnext
from ksched.samplers.shipping import preset, ships
from ksched.samplers.sources import NEVER_ZERO, NOISY, OF_FORGE, PORTED, STARTED
from ksched.schedules.grid import Grid

__all__ = ["deis", "deis_2m"]


@ships(
    order=2,
    source="Zhang & Chen 2022, arXiv:2204.13902",
    family="exponential_multistep",
    peers=(
        comfyui(),
        comfyui("deis_3m", f"{NOISY}, and starts with single steps", variable="log_sigma"),
        comfyui("deis_3m_ode", STARTED, variable="log_sigma"),
        diffusers("DEISMultistepScheduler", NEVER_ZERO),
        a1111("DEIS", OF_FORGE, variable="vp_time_sum"),
        res4lyf("deis_3m", STARTED),
        res4lyf("deis_3m_ode", STARTED),
        res4lyf("deis_4m", STARTED, read=False, order=4),
        sdnext("DEIS", NEVER_ZERO),
        sdnext("DEIS-Multistep", PORTED),
        sdnext("DEIS-Unified 1S", PORTED, read=False, order=1),
    ),
    dialects={
        Dialect.COMFYUI: {"variable": "vp_time_sum"},
        Dialect.DIFFUSERS: {"order": 2, "lower_order_final": True},
    },
)
def deis(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    order: Annotated[int, Between(1, 4)] = 3,
    variable: Annotated[
        Literal["log_sigma", "sigma", "vp_time", "vp_time_sum"], PeerValue("vp_time_sum")
    ] = "log_sigma",
    lower_order_final: bool = False,
    repeat_last: bool = False,
) -> V:
    """DEIS: exponential Adams-Bashforth in eps. The polynomial through the last slopes is integrated over sigma.

    Second order: the first steps are of lower order, and their error is small. One model call per step, deterministic.
    ``order`` = 1 is `euler`.

    Parameters
    ----------
    order : int
        Largest number of slopes used.
    variable : str
        The variable in which eps is a polynomial: "log_sigma", log of sigma / alpha; "sigma", which is `lms`;
        "vp_time", the time of a continuous VP process whose sigma goes from 0.002 to 80, as in the first programs;
        "vp_time_sum", the same with the integral as a sum of 10000 terms that counts both ends in full.
    lower_order_final : bool
        End runs of fewer than 15 steps with steps of orders 2 and 1.
    repeat_last : bool
        Count the last level twice, so that orders fall one step earlier. diffusers does so: its last level is often a
        repeat, a step of length 0.

    Notes
    -----
    Zhang & Chen 2022, arXiv:2204.13902: t-AB, rho-AB and log-rho-AB DEIS. ComfyUI's is "vp_time_sum", diffusers'
    "log_sigma", which is `dpm_multistep` in eps.
    """
    if variable == "sigma":
        return lms(run, grid, x, order=order)
    past: list[tuple[float, V]] = []  # (lam, eps), the newest last
    for i, (s, t) in enumerate(grid.steps()):
        denoised = run.denoise(x, s)
        if t.sigma == 0:
            return denoised
        past = [*past, (s.lam, output(run, s, x, denoised, order > 1))][-order:] if s.alpha > 0 else []
        known = past[-order_left(order, len(grid) + repeat_last - i, i) :] if lower_order_final else past
        if len(known) < 2:
            x = ddim(s, t, x, denoised)
        # that process's time has no meaning far below its range
        elif variable == "log_sigma" or (variable == "vp_time" and t.lam > log(1000)):
            x = adams(s, t, x, known, 0.0, denoised=denoised)
        else:
            lams, slopes = zip(*reversed(known), strict=True)
            weights = _vp_time_weights([exp(-lam) for lam in (t.lam, *lams)], variable == "vp_time_sum")
            x = (t.alpha / s.alpha) * x + combine([t.alpha * weight for weight in weights], slopes)
    return x


@preset(
    deis,
    fixed={"order": 2},
    peers=(
        comfyui("deis_2m", f"{NOISY}, and starts with single steps"),
        comfyui("deis_2m_ode", STARTED),
        res4lyf("deis_2m", STARTED),
        res4lyf("deis_2m_ode", STARTED),
        sdnext("DEIS-Unified 2M", PORTED),
    ),
)
def deis_2m() -> None:
    """DEIS with two slopes: `deis` with order 2.

    Second order, one model call per step, deterministic.

    Parameters
    ----------
    variable, lower_order_final, repeat_last : as for `deis`

    Notes
    -----
    As for `deis`.
    """


def _vp_time_weights(sigmas: list[float], as_sum: bool) -> list[float]:
    """Weights of slopes at ``sigmas[1:]`` in the integral over sigma from ``sigmas[1]`` to ``sigmas[0]``.

    The slopes form a polynomial in the time u of a VP process with log(1 + sigma ** 2) = a * u ** 2 + b * u, where
    sigma is 0.002 at u = 0.001 and 80 at u = 1.
    """
    low, high = log1p(0.002**2), log1p(80.0**2)
    a = (low / 1e-3 - high) / (1e-3 - 1)
    b = high - a
    times = (np.sqrt(b**2 + 4 * a * np.log1p(np.square(sigmas))) - b) / (2 * a)  # b is negative
    end, start, *_ = times
    if as_sum:
        points = np.linspace(start, end, 10000)
        share = np.full(len(points), (end - start) / len(points))
    else:
        points, share = gauss_legendre(40)
        points, share = (start + end) / 2 + (end - start) / 2 * points, (end - start) / 2 * share
    logs = a * points**2 + b * points
    share = share * np.exp(logs) * (2 * a * points + b) / (2 * np.sqrt(np.expm1(logs)))  # d sigma
    nodes = times[1:]
    lines = [[(points - u) / (v - u) for u in nodes if u != v] for v in nodes]
    weights = [float((share * np.prod(line, axis=0)).sum()) for line in lines]
    return weights if as_sum else [sigmas[0] - sigmas[1] - sum(weights[1:]), *weights[1:]]
