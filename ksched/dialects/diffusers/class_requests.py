"""How each diffusers scheduler class steps, as its request to `ksched.build_sampler`: sampler, sigmas, options.

Classes that count timesteps step to ``t - N // n``, which is not always where the next step starts.
`ddim_by_strides` and `plms_by_strides` reproduce that literally.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ksched.dialects.diffusers.betas import Settings, vp_of
from ksched.dialects.diffusers.literal_requests import (
    churned_flow_request,
    churned_request,
    rises,
    solver_inverse_request,
    stands_still,
    walk_request,
)
from ksched.dialects.diffusers.loops import ddim_by_strides, lms_by_place, plms_by_strides, prk_by_strides, traced
from ksched.dialects.diffusers.request import (
    EDITED_TCD,
    ENDS_ON_NOISE,
    NOT_A_NUMBER,
    NotRepresentedError,
    Request,
    Run,
    SigmaTold,
    falling,
    flow_of,
    has_sigma_data,
    level_after,
    level_of,
    stride_of,
)
from ksched.plan.plan import Plan
from ksched.processes import EDM, VP, Process

__all__ = [
    "ddim_request",
    "ddpm_request",
    "deis_request",
    "edm_solver_request",
    "euler_request",
    "flow_ancestral_request",
    "flow_euler_request",
    "flow_heun_request",
    "flow_lcm_request",
    "in_sigma",
    "ipndm_request",
    "lcm_request",
    "lms_request",
    "pndm_request",
    "sa_solver_request",
    "solver_request",
    "solver_upwards_request",
    "tcd_request",
    "uni_pc_request",
]


# --------------------------------------------------------------- classes with states x0 + sigma * eps, or flow states
def _sigma_states(run: Run) -> Process:
    """The process of ``x0 + sigma * eps`` in any range: the table only names timesteps."""
    s = run.config
    data = s.get("sigma_data", 0.5 if run.scheduler.startswith("EDM") else None)
    if data is not None:
        return EDM(s.get("sigma_min") or 0.002, s.get("sigma_max") or 80.0, data)
    return vp_of(s, variance_preserving=False)


def euler_request(run: Run) -> Request:
    """Euler, which churns after the model call."""
    process, prediction = _sigma_states(run), run.config.get("prediction_type", "epsilon")
    # if the table has one level too many, it is used as far as there are timesteps
    levels = run.sigmas[: len(run.timesteps) + 1]
    churn = {name: value for name, value in run.given.items() if name.startswith("s_")}
    if churn.get("s_churn", 0) > 0 and (has_sigma_data(process) or prediction != "epsilon"):
        return churned_request(process, levels, prediction, churn)
    if stands_still(levels):
        return walk_request(process, levels)
    return Request("euler", falling(levels)[0], process, churn)


def in_sigma(sampler: str) -> Callable[[Run], Request]:
    """A class whose only peculiarity is its sigmas."""

    def request(run: Run) -> Request:
        return Request(sampler, falling(run.sigmas)[0], _sigma_states(run), run.given)

    return request


def lms_request(run: Run) -> Request:
    """LMS, as a rule over positions in the list of sigmas."""
    process, sigmas = _sigma_states(run), falling(run.sigmas)[0]
    order = int(run.given.get("order", 4))

    def literal(begin: int, options: Mapping[str, Any]) -> Plan:
        levels = [process.level(sigma) for sigma in sigmas]
        return traced(partial(lms_by_place, levels=levels, begin=begin, order=order), process, levels[begin])

    return Request("lms", sigmas, process, {"order": order}, sigmas[:-1], literal)


def flow_euler_request(run: Run) -> Request:
    """Euler on flow states; with ``stochastic_sampling`` it is LCM."""
    if run.config.get("stochastic_sampling"):
        return flow_lcm_request(run)
    sigmas = [1 - share for share in run.sigmas] if run.config.get("invert_sigmas") else run.sigmas
    process = _flow_states(run)
    if stands_still(sigmas):
        return walk_request(process, sigmas)
    return Request("euler", falling(sigmas)[0], process)  # it accepts s_churn and related arguments and ignores them


def _flow_states(run: Run) -> Process:
    """The process of flow states, or of ``x0 + sigma * eps`` if a rule goes to larger sigmas (Cosmos 2)."""
    if max(run.sigmas) <= 1:
        return flow_of(run)
    scale = float(run.config.get("num_train_timesteps", 1000))
    return SigmaTold(min(sigma for sigma in run.sigmas if sigma > 0), max(run.sigmas), scale)


def flow_lcm_request(run: Run) -> Request:
    """LCM on flow states."""
    if run.config.get("invert_sigmas"):
        raise NotRepresentedError(ENDS_ON_NOISE)
    if run.config.get("scale_factors"):
        raise NotRepresentedError("it resizes the state between steps")
    if stands_still(run.sigmas) or rises(run.sigmas):
        return walk_request(flow_of(run), run.sigmas, anew=True)
    return Request("lcm", falling(run.sigmas)[0], flow_of(run), {"boundary": 0.0})


def flow_heun_request(run: Run) -> Request:
    """Heun on flow states."""
    if run.given.get("s_churn", 0) > 0:
        return churned_flow_request(flow_of(run), run.sigmas, run.given)
    return Request("heun", falling(run.sigmas)[0], flow_of(run))


def flow_ancestral_request(run: Run) -> Request:
    """Ancestral Euler on flow states."""
    options = {"eta": run.config.get("eta", 1.0), "s_noise": run.config.get("s_noise", 1.0)}
    return Request("euler_ancestral", falling(run.sigmas)[0], flow_of(run), options)


def edm_solver_request(run: Run) -> Request:
    """DPM-Solver++ on EDM's states."""
    return _solver_on(run, _sigma_states(run), cosine=run.scheduler.startswith("Cosine"))


# ----------------------------------------------------- classes that use sigmas and have variance-preserving states
def _solver_process(run: Run) -> Process:
    return flow_of(run) if run.config.get("use_flow_sigmas") else vp_of(run.config, variance_preserving=True)


def solver_request(run: Run) -> Request:
    """DPM-Solver in all its variants."""
    return _solver_on(run, _solver_process(run))


def solver_upwards_request(run: Run) -> Request:
    """DPM-Solver from data to noise."""
    return solver_inverse_request(run, solver_request(run))


def _solver_on(run: Run, process: Process, cosine: bool = False) -> Request:
    s = run.config
    kind = "sde-dpmsolver++" if cosine else s.get("algorithm_type", "dpmsolver++")
    kind = "dpmsolver++" if kind == "deis" else kind
    solver = s.get("solver_type", "midpoint")
    levels, repeat_last = falling(run.sigmas)
    options: dict[str, Any] = {
        "order": s.get("solver_order", 2),
        "solver_type": solver if solver in ("midpoint", "heun") else "midpoint",
        "predict": "denoised" if kind.endswith("++") else "eps",
        "eta": float(kind.startswith("sde")),
        "repeat_last": repeat_last,
    }
    if run.scheduler == "DPMSolverSinglestepScheduler":
        return Request(
            "dpm_singlestep", levels, process, options | {"lower_order_final": s.get("lower_order_final", False)}
        )
    options["lower_order_final"] = s.get("lower_order_final", True)
    return Request("dpm_multistep", levels, process, options | {"euler_at_final": s.get("euler_at_final", False)})


def uni_pc_request(run: Run) -> Request:
    """UniPC."""
    s = run.config
    without = sorted(s.get("disable_corrector") or [])
    if without != list(range(len(without))):
        raise NotRepresentedError("it leaves out the corrector of single steps in the middle")
    if s.get("solver_p") is not None:
        raise NotRepresentedError("its predictor is another scheduler")
    levels, repeat_last = falling(run.sigmas)
    variant = s.get("solver_type", "bh2")
    options = {
        "order": s.get("solver_order", 2),
        "variant": variant if variant in ("bh1", "bh2") else "bh2",
        "predict": "denoised" if s.get("predict_x0", True) else "eps",
        "first_corrected": len(without),
        "lower_order_final": s.get("lower_order_final", True),
        "repeat_last": repeat_last,
    }
    return Request("uni_pc", levels, _solver_process(run), options)


def deis_request(run: Run) -> Request:
    """DEIS."""
    levels, repeat_last = falling(run.sigmas)
    options = {
        "order": run.config.get("solver_order", 2),
        "lower_order_final": run.config.get("lower_order_final", True),
        "repeat_last": repeat_last,
    }
    return Request("deis", levels, _solver_process(run), options)


def sa_solver_request(run: Run) -> Request:
    """SA-Solver, whose noise is turned on in an interval of timesteps."""
    s, sigmas = run.config, run.sigmas
    if s.get("tau_func") is not None:
        raise NotRepresentedError("tau_func is a function; use sampler sa_solver, whose tau is constant in an interval")
    levels, repeat_last = falling(sigmas)
    process = _solver_process(run)
    tau = s.get("tau") or {"eta": 1.0, "t_lo": 200, "t_hi": 800}
    steps = list(zip(run.timesteps, sigmas, strict=False))
    noisy = [sigma for t, sigma in steps if tau["t_lo"] <= t <= tau["t_hi"]]
    options = {
        "predictor_order": s.get("predictor_order", 2),
        "corrector_order": s.get("corrector_order", 2),
        "predict": "denoised" if s.get("algorithm_type", "data_prediction") == "data_prediction" else "eps",
        "tau": float(tau["eta"]) if noisy else 0.0,
        "lower_order_final": s.get("lower_order_final", True),
        "repeat_last": repeat_last,
    }
    if noisy:
        # timesteps are rounded, so the ends of tau are placed between the sigmas with and without noise
        above = [sigma for sigma in sigmas if sigma > max(noisy)]
        below = [sigma for sigma in sigmas if 0 < sigma < min(noisy)]
        loud = math.sqrt(max(noisy) * min(above)) if above else max(noisy) * 1.01
        quiet = math.sqrt(min(noisy) * max(below)) if below else min(noisy) / 1.01
        options |= {"tau_start": _share_of(process, loud), "tau_end": _share_of(process, quiet)}
    return Request("sa_solver", levels, process, options, noise_by_step=True)


def _share_of(process: Process, sigma: float) -> float:
    """The share of a run after which it is at sigma: the inverse of `Process.sigma_after`."""
    place = process.time(sigma) if process.is_flow else process.position(sigma) / (len(process.sigmas) - 1)
    return min(max(1 - place, 0.0), 1.0)


# ----------------------------------------------------------------------------------- classes that use timesteps
def ddim_request(run: Run) -> Request:
    """DDIM, which steps by strides."""
    s, step, timesteps = run.config, stride_of(run), run.timesteps
    process = vp_of(s, variance_preserving=True)
    calls = [level_of(process, t) for t in timesteps]
    ends = [level_after(process, s, t - step, to_one=True) for t in timesteps]
    eta = run.given.get("eta") or 0.0
    edited = s.get("clip_sample", True) or s.get("thresholding")
    pair = bool(edited and not run.given.get("use_clipped_model_output")) and not run.scheduler.startswith("CogVideoX")

    def literal(begin: int, options: Mapping[str, Any]) -> Plan:
        how = {"eta": eta, "pair": pair, **options}
        levels, arrivals = ([process.level(v) for v in values[begin:]] for values in (calls, ends))
        function = partial(ddim_by_strides, levels=levels, arrivals=arrivals, **how)
        return traced(function, process, levels[0])

    return Request("ddim", falling([*calls, ends[-1]])[0], process, {"eta": eta}, calls, literal, pair)


def ddpm_request(run: Run) -> Request:
    """DDPM, with the variance chosen by the settings."""
    s = run.config
    kind = s.get("variance_type", "fixed_small")
    if kind == "fixed_large_log":
        raise NotRepresentedError(NOT_A_NUMBER)
    process = vp_of(s, variance_preserving=True)
    levels = [*(level_of(process, t) for t in run.timesteps), 0.0]
    if kind.startswith("learned"):  # the noise is added outside the plan
        return Request("ddpm", levels, process, {"s_noise": 0.0}, learned_variance=kind)
    larger = "beta" if run.timesteps[-1] == 0 else "beta_to_end"
    return Request("ddpm", levels, process, {"variance": "posterior" if kind.startswith("fixed_small") else larger})


def pndm_request(run: Run) -> Request:
    """PNDM, with or without its Runge-Kutta start."""
    s, step, n, timesteps = run.config, stride_of(run), run.steps, run.timesteps
    process, v = vp_of(s, variance_preserving=True), s.get("prediction_type") == "v_prediction"
    slopes = {"slopes": "v" if v else "straight"}
    if s.get("skip_prk_steps"):
        calls = [level_of(process, t) for t in timesteps]

        def literal(begin: int, options: Mapping[str, Any]) -> Plan:
            ways = [(t, t - step) for t in timesteps[begin:]]
            if len(ways) > 1:
                ways[1] = ways[1][0] + step, ways[1][0]
            if max(t for t, _ in ways) >= len(process.betas):
                raise NotRepresentedError(f"its second call is for a timestep of {len(process.betas)} or more")
            ends = [
                (process.level(level_of(process, a)), process.level(level_after(process, s, b, False))) for a, b in ways
            ]
            levels = [process.level(value) for value in calls[begin:]]
            function = partial(plms_by_strides, levels=levels, steps=ends, slopes="v" if v else "eps")
            return traced(function, process, levels[0])

        own = falling([*calls, level_after(process, s, timesteps[-1] - step, False)])[0]
        return Request("pndm", own, process, {**slopes, "warm_up": "heun"}, calls, literal)
    even = [timesteps[-1] + step * k for k in range(n)][::-1]
    if even[:1] != timesteps[:1] or step % 2:
        return _prk_by_strides(run, process, "v" if v else "eps")
    levels, _ = falling([*(level_of(process, t) for t in even), level_after(process, s, timesteps[-1] - step, False)])
    return Request("pndm", levels, process, {**slopes, "warm_up": "prk", "order": 4 if n > 1 else 1})


def _prk_by_strides(run: Run, process: VP, slopes: str) -> Request:
    """PNDM's Runge-Kutta start, if its steps arrive at other sigmas than those from which the next ones start."""
    step, timesteps = stride_of(run), run.timesteps
    calls = [level_of(process, t) for t in timesteps]

    def literal(begin: int, options: Mapping[str, Any]) -> Plan:
        told = timesteps[begin:]  # the class counts from its first call, wherever that is
        first = [(timesteps[k // 4 * 4], t - (0 if k % 2 else step // 2)) for k, t in enumerate(told[:12])]
        ways = [*first, *((t, t - step) for t in told[12:])]
        ends = [
            (process.level(level_of(process, a)), process.level(level_after(process, run.config, b, False)))
            for a, b in ways
        ]
        levels = [process.level(value) for value in calls[begin:]]
        return traced(partial(prk_by_strides, levels=levels, steps=ends, slopes=slopes), process, levels[0])

    end = level_after(process, run.config, timesteps[-1] - step, False)
    own = falling(sorted({*calls, end}, reverse=True))[0]
    return Request("pndm", own, process, {"warm_up": "prk"}, calls, literal)


_LATENT: Settings = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def lcm_request(run: Run) -> Request:
    """LCM."""
    process = vp_of({**_LATENT, **run.config}, variance_preserving=True)
    levels = [*(level_of(process, t) for t in run.timesteps), 0.0]
    boundary = run.config.get("timestep_scaling", 10.0)
    return Request("lcm", levels, process, {"boundary": boundary}, boundary=boundary)


def tcd_request(run: Run) -> Request:
    """TCD."""
    if run.config.get("thresholding") or run.config.get("clip_sample"):
        raise NotRepresentedError(EDITED_TCD)
    process, eta = vp_of({**_LATENT, **run.config}, variance_preserving=True), run.given.get("eta")
    levels, _ = falling([*(level_of(process, t) for t in run.timesteps), level_of(process, 0)])
    return Request("tcd", levels, process, {"eta": 0.3 if eta is None else eta})


def ipndm_request(run: Run) -> Request:
    """IPNDM, whose timesteps are angles."""
    levels = [math.inf if t >= 1 else math.tan(t * math.pi / 2) for t in run.timesteps]
    return Request("ipndm", [*levels, 0.0], VP(variance_preserving=True))
