"""Tables with free rows and told levels: their meaning on every process, and how `tune` fits them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from representatives import each
from test_tune import error, guided, mixture

import ksched
from ksched import EDM, VE, VP, Flow, Plan, Process, build_sampler, tell, tune
from ksched.execution.loop import run_plan
from ksched.plan import analysis
from ksched.plan.trace import trace
from ksched.samplers.linear_table import LinearTable, linear
from ksched.schedules.grid import Grid
from ksched.tuning import search
from ksched.tuning.canonical_plan import canonical, linear_of, table_of
from ksched.tuning.fit import Linear, Problem

CASES: list[tuple[Process, float]] = [
    (VP(), 1.0),
    (VP(variance_preserving=True), 0.7),
    (EDM(), 0.5),
    (VE(), 1.3),
    (Flow(shift=3.0), 1.0),
    (Flow(noise_scale=0.5), 2.0),
]


def built(table: LinearTable, process: Process, data_std: float) -> Plan:
    grid = Grid.of(table.sigmas(process, data_std), process)
    return trace(partial(linear, table=table, data_std=data_std), grid, {})


def free_table(process: Process, data_std: float) -> LinearTable:
    """That of a good plan, with rows that are no means and other levels told."""
    table = linear_of(
        build_sampler("auto", steps=5, process=process, data_std=data_std, consistent=True).plan, data_std
    )
    rng = np.random.default_rng(0)
    told = (table.told[0], *(level * f for level, f in zip(table.told[1:], (0.8, 1.2, 0.9, 1.1), strict=True)))
    rows = tuple(tuple(value + 0.05 * rng.standard_normal() for value in row) for row in table.rows)
    return LinearTable(table.levels, told, rows)


@each("case", CASES)
def test_a_table_is_its_plan_on_every_process(case: tuple[Process, float]) -> None:
    """And back; a plan whose rows are means is the same plan."""
    process, data_std = case
    cases: list[tuple[str, dict[str, Any]]] = [
        ("auto", {"data_std": data_std, "consistent": True}),
        ("euler", {}),
        ("ipndm", {}),
    ]
    for sampler, how in cases:
        plan = build_sampler(sampler, steps=5, process=process, **how).plan
        again = built(linear_of(plan, data_std), process, data_std)
        assert not again.tells_others
        np.testing.assert_allclose(analysis.table(again), analysis.table(plan), rtol=1e-6, atol=1e-8)
    table = free_table(process, data_std)
    plan = built(table, process, data_std)
    found = linear_of(plan, data_std)
    for one, other in (
        (table.levels, found.levels),
        (table.told, found.told),
        *zip(table.rows, found.rows, strict=True),
    ):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-9)
    assert plan.tells_others
    assert "not exact for a constant prediction" in ksched.explain(plan)
    assert LinearTable.from_dict(json.loads(json.dumps(table.to_dict()))) == table
    assert Plan.from_json(plan.to_json()) == plan


def test_a_free_table_means_the_same_run_on_another_process() -> None:
    """The same table, on data that is scaled likewise: same start, same end."""
    table = free_table(VP(), 1.0)
    cases = [(VP(), 1.0), (VP(variance_preserving=True), 1.0), (EDM(sigma_max=VP().sigma_max * 0.5), 0.5)]
    results = []
    for process, std in cases:
        first = process.level(process.sigma_max)
        x = first.sigma * torch.randn(8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        results.append(run_plan(built(table, process, std), mixture(process, std), x) / std)
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=1e-5, atol=1e-5)


@each("case", CASES)
def test_numbers_rows_and_tables_are_the_same_thing(case: tuple[Process, float]) -> None:
    """The errors that the fit minimises equal those of the run."""
    process, data_std = case
    table, model = free_table(process, data_std), mixture(process, data_std)
    first = table.levels[0]
    family = Linear(5, first, 1e-3)
    numbers = family.numbers(table)
    again = family.table(numbers, table.levels)
    np.testing.assert_allclose(again.told, table.told, rtol=1e-9)
    np.testing.assert_allclose(np.concatenate(again.rows), np.concatenate(table.rows), rtol=1e-12)
    plan = built(table, process, data_std)
    for one, other in zip(canonical(plan, data_std), family.rows(torch.from_numpy(numbers)), strict=True):
        np.testing.assert_allclose(one, other.numpy(), rtol=1e-6, atol=1e-9)
    noise = torch.randn(4, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    level = process.level(process.sigma_max)
    found = run_plan(plan, model, level.sigma * process.noise_scale * noise) / data_std

    def denoise(y: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        there = process.level(process.sigma_max)
        if float(s) < float(s0) - 1e-12:
            there = process.level_at(-math.log(float(s) / (1 - float(s)) * data_std / process.noise_scale))
        scale = there.alpha * data_std + there.sigma * process.noise_scale
        return model(scale * y, torch.full((len(y),), there.label, dtype=y.dtype)) / data_std

    levels, rows = family.rows(torch.from_numpy(numbers))
    s0 = levels[0]
    problem = Problem(denoise, float(s0) * noise, torch.zeros_like(noise), torch.tensor(1.0, dtype=torch.float64))
    conditioned = family.conditioned([problem], table)
    again_rows = conditioned.rows(torch.from_numpy(conditioned.numbers(table)))
    torch.testing.assert_close(again_rows, (levels, rows), rtol=1e-9, atol=1e-9)
    wanted = found.square().mean(1).sqrt()
    torch.testing.assert_close(problem.errors(levels, rows), wanted, rtol=1e-4, atol=1e-5)


def test_what_is_no_table_is_refused() -> None:
    table = free_table(VP(), 1.0)
    changes: dict[str, dict[str, Any]] = {
        "must fall strictly to 0": {"levels": table.levels[:-1]},
        "told must have one level above 0 for each": {"told": table.told[1:]},
        "must have 2, 3, 4": {"rows": table.rows[1:]},
        "finite": {"rows": ((math.nan, 1.0), *table.rows[1:])},
    }
    for said, change in changes.items():
        with pytest.raises(ValueError, match=said):
            replace(table, **change)
    with pytest.raises(ValueError, match="one model call per step"):
        linear_of(build_sampler("heun", "karras", 4).plan)
    with pytest.raises(ValueError, match="draw no noise"):
        linear_of(build_sampler("dpmpp_2m_sde", "karras", 4).plan)
    plan = build_sampler("dpmpp_2m", "karras", 4).plan
    with pytest.raises(ValueError, match="sigmas other than its states' own"):
        table_of(tell(plan, [*plan.call_sigmas[:-1], 0.02], process=VP()))


def test_tune_frees_the_rows_where_it_may_and_the_judge_takes_what_is_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under guidance, which overshoots, by gradients through the model, from the table of `auto`."""
    monkeypatch.setattr(search.Tuning, "fits", lambda *_: iter(()))  # what follows is of the fits through the model
    monkeypatch.setattr(search, "_OTHERS", 0.0)
    monkeypatch.setattr(search, "_FEW", 0)
    monkeypatch.setitem(search.ITERATIONS, "model", 15)
    process = VP()
    model = guided(mixture(process))
    free, kept = (
        tune(model, 3, process=process, shape=(8,), level=2, items=32, consistent=consistent)
        for consistent in (False, True)
    )
    assert free.report["chosen"] == "fitted through the model"
    assert free.tells_others
    table_of(kept, kept.report["data_std"])  # rows that are means, at the levels of the states
    assert error(free, model, process) < 0.92 * error(kept, model, process)
    assert "not exact" in ksched.explain(free)
    assert "= exact" in ksched.explain(kept)
    again = Plan.from_json(free.to_json())
    assert again == free
    assert again.report == free.report
