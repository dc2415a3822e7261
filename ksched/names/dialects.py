"""What the samplers' names mean in each dialect, as options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ksched.names.enums import Dialect, SamplerType

__all__ = ["DIALECTS"]


_ALL_VE: Mapping[SamplerType, Mapping[str, Any]] = {name: {"as_ve": True} for name in SamplerType}


_K_DIFFUSION: Mapping[SamplerType, Mapping[str, Any]] = {
    SamplerType.LMS: {"end": "integral"},
    SamplerType.DPM_FAST: {"levels": "range", "end": "sigma_min"},
    SamplerType.DPM_ADAPTIVE: {"end": "sigma_min", "reuse": False},
    SamplerType.DPMPP_SDE: {"noises": "independent"},
    SamplerType.DPMPP_3M_SDE: {"curvature": "published"},
}


_IN_LOG_SNR: tuple[SamplerType, ...] = (
    SamplerType.DPMPP_SDE,
    SamplerType.DPMPP_2M_SDE,
    SamplerType.DPMPP_2M_SDE_HEUN,
    SamplerType.DPMPP_3M_SDE,
    SamplerType.ER_SDE,
    SamplerType.SEEDS_2,
    SamplerType.SEEDS_3,
)


_IN_LOG_SNR += (
    SamplerType.SA_SOLVER,
    SamplerType.SA_SOLVER_PECE,
    SamplerType.EXP_HEUN_2_X0,
    SamplerType.EXP_HEUN_2_X0_SDE,
)


_FLOW_FORMS = (SamplerType.EULER_ANCESTRAL, SamplerType.DPM_2_ANCESTRAL, SamplerType.DPMPP_2S_ANCESTRAL)


_ON_FLOW: Mapping[SamplerType, Mapping[str, Any]] = {
    **_ALL_VE,
    **{name: {"start_after": 1e-4} for name in _IN_LOG_SNR},
    **{name: {"split": "comfyui"} for name in _FLOW_FORMS},
    **{
        name: {}
        for name in (
            SamplerType.LCM,
            SamplerType.EULER_CFG_PP,
            SamplerType.EULER_ANCESTRAL_CFG_PP,
            SamplerType.CFGPP_UD10_AB,
        )
    },
}


def _joined(*tables: Mapping[SamplerType, Mapping[str, Any]]) -> Mapping[SamplerType, Mapping[str, Any]]:
    return {name: {k: v for table in tables for k, v in table.get(name, {}).items()} for name in SamplerType}


#: What a name means elsewhere, as options of ours: a dialect is nothing but this table.
DIALECTS: Mapping[Dialect, Mapping[SamplerType, Mapping[str, Any]]] = {
    Dialect.KSCHED: {},
    Dialect.COMFYUI: _joined(
        _ON_FLOW,
        {
            SamplerType.EULER_ANCESTRAL_CFG_PP: {"from_pure_noise": "all_new"},
            SamplerType.HEUNPP2: {"weights": "published"},
            SamplerType.DPM_FAST: _K_DIFFUSION[SamplerType.DPM_FAST],
            SamplerType.DPM_ADAPTIVE: _K_DIFFUSION[SamplerType.DPM_ADAPTIVE],
            SamplerType.DPMPP_SDE: _K_DIFFUSION[SamplerType.DPMPP_SDE],
            SamplerType.DPMPP_2S_ANCESTRAL_CFG_PP: {"shift_by": "second"},
            SamplerType.DPMPP_3M_SDE: _K_DIFFUSION[SamplerType.DPMPP_3M_SDE],
            SamplerType.IPNDM_V: {"weights": "published"},
            SamplerType.DEIS: {"variable": "vp_time_sum"},
            SamplerType.ER_SDE: {"integral": "published"},
            SamplerType.SA_SOLVER: {"last_prediction": False},
            SamplerType.SA_SOLVER_PECE: {"last_prediction": False},
            SamplerType.UNI_PC: {"end_at": 0.001},
            SamplerType.UNI_PC_BH2: {"end_at": 0.001},
        },
    ),
    Dialect.K_DIFFUSION: _joined(_ALL_VE, _K_DIFFUSION),
    Dialect.DIFFUSERS: {
        SamplerType.EULER: {"churn_after": True},
        SamplerType.EULER_ANCESTRAL: {"split": "comfyui"},  # LTXEulerAncestralRFScheduler
        SamplerType.LMS: {"end": "integral"},
        SamplerType.DPMPP_SDE: {"noises": "independent"},
        SamplerType.DPMPP_3M_SDE: {"curvature": "published"},
        SamplerType.LCM: {"boundary": 10.0},
        SamplerType.TCD: {"whole_timesteps": True},
        SamplerType.IPNDM: {"slopes": "eps", "end": "integral"},
        SamplerType.DEIS: {"max_order": 2, "lower_order_final": True},
        SamplerType.SA_SOLVER: {
            "predictor_order": 2,
            "corrector_order": 2,
            "tau_start": 1 - 800 / 999,
            "tau_end": 1 - 200 / 999,
            "tau_at": "start",
            "simple_order_2": True,
            "lower_order_final": True,
        },
        SamplerType.UNI_PC: {"order": 2, "variant": "bh2"},
        SamplerType.UNI_PC_BH2: {"order": 2},
        SamplerType.DPM_MULTISTEP: {
            "order": 2,
            "lower_order_final": True,
            "curvature": "diffusers",
            "sde": "published",
        },
        SamplerType.DPM_SINGLESTEP: {"noises": "independent", "curvature": "diffusers"},
        SamplerType.PNDM: {"end": "integral"},
    },
    Dialect.A1111: _joined(
        _ALL_VE, _K_DIFFUSION, {SamplerType.RESTART: {"levels": "karras"}, SamplerType.PNDM: {"warm_up": "heun"}}
    ),
}
