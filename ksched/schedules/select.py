"""One door to every schedule: name in, noise levels out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

from ksched.names.enums import Dialect, NoiseSchedule
from ksched.names.sampler_type import ScheduleName
from ksched.options import Option, check_options, options_of
from ksched.processes import Process, default_process
from ksched.processes.base import check_process
from ksched.schedules import curves, power, published, training_table
from ksched.types import Array

__all__ = ["DIALECTS", "FAMILIES", "SCHEDULES", "ScheduleSpec", "calculate_sigmas", "schedule_options"]


#: families of schedules, and what they are called in a heading
FAMILIES: Mapping[str, str] = {
    "sigma": "Even in some function of sigma",
    "training_table": "Over the training steps",
    "curve": "Curves from 1 to 0",
    "published": "Published tables",
}


class ScheduleSpec(NamedTuple):
    """What the library knows of a schedule: family (one of `FAMILIES`), function, rule in words, and source."""

    family: str
    function: Callable[..., Array]
    formula: str
    source: str

    @property
    def needs_process(self) -> bool:
        """Whether the rule reads the process itself, not just its range."""
        return _needs_process(self.function)


@cache
def _needs_process(function: Callable[..., Array]) -> bool:
    return "process" in inspect.signature(function).parameters


_N = NoiseSchedule
SCHEDULES: Mapping[NoiseSchedule, ScheduleSpec] = {
    _N.SIMPLE: ScheduleSpec(
        "training_table",
        training_table.calculate_simple_sigmas,
        "even stride over the training table, from the top",
        "ComfyUI",
    ),
    _N.KARRAS: ScheduleSpec("sigma", power.calculate_karras_sigmas, "even in sigma ** (1 / rho)", "arXiv:2206.00364"),
    _N.EXPONENTIAL: ScheduleSpec("sigma", power.calculate_exponential_sigmas, "even in log sigma", "k-diffusion"),
    _N.SGM_UNIFORM: ScheduleSpec(
        "training_table",
        training_table.calculate_sgm_uniform_sigmas,
        "even in timestep, last point left out",
        "Stability generative-models",
    ),
    _N.DDIM_UNIFORM: ScheduleSpec(
        "training_table",
        training_table.calculate_ddim_uniform_sigmas,
        "even stride over the table, from the bottom",
        "arXiv:2010.02502",
    ),
    _N.NORMAL: ScheduleSpec(
        "training_table", training_table.calculate_normal_sigmas, "even in timestep, both ends", "k-diffusion, ComfyUI"
    ),
    _N.LINEAR: ScheduleSpec("sigma", power.calculate_linear_sigmas, "even in sigma", "karras at rho = 1"),
    _N.BETA: ScheduleSpec(
        "training_table",
        training_table.calculate_beta_sigmas,
        "beta quantiles of the training table",
        "arXiv:2407.12173",
    ),
    _N.BETA57: ScheduleSpec(
        "training_table", training_table.calculate_beta57_sigmas, "beta with alpha 0.5, beta 0.7", "RES4LYF"
    ),
    _N.LINEAR_QUADRATIC: ScheduleSpec(
        "curve", curves.calculate_linear_quadratic_sigmas, "linear, then quadratic, to 0", "Mochi, ComfyUI"
    ),
    _N.KL_OPTIMAL: ScheduleSpec("sigma", power.calculate_kl_optimal_sigmas, "even in atan sigma", "arXiv:2404.14507"),
    _N.POLYEXPONENTIAL: ScheduleSpec(
        "sigma", power.calculate_polyexponential_sigmas, "log sigma as a power of the share left", "k-diffusion"
    ),
    _N.VP: ScheduleSpec("sigma", power.calculate_vp_sigmas, "even in continuous VP time", "arXiv:2011.13456"),
    _N.LAPLACE: ScheduleSpec(
        "sigma", power.calculate_laplace_sigmas, "Laplace quantiles of log sigma", "arXiv:2407.03297"
    ),
    _N.LOGSNR: ScheduleSpec(
        "training_table", training_table.calculate_logsnr_sigmas, "even in log-SNR", "arXiv:2206.00927"
    ),
    _N.TRAILING: ScheduleSpec(
        "training_table",
        training_table.calculate_trailing_sigmas,
        "rounded even stride, from the top",
        "arXiv:2305.08891",
    ),
    _N.LEADING: ScheduleSpec(
        "training_table", training_table.calculate_leading_sigmas, "whole stride, from the bottom", "diffusers"
    ),
    _N.SD_TURBO: ScheduleSpec(
        "training_table", training_table.calculate_sd_turbo_sigmas, "the first of ten even strides", "ComfyUI"
    ),
    _N.ALIGN_YOUR_STEPS: ScheduleSpec(
        "published", published.calculate_align_your_steps_sigmas, "optimised table of 10 steps", "arXiv:2404.14507"
    ),
    _N.GITS: ScheduleSpec(
        "published", published.calculate_gits_sigmas, "optimised tables of 2 to 20 steps", "arXiv:2405.11326"
    ),
    _N.OPTIMAL_STEPS: ScheduleSpec(
        "published", published.calculate_optimal_steps_sigmas, "optimised tables for flow models", "arXiv:2503.21774"
    ),
    _N.LTXV: ScheduleSpec(
        "curve", curves.calculate_ltxv_sigmas, "even, shifted by tokens, stretched", "LTX-Video, ComfyUI"
    ),
    _N.FLUX2: ScheduleSpec(
        "curve", curves.calculate_flux2_sigmas, "even, shifted by size and steps", "FLUX.2, ComfyUI"
    ),
    _N.IDEOGRAM4: ScheduleSpec(
        "curve", curves.calculate_ideogram4_sigmas, "logit-normal quantiles, shifted by size", "Ideogram 4, ComfyUI"
    ),
    _N.BONG_TANGENT: ScheduleSpec("curve", curves.calculate_bong_tangent_sigmas, "two arctangents, to 0", "RES4LYF"),
    _N.COSINE: ScheduleSpec(
        "curve", curves.calculate_cosine_sigmas, "half a cosine of the root of the share", "reForge"
    ),
    _N.PHI: ScheduleSpec("sigma", power.calculate_phi_sigmas, "a golden power of the share left", "reForge"),
}

#: What a name means elsewhere, as options of ours: a dialect is nothing but this table.
DIALECTS: Mapping[Dialect, Mapping[NoiseSchedule, Mapping[str, Any]]] = {
    Dialect.KSCHED: {},
    Dialect.COMFYUI: {
        _N.SIMPLE: {"entries": "always"},
        _N.DDIM_UNIFORM: {"stride": "whole"},
        _N.SGM_UNIFORM: {"shift_twice": True},
        _N.NORMAL: {"shift_twice": True, "zero": "unless_reached"},
        _N.BETA: {"entries": "always"},
        _N.BETA57: {"entries": "always"},
        _N.VP: {"own_range": True},
        _N.LAPLACE: {"ends": "clamp"},
        _N.ALIGN_YOUR_STEPS: {"fit_range": False},
        _N.GITS: {"fit_range": False},
        _N.OPTIMAL_STEPS: {"fit_range": False},
        _N.IDEOGRAM4: {"clamp": True},
    },
    Dialect.K_DIFFUSION: {_N.VP: {"own_range": True}},
    Dialect.DIFFUSERS: {
        _N.BETA: {"domain": "sigma"},
        _N.ALIGN_YOUR_STEPS: {"fit_range": False},
        _N.IDEOGRAM4: {"clamp": True},
    },
    Dialect.A1111: {
        _N.SIMPLE: {"entries": "always"},
        _N.DDIM_UNIFORM: {"stride": "whole"},
        _N.BETA: {"domain": "sigma"},
        _N.KL_OPTIMAL: {"final": "sigma_min"},
        _N.ALIGN_YOUR_STEPS: {"fit_range": False, "version": "a1111", "last": "keep"},
    },
}


def schedule_options(schedule: NoiseSchedule) -> Mapping[str, Option]:
    """Options of a schedule beside its range."""
    return options_of(SCHEDULES[schedule].function, skip=("sigma_min", "sigma_max"))


def calculate_sigmas(
    schedule: ScheduleName | NoiseSchedule | str,
    steps: int,
    process: Process | None = None,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    dialect: Dialect | str = Dialect.KSCHED,
    **options: Any,
) -> Array:
    """Noise levels of a run by the name of the schedule.

    Parameters
    ----------
    schedule : a `NoiseSchedule`, or any spelling `NoiseSchedule.parse` knows
    steps : number of steps, >= 1
    process : what the model was trained on; None is Stable Diffusion's VP table
    sigma_min, sigma_max : noise std of the last non-zero and of the first level; None takes the process's own
    dialect : whose numbers the name means, where programs differ: a table of options (see `DIALECTS`)
    options : what the schedule has beside its range, such as ``rho`` for karras (see `schedule_options`)

    Returns
    -------
    float64 array, shape (steps + 1,), strictly decreasing, first the level of start noise, last 0; another dialect
    than ours may give more or fewer levels, repeat some, or leave out the 0

    Raises
    ------
    TypeError, ValueError : an unknown name or option, steps below 1, a range out of order or outside the process's
    """
    schedule = NoiseSchedule.parse(schedule)
    process = default_process() if process is None else process
    check_process(process)
    spec = SCHEDULES[schedule]
    options = {**DIALECTS[Dialect.parse(dialect)].get(schedule, {}), **options}
    options = check_options(f"schedule {schedule.value}", schedule_options(schedule), options)
    if spec.needs_process:
        return spec.function(steps, process, sigma_min=sigma_min, sigma_max=sigma_max, **options)
    low = process.sigma_min if sigma_min is None else sigma_min
    high = process.sigma_max if sigma_max is None else sigma_max
    if high > process.sigma_limit:
        raise ValueError(f"sigma_max must be at most {process.sigma_limit:g} for {process!r}; got {high}")
    return spec.function(steps, low, high, **options)
