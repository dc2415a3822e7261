"""Steps that reinforcement learning takes through flow models: Euler's method with noise, by its programs' own rules."""

from __future__ import annotations

import math
from typing import TypeVar

from ksched.names.enums import Dialect
from ksched.options import Dial, DialShare
from ksched.plan.protocol import SamplerContext, Vector
from ksched.processes import Level
from ksched.samplers.blocks.noise_split import renoise
from ksched.samplers.blocks.steps import ddim
from ksched.samplers.shipping import ships
from ksched.schedules.grid import Grid

__all__ = ["dance_sde", "euler_maruyama", "flow_cps", "flow_sde", "flow_sde_std"]

V = TypeVar("V", bound=Vector)

#: programs whose samplers take flow states for something else, which these do nowhere
_AS_THEY_ARE = {dialect: {"as_ve": False} for dialect in (Dialect.COMFYUI, Dialect.K_DIFFUSION, Dialect.A1111)}


def euler_maruyama(run: SamplerContext[V], s: Level, t: Level, x: V, denoised: V, std: float) -> V:
    """A step of the SDE of a flow process with noise of so much std per root of sigma, in flow's own time.

    That is ``dx = (u + std ** 2 / (2 * sigma) * (x + (1 - sigma) * u)) * dsigma`` and noise, u being the velocity. The
    noise that it takes away is of first order in the step, and what it adds is exact: states have too much of it.
    """
    state = ddim(s, t, x, denoised)
    if std == 0:
        return state
    length = s.sigma - t.sigma
    eps = (x - s.alpha * denoised) / s.sigma
    return renoise(run, s, t, state - (std**2 * length / (2 * s.sigma)) * eps, std * math.sqrt(length))


def flow_sde_std(sigma: float, second: float, noise_level: float) -> float:
    """Flow-GRPO's std at a sigma, with the second level of a run in place of pure noise, where it is infinite."""
    return noise_level * math.sqrt(sigma / (1 - (second if sigma == 1 else sigma)))


@ships(
    order=1,
    source="Liu et al. 2025, arXiv:2505.05470",
    family="euler",
    draws=1,
    weak_order=1,
    keeps_variance=False,
    flow_only=True,
    spellings="flow_grpo",
    dialects=_AS_THEY_ARE,
)
def flow_sde(run: SamplerContext[V], grid: Grid, x: V, *, noise_level: Dial = 0.7) -> V:
    """Flow-GRPO's step: Euler-Maruyama on an SDE with the ODE's marginals, whose noise grows towards pure noise.

    First order, one model call and one noise per step; on flow processes. ``noise_level`` = 0 is `euler`. States have
    more noise than their levels, by a first-order amount.

    Parameters
    ----------
    noise_level : a, the noise being ``a * sqrt(sigma / (1 - sigma))`` per root of sigma

    Notes
    -----
    Liu et al. 2025, arXiv:2505.05470. At sigma 1, where the noise is infinite, the second level of the run stands for
    sigma in ``1 - sigma``, as in the paper's program; that draws noise in the step to sigma 0 as well, and this one
    returns the prediction there.
    """
    for s, t, noise_level in grid.steps_with(noise_level):
        denoised = run.denoise(x, s)
        if t.sigma == 0:
            return denoised
        x = euler_maruyama(run, s, t, x, denoised, flow_sde_std(s.sigma, grid.levels[1].sigma, noise_level))
    return x


@ships(
    order=1,
    source="Xue et al. 2025, arXiv:2505.07818",
    family="euler",
    draws=1,
    weak_order=1,
    keeps_variance=False,
    flow_only=True,
    spellings="dance_grpo",
    dialects=_AS_THEY_ARE,
)
def dance_sde(run: SamplerContext[V], grid: Grid, x: V, *, noise_level: Dial = 0.3) -> V:
    """DanceGRPO's step: Euler-Maruyama on an SDE with the ODE's marginals and the same noise at every level.

    First order, one model call and one noise per step; on flow processes. ``noise_level`` = 0 is `euler`. States have
    more noise than their levels, the more so the lower these are.

    Parameters
    ----------
    noise_level : of the noise, per root of sigma

    Notes
    -----
    Xue et al. 2025, arXiv:2505.07818, with a constant noise. The step to sigma 0 returns the prediction.
    """
    for s, t, noise_level in grid.steps_with(noise_level):
        denoised = run.denoise(x, s)
        if t.sigma == 0:
            return denoised
        x = euler_maruyama(run, s, t, x, denoised, noise_level)
    return x


@ships(
    order=1,
    source="Wang & Yu 2025, arXiv:2509.05952",
    family="euler",
    draws=1,
    flow_only=True,
    spellings="cps coefficients_preserving_sampling",
    dialects=_AS_THEY_ARE,
)
def flow_cps(run: SamplerContext[V], grid: Grid, x: V, *, noise_level: DialShare = 0.7) -> V:
    """Coefficients-preserving sampling: a step to part of the next level's noise, then fresh noise up to it.

    First order, one model call and one noise per step; on flow processes. ``noise_level`` = 0 is `euler`, 1 is `lcm`.
    The part is the same whatever the length of a step, so with more steps the results do not come nearer to the data:
    they lose variance, and no weak order is declared.

    Parameters
    ----------
    noise_level : angle between the noise that is kept and all of it, in right angles: the sine is the share that is
        drawn anew

    Notes
    -----
    Wang & Yu 2025, arXiv:2509.05952.
    """
    for s, t, noise_level in grid.steps_with(noise_level):
        angle = noise_level * math.pi / 2
        down = t._replace(sigma=t.sigma * math.cos(angle))
        x = renoise(run, s, t, ddim(s, down, x, run.denoise(x, s)), t.sigma * math.sin(angle))
    return x
