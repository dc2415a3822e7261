"""What other programs call their noise schedules and samplers, and what is the same here: `PEERS`, `SAMPLER_PEERS`.

A row with no schedule or sampler says that there is none, and why. Rows of `Dialect.A1111` whose name ends in "(Forge)"
or "(reForge)" exist, or differ, in that descendant alone. Where numbers are not the program's own, the note says so.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from ksched.names.enums import Dialect, NoiseSchedule, SamplerType, spelling_key
from ksched.processes import Process
from ksched.schedules import calculate_sigmas
from ksched.types import Array

__all__ = ["PEERS", "SAMPLER_PEERS", "Peer", "SamplerPeer", "find_peer", "find_sampler", "peer_sigmas"]

NO_OPTIONS: Mapping[str, Any] = MappingProxyType({})


class Peer(NamedTuple):
    """One name of another program for a schedule."""

    program: Dialect
    name: str
    schedule: NoiseSchedule | None
    options: Mapping[str, Any] = NO_OPTIONS
    note: str = ""

    @property
    def dialect(self) -> Dialect:
        """The dialect to read our name in: the program's own."""
        return self.program

    @property
    def call(self) -> str:
        """What to write for it: a call of `calculate_sigmas`; empty if there is no schedule."""
        if self.schedule is None:
            return ""
        return f'calculate_sigmas("{self.schedule}", steps, process, dialect="{self.dialect}"{_written(self.options)})'


class SamplerPeer(NamedTuple):
    """One name of another program for a sampler.

    ``options`` are what its name says beyond our dialect of that program, or the defaults of its class.
    """

    program: Dialect
    name: str
    sampler: SamplerType | None
    options: Mapping[str, Any] = NO_OPTIONS
    note: str = ""

    @property
    def dialect(self) -> Dialect:
        """The dialect to read our name in: the program's own."""
        return self.program

    @property
    def call(self) -> str:
        """What to write for it: a call of `build_sampler`; empty if there is no sampler."""
        if self.sampler is None:
            return ""
        how = f'process=process, dialect="{self.dialect}"{_written(self.options)}'
        return f'build_sampler("{self.sampler}", schedule, steps, {how})'


def _written(options: Mapping[str, Any]) -> str:
    return "".join(f", {name}={value!r}".replace("'", '"') for name, value in options.items())


COMFYUI, K_DIFFUSION, DIFFUSERS, A1111 = Dialect.COMFYUI, Dialect.K_DIFFUSION, Dialect.DIFFUSERS, Dialect.A1111

_HANDLERS = (
    Peer(COMFYUI, "simple", NoiseSchedule.SIMPLE),
    Peer(COMFYUI, "sgm_uniform", NoiseSchedule.SGM_UNIFORM),
    Peer(COMFYUI, "karras", NoiseSchedule.KARRAS),
    Peer(COMFYUI, "exponential", NoiseSchedule.EXPONENTIAL),
    Peer(COMFYUI, "ddim_uniform", NoiseSchedule.DDIM_UNIFORM, note="may have more steps than asked for"),
    Peer(COMFYUI, "beta", NoiseSchedule.BETA, note="may have fewer steps than asked for"),
    Peer(COMFYUI, "normal", NoiseSchedule.NORMAL),
    Peer(COMFYUI, "linear_quadratic", NoiseSchedule.LINEAR_QUADRATIC),
    Peer(COMFYUI, "kl_optimal", NoiseSchedule.KL_OPTIMAL, note="one step is NaN there"),
)
_NODES = (
    Peer(COMFYUI, "BasicScheduler", None, note="runs one of the names above; its denoise is `stretch`"),
    Peer(
        COMFYUI,
        "KarrasScheduler",
        NoiseSchedule.KARRAS,
        note="sigma_max and sigma_min are its own, 14.614642 and 0.0291675",
    ),
    Peer(COMFYUI, "ExponentialScheduler", NoiseSchedule.EXPONENTIAL, note="range as KarrasScheduler"),
    Peer(COMFYUI, "PolyexponentialScheduler", NoiseSchedule.POLYEXPONENTIAL, note="range as KarrasScheduler"),
    Peer(COMFYUI, "VPScheduler", NoiseSchedule.VP, note="sigma 152 to 0.0105 whatever the model"),
    Peer(COMFYUI, "LaplaceScheduler", NoiseSchedule.LAPLACE, note="range as KarrasScheduler; ends without a 0"),
    Peer(COMFYUI, "SDTurboScheduler", NoiseSchedule.SD_TURBO, note="at most 10 steps there; its denoise is `truncate`"),
    Peer(COMFYUI, "BetaSamplingScheduler", NoiseSchedule.BETA),
    Peer(COMFYUI, "AlignYourStepsScheduler", NoiseSchedule.ALIGN_YOUR_STEPS, note='model is "sd1", "sdxl" or "svd"'),
    Peer(COMFYUI, "GITSScheduler", NoiseSchedule.GITS, note="its coeff is coefficient"),
    Peer(COMFYUI, "OptimalStepsScheduler", NoiseSchedule.OPTIMAL_STEPS, note='model is "flux", "wan" or "chroma"'),
    Peer(
        COMFYUI, "LTXVScheduler", NoiseSchedule.LTXV, note="tokens is the length of its latent; one step is NaN there"
    ),
    Peer(COMFYUI, "Flux2Scheduler", NoiseSchedule.FLUX2),
    Peer(COMFYUI, "Ideogram4", None, note="made for one model"),
    Peer(COMFYUI, "ManualSigmas", None, note="give the list itself: `build_sampler(..., sigmas=[...])`"),
    Peer(COMFYUI, "SplitSigmas", None, note="changes levels that are given: `split`"),
    Peer(COMFYUI, "SplitSigmasDenoise", None, note="changes levels that are given: `split_at_strength`"),
    Peer(COMFYUI, "FlipSigmas", None, note="changes levels that are given: `flip`"),
    Peer(COMFYUI, "SetFirstSigma", None, note="changes levels that are given: `set_first`"),
    Peer(COMFYUI, "ExtendIntermediateSigmas", None, note="changes levels that are given: `extend`"),
)
_RES4LYF = (
    Peer(
        COMFYUI,
        "bong_tangent",
        NoiseSchedule.BONG_TANGENT,
        note="of RES4LYF; from 1 to 0 there whatever the model, as for flow",
    ),
    Peer(COMFYUI, "beta57", NoiseSchedule.BETA57, note="of RES4LYF; may have fewer steps than asked for"),
    Peer(COMFYUI, "tan_scheduler", None, note="of RES4LYF, with some eighty nodes of curves to be drawn by hand"),
)
_K_DIFFUSION = (
    Peer(K_DIFFUSION, "get_sigmas_karras", NoiseSchedule.KARRAS),
    Peer(K_DIFFUSION, "get_sigmas_exponential", NoiseSchedule.EXPONENTIAL),
    Peer(K_DIFFUSION, "get_sigmas_polyexponential", NoiseSchedule.POLYEXPONENTIAL),
    Peer(K_DIFFUSION, "get_sigmas_vp", NoiseSchedule.VP, note="sigma 152 to 0.0105 whatever the model"),
    Peer(
        K_DIFFUSION,
        "DiscreteSchedule.get_sigmas",
        NoiseSchedule.NORMAL,
        note="without a number: `process.sigmas[::-1]`, then 0",
    ),
)
_LINEAR = "sigma is linear between two timesteps there, which moves levels by less than 0.01 %"
_ROUNDED = "timesteps are rounded there, which moves levels by up to 1 %"
_DIFFUSERS = (
    Peer(
        DIFFUSERS,
        "linspace",
        NoiseSchedule.NORMAL,
        note=f"Euler, Heun, LMS, KDPM2 and SDE classes; {_LINEAR}; one step starts at the cleanest",
    ),
    Peer(DIFFUSERS, "linspace (DDIM, DDPM)", NoiseSchedule.NORMAL, note=_ROUNDED),
    Peer(
        DIFFUSERS,
        "linspace (multistep)",
        NoiseSchedule.SGM_UNIFORM,
        note=f"DPM-Solver, UniPC, DEIS and SA classes; {_ROUNDED}",
    ),
    Peer(
        DIFFUSERS,
        "leading",
        NoiseSchedule.LEADING,
        note="steps_offset is 1 as for Stable Diffusion (the classes' own is 0); one step starts at the cleanest there",
    ),
    Peer(
        DIFFUSERS,
        "leading (multistep)",
        None,
        note="strides of 1000 // (steps + 1): `drop_penultimate` of `leading` with a step more",
    ),
    Peer(DIFFUSERS, "trailing", NoiseSchedule.TRAILING),
    Peer(
        DIFFUSERS,
        "use_karras_sigmas",
        NoiseSchedule.KARRAS,
        note="Euler, Heun, LMS, KDPM2 and SDE classes stay between the first and last level of timestep_spacing; "
        "multistep classes take the whole range and round timesteps",
    ),
    Peer(DIFFUSERS, "use_exponential_sigmas", NoiseSchedule.EXPONENTIAL, note="range as use_karras_sigmas"),
    Peer(DIFFUSERS, "use_lu_lambdas", NoiseSchedule.EXPONENTIAL, note=_ROUNDED),
    Peer(DIFFUSERS, "use_beta_sigmas", NoiseSchedule.BETA, note="range as use_karras_sigmas"),
    Peer(
        DIFFUSERS,
        "use_flow_sigmas",
        NoiseSchedule.SIMPLE,
        note="on `Flow(flow_shift)`; starts a training step below pure noise there: up to 0.1 % apart (UniPC 5 %)",
    ),
    Peer(DIFFUSERS, "sigma_schedule=karras", NoiseSchedule.KARRAS, note="EDM classes, on `EDM()`"),
    Peer(DIFFUSERS, "sigma_schedule=exponential", NoiseSchedule.EXPONENTIAL, note="EDM classes, on `EDM()`"),
    Peer(
        DIFFUSERS,
        "FlowMatchEulerDiscreteScheduler",
        NoiseSchedule.NORMAL,
        {"shift_twice": True},
        "on `Flow(shift)`, without use_dynamic_shifting; shifts the ends of the range once more",
    ),
    Peer(
        DIFFUSERS,
        "use_dynamic_shifting",
        NoiseSchedule.SIMPLE,
        note="on `Flow.of_mu(mu)`, with the sigmas that pipelines give, linspace(1, 1 / steps, steps)",
    ),
    Peer(DIFFUSERS, "LCMScheduler", NoiseSchedule.SIMPLE, note="and TCDScheduler, on `VP(every=20)`"),
    Peer(DIFFUSERS, "AysSchedules", NoiseSchedule.ALIGN_YOUR_STEPS, note='its sigmas; model is "sd1", "sdxl" or "svd"'),
    Peer(DIFFUSERS, "shift_terminal", None, note="changes levels that are given: `stretch_terminal`"),
    Peer(DIFFUSERS, "invert_sigmas", None, note="changes levels that are given: `1 - sigmas`"),
    Peer(DIFFUSERS, "rescale_betas_zero_snr", None, note="belongs to the process: `VP(zero_terminal_snr=True)`"),
    Peer(
        DIFFUSERS,
        "final_sigmas_type=sigma_min",
        None,
        note="repeats the last level, a step of no length; here 0 follows it",
    ),
)
_FORGE_TABLE: Mapping[str, Any] = {"fit_range": False, "last": "keep"}
_LABELS = (
    Peer(A1111, "Automatic", None, note="the schedule of the sampler's label: `parse_label`"),
    Peer(A1111, "Uniform", NoiseSchedule.NORMAL),
    Peer(A1111, "Karras", NoiseSchedule.KARRAS),
    Peer(A1111, "Exponential", NoiseSchedule.EXPONENTIAL),
    Peer(A1111, "Polyexponential", NoiseSchedule.POLYEXPONENTIAL),
    Peer(A1111, "SGM Uniform", NoiseSchedule.SGM_UNIFORM),
    Peer(A1111, "KL Optimal", NoiseSchedule.KL_OPTIMAL, note="ends at sigma_min, without a 0"),
    Peer(A1111, "Align Your Steps", NoiseSchedule.ALIGN_YOUR_STEPS, note='model="sdxl" for SDXL'),
    Peer(A1111, "Simple", NoiseSchedule.SIMPLE),
    Peer(A1111, "Normal", NoiseSchedule.NORMAL),
    Peer(A1111, "DDIM", NoiseSchedule.DDIM_UNIFORM, note="may have more steps than asked for"),
    Peer(A1111, "Beta", NoiseSchedule.BETA, note="and Forge"),
    Peer(
        A1111,
        "Beta (reForge)",
        NoiseSchedule.BETA,
        {"domain": "table", "entries": "always"},
        "ComfyUI's form; may have fewer steps than asked for",
    ),
    Peer(
        A1111,
        "Turbo",
        NoiseSchedule.TRAILING,
        note="of Forge and reForge; a stride that ends half way may be rounded otherwise",
    ),
    Peer(
        A1111,
        "Align Your Steps GITS",
        NoiseSchedule.ALIGN_YOUR_STEPS,
        {"version": "forge_gits", **_FORGE_TABLE},
        'of Forge and reForge; model="sdxl" for SDXL',
    ),
    Peer(
        A1111,
        "Align Your Steps 11",
        NoiseSchedule.ALIGN_YOUR_STEPS,
        {"version": "forge_11", **_FORGE_TABLE},
        'of Forge and reForge; model="sdxl" for SDXL',
    ),
    Peer(
        A1111,
        "Align Your Steps 32",
        NoiseSchedule.ALIGN_YOUR_STEPS,
        {"version": "forge_32", **_FORGE_TABLE},
        'of Forge and reForge; model="sdxl" for SDXL',
    ),
    Peer(A1111, "Cosine (reForge)", NoiseSchedule.COSINE, note="one step starts from the root of sigma_max there"),
    Peer(A1111, "Phi (reForge)", NoiseSchedule.PHI, note="one step starts from the root of sigma_max there"),
    Peer(A1111, "Laplace (reForge)", NoiseSchedule.LAPLACE, {"ends": "clamp"}, "a 0 follows there"),
    Peer(A1111, "Sinusoidal SF (reForge)", None, note="ends far below what was trained, without a 0"),
    Peer(A1111, "Invcosinusoidal SF (reForge)", None, note="ends far below what was trained, without a 0"),
    Peer(A1111, "React Cosinusoidal DynSF (reForge)", None, note="neither starts at sigma_max nor ends in a 0"),
    Peer(A1111, "Cosine-exponential Blend (reForge)", None, note="rises towards its end"),
    Peer(A1111, "Karras Dynamic (reForge)", None, note="starts far above sigma_max"),
    Peer(
        A1111,
        "Align Your Steps Custom (reForge)",
        None,
        note="give the list itself: `build_sampler(..., sigmas=[...])`",
    ),
)

#: every name, in the order of the programs
PEERS: tuple[Peer, ...] = (*_HANDLERS, *_NODES, *_RES4LYF, *_K_DIFFUSION, *_DIFFUSERS, *_LABELS)

# ------------------------------------------------------------------------------------------------------------ samplers


def _own(program: Dialect, names: str, notes: Mapping[str, str] = NO_OPTIONS) -> tuple[SamplerPeer, ...]:
    """Rows of names that are ours."""
    return tuple(SamplerPeer(program, name, SamplerType(name), note=notes.get(name, "")) for name in names.split())


_WHOLE_SCHEDULE = "of the levels only the first and the last above 0 are used"
_TREE = 'Brownian noise there: `noise="brownian"`'
_ON_DEVICE = f"{_TREE}, drawn on the device"
_SAMPLERS_OF_COMFYUI = (
    *_own(
        COMFYUI,
        "euler euler_cfg_pp euler_ancestral euler_ancestral_cfg_pp heun heunpp2 exp_heun_2_x0 exp_heun_2_x0_sde dpm_2 "
        "dpm_2_ancestral lms dpm_fast dpm_adaptive dpmpp_2s_ancestral dpmpp_2s_ancestral_cfg_pp dpmpp_sde dpmpp_2m "
        "dpmpp_2m_cfg_pp dpmpp_2m_sde dpmpp_2m_sde_heun dpmpp_3m_sde ddpm lcm ipndm ipndm_v deis res_multistep "
        "res_multistep_cfg_pp res_multistep_ancestral res_multistep_ancestral_cfg_pp gradient_estimation "
        "gradient_estimation_cfg_pp er_sde seeds_2 seeds_3 sa_solver sa_solver_pece cfgpp_ud10_ab ddim uni_pc "
        "uni_pc_bh2",
        {
            "ddim": "its `euler`",
            "ddpm": "leaves out a flow model's noise scale, which ours has",
            "dpm_fast": _WHOLE_SCHEDULE,
            "dpm_adaptive": _WHOLE_SCHEDULE,
            "heunpp2": "its weights are of first order",
            "ipndm_v": "its weights are wrong from order 3 on",
            "uni_pc": "KSampler drops the last level but one: `drop_penultimate`",
            "uni_pc_bh2": "levels as for uni_pc",
            "dpm_2": "levels as for uni_pc",
            "dpm_2_ancestral": "levels as for uni_pc",
            **dict.fromkeys(("dpmpp_sde", "dpmpp_2m_sde", "dpmpp_2m_sde_heun", "dpmpp_3m_sde"), _TREE),
        },
    ),
    *(
        SamplerPeer(COMFYUI, f"{name}_gpu", name, note=_ON_DEVICE)
        for name in (
            SamplerType.DPMPP_SDE,
            SamplerType.DPMPP_2M_SDE,
            SamplerType.DPMPP_2M_SDE_HEUN,
            SamplerType.DPMPP_3M_SDE,
        )
    ),
)
_SAMPLER_NODES = (
    SamplerPeer(COMFYUI, "KSamplerSelect", None, note="runs one of the names above"),
    SamplerPeer(COMFYUI, "SamplerEulerAncestral", SamplerType.EULER_ANCESTRAL),
    SamplerPeer(COMFYUI, "SamplerEulerAncestralCFGPP", SamplerType.EULER_ANCESTRAL_CFG_PP),
    SamplerPeer(COMFYUI, "SamplerDPMPP_2S_Ancestral", SamplerType.DPMPP_2S_ANCESTRAL),
    SamplerPeer(COMFYUI, "SamplerDPMPP_2M_SDE", SamplerType.DPMPP_2M_SDE, note=_TREE),
    SamplerPeer(COMFYUI, "SamplerDPMPP_3M_SDE", SamplerType.DPMPP_3M_SDE, note=_TREE),
    SamplerPeer(COMFYUI, "SamplerDPMPP_SDE", SamplerType.DPMPP_SDE, note=_TREE),
    SamplerPeer(COMFYUI, "SamplerLMS", SamplerType.LMS),
    SamplerPeer(COMFYUI, "SamplerDPMAdaptative", SamplerType.DPM_ADAPTIVE, note=_WHOLE_SCHEDULE),
    SamplerPeer(
        COMFYUI,
        "SamplerER_SDE",
        SamplerType.ER_SDE,
        note='its solver_type "Reverse-time SDE" is "reverse_time", "ODE" is "ode"',
    ),
    SamplerPeer(
        COMFYUI,
        "SamplerSASolver",
        SamplerType.SA_SOLVER,
        note="its eta is tau; its start and end are tau_start and tau_end",
    ),
    SamplerPeer(COMFYUI, "SamplerSEEDS2", SamplerType.SEEDS_2),
    SamplerPeer(
        COMFYUI,
        "SamplerEulerCFGpp",
        SamplerType.EULER_CFG_PP,
        note='its version "alternative" is an option of the same name',
    ),
    SamplerPeer(
        COMFYUI, "SamplerLCMUpscale", None, note="enlarges the picture between steps; the steps are those of `lcm`"
    ),
    SamplerPeer(COMFYUI, "SamplerARVideo", None, note="made for one model, whose memory of earlier frames it drives"),
)
_NOISY = "of RES4LYF, which adds noise of its own to it"
_STARTED = "of RES4LYF, which starts with single steps of the same order"
_SAMPLERS_OF_RES4LYF = (
    SamplerPeer(COMFYUI, "res_2m", SamplerType.RES_MULTISTEP, note=f"{_NOISY}, and starts with single steps"),
    SamplerPeer(COMFYUI, "res_2m_ode", SamplerType.RES_MULTISTEP, note=_STARTED),
    SamplerPeer(COMFYUI, "res_2s", SamplerType.RES_2S, note=_NOISY),
    SamplerPeer(COMFYUI, "res_2s_ode", SamplerType.RES_2S, note="of RES4LYF"),
    SamplerPeer(COMFYUI, "res_3s", SamplerType.RES_3S, note=_NOISY),
    SamplerPeer(COMFYUI, "res_3s_ode", SamplerType.RES_3S, note="of RES4LYF"),
    SamplerPeer(COMFYUI, "deis_2m_ode", SamplerType.DEIS, {"max_order": 2, "variable": "log_sigma"}, _STARTED),
    SamplerPeer(COMFYUI, "deis_3m_ode", SamplerType.DEIS, {"max_order": 3, "variable": "log_sigma"}, _STARTED),
    *(
        SamplerPeer(COMFYUI, name, None, note="of RES4LYF, with more stages than any exponential method here: `etdrk4`")
        for name in ("res_5s", "res_5s_ode", "res_6s", "res_6s_ode")
    ),
    SamplerPeer(COMFYUI, "res_3m", None, note="of RES4LYF; `dpmpp_3m_sde` with eta 0 uses as many predictions"),
    SamplerPeer(COMFYUI, "rk_beta", None, note="of RES4LYF, which has 118 methods under this name"),
)
_SAMPLERS_OF_K_DIFFUSION = (
    *(
        SamplerPeer(K_DIFFUSION, f"sample_{name}", name, note=note)
        for name, note in {
            SamplerType.EULER: "",
            SamplerType.EULER_ANCESTRAL: "",
            SamplerType.HEUN: "",
            SamplerType.DPM_2: "",
            SamplerType.DPM_2_ANCESTRAL: "",
            SamplerType.LMS: "",
            SamplerType.DPM_FAST: _WHOLE_SCHEDULE,
            SamplerType.DPM_ADAPTIVE: _WHOLE_SCHEDULE,
            SamplerType.DPMPP_2S_ANCESTRAL: "",
            SamplerType.DPMPP_SDE: _TREE,
            SamplerType.DPMPP_2M: "",
            SamplerType.DPMPP_2M_SDE: _TREE,
            SamplerType.DPMPP_3M_SDE: _TREE,
        }.items()
    ),
    SamplerPeer(
        K_DIFFUSION, "log_likelihood", None, note="measures how likely data is, and draws nothing: `log_likelihood`"
    ),
)
_TOKENS = "states are tokens, not numbers with Gaussian noise"
_ONE_MODEL = "made for one model"
_UPWARD = "runs upwards, from data to noise: `Sampler.invert`"
_NEVER_ZERO = "its levels end on a repeat, never on 0"
_SAMPLERS_OF_DIFFUSERS = (
    SamplerPeer(DIFFUSERS, "EulerDiscreteScheduler", SamplerType.EULER),
    SamplerPeer(DIFFUSERS, "EulerAncestralDiscreteScheduler", SamplerType.EULER_ANCESTRAL),
    SamplerPeer(
        DIFFUSERS, "LTXEulerAncestralRFScheduler", SamplerType.EULER_ANCESTRAL, note="on `Flow`, with levels given"
    ),
    SamplerPeer(DIFFUSERS, "HeunDiscreteScheduler", SamplerType.HEUN),
    SamplerPeer(DIFFUSERS, "KDPM2DiscreteScheduler", SamplerType.DPM_2),
    SamplerPeer(DIFFUSERS, "KDPM2AncestralDiscreteScheduler", SamplerType.DPM_2_ANCESTRAL),
    SamplerPeer(DIFFUSERS, "LMSDiscreteScheduler", SamplerType.LMS),
    SamplerPeer(
        DIFFUSERS,
        "DPMSolverMultistepScheduler",
        SamplerType.DPMPP_2M,
        note="as configured by default; `dpm_multistep` has all that can be configured, such as order and eps",
    ),
    SamplerPeer(
        DIFFUSERS, "sde-dpmsolver++", SamplerType.DPMPP_2M_SDE, note="an algorithm_type of DPMSolverMultistepScheduler"
    ),
    SamplerPeer(
        DIFFUSERS,
        "dpmsolver",
        SamplerType.DPM_MULTISTEP,
        {"predict": "eps"},
        "an algorithm_type of DPMSolverMultistepScheduler",
    ),
    SamplerPeer(
        DIFFUSERS,
        "sde-dpmsolver",
        SamplerType.DPM_MULTISTEP,
        {"predict": "eps", "eta": 1.0},
        "an algorithm_type of DPMSolverMultistepScheduler",
    ),
    SamplerPeer(DIFFUSERS, "DPMSolverMultistepInverseScheduler", None, note=_UPWARD),
    SamplerPeer(DIFFUSERS, "DPMSolverSinglestepScheduler", SamplerType.DPM_SINGLESTEP),
    SamplerPeer(DIFFUSERS, "DPMSolverSDEScheduler", SamplerType.DPMPP_SDE, note=_TREE),
    SamplerPeer(
        DIFFUSERS,
        "CosineDPMSolverMultistepScheduler",
        SamplerType.DPMPP_2M_SDE,
        note=f"on `AngleV(sigma_min=0.3, sigma_max=500)` with exponential levels; {_TREE}",
    ),
    SamplerPeer(DIFFUSERS, "EDMEulerScheduler", SamplerType.EULER, note="on `EDM()`"),
    SamplerPeer(DIFFUSERS, "EDMDPMSolverMultistepScheduler", SamplerType.DPMPP_2M, note="on `EDM()`"),
    SamplerPeer(DIFFUSERS, "UniPCMultistepScheduler", SamplerType.UNI_PC),
    SamplerPeer(DIFFUSERS, "DEISMultistepScheduler", SamplerType.DEIS, note=_NEVER_ZERO),
    SamplerPeer(DIFFUSERS, "SASolverScheduler", SamplerType.SA_SOLVER, note=_NEVER_ZERO),
    SamplerPeer(
        DIFFUSERS,
        "PNDMScheduler",
        SamplerType.PNDM,
        note='with skip_prk_steps, warm_up="heun"; timesteps are whole there',
    ),
    SamplerPeer(DIFFUSERS, "IPNDMScheduler", SamplerType.IPNDM, note="on levels of its own"),
    SamplerPeer(
        DIFFUSERS,
        "DDIMScheduler",
        SamplerType.DDIM,
        note="clips the prediction by default; its eta is an option of the same name",
    ),
    SamplerPeer(DIFFUSERS, "DDIMParallelScheduler", SamplerType.DDIM, note="as DDIMScheduler"),
    SamplerPeer(DIFFUSERS, "DDIMInverseScheduler", None, note=_UPWARD),
    SamplerPeer(DIFFUSERS, "CogVideoXDDIMScheduler", SamplerType.DDIM, note="on `VP(snr_shift=3.0)`"),
    SamplerPeer(DIFFUSERS, "CogVideoXDPMScheduler", SamplerType.DPMPP_2M_SDE, note="on `VP(snr_shift=3.0)`"),
    SamplerPeer(
        DIFFUSERS,
        "DDPMScheduler",
        SamplerType.DDPM,
        note="with its default variance_type; clips the prediction by default",
    ),
    SamplerPeer(DIFFUSERS, "DDPMParallelScheduler", SamplerType.DDPM, note="as DDPMScheduler"),
    SamplerPeer(DIFFUSERS, "DDPMWuerstchenScheduler", SamplerType.DDPM, note="on `Cascade()`"),
    SamplerPeer(
        DIFFUSERS,
        "UnCLIPScheduler",
        SamplerType.DDPM,
        note="on `VP.cosine()`; the model predicts the variance as well there",
    ),
    SamplerPeer(DIFFUSERS, "LCMScheduler", SamplerType.LCM, note="on `VP(every=20)`"),
    SamplerPeer(
        DIFFUSERS,
        "FlowMatchLCMScheduler",
        SamplerType.LCM,
        {"boundary": 0.0},
        "on `Flow(shift)`; without its scale_factors",
    ),
    SamplerPeer(DIFFUSERS, "TCDScheduler", SamplerType.TCD, note="on `VP(every=20)`"),
    SamplerPeer(
        DIFFUSERS,
        "CMStochasticIterativeScheduler",
        SamplerType.LCM,
        {"boundary": 0.0},
        "on `EDM(0.002, 80)` with karras levels; adds a little less noise, and clips the prediction",
    ),
    SamplerPeer(DIFFUSERS, "SCMScheduler", SamplerType.LCM, {"boundary": 0.0}, "on `AngleV`: its timesteps are angles"),
    SamplerPeer(DIFFUSERS, "FlowMatchEulerDiscreteScheduler", SamplerType.EULER, note="on `Flow(shift)`"),
    SamplerPeer(DIFFUSERS, "FlowMatchHeunDiscreteScheduler", SamplerType.HEUN, note="on `Flow(shift)`"),
    SamplerPeer(
        DIFFUSERS, "MiniMaxH3Scheduler", SamplerType.EULER, note="on `Flow(12)`, for a velocity of the other sign"
    ),
    SamplerPeer(
        DIFFUSERS,
        "FlowMapEulerDiscreteScheduler",
        None,
        note="for models of two times, the one left and the one reached",
    ),
    SamplerPeer(
        DIFFUSERS, "PiflowScheduler", None, note=f"{_ONE_MODEL}: the model answers with a policy, which it rolls out"
    ),
    SamplerPeer(DIFFUSERS, "ScoreSdeVeScheduler", None, note="its corrector's step size is read from the data"),
    SamplerPeer(DIFFUSERS, "ScoreSdeVpScheduler", None, note="Euler-Maruyama on the reverse SDE: `ddpm` does better"),
    SamplerPeer(DIFFUSERS, "KarrasVeScheduler", None, note="`heun` with s_churn, on levels whose square was meant"),
    SamplerPeer(
        DIFFUSERS, "RePaintScheduler", None, note="goes back and forth in time for inpainting: `ddim` with a mask"
    ),
    SamplerPeer(DIFFUSERS, "ConsistencyDecoderScheduler", None, note=f"{_ONE_MODEL}: two steps of `lcm` in a decoder"),
    SamplerPeer(DIFFUSERS, "HeliosScheduler", None, note=f"{_ONE_MODEL}: stages of a pyramid of video"),
    SamplerPeer(DIFFUSERS, "HeliosDMDScheduler", None, note=f"{_ONE_MODEL}: stages of a pyramid of video"),
    SamplerPeer(DIFFUSERS, "RFD4ProteinaScheduler", None, note="states are rotations as well"),
    *(
        SamplerPeer(DIFFUSERS, f"{name}Scheduler", None, note=_TOKENS)
        for name in ("Amused", "VQDiffusion", "DiscreteDDIM", "BlockRefinement", "EntropyBound")
    ),
)
_OF_FORGE, _OF_REFORGE = "of Forge and reForge", "of reForge"
_SPATIAL = "of reForge; works on parts or smaller copies of the picture between steps"
_DROPS = "drops the last level but one: `drop_penultimate`"
_SAMPLER_LABELS = (
    SamplerPeer(A1111, "DPM++ 2M", SamplerType.DPMPP_2M),
    SamplerPeer(A1111, "DPM++ SDE", SamplerType.DPMPP_SDE, note=_TREE),
    SamplerPeer(A1111, "DPM++ 2M SDE", SamplerType.DPMPP_2M_SDE, note=_TREE),
    SamplerPeer(A1111, "DPM++ 2M SDE Heun", SamplerType.DPMPP_2M_SDE_HEUN, note=_TREE),
    SamplerPeer(A1111, "DPM++ 2S a", SamplerType.DPMPP_2S_ANCESTRAL),
    SamplerPeer(A1111, "DPM++ 3M SDE", SamplerType.DPMPP_3M_SDE, note=f"{_DROPS}; {_TREE}"),
    SamplerPeer(A1111, "Euler a", SamplerType.EULER_ANCESTRAL),
    SamplerPeer(A1111, "Euler", SamplerType.EULER),
    SamplerPeer(A1111, "LMS", SamplerType.LMS),
    SamplerPeer(A1111, "Heun", SamplerType.HEUN),
    SamplerPeer(A1111, "DPM2", SamplerType.DPM_2, note=_DROPS),
    SamplerPeer(A1111, "DPM2 a", SamplerType.DPM_2_ANCESTRAL, note=_DROPS),
    SamplerPeer(A1111, "DPM fast", SamplerType.DPM_FAST, note=_WHOLE_SCHEDULE),
    SamplerPeer(A1111, "DPM adaptive", SamplerType.DPM_ADAPTIVE, note=_WHOLE_SCHEDULE),
    SamplerPeer(A1111, "Restart", SamplerType.RESTART),
    SamplerPeer(A1111, "DDIM", SamplerType.DDIM, note="on levels of its own; its eta is an option of the same name"),
    SamplerPeer(
        A1111,
        "DDIM CFG++",
        SamplerType.EULER_CFG_PP,
        note="of Forge and later A1111; the scale is divided by 12.5 there",
    ),
    SamplerPeer(A1111, "PLMS", SamplerType.PNDM, note="on levels of its own"),
    SamplerPeer(A1111, "UniPC", SamplerType.UNI_PC, note="on levels of its own"),
    SamplerPeer(A1111, "LCM", SamplerType.LCM),
    SamplerPeer(A1111, "DDPM", SamplerType.DDPM, note=_OF_FORGE),
    SamplerPeer(A1111, "HeunPP2", SamplerType.HEUNPP2, {"weights": "published"}, _OF_FORGE),
    SamplerPeer(A1111, "IPNDM", SamplerType.IPNDM, note=_OF_FORGE),
    SamplerPeer(A1111, "IPNDM_V", SamplerType.IPNDM_V, {"weights": "published"}, _OF_FORGE),
    SamplerPeer(A1111, "DEIS", SamplerType.DEIS, {"variable": "vp_time_sum"}, _OF_FORGE),
    *(
        SamplerPeer(A1111, name, sampler, note=_OF_REFORGE)
        for name, sampler in {
            "Euler CFG++": SamplerType.EULER_CFG_PP,
            "Euler Ancestral CFG++": SamplerType.EULER_ANCESTRAL_CFG_PP,
            "DPM++ 2S Ancestral CFG++": SamplerType.DPMPP_2S_ANCESTRAL_CFG_PP,
            "DPM++ 2M CFG++": SamplerType.DPMPP_2M_CFG_PP,
            "RES Multistep": SamplerType.RES_MULTISTEP,
            "RES Multistep CFG++": SamplerType.RES_MULTISTEP_CFG_PP,
            "RES Multistep Ancestral": SamplerType.RES_MULTISTEP_ANCESTRAL,
            "RES Multistep Ancestral CFG++": SamplerType.RES_MULTISTEP_ANCESTRAL_CFG_PP,
            "Gradient Estimation": SamplerType.GRADIENT_ESTIMATION,
            "Gradient Estimation CFG++": SamplerType.GRADIENT_ESTIMATION_CFG_PP,
            "SEEDS 2 DP": SamplerType.SEEDS_2,
            "SEEDS 3 DP": SamplerType.SEEDS_3,
            "SA-Solver-Pece": SamplerType.SA_SOLVER_PECE,
            "SA-Solver": SamplerType.SA_SOLVER,
        }.items()
    ),
    SamplerPeer(A1111, "ER SDE", SamplerType.ER_SDE, {"integral": "published"}, _OF_REFORGE),
    SamplerPeer(A1111, "ODE (Dopri5)", SamplerType.RK_ADAPTIVE, note=f"{_OF_REFORGE}; tolerances are its settings"),
    SamplerPeer(
        A1111,
        "ODE (Bosh3)",
        SamplerType.RK_ADAPTIVE,
        {"pair": "bogacki_shampine"},
        f"{_OF_REFORGE}; tolerances are its settings",
    ),
    *(
        SamplerPeer(A1111, name, None, note=f"{_OF_REFORGE}; `rk_adaptive` has pairs of higher order")
        for name in ("ODE (Fehlberg2)", "ODE (Adaptive Heun)", "ODE Custom")
    ),
    SamplerPeer(A1111, "RES Solver", None, note=f"{_OF_REFORGE}: `res_2s` with noise of its own"),
    *(
        SamplerPeer(A1111, name, None, note=f"{_OF_REFORGE}; not a published method")
        for name in ("DPM++ SDE CFG++", "DPM++ 3M SDE CFG++", "Kohaku_LoNyu_Yog", "Euler A2", "Euler Negative")
    ),
    *(
        SamplerPeer(A1111, name, None, note=_SPATIAL)
        for name in ("Euler Dy", "Euler SMEA Dy", "Euler Negative Dy", "DPM++ 2M DY", "DPM++ 3M DY", "DPM++ 3M SDE DY")
    ),
)

#: every name of a sampler, in the order of the programs
SAMPLER_PEERS: tuple[SamplerPeer, ...] = (
    *_SAMPLERS_OF_COMFYUI,
    *_SAMPLER_NODES,
    *_SAMPLERS_OF_RES4LYF,
    *_SAMPLERS_OF_K_DIFFUSION,
    *_SAMPLERS_OF_DIFFUSERS,
    *_SAMPLER_LABELS,
)

# ------------------------------------------------------------------------------------------------------------- look-up


def _name_key(name: str) -> str:
    key = spelling_key(name)
    return f"alignyoursteps{key[3:]}" if key.startswith("ays") and key != "aysschedules" else key


_KNOWN: Mapping[tuple[Dialect, str], Peer] = {(peer.program, _name_key(peer.name)): peer for peer in PEERS}
_KNOWN_SAMPLERS: Mapping[tuple[Dialect, str], SamplerPeer] = {(p.program, _name_key(p.name)): p for p in SAMPLER_PEERS}
P = TypeVar("P", Peer, SamplerPeer)


def _find(known: Mapping[tuple[Dialect, str], P], program: Dialect | str, name: str, kind: str, ours: str) -> P:
    program = Dialect.parse(program)
    if not isinstance(name, str):
        raise TypeError(f"a {kind} of {program} is named by a string; got {name!r}")
    found = known.get((program, _name_key(name)))
    if found is not None:
        return found
    own = {key: peer.name for (owner, key), peer in known.items() if owner is program}
    near = [own[key] for key in difflib.get_close_matches(_name_key(name), own, n=4, cutoff=0.5)]
    if near:
        hint = f"did you mean {' or '.join(map(repr, near))}?"
    elif own:
        hint = f"known: {', '.join(own.values())}."
    else:
        hint = f"these are the names of other programs: take {ours}."
    raise ValueError(f"{program} has no {kind} {name!r}; {hint}")


def find_peer(program: Dialect | str, name: str) -> Peer:
    """The row of a program's name for a schedule.

    Parameters
    ----------
    program : a `Dialect` other than ours
    name : what that program calls it, whatever the case and punctuation: a scheduler or node of ComfyUI, a function of
        k-diffusion, a flag, spacing or class of diffusers, a label of A1111, Forge or reForge

    Raises
    ------
    TypeError : not strings
    ValueError : the program has no such name; the message lists near ones
    """
    return _find(_KNOWN, program, name, "schedule", "calculate_sigmas")


def find_sampler(program: Dialect | str, name: str) -> SamplerPeer:
    """The row of a program's name for a sampler.

    Parameters
    ----------
    program : a `Dialect` other than ours
    name : what that program calls it, whatever the case and punctuation: a sampler or node of ComfyUI, a function of
        k-diffusion, a class of diffusers, a label of A1111, Forge or reForge

    Raises
    ------
    TypeError : not strings
    ValueError : the program has no such name; the message lists near ones
    """
    return _find(_KNOWN_SAMPLERS, program, name, "sampler", "build_sampler")


def peer_sigmas(program: Dialect | str, name: str, steps: int, process: Process | None = None, **options: Any) -> Array:
    """Noise levels of a run by another program's name for the schedule.

    Parameters
    ----------
    program, name : as for `find_peer`
    steps, process, options : as for `calculate_sigmas`; options go before those of the table

    Returns
    -------
    as `calculate_sigmas`

    Raises
    ------
    TypeError, ValueError : as for `find_peer` and `calculate_sigmas`; or a name that has no schedule here, and why
    """
    peer = find_peer(program, name)
    if peer.schedule is None:
        raise ValueError(f"{peer.program}'s {peer.name!r} is no schedule here: {peer.note}")
    return calculate_sigmas(peer.schedule, steps, process, dialect=peer.dialect, **{**peer.options, **options})
