"""Samplers of other programs that ksched does not have, each with the reason."""

from __future__ import annotations

from collections.abc import Mapping

from ksched.dialects.peer import A1111, COMFYUI, DIFFUSERS, K_DIFFUSION, RES4LYF, SD_CPP, SDNEXT, SKRAMPLE, SamplerPeer
from ksched.names.absent_programs import ABSENT
from ksched.names.enums import Dialect
from ksched.samplers.sources import OF_REFORGE

__all__ = ["NOT_HERE"]


def _not_here(program: Dialect, note: str, *names: str) -> list[SamplerPeer]:
    return [SamplerPeer(program, name, None, note=note) for name in names]


_COMFYUI = (
    *_not_here(COMFYUI, "runs one of the names above", "KSamplerSelect"),
    *_not_here(COMFYUI, "enlarges the image between steps; the steps are those of `lcm`", "SamplerLCMUpscale"),
    *_not_here(COMFYUI, "made for one model, whose memory of earlier frames it controls", "SamplerARVideo"),
    *_not_here(COMFYUI, "from RES4LYF, which has 118 methods under this name", "rk_beta"),
)


_K_DIFFUSION = _not_here(
    K_DIFFUSION, "computes the likelihood of data instead of sampling: `log_likelihood`", "log_likelihood"
)


_ONE_MODEL = "made for one model"


_DIFFUSERS = (
    *_not_here(DIFFUSERS, f"{_ONE_MODEL}: the model returns a policy, which it rolls out", "PiflowScheduler"),
    *_not_here(DIFFUSERS, "the step size of its corrector depends on the data", "ScoreSdeVeScheduler"),
    *_not_here(DIFFUSERS, "Euler-Maruyama on the reverse SDE; `ddpm` is more accurate", "ScoreSdeVpScheduler"),
    *_not_here(DIFFUSERS, "`heun` with s_churn, on sigmas that should have been squared", "KarrasVeScheduler"),
    *_not_here(DIFFUSERS, "goes back and forth in time for inpainting; use `ddim` with a mask", "RePaintScheduler"),
    *_not_here(DIFFUSERS, f"{_ONE_MODEL}: two steps of `lcm` in a decoder", "ConsistencyDecoderScheduler"),
    *_not_here(DIFFUSERS, f"{_ONE_MODEL}: stages of a video pyramid", "HeliosScheduler", "HeliosDMDScheduler"),
    *_not_here(DIFFUSERS, "states include rotations", "RFD4ProteinaScheduler"),
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
    *_not_here(A1111, f"{OF_REFORGE}: `res_2s` with its own noise", "RES Solver"),
    *_not_here(
        A1111,
        f"{OF_REFORGE}; not a published method",
        *("DPM++ SDE CFG++", "DPM++ 3M SDE CFG++", "Kohaku_LoNyu_Yog", "Euler A2", "Euler Negative"),
    ),
    *_not_here(
        A1111,
        f"{OF_REFORGE}; works on parts or smaller copies of the image between steps",
        *("Euler Dy", "Euler SMEA Dy", "Euler Negative Dy", "DPM++ 2M DY", "DPM++ 3M DY", "DPM++ 3M SDE DY"),
    ),
)


def _in_names(program: Dialect) -> tuple[SamplerPeer, ...]:
    """Rows of names; `SamplerType.parse` gives the same reasons."""
    return tuple(row for note, names in ABSENT[program].items() for row in _not_here(program, note, *names))


#: for each program, the names that no ksched sampler has
NOT_HERE: Mapping[Dialect, tuple[SamplerPeer, ...]] = {
    COMFYUI: _COMFYUI,
    K_DIFFUSION: tuple(_K_DIFFUSION),
    DIFFUSERS: _DIFFUSERS,
    A1111: _A1111,
    **{program: _in_names(program) for program in (SD_CPP, SKRAMPLE, RES4LYF, SDNEXT)},
}
