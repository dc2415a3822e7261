"""Noise schedules, from a number of steps to the noise levels (sigmas) of a run, and functions that edit noise levels.

Every schedule returns float64 of shape (steps + 1,), strictly decreasing. The first level is that of the start noise,
the last is 0. The editing functions (`truncate`, `stretch`, `shift` ...) take levels and return new ones.
"""

from ksched.schedules import curves, distilled, flow_transforms, places, power, published, training_table, transforms
from ksched.schedules.curves import *
from ksched.schedules.distilled import *
from ksched.schedules.flow_transforms import *
from ksched.schedules.grid import Grid
from ksched.schedules.places import *
from ksched.schedules.power import *
from ksched.schedules.published import *
from ksched.schedules.select import DIALECTS, SCHEDULES, calculate_sigmas, register_schedule, schedule_options
from ksched.schedules.training_table import *
from ksched.schedules.transforms import *

__all__ = ["DIALECTS", "SCHEDULES", "Grid", "calculate_sigmas", "register_schedule", "schedule_options"]
__all__ += curves.__all__
__all__ += distilled.__all__
__all__ += flow_transforms.__all__
__all__ += places.__all__
__all__ += power.__all__
__all__ += published.__all__
__all__ += training_table.__all__
__all__ += transforms.__all__
