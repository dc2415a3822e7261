"""Stochastic Euler steps through flow models, as reinforcement learning programs take them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar

from ksched.options import Dial, DialShare
from ksched.plan.protocol import SamplerContext, Vector
from ksched.samplers.blocks.noise_split import renoise
from ksched.samplers.shipping import AS_THEY_ARE, ships
from ksched.schedules.grid import Grid

__all__ = ["POLICY_RULES", "PolicyRule", "StepTerms", "dance_sde", "flow_cps", "flow_sde"]

V = TypeVar("V", bound=Vector)


class StepTerms(NamedTuple):
    """A step of a flow process as numbers: ``of_x * x + of_velocity * u`` plus noise, with u = ``(x - D) / sigma``."""

    of_x: float
    of_velocity: float
    std: float


def euler_maruyama(sigma: float, after: float, rate: float) -> StepTerms:
    """A step from one sigma to another of the SDE with noise of std ``rate`` per square root of sigma.

    The SDE is ``dx = (u + rate ** 2 / (2 * sigma) * (x + (1 - sigma) * u)) * dsigma`` plus noise. The step removes
    existing noise only to first order in its length but adds noise exactly, so states have too much noise.
    """
    length = sigma - after
    less = rate**2 * length / (2 * sigma)
    return StepTerms(1 - less, -length - less * (1 - sigma), rate * math.sqrt(length))


def flow_sde_terms(sigma: float, after: float, second: float, noise_level: float) -> StepTerms:
    """Flow-GRPO's step; at pure noise, where the noise would be infinite, it uses the run's second level."""
    return euler_maruyama(sigma, after, noise_level * math.sqrt(sigma / (1 - (second if sigma == 1 else sigma))))


def dance_sde_terms(sigma: float, after: float, second: float, noise_level: float) -> StepTerms:
    """DanceGRPO's step."""
    return euler_maruyama(sigma, after, noise_level)


def flow_cps_terms(sigma: float, after: float, second: float, noise_level: float) -> StepTerms:
    """The step of coefficients-preserving sampling: the prediction, part of the existing noise, and fresh noise."""
    angle = noise_level * math.pi / 2
    kept = after * math.cos(angle)
    return StepTerms(1 - after + kept, kept * (1 - sigma) - (1 - after) * sigma, after * math.sin(angle))


class PolicyRule(NamedTuple):
    """The step rule of a reinforcement learning program.

    Attributes
    ----------
    terms : callable
        (sigma, next sigma, second sigma of the run, noise level) -> the step.
    noise_level, most : float
        Default and largest noise level.
    per_root : bool
        Whether the program gives the noise's std per square root of the step's length.
    """

    terms: Callable[[float, float, float, float], StepTerms]
    noise_level: float
    most: float = math.inf
    per_root: bool = True


#: by name of the sampler
POLICY_RULES: Mapping[str, PolicyRule] = {
    "flow_sde": PolicyRule(flow_sde_terms, 0.7),
    "dance_sde": PolicyRule(dance_sde_terms, 0.3),
    "flow_cps": PolicyRule(flow_cps_terms, 0.7, most=1.0, per_root=False),
}


def _steps(run: SamplerContext[V], grid: Grid, x: V, rule: PolicyRule, noise_level: Dial, s_noise: Dial) -> V:
    """The steps of a rule; a last step to sigma 0 returns the prediction."""
    for s, t, level, factor in grid.steps_with(noise_level, s_noise):
        denoised = run.denoise(x, s)
        if t.sigma == 0:
            return denoised
        of_x, of_velocity, std = rule.terms(s.sigma, t.sigma, grid.levels[1].sigma, level)
        x = (of_x + of_velocity / s.sigma) * x - (of_velocity / s.sigma) * denoised
        x = renoise(run, s, t, x, factor * std)
    return x


@ships(
    order=1,
    source="Liu et al. 2025, arXiv:2505.05470",
    family="euler",
    draws=1,
    weak_order=1,
    keeps_variance=False,
    flow_only=True,
    spellings="flow_grpo",
    dialects=AS_THEY_ARE,
)
def flow_sde(run: SamplerContext[V], grid: Grid, x: V, *, noise_level: Dial = 0.7, s_noise: Dial = 1.0) -> V:
    """Flow-GRPO's step: Euler-Maruyama on an SDE with the ODE's marginals, whose noise grows towards pure noise.

    First order, one model call and one noise per step; flow processes only. ``noise_level`` = 0 is `euler`. States have
    more noise than their levels, by a first-order amount.

    Parameters
    ----------
    noise_level : float or sequence of float
        A, in noise of std ``a * sqrt(sigma / (1 - sigma))`` per square root of sigma.
    s_noise : float or sequence of float
        Factor on the added noise.

    Notes
    -----
    Liu et al. 2025, arXiv:2505.05470. At sigma 1, where the noise is infinite, the run's second level replaces sigma in
    ``1 - sigma``, as in the paper's program. That program also draws noise in the step to sigma 0; this sampler returns
    the prediction there.
    """
    return _steps(run, grid, x, POLICY_RULES["flow_sde"], noise_level, s_noise)


@ships(
    order=1,
    source="Xue et al. 2025, arXiv:2505.07818",
    family="euler",
    draws=1,
    weak_order=1,
    keeps_variance=False,
    flow_only=True,
    spellings="dance_grpo",
    dialects=AS_THEY_ARE,
)
def dance_sde(run: SamplerContext[V], grid: Grid, x: V, *, noise_level: Dial = 0.3, s_noise: Dial = 1.0) -> V:
    """DanceGRPO's step: Euler-Maruyama on an SDE with the ODE's marginals and the same noise at every level.

    First order, one model call and one noise per step; flow processes only. ``noise_level`` = 0 is `euler`. States have
    more noise than their levels, and the excess grows as levels fall.

    Parameters
    ----------
    noise_level : float or sequence of float
        Std of the noise, per square root of sigma.
    s_noise : float or sequence of float
        Factor on the added noise.

    Notes
    -----
    Xue et al. 2025, arXiv:2505.07818, with a constant noise. The step to sigma 0 returns the prediction.
    """
    return _steps(run, grid, x, POLICY_RULES["dance_sde"], noise_level, s_noise)


@ships(
    order=1,
    source="Wang & Yu 2025, arXiv:2509.05952",
    family="euler",
    draws=1,
    flow_only=True,
    spellings="cps coefficients_preserving_sampling",
    dialects=AS_THEY_ARE,
)
def flow_cps(run: SamplerContext[V], grid: Grid, x: V, *, noise_level: DialShare = 0.7, s_noise: Dial = 1.0) -> V:
    """Coefficients-preserving sampling: a step to part of the next level's noise, then fresh noise up to that level.

    First order, one model call and one noise per step; flow processes only. ``noise_level`` = 0 is `euler`, 1 is `lcm`.
    The part does not depend on the step's length, so more steps do not bring the results closer to the data: they lose
    variance, and no weak order is declared.

    Parameters
    ----------
    noise_level : float or sequence of float
        Angle between the kept noise and all of it, in right angles; its sine is the share that is drawn afresh.
    s_noise : float or sequence of float
        Factor on the added noise.

    Notes
    -----
    Wang & Yu 2025, arXiv:2509.05952.
    """
    return _steps(run, grid, x, POLICY_RULES["flow_cps"], noise_level, s_noise)
