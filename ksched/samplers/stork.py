"""STORK: stabilized Runge-Kutta methods whose stages are extrapolated from earlier steps instead of evaluated."""

from __future__ import annotations

from functools import cache
from typing import Annotated, Literal, TypeVar

from ksched.options import Between, PeerValue
from ksched.plan.protocol import SamplerContext, Vector
from ksched.processes import Level
from ksched.samplers.blocks.straight_line import StraightLine
from ksched.samplers.blocks.weights import combine, lagrange_weights
from ksched.samplers.shipping import AS_THEY_ARE, ships
from ksched.schedules.grid import Grid

__all__ = ["stork"]

V = TypeVar("V", bound=Vector)
Abscissae = Literal["exact", "published"]


def _calls(steps: int, to_zero: bool) -> int:
    return steps + 1 if steps else 0


@ships(
    order=2,
    source="Tan et al. 2025, arXiv:2505.24210",
    family="linear_multistep",
    calls=_calls,
    ends_at_denoised=False,
    spellings="stork_2 stork2",
    dialects=AS_THEY_ARE,
)
def stork(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    order: Annotated[int, Between(2, 3)] = 3,
    stages: Annotated[int, Between(2, 1000)] = 50,
    abscissae: Annotated[Abscissae, PeerValue("published")] = "exact",
) -> V:
    """STORK-2: a stabilized Runge-Kutta-Gegenbauer method with stages from Taylor expansions of the slope in time.

    Second order, one model call per step and one more in the first; deterministic.

    Parameters
    ----------
    order : int
        Largest number of slopes used, one more than the number of derivatives in the expansion.
    stages : int
        Number of stages; none of them calls the model.
    abscissae : str
        Times of the stages: "exact"; "published" are those of a Legendre method, which give the slope's derivative less
        than its weight of 1/2. That is first order, with 2 % of Euler's error at 50 stages.

    Notes
    -----
    Tan et al. 2025, arXiv:2505.24210, STORK-2 with the derivatives of uneven steps, in flow's own time, or in sigma on
    other processes. An expanded slope does not depend on the state of its stage, so the stages reduce to one sum of
    slopes: that of `lms`, except for the weights of the derivatives. With exact abscissae the first derivative has its
    exact weight, so after the first step ``order`` = 2 is `lms` of that order; the second derivative has about 3/4 of
    its exact weight. In STORK-4 all derivatives have the weights of `lms`.
    """
    straight = StraightLine(grid)
    past: list[tuple[Level, V]] = []
    for s, t in grid.steps():
        slope = run.keep(straight.slope(s, x, run.denoise(x, s)))
        past = [(s, slope), *past][:order]
        if grid.levels[0] is s:
            x = _first_step(run, straight, s, t, x, slope)
            continue
        full = len(past) == order
        used, integrals = (past, _integrals(stages, abscissae)) if full else (past[:2], (1.0, 1 / 2))
        weights = lagrange_weights(straight.nodes(s, t, [level for level, _ in used]), integrals[: len(used)])
        x = straight.move(s, t, x, combine(weights, [slope for _, slope in used]))
    return x


def _first_step(run: SamplerContext[V], straight: StraightLine, s: Level, t: Level, x: V, slope: V) -> V:
    """Two half steps: Euler's, then Adams-Bashforth of order 2."""
    middle = straight.level((straight.time(s) + straight.time(t)) / 2)
    x = run.keep(straight.move(s, middle, x, slope))
    after = straight.slope(middle, x, run.denoise(x, middle))
    return straight.move(middle, t, x, (3 / 2) * after - (1 / 2) * slope)


@cache
def _integrals(stages: int, abscissae: Abscissae) -> tuple[float, ...]:
    """The stages' results for the powers 0 to 2 of time, from 0 to 1 over a step, in place of exact integrals.

    The recursion of RKG2, whose stability polynomials are Gegenbauer's of index 3/2 (Skaras et al. 2021).
    """

    def share(j: int) -> float:  # weight of the j-th polynomial in its stage
        return 4 * (j - 1) * (j + 4) / (3 * j * (j + 1) * (j + 2) * (j + 3)) if j > 1 else (1.0, 1 / 3)[j]

    def time(j: int) -> float:
        if abscissae == "exact":
            return (j - 1) * (j + 4) * width / 6 if j > 1 else width
        return (j - 1) * (j + 2) / (stages**2 + stages - 2) if j > 1 else 4 / (3 * (stages**2 + stages - 2))

    width = 6 / ((stages + 4) * (stages - 1))
    found = []
    for power in range(3):
        start = 0.0**power
        before, value = 0.0, width * start
        for j in range(2, stages + 1):
            mu, nu = (2 * j + 1) / j * share(j) / share(j - 1), -(j + 1) / j * share(j) / share(j - 2)
            of_start = j * (j + 1) / 2 * share(j - 1) - 1
            before, value = value, mu * (value + width * (time(j - 1) ** power + of_start * start)) + nu * before
        found.append(value)
    return tuple(found)
