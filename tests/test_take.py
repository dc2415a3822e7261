"""`Run.take`: a run continues with some of its items, in any order, and with copies of them."""

from __future__ import annotations

import pickle
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from cases import EVERY_NAME, NAMES, gaussian_denoiser, process_for
from hypothesis import given
from hypothesis import strategies as st
from representatives import each

import ksched
from ksched.execution.batch import Batch
from ksched.execution.items import copy_seed, seeds_of
from ksched.execution.run import Run

MODEL = gaussian_denoiser(ksched.VP())


def model(x: torch.Tensor, sigma: torch.Tensor) -> Any:
    denoised = MODEL(x, sigma)
    return denoised, 0.9 * denoised


@cache
def built(name: str, steps: int) -> ksched.Sampler:
    return ksched.build_sampler(name, "karras", steps, process=process_for(name))


def start(name: str, batch: int = 4, steps: int = 6, **how: Any) -> Run:
    sampler = built(name, steps)
    x = sampler.initial_state((batch, 3, 5), seed=11)
    run = sampler.start(x, **({"seed": [30 + 7 * i for i in range(batch)]} | how))
    assert isinstance(run, Run)
    return run


def feed(run: Run, calls: int | None = None) -> Run:
    while not run.done and calls != 0:
        run.feed(*model(run.x, run.sigma))
        calls = None if calls is None else calls - 1
    return run


def end(name: str, **how: Any) -> torch.Tensor:
    return feed(start(name, **how)).x


@each("name", NAMES)
def test_the_items_as_they_are_are_the_run_as_it_was(name: str) -> None:
    run = feed(start(name), 3)
    assert run.take(range(4)) is run
    assert torch.equal(feed(run).x, end(name))


@each("name", NAMES)
@pytest.mark.parametrize("noise", [None, "brownian"])
def test_a_permutation_is_the_permuted_run_and_one_item_the_item_alone(name: str, noise: Any) -> None:
    whole = end(name, noise=noise)
    for indices in ([2, 0, 3, 1], [2], [3, 1]):
        for calls in (0, 2, 5):
            run = feed(start(name, noise=noise), calls).take(indices)
            assert torch.equal(feed(run).x, whole[indices])


@each("name", NAMES)
def test_first_copies_go_on_as_the_item_and_others_have_noise_of_their_own(name: str) -> None:
    run = feed(feed(start(name), 2).take([1, 1, 0, 1, 3, 0]))
    whole = end(name)
    assert torch.equal(run.x[[0, 2, 4]], whole[[1, 0, 3]])
    drawn_later = any(segment.draws for segment in run.registers.layout.segments[2:])
    for copy, of in ((1, 0), (3, 0), (3, 1), (5, 2)):
        assert torch.equal(run.x[copy], run.x[of]) is not drawn_later


@given(st.lists(st.integers(0, 7), max_size=24), st.lists(st.integers(-3, 3), min_size=8, max_size=8))
def test_seeds_keep_what_was_first_and_never_meet(numbers: list[int], given_seeds: list[int]) -> None:
    found = seeds_of(given_seeds, numbers)
    firsts = [numbers.index(number) == k for k, number in enumerate(numbers)]
    assert [seed for seed, first in zip(found, firsts, strict=True) if first] == [
        given_seeds[number] for number in dict.fromkeys(numbers)
    ]
    others = [seed for seed, first in zip(found, firsts, strict=True) if not first]
    assert len(set(others)) == len(others)
    assert not set(others) & set(given_seeds)


def test_copies_of_copies_never_share_noise() -> None:
    run = start("euler_ancestral", batch=2)
    for indices in ([0, 0], [0, 0, 1], [0, 1, 2, 1, 0], range(5), [0] * 4):
        run.take(indices)
        seeds = run.state_dict()["seeds"]
        assert len(set(seeds)) == len(seeds)
    other = feed(start("euler_ancestral", batch=2), 1).take([0, 0])
    feed(other, 2).take([0, 0, 1])  # again of the first, whose copy is still there
    assert len(set(other.state_dict()["seeds"])) == 3


def test_the_rule_of_copied_seeds_stays() -> None:
    """States that were saved after a take carry such seeds: another rule would be other pictures."""
    assert seeds_of([5, 6], [0, 0, 1, 0]) == (5, copy_seed(5, 1), 6, copy_seed(5, 2))
    assert copy_seed(5, 1) == PINNED[0]
    assert copy_seed(-1, 2) == PINNED[1]
    assert all(0 <= copy_seed(seed, 1) < 2**63 for seed in range(100))


PINNED = (5119146424593914675, 2393826059009988080)


@each("name", NAMES)
def test_a_saved_state_goes_on_bit_for_bit_after_a_take(name: str) -> None:
    run = feed(start(name), 2).take([3, 3, 0, 1, 1, 3])
    state, copy = pickle.loads(pickle.dumps(run.state_dict())), pickle.loads(pickle.dumps(run))
    feed(run)
    other = start(name, batch=6)
    other.load_state_dict(state)
    assert torch.equal(feed(other).x, run.x)
    assert torch.equal(feed(copy).x, run.x)
    again = start(name)
    again.load_state_dict(feed(start(name), 3).state_dict())
    assert torch.equal(feed(again).x, end(name))


@pytest.mark.parametrize(
    ("indices", "means"),
    [
        ([], []),
        ((), []),
        ([-1, 0], [3, 0]),
        ((1, 2), [1, 2]),
        (np.array([2, -4]), [2, 0]),
        (np.array([], dtype=np.float64), []),
        (torch.tensor([3, 1]), [3, 1]),
        (torch.tensor([1], dtype=torch.uint8), [1]),
        ([np.int64(2), torch.tensor(1)], [2, 1]),
        (torch.tensor([True, False, True, False]), [0, 2]),
        (np.array([False, False, False, True]), [3]),
        ([True, True, False, False], [0, 1]),
    ],
)
def test_what_indices_may_be(indices: Any, means: list[int]) -> None:
    run = feed(start("dpmpp_2m_sde"), 2).take(indices)
    assert run.x.shape == (len(means), 3, 5)
    assert run.sigma.shape == run.timestep.shape == (len(means),)
    assert torch.equal(feed(run).x, end("dpmpp_2m_sde")[means])


@pytest.mark.parametrize(
    ("indices", "error", "words"),
    [
        ([4], IndexError, "from -4 to 3, the run's items; got 4"),
        ([0, -5], IndexError, "got -5"),
        (3, TypeError, "got int"),
        (None, TypeError, "got NoneType"),
        ("01", TypeError, "got str"),
        ([0.0], TypeError, "got 0.0 among them"),
        ([0, True], TypeError, "got True among them"),
        (torch.tensor([0.0]), TypeError, r"got torch.float32 of shape \(1,\)"),
        (np.array([0.5]), TypeError, r"got float64 of shape \(1,\)"),
        (torch.tensor([[0]]), TypeError, r"shape \(1, 1\)"),
        (torch.tensor(0), TypeError, r"shape \(\)"),
        (torch.tensor([True, False]), ValueError, "a mask of 2"),
    ],
)
def test_wrong_indices_are_refused_and_change_nothing(indices: Any, error: type[Exception], words: str) -> None:
    run = feed(start("dpmpp_2m_sde"), 2)
    with pytest.raises(error, match=words):
        run.take(indices)
    assert torch.equal(feed(run).x, end("dpmpp_2m_sde"))


def test_what_was_handed_out_before_does_not_change() -> None:
    run = feed(start("dpmpp_3m_sde"), 3)
    before, copy = run.x, run.x.clone()
    feed(run.take([1, 1, 1, 1]))
    assert torch.equal(before, copy)
    result, copy = run.x, run.x.clone()
    run.take([2])
    assert torch.equal(result, copy)


def test_a_state_that_was_written_to_is_refused() -> None:
    run = feed(start("dpmpp_2m"), 2)
    run.x.add_(1)
    with pytest.raises(RuntimeError, match="must not modify x"):
        run.take([0])


def test_a_run_that_is_done_can_be_taken_from() -> None:
    whole = feed(start("dpmpp_2m_sde"))
    assert torch.equal(whole.take([2, 2]).x, end("dpmpp_2m_sde")[[2, 2]])
    assert whole.done


def test_a_replaced_state_is_taken_and_stays_replaced() -> None:
    network = ksched.Denoiser(lambda x, t: 0.3 * x, ksched.VP(), prediction="epsilon")
    run, other = feed(start("dpmpp_2m"), 2), feed(start("dpmpp_2m"), 2)
    edited = run.x + 1
    run.replace(edited)
    other.replace(edited)
    run.take([3, 0])
    while not run.done:
        for each_run in (run, other):
            norm, of_x, of_output = network.conversions(run.plan.call_sigmas)[run.nfe if each_run is run else other.nfe]
            output = network.output(each_run.network_input(norm), each_run.timestep)
            each_run.feed_output(output, of_x, of_output)
    assert torch.equal(run.x, other.x[[3, 0]])


def test_own_noise_sees_the_new_shape() -> None:
    shapes = []

    def noise(sigma_from: float, sigma_to: float) -> torch.Tensor:
        shapes.append(tuple(run.shape))
        return torch.ones(run.shape)

    run = start("euler_ancestral", seed=None, noise=noise)
    feed(feed(run, 2).take([1, 1, 2]))
    assert set(shapes) == {(4, 3, 5), (3, 3, 5)}
    assert run.x.shape == (3, 3, 5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtypes_and_layouts_are_kept(dtype: torch.dtype) -> None:
    sampler = ksched.build_sampler("dpmpp_2m_sde", "karras", 6)
    x = sampler.initial_state((4, 3, 2, 5), seed=0, dtype=dtype).to(memory_format=torch.channels_last)
    whole, run = sampler.start(x, seed=1), sampler.start(x, seed=1)
    assert isinstance(whole, Run)
    assert isinstance(run, Run)
    feed(run, 3).take([0, 3, 1, 2, 3])
    assert run.x.dtype == dtype
    if dtype == torch.float64:
        assert run.x.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(feed(run).x[:4], feed(whole).x[[0, 3, 1, 2]])


def test_gradients_flow_through_the_choice() -> None:
    sampler = ksched.build_sampler("dpmpp_2m_sde", "karras", 5)
    x = sampler.initial_state((3, 2), seed=0, dtype=torch.float64).requires_grad_()
    run = sampler.start(x, seed=4)
    assert isinstance(run, Run)
    feed(feed(run, 2).take([2, 0, 2])).x.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    weights = x.grad.abs().sum(1)
    assert weights[1] == 0
    torch.testing.assert_close(weights[2], 2 * weights[0])  # a linear model: every item has the same slope


def test_a_run_in_a_batch_may_change_its_items_between_ticks() -> None:
    first, second = start("dpmpp_2m_sde", steps=6), start("euler", steps=5)
    batch = Batch()
    batch.add(first)
    batch.add(second)
    batch.tick(MODEL)
    first.take([3, 1])
    second.take([])
    assert batch.rows == (slice(0, 2), slice(2, 2))
    batch.tick(MODEL)
    second.take([])
    first.take([1, 0, 0])
    assert batch.x.shape == (3, 3, 5)
    while batch:
        batch.tick(MODEL)
    assert torch.equal(first.x[:2], end("dpmpp_2m_sde")[[1, 3]])
    assert second.x.shape == (0, 3, 5)


def test_rows_that_change_under_a_call_are_an_error_and_lose_nothing() -> None:
    run, batch = start("dpmpp_2m_sde"), Batch()
    batch.add(run)
    denoised = MODEL(batch.x, batch.sigma)
    run.take([0])
    with pytest.raises(ValueError, match="must have the state's shape"):
        batch.feed(denoised)
    batch.feed(denoised[:1])
    assert torch.equal(feed(run).x, end("dpmpp_2m_sde")[:1])


@pytest.mark.parametrize("name", sorted(set(EVERY_NAME) - set(NAMES)))
def test_adaptive_runs_refuse_in_words(name: str) -> None:
    run = ksched.build_sampler(name, "karras", 5).start(torch.full((2, 3), 14.6), seed=1)
    with pytest.raises(TypeError, match="its items cannot be split or copied"):
        run.take([0])


def test_a_start_of_the_wrong_spread_is_told_before_it_is_taken_apart() -> None:
    sampler = ksched.build_sampler("euler", "karras", 5)
    run = sampler.start(torch.randn(4, 100, generator=torch.Generator().manual_seed(0)))
    with pytest.warns(RuntimeWarning, match="the start of a run"):
        run.take([])
    feed(run)  # type: ignore[arg-type]
