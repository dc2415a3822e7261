"""The kernel for the processor: any table gives its sums, wherever a number stands, in any number of threads."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import pairwise, permutations, product
from typing import Any

import numpy as np
import pytest
import torch
from cases import NAMES, SPECS, gaussian_denoiser, half, paired, start_state
from representatives import each, in_turn, is_kind, short

from ksched import VP, Denoiser, Flow, Run, build_sampler
from ksched.execution.layout import DENOISED, UNCOND, Combination, Operations, combination, layout
from ksched.kernels import available
from ksched.noise.brownian import BrownianNoise
from ksched.noise.seeded import SeededNoise
from ksched.plan.plan import Plan
from ksched.plan.rows import Draw

numba_kernels = pytest.importorskip("ksched.kernels.numba_kernels", reason="needs Numba")


def run_table(operations: Operations, tensors: dict[int, torch.Tensor], outs: Sequence[torch.Tensor]) -> None:
    table, count = operations.table, outs[0].numel()
    sources = array("q", [0] * (3 + max(tensors)))
    for source, tensor in tensors.items():
        sources[source + 2] = tensor.data_ptr()
    results = array("q", [out.data_ptr() for out in outs])
    numba_kernels.form(sources.buffer_info()[0], results.buffer_info()[0], *table.addresses, count)


def random(count: int, size: int) -> list[torch.Tensor]:
    return list(torch.randn((count, size), generator=torch.Generator().manual_seed(count)).unbind())


def check_sum(out: torch.Tensor, terms: Sequence[tuple[torch.Tensor, float]]) -> None:
    """Within a rounding for every coefficient and every addition."""
    parts = [value * tensor.double() for tensor, value in terms]
    assert (out.double() - sum(parts)).abs().le((2 * len(parts)) * 2**-24 * sum(map(torch.abs, parts))).all()


@short(lambda terms, in_place, size: size in (1, 5000))
@pytest.mark.parametrize("size", [1, 7, 2048, 5000])
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("terms", range(1, 12))
def test_a_sum(terms: int, in_place: bool, size: int) -> None:
    tensors = random(terms, size)
    values = [(-1) ** k * 1.7 / (k + 1) for k in range(terms)]
    kept = [tensor.clone() for tensor in tensors]
    out = tensors[0] if in_place else torch.full((size,), torch.nan)
    operations = Operations([combination(0 if in_place else terms, tuple(enumerate(values)))])
    run_table(operations, dict(enumerate(tensors)), [out])
    check_sum(out, list(zip(kept, values, strict=True)))
    assert all(torch.equal(a, b) for a, b in zip(tensors[in_place:], kept[in_place:], strict=True))


@pytest.mark.parametrize("place", [1, 2, 5])
@pytest.mark.parametrize("in_place", [False, True])
def test_an_output_is_kept_by_the_sum_that_reads_it(in_place: bool, place: int) -> None:
    x, answer, *others = random(7, 3000)
    tensors = {0: x, DENOISED: answer, **{k + 3: other for k, other in enumerate(others)}}
    sources = [0, *[k + 3 for k in range(len(others))]]
    sources.insert(place, 1)  # the buffer that the output is kept in
    values = [0.5 - 0.1 * k for k in range(len(sources))]
    before = x.clone()
    kept, out = torch.full_like(x, torch.nan), x if in_place else torch.full_like(x, torch.nan)
    operations = Operations(
        [
            combination(1, ((DENOISED, 1.0),)),
            combination(0 if in_place else 2, tuple(zip(sources, values, strict=True))),
        ]
    )
    assert len(operations.table.integers) == 1 + 3 + len(sources), "one operation"
    run_table(operations, tensors, [kept, out])
    assert torch.equal(kept, answer)
    terms = {**tensors, 0: before, 1: answer}
    check_sum(out, [(terms[source], value) for source, value in zip(sources, values, strict=True)])


def test_operations_read_what_those_before_them_formed() -> None:
    x, answer, twin = random(3, 2500)
    first, second, kept = (torch.empty_like(x) for _ in range(3))
    operations = Operations(
        [
            combination(3, ((UNCOND, 1.0),)),
            combination(1, ((0, 0.5), (DENOISED, 0.25))),
            combination(2, ((1, 2.0), (3, -1.0), (0, 1.0))),
        ]
    )
    run_table(operations, {0: x, DENOISED: answer, UNCOND: twin}, [kept, first, second])
    assert torch.equal(kept, twin)
    torch.testing.assert_close(first, 0.5 * x + 0.25 * answer)
    torch.testing.assert_close(second, 2 * x + 0.5 * answer - twin)


def test_an_output_that_no_sum_reads_is_kept() -> None:
    (answer,) = random(1, 100)
    kept = torch.empty_like(answer)
    run_table(Operations([combination(0, ((DENOISED, 1.0),))]), {DENOISED: answer}, [kept])
    assert torch.equal(kept, answer)


def test_a_number_comes_out_the_same_wherever_it_stands() -> None:
    tensors = random(6, 9001)
    operations = Operations([combination(6, tuple((k, 1.3 / (k + 1)) for k in range(6)))])
    whole, part = torch.empty(9001), torch.empty(4001)
    run_table(operations, dict(enumerate(tensors)), [whole])
    run_table(operations, {k: tensor[2501:6502] for k, tensor in enumerate(tensors)}, [part])
    assert torch.equal(whole[2501:6502], part)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_share_the_work(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = random(3, 3 * numba_kernels._PER_THREAD + 77)
    operations = Operations([combination(3, ((0, 0.3), (1, 0.4), (2, -0.5)))])
    alone, shared = torch.empty_like(tensors[0]), torch.full_like(tensors[0], torch.nan)
    run_table(operations, dict(enumerate(tensors)), [alone])
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    run_table(operations, dict(enumerate(tensors)), [shared])
    assert torch.equal(alone, shared)


def _rounds_of(plan: Plan) -> list[Operations]:
    return [turn.operations for turn in (layout(plan).before, *layout(plan).segments)]


@each("name", NAMES)
def test_rounds_are_independent_and_whole(name: str) -> None:
    """In any order within a round, the operations of a turn give what they give one after the other."""
    for operations in _rounds_of(build_sampler(name, "karras", 6).plan):
        count = 3 + max((source for o in operations for source in (o.out, *(s for s, _ in o.terms))), default=0)
        start = list(np.random.default_rng(1).standard_normal((count, 3)))

        def formed(operations: Sequence[Combination], start: list[Any] = start) -> list[Any]:
            registers = start.copy()
            for operation in operations:
                registers[operation.out] = sum(value * registers[source] for source, value in operation.terms)
            return registers

        expected = formed(operations)
        for order in map(list, permutations(range(max(map(len, operations.rounds), default=0)))):
            shuffled = [part[i] for part in operations.rounds for i in order if i < len(part)]
            assert len(shuffled) == len(operations)
            np.testing.assert_allclose(formed(shuffled), expected, rtol=1e-12)


@pytest.fixture(params=["at once", "by torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "by torch":
        monkeypatch.setattr(available, "numba_kernels", lambda: None)
    return str(request.param)


LAYOUTS, DTYPES = [torch.contiguous_format, torch.channels_last], [torch.bfloat16, torch.float32]
BOTH = list(product(DTYPES, LAYOUTS))


@short(lambda name, dtype, layout: is_kind(name) and (dtype, layout) == in_turn(NAMES.index(name), BOTH))
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_runs_are_right_with_and_without(name: str, dtype: torch.dtype, layout: torch.memory_format, way: str) -> None:
    sampler = build_sampler(name, "karras", 8)
    x = start_state(VP(), sampler.sigmas[0], (2, 4, 8, 8)).to(dtype, memory_format=layout)
    model = paired(gaussian_denoiser(VP()))
    truth = sampler.sample(model, x.double(), seed=2)
    result = sampler.sample(model, x, seed=2)
    assert (result.dtype, result.stride()) == (dtype, x.stride())
    bound = 40 * torch.finfo(dtype).eps * max(1, float(truth.abs().max()))
    assert (result.double() - truth).abs().max() <= bound


@short(is_kind)
@pytest.mark.parametrize("name", [spec.name for spec in SPECS if not spec.uncond])
def test_conversions_are_right_with_and_without(name: str, way: str) -> None:
    sampler = build_sampler(name, "karras", 6, process=Flow(3.0))
    denoiser = Denoiser(lambda x, timestep: torch.tanh(x) * 0.8, Flow(3.0), "flow")
    x = start_state(Flow(3.0), sampler.sigmas[0])
    truth = sampler.sample(denoiser, x, seed=1)
    result = sampler.sample(denoiser, x.float(), seed=1)
    assert (result - truth).abs().max() <= 40 * torch.finfo(torch.float32).eps * max(1, float(truth.abs().max()))


@pytest.mark.parametrize("odd", ["turned", "view", "half", "negated", "nowhere"])
def test_any_output_can_be_read(odd: str, way: str) -> None:
    sampler = build_sampler("dpmpp_2m", "karras", 5)
    x = start_state(VP(), sampler.sigmas[0], (2, 4, 8, 8), dtype=torch.float32)

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        if odd == "turned":
            return (x / 3).contiguous(memory_format=torch.channels_last)
        if odd == "view":
            return torch.cat([x, x / 3], dim=-1)[..., 8:]
        if odd == "half":
            return (x / 3).half()
        if odd == "negated":
            return torch.complex(x, -x / 3).conj().imag
        return torch._efficientzerotensor(x.shape)

    result = sampler.sample(model, x)
    assert torch.equal(result, sampler.sample(lambda x, sigma: torch.clone(model(x, sigma).float()).contiguous(), x))


@pytest.mark.parametrize("keep", [False, True])
def test_gradients_are_those_of_the_run(keep: bool, way: str) -> None:
    """The way for gradients gives the numbers of the other within rounding, in float32 too."""
    sampler = build_sampler("uni_pc", "karras", 6)
    x = start_state(VP(), sampler.sigmas[0], dtype=torch.float32)
    recorded = sampler.sample(gaussian_denoiser(VP()), x.clone().requires_grad_())
    seen = []

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        seen.append(x if keep else None)
        return gaussian_denoiser(VP())(x, sigma)

    result = sampler.sample(model, x)
    torch.testing.assert_close(result, recorded.detach(), rtol=1e-5, atol=1e-5)
    assert torch.equal(result, sampler.sample(gaussian_denoiser(VP()), x)), (
        "whether the states are kept changes nothing"
    )


@pytest.mark.parametrize("count", [1, 255, 256, 300, 5000, 65536, 65537, 150_000])
def test_normals_are_those_of_numpy(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (2, count)
    made = SeededNoise((7, 2**64 + 3))(Draw(3.0, 1.0), torch.empty(shape))
    monkeypatch.setattr(available, "numba_kernels", lambda: None)
    assert torch.equal(made, SeededNoise((7, 2**64 + 3))(Draw(3.0, 1.0), torch.empty(shape)))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("shape", [(3, 5), (2, 4, 64, 64), (2, 70_001)])
def test_noise_on_the_way_is_the_noise(shape: tuple[int, ...], threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum is that of a noise that stands in memory, to the bit; half precision has it stand there."""
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(numba_kernels, "_PER_THREAD", 4)
    sampler = build_sampler("dpmpp_3m_sde", "karras", 5)
    x = start_state(VP(), sampler.sigmas[0], shape, dtype=torch.float32)
    source = SeededNoise(tuple(range(5, 5 + len(x))))
    draws = iter(sampler.plan.draws)
    stands = sampler.sample(half, x, noise=lambda sigma, sigma_next: source(next(draws), x))
    assert torch.equal(sampler.sample(half, x, seed=5), stands)


def test_noise_on_the_way_needs_no_buffer() -> None:
    sampler = build_sampler("euler_ancestral", "karras", 5)
    x = start_state(VP(), sampler.sigmas[0], dtype=torch.float32)
    run = Run(sampler.plan, x, seed=1)
    for _ in range(3):
        run.feed(x / 2)
    places = {place for turn in layout(sampler.plan).segments for _, place in turn.draws}
    assert places
    assert all(run.registers.buffers._own[place][0] is None for place in places)


@pytest.mark.parametrize("count", [1, 63, 64, 100, 5000, 70_000])
def test_a_brownian_path_is_that_of_numpy(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = build_sampler("euler", "karras", 7).sigmas[:-1].tolist()

    def noises() -> list[torch.Tensor]:
        source = BrownianNoise((7, 2**64 + 3), VP())
        return [source(Draw(s, t), torch.empty(2, count)) for s, t in pairwise(levels)]

    made = noises()
    monkeypatch.setattr(available, "numba_kernels", lambda: None)
    assert all(map(torch.equal, made, noises()))
