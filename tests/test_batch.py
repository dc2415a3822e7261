"""Continuous batching: every run of a batch gets its solo result, whichever other runs come and go."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from cases import NAMES, half, process_for, start_state

from ksched import EDM, VP, Denoiser, Flow, Run, build_sampler
from ksched.execution.batch import Batch

PROCESSES = [VP(), Flow(3.0), EDM()]


def pair(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = 1 / (1 + sigma.reshape(-1, 1) ** 2)
    return x * scale, x * scale / 2


@pytest.mark.parametrize("seed", range(4))
def test_runs_that_come_and_go_equal_their_solo_runs(seed: int) -> None:
    """Every sampler, on random schedules, processes, steps, batch sizes and arrival times."""
    rng = random.Random(seed)
    waiting = []
    for i, name in enumerate(rng.sample(NAMES, len(NAMES))):
        process = process_for(name, rng.choice(PROCESSES))
        sampler = build_sampler(
            name, rng.choice(["karras", "simple", "exponential"]), rng.randint(1, 7), process=process
        )
        x = start_state(process, sampler.sigmas[0], (rng.randint(1, 3), 4), seed=i, dtype=torch.float32)
        waiting.append((sampler, x, i))
    batch, started, done = Batch(), {}, []
    while waiting or batch:
        while waiting and (not batch or rng.random() < 0.4):
            sampler, x, i = waiting.pop()
            run = batch.add(sampler.start(x, seed=i))
            started[id(run)] = sampler, x, i, run
        assert len(batch.x) == len(batch.sigma) == sum(rows.stop - rows.start for rows in batch.rows)
        if rng.random() < 0.1:  # one leaves and joins again, as the last
            batch.add(batch.remove(rng.choice(batch.runs)))
        done += batch.tick(pair)
    assert len(done) == len(started) == len(NAMES)
    for sampler, x, i, run in started.values():
        assert torch.equal(run.x, sampler.sample(pair, x, seed=i)), sampler


def test_a_run_that_is_removed_goes_on_alone_or_from_its_state() -> None:
    sampler = build_sampler("dpmpp_2m_sde", "karras", 6)
    x = start_state(VP(), sampler.sigmas[0], dtype=torch.float32)
    batch = Batch()
    run = batch.add(sampler.start(x, seed=1))
    batch.add(sampler.start(x, seed=5))
    for _ in range(2):
        batch.tick(half)
    batch.remove(run)
    other = sampler.start(torch.zeros_like(x), seed=0)
    other.load_state_dict(run.state_dict())
    while not run.done:
        run.feed(run.x / 2)
    batch.add(other)
    while batch:
        batch.tick(half)
    whole = sampler.sample(half, x, seed=1)
    assert torch.equal(run.x, whole)
    assert torch.equal(other.x, whole)


def test_a_static_output_and_held_inputs_change_nothing() -> None:
    """The model reuses one output buffer, and the caller keeps the inputs that it got."""
    samplers = [build_sampler(name, "karras", 5) for name in ("lms", "dpmpp_2m", "euler_ancestral")]
    xs = [start_state(VP(), s.sigmas[0], seed=i, dtype=torch.float32) for i, s in enumerate(samplers)]
    batch, buffer, seen = Batch(), torch.empty(9, 5), []
    runs = [batch.add(s.start(x, seed=3)) for s, x in zip(samplers, xs, strict=True)]
    while batch:
        x = batch.x
        seen.append((x, x.clone()))
        batch.feed(torch.mul(x, 0.5, out=buffer))
    for sampler, x, run in zip(samplers, xs, runs, strict=True):
        assert torch.equal(run.x, sampler.sample(half, x, seed=3))
    assert all(torch.equal(a, b) for a, b in seen)


def test_a_mistake_loses_nothing() -> None:
    sampler = build_sampler("euler_ancestral", "karras", 4)
    x = start_state(VP(), sampler.sigmas[0], dtype=torch.float32)
    calls = 0

    def noise(start: float, end: float) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError("no noise today")
        return torch.full_like(x, 0.5)

    batch = Batch()
    first, second = batch.add(sampler.start(x, seed=1)), batch.add(sampler.start(x, noise=noise))
    batch.tick(half)
    with pytest.raises(OSError, match="no noise today"):
        batch.tick(half)
    with pytest.raises(ValueError, match="denoised must have the state's shape"):
        batch.feed(batch.x[1:])
    assert (first.nfe, second.nfe) == (1, 1)
    while batch:
        batch.tick(half)
    assert torch.equal(first.x, sampler.sample(half, x, seed=1))
    assert torch.equal(second.x, sampler.sample(half, x, noise=lambda start, end: torch.full_like(x, 0.5)))


def test_what_cannot_join_is_refused() -> None:
    sampler = build_sampler("euler", "karras", 2)
    x = torch.ones(1, 3)
    batch = Batch()
    with pytest.raises(RuntimeError, match="the batch is empty"):
        batch.tick(half)
    run: Any = batch.add(sampler.start(x))
    with pytest.raises(ValueError, match="can be in a batch only once"):
        batch.add(run)
    for other in (torch.ones(1, 4), x.double()):
        with pytest.raises(ValueError, match="one shape, dtype and device"):
            batch.add(sampler.start(other))
    with pytest.raises(TypeError, match=r"must come from Sampler\.start; got Sampler"):
        batch.add(sampler)  # type: ignore[type-var]
    while batch:
        batch.tick(half)
    assert isinstance(run, Run)
    with pytest.raises(ValueError, match="must not be done when it joins"):
        batch.add(run)
    with pytest.raises(ValueError, match="must be in the batch"):
        batch.remove(run)
    batch.add(build_sampler("euler_cfg_pp", "karras", 2).start(x))
    with pytest.raises(TypeError, match=r"needs \(denoised, uncond\)"):
        batch.tick(lambda x, sigma: x / 2)


@pytest.mark.parametrize("seed", range(2))
def test_runs_that_are_put_aside_or_moved_equal_their_solo_runs(seed: int) -> None:
    """Two batches: runs leave at any tick, wait, and join either one, directly or restored from a saved state."""
    rng = random.Random(seed)
    asked, runs = [], []
    for i, name in enumerate(rng.sample(NAMES, 12)):
        process = process_for(name)
        sampler = build_sampler(name, rng.choice(["karras", "simple"]), rng.randint(3, 8), process=process)
        asked.append((sampler, start_state(process, sampler.sigmas[0], (1, 4), seed=i, dtype=torch.float32)))
        runs.append(sampler.start(asked[i][1], seed=i))
    batches, aside = (Batch(), Batch()), list(range(len(runs)))
    while aside or any(batches):
        for batch in batches:
            if aside and rng.random() < 0.5:
                batch.add(runs[aside.pop(rng.randrange(len(aside)))])
            if batch and rng.random() < 0.2:
                run = batch.remove(rng.choice(batch.runs))
                number = next(i for i, other in enumerate(runs) if other is run)
                aside.append(number)
                if rng.random() < 0.5:
                    sampler, x = asked[number]
                    runs[number] = sampler.start(torch.zeros_like(x), seed=99)
                    runs[number].load_state_dict(run.state_dict())
            if batch:
                batch.tick(pair)
    for i, (sampler, x) in enumerate(asked):
        assert torch.equal(runs[i].x, sampler.sample(pair, x, seed=i)), sampler


def test_a_tick_of_a_denoiser_is_what_a_run_of_it_is() -> None:
    """The raw network is called once for all rows; its conversions are folded into each run's coefficients."""
    process, calls = Flow(3.0), []

    def network(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        calls.append(len(x))
        return torch.tanh(x) * (1 + timestep.reshape(-1, 1, 1, 1) / 1000)

    denoiser = Denoiser(network, process, "flow")
    batch, runs = Batch(), []
    for i, (name, steps) in enumerate([("euler", 3), ("dpmpp_2m", 5), ("dpmpp_2m_sde", 4), ("heun", 3)]):
        sampler = build_sampler(name, "simple", steps, process=process)
        x = start_state(process, sampler.sigmas[0], (1 + i % 2, 2, 4, 4), seed=i, dtype=torch.float32)
        runs.append((sampler, x, batch.add(sampler.start(x, seed=i))))
    batch.tick(denoiser)
    assert calls == [6]
    while batch:
        batch.tick(denoiser)
    for i, (sampler, x, run) in enumerate(runs):
        assert torch.equal(run.x, sampler.sample(denoiser, x, seed=i))


def test_a_tick_records_gradients_only_if_asked() -> None:
    weight = torch.ones(1, requires_grad=True)
    for asked in (False, True):
        sampler, batch = build_sampler("euler", "karras", 2), Batch()
        x = start_state(VP(), sampler.sigmas[0]).requires_grad_(asked)
        run = batch.add(sampler.start(x))
        while batch:
            batch.tick(lambda x, sigma: weight * x / 2)
        assert run.x.requires_grad is asked
