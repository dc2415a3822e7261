"""The GPU kernels: on a GPU if there is one, else by Triton's interpreter (``TRITON_INTERPRET=1``)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from cases import NAMES, gaussian_denoiser, half, paired, process_for, start_state

from ksched import VP, Denoiser, build_sampler
from ksched.execution.batch import Batch
from ksched.kernels import available
from ksched.noise import seeded
from ksched.noise.seeded import SeededNoise
from ksched.plan.rows import Draw

triton_kernels = pytest.importorskip("ksched.kernels.triton_kernels", reason="needs Triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("needs a CUDA device, or TRITON_INTERPRET=1", allow_module_level=True)
DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def random(shape: int | Sequence[int], seed: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def terms(count: int, shape: int | Sequence[int], mixed: bool = True) -> tuple[list[torch.Tensor], list[float]]:
    tensors = [random(shape, seed, DTYPES[seed % 3 if mixed else 0]) for seed in range(count)]
    return tensors, [(-1) ** k * 1.7 / (k + 1) for k in range(count)]


def check_sum(out: torch.Tensor, tensors: Sequence[torch.Tensor], coefficients: Sequence[float]) -> None:
    """Within a rounding for every coefficient and every addition."""
    parts = [coefficient * tensor.double() for coefficient, tensor in zip(coefficients, tensors, strict=True)]
    size = sum(part.abs() for part in parts)
    bound = (len(parts) + 1) * 2**-24 * size
    assert (out.double() - sum(parts)).abs().le(bound).all()


@pytest.mark.parametrize("size", [1, 16, 1000, 1024, 2500])
@pytest.mark.parametrize("count", range(1, 16))
def test_a_sum(count: int, size: int) -> None:
    tensors, coefficients = terms(count, size)
    out = torch.full((size,), torch.nan, device=DEVICE)
    triton_kernels.combine(tensors, coefficients, out)
    check_sum(out, tensors, coefficients)


@pytest.mark.parametrize("count", [1, 2, 12, 13, 25])
def test_a_sum_in_place(count: int) -> None:
    tensors, coefficients = terms(count, 3000)
    out = tensors[0].clone()
    triton_kernels.combine([out, *tensors[1:]], coefficients, out)
    check_sum(out, tensors, coefficients)


def test_a_sum_in_another_order_of_memory() -> None:
    tensors, coefficients = terms(3, (2, 4, 10, 9))
    tensors = [tensor.to(memory_format=torch.channels_last) for tensor in tensors]
    out = torch.empty_like(tensors[0])
    triton_kernels.combine(tensors, coefficients, out)
    check_sum(out, tensors, coefficients)


def test_an_empty_sum() -> None:
    empty = torch.empty(0, device=DEVICE)
    triton_kernels.combine([empty, empty], [1, 2], empty)
    triton_kernels.combine_many([([empty], [1.0], empty)])
    triton_kernels.combine_many([])
    triton_kernels.normals([(1, 2)], torch.zeros((65536, 4), device=DEVICE), torch.empty((1, 0), device=DEVICE))


def test_a_number_comes_out_the_same_wherever_it_stands() -> None:
    tensors, coefficients = terms(5, 4000)
    whole, part = torch.empty(4000, device=DEVICE), torch.empty(2001, device=DEVICE)
    triton_kernels.combine(tensors, coefficients, whole)
    triton_kernels.combine([tensor[1003:3004] for tensor in tensors], coefficients, part)
    assert torch.equal(whole[1003:3004], part)


@pytest.mark.parametrize("other", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("sizes", [(1024, 2048, 16), (1, 700, 1025)])
def test_many_sums_are_the_sums(sizes: Sequence[int], other: torch.dtype) -> None:
    entries, expected = [], []
    for i, (size, count) in enumerate(zip(sizes, (2, 13, 4), strict=True)):
        tensors, coefficients = terms(count, size, mixed=False)
        output = random((len(sizes), size), 99, other)
        tensors[1] = output[i]  # a row of what the model said for all
        entries.append((tensors, coefficients, torch.empty(size, device=DEVICE)))
        expected.append(torch.empty(size, device=DEVICE))
        triton_kernels.combine(tensors, coefficients, expected[-1])
    triton_kernels.combine_many(entries)
    for (tensors, coefficients, out), alone in zip(entries, expected, strict=True):
        check_sum(out, tensors, coefficients)
        assert torch.equal(out, alone), "a run depends on those that it runs with"


def test_many_sums_in_place_keep_the_sign_of_zero() -> None:
    states = [torch.full((20,), -0.0, device=DEVICE), random(20, 1)]
    kept = [state.clone() for state in states]
    triton_kernels.combine_many([([state], [1.0], state) for state in states])
    assert all(torch.equal(a, b) for a, b in zip(states, kept, strict=True))
    assert torch.signbit(states[0]).all()


def test_many_sums_take_one_dtype_of_a_model() -> None:
    entries = [([random(4, 1, dtype)], [1.0], torch.empty(4, device=DEVICE)) for dtype in DTYPES]
    with pytest.raises(ValueError, match=r"may have only one dtype; got .*bfloat16.*float16"):
        triton_kernels.combine_many(entries)


def normals_by_numpy(key: tuple[int, int], table: np.ndarray[Any, Any], count: int) -> np.ndarray[Any, Any]:
    """The rule of the noise, straight from its words."""
    padded = -(-count // 256) * 256
    words = np.random.Philox(key=np.array(key, np.uint64)).random_raw(padded // 16)
    numbers = table[words.astype("<u8").view("<u2")].reshape(-1)
    result = []
    for first in range(0, padded, 65536):
        a, b, c, d = numbers[first : first + 65536].reshape(4, -1)
        result += [(a + c) + (b - d), (b + d) + (a - c), (a + c) - (b - d), (b + d) - (a - c)]
    return np.concatenate(result)[:count]


@pytest.mark.parametrize(
    ("chunk", "width"), [(0, 300), (0, 65536), (1, 65536), (1, 70000), (2, 18928), (1, 84464), (2, 5)]
)
def test_normals_of_a_part_are_those_of_the_whole(chunk: int, width: int) -> None:
    keys, count = [(1, 2), (3, 4)], 150000
    table = np.random.default_rng(2).standard_normal((65536, 4), np.float32)
    out = torch.full((len(keys), width), torch.nan, device=DEVICE)
    triton_kernels.normals(keys, torch.tensor(table, device=DEVICE), out, count, chunk)
    for key, row in zip(keys, out.cpu().numpy(), strict=True):
        first = 65536 * chunk
        assert row.tobytes() == normals_by_numpy(key, table, count)[first : first + width].tobytes()


@pytest.mark.parametrize(
    ("items", "count"), [(1, 1), (3, 1500), (8, 4096), (11, 10000), (1, 65536), (2, 65537), (1, 150000), (9, 131072)]
)
def test_normals_are_those_of_the_rule(items: int, count: int) -> None:
    random_keys = np.random.default_rng(1).integers(0, 2**64, (items, 2), dtype=np.uint64).tolist()
    keys = [*map(tuple, random_keys), (0, 1), (2**64 - 1, 2**63)]
    table = np.random.default_rng(2).standard_normal((65536, 4), np.float32)
    out = torch.full((len(keys), count), torch.nan, device=DEVICE)
    triton_kernels.normals(keys, torch.tensor(table, device=DEVICE), out)
    for key, row in zip(keys, out.cpu().numpy(), strict=True):
        assert row.tobytes() == normals_by_numpy(key, table, count).tobytes()


@pytest.mark.parametrize("shape", [(3, 4, 32, 32), (2, 5, 7), (1, 3, 200, 200)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_noise_by_kernels(shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source takes the kernel, and has the bytes of the host."""
    source, like = SeededNoise(tuple(range(shape[0]))), torch.empty(shape, dtype=dtype)
    expected = source(Draw(3.0, 1.0), like)
    monkeypatch.setattr(available, "triton_kernels", lambda device: triton_kernels)
    monkeypatch.setattr(seeded, "is_host", lambda x: False)
    plain = torch.empty(shape, dtype=dtype, device=DEVICE)
    turned = torch.empty((*shape[:1], *shape[:0:-1]), dtype=dtype, device=DEVICE).permute(
        0, *range(len(shape) - 1, 0, -1)
    )
    for out in (plain, turned):
        assert torch.equal(source(Draw(3.0, 1.0), out, out=out.fill_(torch.nan)).cpu(), expected)


def test_keys_may_be_signed() -> None:
    table = random((65536, 4), 1)
    one, other = torch.empty((1, 100), device=DEVICE), torch.empty((1, 100), device=DEVICE)
    triton_kernels.normals([(2**64 - 3, 2**63)], table, one)
    triton_kernels.normals([(-3, -(2**63))], table, other)
    assert torch.equal(one, other)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter compiles nothing")
def test_other_numbers_compile_nothing_anew() -> None:
    def variants(kernel: Any) -> int:
        if hasattr(kernel, "device_caches"):
            return sum(len(caches[0]) for caches in kernel.device_caches.values())
        return sum(map(len, kernel.cache.values()))  # Triton before 3.2

    tensors, coefficients = terms(3, 4096, mixed=False)
    out, table, noise = torch.empty_like(tensors[0]), random((65536, 4), 1), torch.empty((2, 4096), device=DEVICE)

    def all_kernels(coefficients: Sequence[float], keys: Sequence[tuple[int, int]]) -> int:
        triton_kernels.combine(tensors, coefficients, out)
        triton_kernels.combine_many([(tensors, coefficients, out)])
        triton_kernels.normals(keys, table, noise)
        names = ("_combine_4", "_combine_many", "_normals")
        return sum(variants(getattr(triton_kernels, name)) for name in names)

    before = all_kernels(coefficients, [(2**60 + 1, 2**61), (2**62, 2**63)])
    for values in ([1, 0, 16], [1.0, 1.0, 1.0], [0.0, -0.0, 1e-30], [2, 1e30, 3]):
        assert all_kernels(values, [(2**50, 2**40 + 16), (2**41 + 1, 2**64 - 2**40)]) == before


@pytest.fixture
def on_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs take the kernels, wherever they are."""
    monkeypatch.setattr(available, "triton_kernels", lambda device: triton_kernels)


@pytest.mark.usefixtures("on_kernels")
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("name", NAMES)
def test_a_run_by_kernels(name: str, dtype: torch.dtype) -> None:
    sampler = build_sampler(name, "karras", 8, process=process_for(name))
    x = start_state(process_for(name), sampler.sigmas[0], dtype=torch.float64).to(DEVICE, dtype)
    model = paired(gaussian_denoiser(process_for(name)))
    result, truth = (sampler.sample(model, state, seed=2) for state in (x, x.double()))
    assert result.dtype == dtype
    assert (result.double() - truth).abs().max() <= 40 * torch.finfo(dtype).eps * max(1, float(truth.abs().max()))


@pytest.mark.usefixtures("on_kernels")
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_outputs_of_any_dtype_and_layout(dtype: torch.dtype) -> None:
    sampler = build_sampler("dpmpp_2m", "karras", 4)
    x = start_state(VP(), sampler.sigmas[0], (1, 4, 6, 5), dtype=torch.float32).to(DEVICE)

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return (x / 3).to(dtype, memory_format=torch.channels_last)

    def plain(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return model(x, sigma).float().contiguous()

    def learned(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return torch.cat([plain(x, sigma), x], dim=1)[:, :4]  # in order but for the step from item to item

    result = sampler.sample(model, x)
    assert result.stride() == x.stride()
    assert torch.equal(result, sampler.sample(plain, x))
    assert torch.equal(result, sampler.sample(learned, x))


@pytest.mark.usefixtures("on_kernels")
@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "res_multistep", "uni_pc"])
def test_a_network_by_kernels(name: str) -> None:
    """What a network returns is summed as it is, in half precision too."""
    sampler = build_sampler(name, "karras", 4)
    x = start_state(VP(), sampler.sigmas[0], dtype=torch.float64).to(DEVICE)
    for prediction in ("epsilon", "v_prediction", "sample"):
        denoiser = Denoiser(lambda x, timestep: torch.sin(x), VP(), prediction)
        truth = sampler.sample(denoiser, x)
        for dtype in (torch.float16, torch.float32):
            result = sampler.sample(denoiser, x.to(dtype)).double()
            assert (result - truth).abs().max() <= 100 * torch.finfo(dtype).eps * max(1, float(truth.abs().max()))


@pytest.mark.usefixtures("on_kernels")
def test_any_output_may_share_memory() -> None:
    sampler = build_sampler("dpmpp_sde", "karras", 4)
    for dtype in DTYPES:
        x = start_state(VP(), sampler.sigmas[0], dtype=torch.float32).to(DEVICE, dtype)
        kept, buffer = x.clone(), torch.empty_like(x)
        same = sampler.sample(lambda x, sigma: x.clone(), x, seed=1)
        assert torch.equal(sampler.sample(lambda x, sigma: x, x, seed=1), same)
        assert torch.equal(sampler.sample(lambda x, sigma: x.view(-1).view(x.shape), x, seed=1), same)
        static = sampler.sample(lambda x, sigma: buffer.copy_(x / 2), x, seed=1)  # noqa: B023
        assert torch.equal(static, sampler.sample(lambda x, sigma: half(x, sigma)[0], x, seed=1))
        assert torch.equal(x, kept), "the caller's state was written to"


@pytest.mark.usefixtures("on_kernels")
def test_gradients_still_flow() -> None:
    sampler = build_sampler("heun", "karras", 3, sigma_min=0.5, sigma_max=3.0)
    x = start_state(VP(), 3.0, dtype=torch.float32).to(DEVICE).requires_grad_()
    result = sampler.sample(lambda x, sigma: torch.tanh(x).half(), x)
    (gradient,) = torch.autograd.grad(result.sum(), x)
    assert gradient.abs().min() > 0


@pytest.mark.usefixtures("on_kernels")
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_runs_of_a_batch_by_kernels_are_what_they_are_alone(dtype: torch.dtype) -> None:
    batch, runs = Batch(), []
    for seed, name in enumerate(NAMES):
        sampler = build_sampler(name, "karras", 3 + seed % 3, process=process_for(name))
        x = start_state(process_for(name), sampler.sigmas[0], (1, 3, 5), seed, dtype=torch.float32).to(DEVICE, dtype)
        runs.append((sampler, x, batch.add(sampler.start(x, seed=seed))))
    while batch:
        batch.tick(half)
    for seed, (sampler, x, run) in enumerate(runs):
        assert torch.equal(run.x, sampler.sample(half, x, seed=seed)), sampler
