"""diffusers' scheduler classes as data: how each steps, the settings it uses, and which have no counterpart.

Their sigmas and timesteps are in `ksched.dialects.diffusers.levels`. Nothing here imports diffusers.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ksched.dialects.diffusers.betas import Settings
from ksched.dialects.diffusers.class_requests import (
    ddim_request,
    ddpm_request,
    deis_request,
    edm_solver_request,
    euler_request,
    flow_ancestral_request,
    flow_euler_request,
    flow_heun_request,
    flow_lcm_request,
    in_sigma,
    ipndm_request,
    lcm_request,
    lms_request,
    pndm_request,
    sa_solver_request,
    solver_request,
    solver_upwards_request,
    tcd_request,
    uni_pc_request,
)
from ksched.dialects.diffusers.level_blocks import DiffusersLevels
from ksched.dialects.diffusers.levels import level_settings
from ksched.dialects.diffusers.literal_requests import (
    cogvideox_dpm_request,
    ddim_inverse_request,
    flow_map_request,
    minimax_request,
    scm_request,
)
from ksched.dialects.diffusers.request import NotRepresentedError, Request, Run
from ksched.dialects.peers import find_sampler
from ksched.names.enums import Dialect
from ksched.names.spelling import few

__all__ = [
    "CLASSES",
    "LEVELS",
    "METHOD",
    "DiffusersClass",
    "check_replaced",
    "request_of",
    "settings_of",
    "stock_class",
]


#: settings of the classes' methods, which a named sampler replaces
METHOD = frozenset((
    "solver_order", "algorithm_type", "solver_type", "lower_order_final", "euler_at_final", "predict_x0",
    "solver_p", "disable_corrector", "predictor_order", "corrector_order", "tau", "tau_func", "skip_prk_steps",
    "set_alpha_to_one", "timestep_scaling", "stochastic_sampling", "eta", "s_noise", "noise_sampler_seed",
))  # fmt: skip


#: settings of the classes' sigmas, which a named schedule replaces; the others belong to the model and its range
LEVELS = frozenset((
    "timestep_spacing", "steps_offset", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas",
    "use_lu_lambdas", "interpolation_type", "sigma_schedule", "rho",
))  # fmt: skip


class DiffusersClass(NamedTuple):
    """The peculiarities of a class, except for its sigmas.

    Attributes
    ----------
    request : callable
        Function that returns what the class needs from a sampler.
    uses : str
        Settings of the method, in addition to those of the sigmas and the process.
    calls : int
        Model calls per step, as its timesteps are laid out.
    levels : str or None
        The class whose sigmas it uses, if not its own.
    prediction : str or None
        What its networks predict, if there is no setting for it.
    noises_by_timestep : bool
        Whether ``add_noise`` uses the sigma of the whole timestep, and not that of the run.
    told_share : bool
        Whether networks are called with the share of data, from 0 to 1, and return ``x0 - eps``.
    tells_end : bool
        Whether the timesteps include the end.
    mean_velocity : bool
        Whether networks are called with two times and return the mean velocity between them.
    begins_untold : bool
        Whether it steps through the training timesteps if ``set_timesteps`` was not called.
    """

    request: Callable[[Run], Request]
    uses: str = "prediction_type"
    calls: int = 1
    levels: str | None = None
    prediction: str | None = None
    noises_by_timestep: bool = False
    begins_untold: bool = False
    told_share: bool = False
    tells_end: bool = False
    mean_velocity: bool = False


_EDITS = "prediction_type thresholding dynamic_thresholding_ratio sample_max_value"


_CLIPS = f"{_EDITS} clip_sample clip_sample_range"


_SOLVES = f"{_EDITS} solver_order algorithm_type solver_type lower_order_final"


_HEUNS = "prediction_type clip_sample clip_sample_range"


_VP = "rescale_betas_zero_snr"


CLASSES: Mapping[str, DiffusersClass] = {
    f"{name}Scheduler": facts
    for name, facts in {
        "EulerDiscrete": DiffusersClass(euler_request, begins_untold=True),
        "EulerAncestralDiscrete": DiffusersClass(in_sigma("euler_ancestral"), begins_untold=True),
        "HeunDiscrete": DiffusersClass(in_sigma("heun"), _HEUNS, 2, begins_untold=True),
        "LMSDiscrete": DiffusersClass(lms_request, begins_untold=True),
        "KDPM2Discrete": DiffusersClass(in_sigma("dpm_2"), calls=2, begins_untold=True),
        "KDPM2AncestralDiscrete": DiffusersClass(in_sigma("dpm_2_ancestral"), calls=2, begins_untold=True),
        "DPMSolverSDE": DiffusersClass(in_sigma("dpmpp_sde"), calls=2, begins_untold=True),
        "EDMEuler": DiffusersClass(euler_request, "prediction_type sigma_data"),
        "EDMDPMSolverMultistep": DiffusersClass(edm_solver_request, f"{_SOLVES} euler_at_final sigma_data"),
        "CosineDPMSolverMultistep": DiffusersClass(
            edm_solver_request, "prediction_type solver_order solver_type lower_order_final euler_at_final sigma_data"
        ),
        "DPMSolverMultistep": DiffusersClass(solver_request, f"{_SOLVES} euler_at_final"),
        "DPMSolverSinglestep": DiffusersClass(solver_request, _SOLVES),
        "UniPCMultistep": DiffusersClass(
            uni_pc_request, f"{_EDITS} solver_order predict_x0 solver_type lower_order_final disable_corrector"
        ),
        "DEISMultistep": DiffusersClass(deis_request, f"{_EDITS} solver_order lower_order_final"),
        "SASolver": DiffusersClass(
            sa_solver_request,
            f"{_EDITS} predictor_order corrector_order algorithm_type tau tau_func lower_order_final",
            noises_by_timestep=True,
        ),
        "DDIM": DiffusersClass(ddim_request, f"{_CLIPS} {_VP} set_alpha_to_one"),
        "DDIMParallel": DiffusersClass(ddim_request, f"{_CLIPS} {_VP} set_alpha_to_one", levels="DDIMScheduler"),
        "CogVideoXDDIM": DiffusersClass(
            ddim_request, f"prediction_type {_VP} set_alpha_to_one snr_shift_scale", levels="DDIMScheduler"
        ),
        "DDPM": DiffusersClass(ddpm_request, f"{_CLIPS} {_VP} variance_type", begins_untold=True),
        "DDPMParallel": DiffusersClass(
            ddpm_request, f"{_CLIPS} {_VP} variance_type", levels="DDPMScheduler", begins_untold=True
        ),
        "PNDM": DiffusersClass(pndm_request, "prediction_type set_alpha_to_one"),
        "LCM": DiffusersClass(lcm_request, f"{_CLIPS} {_VP} timestep_scaling"),
        "TCD": DiffusersClass(tcd_request, f"prediction_type {_VP}"),
        "IPNDM": DiffusersClass(ipndm_request, "", prediction="v_prediction"),
        "FlowMatchEulerDiscrete": DiffusersClass(
            flow_euler_request, "stochastic_sampling", prediction="flow_prediction"
        ),
        "FlowMatchHeunDiscrete": DiffusersClass(flow_heun_request, "", 2, prediction="flow_prediction"),
        "FlowMatchLCM": DiffusersClass(flow_lcm_request, "scale_factors", prediction="flow_prediction"),
        "LTXEulerAncestralRF": DiffusersClass(flow_ancestral_request, "eta s_noise", prediction="flow_prediction"),
        "DDIMInverse": DiffusersClass(
            ddim_inverse_request, f"prediction_type clip_sample clip_sample_range {_VP} set_alpha_to_one"
        ),
        "DPMSolverMultistepInverse": DiffusersClass(solver_upwards_request, f"{_SOLVES} euler_at_final"),
        "CogVideoXDPM": DiffusersClass(
            cogvideox_dpm_request, f"prediction_type {_VP} set_alpha_to_one snr_shift_scale", levels="DDIMScheduler"
        ),
        "FlowMapEulerDiscrete": DiffusersClass(flow_map_request, "", prediction="flow_prediction", mean_velocity=True),
        "MiniMaxH3": DiffusersClass(minimax_request, "", prediction="flow_prediction", told_share=True),
        "SCM": DiffusersClass(scm_request, "sigma_data", prediction="trigflow", tells_end=True),
    }.items()
}


def stock_class(name: str) -> DiffusersClass:
    """The facts about a class.

    Raises
    ------
    ValueError
        If the class is unknown or has no counterpart; the message says why, or lists similar names.
    """
    if name in CLASSES:
        return CLASSES[name]
    near = difflib.get_close_matches(name, CLASSES, n=4, cutoff=0.6)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {few(CLASSES)}."
    try:
        peer = find_sampler(Dialect.DIFFUSERS, name)
    except ValueError:
        raise ValueError(f"unknown scheduler class {name!r}; {hint}") from None
    why = f"it has its own loop; the nearest sampler is {peer.sampler} {peer.note}" if peer.sampler else peer.note
    raise NotRepresentedError(f"{name} has no drop-in in ksched: {why}")


def check_replaced(scheduler: str | None, config: Settings) -> None:
    """Raise an error for a class, or a setting, that no ksched sampler or schedule can replace.

    Raises
    ------
    NotRepresentedError
        If the message says what to do.
    """
    if scheduler is not None and scheduler.endswith("InverseScheduler"):
        raise NotRepresentedError(
            f"{scheduler} goes from data to noise, but a sampler would go back; leave out sampler and schedule, or "
            "invert with ksched.build_sampler(...).invert"
        )
    if scheduler == "IPNDMScheduler":
        raise NotRepresentedError(
            f"networks of {scheduler} are called with an angle, not a table's timestep; leave out sampler and schedule"
        )
    if config.get("scale_factors") and (scheduler is None or "scale_factors" in settings_of(scheduler)):
        raise NotRepresentedError(
            f"scale_factors={config['scale_factors']} resizes the state between steps, which no ksched sampler does; "
            "set scale_factors=None, or keep the pipeline's own scheduler"
        )


def settings_of(scheduler: str) -> frozenset[str]:
    """Names of the settings that a class uses; its other settings have no effect."""
    facts = CLASSES[scheduler]
    return frozenset(level_settings(facts.levels or scheduler)) | frozenset(facts.uses.split())


def request_of(
    scheduler: str, config: Settings, levels: DiffusersLevels, steps: int, given: Settings | None = None
) -> Request:
    """The request of a class to `ksched.build_sampler` on known sigmas.

    Parameters
    ----------
    scheduler : str
        Name of the class.
    config : mapping
        Its configuration; missing settings have the class's defaults.
    levels : DiffusersLevels
        Sigmas and timesteps of the run, from `ksched.dialects.diffusers.levels.diffusers_levels`.
    steps : int
        Number of steps passed to its ``set_timesteps``.
    given : mapping or None
        Arguments of its ``step``.

    Raises
    ------
    NotRepresentedError
        If no ksched option can represent a setting.
    ValueError
        If the class is unknown.
    """
    facts = stock_class(scheduler)
    known = settings_of(scheduler)
    settings = {name: value for name, value in config.items() if value is not None and name in known}
    return facts.request(Run(scheduler, settings, levels, steps, dict(given or {})))
