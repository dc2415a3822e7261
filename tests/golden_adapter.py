"""Turn a recorded case of a peer into a call of our public API.

``run_case(case)`` runs a case of ComfyUI's or k-diffusion's samplers in that peer's dialect, with the case's own model
and noise (diffusers_adapter has those of diffusers). ``make_schedule(case)`` takes recorded noise levels of ComfyUI,
k-diffusion or diffusers and returns our schedule for them. golden/README describes the cases.
"""

from __future__ import annotations

import gzip
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers_adapter import run_diffusers_case

import ksched
from ksched import EDM, VP, AngleV, Cascade, Flow, FlowVE, Process
from ksched.dialects.diffusers.levels import diffusers_levels
from ksched.schedules import transforms

#: levels that ComfyUI's KSampler drops the last but one of
DROPS_PENULTIMATE = ("dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2")


def process_of(model_sampling: dict[str, Any]) -> Process:
    """Our process for a ComfyUI model sampling."""
    spec = model_sampling["spec"]
    how = {**spec.get("settings", {}), **spec.get("set_parameters", {})}
    if spec["class"] in ("Discrete", "DiscreteDistilled", "DiscreteEDM"):
        flags = {
            "zero_terminal_snr": bool(spec.get("zsnr")),
            "keep_every": 20 if spec["class"] == "DiscreteDistilled" else 1,
            "log_sigma_timesteps": spec["class"] == "DiscreteEDM",
        }
        # ComfyUI's "linear" is linear in the root of beta, its "sqrt_linear" linear in beta itself
        kind = {"linear": VP.scaled_linear, "sqrt_linear": VP.linear, "cosine": VP.cosine}
        make: Any = kind[how.get("beta_schedule", "linear")]
        ends = () if make == VP.cosine else (how.get("linear_start", 0.00085), how.get("linear_end", 0.012))
        discrete: Process = make(*ends, **flags)
        return discrete
    if spec["class"] == "DiscreteFlow":
        return Flow(how["shift"], timestep_scale=how.get("multiplier", 1000))
    if spec["class"] == "Flux":
        return Flow.of_mu(how["shift"])
    if spec["class"] == "StableCascade":
        return Cascade(how["shift"])
    ranged: Any = {"ContinuousEDM": EDM, "ContinuousV": AngleV, "CosmosRFlow": FlowVE}[spec["class"]]
    how.pop("sigma_data", None)
    process: Process = ranged(**how)
    return process


#: ComfyUI's names of samplers and options that are an option, or another spelling, here
SAMPLERS: dict[str, tuple[str, dict[str, Any]]] = {
    "euler_cfg_pp_alternative": ("euler_cfg_pp", {"version": "alternative"})
}
DEIS_VARIABLES = {"tab": "vp_time_sum", "rhoab": "sigma"}


@cache
def _model_samplings() -> dict[str, Any]:
    """The model samplings that the file of noise levels describes."""
    packed = (Path(__file__).parent / "golden" / "comfy_schedules.json.gz").read_bytes()
    described: dict[str, Any] = json.loads(gzip.decompress(packed))["model_samplings"]
    return described


def model_process(name: str | None, space: str) -> Process:
    """Our process for a model sampling that is only named: its kind, then a shift or a range."""
    if name in _model_samplings():
        return process_of(_model_samplings()[name])
    kind, *numbers = (name or space).split("_")
    if kind in ("flow", "flux"):
        shift = float((numbers or ["1"])[0].removeprefix("shift"))
        return Flow(shift) if kind == "flow" else Flow.of_mu(shift)
    if kind == "edm":
        return EDM(*map(float, numbers))
    if space == "flow":
        return Flow()
    return VP(zero_terminal_snr="zsnr" in numbers)


def sampler_options(sampler: str, options: dict[str, Any]) -> dict[str, Any]:
    """A peer's options in our words."""
    ours = dict(options)
    if sampler in ("res_multistep", "res_multistep_cfg_pp"):
        ours.pop("s_noise", None)  # times a noise that is multiplied by 0
    if (tau := ours.pop("tau", None)) is not None:
        ours |= {"tau": tau["eta"], "tau_start": tau["start_percent"], "tau_end": tau["end_percent"]}
    if (scaler := ours.pop("noise_scaler", None)) is not None:
        ours |= {"solver_type": "reverse_time", "eta": scaler["eta"]}
    if (mode := ours.pop("deis_mode", None)) is not None:
        ours["variable"] = DEIS_VARIABLES[mode]
    return ours


def run_case(case: dict[str, Any]) -> Any:
    """The final sample of a case; None for a diffusers case that no option of ours reproduces."""
    if case["source_key"] == "diffusers":
        return run_diffusers_case(case)
    process = model_process(case.get("model_sampling"), case["space"])
    name, preset = SAMPLERS.get(case["sampler"], (case["sampler"], {}))
    options = preset | sampler_options(name, case.get("options", {}))
    sigmas: list[float] = case["sigmas"]
    calls = options.pop("n_steps", None)
    if calls is not None:  # dpm_fast is told its model calls, and reads of the levels the two ends alone
        options["levels"] = "range"
        sigmas = np.geomspace(case["sigma_max"], case["sigma_min"], calls + 1).tolist()
        sigmas[0], sigmas[-1] = case["sigma_max"], case["sigma_min"]
    dialect = "comfyui" if case["source_key"] == "comfyui" else "k_diffusion"
    sampler = ksched.build_sampler(name, sigmas=sigmas, process=process, dialect=dialect, **options)

    def model(x: torch.Tensor, sigma: torch.Tensor) -> Any:
        denoised, uncond = case["_model_pair"](x.numpy(), float(sigma[0]))
        denoised = torch.from_numpy(denoised)
        return denoised if uncond is None else (denoised, torch.from_numpy(uncond))

    noise = _recorded_noise(case, sigmas)
    if case.get("kind") == "pipeline":
        return _pipeline(case, sampler, model, noise)
    return sampler.sample(model, torch.from_numpy(case["_x"]), noise=noise).numpy()


def _recorded_noise(case: dict[str, Any], sigmas: list[float]) -> Any:
    """The case's noise by interval: the peer may have asked for some that it multiplied by zero."""
    # k-diffusion's churn samplers and ComfyUI's heunpp2 ask before every step, used or not
    churn = case.get("noise_via") == "randn_like"
    by_step = churn and (case["source_key"] == "k_diffusion" or case["sampler"] == "heunpp2")
    requests = case.get("noise_requests") or []
    asked = 0

    def noise(sigma_from: float, sigma_to: float) -> torch.Tensor:
        nonlocal asked
        number = sigmas.index(sigma_from) if by_step else asked
        if not churn:
            matching = (k for k in range(asked, len(requests)) if np.allclose(requests[k], (sigma_from, sigma_to)))
            number = next(matching, asked)
        asked = number + 1
        return torch.from_numpy(case["_noise"][number])

    return noise


def _pipeline(case: dict[str, Any], sampler: ksched.Sampler, model: Any, noise: Any) -> Any:
    """ComfyUI's whole way from noise and latent to latent."""
    process, first = sampler.process, float(sampler.sigmas[0])
    eps, latent = (torch.tensor(case[name], dtype=torch.float64) for name in ("noise", "latent_image"))
    if case["space"] == "flow":
        x = process.add_noise(latent, eps, first)
    else:
        x = latent + eps * (np.hypot(1, first) if case["max_denoise"] else first)
    if case.get("denoise_mask") is not None:
        mask = torch.tensor(case["denoise_mask"], dtype=torch.float64)
        model = ksched.guidance.inpaint(model, mask, latent, process, noise=eps)
    result = sampler.sample(model, x, noise=noise)
    end = sampler.sigmas[-1] if case["sampler"] not in ("uni_pc", "uni_pc_bh2") else max(sampler.sigmas[-1], 0.001)
    return (result / (1 - end) if case["space"] == "flow" else result).numpy()


def make_schedule(case: dict[str, Any]) -> Any:
    """Our noise levels for a case, None for a kind that we do not have."""
    if case["source_key"] == "diffusers":
        return _diffusers(case)
    dialect = "comfyui" if case["source_key"] == "comfyui" else "k_diffusion"
    process = process_of(case["_model_sampling"]) if "_model_sampling" in case else ksched.VP()
    kind: str = case["kind"]
    if kind.startswith("discrete_schedule"):
        return _discrete(case, kind)
    if kind == "calculate_sigmas" and np.isnan(case["sigmas"]).any():
        return None  # the peer itself fails
    keys = ("sigma_min", "sigma_max", "rho", "mu", "beta_d", "beta_min", "eps_s")
    named: dict[str, Any] = {name: case[name] for name in keys if name in case}
    simple = {"karras_node": "karras", "exponential_node": "exponential"}.get(kind, kind)
    if simple in ("karras", "exponential", "polyexponential", "vp", "laplace"):
        named |= {"beta": case["beta"]} if "beta" in case else {}
        return ksched.calculate_sigmas(simple, case["n"], ksched.VE(1e-6, 1e6), dialect=dialect, **named)
    return _comfy(case, kind, process)


def _discrete(case: dict[str, Any], kind: str) -> Any:
    """k-diffusion's schedule over a table of betas."""
    process = VP.scaled_linear(case["beta_start"], case["beta_end"])
    if kind == "discrete_schedule_get_sigmas":
        return ksched.calculate_sigmas("normal", case["n"], process, dialect="k_diffusion")
    if kind == "discrete_schedule_t_to_sigma":
        return process.sigma(np.array(case["probe_t"]))
    timesteps = process.timestep(np.array(case["probe_sigmas"]))
    return np.rint(timesteps) if case["quantize"] else timesteps


def _comfy(case: dict[str, Any], kind: str, process: Process) -> Any:
    def levels(name: str, steps: int, **options: Any) -> Any:
        return ksched.calculate_sigmas(name, steps, process, dialect="comfyui", **options)

    n: int = case.get("n", 0)
    denoise = 1.0 if case.get("denoise") is None else float(case["denoise"])
    if kind == "calculate_sigmas":
        return levels(case["scheduler"], n)
    if kind == "beta_node":
        return levels("beta", n, alpha=case["alpha"], beta=case["beta"])
    if kind in ("basic_scheduler", "ksampler_steps"):
        drop = kind == "ksampler_steps" and case["sampler"] in DROPS_PENULTIMATE
        if denoise <= 0:
            return np.zeros(0)
        strength = 1.0 if denoise > 0.9999 and kind == "ksampler_steps" else denoise
        return ksched.schedules.stretch(
            case["scheduler"], n, strength, process, drop_penultimate=drop, dialect="comfyui"
        )
    if kind == "sd_turbo":
        start = 10 - int(10 * denoise)
        return np.append(levels("sd_turbo", 10)[start : min(start + n, 10)], 0.0)
    options = {
        "align_your_steps": {"model": case.get("model_type", "").lower()},
        "gits": {"coefficient": case.get("coeff")},
        "optimal_steps": {"model": case.get("model_type", "").lower()},
    }.get(kind)
    if options is not None and denoise <= 0:
        return np.zeros(0)
    if options is not None:
        return ksched.schedules.truncate(levels(kind, n, **options), denoise, rule="nearest")
    if kind == "flux_resolution_shift":
        tokens = case["width"] * case["height"] / 256
        return {"shift": ksched.mu_for_tokens(tokens, base_mu=case["base_shift"], max_mu=case["max_shift"])}
    return _tool(case, kind)


def _tool(case: dict[str, Any], kind: str) -> Any:
    """ComfyUI's nodes that take noise levels; the input is its own schedule, made in float64 where it is known."""
    base = case["base"]
    sigmas: Any = case["input_sigmas"]
    if base.get("model_sampling") == "sd15":
        sigmas = ksched.calculate_sigmas(base["scheduler"], base["n"], dialect="comfyui")
    if kind == "util_split":
        return list(transforms.split(sigmas, case["step"]))
    if kind == "util_split_denoise":
        high, low = transforms.split_at_strength(sigmas, case["denoise"])
        return [high if len(low) > 1 else high[:0], low]
    if kind == "util_flip":
        return transforms.flip(sigmas)
    if kind == "util_set_first":
        return transforms.set_first(sigmas, case["sigma"])
    if kind == "util_extend":
        ends = {"start_at": case["start_at_sigma"], "end_at": case["end_at_sigma"]}
        return transforms.extend(sigmas, case["steps"], spacing=case["spacing"], **ends)
    return None


def _diffusers(case: dict[str, Any]) -> Any:
    given = {k: v for k, v in (case.get("set_timesteps_kwargs") or {}).items() if not k.startswith("_")}
    levels = diffusers_levels(case["scheduler"], case["config"], case["n"], **given)
    return {name: value for name, value in levels._asdict().items() if value is not None}
