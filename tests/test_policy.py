"""Steps as probabilities: distributions of steps, rollouts, log-probabilities and divergences."""

from __future__ import annotations

import math
import weakref
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from cases import COORDINATES, SPECS, paired, process_for
from representatives import each, in_turn, short

import ksched
from ksched.plan import analysis
from ksched.plan.trace import trace
from ksched.policy.transitions import transitions
from ksched.sampler import Sampler
from ksched.samplers.spec import SamplerSpec
from ksched.schedules.grid import Grid

NOISY: dict[str, dict[str, Any]] = {
    **{str(spec.name): {} for spec in SPECS if spec.draws != 0 and spec.draws is not None},
    "sa_solver": {"tau_start": 0.0, "tau_end": 1.0},
    "sa_solver_pece": {"tau_start": 0.0, "tau_end": 1.0},
    "ddim": {"eta": 0.7},
    "dpm_multistep": {"eta": 1.0},
    "dpm_singlestep": {"eta": 0.5},
    "dpm_fast": {"eta": 0.7},
    "euler": {"s_churn": 3.0},
    "heun": {"s_churn": 3.0},
    "dpm_2": {"s_churn": 2.0},
    "restart": {},
}


def noisy_sampler(name: str, process: ksched.Process, steps: int = 6) -> Sampler:
    spec: SamplerSpec = next(spec for spec in SPECS if spec.name == name)
    process = process_for(spec, process)
    steps = 24 if name == "restart" else steps  # fewer have no interval that it restarts in
    return ksched.build_sampler(
        name, "karras" if not process.is_flow else "simple", steps, process=process, **NOISY[name]
    )


def linear_model(sampler: Sampler) -> Any:
    """A model that is linear in the state, another one at every level, and its unconditional twin."""
    levels = [float(value) for value in sampler.plan.call_sigmas]

    def gain(sigma: float) -> tuple[float, float]:
        k = min(range(len(levels)), key=lambda place: abs(levels[place] - sigma))
        return 0.3 + 0.5 * math.sin(k + 1.0) ** 2, 0.1 * k - 0.2

    def model(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        slope, offset = gain(float(sigma[0]))
        return slope * x + offset, 0.8 * slope * x - offset

    model.gain = gain  # type: ignore[attr-defined]
    return model


@pytest.mark.parametrize("name", NOISY)
@each("process", COORDINATES)
def test_log_prob_is_that_of_the_unrolled_normal_law(name: str, process: str) -> None:
    """For a linear model all states are normal: their joint density, from the covariance of the unrolled map."""
    sampler = noisy_sampler(name, COORDINATES[process])
    plan, model = sampler.plan, linear_model(sampler)
    assert plan.draws
    x = sampler.initial_state((2, 1), seed=3, dtype=torch.float64)
    path = sampler.rollout(model, x, seed=5)
    laws = sampler.transitions
    assert path.steps == tuple(law.step for law in laws)
    states = _unrolled(plan, model.gain)
    observed = [state for row, state in zip(plan.rows, states, strict=True) if row.level is not None] + [states[-1]]
    before = {m for m, value in enumerate(observed[0][2:]) if value}  # noises of the first state are part of it
    rows = [row.state for law in laws for row in law.rows]
    noises = np.array([[0.0 if m in before else v for m, v in enumerate(observed[k][2:])] for k in rows])
    covariance = noises @ noises.T
    for item in range(2):
        start = (path.states[0][item, 0].item() - observed[0][0]) / observed[0][1] if not before else None
        means = np.array([observed[k][0] + observed[k][1] * start for k in rows]) if start is not None else None
        if means is None:  # churn of the first state: go on from there by the model itself
            means = np.array([_mean_from(plan, model.gain, path.states[0][item, 0].item(), k) for k in rows])
        error = np.array([path.states[k][item, 0].item() for k in rows]) - means
        right = -0.5 * (error @ np.linalg.solve(covariance, error) + np.linalg.slogdet(2 * math.pi * covariance)[1])
        assert path.log_prob[:, item].sum().item() == pytest.approx(right, rel=1e-6, abs=1e-6)


def _unrolled(plan: ksched.Plan, gain: Any) -> list[Any]:
    """Every row over (1, start, noises), the model being linear."""
    basis = np.eye(2 + len(plan.draws))

    def answer(level: ksched.Level, state: Any) -> tuple[Any, Any]:
        slope, offset = gain(level.label)
        return slope * state + offset * basis[0], 0.8 * slope * state - offset * basis[0]

    return analysis._propagate(plan, basis[1], basis[2:], answer)


def _mean_from(plan: ksched.Plan, gain: Any, first: float, wanted: int) -> float:
    """Mean of a state given the mean at the first call."""
    basis = np.eye(2)
    calls = [k for k, row in enumerate(plan.rows) if row.level is not None]

    def answer(level: ksched.Level, state: Any) -> tuple[Any, Any]:
        slope, offset = gain(level.label)
        return slope * state + offset * basis[0], 0.8 * slope * state - offset * basis[0]

    rows = tuple(
        row if k != calls[0] else row._replace(terms=((ksched.plan.rows.Register("x", 0), 1.0),))
        for k, row in enumerate(plan.rows)
    )
    states = [basis[1]]
    registers: dict[str, list[Any]] = {"x": states, "D": [], "U": []}
    for k, row in enumerate(rows):
        if k:
            terms = ((r, v) for r, v in row.terms if r.kind != "xi")
            states.append(sum((v * registers[r.kind][r.number] for r, v in terms), np.zeros(2)))
        if row.level is not None:
            denoised, uncond = answer(row.level, states[k])
            registers["D"].append(denoised)
            registers["U"].append(uncond)
    place = calls[wanted] if wanted < len(calls) else len(rows) - 1
    return float(states[place] @ [1.0, first])


@pytest.mark.parametrize("name", NOISY)
def test_a_rollout_is_a_sample_and_is_scored_again_bit_for_bit(name: str) -> None:
    sampler = noisy_sampler(name, ksched.VP())
    assert sampler.transitions
    model = paired(lambda x, sigma: x / (1 + sigma.reshape(-1, 1, 1) ** 2))
    for dtype in (torch.float32, torch.bfloat16):
        x = sampler.initial_state((4, 3, 5), seed=1, dtype=dtype)
        path = sampler.rollout(model, x, seed=[4, 9, 2, 7])
        assert torch.equal(path.x, sampler.sample(model, x, seed=[4, 9, 2, 7]))
        assert path.x.dtype == dtype
        assert all(state.dtype == torch.float32 for state in path.states)
        assert torch.equal(sampler.log_prob(model, path), path.log_prob)
        part = path.take([2, 0])
        assert part.seeds == (2, 4)
        assert torch.equal(part.log_prob, path.log_prob[:, [2, 0]])
        assert torch.equal(sampler.log_prob(model, part), path.log_prob[:, [2, 0]])
        one = path.steps[len(path.steps) // 2]
        rescored = sampler.log_prob(model, path.take([3]), steps=[one])
        assert torch.equal(rescored, path.log_prob[path.steps.index(one)][None, 3:])


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_network_is_asked_as_sample_asks_it(prediction: str) -> None:
    process = ksched.VP()
    net = small_net(6, 6)
    seen: list[torch.Tensor] = []

    def network(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        seen.append(timestep)
        out: torch.Tensor = net(x.float()) * (1 + timestep[:, None] / 1000)
        return out.to(x.dtype)

    denoiser = ksched.Denoiser(network, process, prediction)
    sampler = ksched.build_sampler("dpmpp_2m_sde", "karras", 5, process=process)
    for dtype in (torch.float32, torch.float16):
        x = sampler.initial_state((3, 6), seed=0, dtype=dtype)
        path = sampler.rollout(denoiser, x, seed=1)
        assert torch.equal(path.x, sampler.sample(denoiser, x, seed=1))
        asked = len(seen)
        again = sampler.log_prob(denoiser, path)
        assert torch.equal(again, path.log_prob)
        assert again.requires_grad
        assert len(seen) - asked == len(sampler.transitions)  # the last call has no noise after it
        if dtype is torch.float32:  # a wrapped network answers with a rounded prediction
            wrapped = sampler.log_prob(lambda x, sigma: denoiser(x, sigma), path, reduce="mean")
            assert (wrapped - path.log_prob / 6).abs().max() < 1e-4


def small_net(width: int = 2, inputs: int = 3) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(inputs, 16), torch.nn.Tanh(), torch.nn.Linear(16, width))


def asking(net: Any) -> Any:
    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = net(torch.cat([x, sigma.reshape(-1, 1).to(x)], 1))
        return out

    return paired(model)


@short(lambda name, process: process == in_turn(list(NOISY).index(name), COORDINATES))
@pytest.mark.parametrize("process", COORDINATES)
@pytest.mark.parametrize("name", NOISY)
def test_mean_is_the_entropy_and_the_score_has_mean_zero(name: str, process: str) -> None:
    """E[log p] is minus the entropy and E[grad log p] is 0, within sampling error of 4,000 runs."""
    sampler = noisy_sampler(name, COORDINATES[process], 4)
    assert sampler.transitions
    net = small_net()
    path = sampler.rollout(asking(net), sampler.initial_state((4000, 2), seed=1), seed=10_000)
    for law, scores in zip(sampler.transitions, path.log_prob, strict=True):
        off = float(scores.mean()) + 2 * law.entropy
        assert abs(off) < 4.5 * float(scores.std()) / math.sqrt(4000)
        assert float(scores.std()) == pytest.approx(math.sqrt(len(law.rows)), rel=0.1)  # of chi squared over 2
    bias = net[-1].bias
    shares = []
    for part in range(20):  # gradients of batches of 200
        scored = sampler.log_prob(asking(net), path.take(range(200 * part, 200 * part + 200))).sum()
        shares.append(torch.autograd.grad(scored, bias)[0])
    each = torch.stack(shares)
    assert float((each.mean(0).abs() / (each.std(0) / math.sqrt(20))).max()) < 5
    assert float(each.std()) > 0


@pytest.mark.parametrize("name", NOISY)
@each("process", COORDINATES.values())
def test_gradients_are_those_of_finite_differences(name: str, process: ksched.Process) -> None:
    sampler = noisy_sampler(name, process)
    net = small_net().double()
    x = sampler.initial_state((5, 2), seed=1, dtype=torch.float64)
    path = sampler.rollout(asking(net), x, seed=3)
    weight = net[0].weight
    gradient = torch.autograd.grad(sampler.log_prob(asking(net), path).sum(), weight)[0]
    for place in ((0, 0), (3, 2), (7, 1)):
        values = []
        for change in (1e-5, -1e-5):
            with torch.no_grad():
                weight[place] += change
                values.append(float(sampler.log_prob(asking(net), path).sum()))
                weight[place] -= change
        assert float(gradient[place]) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5, abs=1e-6)


def test_only_the_calls_that_means_read_are_made() -> None:
    sampler = ksched.build_sampler("dpmpp_3m_sde", "karras", 8)
    called: list[float] = []

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        called.append(float(sigma[0]))
        return x / (1 + sigma.reshape(-1, 1) ** 2)

    path = sampler.rollout(model, sampler.initial_state((2, 3), seed=0), seed=0)
    called.clear()
    two = sampler.log_prob(model, path, steps=[5, 2])
    assert torch.equal(two, path.log_prob[[5, 2]])
    assert called == [pytest.approx(float(sampler.plan.call_sigmas[k]), rel=1e-6) for k in (0, 1, 2, 3, 4, 5)]
    called.clear()
    sampler.log_prob(model, path, steps=[6])
    assert len(called) == 3
    called.clear()
    assert sampler.log_prob(model, path, steps=[]).shape == (0, 2)
    assert not called


def test_no_more_predictions_are_held_than_a_mean_reads() -> None:
    """While a long run is scored without gradients, only the predictions of one step are kept alive."""
    sampler = ksched.build_sampler("dpmpp_2m_sde", "karras", 12)
    alive: list[Any] = []
    most = 0

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        nonlocal most
        most = max(most, sum(ref() is not None for ref in alive))
        weight = torch.ones(1, requires_grad=True)
        out = weight * x
        alive.append(weakref.ref(out))
        return out

    path = sampler.rollout(lambda x, sigma: x * 1.0, sampler.initial_state((1, 4), seed=0), seed=0)
    for step in path.steps:  # as a trainer that steps back after every step does
        torch.autograd.backward(sampler.log_prob(model, path, steps=[step]).sum())
    assert most <= 2


def test_masks_and_means() -> None:
    sampler = ksched.build_sampler("euler_ancestral", "karras", 3)
    model = lambda x, sigma: 0.5 * x  # noqa: E731
    x = sampler.initial_state((2, 3, 4), seed=0, dtype=torch.float64)
    path = sampler.rollout(model, x, seed=1)
    whole = sampler.log_prob(model, path)
    assert torch.allclose(sampler.log_prob(model, path, reduce="mean") * 12, whole, rtol=1e-12)
    mask = torch.zeros(3, 1)
    mask[1] = 1.0
    parts = []
    for k in range(3):
        one = torch.zeros(3, 1)
        one[k] = 1.0
        parts.append(sampler.log_prob(model, path, mask=one))
    assert torch.allclose(torch.stack(parts).sum(0), whole, rtol=1e-12)
    mean = sampler.log_prob(model, path, reduce="mean", mask=mask)
    assert torch.allclose(mean * 4, parts[1], rtol=1e-12)
    by_item = torch.stack([torch.ones(3, 4), torch.zeros(3, 4)])
    masked = sampler.log_prob(model, path, mask=by_item)
    assert torch.allclose(masked[:, 0], whole[:, 0])
    assert not masked[:, 1].any()


@pytest.mark.parametrize("name", ["dpmpp_2m_sde", "seeds_2", "sa_solver", "euler_ancestral_cfg_pp"])
def test_divergence_is_the_mean_of_the_log_ratio(name: str) -> None:
    """Zero against itself, and against another model the expectation of log p - log q, to sampling error."""
    sampler = noisy_sampler(name, ksched.Flow(3.0), 4)
    model = paired(lambda x, sigma: 0.6 * x)
    other = paired(lambda x, sigma: 0.5 * x + 0.1)
    path = sampler.rollout(model, sampler.initial_state((6000, 2), seed=0), seed=20_000)
    assert not sampler.kl_divergence(model, model, path).any()
    exact = sampler.kl_divergence(model, other, path)
    ratio = path.log_prob - sampler.log_prob(other, path)
    error = (ratio - exact).mean(1).abs() / ((ratio - exact).std(1) / math.sqrt(6000))
    assert float(error.max()) < 5
    assert bool((exact.mean(1) > 0).all())
    assert torch.equal(sampler.kl_divergence(model, other, path, steps=[path.steps[-1]])[0], exact[-1])


def test_gradients_of_a_divergence_flow_into_both_models() -> None:
    sampler = ksched.build_sampler("dpmpp_2m_sde", "simple", 4, process=ksched.Flow())
    net, other = small_net(), small_net()
    with torch.no_grad():
        other[0].weight.add_(0.1)
    path = sampler.rollout(asking(net), sampler.initial_state((3, 2), seed=0), seed=0)
    torch.autograd.backward(sampler.kl_divergence(asking(net), asking(other), path).sum())
    assert net[0].weight.grad.abs().sum() > 0
    assert other[0].weight.grad.abs().sum() > 0


def test_a_plan_says_what_a_step_does() -> None:
    """The terms of a mean and its noise, put together by hand, are the next recorded state."""
    sampler = ksched.build_sampler("dpmpp_2m_sde", "karras", 5)

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return x / (1 + sigma.reshape(-1, 1) ** 2)

    drawn: list[torch.Tensor] = []

    def noise(sigma_from: float, sigma_to: float) -> torch.Tensor:
        drawn.append(torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(len(drawn))))
        return drawn[-1]

    path = sampler.rollout(model, sampler.initial_state((2, 3), seed=0, dtype=torch.float64), noise=noise)
    assert path.seeds is None
    predictions = [
        model(state, torch.full((2,), sigma, dtype=torch.float64))
        for state, sigma in zip(path.states[:-1], sampler.plan.call_sigmas, strict=True)
    ]
    for law, eps in zip(sampler.transitions, drawn, strict=True):
        named = {"x": path.states, "D": predictions}
        mean = sum(value * named[r.kind][r.number] for r, value in law.mean)
        assert torch.allclose(mean + law.std * eps, path.states[law.state], rtol=1e-10, atol=1e-12)
    assert str(sampler.transitions[0]).startswith("step 0: x1 ~ N(")


def test_stds_are_what_the_noise_of_a_level_needs() -> None:
    """With eta 1 and a constant prediction, all steps together make the noise of each level."""
    sampler = ksched.build_sampler("euler_ancestral", "karras", 6)
    for law, (s, t) in zip(sampler.transitions, pairwise(sampler.sigmas), strict=False):
        kept = dict(law.mean)[ksched.plan.rows.Register("x", law.step)] * s
        assert math.hypot(kept, law.std) == pytest.approx(t, rel=1e-12)


def test_what_has_no_law_is_refused_in_words() -> None:
    model = lambda x, sigma: x * 0.5  # noqa: E731
    sampler = ksched.build_sampler("dpmpp_2m", "karras", 4)
    x = sampler.initial_state((2, 3), seed=0)
    assert sampler.transitions == ()
    with pytest.raises(ValueError, match=r"draws no noise.*eta > 0"):
        sampler.rollout(model, x, seed=0)
    with pytest.raises(ValueError, match=r"clipped at 2\.5 standard deviations"):
        ksched.build_sampler("lcm", "karras", 4, noise_clip_std=2.5).rollout(model, x, seed=0)
    with pytest.raises(TypeError, match="no plan"):
        _ = ksched.build_sampler("dpm_adaptive", "karras", 4, eta=1.0).transitions
    noisy: Any = ksched.build_sampler("euler_ancestral", "karras", 4)
    with pytest.raises(ValueError, match="seed"):
        noisy.rollout(model, x)
    path = noisy.rollout(model, x, seed=0)
    other = ksched.build_sampler("euler_ancestral", "karras", 5)
    cases: list[tuple[type[Exception], str, Any]] = [
        (ValueError, "another plan", lambda: other.log_prob(model, path)),
        (TypeError, "Trajectory|rollout", lambda: noisy.log_prob(model, path.states)),
        (ValueError, r"steps that draw noise, 0, 1, 2; got 3", lambda: noisy.log_prob(model, path, steps=[3])),
        (TypeError, "whole numbers", lambda: noisy.log_prob(model, path, steps=[0.5])),
        (ValueError, "all be different", lambda: noisy.log_prob(model, path, steps=[1, 1])),
        (ValueError, '"sum" or "mean"', lambda: noisy.log_prob(model, path, reduce="max")),
        (ValueError, "mask must broadcast", lambda: noisy.log_prob(model, path, mask=torch.ones(4))),
        (TypeError, "mask must be a tensor", lambda: noisy.log_prob(model, path, mask=[1.0])),
        (TypeError, "denoiser must be callable", lambda: noisy.log_prob(None, path)),
        (ValueError, "mean the same states", lambda: noisy.log_prob(_of_flow(), path)),
        (TypeError, "whole numbers", lambda: path.take([0.5])),
        (IndexError, "of 2 items", lambda: path.take([2])),
    ]
    for kind, words, call in cases:
        with pytest.raises(kind, match=words):
            call()


def _of_flow() -> ksched.Denoiser:
    return ksched.Denoiser(lambda x, timestep: x, ksched.Flow(), "flow")


def test_a_model_that_writes_to_a_recorded_state_is_told() -> None:
    sampler = ksched.build_sampler("euler_ancestral", "karras", 4)
    path = sampler.rollout(lambda x, sigma: x * 0.5, sampler.initial_state((2, 3), seed=0), seed=0)

    def careless(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return x.mul_(0.5)

    with pytest.raises(RuntimeError, match="must not modify x"):
        sampler.log_prob(careless, path)


def test_one_buffer_for_all_answers_is_right() -> None:
    """A captured network returns the same memory at every call."""
    sampler = ksched.build_sampler("dpmpp_3m_sde", "karras", 6)
    buffer = torch.empty(2, 3)
    x = sampler.initial_state((2, 3), seed=0)

    def own(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return x / (1 + sigma.reshape(-1, 1) ** 2)

    def captured(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return buffer.copy_(own(x, sigma))

    path = sampler.rollout(captured, x, seed=1)
    plain = sampler.rollout(own, x, seed=1)
    assert torch.equal(path.log_prob, plain.log_prob)
    assert torch.equal(path.x, plain.x)
    assert torch.equal(sampler.log_prob(captured, path), plain.log_prob)


def test_laws_of_a_loaded_plan() -> None:
    """A plan from JSON has the same laws, and no law where it has no noise."""
    plan = ksched.build_sampler("seeds_3", "karras", 5).plan
    assert transitions(ksched.Plan.from_json(plan.to_json())) == transitions(plan)
    assert transitions(ksched.build_sampler("uni_pc", "karras", 5).plan) == ()


def test_a_window_draws_at_its_steps_alone() -> None:
    """Steps outside of the window are ODE steps: they have no transition and are conditioned on the recorded states."""
    process = ksched.Flow(3.0)
    eta = ksched.window(0.7, steps=[1, 2])
    sampler = ksched.build_sampler("dpmpp_2m_sde", "simple", 6, process=process, eta=eta)
    model = asking(small_net())
    path = sampler.rollout(model, sampler.initial_state((3, 2), seed=0), seed=4)
    assert path.steps == (1, 2)
    assert len(path.states) == 7
    assert torch.equal(sampler.log_prob(model, path), path.log_prob)
    listed = ksched.build_sampler("dpmpp_2m_sde", "simple", 6, process=process, eta=[0, 0.7, 0.7, 0, 0, 0])
    assert listed.transitions == sampler.transitions
    with pytest.raises(ValueError, match=r"steps that draw noise, 1, 2; got 0"):
        sampler.log_prob(model, path, steps=[0])


def test_a_state_that_earlier_ones_tell_all_of_has_no_law_of_its_own() -> None:
    """Three states from two noises: the first two determine the third up to rounding, so it is not scored."""

    def told(run: Any, grid: Any, x: Any) -> Any:
        levels = grid.levels
        noises = [run.noise(levels[0], levels[1], stream) for stream in (0, 1)]
        for level, (one, two) in zip(levels, ((0.0, 0.0), (0.3, 0.7), (0.6, -0.2), (0.55, 0.13)), strict=False):
            x = run.denoise(0.5 * x + one * noises[0] + two * noises[1], level)
        return x

    plan = trace(told, Grid.of([5.0, 3.0, 2.0, 1.0, 0.5], ksched.VE()), {})
    rows = [row for law in transitions(plan) for row in law.rows]
    assert [row.state for row in rows] == [1, 2]
    assert rows[0].std == pytest.approx(math.hypot(0.3, 0.7))
    assert rows[0].std * rows[1].std == pytest.approx(abs(0.3 * -0.2 - 0.7 * 0.6))  # the determinant
