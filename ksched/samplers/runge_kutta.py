"""Runge-Kutta methods in sigma, or in flow's own time: several model calls per step and no memory."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Literal, TypeVar

from ksched.names.enums import Dialect
from ksched.options import Bound, Dial, NonNegative, PeerValue
from ksched.plan.protocol import SamplerContext, Vector
from ksched.processes import Level
from ksched.samplers.blocks.noise_split import churn
from ksched.samplers.blocks.steps import ddim
from ksched.samplers.blocks.straight_line import StraightLine
from ksched.samplers.blocks.weights import combine, lagrange_weights, moments
from ksched.samplers.peer_names import a1111, comfyui, diffusers, k_diffusion, res4lyf, sd_cpp, sdnext
from ksched.samplers.shipping import ships
from ksched.samplers.sources import DORMAND_PRINCE, EDM, OF_FORGE, PORTED
from ksched.schedules.grid import Grid

__all__ = [
    "TABLEAUS",
    "Tableau",
    "bogacki_shampine",
    "dormand_prince",
    "heun",
    "heun_step",
    "heunpp2",
    "midpoint",
    "ralston",
    "rk4",
    "runge_kutta",
]

V = TypeVar("V", bound=Vector)


@dataclass(frozen=True)
class Tableau:
    """An explicit Runge-Kutta method: nodes ``c``, rows ``a`` below the diagonal, weights ``b``, as exact fractions.

    Raises
    ------
    ValueError
        For rows of the wrong length, or that do not sum to their node; weights that do not sum to 1.
    """

    a: tuple[tuple[Fraction, ...], ...]
    b: tuple[Fraction, ...]

    @classmethod
    def of(cls, *rows: str) -> Tableau:
        """A tableau from rows as books print them, with the weights last: ``"1/2"``, ``"0 3/4"``."""
        *a, b = (tuple(map(Fraction, row.split())) for row in rows)
        return cls(tuple(a), b)

    def __post_init__(self) -> None:
        if [len(row) for row in self.a] != list(range(1, len(self.b))):
            raise ValueError(f"row i of a must have i + 1 entries, and b one more; got {self}")
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
    (prediction with which `ddim` reaches ``t``, slope of each stage as the prediction that gives that slope at ``s``)
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


@ships(
    order=2,
    source="Runge 1895",
    family="runge_kutta",
    calls=2,
    spellings="rf_solver",
    peers=(res4lyf("midpoint_2s"),),
)
def midpoint(run: SamplerContext[V], grid: Grid, x: V) -> V:
    """The midpoint rule.

    Second order, two model calls per step and one for the step to sigma 0; deterministic.

    Notes
    -----
    Runge 1895. Karras et al. 2022, arXiv:2206.00364, algorithm 1, with alpha = 1/2.
    """
    return _fixed(run, grid, x, TABLEAUS["midpoint"])


@ships(
    order=2,
    source="Ralston 1962",
    family="runge_kutta",
    calls=2,
    peers=(
        res4lyf("ralston_2s"),
        sdnext("Linear-RK Ralston", PORTED),
    ),
)
def ralston(run: SamplerContext[V], grid: Grid, x: V) -> V:
    """Ralston's method: the two-stage rule with the smallest error bound.

    Second order, two model calls per step and one for the step to sigma 0; deterministic.

    Notes
    -----
    Ralston 1962. Karras et al. 2022, arXiv:2206.00364, algorithm 1, with alpha = 2/3.
    """
    return _fixed(run, grid, x, TABLEAUS["ralston"])


@ships(
    order=3,
    source="Bogacki & Shampine 1989",
    family="runge_kutta",
    calls=3,
    spellings="bosh3",
    peers=(res4lyf("bogacki-shampine_4s"),),
)
def bogacki_shampine(run: SamplerContext[V], grid: Grid, x: V) -> V:
    """The third-order method of Bogacki and Shampine's embedded pair.

    Third order, three model calls per step and one for the step to sigma 0; deterministic.

    Notes
    -----
    Bogacki & Shampine 1989. `rk_adaptive` uses the whole pair to choose its steps.
    """
    return _fixed(run, grid, x, TABLEAUS["bogacki_shampine"])


@ships(
    order=4,
    source="Kutta 1901",
    family="runge_kutta",
    calls=4,
    peers=(
        res4lyf("rk4_4s"),
        sdnext("Linear-RK 4", PORTED),
        sdnext("Runge-Kutta 4/4", PORTED),
    ),
)
def rk4(run: SamplerContext[V], grid: Grid, x: V) -> V:
    """The classical Runge-Kutta method.

    Fourth order, four model calls per step and one for the step to sigma 0; deterministic.

    Notes
    -----
    Kutta 1901.
    """
    return _fixed(run, grid, x, TABLEAUS["rk4"])


@ships(
    order=5,
    source=DORMAND_PRINCE,
    family="runge_kutta",
    calls=6,
    spellings="dopri5",
    peers=(res4lyf("dormand-prince_6s"),),
)
def dormand_prince(run: SamplerContext[V], grid: Grid, x: V) -> V:
    """The fifth-order method of Dormand and Prince's embedded pair.

    Fifth order, six model calls per step and one for the step to sigma 0; deterministic.

    Notes
    -----
    Dormand & Prince 1980. `rk_adaptive` uses the whole pair to choose its steps.
    """
    return _fixed(run, grid, x, TABLEAUS["dormand_prince"])


@ships(
    order=2,
    source=EDM,
    family="runge_kutta",
    calls=2,
    spellings="k_heun FlowMatchHeun edm",
    peers=(
        comfyui(),
        k_diffusion("s_churn s_tmin s_tmax s_noise"),
        diffusers("HeunDiscreteScheduler"),
        diffusers("FlowMatchHeunDiscreteScheduler", "on `Flow(shift)`"),
        a1111("Heun"),
        sd_cpp("heun"),
        res4lyf("heun_2s"),
        sdnext("Heun"),
        sdnext("Heun FlowMatch", "on `Flow(shift)`"),
        sdnext("Linear-RK Heun", PORTED),
        sdnext("Linear-RK 2", PORTED),
    ),
)
def heun(
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
    """Heun's trapezoidal method on the probability-flow ODE, with EDM's churn.

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
    Karras et al. 2022, arXiv:2206.00364, algorithm 2.
    """
    straight = StraightLine(grid)
    for s, t, s_churn, s_noise in grid.steps_with(s_churn, s_noise):
        hat, x = churn(run, grid, s, x, s_churn, s_tmin, s_tmax, s_noise, capped)
        x = heun_step(run, straight, hat, t, x)
    return x


def heun_step(run: SamplerContext[V], straight: StraightLine, s: Level, t: Level, x: V) -> V:
    """A step with the mean of the slopes at its ends; the step to sigma 0 is Euler's."""
    mixed = denoised = run.denoise(x, s)
    if t.sigma > 0:
        after = straight.seen_from(s, t, denoised, run.denoise(ddim(s, t, x, denoised), t))
        mixed = 0.5 * denoised + 0.5 * after
    return ddim(s, t, x, mixed)


def _heunpp2_calls(steps: int, to_zero: bool) -> int:
    return max(3 * steps - (3 if to_zero else 1), min(steps, 1))


@ships(
    order=2,
    source="ComfyUI",
    family="runge_kutta",
    calls=_heunpp2_calls,
    spellings="heun++",
    peers=(
        comfyui(note="its weights are of first order"),
        a1111("HeunPP2", OF_FORGE, weights="published"),
    ),
    dialects={Dialect.COMFYUI: {"weights": "published"}},
)
def heunpp2(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    s_churn: Dial = 0.0,
    s_tmin: NonNegative = 0.0,
    s_tmax: Bound = math.inf,
    s_noise: Dial = 1.0,
    capped: bool = True,
    weights: Annotated[Literal["quadrature", "published"], PeerValue("published")] = "quadrature",
) -> V:
    """Heun's method that also evaluates the level after the next one.

    Second order. Three model calls per step, two in the last step but one, and one in the step to sigma 0.
    Deterministic unless ``s_churn`` > 0.

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
    weights : str
        Weights of the slopes at the three levels: "quadrature" integrates the parabola through them; "published" is the
        level's sigma over two or three times the run's first sigma, which is first order and ends with an Euler step.

    Notes
    -----
    No paper; from the Carzit sampler pack. ComfyUI and Forge have it with the published weights.
    """
    straight, last = StraightLine(grid), grid.levels[-1]
    first = straight.time(grid.levels[0])
    for i, (s, t, s_churn, s_noise) in enumerate(grid.steps_with(s_churn, s_noise)):
        hat, x = churn(run, grid, s, x, s_churn, s_tmin, s_tmax, s_noise, capped)
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
