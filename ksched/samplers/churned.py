"""Samplers with churn for models of proteins and weather."""

from __future__ import annotations

import math
from typing import TypeVar

from ksched.options import Bound, Dial, NonNegative, Positive
from ksched.plan.protocol import SamplerContext, Vector
from ksched.processes import Level
from ksched.samplers.blocks.noise_split import churn, raised
from ksched.samplers.blocks.stages import middle
from ksched.samplers.blocks.steps import ddim
from ksched.samplers.peer_names import res4lyf
from ksched.samplers.shipping import AS_THEY_ARE, ships
from ksched.samplers.sources import DPM_SOLVER_PP
from ksched.schedules.grid import Grid

__all__ = ["af3", "dpmpp_2s"]

V = TypeVar("V", bound=Vector)


@ships(
    order=0,
    source="Abramson et al. 2024, doi:10.1038/s41586-024-07487-w",
    family="euler",
    draws=None,
    ends_at_denoised=False,
    keeps_variance=False,
    spellings="alphafold3 alphafold_3 boltz boltz1 boltz2 protenix rfdiffusion3 edm_churned",
    dialects=AS_THEY_ARE,
)
def af3(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    gamma_0: Dial = 0.8,
    gamma_min: NonNegative = 1.0,
    noise_scale: Dial = 1.003,
    step_scale: Positive = 1.5,
) -> V:
    """AlphaFold 3's sampler, also used by Boltz and RFdiffusion3: EDM's churn without its cap, then longer Euler steps.

    One model call per step, and one noise per step that ends above ``gamma_min``. With ``step_scale`` = 1 and
    ``noise_scale`` = 1, states have the law of their levels; with ``gamma_0`` = 0 as well it is `euler`. A
    ``step_scale`` above 1 deliberately makes results more alike and more probable than the model's, so no order is
    declared.

    Parameters
    ----------
    gamma_0 : float or sequence of float
        Share of itself by which sigma is raised before a step; EDM's churn raises it by at most 41 %.
    gamma_min : float
        Noise is added only in steps that end above this sigma.
    noise_scale : float or sequence of float
        Factor on the noise.
    step_scale : float
        Length of a step over that of Euler's (eta in the paper).

    Notes
    -----
    Abramson et al. 2024, algorithm 18, without centring and random augmentation, which are not part of the plan: do
    them in a callback or in the model. The direction is taken at the noised state, as in the authors' program; the
    printed algorithm takes it at the state before. Noise is added and steps are scaled in sigma / alpha; from pure
    noise, where that is infinite, the step is Euler's.
    """
    for s, t, gamma_0, noise_scale in grid.steps_with(gamma_0, noise_scale):
        hat, x = raised(run, grid, s, x, gamma_0 if t.label > gamma_min else 0.0, noise_scale)
        x = _scaled_step(hat, t, x, run.denoise(x, hat), step_scale)
    return x


def _scaled_step(s: Level, t: Level, x: V, denoised: V, step_scale: float) -> V:
    """A step of Euler's method in sigma / alpha, scaled by a factor."""
    if step_scale == 1 or s.alpha == 0:
        return ddim(s, t, x, denoised)
    change = step_scale * (t.sigma * s.alpha / (s.sigma * t.alpha) - 1)
    return (t.alpha / s.alpha * (1 + change)) * x - (t.alpha * change) * denoised


@ships(
    order=2,
    source=DPM_SOLVER_PP,
    family="exponential_single_step",
    calls=2,
    spellings="gencast",
    dialects=AS_THEY_ARE,
    peers=(res4lyf("dpmpp_2s"),),
)
def dpmpp_2s(
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
    """DPM-Solver++ (2S), the exponential midpoint rule, with EDM's churn: GenCast's sampler.

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
    Lu et al. 2022, arXiv:2211.01095, algorithm 1 with r = 1/2; Price et al. 2023, arXiv:2312.15796, for the churn.
    """
    for s, t, s_churn, s_noise in grid.steps_with(s_churn, s_noise):
        hat, x = churn(run, grid, s, x, s_churn, s_tmin, s_tmax, s_noise, capped)
        denoised = run.denoise(x, hat)
        if t.sigma > 0:
            mid = middle(grid, hat, t, t)
            denoised = run.denoise(ddim(hat, mid, x, denoised), mid)
        x = ddim(hat, t, x, denoised)
    return x
