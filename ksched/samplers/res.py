"""RES: refined exponential solvers, multistep."""

from __future__ import annotations

from math import isfinite

from ksched.options import Dial
from ksched.plan.protocol import SamplerContext
from ksched.processes import Level
from ksched.samplers.blocks.noise_split import ancestral, length, renoise
from ksched.samplers.blocks.steps import (
    ddim,
)
from ksched.samplers.blocks.weights import phi
from ksched.samplers.dpmpp import V
from ksched.samplers.peer_names import a1111, comfyui, res4lyf, sd_cpp, sdnext
from ksched.samplers.shipping import preset, ships
from ksched.samplers.sources import NOISY, OF_REFORGE, PORTED, RES, SINGLE, STARTED
from ksched.schedules.grid import Grid

__all__ = ["res_multistep", "res_multistep_ancestral"]


@ships(
    order=2,
    source=RES,
    family="exponential_multistep",
    draws=1,
    weak_order=2,
    peers=(
        comfyui(),
        a1111("RES Multistep Ancestral", OF_REFORGE),
    ),
)
def res_multistep_ancestral(run: SamplerContext[V], grid: Grid, x: V, *, eta: Dial = 1.0, s_noise: Dial = 1.0) -> V:
    """RES, two steps, to less noise than the next level has, then fresh noise up to that level.

    Second order at ``eta`` = 0, where it is `res_multistep`; at ``eta`` = 1 it is `dpmpp_2m_sde_heun`. One model call
    per step, one noise per step if ``eta`` > 0. The first step is of first order.

    Parameters
    ----------
    eta : float or sequence of float
        Share of the noise that is drawn afresh.
    s_noise : float or sequence of float
        Factor on the noise.

    Notes
    -----
    Zhang et al. 2023, arXiv:2308.02157, algorithm 2; ancestral form of ComfyUI, in units of sigma / alpha. As in
    ComfyUI, a step's length is measured down to the noise that is kept.
    """
    last: tuple[V, Level] | None = None  # prediction and its level
    for s, t, eta, s_noise in grid.steps_with(eta, s_noise):
        down, up = ancestral(grid, s, t, eta)
        denoised = run.denoise(x, s)
        h = down.lam - s.lam
        x = ddim(s, down, x, denoised)
        if last is not None and isfinite(h):
            x = x + (t.alpha * h * phi(2, -h) * h / length(grid, last[1], s, eta)) * (denoised - last[0])
        x = renoise(run, s, t, x, s_noise * up)
        last = denoised, s
    return x


@preset(
    res_multistep_ancestral,
    fixed={"eta": 0.0, "s_noise": 1.0},
    draws=0,
    weak_order=None,
    peers=(
        comfyui(),
        comfyui("res_2m", f"{NOISY}, and starts with single steps"),
        comfyui("res_2m_ode", STARTED),
        a1111("RES Multistep", OF_REFORGE),
        sd_cpp("res_multistep", "with its eta it is `res_multistep_ancestral`"),
        res4lyf("res_2m", SINGLE),
        res4lyf("res_2m_ode", SINGLE),
        sdnext("RES-Unified 2M", PORTED),
        sdnext("RES-Multistep 2M", PORTED),
    ),
)
def res_multistep() -> None:
    """RES, two steps: the exact integral of the line through the last two predictions.

    Second order, one model call per step, deterministic. It has the table of `dpmpp_2m` with solver_type "heun".

    Notes
    -----
    Zhang et al. 2023, arXiv:2308.02157, algorithm 2. ComfyUI's version draws noise and multiplies it by 0; this one
    draws none.
    """
