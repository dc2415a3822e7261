"""The names of samplers, noise schedules, dialects and prediction types."""

from __future__ import annotations

from collections.abc import Mapping

from ksched.names.absent import SCHEDULES_ELSEWHERE
from ksched.names.name import Name
from ksched.names.sampler_type import SamplerType

__all__ = ["SCHEDULE_SPELLINGS", "Dialect", "NoiseSchedule", "Prediction", "SamplerType"]


class NoiseSchedule(Name):
    """The noise levels (sigmas) that a run visits; the values are ComfyUI's words."""

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
    IDEOGRAM4 = "ideogram4"
    BONG_TANGENT = "bong_tangent"
    COSINE = "cosine"
    PHI = "phi"
    SMOOTHSTEP = "smoothstep"
    LOGIT_NORMAL = "logit_normal"
    SWAY = "sway"
    PIECEWISE = "piecewise"

    @classmethod
    def default(cls) -> NoiseSchedule:
        """The schedule used when none is named."""
        return cls.SIMPLE

    @classmethod
    def _kind(cls) -> str:
        return "noise schedule"

    @classmethod
    def _spellings(cls) -> Mapping[str, str]:
        return SCHEDULE_SPELLINGS

    @classmethod
    def _absent(cls) -> Mapping[str, str]:
        return SCHEDULES_ELSEWHERE


class Dialect(Name):
    """The program whose behaviour a name refers to; ``ksched`` is the published mathematics."""

    KSCHED = "ksched"
    COMFYUI = "comfyui"
    K_DIFFUSION = "k_diffusion"
    DIFFUSERS = "diffusers"
    A1111 = "a1111"
    SD_CPP = "sd_cpp"
    SKRAMPLE = "skrample"
    RES4LYF = "res4lyf"
    SDNEXT = "sdnext"

    @classmethod
    def _kind(cls) -> str:
        return "dialect"

    @classmethod
    def _spellings(cls) -> Mapping[str, str]:
        return {"stable-diffusion.cpp": "sd_cpp", "SD.Next": "sdnext"}

    @classmethod
    def _pairs(cls) -> bool:
        return False


class Prediction(Name):
    """What a network predicts; a, s are the scales of the data x0 and of the noise eps in its input."""

    EPSILON = "epsilon"  # eps
    V_PREDICTION = "v_prediction"  # a * eps - s * x0
    SAMPLE = "sample"  # x0
    FLOW = "flow"  # eps - x0
    SCORE = "score"  # the gradient of log p with respect to that input: -eps over its noise's standard deviation
    VELOCITY_TO_DATA = "velocity_to_data"  # x0 - eps
    EDM = "edm"  # the F of EDM's preconditioning

    @classmethod
    def _kind(cls) -> str:
        return "prediction type"

    @classmethod
    def _spellings(cls) -> Mapping[str, str]:
        return {word: member for member, words in _PREDICTION_WORDS.items() for word in words.split()}

    @classmethod
    def _pairs(cls) -> bool:
        return False


#: what papers and other programs call the same prediction
_PREDICTION_WORDS: Mapping[str, str] = {
    "epsilon": "eps eps_prediction epsilon_prediction pred_epsilon pred_eps noise noise_prediction pred_noise",
    "v_prediction": "v v_pred vpred pred_v v_param v_parameterization v_objective v_diffusion v_prediction_edm",
    "sample": "x0 x_0 x0_prediction pred_x0 x_start start_x xstart pred_xstart pred_x_start denoised data clean "
    "sample_prediction pred_sample original_sample pred_original_sample x_prediction x_pred clean_data",
    "flow": "velocity velocity_prediction pred_velocity flow_prediction flow_pred flow_match flow_matching rectified "
    "rectified_flow rf vector_field u const",
    "score": "score_function score_prediction pred_score score_matching grad_log_p grad_log_prob",
    "velocity_to_data": "x0_minus_eps data_minus_noise flow_to_data negative_velocity x1_minus_x0",
    "edm": "F F_theta F_prediction raw edm_prediction karras",
}


#: what other programs call the same schedule
SCHEDULE_SPELLINGS: Mapping[str, str] = {
    spelling: member
    for member, spellings in {
        "karras": "use_karras_sigmas get_sigmas_karras edm",
        "exponential": "use_exponential_sigmas get_sigmas_exponential use_lu_lambdas lambdas",
        "normal": "uniform linspace discrete discrete_schedule",
        "ddim_uniform": "ddim",
        "beta": "betas use_beta_sigmas beta_sampling_scheduler",
        "sgm_uniform": "sgm",
        "polyexponential": "poly_exponential polyexp get_sigmas_polyexponential",
        "vp": "get_sigmas_vp vp_scheduler",
        "laplace": "laplace_scheduler",
        "kl_optimal": "kloptimal",
        "logsnr": "log_snr log_snr_uniform",
        "sd_turbo": "sdturbo sd_turbo_scheduler",
        "trailing": "turbo",
        "align_your_steps": "ays align_your_steps_scheduler",
        "gits": "gits_scheduler",
        "optimal_steps": "oss optimal_steps_scheduler",
        "ltxv": "ltxv_scheduler ltx2",
        "flux2": "flux2_scheduler",
        "ideogram4": "ideogram4_scheduler",
        "logit_normal": "probit",
        "sway": "sway_sampling",
    }.items()
    for spelling in spellings.split()
}
