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


#: by order: inner levels and weights of single steps that begin a multistep method
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
    """Exponential Adams predictor and corrector in half log-SNR, at their full orders to the end.

    The order is the smaller of ``predictor_order`` + 1 and ``corrector_order``, but at most 3 with ``start`` "adams":
    third order by default, fourth with "runge_kutta". One model call per step: a state is corrected with the call that
    the next step makes anyway, and not called on again. Deterministic. ``corrector_order`` = 0 is `exp_ab`,
    ``predictor_order`` = 1 as well `euler`; the default is `sa_solver` without noise where that lowers no order.

    Parameters
    ----------
    predictor_order : how many predictions the predictor uses, at most
    corrector_order : how many the corrector uses, that of the level it corrects among them; 0 is no corrector
    start : the steps before there is a memory: "adams", those of lower order; "runge_kutta", single steps of one order
        less than the whole, which cost model calls: one more for order 3 without a corrector, two for order 4 with one,
        and four for order 4 without
    end : the step to sigma 0: "denoised", the prediction; "integral", the corrected state and the line through the last
        two eps, which is more exact from a low level and amplifies the errors of a network

    Notes
    -----
    In y = x / sigma the ODE is dy / dlam = exp(lam) * D, exactly; D is the polynomial through its values at the
    levels the run has, wherever they are, and the integral is exact: exponential Adams methods, Hochbruck & Ostermann
    2011, https://doi.org/10.1007/s10543-011-0332-6, in the mode predict, evaluate, correct of Adams-Moulton methods
    (Hairer, Norsett & Wanner 1993, III.1 and III.8). From pure noise the first step is in alpha / sigma and its
    prediction is not remembered, as nothing is known of levels infinitely far away.
    """
    order = min(predictor_order + 1, corrector_order) if corrector_order else predictor_order
    past: list[tuple[float, V]] = []  # (lam, prediction), the newest last
    eps: list[tuple[Level, V]] = []  # of the last two levels
    before: tuple[Level, Level, V] | None = None  # of the last step, if it was an Adams predictor
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
    """The state at sigma 0: x / alpha less the integral over sigma / alpha, from 0, of the line through eps."""
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

    Second order with ``start`` "adams", because its first step is of first order, with a small error; of any ``order``
    with "runge_kutta". One model call per step, deterministic. ``order`` = 1 is `euler`, 2 `res_multistep`; 3 is
    DPM-Solver++ (3M) with its second difference counted whole, `dpmpp_3m_sde` without noise.

    Parameters
    ----------
    order : how many predictions are used, at most
    start : as for `exp_pc`: "runge_kutta" costs one more model call for order 3, and four for order 4
    end : as for `exp_pc`

    Notes
    -----
    As for `exp_pc`.
    """
    return exp_pc(run, grid, x, predictor_order=order, corrector_order=0, start=start, end=end)
