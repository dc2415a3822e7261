"""DPM-Solver-2's midpoint rule, with the middle half way in log sigma: with churn, and ancestral."""

from __future__ import annotations

import math
from typing import TypeVar

from ksched.names.enums import Dialect, NoiseSchedule
from ksched.options import Bound, Dial, NonNegative
from ksched.plan.protocol import SamplerContext, Vector
from ksched.processes import Level
from ksched.samplers.blocks.noise_split import AncestralRule, ancestral, churn, renoise
from ksched.samplers.blocks.steps import ddim
from ksched.samplers.blocks.straight_line import StraightLine
from ksched.samplers.peer_names import a1111, comfyui, diffusers, k_diffusion, sd_cpp, sdnext
from ksched.samplers.shipping import ships
from ksched.samplers.sources import DPM_SOLVER, DROPS, TREE
from ksched.schedules.grid import Grid

__all__ = ["dpm_2", "dpm_2_ancestral"]

V = TypeVar("V", bound=Vector)


@ships(
    order=2,
    source=DPM_SOLVER,
    family="runge_kutta",
    calls=2,
    spellings="k_dpm_2",
    peers=(
        comfyui(note="levels as for uni_pc"),
        k_diffusion("s_churn s_tmin s_tmax s_noise"),
        diffusers("KDPM2DiscreteScheduler"),
        a1111("DPM2", DROPS, schedule=NoiseSchedule.KARRAS),
        sd_cpp("dpm2"),
        sdnext("KDPM2"),
        sdnext("DPM2 FlowMatch", "on `Flow(shift)`"),
    ),
)
def dpm_2(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    s_churn: Dial = 0.0,
    s_tmin: NonNegative = 0.0,
    s_tmax: Bound = math.inf,
    s_noise: Dial = 1.0,
    capped: bool = True,
) -> V:
    """A midpoint rule with its middle half way in log sigma, and with EDM's churn.

    Second order, two model calls per step and one for the step to sigma 0; deterministic unless ``s_churn`` > 0.

    Parameters
    ----------
    s_churn : float or sequence of float
        Total churn: before each step, sigma is raised by the share ``s_churn / steps`` of itself.
    s_tmin, s_tmax : float
        Range of sigmas in which noise is added.
    s_noise : float or sequence of float
        Factor on the noise.
    capped : bool
        Raise sigma by at most 41 % in a step, as EDM does.

    Notes
    -----
    k-diffusion's ``sample_dpm_2``, after DPM-Solver-2 (Lu et al. 2022, arXiv:2206.00927) and Karras et al. 2022,
    arXiv:2206.00364, algorithm 2.
    """
    straight = StraightLine(grid)
    for s, t, s_churn, s_noise in grid.steps_with(s_churn, s_noise):
        hat, x = churn(run, grid, s, x, s_churn, s_tmin, s_tmax, s_noise, capped)
        x = _by_the_middle(run, straight, hat, t, x, last=t.sigma == 0)
    return x


@ships(
    order=2,
    source="k-diffusion",
    family="runge_kutta",
    calls=2,
    draws=1,
    weak_order=2,
    spellings="k_dpm_2_a k_dpm_2_ancestral",
    peers=(
        comfyui(note="levels as for uni_pc"),
        k_diffusion("eta s_noise noise_sampler"),
        diffusers("KDPM2AncestralDiscreteScheduler"),
        a1111("DPM2 a", DROPS, schedule=NoiseSchedule.KARRAS),
        sdnext("KDPM2 a"),
        sdnext("DPM2a FlowMatch", f"on `Flow(shift)`; {TREE}"),
    ),
    dialects={Dialect.COMFYUI: {"as_ve": False, "split": "comfyui"}},
)
def dpm_2_ancestral(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    eta: Dial = 1.0,
    s_noise: Dial = 1.0,
    split: AncestralRule = "variance",
) -> V:
    """The midpoint rule of `dpm_2` to less noise than the next level has, then fresh noise up to that level.

    Second order, for every ``eta`` (in law). Two model calls per step and one for the step to sigma 0, one noise per
    step. ``eta`` = 0 is `dpm_2`.

    Parameters
    ----------
    eta : float or sequence of float
        Share of the noise that is drawn afresh.
    s_noise : float or sequence of float
        Factor on the noise.
    split : str
        How eta divides the noise on flow processes: "variance", as everywhere else; "comfyui" is linear in eta.

    Notes
    -----
    k-diffusion's ``sample_dpm_2_ancestral``, in units of sigma / alpha.
    """
    straight = StraightLine(grid)
    for s, t, eta, s_noise in grid.steps_with(eta, s_noise):
        down, up = ancestral(grid, s, t, eta, split)
        x = renoise(run, s, t, _by_the_middle(run, straight, s, down, x, last=t.sigma == 0), s_noise * up)
    return x


def _by_the_middle(run: SamplerContext[V], straight: StraightLine, s: Level, t: Level, x: V, *, last: bool) -> V:
    """A step with the slope half way in log sigma; the last step uses the slope at ``s``."""
    mixed = denoised = run.denoise(x, s)
    if not last:
        # a step from pure noise may keep no noise: then take the middle in sigma
        middle = straight.between(s, t) if t.sigma > 0 else straight.level(straight.time(s) / 2)
        mixed = straight.seen_from(s, middle, denoised, run.denoise(ddim(s, middle, x, denoised), middle))
    return ddim(s, t, x, mixed)
