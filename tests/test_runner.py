"""The executor: one code path for loop, steps and resume; dtype, device, aliasing and use of noise."""

from __future__ import annotations

import pickle
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import (
    CORNER_IDS,
    CORNERS,
    NAMES,
    SPECS,
    corners,
    gaussian_denoiser,
    half,
    no_noise,
    paired,
    process_for,
    start_state,
)
from representatives import corner_number, each, in_turn, is_form, is_kind, name_number, short
from torch.utils._python_dispatch import TorchDispatchMode

from ksched import EDM, VP, Flow, Process, Run, Sampler, StepInfo, build_sampler
from ksched.samplers.registry import sampler_spec
from ksched.samplers.spec import SamplerSpec


def equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


def run_by_hand(sampler: Sampler, model: Callable[..., Any], x: torch.Tensor, **how: Any) -> torch.Tensor:
    run = sampler.start(x, **how)
    while not run.done:
        run.feed(*model(run.x, run.sigma))
    return run.x


BOTH = [VP(), Flow(3.0)]


@pytest.fixture(params=BOTH, ids=["vp", "flow"])
def process(request: pytest.FixtureRequest) -> Process:
    found: Process = request.param
    return found


def every_kind(spec: SamplerSpec, options: dict[str, Any], process: Process) -> bool:
    """Every kind of rows, on one of the processes."""
    number = corner_number(spec, options)
    return number is not None and process == in_turn(number, BOTH)


def every_kind_of_name(name: str, process: Process) -> bool:
    """Every kind of rows of default options, on one of the processes."""
    number = name_number(name)
    return number is not None and process == in_turn(number, BOTH)


@short(every_kind)
@pytest.mark.parametrize(("spec", "options"), CORNERS, ids=CORNER_IDS)
def test_loop_steps_and_resume_are_one_run(spec: SamplerSpec, options: dict[str, Any], process: Process) -> None:
    process = process_for(spec, process)
    sampler = build_sampler(spec.name, "karras", 5, process=process, **options)
    model = paired(gaussian_denoiser(process))
    x = start_state(process, sampler.sigmas[0], dtype=torch.float32)
    whole = sampler.sample(model, x, seed=7)
    assert equal(whole, run_by_hand(sampler, model, x, seed=7))
    for stop in range(sampler.nfe):
        first = sampler.start(x, seed=7)
        for _ in range(stop):
            first.feed(*model(first.x, first.sigma))
        state = pickle.loads(pickle.dumps(first.state_dict()))
        second = sampler.start(torch.zeros_like(x), seed=99)
        second.load_state_dict(state)
        assert second.step == first.step
        while not second.done:
            second.feed(*model(second.x, second.sigma))
        assert equal(whole, second.x), f"resumed after {stop} calls"


def every_name_and_kind(spec: SamplerSpec, options: dict[str, Any], process: Process) -> bool:
    """Every kind of rows, and every sampler, whose function runs here; each on one of the processes."""
    number = NAMES.index(str(spec.name)) if not options else corner_number(spec, options)
    return number is not None and process == in_turn(number, BOTH)


@short(every_name_and_kind)
@pytest.mark.parametrize(("spec", "options"), CORNERS, ids=CORNER_IDS)
def test_live_is_the_plan(spec: SamplerSpec, options: dict[str, Any], process: Process) -> None:
    process = process_for(spec, process)
    sampler = build_sampler(spec.name, "karras", 6, process=process, **options)
    model = paired(gaussian_denoiser(process))
    x = start_state(process, sampler.sigmas[0])
    planned, live = sampler.sample(model, x, seed=3), sampler.live(model, x, seed=3)
    assert (planned - live).abs().max() <= 1e-12 * max(1.0, float(planned.abs().max()))


@pytest.mark.parametrize("name", ["euler_ancestral", "rk_adaptive"])
def test_a_state_of_another_noise_is_refused(name: str) -> None:
    sampler = build_sampler(name, "karras", 4)
    x = torch.ones(1, 2)
    state = sampler.start(x, seed=1).state_dict()
    sampler.start(x, seed=1).load_state_dict(state)
    with pytest.raises(ValueError, match="the state needs 'ksched noise 1'"):
        sampler.start(x, seed=1).load_state_dict({**state, "noise": "ksched noise 1"})


def test_a_state_of_another_plan_is_refused() -> None:
    x = torch.zeros(1, 2)
    state = build_sampler("euler", "karras", 4).start(x).state_dict()
    with pytest.raises(ValueError, match="another plan"):
        build_sampler("euler", "karras", 5).start(x).load_state_dict(state)
    with pytest.raises(ValueError, match=r"Run.state_dict\(\)"):
        build_sampler("euler", "karras", 5).start(x).load_state_dict({})


@short(is_kind)
@pytest.mark.parametrize("name", NAMES)
def test_an_item_does_not_depend_on_its_batch(name: str) -> None:
    sampler = build_sampler(name, "karras", 5, process=process_for(name))
    x = start_state(process_for(name), sampler.sigmas[0], (4, 3), dtype=torch.float32)
    together = sampler.sample(half, x, seed=[5, 6, 7, 8])
    for i, seed in enumerate([5, 6, 7, 8]):
        assert equal(together[i : i + 1], sampler.sample(half, x[i : i + 1], seed=seed))
    turned = sampler.sample(half, x.flip(0), seed=[8, 7, 6, 5])
    assert equal(together, turned.flip(0))
    assert equal(together, sampler.sample(half, x, seed=5)), "an int seed counts up over the items"


@pytest.mark.parametrize("spec", [s for s in SPECS if s.draws], ids=lambda s: s.name)
def test_another_seed_is_another_picture(spec: SamplerSpec) -> None:
    sampler = build_sampler(spec.name, "karras", 5, process=process_for(spec))
    x = start_state(process_for(spec), sampler.sigmas[0], (2, 3))
    a, b = (sampler.sample(half, x, seed=seed) for seed in ([1, 2], [1, 3]))
    assert torch.equal(a[0], b[0])
    assert not torch.equal(a[1], b[1])


def has_memory(spec: SamplerSpec) -> bool:
    """Whether a step needs more from before it than the state that it starts at, so that a run cannot be cut in two."""
    if spec.calls is None or callable(spec.calls):
        return True
    plan = build_sampler(spec.name, "karras", 6, process=process_for(spec)).plan
    calls = [row.step for row in plan.rows if row.level is not None]
    for start in range(1, plan.steps):
        first = next((k for k, row in enumerate(plan.rows) if row.level is not None and row.step == start), None)
        if first is None:
            return True
        reads = [register for row in plan.rows[first + 1 :] for register, _ in row.terms]
        if any(r.number < first if r.kind == "x" else r.kind in "DU" and calls[r.number] < start for r in reads):
            return True
    return spec.name == "dpm_fast"  # its steps are those of its number of model calls


#: samplers that call the model elsewhere than at the levels of the run: above them, or amid the steps
ELSEWHERE = ("af3", "fireflow")


def is_noised_up(spec: SamplerSpec) -> bool:
    """Whether noise is added to states before they are called on: such noises are numbered from the start of a run."""
    plan = build_sampler(spec.name, "karras", 6, process=process_for(spec)).plan
    return any(draw.sigma_to > draw.sigma_from for draw in plan.draws)


@pytest.mark.parametrize("spec", [s for s in SPECS if not (has_memory(s) or is_noised_up(s))], ids=lambda s: s.name)
def test_a_split_run_equals_the_whole(spec: SamplerSpec) -> None:
    whole = build_sampler(spec.name, "karras", 6, process=process_for(spec))
    x = start_state(process_for(spec), whole.sigmas[0])
    expected = whole.sample(half, x, seed=1)
    for step in range(1, 6):
        first, second = (
            build_sampler(spec.name, sigmas=s, process=process_for(spec))
            for s in (whole.sigmas[: step + 1], whole.sigmas[step:])
        )
        halves = second.sample(half, first.sample(half, x, seed=1), seed=1)
        torch.testing.assert_close(halves, expected, rtol=1e-14, atol=1e-14)


@short(is_form)
@pytest.mark.parametrize("name", NAMES)
def test_threads_share_a_sampler(name: str) -> None:
    sampler = build_sampler(name, "karras", 5, process=process_for(name))
    xs = [start_state(process_for(name), sampler.sigmas[0], seed=i) for i in range(24)]
    serial = [sampler.sample(half, x, seed=i) for i, x in enumerate(xs)]
    before, results = hash(sampler), [torch.empty(0)] * len(xs)

    def work(i: int) -> None:
        results[i] = sampler.sample(half, xs[i], seed=i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(xs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(equal(a, b) for a, b in zip(serial, results, strict=True))
    assert hash(sampler) == before
    assert sampler == build_sampler(name, "karras", 5, process=process_for(name))


@short(is_kind)
@pytest.mark.parametrize("name", NAMES)
def test_any_model_output_may_share_memory(name: str) -> None:
    """A model may return its input, a view of it, or one static buffer at every call."""
    sampler = build_sampler(name, "karras", 6, process=process_for(name))
    x = start_state(process_for(name), sampler.sigmas[0], dtype=torch.float32)
    kept, seen, buffer, other = x.clone(), [], torch.empty_like(x), torch.empty_like(x)

    def static(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return buffer.copy_(x / 3), other.copy_(x / 4)

    def record(info: StepInfo) -> None:
        seen.append((info.x, info.x.clone(), info.denoised, info.denoised.clone()))

    assert equal(
        sampler.sample(static, x, seed=1, callback=record), sampler.sample(lambda x, s: (x / 3, x / 4), x, seed=1)
    )
    same = sampler.sample(lambda x, sigma: (x.clone(), x.clone()), x, seed=1)
    assert equal(sampler.sample(lambda x, sigma: (x, x), x, seed=1), same)
    views = sampler.sample(lambda x, sigma: (x.view(-1).view(x.shape), x.view(-1).view(x.shape)), x, seed=1)
    assert equal(views, same)
    assert equal(x, kept), "the caller's state was written to"
    for a, b, c, d in seen:
        assert torch.equal(a, b), "a state given to a callback changed afterwards"
        assert torch.equal(c, d), "a prediction given to a callback changed afterwards"
    result = sampler.sample(static, x, seed=1)
    copy = result.clone()
    buffer.zero_()
    assert equal(result, copy), "the result shares memory with the model's buffer"


def every_kind_and_dtype(name: str, dtype: torch.dtype, process: Process) -> bool:
    return every_kind_of_name(name, process) and (dtype in (torch.bfloat16, torch.float32) or is_form(name))


@short(every_kind_and_dtype)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_dtype_in_is_dtype_out(name: str, dtype: torch.dtype, process: Process) -> None:
    process = process_for(name, process)
    sampler = build_sampler(name, "karras", 8, process=process)
    exact = start_state(process, sampler.sigmas[0]).to(dtype)
    model = paired(gaussian_denoiser(process))
    seen: set[tuple[torch.dtype, torch.dtype]] = set()

    def spy(x: torch.Tensor, sigma: torch.Tensor) -> Any:
        seen.add((x.dtype, sigma.dtype))
        return model(x, sigma)

    result = sampler.sample(spy, exact, seed=2)
    assert result.dtype == dtype
    assert seen == {(dtype, torch.promote_types(dtype, torch.float32))}
    truth = sampler.sample(model, exact.double(), seed=2)
    # states are summed in float32; what is lost is the rounding of the model's input and output, amplified a few times
    assert (result.double() - truth).abs().max() <= 40 * torch.finfo(dtype).eps * max(1, float(truth.abs().max()))


class Discipline(TorchDispatchMode):
    """Refuses float64 tensors and everything that reads a tensor back to the host."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.__name__.partition(".")[0]
        assert name not in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "item"), (
            f"{name} reads a tensor back"
        )
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            assert not (isinstance(value, torch.Tensor) and value.dtype == torch.float64), f"{name} made float64"
        return result


@short(every_kind)
@pytest.mark.parametrize(("spec", "options"), CORNERS, ids=CORNER_IDS)
def test_no_float64_tensor_and_no_read_back(spec: SamplerSpec, options: dict[str, Any], process: Process) -> None:
    process = process_for(spec, process)
    sampler = build_sampler(spec.name, "karras", 5, process=process, **options)
    x = start_state(process, sampler.sigmas[0], dtype=torch.float32)
    with Discipline():
        sampler.sample(paired(lambda x, sigma: x * (1 / (1 + sigma.reshape(-1, 1)))), x, seed=1)
        run = sampler.start(x.to(torch.bfloat16), seed=1)
        while not run.done:
            _ = run.sigma, run.timestep, run.step
            run.feed(run.x, run.x)


def test_the_discipline_catches_what_it_should() -> None:
    with Discipline(), pytest.raises(AssertionError, match="reads a tensor back"):
        bool(torch.ones(1) > 0)
    with Discipline(), pytest.raises(AssertionError, match="made float64"):
        torch.ones(1).double()


@each("name", [spec.name for spec in SPECS if spec.ends_at_denoised])
def test_the_last_state_is_the_prediction(name: str, process: Process) -> None:
    process = process_for(name, process)
    for steps in (1, 2, 5):
        outputs: list[torch.Tensor] = []

        def model(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            outputs.append(torch.sin(x))  # noqa: B023
            return outputs[-1], x / 3  # noqa: B023

        sampler = build_sampler(name, "karras", steps, process=process)
        result = sampler.sample(model, start_state(process, sampler.sigmas[0], dtype=torch.float32), seed=0)
        assert equal(result, outputs[-1])


@each("name", NAMES)
def test_the_model_sees_exactly_the_sigmas_given(name: str) -> None:
    process = process_for(name)
    given = [11.123456789, 3.3, 1.0, 0.9999, 0.1][2 * process.is_flow :]
    sampler = build_sampler(name, sigmas=given, process=process)
    assert sampler.sigmas.tolist() == given
    seen: list[float] = []

    def model(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(float(sigma[0]))
        assert sigma.shape == (2,)
        assert (sigma == sigma[0]).all()
        return half(x, sigma)

    sampler.sample(model, torch.ones(2, 3, dtype=torch.float64), seed=0)
    assert seen == [level.label for level in sampler.plan.levels]
    assert (name not in ELSEWHERE) == (set(given[:-1]) <= set(seen))


@each("name", NAMES)
def test_timesteps_are_those_of_the_levels(name: str) -> None:
    process = process_for(name, EDM())
    sampler = build_sampler(name, "karras", 4, process=process)
    run = sampler.start(torch.ones(2, 3), seed=0)
    seen = []
    while not run.done:
        assert run.timestep.shape == (2,)
        assert run.timestep.dtype == torch.float32
        seen.append(float(run.timestep[0]))
        run.feed(*half(run.x, run.sigma))
    assert seen == pytest.approx(sampler.timesteps.tolist(), rel=1e-6)
    assert not sampler.timesteps.flags.writeable
    assert not sampler.sigmas.flags.writeable


@each("name", NAMES)
def test_callback_is_called_once_a_step(name: str) -> None:
    sampler = build_sampler(name, "karras", 5, process=process_for(name))
    infos: list[StepInfo] = []
    sampler.sample(half, torch.ones(1, 2), seed=0, callback=infos.append)
    assert [info.step for info in infos] == [0, 1, 2, 3, 4]
    assert [info.steps for info in infos] == [5] * 5
    first = dict(reversed([*zip(sampler.plan.call_steps, sampler.plan.call_sigmas.tolist(), strict=True)]))
    assert [info.sigma for info in infos] == [first[step] for step in range(5)]
    assert (name not in ELSEWHERE) == ([first[step] for step in range(5)] == sampler.sigmas[:-1].tolist())
    assert [info.sigma_next for info in infos] == sampler.sigmas[1:].tolist()
    assert all(torch.equal(info.denoised, info.x / 2) for info in infos)
    assert [info.nfe for info in infos] == sorted({info.nfe for info in infos})


def test_a_callback_may_stop_the_run() -> None:
    class EnoughError(Exception):
        pass

    def stop(info: StepInfo) -> None:
        if info.step == 2:
            raise EnoughError

    with pytest.raises(EnoughError):
        build_sampler("euler", "karras", 5).sample(lambda x, sigma: x, torch.ones(1, 2), callback=stop)


def test_progress_counts_steps(capsys: pytest.CaptureFixture[str]) -> None:
    build_sampler("heun", "karras", 4).sample(lambda x, sigma: x, torch.ones(1, 2), progress=True)
    assert "4/4" in capsys.readouterr().err


def test_progress_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match=r'pip install "ksched\[cli\]"'):
        build_sampler("euler", "karras", 4).sample(lambda x, sigma: x, torch.ones(1, 2), progress=True)


@short(is_kind)
@pytest.mark.parametrize("name", NAMES)
def test_gradients_flow_when_asked_for(name: str) -> None:
    process = process_for(name)
    sampler = build_sampler(name, "karras", 3, sigma_min=0.5, sigma_max=min(process.sigma_max, 3.0), process=process)
    gain = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)

    def end(x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
        return sampler.sample(paired(lambda x, sigma: torch.tanh(gain * x)), x, seed=1)

    x = torch.linspace(-2, 2, 6, dtype=torch.float64).reshape(2, 3).requires_grad_()
    assert torch.autograd.gradcheck(end, (x, gain))
    assert not end(x.detach(), gain).requires_grad, "a graph was recorded though the state did not ask for one"


def test_own_noise_is_asked_for_by_interval() -> None:
    sampler = build_sampler("euler_ancestral", sigmas=[4, 2, 1, 0])
    asked: list[tuple[float, float]] = []

    def noise(sigma_from: float, sigma_to: float) -> torch.Tensor:
        asked.append((sigma_from, sigma_to))
        return torch.full((2, 3), 1.0)

    a = sampler.sample(half, torch.ones(2, 3), noise=noise)
    assert asked == [(4.0, 2.0), (2.0, 1.0)]
    assert torch.isfinite(a).all()


@each("name", NAMES)
def test_noise_times_zero_is_not_drawn(name: str) -> None:
    spec, process = sampler_spec(name), process_for(name)
    silent = {name: 0.0 for name in ("s_noise", "s_noise_end") if name in spec.own_options}
    sampler = build_sampler(name, "karras", 24, process=process, **(no_noise(spec) or silent))
    assert sampler.plan.draws == ()
    sampler.sample(half, torch.ones(1, 2))  # and so it needs no seed


@each("spec", SPECS)
def test_declared_costs_are_the_costs(spec: SamplerSpec) -> None:
    for steps in (1, 2, 7):
        to_zero = build_sampler(spec.name, "karras", steps, process=process_for(spec))
        above = build_sampler(spec.name, sigmas=to_zero.sigmas[:-1], process=process_for(spec))
        if spec.calls is not None:
            assert to_zero.nfe == spec.nfe(steps)
            assert above.nfe == spec.nfe(steps - 1, to_zero=False)
        if spec.draws is not None:
            assert len(to_zero.plan.draws) == spec.draws * (steps - 1)
            assert len(above.plan.draws) == spec.draws * (steps - 1)
        count = 0

        def model(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            nonlocal count
            count += 1
            return half(x, sigma)

        to_zero.sample(model, torch.ones(1, 2), seed=0)
        assert count == to_zero.nfe


@each("spec", SPECS)
def test_rows_and_memory_stay_small(spec: SamplerSpec) -> None:
    for options in corners(spec):
        few, many = (build_sampler(spec.name, "karras", n, **options, process=process_for(spec)).plan for n in (13, 25))
        # a row reads a state or two, a noise for each stage, and the predictions or slopes of the stages or steps used
        values = {o.name: options.get(o.name, o.default) for o in spec.own_options.values()}
        used = [value for name, value in values.items() if "order" in name or "stage" in name]
        depth = max([int(spec.calls) if isinstance(spec.calls, int) else 3, 3, *used])
        noises = max(spec.draws or 0, 1)
        assert many.widest_row <= depth + noises + 3 + spec.uncond, options
        assert many.live_registers <= depth + 4 + 2 * spec.uncond, options
        if spec.calls is not None:
            sizes = [(plan.widest_row, plan.live_registers) for plan in (few, many)]
            assert sizes[0] == sizes[1], f"it grows with the steps with {options}"


def test_one_level_runs_nothing() -> None:
    x = torch.ones(2, 3)
    sampler = build_sampler("heun", sigmas=[3.0])
    assert (sampler.steps, sampler.nfe) == (0, 0)
    result = sampler.sample(half, x)
    assert torch.equal(result, x)
    assert result.data_ptr() != x.data_ptr()


def test_a_finished_run_says_so() -> None:
    run = build_sampler("euler", "karras", 1).start(torch.ones(1, 2))
    run.feed(run.x)
    assert run.done
    assert run.step == 1
    for ask in (lambda: run.sigma, lambda: run.timestep, lambda: run.feed(run.x)):
        with pytest.raises(RuntimeError, match="the run is done"):
            ask()
    with pytest.raises(RuntimeError, match="has no timesteps"):
        _ = Run(build_sampler("euler").plan, torch.ones(1, 2)).timestep


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "heun", "uni_pc", "ipndm"])
def test_a_state_that_is_replaced(name: str) -> None:
    sampler = build_sampler(name, "karras", 5)
    model = gaussian_denoiser(sampler.process)
    x = start_state(sampler.process, sampler.sigmas[0], dtype=torch.float32)
    whole = sampler.sample(model, x)
    run = Run(sampler.plan, torch.zeros_like(x))
    run.replace(x)
    states = []
    while not run.done:
        states.append(run.x)
        run.replace(run.x)  # by itself: nothing changes
        run.feed(model(run.x, run.sigma))
    assert equal(run.x, whole)
    with pytest.raises(RuntimeError, match="no state left to replace"):
        run.replace(x)
    seen = [state.clone() for state in states]
    again = Run(sampler.plan, x)
    while not again.done:
        again.replace(again.x.mul_(0.5))  # an edit in place, of what was handed out
        again.feed(model(again.x, again.sigma))
    assert not equal(again.x, whole)
    assert all(equal(a, b) for a, b in zip(states, seen, strict=True)), "what was handed out is never written again"


def test_a_replacement_must_fit() -> None:
    run = Run(build_sampler("euler", "karras", 2).plan, torch.ones(2, 3))
    for other, error in (
        (torch.ones(2, 4), ValueError),
        (torch.ones(2, 3, dtype=torch.int64), TypeError),
        ([1.0], TypeError),
    ):
        with pytest.raises(error, match="x must be"):
            run.replace(other)  # type: ignore[arg-type]
    gradient = torch.ones(2, 3, requires_grad=True)
    run.replace(gradient)
    run.feed(0.5 * run.x)
    run.feed(0.5 * run.x)
    run.x.sum().backward()
    assert gradient.grad is not None
