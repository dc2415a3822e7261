"""ER-SDE: extended reverse-time SDE solvers."""

from __future__ import annotations

from math import exp, isfinite, log, log1p, sqrt
from typing import Annotated, Literal

import numpy as np

from ksched.names.enums import Dialect
from ksched.options import Between, Dial
from ksched.plan.protocol import SamplerContext
from ksched.samplers.blocks.noise_split import renoise
from ksched.samplers.blocks.quadrature import gauss_legendre
from ksched.samplers.dpmpp import V
from ksched.samplers.peer_names import a1111, comfyui, sd_cpp, sdnext
from ksched.samplers.shipping import IN_LOG_SNR, ships
from ksched.samplers.sources import OF_REFORGE
from ksched.schedules.grid import Grid

__all__ = ["er_sde"]


@ships(
    order=2,
    source="Cui et al. 2023, arXiv:2309.06169",
    family="exponential_multistep",
    draws=1,
    weak_order=2,
    peers=(
        comfyui(),
        comfyui("SamplerER_SDE", 'its solver_type "Reverse-time SDE" is "reverse_time", "ODE" is "ode"'),
        a1111("ER SDE", OF_REFORGE, integral="published"),
        sd_cpp("er_sde", "its eta is s_noise"),
        sdnext("ER-SDE", "a separate class; not compared", read=False, max_stage=1),
        sdnext("ER-SDE FlowMatch", "on `Flow(shift)`; a separate class; not compared", read=False, max_stage=1),
        sdnext("ER-SDE 2M", "a separate class; not compared", read=False, max_stage=2),
        sdnext("ER-SDE 2M FlowMatch", "on `Flow(shift)`; a separate class; not compared", read=False, max_stage=2),
        sdnext("ER-SDE 3M", "a separate class; not compared"),
        sdnext("ER-SDE 3M FlowMatch", "on `Flow(shift)`; a separate class; not compared"),
    ),
    dialects={
        Dialect.COMFYUI: {**IN_LOG_SNR, "integral": "published"},
        Dialect.SD_CPP: {**IN_LOG_SNR, "integral": "published"},
    },
)
def er_sde(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    max_stage: Annotated[int, Between(1, 3)] = 3,
    solver_type: Literal["er_sde", "reverse_time", "ode"] = "er_sde",
    eta: Dial = 1.0,
    s_noise: Dial = 1.0,
    integral: Literal["exact", "published"] = "exact",
) -> V:
    """Extended reverse-time SDE solver: a multistep method for an SDE whose noise is a function of sigma / alpha.

    Second order if ``eta`` = 0, because the first step is of first order. One model call per step, one noise per step
    if ``eta`` > 0 and ``solver_type`` is not "ode". ``max_stage`` = 1 without noise is `euler`.

    Parameters
    ----------
    max_stage : int
        Largest number of predictions used.
    solver_type : str
        Noise function f of r = sigma / alpha: "er_sde", ``r * (exp(r ** 0.3) + 10) ** eta``; "reverse_time", ``r ** (1
        + eta)``, the reverse SDE; "ode", ``r``, which draws nothing.
    eta : float or sequence of float
        See ``solver_type``.
    s_noise : float or sequence of float
        Factor on the noise.
    integral : str
        Of 1 / f: "exact"; "published" is the sum of 200 terms in the paper's program.

    Notes
    -----
    Cui et al. 2023, arXiv:2309.06169, algorithms 1 to 3, in sigma / alpha.
    """
    past: list[tuple[float, V]] = []  # (sigma / alpha, prediction), newest last
    for s, t, eta, s_noise in grid.steps_with(eta, s_noise):
        denoised = run.denoise(x, s)
        if t.sigma == 0:
            return denoised
        power = 0.0 if solver_type == "ode" else eta
        start, end = exp(-s.lam), exp(-t.lam)
        kept = exp(_er_log_gain(end, solver_type, power) - _er_log_gain(start, solver_type, power))
        past = [*past, (start, denoised)][-max_stage:]
        x = (kept * t.sigma / s.sigma) * x + (t.alpha - kept * t.sigma / s.sigma * s.alpha) * denoised
        if len(past) > 1 and isfinite(past[-2][0]):
            one, two = _er_integrals(start, end, solver_type, power, integral == "published")
            slope = (denoised - past[-2][1]) / (start - past[-2][0])
            x = x + (t.alpha * (end - start + one)) * slope
            if len(past) > 2 and isfinite(past[-3][0]):
                older = (past[-2][1] - past[-3][1]) / (past[-2][0] - past[-3][0])
                bend = (2 / (start - past[-3][0])) * (slope - older)
                x = x + (t.alpha * ((end - start) ** 2 / 2 + two)) * bend
        x = renoise(run, s, t, x, s_noise * t.sigma * sqrt((1 - kept) * (1 + kept)))
    return x


def _er_log_gain(r: float, kind: str, power: float) -> float:
    """log(f(r) / r) of ER-SDE's noise function f."""
    if power == 0 or kind == "ode":
        return 0.0
    if kind == "reverse_time":
        return power * log(r)
    root: float = r**0.3
    return power * (root + log1p(10 * exp(-root)))


def _er_integrals(start: float, end: float, kind: str, power: float, as_sum: bool) -> tuple[float, float]:
    """f(end) times the integrals of 1 / f(r) and (r - start) / f(r) over r from end to start."""
    if as_sum:
        width = (start - end) / 200
        points, share = end + width * np.arange(200), np.full(200, width)
    else:  # in log r, where f is smooth
        places, share = gauss_legendre(64)
        length = log(start / end) / 2
        points = end * np.exp(length * (places + 1))
        share = share * length * points
    top = _er_log_gain(end, kind, power)
    ratio = np.array([end / r * exp(top - _er_log_gain(r, kind, power)) for r in points.tolist()])
    return float((share * ratio).sum()), float((share * ratio * (points - start)).sum())
