"""Several model calls per step, no memory: Runge-Kutta methods in sigma, or in flow's own time."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Literal, TypeVar

from ksched.options import Between, Bound, NonNegative, PeerValue, Positive
from ksched.plan.protocol import SamplerContext, Vector
from ksched.processes import Level
from ksched.samplers.blocks.noise_split import AncestralRule, ancestral, churn, renoise
from ksched.samplers.blocks.steps import ddim
from ksched.samplers.blocks.straight_line import StraightLine
from ksched.samplers.blocks.weights import combine, lagrange_weights, moments
from ksched.schedules import calculate_karras_sigmas
from ksched.schedules.grid import Grid

__all__ = [
    "TABLEAUS",
    "Tableau",
    "bogacki_shampine",
    "dormand_prince",
    "dpm_2",
    "dpm_2_ancestral",
    "heun",
    "heunpp2",
    "midpoint",
    "ralston",
    "restart",
    "rk4",
    "runge_kutta",
]

V = TypeVar("V", bound=Vector)


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge-Kutta method: nodes ``c``, rows ``a`` below the diagonal, weights ``b``, as exact fractions.

    Raises
    ------
    ValueError : rows of the wrong length, or that do not sum to their node; weights that do not sum to 1
    """

    a: tuple[tuple[Fraction, ...], ...]
    b: tuple[Fraction, ...]

    @classmethod
    def of(cls, *rows: str) -> Tableau:
        """A tableau of rows as books print them, the weights last: ``"1/2"``, ``"0 3/4"``."""
        *a, b = (tuple(map(Fraction, row.split())) for row in rows)
        return cls(tuple(a), b)

    def __post_init__(self) -> None:
        if [len(row) for row in self.a] != list(range(1, len(self.b))):
            raise ValueError(f"row i of a must have i + 1 entries and b one more; got {self}")
        if sum(self.b) != 1:
            raise ValueError(f"the weights b must sum to 1; got {sum(self.b)}")

    @property
    def c(self) -> tuple[Fraction, ...]:
        """Nodes of the stages after the first: the sums of their rows."""
        return tuple(sum(row, Fraction(0)) for row in self.a)


TABLEAUS = {
    "midpoint": Tableau.of("1/2", "0 1"),
    "ralston": Tableau.of("2/3", "1/4 3/4"),
    "bogacki_shampine": Tableau.of("1/2", "0 3/4", "2/9 1/3 4/9"),
    "rk4": Tableau.of("1/2", "0 1/2", "0 0 1", "1/6 1/3 1/3 1/6"),
    "dormand_prince": Tableau.of(
        "1/5",
        "3/40 9/40",
        "44/45 -56/15 32/9",
        "19372/6561 -25360/2187 64448/6561 -212/729",
        "9017/3168 -355/33 46732/5247 49/176 -5103/18656",
        "35/384 0 500/1113 125/192 -2187/6784 11/84",
    ),
}


def runge_kutta(
    run: SamplerContext[V], straight: StraightLine, s: Level, t: Level, x: V, denoised: V, tableau: Tableau
) -> tuple[V, list[V]]:
    """One step of an explicit method in the time of straight lines; ``denoised`` is the prediction at ``s``.

    Returns
    -------
    (prediction with which `ddim` reaches ``t``, slope of every stage as the prediction that gives it at ``s``)
    """
    start, length = straight.time(s), straight.time(t) - straight.time(s)
    seen = [denoised]
    for node, row in zip(tableau.c, tableau.a, strict=True):
        level = t if node == 1 else straight.level(start + float(node) * length)
        mixed = combine([float(value / node) for value in row], seen)
        seen.append(straight.seen_from(s, level, mixed, run.denoise(ddim(s, level, x, mixed), level)))
    return combine(map(float, tableau.b), seen), seen


def _fixed(run: SamplerContext[V], grid: Grid, x: V, tableau: Tableau) -> V:
    straight = StraightLine(grid)
    for s, t in grid.steps():
        mixed = run.denoise(x, s)
        if t.sigma > 0:
            mixed, _ = runge_kutta(run, straight, s, t, x, mixed, tableau)
        x = ddim(s, t, x, mixed)
    return x


def midpoint(run: SamplerContext[V], grid: Grid, x: V) -> V:
    """The midpoint rule.

    Second order, two model calls per step and one for the step to sigma 0; deterministic.

    Notes
    -----
    Runge 1895. Karras et al. 2022, arXiv:2206.00364, algorithm 1, with alpha = 1/2.
    """
    return _fixed(run, grid, x, TABLEAUS["midpoint"])


def ralston(run: SamplerContext[V], grid: Grid, x: V) -> V:
    """Ralston's method: the two-stage rule of the smallest error bound.

    Second order, two model calls per step and one for the step to sigma 0; deterministic.

    Notes
    -----
    Ralston 1962. Karras et al. 2022, arXiv:2206.00364, algorithm 1, with alpha = 2/3.
    """
    return _fixed(run, grid, x, TABLEAUS["ralston"])


def bogacki_shampine(run: SamplerContext[V], grid: Grid, x: V) -> V:
    """The third-order method of Bogacki and Shampine's pair.

    Third order, three model calls per step and one for the step to sigma 0; deterministic.

    Notes
    -----
    Bogacki & Shampine 1989. `rk_adaptive` chooses its steps with the whole pair.
    """
    return _fixed(run, grid, x, TABLEAUS["bogacki_shampine"])


def rk4(run: SamplerContext[V], grid: Grid, x: V) -> V:
    """The classical Runge-Kutta method.

    Fourth order, four model calls per step and one for the step to sigma 0; deterministic.

    Notes
    -----
    Kutta 1901.
    """
    return _fixed(run, grid, x, TABLEAUS["rk4"])


def dormand_prince(run: SamplerContext[V], grid: Grid, x: V) -> V:
    """The fifth-order method of Dormand and Prince's pair.

    Fifth order, six model calls per step and one for the step to sigma 0; deterministic.

    Notes
    -----
    Dormand & Prince 1980. `rk_adaptive` chooses its steps with the whole pair.
    """
    return _fixed(run, grid, x, TABLEAUS["dormand_prince"])


def heun(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    s_churn: NonNegative = 0.0,
    s_tmin: NonNegative = 0.0,
    s_tmax: Bound = math.inf,
    s_noise: NonNegative = 1.0,
) -> V:
    """Heun's trapezoidal method on the probability-flow ODE, with EDM's churn.

    Second order, two model calls per step and one for the step to sigma 0; deterministic unless ``s_churn`` > 0.

    Parameters
    ----------
    s_churn : noise added before the steps, in all; each adds at most 41 % to sigma
    s_tmin, s_tmax : sigmas between which noise is added
    s_noise : factor of the noise

    Notes
    -----
    Karras et al. 2022, arXiv:2206.00364, algorithm 2.
    """
    straight = StraightLine(grid)
    for s, t in grid.steps():
        hat, x = churn(run, grid, s, x, s_churn, s_tmin, s_tmax, s_noise)
        x = _heun_step(run, straight, hat, t, x)
    return x


def _heun_step(run: SamplerContext[V], straight: StraightLine, s: Level, t: Level, x: V) -> V:
    """A step with the mean of the slopes at its ends; the step to sigma 0 is Euler's."""
    mixed = denoised = run.denoise(x, s)
    if t.sigma > 0:
        after = straight.seen_from(s, t, denoised, run.denoise(ddim(s, t, x, denoised), t))
        mixed = 0.5 * denoised + 0.5 * after
    return ddim(s, t, x, mixed)


def heunpp2(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    s_churn: NonNegative = 0.0,
    s_tmin: NonNegative = 0.0,
    s_tmax: Bound = math.inf,
    s_noise: NonNegative = 1.0,
    weights: Annotated[Literal["quadrature", "published"], PeerValue("published")] = "quadrature",
) -> V:
    """Heun's method that also looks at the level after the next one.

    Second order; three model calls per step, two in the last but one, one in the step to sigma 0; deterministic unless
    ``s_churn`` > 0.

    Parameters
    ----------
    s_churn : noise added before the steps, in all; each adds at most 41 % to sigma
    s_tmin, s_tmax : sigmas between which noise is added
    s_noise : factor of the noise
    weights : of the slopes at the three levels. "quadrature": of the parabola through them. "published": sigma of the
        level over two or three times the first sigma of the run, which is of first order, and ends with an Euler step

    Notes
    -----
    No paper; from the Carzit sampler pack, in ComfyUI and Forge with the published weights.
    """
    straight, last = StraightLine(grid), grid.levels[-1]
    first = straight.time(grid.levels[0])
    for i, (s, t) in enumerate(grid.steps()):
        hat, x = churn(run, grid, s, x, s_churn, s_tmin, s_tmax, s_noise)
        ahead = [v for v in grid.levels[i + 1 : i + 3] if (v is not last if weights == "published" else v.sigma > 0)]
        levels, denoised = [hat, *ahead], run.denoise(x, hat)
        state, slopes = ddim(hat, t, x, denoised), [straight.slope(hat, x, denoised)]
        for before, level in itertools.pairwise(levels):
            state = state if level is t else straight.move(before, level, state, slopes[-1])
            slopes.append(straight.slope(level, state, run.denoise(state, level)))
        if weights == "published":
            parts = [straight.time(level) / (len(levels) * first) for level in ahead]
            parts = [1 - sum(parts), *parts]
        else:
            parts = lagrange_weights(straight.nodes(hat, t, levels), moments(0.0, len(levels)))
        x = straight.move(hat, t, x, combine(parts, slopes)) if ahead else ddim(hat, t, x, denoised)
    return x


def dpm_2(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    s_churn: NonNegative = 0.0,
    s_tmin: NonNegative = 0.0,
    s_tmax: Bound = math.inf,
    s_noise: NonNegative = 1.0,
) -> V:
    """A midpoint rule whose middle is half way in log sigma, with EDM's churn.

    Second order, two model calls per step and one for the step to sigma 0; deterministic unless ``s_churn`` > 0.

    Parameters
    ----------
    s_churn : noise added before the steps, in all; each adds at most 41 % to sigma
    s_tmin, s_tmax : sigmas between which noise is added
    s_noise : factor of the noise

    Notes
    -----
    k-diffusion's ``sample_dpm_2``, after DPM-Solver-2 (Lu et al. 2022, arXiv:2206.00927) and Karras et al. 2022,
    arXiv:2206.00364, algorithm 2.
    """
    straight = StraightLine(grid)
    for s, t in grid.steps():
        hat, x = churn(run, grid, s, x, s_churn, s_tmin, s_tmax, s_noise)
        x = _by_the_middle(run, straight, hat, t, x, last=t.sigma == 0)
    return x


def dpm_2_ancestral(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    eta: NonNegative = 1.0,
    s_noise: NonNegative = 1.0,
    split: AncestralRule = "variance",
) -> V:
    """The midpoint rule of `dpm_2` to less noise than the next level has, then fresh noise up to it.

    Second order, in law for every ``eta``; two model calls per step and one for the step to sigma 0, one noise per
    step. ``eta`` = 0 is `dpm_2`.

    Parameters
    ----------
    eta : share of the noise that is drawn anew
    s_noise : factor of the noise
    split : how eta divides the noise on flow processes: "variance", as everywhere else; "comfyui", linear in eta

    Notes
    -----
    k-diffusion's ``sample_dpm_2_ancestral``, in units of sigma / alpha.
    """
    straight = StraightLine(grid)
    for s, t in grid.steps():
        down, up = ancestral(grid, s, t, eta, split)
        x = renoise(run, s, t, _by_the_middle(run, straight, s, down, x, last=t.sigma == 0), s_noise * up)
    return x


def _by_the_middle(run: SamplerContext[V], straight: StraightLine, s: Level, t: Level, x: V, *, last: bool) -> V:
    """A step with the slope half way in log sigma; the last step, with that at ``s``."""
    mixed = denoised = run.denoise(x, s)
    if not last:
        # a step from pure noise may keep none of it: the middle is then that of sigma
        middle = straight.between(s, t) if t.sigma > 0 else straight.level(straight.time(s) / 2)
        mixed = straight.seen_from(s, middle, denoised, run.denoise(ddim(s, middle, x, denoised), middle))
    return ddim(s, t, x, mixed)


def restart(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    s_min: Positive = 0.1,
    s_max: Positive = 2.0,
    restart_steps: Annotated[int, Between(0, 1000)] = 0,
    restarts: Annotated[int, Between(1, 100)] = 1,
    s_noise: NonNegative = 1.0,
    levels: Literal["grid", "karras"] = "grid",
) -> V:
    """Heun's method that goes back: at a low level noise is added up to a higher one, and the way down run again.

    Second order between the restarts; two model calls per step and one for the step to sigma 0, one noise per restart.
    Without a restart it is `heun`.

    Parameters
    ----------
    s_min, s_max : where to go back, and to where, in sigma / alpha; the nearest levels of the grid are taken, and there
        is no restart if they are the same
    restart_steps : steps of the way down, on a Karras grid; 0 chooses as A1111 does: none for runs below 20 steps, 9
        once below 36, and a quarter of the steps twice from there on
    restarts : how often, if ``restart_steps`` is given
    s_noise : factor of the noise
    levels : "grid", those given, and restarts come on top; "karras", as A1111 does where it chooses: a Karras grid of
        so many steps less that the restarts fit into the number asked for

    Notes
    -----
    Xu et al. 2023, arXiv:2306.14878, algorithm 1; A1111's ``restart_sampler``.
    """
    steps = len(grid)
    if restart_steps == 0:
        restart_steps, restarts = (steps // 4, 2) if steps >= 36 else (9, 1) if steps >= 20 else (0, 1)
    main = list(grid.levels)
    if steps == 0:
        return x
    if levels == "karras" and restart_steps and steps - restart_steps * restarts > 1 and main[-1].sigma == 0:
        main = [*_karras(grid, main[0], main[-2], steps - restart_steps * restarts - 1), main[-1]]
    low, high = (min(main[:-1], key=lambda v: abs(math.exp(-v.lam) - limit)) for limit in (s_min, s_max))
    way = _karras(grid, high, low, restart_steps) if restart_steps and high.lam < low.lam else []
    straight = StraightLine(grid)
    for s, t in grid.steps(main):
        x = _heun_step(run, straight, s, t, x)
        for _ in range(restarts if t is low and way else 0):
            ratio = high.alpha / low.alpha
            std = math.sqrt(high.sigma**2 - (ratio * low.sigma) ** 2)
            x = ratio * x + s_noise * std * run.noise(low, high)
            for u, v in itertools.pairwise(way):
                x = _heun_step(run, straight, u, v, x)
    return x


def _karras(grid: Grid, high: Level, low: Level, steps: int) -> list[Level]:
    """Levels of the Karras rule in sigma / alpha, with the two given ends."""
    ends = math.exp(-high.lam), math.exp(-low.lam)
    inner = calculate_karras_sigmas(steps + 1, ends[1], ends[0])[1:-2].tolist()
    return [high, *(grid.at(-math.log(ratio)) for ratio in inner), low]
