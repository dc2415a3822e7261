"""What programs read, call and assign on a diffusers scheduler besides its loop, as data.

A name that is not here is no attribute of `ksched.integrations.diffusers.KSchedScheduler`, unless that defines it.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

__all__ = ["ATTRIBUTES", "REFUSED_ATTRIBUTES", "Of"]


class Of(Enum):
    """The part of a scheduler that an attribute belongs to."""

    MODEL = "the model and the settings: always the class's own value"
    LEVELS = "the sigmas: those of the run, once `set_timesteps` was called"
    RUN = "the run: ksched's own position and history"


_NAMES: Mapping[Of, str] = {
    Of.MODEL: """
        alphas one final_alpha_cumprod initial_alpha_cumprod alpha_t sigma_t lambda_t sigma_min sigma_max log_sigmas
        pndm_order noise_sampler_seed predict_x0 solver_p disable_corrector tau_func variance_type _is_ode_scheduler
        use_karras_sigmas use_beta_sigmas use_exponential_sigmas shift _shift
        time_shift _time_shift_exponential _time_shift_linear stretch_shift_to_terminal
        _sigma_to_alpha_sigma_t _threshold_sample _convert_to_karras _convert_to_exponential _convert_to_beta
        _convert_to_lu _compute_karras_sigmas _compute_exponential_sigmas _sigma_broadcast
        get_scalings_for_boundary_condition_discrete _get_conditioning_c_in precondition_inputs precondition_noise
        precondition_outputs get_coefficients_exponential_negative get_coefficients_exponential_positive
        lagrange_polynomial_coefficient get_mult get_variables apply_shift
    """,
    Of.LEVELS: """
        index_for_timestep _sigma_to_t _get_variance _batch_get_variance _get_prev_sample custom_timesteps
        prk_timesteps plms_timesteps _timesteps sigmas_interpol sigmas_up sigmas_down order_list get_order_list
        convert_model_output dpm_solver_first_order_update deis_first_order_update get_lms_coefficient
        get_coefficients_fn _second_order_timesteps batch_step_no_noise
    """,
    Of.RUN: """
        model_outputs last_sample lower_order_nums state_in_first_order is_scale_input_called _init_step_index set_shift
    """,
}


#: names of attributes of the classes, available if the replaced class has them
ATTRIBUTES: Mapping[str, Of] = {name: of for of, names in _NAMES.items() for name in names.split()}


_HELD = "the data that a step leaves for the next is stored in the run, not in the scheduler; copy.deepcopy copies it"


_STEPS = "only `step` takes steps here"


#: attributes of the classes that `KSchedScheduler` does not have, with the reason
REFUSED_ATTRIBUTES: Mapping[str, str] = {
    **dict.fromkeys(
        (
            "ets", "counter", "cur_sample", "cur_model_output", "derivatives", "dt", "prev_derivative", "sample",
            "timestep_list", "noise_sampler", "mid_point_sigma",
        ),
        _HELD,
    ),
    **dict.fromkeys(
        (
            "step_plms", "step_prk", "multistep_deis_second_order_update", "multistep_deis_third_order_update",
            "multistep_dpm_solver_second_order_update", "multistep_dpm_solver_third_order_update",
            "multistep_uni_c_bh_update", "multistep_uni_p_bh_update", "singlestep_dpm_solver_second_order_update",
            "singlestep_dpm_solver_third_order_update", "singlestep_dpm_solver_update",
            "stochastic_adams_bashforth_update", "stochastic_adams_moulton_update",
        ),
        _STEPS,
    ),
    **dict.fromkeys(
        ("set_scale_factors", "_scale_factors", "_init_size", "_upscale_mode"),
        "no ksched sampler resizes the state between steps",
    ),
}  # fmt: skip
