"""Every sampler of the other programs, as ours with options: those that registrations name, then those not here."""

from __future__ import annotations

from ksched.dialects.peer import A1111, COMFYUI, DIFFUSERS, K_DIFFUSION, SamplerPeer
from ksched.names.enums import Dialect, SamplerType
from ksched.samplers.registry import samplers
from ksched.samplers.sources import OF_REFORGE

__all__ = ["SAMPLER_PEERS"]


def _here(program: Dialect) -> list[SamplerPeer]:
    """What a program calls our samplers; one that has no member yet is left out, so that the member can be written."""
    members = {member.value: member for member in SamplerType}
    return [
        SamplerPeer(program, peer.name, members[spec.name], peer.options, peer.note)
        for spec in samplers()
        for peer in spec.peers
        if peer.program is program and spec.name in members
    ]


def _not_here(program: Dialect, note: str, *names: str) -> list[SamplerPeer]:
    return [SamplerPeer(program, name, None, note=note) for name in names]


_COMFYUI = (
    *_not_here(COMFYUI, "runs one of the names above", "KSamplerSelect"),
    *_not_here(COMFYUI, "enlarges the picture between steps; the steps are those of `lcm`", "SamplerLCMUpscale"),
    *_not_here(COMFYUI, "made for one model, whose memory of earlier frames it drives", "SamplerARVideo"),
    *_not_here(
        COMFYUI,
        "of RES4LYF, with more stages than any exponential method here: `etdrk4`",
        *("res_5s", "res_5s_ode", "res_6s", "res_6s_ode"),
    ),
    *_not_here(COMFYUI, "of RES4LYF; `dpmpp_3m_sde` with eta 0 uses as many predictions", "res_3m"),
    *_not_here(COMFYUI, "of RES4LYF, which has 118 methods under this name", "rk_beta"),
)


_K_DIFFUSION = _not_here(
    K_DIFFUSION, "measures how likely data is, and draws nothing: `log_likelihood`", "log_likelihood"
)


_ONE_MODEL = "made for one model"


_DIFFUSERS = (
    *_not_here(DIFFUSERS, f"{_ONE_MODEL}: the model answers with a policy, which it rolls out", "PiflowScheduler"),
    *_not_here(DIFFUSERS, "its corrector's step size is read from the data", "ScoreSdeVeScheduler"),
    *_not_here(DIFFUSERS, "Euler-Maruyama on the reverse SDE: `ddpm` does better", "ScoreSdeVpScheduler"),
    *_not_here(DIFFUSERS, "`heun` with s_churn, on levels whose square was meant", "KarrasVeScheduler"),
    *_not_here(DIFFUSERS, "goes back and forth in time for inpainting: `ddim` with a mask", "RePaintScheduler"),
    *_not_here(DIFFUSERS, f"{_ONE_MODEL}: two steps of `lcm` in a decoder", "ConsistencyDecoderScheduler"),
    *_not_here(DIFFUSERS, f"{_ONE_MODEL}: stages of a pyramid of video", "HeliosScheduler", "HeliosDMDScheduler"),
    *_not_here(DIFFUSERS, "states are rotations as well", "RFD4ProteinaScheduler"),
    *_not_here(
        DIFFUSERS,
        "states are tokens, not numbers with Gaussian noise",
        *(f"{name}Scheduler" for name in ("Amused", "VQDiffusion", "DiscreteDDIM", "BlockRefinement", "EntropyBound")),
    ),
)


_A1111 = (
    *_not_here(
        A1111,
        f"{OF_REFORGE}; `rk_adaptive` has pairs of higher order",
        *("ODE (Fehlberg2)", "ODE (Adaptive Heun)", "ODE Custom"),
    ),
    *_not_here(A1111, f"{OF_REFORGE}: `res_2s` with noise of its own", "RES Solver"),
    *_not_here(
        A1111,
        f"{OF_REFORGE}; not a published method",
        *("DPM++ SDE CFG++", "DPM++ 3M SDE CFG++", "Kohaku_LoNyu_Yog", "Euler A2", "Euler Negative"),
    ),
    *_not_here(
        A1111,
        f"{OF_REFORGE}; works on parts or smaller copies of the picture between steps",
        *("Euler Dy", "Euler SMEA Dy", "Euler Negative Dy", "DPM++ 2M DY", "DPM++ 3M DY", "DPM++ 3M SDE DY"),
    ),
)


#: every name of a sampler, in the order of the programs
SAMPLER_PEERS: tuple[SamplerPeer, ...] = (
    *_here(COMFYUI),
    *_COMFYUI,
    *_here(K_DIFFUSION),
    *_K_DIFFUSION,
    *_here(DIFFUSERS),
    *_DIFFUSERS,
    *_here(A1111),
    *_A1111,
)
