"""One door to every schedule: name in, noise levels out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ksched.options import Option, check_options, options_of
from ksched.processes import Process, default_process
from ksched.schedules import power, training_table
from ksched.types import Array, NoiseSchedule

__all__ = ["SCHEDULES", "ScheduleSpec", "calculate_sigmas", "schedule_options"]


class ScheduleSpec(NamedTuple):
    """What the library knows of a schedule."""

    function: Callable[..., Array]
    formula: str
    source: str

    @property
    def needs_process(self) -> bool:
        """Whether the rule reads the process itself, not just its range."""
        return "process" in inspect.signature(self.function).parameters


SCHEDULES: Mapping[NoiseSchedule, ScheduleSpec] = {
    NoiseSchedule.SIMPLE: ScheduleSpec(
        training_table.calculate_simple_sigmas, "even stride over the training table, from the top", "ComfyUI"
    ),
    NoiseSchedule.KARRAS: ScheduleSpec(
        power.calculate_karras_sigmas, "even in sigma ** (1 / rho)", "Karras et al. 2022, arXiv:2206.00364"
    ),
    NoiseSchedule.EXPONENTIAL: ScheduleSpec(power.calculate_exponential_sigmas, "even in log sigma", "k-diffusion"),
    NoiseSchedule.SGM_UNIFORM: ScheduleSpec(
        training_table.calculate_sgm_uniform_sigmas,
        "even in timestep, last point left out",
        "Stability generative-models",
    ),
    NoiseSchedule.DDIM_UNIFORM: ScheduleSpec(
        training_table.calculate_ddim_uniform_sigmas,
        "even stride over the training table, from the bottom",
        "Song et al. 2020, arXiv:2010.02502",
    ),
    NoiseSchedule.NORMAL: ScheduleSpec(
        training_table.calculate_normal_sigmas, "even in timestep, both ends", "k-diffusion, ComfyUI"
    ),
    NoiseSchedule.LINEAR: ScheduleSpec(power.calculate_linear_sigmas, "even in sigma", "karras at rho = 1"),
}


def schedule_options(schedule: NoiseSchedule) -> Mapping[str, Option]:
    """Options of a schedule beside its range."""
    return options_of(SCHEDULES[schedule].function, skip=("sigma_min", "sigma_max"))


def calculate_sigmas(
    schedule: NoiseSchedule | str,
    steps: int,
    process: Process | None = None,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    **options: Any,
) -> Array:
    """Noise levels of a run by the name of the schedule.

    Parameters
    ----------
    schedule : a `NoiseSchedule`, or any spelling `NoiseSchedule.parse` knows
    steps : number of steps, >= 1
    process : what the model was trained on; None is Stable Diffusion's VP table
    sigma_min, sigma_max : noise std of the last non-zero and of the first level; None takes the process's own
    options : what the schedule has beside its range, such as ``rho`` for karras (see `schedule_options`)

    Returns
    -------
    float64 array, shape (steps + 1,), strictly decreasing, first the level of start noise, last 0

    Raises
    ------
    TypeError, ValueError : an unknown name or option, steps below 1, a range out of order or outside the process's
    """
    schedule = NoiseSchedule.parse(schedule)
    process = default_process() if process is None else process
    if not isinstance(process, Process):
        raise TypeError(f"process must be a ksched process such as VP() or Flow(); got {process!r}")
    spec = SCHEDULES[schedule]
    options = check_options(f"schedule {schedule.value}", schedule_options(schedule), options)
    if spec.needs_process:
        return spec.function(steps, process, sigma_min=sigma_min, sigma_max=sigma_max, **options)
    low = process.sigma_min if sigma_min is None else sigma_min
    high = process.sigma_max if sigma_max is None else sigma_max
    if high > process.sigma_limit:
        raise ValueError(f"sigma_max must be at most {process.sigma_limit:g} for {process!r}; got {high}")
    return spec.function(steps, low, high, **options)
