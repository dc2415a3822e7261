"""Adams-Bashforth methods in sigma, or in flow's own time: one model call per step and a memory of earlier slopes."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Sequence
from typing import Annotated, Literal, Protocol, TypeVar

from ksched.names.enums import Dialect, NoiseSchedule
from ksched.options import Between, Dial, Finite, Order, PeerValue, PerStep
from ksched.plan.protocol import SamplerContext, Vector
from ksched.processes import Level
from ksched.samplers.blocks.noise_split import AncestralRule, ancestral, renoise
from ksched.samplers.blocks.steps import ddim
from ksched.samplers.blocks.straight_line import StraightLine
from ksched.samplers.blocks.weights import combine, lagrange_weights, moments
from ksched.samplers.peer_names import a1111, comfyui, diffusers, k_diffusion, sd_cpp, sdnext
from ksched.samplers.shipping import ships
from ksched.samplers.sources import OF_FORGE, OF_REFORGE, PNDM
from ksched.schedules.grid import Grid

__all__ = ["gradient_estimation", "ipndm", "ipndm_v", "lms", "pndm"]

V = TypeVar("V", bound=Vector)
UpToFour = Annotated[int, Between(1, 4)]
End = Annotated[Literal["denoised", "integral"], PeerValue("integral")]

#: Adams-Bashforth weights of the last slopes for equal steps, the newest first.
EVEN = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


#: the step to sigma 0 in k-diffusion and diffusers
_TO_ZERO = {"end": "integral"}


@ships(
    order=2,
    source="k-diffusion",
    family="linear_multistep",
    spellings="k_lms",
    peers=(
        comfyui(),
        comfyui("SamplerLMS"),
        k_diffusion("order"),
        diffusers("LMSDiscreteScheduler"),
        a1111("LMS"),
        sd_cpp(
            "lms", "its default lms_shift of 1 uses each earlier slope in place of the one before it; 0 is this sampler"
        ),
        sdnext("LMSD"),
    ),
    dialects={Dialect.K_DIFFUSION: _TO_ZERO, Dialect.DIFFUSERS: _TO_ZERO},
)
def lms(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    order: Order = 4,
    end: End = "denoised",
) -> V:
    """Linear multistep: Adams-Bashforth with exact weights for uneven steps.

    Second order: the first steps are of lower order, and their error is small. One model call per step, deterministic.
    ``order`` = 1 is `euler`.

    Parameters
    ----------
    order : int
        Largest number of slopes used.
    end : str
        The step to sigma 0: "denoised" returns the prediction; "integral" steps as everywhere else, as in k-diffusion
        and diffusers.

    Notes
    -----
    Bashforth & Adams 1883; k-diffusion's ``sample_lms``, which integrates the polynomials numerically.
    """
    straight = StraightLine(grid)
    past: list[tuple[Level, V]] = []
    for s, t in grid.steps():
        denoised = run.denoise(x, s)
        if t.sigma == 0 and end == "denoised":
            return denoised
        past = _remembered(run, straight, past, s, x, denoised, order)
        if len(past) == 1:
            x = ddim(s, t, x, denoised)
            continue
        nodes = straight.nodes(s, t, [level for level, _ in past])
        weights = lagrange_weights(nodes, moments(0.0, len(nodes)))
        x = straight.move(s, t, x, combine(weights, [slope for _, slope in past]))
    return x


class _Slopes(Protocol):
    """Coordinates in which slopes are averaged: `StraightLine`, or one of diffusers' alternatives."""

    def slope(self, level: Level, x: V, denoised: V) -> V:
        """Slope at a state."""
        ...

    def move(self, s: Level, t: Level, x: V, slope: V) -> V:
        """The state at ``t`` reached along a slope."""
        ...


class _Eps:
    """eps as the slope, even from pure noise, where eps does not contain the prediction."""

    def slope(self, level: Level, x: V, denoised: V) -> V:
        return (x - level.alpha * denoised) / level.sigma

    def move(self, s: Level, t: Level, x: V, slope: V) -> V:
        if s.alpha == 0:
            return t.sigma * slope
        return (t.alpha / s.alpha) * x + (t.sigma - t.alpha / s.alpha * s.sigma) * slope


class _Velocity:
    """v as the slope: ``alpha * eps - sigma * D``, for the state scaled to variance 1."""

    def slope(self, level: Level, x: V, denoised: V) -> V:
        scale = math.hypot(level.alpha, level.sigma)
        return (level.alpha / scale / level.sigma) * x - (scale / level.sigma) * denoised

    def move(self, s: Level, t: Level, x: V, slope: V) -> V:
        scale = math.hypot(s.alpha, s.sigma)
        return ddim(s, t, x, (s.alpha / scale**2) * x - (s.sigma / scale) * slope)


def _remembered(
    run: SamplerContext[V], straight: _Slopes, past: list[tuple[Level, V]], s: Level, x: V, denoised: V, order: int
) -> list[tuple[Level, V]]:
    """The last slopes with their levels, the newest first; a method of order 1 stores none."""
    slope = straight.slope(s, x, denoised)
    return [(s, run.keep(slope) if order > 1 else slope), *past][:order]


@ships(
    order=2,
    source=PNDM,
    family="linear_multistep",
    peers=(
        comfyui(),
        diffusers("IPNDMScheduler", "on its own levels"),
        a1111("IPNDM", OF_FORGE),
        sd_cpp("ipndm"),
        sdnext("IPNDM", "on its own levels"),
    ),
    dialects={Dialect.DIFFUSERS: {"slopes": "eps", "end": "integral"}},
)
def ipndm(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    order: UpToFour = 4,
    slopes: Annotated[Literal["straight", "eps"], PeerValue("eps")] = "straight",
    end: End = "denoised",
) -> V:
    """Improved PNDM: Adams-Bashforth with the weights of equal steps, even where the steps are uneven.

    Second order: real steps are uneven, and the first ones are of lower order. One model call per step, deterministic.
    ``order`` = 1 is `euler`.

    Parameters
    ----------
    order : int
        Largest number of slopes used.
    slopes : str
        "straight"; "eps" differs only from pure noise, where eps is the state itself: a first step from there loses the
        prediction, as in diffusers.
    end : str
        The step to sigma 0: "denoised" returns the prediction; "integral" steps as everywhere else, as in diffusers.

    Notes
    -----
    Liu et al. 2022, arXiv:2202.09778; Zhang & Chen 2022, arXiv:2204.13902. diffusers' IPNDMScheduler runs it on noise
    levels of its own, which start at pure noise.
    """
    straight = StraightLine(grid) if slopes == "straight" else _Eps()
    past: list[tuple[Level, V]] = []
    for s, t in grid.steps():
        denoised = run.denoise(x, s)
        if t.sigma == 0 and (end == "denoised" or not past):
            return denoised
        past = _remembered(run, straight, past, s, x, denoised, order)
        if len(past) == 1 and slopes == "straight":
            x = ddim(s, t, x, denoised)
        else:
            x = straight.move(s, t, x, combine(EVEN[len(past) - 1], [slope for _, slope in past]))
    return x


def _pndm_calls(steps: int, to_zero: bool) -> int:
    return steps + 3 * min(3, max(steps - to_zero, 0))


@ships(
    order=2,
    source=PNDM,
    family="linear_multistep",
    calls=_pndm_calls,
    spellings="k_plms sample_plms",
    peers=(
        diffusers("PNDMScheduler", 'with skip_prk_steps, warm_up="heun"; there timesteps are whole numbers'),
        a1111("PLMS", "on its own levels", schedule=NoiseSchedule.DDIM_UNIFORM),
        sdnext("PNDM", "with skip_prk_steps False, like our default"),
    ),
    dialects={Dialect.DIFFUSERS: {"end": "integral"}, Dialect.A1111: {"warm_up": "heun"}},
)
def pndm(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    order: UpToFour = 4,
    warm_up: Literal["prk", "heun"] = "prk",
    slopes: Annotated[Literal["straight", "v"], PeerValue("v")] = "straight",
    end: End = "denoised",
) -> V:
    """PNDM, or PLMS: `ipndm` with a higher-order start.

    Second order, because real steps are uneven. One model call per step, and three more in each of the first three
    steps. Deterministic. ``order`` = 1 is `euler`.

    Parameters
    ----------
    order : int
        Largest number of slopes used.
    warm_up : str
        "prk" is PNDM: the first three steps use the classical Runge-Kutta method, with the middle of a step at the
        middle of its timesteps. "heun" is PLMS: the first step uses Heun's method, for one more call in all.
    slopes : str
        Which slopes are averaged: "straight"; "v", as diffusers does for models that predict v, which leaves the path
        that a constant prediction takes.
    end : str
        The step to sigma 0: "denoised" returns the prediction; "integral" steps as everywhere else, as in diffusers.

    Notes
    -----
    Liu et al. 2022, arXiv:2202.09778. PLMS is the form in the code of latent diffusion, diffusers' PNDMScheduler with
    skip_prk_steps. There, each step ends where the next begins only if the steps divide the training timesteps.
    """
    straight = StraightLine(grid) if slopes == "straight" else _Velocity()
    past: list[tuple[Level, V]] = []
    for i, (s, t) in enumerate(grid.steps()):
        denoised = run.denoise(x, s)
        if t.sigma == 0 and (end == "denoised" or not past):
            return denoised
        past = _remembered(run, straight, past, s, x, denoised, order)
        slope = combine(EVEN[len(past) - 1], [slope for _, slope in past])
        if i < (1 if warm_up == "heun" else 3) and order > 1 and t.sigma > 0:
            middle = [_half_way(grid, s, t)] * 2 if warm_up == "prk" else []
            slope = _mean_slope(run, straight, s, [*middle, t], x, denoised, past[0][1])
        x = ddim(s, t, x, denoised) if order == 1 else straight.move(s, t, x, slope)
    return x


def _half_way(grid: Grid, s: Level, t: Level) -> Level:
    """The level midway between two timesteps; if that is not between the levels, the middle of a straight line."""
    process, straight = grid.process, StraightLine(grid)
    level = process.level(process.sigma((process.timestep(s.label) + process.timestep(t.label)) / 2))
    return level if s.lam < level.lam < t.lam else straight.level((straight.time(s) + straight.time(t)) / 2)


def _mean_slope(
    run: SamplerContext[V], straight: _Slopes, s: Level, levels: Sequence[Level], x: V, denoised: V, slope: V
) -> V:
    """Mean slope of a step that tries levels in turn, each with the slope found before it (Heun's and Kutta's way)."""
    first, *weights = (1 / 2, 1 / 2) if len(levels) == 1 else (1 / 6, 1 / 3, 1 / 3, 1 / 6)
    mean, state = first * slope, ddim(s, levels[0], x, denoised)
    for weight, level, after in zip(weights, levels, (*levels[1:], None), strict=True):
        slope = straight.slope(level, state, run.denoise(state, level))
        mean = mean + weight * slope
        if after is not None:
            mean, state = run.keep(mean), straight.move(s, after, x, slope)
    return mean


@ships(
    order=2,
    source="Zhou et al., diff-sampler",
    family="linear_multistep",
    peers=(
        comfyui(note="its weights are wrong from order 3 on"),
        a1111("IPNDM_V", OF_FORGE, weights="published"),
        sd_cpp("ipndm_v", "from order 3 on it uses the weights of equal steps"),
    ),
    dialects={Dialect.COMFYUI: {"weights": "published"}},
)
def ipndm_v(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    order: UpToFour = 4,
    weights: Annotated[Literal["exact", "published"], PeerValue("published")] = "exact",
) -> V:
    """`ipndm` with exact weights for uneven steps.

    Second order: the first steps are of lower order, and their error is small. One model call per step, deterministic.
    It has the same table as `lms` of that order; ``order`` = 1 is `euler`.

    Parameters
    ----------
    order : int
        Largest number of slopes used.
    weights : str
        "exact"; "published" for those of the program that introduced the name, which are wrong from order 3 on and make
        it first order.

    Notes
    -----
    Zhou et al., diff-sampler; ComfyUI has the same code. There, order 3 has a misplaced bracket, order 4 also a wrong
    sign and a wrong ratio, and the weights do not sum to 1.
    """
    if weights == "exact":
        return lms(run, grid, x, order=order)
    straight = StraightLine(grid)
    past: list[tuple[Level, V]] = []
    for s, t in grid.steps():
        denoised = run.denoise(x, s)
        if t.sigma == 0:
            return denoised
        past = _remembered(run, straight, past, s, x, denoised, order)
        times = [straight.time(level) for level in (t, *(level for level, _ in past))]
        steps = [after - before for after, before in itertools.pairwise(times)]
        x = straight.move(s, t, x, combine(_published_weights(steps), [slope for _, slope in past]))
    return x


def _published_weights(steps: list[float]) -> list[float]:
    """The faulty published weights of ``ipndm_v`` for up to four steps, the newest first, as divided differences."""
    h, *past = steps
    first = h / (2 * past[0]) if past else 0.0
    if len(past) < 2:
        return [1 + first, -first][: len(steps)]
    one, two = h + past[0], past[0] + past[1]
    second = (1 - h / (3 * one) * (h * one) / (past[0] * two)) / 2  # should be (1 - h / (3 * one)) * ...
    ratio = past[0] / past[1]
    weights = [1 + first + second, -first - (1 + ratio) * second, ratio * second]
    if len(past) < 3:
        return weights
    whole, three = one + past[1], two + past[2]
    third = (
        ((1 - h / (3 * one)) / 2 + (1 - h / (2 * one)) * h / (6 * whole)) * (h * one * whole) / (past[0] * two * three)
    )
    far = past[0] * two / (past[1] * (past[1] + past[2]))
    return [
        weights[0] + third,
        weights[1] - (1 + ratio + far) * third,
        weights[2] + (ratio + far * (1 + past[1] / past[2])) * third,
        -third * far * ratio,  # should be past[1] / past[2]
    ]


@ships(
    order=1,
    source="Permenter & Yuan 2023, arXiv:2306.04848",
    family="linear_multistep",
    spellings="euler_ge",
    peers=(
        comfyui(),
        a1111("Gradient Estimation", OF_REFORGE),
        sd_cpp("euler_ge", "its gamma is ge_gamma"),
    ),
    dialects={Dialect.SD_CPP: {"as_ve": False, "split": "comfyui"}},
)
def gradient_estimation(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    ge_gamma: Finite = 2.0,
    mu: Annotated[float | tuple[float, ...], Between(0.0, 0.99), PerStep(), PeerValue(0.5)] = 0.0,
    eta: Annotated[float | tuple[float, ...], Between(0.0, sys.float_info.max), PerStep(), PeerValue(1.0)] = 0.0,
    split: AncestralRule = "variance",
    s_noise: Dial = 1.0,
) -> V:
    """Euler's method with the slope extrapolated from the step before.

    First order, one model call per step; deterministic unless ``mu`` or ``eta`` > 0. ``ge_gamma`` = 1 is `euler`, and
    `euler_ancestral` with its ``eta``; 1.5 is `ipndm` with order 2.

    Parameters
    ----------
    ge_gamma : float
        How far to extrapolate; 1 does not extrapolate.
    mu : float or tuple of float
        How far below the next level a step goes before noise is added, as a power of sigma: 0 adds none, 1/2 resembles
        DDPM. With an extrapolated slope, states then do not have the noise of their levels.
    eta : float or tuple of float
        The same amount as a share of the noise that is drawn afresh, as in `euler_ancestral`; not together with ``mu``.
    split : str
        How eta divides the noise on flow processes, as for `euler_ancestral`.
    s_noise : float or sequence of float
        Factor on the noise.

    Notes
    -----
    Permenter & Yuan 2023, arXiv:2306.04848. With mu it is the sampler of their program, smalldiffusion; with eta it is
    stable-diffusion.cpp's ``euler_ge``.
    """
    straight = StraightLine(grid)
    last: V | None = None
    for s, t, mu, eta, s_noise in grid.steps_with(mu, eta, s_noise):
        if mu > 0 and eta > 0:
            raise ValueError(
                f"gradient_estimation: give mu or eta, not both: both set the noise; got mu={mu}, eta={eta}"
            )
        denoised = run.denoise(x, s)
        if t.sigma == 0:
            return denoised
        down, up = ancestral(grid, s, t, eta, split)
        if mu > 0:
            below = (t.sigma * s.alpha / (s.sigma * t.alpha)) ** (mu / (1 - mu))
            down, up = t._replace(sigma=below * t.sigma), t.sigma * math.sqrt((1 - below) * (1 + below))
        ahead = slope = straight.slope(s, x, denoised)
        if ge_gamma != 1:
            slope = run.keep(slope)
            ahead = slope if last is None else slope + (ge_gamma - 1) * (slope - last)
        x = straight.move(s, down, x, ahead)
        x = renoise(run, s, t, x, s_noise * up)
        last = slope
    return x
