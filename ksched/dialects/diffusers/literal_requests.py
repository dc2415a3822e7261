"""diffusers classes whose loop no sampler reproduces, and runs of others on sigmas that no grid can have."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

from ksched.dialects.diffusers.betas import Settings, vp_of
from ksched.dialects.diffusers.conversions import conversions_of
from ksched.dialects.diffusers.loops import (
    cogvideox_dpm,
    ddim_upwards,
    euler_churned,
    heun_churned_off_flow,
    traced,
    walk,
)
from ksched.dialects.diffusers.request import (
    FlowToData,
    NotRepresentedError,
    Request,
    Run,
    falling,
    flow_of,
    has_sigma_data,
    level_after,
    level_of,
    stride_of,
)
from ksched.names.enums import Dialect
from ksched.options import settled
from ksched.plan.plan import Plan
from ksched.processes import Process, TrigFlow
from ksched.samplers.registry import dialect_options, sampler_spec
from ksched.schedules.grid import Grid

__all__ = [
    "churned_flow_request",
    "churned_request",
    "cogvideox_dpm_request",
    "ddim_inverse_request",
    "flow_map_request",
    "minimax_request",
    "rises",
    "rising_plan",
    "scm_request",
    "solver_inverse_request",
    "stands_still",
    "walk_request",
]


# --------------------------------------------------------------------------------- sigmas that no grid can have
def rises(sigmas: Sequence[float]) -> bool:
    """Whether any sigma is above the one before it."""
    return any(t > s for s, t in pairwise(sigmas))


def stands_still(sigmas: Sequence[float]) -> bool:
    """Whether any step has length 0."""
    return len(falling(sigmas)[0]) < len(sigmas)


def rising_plan(sampler: str, process: Process, sigmas: Sequence[float], options: Settings) -> Plan:
    """The plan of a sampler on rising sigmas, in diffusers' dialect.

    Raises
    ------
    ValueError
        If the method has no upward step; for example, it draws the noise that a step down leaves out.
    """
    spec, levels = sampler_spec(sampler), tuple(process.level(float(sigma)) for sigma in sigmas)
    how = dict(settled(f"sampler {spec.name}", options, len(levels) - 1))
    try:
        return spec.plan(Grid(process, levels), {**dialect_options(spec, Dialect.DIFFUSERS), **how})
    except (ValueError, ArithmeticError) as error:
        low, high = next((s, t) for s, t in pairwise(sigmas) if t > s)
        raise ValueError(
            f"sampler {spec.name} has no step to a higher sigma, but these sigmas rise from {low:g} to {high:g}; use "
            "other timesteps, or a sampler that draws no noise"
        ) from error


def walk_request(process: Process, sigmas: Sequence[float], anew: bool = False) -> Request:
    """Euler steps from each sigma to the next, up or down.

    Parameters
    ----------
    process, sigmas : Process or sequence of float
        Of the run.
    anew : bool
        Draw all noise anew in each step.
    """
    levels = [process.level(sigma) for sigma in sigmas]

    def literal(begin: int, options: Mapping[str, Any]) -> Plan:
        return traced(partial(walk, levels=levels[begin:], anew=anew), process, levels[begin])

    return Request("lcm" if anew else "euler", sigmas, process, {}, sigmas[:-1], literal, noise_by_step=anew)


# --------------------------------------------------------------------------------------------------------------- churn
def _hats(sigmas: Sequence[float], given: Settings) -> list[float]:
    """The sigmas to which churn raises those of a run."""
    most = min(float(given["s_churn"]) / (len(sigmas) - 1), math.sqrt(2) - 1)
    low, high = given.get("s_tmin") or 0.0, given.get("s_tmax")
    high = math.inf if high is None else high
    return [sigma * (1 + most) if low <= sigma <= high else sigma for sigma in sigmas]


def churned_request(process: Process, sigmas: Sequence[float], prediction: str, given: Settings) -> Request:
    """Euler that churns after the model call and treats the answer as one about the new state.

    EDM's class also treats it as being at the new sigma; Euler's class with v prediction uses the old one.
    """
    hats = _hats(sigmas, given)
    of_call = conversions_of(process, prediction, sigmas[:-1])
    of_hat = conversions_of(process, prediction, hats[:-1]) if has_sigma_data(process) else of_call
    noise = given.get("s_noise")
    how = {"hats": hats, "of_call": of_call, "of_hat": of_hat, "s_noise": 1.0 if noise is None else noise}
    return _by_place("euler", process, sigmas, euler_churned, how)


def churned_flow_request(process: Process, sigmas: Sequence[float], given: Settings) -> Request:
    """Heun's class on flow states, which it churns as if they were ``x0 + sigma * eps``.

    Parameters
    ----------
    process, given : Process or mapping
        Process of the run, and arguments of ``step``.
    sigmas : sequence of float
        Sigmas of the run, each twice except the first and the last.
    """
    levels = [*sigmas[:1], *sigmas[1::2]]
    hats = _hats_of(sigmas, levels, given)
    stretch = [hat / sigma if sigma > 0 else 1.0 for hat, sigma in zip(hats, levels, strict=True)]
    noise = given.get("s_noise")
    how: dict[str, Any] = {"stretch": stretch, "s_noise": 1.0 if noise is None else noise}

    def literal(begin: int, options: Mapping[str, Any]) -> Plan:
        nodes = [process.level(sigma) for sigma in levels]
        function = partial(heun_churned_off_flow, levels=nodes, begin=begin, **how)
        return traced(function, process, process.level(sigmas[begin]))

    calls = sigmas[:-1]
    dropped = [int(k % 2 == 1 and stretch[k // 2] > 1) for k in range(len(calls))]  # the noise of second calls
    return Request("heun", sigmas, process, {}, calls, literal, draws_before=dropped)


def _hats_of(doubled: Sequence[float], levels: Sequence[float], given: Settings) -> list[float]:
    """The churned sigmas, where churn is shared over the sigmas as often as the class lists them."""
    share = (len(levels) - 1) / (len(doubled) - 1)
    return _hats(levels, {**given, "s_churn": float(given["s_churn"]) * share})


def _by_place(sampler: str, process: Process, sigmas: Sequence[float], loop: Any, how: Mapping[str, Any]) -> Request:
    """A loop over sigmas that can begin at any of them and knows its position."""
    levels = [process.level(sigma) for sigma in sigmas]

    def literal(begin: int, options: Mapping[str, Any]) -> Plan:
        return traced(partial(loop, levels=levels, begin=begin, **how), process, levels[begin])

    return Request(sampler, sigmas, process, {}, sigmas[:-1], literal)


# ------------------------------------------------------------------------------------------------- from data to noise
def ddim_inverse_request(run: Run) -> Request:
    """DDIM upwards: a call gets the timestep that it goes to, and its answer is read at the one before."""
    s, step, timesteps = run.config, stride_of(run), run.timesteps
    process, prediction = vp_of(s, variance_preserving=True), str(s.get("prediction_type", "epsilon"))
    calls = [level_of(process, t) for t in timesteps]
    last = len(process.betas) - 1
    starts = [level_after(process, s, min(t - step, last), to_one=True) for t in timesteps]
    pair = bool(s.get("clip_sample", True))

    def literal(begin: int, options: Mapping[str, Any]) -> Plan:
        if prediction == "sample" and 0 in starts[begin:]:
            raise NotRepresentedError(
                "DDIMInverseScheduler with prediction_type 'sample' divides by the noise of its first state, which "
                "is 0; set set_alpha_to_one=False to start at the lowest sigma of the training"
            )
        reached, left = ([process.level(v) for v in values[begin:]] for values in (calls, starts))
        function = partial(ddim_upwards, reached=reached, left=left, prediction=prediction, pair=pair)
        return traced(function, process, reached[0])

    return Request("ddim", [*calls, calls[-1]], process, {}, calls, literal, pair, read_at=starts)


def solver_inverse_request(run: Run, request: Request) -> Request:
    """DPM-Solver upwards.

    Parameters
    ----------
    run : Run
        Run of the class.
    request : Request
        DPM-Solver's request on the same sigmas.
    """
    process, repeat_last = request.process, run.sigmas[-1] == run.sigmas[-2]
    sigmas = run.sigmas[:-1] if repeat_last else run.sigmas
    how = {**request.options, "repeat_last": repeat_last}

    def literal(begin: int, options: Mapping[str, Any]) -> Plan:
        return rising_plan(request.sampler, process, sigmas[begin:], {**how, **options})

    return request._replace(sigmas=sigmas, calls=sigmas[:-1], literal=literal)


# ------------------------------------------------------------------------------------------------ classes of one model
def cogvideox_dpm_request(run: Run) -> Request:
    """CogVideoX's DPM-Solver++ with noise, by strides; from the second step on it draws twice and uses the last."""
    s, step, timesteps = run.config, stride_of(run), run.timesteps
    process = vp_of(s, variance_preserving=True)
    calls = [level_of(process, t) for t in timesteps]
    ends = [level_after(process, s, t - step, to_one=True) for t in timesteps]
    inside = [t - step >= 0 for t in timesteps]

    def literal(begin: int, options: Mapping[str, Any]) -> Plan:
        levels, arrivals = ([process.level(v) for v in values[begin:]] for values in (calls, ends))
        function = partial(cogvideox_dpm, levels=levels, arrivals=arrivals, inside=inside[begin:])
        return traced(function, process, levels[0])

    draws = [int(k > 0 and within) for k, within in enumerate(inside)]
    own = falling([*calls, ends[-1]])[0]
    return Request("dpmpp_2m_sde", own, process, {}, calls, literal, noise_by_step=True, draws_before=draws)


def scm_request(run: Run) -> Request:
    """SCM: all noise is drawn anew at every angle except the last, at which there is no call."""
    process = TrigFlow(float(run.config.get("sigma_data", 0.5)))
    sigmas = [process.sigma(angle) for angle in run.timesteps]
    return Request("lcm", sigmas, process, {"boundary": 0.0})


def flow_map_request(run: Run) -> Request:
    """Euler along the mean velocity of a network of two times."""
    process = flow_of(run)
    return walk_request(process, run.sigmas) if stands_still(run.sigmas) else Request("euler", run.sigmas, process)


def minimax_request(run: Run) -> Request:
    """Euler on a flow model that is called with the share of data, from 0 to 1."""
    return Request("euler", falling(run.sigmas)[0], FlowToData(timestep_scale=1.0, shows_data=False))
