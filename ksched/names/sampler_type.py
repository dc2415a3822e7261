"""The names of the samplers in ksched. ``python docs/sampler_names.py`` writes this file from their registrations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ksched.names.absent import SAMPLERS_ELSEWHERE
from ksched.names.name import Name

__all__ = ["AUTOMATIC", "SAMPLER_SPELLINGS", "SamplerName", "SamplerType", "ScheduleName"]

# fmt: off


class SamplerType(Name):
    """The sampler (solver) of a run; the values are ComfyUI's names."""

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
    FLOW_SDE = "flow_sde"
    DANCE_SDE = "dance_sde"
    FLOW_CPS = "flow_cps"
    AF3 = "af3"
    DPMPP_2S = "dpmpp_2s"
    FIREFLOW = "fireflow"
    RES_5S = "res_5s"
    RES_6S = "res_6s"
    DPMPP_3M = "dpmpp_3m"
    DEIS_2M = "deis_2m"
    STORK = "stork"

    @classmethod
    def default(cls) -> SamplerType:
        """The sampler used when none is named."""
        return cls.EULER

    @classmethod
    def _kind(cls) -> str:
        return "sampler"

    @classmethod
    def _spellings(cls) -> Mapping[str, str]:
        return {word: name for name, words in SAMPLER_SPELLINGS.items() for word in words}

    @classmethod
    def _absent(cls) -> Mapping[str, str]:
        return SAMPLERS_ELSEWHERE


#: `SamplerType` as text, for annotations
SamplerName = Literal[
    "euler", "euler_cfg_pp", "euler_ancestral", "euler_ancestral_cfg_pp", "heun", "heunpp2", "exp_heun_2_x0",
    "exp_heun_2_x0_sde", "dpm_2", "dpm_2_ancestral", "lms", "dpm_fast", "dpm_adaptive", "dpmpp_2s_ancestral",
    "dpmpp_2s_ancestral_cfg_pp", "dpmpp_sde", "dpmpp_2m", "dpmpp_2m_cfg_pp", "dpmpp_2m_sde", "dpmpp_2m_sde_heun",
    "dpmpp_3m_sde", "ddpm", "lcm", "tcd", "ipndm", "ipndm_v", "deis", "res_multistep", "res_multistep_cfg_pp",
    "res_multistep_ancestral", "res_multistep_ancestral_cfg_pp", "gradient_estimation", "gradient_estimation_cfg_pp",
    "er_sde", "seeds_2", "seeds_3", "sa_solver", "sa_solver_pece", "cfgpp_ud10_ab", "ddim", "uni_pc", "uni_pc_bh2",
    "exp_ab", "exp_pc", "dpm_multistep", "dpm_singlestep", "pndm", "midpoint", "ralston", "bogacki_shampine", "rk4",
    "dormand_prince", "res_2s", "res_3s", "etdrk4", "restart", "rk_adaptive", "flow_sde", "dance_sde", "flow_cps",
    "af3", "dpmpp_2s", "fireflow", "res_5s", "res_6s", "dpmpp_3m", "deis_2m", "stork",
]

#: `ksched.NoiseSchedule` as text
ScheduleName = Literal[
    "simple", "karras", "exponential", "sgm_uniform", "ddim_uniform", "normal", "linear", "beta", "beta57",
    "linear_quadratic", "kl_optimal", "polyexponential", "vp", "laplace", "logsnr", "trailing", "leading", "sd_turbo",
    "align_your_steps", "gits", "optimal_steps", "ltxv", "flux2", "ideogram4", "bong_tangent", "cosine", "phi",
    "smoothstep", "logit_normal", "sway", "piecewise",
]


#: names of the same sampler in other programs
SAMPLER_SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "euler": (
        "k_euler", "FlowMatchEuler", "sample_euler", "EulerDiscrete", "EulerDiscreteScheduler", "EDMEuler",
        "EDMEulerScheduler", "FlowMatchEulerDiscrete", "FlowMatchEulerDiscreteScheduler", "MiniMaxH3",
        "MiniMaxH3Scheduler", "Euler EDM", "Euler FlowMatch", "Linear-RK Euler",
    ),
    "euler_cfg_pp": ("sample_euler_cfg_pp", "SamplerEulerCFGpp", "DDIM CFG++",),
    "euler_ancestral": (
        "k_euler_a", "k_euler_ancestral", "SamplerEulerAncestral", "sample_euler_ancestral", "EulerAncestralDiscrete",
        "EulerAncestralDiscreteScheduler", "LTXEulerAncestralRF", "LTXEulerAncestralRFScheduler", "Euler a",
    ),
    "euler_ancestral_cfg_pp": ("sample_euler_ancestral_cfg_pp", "SamplerEulerAncestralCFGPP", "euler_a_cfg++",),
    "heun": (
        "k_heun", "FlowMatchHeun", "edm", "sample_heun", "HeunDiscrete", "HeunDiscreteScheduler",
        "FlowMatchHeunDiscrete", "FlowMatchHeunDiscreteScheduler", "heun_2s", "Heun FlowMatch", "Linear-RK Heun",
        "Linear-RK 2",
    ),
    "heunpp2": ("heun++", "sample_heunpp2",),
    "exp_heun_2_x0": ("sample_exp_heun_2_x0", "etdrk2_2s", "ETD-RK 2S",),
    "exp_heun_2_x0_sde": ("sample_exp_heun_2_x0_sde",),
    "dpm_2": ("sample_dpm_2", "KDPM2Discrete", "KDPM2DiscreteScheduler", "k_dpm_2", "DPM2 FlowMatch",),
    "dpm_2_ancestral": (
        "k_dpm_2_ancestral", "sample_dpm_2_ancestral", "KDPM2AncestralDiscrete", "KDPM2AncestralDiscreteScheduler",
        "DPM2 a", "k_dpm_2_a", "DPM2a FlowMatch",
    ),
    "lms": ("k_lms", "SamplerLMS", "sample_lms", "LMSDiscrete", "LMSDiscreteScheduler", "LMSD",),
    "dpm_fast": ("k_dpm_fast", "dpm_solver_fast", "sample_dpm_fast",),
    "dpm_adaptive": ("k_dpm_adaptive", "dpm_solver_adaptive", "SamplerDPMAdaptative", "sample_dpm_adaptive",),
    "dpmpp_2s_ancestral": (
        "k_dpmpp_2s_a", "k_dpmpp_2s_ancestral", "SamplerDPMPP_2S_Ancestral", "sample_dpmpp_2s_ancestral", "DPM++ 2S a",
        "DPM2++ 2S FlowMatch",
    ),
    "dpmpp_2s_ancestral_cfg_pp": ("dpmpp_2s_a_cfg++", "sample_dpmpp_2s_ancestral_cfg_pp",),
    "dpmpp_sde": (
        "k_dpmpp_sde", "dpmpp_sde_gpu", "SamplerDPMPP_SDE", "sample_dpmpp_sde", "DPMSolverSDE", "DPMSolverSDEScheduler",
        "DPM SDE", "DPM2++ SDE FlowMatch",
    ),
    "dpmpp_2m": (
        "k_dpmpp_2m", "dpmsolver++_2m", "sample_dpmpp_2m", "DPMSolverMultistep", "DPMSolverMultistepScheduler",
        "EDMDPMSolverMultistep", "EDMDPMSolverMultistepScheduler", "DPM++ 2M EDM", "DPM2++ 2M FlowMatch",
    ),
    "dpmpp_2m_cfg_pp": ("sample_dpmpp_2m_cfg_pp",),
    "dpmpp_2m_sde": (
        "k_dpmpp_2m_sde", "dpm_solver_multistep_sde", "dpmpp_2m_sde_gpu", "SamplerDPMPP_2M_SDE", "sample_dpmpp_2m_sde",
        "sde-dpmsolver++", "CosineDPMSolverMultistep", "CosineDPMSolverMultistepScheduler", "CogVideoXDPM",
        "CogVideoXDPMScheduler", "dpm++2m_sde_bt", "DPM++ Cosine", "DPM2++ 2M SDE FlowMatch",
    ),
    "dpmpp_2m_sde_heun": ("k_dpmpp_2m_sde_heun", "sample_dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu",),
    "dpmpp_3m_sde": (
        "k_dpmpp_3m_sde", "dpmpp_3m_sde_gpu", "SamplerDPMPP_3M_SDE", "sample_dpmpp_3m_sde", "DPM2++ 3M SDE FlowMatch",
    ),
    "ddpm": (
        "k_ddpm", "sample_ddpm", "DDPMScheduler", "DDPMParallelScheduler", "DDPMWuerstchen", "DDPMWuerstchenScheduler",
        "UnCLIP", "UnCLIPScheduler", "DDPMParallel",
    ),
    "lcm": (
        "latent_consistency", "pingpong", "sample_lcm", "SamplerLCM", "LCMScheduler", "FlowMatchLCM",
        "FlowMatchLCMScheduler", "CMStochasticIterative", "CMStochasticIterativeScheduler", "SCM", "SCMScheduler",
        "LCM FlowMatch", "CMSI",
    ),
    "tcd": ("TCDScheduler",),
    "ipndm": ("sample_ipndm", "IPNDMScheduler",),
    "ipndm_v": ("sample_ipndm_v",),
    "deis": ("sample_deis", "DEISMultistepScheduler", "deis_3m", "deis_3m_ode", "DEISMultistep",),
    "res_multistep": ("sample_res_multistep", "res_2m", "res_2m_ode", "RES-Unified 2M", "RES-Multistep 2M",),
    "res_multistep_cfg_pp": ("sample_res_multistep_cfg_pp",),
    "res_multistep_ancestral": ("sample_res_multistep_ancestral",),
    "res_multistep_ancestral_cfg_pp": ("sample_res_multistep_ancestral_cfg_pp",),
    "gradient_estimation": ("sample_gradient_estimation", "euler_ge",),
    "gradient_estimation_cfg_pp": ("sample_gradient_estimation_cfg_pp",),
    "er_sde": ("sample_er_sde", "SamplerER_SDE", "ER-SDE 3M", "ER-SDE 3M FlowMatch",),
    "seeds_2": ("sample_seeds_2", "SamplerSEEDS2", "SEEDS 2 DP",),
    "seeds_3": ("sample_seeds_3", "SEEDS 3 DP",),
    "sa_solver": ("sample_sa_solver", "SamplerSASolver", "SASolverScheduler",),
    "sa_solver_pece": ("sample_sa_solver_pece",),
    "cfgpp_ud10_ab": ("sample_cfgpp_ud10_ab",),
    "ddim": (
        "k_ddim", "sample_ddim", "DDIMScheduler", "DDIMParallelScheduler", "CogVideoXDDIM", "CogVideoXDDIMScheduler",
        "DDIMParallel", "CogX DDIM",
    ),
    "uni_pc": ("uni_pc_bh1", "sample_uni_pc", "UniPCMultistep", "UniPCMultistepScheduler", "UniPC FlowMatch",),
    "uni_pc_bh2": ("sample_uni_pc_bh2",),
    "exp_ab": ("res_3m", "res_3m_ode", "abnorsett_3m", "RES-Unified 3M", "RES-Multistep 3M",),
    "dpm_singlestep": ("DPMSolverSinglestep", "DPMSolverSinglestepScheduler", "DPM++ 1S",),
    "pndm": ("k_plms", "sample_plms", "PNDMScheduler", "PLMS",),
    "midpoint": ("rf_solver", "midpoint_2s",),
    "ralston": ("ralston_2s", "Linear-RK Ralston",),
    "bogacki_shampine": ("bosh3", "bogacki-shampine_4s",),
    "rk4": ("rk4_4s", "Linear-RK 4", "Runge-Kutta 4/4",),
    "dormand_prince": ("dopri5", "dormand-prince_6s",),
    "res_2s": ("sample_res_2s", "res_2s_ode", "RES-Unified 2S", "RES-Singlestep 2S",),
    "res_3s": ("sample_res_3s", "res_3s_ode", "RES-Unified 3S", "RES-Singlestep 3S",),
    "etdrk4": ("etdrk4_4s", "res_4s_cox_matthews", "ETD-RK 4S A",),
    "restart": ("restart_sampler",),
    "rk_adaptive": ("ode", "ODE (Dopri5)",),
    "flow_sde": ("flow_grpo",),
    "dance_sde": ("dance_grpo",),
    "flow_cps": ("cps", "coefficients_preserving_sampling",),
    "af3": ("alphafold3", "boltz", "boltz1", "boltz2", "protenix", "rfdiffusion3", "edm_churned",),
    "dpmpp_2s": ("gencast",),
    "res_5s": ("sample_res_5s", "res_5s_ode", "res_5s_hochbruck-ostermann",),
    "res_6s": ("sample_res_6s", "res_6s_ode",),
    "deis_2m": ("sample_deis_2m", "deis_2m_ode", "DEIS-Unified 2M",),
    "stork": ("stork_2",),
}

#: schedules that A1111 selects by itself for some of its sampler labels
AUTOMATIC: Mapping[str, str] = {
    "dpm_2": "karras",
    "dpm_2_ancestral": "karras",
    "dpmpp_2s_ancestral": "karras",
    "dpmpp_sde": "karras",
    "dpmpp_2m": "karras",
    "dpmpp_2m_sde": "exponential",
    "dpmpp_2m_sde_heun": "exponential",
    "dpmpp_3m_sde": "exponential",
    "ddim": "ddim_uniform",
    "uni_pc": "ddim_uniform",
    "pndm": "ddim_uniform",
    "restart": "karras",
}
