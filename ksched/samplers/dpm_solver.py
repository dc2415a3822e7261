"""DPM-Solver and DPM-Solver++ of orders 1 to 3, multistep and single-step: one formula with two kinds of start."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Annotated, Literal, TypeVar

from ksched.names.enums import Dialect
from ksched.options import Between, Dial, PeerValue, per_step
from ksched.plan.protocol import SamplerContext, Vector
from ksched.processes import Level
from ksched.samplers.blocks.noise_split import fresh_std, grown, renoise
from ksched.samplers.blocks.steps import Integrals, adams, midpoint, order_left, output, with_last_twice
from ksched.samplers.peer_names import diffusers, sdnext
from ksched.samplers.shipping import ships
from ksched.samplers.sources import DPM_SOLVER, DPM_SOLVER_PP, UPWARDS
from ksched.schedules.grid import Grid

__all__ = ["dpm_multistep", "dpm_singlestep"]

V = TypeVar("V", bound=Vector)
Predict = Literal["denoised", "eps"]
Solver = Literal["midpoint", "heun"]
UpToThree = Annotated[int, Between(1, 3)]


def _curved(factor: float, offset: float) -> Integrals:
    """The exact integrals, except for the square's where three values are known."""

    def rule(z: float, exact: list[float]) -> list[float]:
        return [*exact[:2], exact[2] * factor + offset] if len(exact) == 3 else exact

    return rule


@ships(
    order=2,
    source=DPM_SOLVER_PP,
    family="dpm_solver",
    weak_order=2,
    peers=(
        diffusers("dpmsolver", "an algorithm_type of DPMSolverMultistepScheduler", read=False, predict="eps"),
        diffusers(
            "sde-dpmsolver", "an algorithm_type of DPMSolverMultistepScheduler", read=False, predict="eps", eta=1.0
        ),
        diffusers(
            "DPMSolverMultistepInverseScheduler",
            "runs upwards, from data to noise: `Sampler.invert` does better",
            read=False,
        ),
        sdnext("DPM++", read=False, order=1),
        sdnext("DPM++ 3M", read=False, order=3),
        sdnext("DPM++ 3M SDE", read=False, order=3, eta=1.0),
        sdnext(
            "DPM++ SDE", "first order; the two-stage method of this name is its DPM SDE", read=False, order=1, eta=1.0
        ),
        sdnext("DPM++ Inverse", UPWARDS, read=False, order=1),
        sdnext("DPM++ 2M Inverse", UPWARDS, read=False),
        sdnext("DPM++ 3M Inverse", UPWARDS, read=False, order=3),
    ),
    dialects={Dialect.DIFFUSERS: {"order": 2, "lower_order_final": True, "curvature": "diffusers", "sde": "published"}},
)
def dpm_multistep(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    order: UpToThree = 3,
    predict: Predict = "denoised",
    eta: Dial = 0.0,
    s_noise: Dial = 1.0,
    solver_type: Solver = "midpoint",
    lower_order_final: bool = False,
    euler_at_final: bool = False,
    repeat_last: bool = False,
    curvature: Annotated[Literal["exact", "published", "diffusers"], PeerValue("published", "diffusers")] = "exact",
    sde: Annotated[Literal["exact", "published"], PeerValue("published")] = "exact",
) -> V:
    """DPM-Solver and DPM-Solver++, multistep: the polynomial through the last predictions is integrated exactly.

    Second order: the first step is of first order, and at order 3 its error is small. One model call per step, one
    noise per step if ``eta`` > 0. ``order`` = 1 is `euler`; 2 is `dpmpp_2m_sde` with the same eta and solver_type. With
    solver_type "heun", 3 is `dpmpp_3m_sde`, and in eps every order is `deis`.

    Parameters
    ----------
    order : int
        Largest number of predictions used.
    predict : str
        The quantity that is taken to be a polynomial: "denoised" is DPM-Solver++; "eps" is DPM-Solver, unless ``sde``
        overrides it in a run with noise.
    eta : float or sequence of float
        Noise of the reverse SDE: 0 is the ODE, 1 is SDE-DPM-Solver++.
    s_noise : float or sequence of float
        Factor on the noise.
    solver_type : str
        Weight of the change between predictions where two are used: "midpoint" gives it half the step's weight; "heun"
        is the exact integral of the line through them.
    lower_order_final : bool
        End runs of fewer than 15 steps with steps of orders 2 and 1.
    euler_at_final : bool
        End with a step of order 1.
    repeat_last : bool
        Count the last level twice, so that orders fall one step earlier. diffusers does so: its last level is often a
        repeat, a step of length 0.
    curvature : str
        Weight of the second difference where three predictions are used: "exact", the integral of the parabola;
        "published", half of it, as in DPM-Solver's code; "diffusers", the same, but with noise it has a wrong sign (the
        weight is off by 1), which makes it first order.
    sde : str
        With eps and noise: "exact" uses the denoised prediction, because eps is not constant along a step that adds
        noise; "published" is SDE-DPM-Solver, which treats eps as constant, so its states have too much noise.

    Notes
    -----
    Lu et al. 2022, arXiv:2206.00927, for eps; arXiv:2211.01095, algorithm 2 and appendix B, for denoised predictions
    and noise. From pure noise, a first step keeps its denoised prediction, and eps is known from the second step on.
    """
    eps = predict == "eps" and (sde == "published" or not any(per_step(eta, len(grid))))
    past: list[tuple[float, V]] = []  # (lam, prediction), newest last
    for i, (s, t, eta, s_noise) in enumerate(grid.steps_with(eta, s_noise)):
        denoised, known = run.denoise(x, s), [p for p in past if isfinite(p[0])]
        if t.sigma == 0:
            return denoised
        left = len(grid) + repeat_last - i
        most = 1 if euler_at_final and left == 1 else order_left(order, left, i) if lower_order_final else order
        wrong = curvature == "diffusers" and eta > 0 and not eps
        curved = _curved(1.0 if curvature == "exact" else 0.5, -1.0 if wrong else 0.0)
        rule = midpoint if solver_type == "midpoint" and min(most, len(known) + 1) == 2 else curved
        past = [*known, (s.lam, output(run, s, x, denoised, eps))][-order:]
        x = adams(s, t, x, past[-most:], eta, rule=rule, denoised=denoised if eps else None)
        x = renoise(run, s, t, x, s_noise * fresh_std(s, t, eta, eps))
    return x


@ships(
    order=2,
    source=DPM_SOLVER,
    family="dpm_solver",
    weak_order=2,
    peers=(
        diffusers("DPMSolverSinglestepScheduler"),
        sdnext("DPM++ 1S"),
    ),
    dialects={Dialect.DIFFUSERS: {"noises": "independent", "curvature": "diffusers"}},
)
def dpm_singlestep(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    order: UpToThree = 2,
    predict: Predict = "denoised",
    eta: Dial = 0.0,
    s_noise: Dial = 1.0,
    solver_type: Solver = "midpoint",
    lower_order_final: bool = False,
    repeat_last: bool = False,
    noises: Literal["path", "independent"] = "path",
    curvature: Annotated[Literal["exact", "diffusers"], PeerValue("diffusers")] = "exact",
) -> V:
    """DPM-Solver and DPM-Solver++, single-step: ``order`` consecutive steps of the grid are the stages of one step.

    Second order; third with ``order`` = 3 if that divides the number of steps. One model call per step of the grid,
    whose levels are the stages' levels; one noise per step if ``eta`` > 0. ``order`` = 1 is `euler`.

    Parameters
    ----------
    order : int
        Number of stages. If it does not divide the steps, the last step of the run has fewer stages; a last step to
        sigma 0 has one. Where eta or s_noise changes, a new step begins.
    predict : str
        The quantity that is taken to be a polynomial: "denoised" is DPM-Solver++; "eps" is DPM-Solver. With noise it is
        always the denoised prediction, because eps is not constant along a step that adds noise.
    eta : float or sequence of float
        Noise of the reverse SDE; 0 is the ODE.
    s_noise : float or sequence of float
        Factor on the noise.
    solver_type : str
        Weights of the stages: "heun" is the exact integral of the polynomial through all of them; "midpoint" uses, for
        two stages, half the step for the change between them, and for three, the line through first and last.
    lower_order_final : bool
        End with a step of order 1 even if ``order`` divides the steps.
    repeat_last : bool
        Call the model once more at a last level above 0, as one more stage of the last step if that step is not
        complete (diffusers, where the last level is a repeat).
    noises : str
        Noise of the stages of one step: "path" takes parts of one Brownian path; "independent", as in diffusers.
    curvature : str
        Weight of the second difference of three stages: "exact"; "diffusers", the same, but with noise it has a wrong
        sign (the weight is off by 2), which makes it first order.

    Notes
    -----
    Lu et al. 2022, arXiv:2206.00927, algorithms 1 and 2, with the stages at levels of the grid; arXiv:2211.01095 for
    denoised predictions and noise. `dpm_fast` mixes its orders to fit a number of calls.
    """
    etas, s_noises = per_step(eta, len(grid)), per_step(s_noise, len(grid))
    levels, places = _places(grid, order, lower_order_final, repeat_last, [*zip(etas, s_noises, strict=True)])
    start, base, first = grid.levels[0], x, x
    noise: V | None = None
    past: list[tuple[float, V]] = []  # (lam, prediction) of the stages
    for stage, (s, t, eta, s_noise) in zip(places, grid.steps_with(etas, s_noises, levels=levels), strict=True):
        denoised = run.denoise(x, s)
        if t.sigma == 0:
            return denoised
        if stage == 0:
            start, base, first, noise, past = s, x, denoised, None, []
        eps = predict == "eps" and eta == 0 and start.alpha > 0
        curved = _curved(1.0, -2.0 if curvature == "diffusers" and eta > 0 else 0.0)
        past.append((s.lam, output(run, s, x, denoised, eps)))
        known, rule = (past, curved) if solver_type == "heun" else (past[:1] + past[1:][-1:], _MIDPOINTS[stage])
        x = adams(start, t, base, known, eta, rule=rule, denoised=first if eps else None)
        if eta > 0 and s_noise > 0:
            noise = _noise(run, start, s, t, noise, eta, stage if noises == "independent" else None)
            x = x + s_noise * noise
    return x


#: by stage: the exact line through one or two predictions, except in the second stage
_MIDPOINTS = (None, midpoint, None)


def _places(
    grid: Grid, order: int, lower_order_final: bool, repeat_last: bool, noises: Sequence[object]
) -> tuple[Sequence[Level], list[int]]:
    """The levels of a run, and for each step between them its place among the stages of a longer step.

    ``noises`` are the noise settings of each step; the stages of one step share theirs.
    """
    levels = with_last_twice(grid) if repeat_last else grid.levels
    steps = len(levels) - 1
    places: list[int] = []
    for i in range(steps):
        changed = 0 < i < len(noises) and noises[i] != noises[i - 1]
        places.append(0 if i == 0 or changed else (places[-1] + 1) % order)
    if lower_order_final and steps and steps % order == 0:
        places[-1] = 0
    if len(levels) > len(grid.levels) and places[-1] == 0:  # a step of length 0 with nothing before it
        levels, places = grid.levels, places[:-1]
    return levels, places


def _noise(
    run: SamplerContext[V], start: Level, s: Level, t: Level, noise: V | None, eta: float, stream: int | None
) -> V:
    """Noise of a step from ``start`` up to ``t``: fresh, or grown from the ``noise`` up to ``s``."""
    if stream is not None:
        return fresh_std(start, t, eta) * run.noise(start, t, stream)
    return noise if noise is not None and t == s else grown(run, s, t, noise, eta)
