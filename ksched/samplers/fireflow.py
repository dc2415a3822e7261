"""FireFlow: the midpoint rule at one model call per step."""

from __future__ import annotations

from typing import TypeVar

from ksched.plan.protocol import SamplerContext, Vector
from ksched.samplers.blocks.straight_line import StraightLine
from ksched.samplers.shipping import AS_THEY_ARE, ships
from ksched.schedules.grid import Grid

__all__ = ["fireflow"]

V = TypeVar("V", bound=Vector)


def _calls(steps: int, to_zero: bool) -> int:
    return steps + 1 if steps else 0


@ships(
    order=2,
    source="Deng et al. 2024, arXiv:2412.07517",
    family="runge_kutta",
    calls=_calls,
    ends_at_denoised=False,
    spellings="fire_flow",
    dialects=AS_THEY_ARE,
)
def fireflow(run: SamplerContext[V], grid: Grid, x: V) -> V:
    """The midpoint rule, with the slope in the middle of the previous step as its first stage.

    Second order. One model call per step and one more in the first; deterministic.

    Notes
    -----
    Deng et al. 2024, arXiv:2412.07517, algorithm 1, in flow's own time, or in sigma on other processes. The step to
    sigma 0 is like the others, with a call in its middle.
    """
    straight = StraightLine(grid)
    slope: V | None = None
    for s, t in grid.steps():
        if slope is None:
            slope = straight.slope(s, x, run.denoise(x, s))
        else:
            x = run.keep(x)  # the model never evaluates this state, so without keep its rows would grow
        middle = straight.level((straight.time(s) + straight.time(t)) / 2)
        state = run.keep(straight.move(s, middle, x, slope))
        slope = run.keep(straight.slope(middle, state, run.denoise(state, middle)))
        x = straight.move(s, t, x, slope)
    return x
