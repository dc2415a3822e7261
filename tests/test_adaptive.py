"""Adaptive samplers: accuracy by tolerance, call counts, ask and tell, resume, and what they refuse."""

from __future__ import annotations

import gc
import pickle
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from cases import ADAPTIVE, COORDINATES, PROCESSES, gaussian_denoiser, start_state
from representatives import in_turn, short

from ksched import VP, AdaptiveRun, Flow, NoiseSchedule, Process, build_sampler
from ksched.exact.mixture import Gaussian
from ksched.execution.adaptive_run import finish
from ksched.plan.trace import TraceError
from ksched.samplers import adaptive
from ksched.samplers.registry import sampler_spec
from ksched.samplers.spec import SamplerSpec

IDS = [spec.name for spec in ADAPTIVE]


@pytest.mark.parametrize("process", [*COORDINATES.values(), VP()], ids=[*COORDINATES, "vp"])
@pytest.mark.parametrize("spec", ADAPTIVE, ids=IDS)
def test_a_smaller_tolerance_is_a_smaller_error(spec: SamplerSpec, process: Process) -> None:
    model = Gaussian([0.3, -0.5], [[0.5, 0.2], [0.2, 0.4]], process=process)
    x = start_state(process, process.sigma_max, (4, 2))
    truth = model.solve(x, [process.sigma_max, process.sigma_min])[-1]
    errors, calls = [], []
    for tolerance in (1e-1, 1e-3, 1e-5):
        sampler = build_sampler(
            spec.name,
            sigmas=[process.sigma_max, process.sigma_min],
            process=process,
            rtol=tolerance,
            atol=tolerance / 10,
        )
        run = sampler.start(x)
        while not run.done:
            run.feed(model(run.x, run.sigma))
        errors.append(float((run.x - truth).abs().max()))
        calls.append(run.nfe)
    assert errors[2] < errors[1] < errors[0]
    assert errors[2] < 1e-3
    assert calls == sorted(calls)


@short(
    lambda spec, process: (
        [*PROCESSES.values()].index(process) % 2 == 0
        and spec == in_turn([*PROCESSES.values()].index(process) // 2, ADAPTIVE)
    )
)
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize("spec", ADAPTIVE, ids=IDS)
def test_every_schedule_on_every_process(spec: SamplerSpec, process: Process) -> None:
    """Adaptive samplers read only the first and last sigma, so schedules that share these need one run."""
    model, ends = gaussian_denoiser(process), set()
    for schedule in NoiseSchedule:
        for steps in (1, 3, 20):
            sampler = build_sampler(spec.name, schedule, steps, process=process)
            above = sampler.sigmas[sampler.sigmas > 0][[0, -1]]
            if tuple(above.round(1)) not in ends:
                ends.add(tuple(above.round(1)))
                assert torch.isfinite(sampler.sample(model, start_state(process, sampler.sigmas[0], (1, 2)))).all()


@pytest.mark.parametrize("process", [VP(), Flow(3.0)], ids=["vp", "flow"])
@pytest.mark.parametrize("options", [{}, {"eta": 0.7}, {"order": 2}], ids=str)
@pytest.mark.parametrize("spec", ADAPTIVE, ids=IDS)
def test_loop_steps_live_and_resume_are_one_run(spec: SamplerSpec, options: dict[str, Any], process: Process) -> None:
    if not options.keys() <= spec.own_options.keys():
        return  # the pairs of rk_adaptive have no such option
    sampler = build_sampler(spec.name, "karras", 6, process=process, **options)
    model = gaussian_denoiser(process)
    x = start_state(process, sampler.sigmas[0], dtype=torch.float32)
    whole = sampler.sample(model, x, seed=7)
    assert whole.dtype == torch.float32
    torch.testing.assert_close(sampler.live(model, x, seed=7), whole, rtol=0, atol=0)
    run = sampler.start(x, seed=7)
    assert isinstance(run, AdaptiveRun)
    stops = 0
    while not run.done:
        if run.nfe % 7 == 3:  # somewhere inside a try, and between two
            state = pickle.loads(pickle.dumps(run.state_dict()))
            run = sampler.start(torch.zeros_like(x), seed=99)
            run.load_state_dict(state)
            stops += 1
        run.feed(model(run.x, run.sigma))
    assert stops > 2
    assert torch.equal(run.x, whole)


@pytest.mark.parametrize("spec", ADAPTIVE, ids=IDS)
def test_counts_are_those_of_the_tries(spec: SamplerSpec) -> None:
    calls = 0

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return gaussian_denoiser(VP())(x, sigma)

    # a first try that is far too long is rejected
    sampler = build_sampler(spec.name, "karras", 6, h_init=6.0, rtol=1e-4, atol=1e-5)
    run = sampler.start(start_state(VP(), sampler.sigmas[0]))
    assert isinstance(run, AdaptiveRun)
    while not run.done:
        assert run.step == run.accepted + run.rejected
        run.feed(model(run.x, run.sigma))
    assert run.rejected >= 1
    assert run.accepted > 2
    assert run.nfe == calls
    per_try = spec.calls
    assert isinstance(per_try, int)
    tries = run.accepted + run.rejected
    if spec.name == "dpm_adaptive":  # a rejected try keeps its first call; one call ends the run
        assert calls == per_try * tries - run.rejected + 1
    else:  # the last call of a try is the first of the next, and the result of the run
        assert calls == per_try * tries + 1


@pytest.mark.parametrize("spec", ADAPTIVE, ids=IDS)
def test_a_callback_is_told_of_every_try(spec: SamplerSpec) -> None:
    infos: list[Any] = []
    sampler = build_sampler(spec.name, "karras", 6)
    x = start_state(VP(), sampler.sigmas[0])
    sampler.sample(gaussian_denoiser(VP()), x, callback=infos.append, progress=False)
    assert [info.step for info in infos] == list(range(len(infos)))
    assert {info.steps for info in infos} == {None}
    assert infos[0].sigma == sampler.sigmas[0]
    assert all(0 < info.sigma <= infos[0].sigma for info in infos)
    assert [info.nfe for info in infos] == sorted({info.nfe for info in infos})


@pytest.mark.parametrize("process", [VP(), Flow(3.0), VP(variance_preserving=True)], ids=["vp", "flow", "preserving"])
@pytest.mark.parametrize("spec", ADAPTIVE, ids=IDS)
def test_the_end_is_the_prediction(spec: SamplerSpec, process: Process) -> None:
    for steps in (1, 2, 5):
        outputs: list[torch.Tensor] = []

        def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            outputs.append(torch.tanh(x / (1 + sigma.reshape(-1, 1))))  # noqa: B023 - called in its own round of the loop
            return outputs[-1]  # noqa: B023 - as above

        sampler = build_sampler(spec.name, "karras", steps, process=process)
        result = sampler.sample(model, start_state(process, sampler.sigmas[0]), seed=0)
        assert any(torch.equal(result, output) for output in outputs[-1:])


@pytest.mark.parametrize("spec", ADAPTIVE, ids=IDS)
def test_there_is_no_plan(spec: SamplerSpec) -> None:
    sampler = build_sampler(spec.name, "karras", 6)
    for ask in (lambda: sampler.plan, lambda: sampler.nfe, lambda: sampler.timesteps):
        with pytest.raises(TraceError, match=r"chooses its steps from the model's answers.*no plan"):
            ask()
    with pytest.raises(TypeError, match="as many model calls as its error estimate requires"):
        spec.nfe(6)
    assert sampler == build_sampler(spec.name, "karras", 6)
    assert hash(sampler) == hash(build_sampler(spec.name, "karras", 6))
    assert spec.name in repr(sampler)


@pytest.mark.parametrize("spec", ADAPTIVE, ids=IDS)
def test_mistakes_lose_nothing(spec: SamplerSpec) -> None:
    sampler = build_sampler(spec.name, "karras", 6)
    x = start_state(VP(), sampler.sigmas[0])
    model = gaussian_denoiser(VP())
    run = sampler.start(x)
    with pytest.raises(ValueError, match="denoised must have the state's shape"):
        run.feed(torch.zeros(1))
    with pytest.raises(TypeError, match="denoised must be a tensor"):
        run.feed(None)  # type: ignore[arg-type]
    other = build_sampler(spec.name, "karras", 7).start(x)
    with pytest.raises(ValueError, match="another plan"):
        run.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match=r"Run.state_dict\(\)"):
        run.load_state_dict({})
    spec_calls = spec.calls
    assert isinstance(spec_calls, int)
    for _ in range(spec_calls - (spec.name == "dpm_adaptive")):  # up to the last call of the first try
        run.feed(model(run.x, run.sigma))
    with pytest.raises(ValueError, match="must be a finite number; got nan"):
        run.feed(torch.full_like(x, float("nan")))
    assert run.nfe == spec_calls - (spec.name == "dpm_adaptive")
    while not run.done:
        run.feed(model(run.x, run.sigma))
    assert torch.equal(run.x, sampler.sample(model, x))
    for ask in (lambda: run.sigma, lambda: run.timestep, lambda: run.feed(run.x)):
        with pytest.raises(RuntimeError, match="the run is done"):
            ask()
    if "eta" in spec.own_options:
        with pytest.raises(ValueError, match="this sampler draws noise: give seed"):
            build_sampler(spec.name, "karras", 6, eta=1.0).sample(model, x)


@pytest.mark.parametrize("spec", ADAPTIVE, ids=IDS)
def test_static_buffers_and_the_callers_state_are_safe(spec: SamplerSpec) -> None:
    sampler = build_sampler(spec.name, "karras", 6)
    x = start_state(VP(), sampler.sigmas[0])
    kept, buffer = x.clone(), torch.empty_like(x)
    fresh = sampler.sample(lambda x, sigma: x / 3, x)
    assert torch.equal(sampler.sample(lambda x, sigma: buffer.copy_(x / 3), x), fresh)
    assert torch.equal(x, kept)


@pytest.mark.parametrize("spec", ADAPTIVE, ids=IDS)
def test_a_run_that_cannot_go_on_says_so(spec: SamplerSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptive, "MOST_TRIES", 200)
    sampler = build_sampler(spec.name, "karras", 6)
    x = start_state(VP(), sampler.sigmas[0])
    with pytest.raises(ValueError, match=r"must be a finite number; got nan at sigma 14.6.*not finite"):
        sampler.sample(lambda x, sigma: x * float("nan"), x)
    strict = build_sampler(spec.name, "karras", 6, rtol=0.0, atol=1e-30)
    with pytest.raises(ValueError, match=r"must be errors that a run can reach; got rtol=0.0, atol=1e-30.*200 tries"):
        strict.sample(lambda x, sigma: torch.tanh(x), x)
    with pytest.raises(ValueError, match=r"must be errors that a run can reach.*an error of inf at sigma"):
        strict.sample(lambda x, sigma: torch.tanh(x), x.float())


@pytest.mark.parametrize("name", ["dpm_adaptive", "rk_adaptive"])
def test_states_of_earlier_calls_are_not_held(name: str) -> None:
    """Not even until the garbage is collected: a run holds what one try needs, however many there were."""
    sampler = build_sampler(name, "karras", 4)
    run = sampler.start(sampler.initial_state((1, 64), seed=0))
    seen: list[weakref.ref[torch.Tensor]] = []
    most = 0
    gc.collect()
    gc.disable()
    try:
        while not run.done:
            x = run.x
            seen.append(weakref.ref(x))
            run.feed(x / (1 + run.sigma.reshape(-1, 1) ** 2))
            del x
            most = max(most, sum(ref() is not None for ref in seen))
    finally:
        gc.enable()
    assert len(seen) > 12
    assert most <= 3


def test_a_loop_of_ours_calls_the_sampler_once_and_gives_what_answers_one_by_one_give() -> None:
    calls = []

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(args)
        return adaptive.dpm_adaptive(*args, **options)

    spec = replace(sampler_spec("dpm_adaptive"), function=counted)
    grid = build_sampler("dpm_adaptive", "karras", 4).grid
    x = grid.levels[0].sigma * start_state(VP(), 1.0, (2, 3))
    model = Gaussian([0.3, -0.5, 0.2], 0.25)
    one, other = (AdaptiveRun(spec, grid, {"eta": 0.5}, x, seed=3) for _ in range(2))
    calls.clear()
    while not one.done:
        one.feed(model(one.x, one.sigma))
    assert len(calls) == one.nfe
    for _ in range(5):  # amid a try
        other.feed(model(other.x, other.sigma))
    calls.clear()
    finish(other, lambda: (model(other.x, other.sigma), None))
    assert len(calls) == 1
    assert (other.nfe, other.step, other.accepted, other.done) == (one.nfe, one.step, one.accepted, True)
    assert torch.equal(other.x, one.x)
    finish(other, lambda: pytest.fail("a run that is done asks for nothing"))


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()], ids=repr)
def test_an_error_of_the_model_leaves_the_run_where_it_was(error: BaseException) -> None:
    sampler = build_sampler("dpm_adaptive", "karras", 4)
    x = sampler.initial_state((2, 3), seed=0)
    run = sampler.start(x)
    assert isinstance(run, AdaptiveRun)
    run.feed(run.x / 2)
    before, asked, left = run.state_dict(), run.x.clone(), 4

    def model() -> tuple[torch.Tensor, None]:
        nonlocal left
        left -= 1
        if not left:
            raise error
        with pytest.raises(RuntimeError, match="another thread is feeding it"):
            run.feed(run.x)
        return run.x / 2, None

    with pytest.raises(type(error)):
        finish(run, model)
    assert run.nfe == before["calls"] == 1
    assert torch.equal(run.x, asked)
    finish(run, lambda: (run.x / 2, None))
    assert torch.equal(run.x, sampler.sample(lambda x, sigma: x / 2, x))
