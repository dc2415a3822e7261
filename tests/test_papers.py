"""Claims of papers about samplers: every finding on the documentation's page is measured again."""

from __future__ import annotations

import importlib.util
import json
import math
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import ksched
from ksched import EDM, Flow
from ksched.plan.analysis import Law, gaussian_error, gaussian_law

ROOT = Path(__file__).parents[1]
RECORDED = json.loads((ROOT / "benchmarks" / "results" / "papers.json").read_text())["findings"]
SAMPLED = {"guidance-is-no-tilt": 0.02}  # relative; torch's random numbers may differ between versions


@cache
def benchmark() -> ModuleType:
    """benchmarks/papers.py, which is no module of the package."""
    path = ROOT / "benchmarks" / "papers.py"
    source = importlib.util.spec_from_file_location("papers_benchmark", path)
    assert source is not None
    assert source.loader is not None
    module = importlib.util.module_from_spec(source)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path.parent)
        patch.setitem(__import__("sys").modules, "papers_benchmark", module)  # dataclasses look their module up
        source.loader.exec_module(module)
    return module


@pytest.mark.parametrize("number", range(len(RECORDED)), ids=[finding["key"] for finding in RECORDED])
def test_a_claim_is_found_again(number: int) -> None:
    recorded: dict[str, Any] = RECORDED[number]
    finding = benchmark().CLAIMS[number]()
    assert finding.key == recorded["key"]
    assert finding.agrees == recorded["agrees"]
    assert finding.figures.keys() == recorded["figures"].keys()
    for name, value in finding.figures.items():
        close = pytest.approx(recorded["figures"][name], rel=SAMPLED.get(finding.key, 2e-3), abs=1e-5)
        exploded = value > 100  # where every rounding counts
        assert exploded or value == close, name


def test_every_claim_is_recorded() -> None:
    assert len(benchmark().CLAIMS) == len(RECORDED)
    assert len({finding["key"] for finding in RECORDED}) == len(RECORDED)


def test_by_the_tangent_law_every_euler_step_keeps_a_cosine() -> None:
    for process, first, last in ((EDM(), 80.0, 0.002), (EDM(), 10.0, 0.5)):
        for std in (0.2, 1.0, 3.0):
            angles = np.linspace(math.atan(first / std), math.atan(last / std), 7)
            plan = ksched.build_sampler("euler", process=process, sigmas=std * np.tan(angles)).plan
            exact = math.hypot(std, plan.end.sigma)
            short = exact * (1 - math.cos(angles[0] - angles[1]) ** 6)
            assert gaussian_error(plan, 0.0, std, weak=True) == pytest.approx(short, rel=1e-10)


def test_a_start_of_another_law_goes_through_the_plan() -> None:
    plan = ksched.build_sampler("euler_ancestral", process=Flow(), sigmas=[0.9, 0.5, 0.0]).plan
    own = Law(0.1 * 2.0, (0.1 * 1.5) ** 2 + 0.9**2)
    assert gaussian_law(plan, 2.0, 1.5, start=own) == gaussian_law(plan, 2.0, 1.5)
    still, moved = (gaussian_law(plan, 2.0, 1.5, start=Law(mean, 0.0)) for mean in (0.0, 1.0))
    slope = moved.mean - still.mean
    assert moved.variance == still.variance
    assert gaussian_law(plan, 2.0, 1.5, start=Law(0.0, 1.0)).variance - still.variance == pytest.approx(slope**2)
