"""Samplers of other programs that are none here, each with the reason."""

from __future__ import annotations

from collections.abc import Mapping

from ksched.dialects.peer import A1111, COMFYUI, DIFFUSERS, K_DIFFUSION, RES4LYF, SD_CPP, SDNEXT, SKRAMPLE, SamplerPeer
from ksched.names.enums import Dialect
from ksched.samplers.sources import OF_REFORGE

__all__ = ["NOT_HERE"]


def _not_here(program: Dialect, note: str, *names: str) -> list[SamplerPeer]:
    return [SamplerPeer(program, name, None, note=note) for name in names]


_COMFYUI = (
    *_not_here(COMFYUI, "runs one of the names above", "KSamplerSelect"),
    *_not_here(COMFYUI, "enlarges the picture between steps; the steps are those of `lcm`", "SamplerLCMUpscale"),
    *_not_here(COMFYUI, "made for one model, whose memory of earlier frames it drives", "SamplerARVideo"),
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


_SD_CPP = _not_here(SD_CPP, "`dpmpp_2m` with weights that were changed by hand", "dpm++2mv2")


_SKRAMPLE = (
    *_not_here(
        SKRAMPLE, "Adams-Bashforth of even steps on the prediction, in no variable of its own: `exp_ab`", "Adams"
    ),
    *_not_here(SKRAMPLE, "`uni_pc` without its corrector, which is an option", "UniP"),
    *_not_here(SKRAMPLE, "averages two samplers of your choice", "SPC"),
    *_not_here(SKRAMPLE, "a method for every order up to 15: `midpoint`, `rk4`, `dormand_prince`", "RKUltra"),
    *_not_here(SKRAMPLE, "not a published method: weights that change from step to step", "DynasauRK"),
    *_not_here(SKRAMPLE, "chooses its steps by an embedded pair: `rk_adaptive`", "RKMoire"),
)


_IMPLICIT = "implicit: asks the model again until its stages agree, as no sampler here does"
_OTHER_STAGES = "stages of another table"
_LAWSON = "Runge-Kutta in x / sigma and log sigma; `res_2s` and `etdrk4` are exact for a constant prediction"
_MEMORY = "stages and a memory of earlier steps together; with a memory alone there is `exp_ab`"


_RES4LYF = (
    *_not_here(RES4LYF, "the node's own name, with a menu of methods", "rk_beta"),
    *_not_here(RES4LYF, f"{_OTHER_STAGES}: `res_2s`", "res_2s_rkmk2e", "res_2s_stable"),
    *_not_here(
        RES4LYF,
        f"{_OTHER_STAGES}: `res_3s`",
        *(f"res_3s_{name}" for name in ("non-monotonic", "alt", "cox_matthews", "lie", "sunstar", "strehmel_weiner")),
        *("etdrk3_a_3s", "etdrk3_b_3s"),
    ),
    *_not_here(
        RES4LYF,
        f"{_OTHER_STAGES}: `etdrk4`",
        *(f"res_4s_{name}" for name in ("krogstad", "krogstad_alt", "strehmel_weiner", "strehmel_weiner_alt")),
        *(f"res_4s_{name}" for name in ("cfree4", "friedli", "minchev", "munthe-kaas")),
        "etdrk4_4s_alt",
    ),
    *_not_here(
        RES4LYF,
        "more stages than any exponential method here: `res_6s`",
        *("res_8s", "res_8s_alt", "res_10s", "res_15s", "res_16s"),
    ),
    *_not_here(RES4LYF, _LAWSON, "lawson2a_2s", "lawson2b_2s", "lawson4_4s", "lawson41-gen_4s", "lawson41-gen-mod_4s"),
    *_not_here(
        RES4LYF,
        _MEMORY,
        *("pec423_2h2s", "pec433_2h3s", "abnorsett2_1h2s", "abnorsett3_2h2s", "abnorsett4_3h2s"),
        *(f"lawson4{k + 1}-gen-mod_{k}h4s" for k in range(1, 5)),
    ),
    *_not_here(
        RES4LYF,
        "of order 3 there is `bogacki_shampine`",
        *("ralston_3s", "heun_3s", "houwen-wray_3s", "kutta_3s", "ssprk3_3s", "ssprk4_4s"),
    ),
    *_not_here(RES4LYF, "of order 4 there is `rk4`", "ralston_4s", "rk38_4s"),
    *_not_here(
        RES4LYF,
        "of order 5 there is `dormand_prince`",
        *("rk5_7s", "rk6_7s", "bogacki-shampine_7s", "dormand-prince_13s", "tsi_7s"),
    ),
    *_not_here(
        RES4LYF,
        _IMPLICIT,
        *("irk_exp_diag_2s", "kraaijevanger_spijker_2s", "qin_zhang_2s", "pareschi_russo_2s", "pareschi_russo_alt_2s"),
        *("crouzeix_2s", "crouzeix_3s", "crouzeix_3s_alt", "gauss-legendre_2s", "gauss-legendre_3s"),
        *(f"gauss-legendre_4s{form}" for form in ("", "_alternating_a", "_ascending_a", "_alt")),
        *("gauss-legendre_5s", "gauss-legendre_5s_ascending", "radau_ia_2s", "radau_ia_3s", "radau_iia_3s_alt"),
        *(f"radau_iia_{stages}s" for stages in (2, 3, 5, 7, 9, 11)),
        *(f"lobatto_iii{kind}_{stages}s" for kind in "abc" for stages in (2, 3, 4)),
        *(f"lobatto_iii{kind}_{stages}s" for kind in ("c_star", "d") for stages in (2, 3)),
    ),
)


_SDNEXT = (
    *_not_here(
        SDNEXT, "the sampler that the model comes with, or that of the other pass", "Default", "Same as primary"
    ),
    *_not_here(SDNEXT, "`uni_pc` with factors that were searched for one model", "DC Solver"),
    *_not_here(
        SDNEXT, f"{_ONE_MODEL}, which is distilled: `lcm` noises a prediction as well", "UFOGen", "Flash FlowMatch"
    ),
    *_not_here(SDNEXT, f"{_ONE_MODEL}, which is distilled to a few windows of time", "PeRFlow", "TDD"),
    *_not_here(SDNEXT, "`ddpm` on a process in continuous log-SNR", "VDM Solver"),
    *_not_here(SDNEXT, "`ddim` with a step back that makes it invertible: `Sampler.invert`", "BDIA DDIM"),
    *_not_here(SDNEXT, _LAWSON, "Lawson 2S A", "Lawson 2S B", "Lawson 4S"),
    *_not_here(SDNEXT, f"{_OTHER_STAGES}: `res_3s` and `etdrk4`", "ETD-RK 3S A", "ETD-RK 3S B", "ETD-RK 4S B"),
    *_not_here(SDNEXT, _MEMORY, "PEC 423", "PEC 433"),
    *_not_here(SDNEXT, "`res_2s` and `res_3s` with noise of its own: `seeds_2`, `seeds_3`", "RES-SDE 2S", "RES-SDE 3S"),
    *_not_here(
        SDNEXT,
        "`euler` on levels of its own",
        *(f"{name} Sigma" for name in ("Sigmoid", "Sine", "Easing", "Arcsine", "Smoothstep")),
    ),
    *_not_here(
        SDNEXT,
        "not a published method",
        *(f"{name} Flow" for name in ("Euclidean", "Hyperbolic", "Spherical", "Lorentzian")),
        "Langevin Dynamics",
    ),
    *_not_here(
        SDNEXT, "of order 3 there is `bogacki_shampine`", "Linear-RK 3", "Specialized-RK 3S", "Specialized-RK 4S"
    ),
    *_not_here(SDNEXT, "of order 5 there is `dormand_prince`", "Runge-Kutta 5/7", "Runge-Kutta 6/7"),
    *_not_here(
        SDNEXT,
        _IMPLICIT,
        *(f"Lobatto {k}" for k in (2, 3, 4)),
        *(f"Radau IIA {k}" for k in (2, 3, 4)),
        *(f"Gauss-Legendre {k}S" for k in (2, 3, 4)),
    ),
)


#: by program: names that are no sampler here
NOT_HERE: Mapping[Dialect, tuple[SamplerPeer, ...]] = {
    COMFYUI: _COMFYUI,
    K_DIFFUSION: tuple(_K_DIFFUSION),
    DIFFUSERS: _DIFFUSERS,
    A1111: _A1111,
    SD_CPP: tuple(_SD_CPP),
    SKRAMPLE: _SKRAMPLE,
    RES4LYF: _RES4LYF,
    SDNEXT: _SDNEXT,
}
