"""One model call per step and a memory of earlier ones: multistep methods in log-SNR."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import exp, expm1, isfinite, log, log1p, sqrt
from typing import Annotated, Literal, TypeVar

import numpy as np

from ksched.options import Between, Count, NonNegative, Order, Quirk, Share
from ksched.plan.protocol import Vector, Verbs
from ksched.processes import Level
from ksched.samplers.adams import lms
from ksched.samplers.blocks import (
    Integrals,
    Rows,
    adams,
    ancestral,
    combine,
    ddim,
    eps_step,
    exponential,
    fresh_std,
    half_step,
    inner,
    lagrange_weights,
    midpoint,
    order_left,
    output,
    phi,
    renoise,
    stages,
    with_last_twice,
)
from ksched.samplers.dpm_solver import dpm_multistep
from ksched.samplers.exponential import linear, res_3s_rows
from ksched.schedules.grid import Grid
from ksched.types import Array

__all__ = [
    "deis",
    "dpmpp_2m",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_heun",
    "dpmpp_3m_sde",
    "er_sde",
    "exp_ab",
    "exp_pc",
    "res_multistep",
    "res_multistep_ancestral",
    "sa_solver",
    "sa_solver_pece",
    "uni_pc",
    "uni_pc_bh2",
]

V = TypeVar("V", bound=Vector)
Solver = Literal["midpoint", "heun"]
Start = Literal["adams", "runge_kutta"]
End = Literal["denoised", "integral"]


def dpmpp_2m_sde(
    run: Verbs[V],
    grid: Grid,
    x: V,
    *,
    eta: NonNegative = 1.0,
    s_noise: NonNegative = 1.0,
    solver_type: Solver = "midpoint",
) -> V:
    """DPM-Solver++ (2M) on the reverse SDE: exponential integrator of the last two predictions, extrapolated.

    Second order at ``eta`` = 0, where it is `dpmpp_2m`; one model call per step, one noise per step if ``eta`` > 0.
    The first step is of first order.

    Parameters
    ----------
    eta : of the reverse SDE; 0 is the ODE
    s_noise : factor of the noise
    solver_type : weight of the change between the predictions: "midpoint", half that of the step; "heun", the exact
        integral of the line through them

    Notes
    -----
    Lu et al. 2022, arXiv:2211.01095, algorithm 2; SDE form and eta as in k-diffusion's ``sample_dpmpp_2m_sde``.
    """
    last: tuple[V, float] | None = None  # prediction and step size before
    for s, t in grid.steps():
        denoised = run.denoise(x, s)
        if t.sigma == 0:
            return denoised
        h = t.lam - s.lam
        x = exponential(s, t, x, denoised, eta)
        if last is not None:
            z = (1 + eta) * h
            slope = -expm1(-z) / 2 if solver_type == "midpoint" else 1 - phi(1, -z)
            x = x + (t.alpha * slope * h / last[1]) * (denoised - last[0])
        x = renoise(run, s, t, x, s_noise * fresh_std(s, t, eta))
        last = denoised, h
    return x


def dpmpp_2m(run: Verbs[V], grid: Grid, x: V, *, solver_type: Solver = "midpoint") -> V:
    """DPM-Solver++ (2M): `dpmpp_2m_sde` at eta 0.

    Second order, one model call per step, deterministic. ``solver_type`` "heun" is RES (2M) of Zhang et al. 2023.

    Parameters
    ----------
    solver_type : weight of the change between the predictions, as for `dpmpp_2m_sde`

    Notes
    -----
    Lu et al. 2022, arXiv:2211.01095, algorithm 2. On flow processes it runs in the true log-SNR (as diffusers does).
    """
    return dpmpp_2m_sde(run, grid, x, eta=0.0, solver_type=solver_type)


def dpmpp_2m_sde_heun(
    run: Verbs[V],
    grid: Grid,
    x: V,
    *,
    eta: NonNegative = 1.0,
    s_noise: NonNegative = 1.0,
    solver_type: Solver = "heun",
) -> V:
    """`dpmpp_2m_sde` with the exact integral of the line through two predictions.

    Second order at ``eta`` = 0, where it is `res_multistep`; one model call per step, one noise per step if ``eta`` >
    0.

    Parameters
    ----------
    eta : of the reverse SDE; 0 is the ODE
    s_noise : factor of the noise
    solver_type : as for `dpmpp_2m_sde`

    Notes
    -----
    As for `dpmpp_2m_sde`.
    """
    return dpmpp_2m_sde(run, grid, x, eta=eta, s_noise=s_noise, solver_type=solver_type)


def dpmpp_3m_sde(
    run: Verbs[V],
    grid: Grid,
    x: V,
    *,
    eta: NonNegative = 1.0,
    s_noise: NonNegative = 1.0,
    curvature: Literal["exact", "published"] = "exact",
) -> V:
    """DPM-Solver++ (3M) on the reverse SDE: exponential integrator of the parabola through the last three predictions.

    Second order at ``eta`` = 0, because its first step is of first order, with a small error; one model call per step,
    one noise per step if ``eta`` > 0.

    Parameters
    ----------
    eta : of the reverse SDE; 0 is the ODE
    s_noise : factor of the noise
    curvature : weight of the second difference of the predictions: "exact", the integral of the parabola; "published",
        half of it, as in k-diffusion, ComfyUI and the code of DPM-Solver

    Notes
    -----
    k-diffusion's ``sample_dpmpp_3m_sde``, after the multistep method of Lu et al. 2022, arXiv:2211.01095.
    """
    return dpm_multistep(run, grid, x, order=3, eta=eta, s_noise=s_noise, solver_type="heun", curvature=curvature)


def res_multistep_ancestral(
    run: Verbs[V], grid: Grid, x: V, *, eta: NonNegative = 1.0, s_noise: NonNegative = 1.0
) -> V:
    """RES, two steps, to less noise than the next level has, then fresh noise up to it.

    Second order at ``eta`` = 0, where it is `res_multistep`; at ``eta`` = 1 it is `dpmpp_2m_sde_heun`. One model call
    per step, one noise per step if ``eta`` > 0. The first step is of first order.

    Parameters
    ----------
    eta : share of the noise that is drawn anew
    s_noise : factor of the noise

    Notes
    -----
    Zhang et al. 2023, arXiv:2308.02157, algorithm 2; ancestral form of ComfyUI, in units of sigma / alpha. As there,
    steps are measured down to the noise that is kept.
    """
    last: tuple[V, float] | None = None
    for s, t in grid.steps():
        down, up = ancestral(grid, s, t, eta)
        denoised = run.denoise(x, s)
        h = down.lam - s.lam
        x = ddim(s, down, x, denoised)
        if last is not None and isfinite(h):
            x = x + (t.alpha * h * phi(2, -h) * h / last[1]) * (denoised - last[0])
        x = renoise(run, s, t, x, s_noise * up)
        last = denoised, h
    return x


def res_multistep(run: Verbs[V], grid: Grid, x: V) -> V:
    """RES, two steps: the exact integral of the line through the last two predictions.

    Second order, one model call per step, deterministic. The table of `dpmpp_2m` with solver_type "heun".

    Notes
    -----
    Zhang et al. 2023, arXiv:2308.02157, algorithm 2. ComfyUI's draws noise and multiplies it by 0; this one draws none.
    """
    return res_multistep_ancestral(run, grid, x, eta=0.0)


def deis(
    run: Verbs[V],
    grid: Grid,
    x: V,
    *,
    max_order: Annotated[int, Between(1, 4)] = 3,
    variable: Annotated[Literal["log_sigma", "sigma", "vp_time", "vp_time_sum"], Quirk("vp_time_sum")] = "log_sigma",
    lower_order_final: bool = False,
    repeat_last: bool = False,
) -> V:
    """DEIS: exponential Adams-Bashforth in eps, the integral over sigma of a polynomial through the last slopes.

    Second order, because its first steps are of lower order, with a small error; one model call per step,
    deterministic. ``max_order`` = 1 is `euler`.

    Parameters
    ----------
    max_order : how many slopes are used, at most
    variable : in which eps is a polynomial: "log_sigma", log of sigma / alpha; "sigma", which is `lms`; "vp_time", the
        time of a continuous VP process whose sigma goes from 0.002 to 80, as in the first programs; "vp_time_sum", the
        same with the integral as a sum of 10000 terms, both ends counted whole
    lower_order_final : end runs of fewer than 15 steps with steps of orders 2 and 1
    repeat_last : count the last level twice, so that orders fall one step earlier (diffusers, whose last level is often
        a repeat, a step of length 0)

    Notes
    -----
    Zhang & Chen 2022, arXiv:2204.13902: t-AB, rho-AB and log-rho-AB DEIS. ComfyUI's is "vp_time_sum", diffusers'
    "log_sigma", which is `dpm_multistep` in eps.
    """
    if variable == "sigma":
        return lms(run, grid, x, order=max_order)
    past: list[tuple[float, V]] = []  # (lam, eps), the newest last
    for i, (s, t) in enumerate(grid.steps()):
        denoised = run.denoise(x, s)
        if t.sigma == 0:
            return denoised
        past = [*past, (s.lam, output(run, s, x, denoised, max_order > 1))][-max_order:] if s.alpha > 0 else []
        known = past[-order_left(max_order, len(grid) + repeat_last - i, i) :] if lower_order_final else past
        if len(known) < 2:
            x = ddim(s, t, x, denoised)
        # the time of that process means nothing far below its range
        elif variable == "log_sigma" or (variable == "vp_time" and t.lam > log(1000)):
            x = adams(s, t, x, known, 0.0, denoised=denoised)
        else:
            lams, slopes = zip(*reversed(known), strict=True)
            weights = _vp_time_weights([exp(-lam) for lam in (t.lam, *lams)], variable == "vp_time_sum")
            x = (t.alpha / s.alpha) * x + combine([t.alpha * weight for weight in weights], slopes)
    return x


@cache
def _gauss(count: int) -> tuple[Array, Array]:
    """Places between -1 and 1, and weights, of Gauss and Legendre's rule."""
    places, weights = np.polynomial.legendre.leggauss(count)
    return places, weights


def _vp_time_weights(sigmas: list[float], as_sum: bool) -> list[float]:
    """Weights of slopes at ``sigmas[1:]`` in the integral over sigma from the second to the first of them all.

    The slopes are a polynomial in the time u of a VP process with log(1 + sigma ** 2) = a * u ** 2 + b * u, where sigma
    is 0.002 at u = 0.001 and 80 at u = 1.
    """
    low, high = log1p(0.002**2), log1p(80.0**2)
    a = (low / 1e-3 - high) / (1e-3 - 1)
    b = high - a
    times = (np.sqrt(b**2 + 4 * a * np.log1p(np.square(sigmas))) - b) / (2 * a)  # b is below 0
    end, start, *_ = times
    if as_sum:
        points = np.linspace(start, end, 10000)
        share = np.full(len(points), (end - start) / len(points))
    else:
        points, share = _gauss(40)
        points, share = (start + end) / 2 + (end - start) / 2 * points, (end - start) / 2 * share
    logs = a * points**2 + b * points
    share = share * np.exp(logs) * (2 * a * points + b) / (2 * np.sqrt(np.expm1(logs)))  # d sigma
    nodes = times[1:]
    lines = [[(points - u) / (v - u) for u in nodes if u != v] for v in nodes]
    weights = [float((share * np.prod(line, axis=0)).sum()) for line in lines]
    return weights if as_sum else [sigmas[0] - sigmas[1] - sum(weights[1:]), *weights[1:]]


def uni_pc(
    run: Verbs[V],
    grid: Grid,
    x: V,
    *,
    order: Order = 3,
    variant: Literal["bh1", "bh2"] = "bh1",
    predict: Literal["denoised", "eps"] = "denoised",
    corrector: bool = True,
    first_corrected: Count = 0,
    lower_order_final: bool = True,
    repeat_last: bool = False,
) -> V:
    """UniPC: an exponential multistep predictor whose result is corrected with the model call of the next step.

    Nominal order 3; second order with ``lower_order_final``, which ends with a step of order 1. One model call per
    step, deterministic. ``order`` = 1 without corrector is `euler`.

    Parameters
    ----------
    order : of the predictor; the corrector gains one more
    variant : B(h) = h ("bh1") or exp(h) - 1 ("bh2"); they differ only where one difference is known
    predict : what is taken for a polynomial: the denoised prediction, or eps
    corrector : whether to correct; costs no model call
    first_corrected : number of the first step whose result is corrected
    lower_order_final : lower the order towards the end, for few steps
    repeat_last : call the model once more at a last level above 0, to correct the state there (diffusers, where the
        last level is a repeat)

    Notes
    -----
    Zhao et al. 2023, arXiv:2302.04867, algorithms 5 to 8. With two or more differences B(h) cancels, and a step is that
    of an Adams method. As in the paper's program, eps stays that of the state before it was corrected. ComfyUI's
    ``uni_pc`` is bh1 with order 3, diffusers' default bh2 with order 2.
    """
    rule, eps = half_step if variant == "bh1" else midpoint, predict == "eps"
    past: list[tuple[float, V]] = []  # (lam, output), the newest last
    before: tuple[Level, V, V] | None = None  # level, state and prediction of the last step
    levels = with_last_twice(grid) if repeat_last else grid.levels
    for i, (s, t) in enumerate(grid.steps(levels)):
        denoised = run.denoise(x, s)
        if t.sigma == 0:
            return denoised
        new = s.lam, output(run, s, x, denoised, eps)
        if corrector and i > first_corrected and before is not None:
            start, old, own = before
            corrected = run.keep(adams(start, s, old, [*past, new], 0.0, rule=rule, denoised=own if eps else None))
            denoised, x = (corrected - s.sigma * new[1]) / s.alpha if eps else denoised, corrected  # eps stays
        if t == s:
            return x
        past = [*(p for p in past if isfinite(p[0])), new][-order:]
        if lower_order_final:
            past = past[-(len(levels) - 1 - i) :]
        before = (s, x, denoised) if s.alpha > 0 or not eps else None
        x = adams(s, t, x, past, 0.0, rule=rule, denoised=denoised if eps else None)
    return x


def uni_pc_bh2(
    run: Verbs[V],
    grid: Grid,
    x: V,
    *,
    order: Order = 3,
    predict: Literal["denoised", "eps"] = "denoised",
    corrector: bool = True,
    first_corrected: Count = 0,
    lower_order_final: bool = True,
    repeat_last: bool = False,
) -> V:
    """`uni_pc` with B(h) = exp(h) - 1.

    Nominal order 3; second order with ``lower_order_final``, which ends with a step of order 1. One model call per
    step, deterministic.

    Parameters
    ----------
    order, predict, corrector, first_corrected, lower_order_final, repeat_last : as for `uni_pc`

    Notes
    -----
    Zhao et al. 2023, arXiv:2302.04867.
    """
    how = {"corrector": corrector, "lower_order_final": lower_order_final, "repeat_last": repeat_last}
    return uni_pc(run, grid, x, order=order, variant="bh2", predict=predict, first_corrected=first_corrected, **how)


#: by order: inner levels and weights of single steps that begin a multistep method
_STARTS: dict[int, tuple[list[float], Rows]] = {2: ([0.5], linear), 3: ([0.5, 1.0], res_3s_rows)}


def exp_pc(
    run: Verbs[V],
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


def exp_ab(
    run: Verbs[V],
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


def er_sde(
    run: Verbs[V],
    grid: Grid,
    x: V,
    *,
    max_stage: Annotated[int, Between(1, 3)] = 3,
    solver_type: Literal["er_sde", "reverse_time", "ode"] = "er_sde",
    eta: NonNegative = 1.0,
    s_noise: NonNegative = 1.0,
    integral: Literal["exact", "published"] = "exact",
) -> V:
    """Extended reverse-time SDE: a multistep method on an SDE whose noise is a function of sigma / alpha.

    Second order where ``eta`` = 0, because its first step is of first order; one model call per step, one noise per
    step if ``eta`` > 0 and ``solver_type`` is not "ode". ``max_stage`` = 1 without noise is `euler`.

    Parameters
    ----------
    max_stage : how many predictions are used, at most
    solver_type : noise function f of r = sigma / alpha: "er_sde", ``r * (exp(r ** 0.3) + 10) ** eta``; "reverse_time",
        ``r ** (1 + eta)``, the reverse SDE; "ode", ``r``, which draws nothing
    eta : see ``solver_type``
    s_noise : factor of the noise
    integral : of 1 / f: "exact", or "published", the sum of 200 terms of the paper's program

    Notes
    -----
    Cui et al. 2023, arXiv:2309.06169, algorithms 1 to 3, in sigma / alpha.
    """
    power = 0.0 if solver_type == "ode" else eta
    past: list[tuple[float, V]] = []  # (sigma / alpha, prediction), the newest last
    for s, t in grid.steps():
        denoised = run.denoise(x, s)
        if t.sigma == 0:
            return denoised
        start, end = exp(-s.lam), exp(-t.lam)
        kept = exp(_er_log_gain(end, solver_type, power) - _er_log_gain(start, solver_type, power))
        past = [*past, (start, denoised)][-max_stage:]
        x = (kept * t.sigma / s.sigma) * x + (t.alpha - kept * t.sigma / s.sigma * s.alpha) * denoised
        if len(past) > 1 and isfinite(past[-2][0]):
            one, two = _er_integrals(start, end, solver_type, power, integral == "published")
            slope = (denoised - past[-2][1]) / (start - past[-2][0])
            x = x + (t.alpha * (end - start + one)) * slope
            if len(past) > 2 and isfinite(past[-3][0]):
                older = (past[-2][1] - past[-3][1]) / (past[-2][0] - past[-3][0])
                bend = (2 / (start - past[-3][0])) * (slope - older)
                x = x + (t.alpha * ((end - start) ** 2 / 2 + two)) * bend
        x = renoise(run, s, t, x, s_noise * t.sigma * sqrt((1 - kept) * (1 + kept)))
    return x


def _er_log_gain(r: float, kind: str, power: float) -> float:
    """log(f(r) / r) of ER-SDE's noise function f."""
    if power == 0 or kind == "ode":
        return 0.0
    if kind == "reverse_time":
        return power * log(r)
    root: float = r**0.3
    return power * (root + log1p(10 * exp(-root)))


def _er_integrals(start: float, end: float, kind: str, power: float, as_sum: bool) -> tuple[float, float]:
    """f(end) times the integrals of 1 / f(r) and (r - start) / f(r) over r from end to start."""
    if as_sum:
        width = (start - end) / 200
        points, share = end + width * np.arange(200), np.full(200, width)
    else:  # in log r, where f is smooth
        places, share = _gauss(64)
        length = log(start / end) / 2
        points = end * np.exp(length * (places + 1))
        share = share * length * points
    top = _er_log_gain(end, kind, power)
    ratio = np.array([end / r * exp(top - _er_log_gain(r, kind, power)) for r in points.tolist()])
    return float((share * ratio).sum()), float((share * ratio * (points - start)).sum())


def sa_solver(
    run: Verbs[V],
    grid: Grid,
    x: V,
    *,
    predictor_order: Annotated[int, Between(1, 6)] = 3,
    corrector_order: Annotated[int, Between(0, 6)] = 4,
    predict: Annotated[Literal["denoised", "eps"], Quirk("eps")] = "denoised",
    tau: NonNegative = 1.0,
    tau_start: Share = 0.2,
    tau_end: Share = 0.8,
    tau_at: Literal["end", "start"] = "end",
    s_noise: NonNegative = 1.0,
    use_pece: bool = False,
    simple_order_2: bool = False,
    lower_order_final: bool = False,
    repeat_last: bool = False,
    last_prediction: Annotated[bool, Quirk(False)] = True,
) -> V:
    """SA-Solver: a stochastic Adams predictor and corrector on the reverse SDE.

    Third order without noise, because its first step is; one model call per step, one noise per step that ends within
    the noisy part of the run. ``tau`` = 0 and no corrector is an exponential Adams-Bashforth method.

    Parameters
    ----------
    predictor_order : how many predictions the predictor uses, at most
    corrector_order : how many the corrector uses, that of the level it corrects among them; 0 is no corrector
    predict : what is taken for a polynomial: "denoised"; "eps", which it is not where noise is added: the states then
        have too much of it
    tau : noise of the SDE; its square is the eta of other samplers
    tau_start, tau_end : shares of the run between which there is noise
    tau_at : whether a step is in that part of the run by its end or by its start
    s_noise : factor of the noise
    use_pece : call the model again on the corrected state
    simple_order_2 : where two denoised predictions are used, take the closed approximation of the paper's program
    lower_order_final : lower the orders towards a last level above 0
    repeat_last : call the model once more at a last level above 0, to correct the state there (diffusers, where the
        last level is a repeat)
    last_prediction : where the last level is above 0, return the state there; False returns the state at the level
        before, as an older ComfyUI did

    Notes
    -----
    Xue et al. 2023, arXiv:2309.05019, algorithm 1. Where the last level is 0, orders fall towards it and the last step
    returns the prediction.
    """
    eps, rule = predict == "eps", half_step if simple_order_2 and predict == "denoised" else None
    levels, above = with_last_twice(grid) if repeat_last else grid.levels, grid.levels[-1].sigma > 0
    left = len(levels) - 1 + (12 if above and not lower_order_final else 0)
    past: list[tuple[float, V]] = []  # (lam, output), the newest last
    before: tuple[Level, V, V | None, float] | None = None  # level, state, prediction if in eps, eta of the last step
    for i, (s, t) in enumerate(grid.steps(levels)):
        denoised = run.denoise(x, s)
        past = [*past, (s.lam, output(run, s, x, denoised, eps))][-max(predictor_order, corrector_order) :]
        order = min(corrector_order, len(past), left - i + 2 * above)
        if before is not None and order > 0 and (t.sigma > 0 or use_pece):
            corrected = run.keep(_sa_step(run, *before, s, past[-order:], s_noise, rule))
            denoised, x = (corrected - s.sigma * past[-1][1]) / s.alpha if eps else denoised, corrected  # eps stays
            if use_pece:
                denoised = run.denoise(x, s)
                past[-1] = s.lam, output(run, s, x, denoised, eps)
        if t.sigma == 0:
            return denoised
        if t == s or (i + 1 == len(grid) and not last_prediction):
            return x
        noisy = _within(grid, s if tau_at == "start" else t, tau_start, tau_end)
        now = s, x, denoised if eps else None, tau**2 if noisy else 0.0
        past = [p for p in past if isfinite(p[0]) or p[0] == s.lam]  # nothing is known of levels infinitely far away
        x = _sa_step(run, *now, t, past[-min(predictor_order, left - i - (not above)) :], s_noise, rule)
        before = now if s.alpha > 0 or not eps else None
    return x


def _within(grid: Grid, level: Level, start: float, end: float) -> bool:
    """Whether a level lies between two shares of a run."""
    return grid.process.sigma_after(end) <= level.label <= grid.process.sigma_after(start)


def _sa_step(
    run: Verbs[V],
    s: Level,
    x: V,
    denoised: V | None,
    eta: float,
    t: Level,
    past: Sequence[tuple[float, V]],
    s_noise: float,
    rule: Integrals | None,
) -> V:
    """A predictor or corrector from ``s`` to ``t``, with its noise; arguments as for `adams`."""
    state = adams(s, t, x, past, eta, rule=rule, denoised=denoised)
    return renoise(run, s, t, state, s_noise * fresh_std(s, t, eta, denoised is not None))


def sa_solver_pece(
    run: Verbs[V],
    grid: Grid,
    x: V,
    *,
    predictor_order: Annotated[int, Between(1, 6)] = 3,
    corrector_order: Annotated[int, Between(0, 6)] = 4,
    tau: NonNegative = 1.0,
    tau_start: Share = 0.2,
    tau_end: Share = 0.8,
    tau_at: Literal["end", "start"] = "end",
    s_noise: NonNegative = 1.0,
    simple_order_2: bool = False,
    last_prediction: Annotated[bool, Quirk(False)] = True,
) -> V:
    """`sa_solver` that calls the model again on every corrected state.

    Third order without noise, because its first step is; two model calls per step but for the first, one noise per step
    that ends within the noisy part of the run.

    Parameters
    ----------
    predictor_order, corrector_order, tau, tau_start, tau_end, tau_at, s_noise, simple_order_2, last_prediction : as for
        `sa_solver`

    Notes
    -----
    Xue et al. 2023, arXiv:2309.05019, in the mode predict, evaluate, correct, evaluate.
    """
    return sa_solver(
        run,
        grid,
        x,
        predictor_order=predictor_order,
        corrector_order=corrector_order,
        tau=tau,
        tau_start=tau_start,
        tau_end=tau_end,
        tau_at=tau_at,
        s_noise=s_noise,
        use_pece=True,
        simple_order_2=simple_order_2,
        last_prediction=last_prediction,
    )
