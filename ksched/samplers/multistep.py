"""One model call per step and a memory of earlier ones: exponential multistep methods."""

from __future__ import annotations

from math import exp, expm1, isfinite, sqrt
from typing import Literal, TypeVar

from ksched.grid import Grid
from ksched.options import NonNegative, Order
from ksched.samplers.blocks import phi, unified
from ksched.tape import Vector, Verbs

__all__ = ["dpmpp_2m", "dpmpp_2m_sde", "uni_pc"]

V = TypeVar("V", bound=Vector)


def dpmpp_2m_sde(
    run: Verbs[V],
    grid: Grid,
    x: V,
    *,
    eta: NonNegative = 1.0,
    s_noise: NonNegative = 1.0,
    solver_type: Literal["midpoint", "heun"] = "midpoint",
) -> V:
    """DPM-Solver++ (2M) on the reverse SDE: exponential integrator of the last two predictions, extrapolated.

    Second order at ``eta`` = 0, where it is `dpmpp_2m`; one model call per step, one noise per step if ``eta`` > 0.
    The first step is of first order.

    Notes
    -----
    Lu et al. 2022, arXiv:2211.01095, algorithm 2; SDE form and eta as in k-diffusion's ``sample_dpmpp_2m_sde``.
    """
    last: tuple[V, float] | None = None  # prediction and step size before
    for s, t in grid.steps():
        denoised = run.denoise(x, s)
        if t.sigma == 0:
            return denoised
        h = t.lam - s.lam
        decay = exp(-eta * h) if eta > 0 else 1.0  # h is infinite from pure noise
        weight = -t.alpha * expm1(-(1 + eta) * h)
        x = decay * t.sigma / s.sigma * x + weight * denoised
        if last is not None:
            slope = weight / 2 if solver_type == "midpoint" else t.alpha * (1 - phi(1, -(1 + eta) * h))
            x = x + slope * (h / last[1]) * (denoised - last[0])
        if eta > 0:
            x = x + s_noise * t.sigma * sqrt(-expm1(-2 * eta * h)) * run.noise(s, t)
        last = denoised, h
    return x


def dpmpp_2m(run: Verbs[V], grid: Grid, x: V, *, solver_type: Literal["midpoint", "heun"] = "midpoint") -> V:
    """DPM-Solver++ (2M): `dpmpp_2m_sde` at eta 0.

    Second order, one model call per step, deterministic. ``solver_type`` "heun" is RES (2M) of Zhang et al. 2023.

    Notes
    -----
    Lu et al. 2022, arXiv:2211.01095, algorithm 2. On flow processes it runs in the true log-SNR (as diffusers does).
    """
    return dpmpp_2m_sde(run, grid, x, eta=0.0, solver_type=solver_type)


def uni_pc(
    run: Verbs[V],
    grid: Grid,
    x: V,
    *,
    order: Order = 3,
    variant: Literal["bh1", "bh2"] = "bh1",
    corrector: bool = True,
    lower_order_final: bool = True,
) -> V:
    """UniPC: an exponential multistep predictor whose result is corrected with the model call of the next step.

    Nominal order 3; second order with ``lower_order_final``, which ends with a step of order 1. One model call per
    step, deterministic. ``order`` = 1 without corrector is `euler`.

    Parameters
    ----------
    order : of the predictor; the corrector gains one more
    variant : B(h) = h ("bh1") or exp(h) - 1 ("bh2"); they differ only where one difference is known
    corrector : whether to correct; costs no model call
    lower_order_final : lower the order towards the end, for few steps

    Notes
    -----
    Zhao et al. 2023, arXiv:2302.04867. ComfyUI's ``uni_pc`` is bh1 with order 3, diffusers' default bh2 with order 2.
    """
    past: list[tuple[float, V]] = []  # (lam, denoised), the newest last
    before = None
    for i, (s, t) in enumerate(grid.steps()):
        denoised = run.denoise(x, s)
        if corrector and before is not None:
            x = run.keep(unified(before[0], s, before[1], past, denoised, variant == "bh2"))
        if t.sigma == 0:
            return denoised
        past = [*(p for p in past if isfinite(p[0])), (s.lam, denoised)][-order:]
        if lower_order_final:
            past = past[-(len(grid) - i) :]
        before = s, x
        x = unified(s, t, x, past, None, variant == "bh2")
    return x
