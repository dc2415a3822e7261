"""Consistency: for one-point data every state of every plan has exactly the mean and variance of its level."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from cases import COORDINATES, NAMES, PROCESSES, SPECS, corners
from hypothesis import given, note
from hypothesis import strategies as st
from representatives import each, in_turn, is_plain_form, is_schedule_form

from ksched import NoiseSchedule, Process, build_sampler
from ksched.plan.plan import Plan
from ksched.samplers.registry import sampler_spec
from ksched.samplers.spec import SamplerSpec
from ksched.testing.samplers import check_plan
from ksched.testing.strategies import sigma_curves


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: s.name)
@given(data=st.data())
def test_every_state_has_the_law_of_its_level_on_any_grid(spec: SamplerSpec, data: st.DataObject) -> None:
    for name, process in COORDINATES.items():
        if not spec.runs_on(process):
            continue
        sigmas = data.draw(sigma_curves(process), name)
        for options in corners(spec):
            note(f"on {name} with {options}")
            plan = build_sampler(spec.name, sigmas=sigmas, process=process, **options).plan
            check_plan(plan, keeps_variance=spec.keeps_variance)


def check_on_every_process(
    name: str, schedule: NoiseSchedule, processes: Iterable[Process] = PROCESSES.values()
) -> None:
    for process in filter(sampler_spec(name).runs_on, processes):
        for steps in (1, 2, 5, 20) if process == PROCESSES["vp"] else (1, 2, 5):  # more only repeat the middle
            sampler = build_sampler(name, schedule, steps, process=process)
            assert sampler.spec.calls is None or sampler.nfe == sampler.spec.nfe(steps)
            assert sampler.steps == steps
            assert sampler.plan.sigmas == tuple(sampler.sigmas)
            check_plan(sampler.plan, keeps_variance=sampler.spec.keeps_variance)


@pytest.mark.parametrize("name", NAMES)
@each("schedule", filter(is_schedule_form, NoiseSchedule))
def test_every_sampler_with_a_schedule_of_each_family(name: str, schedule: NoiseSchedule) -> None:
    every = schedule == NoiseSchedule.default()
    forms = COORDINATES.values()
    check_on_every_process(name, schedule, forms if every else [in_turn(NAMES.index(name) + len(schedule), forms)])


@pytest.mark.parametrize("schedule", NoiseSchedule)
@each("name", filter(is_plain_form, NAMES))
def test_every_schedule_with_a_sampler_of_each_form(name: str, schedule: NoiseSchedule) -> None:
    few = list(filter(is_plain_form, NAMES))
    check_on_every_process(name, schedule, list(PROCESSES.values())[few.index(name) :: len(few)])


@pytest.mark.exhaustive
@pytest.mark.parametrize("schedule", NoiseSchedule)
@pytest.mark.parametrize("name", NAMES)
def test_every_sampler_with_every_schedule_on_every_process(name: str, schedule: NoiseSchedule) -> None:
    check_on_every_process(name, schedule)


def test_a_wrong_coefficient_is_caught() -> None:
    plan = build_sampler("dpmpp_2m", "karras", 5).plan
    for k, row in enumerate(plan.rows[1:], 1):
        (register, value), *rest = row.terms
        broken = row._replace(terms=((register, value + 1e-4), *rest))
        with pytest.raises(AssertionError, match="a coefficient is wrong"):
            check_plan(Plan((*plan.rows[:k], broken, *plan.rows[k + 1 :]), (), plan.start, plan.end, plan.sigmas))
