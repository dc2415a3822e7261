"""A new sampler is one function and one registry line; it then works everywhere."""

from __future__ import annotations

import ast
import inspect
from typing import Any

import pytest
import torch
from cases import EVERY_NAME

from ksched import Flow, NoiseSchedule, SamplerType, build_sampler
from ksched.options import NonNegative
from ksched.plan.analysis import marginals, measured_order
from ksched.samplers import registry
from ksched.samplers.blocks.steps import ddim
from ksched.schedules.grid import Grid


def midpoint(run: Any, grid: Grid, x: Any, *, ratio: NonNegative = 0.5) -> Any:
    """Two calls per step, the second part of the way through it in log-SNR."""
    for s, t in grid.steps():
        denoised = run.denoise(x, s)
        if t.sigma > 0:
            mid = grid.at(s.lam + ratio * (t.lam - s.lam))
            after = run.denoise(ddim(s, mid, x, denoised), mid)
            denoised = denoised + (after - denoised) / (2 * ratio)
        x = ddim(s, t, x, denoised)
    return x


@pytest.fixture
def mine(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    registry.register_sampler("my_midpoint", midpoint, order=2, calls=2, source="test")
    return "my_midpoint"


def test_a_registered_sampler_is_one_of_ours(mine: str) -> None:
    for schedule in NoiseSchedule:
        for process in (None, Flow(2.0)):
            if process is not None and schedule is not NoiseSchedule.DDIM_UNIFORM:
                continue  # the log-SNR of pure noise is infinite, which this sampler does not treat
            sampler = build_sampler(mine, schedule, 6, process=process, ratio=0.7)
            assert sampler.nfe == sampler.spec.nfe(6) == 11
            assert all(abs(m.alpha - m.level.alpha) < 1e-12 for m in marginals(sampler.plan))
    sampler = build_sampler(mine, "karras", 6)
    assert torch.isfinite(sampler.sample(lambda x, sigma: x / 2, torch.ones(2, 3))).all()
    vp = sampler.process
    assert measured_order(lambda sigmas: build_sampler(mine, sigmas=sigmas).plan, vp) == pytest.approx(2, abs=0.15)
    with pytest.raises(ValueError, match="'my_midpoint' is taken"):
        registry.register_sampler(mine, midpoint, order=2)
    with pytest.raises(ValueError, match="ratio must be a finite number of at least 0"):
        build_sampler(mine, ratio=-1)


def test_every_member_works_and_is_declared() -> None:
    assert [member.value for member in SamplerType] == EVERY_NAME
    for spec in registry.samplers():
        assert spec.source
        assert spec.summary.endswith(".")
        assert spec.order >= 0
        for option in spec.options.values():
            assert option.check(spec.name, option.default) == option.default


def test_a_sampler_is_a_short_function() -> None:
    for spec in registry.samplers():
        (function,) = ast.parse(inspect.getsource(spec.function)).body
        assert isinstance(function, ast.FunctionDef)
        _doc, *body = function.body
        assert sum((node.end_lineno or 0) - node.lineno + 1 for node in body) <= 25, spec.name
