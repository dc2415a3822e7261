"""Exponential Adams methods, as predictors and correctors."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Annotated, Literal

from ksched.options import Between
from ksched.plan.protocol import SamplerContext
from ksched.processes import Level
from ksched.samplers.blocks.stages import Rows, inner, stages
from ksched.samplers.blocks.steps import (
    adams,
    eps_step,
)
from ksched.samplers.blocks.weights import lagrange_weights
from ksched.samplers.dpmpp import V
from ksched.samplers.exponential_single_step import linear, res_3s_rows
from ksched.samplers.peer_names import comfyui, res4lyf, sdnext
from ksched.samplers.shipping import ships
from ksched.samplers.sources import EXPONENTIAL_ADAMS, NOISY, PORTED
from ksched.schedules.grid import Grid

__all__ = ["exp_ab", "exp_pc"]


Start = Literal["adams", "runge_kutta"]


End = Literal["denoised", "integral"]


#: by order: inner levels and weights of the single steps that start a multistep method
_STARTS: dict[int, tuple[list[float], Rows]] = {2: ([0.5], linear), 3: ([0.5, 1.0], res_3s_rows)}


@ships(
    order=3,
    source=EXPONENTIAL_ADAMS,
    family="exponential_multistep",
)
def exp_pc(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    predictor_order: Annotated[int, Between(1, 4)] = 3,
    corrector_order: Annotated[int, Between(0, 4)] = 4,
    start: Start = "adams",
    end: End = "denoised",
) -> V:
    """Exponential Adams predictor and corrector in half log-SNR, at full order to the end of the run.

    The order is the smaller of ``predictor_order`` + 1 and ``corrector_order``, but at most 3 with ``start`` "adams":
    third order by default, fourth with "runge_kutta". One model call per step: each state is corrected with the call
    that the next step makes anyway, and the corrected state is not evaluated again. Deterministic. ``corrector_order``
    = 0 is `exp_ab`, with ``predictor_order`` = 1 as well `euler`; the default is `sa_solver` without noise, where that
    does not lower the order.

    Parameters
    ----------
    predictor_order : int
        Largest number of predictions that the predictor uses.
    corrector_order : int
        Largest number that the corrector uses, including the one at the level it corrects; 0 turns it off.
    start : str
        How the run starts without a memory: "adams" takes steps of lower order; "runge_kutta" takes single steps of one
        order less than the whole, which cost extra model calls: one for order 3 without a corrector, two for order 4
        with one, and four for order 4 without.
    end : str
        The step to sigma 0: "denoised" returns the prediction; "integral" combines the corrected state with the line
        through the last two eps, which is more exact from a low level but amplifies a network's errors.

    Notes
    -----
    In y = x / sigma the ODE is exactly dy / dlam = exp(lam) * D. D is replaced by the polynomial through its values at
    the run's levels, however they are spaced, and the integral is exact: exponential Adams methods, Hochbruck &
    Ostermann 2011, https://doi.org/10.1007/s10543-011-0332-6, in the predict-evaluate-correct mode of Adams-Moulton
    methods (Hairer, Norsett & Wanner 1993, III.1 and III.8). From pure noise, the first step is taken in alpha / sigma
    and its prediction is not remembered, because the polynomial cannot use a level that is infinitely far away.
    """
    order = min(predictor_order + 1, corrector_order) if corrector_order else predictor_order
    past: list[tuple[float, V]] = []  # (lam, prediction), newest last
    eps: list[tuple[Level, V]] = []  # of the last two levels
    before: tuple[Level, Level, V] | None = None  # the last step, if it was an Adams predictor
    for s, t in grid.steps():
        denoised = run.denoise(x, s)
        if t.sigma == 0 and (end == "denoised" or s.alpha == 0):
            return denoised
        past, eps = [*past, (s.lam, denoised)], [*eps[-1:], (s, (x - s.alpha * denoised) / s.sigma)]
        if before is not None and corrector_order > 0:
            x = run.keep(adams(*before, past[-corrector_order:], 0.0))
        if t.sigma == 0:
            return _into_zero(s, t, x, eps)
        past = [p for p in past if isfinite(p[0]) or p[0] == s.lam][-max(predictor_order, corrector_order) :]
        if start == "runge_kutta" and len(past) + 1 + (corrector_order > 0) < order:
            nodes, rows = _STARTS[order - 1]
            levels = [*(inner(grid, s, t, node) for node in nodes), t]
            x, before = stages(run, s, levels, x, rows, nodes=nodes, known=denoised), None
        else:
            before = s, t, x
            x = adams(*before, past[-predictor_order:], 0.0)
    return x


def _into_zero(s: Level, t: Level, x: V, past: Sequence[tuple[Level, V]]) -> V:
    """The state at sigma 0: x / alpha minus the integral over sigma / alpha, from 0, of the line through eps."""
    (_, own), *others = reversed([(level, eps) for level, eps in past if level.alpha > 0])
    nodes = [0.0, *(1 - level.sigma * s.alpha / (level.alpha * s.sigma) for level, _ in others)]
    weights = lagrange_weights(nodes, [1.0, 0.5][: len(nodes)])
    return eps_step(s, t, x, (x - s.sigma * own) / s.alpha, weights, [own, *(eps for _, eps in others)])


@ships(
    order=2,
    source=EXPONENTIAL_ADAMS,
    family="exponential_multistep",
    peers=(
        comfyui("res_3m", f"{NOISY}, and starts with single steps", start="runge_kutta"),
        comfyui("res_3m_ode", "of RES4LYF", start="runge_kutta"),
        res4lyf("res_3m", start="runge_kutta"),
        res4lyf("res_3m_ode", start="runge_kutta"),
        res4lyf("abnorsett_2m", read=False, order=2, start="runge_kutta"),
        res4lyf("abnorsett_3m", start="runge_kutta"),
        res4lyf("abnorsett_4m", read=False, order=4, start="runge_kutta"),
        sdnext("ABNorsett 2M", PORTED, read=False, order=2),
        sdnext("ABNorsett 3M", PORTED),
        sdnext("ABNorsett 4M", PORTED, read=False, order=4),
        sdnext("RES-Unified 3M", PORTED),
        sdnext("RES-Multistep 3M", PORTED),
    ),
)
def exp_ab(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    order: Annotated[int, Between(1, 4)] = 3,
    start: Start = "adams",
    end: End = "denoised",
) -> V:
    """Exponential Adams-Bashforth method in half log-SNR: `exp_pc` without a corrector.

    Second order with ``start`` "adams": the first step is of first order, and its error is small. With "runge_kutta" it
    has the full ``order``. One model call per step, deterministic. ``order`` = 1 is `euler`, 2 is `res_multistep`; 3 is
    DPM-Solver++ (3M) with its second difference in full, which is `dpmpp_3m_sde` without noise.

    Parameters
    ----------
    order : int
        Largest number of predictions used.
    start : as for `exp_pc`: "runge_kutta" costs one more model call for order 3, and four for order 4
    end : as for `exp_pc`

    Notes
    -----
    As for `exp_pc`.
    """
    return exp_pc(run, grid, x, predictor_order=order, corrector_order=0, start=start, end=end)
