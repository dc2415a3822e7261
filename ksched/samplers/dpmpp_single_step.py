"""DPM-Solver++ with two stages: its ancestral form and its SDE form."""

from __future__ import annotations

from typing import Literal, TypeVar

from ksched.names.enums import Dialect, NoiseSchedule
from ksched.options import Dial
from ksched.plan.protocol import SamplerContext, Vector
from ksched.samplers.blocks.noise_split import AncestralRule, ancestral, renoise
from ksched.samplers.blocks.stages import inner, middle
from ksched.samplers.blocks.steps import ddim
from ksched.samplers.blocks.weights import combine
from ksched.samplers.exponential_single_step import Node
from ksched.samplers.peer_names import a1111, comfyui, diffusers, k_diffusion, res4lyf, sd_cpp, sdnext
from ksched.samplers.shipping import IN_LOG_SNR, ships
from ksched.samplers.sources import DPM_SOLVER_PP, ON_DEVICE, TREE
from ksched.schedules.grid import Grid

__all__ = ["dpmpp_2s_ancestral", "dpmpp_sde"]

V = TypeVar("V", bound=Vector)


@ships(
    order=2,
    source=DPM_SOLVER_PP,
    family="exponential_single_step",
    calls=2,
    draws=1,
    weak_order=2,
    spellings="k_dpmpp_2s_a k_dpmpp_2s_ancestral",
    peers=(
        comfyui(),
        comfyui("SamplerDPMPP_2S_Ancestral"),
        k_diffusion("eta s_noise noise_sampler"),
        a1111("DPM++ 2S a", schedule=NoiseSchedule.KARRAS),
        sd_cpp("dpm++2s_a", "there the first step from pure noise makes one call"),
        sdnext("DPM2++ 2S FlowMatch", f"on `Flow(shift)`; {TREE}"),
    ),
    dialects={
        Dialect.COMFYUI: {"as_ve": False, "split": "comfyui"},
        Dialect.SD_CPP: {"as_ve": False, "split": "comfyui"},
    },
)
def dpmpp_2s_ancestral(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    eta: Dial = 1.0,
    s_noise: Dial = 1.0,
    split: AncestralRule = "variance",
) -> V:
    """DPM-Solver++ (2S), the exponential midpoint rule, to less noise than the next level has, then fresh noise.

    Second order, for every ``eta`` (in law): each step solves the ODE and then adds noise exactly. Two model calls per
    step and one for the step to sigma 0, one noise per step. At ``eta`` = 0 it is DPM-Solver++ (2S).

    Parameters
    ----------
    eta : float or sequence of float
        Share of the noise that is drawn afresh.
    s_noise : float or sequence of float
        Factor on the noise.
    split : str
        How eta divides the noise on flow processes: "variance", as everywhere else; "comfyui" is linear in eta and puts
        the middle of a step from pure noise at sigma 0.9999.

    Notes
    -----
    Lu et al. 2022, arXiv:2211.01095, algorithm 1 with r = 1/2; ancestral form of k-diffusion, in units of sigma /
    alpha.
    """
    for s, t, eta, s_noise in grid.steps_with(eta, s_noise):
        down, up = ancestral(grid, s, t, eta, split)
        denoised = run.denoise(x, s)
        if t.sigma > 0:
            mid = middle(grid, s, down, t)
            if split == "comfyui" and grid.process.is_flow and s.label == 1:
                mid = grid.process.level(0.9999)
            denoised = run.denoise(ddim(s, mid, x, denoised), mid)
        x = renoise(run, s, t, ddim(s, down, x, denoised), s_noise * up)
    return x


@ships(
    order=2,
    source=DPM_SOLVER_PP,
    family="exponential_single_step",
    calls=2,
    draws=2,
    weak_order=2,
    brownian_tree=True,
    spellings="k_dpmpp_sde",
    peers=(
        comfyui(note=TREE),
        comfyui("{}_gpu", ON_DEVICE),
        comfyui("SamplerDPMPP_SDE", TREE),
        k_diffusion("eta s_noise noise_sampler r", TREE),
        diffusers("DPMSolverSDEScheduler", TREE),
        a1111("DPM++ SDE", TREE, schedule=NoiseSchedule.KARRAS),
        res4lyf("dpmpp_sde_2s", "without noise, with both calls at the ends of the step", read=False, r=1.0, eta=0.0),
        sdnext("DPM SDE", TREE),
        sdnext("DPM2++ SDE FlowMatch", f"on `Flow(shift)`; {TREE}"),
    ),
    dialects={
        Dialect.COMFYUI: {**IN_LOG_SNR, "noises": "independent"},
        Dialect.K_DIFFUSION: {"noises": "independent"},
        Dialect.DIFFUSERS: {"noises": "independent"},
    },
)
def dpmpp_sde(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    eta: Dial = 1.0,
    s_noise: Dial = 1.0,
    r: Node = 0.5,
    noises: Literal["path", "independent"] = "path",
) -> V:
    """DPM-Solver++ (SDE): a two-stage exponential method, with an ancestral step in each stage.

    Second order at ``eta`` = 0, where it is DPM-Solver++ (2S); two model calls per step and one for the step to sigma
    0, two noises per step.

    Parameters
    ----------
    eta : float or sequence of float
        Share of the noise that is drawn afresh.
    s_noise : float or sequence of float
        Factor on the noise.
    r : float
        How far into the step the second call is, in log-SNR.
    noises : str
        Noise of the half step and of the whole step: "path" takes parts of one Brownian path; "independent" draws one
        for each, as k-diffusion requests them (its own tree returns parts of one path).

    Notes
    -----
    k-diffusion's ``sample_dpmpp_sde``, after Lu et al. 2022, arXiv:2211.01095, in units of sigma / alpha.
    """
    for s, t, eta, s_noise in grid.steps_with(eta, s_noise):
        denoised = run.denoise(x, s)
        if t.sigma == 0:
            return denoised
        mid = inner(grid, s, t, r)
        down, up = ancestral(grid, s, mid, eta)
        after = run.denoise(renoise(run, s, mid, ddim(s, down, x, denoised), s_noise * up), mid)
        mixed = combine([1 - 1 / (2 * r), 1 / (2 * r)], [denoised, after])
        down, up = ancestral(grid, s, t, eta)
        x = renoise(run, s, t, ddim(s, down, x, mixed), s_noise * up, stream=int(noises == "independent"))
    return x
