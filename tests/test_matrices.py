"""A plan as matrices: the same run, by a step that is compiled or exported once, and looped."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from collections.abc import Callable
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import pytest
import torch
from cases import COORDINATES, NAMES, gaussian_denoiser, half, paired, process_for, start_state
from representatives import each, in_turn, is_kind, is_plain_form, short

from ksched import VP, Denoiser, Flow, Process, build_sampler
from ksched.denoisers.denoiser import Prediction
from ksched.execution.compiled import CompiledStep, Tensors, advance, step
from ksched.execution.layout import layout
from ksched.plan.plan import Plan
from ksched.plan.trace import TraceError
from ksched.sampler import Sampler


class Counting:
    """A compiler that only counts its calls."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        self.graphs += 1
        return graph.forward


def model(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    sigma = sigma.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)
    return torch.tanh(x) / (1 + sigma), torch.sin(x)


def bound(result: torch.Tensor, truth: torch.Tensor, dtype: torch.dtype) -> None:
    """What tests/test_runner.py allows a run for rounding, twice: two runs differ."""
    assert (result.double() - truth).abs().max() <= 80 * torch.finfo(dtype).eps * max(1, float(truth.abs().max()))


DTYPES = [torch.bfloat16, torch.float32, torch.float64]


@short(lambda name, dtype: is_kind(name) and (is_plain_form(name) or dtype == in_turn(NAMES.index(name), DTYPES)))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_the_same_run(name: str, dtype: torch.dtype) -> None:
    sampler = build_sampler(name, "karras", 8, process=process_for(name))
    x = start_state(process_for(name), sampler.sigmas[0]).to(dtype)
    denoiser = paired(gaussian_denoiser(process_for(name)))
    result = sampler.matrices.sample(denoiser, x, seed=2, step=step)
    assert (result.dtype, result.shape) == (x.dtype, x.shape)
    bound(result, sampler.sample(denoiser, x.double(), seed=2), dtype)


@short(lambda name, process: is_kind(name) and process == in_turn(NAMES.index(name), COORDINATES.values()))
@pytest.mark.parametrize("process", COORDINATES.values(), ids=COORDINATES)
@pytest.mark.parametrize("name", NAMES)
def test_the_same_short_run(name: str, process: Process) -> None:
    """Ends and beginnings are all of it; two steps of PNDM make 1e3 of every rounding."""
    process = process_for(name, process)
    for sigmas in ([0.9, 0.0], [0.9, 0.4, 0.0], [0.9, 0.4]):
        sampler = build_sampler(name, sigmas=sigmas, process=process)
        x = start_state(process, sampler.sigmas[0])
        result = sampler.matrices.sample(model, x, seed=2, step=step)
        assert torch.allclose(result, sampler.sample(model, x, seed=2), rtol=1e-12, atol=1e-12)


@each("name", NAMES)
def test_no_more_registers_than_a_run_holds(name: str) -> None:
    sampler = build_sampler(name, "karras", 12, process=process_for(name))
    form, program = sampler.matrices, layout(sampler.plan)
    assert form.registers <= program.buffers
    assert form.matrices.shape == (sampler.nfe, form.registers, form.registers + 1 + form.both + form.draws)
    assert form.both == sampler.spec.uncond
    assert not form.matrices[-1, 1:].any(), "at the end nothing is held but the result"
    assert not form.matrices.flags.writeable


def test_the_matrix_of_euler_is_its_row() -> None:
    form = build_sampler("euler", sigmas=[10.0, 4.0, 0.0]).matrices
    assert form.first.tolist() == [[1.0]]
    assert np.allclose(form.matrices, [[[0.4, 0.6]], [[0.0, 1.0]]], rtol=0, atol=1e-15)
    x = torch.ones(3, 2, dtype=torch.float16)
    assert form.tables(x).dtype == torch.float32
    assert form.tables(x)[:, 0, -1].tolist() == [10, 4]


@pytest.mark.parametrize("options", [{}, {"s_churn": 40.0}], ids=["plain", "churn"])
def test_noise_is_asked_for_as_in_a_run(options: dict[str, Any]) -> None:
    """Churn draws before the first call and not at every one."""
    sampler = build_sampler("heun" if options else "dpmpp_sde", "karras", 5, **options)
    x = start_state(VP(), sampler.sigmas[0])
    asked: list[tuple[float, float]] = []

    def noise(start: float, end: float) -> torch.Tensor:
        asked.append((start, end))
        return torch.full_like(x, 1 / (1 + start))

    expected = sampler.sample(half, x, noise=noise)
    before = list(asked)
    asked.clear()
    assert torch.allclose(sampler.matrices.sample(half, x, noise=noise, step=step), expected)
    assert asked == before
    assert len(asked) > 0


def test_a_brownian_path_and_seeds_for_each_item() -> None:
    sampler = build_sampler("dpmpp_sde", "karras", 5)
    x = start_state(VP(), sampler.sigmas[0])
    how: dict[str, Any] = {"seed": [4, 9, 2], "noise": "brownian"}
    assert torch.allclose(sampler.matrices.sample(half, x, **how, step=step), sampler.sample(half, x, **how))


def by_kind() -> list[list[Sampler]]:
    """Samplers, on grids of several kinds and lengths, whose steps take tensors of equal shapes."""

    def kind(sampler: Sampler) -> tuple[int, bool, int]:
        form = sampler.matrices
        return form.registers, form.both, form.draws

    built = [
        build_sampler(name, ("karras", "exponential")[i % 2], 8 + i % 3, process=process_for(name))
        for i, name in enumerate(NAMES)
    ]
    return [list(alike) for _, alike in groupby(sorted(built, key=kind), kind)]


@short(lambda alike: alike[0].spec.name in ("euler", "euler_cfg_pp", "pndm", "exp_heun_2_x0_sde"))
@pytest.mark.parametrize("alike", by_kind(), ids=lambda alike: str(alike[0].spec.name))
def test_a_step_is_compiled_once(alike: list[Sampler]) -> None:
    """For a whole run, and for all samplers, schedules and numbers of steps whose states are alike."""
    count = Counting()
    compiled = alike[0].matrices.compiled(backend=count)
    for sampler in alike:
        x = start_state(sampler.process, sampler.sigmas[0], dtype=torch.float32)
        result = sampler.matrices.sample(model, x, seed=5, step=compiled)
        bound(result, sampler.sample(model, x.double(), seed=5), torch.float32)
    assert count.graphs == 1


def test_more_than_one_would_be_noticed() -> None:
    """A Python number is compiled into the step; the test above makes sure that none is."""
    count = Counting()
    sampler = build_sampler("dpmpp_2m", "karras", 5)
    x = start_state(VP(), sampler.sigmas[0], dtype=torch.float32)
    form, sigmas = sampler.matrices, iter(sampler.sigmas.tolist())

    @torch.compile(fullgraph=True, backend=count)
    def at(sigma: float, state: Tensors, table: torch.Tensor) -> Tensors:
        return advance(state, table, model(state[0], torch.full((3,), sigma))[0])

    result = form.sample(model, x, step=lambda _, state, table, noise, **how: at(next(sigmas), state, table))
    bound(result, sampler.sample(model, x.double()), torch.float32)
    assert count.graphs > 1


def test_many_kinds_in_one_process() -> None:
    """Compiled as one function, a kind of step more than torch keeps would be one too many."""
    config = torch._dynamo.config
    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    shared = torch.compile(step, fullgraph=True, backend="eager")

    def results(steps: Callable[[CompiledStep], Any]) -> None:
        for name in ("euler", "dpmpp_2m"):
            sampler = build_sampler(name, "karras", 5)
            x = start_state(VP(), sampler.sigmas[0])
            sampler.matrices.sample(half, x, step=steps(sampler.matrices))

    with config.patch({limit: 1}):
        results(lambda form: form.compiled(backend="eager"))
        with pytest.raises(Exception, match=r"fullgraph=True|limit"):
            results(lambda form: shared)


@pytest.mark.parametrize(
    ("make", "prediction", "dtype"),
    [(VP, "epsilon", torch.float32), (VP, "epsilon", torch.bfloat16), (Flow, "flow", torch.float32)],
    ids=["epsilon", "epsilon-half", "flow"],
)
def test_a_network_inside(make: Callable[[], Process], prediction: Prediction, dtype: torch.dtype) -> None:
    """The conversion of its output is part of the step; that its table comes to the device is not."""
    sampler = build_sampler("dpmpp_2m", "karras", 5, process=make())

    def network(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        assert x.dtype in (dtype, torch.float64)
        return torch.tanh(x) * (0.8 + 1e-4 * timestep.to(x.dtype).reshape(-1, 1))

    denoiser = Denoiser(network, make(), prediction)
    x = start_state(sampler.process, sampler.sigmas[0]).to(dtype)
    count = Counting()
    result = sampler.matrices.sample(denoiser, x, step=sampler.matrices.compiled(backend=count))
    assert count.graphs == 1
    rounding = 80 * torch.finfo(dtype).eps
    assert (result.double() - sampler.sample(denoiser, x.double())).abs().max() <= rounding * 3


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler looks at it
@short(lambda name: name in ("uni_pc", "euler_cfg_pp"))
@pytest.mark.parametrize("name", ["euler", "uni_pc", "dpmpp_sde", "euler_cfg_pp"])
def test_gradients(name: str) -> None:
    sampler = build_sampler(name, "karras", 4)
    compiled = sampler.matrices.compiled(backend="eager")
    grads = []
    for sample in (sampler.sample, partial(sampler.matrices.sample, step=compiled)):
        x = start_state(VP(), sampler.sigmas[0]).requires_grad_()
        result: torch.Tensor = sample(model, x, seed=1)
        (grad,) = torch.autograd.grad(result.square().sum(), x)
        grads.append(grad)
    assert torch.allclose(grads[0], grads[1])
    plain = sampler.matrices.sample(model, x.detach(), seed=1, step=compiled)
    assert not plain.requires_grad
    assert torch.allclose(plain, result)


def prepared(name: str) -> tuple[CompiledStep, torch.Tensor, Tensors, torch.Tensor, Callable[[int], Tensors]]:
    """What a loop of one's own begins with, and the result to be reached."""
    sampler = build_sampler(name, "karras", 5)
    x = start_state(VP(), sampler.sigmas[0])
    form = sampler.matrices
    noises = form.noises(x, seed=3)
    return form, sampler.sample(model, x, seed=3), form.start(x, noises(-1)), form.tables(x), noises


def test_a_step_can_be_exported() -> None:
    form, expected, state, tables, noises = prepared("dpmpp_3m_sde")

    class Segment(torch.nn.Module):
        def forward(self, state: Tensors, table: torch.Tensor, noise: Tensors) -> Tensors:
            return step(model, state, table, noise)

    exported = torch.export.export(Segment(), (state, tables[0], noises(0))).module()
    for call in range(form.nfe):
        state = exported(state, tables[call], noises(call))
    assert torch.allclose(state[0], expected)


def test_a_loop_of_tensors_around_it() -> None:
    loops = pytest.importorskip("torch._higher_order_ops.while_loop")
    form, expected, state, tables, noises = prepared("dpmpp_2m_sde")
    stacked = [torch.stack(each) for each in zip(*map(noises, range(form.nfe)), strict=True)]

    def below(call: torch.Tensor, *state: torch.Tensor) -> torch.Tensor:
        return call < form.nfe

    def turn(call: torch.Tensor, *state: torch.Tensor) -> tuple[torch.Tensor, ...]:
        table, *noise = (each.index_select(0, call.reshape(1))[0] for each in (tables, *stacked))
        return call + 1, *step(model, state, table, tuple(noise))

    _, result, *_ = loops.while_loop(below, turn, (torch.tensor(0), *state))
    assert torch.allclose(result, expected)


def test_transforms_pass_through() -> None:
    form, _, _, tables, noises = prepared("dpmpp_2m_sde")
    x = start_state(VP(), 14.6)

    def run(x: torch.Tensor) -> torch.Tensor:
        state = form.start(x, noises(-1))
        for call in range(form.nfe):
            state = step(model, state, tables[call], noises(call))
        return state[0]

    derivative = torch.func.jacrev(run)(x).reshape(15, 15)
    moved = (run(x + 1e-6) - run(x - 1e-6)).reshape(15) / 2e-6
    assert torch.allclose(derivative.sum(1), moved, atol=1e-6)


def test_a_layout_stays() -> None:
    sampler = build_sampler("uni_pc", "karras", 5)
    x = start_state(VP(), sampler.sigmas[0], (2, 4, 6, 6)).to(memory_format=torch.channels_last)
    count = Counting()
    result = sampler.matrices.sample(model, x, step=sampler.matrices.compiled(backend=count))
    assert result.stride() == x.stride()
    assert count.graphs == 1


def test_a_model_may_answer_with_what_it_was_given() -> None:
    sampler = build_sampler("dpmpp_2m", "karras", 5)
    x = start_state(VP(), sampler.sigmas[0])
    kept, buffer = x.clone(), torch.empty_like(x)
    for same, new in [(lambda x, s: x, lambda x, s: x.clone()), (lambda x, s: buffer.copy_(x / 3), lambda x, s: x / 3)]:
        one, other = (sampler.matrices.sample(answer, x, step=step) for answer in (same, new))
        assert torch.equal(one, other)
    assert torch.equal(x, kept), "the caller's state was written to"


def can_compile() -> bool:
    """Whether inductor can compile for the CPU here."""
    command = [os.environ.get("CXX", "g++"), f"-I{sysconfig.get_paths()['include']}", "-fopenmp", "-fsyntax-only"]
    source = "#include <Python.h>\n#include <omp.h>\n"
    try:
        return not subprocess.run([*command, "-x", "c++", "-"], input=source.encode(), capture_output=True).returncode
    except OSError:
        return False


@pytest.mark.exhaustive  # what it compiles is compiled without it by others
@pytest.mark.filterwarnings("ignore")  # torch's own
def test_inductor() -> None:
    if not can_compile():
        pytest.skip("no C++ compiler that works")
    sampler = build_sampler("dpmpp_2m_sde", "karras", 5)
    x = start_state(VP(), sampler.sigmas[0], dtype=torch.float32)
    expected = sampler.sample(model, x.double(), seed=1)
    for _ in range(2):
        bound(sampler.matrices.sample(model, x, seed=1), expected, torch.float32)


def test_what_is_refused() -> None:
    with pytest.raises(TraceError, match="no plan"):
        _ = build_sampler("rk_adaptive").matrices
    sampler = build_sampler("dpmpp_2m_sde_heun", "karras", 4)
    form, x = sampler.matrices, start_state(VP(), sampler.sigmas[0])
    tables, noises = form.tables(x), form.noises(x, seed=1)
    state = form.start(x, noises(-1))
    with pytest.raises(ValueError, match="draws noise: give seed"):
        form.sample(half, x)
    with pytest.raises(TypeError, match="must be a floating-point tensor"):
        form.start(x.int(), noises(-1))
    with pytest.raises(ValueError, match=r"needs as many noises as a step, 1; pass noises\(-1\); got 0"):
        form.start(x)
    with pytest.raises(ValueError, match=r"got 2 registers, 0 noises, D, and a table of \(2, 5\)"):
        advance(state, tables[0], x)
    with pytest.raises(ValueError, match=r"got 2 registers, 1 noises, D and U, and a table of \(2, 5\)"):
        step(half, state, tables[0], noises(0), both=True)
    with pytest.raises(ValueError, match=r"denoised must have the state's shape \(3, 5\); got \(1, 5\)"):
        step(lambda x, sigma: x[:1], state, tables[0], noises(0))
    with pytest.raises(TypeError, match=r"needs \(denoised, uncond\)"):
        build_sampler("euler_cfg_pp").matrices.sample(lambda x, sigma: x, x, step=step)


def test_a_plan_read_from_json() -> None:
    sampler = build_sampler("dpmpp_sde", "karras", 4)
    form = CompiledStep(Plan.from_json(sampler.plan.to_json()))
    assert (form.matrices == sampler.matrices.matrices).all()
    x = start_state(VP(), sampler.sigmas[0])
    assert torch.allclose(form.sample(half, x, seed=1, step=step), sampler.sample(half, x, seed=1))
