"""Networks of two times on data whose mean velocity is known, at every call of a run; and experts there."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from representatives import each

import ksched
from ksched import guidance
from ksched.samplers.registry import samplers

FLOW = ksched.Flow(shift=3.0)
MEAN, STD = 1.5, 0.4


def flowed(x: torch.Tensor, t: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
    """Where the probability-flow ODE of normal data takes a state of time t at time r."""
    std_t, std_r = (((1 - s) ** 2 * STD**2 + s**2).sqrt() for s in (t, r))
    return (1 - r) * MEAN + std_r / std_t * (x - (1 - t) * MEAN)


class MeanVelocity:
    """The exact network of two times, which records the times that it gets."""

    def __init__(self) -> None:
        self.told: list[tuple[float, float]] = []

    def __call__(self, x: torch.Tensor, timestep: torch.Tensor, r_timestep: torch.Tensor) -> torch.Tensor:
        self.told += list(zip(timestep.flatten().tolist(), r_timestep.flatten().tolist(), strict=True))
        t, r = (each.reshape(each.shape + (1,) * (x.ndim - each.ndim)) / 1000 for each in (timestep, r_timestep))
        same = t == r
        mean = (x - flowed(x, t, r)) / torch.where(same, 1.0, t - r)
        variance = (1 - t) ** 2 * STD**2 + t**2
        now = -MEAN + (t - (1 - t) * STD**2) / variance * (x - (1 - t) * MEAN)  # the velocity at one time
        return torch.where(same, now, mean)


def start(rows: int = 3, *more: int) -> torch.Tensor:
    return torch.linspace(-2, 2, rows * 2 * math.prod(more), dtype=torch.float64).reshape(rows, *more, 2)


def truth(x: torch.Tensor, end: float = 0.0) -> torch.Tensor:
    one = torch.ones(1, dtype=torch.float64)
    return flowed(x, one, end * one)


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


# ---------------------------------------------------------------------------------------------------- one jump, or many
@each("how", [(1, "simple"), (2, "beta"), (7, "karras"), (20, "simple")])
def test_any_number_of_steps_on_any_schedule_is_exact(how: tuple[int, Any]) -> None:
    steps, schedule = how
    network = MeanVelocity()
    sampler = ksched.build_sampler("euler", schedule, steps, process=FLOW)
    x = start()
    found = sampler.sample(ksched.FlowMap(network, FLOW), x)
    close(found, flowed(x, torch.tensor(float(sampler.sigmas[0])), torch.tensor(0.0)))
    np.testing.assert_allclose(network.told[:: len(x)], 1000 * np.stack([sampler.sigmas[:-1], sampler.sigmas[1:]], 1))


def test_a_denoiser_of_one_time_is_not_exact_with_the_same_steps() -> None:
    network = MeanVelocity()
    once = ksched.Denoiser(lambda x, t: network(x, t, t), FLOW, "flow")
    found = ksched.build_sampler("euler", "simple", 4, process=FLOW).sample(once, start())
    assert (found - truth(start())).abs().max() > 0.05


def test_a_run_that_ends_above_zero_is_told_so_and_levels_of_ones_own_are_jumped_between() -> None:
    sampler = ksched.build_sampler("ddim", sigmas=[1.0, 0.41, 0.3], process=FLOW)
    network = MeanVelocity()
    close(sampler.sample(ksched.FlowMap(network, FLOW), start()), truth(start(), 0.3))
    assert network.told[-1] == pytest.approx((410.0, 300.0))


def test_networks_are_called_by_place_or_by_name_and_in_the_words_of_either_direction_of_time() -> None:
    exact, x = MeanVelocity(), start()
    sampler = ksched.build_sampler("euler", steps=2, process=FLOW)
    by_place = ksched.FlowMap(lambda z, t, r: exact(z, t, r), FLOW)
    close(sampler.sample(by_place, x), truth(x))

    class Module(torch.nn.Module):
        def forward(self, hidden: Any, text: Any = None, timestep: Any = None, r_timestep: Any = None) -> Any:
            assert text == "a cat"
            return (exact(hidden, timestep, r_timestep),)

    close(sampler.sample(ksched.FlowMap(Module(), FLOW).given(text="a cat"), x), truth(x))
    up = ksched.Flow(3.0, reverse_time=True)  # time 0 is noise, and the answer points to the data
    upward = ksched.FlowMap(lambda z, t, r: -exact(z, 1000 * (1 - t), 1000 * (1 - r)), up, "velocity_to_data")
    close(ksched.build_sampler("euler", steps=3, process=up).sample(upward, x), truth(x))
    endpoint = ksched.FlowMap(lambda z, t, r: z - t.reshape(-1, 1) / 1000 * exact(z, t, r), FLOW, "sample")
    close(sampler.sample(endpoint, x), truth(x))


# ------------------------------------------------------------------------------------- which samplers make sense of it
def test_samplers_whose_steps_are_jumps_are_told_the_right_ones_and_all_others_are_refused_before_a_call() -> None:
    told = {}
    for spec in samplers():
        if not spec.runs_on(FLOW):
            continue
        network = MeanVelocity()
        sampler = ksched.build_sampler(str(spec.name), "simple", 4, process=FLOW)
        try:
            sampler.sample(ksched.FlowMap(network, FLOW), start(), seed=0)
        except ValueError as error:
            assert "jump from sigma to sigma" in str(error)  # noqa: PT017 - which of all samplers raise is what is looked at
            assert not network.told
        else:
            told[str(spec.name)] = [r for _, r in network.told[::3]]
    assert told["euler"] == told["ddim"] == pytest.approx([900, 750, 500, 0])
    assert told["lcm"] == [0, 0, 0, 0]
    assert told["ddpm"] == told["euler_ancestral"] == pytest.approx([0, 500, 250, 0], abs=1e-9)
    assert set(told) == {"euler", "ddim", "lcm", "euler_ancestral", "ddpm", "tcd", "flow_sde", "dance_sde", "flow_cps"}


@pytest.mark.parametrize("name", ["ddpm", "lcm", "euler_ancestral"])
def test_jumps_with_fresh_noise_keep_the_law_of_the_data(name: str) -> None:
    sampler = ksched.build_sampler(name, "simple", 4, process=FLOW)
    x = sampler.initial_state((40_000, 1), seed=1, dtype=torch.float64)
    found = sampler.sample(ksched.FlowMap(MeanVelocity(), FLOW), x, seed=2)
    assert abs(float(found.mean()) - MEAN) < 4 * STD / 200
    assert abs(float(found.std()) / STD - 1) < 4 / math.sqrt(2 * 40_000)


def test_a_sigma_from_no_run_must_come_with_where_it_goes() -> None:
    flow_map, x = ksched.FlowMap(MeanVelocity(), FLOW), start()
    sigma = torch.full((3,), 0.8, dtype=torch.float64)
    with pytest.raises(ValueError, match="pass sigma_next"):
        flow_map(x, sigma)
    with pytest.raises(ValueError, match="pass sigma_next"):
        ksched.build_sampler("euler", steps=2, process=FLOW).live(flow_map, x)
    denoised = flow_map(x, sigma, 0.2)
    close(denoised + 0.2 / 0.8 * (x - denoised), flowed(x, sigma[:, None], torch.tensor(0.2)))
    with pytest.raises(TypeError, match="callable"):
        ksched.FlowMap(3, FLOW)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="same states"):
        ksched.build_sampler("euler", steps=2, process=ksched.VP()).sample(flow_map, x)


def test_a_run_of_anyflow_is_the_loop_of_its_pipeline() -> None:
    diffusers = pytest.importorskip("diffusers")
    recipe = ksched.recipes["anyflow-wan2.1-t2v"]
    network = MeanVelocity()
    for steps in (1, 4, 7):
        scheduler = diffusers.FlowMapEulerDiscreteScheduler.from_config(dict(recipe.config))
        scheduler.set_timesteps(steps)
        x, levels = start(), scheduler.sigmas.double()
        for t, after in zip(scheduler.timesteps, levels[1:], strict=True):
            answer = network(x, t.double().expand(len(x)), 1000 * after.expand(len(x)))
            x = scheduler.step(answer, t, x, return_dict=False)[0]
        sampler = recipe.build(steps=steps)
        ours = sampler.sample(ksched.FlowMap(network, sampler.process), start())
        torch.testing.assert_close(ours, x.double(), rtol=1e-5, atol=1e-5)  # whose levels are float32


# ----------------------------------------------------------------------------------------------- wherever runs are made
def test_runs_batches_rounds_policies_and_guidance_hand_both_times_on() -> None:
    x, flow_map = start(), ksched.FlowMap(MeanVelocity(), FLOW)
    one, two = (ksched.build_sampler("euler", steps=n, process=FLOW) for n in (2, 5))
    run = two.start(x)
    while not run.done:
        run.feed(flow_map(run.x, run.sigma))
    close(run.x, truth(x))

    batch = ksched.batch.Batch()
    runs = [batch.add(sampler.start(x[k : k + 2])) for k, sampler in enumerate((one, two))]
    batch.tick(flow_map)
    runs.append(batch.add(one.start(x)))  # joins while the others are under way
    while batch:
        batch.tick(flow_map)
    for run, part in zip(runs, (x[:2], x[1:], x), strict=True):
        close(run.x, truth(part))

    close(two.parallel(flow_map, x, tolerance=0.0), truth(x))
    ancestral = ksched.build_sampler("ddpm", steps=3, process=FLOW)
    path = ancestral.rollout(flow_map, x, seed=3)
    torch.testing.assert_close(path.x, ancestral.sample(flow_map, x, seed=3), rtol=0, atol=0)
    assert torch.isfinite(ancestral.log_prob(flow_map, path)).all()

    guided = guidance.cfg(flow_map, lambda x, sigma: 0 * x, 1.0)
    split = guidance.experts({0.6: ksched.FlowMap(MeanVelocity(), FLOW), 0.0: flow_map})
    twice = guidance.batched(flow_map, {}, {})
    for model in (guided, split, twice):
        close(two.sample(model, x), truth(x))


def test_streams_and_frames_hand_both_times_on() -> None:
    flow_map, x, clip = ksched.FlowMap(MeanVelocity(), FLOW), start(), start(3, 4)
    one, two = (ksched.build_sampler("euler", steps=n, process=FLOW) for n in (2, 5))
    streams = ksched.Streams(video=two.start(x), audio=one.start(x), text=x)
    found = streams.sample(lambda x, sigma: {name: flow_map(x[name], sigma[name]) for name in x})
    close(found["video"], truth(x))
    close(found["audio"], truth(x))
    for offset in (0, 1, 5):
        network = MeanVelocity()
        frames = ksched.frames(two, clip, offset=offset)
        close(frames.sample(ksched.FlowMap(network, FLOW)), truth(clip))
        at = np.array(network.told).reshape(frames.ticks, 3, 4, 2)
        waiting = at[0, 0, 1] if offset else [1.0, 0.0]
        assert (waiting[0] == waiting[1]) == bool(offset)  # a frame that waits goes nowhere


# --------------------------------------------------------------------------------------- experts in the same places
class Expert:
    """Predicts one number, and notes the levels on the host that it was told."""

    def __init__(self, value: float) -> None:
        self.value, self.levels = value, list[float]()

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        levels = ksched.processes.host_levels.host_levels(sigma)
        assert levels is not None, "a level would have been read back from the device"
        assert levels == pytest.approx(sigma.flatten().tolist())
        self.levels += levels
        return torch.full_like(x, self.value)


@pytest.mark.parametrize("where", ["adaptive", "live", "parallel", "streams", "policy", "frames"])
def test_experts_get_their_levels_from_the_host_wherever_a_run_is_made(where: str) -> None:
    high, low = Expert(2.0), Expert(-1.0)
    model, x = guidance.experts({0.6: high, 0.0: low}), start()
    euler = ksched.build_sampler("euler", steps=4, process=FLOW)
    if where == "adaptive":
        ksched.build_sampler("dpm_adaptive", steps=4, process=FLOW).sample(model, x)
    elif where == "live":
        euler.live(model, x)
    elif where == "parallel":
        found = euler.parallel(model, x, tolerance=0.0)
        torch.testing.assert_close(found, euler.sample(model, x))
    elif where == "streams":
        streams = ksched.Streams(a=euler.start(x), b=ksched.build_sampler("euler", steps=2, process=FLOW).start(x))
        with pytest.raises(TypeError, match="For streams, give each part its own experts"):
            model(streams.x, streams.sigma)  # type: ignore[arg-type]
        streams.sample(lambda x, sigma: {name: model(x[name], sigma[name]) for name in x})
    elif where == "policy":
        ksched.build_sampler("ddpm", steps=4, process=FLOW).rollout(model, x, seed=0)
    else:
        frames = ksched.frames(euler, start(3, 5), offset=1)
        frames.feed(model(frames.x, frames.sigma))
        torch.testing.assert_close(frames.x[:, 0], 0.9 * start(3, 5)[:, 0] + 0.1 * 2.0)
        while not frames.done:
            frames.feed(model(frames.x, frames.sigma))
        torch.testing.assert_close(frames.x, torch.full((3, 5, 2), -1.0, dtype=torch.float64))
        assert min(high.levels) < 0.6 < max(low.levels)  # each saw the clip as a whole
        return
    assert high.levels
    assert all(level >= 0.6 for level in high.levels)
    assert all(level < 0.6 for level in low.levels)


def test_experts_say_that_they_cannot_be_compiled_into_a_step() -> None:
    model = guidance.experts({0.5: partial(torch.mul, other=0.5), 0.0: partial(torch.mul, other=0.1)})
    euler = ksched.build_sampler("euler", steps=4, process=FLOW)
    with pytest.raises(Exception, match="compile the networks"):
        euler.matrices.sample(model, start(), step=partial(_as_compiled, torch.compiler))


def _as_compiled(compiler: Any, model: Any, *state: Any, **how: Any) -> Any:
    """A step in which torch says that it compiles, without the wait for it."""
    from unittest import mock

    with mock.patch.object(compiler, "is_compiling", return_value=True):
        return ksched.execution.compiled.step(model, *state, **how)
