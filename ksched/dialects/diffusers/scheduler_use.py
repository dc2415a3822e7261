"""How the pipelines of diffusers 0.42.1 use a scheduler, as data: each use works with ksched's or raises an error.

A use is written as ``read timesteps``, ``call step()``, ``call step(eta=)`` for a keyword, ``assign sigmas[...]`` for a
part of it, ``ask order`` if a pipeline asks whether it exists, ``isinstance DDIMScheduler``.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["ANSWERED_NO", "REFUSED_USE", "SUPPORTED_USE"]


def _each(kind: str, names: str) -> tuple[str, ...]:
    return tuple(f"{kind} {name}" for name in names.split())


def _keywords(method: str, names: str) -> tuple[str, ...]:
    return tuple(f"call {method}({name}=)" for name in names.split())


#: uses that have the same effect as with the replaced class
SUPPORTED_USE: tuple[str, ...] = (
    *_each("ask", "add_noise betas init_noise_sigma order scale_model_input set_begin_index"),
    *_each("ask", "set_timesteps(sigmas=) set_timesteps(timesteps=) step(eta=) step(generator=)"),
    *_each(
        "read",
        """
        __class__ __dict__ set_timesteps step timesteps sigmas order init_noise_sigma num_inference_steps step_index
        alphas alphas_cumprod betas final_alpha_cumprod _is_ode_scheduler model_outputs last_sample lower_order_nums
        """,
    ),
    *_each(
        "read",
        """
        config config.algorithm_type config.base_image_seq_len config.base_shift config.clip_sample
        config.final_sigmas_type config.max_image_seq_len config.max_shift config.num_train_timesteps
        config.original_inference_steps config.prediction_type config.sigma_data config.sigma_max
        config.skip_prk_steps config.solver_order config.steps_offset config.stochastic_sampling config.eta
        config.use_dynamic_shifting config.use_flow_sigmas config.variance_type
        """,
    ),
    *_each("assign", "_internal_dict _step_index config.clip_sample config.timestep_spacing timesteps sigmas[...]"),
    *_each("assign", "model_outputs[...] last_sample"),
    *_each("call", "set_timesteps() step() scale_model_input() add_noise() scale_noise() set_begin_index()"),
    *_each("call", "register_to_config() _get_variance() _init_step_index() _sigma_to_alpha_sigma_t()"),
    *_each("call", "_get_conditioning_c_in() convert_model_output() dpm_solver_first_order_update()"),
    *_each("call", "batch_step_no_noise()"),
    *_keywords("batch_step_no_noise", "model_output timesteps sample"),
    *_keywords("convert_model_output", "model_output sample"),
    *_keywords("dpm_solver_first_order_update", "model_output sample noise"),
    *_keywords("add_noise", "original_samples noise timesteps"),
    *_keywords("register_to_config", "clip_sample final_sigmas_type sigma_data sigma_max sigma_min"),
    *_keywords("set_timesteps", "num_inference_steps device timesteps sigmas mu original_inference_steps strength"),
    *_keywords("set_timesteps", "max_timesteps intermediate_timesteps"),
    *_keywords("step", "model_output timestep sample generator return_dict eta use_clipped_model_output"),
    *_keywords("step", "per_token_timesteps pred_original_sample variance_noise"),
)


#: isinstance checks, which are answered with no, and what the pipeline does then
ANSWERED_NO: Mapping[str, str] = {
    "isinstance CogVideoXDPMScheduler": "step is then called as for other schedulers",
    "isinstance DDIMScheduler": "Bria does not change the scheduler's betas; LEDITS++ installs its own scheduler",
    "isinstance DDPMWuerstchenScheduler": "Stable Cascade then passes the network timesteps of a table",
    "isinstance DPMSolverMultistepScheduler": "LEDITS++ installs its own scheduler",
    "isinstance EulerAncestralDiscreteScheduler": "Bria does not change the scheduler's betas",
    "isinstance FlowMatchEulerDiscreteScheduler": "a number of steps is passed, and not a list",
    "isinstance LTXEulerAncestralRFScheduler": "LTX's long videos then use a list of sigmas",
    "isinstance PNDMScheduler": "the pipeline leaves out a message",
    "isinstance UniPCMultistepScheduler": "HiDream then passes mu",
}


_TOKENS = "for schedulers of tokens, which have no sigmas"


_STOCHASTIC = "only for ScoreSdeVeScheduler and KarrasVeScheduler, which have their own loops"


_HELIOS = "only for Helios' schedulers, which have their own stages"


#: keywords of `step` that do not exist here
_NOT_YET: Mapping[str, str] = {
    **dict.fromkeys(
        _keywords("step", "prev_timestep"),
        "step does not have this keyword",
    ),
}


#: uses that raise an error, with the reason
REFUSED_USE: Mapping[str, str] = {
    **_NOT_YET,
    **dict.fromkeys(
        (
            *_each("call", "check_block_should_continue() check_eos_finished() step_correct()"),
            *_keywords(
                "check_block_should_continue",
                "editing_enabled editing_transfer_index finished masks_remaining max_post_steps post_steps step_idx",
            ),
            *_keywords(
                "check_eos_finished",
                "cur_x eos_token_id final_transfer finished mask_token_id prompt_length sampled_tokens",
            ),
            *_keywords(
                "step",
                "editing_threshold mask_token_id minimal_topk prompt_mask sampling_method starting_mask_ratio "
                "temperature threshold top_k top_p",
            ),
            *_keywords("step_correct", "generator model_output sample timestep"),
            *_each("read", "config.block_length config.corrector_steps config.mask_token_id"),
            "call set_timesteps(block_length=)",
            "ask set_timesteps(block_length=)",
            "call add_noise(generator=)",
            "call register_to_config(masking_schedule=)",
        ),
        _TOKENS,
    ),
    **dict.fromkeys(
        (
            *_each("call", "add_noise_to_input() add_noise_to_input(generator=) set_sigmas() step_pred()"),
            *_each("call", "step_pred(generator=)"),
            *_each("read", "schedule config.correct_steps"),
        ),
        _STOCHASTIC,
    ),
    **dict.fromkeys(
        (
            *_keywords("step", "all_timesteps cur_sampling_step dmd_noisy_tensor dmd_sigmas dmd_timesteps"),
            "call set_timesteps(is_amplify_first_chunk=)",
            *_each("read", "ori_start_sigmas config.gamma"),
        ),
        _HELIOS,
    ),
    "call undo_step()": "only for RePaintScheduler, whose loop goes back and forth",
    "assign eta": "only for RePaintScheduler, whose loop goes back and forth",
    "call set_timesteps(start_time=)": "only for RFD4ProteinaScheduler, which has its own loop",
    "assign lower_order_nums": "only in LEDITS++, which installs its own scheduler",
    "call append()": "on a list of schedulers, not on a scheduler",
}
