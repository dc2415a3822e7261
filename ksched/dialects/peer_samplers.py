"""Every sampler of the other programs, as ours with options."""

from __future__ import annotations

from collections.abc import Mapping

from ksched.dialects.peer import A1111, COMFYUI, DIFFUSERS, K_DIFFUSION, NO_OPTIONS, SamplerPeer
from ksched.names.enums import Dialect, SamplerType

__all__ = ["SAMPLER_PEERS"]


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
    SamplerPeer(DIFFUSERS, "LCMScheduler", SamplerType.LCM, note="on `VP(keep_every=20)`"),
    SamplerPeer(
        DIFFUSERS,
        "FlowMatchLCMScheduler",
        SamplerType.LCM,
        {"boundary": 0.0},
        "on `Flow(shift)`; without its scale_factors",
    ),
    SamplerPeer(DIFFUSERS, "TCDScheduler", SamplerType.TCD, note="on `VP(keep_every=20)`"),
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
