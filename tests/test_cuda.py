"""Runs on a GPU: no synchronisation, one launch per state, CUDA graphs, and the same results as on the CPU."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import pytest
import torch
from cases import NAMES, SPECS, gaussian_denoiser, no_noise, paired, process_for, start_state
from representatives import in_turn, is_kind, short
from torch.profiler import ProfilerActivity, profile

from ksched import VP, Denoiser, build_sampler, tune
from ksched.execution.batch import Batch
from ksched.execution.compiled import step
from ksched.execution.layout import layout
from ksched.kernels.available import triton_kernels
from ksched.noise.seeded import SeededNoise
from ksched.plan.rows import Draw
from ksched.samplers.spec import SamplerSpec

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

needs_triton = pytest.mark.skipif(
    not (torch.cuda.is_available() and triton_kernels(torch.device("cuda", 0))), reason="needs a working Triton"
)
SHAPE = (2, 4, 8, 8)
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
LAYOUTS = (torch.contiguous_format, torch.channels_last)


def on_device(sigma: float, shape: tuple[int, ...] = SHAPE, seed: int = 1) -> torch.Tensor:
    return start_state(VP(), sigma, shape, seed, dtype=torch.float32).cuda()


def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """A model of plain operations that never leave the device."""
    return torch.tanh(x) / (1 + sigma.reshape(-1, 1, 1, 1).to(x.dtype))


@contextmanager
def nothing_waits() -> Iterator[None]:
    with warnings.catch_warnings(action="ignore"):  # torch says that it does not notice all
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@short(is_kind)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_waits_for_the_device(name: str, dtype: torch.dtype) -> None:
    sampler = build_sampler(name, "karras", 5, process=process_for(name))
    x = on_device(sampler.sigmas[0]).to(dtype)
    sampler.sample(paired(denoise), x, seed=1)  # brings tables there and loads kernels
    with nothing_waits():
        sampler.sample(paired(denoise), x, seed=1)
        run = sampler.start(x, seed=1)
        while not run.done:
            _ = run.sigma, run.timestep, run.step
            run.feed(run.x, run.x)


def test_waiting_would_be_noticed() -> None:
    x = torch.ones(1, device="cuda")
    with nothing_waits(), pytest.raises(RuntimeError, match="synchroniz"):
        x.item()


@short(is_kind)
@pytest.mark.parametrize("name", NAMES)
def test_a_run_is_one_graph(name: str) -> None:
    sampler = build_sampler(name, "karras", 5, process=process_for(name))
    x, other = (on_device(sampler.sigmas[0], seed=seed) for seed in (1, 2))

    def whole() -> torch.Tensor:
        return sampler.sample(paired(denoise), x, seed=3)

    eager = [whole()]
    kept = x.clone()
    x.copy_(other)
    eager.append(whole())
    x.copy_(kept)
    side = torch.cuda.Stream()  # as torch wants it: a warm-up on another stream than the default one
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        whole()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = whole()
    for state, expected in zip((kept, other), eager, strict=True):
        x.copy_(state)
        captured.zero_()
        graph.replay()
        assert torch.equal(captured, expected)


@short(is_kind)
@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_one_graph(name: str) -> None:
    """Captured once and replayed at every call of a run, with the call's table and noises copied in."""
    sampler = build_sampler(name, "karras", 5, process=process_for(name))
    form, model = sampler.matrices, paired(denoise)
    starts = [on_device(sampler.sigmas[0], seed=seed) for seed in (1, 2)]
    expected = [sampler.sample(model, x, seed=3) for x in starts]
    tables, noises = form.tables(starts[0]), form.noises(starts[0], seed=3)
    # what the graph reads and writes; copies, so that nothing else shares their memory
    table, noise = tables[0].clone(), tuple(each.clone() for each in noises(0))
    state = tuple(each.clone() for each in form.start(starts[0], noises(-1)))
    side = torch.cuda.Stream()  # as torch wants it: a warm-up on another stream than the default one
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step(model, state, table, noise, both=form.both)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for old, new in zip(state, step(model, state, table, noise, both=form.both), strict=True):
            old.copy_(new)
    for x, truth in zip(starts, expected, strict=True):
        with nothing_waits():
            for old, new in zip(state, form.start(x, noises(-1)), strict=True):
                old.copy_(new)
            for call in range(form.nfe):
                table.copy_(tables[call])
                for old, new in zip(noise, noises(call), strict=True):
                    old.copy_(new)
                graph.replay()
        assert (state[0] - truth).abs().max() <= 80 * torch.finfo(x.dtype).eps * max(1, float(truth.abs().max()))


@needs_triton
@pytest.mark.filterwarnings("ignore")  # torch's own, of what it could do faster
def test_a_compiled_step() -> None:
    sampler = build_sampler("dpmpp_2m_sde", "karras", 5)
    x = on_device(sampler.sigmas[0])
    expected = sampler.sample(denoise, x, seed=1)
    result = sampler.matrices.sample(denoise, x, seed=1)
    assert (result - expected).abs().max() <= 80 * torch.finfo(x.dtype).eps * max(1, float(expected.abs().max()))


def launches(action: Callable[[], object]) -> list[str]:
    """Names of the kernels that an action launches; copies by the driver are named ``Memcpy``."""
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        action()
        torch.cuda.synchronize()
    return [event.name for event in profiled.events() if event.device_type.name == "CUDA"]


@needs_triton
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_step_is_one_launch(dtype: torch.dtype) -> None:
    """A step of Euler takes the model's own launch and one more, for every dtype of the answer."""
    sampler = build_sampler("euler", "karras", 8)
    for warm in (True, False):
        run = sampler.start(on_device(sampler.sigmas[0]))
        x = run.x.to(dtype)

        def step() -> None:
            run.feed(torch.sin(x))  # noqa: B023

        step()
        if not warm:
            found = launches(step)
            assert len(found) == 2, found
            assert sum("_combine" in name for name in found) == 1, found


@short(lambda spec: is_kind(spec.name))
@needs_triton
@pytest.mark.parametrize("spec", [s for s in SPECS if not s.draws or no_noise(s)], ids=lambda s: s.name)
def test_a_state_is_one_launch(spec: SamplerSpec) -> None:
    """Every state that is formed, and every output that is kept for later."""
    sampler = build_sampler(spec.name, "karras", 6, **no_noise(spec), process=process_for(spec))
    x = on_device(sampler.sigmas[0])
    answer = torch.tanh(x)

    def drive(run: Any) -> None:
        while not run.done:
            run.feed(answer, answer)

    drive(sampler.start(x, seed=0))
    run = sampler.start(x, seed=0)
    terms = [len(operation.terms) for turn in layout(sampler.plan).segments for operation in turn.operations]
    assert len(launches(lambda: drive(run))) == sum(max(1, -(-(count - 1) // 11)) for count in terms)


@needs_triton
def test_a_networks_step_is_one_launch() -> None:
    """The prediction is no pass of its own: only the state's scaling for the network is another launch."""
    sampler = build_sampler("euler", "karras", 6)
    x = on_device(sampler.sigmas[0])
    denoiser = Denoiser(lambda x, timestep: torch.sin(x), VP())
    sampler.sample(denoiser, x)
    found = launches(lambda: sampler.sample(denoiser, x))
    assert sum("_combine" in name for name in found) == 6, found


def batch_of(names: Sequence[str], dtype: torch.dtype = torch.float32) -> tuple[Batch, list[tuple[Any, Any, Any]]]:
    batch, runs = Batch(), []
    for seed, name in enumerate(names):
        sampler = build_sampler(name, "karras", 5 + seed % 3, process=process_for(name))
        x = on_device(sampler.sigmas[0], (1, 4, 8, 8), seed).to(dtype)
        runs.append((sampler, x, batch.add(sampler.start(x, seed=seed))))
    return batch, runs


@needs_triton
def test_a_tick_forms_all_states_in_one_launch() -> None:
    batch, _ = batch_of(["euler", "dpmpp_2m", "heun", "dpm_2", "dpmpp_2m", "euler"])
    for _ in range(2):
        batch.feed(torch.sin(batch.x))
    answer = torch.sin(batch.x)
    found = launches(lambda: batch.feed(answer))
    assert [name for name in found if not name.startswith("Memcpy")] == ["_combine_many"], found


@pytest.mark.parametrize("dtype", DTYPES)
def test_runs_of_a_batch_are_what_they_are_alone(dtype: torch.dtype) -> None:
    batch, runs = batch_of(NAMES, dtype)
    batch.feed(*[denoise(batch.x, batch.sigma)] * 2)
    with nothing_waits():
        while batch:
            batch.tick(paired(denoise))
    for seed, (sampler, x, run) in enumerate(runs):
        assert torch.equal(run.x, sampler.sample(paired(denoise), x, seed=seed)), sampler


@short(
    lambda name, dtype, layout: is_kind(name) and layout == in_turn(NAMES.index(name) + dtype.itemsize // 2, LAYOUTS)
)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
@pytest.mark.parametrize("name", NAMES)
def test_the_host_has_the_same(name: str, dtype: torch.dtype, layout: torch.memory_format) -> None:
    sampler = build_sampler(name, "karras", 8, process=process_for(name))
    x = start_state(process_for(name), sampler.sigmas[0], SHAPE).to(dtype, memory_format=layout)
    model = paired(gaussian_denoiser(process_for(name)))
    truth = sampler.sample(model, x.double(), seed=2)
    for state in (x, x.cuda()):
        result = sampler.sample(model, state, seed=2)
        assert (result.dtype, result.device, result.stride()) == (dtype, state.device, x.stride())
        # twice what tests/test_runner.py allows a run for rounding
        bound = 80 * torch.finfo(dtype).eps * max(1, float(truth.abs().max()))
        assert (result.double().cpu() - truth).abs().max() <= bound


@pytest.mark.parametrize("dtype", DTYPES)
def test_outputs_in_another_layout(dtype: torch.dtype) -> None:
    sampler = build_sampler("dpmpp_2m", "karras", 5)
    x = on_device(sampler.sigmas[0])

    def turned(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return (x / 3).to(dtype, memory_format=torch.channels_last)

    result = sampler.sample(turned, x)
    assert result.stride() == x.stride()
    assert torch.equal(result, sampler.sample(lambda x, sigma: turned(x, sigma).float().contiguous(), x))


@short(is_kind)
@pytest.mark.parametrize("name", NAMES)
def test_any_model_output_may_share_memory(name: str) -> None:
    sampler = build_sampler(name, "karras", 6)
    x = on_device(sampler.sigmas[0])
    kept, buffer = x.clone(), torch.empty_like(x)

    def ends(model: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        return sampler.sample(paired(lambda x, sigma: model(x)), x, seed=1)

    assert torch.equal(ends(lambda x: x), ends(torch.clone))
    assert torch.equal(ends(lambda x: buffer.copy_(x / 3)), ends(lambda x: x / 3))
    assert torch.equal(x, kept), "the caller's state was written to"


@needs_triton
def test_noise_is_one_launch() -> None:
    """For eight items, and a copy where the state is in half precision."""
    source, draw = SeededNoise(tuple(range(8))), Draw(3.0, 1.0)
    for dtype, count in ((torch.float32, 1), (torch.bfloat16, 2)):
        out = torch.empty((8, 4, 32, 32), dtype=dtype, device="cuda")
        source(draw, out, out=out)
        found = launches(lambda: source(draw, out, out=out))  # noqa: B023
        assert len(found) == count, found
        assert "_normals" in found[0]


@pytest.mark.parametrize("shape", [(3, 4, 64, 64), (1, 5), (9, 4097), (1, 131072), (2, 3, 200, 200)])
def test_noise_is_the_same_bytes(shape: tuple[int, ...]) -> None:
    source, draw = SeededNoise(tuple(range(shape[0]))), Draw(3.0, 1.0)
    host, device = (source(draw, torch.empty(shape, device=where)) for where in ("cpu", "cuda"))
    assert torch.equal(host.view(torch.int32), device.cpu().view(torch.int32))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_a_run_on_another_device_than_the_present_one() -> None:
    sampler = build_sampler("dpmpp_2m", "karras", 5)
    x = on_device(sampler.sigmas[0])
    there = sampler.sample(paired(denoise), x.to("cuda:1"), seed=1)
    assert there.device == torch.device("cuda", 1)
    assert torch.equal(there.cpu(), sampler.sample(paired(denoise), x, seed=1).cpu())


def spectrum(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """The denoiser of data whose values have variances from 2 down to a hundredth."""
    variances = torch.logspace(0.3, -2, x.shape[1], device=x.device, dtype=x.dtype)
    return x * variances / (variances + sigma.to(x.dtype)[:, None] ** 2)


@pytest.mark.parametrize("end", ["integral", "denoised"])
def test_auto_waits_for_nothing(end: str) -> None:
    sampler = build_sampler("auto", steps=8, end=end)
    x = on_device(sampler.sigmas[0], (4, 32))
    ended = sampler.sample(spectrum, x)
    with nothing_waits():
        again = sampler.sample(spectrum, x)
    assert torch.equal(ended, again)
    torch.testing.assert_close(ended.cpu(), sampler.sample(spectrum, x.cpu()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("level", [1, 2])
def test_a_model_on_the_device_is_tuned(level: Literal[1, 2]) -> None:
    devices = set()

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        devices.add((x.device.type, sigma.device.type, x.dtype))
        return spectrum(x, sigma)

    plan = tune(model, 4, shape=(16,), device="cuda", level=level, items=64)
    assert devices == {("cuda", "cuda", torch.float32)}
    assert plan.report["tuned"]
    assert plan.report["errors"]["mean"] < 0.5 * plan.report["untuned"]["mean"]
    host = tune(spectrum, 4, shape=(16,), items=64)
    assert plan.report["untuned"]["name"] == host.report["untuned"]["name"]
