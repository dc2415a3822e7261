"""`Plan.skip`: a plan that forms some predictions from earlier ones equals a model that answers that way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest
import torch
from cases import NAMES, process_for
from hypothesis import given
from hypothesis import strategies as st
from representatives import each

import ksched
from ksched import Flow, Plan, build_sampler, exact
from ksched.arrays import run as run_on_arrays
from ksched.execution.batch import Batch
from ksched.plan.analysis import gaussian_error
from ksched.plan.trace import trace
from ksched.samplers.registry import sampler_spec
from ksched.schedules.grid import Grid
from ksched.testing.samplers import check_plan

CALLS = 12
RULES: tuple[Literal["line"], Literal["reuse"]] = ("line", "reuse")


def model(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Not linear, so that every prediction counts; with an unconditional twin."""
    wide = (1 + sigma.reshape(-1, *[1] * (x.dim() - 1)) ** 2).sqrt()
    return (x / wide).tanh() + 0.1 / wide, (x / wide).sin()


def cached(sampler: ksched.Sampler, x: torch.Tensor, gone: set[int], by: str, seed: int | None) -> torch.Tensor:
    """The whole plan, with a step cache around the model."""
    run, made = sampler.start(x, seed=seed), list[tuple[float, torch.Tensor, torch.Tensor]]()
    for call in range(sampler.nfe):
        lam = run.level.lam
        if call not in gone:
            made.append((lam, *model(run.x, run.sigma)))
        last = made[-1]
        before = [each for each in made[:-1] if each[0] != last[0]]
        answer = last[1], last[2]
        if call in gone and by == "line" and before and all(map(math.isfinite, (lam, last[0], before[-1][0]))):
            share = (lam - last[0]) / (last[0] - before[-1][0])
            old = before[-1]
            answer = last[1] + share * (last[1] - old[1]), last[2] + share * (last[2] - old[2])
        run.feed(*answer) if run.needs_uncond else run.feed(answer[0])
    return run.x


PLANS = [name for name in NAMES if not sampler_spec(name).adaptive]


@pytest.mark.parametrize("by", ["reuse", "line"])
@each("name", PLANS)
def test_is_the_whole_plan_with_a_cache_around_the_model(name: str, by: Literal["reuse", "line"]) -> None:
    number = PLANS.index(name)
    process = process_for(name) if number % 2 else Flow(3.0)  # Flow starts at pure noise
    whole = build_sampler(name, calls=CALLS, schedule="simple", process=process)
    gone = {int(call) for call in np.random.default_rng(number).choice(np.arange(1, whole.nfe), whole.nfe // 2, False)}
    plan = whole.plan.skip(sorted(gone), by)
    assert plan.nfe == whole.nfe - len(gone)
    assert list(plan.call_sigmas) == [s for call, s in enumerate(whole.plan.call_sigmas) if call not in gone]
    assert set(plan.draws) <= set(whole.plan.draws)
    assert sorted(set(plan.call_steps)) == list(range(plan.steps))  # no step is without a call
    assert Plan.from_json(plan.to_json()) == plan
    check_plan(plan, keeps_variance=whole.spec.keeps_variance)
    x, seed = whole.initial_state((2, 3), seed=1, dtype=torch.float64), 5 if whole.plan.draws else None
    expected = cached(whole, x, gone, by, seed)
    result = build_sampler(plan, process=process).sample(model, x, seed=seed if plan.draws else None)
    torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)


@given(st.sets(st.integers(2, 18), min_size=1), st.sampled_from(["dpmpp_2m", "uni_pc", "ipndm", "lms"]))
def test_the_line_is_exact_for_predictions_that_are_linear_in_lam(gone: set[int], name: str) -> None:
    sigmas = ksched.calculate_sigmas("karras", 19)[:-1]  # to above 0, where a result holds more than one prediction
    whole = build_sampler(name, sigmas=sigmas).plan
    gone = {call for call in gone if call < whole.nfe}
    answers = {level.label: 2 - 0.3 * level.lam for level in whole.levels}

    def result(plan: Plan) -> float:
        return float(run_on_arrays(plan, lambda x, sigma: np.full(1, answers[sigma]), np.ones(1))[0])

    off = [abs(result(whole.skip(gone, by)) - result(whole)) for by in RULES]
    assert off[0] < 1e-9 * (1 + abs(result(whole)))
    assert off[1] > 1e-6 or not gone


def test_a_state_that_two_rows_read_is_kept_and_others_are_merged() -> None:
    heun = build_sampler("heun", "karras", 4).plan
    assert [len(heun.skip([call]).rows) for call in (1, 2)] == [len(heun.rows) - 1, len(heun.rows)]
    assert build_sampler("euler", steps=20).plan.skip([*range(1, 19)]).live_registers <= 4


def test_unusual_levels_and_answers() -> None:
    """Back to pure noise between two calls; an unconditional prediction whose call is skipped."""

    def function(run: Any, grid: Grid, x: Any) -> Any:
        high, middle, low, _ = grid.levels
        a = run.denoise(x, middle)
        b = run.denoise(x + a, high)
        c, uncond = run.denoise_both(x + b, low)
        return c - uncond + a + b

    grid = Grid.of([1.0, 0.5, 0.25, 0.0], Flow())
    plan = trace(function, grid, {}).skip([2], by="line")
    assert [row.both for row in plan.rows] == [False, True, False]
    assert dict(plan.rows[-1].terms) == {("D", 0): 1.0, ("D", 1): 2.0, ("U", 1): -1.0}  # a line to pure noise is level


def test_calls_are_numbers_or_a_mask() -> None:
    plan = build_sampler("heun", "karras", 4).plan  # 7 calls
    expected = plan.skip([2, 5])
    same: Sequence[object] = [(5, 2), {2, -2}, range(2, 6, 3), np.array([2, 5]), "1,1,0,1,1,0,1", "1, 1, 0, 1, 1, 0, 1"]
    for calls in [*same, [1, 1, 0, 1, 1, 0, 1], np.array([1, 1, 0, 1, 1, 0, 1])]:
        assert plan.skip(calls) == expected, calls  # type: ignore[arg-type]
    assert plan.skip([]) is plan
    assert plan.skip("1,1,1,1,1,1,1") is plan
    assert plan.skip([1, 0, 1, 1, 1, 1, 1]) == plan.skip([1])


@each(
    "wrong",
    [
        ([0], "reuse", ValueError, "the first call cannot be skipped"),
        ("0,1,1,1", "reuse", ValueError, "the first call cannot be skipped"),
        ([4], "reuse", ValueError, "from -4 to 3.*got 4"),
        ("1,0,1", "reuse", ValueError, "each of the 4 model calls; got 3"),
        ("1,2,1,1", "reuse", ValueError, "a mask as text must be 0s and 1s"),
        ([1.5], "reuse", TypeError, "whole numbers, or a mask"),
        (np.arange(4) < 2, "reuse", TypeError, "is ambiguous; write 1"),
        (2, "reuse", TypeError, "whole numbers, or a mask"),
        ([2], "taylor", ValueError, "'reuse' or 'line'; got 'taylor'"),
    ],
)
def test_a_mistake_is_refused(wrong: tuple[object, str, type[Exception], str]) -> None:
    calls, by, error, text = wrong
    with pytest.raises(error, match=text):
        build_sampler("euler", "karras", 4).plan.skip(calls, by)  # type: ignore[arg-type]


def test_a_skipped_plan_is_a_plan_everywhere() -> None:
    sampler = build_sampler(build_sampler("dpmpp_2m_sde", "karras", 8).plan.skip([2, 3, 6], by="line"))
    x = sampler.initial_state((1, 3), seed=0)
    told: list[ksched.StepInfo] = []

    def network(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return model(x, sigma)[0]

    alone = sampler.sample(network, x, seed=7, callback=told.append)
    assert [(info.step, info.steps, info.nfe) for info in told] == [(k, 5, k + 1) for k in range(5)]
    assert [info.sigma_next for info in told[:-1]] == [info.sigma for info in told[1:]]  # steps have merged
    batch = Batch()
    run, other = batch.add(sampler.start(x, seed=7)), batch.add(build_sampler("euler", steps=3).start(x))
    batch.tick(network)
    batch.tick(network)
    moved = sampler.start(x, seed=0)
    moved.load_state_dict(batch.remove(run).state_dict())
    batch.add(moved)
    while batch:
        batch.tick(network)
    assert other.done
    assert torch.equal(moved.x, alone)
    path = sampler.rollout(network, x, seed=7)
    assert torch.equal(path.x, alone)
    torch.testing.assert_close(sampler.log_prob(network, path), path.log_prob)


def test_explain_prints_what_skipping_costs(capsys: pytest.CaptureFixture[str]) -> None:
    whole = build_sampler("dpmpp_2m", "karras", 20).plan
    plan = Plan.from_json(whole.skip(range(2, 18, 2), by="line").to_json())
    text = ksched.explain(plan)
    assert capsys.readouterr().out.strip() == text
    words = " ".join(text.split())
    assert "12 steps, 12 model calls" in words
    assert "8 of 20 model calls, numbers 2, 4, 6," in words
    assert "= exact for a constant prediction" in words
    assert "linear in log(alpha / sigma)" in words
    for each_plan, start in ((plan, "on normal data of mean 1: "), (whole, "with all 20 model calls: ")):
        errors = words.partition(start)[2].split(", ")
        assert errors[1] == f"{gaussian_error(each_plan, 1, 0.5):.3g} at std 0.5"
    factors = [math.hypot(1 + b, b) for b in _beyond(whole, set(range(2, 18, 2)))]
    assert f"up to {max(factors):.3g} times" in words
    assert "not exact" in ksched.explain(build_sampler("flow_sde", steps=4, process=Flow()).plan)
    with pytest.raises(ValueError, match="explained alone"):
        ksched.explain(plan, "euler")


def _beyond(plan: Plan, gone: set[int]) -> list[float]:
    lams = [level.lam for level in plan.levels]
    last = {k: [j for j in range(k) if j not in gone][-2:] for k in gone}
    return [(lams[k] - lams[b]) / (lams[b] - lams[a]) for k, (a, b) in last.items()]


def test_half_of_twenty_calls_cost_what_was_published() -> None:
    digits, start = exact.digits(), ksched.VP().sigma_max
    x = torch.randn(48, 64, generator=torch.Generator().manual_seed(1)).double() * start
    fine = [*np.geomspace(start, 1e-4, 200), 0.0]  # as good as `digits.solve`, to 1e-4, in a tenth of the time
    options: dict[str, Any] = {"predictor_order": 4, "start": "runge_kutta"}
    truth = build_sampler("exp_pc", sigmas=fine, **options).sample(digits, x)
    spread = (truth - truth.mean(0)).square().mean().sqrt()
    whole = build_sampler("dpmpp_2m", "karras", 20)
    mask = "1,1,0,1,0,1,0,0,1,0,0,1,0,0,1,0,1,0,1,1"
    samplers = {
        0.013: whole,
        0.206: build_sampler(whole.plan.skip(mask)),
        0.110: build_sampler(whole.plan.skip(mask, by="line")),
        0.074: build_sampler("dpmpp_2m", "karras", 10),
        0.0097: build_sampler("auto", steps=10),
    }
    for expected, sampler in samplers.items():
        error = ((sampler.sample(digits, x) - truth).square().mean(1).sqrt().mean() / spread).item()
        assert error == pytest.approx(expected, abs=6e-4), expected
