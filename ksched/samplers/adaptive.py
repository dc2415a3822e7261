"""Samplers that choose their steps from an estimate of the error. They look at the data, so they have no plan."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Annotated, Literal

from ksched.names.enums import Dialect
from ksched.options import Between, NonNegative, PeerValue, Positive
from ksched.plan.protocol import AdaptiveContext
from ksched.processes import Level
from ksched.samplers.blocks.noise_split import ancestral_above, renoise
from ksched.samplers.blocks.stages import inner
from ksched.samplers.blocks.steps import ddim, eps_step
from ksched.samplers.blocks.straight_line import StraightLine
from ksched.samplers.blocks.weights import combine, phi
from ksched.samplers.peer_names import a1111, comfyui, k_diffusion
from ksched.samplers.runge_kutta import TABLEAUS, runge_kutta
from ksched.samplers.shipping import ships
from ksched.samplers.sources import DORMAND_PRINCE, DPM_SOLVER, OF_REFORGE, WHOLE_SCHEDULE
from ksched.schedules.grid import Grid
from ksched.types import Tensor

__all__ = ["Tried", "dpm_adaptive", "pid_factor", "rk_adaptive"]

#: tries after which a run is given up: hundreds of times as many as a run that succeeds needs
MOST_TRIES = 5000

#: of the PID controller: methods use at most about 1, and this limit keeps powers of the error finite
Coefficient = Annotated[float, Between(0.0, 10.0)]
End = Annotated[Literal["denoised", "sigma_min"], PeerValue("sigma_min")]


@dataclass(frozen=True)
class Tried:
    """State of an adaptive run between two tries.

    Attributes
    ----------
    level, x : Level and Tensor
        Noise level and state reached.
    h : float
        Length of the next try, in log-SNR.
    before : Tensor
        State that errors are compared with: the lower-order result of the last accepted step.
    denoised : Tensor or None
        Prediction at ``x``; None before the model is called there.
    errors : tuple of float
        Inverse errors of the last two accepted steps.
    error : float
        Error of the last try, accepted or not; 1 is the largest allowed.
    accepted, rejected : int
        Number of tries accepted and rejected.
    """

    level: Level
    x: Tensor
    h: float
    before: Tensor
    denoised: Tensor | None = None
    errors: tuple[float, ...] = ()
    error: float = 0.0
    accepted: int = 0
    rejected: int = 0


def pid_factor(inverse_errors: Sequence[float], powers: Sequence[float]) -> float:
    """Factor on the step size by a PID controller, before limits, from inverse errors (newest first) and powers."""
    try:
        return float(math.prod(e**power for e, power in zip(inverse_errors, powers, strict=True)))
    except OverflowError:  # far above what any limiter lets through
        return math.inf


@dataclass(frozen=True)
class Controller:
    """A PID controller of step sizes.

    Attributes
    ----------
    rtol, atol : float
        Allowed error, relative to the state and absolute.
    pcoeff, icoeff, dcoeff : float
        Coefficients of the error, its sum and its change.
    order : float
        Order of the error estimate.
    accept_safety : float
        Smallest factor of the step size at which a try is accepted.

    Notes
    -----
    Soderlind 2003; k-diffusion's ``PIDStepSizeController``, with the smooth limiter ``1 + atan(factor - 1)``.
    """

    rtol: float
    atol: float
    pcoeff: float
    icoeff: float
    dcoeff: float
    order: float
    accept_safety: float

    def judge(self, state: Tried, low: Tensor, high: Tensor) -> tuple[bool, Tried]:
        """Whether a try is accepted, and the state with the new step size and errors.

        The error is the root mean square over the whole batch, read back from the device.

        Raises
        ------
        ValueError
            If the model's answers are not finite, or no step is short enough to meet the tolerances.
        """
        # detached, so that results can be written in place
        low, high, before = low.detach(), high.detach(), state.before.detach()
        allowed = low.abs().maximum(before.abs()).mul_(self.rtol).clamp_(min=self.atol)
        error = float((low - high).div_(allowed).square_().mean().sqrt()) if low.numel() else 0.0
        sigma = f"sigma {state.level.label:g}"
        if not math.isfinite(error) and not (low.isfinite().all() and high.isfinite().all()):
            raise ValueError(
                f"the error of a step must be a finite number; got {error} at {sigma}: "
                "the model returned values that are not finite; check the model and its dtype"
            )
        if not math.isfinite(error) or state.accepted + state.rejected >= MOST_TRIES:
            reached = f"after {MOST_TRIES} tries {sigma}" if math.isfinite(error) else f"an error of {error} at {sigma}"
            raise ValueError(
                f"rtol and atol must be errors that a run can reach; got rtol={self.rtol}, atol={self.atol}, "
                f"and {reached}. Raise them, or compute in float64"
            )
        now = 1 / (error + 1e-8)
        last, older = state.errors or (now, now)
        powers = (self.pcoeff + self.icoeff + self.dcoeff, -(self.pcoeff + 2 * self.dcoeff), self.dcoeff)
        factor = pid_factor((now, last, older), [power / self.order for power in powers])
        factor = 1 + math.atan(factor - 1) if factor == factor else 1.0
        accept = factor >= self.accept_safety
        errors = (now, last) if accept else (last, older)
        return accept, replace(state, h=state.h * factor, errors=errors, error=error)


def _adapted(
    run: AdaptiveContext[Tensor],
    grid: Grid,
    x: Tensor,
    h_init: float,
    end: str,
    attempt: Callable[[Tried, Level, Level], Tried],
) -> Tensor:
    """Run tries from the first level to the last one above 0; each try gets the level it starts from and its target.

    Where log-SNR is infinite, one step of a thousandth of the run leads to a level where it is finite.
    """
    above = grid.levels[:-1] if grid.levels[-1].sigma == 0 and len(grid) else grid.levels
    last = above[-1]
    state = run.checkpoint(Tried(above[0], x, h_init, x))
    while state.level.lam < last.lam - 1e-5:
        s = state.level
        if math.isinf(s.lam):
            early = grid.process.level(grid.process.sigma_after(1e-3))
            t = early if early.lam < last.lam else last
            x = ddim(s, t, state.x, run.denoise(state.x, s))
            state = run.checkpoint(replace(state, level=t, x=x, before=x))
        else:
            t = grid.at(s.lam + state.h) if s.lam + state.h < last.lam else last
            state = run.checkpoint(attempt(state, s, t))
    if grid.levels[-1].sigma > 0 or end == "sigma_min" or not len(grid):
        return state.x
    return run.denoise(state.x, last) if state.denoised is None else state.denoised


#: k-diffusion's behaviour
_PUBLISHED = {"end": "sigma_min", "reuse": False}


@ships(
    order=3,
    source=DPM_SOLVER,
    family="adaptive",
    calls=3,
    adaptive=True,
    spellings="k_dpm_adaptive dpm_solver_adaptive",
    peers=(
        comfyui(note=WHOLE_SCHEDULE),
        comfyui("SamplerDPMAdaptative", WHOLE_SCHEDULE),
        k_diffusion(
            "sigma_min sigma_max order rtol atol h_init pcoeff icoeff dcoeff accept_safety eta s_noise noise_sampler "
            "return_info",
            WHOLE_SCHEDULE,
        ),
        a1111("DPM adaptive", WHOLE_SCHEDULE),
    ),
    dialects={Dialect.COMFYUI: _PUBLISHED, Dialect.K_DIFFUSION: _PUBLISHED},
)
def dpm_adaptive(
    run: AdaptiveContext[Tensor],
    grid: Grid,
    x: Tensor,
    *,
    order: Annotated[int, Between(2, 3)] = 3,
    rtol: NonNegative = 0.05,
    atol: Positive = 0.0078,
    h_init: Positive = 0.05,
    pcoeff: Coefficient = 0.0,
    icoeff: Coefficient = 1.0,
    dcoeff: Coefficient = 0.0,
    accept_safety: Annotated[float, Between(0.0, 2.5)] = 0.81,
    eta: NonNegative = 0.0,
    s_noise: NonNegative = 1.0,
    end: End = "denoised",
    reuse: bool = True,
) -> Tensor:
    """DPM-Solver-12 or -23, with steps chosen from the difference between its two orders.

    Of the noise levels, only the first and the last above 0 are used. ``order`` model calls per try, one fewer after a
    rejected try; deterministic unless ``eta`` > 0. All items of a batch share their steps.

    Parameters
    ----------
    order : int
        Order of the higher of the two methods.
    rtol, atol : float
        Error allowed in a step, relative to the state and absolute.
    h_init : float
        Length of the first try, in log-SNR.
    pcoeff, icoeff, dcoeff : float
        Coefficients of the PID controller of the step size.
    accept_safety : float
        Smallest factor on the step size at which a try is accepted.
    eta : float
        Share of the noise that each step draws afresh.
    s_noise : float
        Factor on the noise.
    end : str
        If the last level is 0: "denoised" calls the model at the last level above it; "sigma_min" stops there with the
        remaining noise, as k-diffusion does.
    reuse : bool
        Keep the first prediction of a rejected try; k-diffusion calls the model again.

    Notes
    -----
    Lu et al. 2022, arXiv:2206.00927, appendix C; k-diffusion's ``sample_dpm_adaptive``.
    """
    control = Controller(rtol, atol, pcoeff, icoeff, dcoeff, 1.5 if eta else order, accept_safety)
    last = grid.levels[-2 if grid.levels[-1].sigma == 0 and len(grid) else -1]

    def attempt(state: Tried, s: Level, t: Level) -> Tried:
        down, up = ancestral_above(grid, s, t, eta, last)
        denoised = run.denoise(state.x, s) if state.denoised is None else state.denoised
        low, high = _dpm_pair(run, grid, s, down, state.x, denoised, order)
        accept, tried = control.judge(state, low, high)
        if not accept:
            return replace(tried, denoised=denoised if reuse else None, rejected=state.rejected + 1)
        x = renoise(run, s, t, high, s_noise * up)
        return replace(tried, level=t, x=x, before=low, denoised=None, accepted=state.accepted + 1)

    return _adapted(run, grid, x, h_init, end, attempt)


def _dpm_pair(
    run: AdaptiveContext[Tensor], grid: Grid, s: Level, t: Level, x: Tensor, denoised: Tensor, order: int
) -> tuple[Tensor, Tensor]:
    """A step of DPM-Solver's orders 1 and 2, or 2 and 3, with the same model calls."""

    def eps_at(level: Level, state: Tensor, answer: Tensor) -> Tensor:
        return (state - level.alpha * answer) / level.sigma

    def to(share: float, weights: list[float]) -> tuple[Level, Tensor]:
        level = inner(grid, s, t, share)
        return level, eps_step(s, level, x, denoised, weights, eps[: len(weights)])

    eps, h = [eps_at(s, x, denoised)], t.lam - s.lam
    nodes = [1 / 2] if order == 2 else [1 / 3, 2 / 3]
    for k, node in enumerate(nodes):
        # at the second node: twice the change over the first third, weighted by the growth of eps
        bend = 2 * phi(2, node * h) / phi(1, node * h)
        level, state = to(node, [1.0] if k == 0 else [1 - bend, bend])
        eps.append(eps_at(level, state, run.denoise(state, level)))
    first = 1 / (2 * nodes[0])
    halves = to(1.0, [1 - first, first])[1]
    if order == 2:
        return to(1.0, [1.0])[1], halves
    third = phi(2, h) / phi(1, h) / nodes[1]
    return halves, to(1.0, [1 - third, 0.0, third])[1]


#: weights of the embedded methods; the last weighs the prediction at the end of the step
_EMBEDDED = {
    "bogacki_shampine": (3, "7/24 1/4 1/3 1/8"),
    "dormand_prince": (5, "5179/57600 0 7571/16695 393/640 -92097/339200 187/2100 1/40"),
}


@ships(
    order=5,
    source=DORMAND_PRINCE,
    family="adaptive",
    calls=6,
    adaptive=True,
    spellings="ode",
    peers=(
        a1111("ODE (Dopri5)", f"{OF_REFORGE}; tolerances are its settings"),
        a1111("ODE (Bosh3)", f"{OF_REFORGE}; tolerances are its settings", read=False, pair="bogacki_shampine"),
    ),
)
def rk_adaptive(
    run: AdaptiveContext[Tensor],
    grid: Grid,
    x: Tensor,
    *,
    pair: Literal["bogacki_shampine", "dormand_prince"] = "dormand_prince",
    rtol: NonNegative = 0.001,
    atol: Positive = 0.0001,
    h_init: Positive = 0.05,
    pcoeff: Coefficient = 0.4,
    icoeff: Coefficient = 0.3,
    dcoeff: Coefficient = 0.0,
    accept_safety: Annotated[float, Between(0.0, 2.5)] = 0.81,
    end: End = "denoised",
) -> Tensor:
    """An embedded Runge-Kutta pair in sigma or in flow's own time, with steps from the difference of its orders.

    Of the noise levels, only the first and the last above 0 are used. A try makes three model calls
    ("bogacki_shampine") or six; the last one is the first call of the next try. Deterministic. All items of a batch
    share their steps.

    Parameters
    ----------
    pair : str
        Orders 3 and 2 of Bogacki and Shampine, or 5 and 4 of Dormand and Prince.
    rtol, atol : float
        Error allowed in a step, relative to the state and absolute.
    h_init : float
        Length of the first try, in log-SNR.
    pcoeff, icoeff, dcoeff : float
        Coefficients of the PID controller of the step size.
    accept_safety : float
        Smallest factor on the step size at which a try is accepted.
    end : str
        If the last level is 0: "denoised" returns the prediction at the last level above it, which is already known;
        "sigma_min" returns the state there.

    Notes
    -----
    Bogacki & Shampine 1989; Dormand & Prince 1980; Soderlind 2003 for the controller.
    """
    order, text = _EMBEDDED[pair]
    weights = [float(Fraction(weight)) for weight in text.split()]
    control = Controller(rtol, atol, pcoeff, icoeff, dcoeff, order, accept_safety)
    straight = StraightLine(grid)

    def attempt(state: Tried, s: Level, t: Level) -> Tried:
        denoised = run.denoise(state.x, s) if state.denoised is None else state.denoised
        mixed, seen = runge_kutta(run, straight, s, t, state.x, denoised, TABLEAUS[pair])
        high = ddim(s, t, state.x, mixed)
        after = run.denoise(high, t)
        low = ddim(s, t, state.x, combine(weights, [*seen, straight.seen_from(s, t, mixed, after)]))
        accept, tried = control.judge(state, low, high)
        if not accept:
            return replace(tried, denoised=denoised, rejected=state.rejected + 1)
        return replace(tried, level=t, x=high, before=low, denoised=after, accepted=state.accepted + 1)

    return _adapted(run, grid, x, h_init, end, attempt)
