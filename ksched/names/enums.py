"""The names of samplers, noise schedules and dialects, and every spelling of them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    pass


__all__ = ["Dialect", "NoiseSchedule", "SamplerType", "spelling_key"]


def spelling_key(text: str) -> str:
    """Spelling without case, spaces, dashes or dots; ``+`` is read as the letter p (DPM++ = dpmpp)."""
    return re.sub(r"[^a-z0-9]", "", text.lower().replace("+", "p"))


class _Name(StrEnum):
    """A name that can be read from any spelling a peer uses."""

    @classmethod
    def _kind(cls) -> str:
        raise TypeError("abstract")

    @classmethod
    def _spellings(cls) -> Mapping[str, Self]:
        raise TypeError("abstract")

    @classmethod
    @cache
    def _known(cls) -> Mapping[str, Self]:
        """Every spelling, without case and punctuation."""
        return {spelling_key(member): member for member in cls} | {
            spelling_key(k): member for k, member in cls._spellings().items()
        }

    @classmethod
    def parse(cls, name: str) -> Self:
        """Member for a name in our spelling or a peer's, whatever its case and punctuation.

        Parameters
        ----------
        name : our value ("dpmpp_2m"), or what ComfyUI, A1111, k-diffusion or diffusers call the same thing

        Raises
        ------
        TypeError : ``name`` is not a string
        ValueError : nothing has that name; the message lists the nearest ones
        """
        if isinstance(name, cls):
            return name
        if not isinstance(name, str):
            raise TypeError(f"a {cls._kind()} is named by a string; got {name!r}")
        known = cls._known()
        found = known.get(spelling_key(name))
        if found is not None:
            return found
        near = [known[k].value for k in difflib.get_close_matches(spelling_key(name), known, n=6, cutoff=0.6)]
        hint = f"did you mean {' or '.join(dict.fromkeys(near))}?" if near else f"known: {', '.join(cls)}."
        raise ValueError(f"unknown {cls._kind()} {name!r}; {hint}")


class SamplerType(_Name):
    """How a run steps from one noise level to the next; the values are ComfyUI's words."""

    EULER = "euler"
    EULER_CFG_PP = "euler_cfg_pp"
    EULER_ANCESTRAL = "euler_ancestral"
    EULER_ANCESTRAL_CFG_PP = "euler_ancestral_cfg_pp"
    HEUN = "heun"
    HEUNPP2 = "heunpp2"
    EXP_HEUN_2_X0 = "exp_heun_2_x0"
    EXP_HEUN_2_X0_SDE = "exp_heun_2_x0_sde"
    DPM_2 = "dpm_2"
    DPM_2_ANCESTRAL = "dpm_2_ancestral"
    LMS = "lms"
    DPM_FAST = "dpm_fast"
    DPM_ADAPTIVE = "dpm_adaptive"
    DPMPP_2S_ANCESTRAL = "dpmpp_2s_ancestral"
    DPMPP_2S_ANCESTRAL_CFG_PP = "dpmpp_2s_ancestral_cfg_pp"
    DPMPP_SDE = "dpmpp_sde"
    DPMPP_2M = "dpmpp_2m"
    DPMPP_2M_CFG_PP = "dpmpp_2m_cfg_pp"
    DPMPP_2M_SDE = "dpmpp_2m_sde"
    DPMPP_2M_SDE_HEUN = "dpmpp_2m_sde_heun"
    DPMPP_3M_SDE = "dpmpp_3m_sde"
    DDPM = "ddpm"
    LCM = "lcm"
    TCD = "tcd"
    IPNDM = "ipndm"
    IPNDM_V = "ipndm_v"
    DEIS = "deis"
    RES_MULTISTEP = "res_multistep"
    RES_MULTISTEP_CFG_PP = "res_multistep_cfg_pp"
    RES_MULTISTEP_ANCESTRAL = "res_multistep_ancestral"
    RES_MULTISTEP_ANCESTRAL_CFG_PP = "res_multistep_ancestral_cfg_pp"
    GRADIENT_ESTIMATION = "gradient_estimation"
    GRADIENT_ESTIMATION_CFG_PP = "gradient_estimation_cfg_pp"
    ER_SDE = "er_sde"
    SEEDS_2 = "seeds_2"
    SEEDS_3 = "seeds_3"
    SA_SOLVER = "sa_solver"
    SA_SOLVER_PECE = "sa_solver_pece"
    CFGPP_UD10_AB = "cfgpp_ud10_ab"
    DDIM = "ddim"
    UNI_PC = "uni_pc"
    UNI_PC_BH2 = "uni_pc_bh2"
    EXP_AB = "exp_ab"
    EXP_PC = "exp_pc"
    DPM_MULTISTEP = "dpm_multistep"
    DPM_SINGLESTEP = "dpm_singlestep"
    PNDM = "pndm"
    MIDPOINT = "midpoint"
    RALSTON = "ralston"
    BOGACKI_SHAMPINE = "bogacki_shampine"
    RK4 = "rk4"
    DORMAND_PRINCE = "dormand_prince"
    RES_2S = "res_2s"
    RES_3S = "res_3s"
    ETDRK4 = "etdrk4"
    RESTART = "restart"
    RK_ADAPTIVE = "rk_adaptive"

    @classmethod
    def default(cls) -> SamplerType:
        """The sampler used when none is named."""
        return cls.EULER

    @classmethod
    def _kind(cls) -> str:
        return "sampler"

    @classmethod
    def _spellings(cls) -> Mapping[str, SamplerType]:
        return _SAMPLER_SPELLINGS


class NoiseSchedule(_Name):
    """Which noise levels a run visits; the values are ComfyUI's words."""

    SIMPLE = "simple"
    KARRAS = "karras"
    EXPONENTIAL = "exponential"
    SGM_UNIFORM = "sgm_uniform"
    DDIM_UNIFORM = "ddim_uniform"
    NORMAL = "normal"
    LINEAR = "linear"
    BETA = "beta"
    BETA57 = "beta57"
    LINEAR_QUADRATIC = "linear_quadratic"
    KL_OPTIMAL = "kl_optimal"
    POLYEXPONENTIAL = "polyexponential"
    VP = "vp"
    LAPLACE = "laplace"
    LOGSNR = "logsnr"
    TRAILING = "trailing"
    LEADING = "leading"
    SD_TURBO = "sd_turbo"
    ALIGN_YOUR_STEPS = "align_your_steps"
    GITS = "gits"
    OPTIMAL_STEPS = "optimal_steps"
    LTXV = "ltxv"
    FLUX2 = "flux2"
    BONG_TANGENT = "bong_tangent"
    COSINE = "cosine"
    PHI = "phi"

    @classmethod
    def default(cls) -> NoiseSchedule:
        """The schedule used when none is named."""
        return cls.SIMPLE

    @classmethod
    def _kind(cls) -> str:
        return "noise schedule"

    @classmethod
    def _spellings(cls) -> Mapping[str, NoiseSchedule]:
        return _SCHEDULE_SPELLINGS


class Dialect(_Name):
    """Whose behaviour a name means; ``ksched`` is the published mathematics."""

    KSCHED = "ksched"
    COMFYUI = "comfyui"
    K_DIFFUSION = "k_diffusion"
    DIFFUSERS = "diffusers"
    A1111 = "a1111"

    @classmethod
    def _kind(cls) -> str:
        return "dialect"

    @classmethod
    def _spellings(cls) -> Mapping[str, Dialect]:
        return {}


# What the peers call the same thing: A1111's labels, k-diffusion's functions, diffusers' classes, ComfyUI's variants.
_SAMPLER_SPELLINGS: dict[str, SamplerType] = {
    spelling: SamplerType(member)
    for member, spellings in {
        "euler": "k_euler sample_euler EulerDiscrete EulerDiscreteScheduler euler_discrete "
        "EDMEulerScheduler FlowMatchEulerDiscreteScheduler FlowMatchEuler flow_match_euler_discrete",
        "heun": "k_heun sample_heun HeunDiscrete HeunDiscreteScheduler heun_discrete "
        "FlowMatchHeunDiscreteScheduler FlowMatchHeun",
        "euler_ancestral": "LTXEulerAncestralRF LTXEulerAncestralRFScheduler euler_a k_euler_a k_euler_ancestral "
        "sample_euler_ancestral EulerAncestralDiscrete "
        "EulerAncestralDiscreteScheduler euler_ancestral_discrete",
        "ddim": "DDIMScheduler DDIMParallelScheduler k_ddim",
        "ddpm": "DDPMScheduler DDPMParallelScheduler k_ddpm",
        "dpmpp_2m": "k_dpmpp_2m sample_dpmpp_2m dpm_solver_multistep DPMSolverMultistep "
        "DPMSolverMultistepScheduler dpmsolver++_2m dpm_solver++_2m EDMDPMSolverMultistepScheduler",
        "dpmpp_2m_sde": "CosineDPMSolverMultistepScheduler k_dpmpp_2m_sde sample_dpmpp_2m_sde dpmpp_2m_sde_gpu "
        "dpm_solver_multistep_sde sde_dpmsolver++",
        "dpmpp_2m_sde_heun": "k_dpmpp_2m_sde_heun dpmpp_2m_sde_heun_gpu",
        "dpmpp_3m_sde": "k_dpmpp_3m_sde sample_dpmpp_3m_sde dpmpp_3m_sde_gpu",
        "dpmpp_2s_ancestral": "dpmpp_2s_a k_dpmpp_2s_a k_dpmpp_2s_ancestral sample_dpmpp_2s_ancestral",
        "dpmpp_2s_ancestral_cfg_pp": "dpmpp_2s_a_cfg++ dpmpp_2s_ancestral_cfg++ sample_dpmpp_2s_ancestral_cfg_pp",
        "dpmpp_sde": "k_dpmpp_sde sample_dpmpp_sde dpmpp_sde_gpu DPMSolverSDE DPMSolverSDEScheduler dpm_solver_sde",
        "dpmpp_2m_cfg_pp": "dpmpp_2m_cfg++ sample_dpmpp_2m_cfg_pp",
        "dpm_2": "dpm2 k_dpm_2 k_dpm2 sample_dpm_2 KDPM2Discrete KDPM2DiscreteScheduler kdpm2",
        "dpm_2_ancestral": "dpm2_a dpm_2_a dpm2_ancestral k_dpm_2_a k_dpm_2_ancestral sample_dpm_2_ancestral "
        "KDPM2AncestralDiscrete KDPM2AncestralDiscreteScheduler kdpm2_ancestral",
        "dpm_fast": "k_dpm_fast sample_dpm_fast dpm_solver_fast",
        "dpm_adaptive": "k_dpm_adaptive sample_dpm_adaptive dpm_solver_adaptive",
        "lms": "k_lms sample_lms LMSDiscrete LMSDiscreteScheduler",
        "heunpp2": "heun++2 heun++ sample_heunpp2",
        "lcm": "CMStochasticIterativeScheduler SCMScheduler LCMScheduler FlowMatchLCM FlowMatchLCMScheduler "
        "latent_consistency sample_lcm",
        "tcd": "TCDScheduler",
        "ipndm": "IPNDMScheduler sample_ipndm",
        "ipndm_v": "sample_ipndm_v",
        "deis": "DEISMultistep DEISMultistepScheduler deis_multistep sample_deis",
        "res_multistep": "sample_res_multistep res_2m",
        "res_multistep_cfg_pp": "res_multistep_cfg++ sample_res_multistep_cfg_pp",
        "res_multistep_ancestral": "sample_res_multistep_ancestral",
        "res_multistep_ancestral_cfg_pp": "res_multistep_ancestral_cfg++ sample_res_multistep_ancestral_cfg_pp",
        "gradient_estimation": "sample_gradient_estimation",
        "gradient_estimation_cfg_pp": "gradient_estimation_cfg++ sample_gradient_estimation_cfg_pp",
        "er_sde": "sample_er_sde",
        "seeds_2": "sample_seeds_2",
        "seeds_3": "sample_seeds_3",
        "sa_solver": "SASolver SASolverScheduler sample_sa_solver",
        "sa_solver_pece": "sample_sa_solver_pece",
        "euler_cfg_pp": "euler_cfg++ ddim_cfg++ ddim_cfg_pp sample_euler_cfg_pp",
        "euler_ancestral_cfg_pp": "euler_a_cfg++ euler_ancestral_cfg++ sample_euler_ancestral_cfg_pp",
        "exp_heun_2_x0": "sample_exp_heun_2_x0",
        "exp_heun_2_x0_sde": "sample_exp_heun_2_x0_sde",
        "cfgpp_ud10_ab": "sample_cfgpp_ud10_ab",
        "midpoint": "midpoint_2s",
        "ralston": "ralston_2s",
        "rk4": "rk4_4s",
        "bogacki_shampine": "bogacki-shampine_4s bosh3",
        "dormand_prince": "dormand-prince_6s dopri5",
        "res_3s": "res_3s_ode",
        "res_2s": "res_2s_ode",
        "etdrk4": "etdrk4_4s",
        "restart": "restart_sampler",
        "rk_adaptive": "ode",
        "uni_pc": "UniPCMultistep UniPCMultistepScheduler uni_pc_multistep uni_pc_bh1",
        "uni_pc_bh2": "unipc_bh2",
        "dpm_singlestep": "DPMSolverSinglestep DPMSolverSinglestepScheduler dpm_solver_singlestep",
        "pndm": "PNDMScheduler PLMS k_plms sample_plms",
    }.items()
    for spelling in spellings.split()
}


_SCHEDULE_SPELLINGS: dict[str, NoiseSchedule] = {
    spelling: NoiseSchedule(member)
    for member, spellings in {
        "karras": "use_karras_sigmas get_sigmas_karras",
        "exponential": "use_exponential_sigmas get_sigmas_exponential use_lu_lambdas",
        "normal": "uniform linspace discrete_schedule",
        "ddim_uniform": "ddim",
        "beta": "use_beta_sigmas beta_sampling_scheduler",
        "polyexponential": "poly_exponential get_sigmas_polyexponential",
        "vp": "get_sigmas_vp vp_scheduler",
        "laplace": "laplace_scheduler",
        "kl_optimal": "kloptimal",
        "logsnr": "log_snr log_snr_uniform",
        "sd_turbo": "sdturbo sd_turbo_scheduler",
        "trailing": "turbo",
        "align_your_steps": "ays align_your_steps_scheduler",
        "gits": "gits_scheduler",
        "optimal_steps": "oss optimal_steps_scheduler",
        "ltxv": "ltxv_scheduler",
        "flux2": "flux2_scheduler",
    }.items()
    for spelling in spellings.split()
}
