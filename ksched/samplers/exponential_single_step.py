"""Several model calls per step, no memory: single-step exponential methods in log-SNR."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import exp, isinf
from typing import Annotated, Literal, TypeVar

import numpy as np

from ksched.options import Between, NonNegative, PeerValue
from ksched.plan.protocol import SamplerContext, Vector
from ksched.processes import Level
from ksched.samplers.blocks.noise_split import AncestralRule, ancestral, ancestral_above, renoise
from ksched.samplers.blocks.stages import Rows, inner, middle, stages
from ksched.samplers.blocks.steps import ddim
from ksched.samplers.blocks.weights import combine, phi
from ksched.schedules.grid import Grid

__all__ = [
    "dpm_fast",
    "dpmpp_2s_ancestral",
    "dpmpp_sde",
    "etdrk4",
    "exp_heun_2_x0",
    "exp_heun_2_x0_sde",
    "fast_orders",
    "linear",
    "res_2s",
    "res_3s",
    "res_3s_rows",
    "seeds_2",
    "seeds_3",
]


V = TypeVar("V", bound=Vector)


Node = Annotated[float, Between(0.01, 1.0)]  # share of a step at which a stage lies


InnerNode = Annotated[float, Between(0.01, 0.99)]


# --------------------------------------------------------------- the methods as rows of weights, each summing to 1
def _ramp(z: float) -> float:
    """Weight of a change of the prediction that grows linearly over a step of length z: 1/2 where z is small."""
    return phi(2, -z) / phi(1, -z)


def _halves(shares: list[float], z: float) -> list[list[float]]:
    """DPM-Solver-2 and SEEDS-2: the second prediction counts 1 / (2 r)."""
    r = shares[0]
    return [[1.0], [1 - 1 / (2 * r), 1 / (2 * r)]]


def linear(shares: list[float], z: float) -> list[list[float]]:
    """The exact integral of the line through two predictions (ETD2RK, RES 2S)."""
    second = _ramp(z) / shares[0]
    return [[1.0], [1 - second, second]]


def _thirds(shares: list[float], z: float) -> list[list[float]]:
    """DPM-Solver-3 and SEEDS-3: the last stage decides."""
    r1, r2, _ = shares
    second, third = r2 / r1 * _ramp(r2 * z), _ramp(z) / r2
    return [[1.0], [1 - second, second], [1 - third, 0.0, third]]


def res_3s_rows(shares: list[float], z: float) -> list[list[float]]:
    """The family of three-stage methods of stiff order 3: Hochbruck & Ostermann 2005, eq. 5.9."""
    c2, c3, _ = shares
    gamma = (3 * c3 - 2) * c3 / ((2 - 3 * c2) * c2)
    a32 = (gamma * c2 * phi(2, -c2 * z) + c3**2 / c2 * phi(2, -c3 * z)) / (c3 * phi(1, -c3 * z))
    b3 = _ramp(z) / (gamma * c2 + c3)
    return [[1.0], [1 - a32, a32], [1 - (1 + gamma) * b3, gamma * b3, b3]]


def _etdrk4(shares: list[float], z: float) -> list[list[float]]:
    """ETDRK4: Cox & Matthews 2002, eq. 26 to 29."""
    one, two, three = (phi(k, -z) for k in (1, 2, 3))
    half = phi(1, -z / 2)
    first, middle = 0.5 * half * (exp(-z / 2) - 1) / one, (2 * two - 4 * three) / one
    last = (4 * three - two) / one
    return [[1.0], [0.0, 1.0], [first, 0.0, 1 - first], [1 - 2 * middle - last, middle, middle, last]]


def _singlestep(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    nodes: Sequence[float],
    rows: Rows,
    eta: float = 0.0,
    s_noise: float = 1.0,
) -> V:
    """A method with inner levels at given shares of each step, and one model call in the step to sigma 0."""
    for s, t in grid.steps():
        if t.sigma == 0:
            return run.denoise(x, s)
        levels = [*(inner(grid, s, t, node) for node in nodes), t]
        x = stages(run, s, levels, x, rows, nodes=nodes, eta=eta, s_noise=s_noise)
    return x


# --------------------------------------------------------------------------------------------------------- samplers
def seeds_2(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    eta: NonNegative = 1.0,
    s_noise: NonNegative = 1.0,
    r: Node = 0.5,
    solver_type: Literal["phi_1", "phi_2"] = "phi_1",
) -> V:
    """SEEDS-2: a two-stage exponential method on the reverse SDE, with the noise that the stages share.

    Second order at ``eta`` = 0, where it is DPM-Solver++ (2S); two model calls per step and one for the step to sigma
    0, two noises per step.

    Parameters
    ----------
    eta : of the reverse SDE; 0 is the ODE
    s_noise : factor of the noise
    r : how far into the step, in log-SNR, the second call is
    solver_type : weights of the two predictions: "phi_1", 1 / (2 r) for the second; "phi_2", the exact integral of the
        line through them

    Notes
    -----
    Gonzalez et al. 2023, arXiv:2305.14267, algorithm 2.
    """
    return _singlestep(run, grid, x, [r], _halves if solver_type == "phi_1" else linear, eta, s_noise)


def exp_heun_2_x0(run: SamplerContext[V], grid: Grid, x: V) -> V:
    """Heun's method as an exponential integrator of the prediction: `seeds_2` without noise, with the stage at the end.

    Second order, two model calls per step and one for the step to sigma 0; deterministic.

    Notes
    -----
    ETD2RK of Cox & Matthews 2002 in data prediction; ComfyUI's ``exp_heun_2_x0``.
    """
    return seeds_2(run, grid, x, eta=0.0, r=1.0, solver_type="phi_2")


def exp_heun_2_x0_sde(
    run: SamplerContext[V], grid: Grid, x: V, *, eta: NonNegative = 1.0, s_noise: NonNegative = 1.0
) -> V:
    """`exp_heun_2_x0` on the reverse SDE: `seeds_2` with the stage at the end.

    Second order at ``eta`` = 0; two model calls per step and one for the step to sigma 0, one noise per step.

    Parameters
    ----------
    eta : of the reverse SDE; 0 is the ODE
    s_noise : factor of the noise

    Notes
    -----
    ComfyUI's ``exp_heun_2_x0_sde``.
    """
    return seeds_2(run, grid, x, eta=eta, s_noise=s_noise, r=1.0, solver_type="phi_2")


def seeds_3(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    eta: NonNegative = 1.0,
    s_noise: NonNegative = 1.0,
    r_1: InnerNode = 1 / 3,
    r_2: InnerNode = 2 / 3,
) -> V:
    """SEEDS-3: a three-stage exponential method on the reverse SDE, with the noise that the stages share.

    Third order at ``eta`` = 0, where it is DPM-Solver-3 in data prediction; three model calls per step and one for the
    step to sigma 0, three noises per step.

    Parameters
    ----------
    eta : of the reverse SDE; 0 is the ODE
    s_noise : factor of the noise
    r_1, r_2 : how far into the step, in log-SNR, the second and third calls are; third order needs r_2 = 2/3

    Notes
    -----
    Gonzalez et al. 2023, arXiv:2305.14267, algorithm 4.
    """
    if not r_1 < r_2:
        raise ValueError(f"seeds_3: r_1 must be below r_2; got r_1={r_1}, r_2={r_2}")
    return _singlestep(run, grid, x, [r_1, r_2], _thirds, eta, s_noise)


def res_2s(run: SamplerContext[V], grid: Grid, x: V, *, c2: Node = 0.5) -> V:
    """RES, two stages: the exact integral of the line through two predictions.

    Second order, two model calls per step and one for the step to sigma 0; deterministic. `seeds_2` with eta 0 and
    solver_type "phi_2".

    Parameters
    ----------
    c2 : how far into the step, in log-SNR, the second call is

    Notes
    -----
    Zhang et al. 2023, arXiv:2308.02157, algorithm 1 without its noise.
    """
    return _singlestep(run, grid, x, [c2], linear)


def res_3s(
    run: SamplerContext[V], grid: Grid, x: V, *, c2: Annotated[float, Between(0.1, 0.66)] = 0.5, c3: Node = 1.0
) -> V:
    """RES, three stages: an exponential Runge-Kutta method of stiff order 3.

    Third order, three model calls per step and one for the step to sigma 0; deterministic.

    Parameters
    ----------
    c2, c3 : how far into the step, in log-SNR, the second and third calls are

    Notes
    -----
    Hochbruck & Ostermann 2005, eq. 5.9; RES4LYF's ``res_3s``.
    """
    if not c2 < c3:
        raise ValueError(f"res_3s: c2 must be below c3; got c2={c2}, c3={c3}")
    return _singlestep(run, grid, x, [c2, c3], res_3s_rows)


def etdrk4(run: SamplerContext[V], grid: Grid, x: V) -> V:
    """ETDRK4, the classical Runge-Kutta method as an exponential integrator.

    Fourth order, four model calls per step and one for the step to sigma 0; deterministic.

    Notes
    -----
    Cox & Matthews 2002, https://doi.org/10.1006/jcph.2002.6995, in data prediction; RES4LYF's ``etdrk4``.
    """
    return _singlestep(run, grid, x, [0.5, 0.5, 1.0], _etdrk4)


def dpmpp_2s_ancestral(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    eta: NonNegative = 1.0,
    s_noise: NonNegative = 1.0,
    split: AncestralRule = "variance",
) -> V:
    """DPM-Solver++ (2S), the exponential midpoint rule, to less noise than the next level has, then fresh noise.

    Second order, in law for every ``eta`` (each step solves the ODE and then adds noise exactly); two model calls per
    step and one for the step to sigma 0, one noise per step. At ``eta`` = 0 it is DPM-Solver++ (2S).

    Parameters
    ----------
    eta : share of the noise that is drawn anew
    s_noise : factor of the noise
    split : how eta divides the noise on flow processes: "variance", as everywhere else; "comfyui", linear in eta, with
        the middle of a step from pure noise at sigma 0.9999

    Notes
    -----
    Lu et al. 2022, arXiv:2211.01095, algorithm 1 with r = 1/2; ancestral form of k-diffusion, in units of sigma /
    alpha.
    """
    for s, t in grid.steps():
        down, up = ancestral(grid, s, t, eta, split)
        denoised = run.denoise(x, s)
        if t.sigma > 0:
            mid = middle(grid, s, down, t)
            if split == "comfyui" and grid.process.is_flow and s.label == 1:
                mid = grid.process.level(0.9999)
            denoised = run.denoise(ddim(s, mid, x, denoised), mid)
        x = renoise(run, s, t, ddim(s, down, x, denoised), s_noise * up)
    return x


def dpmpp_sde(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    eta: NonNegative = 1.0,
    s_noise: NonNegative = 1.0,
    r: Node = 0.5,
    noises: Literal["path", "independent"] = "path",
) -> V:
    """DPM-Solver++ (SDE): a two-stage exponential method, each stage with an ancestral step of its own.

    Second order at ``eta`` = 0, where it is DPM-Solver++ (2S); two model calls per step and one for the step to sigma
    0, two noises per step.

    Parameters
    ----------
    eta : share of the noise that is drawn anew
    s_noise : factor of the noise
    r : how far into the step, in log-SNR, the second call is
    noises : of the half step and of the whole one: "path", parts of one Brownian path; "independent", one for each, as
        k-diffusion asks for them (its own tree answers with parts of one path)

    Notes
    -----
    k-diffusion's ``sample_dpmpp_sde``, after Lu et al. 2022, arXiv:2211.01095, in units of sigma / alpha.
    """
    for s, t in grid.steps():
        denoised = run.denoise(x, s)
        if t.sigma == 0:
            return denoised
        mid = inner(grid, s, t, r)
        down, up = ancestral(grid, s, mid, eta)
        after = run.denoise(renoise(run, s, mid, ddim(s, down, x, denoised), s_noise * up), mid)
        mixed = combine([1 - 1 / (2 * r), 1 / (2 * r)], [denoised, after])
        down, up = ancestral(grid, s, t, eta)
        x = renoise(run, s, t, ddim(s, down, x, mixed), s_noise * up, stream=int(noises == "independent"))
    return x


_METHODS: dict[int, tuple[list[float], Rows]] = {
    1: ([], lambda shares, z: [[1.0]]),
    2: ([1 / 2], _halves),
    3: ([1 / 3, 2 / 3], _thirds),
}


def dpm_fast(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    eta: NonNegative = 0.0,
    s_noise: NonNegative = 1.0,
    levels: Literal["grid", "range"] = "grid",
    end: Annotated[Literal["denoised", "sigma_min"], PeerValue("sigma_min")] = "denoised",
) -> V:
    """DPM-Solver-fast: steps of order 3, then 2 and 1, as many as fit the number of model calls.

    Third order but for its last steps, so second; one model call per step of the grid, whose levels the method's stages
    use; deterministic unless ``eta`` > 0.

    Parameters
    ----------
    eta : share of the noise that each step of the method draws anew
    s_noise : factor of the noise
    levels : "grid", those given, two or three steps at a time; "range", as published: even in log-SNR between the first
        and the last above 0, whatever lies between
    end : where the last level is 0: "denoised", a model call at the last level above it; "sigma_min", stop there with
        the noise that is left, as k-diffusion does, and use the call before

    Notes
    -----
    Lu et al. 2022, arXiv:2206.00927, section 3.4 and appendix D.3; k-diffusion's ``sample_dpm_fast``.
    """
    finish = grid.levels[-1].sigma == 0
    above = list(grid.levels[:-1] if finish else grid.levels)
    last = finish and end == "denoised"  # a call at the last level above 0 is left for the end
    if len(above) < 2:
        denoised = run.denoise(x, above[0]) if finish else x
        return denoised if last else x  # a run of no length calls the model all the same, in k-diffusion
    orders = fast_orders(len(above) - 1 if levels == "grid" else len(grid) - last)
    walk = grid.steps()  # one for every model call
    for order, part in zip(orders, _fast_parts(grid, above, orders, levels == "grid"), strict=True):
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
    """Orders of the steps that use this many model calls: as many threes as leave a lower one for the end."""
    threes, rest = divmod(calls, 3)
    return [3] * threes + [rest] if rest else [3] * (threes - 1) + [2, 1]


def _fast_parts(grid: Grid, above: Sequence[Level], orders: list[int], whole: bool) -> list[Sequence[Level]]:
    """The levels of every step of the method: those of the grid, or its two ends."""
    if whole:
        cuts = [0, *accumulate(orders)]
        return [above[a : b + 1] for a, b in pairwise(cuts)]
    first = above[0].lam
    if isinf(first):  # pure noise: the paper starts a thousandth of the run later
        first = grid.process.level(max(grid.process.sigma_after(1e-3), above[1].label)).lam
    lams = np.linspace(first, above[-1].lam, len(orders) + 1)[1:-1].tolist()
    return list(pairwise([above[0], *map(grid.at, lams), above[-1]]))
