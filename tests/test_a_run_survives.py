"""Runs survive interrupts, copies, damaged states, models that write into their input, threads and empty batches."""

from __future__ import annotations

import copy
import io
import math
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import ADAPTIVE, EVERY_NAME, half
from representatives import in_turn, is_form, short

import ksched
from ksched import VP, AdaptiveRun, Flow, Run, Sampler, StepInfo, build_sampler
from ksched.execution import buffers
from ksched.execution.batch import Batch

KINDS = ["euler", "dpmpp_2m_sde", "heun", "lms", "restart", "euler_cfg_pp", "dpm_adaptive", "rk_adaptive"]


def pair(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = 1 / (1 + sigma.reshape(-1, *[1] * (x.ndim - 1)) ** 2)
    return x * scale, x * scale / 2


def finish(run: Run | AdaptiveRun, model: Callable[..., Any] = pair) -> torch.Tensor:
    while not run.done:
        run.feed(*model(run.x, run.sigma))
    return run.x


def begun(name: str, calls: int = 3, **how: Any) -> tuple[Run | AdaptiveRun, torch.Tensor]:
    """A run some calls in, and where it ends."""
    sampler = build_sampler(name, "karras", 4)
    x = sampler.initial_state((2, 3), seed=1)
    how = how or {"seed": 5}
    run = sampler.start(x, **how)
    for _ in range(calls):
        run.feed(*pair(run.x, run.sigma))
    return run, sampler.sample(pair, x, **how)


# Copies and pickles


@pytest.mark.parametrize("how", ["copy", "deepcopy", "pickle", "save"])
@pytest.mark.parametrize("name", KINDS)
def test_a_copy_is_a_run_of_its_own(name: str, how: str) -> None:
    run, end = begun(name)
    if how == "save":
        file = io.BytesIO()
        torch.save(run, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    else:
        ways: dict[str, Callable[[Any], Any]] = {"copy": copy.copy, "deepcopy": copy.deepcopy}
        other = ways[how](run) if how in ways else pickle.loads(pickle.dumps(run))
    assert (type(other), other.nfe, other.step) == (type(run), run.nfe, run.step)
    assert torch.equal(finish(other), end)
    assert run.nfe == 3
    assert torch.equal(finish(run), end)
    assert torch.equal(copy.copy(run).x, end)  # one that is done, too


def test_a_copy_keeps_noise_of_ones_own() -> None:
    asked = []

    def noise(start: float, end: float) -> torch.Tensor:
        asked.append(start)
        return torch.full((2, 3), start)

    run, end = begun("euler_ancestral", noise=noise)
    asked.clear()
    other = copy.copy(run)
    assert not asked
    assert torch.equal(finish(other), end)
    with pytest.raises(Exception, match="noise"):  # a function that has no name elsewhere: pickle says so
        pickle.dumps(run)


def test_samplers_and_plans_that_have_run_are_pickled_without_addresses() -> None:
    sampler = build_sampler("dpmpp_2m_sde", "karras", 4)
    x = sampler.initial_state((1, 500), seed=0)
    end = sampler.sample(half, x, seed=1)
    for other in (pickle.loads(pickle.dumps(sampler)), copy.deepcopy(sampler)):
        assert other == sampler
        assert torch.equal(other.sample(half, x, seed=1), end)
    assert pickle.loads(pickle.dumps(sampler.plan)) == sampler.plan
    scaled = build_sampler("euler_ancestral", "simple", 3, process=Flow(noise_scale=8.0)).plan
    assert pickle.loads(pickle.dumps(scaled)).noise_scale == 8.0
    assert "program" not in vars(pickle.loads(pickle.dumps(sampler.plan)))


def test_what_cannot_be_copied_names_state_dict() -> None:
    sampler = build_sampler("euler", "karras", 4)
    run = sampler.start(14.0 * torch.ones(1, 2, requires_grad=True))
    for act in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match=r"state_dict\(\)"):
            act(run)
    with pytest.raises(TypeError, match=r"state_dict\(\)"):
        pickle.dumps(buffers.Buffers(torch.ones(1, 2), torch.float32, 1))


# Damaged states


def damages(state: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What may become of a saved state, each by itself."""
    tensors = "registers" if "registers" in state else "state"
    first = next(name for name, value in state[tensors].items() if isinstance(value, torch.Tensor))
    value = state[tensors][first]

    def with_tensor(other: Any) -> dict[str, Any]:
        return {**state, tensors: {**state[tensors], first: other}}

    found = {f"no {name}": {k: v for k, v in state.items() if k != name} for name in state}
    found |= {
        "no tensors": {**state, tensors: {}},
        "one missing": {**state, tensors: {k: v for k, v in state[tensors].items() if k != first}},
        "one too many": {**state, tensors: {**state[tensors], "x99": value}},
        "a list": {**state, tensors: list(state[tensors])},
        "another shape": with_tensor(value[:, :1]),
        "another batch size": with_tensor(torch.cat([value, value])),
        "another dtype": with_tensor(value.double()),
        "no tensor": with_tensor(3.0),
        "calls out of range": {**state, "calls": 10**30},
        "calls below 0": {**state, "calls": -1},
        "calls not whole": {**state, "calls": 1.5},
        "seeds too few": {**state, "seeds": [1]},
        "seeds not whole": {**state, "seeds": [1.5, "a"]},
        "a scheme nobody knows": {**state, "noise": "ksched noise 0"},
        "noise that is no name": {**state, "noise": 7},
        "the name of another dtype": {**state, "dtype": "float16"},
        "a dtype nobody knows": {**state, "dtype": "float99"},
        "a name of torch's that is no dtype": {**state, "dtype": "nn"},
    }
    if "replaced" in state:
        found["replaced what"] = {**state, "replaced": "yes"}
    else:
        found["answers that are none"] = {**state, "answers": [(1, 2)]}
        found["a step that is not a number"] = {**state, "state": {**state["state"], "h": math.nan}}
        found["a level that is no level"] = {**state, "state": {**state["state"], "level": (1.0,)}}
        found["a count that is no number"] = {**state, "state": {**state["state"], "accepted": "many"}}
    return found


@pytest.mark.parametrize("name", ["dpmpp_2m_sde", "heun", "dpm_adaptive"])
def test_a_damaged_state_is_refused_whole(name: str) -> None:
    run, end = begun(name)
    state = run.state_dict()
    other, other_end = begun(name, 2, seed=9)
    for what, damaged in damages(state).items():
        try:
            other.load_state_dict(damaged)
        except ValueError as error:
            found = str(error)
        else:
            found = "nothing"
        assert "state" in found or "noise" in found, f"{what}: {found}"
    everything: list[Any] = [None, [], "state", 3]
    for nonsense in everything:
        with pytest.raises(ValueError, match=r"state must come from Run\.state_dict"):
            other.load_state_dict(nonsense)
    kept = copy.copy(other)
    assert torch.equal(finish(kept), other_end)
    other.load_state_dict(state)
    assert torch.equal(finish(other), end)


@pytest.mark.parametrize("start", [torch.ones(3, 3), torch.ones(2, 4), torch.ones(2, 3, dtype=torch.float64)])
def test_a_state_of_other_items_is_refused(start: torch.Tensor) -> None:
    for name in ("dpmpp_2m_sde", "dpm_adaptive"):
        run, _ = begun(name)
        other = build_sampler(name, "karras", 4).start(14.6 * start, seed=0)
        with pytest.raises(ValueError, match="the state"):
            other.load_state_dict(run.state_dict())
        finish(other)


def test_row_55_a_state_with_noise_of_its_own_is_not_seeded() -> None:
    """A seed cannot go on with noise that nobody can make again."""

    def ones(a: float, b: float) -> torch.Tensor:
        return torch.ones(2, 3)

    run, end = begun("euler_ancestral", noise=ones)
    other, other_end = begun("euler_ancestral", 1, seed=3)
    with pytest.raises(ValueError, match="its own noise function"):
        other.load_state_dict(run.state_dict())
    assert torch.equal(finish(other), other_end)
    third = build_sampler("euler_ancestral", "karras", 4).start(14.6 * torch.ones(2, 3), noise=ones)
    third.load_state_dict(run.state_dict())
    assert torch.equal(finish(third), end)


def test_row_59_a_state_that_was_replaced_is_resumed_as_such() -> None:
    """The conversion of an output must not take the state for the one that was formed."""
    network = ksched.Denoiser(lambda x, t: x / 3, VP(), prediction="epsilon")
    sampler = build_sampler("heun", "karras", 4)
    run = sampler.start(sampler.initial_state((2, 3), seed=0))
    assert isinstance(run, Run)
    conversions = network.conversions(run.plan.call_sigmas)

    def answer(run: Run) -> None:
        norm, of_x, of_output = conversions[run.nfe]
        run.feed_output(network.output(run.network_input(norm), run.timestep), of_x, of_output)

    answer(run)
    run.replace(run.x + 1)
    other = sampler.start(sampler.initial_state((2, 3), seed=9))
    assert isinstance(other, Run)
    other.load_state_dict(run.state_dict())
    for each in (run, other):
        while not each.done:
            answer(each)
    assert torch.equal(run.x, other.x)


@pytest.mark.parametrize("calls", [1, 3])
@pytest.mark.parametrize("name", ["heun", "dpm_2", "dpmpp_2s_ancestral", "dpmpp_sde"])
def test_a_replaced_stage_is_saved(name: str, calls: int) -> None:
    """Amid a step, an output is told in terms of what the stage was formed of, unless it was replaced."""
    sampler = build_sampler(name, "karras", 4)
    run = Run(sampler.plan, sampler.initial_state((2, 3), seed=1), seed=5)
    for _ in range(calls):
        run.feed_output(torch.tanh(run.x), 1.0, -2.0)
    run.replace(0.5 * run.x)
    other = Run(sampler.plan, torch.zeros(2, 3), seed=9)
    other.load_state_dict(pickle.loads(pickle.dumps(run.state_dict())))
    for each in (run, other):
        while not each.done:
            each.feed_output(torch.tanh(each.x), 1.0, -2.0)
    assert torch.equal(run.x, other.x)


@pytest.mark.parametrize("calls", [1, 3])
@pytest.mark.parametrize("name", ["heun", "dpm_2", "dpmpp_2s_ancestral", "dpmpp_sde"])
def test_a_replaced_stage_is_what_its_output_is_told_of(name: str, calls: int) -> None:
    sampler = build_sampler(name, "karras", 4)
    told, plain = (Run(sampler.plan, sampler.initial_state((2, 3), seed=1).double(), seed=5) for _ in range(2))
    while not told.done:
        if told.nfe == calls:
            for run in (told, plain):
                run.replace(0.5 * run.x)
        told.feed_output(torch.tanh(told.x), 1.0, -2.0)
        plain.feed(plain.x - 2 * torch.tanh(plain.x))
    torch.testing.assert_close(told.x, plain.x, rtol=1e-9, atol=1e-9)


# Models and callbacks that write to what they are given


@short(lambda name, dtype: dtype == in_turn(KINDS.index(name), [torch.float32, torch.float64, torch.bfloat16]))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("who", ["model", "callback"])
@pytest.mark.parametrize("name", KINDS)
def test_row_13_who_writes_to_x_is_refused_or_harmless(name: str, who: str, dtype: torch.dtype) -> None:
    sampler = build_sampler(name, "karras", 4)
    x = sampler.initial_state((2, 3), seed=1, dtype=dtype)
    calls = 0

    def model(x: torch.Tensor, sigma: torch.Tensor) -> Any:
        nonlocal calls
        calls += 1
        answer = pair(x, sigma)
        if who == "model" and calls == 2:
            x.mul_(0.5)
        return answer

    def callback(info: StepInfo) -> None:
        if who == "callback" and info.step == 1:
            info.x.mul_(0.5)
            info.denoised.mul_(0.5)

    right = sampler.sample(pair, x, seed=3)
    ways: list[Callable[[], torch.Tensor]] = [lambda: sampler.sample(model, x, seed=3, callback=callback)]
    if who == "model":
        ways += [lambda: finish(sampler.start(x, seed=3), model), lambda: ticked(sampler, model, x)]
        if dtype != torch.bfloat16:
            ways.append(lambda: sampler.live(model, x, seed=3))
            right_live = sampler.live(pair, x, seed=3)
        if name not in ("dpm_adaptive", "rk_adaptive"):
            ways.append(lambda: sampler.matrices.sample(model, x, seed=3, step=ksched.execution.compiled.step))
    for k, way in enumerate(ways):
        calls = 0
        try:
            result = way()
        except RuntimeError as error:
            if "must not modify x" not in str(error):
                raise
        else:
            close = 1e-2 if dtype == torch.bfloat16 else 1e-4
            expected = right_live if k == 3 and dtype != torch.bfloat16 else right
            assert torch.allclose(result, expected, rtol=close, atol=close), k


def ticked(sampler: Sampler, model: Callable[..., Any], x: torch.Tensor) -> torch.Tensor:
    batch = Batch()
    run = batch.add(sampler.start(x, seed=3))
    while batch:
        batch.tick(model)
    return run.x


@pytest.mark.parametrize("name", ["heun", "rk4", "rk_adaptive"])
def test_a_state_of_an_earlier_call_that_is_written_to_is_found_out(name: str) -> None:
    """A later stage reads the state that the model saw at the first: one that was kept is no scratch paper."""
    seen: list[torch.Tensor] = []

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        if len(seen) == 2:
            seen[0].zero_()
        return x / (1 + sigma.reshape(-1, 1) ** 2)

    sampler = build_sampler(name, "karras", 4)
    with pytest.raises(RuntimeError, match="must not modify x"):
        sampler.sample(model, sampler.initial_state((2, 3), seed=1))


def test_a_model_that_writes_while_gradients_are_recorded() -> None:
    sampler = build_sampler("dpmpp_2m", "karras", 4)
    x = sampler.initial_state((2, 3), seed=1).requires_grad_()

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        answer = x / (1 + sigma.reshape(-1, 1) ** 2)
        if not x.is_leaf:
            x.detach().mul_(0.5)
        return answer

    with pytest.raises(RuntimeError, match="must not modify x"):
        sampler.sample(model, x)


# Interrupts and threads


@pytest.mark.parametrize("name", ["dpmpp_2m_sde", "heun"])
def test_a_run_that_was_interrupted_as_it_formed_a_state_refuses_to_go_on(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of its registers may already hold the next state. A run restored from an earlier save continues."""
    run, end = begun(name)
    assert isinstance(run, Run)
    state = run.state_dict()
    form = run.registers.buffers.form

    def interrupted(*args: Any, **kwargs: Any) -> None:
        form(*args, **kwargs)
        raise KeyboardInterrupt

    monkeypatch.setattr(run.registers.buffers, "form", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.feed(*pair(run.x, run.sigma))
    for act in (
        lambda: run.x,
        lambda: run.feed(torch.ones(2, 3)),
        run.state_dict,
        lambda: run.replace(torch.ones(2, 3)),
    ):
        with pytest.raises(RuntimeError, match="interrupted while its next state was formed"):
            act()
    run.load_state_dict(state)
    assert torch.equal(finish(run), end)


def test_an_adaptive_run_that_is_interrupted_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    run, end = begun("dpm_adaptive")
    assert isinstance(run, AdaptiveRun)
    advance = run._advance

    def interrupted() -> None:
        advance()
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_advance", interrupted)
    asked = run.x.clone()
    with pytest.raises(KeyboardInterrupt):
        run.feed(*pair(run.x, run.sigma))
    monkeypatch.undo()
    assert torch.equal(run.x, asked)
    assert torch.equal(finish(run), end)


def test_row_43_interrupts_leave_nothing_behind() -> None:
    """Ctrl-C in the threads of the fused kernel, in a process of its own; the script alone does 400."""
    script = Path(__file__).parent / "interrupt_runs.py"
    arguments = ["--interrupts", "4", "--numbers", "1200000", "--samplers", "dpmpp_2m_sde,heun"]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, str(script), *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "4 interrupts" in done.stdout


def in_another_thread(act: Callable[[], object]) -> BaseException | None:
    caught: list[BaseException] = []

    def work() -> None:
        try:
            act()
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return caught[0] if caught else None


@pytest.mark.parametrize("name", ["dpmpp_2m", "dpm_adaptive"])
def test_row_54_a_batch_that_two_threads_tick_says_so(name: str) -> None:
    sampler = build_sampler(name, "karras", 4)
    x = sampler.initial_state((1, 3), seed=0)
    batch = Batch()
    errors: list[BaseException | None] = []
    run, later = batch.add(sampler.start(x)), sampler.start(x)

    def model(x: torch.Tensor, sigma: torch.Tensor) -> Any:
        acts: list[Callable[[], object]] = [
            lambda: batch.tick(half),
            lambda: batch.feed(x),
            lambda: batch.add(later),
            lambda: batch.remove(run),
        ]
        errors.extend(in_another_thread(act) for act in acts)
        return half(x, sigma)

    while batch:
        batch.tick(model)
    assert errors
    assert all(isinstance(e, RuntimeError) and "belongs to one thread" in str(e) for e in errors)
    assert torch.equal(run.x, sampler.sample(half, x))


@pytest.mark.parametrize("name", ["euler_ancestral", "dpm_adaptive"])
def test_a_run_that_two_threads_feed_says_so(name: str) -> None:
    sampler = build_sampler(name, "karras", 3, eta=1.0)
    errors: list[BaseException | None] = []

    def noise(a: float, b: float) -> torch.Tensor:
        errors.append(in_another_thread(lambda: run.feed(torch.ones(1, 3))))
        return torch.ones(1, 3)

    run = sampler.start(sampler.initial_state((1, 3), seed=0), noise=noise)
    finish(run)
    assert errors
    assert all(isinstance(e, RuntimeError) and "belongs to one thread" in str(e) for e in errors)


# One run of a batch that fails


def test_row_48_one_adaptive_run_that_answers_nan_leaves_alone() -> None:
    adaptive, planned = build_sampler("dpm_adaptive", "karras", 4), build_sampler("dpmpp_2m_sde", "karras", 6)
    x = adaptive.initial_state((1, 3), seed=0)
    batch = Batch()
    bad, good, other = (batch.add(adaptive.start(x)) for _ in range(3))
    fixed = batch.add(planned.start(x, seed=2))
    left = []

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        answer = x / 2
        if len(batch) == 4 and bad.nfe == 4:
            answer[batch.rows[0]] = math.nan
        return answer

    while batch:
        left += batch.tick(model)
    assert [run is bad for run in left].count(True) == 1
    assert isinstance(bad.error, ValueError)
    assert "finite" in str(bad.error)
    with pytest.raises(RuntimeError, match=r"left its batch with an error.*finite"):
        _ = bad.x
    assert not bad.done
    for run in (good, other):
        assert run.error is None
        assert torch.equal(run.x, adaptive.sample(half, x))
    assert torch.equal(fixed.x, planned.sample(half, x, seed=2))
    batch.add(bad)  # asked again, with a model that answers
    while batch:
        batch.tick(half)
    assert torch.equal(bad.x, adaptive.sample(half, x))


def test_an_interrupted_run_leaves_its_batch_alone() -> None:
    sampler = build_sampler("dpmpp_2m", "karras", 4)
    x = sampler.initial_state((1, 3), seed=0)
    batch = Batch()
    broken, good = batch.add(sampler.start(x)), batch.add(sampler.start(x))
    assert isinstance(broken, Run)
    broken.registers.whole = False
    with pytest.raises(RuntimeError, match="interrupted"):  # there is no state to show the model
        batch.tick(half)
    batch.remove(broken)
    while batch:
        batch.tick(half)
    assert torch.equal(good.x, sampler.sample(half, x))


def test_row_31_two_failures_at_once_lose_no_run() -> None:
    """One run was written to, and the own noise of another fails: `tick` raises, and both can go on or leave."""
    sampler = build_sampler("euler_ancestral", "karras", 4)
    x = sampler.initial_state((1, 3), seed=0)

    def noise(start: float, end: float) -> torch.Tensor:
        raise OSError("no noise today")

    batch = Batch()
    written, noisy, good = (
        batch.add(run) for run in (sampler.start(x, seed=1), sampler.start(x, noise=noise), sampler.start(x, seed=2))
    )
    state = written.state_dict()
    written.x.mul_(0.5)
    with pytest.raises(OSError, match="no noise today"):
        batch.tick(half)
    assert written.error is None
    batch.remove(noisy)
    assert batch.tick(half) == [written]
    assert "must not modify x" in str(written.error)
    written.load_state_dict(state)  # which it goes on from
    batch.add(sampler.start(x, seed=1))
    assert torch.equal(finish(written, half), sampler.sample(half, x, seed=1))
    while batch:
        batch.tick(half)
    assert torch.equal(good.x, sampler.sample(half, x, seed=2))


# No items


@short(lambda name: is_form(name) or name in {str(spec.name) for spec in ADAPTIVE})
@pytest.mark.parametrize("name", EVERY_NAME)
def test_no_items_are_an_empty_result(name: str) -> None:
    sampler = build_sampler(name, "karras", 4)
    for shape in ((0, 3), (2, 0)):
        x = sampler.initial_state(shape, seed=1)
        result = sampler.sample(pair, x, seed=3)
        assert result.shape == shape


def test_no_items_elsewhere() -> None:
    denoiser = ksched.Denoiser(lambda x, t: x / 2, VP())
    sampler = build_sampler("dpmpp_2m_sde", "karras", 3)
    empty = sampler.initial_state((0, 3), seed=1)
    assert sampler.sample(denoiser, empty, seed=3).shape == (0, 3)
    assert sampler.sample(denoiser, empty, seed=3, noise="brownian").shape == (0, 3)
    assert sampler.live(half, empty, seed=3).shape == (0, 3)
    assert sampler.matrices.sample(half, empty, seed=3, step=ksched.execution.compiled.step).shape == (0, 3)
    assert ksched.log_likelihood(half, empty).value.shape == (0,)
    batch = Batch()
    run, other = batch.add(sampler.start(empty, seed=1)), batch.add(sampler.start(14.6 * torch.ones(2, 3), seed=1))
    while batch:
        batch.tick(half)
    assert (run.x.shape, other.x.shape) == ((0, 3), (2, 3))
