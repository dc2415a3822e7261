"""Names that people ask for and ksched does not have, each with the nearest that it has."""

from __future__ import annotations

from collections.abc import Mapping

from ksched.names.absent_programs import ABSENT

__all__ = ["SAMPLERS_ELSEWHERE", "SCHEDULES_ELSEWHERE"]

_OWN_CURVE = "Or pass build_sampler a function of your own as schedule; register_schedule gives it a name"

#: samplers; each text follows "ksched has no sampler 'name': "
SAMPLERS_ELSEWHERE: Mapping[str, str] = {
    **{name: why.replace("`", "'") for reasons in ABSENT.values() for why, names in reasons.items() for name in names},
    "dpmpp_2m_v2": "use 'dpmpp_2m'; the v2 of stable-diffusion.cpp changes its weights by hand",
    "dpmpp_2mv2": "use 'dpmpp_2m'; the v2 of stable-diffusion.cpp changes its weights by hand",
    "res_4s": "the nearest is 'etdrk4', an exponential method of four stages",
    **dict.fromkeys(("abnorsett_2m", "abnorsett_4m"), "use 'exp_ab', whose order is an option"),
    "deis_4m": "use 'deis' with order=4",
    **dict.fromkeys(
        ("stork_4", "stork4", "stork4_1st", "stork4_2nd", "stork4_3rd"),
        "its stages are extrapolated, not called, so it equals 'lms' with order=2, 3 or 4; STORK-2 is 'stork'",
    ),
    **dict.fromkeys(("rk2", "rk_2"), "samplers of order 2 are 'heun', 'midpoint' and 'ralston'"),
    **dict.fromkeys(("rk3", "rk_3"), "the sampler of order 3 is 'bogacki_shampine'"),
    **dict.fromkeys(
        ("rk45", "dopri", "ode45"), "use 'dormand_prince', or 'rk_adaptive' to choose the steps by its error"
    ),
    **dict.fromkeys(
        ("dpm_solver", "dpm_solver_pp", "dpmsolver", "dpmpp", "dpm++"),
        "there are several: 'dpm_multistep' and 'dpm_singlestep' with their orders, 'dpmpp_2m', 'dpm_fast' and "
        "'dpm_adaptive'",
    ),
    **dict.fromkeys(
        ("adams", "ab2", "ab3", "ab4", "adams_bashforth"), "use 'lms', Adams-Bashforth with the order as an option"
    ),
    **dict.fromkeys(
        ("euler_smea", "euler_dy", "euler_smea_dy", "euler_max", "euler_negative", "kohaku_lonyu_yog"),
        "it works on smaller copies of the image, or is not a published method; the nearest is 'euler'",
    ),
    **dict.fromkeys(("ancestral", "sde"), "use 'euler_ancestral', or 'dpmpp_2m_sde' for order 2"),
    "ab_norsett": "use 'exp_ab'",
    **dict.fromkeys(("consistency", "cm", "multistep_consistency"), "use 'lcm'"),
}

#: schedules; each text follows "ksched has no noise schedule 'name': "
SCHEDULES_ELSEWHERE: Mapping[str, str] = {
    **dict.fromkeys(
        ("lognormal", "logit"),
        f"the nearest are 'logit_normal', normal in the logit of sigma, and 'laplace', in log sigma. {_OWN_CURVE}",
    ),
    "epss": f"the nearest is 'sway'. {_OWN_CURVE}",
    **dict.fromkeys(
        ("manual", "custom", "manual_sigmas"),
        "pass the sigmas themselves: build_sampler(..., sigmas=[...])",
    ),
    **dict.fromkeys(
        (
            "flow",
            "flux",
            "flow_shift",
            "flow_match",
            "flow_matching",
            "flowmatch",
            "shift",
            "shifted",
            "dynamic",
            "dynamic_shift",
        ),
        "it is part of the model's process; use 'simple' on Flow(shift)",
    ),
    "default": "it stands for the schedule of the sampler's label; parse_label finds it",
    "zsnr": "it is part of the model's process; use VP(zero_terminal_snr=True)",
    **dict.fromkeys(("hyper", "sinner"), f"it bends the steps of another schedule. {_OWN_CURVE}"),
    **dict.fromkeys(("nosub", "nomod"), "it changes nothing; leave it out"),
    "fixed_schedule": "pass the sigmas themselves: build_sampler(..., sigmas=[...])",
    **dict.fromkeys(("quadratic", "quad"), "the nearest is 'karras' with rho=2"),
    **dict.fromkeys(("sqrt", "constant"), f"the nearest is 'linear'. {_OWN_CURVE}"),
    **dict.fromkeys(("tan", "tangent", "tan_scheduler", "bong"), "the nearest is 'bong_tangent'"),
    **dict.fromkeys(
        ("scaled_linear", "scaled", "squaredcos_cap_v2"), "it is a table of betas: VP.scaled_linear() or VP.cosine()"
    ),
    **dict.fromkeys(("ays_sdxl", "ays_sd15", "ays_sd1", "ays_svd"), "use 'align_your_steps' with the option model"),
    **dict.fromkeys(("ays_30", "ays_32", "ays+gits", "ays_gits"), "the nearest are 'align_your_steps' and 'gits'"),
    **dict.fromkeys(("linspace_timesteps", "even"), "use 'normal', which is uniform in the timestep"),
}
