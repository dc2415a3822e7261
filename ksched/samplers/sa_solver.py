"""SA-Solver: stochastic Adams methods."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Annotated, Literal, TypeAlias

import numpy as np

from ksched.names.enums import Dialect
from ksched.options import Between, Dial, PeerValue, Share
from ksched.plan.protocol import SamplerContext
from ksched.processes import Level
from ksched.samplers.blocks.noise_split import fresh_std, renoise
from ksched.samplers.blocks.steps import (
    Integrals,
    adams,
    half_step,
    output,
    with_last_twice,
)
from ksched.samplers.dpmpp import V
from ksched.samplers.peer_names import a1111, comfyui, diffusers, sdnext
from ksched.samplers.shipping import IN_LOG_SNR, preset, ships
from ksched.samplers.sources import NEVER_ZERO, OF_REFORGE
from ksched.schedules.grid import Grid

__all__ = ["sa_solver", "sa_solver_pece"]

TauRange: TypeAlias = Literal["closed", "comfyui"]


@ships(
    order=3,
    source="Xue et al. 2023, arXiv:2309.05019",
    family="exponential_multistep",
    draws=None,
    weak_order=2,
    peers=(
        comfyui(),
        comfyui("SamplerSASolver", "its eta is tau; its start and end are tau_start and tau_end"),
        diffusers("SASolverScheduler", NEVER_ZERO),
        a1111("SA-Solver", OF_REFORGE),
        sdnext("SA Solver", NEVER_ZERO),
    ),
    dialects={
        Dialect.COMFYUI: {**IN_LOG_SNR, "last_prediction": False, "tau_range": "comfyui"},
        Dialect.DIFFUSERS: {
            "predictor_order": 2,
            "corrector_order": 2,
            "tau_start": 1 - 800 / 999,
            "tau_end": 1 - 200 / 999,
            "tau_at": "start",
            "simple_order_2": True,
            "lower_order_final": True,
        },
    },
)
def sa_solver(
    run: SamplerContext[V],
    grid: Grid,
    x: V,
    *,
    predictor_order: Annotated[int, Between(1, 6)] = 3,
    corrector_order: Annotated[int, Between(0, 6)] = 4,
    predict: Annotated[Literal["denoised", "eps"], PeerValue("eps")] = "denoised",
    tau: Dial = 1.0,
    tau_start: Share = 0.2,
    tau_end: Share = 0.8,
    tau_at: Literal["end", "start"] = "end",
    tau_range: TauRange = "closed",
    s_noise: Dial = 1.0,
    use_pece: bool = False,
    simple_order_2: bool = False,
    lower_order_final: bool = False,
    repeat_last: bool = False,
    last_prediction: Annotated[bool, PeerValue(False)] = True,
) -> V:
    """SA-Solver: a stochastic Adams predictor and corrector on the reverse SDE.

    Third order without noise, limited by its first step. One model call per step, one noise per step that ends within
    the noisy part of the run. With ``tau`` = 0 and no corrector it is an exponential Adams-Bashforth method.

    Parameters
    ----------
    predictor_order : int
        Largest number of predictions that the predictor uses.
    corrector_order : int
        Largest number that the corrector uses, including the one at the level it corrects; 0 turns it off.
    predict : str
        The quantity that is taken to be a polynomial: "denoised"; or "eps", which is not one where noise is added, so
        that states then have too much noise.
    tau : float or sequence of float
        Noise of the SDE; its square is the eta of other samplers.
    tau_start, tau_end : float
        Shares of the run between which there is noise.
    tau_at : str
        Whether a step counts as inside that part of the run by its end or by its start.
    tau_range : str
        "closed" includes both ends; "comfyui" excludes the end, and rounds levels, but not the ends, to float32.
    s_noise : float or sequence of float
        Factor on the noise.
    use_pece : bool
        Call the model again on the corrected state.
    simple_order_2 : bool
        Where two denoised predictions are used, use the closed-form approximation of the paper's program.
    lower_order_final : bool
        Lower the orders towards a last level above 0.
    repeat_last : bool
        Call the model once more at a last level above 0, to correct the state there (diffusers, where the last level is
        a repeat).
    last_prediction : bool
        If the last level is above 0, return the state there; False returns the state one level earlier, as an older
        ComfyUI did.

    Notes
    -----
    Xue et al. 2023, arXiv:2309.05019, algorithm 1. If the last level is 0, orders fall towards it and the last step
    returns the prediction.
    """
    eps, rule = predict == "eps", half_step if simple_order_2 and predict == "denoised" else None
    levels, above = with_last_twice(grid) if repeat_last else grid.levels, grid.levels[-1].sigma > 0
    left = len(levels) - 1 + (12 if above and not lower_order_final else 0)
    past: list[tuple[float, V]] = []  # (lam, output), newest last
    before: tuple[Level, V, V | None, float, float] | None = None  # last step: level, state, its eps, eta, s_noise
    for i, (s, t, tau, s_noise) in enumerate(grid.steps_with(tau, s_noise, levels=levels)):
        denoised = run.denoise(x, s)
        past = [*past, (s.lam, output(run, s, x, denoised, eps))][-max(predictor_order, corrector_order) :]
        order = min(corrector_order, len(past), left - i + 2 * above)
        if before is not None and order > 0 and (t.sigma > 0 or use_pece):
            corrected = run.keep(_sa_step(run, *before, s, past[-order:], rule))
            denoised, x = (corrected - s.sigma * past[-1][1]) / s.alpha if eps else denoised, corrected  # eps stays
            if use_pece:
                denoised = run.denoise(x, s)
                past[-1] = s.lam, output(run, s, x, denoised, eps)
        if t.sigma == 0:
            return denoised
        if t == s or (i + 1 == len(grid) and not last_prediction):
            return x
        noisy = _within(grid, s if tau_at == "start" else t, tau_start, tau_end, tau_range)
        now = s, x, denoised if eps else None, tau**2 if noisy else 0.0, s_noise
        past = [p for p in past if isfinite(p[0]) or p[0] == s.lam]  # no polynomial reaches a level infinitely far away
        x = _sa_step(run, *now, t, past[-min(predictor_order, left - i - (not above)) :], rule)
        before = now if s.alpha > 0 or not eps else None
    return x


def _within(grid: Grid, level: Level, start: float, end: float, rule: TauRange) -> bool:
    """Whether a level lies between two shares of a run."""
    high, low = (grid.process.sigma_after(share) for share in (start, end))
    if rule == "comfyui":
        return high >= float(np.float32(level.label)) > low
    return low <= level.label <= high


def _sa_step(
    run: SamplerContext[V],
    s: Level,
    x: V,
    denoised: V | None,
    eta: float,
    s_noise: float,
    t: Level,
    past: Sequence[tuple[float, V]],
    rule: Integrals | None,
) -> V:
    """A predictor or corrector from ``s`` to ``t``, with its noise; arguments as for `adams`."""
    state = adams(s, t, x, past, eta, rule=rule, denoised=denoised)
    return renoise(run, s, t, state, s_noise * fresh_std(s, t, eta, denoised is not None))


def _pece_calls(steps: int, to_zero: bool) -> int:
    return max(2 * steps - 1, 0)


@preset(
    sa_solver,
    fixed={"use_pece": True, "predict": "denoised", "lower_order_final": False, "repeat_last": False},
    calls=_pece_calls,
    peers=(
        comfyui(),
        a1111("SA-Solver-Pece", OF_REFORGE),
    ),
    dialects={Dialect.DIFFUSERS: {}},
)
def sa_solver_pece() -> None:
    """`sa_solver` that calls the model again on each corrected state.

    Third order without noise, limited by its first step. Two model calls per step except in the first, one noise per
    step that ends within the noisy part of the run.

    Parameters
    ----------
    predictor_order, corrector_order, tau, tau_start, tau_end, tau_at, tau_range : as for `sa_solver`
    s_noise, simple_order_2, last_prediction : as for `sa_solver`

    Notes
    -----
    Xue et al. 2023, arXiv:2309.05019, in the mode predict, evaluate, correct, evaluate.
    """
