"""Multistep methods in log-SNR: one model call per step and a memory of earlier predictions."""

from __future__ import annotations

from math import expm1
from typing import Literal, TypeVar

from ksched.names.enums import Dialect, NoiseSchedule
from ksched.options import Dial
from ksched.plan.protocol import SamplerContext, Vector
from ksched.samplers.blocks.noise_split import fresh_std, renoise
from ksched.samplers.blocks.steps import (
    exponential,
)
from ksched.samplers.blocks.weights import phi
from ksched.samplers.dpm_solver import dpm_multistep
from ksched.samplers.peer_names import a1111, comfyui, diffusers, k_diffusion, res4lyf, sd_cpp, sdnext, skrample
from ksched.samplers.shipping import IN_LOG_SNR, preset, ships
from ksched.samplers.sources import DPM_SOLVER_PP, DROPS, ON_DEVICE, SINGLE, TREE
from ksched.schedules.grid import Grid

__all__ = ["V", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m", "dpmpp_3m_sde"]


V = TypeVar("V", bound=Vector)


Solver = Literal["midpoint", "heun"]


@ships(
    order=2,
    source=DPM_SOLVER_PP,
    family="exponential_multistep",
    draws=1,
    weak_order=2,
    brownian_tree=True,
    spellings="k_dpmpp_2m_sde dpm_solver_multistep_sde",
    peers=(
        comfyui(note=TREE),
        comfyui("{}_gpu", ON_DEVICE),
        comfyui("SamplerDPMPP_2M_SDE", TREE),
        k_diffusion("eta s_noise noise_sampler solver_type", TREE),
        diffusers("sde-dpmsolver++", "an algorithm_type of DPMSolverMultistepScheduler"),
        diffusers(
            "CosineDPMSolverMultistepScheduler",
            f"on `AngleV(sigma_min=0.3, sigma_max=500)` with exponential levels; {TREE}",
        ),
        diffusers("CogVideoXDPMScheduler", "on `VP(snr_shift=3.0)`"),
        a1111("DPM++ 2M SDE", TREE, schedule=NoiseSchedule.EXPONENTIAL),
        sd_cpp("dpm++2m_sde"),
        sd_cpp("dpm++2m_sde_bt", TREE),
        sdnext("DPM++ 2M SDE"),
        sdnext("DPM++ Cosine", f"on `AngleV(sigma_min=0.3, sigma_max=500)` with exponential levels; {TREE}"),
        sdnext("DPM2++ 2M SDE FlowMatch", f"on `Flow(shift)`; {TREE}"),
    ),
    dialects={Dialect.COMFYUI: IN_LOG_SNR},
)
def dpmpp_2m_sde(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    eta: Dial = 1.0,
    s_noise: Dial = 1.0,
    solver_type: Solver = "midpoint",
) -> V:
    """DPM-Solver++ (2M) on the reverse SDE: an exponential integrator that extrapolates the last two predictions.

    Second order at ``eta`` = 0, where it is `dpmpp_2m`; one model call per step, one noise per step if ``eta`` > 0.
    The first step is of first order.

    Parameters
    ----------
    eta : float or sequence of float
        Noise of the reverse SDE; 0 is the ODE.
    s_noise : float or sequence of float
        Factor on the noise.
    solver_type : str
        Weight of the change between predictions: "midpoint" gives it half the step's weight; "heun" is the exact
        integral of the line through them.

    Notes
    -----
    Lu et al. 2022, arXiv:2211.01095, algorithm 2; SDE form and eta as in k-diffusion's ``sample_dpmpp_2m_sde``.
    """
    last: tuple[V, float] | None = None  # previous prediction and step size
    for s, t, eta, s_noise in grid.steps_with(eta, s_noise):
        denoised = run.denoise(x, s)
        if t.sigma == 0:
            return denoised
        h = t.lam - s.lam
        x = exponential(s, t, x, denoised, eta)
        if last is not None:
            z = (1 + eta) * h
            slope = -expm1(-z) / 2 if solver_type == "midpoint" else 1 - phi(1, -z)
            x = x + (t.alpha * slope * h / last[1]) * (denoised - last[0])
        x = renoise(run, s, t, x, s_noise * fresh_std(s, t, eta))
        last = denoised, h
    return x


@preset(
    dpmpp_2m_sde,
    fixed={"eta": 0.0, "s_noise": 1.0},
    draws=0,
    weak_order=None,
    brownian_tree=False,
    spellings="k_dpmpp_2m dpmsolver++_2m",
    peers=(
        comfyui(),
        k_diffusion(),
        diffusers(
            "DPMSolverMultistepScheduler",
            "as configured by default; `dpm_multistep` has all its settings, such as order and eps",
        ),
        diffusers("EDMDPMSolverMultistepScheduler", "on `EDM()`"),
        a1111("DPM++ 2M", schedule=NoiseSchedule.KARRAS),
        sd_cpp("dpm++2m"),
        skrample(
            "DPM", "its default order, 2; order 3 is `dpmpp_3m`, stochasticity is eta of `dpmpp_2m_sde`", read=False
        ),
        res4lyf("dpmpp_2m", SINGLE),
        sdnext("DPM++ 2M"),
        sdnext("DPM++ 2M EDM", "on `EDM()`"),
        sdnext("DPM2++ 2M FlowMatch", "on `Flow(shift)`"),
    ),
    dialects={Dialect.COMFYUI: {}},
)
def dpmpp_2m() -> None:
    """DPM-Solver++ (2M): `dpmpp_2m_sde` at eta 0.

    Second order, one model call per step, deterministic. ``solver_type`` "heun" is RES (2M) of Zhang et al. 2023.

    Parameters
    ----------
    solver_type : str
        Weight of the change between the predictions, as for `dpmpp_2m_sde`.

    Notes
    -----
    Lu et al. 2022, arXiv:2211.01095, algorithm 2. On flow processes it runs in the true log-SNR (as diffusers does).
    """


@preset(
    dpmpp_2m_sde,
    defaults={"solver_type": "heun"},
    spellings="k_dpmpp_2m_sde_heun",
    peers=(
        comfyui(note=TREE),
        comfyui("{}_gpu", ON_DEVICE),
        a1111("DPM++ 2M SDE Heun", TREE, schedule=NoiseSchedule.EXPONENTIAL),
    ),
)
def dpmpp_2m_sde_heun() -> None:
    """`dpmpp_2m_sde` with the exact integral of the line through two predictions.

    Second order at ``eta`` = 0, where it is `res_multistep`. One model call per step, one noise per step if ``eta`` is
    above 0.

    Parameters
    ----------
    eta : float or sequence of float
        Noise of the reverse SDE; 0 is the ODE.
    s_noise : float or sequence of float
        Factor on the noise.
    solver_type : as for `dpmpp_2m_sde`

    Notes
    -----
    As for `dpmpp_2m_sde`.
    """


@ships(
    order=2,
    source="k-diffusion",
    family="exponential_multistep",
    draws=1,
    weak_order=2,
    brownian_tree=True,
    spellings="k_dpmpp_3m_sde",
    peers=(
        comfyui(note=TREE),
        comfyui("{}_gpu", ON_DEVICE),
        comfyui("SamplerDPMPP_3M_SDE", TREE),
        k_diffusion("eta s_noise noise_sampler", TREE),
        a1111("DPM++ 3M SDE", f"{DROPS}; {TREE}", schedule=NoiseSchedule.EXPONENTIAL),
        sdnext("DPM2++ 3M SDE FlowMatch", f"on `Flow(shift)`; {TREE}"),
    ),
    dialects={
        Dialect.COMFYUI: {**IN_LOG_SNR, "curvature": "published"},
        Dialect.K_DIFFUSION: {"curvature": "published"},
        Dialect.DIFFUSERS: {"curvature": "published"},
    },
)
def dpmpp_3m_sde(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    eta: Dial = 1.0,
    s_noise: Dial = 1.0,
    curvature: Literal["exact", "published"] = "exact",
) -> V:
    """DPM-Solver++ (3M) on the reverse SDE: an exponential integrator of the parabola through three predictions.

    Second order at ``eta`` = 0: the first step is of first order, and its error is small. One model call per step, one
    noise per step if ``eta`` > 0.

    Parameters
    ----------
    eta : float or sequence of float
        Noise of the reverse SDE; 0 is the ODE.
    s_noise : float or sequence of float
        Factor on the noise.
    curvature : str
        Weight of the second difference of the predictions: "exact", the integral of the parabola; "published", half of
        it, as in k-diffusion, ComfyUI and the code of DPM-Solver.

    Notes
    -----
    k-diffusion's ``sample_dpmpp_3m_sde``, after the multistep method of Lu et al. 2022, arXiv:2211.01095.
    """
    return dpm_multistep(run, grid, x, order=3, eta=eta, s_noise=s_noise, solver_type="heun", curvature=curvature)


@preset(
    dpmpp_3m_sde,
    fixed={"eta": 0.0, "s_noise": 1.0},
    source=DPM_SOLVER_PP,
    draws=0,
    weak_order=None,
    brownian_tree=False,
    peers=(res4lyf("dpmpp_3m", SINGLE),),
)
def dpmpp_3m() -> None:
    """DPM-Solver++ (3M): `dpmpp_3m_sde` at eta 0.

    Second order: the first step is of first order, and its error is small. One model call per step, deterministic. It
    has the same table as `exp_ab`, except that ``curvature`` can be halved.

    Parameters
    ----------
    curvature : str
        Weight of the second difference of the predictions, as for `dpmpp_3m_sde`.

    Notes
    -----
    Lu et al. 2022, arXiv:2211.01095, appendix B, with a memory of three predictions.
    """
