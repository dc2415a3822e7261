"""Every sampler that ships: its function, and the facts that are declared of it and tested."""

from __future__ import annotations

from typing import Any

from ksched.names.enums import SamplerType
from ksched.plan.protocol import SamplerFunction
from ksched.samplers import (
    adams,
    adaptive,
    cfg_pp,
    deis,
    dpm_solver,
    dpmpp,
    er_sde,
    euler,
    exponential_multistep,
    exponential_single_step,
    res,
    runge_kutta,
    sa_solver,
    uni_pc,
)
from ksched.samplers.spec import SamplerSpec

__all__ = ["SHIPPED"]


def _spec(
    name: SamplerType, family: str, function: SamplerFunction, order: int, source: str, **facts: Any
) -> SamplerSpec:
    return SamplerSpec(name.value, function, order, source, family=family, **facts)


def _heunpp2_calls(steps: int, to_zero: bool) -> int:
    return max(3 * steps - (3 if to_zero else 1), min(steps, 1))


def _pece_calls(steps: int, to_zero: bool) -> int:
    return max(2 * steps - 1, 0)


def _pndm_calls(steps: int, to_zero: bool) -> int:
    return steps + 3 * min(3, max(steps - to_zero, 0))


_EDM, _DPM, _DPMPP = "arXiv:2206.00364", "Lu et al. 2022, arXiv:2206.00927", "Lu et al. 2022, arXiv:2211.01095"


_KARRAS = f"Karras et al. 2022, {_EDM}"


_PLUS = "Chung et al. 2024, arXiv:2406.08070"


_RES = "Zhang et al. 2023, arXiv:2308.02157"


_SEEDS = "Gonzalez et al. 2023, arXiv:2305.14267"


_SA = "Xue et al. 2023, arXiv:2309.05019"


_ADAMS = "Hochbruck & Ostermann 2011"


SHIPPED = (
    _spec(SamplerType.EULER, "euler", euler.euler, 1, _KARRAS),
    _spec(SamplerType.EULER_CFG_PP, "cfg_pp", cfg_pp.euler_cfg_pp, 1, _PLUS, uncond=True),
    _spec(SamplerType.EULER_ANCESTRAL, "euler", euler.euler_ancestral, 1, "k-diffusion", draws=1, weak_order=1),
    _spec(
        SamplerType.EULER_ANCESTRAL_CFG_PP,
        "cfg_pp",
        cfg_pp.euler_ancestral_cfg_pp,
        1,
        _PLUS,
        draws=1,
        weak_order=1,
        uncond=True,
    ),
    _spec(SamplerType.HEUN, "runge_kutta", runge_kutta.heun, 2, _KARRAS, calls=2),
    _spec(SamplerType.HEUNPP2, "runge_kutta", runge_kutta.heunpp2, 2, "ComfyUI", calls=_heunpp2_calls),
    _spec(
        SamplerType.EXP_HEUN_2_X0,
        "exponential_single_step",
        exponential_single_step.exp_heun_2_x0,
        2,
        "Cox & Matthews 2002",
        calls=2,
    ),
    _spec(
        SamplerType.EXP_HEUN_2_X0_SDE,
        "exponential_single_step",
        exponential_single_step.exp_heun_2_x0_sde,
        2,
        "ComfyUI",
        calls=2,
        draws=1,
        weak_order=2,
    ),
    _spec(SamplerType.DPM_2, "runge_kutta", runge_kutta.dpm_2, 2, _DPM, calls=2),
    _spec(
        SamplerType.DPM_2_ANCESTRAL,
        "runge_kutta",
        runge_kutta.dpm_2_ancestral,
        2,
        "k-diffusion",
        calls=2,
        draws=1,
        weak_order=2,
    ),
    _spec(SamplerType.LMS, "linear_multistep", adams.lms, 2, "k-diffusion"),
    _spec(SamplerType.DPM_FAST, "exponential_single_step", exponential_single_step.dpm_fast, 2, _DPM, weak_order=2),
    _spec(SamplerType.DPM_ADAPTIVE, "adaptive", adaptive.dpm_adaptive, 3, _DPM, calls=3, adaptive=True),
    _spec(
        SamplerType.DPMPP_2S_ANCESTRAL,
        "exponential_single_step",
        exponential_single_step.dpmpp_2s_ancestral,
        2,
        _DPMPP,
        calls=2,
        draws=1,
        weak_order=2,
    ),
    _spec(
        SamplerType.DPMPP_2S_ANCESTRAL_CFG_PP,
        "cfg_pp",
        cfg_pp.dpmpp_2s_ancestral_cfg_pp,
        2,
        "ComfyUI",
        calls=2,
        draws=1,
        weak_order=2,
        uncond=True,
    ),
    _spec(
        SamplerType.DPMPP_SDE,
        "exponential_single_step",
        exponential_single_step.dpmpp_sde,
        2,
        _DPMPP,
        calls=2,
        draws=2,
        weak_order=2,
    ),
    _spec(SamplerType.DPMPP_2M, "exponential_multistep", dpmpp.dpmpp_2m, 2, _DPMPP),
    _spec(SamplerType.DPMPP_2M_CFG_PP, "cfg_pp", cfg_pp.dpmpp_2m_cfg_pp, 2, "ComfyUI", uncond=True),
    _spec(SamplerType.DPMPP_2M_SDE, "exponential_multistep", dpmpp.dpmpp_2m_sde, 2, _DPMPP, draws=1, weak_order=2),
    _spec(
        SamplerType.DPMPP_2M_SDE_HEUN,
        "exponential_multistep",
        dpmpp.dpmpp_2m_sde_heun,
        2,
        _DPMPP,
        draws=1,
        weak_order=2,
    ),
    _spec(
        SamplerType.DPMPP_3M_SDE,
        "exponential_multistep",
        dpmpp.dpmpp_3m_sde,
        2,
        "k-diffusion",
        draws=1,
        weak_order=2,
    ),
    _spec(SamplerType.DDPM, "euler", euler.ddpm, 1, "Ho et al. 2020, arXiv:2006.11239", draws=1, weak_order=1),
    _spec(SamplerType.LCM, "euler", euler.lcm, 0, "Luo et al. 2023, arXiv:2310.04378", draws=1),
    _spec(SamplerType.TCD, "euler", euler.tcd, 1, "Zheng et al. 2024, arXiv:2402.19159", draws=None),
    _spec(SamplerType.IPNDM, "linear_multistep", adams.ipndm, 2, "Liu et al. 2022, arXiv:2202.09778"),
    _spec(SamplerType.IPNDM_V, "linear_multistep", adams.ipndm_v, 2, "Zhou et al., diff-sampler"),
    _spec(SamplerType.DEIS, "exponential_multistep", deis.deis, 2, "Zhang & Chen 2022, arXiv:2204.13902"),
    _spec(SamplerType.RES_MULTISTEP, "exponential_multistep", res.res_multistep, 2, _RES),
    _spec(SamplerType.RES_MULTISTEP_CFG_PP, "cfg_pp", cfg_pp.res_multistep_cfg_pp, 2, "ComfyUI", uncond=True),
    _spec(
        SamplerType.RES_MULTISTEP_ANCESTRAL,
        "exponential_multistep",
        res.res_multistep_ancestral,
        2,
        _RES,
        draws=1,
        weak_order=2,
    ),
    _spec(
        SamplerType.RES_MULTISTEP_ANCESTRAL_CFG_PP,
        "cfg_pp",
        cfg_pp.res_multistep_ancestral_cfg_pp,
        2,
        "ComfyUI",
        draws=1,
        weak_order=2,
        uncond=True,
    ),
    _spec(
        SamplerType.GRADIENT_ESTIMATION,
        "linear_multistep",
        adams.gradient_estimation,
        1,
        "Permenter & Yuan 2023, arXiv:2306.04848",
    ),
    _spec(
        SamplerType.GRADIENT_ESTIMATION_CFG_PP, "cfg_pp", cfg_pp.gradient_estimation_cfg_pp, 1, "ComfyUI", uncond=True
    ),
    _spec(
        SamplerType.ER_SDE,
        "exponential_multistep",
        er_sde.er_sde,
        2,
        "Cui et al. 2023, arXiv:2309.06169",
        draws=1,
        weak_order=2,
    ),
    _spec(
        SamplerType.SEEDS_2,
        "exponential_single_step",
        exponential_single_step.seeds_2,
        2,
        _SEEDS,
        calls=2,
        draws=2,
        weak_order=2,
    ),
    _spec(
        SamplerType.SEEDS_3,
        "exponential_single_step",
        exponential_single_step.seeds_3,
        3,
        _SEEDS,
        calls=3,
        draws=3,
        weak_order=2,
    ),
    _spec(SamplerType.SA_SOLVER, "exponential_multistep", sa_solver.sa_solver, 3, _SA, draws=None, weak_order=2),
    _spec(
        SamplerType.SA_SOLVER_PECE,
        "exponential_multistep",
        sa_solver.sa_solver_pece,
        3,
        _SA,
        calls=_pece_calls,
        draws=None,
        weak_order=2,
    ),
    _spec(SamplerType.CFGPP_UD10_AB, "cfg_pp", cfg_pp.cfgpp_ud10_ab, 0, "ComfyUI", uncond=True, ends_at_denoised=False),
    _spec(SamplerType.DDIM, "euler", euler.ddim_eta, 1, "Song et al. 2020, arXiv:2010.02502", weak_order=1),
    _spec(SamplerType.UNI_PC, "exponential_multistep", uni_pc.uni_pc, 2, "Zhao et al. 2023, arXiv:2302.04867"),
    _spec(SamplerType.UNI_PC_BH2, "exponential_multistep", uni_pc.uni_pc_bh2, 2, "Zhao et al. 2023, arXiv:2302.04867"),
    _spec(SamplerType.EXP_AB, "exponential_multistep", exponential_multistep.exp_ab, 2, _ADAMS),
    _spec(SamplerType.EXP_PC, "exponential_multistep", exponential_multistep.exp_pc, 3, _ADAMS),
    _spec(SamplerType.DPM_MULTISTEP, "dpm_solver", dpm_solver.dpm_multistep, 2, _DPMPP, weak_order=2),
    _spec(SamplerType.DPM_SINGLESTEP, "dpm_solver", dpm_solver.dpm_singlestep, 2, _DPM, weak_order=2),
    _spec(SamplerType.PNDM, "linear_multistep", adams.pndm, 2, "Liu et al. 2022, arXiv:2202.09778", calls=_pndm_calls),
    _spec(SamplerType.MIDPOINT, "runge_kutta", runge_kutta.midpoint, 2, "Runge 1895", calls=2),
    _spec(SamplerType.RALSTON, "runge_kutta", runge_kutta.ralston, 2, "Ralston 1962", calls=2),
    _spec(
        SamplerType.BOGACKI_SHAMPINE, "runge_kutta", runge_kutta.bogacki_shampine, 3, "Bogacki & Shampine 1989", calls=3
    ),
    _spec(SamplerType.RK4, "runge_kutta", runge_kutta.rk4, 4, "Kutta 1901", calls=4),
    _spec(SamplerType.DORMAND_PRINCE, "runge_kutta", runge_kutta.dormand_prince, 5, "Dormand & Prince 1980", calls=6),
    _spec(SamplerType.RES_2S, "exponential_single_step", exponential_single_step.res_2s, 2, _RES, calls=2),
    _spec(
        SamplerType.RES_3S,
        "exponential_single_step",
        exponential_single_step.res_3s,
        3,
        "Hochbruck & Ostermann 2005",
        calls=3,
    ),
    _spec(
        SamplerType.ETDRK4, "exponential_single_step", exponential_single_step.etdrk4, 4, "Cox & Matthews 2002", calls=4
    ),
    _spec(
        SamplerType.RESTART,
        "runge_kutta",
        runge_kutta.restart,
        2,
        "Xu et al. 2023, arXiv:2306.14878",
        calls=None,
        draws=None,
        weak_order=2,
    ),
    _spec(
        SamplerType.RK_ADAPTIVE, "adaptive", adaptive.rk_adaptive, 5, "Dormand & Prince 1980", calls=6, adaptive=True
    ),
)
