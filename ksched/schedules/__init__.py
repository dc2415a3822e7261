"""Noise schedules: pure functions from a number of steps to the noise levels of a run.

Every one returns float64 of shape (steps + 1,), strictly decreasing, the first the level of start noise, the last 0.
"""

from ksched.schedules import curves, power, published, training_table
from ksched.schedules.curves import *
from ksched.schedules.power import *
from ksched.schedules.published import *
from ksched.schedules.select import DIALECTS, SCHEDULES, calculate_sigmas, schedule_options
from ksched.schedules.training_table import *

__all__ = ["DIALECTS", "SCHEDULES", "calculate_sigmas", "schedule_options"]
__all__ += curves.__all__
__all__ += power.__all__
__all__ += published.__all__
__all__ += training_table.__all__
