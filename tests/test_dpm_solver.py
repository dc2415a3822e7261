"""Options of DPM-Solver that the registry's tests do not combine: orders, distribution with noise, last levels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import COORDINATES, CORNERS
from hypothesis import given
from hypothesis import strategies as st

from ksched import Process, build_sampler
from ksched.plan.analysis import measured_order, table
from ksched.plan.plan import Plan
from ksched.testing.samplers import check_plan
from ksched.testing.strategies import sigma_curves
from ksched.types import Array

NAMES = ("dpm_multistep", "dpm_singlestep")


def order_of(name: str, process: Process, options: dict[str, Any], *, weak: bool = False) -> float:
    def build(sigmas: Array) -> Plan:
        return build_sampler(name, sigmas=sigmas, process=process, **options).plan

    # in law the errors of several orders cancel for a while
    return measured_order(build, process, weak=weak, steps=(240, 480) if weak else (60, 120))


@pytest.mark.parametrize("process", COORDINATES.values(), ids=COORDINATES)
@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
@pytest.mark.parametrize("predict", ["denoised", "eps"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_single_steps_have_the_order_of_their_stages(
    order: int, predict: str, solver_type: str, process: Process
) -> None:
    options = {"order": order, "predict": predict, "solver_type": solver_type}
    measured = order_of("dpm_singlestep", process, options)
    assert order - 0.15 <= measured <= order + 0.5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
@pytest.mark.parametrize("order", [2, 3])
def test_with_noise_both_are_of_second_order_in_law(order: int, solver_type: str, name: str) -> None:
    options = {"order": order, "solver_type": solver_type, "eta": 1.0}
    assert order_of(name, COORDINATES["ve"], options, weak=True) >= 1.8


@pytest.mark.parametrize("name", NAMES)
def test_the_wrong_sign_costs_the_order(name: str) -> None:
    right = {"order": 3, "solver_type": "heun", "eta": 1.0}
    process = COORDINATES["ve"]
    assert order_of(name, process, right, weak=True) >= 1.8
    assert order_of(name, process, right | {"curvature": "diffusers"}, weak=True) <= 1.2


@pytest.mark.parametrize("process", COORDINATES.values(), ids=COORDINATES)
@given(data=st.data())
def test_any_options_keep_the_law(process: Process, data: st.DataObject) -> None:
    sigmas = data.draw(sigma_curves(process))
    name = data.draw(st.sampled_from(NAMES))
    (spec,) = {spec.name: spec for spec, _ in CORNERS if spec.name == name}.values()
    options: dict[str, Any] = {"eta": data.draw(st.sampled_from([0.0, 0.5, 1.0]))}
    for option in spec.own_options.values():
        if option.kind is not float:
            values = [1, 2, 3] if option.kind is int else [False, True] if option.kind is bool else option.kind.__args__
            options[option.name] = data.draw(st.sampled_from([v for v in values if v not in option.quirks]))
    check_plan(build_sampler(name, sigmas=sigmas, process=process, **options).plan)


def test_eps_with_noise_as_published_does_not() -> None:
    plan = build_sampler(
        "dpm_multistep", sigmas=[10.0, 3.0, 1.0, 0.3], predict="eps", eta=1.0, order=1, sde="published"
    ).plan
    with pytest.raises(AssertionError, match="has noise of variance"):
        check_plan(plan)


@pytest.mark.parametrize("name", ["dpm_singlestep", "uni_pc", "sa_solver"])
def test_a_last_level_counted_twice_is_called(name: str) -> None:
    for sigmas in ([10.0, 3.0, 1.0, 0.3], [10.0, 3.0, 0.0], [10.0, 3.0]):
        once, twice = (build_sampler(name, sigmas=sigmas, repeat_last=repeat).plan for repeat in (False, True))
        stage_left = name != "dpm_singlestep" or len(sigmas) % 2 == 0  # of two
        assert twice.nfe == once.nfe + (sigmas[-1] > 0 and stage_left)
        check_plan(twice)
        if twice.nfe == once.nfe:
            np.testing.assert_array_equal(table(once), table(twice))


def test_orders_fall_in_short_runs_only() -> None:
    for steps, same in ((6, False), (20, True)):
        sigmas = np.geomspace(10, 0.1, steps + 1)
        plans = (build_sampler("dpm_multistep", sigmas=sigmas, lower_order_final=lower).plan for lower in (False, True))
        first, second = map(table, plans)
        assert np.array_equal(first, second) == same
    last = build_sampler("dpm_multistep", sigmas=np.geomspace(10, 0.1, 21), euler_at_final=True).plan.rows[-1]
    assert [register.kind for register, _ in last.terms] == ["x", "D"]
