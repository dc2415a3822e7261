"""What other programs call their noise schedules and samplers, and what is the same here: `PEERS`, `SAMPLER_PEERS`.

A row with no schedule or sampler says that there is none, and why. Rows of `Dialect.A1111` whose name ends in "(Forge)"
or "(reForge)" exist, or differ, in that descendant alone. Where numbers are not the program's own, the note says so.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

from ksched.processes import Process
from ksched.schedules import calculate_sigmas
from ksched.types import Array, Dialect, NoiseSchedule, SamplerType, _key

__all__ = ["PEERS", "SAMPLER_PEERS", "Peer", "SamplerPeer", "find_peer", "find_sampler", "peer_sigmas"]

_NONE: Mapping[str, Any] = MappingProxyType({})


class Peer(NamedTuple):
    """One name of another program for a schedule."""

    program: Dialect
    name: str
    schedule: NoiseSchedule | None
    options: Mapping[str, Any] = _NONE
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
    options: Mapping[str, Any] = _NONE
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


_C, _K, _D, _A = Dialect.COMFYUI, Dialect.K_DIFFUSION, Dialect.DIFFUSERS, Dialect.A1111
_N = NoiseSchedule

_HANDLERS = (
    Peer(_C, "simple", _N.SIMPLE),
    Peer(_C, "sgm_uniform", _N.SGM_UNIFORM),
    Peer(_C, "karras", _N.KARRAS),
    Peer(_C, "exponential", _N.EXPONENTIAL),
    Peer(_C, "ddim_uniform", _N.DDIM_UNIFORM, note="may have more steps than asked for"),
    Peer(_C, "beta", _N.BETA, note="may have fewer steps than asked for"),
    Peer(_C, "normal", _N.NORMAL),
    Peer(_C, "linear_quadratic", _N.LINEAR_QUADRATIC),
    Peer(_C, "kl_optimal", _N.KL_OPTIMAL, note="one step is NaN there"),
)
_NODES = (
    Peer(_C, "BasicScheduler", None, note="runs one of the names above; its denoise is `stretch`"),
    Peer(_C, "KarrasScheduler", _N.KARRAS, note="sigma_max and sigma_min are its own, 14.614642 and 0.0291675"),
    Peer(_C, "ExponentialScheduler", _N.EXPONENTIAL, note="range as KarrasScheduler"),
    Peer(_C, "PolyexponentialScheduler", _N.POLYEXPONENTIAL, note="range as KarrasScheduler"),
    Peer(_C, "VPScheduler", _N.VP, note="sigma 152 to 0.0105 whatever the model"),
    Peer(_C, "LaplaceScheduler", _N.LAPLACE, note="range as KarrasScheduler; ends without a 0"),
    Peer(_C, "SDTurboScheduler", _N.SD_TURBO, note="at most 10 steps there; its denoise is `truncate`"),
    Peer(_C, "BetaSamplingScheduler", _N.BETA),
    Peer(_C, "AlignYourStepsScheduler", _N.ALIGN_YOUR_STEPS, note='model is "sd1", "sdxl" or "svd"'),
    Peer(_C, "GITSScheduler", _N.GITS, note="its coeff is coefficient"),
    Peer(_C, "OptimalStepsScheduler", _N.OPTIMAL_STEPS, note='model is "flux", "wan" or "chroma"'),
    Peer(_C, "LTXVScheduler", _N.LTXV, note="tokens is the length of its latent; one step is NaN there"),
    Peer(_C, "Flux2Scheduler", _N.FLUX2),
    Peer(_C, "Ideogram4", None, note="made for one model"),
    Peer(_C, "ManualSigmas", None, note="give the list itself: `build_sampler(..., sigmas=[...])`"),
    Peer(_C, "SplitSigmas", None, note="changes levels that are given: `split`"),
    Peer(_C, "SplitSigmasDenoise", None, note="changes levels that are given: `split_at_strength`"),
    Peer(_C, "FlipSigmas", None, note="changes levels that are given: `flip`"),
    Peer(_C, "SetFirstSigma", None, note="changes levels that are given: `set_first`"),
    Peer(_C, "ExtendIntermediateSigmas", None, note="changes levels that are given: `extend`"),
)
_RES4LYF = (
    Peer(_C, "bong_tangent", _N.BONG_TANGENT, note="of RES4LYF; from 1 to 0 there whatever the model, as for flow"),
    Peer(_C, "beta57", _N.BETA57, note="of RES4LYF; may have fewer steps than asked for"),
    Peer(_C, "tan_scheduler", None, note="of RES4LYF, with some eighty nodes of curves to be drawn by hand"),
)
_K_DIFFUSION = (
    Peer(_K, "get_sigmas_karras", _N.KARRAS),
    Peer(_K, "get_sigmas_exponential", _N.EXPONENTIAL),
    Peer(_K, "get_sigmas_polyexponential", _N.POLYEXPONENTIAL),
    Peer(_K, "get_sigmas_vp", _N.VP, note="sigma 152 to 0.0105 whatever the model"),
    Peer(_K, "DiscreteSchedule.get_sigmas", _N.NORMAL, note="without a number: `process.sigmas[::-1]`, then 0"),
)
_LINEAR = "sigma is linear between two timesteps there, which moves levels by less than 0.01 %"
_ROUNDED = "timesteps are rounded there, which moves levels by up to 1 %"
_DIFFUSERS = (
    Peer(
        _D,
        "linspace",
        _N.NORMAL,
        note=f"Euler, Heun, LMS, KDPM2 and SDE classes; {_LINEAR}; one step starts at the cleanest",
    ),
    Peer(_D, "linspace (DDIM, DDPM)", _N.NORMAL, note=_ROUNDED),
    Peer(_D, "linspace (multistep)", _N.SGM_UNIFORM, note=f"DPM-Solver, UniPC, DEIS and SA classes; {_ROUNDED}"),
    Peer(
        _D,
        "leading",
        _N.LEADING,
        note="steps_offset is 1 as for Stable Diffusion (the classes' own is 0); one step starts at the cleanest there",
    ),
    Peer(
        _D,
        "leading (multistep)",
        None,
        note="strides of 1000 // (steps + 1): `drop_penultimate` of `leading` with a step more",
    ),
    Peer(_D, "trailing", _N.TRAILING),
    Peer(
        _D,
        "use_karras_sigmas",
        _N.KARRAS,
        note="Euler, Heun, LMS, KDPM2 and SDE classes stay between the first and last level of timestep_spacing; "
        "multistep classes take the whole range and round timesteps",
    ),
    Peer(_D, "use_exponential_sigmas", _N.EXPONENTIAL, note="range as use_karras_sigmas"),
    Peer(_D, "use_lu_lambdas", _N.EXPONENTIAL, note=_ROUNDED),
    Peer(_D, "use_beta_sigmas", _N.BETA, note="range as use_karras_sigmas"),
    Peer(
        _D,
        "use_flow_sigmas",
        _N.SIMPLE,
        note="on `Flow(flow_shift)`; starts a training step below pure noise there: up to 0.1 % apart (UniPC 5 %)",
    ),
    Peer(_D, "sigma_schedule=karras", _N.KARRAS, note="EDM classes, on `EDM()`"),
    Peer(_D, "sigma_schedule=exponential", _N.EXPONENTIAL, note="EDM classes, on `EDM()`"),
    Peer(
        _D,
        "FlowMatchEulerDiscreteScheduler",
        _N.NORMAL,
        {"shift_twice": True},
        "on `Flow(shift)`, without use_dynamic_shifting; shifts the ends of the range once more",
    ),
    Peer(
        _D,
        "use_dynamic_shifting",
        _N.SIMPLE,
        note="on `Flow.of_mu(mu)`, with the sigmas that pipelines give, linspace(1, 1 / steps, steps)",
    ),
    Peer(_D, "LCMScheduler", _N.SIMPLE, note="and TCDScheduler, on `VP(every=20)`"),
    Peer(_D, "AysSchedules", _N.ALIGN_YOUR_STEPS, note='its sigmas; model is "sd1", "sdxl" or "svd"'),
    Peer(_D, "shift_terminal", None, note="changes levels that are given: `stretch_terminal`"),
    Peer(_D, "invert_sigmas", None, note="changes levels that are given: `1 - sigmas`"),
    Peer(_D, "rescale_betas_zero_snr", None, note="belongs to the process: `VP(zero_terminal_snr=True)`"),
    Peer(
        _D, "final_sigmas_type=sigma_min", None, note="repeats the last level, a step of no length; here 0 follows it"
    ),
)
_FORGE_TABLE: Mapping[str, Any] = {"fit_range": False, "last": "keep"}
_LABELS = (
    Peer(_A, "Automatic", None, note="the schedule of the sampler's label: `parse_label`"),
    Peer(_A, "Uniform", _N.NORMAL),
    Peer(_A, "Karras", _N.KARRAS),
    Peer(_A, "Exponential", _N.EXPONENTIAL),
    Peer(_A, "Polyexponential", _N.POLYEXPONENTIAL),
    Peer(_A, "SGM Uniform", _N.SGM_UNIFORM),
    Peer(_A, "KL Optimal", _N.KL_OPTIMAL, note="ends at sigma_min, without a 0"),
    Peer(_A, "Align Your Steps", _N.ALIGN_YOUR_STEPS, note='model="sdxl" for SDXL'),
    Peer(_A, "Simple", _N.SIMPLE),
    Peer(_A, "Normal", _N.NORMAL),
    Peer(_A, "DDIM", _N.DDIM_UNIFORM, note="may have more steps than asked for"),
    Peer(_A, "Beta", _N.BETA, note="and Forge"),
    Peer(
        _A,
        "Beta (reForge)",
        _N.BETA,
        {"domain": "table", "entries": "always"},
        "ComfyUI's form; may have fewer steps than asked for",
    ),
    Peer(_A, "Turbo", _N.TRAILING, note="of Forge and reForge; a stride that ends half way may be rounded otherwise"),
    Peer(
        _A,
        "Align Your Steps GITS",
        _N.ALIGN_YOUR_STEPS,
        {"version": "forge_gits", **_FORGE_TABLE},
        'of Forge and reForge; model="sdxl" for SDXL',
    ),
    Peer(
        _A,
        "Align Your Steps 11",
        _N.ALIGN_YOUR_STEPS,
        {"version": "forge_11", **_FORGE_TABLE},
        'of Forge and reForge; model="sdxl" for SDXL',
    ),
    Peer(
        _A,
        "Align Your Steps 32",
        _N.ALIGN_YOUR_STEPS,
        {"version": "forge_32", **_FORGE_TABLE},
        'of Forge and reForge; model="sdxl" for SDXL',
    ),
    Peer(_A, "Cosine (reForge)", _N.COSINE, note="one step starts from the root of sigma_max there"),
    Peer(_A, "Phi (reForge)", _N.PHI, note="one step starts from the root of sigma_max there"),
    Peer(_A, "Laplace (reForge)", _N.LAPLACE, {"ends": "clamp"}, "a 0 follows there"),
    Peer(_A, "Sinusoidal SF (reForge)", None, note="ends far below what was trained, without a 0"),
    Peer(_A, "Invcosinusoidal SF (reForge)", None, note="ends far below what was trained, without a 0"),
    Peer(_A, "React Cosinusoidal DynSF (reForge)", None, note="neither starts at sigma_max nor ends in a 0"),
    Peer(_A, "Cosine-exponential Blend (reForge)", None, note="rises towards its end"),
    Peer(_A, "Karras Dynamic (reForge)", None, note="starts far above sigma_max"),
    Peer(
        _A,
        "Align Your Steps Custom (reForge)",
        None,
        note="give the list itself: `build_sampler(..., sigmas=[...])`",
    ),
)

#: every name, in the order of the programs
PEERS: tuple[Peer, ...] = (*_HANDLERS, *_NODES, *_RES4LYF, *_K_DIFFUSION, *_DIFFUSERS, *_LABELS)

# ------------------------------------------------------------------------------------------------------------ samplers

_S = SamplerType


def _own(program: Dialect, names: str, notes: Mapping[str, str] = _NONE) -> tuple[SamplerPeer, ...]:
    """Rows of names that are ours."""
    return tuple(SamplerPeer(program, name, _S(name), note=notes.get(name, "")) for name in names.split())


_WHOLE_SCHEDULE = "of the levels only the first and the last above 0 are used"
_TREE = 'Brownian noise there: `noise="brownian"`'
_ON_DEVICE = f"{_TREE}, drawn on the device"
_SAMPLERS_OF_COMFYUI = (
    *_own(
        _C,
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
        SamplerPeer(_C, f"{name}_gpu", name, note=_ON_DEVICE)
        for name in (_S.DPMPP_SDE, _S.DPMPP_2M_SDE, _S.DPMPP_2M_SDE_HEUN, _S.DPMPP_3M_SDE)
    ),
)
_SAMPLER_NODES = (
    SamplerPeer(_C, "KSamplerSelect", None, note="runs one of the names above"),
    SamplerPeer(_C, "SamplerEulerAncestral", _S.EULER_ANCESTRAL),
    SamplerPeer(_C, "SamplerEulerAncestralCFGPP", _S.EULER_ANCESTRAL_CFG_PP),
    SamplerPeer(_C, "SamplerDPMPP_2S_Ancestral", _S.DPMPP_2S_ANCESTRAL),
    SamplerPeer(_C, "SamplerDPMPP_2M_SDE", _S.DPMPP_2M_SDE, note=_TREE),
    SamplerPeer(_C, "SamplerDPMPP_3M_SDE", _S.DPMPP_3M_SDE, note=_TREE),
    SamplerPeer(_C, "SamplerDPMPP_SDE", _S.DPMPP_SDE, note=_TREE),
    SamplerPeer(_C, "SamplerLMS", _S.LMS),
    SamplerPeer(_C, "SamplerDPMAdaptative", _S.DPM_ADAPTIVE, note=_WHOLE_SCHEDULE),
    SamplerPeer(
        _C,
        "SamplerER_SDE",
        _S.ER_SDE,
        note='its solver_type "Reverse-time SDE" is "reverse_time", "ODE" is "ode"',
    ),
    SamplerPeer(
        _C, "SamplerSASolver", _S.SA_SOLVER, note="its eta is tau; its start and end are tau_start and tau_end"
    ),
    SamplerPeer(_C, "SamplerSEEDS2", _S.SEEDS_2),
    SamplerPeer(
        _C, "SamplerEulerCFGpp", _S.EULER_CFG_PP, note='its version "alternative" is an option of the same name'
    ),
    SamplerPeer(_C, "SamplerLCMUpscale", None, note="enlarges the picture between steps; the steps are those of `lcm`"),
    SamplerPeer(_C, "SamplerARVideo", None, note="made for one model, whose memory of earlier frames it drives"),
)
_NOISY = "of RES4LYF, which adds noise of its own to it"
_STARTED = "of RES4LYF, which starts with single steps of the same order"
_SAMPLERS_OF_RES4LYF = (
    SamplerPeer(_C, "res_2m", _S.RES_MULTISTEP, note=f"{_NOISY}, and starts with single steps"),
    SamplerPeer(_C, "res_2m_ode", _S.RES_MULTISTEP, note=_STARTED),
    SamplerPeer(_C, "res_2s", _S.RES_2S, note=_NOISY),
    SamplerPeer(_C, "res_2s_ode", _S.RES_2S, note="of RES4LYF"),
    SamplerPeer(_C, "res_3s", _S.RES_3S, note=_NOISY),
    SamplerPeer(_C, "res_3s_ode", _S.RES_3S, note="of RES4LYF"),
    SamplerPeer(_C, "deis_2m_ode", _S.DEIS, {"max_order": 2, "variable": "log_sigma"}, _STARTED),
    SamplerPeer(_C, "deis_3m_ode", _S.DEIS, {"max_order": 3, "variable": "log_sigma"}, _STARTED),
    *(
        SamplerPeer(_C, name, None, note="of RES4LYF, with more stages than any exponential method here: `etdrk4`")
        for name in ("res_5s", "res_5s_ode", "res_6s", "res_6s_ode")
    ),
    SamplerPeer(_C, "res_3m", None, note="of RES4LYF; `dpmpp_3m_sde` with eta 0 uses as many predictions"),
    SamplerPeer(_C, "rk_beta", None, note="of RES4LYF, which has 118 methods under this name"),
)
_SAMPLERS_OF_K_DIFFUSION = (
    *(
        SamplerPeer(_K, f"sample_{name}", name, note=note)
        for name, note in {
            _S.EULER: "",
            _S.EULER_ANCESTRAL: "",
            _S.HEUN: "",
            _S.DPM_2: "",
            _S.DPM_2_ANCESTRAL: "",
            _S.LMS: "",
            _S.DPM_FAST: _WHOLE_SCHEDULE,
            _S.DPM_ADAPTIVE: _WHOLE_SCHEDULE,
            _S.DPMPP_2S_ANCESTRAL: "",
            _S.DPMPP_SDE: _TREE,
            _S.DPMPP_2M: "",
            _S.DPMPP_2M_SDE: _TREE,
            _S.DPMPP_3M_SDE: _TREE,
        }.items()
    ),
    SamplerPeer(_K, "log_likelihood", None, note="measures how likely data is, and draws nothing: `log_likelihood`"),
)
_TOKENS = "states are tokens, not numbers with Gaussian noise"
_ONE_MODEL = "made for one model"
_UPWARD = "runs upwards, from data to noise: `Sampler.invert`"
_NEVER_ZERO = "its levels end on a repeat, never on 0"
_SAMPLERS_OF_DIFFUSERS = (
    SamplerPeer(_D, "EulerDiscreteScheduler", _S.EULER),
    SamplerPeer(_D, "EulerAncestralDiscreteScheduler", _S.EULER_ANCESTRAL),
    SamplerPeer(_D, "LTXEulerAncestralRFScheduler", _S.EULER_ANCESTRAL, note="on `Flow`, with levels given"),
    SamplerPeer(_D, "HeunDiscreteScheduler", _S.HEUN),
    SamplerPeer(_D, "KDPM2DiscreteScheduler", _S.DPM_2),
    SamplerPeer(_D, "KDPM2AncestralDiscreteScheduler", _S.DPM_2_ANCESTRAL),
    SamplerPeer(_D, "LMSDiscreteScheduler", _S.LMS),
    SamplerPeer(
        _D,
        "DPMSolverMultistepScheduler",
        _S.DPMPP_2M,
        note="as configured by default; `dpm_multistep` has all that can be configured, such as order and eps",
    ),
    SamplerPeer(_D, "sde-dpmsolver++", _S.DPMPP_2M_SDE, note="an algorithm_type of DPMSolverMultistepScheduler"),
    SamplerPeer(
        _D, "dpmsolver", _S.DPM_MULTISTEP, {"predict": "eps"}, "an algorithm_type of DPMSolverMultistepScheduler"
    ),
    SamplerPeer(
        _D,
        "sde-dpmsolver",
        _S.DPM_MULTISTEP,
        {"predict": "eps", "eta": 1.0},
        "an algorithm_type of DPMSolverMultistepScheduler",
    ),
    SamplerPeer(_D, "DPMSolverMultistepInverseScheduler", None, note=_UPWARD),
    SamplerPeer(_D, "DPMSolverSinglestepScheduler", _S.DPM_SINGLESTEP),
    SamplerPeer(_D, "DPMSolverSDEScheduler", _S.DPMPP_SDE, note=_TREE),
    SamplerPeer(
        _D,
        "CosineDPMSolverMultistepScheduler",
        _S.DPMPP_2M_SDE,
        note=f"on `AngleV(sigma_min=0.3, sigma_max=500)` with exponential levels; {_TREE}",
    ),
    SamplerPeer(_D, "EDMEulerScheduler", _S.EULER, note="on `EDM()`"),
    SamplerPeer(_D, "EDMDPMSolverMultistepScheduler", _S.DPMPP_2M, note="on `EDM()`"),
    SamplerPeer(_D, "UniPCMultistepScheduler", _S.UNI_PC),
    SamplerPeer(_D, "DEISMultistepScheduler", _S.DEIS, note=_NEVER_ZERO),
    SamplerPeer(_D, "SASolverScheduler", _S.SA_SOLVER, note=_NEVER_ZERO),
    SamplerPeer(_D, "PNDMScheduler", _S.PNDM, note='with skip_prk_steps, warm_up="heun"; timesteps are whole there'),
    SamplerPeer(_D, "IPNDMScheduler", _S.IPNDM, note="on levels of its own"),
    SamplerPeer(
        _D, "DDIMScheduler", _S.DDIM, note="clips the prediction by default; its eta is an option of the same name"
    ),
    SamplerPeer(_D, "DDIMParallelScheduler", _S.DDIM, note="as DDIMScheduler"),
    SamplerPeer(_D, "DDIMInverseScheduler", None, note=_UPWARD),
    SamplerPeer(_D, "CogVideoXDDIMScheduler", _S.DDIM, note="on `VP(snr_shift=3.0)`"),
    SamplerPeer(_D, "CogVideoXDPMScheduler", _S.DPMPP_2M_SDE, note="on `VP(snr_shift=3.0)`"),
    SamplerPeer(_D, "DDPMScheduler", _S.DDPM, note="with its default variance_type; clips the prediction by default"),
    SamplerPeer(_D, "DDPMParallelScheduler", _S.DDPM, note="as DDPMScheduler"),
    SamplerPeer(_D, "DDPMWuerstchenScheduler", _S.DDPM, note="on `Cascade()`"),
    SamplerPeer(_D, "UnCLIPScheduler", _S.DDPM, note="on `VP.cosine()`; the model predicts the variance as well there"),
    SamplerPeer(_D, "LCMScheduler", _S.LCM, note="on `VP(every=20)`"),
    SamplerPeer(_D, "FlowMatchLCMScheduler", _S.LCM, {"boundary": 0.0}, "on `Flow(shift)`; without its scale_factors"),
    SamplerPeer(_D, "TCDScheduler", _S.TCD, note="on `VP(every=20)`"),
    SamplerPeer(
        _D,
        "CMStochasticIterativeScheduler",
        _S.LCM,
        {"boundary": 0.0},
        "on `EDM(0.002, 80)` with karras levels; adds a little less noise, and clips the prediction",
    ),
    SamplerPeer(_D, "SCMScheduler", _S.LCM, {"boundary": 0.0}, "on `AngleV`: its timesteps are angles"),
    SamplerPeer(_D, "FlowMatchEulerDiscreteScheduler", _S.EULER, note="on `Flow(shift)`"),
    SamplerPeer(_D, "FlowMatchHeunDiscreteScheduler", _S.HEUN, note="on `Flow(shift)`"),
    SamplerPeer(_D, "MiniMaxH3Scheduler", _S.EULER, note="on `Flow(12)`, for a velocity of the other sign"),
    SamplerPeer(
        _D, "FlowMapEulerDiscreteScheduler", None, note="for models of two times, the one left and the one reached"
    ),
    SamplerPeer(_D, "PiflowScheduler", None, note=f"{_ONE_MODEL}: the model answers with a policy, which it rolls out"),
    SamplerPeer(_D, "ScoreSdeVeScheduler", None, note="its corrector's step size is read from the data"),
    SamplerPeer(_D, "ScoreSdeVpScheduler", None, note="Euler-Maruyama on the reverse SDE: `ddpm` does better"),
    SamplerPeer(_D, "KarrasVeScheduler", None, note="`heun` with s_churn, on levels whose square was meant"),
    SamplerPeer(_D, "RePaintScheduler", None, note="goes back and forth in time for inpainting: `ddim` with a mask"),
    SamplerPeer(_D, "ConsistencyDecoderScheduler", None, note=f"{_ONE_MODEL}: two steps of `lcm` in a decoder"),
    SamplerPeer(_D, "HeliosScheduler", None, note=f"{_ONE_MODEL}: stages of a pyramid of video"),
    SamplerPeer(_D, "HeliosDMDScheduler", None, note=f"{_ONE_MODEL}: stages of a pyramid of video"),
    SamplerPeer(_D, "RFD4ProteinaScheduler", None, note="states are rotations as well"),
    *(
        SamplerPeer(_D, f"{name}Scheduler", None, note=_TOKENS)
        for name in ("Amused", "VQDiffusion", "DiscreteDDIM", "BlockRefinement", "EntropyBound")
    ),
)
_OF_FORGE, _OF_REFORGE = "of Forge and reForge", "of reForge"
_SPATIAL = "of reForge; works on parts or smaller copies of the picture between steps"
_DROPS = "drops the last level but one: `drop_penultimate`"
_SAMPLER_LABELS = (
    SamplerPeer(_A, "DPM++ 2M", _S.DPMPP_2M),
    SamplerPeer(_A, "DPM++ SDE", _S.DPMPP_SDE, note=_TREE),
    SamplerPeer(_A, "DPM++ 2M SDE", _S.DPMPP_2M_SDE, note=_TREE),
    SamplerPeer(_A, "DPM++ 2M SDE Heun", _S.DPMPP_2M_SDE_HEUN, note=_TREE),
    SamplerPeer(_A, "DPM++ 2S a", _S.DPMPP_2S_ANCESTRAL),
    SamplerPeer(_A, "DPM++ 3M SDE", _S.DPMPP_3M_SDE, note=f"{_DROPS}; {_TREE}"),
    SamplerPeer(_A, "Euler a", _S.EULER_ANCESTRAL),
    SamplerPeer(_A, "Euler", _S.EULER),
    SamplerPeer(_A, "LMS", _S.LMS),
    SamplerPeer(_A, "Heun", _S.HEUN),
    SamplerPeer(_A, "DPM2", _S.DPM_2, note=_DROPS),
    SamplerPeer(_A, "DPM2 a", _S.DPM_2_ANCESTRAL, note=_DROPS),
    SamplerPeer(_A, "DPM fast", _S.DPM_FAST, note=_WHOLE_SCHEDULE),
    SamplerPeer(_A, "DPM adaptive", _S.DPM_ADAPTIVE, note=_WHOLE_SCHEDULE),
    SamplerPeer(_A, "Restart", _S.RESTART),
    SamplerPeer(_A, "DDIM", _S.DDIM, note="on levels of its own; its eta is an option of the same name"),
    SamplerPeer(_A, "DDIM CFG++", _S.EULER_CFG_PP, note="of Forge and later A1111; the scale is divided by 12.5 there"),
    SamplerPeer(_A, "PLMS", _S.PNDM, note="on levels of its own"),
    SamplerPeer(_A, "UniPC", _S.UNI_PC, note="on levels of its own"),
    SamplerPeer(_A, "LCM", _S.LCM),
    SamplerPeer(_A, "DDPM", _S.DDPM, note=_OF_FORGE),
    SamplerPeer(_A, "HeunPP2", _S.HEUNPP2, {"weights": "published"}, _OF_FORGE),
    SamplerPeer(_A, "IPNDM", _S.IPNDM, note=_OF_FORGE),
    SamplerPeer(_A, "IPNDM_V", _S.IPNDM_V, {"weights": "published"}, _OF_FORGE),
    SamplerPeer(_A, "DEIS", _S.DEIS, {"variable": "vp_time_sum"}, _OF_FORGE),
    *(
        SamplerPeer(_A, name, sampler, note=_OF_REFORGE)
        for name, sampler in {
            "Euler CFG++": _S.EULER_CFG_PP,
            "Euler Ancestral CFG++": _S.EULER_ANCESTRAL_CFG_PP,
            "DPM++ 2S Ancestral CFG++": _S.DPMPP_2S_ANCESTRAL_CFG_PP,
            "DPM++ 2M CFG++": _S.DPMPP_2M_CFG_PP,
            "RES Multistep": _S.RES_MULTISTEP,
            "RES Multistep CFG++": _S.RES_MULTISTEP_CFG_PP,
            "RES Multistep Ancestral": _S.RES_MULTISTEP_ANCESTRAL,
            "RES Multistep Ancestral CFG++": _S.RES_MULTISTEP_ANCESTRAL_CFG_PP,
            "Gradient Estimation": _S.GRADIENT_ESTIMATION,
            "Gradient Estimation CFG++": _S.GRADIENT_ESTIMATION_CFG_PP,
            "SEEDS 2 DP": _S.SEEDS_2,
            "SEEDS 3 DP": _S.SEEDS_3,
            "SA-Solver-Pece": _S.SA_SOLVER_PECE,
            "SA-Solver": _S.SA_SOLVER,
        }.items()
    ),
    SamplerPeer(_A, "ER SDE", _S.ER_SDE, {"integral": "published"}, _OF_REFORGE),
    SamplerPeer(_A, "ODE (Dopri5)", _S.RK_ADAPTIVE, note=f"{_OF_REFORGE}; tolerances are its settings"),
    SamplerPeer(
        _A,
        "ODE (Bosh3)",
        _S.RK_ADAPTIVE,
        {"pair": "bogacki_shampine"},
        f"{_OF_REFORGE}; tolerances are its settings",
    ),
    *(
        SamplerPeer(_A, name, None, note=f"{_OF_REFORGE}; `rk_adaptive` has pairs of higher order")
        for name in ("ODE (Fehlberg2)", "ODE (Adaptive Heun)", "ODE Custom")
    ),
    SamplerPeer(_A, "RES Solver", None, note=f"{_OF_REFORGE}: `res_2s` with noise of its own"),
    *(
        SamplerPeer(_A, name, None, note=f"{_OF_REFORGE}; not a published method")
        for name in ("DPM++ SDE CFG++", "DPM++ 3M SDE CFG++", "Kohaku_LoNyu_Yog", "Euler A2", "Euler Negative")
    ),
    *(
        SamplerPeer(_A, name, None, note=_SPATIAL)
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
    key = _key(name)
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
