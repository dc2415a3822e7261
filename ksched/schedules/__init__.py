"""Noise schedules: pure functions from a number of steps to the noise levels of a run.

Every one returns float64 of shape (steps + 1,), strictly decreasing, the first the level of start noise, the last 0.
"""

from ksched.schedules.power import calculate_exponential_sigmas, calculate_karras_sigmas, calculate_linear_sigmas
from ksched.schedules.select import SCHEDULES, calculate_sigmas, schedule_options
from ksched.schedules.training_table import (
    calculate_ddim_uniform_sigmas,
    calculate_normal_sigmas,
    calculate_sgm_uniform_sigmas,
    calculate_simple_sigmas,
)

__all__ = [
    "SCHEDULES",
    "calculate_ddim_uniform_sigmas",
    "calculate_exponential_sigmas",
    "calculate_karras_sigmas",
    "calculate_linear_sigmas",
    "calculate_normal_sigmas",
    "calculate_sgm_uniform_sigmas",
    "calculate_sigmas",
    "calculate_simple_sigmas",
    "schedule_options",
]
