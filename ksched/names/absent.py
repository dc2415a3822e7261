"""Names that people ask for and that are nothing here, each with the nearest that is."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["SAMPLERS_ELSEWHERE", "SCHEDULES_ELSEWHERE"]

_OWN_CURVE = "build_sampler takes a function of your own as schedule, and register_schedule gives it a name"

#: samplers; a sentence that follows "is no sampler here: "
SAMPLERS_ELSEWHERE: Mapping[str, str] = {
    "dpmpp_3m": "take 'dpmpp_3m_sde' with eta=0",
    "dpmpp_2m_v2": "take 'dpmpp_2m'; the v2 of stable-diffusion.cpp changes its weights by hand",
    "dpmpp_2mv2": "take 'dpmpp_2m'; the v2 of stable-diffusion.cpp changes its weights by hand",
    "res_3m": "take 'exp_ab' with order=3, the exponential integrator of three predictions",
    "res_4s": "the nearest is 'etdrk4', an exponential method of four stages",
    **dict.fromkeys(
        ("res_5s", "res_6s", "res_8s"), "the nearest are 'res_3s' of three stages and 'etdrk4' of four, of order 4"
    ),
    **dict.fromkeys(
        ("deis_2m", "deis_3m", "deis_4m", "abnorsett_2m", "abnorsett_3m", "abnorsett_4m"),
        "take 'deis' or 'exp_ab', whose order is an option",
    ),
    **dict.fromkeys(
        ("stork_4", "stork4", "stork4_1st", "stork4_2nd", "stork4_3rd"),
        "its stages, extrapolated and not called, come to 'lms' with order=2, 3 or 4; STORK-2 is 'stork'",
    ),
    **dict.fromkeys(("rk2", "heun_2s"), "of order 2 there are 'heun', 'midpoint' and 'ralston'"),
    **dict.fromkeys(("rk3", "rk_3"), "of order 3 there is 'bogacki_shampine'"),
    **dict.fromkeys(
        ("rk45", "dopri", "ode45"), "take 'dormand_prince', or 'rk_adaptive' to choose the steps by its error"
    ),
    **dict.fromkeys(
        ("dpm_solver", "dpm_solver_pp", "dpmsolver", "dpmpp", "dpm++"),
        "there are several: 'dpm_multistep' and 'dpm_singlestep' with their orders, 'dpmpp_2m', 'dpm_fast', "
        "'dpm_adaptive'",
    ),
    **dict.fromkeys(
        ("adams", "ab2", "ab3", "ab4", "adams_bashforth"), "take 'lms', Adams-Bashforth of an order that you choose"
    ),
    **dict.fromkeys(
        ("euler_smea", "euler_dy", "euler_smea_dy", "euler_max", "euler_negative", "kohaku_lonyu_yog"),
        "it works on smaller copies of the picture, or is not a published method; the nearest is 'euler'",
    ),
    "rk_beta": "it is a menu of RES4LYF's; 'res_2s', 'res_3s', 'etdrk4' and 'rk4' are methods of that menu",
    **dict.fromkeys(("ancestral", "sde"), "take 'euler_ancestral', or 'dpmpp_2m_sde' for order 2"),
    "ab_norsett": "take 'exp_ab'",
    **dict.fromkeys(("consistency", "cm", "multistep_consistency"), "take 'lcm'"),
}

#: schedules; a sentence that follows "is no noise schedule here: "
SCHEDULES_ELSEWHERE: Mapping[str, str] = {
    "smoothstep": f"the nearest is 'cosine'. {_OWN_CURVE}",
    **dict.fromkeys(
        ("lognormal", "probit", "logit"),
        f"the nearest are 'ideogram4', quantiles of a logit-normal law, and 'laplace', of log sigma. {_OWN_CURVE}",
    ),
    **dict.fromkeys(
        ("sway", "sway_sampling", "epss"),
        f"the nearest is 'simple' on Flow(shift), which moves steps towards noise as well. {_OWN_CURVE}",
    ),
    **dict.fromkeys(
        ("piecewise", "manual", "custom", "manual_sigmas"),
        "give the levels themselves, build_sampler(..., sigmas=[...])",
    ),
    **dict.fromkeys(
        ("flow", "flow_match", "flow_matching", "flowmatch", "shift", "shifted", "dynamic", "dynamic_shift"),
        "the model's process says so: take 'simple' on Flow(shift)",
    ),
    **dict.fromkeys(("quadratic", "quad"), "the nearest is 'karras' with rho=2"),
    **dict.fromkeys(("sqrt", "constant"), f"the nearest is 'linear'. {_OWN_CURVE}"),
    **dict.fromkeys(("tan", "tangent", "tan_scheduler", "bong"), "the nearest is 'bong_tangent'"),
    **dict.fromkeys(
        ("scaled_linear", "squaredcos_cap_v2"), "it is a table of betas: VP.scaled_linear() or VP.cosine()"
    ),
    **dict.fromkeys(
        ("ays_sdxl", "ays_sd15", "ays_sd1", "ays_svd"), "take 'align_your_steps', whose model is an option"
    ),
    **dict.fromkeys(("ays_30", "ays_32", "ays+gits", "ays_gits"), "the nearest are 'align_your_steps' and 'gits'"),
    **dict.fromkeys(("linspace_timesteps", "even", "discrete"), "take 'normal', even in the timestep"),
}
