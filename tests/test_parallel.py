"""`Sampler.parallel`: the result of `sample` in fewer rounds, for every sampler that has a plan."""

from __future__ import annotations

import multiprocessing
import socket
from itertools import pairwise
from typing import Any

import pytest
import torch
from cases import ADAPTIVE, NAMES, PROCESSES, SPECS, gaussian_denoiser, process_for
from representatives import each
from spread_rows import both, model
from torch.utils._python_dispatch import TorchDispatchMode

import ksched
from ksched import RoundInfo

DIGITS = ksched.exact.digits()
UNCOND = {str(spec.name) for spec in SPECS if spec.uncond}


def rounds_of(sampler: ksched.Sampler, x: torch.Tensor, **how: Any) -> tuple[torch.Tensor, list[RoundInfo]]:
    told: list[RoundInfo] = []
    return sampler.parallel(how.pop("denoiser", model), x, callback=told.append, **how), told


@each("name", NAMES)
@pytest.mark.parametrize("anderson", [0, 2])
def test_without_tolerance_it_is_sample_bit_for_bit_in_at_most_as_many_rounds(name: str, anderson: int) -> None:
    sampler = ksched.build_sampler(name, "karras", 6, process=process_for(name))
    x = sampler.initial_state((2, 3, 2), seed=1)
    found, told = rounds_of(sampler, x, seed=5, tolerance=0, window=4, anderson=anderson)
    whole = sampler.sample(model, x, seed=5)
    if anderson:  # what is extrapolated may end a rounding away, where nothing moves any more
        torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)
    else:
        assert torch.equal(found, whole)
    assert len(told) <= sampler.nfe


@pytest.mark.parametrize("noise", ["brownian", None])
@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_every_process_and_kind_of_noise(process: ksched.Process, noise: Any) -> None:
    sampler = ksched.build_sampler("dpmpp_2m_sde", "sgm_uniform", 8, process=process)
    x = sampler.initial_state((3, 4), seed=1)
    denoiser = gaussian_denoiser(process)
    how: dict[str, Any] = {"seed": 3, "noise": noise}
    found, told = rounds_of(sampler, x, denoiser=denoiser, tolerance=0, **how)
    torch.testing.assert_close(found, sampler.sample(denoiser, x, **how), rtol=1e-5, atol=1e-5)
    assert len(told) <= 8


@each("name", ["ddim", "dpmpp_2m", "heun", "uni_pc", "ipndm", "dpmpp_2m_sde"])
@pytest.mark.parametrize("anderson", [0, 2])
def test_a_tolerance_is_kept_in_fewer_rounds(name: str, anderson: int) -> None:
    sampler = ksched.build_sampler(name, "karras", calls=36)
    x = sampler.initial_state((2, 1, 8, 8), seed=0, dtype=torch.float64)
    whole = sampler.sample(DIGITS, x, seed=2)
    for tolerance in (1e-2, 1e-4):
        found, told = rounds_of(sampler, x, denoiser=DIGITS, seed=2, tolerance=tolerance, anderson=anderson)
        assert (found - whole).square().mean().sqrt() < 4 * tolerance
        assert len(told) < 0.8 * sampler.nfe


def test_an_item_does_not_depend_on_the_others() -> None:
    sampler = ksched.build_sampler("dpmpp_2m_sde", "karras", 20)
    x = sampler.initial_state((4, 5), seed=1)
    x[1] *= 1.5
    for anderson in (0, 3):
        found, _ = rounds_of(sampler, x, seed=[1, 2, 3, 4], anderson=anderson, window=7)
        for i in range(4):
            alone, _ = rounds_of(sampler, x[i : i + 1], seed=[i + 1], anderson=anderson, window=7)
            assert torch.equal(found[i : i + 1], alone)


def test_the_rows_of_every_round() -> None:
    sampler = ksched.build_sampler("euler", "karras", 9)
    rows: list[int] = []

    def watched(x: torch.Tensor, sigma: torch.Tensor) -> Any:
        assert x.shape == (len(sigma), 3)
        assert sigma.dtype == torch.float32
        rows.append(len(x))
        return model(x, sigma)

    _, told = rounds_of(sampler, sampler.initial_state((2, 3), seed=0), denoiser=watched, window=4)
    assert rows == [info.rows for info in told]
    assert rows[0] == 2
    assert max(rows) == 8
    assert [info.round for info in told] == list(range(1, len(rows) + 1))
    assert told[-1].calls == sum(rows)
    assert told[-1].settled == (9, 9)
    for before, after in pairwise(told):
        assert all(b > a or a == 9 for a, b in zip(before.settled, after.settled, strict=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype: torch.dtype) -> None:
    sampler = ksched.build_sampler("dpmpp_2m", "karras", 8)
    x = sampler.initial_state((2, 5), seed=0, dtype=dtype)
    seen = set()

    def watched(x: torch.Tensor, sigma: torch.Tensor) -> Any:
        seen.add(x.dtype)
        return model(x, sigma)

    found = sampler.parallel(watched, x, tolerance=0)
    assert torch.equal(found, sampler.sample(model, x))
    assert seen == {dtype}


class NoDouble(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        assert not isinstance(result, torch.Tensor) or result.dtype != torch.float64, func
        return result


def test_no_tensor_of_float64_where_the_state_is_none() -> None:
    sampler = ksched.build_sampler("dpmpp_2m_sde", "karras", 8)
    x = sampler.initial_state((2, 5), seed=0)
    with NoDouble():  # type: ignore[no-untyped-call]
        sampler.parallel(model, x, seed=1, anderson=2)


def test_own_noise_is_asked_once_for_the_whole_batch() -> None:
    sampler = ksched.build_sampler("euler_ancestral", "karras", 8)
    x = sampler.initial_state((3, 5), seed=0)

    def noise() -> Any:
        generator, asked = torch.Generator().manual_seed(0), []

        def draw(sigma_from: float, sigma_to: float) -> torch.Tensor:
            asked.append((sigma_from, sigma_to))
            return torch.randn(3, 5, generator=generator)

        return draw, asked

    (one, in_rounds), (other, in_turn) = noise(), noise()
    assert torch.equal(sampler.parallel(model, x, noise=one, tolerance=0), sampler.sample(model, x, noise=other))
    assert in_rounds == in_turn


def test_no_gradients_and_no_items() -> None:
    sampler = ksched.build_sampler("dpmpp_2m", "karras", 5)
    x = sampler.initial_state((2, 5), seed=0).requires_grad_()
    assert not sampler.parallel(model, x).requires_grad
    assert sampler.parallel(model, x[:0]).shape == (0, 5)


def test_a_model_that_answers_with_one_buffer_or_not_a_number() -> None:
    sampler = ksched.build_sampler("dpmpp_2m", "karras", 6)
    x = sampler.initial_state((2, 5), seed=0)
    buffer = torch.empty(32, 5)

    def static(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return buffer[: len(x)].copy_(model(x, sigma)[0])

    assert torch.equal(sampler.parallel(static, x, tolerance=0), sampler.sample(model, x))
    found, told = rounds_of(sampler, x, denoiser=lambda x, sigma: x * torch.nan)
    assert found.isnan().all()
    assert len(told) == 6


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ({"window": 0}, ValueError, "window"),
        ({"window": 2.0}, ValueError, "window"),
        ({"anderson": -1}, ValueError, "anderson"),
        ({"tolerance": -0.1}, ValueError, "tolerance must be a finite number of at least 0; got -0.1"),
        ({"tolerance": float("nan")}, ValueError, "got nan"),
        ({"seed": None}, ValueError, "this sampler draws noise"),
        ({"x": torch.ones(2, dtype=torch.int64)}, TypeError, "x must be a floating-point tensor"),
        ({"denoiser": "network"}, TypeError, "denoiser must be callable"),
        ({"denoiser": ksched.exact.digits(ksched.Flow())}, ValueError, "denoiser"),
    ],
)
def test_mistakes_are_told_before_the_first_call(how: Any, error: type[Exception], words: str) -> None:
    sampler = ksched.build_sampler("dpmpp_2m_sde", "karras", 6)

    def never(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        raise AssertionError

    arguments: dict[str, Any] = {"denoiser": never, "x": sampler.initial_state((2, 5), seed=0), "seed": 0}
    with pytest.raises(error, match=words):
        sampler.parallel(**(arguments | how))


def test_wrong_predictions_and_adaptive_samplers_are_told() -> None:
    sampler = ksched.build_sampler("dpmpp_2m", "karras", 6)
    x = sampler.initial_state((2, 5), seed=0)
    with pytest.raises(ValueError, match=r"denoised must have the state's shape \(2, 5\); got \(1, 5\)"):
        sampler.parallel(lambda x, sigma: x[:1], x)
    needs = ksched.build_sampler(min(UNCOND), "karras", 6)
    with pytest.raises(TypeError, match=r"needs \(denoised, uncond\)"):
        needs.parallel(lambda x, sigma: x, x, seed=0)
    for spec in ADAPTIVE:
        with pytest.raises(TypeError, match="has no plan"):
            ksched.build_sampler(str(spec.name), "karras", 6, process=process_for(spec)).parallel(model, x)


@pytest.mark.exhaustive
def test_two_processes_share_the_rows_and_have_the_same_bits() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    pair = context.Process(target=both, args=(port, results))
    pair.start()
    found = dict(results.get(timeout=60) for _ in range(2))
    pair.join(60)
    assert found[0] == found[1]
    sampler = ksched.build_sampler("dpmpp_2m_sde", "karras", 10)
    alone = sampler.parallel(model, sampler.initial_state((3, 4), seed=0), seed=2, tolerance=1e-3, window=5)
    assert found[0] == alone.tolist()
