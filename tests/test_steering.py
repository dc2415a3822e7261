"""`ksched.steer`: carried weights, resampling in proportion to the weights, and unbiased estimates."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from cases import ADAPTIVE, SPECS, process_for, quick
from hypothesis import given
from hypothesis import strategies as st
from representatives import each, in_turn, short

import ksched
from ksched import steer
from ksched.execution.run import Run

SCHEMES: tuple[Any, ...] = ("systematic", "stratified", "residual", "multinomial")
POTENTIALS: tuple[Any, ...] = ("difference", "max", "sum")
MIXTURE = ksched.exact.GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], 0.09)
MODEL = quick(MIXTURE)
SCALE = 1.0
GROUPS, EACH = 200, 24  # two hundred repetitions at once, every one a group of its own


def tilted(scale: float) -> tuple[float, float]:
    """Z = E[exp(scale x)] and the mean of the tilted mixture, in closed form."""
    parts = MIXTURE.weights * np.exp(scale * MIXTURE.means[:, 0] + scale**2 * 0.09 / 2)
    return float(parts.sum()), float(parts @ (MIXTURE.means[:, 0] + scale * 0.09) / parts.sum())


# Its law is exact to 0.2 percent here, a fifth of the sampling errors below.
SAMPLER = ksched.build_sampler("er_sde", "exponential", 24, sigma_max=4.0, sigma_min=0.02)


def start(count: int, seed: int) -> torch.Tensor:
    """States of the exact law at the first level."""
    clean = torch.from_numpy(MIXTURE.sample(count, seed)).float()
    return clean + SAMPLER.initial_state((count, 1), seed=seed)


def reward(x0: torch.Tensor) -> torch.Tensor:
    return x0[:, 0]


def steered(seed: int, **how: Any) -> steer.Steered:
    x = start(GROUPS * EACH, seed)
    return steer.sample(SAMPLER, MODEL, x, reward, seed=seed, groups=GROUPS, **how)


def off_by(log_weights: Any, x: torch.Tensor, scale: float = SCALE) -> tuple[float, float]:
    """How many standard errors the estimates of Z, and of the mean of the tilt, are off."""
    wanted, mean = tilted(scale)
    weights = np.exp(log_weights)
    normalizers = weights.mean(1)
    means = (weights * x[:, 0].double().numpy().reshape(weights.shape)).mean(1) - mean * normalizers
    error = math.sqrt(len(weights))
    off = (
        (normalizers.mean() - wanted) / (normalizers.std() + 1e-9) * error,
        means.mean() / (means.std() + 1e-9) * error,
    )
    return float(off[0]), float(off[1])


@short(lambda scheme, potential: in_turn(list(SCHEMES).index(scheme), POTENTIALS) == potential)
@pytest.mark.parametrize("potential", POTENTIALS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_normalizer_and_the_tilted_mean_are_unbiased(scheme: Any, potential: Any) -> None:
    # "max" and "sum" spread the weights at every weighing: 200 repetitions do not see the tails of larger scales
    every, scale = (1, 1.0) if potential == "difference" else (6, 0.5)
    result = steered(1000, scheme=scheme, potential=potential, every=every, scale=scale, ess_threshold=0.8)
    assert (result.effective[:-1] < 0.8 * EACH).sum() > GROUPS / 3  # so many were resampled
    assert (result.effective[:-1] >= 0.8 * EACH).sum() > GROUPS / 3  # and so many carried their weights
    assert max(map(abs, off_by(result.log_weights, result.x, scale))) < 3.5
    np.testing.assert_allclose(result.log_normalizer, np.log(np.exp(result.log_weights).mean(1)))


def test_the_same_with_a_potential_of_ones_own_and_resampling_at_every_step() -> None:
    result = steered(2000, potential=lambda rewards: 0.5 * rewards[-1], ess_threshold=2.0)
    assert max(map(abs, off_by(result.log_weights, result.x))) < 3.5


class Forgetful(steer.Particles):
    """The known mistake: a group that is not resampled has its weights dropped instead of carried."""

    def step(self, rewards: Any, log_ratio: Any = None) -> Any:
        chosen = super().step(rewards, log_ratio)
        kept = (chosen == np.arange(len(chosen))).reshape(self.log_weights.shape).all(1)
        self._base = np.where(np.repeat(kept, EACH), -self._product, self._base)
        return chosen


def test_weights_that_are_dropped_would_be_found() -> None:
    errors = {}
    for kind in (steer.Particles, Forgetful):
        seed = 1000
        run = SAMPLER.start(start(GROUPS * EACH, seed), seed=seed)
        assert isinstance(run, Run)
        particles = kind(GROUPS * EACH, seed=seed, groups=GROUPS, scale=SCALE, ess_threshold=0.8)
        while not run.done:
            denoised = MODEL(run.x, run.sigma)
            if run.step:
                chosen = particles.step(reward(denoised))
                denoised = denoised[chosen]
                run.take(chosen)
            run.feed(denoised)
        particles.finish(reward(run.x))
        errors[kind] = off_by(particles.log_weights, run.x)
    assert max(map(abs, errors[steer.Particles])) < 3.5
    assert min(map(abs, errors[Forgetful])) > 10


def test_moved_proposals_are_unbiased_with_the_ratio_of_densities() -> None:
    """Starts drawn around another mean: what a twisted proposal is, at one step."""
    moved, seed = 1.5, 3000
    x = start(GROUPS * EACH, seed) + moved
    particles = steer.Particles(GROUPS * EACH, seed=seed, groups=GROUPS, scale=SCALE)
    density = MIXTURE.log_density(x.double(), 4.0) - MIXTURE.log_density(x.double() - moved, 4.0)
    run = SAMPLER.start(x, seed=seed)
    assert isinstance(run, Run)
    while not run.done:
        denoised = MODEL(run.x, run.sigma)
        chosen = particles.step(reward(denoised), density if run.step == 0 else None)
        run.take(chosen).feed(denoised[chosen])
    particles.finish(reward(run.x))
    assert max(map(abs, off_by(particles.log_weights, run.x))) < 3.5


def test_the_loop_of_sample_by_hand_gives_its_bits() -> None:
    x = start(64, 5)
    run = SAMPLER.start(x, seed=5)
    assert isinstance(run, Run)
    particles = steer.Particles(64, seed=5, scale=3.0)
    while not run.done:
        denoised = MODEL(run.x, run.sigma)
        if run.step and run.step % 4 == 0:
            chosen = particles.step(reward(denoised))
            run.take(chosen)
            denoised = denoised[chosen]
        run.feed(denoised)
    particles.finish(reward(run.x))
    result = steer.sample(SAMPLER, MODEL, x, reward, seed=5, every=4, scale=3.0)
    assert torch.equal(run.x, result.x)
    assert np.array_equal(particles.log_weights, result.log_weights)
    assert np.array_equal(particles.ancestors, result.ancestors)
    assert result.steps == (4, 8, 12, 16, 20)
    assert len(set(result.ancestors)) < 64


@each("name", [str(spec.name) for spec in SPECS if spec.draws])
def test_a_reward_that_is_the_same_for_all_changes_nothing(name: str) -> None:
    def model(x: torch.Tensor, sigma: torch.Tensor) -> Any:
        denoised = 0.5 * x / (0.5 + sigma.reshape(-1, 1) ** 2)
        return denoised, 0.9 * denoised

    sampler = ksched.build_sampler(name, "karras", 5, process=process_for(name))
    if not sampler.plan.draws:
        return
    x = sampler.initial_state((6, 3), seed=0)
    result = steer.sample(sampler, model, x, lambda x0: torch.full((6,), 2.0), seed=1, groups=2)
    assert torch.equal(result.x, sampler.sample(model, x, seed=1))
    np.testing.assert_allclose(result.log_weights, np.full((2, 3), 2.0), rtol=1e-14)
    np.testing.assert_allclose(result.weights, 1 / 3)
    assert result.ancestors.tolist() == list(range(6))


def test_without_resampling_the_weights_are_the_rewards() -> None:
    x = start(16, 3)
    result = steer.sample(SAMPLER, MODEL, x, reward, seed=3, ess_threshold=0, scale=2.0)
    assert torch.equal(result.x, SAMPLER.sample(MODEL, x, seed=3))
    np.testing.assert_allclose(result.log_weights, 2.0 * result.rewards, rtol=1e-14)
    assert np.array_equal(result.rewards, result.x[:, 0].double().numpy())


def test_a_group_does_not_depend_on_the_others() -> None:
    x, seeds = start(36, 4), [4 + i for i in range(36)]
    whole = steer.sample(SAMPLER, MODEL, x, reward, seed=seeds, groups=3, scale=2.0)
    part = slice(12, 24)
    alone = steer.sample(SAMPLER, MODEL, x[part], reward, seed=seeds[part], scale=2.0)
    assert torch.equal(whole.x[part], alone.x)
    assert np.array_equal(whole.log_weights[1], alone.log_weights)
    assert whole.log_normalizer[1] == alone.log_normalizer
    assert np.array_equal(whole.effective[:, 1], alone.effective)
    assert np.array_equal(whole.ancestors[part], 12 + alone.ancestors)


def test_what_is_forbidden_has_no_weight_and_no_copies() -> None:
    def positive(x0: torch.Tensor) -> torch.Tensor:
        return torch.where(x0[:, 0] > 0, 0.0, -math.inf)

    result = steer.sample(SAMPLER, MODEL, start(GROUPS * EACH, 9), positive, seed=9, groups=GROUPS, ess_threshold=2)
    weights = np.exp(result.log_weights)
    assert (result.x[:, 0].numpy().reshape(weights.shape) > 0)[weights > 0].all()
    assert (weights > 0).mean() > 0.9
    late = steer.sample(SAMPLER, MODEL, start(2000, 9), positive, seed=9, ess_threshold=0)
    assert abs(math.exp(late.log_normalizer) - 0.5) < 4 * 0.5 / math.sqrt(2000)  # forbidden at the end alone: unbiased
    nothing = steer.sample(SAMPLER, MODEL, start(4, 0), lambda x0: torch.full((4,), -math.inf), seed=0)
    assert nothing.log_normalizer == -math.inf
    assert not nothing.effective.any()


# ------------------------------------------------------------------------------------------------ the pure pieces
LOGS = st.lists(st.floats(-40, 40) | st.just(-math.inf), min_size=1, max_size=12).filter(
    lambda values: max(values) > -math.inf
)


@given(LOGS, st.sampled_from(SCHEMES), st.integers(0, 2**40), st.integers(0, 30))
def test_as_often_as_the_weight_says(values: list[float], scheme: Any, seed: int, count: int) -> None:
    drawn = steer.resampled(values, scheme, seed=seed, count=count)
    weights = np.exp(np.array(values) - max(values))
    wanted = count * weights / weights.sum()
    counts = np.bincount(drawn, minlength=len(values))
    assert len(drawn) == count
    assert (np.diff(drawn) >= 0).all()
    assert not counts[weights == 0].any()
    if scheme in ("systematic", "residual"):
        assert (counts >= np.floor(wanted - 1e-9)).all()
    if scheme == "systematic":
        assert (counts <= np.ceil(wanted + 1e-9)).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_indices_are_unbiased_and_even_weights_stay(scheme: Any) -> None:
    logs, groups = np.log([0.05, 0.3, 0.13, 0.52]), 3000
    drawn = steer.resampled(np.tile(logs, (groups, 1)), scheme, seed=0)
    counts = np.stack([(drawn == item).sum(1) for item in range(4)], 1)
    errors = np.maximum(counts.std(0), 0.02) / math.sqrt(groups)
    assert (np.abs(counts.mean(0) - 4 * np.exp(logs)) < 4.5 * errors).all()
    if scheme != "multinomial":
        assert steer.resampled(np.zeros(7), scheme, seed=3).tolist() == list(range(7))


def test_indices_leave_the_global_state_alone_and_are_made_again() -> None:
    before = random.getstate(), torch.get_rng_state()
    first = steer.resampled(torch.tensor([0.0, 1.0, 2.0]), seed=5)
    assert before[0] == random.getstate()
    assert torch.equal(before[1], torch.get_rng_state())
    assert first.dtype == torch.int64
    assert torch.equal(first, steer.resampled(torch.tensor([7.0, 8.0, 9.0]), seed=5))  # weights need no normalising
    both = steer.resampled(np.zeros((2, 50)), "multinomial", seed=[1, 2])
    assert np.array_equal(both[1], steer.resampled(np.zeros(50), "multinomial", seed=2))


@given(st.lists(st.floats(-300, 300), min_size=1, max_size=20), st.floats(-100, 100))
def test_the_effective_sample_size(values: list[float], shift: float) -> None:
    found = steer.effective_sample_size(values)
    assert 1 - 1e-9 <= found <= len(values) * (1 + 1e-9)
    assert math.isclose(found, steer.effective_sample_size([value + shift for value in values]), rel_tol=1e-9)
    assert math.isclose(steer.effective_sample_size([0.0] * 5 + [-math.inf] * 3), 5)
    assert steer.effective_sample_size(torch.full((2, 3), -math.inf)).tolist() == [0, 0]


# ------------------------------------------------------------------------------------------------ what is refused
def call(**how: Any) -> Any:
    arguments: dict[str, Any] = {"sampler": SAMPLER, "denoiser": MODEL, "x": start(4, 0), "reward": reward, "seed": 0}
    return steer.sample(**(arguments | how))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"sampler": ksched.build_sampler("euler", "karras", 4)}, "needs a sampler that draws noise"),
        ({"groups": 3}, "must divide the items evenly; got 3 groups for 4 items"),
        ({"groups": 0}, "groups"),
        ({"every": 0}, "every"),
        ({"potential": "product"}, "'difference', 'max', 'sum', or a function of the rewards; got 'product'"),
        ({"scheme": "best"}, "'systematic', 'stratified', 'residual', 'multinomial'; got 'best'"),
        ({"ess_threshold": -0.1}, "ess_threshold must be a finite number of at least 0; got -0.1"),
        ({"scale": math.nan}, "scale must be a finite number; got nan"),
        ({"reward": lambda x0: x0}, r"rewards must be one number per item, shape \(4,\); got \(4, 1\)"),
        ({"reward": lambda x0: x0[:, 0] * math.nan}, "rewards must be numbers below infinity; got nan"),
        ({"seed": None}, "seed"),
    ],
)
def test_mistakes_are_told(how: Any, words: str) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        call(**how)


def test_adaptive_samplers_are_refused() -> None:
    for spec in ADAPTIVE:
        with pytest.raises(TypeError, match="cannot be split or copied"):
            call(sampler=ksched.build_sampler(str(spec.name), "karras", 5))


@pytest.mark.parametrize("values", [[], [-math.inf, -math.inf], [math.nan], [[[0.0]]]])
def test_weights_that_are_none_are_refused(values: Any) -> None:
    with pytest.raises(ValueError, match="log_weights must"):
        steer.resampled(values, seed=0)


@short(lambda name: name == "dpmpp_2s_ancestral")  # it has a stage without noise
@pytest.mark.parametrize("name", ["dpmpp_2m_sde", "seeds_2", "dpmpp_2s_ancestral"])
def test_twisted_runs_are_unbiased_and_their_weights_more_even(name: str) -> None:
    """Steps along the gradient of the reward, and the densities that make up for it."""
    sampler = ksched.build_sampler(name, "exponential", 24, sigma_max=4.0, sigma_min=0.02)

    def moved(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """The model's prediction with the gradient of the reward: the score of the tilt where data is normal."""
        level = sigma.reshape(-1, 1)
        return MODEL(x, sigma) + SCALE * (0.09 * level**2 / (0.09 + level**2))

    x = start(GROUPS * EACH, 4000)
    how: dict[str, Any] = {"seed": 4000, "groups": GROUPS, "every": 2}
    plain = steer.sample(sampler, MODEL, x, reward, ess_threshold=0.0, **how)
    twisted = steer.sample(sampler, MODEL, x, reward, proposal=moved, ess_threshold=0.0, **how)
    resampled = steer.sample(sampler, MODEL, x, reward, proposal=moved, ess_threshold=0.8, **how)
    assert not torch.equal(twisted.x, plain.x)
    assert twisted.effective[-1].mean() > plain.effective[-1].mean()
    off = [off_by(result.log_weights, result.x) for result in (plain, twisted, resampled)]
    assert max(abs(each) for one in off for each in one) < 4
    wrong = twisted.log_weights - (twisted.log_weights - SCALE * twisted.rewards.reshape(GROUPS, EACH))
    assert max(map(abs, off_by(wrong, twisted.x))) > 5  # the densities are needed


def test_a_proposal_that_is_the_model_changes_nothing() -> None:
    x = start(48, 5)
    plain = steer.sample(SAMPLER, MODEL, x, reward, seed=5, groups=2)
    same = steer.sample(SAMPLER, MODEL, x, reward, seed=5, groups=2, proposal=MODEL)
    assert torch.equal(plain.x, same.x)
    np.testing.assert_allclose(plain.log_weights, same.log_weights)


def test_where_no_noise_is_drawn_a_proposal_does_not_move() -> None:
    """The step to sigma 0 returns the model's own prediction, here always 0, wherever the proposal went."""
    sampler = ksched.build_sampler("euler_ancestral", "karras", 4)
    x = sampler.initial_state((6, 3), seed=0)
    result = steer.sample(
        sampler, lambda x, sigma: 0 * x, x, lambda x0: x0[:, 0], seed=1, proposal=lambda x, sigma: 0 * x + 1
    )
    assert not result.x.any()
    assert result.log_weights.any()
