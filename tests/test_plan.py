"""Plans: what a symbol refuses, what the tape drops, exact JSON, and the printed form."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from cases import CORNER_IDS, CORNERS, process_for
from hypothesis import given
from hypothesis import strategies as st
from representatives import corner_number, short

from ksched import VE, VP, Plan, build_sampler
from ksched.execution.live import EagerContext
from ksched.execution.loop import run_plan
from ksched.plan.analysis import table
from ksched.plan.rows import Draw, Register, Row
from ksched.plan.trace import Symbol, TraceError, trace
from ksched.samplers.blocks.steps import ddim
from ksched.samplers.spec import SamplerSpec
from ksched.schedules.grid import Grid
from ksched.testing.strategies import sigma_curves

GRID = Grid.of([9.0, 3.0, 1.0, 0.0], VE())


def x0() -> Symbol:
    return Symbol({Register("x", 0): 1.0})


def test_printed_plan() -> None:
    assert str(build_sampler("dpmpp_2m", sigmas=[14.6, 5, 1.5, 0.4, 0]).plan) == (
        "x0   eval s=14.6\n"
        "x1   eval s=5      +0.342466 x0  +0.657534 D0\n"
        "x2   eval s=1.5    +0.300000 x1  +1.093241 D1  -0.393241 D0\n"
        "x3   eval s=0.4    +0.266667 x2  +1.135871 D2  -0.402537 D1\n"
        "x4                 +1.000000 D3"
    )


@short(lambda spec, options: corner_number(spec, options) is not None)
@pytest.mark.parametrize(("spec", "options"), CORNERS, ids=CORNER_IDS)
@given(data=st.data())
def test_json_keeps_every_bit(spec: SamplerSpec, options: dict[str, Any], data: st.DataObject) -> None:
    process = process_for(spec, VP(variance_preserving=True))
    plan = build_sampler(spec.name, sigmas=data.draw(sigma_curves(process)), process=process, **options).plan
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert (hash(again), again.digest, str(again)) == (hash(plan), plan.digest, str(plan))
    json.loads(plan.to_json(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_a_plan_from_json_runs_alone() -> None:
    sampler = build_sampler("dpmpp_2m_sde", "karras", 5)
    x = torch.linspace(-9, 9, 6).reshape(2, 3)

    def noise(sigma_from: float, sigma_to: float) -> torch.Tensor:
        return torch.full((2, 3), sigma_to / sigma_from)

    alone = run_plan(Plan.from_json(sampler.plan.to_json()), lambda x, sigma: x / 3, x, noise)
    assert torch.equal(alone, sampler.sample(lambda x, sigma: x / 3, x, noise=noise))
    with pytest.raises(ValueError, match="draws noise"):
        run_plan(sampler.plan, lambda x, sigma: x, x)


def test_a_plan_is_numbers_that_a_page_of_numpy_runs() -> None:
    plan = build_sampler("uni_pc", "karras", 6).plan
    registers: dict[str, Any] = {"x0": np.linspace(-9, 9, 4)}
    calls = 0
    for k, row in enumerate(json.loads(plan.to_json())["rows"]):
        if row["terms"]:
            registers[f"x{k}"] = sum(value * registers[name] for name, value in row["terms"])
        if row["level"]:
            registers[f"D{calls}"] = np.tanh(registers[f"x{k}"])
            calls += 1
    x = torch.linspace(-9, 9, 4, dtype=torch.float64).reshape(1, 4)
    np.testing.assert_allclose(registers[f"x{k}"], run_plan(plan, lambda x, s: torch.tanh(x), x)[0].numpy(), rtol=1e-13)


REFUSED: list[tuple[str, Callable[[Any], object]]] = [
    ("adding 1", lambda x: x + 1),
    ("adding 2.5", lambda x: 2.5 + x),
    ("subtracting 1", lambda x: x - 1),
    ("adding 1", lambda x: 1 - x),
    ("multiplying by a Symbol", lambda x: x * x),
    ("multiplying by a str", lambda x: x * "2"),
    ("multiplying by a ndarray", lambda x: x * np.ones(3)),
    ("dividing by a Symbol", lambda x: x / x),
    ("dividing by a symbol", lambda x: 1 / x),
    ("taking a power", lambda x: x**2),
    ("taking the absolute value", abs),
    ("making a number of a symbol", float),
    ("asking whether a symbol is true", bool),
    ("comparing symbols", lambda x: x == x),
    ("comparing symbols", lambda x: x > 0),
    ("taking a part of a symbol", lambda x: x[0]),
    ("looping over a symbol", list),
    ("calling or reading .clamp", lambda x: x.clamp(-1, 1)),
    ("calling or reading .shape", lambda x: x.shape),
    ("torch's exp", torch.exp),
    ("multiplying by a Tensor", lambda x: torch.ones(2) * x),
]


@pytest.mark.parametrize(("message", "act"), REFUSED, ids=[f"{i}-{m}" for i, (m, _) in enumerate(REFUSED)])
def test_a_symbol_only_adds_and_scales(message: str, act: Callable[[Symbol], object]) -> None:
    with pytest.raises(TraceError, match=f"{message}.*wrap the model if the rule looks at the data"):
        act(x0())


def test_a_symbol_does_add_and_scale() -> None:
    x, d = x0(), Symbol({Register("D", 0): 1.0})
    form = np.float64(2) * (x + d) / 4 - -x * 3 + sum([d, d])
    assert form.terms == {Register("x", 0): 3.5, Register("D", 0): 2.5}
    assert (x - x).terms == {}


def test_a_sampler_must_return_a_state() -> None:
    with pytest.raises(TraceError, match=r"must return a state.*got None"):
        trace(lambda run, grid, x: None, GRID, {})
    with pytest.raises(TraceError, match=r"must denoise a state.*got 3.0"):
        trace(lambda run, grid, x: run.denoise(3.0, grid.levels[0]), GRID, {})


def test_dead_states_and_dead_noise_are_dropped() -> None:
    def wasteful(run: Any, grid: Grid, x: Any) -> Any:
        for s, t in grid.steps():
            run.keep(2 * x)
            kept = run.keep(run.keep(3 * x) * 5)
            x = ddim(s, t, x, run.denoise(x, s)) + 0.0 * run.noise(s, t) + 0.0 * kept
        return x

    plan = trace(wasteful, GRID, {})
    assert str(plan) == str(build_sampler("euler", sigmas=[9, 3, 1, 0], process=VE()).plan)


def two_noises(run: Any, grid: Grid, x: Any) -> Any:
    """A step that asks for noise of its first part and then of the whole step."""
    for s, t in grid.steps():
        middle = grid.at(s.lam + 1.0)
        x = run.denoise(x, s) + run.noise(s, middle) + 2.0 * run.noise(s, t)
    return x


def test_overlapping_noises_become_disjoint_increments_of_one_path() -> None:
    plan = trace(two_noises, Grid.of([8.0, 1.0], VE()), {})
    middle = 8.0 / math.e
    assert [draw[:2] for draw in plan.draws] == [(8.0, pytest.approx(middle)), (pytest.approx(middle), 1.0)]
    first, second = (dict(plan.rows[-1].terms)[Register("xi", m)] for m in (0, 1))
    # of the variance of the whole interval, the part that lies in the first: the clock is 1 / sigma ** 2 here
    share = (1 / middle**2 - 1 / 64) / (1 - 1 / 64)
    assert first == pytest.approx(1 + 2 * math.sqrt(share))
    assert second == pytest.approx(2 * math.sqrt(1 - share))


def test_the_same_interval_is_the_same_noise_until_the_run_is_noised_up_again() -> None:
    def again(run: Any, grid: Grid, x: Any) -> Any:
        (s, t), *_ = grid.steps()
        total = run.denoise(x, s) + run.noise(s, t) + run.noise(s, t) + run.noise(s, t, stream=1)
        return total + run.noise(t, s) + run.noise(s, t)

    plan = trace(again, Grid.of([8.0, 1.0], VE()), {})
    assert plan.draws == (Draw(8, 1), Draw(8, 1, 0, 1), Draw(1, 8, 1), Draw(8, 1, 1))
    assert [value for register, value in plan.rows[-1].terms if register.kind == "xi"] == [1, 1, 1, 2]


def test_samplers_that_need_the_unconditional_prediction() -> None:
    def euler_cfg_pp(run: Any, grid: Grid, x: Any) -> Any:
        for s, t in grid.steps():
            denoised, uncond = run.denoise_both(x, s)
            x = t.alpha * denoised + t.sigma / s.sigma * (x - s.alpha * uncond)
        return x

    plan = trace(euler_cfg_pp, GRID, {})
    assert str(plan).splitlines()[1] == "x1   eval s=3      +0.333333 x0  +1.000000 D0  -0.333333 U0"
    assert Plan.from_json(plan.to_json()) == plan
    x = torch.linspace(-9, 9, 4, dtype=torch.float64).reshape(1, 4)

    def model(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x / 2, x / 3

    live = euler_cfg_pp(EagerContext(model, x, lambda draw, like, out=None: like), GRID, x)
    torch.testing.assert_close(run_plan(plan, model, x), live, rtol=1e-14, atol=0)
    with pytest.raises(TypeError, match=r"needs \(denoised, uncond\)"):
        run_plan(plan, lambda x, sigma: x, x)
    same = trace(lambda run, grid, x: euler_cfg_pp(run, grid, x), GRID, {})
    np.testing.assert_array_equal(table(same), table(plan))


def test_a_table_that_cannot_run_cannot_be_built() -> None:
    plan = build_sampler("ddpm", "karras", 3).plan
    d0, x9 = Register("D", 0), Register("x", 9)
    level = plan.start

    def with_rows(*rows: Row, draws: tuple[Draw, ...] = ()) -> Plan:
        return dataclasses.replace(plan, rows=rows, draws=draws)

    first, end = Row((), level, 0), Row(((d0, 1.0),), None, 0)
    assert with_rows(first, end).nfe == 1
    for rows, draws, message in [
        ((first,), (), "a first row, which is given, and a last row"),
        ((end, end), (), "a first row, which is given"),
        ((first, first), (), "a last row, which is the result"),
        ((first._replace(level=None), end), (), "row x1 refers to D0, which does not exist yet"),
        ((first, Row(((x9, 1.0),), None, 0)), (), "row x1 refers to x9"),
        ((first, Row(((Register("U", 0), 1.0),), None, 0)), (), "row x1 refers to U0"),
        ((first, Row(((Register("xi", 0), 1.0),), None, 0)), (), "row x1 refers to xi0"),
        ((first, Row(((d0, math.nan),), None, 0)), (), "finite coefficients; got nan for D0"),
        ((first, Row((), None, 0), end), (), "row x1 must have terms"),
        ((first, end), (Draw(1, 0),), r"noise xi0 \(1 to 0\) must be used by a row"),
    ]:
        with pytest.raises(ValueError, match=message):
            with_rows(*rows, draws=draws)


def test_a_sampler_may_list_its_steps_before_it_begins() -> None:
    """The steps of rows are then told by the levels: each call has that of the sampler which takes them in turn."""

    def in_turn(run: Any, grid: Any, x: Any, *, listed: bool) -> Any:
        for s, t in list(grid.steps()) if listed else grid.steps():
            x = ddim(s, t, x, run.denoise(x, s))
        return x

    plans = [trace(in_turn, GRID, {"listed": listed}) for listed in (True, False)]
    assert plans[0] == plans[1]
    assert plans[0].call_steps == (0, 1, 2)
