"""`auto`: tuned tables where they exist, a general method elsewhere; and plans as samplers."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any, get_args

import numpy as np
import pytest
import torch
from cases import PROCESSES, SPECS, process_for
from representatives import each, in_turn, short

import ksched
from ksched import EDM, VE, VP, Flow, Plan, Process, build_sampler, explain
from ksched.exact.handwritten import digits
from ksched.exact.mixture import GaussianMixture
from ksched.plan import analysis
from ksched.plan.trace import trace
from ksched.samplers.auto import AutoEnd, auto_levels, choose
from ksched.samplers.linear_multistep import Table, weighted
from ksched.samplers.registry import AUTO, plan_spec, sampler_spec
from ksched.samplers.spec import SamplerSpec
from ksched.schedules.grid import Grid
from ksched.tuning.canonical_plan import canonical, table_of

RANGES: dict[str, tuple[Process, float]] = {"sd": (VP(), 1.0), "edm": (EDM(), 0.5), "flow": (Flow(), 1.0)}
ENDS: tuple[AutoEnd, ...] = get_args(AutoEnd)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("of", RANGES)
def test_any_number_of_calls_is_a_plan_within_the_range_and_exact_for_a_constant(of: str, end: AutoEnd) -> None:
    process, std = RANGES[of]
    for steps, consistent in [*itertools.product(range(1, 25), (False,)), (5, True), (8, True), (10, True)]:
        how: dict[str, Any] = {"data_std": std, "end": end, "consistent": consistent}
        sampler = build_sampler("auto", steps=steps, process=process, **how)
        assert sampler.nfe == sampler.steps == steps
        assert sampler.sigmas[0] == process.sigma_max
        assert sampler.sigmas[-1] == 0
        assert all(sampler.plan.call_sigmas >= process.sigma_min * (1 - 1e-9))
        states = analysis.marginals(sampler.plan)
        assert states[-1].alpha == pytest.approx(1, abs=1e-9)
        assert math.sqrt(states[-1].variance) == pytest.approx(0, abs=1e-9 * process.sigma_max)
        for state in states if consistent else ():
            assert state.alpha == pytest.approx(state.level.alpha, abs=1e-9)
            assert math.sqrt(state.variance) == pytest.approx(state.level.sigma, abs=1e-9 * process.sigma_max)
        assert not (consistent and sampler.plan.tells_others)
        if end == "denoised":
            assert [value for _, value in sampler.plan.rows[-1].terms] == [1.0]


def test_free_rows_are_nearer_than_means_on_data_that_no_table_was_fitted_to() -> None:
    """Handwritten digits, shifted by a constant that no zoo has: the states before the result need not be means."""
    mixture = digits(VP())
    std = float(np.sqrt(np.mean(mixture.covariance.diagonal() + mixture.mean**2)))
    x = torch.randn(48, 64, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * VP().sigma_max
    for shift in (0.0, std):
        moved = GaussianMixture(mixture.weights, mixture.means + shift, mixture.covariances, VP())
        ends = build_sampler("exp_pc", "exponential", 150, end="integral").sample(moved, x)
        errors = []
        for consistent in (False, True):
            found = build_sampler("auto", calls=6, data_std=std, consistent=consistent).sample(moved, x)
            errors.append(float((found - ends).square().mean(1).sqrt().mean()))
        assert errors[0] < errors[1] / 1.05


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("of", RANGES)
def test_few_calls_have_tables_and_many_a_general_pair(of: str, end: AutoEnd) -> None:
    process, std = RANGES[of]
    for steps in range(1, 12 if end == "denoised" else 21):
        chosen = choose(steps, process, data_std=std, end=end)
        assert chosen.table is not None
        assert chosen.table.calls == steps
        assert ("stretched" in chosen.why) == (steps in {"integral": {9, 11}, "denoised": {7, 9, 11}}[end])
    assert "stretched from the table for 8 calls" in choose(9, process, data_std=std, end=end).why
    beyond = choose(21, process, data_std=std, end=end)
    assert beyond.table is None
    assert "tables with this end exist for 1, 2, 3" in beyond.why


@short(lambda of, steps: steps == in_turn(list(RANGES).index(of), [5, 8, 15]))
@pytest.mark.parametrize("steps", [5, 8, 15])
@pytest.mark.parametrize("of", RANGES)
def test_it_is_nearer_to_the_exact_solution_than_popular_pairs(of: str, steps: int) -> None:
    """On handwritten digits, which no table was fitted to."""
    process, _ = RANGES[of]
    mixture = digits(process)
    std = float(np.sqrt(np.mean(mixture.covariance.diagonal() + mixture.mean**2)))
    x = torch.randn(48, 64, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * process.sigma_max
    exact = build_sampler("exp_pc", "exponential" if of != "flow" else "beta", 150, process=process, end="integral")
    ends = exact.sample(mixture, x)

    def error(**how: Any) -> float:
        found = build_sampler(steps=steps, process=process, **how).sample(mixture, x)
        return float((found - ends).square().mean(1).sqrt().mean())

    ours = error(sampler="auto", data_std=std)
    for sampler, schedule in [("dpmpp_2m", "karras"), ("euler", "simple")]:
        assert ours < error(sampler=sampler, schedule=schedule) / 1.2


def test_levels_are_in_proportion_to_the_data() -> None:
    one, two = (auto_levels(8, EDM(), data_std=std) for std in (0.5, 1.0))
    assert two[1:-1] == pytest.approx([2 * sigma for sigma in one[1:-1]])


@pytest.mark.parametrize("name", PROCESSES)
def test_it_runs_on_every_process(name: str) -> None:
    sampler = build_sampler("auto", steps=7, process=PROCESSES[name])
    assert sampler.nfe == 7
    assert all(a > b for a, b in pairwise(sampler.sigmas))


def test_an_unknown_range_gets_a_general_pair_and_is_said_to_be_unknown() -> None:
    process = VE(0.01, 30.0)
    assert choose(8, process).table is None
    assert "there is no table for a start at 30" in explain("auto", steps=8, process=process)


def test_a_table_below_the_range_of_training_is_not_used() -> None:
    assert choose(10, EDM(0.5, 80.0), data_std=0.5).table is None
    assert "below the process's lowest" in choose(10, EDM(0.5, 80.0), data_std=0.5).why


def test_on_other_levels_it_is_a_general_method() -> None:
    sigmas = ksched.calculate_sigmas("karras", 6)
    general: dict[str, Any] = {"predictor_order": 2, "corrector_order": 3, "end": "integral"}
    assert build_sampler("auto", sigmas=sigmas).plan == build_sampler("exp_pc", sigmas=sigmas, **general).plan
    own = build_sampler("auto", steps=8)
    rest = build_sampler("auto", sigmas=own.sigmas[3:])
    assert rest.plan == build_sampler("exp_pc", sigmas=own.sigmas[3:], **general).plan
    shaken = build_sampler("auto", sigmas=own.sigmas.astype(np.float32))  # as pipelines keep them
    assert analysis.table(shaken.plan) == pytest.approx(analysis.table(own.plan), abs=1e-4)


def guided(of: str) -> dict[int, set[float]]:
    """Scales that there are tables for, by number of calls."""
    process, std = RANGES[of]
    found: dict[int, set[float]] = {}
    for steps in range(1, 21):
        names = [choose(steps, process, data_std=std, guidance=scale).name for scale in np.geomspace(0.5, 30, 60)]
        found[steps] = {float(name.rpartition("guidance ")[2]) for name in names if "guidance" in name}
    return {steps: scales for steps, scales in found.items() if scales}


def test_the_table_of_the_nearest_scale_of_guidance_is_taken() -> None:
    for of, (process, std) in RANGES.items():
        tables = guided(of)
        for steps, scales in tables.items():
            own = {scale: choose(steps, process, data_std=std, guidance=scale) for scale in (1.0, *scales)}
            plain = choose(steps, process, data_std=std)
            assert own[1.0].sigmas == plain.sigmas
            for scale in scales:
                assert f"guidance {scale:g}" in own[scale].name
                assert own[scale].table != plain.table
                assert choose(steps, process, data_std=std, guidance=1.01 * scale).name == own[scale].name
                sampler = build_sampler("auto", calls=steps, process=process, data_std=std, guidance=scale)
                assert sampler.nfe == steps
                assert all(sampler.plan.call_sigmas >= process.sigma_min * (1 - 1e-9))
                table = own[scale].table
                assert table is not None
                assert canonical(sampler.plan, std)[1][-1, 1:] == pytest.approx(table.last)
    assert {4, 6} <= guided("sd").keys()


def test_guidance_without_a_table_of_its_own_is_borne_and_said() -> None:
    assert choose(20, VP(), guidance=5.0).table == choose(20, VP()).table
    assert "there is no table for guidance 5" in explain("auto", steps=20, guidance=5.0)
    assert "is nearest to 5.5" in explain("auto", steps=6, guidance=5.5)
    assert build_sampler("auto", calls=40, guidance=5.0).plan == build_sampler("auto", calls=40).plan


def test_told_the_scale_it_is_nearer_under_guidance() -> None:
    """On handwritten digits under guidance, which no table was fitted to."""
    mixture = digits(VP())
    parts = [mixture.only(label) for label in sorted(set(mixture.labels))]
    std = float(np.sqrt(np.mean(mixture.covariance.diagonal() + mixture.mean**2)))
    x = torch.randn(60, 64, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * VP().sigma_max

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        aim = torch.empty_like(x)
        for k, part in enumerate(parts):
            aim[k :: len(parts)] = part(x[k :: len(parts)], sigma[k :: len(parts)])
        out = mixture(x, sigma)
        return out + 4.0 * (aim - out)

    ends = build_sampler("exp_pc", "exponential", 150, end="integral").sample(model, x)

    def error(**how: Any) -> float:
        found = build_sampler("auto", calls=4, data_std=std, **how).sample(model, x)
        return float((found - ends).square().mean(1).sqrt().mean())

    assert error(guidance=4.0) < error() / 1.05


def test_it_is_explained() -> None:
    text = explain("auto", steps=8, process=EDM(), data_std=0.5)
    for words in (
        "the table edm, integral, 8 calls",
        "EDM's range",
        "benchmarks/fit_auto_plans.py, seed",
        "sigmas: 80",
    ):
        assert words in text
    assert "exponential" in explain("auto", steps=40)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"schedule": "karras"}, "brings its own noise levels; leave out schedule"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"end": "sigma_min"}, "end must be one of"),
        ({"data_std": 0}, "data_std must be"),
        ({"guidance": 0}, "guidance must be"),
        ({"guidance": "high"}, "guidance must be a number"),
        ({"eta": 1.0}, "no option 'eta'"),
        ({"as_ve": True}, "no option 'as_ve'"),
    ],
)
def test_what_cannot_be_is_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        build_sampler("auto", **how)


def test_explaining_refuses_a_second_configuration() -> None:
    with pytest.raises(ValueError, match="explained alone"):
        explain("auto", "euler+karras")
    with pytest.raises(TypeError, match="explain has no option 'end'"):
        explain("euler+karras", end="denoised")


# ---------------------------------------------------------------------------------------------------- plans as samplers


def built(spec: SamplerSpec, process: Process) -> Plan:
    return build_sampler(spec.name, "karras", 5, process=process).plan


@each("spec", SPECS)
def test_a_plan_is_a_sampler_and_its_text_names_it(spec: SamplerSpec) -> None:
    process = process_for(spec)
    plan = built(spec, process)
    assert build_sampler(plan, process=process).plan is plan
    named = sampler_spec(plan.to_json())
    assert sampler_spec(named.key) == named
    assert build_sampler(plan.to_json(), process=process).plan == plan
    traced_anew = SamplerSpec.plan(plan_spec(plan), build_sampler(plan, process=process).grid, {})
    assert analysis.table(traced_anew) == pytest.approx(analysis.table(plan), abs=1e-12)


@each("spec", [spec for spec in SPECS if spec.runs_on(VP())])
def test_a_plan_is_the_same_in_the_coordinates_of_another_process(spec: SamplerSpec) -> None:
    """The sampler itself, on the process whose states are scaled otherwise, has the same table."""
    moved = build_sampler(built(spec, VP()), process=VP(variance_preserving=True)).plan
    own = built(spec, VP(variance_preserving=True))
    assert moved.draws == own.draws
    assert analysis.table(moved) == pytest.approx(analysis.table(own), abs=1e-9)


def test_a_plan_runs_on_the_end_of_its_levels_and_on_no_others() -> None:
    plan = built(sampler_spec("dpmpp_2m"), VP())
    assert build_sampler(plan, sigmas=plan.sigmas[2:]).steps == 3
    with pytest.raises(ValueError, match="a plan must run on its own 6 levels, or the last of them"):
        build_sampler(plan, sigmas=[10.0, 5.0, 3.0, 2.0, 1.0, 0.0])
    with pytest.raises(ValueError, match="the plan has 5 steps and 5 model calls; got steps=8"):
        build_sampler(plan, steps=8)
    with pytest.raises(ValueError, match="brings its own noise levels"):
        build_sampler(plan, "karras")
    with pytest.raises(ValueError, match="Make a plan for this process"):
        build_sampler(plan, process=Flow())
    with pytest.raises(ValueError, match="not a ksched plan"):
        build_sampler('{"format": "another"}')


def test_a_report_is_saved_and_is_no_part_of_the_plan() -> None:
    plan = built(sampler_spec("euler"), VP())
    noted = replace(plan, report={"why": "for no reason"})
    assert noted == plan
    assert noted.digest == plan.digest
    assert dict(Plan.from_json(noted.to_json()).report) == {"why": "for no reason"}


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "lms", "deis", "exp_pc", "uni_pc", "ipndm"])
def test_every_method_of_one_call_a_step_is_a_table(name: str) -> None:
    plan = build_sampler(name, "karras", 6, process=EDM()).plan
    table = table_of(plan, 0.5)
    again = Table.from_dict(table.to_dict())
    assert again == table
    grid = Grid.of(plan.sigmas, EDM())
    assert table.sigmas(EDM(), 0.5) == pytest.approx(list(plan.sigmas))
    traced = trace(partial(weighted, weights=table.weights), grid, {})
    assert analysis.table(traced) == pytest.approx(analysis.table(plan), abs=1e-9)


@pytest.mark.parametrize(
    ("levels", "weights", "said"),
    [
        ((2.0, 1.0), ((),), "fall strictly to 0"),
        ((2.0, 3.0, 0.0), ((), (0.0,)), "fall strictly to 0"),
        ((2.0, 1.0, 0.0), ((), ()), "must have 0, 1, 2"),
        ((2.0, 1.0, 0.0), ((), (math.nan,)), "finite"),
    ],
)
def test_a_table_that_is_none_is_refused(levels: Any, weights: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Table(levels, weights)


def test_auto_is_found_by_name_but_is_not_one_of_the_samplers() -> None:
    assert sampler_spec("auto") is AUTO
    assert "auto" not in list(ksched.SamplerType)
    with pytest.raises(ValueError, match="belongs to 'auto'"):
        ksched.register_sampler("auto", lambda run, grid, x: x, order=1)
