"""Every noise schedule of other programs, as a ksched schedule with options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ksched.dialects.peer import A1111, COMFYUI, DIFFUSERS, K_DIFFUSION, RES4LYF, SD_CPP, SDNEXT, SKRAMPLE, Peer
from ksched.names.enums import NoiseSchedule

__all__ = ["PEERS"]


_HANDLERS = (
    Peer(COMFYUI, "simple", NoiseSchedule.SIMPLE),
    Peer(COMFYUI, "sgm_uniform", NoiseSchedule.SGM_UNIFORM),
    Peer(COMFYUI, "karras", NoiseSchedule.KARRAS),
    Peer(COMFYUI, "exponential", NoiseSchedule.EXPONENTIAL),
    Peer(COMFYUI, "ddim_uniform", NoiseSchedule.DDIM_UNIFORM, note="may have more steps than requested"),
    Peer(COMFYUI, "beta", NoiseSchedule.BETA, note="may have fewer steps than requested"),
    Peer(COMFYUI, "normal", NoiseSchedule.NORMAL),
    Peer(COMFYUI, "linear_quadratic", NoiseSchedule.LINEAR_QUADRATIC),
    Peer(COMFYUI, "kl_optimal", NoiseSchedule.KL_OPTIMAL, note="one step gives nan there"),
)


_NODES = (
    Peer(COMFYUI, "BasicScheduler", None, note="runs one of the names above; for its denoise use `schedules.stretch`"),
    Peer(
        COMFYUI,
        "KarrasScheduler",
        NoiseSchedule.KARRAS,
        note="has its own sigma_max and sigma_min, 14.614642 and 0.0291675",
    ),
    Peer(COMFYUI, "ExponentialScheduler", NoiseSchedule.EXPONENTIAL, note="same range as KarrasScheduler"),
    Peer(COMFYUI, "PolyexponentialScheduler", NoiseSchedule.POLYEXPONENTIAL, note="same range as KarrasScheduler"),
    Peer(COMFYUI, "VPScheduler", NoiseSchedule.VP, note="sigma 152 to 0.0105 for every model"),
    Peer(COMFYUI, "LaplaceScheduler", NoiseSchedule.LAPLACE, note="same range as KarrasScheduler; does not end with 0"),
    Peer(
        COMFYUI,
        "SDTurboScheduler",
        NoiseSchedule.SD_TURBO,
        note="at most 10 steps there; for its denoise use `schedules.truncate`",
    ),
    Peer(COMFYUI, "BetaSamplingScheduler", NoiseSchedule.BETA),
    Peer(COMFYUI, "AlignYourStepsScheduler", NoiseSchedule.ALIGN_YOUR_STEPS, note='model is "sd1", "sdxl" or "svd"'),
    Peer(COMFYUI, "GITSScheduler", NoiseSchedule.GITS, note="its coeff is the option coefficient"),
    Peer(COMFYUI, "OptimalStepsScheduler", NoiseSchedule.OPTIMAL_STEPS, note='model is "flux", "wan" or "chroma"'),
    Peer(
        COMFYUI,
        "LTXVScheduler",
        NoiseSchedule.LTXV,
        note="tokens is the length of its latent; one step gives nan there",
    ),
    Peer(COMFYUI, "Flux2Scheduler", NoiseSchedule.FLUX2),
    Peer(
        COMFYUI,
        "Ideogram4Scheduler",
        NoiseSchedule.IDEOGRAM4,
        note="its first version has std 1.75; a later version can end at 0.00055 instead of 0",
    ),
    Peer(COMFYUI, "ManualSigmas", None, note="pass the list itself: `build_sampler(..., sigmas=[...])`"),
    Peer(COMFYUI, "SplitSigmas", None, note="changes an existing list: `schedules.split`"),
    Peer(COMFYUI, "SplitSigmasDenoise", None, note="changes an existing list: `schedules.split_at_strength`"),
    Peer(COMFYUI, "FlipSigmas", None, note="changes an existing list: `schedules.flip`"),
    Peer(COMFYUI, "SetFirstSigma", None, note="changes an existing list: `schedules.set_first`"),
    Peer(COMFYUI, "ExtendIntermediateSigmas", None, note="changes an existing list: `schedules.extend`"),
)


_RES4LYF_IN_COMFYUI = (
    Peer(
        COMFYUI,
        "bong_tangent",
        NoiseSchedule.BONG_TANGENT,
        note="from RES4LYF; goes from 1 to 0 there for every model, as on flow",
    ),
    Peer(COMFYUI, "beta57", NoiseSchedule.BETA57, note="from RES4LYF; may have fewer steps than requested"),
    Peer(COMFYUI, "tan_scheduler", None, note="from RES4LYF, with about eighty nodes for curves drawn by hand"),
)


_K_DIFFUSION = (
    Peer(K_DIFFUSION, "get_sigmas_karras", NoiseSchedule.KARRAS),
    Peer(K_DIFFUSION, "get_sigmas_exponential", NoiseSchedule.EXPONENTIAL),
    Peer(K_DIFFUSION, "get_sigmas_polyexponential", NoiseSchedule.POLYEXPONENTIAL),
    Peer(K_DIFFUSION, "get_sigmas_vp", NoiseSchedule.VP, note="sigma 152 to 0.0105 for every model"),
    Peer(
        K_DIFFUSION,
        "DiscreteSchedule.get_sigmas",
        NoiseSchedule.NORMAL,
        note="without a number it is `process.sigmas[::-1]`, then 0",
    ),
)


_LINEAR = "sigma is interpolated linearly between timesteps there, which changes sigmas by less than 0.01 %"


_ROUNDED = "timesteps are rounded there, which changes sigmas by up to 1 %"


_DIFFUSERS = (
    Peer(
        DIFFUSERS,
        "linspace",
        NoiseSchedule.NORMAL,
        note=f"Euler, Heun, LMS, KDPM2 and SDE classes; {_LINEAR}; a single step starts at the lowest sigma",
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
        note="steps_offset is 1 as for Stable Diffusion (0 by default); a single step starts at the lowest sigma there",
    ),
    Peer(
        DIFFUSERS,
        "leading (multistep)",
        None,
        note="strides of 1000 // (steps + 1); use `schedules.drop_penultimate` of `leading` with one more step",
    ),
    Peer(DIFFUSERS, "trailing", NoiseSchedule.TRAILING),
    Peer(
        DIFFUSERS,
        "use_karras_sigmas",
        NoiseSchedule.KARRAS,
        note="Euler, Heun, LMS, KDPM2 and SDE classes stay between the first and last sigma of timestep_spacing; "
        "multistep classes use the whole range and round timesteps",
    ),
    Peer(DIFFUSERS, "use_exponential_sigmas", NoiseSchedule.EXPONENTIAL, note="same range as use_karras_sigmas"),
    Peer(DIFFUSERS, "use_lu_lambdas", NoiseSchedule.EXPONENTIAL, note=_ROUNDED),
    Peer(DIFFUSERS, "use_beta_sigmas", NoiseSchedule.BETA, note="same range as use_karras_sigmas"),
    Peer(
        DIFFUSERS,
        "use_flow_sigmas",
        NoiseSchedule.SIMPLE,
        note="on `Flow(flow_shift)`; starts one training step below pure noise there; up to 0.1 % apart (UniPC 5 %)",
    ),
    Peer(DIFFUSERS, "sigma_schedule=karras", NoiseSchedule.KARRAS, note="EDM classes, on `EDM()`"),
    Peer(DIFFUSERS, "sigma_schedule=exponential", NoiseSchedule.EXPONENTIAL, note="EDM classes, on `EDM()`"),
    Peer(
        DIFFUSERS,
        "FlowMatchEulerDiscreteScheduler",
        NoiseSchedule.NORMAL,
        {"shift_twice": True},
        "on `Flow(shift)`, without use_dynamic_shifting; the ends of the range are shifted twice",
    ),
    Peer(
        DIFFUSERS,
        "use_dynamic_shifting",
        NoiseSchedule.SIMPLE,
        note="on `Flow.of_mu(mu)`, with the sigmas that pipelines pass, linspace(1, 1 / steps, steps)",
    ),
    Peer(DIFFUSERS, "LCMScheduler", NoiseSchedule.SIMPLE, note="on `VP(keep_every=20)`; also TCDScheduler"),
    Peer(DIFFUSERS, "AysSchedules", NoiseSchedule.ALIGN_YOUR_STEPS, note='its sigmas; model is "sd1", "sdxl" or "svd"'),
    Peer(DIFFUSERS, "shift_terminal", None, note="changes an existing list: `schedules.stretch_terminal`"),
    Peer(DIFFUSERS, "invert_sigmas", None, note="changes an existing list: `1 - sigmas`"),
    Peer(DIFFUSERS, "rescale_betas_zero_snr", None, note="part of the process: `VP(zero_terminal_snr=True)`"),
    Peer(
        DIFFUSERS,
        "final_sigmas_type=sigma_min",
        None,
        note="repeats the last sigma, which is a step of length 0; in ksched 0 follows",
    ),
)


_FORGE_TABLE: Mapping[str, Any] = {"fit_range": False, "last": "keep"}


_LABELS = (
    Peer(A1111, "Automatic", None, note="the schedule of the sampler's label; see `parse_label`"),
    Peer(A1111, "Uniform", NoiseSchedule.NORMAL),
    Peer(A1111, "Karras", NoiseSchedule.KARRAS),
    Peer(A1111, "Exponential", NoiseSchedule.EXPONENTIAL),
    Peer(A1111, "Polyexponential", NoiseSchedule.POLYEXPONENTIAL),
    Peer(A1111, "SGM Uniform", NoiseSchedule.SGM_UNIFORM),
    Peer(A1111, "KL Optimal", NoiseSchedule.KL_OPTIMAL, note="ends at sigma_min instead of 0"),
    Peer(A1111, "Align Your Steps", NoiseSchedule.ALIGN_YOUR_STEPS, note='model="sdxl" for SDXL'),
    Peer(A1111, "Simple", NoiseSchedule.SIMPLE),
    Peer(A1111, "Normal", NoiseSchedule.NORMAL),
    Peer(A1111, "DDIM", NoiseSchedule.DDIM_UNIFORM, note="may have more steps than requested"),
    Peer(A1111, "Beta", NoiseSchedule.BETA, note="also in Forge"),
    Peer(
        A1111,
        "Beta (reForge)",
        NoiseSchedule.BETA,
        {"domain": "table", "entries": "always"},
        "ComfyUI's version; may have fewer steps than requested",
    ),
    Peer(
        A1111,
        "Turbo",
        NoiseSchedule.TRAILING,
        note="in Forge and reForge; a stride that ends half-way may be rounded differently",
    ),
    Peer(
        A1111,
        "Align Your Steps GITS",
        NoiseSchedule.ALIGN_YOUR_STEPS,
        {"version": "forge_gits", **_FORGE_TABLE},
        'in Forge and reForge; model="sdxl" for SDXL',
    ),
    Peer(
        A1111,
        "Align Your Steps 11",
        NoiseSchedule.ALIGN_YOUR_STEPS,
        {"version": "forge_11", **_FORGE_TABLE},
        'in Forge and reForge; model="sdxl" for SDXL',
    ),
    Peer(
        A1111,
        "Align Your Steps 32",
        NoiseSchedule.ALIGN_YOUR_STEPS,
        {"version": "forge_32", **_FORGE_TABLE},
        'in Forge and reForge; model="sdxl" for SDXL',
    ),
    Peer(
        A1111,
        "Cosine (reForge)",
        NoiseSchedule.COSINE,
        note="a single step starts at the square root of sigma_max there",
    ),
    Peer(A1111, "Phi (reForge)", NoiseSchedule.PHI, note="a single step starts at the square root of sigma_max there"),
    Peer(A1111, "Laplace (reForge)", NoiseSchedule.LAPLACE, {"ends": "clamp"}, "followed by a 0 there"),
    Peer(A1111, "Sinusoidal SF (reForge)", None, note="ends far below the trained range, and not with 0"),
    Peer(A1111, "Invcosinusoidal SF (reForge)", None, note="ends far below the trained range, and not with 0"),
    Peer(A1111, "React Cosinusoidal DynSF (reForge)", None, note="neither starts at sigma_max nor ends with 0"),
    Peer(A1111, "Cosine-exponential Blend (reForge)", None, note="rises towards its end"),
    Peer(A1111, "Karras Dynamic (reForge)", None, note="starts far above sigma_max"),
    Peer(
        A1111,
        "Align Your Steps Custom (reForge)",
        None,
        note="pass the list itself: `build_sampler(..., sigmas=[...])`",
    ),
)


_N = NoiseSchedule
_PIXELS = "for 512 x 512 pixels; larger images add half the log of the ratio to mu, as in ideogram4"


_SD_CPP = (
    Peer(SD_CPP, "discrete", _N.NORMAL, note="also named normal"),
    Peer(SD_CPP, "karras", _N.KARRAS),
    Peer(SD_CPP, "exponential", _N.EXPONENTIAL),
    Peer(SD_CPP, "ays", _N.ALIGN_YOUR_STEPS, note='model is "sd1", "sdxl" or "svd", chosen by the checkpoint there'),
    Peer(SD_CPP, "gits", _N.GITS, note="coefficient is 1.2"),
    Peer(SD_CPP, "sgm_uniform", _N.SGM_UNIFORM),
    Peer(SD_CPP, "simple", _N.SIMPLE),
    Peer(SD_CPP, "smoothstep", _N.SMOOTHSTEP, note="may repeat sigmas at either end"),
    Peer(SD_CPP, "kl_optimal", _N.KL_OPTIMAL),
    Peer(SD_CPP, "lcm", _N.SIMPLE, {"entries": "auto"}, "on `VP(keep_every=20)`"),
    Peer(SD_CPP, "bong_tangent", _N.BONG_TANGENT, note="falls towards sigma_min there, then to 0"),
    Peer(SD_CPP, "ltx2", _N.LTXV, note="tokens is the length of its latent"),
    Peer(SD_CPP, "logit_normal", _N.LOGIT_NORMAL, note=_PIXELS),
    Peer(SD_CPP, "flux2", _N.FLUX2),
    Peer(
        SD_CPP,
        "flux",
        _N.SIMPLE,
        {"entries": "never"},
        "on `Flow.of_mu(mu)`, with mu from 0.5 to 1.15 by the number of tokens",
    ),
    Peer(SD_CPP, "beta", _N.BETA, note="may have fewer steps than requested"),
)


_BENT = "bent there so that one further step would reach 0, which gives other numbers"
_NOT_ALONE = "changes the time of another schedule; pass the sigmas, or a function of your own"


_SKRAMPLE = (
    Peer(SKRAMPLE, "Linear", _N.SIMPLE, note="on `Flow()`"),
    Peer(SKRAMPLE, "Scaled", _N.SIMPLE, {"entries": "never"}, "uses a closed form of the table, up to 0.2 % apart"),
    Peer(SKRAMPLE, "ZSNR", None, note="part of the process: `VP(zero_terminal_snr=True)`"),
    Peer(SKRAMPLE, "Karras", _N.KARRAS, note=_BENT),
    Peer(SKRAMPLE, "Exponential", _N.EXPONENTIAL, note=f"{_BENT}; with rho it is polyexponential"),
    Peer(SKRAMPLE, "Beta", _N.BETA, note="scaled by sigma_max there on every process, as on flow; ignores sigma_min"),
    Peer(SKRAMPLE, "Probit", _N.LOGIT_NORMAL, note="its scale is the option std"),
    Peer(SKRAMPLE, "FlowShift", None, note="part of the process: `Flow(shift)`"),
    Peer(SKRAMPLE, "Hyper", None, note=_NOT_ALONE),
    Peer(SKRAMPLE, "Sinner", None, note=_NOT_ALONE),
    Peer(SKRAMPLE, "NoSub", None, note="changes nothing"),
    Peer(SKRAMPLE, "NoMod", None, note="changes nothing"),
    Peer(SKRAMPLE, "FixedSchedule", None, note="pass the list itself: `build_sampler(..., sigmas=[...])`"),
)


_RES4LYF = tuple(
    peer._replace(program=RES4LYF, note=peer.note.removeprefix("from RES4LYF").lstrip(";, "))
    for peer in (*_HANDLERS, *_RES4LYF_IN_COMFYUI)
)


_SDNEXT = (
    Peer(SDNEXT, "default", None, note="the sigmas of the sampler's class, by its timestep spacing"),
    *(
        peer._replace(program=SDNEXT, name=name)
        for name, theirs in {
            "karras": "use_karras_sigmas",
            "betas": "use_beta_sigmas",
            "exponential": "use_exponential_sigmas",
            "lambdas": "use_lu_lambdas",
            "flowmatch": "use_flow_sigmas",
            "linspace": "linspace",
            "leading": "leading",
            "trailing": "trailing",
        }.items()
        for peer in _DIFFUSERS
        if peer.name == theirs
    ),
    Peer(SDNEXT, "AYS SD15", _N.ALIGN_YOUR_STEPS, note="as ten timesteps there"),
    Peer(SDNEXT, "AYS SDXL", _N.ALIGN_YOUR_STEPS, {"model": "sdxl"}, "as ten timesteps there"),
)


#: every schedule name, in the order of the programs
PEERS: tuple[Peer, ...] = (
    *_HANDLERS,
    *_NODES,
    *_RES4LYF_IN_COMFYUI,
    *_K_DIFFUSION,
    *_DIFFUSERS,
    *_LABELS,
    *_SD_CPP,
    *_SKRAMPLE,
    *_RES4LYF,
    *_SDNEXT,
)
