"""Dialects of samplers: their tables of options, and the effect of the options that every sampler has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from cases import NAMES, SPECS, can_be_silent, gaussian_denoiser, no_noise, paired
from representatives import each, is_kind, short

from ksched import VP, Dialect, Flow, build_sampler
from ksched.plan.analysis import measured_order, table
from ksched.plan.plan import Plan
from ksched.samplers.registry import dialect_options, register_sampler, sampler_spec, samplers
from ksched.samplers.spec import SamplerSpec
from ksched.types import Array


@each("dialect", Dialect)
def test_a_dialect_is_a_table_of_options_that_change_something(dialect: Dialect) -> None:
    for spec in samplers():
        for option, value in dialect_options(spec, dialect).items():
            known = spec.options[option]
            assert known.check(spec.name, value) == value
            assert value != known.default, f"the dialect of {spec.name} says what is so anyway"


@each("dialect", Dialect)
def test_the_table_is_what_the_dialect_does(dialect: Dialect) -> None:
    """The same plan as with the options written out; explicit options override the dialect."""
    sigmas = [0.9, 0.7, 0.4, 0.1, 0.0]
    for name in NAMES:
        spec = sampler_spec(name)
        options = dialect_options(spec, dialect)
        spoken = build_sampler(name, sigmas=sigmas, process=Flow(), dialect=dialect)
        assert spoken.plan == build_sampler(name, sigmas=sigmas, process=Flow(), **options).plan, name
        assert dict(spoken.options) == options, name
        plain = {option: spec.options[option].default for option in options}
        ours = build_sampler(name, sigmas=sigmas, process=Flow(), dialect=dialect, **plain).plan
        assert ours == build_sampler(name, sigmas=sigmas, process=Flow()).plan, name


def test_ours_changes_nothing_and_strangers_have_no_dialect(monkeypatch: pytest.MonkeyPatch) -> None:
    from ksched.samplers import registry

    assert not any(dialect_options(spec, Dialect.KSCHED) for spec in samplers())
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    mine = register_sampler("mine", lambda run, grid, x: run.denoise(x, grid.levels[0]), order=1)
    assert dialect_options(mine, Dialect.COMFYUI) == {}
    with pytest.raises(ValueError, match="every sampler already has an option 'as_ve'"):
        register_sampler("yours", lambda run, grid, x, *, as_ve=True: x, order=1)


@short(lambda spec: is_kind(spec.name))
@pytest.mark.parametrize(
    "spec", [s for s in SPECS if can_be_silent(s) and s.order and not s.flow_only], ids=lambda s: s.name
)
def test_taking_flow_for_ve_changes_steps_and_not_the_ode(spec: SamplerSpec) -> None:
    process = Flow()

    def build(sigmas: Array) -> Plan:
        return build_sampler(spec.name, sigmas=sigmas, process=process, as_ve=True, **no_noise(spec)).plan

    steps = (16, 31) if spec.order > 4 else (61, 121)
    plan = build(np.array([0.9, 0.5, 0.2]))
    assert [level.alpha for level in plan.levels] == [1 - level.label for level in plan.levels]
    # CFG++ forms take alpha for 1 where it multiplies a prediction, which without guidance cancels
    assert measured_order(build, process, steps=steps) >= spec.order - 0.3


@each("name", NAMES)
def test_taking_ve_for_ve_changes_nothing(name: str) -> None:
    for process in filter(sampler_spec(name).runs_on, (VP(), VP(variance_preserving=True))):
        plans = (build_sampler(name, "karras", 6, process=process, as_ve=flag).plan for flag in (True, False))
        assert next(plans) == next(plans)


def test_noise_of_a_sampler_that_takes_flow_for_ve_is_wrong() -> None:
    """What ComfyUI's ddpm does to flow models, and the default does not."""
    from ksched.plan.analysis import marginals

    for as_ve, wrong in ((True, True), (False, False)):
        plan = build_sampler("ddpm", "simple", 10, process=Flow(3.0), as_ve=as_ve).plan
        worst = max(abs(m.alpha - m.level.alpha) + abs(m.variance - m.level.sigma**2) for m in marginals(plan))
        assert (worst > 0.05) == wrong


def test_start_after_leaves_pure_noise_at_once() -> None:
    sampler = build_sampler("dpmpp_2m_sde", "simple", 5, process=Flow(3.0), start_after=1e-4)
    assert sampler.plan.levels[0].label == pytest.approx(3 * 0.9999 / (1 + 2 * 0.9999))
    assert sampler.sigmas[0] == 1
    karras = build_sampler("dpmpp_2m_sde", "karras", 5, start_after=1e-4)
    assert karras.plan == build_sampler("dpmpp_2m_sde", "karras", 5).plan, "no run from pure noise"


def test_end_at_stops_above_zero() -> None:
    sampler = build_sampler("uni_pc", "karras", 5, end_at=0.001)
    assert sampler.sigmas[-1] == 0
    assert sampler.nfe == 5
    assert (table(sampler.plan)[-1] != 0).sum() > 1, "the result is no prediction but a state"
    with pytest.raises(ValueError, match=r"end_at must be below the last level above 0, 0.0291"):
        build_sampler("uni_pc", "karras", 5, end_at=0.5)


def test_options_of_every_sampler_are_refused_as_others_are() -> None:
    with pytest.raises(TypeError, match="as_ve must be True or False; got 1"):
        build_sampler("euler", as_ve=1)
    with pytest.raises(ValueError, match=r"start_after must be at least 0 and at most 0.5; got 0.7"):
        build_sampler("euler", start_after=0.7)


def test_quirks_are_marked() -> None:
    """What a dialect sets is a quirk exactly if it is outside the proofs; a sample of both kinds."""
    known = {
        ("heunpp2", "weights", "published"): True,
        ("ipndm_v", "weights", "published"): True,
        ("dpmpp_3m_sde", "curvature", "published"): False,  # of lower order in its constant, but a right method
        ("dpmpp_2s_ancestral", "split", "comfyui"): False,
        ("uni_pc", "end_at", 0.001): True,
        ("euler", "as_ve", True): True,
        ("euler", "s_churn", 3.0): False,
    }
    for (name, option, value), quirk in known.items():
        found: Any = sampler_spec(name).options[option]
        assert found.is_peer_value(value) == quirk
        assert not found.is_peer_value(found.default)


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "uni_pc"])
def test_deterministic_results_agree_in_every_coordinate(name: str) -> None:
    """VP states and variance-preserving ones are one run in two scales."""
    results = []
    for process in (VP(), VP(variance_preserving=True)):
        sampler = build_sampler(name, "karras", 8, process=process)
        x = sampler.process.add_noise(torch.zeros(2, 3), torch.ones(2, 3), float(sampler.sigmas[0])).double()
        results.append(sampler.sample(paired(gaussian_denoiser(process)), x))
    torch.testing.assert_close(*results, rtol=1e-6, atol=1e-6)
