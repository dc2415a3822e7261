"""Reinforcement learning's steps as samplers: their formulas, the variance they keep or lose, where they run."""

from __future__ import annotations

import importlib.util
import json
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import COORDINATES, PROCESSES, SPECS, process_for
from hypothesis import given
from hypothesis import strategies as st
from representatives import each

import ksched
from ksched import Flow, build_sampler
from ksched.plan.analysis import marginals, table
from ksched.samplers.facts import sampler_facts
from ksched.samplers.registry import sampler_spec
from ksched.samplers.spec import SamplerSpec
from ksched.testing import check_plan, check_sampler
from ksched.testing.strategies import sigma_curves

RULES = ("flow_sde", "dance_sde", "flow_cps")
ROOT = Path(__file__).parents[1]


def written_out(rule: str, sigmas: list[float], level: float) -> np.ndarray[Any, Any]:
    """States of a run as rows over the start, every prediction and every noise, by the papers' formulas."""
    steps = len(sigmas) - 1
    basis = np.eye(1 + 2 * steps)
    x, rows = basis[0], [basis[0]]
    for k, (s, t) in enumerate(pairwise(sigmas)):
        data, noise = basis[1 + k], basis[1 + steps + k]
        velocity = (x - data) / s
        if t == 0:
            x = data
        elif rule == "flow_cps":
            std = t * math.sin(level * math.pi / 2)
            x = (1 - t) * data + math.sqrt(t * t - std * std) * (x + (1 - s) * velocity) + std * noise
        else:
            std = level if rule == "dance_sde" else level * math.sqrt(s / (1 - (sigmas[1] if s == 1 else s)))
            score = -(x + (1 - s) * velocity) / s
            x = x + (velocity - std * std / 2 * score) * (t - s) + std * math.sqrt(s - t) * noise
        rows.append(x)
    return np.array(rows)


@pytest.mark.parametrize("rule", RULES)
@given(data=st.data())
def test_a_plan_is_the_papers_formula(rule: str, data: st.DataObject) -> None:
    sigmas = data.draw(sigma_curves(Flow()))
    level = data.draw(st.floats(0.05, 0.95))
    plan = build_sampler(rule, process=Flow(), sigmas=sigmas, noise_level=level).plan
    want = written_out(rule, sigmas.tolist(), level)
    found, calls = table(plan), plan.nfe
    got = np.hstack([found[:, :1], found[:, 1 : 1 + 2 * calls : 2], found[:, 1 + 2 * calls :]])
    drawn = got.shape[1] - 1 - calls
    size = np.abs(want).max()
    np.testing.assert_allclose(got, want[:, : 1 + calls + drawn], rtol=1e-9, atol=1e-9 * size)
    assert not want[:, 1 + calls + drawn :].any()  # no noise in a step to sigma 0


@pytest.mark.parametrize("rule", RULES)
@each("process", [process for process in PROCESSES.values() if not process.is_flow])
def test_on_other_processes_they_are_refused(rule: str, process: ksched.Process) -> None:
    said = f"sampler {rule} must run on a flow process, whose states are (1 - sigma) * x0 + sigma * noise; got "
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        build_sampler(rule, steps=4, process=process)
    assert repr(process) in str(caught.value)
    for other in ("dpmpp_2m_sde", "euler_ancestral"):
        assert f"'{other}'" in str(caught.value)
        assert build_sampler(other, steps=4, process=process).spec.keeps_variance


def test_states_taken_for_something_else_are_no_flow() -> None:
    with pytest.raises(ValueError, match="must run on a flow process"):
        build_sampler("flow_sde", process=Flow(), as_ve=True)
    for dialect in ksched.Dialect:
        assert build_sampler("flow_sde", process=Flow(), dialect=dialect).plan.draws


@each("spec", SPECS)
def test_what_is_declared_of_the_variance_is_so(spec: SamplerSpec) -> None:
    """No sampler is excused from a proof that it would pass."""
    process = process_for(spec, COORDINATES["flow"])
    sigmas = np.linspace(1, 0, 9)
    excess = max(
        abs(state.variance / (plan.noise_scale * state.level.sigma) ** 2 - 1)
        for plan in [build_sampler(spec.name, process=process, sigmas=sigmas).plan]
        for state in marginals(plan)
        if state.level.sigma > 0
    )
    assert (excess < 1e-10) is spec.keeps_variance
    assert ("variance" in sampler_facts(spec)) is not spec.keeps_variance
    assert sampler_facts(spec).get("runs on", "") == ("flow processes only" if spec.flow_only else "")


def test_checks_of_ones_own_samplers_know_the_fact() -> None:
    function = sampler_spec("dance_sde").function
    with pytest.raises(AssertionError, match="has noise of variance"):
        check_sampler(function, processes=[Flow()])
    check_sampler(function, processes=[Flow()], keeps_variance=False, weak_order=1)
    plan = build_sampler("dance_sde", steps=4, process=Flow()).plan
    check_plan(plan, keeps_variance=False)
    (register, value), *rest = plan.rows[2].terms
    wrong = plan.rows[2]._replace(terms=((register, value + 1e-3), *rest))
    broken = ksched.Plan((*plan.rows[:2], wrong, *plan.rows[3:]), plan.draws, plan.start, plan.end, plan.sigmas)
    with pytest.raises(AssertionError, match="of the data where"):  # the mean is looked at all the same
        check_plan(broken, keeps_variance=False)


def test_a_sampler_of_ones_own_declares_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from ksched.samplers import registry

    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    function = sampler_spec("dance_sde").function
    facts: dict[str, Any] = {"keeps_variance": False, "flow_only": True, "draws": 1}
    spec = ksched.register_sampler("my_policy", function, order=1, **facts)
    ksched.SamplerType.registered().remove("my_policy")
    assert not spec.keeps_variance
    with pytest.raises(ValueError, match="sampler my_policy must run on a flow process"):
        spec.plan(build_sampler("euler", steps=3).grid, {})


def test_the_table_of_the_documentation_is_what_they_do() -> None:
    """The benchmark's file, computed again."""
    path = ROOT / "benchmarks" / "policy_steps.py"
    source = importlib.util.spec_from_file_location("policy_steps_benchmark", path)
    assert source is not None
    assert source.loader is not None
    module = importlib.util.module_from_spec(source)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path.parent)
        source.loader.exec_module(module)
    rows = json.loads((ROOT / "benchmarks" / "results" / "policy_steps.json").read_text())["rows"]
    assert len(rows) == len(module.RULES) * len(module.SHIFTS) * len(module.STEPS)
    for row in rows:
        found = module.measured(module.plan_of(row["rule"], row["options"], row["steps"], row["shift"]))
        for key in ("std_ratio", "mean", "w2", "entropy"):
            assert found[key] == pytest.approx(row[key], rel=1e-3, abs=1e-3)
