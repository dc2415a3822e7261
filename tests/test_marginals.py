"""Consistency: for one-point data every state of every plan has exactly the mean and variance of its level."""

from __future__ import annotations

from typing import Any

import pytest
from cases import COORDINATES, CORNER_IDS, CORNERS, NAMES, PROCESSES, levels
from hypothesis import given
from hypothesis import strategies as st

from ksched import NoiseSchedule, Process, build_sampler
from ksched.analysis import marginals
from ksched.plan import Plan
from ksched.registry import SamplerSpec


def assert_consistent(plan: Plan) -> None:
    # rounding is relative to the largest number of the table, which multistep methods make large on absurd grids
    largest = max(abs(value) for row in plan.rows for _, value in row.terms)
    tolerance = max(1e-10, 1e-13 * largest)
    for row, level, alpha, variance in marginals(plan):
        assert abs(alpha - level.alpha) <= tolerance, (row, level, alpha)
        assert abs(variance - level.sigma**2) <= tolerance * max(1, level.sigma**2), (row, level, variance)


@pytest.mark.parametrize("process", COORDINATES.values(), ids=COORDINATES)
@pytest.mark.parametrize(("spec", "options"), CORNERS, ids=CORNER_IDS)
@given(data=st.data())
def test_every_state_has_the_law_of_its_level_on_any_grid(
    spec: SamplerSpec, options: dict[str, Any], process: Process, data: st.DataObject
) -> None:
    sigmas = data.draw(levels(process))
    assert_consistent(build_sampler(spec.name, sigmas=sigmas, process=process, **options).plan)


@pytest.mark.parametrize("steps", [1, 2, 3, 6, 20])
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize("schedule", NoiseSchedule)
@pytest.mark.parametrize("name", NAMES)
def test_every_sampler_with_every_schedule_on_every_process(
    name: str, schedule: NoiseSchedule, process: Process, steps: int
) -> None:
    sampler = build_sampler(name, schedule, steps, process=process)
    assert sampler.nfe == len(sampler.timesteps) == sampler.spec.nfe(steps)
    assert sampler.steps == steps
    assert sampler.plan.sigmas == tuple(sampler.sigmas)
    assert_consistent(sampler.plan)


def test_a_wrong_coefficient_is_caught() -> None:
    plan = build_sampler("dpmpp_2m", "karras", 5).plan
    for k, row in enumerate(plan.rows[1:], 1):
        (register, value), *rest = row.terms
        broken = row._replace(terms=((register, value + 1e-4), *rest))
        with pytest.raises(AssertionError):
            assert_consistent(
                Plan((*plan.rows[:k], broken, *plan.rows[k + 1 :]), (), plan.start, plan.end, plan.sigmas)
            )
