"""A new sampler needs one function and one line of registration, and then works everywhere."""

from __future__ import annotations

import ast
import inspect
import pickle
from typing import Any

import pytest
import torch
from cases import EVERY_NAME

from ksched import VP, Dialect, Flow, NoiseSchedule, SamplerType, build_sampler
from ksched.options import NonNegative
from ksched.plan.analysis import marginals, measured_order
from ksched.samplers import registry, shipping
from ksched.samplers.blocks.steps import ddim
from ksched.samplers.dpmpp import dpmpp_2m_sde
from ksched.samplers.euler import euler
from ksched.samplers.peer_names import a1111, comfyui, diffusers, k_diffusion
from ksched.samplers.shipping import preset, ships
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
    with pytest.raises(ValueError, match="must be new; 'my_midpoint'"):
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


# --------------------------------------------------------------------------------------------- samplers that ship


@pytest.fixture
def shipyard(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(shipping, "_SHIPPED", dict(shipping._SHIPPED))
    return shipping._SHIPPED


def test_the_registry_is_what_ships() -> None:
    assert sorted(spec.name for spec in shipping.shipped()) == sorted(SamplerType)


def test_a_registration_makes_all_facts(shipyard: dict[str, Any]) -> None:
    how: dict[str, Any] = {"order": 2, "source": "test", "family": "runge_kutta", "calls": 2}
    rows = [comfyui(), comfyui("{}_gpu"), comfyui("SamplerMidpoint", "a node", eta=0.5), diffusers("MidScheduler")]
    rows += [k_diffusion("ratio"), a1111("Mid", read=False)]
    published: dict[Dialect, dict[str, Any]] = {Dialect.K_DIFFUSION: {"ratio": 0.7}, Dialect.COMFYUI: {"as_ve": False}}
    assert ships(name="mid", spellings="centre", peers=rows, dialects=published, **how)(midpoint) is midpoint
    spec = shipyard["mid"]
    assert (spec.function, spec.order, spec.nfe(6)) == (midpoint, 2, 11)
    words = ["centre", "mid", "sample_mid", "mid_gpu", "SamplerMidpoint", "Mid", "MidScheduler", "sample_mid"]
    assert spec.words == words
    assert spec.arguments(Dialect.K_DIFFUSION) == ("ratio",)
    assert spec.arguments(Dialect.A1111) is None
    assert spec.dialects == {
        Dialect.KSCHED: {},
        Dialect.COMFYUI: {},
        Dialect.K_DIFFUSION: {"as_ve": True, "ratio": 0.7},
        Dialect.DIFFUSERS: {},
        Dialect.A1111: {"as_ve": True, "ratio": 0.7},
        Dialect.SD_CPP: {"as_ve": True, "ratio": 0.7},
        Dialect.SKRAMPLE: {},
        Dialect.RES4LYF: {"as_ve": True},
        Dialect.SDNEXT: {},
    }
    with pytest.raises(ValueError, match="a sampler named 'mid' is already registered"):
        ships(name="mid", **how)(midpoint)
    with pytest.raises(ValueError, match="family must be one of euler"):
        ships(name="middle", **{**how, "family": "none"})(midpoint)


def test_a_preset_is_the_other_sampler_with_some_options_decided(shipyard: dict[str, Any]) -> None:
    @preset(dpmpp_2m_sde, fixed={"s_noise": 1.0}, defaults={"eta": 0.3}, source="test", dialects={Dialect.A1111: {}})
    def calm() -> None:
        """`dpmpp_2m_sde` with less noise."""

    spec, other = shipyard["calm"], registry.sampler_spec("dpmpp_2m_sde")
    assert (spec.summary, spec.source, spec.order) == ("`dpmpp_2m_sde` with less noise.", "test", other.order)
    assert [str(option) for option in spec.own_options.values()] == ["eta=0.3", "solver_type='midpoint'"]
    assert (spec.words, spec.function.__module__) == ([], __name__)
    assert spec.dialects[Dialect.COMFYUI] == other.dialects[Dialect.COMFYUI]
    assert spec.dialects[Dialect.A1111] == {"as_ve": True}
    grid = Grid.of([14.6, 5.0, 1.5, 0.4, 0.0], VP())
    for given in ({}, {"eta": 0.0}, {"eta": 1.0, "solver_type": "heun"}):
        assert spec.plan(grid, given).rows == other.plan(grid, {"eta": 0.3, **given}).rows
    with pytest.raises(TypeError, match="euler has no option 'eta'"):
        preset(euler, fixed={"eta": 0.0})


@pytest.mark.parametrize("name", ["dpmpp_2m", "exp_heun_2_x0_sde", "res_multistep", "sa_solver_pece", "uni_pc_bh2"])
def test_a_preset_is_found_by_its_name_as_pickles_need(name: str) -> None:
    assert pickle.loads(pickle.dumps(registry.sampler_spec(name))) == registry.sampler_spec(name)


@pytest.mark.parametrize("word", ["order", "max_order", "solver_order"])
@pytest.mark.parametrize("name", ["lms", "deis", "ipndm", "pndm", "uni_pc", "dpm_multistep"])
def test_an_order_has_one_word_and_other_programs_words_are_read(name: str, word: str) -> None:
    given: dict[str, Any] = {word: 1}
    plan = build_sampler(name, "karras", 6, **given).plan
    assert plan == build_sampler(name, "karras", 6, order=1).plan
    with pytest.raises(ValueError, match="another name for order"):
        build_sampler(name, "karras", 6, **given | {"order": 1, "max_order": 1})
