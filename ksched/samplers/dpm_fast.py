"""DPM-Solver-fast: single-step DPM-Solver steps that use exactly a given number of model calls."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import isinf
from typing import Annotated, Literal, TypeVar

import numpy as np

from ksched.names.enums import Dialect
from ksched.options import Dial, PeerValue, one_number, per_step
from ksched.plan.protocol import SamplerContext, Vector
from ksched.processes import Level
from ksched.samplers.blocks.noise_split import ancestral_above, renoise
from ksched.samplers.blocks.stages import Rows, inner, stages
from ksched.samplers.exponential_single_step import halves, thirds
from ksched.samplers.peer_names import a1111, comfyui, k_diffusion
from ksched.samplers.shipping import ships
from ksched.samplers.sources import DPM_SOLVER, WHOLE_SCHEDULE
from ksched.schedules.grid import Grid

__all__ = ["dpm_fast", "fast_orders"]

V = TypeVar("V", bound=Vector)


_METHODS: dict[int, tuple[list[float], Rows]] = {
    1: ([], lambda shares, z: [[1.0]]),
    2: ([1 / 2], halves),
    3: ([1 / 3, 2 / 3], thirds),
}


#: k-diffusion's behaviour
_PUBLISHED = {"levels": "range", "end": "sigma_min"}


@ships(
    order=2,
    source=DPM_SOLVER,
    family="exponential_single_step",
    weak_order=2,
    spellings="k_dpm_fast dpm_solver_fast",
    peers=(
        comfyui(note=WHOLE_SCHEDULE),
        k_diffusion("sigma_min sigma_max n eta s_noise noise_sampler", WHOLE_SCHEDULE),
        a1111("DPM fast", WHOLE_SCHEDULE),
    ),
    dialects={Dialect.COMFYUI: _PUBLISHED, Dialect.K_DIFFUSION: _PUBLISHED},
)
def dpm_fast(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    eta: Dial = 0.0,
    s_noise: Dial = 1.0,
    levels: Literal["grid", "range"] = "grid",
    end: Annotated[Literal["denoised", "sigma_min"], PeerValue("sigma_min")] = "denoised",
) -> V:
    """DPM-Solver-fast: steps of order 3, then 2 and 1, chosen to fit the number of model calls.

    Second order: it is third order except for its last steps. One model call per step of the grid, whose levels are the
    method's stages; deterministic unless ``eta`` > 0.

    Parameters
    ----------
    eta : float or sequence of float
        Share of the noise that each step of the method draws afresh; where eta or s_noise changes, a new step begins.
    s_noise : float or sequence of float
        Factor on the noise.
    levels : str
        "grid" uses the given levels, two or three steps at a time; "range", as published, spaces levels evenly in
        log-SNR between the first level and the last above 0, and ignores those in between.
    end : str
        If the last level is 0: "denoised" calls the model at the last level above it; "sigma_min" stops there with the
        remaining noise, as k-diffusion does, and spends the saved call earlier.

    Notes
    -----
    Lu et al. 2022, arXiv:2206.00927, section 3.4 and appendix D.3; k-diffusion's ``sample_dpm_fast``.
    """
    finish = grid.levels[-1].sigma == 0
    above = list(grid.levels[:-1] if finish else grid.levels)
    last = finish and end == "denoised"  # keep one call, at the last level above 0, for the end
    if not above:  # a run that starts at 0 has no step
        return x
    if len(above) < 2:
        denoised = run.denoise(x, above[0]) if finish else x
        return denoised if last else x  # k-diffusion calls the model even in a run of length 0
    by_grid = levels == "grid"
    parts = _of_grid(grid, above, eta, s_noise) if by_grid else _of_range(grid, above, eta, s_noise, len(grid) - last)
    walk = grid.steps()  # one step per model call
    for order, part, eta, s_noise in parts:
        s, t = part[0], part[-1]
        down, up = ancestral_above(grid, s, t, eta, above[-1])
        nodes, rows = _METHODS[order]
        inside = part[1:-1] or [inner(grid, s, down, node) for node in nodes]
        known = None if part[1:-1] else nodes
        x = stages(run, s, [*inside, down], x, rows, nodes=known, predict="eps", each_call=lambda: next(walk, None))
        x = renoise(run, s, t, x, s_noise * up)
    next(walk, None)
    return run.denoise(x, above[-1]) if last else x


def fast_orders(calls: int) -> list[int]:
    """Orders of the steps that use this many model calls: as many 3s as leave a lower order for the end."""
    threes, rest = divmod(calls, 3)
    return [3] * threes + [rest] if rest else [3] * (threes - 1) + [2, 1]


_Part = tuple[int, Sequence[Level], float, float]  # a step of the method: order, levels, eta, s_noise


def _of_grid(grid: Grid, above: Sequence[Level], eta: Dial, s_noise: Dial) -> list[_Part]:
    """Steps whose stages are levels of the grid; eta and s_noise are constant within a step."""
    noises = [*zip(per_step(eta, len(grid)), per_step(s_noise, len(grid)), strict=True)]
    changes = [k for k in range(1, len(above) - 1) if noises[k] != noises[k - 1]]
    cuts = sorted({0, *accumulate(fast_orders(len(above) - 1)), *changes})
    return [(b - a, above[a : b + 1], *noises[a]) for a, b in pairwise(cuts)]


def _of_range(grid: Grid, above: Sequence[Level], eta: Dial, s_noise: Dial, calls: int) -> list[_Part]:
    """Steps evenly spaced in log-SNR between the first and last level, which make the given number of model calls."""
    why = "the steps with levels='range' are not the schedule's steps"
    noise = one_number("dpm_fast: eta", eta, why), one_number("dpm_fast: s_noise", s_noise, why)
    orders = fast_orders(calls)
    first = above[0].lam
    if isinf(first):  # pure noise: the paper starts a thousandth of the run later
        first = grid.process.level(max(grid.process.sigma_after(1e-3), above[1].label)).lam
    lams = np.linspace(first, above[-1].lam, len(orders) + 1)[1:-1].tolist()
    ends = pairwise([above[0], *map(grid.at, lams), above[-1]])
    return [(order, pair, *noise) for order, pair in zip(orders, ends, strict=True)]
