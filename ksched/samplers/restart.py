"""Restart sampling: Heun's method that jumps back up in noise and runs down again."""

from __future__ import annotations

import itertools
import math
from typing import Annotated, Literal, TypeVar

from ksched.names.enums import Dialect, NoiseSchedule
from ksched.options import Between, Dial, Positive, one_number
from ksched.plan.protocol import SamplerContext, Vector
from ksched.processes import Level
from ksched.samplers.blocks.straight_line import StraightLine
from ksched.samplers.peer_names import a1111
from ksched.samplers.runge_kutta import heun_step
from ksched.samplers.shipping import ships
from ksched.schedules import calculate_karras_sigmas
from ksched.schedules.grid import Grid

__all__ = ["restart"]

V = TypeVar("V", bound=Vector)


@ships(
    order=2,
    source="Xu et al. 2023, arXiv:2306.14878",
    family="runge_kutta",
    calls=None,
    draws=None,
    weak_order=2,
    spellings="restart_sampler",
    peers=(a1111("Restart", schedule=NoiseSchedule.KARRAS),),
    dialects={Dialect.A1111: {"levels": "karras"}},
)
def restart(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    s_min: Positive = 0.1,
    s_max: Positive = 2.0,
    restart_steps: Annotated[int, Between(0, 1000)] = 0,
    restarts: Annotated[int, Between(1, 100)] = 1,
    s_noise: Dial = 1.0,
    levels: Literal["grid", "karras"] = "grid",
) -> V:
    """Restart sampling with Heun's method: at a low level, noise is added up to a higher one and the run repeats.

    Second order between the restarts. Two model calls per step and one for the step to sigma 0, one noise per restart.
    Without a restart it is `heun`.

    Parameters
    ----------
    s_min, s_max : float
        The level to restart from and the level to go back to, in sigma / alpha. The nearest levels of the grid are
        used; there is no restart if they are the same.
    restart_steps : int
        Steps of each way down, on a Karras grid. 0 chooses as A1111 does: none for runs below 20 steps, 9 steps once
        below 36, and from there a quarter of the steps, twice.
    restarts : int
        Number of restarts, if ``restart_steps`` is given.
    s_noise : float or sequence of float
        Factor on the noise; with one per step, the noise added after a step uses that step's factor.
    levels : str
        "grid" uses the given levels, and restarts come on top; "karras" uses a Karras grid, shortened so that the run
        with restarts makes the number of steps asked for, as A1111 does when it chooses.

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
        one_number("restart: s_noise", s_noise, "the steps with levels='karras' are not the schedule's steps")
        main = [*_karras(grid, main[0], main[-2], steps - restart_steps * restarts - 1), main[-1]]
    low, high = (min(main[:-1], key=lambda v: abs(math.exp(-v.lam) - limit)) for limit in (s_min, s_max))
    way = _karras(grid, high, low, restart_steps) if restart_steps and high.lam < low.lam else []
    straight = StraightLine(grid)
    for s, t, s_noise in grid.steps_with(s_noise, levels=main):
        x = heun_step(run, straight, s, t, x)
        for _ in range(restarts if t is low and way else 0):
            ratio = high.alpha / low.alpha
            std = math.sqrt(high.sigma**2 - (ratio * low.sigma) ** 2)
            x = ratio * x + s_noise * std * run.noise(low, high)
            for u, v in itertools.pairwise(way):
                x = heun_step(run, straight, u, v, x)
    return x


def _karras(grid: Grid, high: Level, low: Level, steps: int) -> list[Level]:
    """Levels of the Karras rule in sigma / alpha, between two given ends."""
    ends = math.exp(-high.lam), math.exp(-low.lam)
    inner = calculate_karras_sigmas(steps + 1, ends[1], ends[0])[1:-2].tolist()
    return [high, *(grid.at(-math.log(ratio)) for ratio in inner), low]
