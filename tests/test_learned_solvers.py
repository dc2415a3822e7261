"""The families of papers that benchmarks fit, and their dynamic programs: they are what they say."""

from __future__ import annotations

import importlib
import itertools
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

import ksched
from ksched.samplers.linear_multistep import ratio
from ksched.tuning.canonical_plan import canonical

STD = {"vp": 1.0, "edm": 0.5, "flow": 1.0}
PROCESSES: dict[str, ksched.Process] = {"vp": ksched.VP(), "edm": ksched.EDM(), "flow": ksched.Flow()}
NONE = torch.zeros(0, dtype=torch.float64)


@pytest.fixture(scope="module")
def learned() -> Iterator[ModuleType]:
    """benchmarks/_learned.py, which is no module of the package."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
        yield importlib.import_module("_learned")
        del sys.modules["_learned"]


def levels_of(plan: ksched.Plan, std: float) -> list[float]:
    return [ratio(level) / std for level in (*plan.state_levels, plan.end)]


@pytest.mark.parametrize("name", PROCESSES)
def test_the_family_starts_as_ipndm(learned: ModuleType, name: str) -> None:
    process, std = PROCESSES[name], STD[name]
    how: dict[str, Any] = {"process": process, "order": 3, "end": "integral"}
    plan = ksched.build_sampler("ipndm", "karras" if name != "flow" else "beta", 6, **how).plan
    told, rows = canonical(plan, std)
    levels = levels_of(plan, std)
    for opened in ((), ("weights",), ("levels", "told", "weights")):
        family = learned.Multistep(levels, levels[-2] / 2, opened)
        found = family.rows(torch.from_numpy(family.start))
        np.testing.assert_allclose(found[0], told, rtol=1e-9)
        np.testing.assert_allclose(found[1], rows, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(family.levels(family.start), levels, rtol=1e-9)


def test_what_is_told_is_as_tell_makes_it(learned: ModuleType) -> None:
    process = ksched.EDM()
    plan = ksched.build_sampler("ipndm", "karras", 5, process=process, order=3, end="integral").plan
    levels = levels_of(plan, 0.5)
    family = learned.Multistep(levels, levels[-2] / 2, ("told",))
    told, rows = family.rows(torch.tensor([0.3, -0.2, 0.4, 0.1], dtype=torch.float64))
    sigmas = [80.0, *(0.5 * told[1:] / (1 - told[1:])).tolist()]
    expected = canonical(ksched.tell(plan, sigmas, process=process), 0.5)
    np.testing.assert_allclose(told, expected[0], rtol=1e-9)
    np.testing.assert_allclose(rows, expected[1], rtol=1e-7, atol=1e-9)


def test_units_of_weights_change_no_method(learned: ModuleType) -> None:
    gaussian = ksched.exact.Gaussian(np.zeros(6), np.linspace(0.2, 2, 6), ksched.Flow())

    def denoise(y: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = gaussian(y, float(s))
        return found

    start = torch.randn(9, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    problem = ksched.tuning.fit.Problem.of(denoise, start, start)
    plain = learned.Multistep((math.inf, 3.0, 1.0, 0.4, 0.1, 0.0), 0.05, ("weights",))
    other = plain.conditioned(problem)
    assert not np.allclose(plain.start, other.start)
    for a, b in zip(plain.rows(torch.from_numpy(plain.start)), other.rows(torch.from_numpy(other.start)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("growth", [1.0, 1.15])
def test_the_dynamic_program_finds_the_cheapest_path(learned: ModuleType, growth: float) -> None:
    rng, nodes = np.random.default_rng(4), 9
    for steps in (1, 2, 4, 8):
        costs = rng.normal(size=(nodes, nodes))

        def total(path: tuple[int, ...], costs: np.ndarray = costs) -> float:
            return sum(growth**n * float(costs[a, b]) for n, (a, b) in enumerate(itertools.pairwise(path)))

        every = [(0, *inner, nodes - 1) for inner in itertools.combinations(range(1, nodes - 1), steps - 1)]
        found = learned.cheapest(costs, steps, growth)
        assert tuple(found) == min(every, key=total)


def test_geometry_chooses_nodes_of_the_run(learned: ModuleType) -> None:
    levels = (math.inf, *np.geomspace(20, 0.02, 19).tolist(), 0.0)
    gaussian = ksched.exact.Gaussian(np.zeros(4), np.array([1.5, 0.4, 0.3, 0.2]), ksched.Flow())
    start = torch.randn(50, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    path = learned.path_of(lambda y, s: gaussian(y, float(s)), start, levels)
    found = learned.by_geometry(path, 5)
    assert found[0] == levels[0]
    assert found[-1] == 0
    assert len(found) == 6
    assert set(found) <= set(levels)


def test_distillation_is_the_best_of_all_for_two_steps(learned: ModuleType) -> None:
    """With one node between, what is kept for it is the only way there, so the search is over all schedules."""
    levels = (math.inf, *np.geomspace(20, 0.02, 24).tolist(), 0.0)
    gaussian = ksched.exact.Gaussian(np.zeros(4), np.array([1.5, 0.4, 0.3, 0.2]), ksched.Flow())

    def denoise(y: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = gaussian(y, float(s))
        return found

    start = torch.randn(50, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    counted = learned.Counted(denoise)
    path = learned.path_of(counted, start, levels)
    assert counted.calls == 25 * 50

    def error(inner: float) -> float:
        rows = learned.Multistep((math.inf, inner, 0.0), inner / 2, (), 1).rows(NONE)
        problem = ksched.tuning.fit.Problem.of(denoise, start, path.states[-1])
        return float(problem.errors(*rows).square().mean())

    found = learned.by_distillation(counted, path, 2)
    assert found == (math.inf, min(levels[1:-1], key=error), 0.0)
