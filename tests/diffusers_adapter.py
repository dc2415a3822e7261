"""From a recorded run of a diffusers scheduler to one call of our public API (the runs: golden/README).

``run_diffusers_case(case)`` is the final sample, or None where ``reason(case)`` says why no option of ours repeats it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

import ksched
from ksched import VE, VP, Flow, Process


class Request(NamedTuple):
    """What `ksched.build_sampler` is asked for, and how the run's noise is counted."""

    sampler: str
    sigmas: Sequence[float]
    process: Process
    options: Mapping[str, Any] = {}
    pair: bool = False  # the model answers with the clipped prediction and the one that eps comes from
    noise_by_step: bool = False  # one noise per step, used or not; otherwise in the order in which they are asked for


Refusal = str
Settings = Mapping[str, Any]
STATES = VE(1e-6, 1e6)  # x0 + sigma * eps, of any range

OTHER_LEVELS = "its steps arrive at other levels than the next ones start from: prev_timestep is t - N // n (B16)"
RISING = "its levels rise, and a grid of ours falls"
CHURN_NOT_IN_EPS = "it churns after the model call, and makes of an answer that is no eps a prediction of the new state"
CHURN_OFF_FLOW = "it churns flow states as if they were x0 + sigma * eps, and drops the noise of every second call"
NOT_A_NUMBER = "its noise is not a number: the square root of a logarithm"


def vp_of(config: Settings, **defaults: Any) -> VP:
    """The process of a configuration, with variance-preserving states."""
    s: dict[str, Any] = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "num_train_timesteps": 1000}
    s |= defaults | {name: config[name] for name in s if name in config}
    how = {"zero_terminal_snr": bool(config.get("rescale_betas_zero_snr")), "variance_preserving": True}
    steps = s["num_train_timesteps"]
    if config.get("trained_betas") is not None:
        return VP(config["trained_betas"], **how)
    if s["beta_schedule"] in ("squaredcos_cap_v2", "exp"):
        return (VP.cosine if s["beta_schedule"] == "squaredcos_cap_v2" else VP.exponential)(steps, **how)
    kinds = {"linear": VP.linear, "scaled_linear": VP.scaled_linear, "sigmoid": VP.sigmoid}
    return kinds[s["beta_schedule"]](s["beta_start"], s["beta_end"], steps, **how)


def falling(sigmas: Sequence[float]) -> tuple[list[float], bool]:
    """Levels without the repeats, which are steps of length 0; and whether the last was one."""
    kept = [sigmas[0]]
    for sigma in sigmas[1:]:
        if sigma < kept[-1] or sigma > 1.001 * kept[-1]:  # rounding makes some repeats rise
            kept.append(sigma)
    return kept, len(sigmas) > 1 and sigmas[-1] > 0 and sigmas[-1] >= sigmas[-2]


def seen(case: Mapping[str, Any]) -> list[float]:
    """sigma / alpha of the model calls."""
    return [call["noise_std"] / call["alpha"] if call["alpha"] > 0 else math.inf for call in case["calls"]]


def level_of(process: VP, timestep: int) -> float:
    """sigma / alpha of a timestep."""
    alpha_bar = float(process.alphas_cumprod[timestep])
    return math.sqrt((1 - alpha_bar) / alpha_bar)


# ------------------------------------------------------------------- classes that hold x0 + sigma * eps, or flow states


def euler(case: Mapping[str, Any], s: Settings) -> Request | Refusal:
    churn = {name: value for name, value in case["step_kwargs"].items() if name.startswith("s_")}
    in_eps = case["sampler"] != "EDMEuler" and s.get("prediction_type", "epsilon") == "epsilon"
    if churn.get("s_churn", 0) > 0 and not in_eps:
        return CHURN_NOT_IN_EPS
    return Request("euler", falling(case["sigmas"][: len(case["calls"]) + 1])[0], STATES, churn)


def in_sigma(sampler: str) -> Callable[[Mapping[str, Any], Settings], Request]:
    """A class whose levels are all that is particular to it."""

    def request(case: Mapping[str, Any], s: Settings) -> Request:
        return Request(sampler, falling(case["sigmas"])[0], STATES, case["step_kwargs"])

    return request


def flow_euler(case: Mapping[str, Any], s: Settings) -> Request | Refusal:
    if s.get("invert_sigmas"):
        return RISING
    if s.get("stochastic_sampling"):
        return flow_lcm(case, s)
    return Request("euler", falling(case["sigmas"])[0], Flow())  # it takes s_churn and its like, and does nothing


def flow_lcm(case: Mapping[str, Any], s: Settings) -> Request | Refusal:
    if s.get("scale_factors"):
        return "it resizes the state between steps"
    return Request("lcm", falling(case["sigmas"])[0], Flow(), {"boundary": 0.0})


def flow_heun(case: Mapping[str, Any], s: Settings) -> Request | Refusal:
    if case["step_kwargs"].get("s_churn", 0) > 0:
        return CHURN_OFF_FLOW
    return Request("heun", falling(case["sigmas"])[0], Flow())


def flow_ancestral(case: Mapping[str, Any], s: Settings) -> Request:
    options = {"eta": s.get("eta", 1.0), "s_noise": s.get("s_noise", 1.0)}
    return Request("euler_ancestral", falling(case["sigmas"])[0], Flow(), options)


def edm_solver(case: Mapping[str, Any], s: Settings) -> Request | Refusal:
    return solver_request(case, s, STATES, cosine=case["sampler"].startswith("Cosine"))


# --------------------------------------------------- classes that go by sigmas and hold variance-preserving states


def solver_process(s: Settings) -> Process:
    return Flow() if s.get("use_flow_sigmas") else vp_of(s)


def solver(case: Mapping[str, Any], s: Settings) -> Request | Refusal:
    return solver_request(case, s, solver_process(s))


def solver_request(case: Mapping[str, Any], s: Settings, process: Process, cosine: bool = False) -> Request | Refusal:
    kind = "sde-dpmsolver++" if cosine else s.get("algorithm_type", "dpmsolver++")
    levels, repeat_last = falling(case["sigmas"])
    options: dict[str, Any] = {
        "order": s.get("solver_order", 2),
        "solver_type": s.get("solver_type", "midpoint"),
        "predict": "denoised" if kind.endswith("++") else "eps",
        "eta": float(kind.startswith("sde")),
    }
    if case["sampler"] == "DPMSolverSinglestep":
        options |= {"lower_order_final": s.get("lower_order_final", False), "repeat_last": repeat_last}
        return Request("dpm_singlestep", levels, process, options)
    options["lower_order_final"] = s.get("lower_order_final", True)
    options |= {"euler_at_final": s.get("euler_at_final", False), "repeat_last": repeat_last}
    return Request("dpm_multistep", levels, process, options)


def uni_pc(case: Mapping[str, Any], s: Settings) -> Request | Refusal:
    without = sorted(s.get("disable_corrector", []))
    if without != list(range(len(without))):
        return "it leaves out the corrector of steps amid the others"
    if s.get("solver_p") is not None:
        return "its predictor is another scheduler"
    levels, repeat_last = falling(case["sigmas"])
    variant = s.get("solver_type", "bh2")
    options = {
        "order": s.get("solver_order", 2),
        "variant": variant if variant in ("bh1", "bh2") else "bh2",
        "predict": "denoised" if s.get("predict_x0", True) else "eps",
        "first_corrected": len(without),
        "lower_order_final": s.get("lower_order_final", True),
        "repeat_last": repeat_last,
    }
    return Request("uni_pc", levels, solver_process(s), options)


def deis(case: Mapping[str, Any], s: Settings) -> Request:
    levels, repeat_last = falling(case["sigmas"])
    options = {
        "max_order": s.get("solver_order", 2),
        "lower_order_final": s.get("lower_order_final", True),
        "repeat_last": repeat_last,
    }
    return Request("deis", levels, solver_process(s), options)


def sa_solver(case: Mapping[str, Any], s: Settings) -> Request:
    levels, repeat_last = falling(case["sigmas"])
    process = solver_process(s)
    tau = s.get("tau") or {"eta": 1.0, "t_lo": 200, "t_hi": 800}
    steps = list(zip(case["timesteps"], case["sigmas"], strict=False))
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
        # timesteps are rounded, so the ends of tau lie somewhere between the levels with and without noise
        above = [sigma for sigma in case["sigmas"] if sigma > max(noisy)]
        below = [sigma for sigma in case["sigmas"] if 0 < sigma < min(noisy)]
        loud = math.sqrt(max(noisy) * min(above)) if above else max(noisy) * 1.01
        quiet = math.sqrt(min(noisy) * max(below)) if below else min(noisy) / 1.01
        options |= {"tau_start": share_of(process, loud), "tau_end": share_of(process, quiet)}
    return Request("sa_solver", levels, process, options, noise_by_step=True)


def share_of(process: Process, sigma: float) -> float:
    """The share of a run after which it is at sigma: inverse of `Process.sigma_after`."""
    place = process.time(sigma) if isinstance(process, Flow) else process.position(sigma) / (len(process.sigmas) - 1)
    return min(max(1 - place, 0.0), 1.0)


# --------------------------------------------------------------------------------------- classes that go by timesteps


def stride(case: Mapping[str, Any], s: Settings) -> int:
    return int(s.get("num_train_timesteps", 1000) // case["n"])


def after_last(process: VP, s: Settings, timestep: float, to_one: bool) -> float:
    """The level after the last step that starts a stride above ``timestep``."""
    if timestep >= 0:
        return level_of(process, int(timestep))
    return 0.0 if s.get("set_alpha_to_one", to_one) else level_of(process, 0)


def ddim(case: Mapping[str, Any], s: Settings) -> Request | Refusal:
    process, step = vp_of(s), stride(case, s)
    timesteps = case["timesteps"]
    if any(t - step != after for t, after in itertools.pairwise(timesteps)):
        return OTHER_LEVELS
    levels, repeat_last = falling([*seen(case), after_last(process, s, timesteps[-1] - step, to_one=True)])
    eta = case["step_kwargs"].get("eta", 0.0)
    edited = s.get("clip_sample", True) or s.get("thresholding")
    if edited and not case["step_kwargs"].get("use_clipped_model_output"):  # eps is that of the raw prediction
        if repeat_last:
            return "its last step has length 0, and clips the state nevertheless"
        return Request("euler_ancestral_cfg_pp", levels, process, {"eta": eta}, pair=True)
    return Request("ddim", levels, process, {"eta": eta})


def ddpm(case: Mapping[str, Any], s: Settings) -> Request | Refusal:
    kind = s.get("variance_type", "fixed_small")
    if kind.startswith("learned"):
        return "its variance is an output of the model"
    if kind == "fixed_large_log":
        return NOT_A_NUMBER
    larger = "beta" if case["timesteps"][-1] == 0 else "beta_to_end"
    options = {"variance": "posterior" if kind.startswith("fixed_small") else larger}
    return Request("ddpm", [*seen(case), 0.0], vp_of(s), options)


def pndm(case: Mapping[str, Any], s: Settings) -> Request | Refusal:
    process, step, n = vp_of(s), stride(case, s), case["n"]
    last = case["timesteps"][-1]
    timesteps = [last + step * k for k in range(n)][::-1]
    given = list(dict.fromkeys(case["timesteps"]))
    plms = s.get("skip_prk_steps", False)
    if (given if plms else given[:1]) != (timesteps if plms else timesteps[:1]) or (not plms and step % 2):
        return OTHER_LEVELS
    levels, _ = falling([*(level_of(process, int(t)) for t in timesteps), after_last(process, s, last - step, False)])
    slopes = "v" if s.get("prediction_type") == "v_prediction" else "straight"
    options = {"warm_up": "heun" if plms else "prk", "slopes": slopes, "max_order": 4 if n > 1 else 1}
    return Request("pndm", levels, process, options)


def lcm(case: Mapping[str, Any], s: Settings) -> Request:
    process = vp_of(s, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    return Request("lcm", [*seen(case), 0.0], process, {"boundary": s.get("timestep_scaling", 10.0)})


def tcd(case: Mapping[str, Any], s: Settings) -> Request:
    process = vp_of(s, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    levels, _ = falling([*seen(case), level_of(process, 0)])
    return Request("tcd", levels, process, {"eta": case["step_kwargs"].get("eta", 0.3)})


def ipndm(case: Mapping[str, Any], s: Settings) -> Request:
    return Request("ipndm", [*seen(case), 0.0], VP(variance_preserving=True))


def inverse(case: Mapping[str, Any], s: Settings) -> Refusal:
    return RISING


CLASSES: Mapping[str, Callable[[Mapping[str, Any], Settings], Request | Refusal]] = {
    "EulerDiscrete": euler,
    "EulerAncestralDiscrete": in_sigma("euler_ancestral"),
    "HeunDiscrete": in_sigma("heun"),
    "LMSDiscrete": in_sigma("lms"),
    "KDPM2Discrete": in_sigma("dpm_2"),
    "KDPM2AncestralDiscrete": in_sigma("dpm_2_ancestral"),
    "DPMSolverSDE": in_sigma("dpmpp_sde"),
    "EDMEuler": euler,
    "EDMDPMSolverMultistep": edm_solver,
    "CosineDPMSolverMultistep": edm_solver,
    "DPMSolverMultistep": solver,
    "DPMSolverSinglestep": solver,
    "UniPCMultistep": uni_pc,
    "DEISMultistep": deis,
    "SASolver": sa_solver,
    "DDIM": ddim,
    "DDPM": ddpm,
    "PNDM": pndm,
    "LCM": lcm,
    "TCD": tcd,
    "IPNDM": ipndm,
    "FlowMatchEulerDiscrete": flow_euler,
    "FlowMatchHeunDiscrete": flow_heun,
    "FlowMatchLCM": flow_lcm,
    "LTXEulerAncestralRF": flow_ancestral,
    "DDIMInverse": inverse,
    "DPMSolverMultistepInverse": inverse,
}
#: what of these classes has clip_sample=True by default
CLIPPED = ("DDIM", "DDPM")


def request_of(case: Mapping[str, Any]) -> Request | Refusal:
    if case.get("error"):
        return f"it raises {case['error']}"
    return CLASSES[case["sampler"]](case, case["config"])


def reason(case: Mapping[str, Any]) -> Refusal | None:
    """Why a run is not repeated, None if it is."""
    request = request_of(case)
    return request if isinstance(request, str) else None


def run_diffusers_case(case: Mapping[str, Any]) -> Any:
    """The final sample of a case, None if it has a `reason`."""
    request = request_of(case)
    if isinstance(request, str):
        return None
    sampler = ksched.build_sampler(
        request.sampler, sigmas=request.sigmas, process=request.process, dialect="diffusers", **request.options
    )

    def raw(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        level = request.process.level(float(sigma[0]))
        return torch.from_numpy(case["_denoise"](x.numpy(), level.alpha, level.sigma))

    edited = wrapped(raw, case["config"], case["sampler"])

    def model(x: torch.Tensor, sigma: torch.Tensor) -> Any:
        return (edited(x, sigma), raw(x, sigma)) if request.pair else edited(x, sigma)

    drawn = 0

    def noise(sigma_from: float, sigma_to: float) -> torch.Tensor:
        nonlocal drawn
        number = request.sigmas.index(sigma_from) if request.noise_by_step else drawn
        drawn += 1
        return torch.from_numpy(np.asarray(case["_noise"][number]))

    return sampler.sample(model, torch.from_numpy(np.asarray(case["_x"])), noise=noise).numpy()


def wrapped(model: Any, s: Settings, scheduler: str) -> Any:
    """The model with what the class does to its predictions."""
    if s.get("thresholding"):
        return ksched.guidance.dynamic_thresholding(
            model, s.get("dynamic_thresholding_ratio", 0.995), s.get("sample_max_value", 1.0)
        )
    if s.get("clip_sample", scheduler in CLIPPED):
        most = s.get("clip_sample_range", 1.0)
        return ksched.guidance.clip(model, -most, most)
    return model
