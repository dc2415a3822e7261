"""The step function for trainers of reinforcement learning: against its rules, and in a trainer's loop."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import ksched
from ksched.integrations.rl import sde_step_with_logprob
from ksched.types import Array

SHAPES = [(3, 5), (3, 2, 4), (2, 3, 4, 4), (2, 3, 2, 4, 4)]


def stock(steps: int = 6, shift: float = 3.0) -> Any:
    """A stock scheduler, or what of one is read."""
    try:
        from diffusers import FlowMatchEulerDiscreteScheduler
    except ImportError:
        sigmas = torch.tensor([*ksched.schedules.shift(np.linspace(1, 1 / 1000, steps), shift), 0.0])
        return SimpleNamespace(timesteps=sigmas[:-1] * 1000, sigmas=sigmas)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    return scheduler


def ours(sampler: str, steps: int = 6, **options: Any) -> Any:
    integration = pytest.importorskip("ksched.integrations.diffusers")
    scheduler = integration.KSchedScheduler(
        use_flow_sigmas=True, prediction_type="flow_prediction", sampler=sampler, schedule="simple", flow_shift=3.0,
        sampler_options=options,
    )  # fmt: skip
    scheduler.set_timesteps(steps)
    return scheduler


def draws(shape: tuple[int, ...], seed: int = 1) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    output, sample, after = (torch.randn(shape, generator=generator) for _ in range(3))
    return output, sample, after


def theirs(
    sigmas: Array, index: int, velocity: Array, x: Array, after: Array, level: float, rule: str
) -> tuple[Array, float, float]:
    """Mean, std and mean log-density of one item by the formulas of the papers, in float64."""
    s, t = float(sigmas[index]), float(sigmas[index + 1])
    data, noise = x - s * velocity, x + (1 - s) * velocity
    if rule == "flow_cps":
        std = t * math.sin(level * math.pi / 2)
        mean, full = (1 - t) * data + math.sqrt(max(t * t - std * std, 0.0)) * noise, std
    else:
        ratio = s / (1 - (float(sigmas[1]) if s == 1 else s))
        std = level * (math.sqrt(ratio) if rule == "flow_sde" else 1.0)
        score = -noise / s  # of the state's law, for data at the prediction
        mean = x + (velocity - 0.5 * std * std * score) * (t - s)
        full = std * math.sqrt(s - t)
    with np.errstate(divide="ignore", invalid="ignore"):
        log_prob = -((after - mean) ** 2) / (2 * full**2) - np.log(full) - 0.5 * np.log(2 * np.pi)
    return mean, std, float(log_prob.mean())


RULES = [("flow_sde", 0.7), ("flow_sde", 0.3), ("dance_sde", 0.3), ("flow_cps", 0.7)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("rule", "level"), RULES)
def test_every_step_is_theirs(rule: str, level: float, shape: tuple[int, ...]) -> None:
    scheduler = stock()
    sigmas = scheduler.sigmas.double().numpy()
    assert sigmas[0] == 1
    assert sigmas[-1] == 0
    for index, time in enumerate(scheduler.timesteps):
        if rule == "flow_cps" and index == 5:  # it draws no noise there
            continue
        output, sample, after = draws(shape, index)
        found = sde_step_with_logprob(
            scheduler, output, time.repeat(shape[0]), sample, level, prev_sample=after, rule=rule
        )
        assert torch.equal(found[0], after)
        assert found[3].shape == (shape[0], *[1] * (len(shape) - 1))
        for item in range(shape[0]):
            velocity, x, end = (tensor[item].double().numpy() for tensor in (output, sample, after))
            mean, std, log_prob = theirs(sigmas, index, velocity, x, end, level, rule)
            np.testing.assert_allclose(found[2][item].numpy(), mean, rtol=2e-5, atol=2e-5)
            np.testing.assert_allclose(float(found[3][item].flatten()[0]), std, rtol=1e-5)
            np.testing.assert_allclose(float(found[1][item]), log_prob, rtol=2e-4, atol=2e-5)


def test_the_defaults_are_theirs() -> None:
    scheduler, (output, sample, after) = stock(), draws((2, 4))
    time = scheduler.timesteps[2:3].repeat(2)

    def results(**how: Any) -> tuple[torch.Tensor, ...]:
        return sde_step_with_logprob(scheduler, output, time, sample, prev_sample=after, **how)

    for how, same in (
        ({}, {"noise_level": 0.7, "sde_type": "sde"}),
        ({"rule": "dance_sde"}, {"rule": "dance_sde", "noise_level": 0.3}),
        ({"rule": "flow_cps"}, {"rule": "flow_cps", "noise_level": 0.7}),
    ):
        assert all(map(torch.equal, results(**how), results(**same)))


def test_cps_in_their_word_scores_without_constants() -> None:
    scheduler, (output, sample, after) = stock(), draws((2, 4))
    for index in range(6):  # the step to sigma 0 too, where no noise is drawn
        time = scheduler.timesteps[index : index + 1].repeat(2)
        found = sde_step_with_logprob(scheduler, output, time, sample, prev_sample=after, sde_type="cps")
        assert torch.allclose(found[1], -((after - found[2]) ** 2).mean(1))
        std = float(scheduler.sigmas[index + 1]) * math.sin(0.7 * math.pi / 2)
        assert torch.allclose(found[3], torch.full((2, 1), std))


def test_items_may_be_at_different_steps() -> None:
    scheduler, (output, sample, after) = stock(), draws((6, 3, 2))
    order = [4, 0, 5, 2, 2, 1]
    together = sde_step_with_logprob(scheduler, output, scheduler.timesteps[order], sample, prev_sample=after)
    for item, index in enumerate(order):
        one = slice(item, item + 1)
        alone = sde_step_with_logprob(
            scheduler, output[one], scheduler.timesteps[index], sample[one], prev_sample=after[one]
        )
        assert all(torch.equal(a[one], b) for a, b in zip(together, alone, strict=True))


def test_all_is_computed_in_float32() -> None:
    scheduler, tensors = stock(), draws((2, 4))
    output, sample, after = (tensor.to(torch.bfloat16) for tensor in tensors)
    time = scheduler.timesteps[1:2]
    half = sde_step_with_logprob(scheduler, output, time, sample, prev_sample=after)
    full = sde_step_with_logprob(scheduler, output.float(), time, sample.float(), prev_sample=after.float())
    assert all(a.dtype == torch.float32 and torch.equal(a, b) for a, b in zip(half, full, strict=True))


def test_a_step_is_drawn_by_its_generator_and_rescored_exactly() -> None:
    scheduler, (output, sample, _) = stock(), draws((3, 2, 4))
    time = scheduler.timesteps[[1, 3, 5]]

    def drawn(generator: Any) -> tuple[torch.Tensor, ...]:
        return sde_step_with_logprob(scheduler, output, time, sample, 0.7, generator=generator)

    first, again = (drawn(torch.Generator().manual_seed(5)) for _ in range(2))
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first[0], drawn(torch.Generator().manual_seed(6))[0])
    each = drawn([torch.Generator().manual_seed(seed) for seed in (5, 6, 7)])
    other = drawn([torch.Generator().manual_seed(seed) for seed in (5, 0, 7)])
    assert torch.equal(each[0][[0, 2]], other[0][[0, 2]])
    assert not torch.equal(each[0][1], other[0][1])
    scored = sde_step_with_logprob(scheduler, output, time, sample, 0.7, prev_sample=first[0])
    assert torch.equal(torch.exp(scored[1] - first[1]), torch.ones(3))


def test_without_noise_it_is_the_step_of_the_ode() -> None:
    scheduler, (output, sample, _) = stock(), draws((2, 4))
    sigmas = scheduler.sigmas
    for rule in ("flow_sde", "dance_sde", "flow_cps"):
        for index, time in enumerate(scheduler.timesteps):
            after, log_prob, mean, std = sde_step_with_logprob(scheduler, output, time, sample, 0, rule=rule)
            want = sample + (sigmas[index + 1] - sigmas[index]) * output
            assert torch.allclose(after, want, atol=1e-6)
            assert torch.equal(after, mean)
            assert torch.equal(std, torch.zeros(2, 1))
            assert log_prob.isnan().all()


def test_the_gradient_is_that_of_the_log_density() -> None:
    scheduler, (output, sample, after) = stock(), draws((2, 4))
    output.requires_grad_()
    _, log_prob, mean, std_dev = sde_step_with_logprob(
        scheduler, output, scheduler.timesteps[2], sample, prev_sample=after
    )
    (grad,) = torch.autograd.grad(log_prob.sum(), output)
    s, t = float(scheduler.sigmas[2]), float(scheduler.sigmas[3])
    rate = (t - s) * (1 + float(std_dev[0]) ** 2 * (1 - s) / (2 * s))  # of the mean by the velocity
    want = (after - mean) * rate / (std_dev**2 * (s - t)) / 4
    assert torch.allclose(grad, want.detach(), rtol=1e-4)


# ---------------------------------------------------------------------------------------------------- our scheduler
class TestOurScheduler:
    """The step has the same distribution as the sampler's transition."""

    @pytest.mark.parametrize("sampler", ["flow_sde", "dance_sde", "flow_cps"])
    def test_a_rule_as_a_sampler_is_the_rule(self, sampler: str) -> None:
        scheduler, (output, sample, after) = ours(sampler), draws((2, 4))
        plain = SimpleNamespace(timesteps=scheduler.timesteps, sigmas=scheduler.sigmas)
        for time in scheduler.timesteps[:-1]:
            found, want = (
                sde_step_with_logprob(of, output, time, sample, prev_sample=after, rule=rule)
                for of, rule in ((scheduler, None), (plain, sampler))
            )
            scale = 1.0
            if sampler == "flow_cps":  # whose program does not count it per root of the step
                index = scheduler.timesteps.tolist().index(float(time))
                scale = math.sqrt(float(scheduler.sigmas[index] - scheduler.sigmas[index + 1]))
            assert torch.allclose(found[2], want[2], atol=1e-5)
            assert torch.allclose(found[1], want[1], rtol=1e-4)
            assert torch.allclose(found[3] * scale, want[3], rtol=1e-5)

    @pytest.mark.parametrize(
        ("sampler", "options"),
        [
            ("euler_ancestral", {}),
            ("dpmpp_2m_sde", {}),
            ("dpmpp_2m_sde", {"eta": [0.7, 0.7, 0, 0.7, 0.7, 0]}),
            ("dpmpp_3m_sde", {}),
            ("er_sde", {}),
            ("lcm", {}),
        ],
    )
    def test_a_recorded_run_has_the_log_probabilities_of_the_rollout(
        self, sampler: str, options: dict[str, Any]
    ) -> None:
        scheduler = ours(sampler, **options)
        process = ksched.Flow()
        built = ksched.build_sampler(sampler, process=process, sigmas=scheduler.sigmas.tolist(), **options)
        model = ksched.exact.GaussianMixture([0.5, 0.5], [[1.0] * 4, [-1.0] * 4], 0.1, process=process)
        start = built.initial_state((3, 4), seed=1)
        path = built.rollout(model, start, seed=2)
        calls: list[tuple[torch.Tensor, torch.Tensor]] = []
        found = {}
        for k, time in enumerate(scheduler.timesteps):
            x = path.states[k]
            sigma = float(scheduler.sigmas[k])
            output = (x - model(x, torch.full((3,), sigma))) / sigma
            if k in path.steps:
                how: dict[str, Any] = {"prev_sample": path.states[k + 1]}
                _, log_prob, mean, std = sde_step_with_logprob(scheduler, output, time, x, history=calls, **how)
                found[k] = log_prob * 4
                data = [sample - s * v for (v, sample), s in zip(calls, scheduler.sigmas[:k].flip(0), strict=True)]
                again = sde_step_with_logprob(scheduler, output, time, x, history=data, **how)
                assert torch.allclose(again[2], mean, atol=1e-5)
                law = next(step for step in built.transitions if step.step == k)
                length = float(scheduler.sigmas[k] - scheduler.sigmas[k + 1])
                assert torch.allclose(std * math.sqrt(length), torch.full((3, 1), law.std), rtol=1e-5)
            calls.insert(0, (output, x))
        assert tuple(found) == path.steps
        want = path.log_prob
        assert torch.allclose(torch.stack([*found.values()]), want, rtol=1e-3, atol=1e-3)

    def test_items_at_different_steps_have_their_own_history(self) -> None:
        scheduler = ours("dpmpp_2m_sde")
        output, sample, after = draws((3, 4))
        before = draws((3, 4), 2)[0], draws((3, 4), 3)[0]
        order = [0, 2, 3]
        together = sde_step_with_logprob(
            scheduler, output, scheduler.timesteps[order], sample, prev_sample=after, history=[before]
        )
        for item, index in enumerate(order):
            one = slice(item, item + 1)
            alone = sde_step_with_logprob(
                scheduler, output[one], scheduler.timesteps[index], sample[one], prev_sample=after[one],
                history=[(before[0][one], before[1][one])] if index else None,
            )  # fmt: skip
            assert all(torch.allclose(a[one], b) for a, b in zip(together, alone, strict=True))

    def test_a_window_of_noise_has_probabilities_at_its_steps(self) -> None:
        scheduler, (output, sample, _) = ours("euler_ancestral", eta=ksched.window(0.7, steps=[1, 2])), draws((2, 4))
        for index, time in enumerate(scheduler.timesteps):
            if index in (1, 2):
                generator = torch.Generator().manual_seed(1)
                found = sde_step_with_logprob(scheduler, output, time, sample, generator=generator)
                assert found[1].isfinite().all()
            else:
                with pytest.raises(ValueError, match=f"step {index} of the scheduler draws no noise"):
                    sde_step_with_logprob(scheduler, output, time, sample)

    @pytest.mark.parametrize(
        ("sampler", "options", "how", "index", "said"),
        [
            ("dpmpp_2m_sde", {}, {}, 2, "the step reads 1 earlier prediction(s): pass them as history="),
            ("dpmpp_3m_sde", {}, {"history": [torch.zeros(2, 4)]}, 3, "the step reads 2 earlier prediction(s)"),
            ("dpmpp_2m_sde", {}, {}, 2, "sampler.rollout"),
            ("dpmpp_2m_sde", {}, {"history": [torch.zeros(2, 5)]}, 2, "history must have sample's shape (2, 4)"),
            ("dpmpp_2m_sde", {}, {"history": ["x"]}, 2, "each of history must be (model_output, sample)"),
            ("seeds_2", {}, {}, 3, "reads earlier states, which this function does not have; use sampler.rollout"),
            ("euler", {}, {}, 1, "step 1 of the scheduler draws no noise"),
            ("euler_ancestral", {}, {"noise_level": 0.7}, 1, "noise_level=0.7 is for stock schedulers"),
            ("euler_ancestral", {}, {"rule": "flow_sde"}, 1, "rule='flow_sde' is for stock schedulers"),
            ("lcm", {"noise_clip_std": 2.0}, {}, 1, "is clipped at 2 standard deviations"),
        ],
    )
    def test_what_it_cannot_tell_is_refused(
        self, sampler: str, options: dict[str, Any], how: dict[str, Any], index: int, said: str
    ) -> None:
        scheduler, (output, sample, _) = ours(sampler, **options), draws((2, 4))
        with pytest.raises((ValueError, TypeError), match=re.escape(said)):
            sde_step_with_logprob(scheduler, output, scheduler.timesteps[index], sample, **how)

    def test_it_needs_the_steps_first(self) -> None:
        integration = pytest.importorskip("ksched.integrations.diffusers")
        scheduler = integration.KSchedScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", sampler="lcm")
        with pytest.raises(ValueError, match="set_timesteps must be called first"):
            sde_step_with_logprob(scheduler, torch.ones(1, 2), 1000.0, torch.ones(1, 2))

    def test_edited_predictions_are_refused(self) -> None:
        integration = pytest.importorskip("ksched.integrations.diffusers")
        scheduler = integration.KSchedScheduler(beta_schedule="scaled_linear", sampler="ddpm", clip_sample=True)
        scheduler.set_timesteps(4)
        with pytest.raises(ValueError, match="if predictions are edited; leave out clip_sample"):
            sde_step_with_logprob(scheduler, torch.ones(1, 2), scheduler.timesteps[0], torch.ones(1, 2))


# ------------------------------------------------------------------------------------------------------------ refused
def test_bad_arguments_are_one_clear_error() -> None:
    scheduler, (output, sample, after) = stock(), draws((3, 4))
    time = scheduler.timesteps[1].repeat(3)

    def call(**changed: Any) -> Callable[[], object]:
        given: dict[str, Any] = {"scheduler": scheduler, "model_output": output, "timestep": time, "sample": sample}
        return lambda: sde_step_with_logprob(**given | changed)

    vp = SimpleNamespace(timesteps=torch.tensor([999.0, 1.0]), sigmas=torch.tensor([14.6, 0.03, 0.0]))
    for run, kind, said in (
        (call(model_output=output[:2]), ValueError, "model_output must have sample's shape (3, 4); got (2, 4)"),
        (call(prev_sample=after[:, :2]), ValueError, "prev_sample must have sample's shape (3, 4); got (3, 2)"),
        (call(sample=sample.numpy()), TypeError, "sample must be a floating-point tensor; got ndarray"),
        (call(model_output=output.long()), TypeError, "model_output must be a floating-point tensor; got torch.int64"),
        (
            call(sample=sample[:, 0], model_output=output[:, 0]),
            ValueError,
            "sample must have a batch axis and at least",
        ),
        (call(timestep=time[:2]), ValueError, "timestep must be one number, or one for each of the 3 items; got 2"),
        (
            call(timestep=12.5),
            ValueError,
            "timestep must be one of scheduler.timesteps, exactly as it is there; got 12.5",
        ),
        (call(scheduler=object()), TypeError, "scheduler must have timesteps and sigmas"),
        (call(scheduler=vp, timestep=999.0), ValueError, "scheduler must be for flow models"),
        (call(noise_level=-1), ValueError, "noise_level must be a number of at least 0; got -1"),
        (call(noise_level="a"), ValueError, "noise_level must be a number of at least 0; got 'a'"),
        (call(noise_level=1.5, rule="flow_cps"), ValueError, "at least 0 and at most 1; got 1.5"),
        (call(rule="ddim"), ValueError, "rule must be one of 'flow_sde', 'dance_sde', 'flow_cps'; got 'ddim'"),
        (call(sde_type="ode"), ValueError, "sde_type must be one of 'sde', 'cps'; got 'ode'"),
        (call(rule="flow_sde", sde_type="sde"), ValueError, "pass either rule or sde_type, not both"),
        (call(history=[output]), ValueError, "history is for samplers with a memory"),
        (call(generator=7), TypeError, "generator must be a torch.Generator, or one for each of the 3 items"),
    ):
        with pytest.raises(kind, match=re.escape(said)):
            run()


# ---------------------------------------------------------------------------------------------------- a trainer's loop
def test_a_trainers_loop_runs() -> None:
    """Sample a group with log-probabilities; score minibatches of mixed timesteps; a clipped loss; a better reward."""
    scheduler = stock(steps=6, shift=1.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Linear(3, 32), torch.nn.Tanh(), torch.nn.Linear(32, 2))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(1)

    def velocity(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = network(torch.cat([x, time.reshape(-1, 1) / 1000], 1))
        return out

    def sampled(count: int) -> tuple[torch.Tensor, ...]:
        x, states, times, log_probs = torch.randn(count, 2, generator=generator), [], [], []
        states.append(x)
        for t in scheduler.timesteps:
            time = t.repeat(count)
            with torch.no_grad():
                x, log_prob, _, _ = sde_step_with_logprob(
                    scheduler, velocity(x, time), time, x, noise_level=0.7, generator=generator
                )
            states.append(x)
            times.append(time)
            log_probs.append(log_prob)
        return torch.stack(states, 1), torch.stack(times, 1), torch.stack(log_probs, 1)

    rewards = []
    for _ in range(25):
        states, times, old = sampled(64)
        reward = -(states[:, -1] - 1).square().sum(1)
        rewards.append(float(reward.mean()))
        advantage = ((reward - reward.mean()) / reward.std())[:, None].expand(-1, 6)
        flat = [part.flatten(0, 1) for part in (states[:, :-1], states[:, 1:], times, old, advantage)]
        for number, batch in enumerate(torch.split(torch.randperm(64 * 6, generator=generator), 128)):
            before, after, time, old_log_prob, gain = (part[batch] for part in flat)
            _, log_prob, _, _ = sde_step_with_logprob(
                scheduler, velocity(before, time), time, before, noise_level=0.7, prev_sample=after
            )
            ratio = torch.exp(log_prob - old_log_prob)
            if number == 0:
                assert (ratio - 1).abs().max() < 1e-4  # of the network that sampled
            loss = torch.maximum(-gain * ratio, -gain * ratio.clamp(0.9, 1.1)).mean()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.5
