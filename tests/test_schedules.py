"""Schedules: the contract on every process, the published formulas, and the relations between them."""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from cases import COORDINATES, PROCESSES
from hypothesis import given, note
from hypothesis import strategies as st
from representatives import each, in_turn, short

import ksched
from ksched import VP, Flow, NoiseSchedule, calculate_sigmas
from ksched.schedules import SCHEDULES, schedule_options
from ksched.testing.levels import check_sigma_curve
from ksched.testing.schedules import check_schedule
from ksched.types import Array

#: They stride from the bottom, and so start below sigma_max but for a single step.
FROM_THE_BOTTOM = (NoiseSchedule.DDIM_UNIFORM, NoiseSchedule.LEADING)


@cache
def reaches_zero(schedule: NoiseSchedule) -> bool:
    """Whether the curve goes to 0 by itself: then it refuses a sigma_min, and may go below the process's."""
    try:
        calculate_sigmas(schedule, 3, sigma_min=0.1)
    except ValueError as error:
        return "sigma_min must be left out" in str(error)
    return False


def check_contract(schedule: NoiseSchedule, sigmas: Array, steps: int, sigma_min: float, sigma_max: float) -> None:
    below = schedule in FROM_THE_BOTTOM and steps > 1
    low, high = None if reaches_zero(schedule) else sigma_min, None if below else sigma_max
    check_sigma_curve(sigmas, steps=steps, sigma_min=low, sigma_max=high)
    assert sigmas[0] <= sigma_max


@pytest.mark.parametrize("schedule", NoiseSchedule)
@each("name", PROCESSES)
def test_contract_on_every_process(schedule: NoiseSchedule, name: str) -> None:
    process = PROCESSES[name]
    for steps in (1, 2, 3, 5, 7, 10, 20, 33, 50, 100, 600, 999, 1000, 1001, 2500):
        sigmas = calculate_sigmas(schedule, steps, process)
        check_contract(schedule, sigmas, steps, process.sigma_min, process.sigma_max)
    np.testing.assert_array_equal(calculate_sigmas(schedule, 1, process), [process.sigma_max, 0])


@pytest.mark.parametrize("schedule", NoiseSchedule)
@given(steps=st.integers(1, 60), low=st.floats(0.01, 0.45), high=st.floats(0.55, 0.99))
def test_contract_on_a_part_of_the_range(schedule: NoiseSchedule, steps: int, low: float, high: float) -> None:
    for name, process in PROCESSES.items():
        note(name)
        # a part of the range in log sigma
        a, b = (process.sigma_min ** (1 - u) * process.sigma_max**u for u in (low, high))
        bounds = {"sigma_max": b} | ({} if reaches_zero(schedule) else {"sigma_min": a})
        sigmas = calculate_sigmas(schedule, steps, process, **bounds)
        check_contract(schedule, sigmas, steps, a, b)
        if steps > 1 and schedule in (NoiseSchedule.KARRAS, NoiseSchedule.EXPONENTIAL, NoiseSchedule.LINEAR):
            assert sigmas[-2] == pytest.approx(a, rel=1e-12)


@short(lambda schedule, name: name == in_turn(list(NoiseSchedule).index(schedule), COORDINATES))
@pytest.mark.parametrize("name", COORDINATES)
@pytest.mark.parametrize("schedule", [s for s in NoiseSchedule if s not in FROM_THE_BOTTOM])
def test_every_schedule_passes_the_check_for_other_peoples(schedule: NoiseSchedule, name: str) -> None:
    process = COORDINATES[name]
    if reaches_zero(schedule):
        check_schedule(
            lambda steps, sigma_max: calculate_sigmas(schedule, steps, process, sigma_max=sigma_max), process=process
        )
    else:
        check_schedule(
            lambda steps, sigma_min, sigma_max: calculate_sigmas(
                schedule, steps, process, sigma_min=sigma_min, sigma_max=sigma_max
            ),
            process=process,
            max_examples=12,
        )


@each("schedule", NoiseSchedule)
def test_the_function_of_each_schedule_is_public(schedule: NoiseSchedule) -> None:
    function = getattr(ksched.schedules, f"calculate_{schedule}_sigmas")
    process = VP()
    args = (process,) if SCHEDULES[schedule].needs_process else (process.sigma_min, process.sigma_max)
    np.testing.assert_array_equal(function(9, *args), calculate_sigmas(schedule, 9))
    assert not set(schedule_options(schedule)) & {"sigma_min", "sigma_max"}


def test_karras_is_the_formula_of_the_paper() -> None:
    for rho in (1.0, 3.0, 7.0, 20.0):
        i = np.arange(12)
        want = (80 ** (1 / rho) + i / 11 * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho
        np.testing.assert_allclose(ksched.calculate_karras_sigmas(12, 0.002, 80.0, rho)[:-1], want, rtol=1e-11)


def test_rho_goes_from_linear_to_exponential() -> None:
    linear, exponential = (
        f(9, 0.03, 14.0) for f in (ksched.schedules.calculate_linear_sigmas, ksched.calculate_exponential_sigmas)
    )
    np.testing.assert_allclose(np.diff(linear[:-1]), (0.03 - 14) / 8, rtol=1e-12)
    np.testing.assert_allclose(np.diff(np.log(exponential[:-1])), math.log(0.03 / 14) / 8, rtol=1e-12)
    np.testing.assert_allclose(
        ksched.calculate_karras_sigmas(9, 0.03, 14.0, rho=1000.0), exponential, rtol=6e-3
    )  # log(range) ** 2 / (8 rho)
    for rho in (0.01, 1000.0):
        assert (np.diff(ksched.calculate_karras_sigmas(50, 1e-3, 1e3, rho)) < 0).all()


def test_simple_takes_table_entries() -> None:
    table = VP().sigmas
    for steps in (1, 3, 10, 30, 999, 1000):
        want = [table[999 - i * 1000 // steps] for i in range(steps)]
        np.testing.assert_array_equal(calculate_sigmas("simple", steps)[:-1], want)


def test_uniform_schedules_are_three_different_rules() -> None:
    process = VP()
    t = {name: process.timestep(calculate_sigmas(name, 10)[:-1]) for name in ("sgm_uniform", "ddim_uniform", "normal")}
    np.testing.assert_allclose(t["sgm_uniform"], np.linspace(999, 0, 11)[:-1], atol=1e-9)
    np.testing.assert_allclose(t["normal"], np.linspace(999, 0, 10), atol=1e-9)
    np.testing.assert_allclose(t["ddim_uniform"], np.arange(901, 0, -100), atol=1e-9)


def test_flow_schedules_shift_once() -> None:
    u = np.linspace(1, 0, 9)
    for shift in (1.0, 3.0, 0.5):
        np.testing.assert_allclose(
            calculate_sigmas("simple", 8, Flow(shift)), shift * u / (1 + (shift - 1) * u), atol=1e-14
        )
    np.testing.assert_allclose(calculate_sigmas("simple", 8, Flow()), u, atol=1e-14)


def test_even_in_the_process_own_time() -> None:
    for process in (PROCESSES["edm"], PROCESSES["ve"], PROCESSES["flow_shift3"]):
        time = process.time(calculate_sigmas("simple", 12, process)[:-1])
        np.testing.assert_allclose(np.diff(time), (time[-1] - time[0]) / 11, rtol=1e-9)


def test_nothing_is_shared_between_calls() -> None:
    for schedule in NoiseSchedule:
        first = calculate_sigmas(schedule, 5)
        first[:] = -1
        assert calculate_sigmas(schedule, 5)[0] > 0


def test_a_sampler_takes_the_dialect_of_its_schedule() -> None:
    sampler = ksched.build_sampler("heun", "kl_optimal", 4, dialect="a1111")
    np.testing.assert_array_equal(sampler.sigmas, calculate_sigmas("kl_optimal", 4, dialect="a1111"))
    assert sampler.sigmas[-1] > 0
    with pytest.raises(ValueError, match="strictly decreasing"):  # more steps than training steps: some repeat there
        ksched.build_sampler("heun", "simple", 1500, dialect="comfyui")


def test_kl_optimal_ends_at_zero_or_at_the_last_stride() -> None:
    """With a 0 after it, ``steps`` levels are even in angle; without, ``steps`` strides are."""
    for final, count in (("zero", 5), ("sigma_min", 6)):
        levels = calculate_sigmas("kl_optimal", 5, sigma_min=0.1, sigma_max=10.0, final=final)
        assert len(levels) == 6
        np.testing.assert_allclose(np.arctan(levels[:count]), np.linspace(math.atan(10), math.atan(0.1), count))
