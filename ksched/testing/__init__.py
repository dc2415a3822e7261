"""Checks for your own schedules and samplers, and the hypothesis strategies that they use.

One line in a test of yours reports what is wrong with a function, with the smallest example that shows it::

    from ksched.testing import check_sampler, check_schedule


    def test_my_schedule():
        check_schedule(my_sigmas)  # my_sigmas(steps, sigma_min, sigma_max), or my_sigmas(steps)


    def test_my_sampler():
        check_sampler(my_sampler, order=2)  # my_sampler(run, grid, x, *, ...), as ksched.register_sampler takes it

A check returns nothing, or raises an AssertionError with one sentence. The examples are the same in every run.
"""

from ksched.testing.levels import check_sigma_curve
from ksched.testing.samplers import check_plan, check_sampler
from ksched.testing.schedules import check_schedule, check_shift
from ksched.testing.strategies import grids, processes, sigma_curves, step_counts

__all__ = [
    "check_plan",
    "check_sampler",
    "check_schedule",
    "check_shift",
    "check_sigma_curve",
    "grids",
    "processes",
    "sigma_curves",
    "step_counts",
]
