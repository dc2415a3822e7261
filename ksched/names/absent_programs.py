"""Samplers of four programs that ksched does not have: why, and the nearest that it has, in backticks."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["ABSENT"]

_IMPLICIT = "implicit: it calls the model until its stages converge, which no ksched sampler does"
_OTHER_STAGES = "its stages use another table; the nearest is"
_LAWSON = "Runge-Kutta in x / sigma and log sigma; the nearest are `res_2s` and `etdrk4`"
_MEMORY = "it combines stages with a memory of earlier steps; `exp_ab` has a memory without stages"
_MANY_STAGES = "it has more stages than any exponential method in ksched; the nearest is `res_6s`"
_THIRD, _FOURTH, _FIFTH = (
    f"the sampler of order {order} is `{name}`"
    for order, name in ((3, "bogacki_shampine"), (4, "rk4"), (5, "dormand_prince"))
)
_DISTILLED = "made for one distilled model"


_SD_CPP = {"`dpmpp_2m` with weights changed by hand": ("dpm++2mv2",)}


_SKRAMPLE = {
    "Adams-Bashforth for uniform steps, on the prediction alone; the nearest is `exp_ab`": ("Adams",),
    "use `uni_pc` with its corrector turned off by an option": ("UniP",),
    "it averages two samplers of your choice; the nearest is `exp_pc`": ("SPC",),
    "one method for every order up to 15; ksched has `midpoint`, `rk4` and `dormand_prince`": ("RKUltra",),
    "not a published method: its weights change from step to step": ("DynasauRK",),
    "it chooses its steps by an embedded pair, as `rk_adaptive` does": ("RKMoire",),
}


_RES4LYF = {
    "name of a node with a menu of methods, such as `res_2s`, `res_3s`, `etdrk4` and `rk4`": ("rk_beta",),
    f"{_OTHER_STAGES} `res_2s`": ("res_2s_rkmk2e", "res_2s_stable"),
    f"{_OTHER_STAGES} `res_3s`": (
        *(f"res_3s_{name}" for name in ("non-monotonic", "alt", "cox_matthews", "lie", "sunstar", "strehmel_weiner")),
        *("etdrk3_a_3s", "etdrk3_b_3s"),
    ),
    f"{_OTHER_STAGES} `etdrk4`": (
        *(f"res_4s_{name}" for name in ("krogstad", "krogstad_alt", "strehmel_weiner", "strehmel_weiner_alt")),
        *(f"res_4s_{name}" for name in ("cfree4", "friedli", "minchev", "munthe-kaas")),
        "etdrk4_4s_alt",
    ),
    _MANY_STAGES: ("res_8s", "res_8s_alt", "res_10s", "res_15s", "res_16s"),
    _LAWSON: ("lawson2a_2s", "lawson2b_2s", "lawson4_4s", "lawson41-gen_4s", "lawson41-gen-mod_4s"),
    _MEMORY: (
        *("pec423_2h2s", "pec433_2h3s", "abnorsett2_1h2s", "abnorsett3_2h2s", "abnorsett4_3h2s"),
        *(f"lawson4{k + 1}-gen-mod_{k}h4s" for k in range(1, 5)),
    ),
    _THIRD: ("ralston_3s", "heun_3s", "houwen-wray_3s", "kutta_3s", "ssprk3_3s", "ssprk4_4s"),
    _FOURTH: ("ralston_4s", "rk38_4s"),
    _FIFTH: ("rk5_7s", "rk6_7s", "bogacki-shampine_7s", "dormand-prince_13s", "tsi_7s"),
    _IMPLICIT: (
        *("irk_exp_diag_2s", "kraaijevanger_spijker_2s", "qin_zhang_2s", "pareschi_russo_2s", "pareschi_russo_alt_2s"),
        *("crouzeix_2s", "crouzeix_3s", "crouzeix_3s_alt", "gauss-legendre_2s", "gauss-legendre_3s"),
        *(f"gauss-legendre_4s{form}" for form in ("", "_alternating_a", "_ascending_a", "_alt")),
        *("gauss-legendre_5s", "gauss-legendre_5s_ascending", "radau_ia_2s", "radau_ia_3s", "radau_iia_3s_alt"),
        *(f"radau_iia_{stages}s" for stages in (2, 3, 5, 7, 9, 11)),
        *(f"lobatto_iii{kind}_{stages}s" for kind in "abc" for stages in (2, 3, 4)),
        *(f"lobatto_iii{kind}_{stages}s" for kind in ("c_star", "d") for stages in (2, 3)),
    ),
}


_SDNEXT = {
    "the sampler that the model comes with, or that of the other pass": ("Default", "Same as primary"),
    "`uni_pc` with factors that were searched for one model": ("DC Solver",),
    f"{_DISTILLED}; like `lcm`, it adds noise to a prediction": ("UFOGen", "Flash FlowMatch"),
    f"{_DISTILLED} on a few windows of time": ("PeRFlow", "TDD"),
    "`ddpm` on a process in continuous log-SNR": ("VDM Solver",),
    "`ddim` with a backward step that makes it invertible; see `Sampler.invert`": ("BDIA DDIM",),
    _LAWSON: ("Lawson 2S A", "Lawson 2S B", "Lawson 4S"),
    f"{_OTHER_STAGES} `res_3s`": ("ETD-RK 3S A", "ETD-RK 3S B"),
    f"{_OTHER_STAGES} `etdrk4`": ("ETD-RK 4S B",),
    _MEMORY: ("PEC 423", "PEC 433"),
    "`res_2s` or `res_3s` with its own noise; `seeds_2` and `seeds_3` are published": ("RES-SDE 2S", "RES-SDE 3S"),
    "`euler` on its own sigmas": tuple(
        f"{name} Sigma" for name in ("Sigmoid", "Sine", "Easing", "Arcsine", "Smoothstep")
    ),
    "not a published method": (
        *(f"{name} Flow" for name in ("Euclidean", "Hyperbolic", "Spherical", "Lorentzian")),
        "Langevin Dynamics",
    ),
    _THIRD: ("Linear-RK 3", "Specialized-RK 3S", "Specialized-RK 4S"),
    _FIFTH: ("Runge-Kutta 5/7", "Runge-Kutta 6/7"),
    _IMPLICIT: (
        *(f"Lobatto {k}" for k in (2, 3, 4)),
        *(f"Radau IIA {k}" for k in (2, 3, 4)),
        *(f"Gauss-Legendre {k}S" for k in (2, 3, 4)),
    ),
}


#: for each program, by its name in `ksched.Dialect`: reasons, and the names that they apply to
ABSENT: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "sd_cpp": _SD_CPP,
    "skrample": _SKRAMPLE,
    "res4lyf": _RES4LYF,
    "sdnext": _SDNEXT,
}
