"""The names of samplers, noise schedules and dialects."""

from __future__ import annotations

from collections.abc import Mapping

from ksched.names.name import Name, spelling_key
from ksched.names.sampler_type import SamplerType

__all__ = ["SCHEDULE_SPELLINGS", "Dialect", "NoiseSchedule", "SamplerType", "spelling_key"]


class NoiseSchedule(Name):
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
    IDEOGRAM4 = "ideogram4"
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
    def _spellings(cls) -> Mapping[str, str]:
        return SCHEDULE_SPELLINGS


class Dialect(Name):
    """Whose behaviour a name means; ``ksched`` is the published mathematics."""

    KSCHED = "ksched"
    COMFYUI = "comfyui"
    K_DIFFUSION = "k_diffusion"
    DIFFUSERS = "diffusers"
    A1111 = "a1111"

    @classmethod
    def _kind(cls) -> str:
        return "dialect"


#: what other programs call the same schedule
SCHEDULE_SPELLINGS: Mapping[str, str] = {
    spelling: member
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
        "ideogram4": "ideogram4_scheduler logit_normal",
    }.items()
    for spelling in spellings.split()
}
