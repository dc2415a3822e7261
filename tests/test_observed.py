"""Posterior sampling: where each rule is exact and where not, runs to the exact posterior, no side effects."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from cases import COORDINATES, PROCESSES, SPECS, start_state
from representatives import each, in_turn, short

from ksched import EDM, VE, VP, Denoiser, Flow, Process, build_sampler, exact, guidance
from ksched.execution.batch import Batch
from ksched.guidance.posterior import Rule
from ksched.samplers.spec import SamplerSpec

RULES: tuple[Rule, ...] = ("mmps", "pgdm", "tmpd", "dps")
DIMENSION = 5
STD = 0.2


slopes: Callable[..., torch.Tensor] = torch.autograd.functional.jacobian


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


MATRIX = random(3, DIMENSION, seed=1)
MASK = torch.tensor([True, False, True, True, False])
Y = torch.tensor([0.7, -1.1, 0.4], dtype=torch.float64)
HIDDEN_Y = torch.tensor([0.7, math.nan, -1.1, 0.4, math.nan], dtype=torch.float64)
ROWS = torch.eye(DIMENSION, dtype=torch.float64)[MASK]
MEAN = random(DIMENSION, seed=2).numpy()
FULL = (lambda a: (a @ a.T / DIMENSION + 0.05 * torch.eye(DIMENSION)).numpy())(random(DIMENSION, DIMENSION, seed=3))


def mixture(process: Process | None = None) -> exact.GaussianMixture:
    means = 2 * random(3, DIMENSION, seed=4).numpy()
    return exact.GaussianMixture([0.5, 0.3, 0.2], means, np.stack([FULL, 0.3 * FULL, 0.1 * np.eye(5)]), process)


def levels(process: Process) -> torch.Tensor:
    """Noise from the end of a run to its start, where flow has no signal left."""
    high = min(process.sigma_max, 80.0)
    return torch.tensor([process.sigma_min, *np.linspace(0.1, 0.9, 4) * min(high, 3.0), high], dtype=torch.float64)


def apart(model: Any, truth: Any, process: Process) -> torch.Tensor:
    """Largest distance of two denoisers at each of the levels, on states where the data is."""
    sigma = levels(process)
    data = torch.from_numpy(mixture().sample(len(sigma), 5))
    x = process.add_noise(data, random(len(sigma), DIMENSION, seed=6), sigma)
    return cast(torch.Tensor, (model(x, sigma) - truth(x, sigma)).abs().amax(1))


# The closed form of the posterior


def test_the_posterior_of_a_mixture_is_what_a_grid_gives() -> None:
    covariances = [[[0.5, 0.2], [0.2, 0.4]], [[0.3, -0.1], [-0.1, 0.6]]]
    prior = exact.GaussianMixture([0.3, 0.7], [[-0.8, 0.2], [0.6, 0.5]], covariances)
    a, y, std = np.array([[0.9, -0.4]]), np.array([0.3]), 0.35
    line = np.linspace(-6, 6, 601)
    points = np.stack(np.meshgrid(line, line), -1).reshape(-1, 2)
    density = np.zeros(len(points))
    for w, m, c in zip(prior.weights, prior.means, prior.covariances, strict=True):
        d = points - m
        inner = np.einsum("ni,ij,nj->n", d, np.linalg.inv(c), d)
        density += w * np.exp(-inner / 2) / math.sqrt(np.linalg.det(c))
    density *= np.exp(-((points @ a[0] - y) ** 2) / (2 * std**2))
    density /= density.sum()
    mean = density @ points
    covariance = (density[:, None] * (points - mean)).T @ (points - mean)
    found = prior.given(a, y, std)
    np.testing.assert_allclose(found.mean, mean, atol=1e-9)
    np.testing.assert_allclose(found.covariance, covariance, atol=1e-9)
    assert found.process is prior.process


def test_a_gaussian_stays_one_and_information_adds() -> None:
    for covariance in (FULL, np.diag(FULL).copy(), 0.3):
        prior = exact.Gaussian(MEAN, covariance, VE())
        found = prior.given(MATRIX, Y, STD)
        assert isinstance(found, exact.Gaussian)
        a, y = MATRIX.numpy(), Y.numpy()
        information = np.linalg.inv(prior.covariance) + a.T @ a / STD**2
        np.testing.assert_allclose(found.covariance, np.linalg.inv(information), rtol=1e-9, atol=1e-12)
        pulled = np.linalg.solve(prior.covariance, MEAN) + a.T @ y / STD**2
        np.testing.assert_allclose(found.mean, np.linalg.solve(information, pulled), rtol=1e-9, atol=1e-12)
    certain = exact.Gaussian(MEAN, FULL).given(MATRIX, Y, 0.0)
    np.testing.assert_allclose(MATRIX.numpy() @ certain.mean, Y, atol=1e-12)
    np.testing.assert_allclose(MATRIX.numpy() @ certain.covariance, 0, atol=1e-12)


def test_points_get_the_weights_of_bayes_and_labels_stay() -> None:
    points = random(6, 2, seed=7).numpy()
    found = exact.Empirical(points).given([[1.0, 1.0]], [0.2], 0.4)
    want = np.exp(-((points.sum(1) - 0.2) ** 2) / (2 * 0.4**2))
    np.testing.assert_allclose(found.weights, want / want.sum(), rtol=1e-12)
    np.testing.assert_allclose(found.means, points)
    sure = exact.Empirical([[0.0], [1.0], [90.0]]).given([[1.0]], [1.0], 0.01)
    assert sure.means.tolist() == [[0.0], [1.0]] or sure.means.tolist() == [[1.0]]  # the third has underflowed
    labelled = exact.GaussianMixture([0.5, 0.5], [[-50.0], [1.0]], 0.01, labels=[3, 4]).given([[1.0]], [1.0], 0.01)
    assert labelled.labels == (4,)


@pytest.mark.parametrize(
    ("operator", "y", "std", "message"),
    [
        (MATRIX, Y[:2], STD, r"operator must have shape \(observations, 5\) and y shape \(observations,\)"),
        (MATRIX[:, :4], Y, STD, r"got \(3, 4\) and \(3,\)"),
        (MATRIX, Y, -1.0, "std must be at least 0 and finite; got -1.0"),
        (MATRIX, Y * math.nan, STD, "y must be finite"),
        (MATRIX[[0, 0, 1]], Y, 0.0, "must have a density under every component, but with std=0.0 it has none"),
    ],
)
def test_observations_without_a_posterior(operator: Any, y: Any, std: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        exact.Gaussian(MEAN, FULL).given(operator, y, std)


# What the rules are exact for: the prediction is that of the exact posterior, at every level


CASES: dict[str, tuple[Any, Any, torch.Tensor, dict[str, Any]]] = {
    # rule: covariance, operator, y, options
    "mmps": (FULL, MATRIX, Y, {}),
    "pgdm": (0.49, MATRIX, Y, {"data_std": 0.7}),
    "tmpd": (np.diag(FULL).copy(), MASK, HIDDEN_Y, {}),
    "dps": (0.0, MATRIX, Y, {}),
}


def as_matrix(operator: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return (ROWS, Y) if operator is MASK else (operator, y)


@each("name", PROCESSES)
@pytest.mark.parametrize("rule", RULES)
def test_each_rule_is_exact_for_what_its_docstring_says(rule: Rule, name: str) -> None:
    process = PROCESSES[name]
    covariance, operator, y, options = CASES[rule]
    prior = exact.Gaussian(MEAN, covariance, process)
    truth = prior.given(*as_matrix(operator, y), STD)
    model = guidance.observed(prior, operator, y, STD, rule, **options)
    away = apart(model, truth, process)
    assert away[:-1].max() < 1e-8
    # At alpha 0 the covariance is read at alpha 1e-3, which is 1e-3 of the data away.
    assert away[-1] < (5e-3 if process.alpha(process.sigma_max) < 1e-3 else 1e-7)


@pytest.mark.parametrize(
    ("rule", "covariance", "options"),
    [
        ("pgdm", FULL, {}),
        ("pgdm", 0.49, {}),  # of another size than data_std
        ("tmpd", FULL, {}),
        ("dps", 0.49, {}),
        ("mmps", FULL, {"iterations": 1}),
        ("mmps", FULL, {"iterations": 2}),
    ],
)
def test_a_rule_is_an_approximation_elsewhere(rule: Rule, covariance: Any, options: dict[str, Any]) -> None:
    prior = exact.Gaussian(MEAN, covariance, EDM())
    model = guidance.observed(prior, MATRIX, Y, STD, rule, **options)
    assert apart(model, prior.given(MATRIX, Y, STD), EDM()).max() > 0.02


def test_of_all_rules_mmps_is_nearest_for_a_mixture_and_still_not_exact() -> None:
    prior = mixture(EDM())
    truth = prior.given(MATRIX, Y, STD)
    found = {rule: apart(guidance.observed(prior, MATRIX, Y, STD, rule), truth, EDM()).mean() for rule in RULES}
    assert min(found.values()) == found["mmps"] > 0.05


def test_mmps_without_noise_meets_the_observation() -> None:
    prior = exact.Gaussian(MEAN, FULL, EDM())
    away = apart(guidance.observed(prior, MATRIX, Y, 0.0), prior.given(MATRIX, Y, 0.0), EDM())
    assert away.max() < 1e-6
    isotropic = exact.Gaussian(MEAN, 0.49, EDM())
    for operator in (MATRIX, lambda v: v @ MATRIX.T):
        model = guidance.observed(isotropic, operator, Y, 0.0, "pgdm", data_std=0.7)
        assert apart(model, isotropic.given(MATRIX, Y, 0.0), EDM()).max() < 1e-6


def test_pgdm_with_dependent_rows_and_no_noise_takes_the_pseudoinverse() -> None:
    prior = exact.Gaussian(MEAN, 0.49, EDM())
    twice, y = MATRIX[[0, 1, 2, 0]], Y[[0, 1, 2, 0]]
    model = guidance.observed(prior, twice, y, 0.0, "pgdm", data_std=0.7)
    assert apart(model, prior.given(MATRIX, Y, 0.0), EDM()).max() < 1e-6


def test_dps_is_the_gradient_of_the_likelihood_of_the_prediction() -> None:
    """This holds for residuals within the noise. Beyond it, the variance of the residuals is used."""
    prior, sigma = mixture(EDM()), torch.full((4,), 0.5, dtype=torch.float64)
    x = torch.from_numpy(mixture().sample(4, 1))
    for std in (30.0, 0.01):
        leaf = x.clone().requires_grad_()
        residual = Y - prior(leaf, sigma) @ MATRIX.T
        variance = torch.full((4,), std**2).double() if std > 1 else residual.detach().square().mean(1)
        (slope,) = torch.autograd.grad((-residual.square().sum(1) / (2 * variance)).sum(), leaf)
        got = guidance.observed(prior, MATRIX, Y, std, "dps", zeta=0.7)(x, sigma)
        torch.testing.assert_close(got, prior(x, sigma) + 0.7 * 0.5**2 * slope, rtol=1e-10, atol=1e-12)


# Whole runs: a run is affine in its start and its noises, so its law is known from one run on the unit vectors


class UnitNoise:
    """Item k of a batch gets one at the k-th number of all noises of a run, and zeros else."""

    def __init__(self, first: int) -> None:
        self.next = first

    def __call__(self, sigma_from: Any, sigma_to: Any) -> torch.Tensor:
        noise = torch.zeros(self.items, DIMENSION, dtype=torch.float64)
        for i in range(DIMENSION):
            noise[self.next + i, i] = 1
        self.next += DIMENSION
        return noise

    items: int


def law(name: str, steps: int, process: Process, truth: exact.Gaussian, model: Any) -> tuple[np.ndarray, np.ndarray]:
    """Exact mean and covariance of a run's results, from the exact law of the posterior's state at its first level."""
    sampler = build_sampler(name, "karras", steps, process=process)
    first = float(sampler.sigmas[0])
    alpha, std = process.alpha(first), process.noise_std(first)
    draws = sampler.plan.draws if isinstance(sampler.plan.draws, int) else len(sampler.plan.draws)
    items = 1 + DIMENSION * (1 + draws)
    root = np.linalg.cholesky(alpha**2 * truth.covariance + std**2 * np.eye(DIMENSION))
    x = torch.from_numpy(np.tile(alpha * truth.mean, (items, 1)))
    x[1 : 1 + DIMENSION] += torch.from_numpy(root.T)
    noise = UnitNoise(1 + DIMENSION)
    noise.items = items
    result = sampler.sample(model, x, noise=noise if draws else None).numpy()
    parts = result[1:] - result[0]
    return result[0], parts.T @ parts


ORDERS = {"uni_pc": 2, "dpmpp_2m": 2, "heun": 2, "dpmpp_2m_sde": 1, "euler_ancestral": 1}


@pytest.mark.filterwarnings("ignore:the start of a run must be a state")  # unit vectors are none
@short(lambda name, process: process == in_turn(list(ORDERS).index(name), COORDINATES.values()))
@pytest.mark.parametrize("process", COORDINATES.values(), ids=COORDINATES)
@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_mmps_tends_to_the_exact_posterior_with_steps(name: str, order: int, process: Process) -> None:
    prior = exact.Gaussian(MEAN, FULL, process)
    truth = cast(exact.Gaussian, prior.given(MATRIX, Y, STD))
    model = guidance.observed(prior, MATRIX, Y, STD)
    errors = []
    for steps in (20, 80):
        mean, covariance = law(name, steps, process, truth, model)
        assert np.abs(mean - truth.mean).max() < 1e-6  # the path of the mean is straight
        errors.append(np.abs(covariance - truth.covariance).max())
    assert errors[0] < 0.3
    assert errors[1] < max(errors[0] / 4 ** (order - 0.4), 2e-3)  # the second: from alpha 0, see `highest_level`
    assert errors[1] < (0.1 if name == "euler_ancestral" else 0.01)


def test_what_is_not_exact_does_not_tend_to_the_posterior() -> None:
    prior = exact.Gaussian(MEAN, FULL, EDM())
    truth = cast(exact.Gaussian, prior.given(MATRIX, Y, STD))
    for rule in ("pgdm", "tmpd"):
        mean, _ = law("dpmpp_2m", 80, EDM(), truth, guidance.observed(prior, MATRIX, Y, STD, rule))
        assert np.abs(mean - truth.mean).max() > 0.03


@pytest.mark.parametrize("part", [1, pytest.param(3, marks=pytest.mark.exhaustive)])
@each("spec", SPECS)
def test_with_every_sampler_on_the_three_kinds_of_states(spec: SamplerSpec, part: int) -> None:
    """In the short suite on one of the three, each sampler on another."""
    processes = list(filter(spec.runs_on, COORDINATES.values()))
    for k, process in enumerate(processes if part == 3 else [in_turn(SPECS.index(spec), processes)]):
        sampler = build_sampler(spec.name, "karras", 4, process=process)
        x = start_state(process, sampler.sigmas[0], (2, DIMENSION), dtype=torch.float32)
        prior, rule = guidance.cfg(mixture(process), mixture(process), 1.0), RULES[(SPECS.index(spec) + k) % 2]
        model = guidance.observed(prior, MASK, HIDDEN_Y.float(), STD, rule, process=process)
        result = sampler.sample(model, x, seed=0)
        assert result.dtype == torch.float32
        assert torch.isfinite(result).all()


def test_pure_noise_at_sigma_infinite_and_the_last_levels() -> None:
    process = VP(variance_preserving=True)
    prior = exact.Gaussian(MEAN, FULL, process)
    sampler = build_sampler("dpmpp_2m", sigmas=[math.inf, 80.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.0], process=process)
    x = random(4, DIMENSION, seed=8)
    for rule in RULES:
        assert torch.isfinite(sampler.sample(guidance.observed(prior, MATRIX, Y, STD, rule), x)).all()
        for other, sigma in ((EDM(), 0.0), (Flow(), 0.0), (process, 0.0)):
            model = exact.Gaussian(MEAN, FULL, other)
            found = guidance.observed(model, MATRIX, Y, STD, rule)(x, torch.full((4,), sigma))
            torch.testing.assert_close(found, x, rtol=1e-12, atol=1e-12)  # nothing is left to be learned
    truth = prior.given(MATRIX, Y, STD).mean
    start = guidance.observed(prior, MATRIX, Y, STD)(x, torch.full((4,), math.inf))
    np.testing.assert_allclose(start, np.tile(truth, (4, 1)), atol=5e-3)


# Operators


class Deepinv:
    def A(self, x: torch.Tensor) -> torch.Tensor:  # noqa: N802
        return x.flatten(1) @ MATRIX.to(x).T

    def A_adjoint(self, y: torch.Tensor) -> torch.Tensor:  # noqa: N802
        return y @ MATRIX.to(y)


class Module(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ MATRIX.to(x).T

    def transpose(self, y: torch.Tensor) -> torch.Tensor:
        return y @ MATRIX.to(y)


@pytest.mark.parametrize("rule", RULES)
def test_operators_of_all_forms_agree(rule: Rule) -> None:
    prior, x, sigma = mixture(EDM()), random(4, DIMENSION), torch.tensor([0.1, 0.5, 2.0, 9.0]).double()

    def results(*operators: Any, y: torch.Tensor = Y) -> list[torch.Tensor]:
        return [guidance.observed(prior, operator, y, STD, rule)(x, sigma) for operator in operators]

    forward, transpose = Deepinv().A, Deepinv().A_adjoint
    first, *others = results(MATRIX, forward, (forward, transpose), Deepinv(), Module())
    for other in others:
        torch.testing.assert_close(other, first, rtol=1e-9, atol=1e-9)
    (masked,) = results(MASK, y=HIDDEN_Y)
    for other in results(ROWS, lambda v: v[:, MASK]):
        torch.testing.assert_close(other, masked, rtol=1e-9, atol=1e-9)
    (weighted,) = results(MASK.double() * 0.5, y=0.5 * HIDDEN_Y)
    torch.testing.assert_close(results(0.5 * ROWS, y=0.5 * Y)[0], weighted, rtol=1e-9, atol=1e-9)


def test_states_of_any_shape_and_observations_of_each_item() -> None:
    process = Flow()
    prior = exact.Gaussian(np.zeros(12), 0.7, process)
    x, sigma = random(3, 3, 2, 2), torch.tensor([0.2, 0.5, 0.8]).double()
    mask, y = torch.tensor([[True, False], [True, True]]), random(3, 1, 2, 2, seed=3)
    whole = guidance.observed(prior, mask, y, STD)(x, sigma)
    for i in range(3):
        alone = guidance.observed(prior, mask, y[i], STD)(x[i : i + 1], sigma[i : i + 1])
        torch.testing.assert_close(alone, whole[i : i + 1], rtol=1e-12, atol=1e-12)
    pooled = guidance.observed(prior, lambda v: torch.nn.functional.avg_pool2d(v, 2), random(3, 1, 1), STD)(x, sigma)
    assert pooled.shape == x.shape


def test_a_curved_operator_goes_by_its_derivative() -> None:
    """PiGDM against the same with the derivative as its matrix; the others refuse it."""
    prior = exact.Gaussian(MEAN, FULL, EDM())
    x, sigma = random(1, DIMENSION), torch.tensor([0.5]).double()

    def curved(v: torch.Tensor) -> torch.Tensor:
        return torch.tanh(v @ MATRIX.T)

    at = prior(x, sigma)
    slope = slopes(lambda v: curved(v[None])[0], at[0])
    straight = guidance.observed(prior, slope, Y - curved(at)[0] + slope @ at[0], STD, "pgdm")
    got = guidance.observed(prior, curved, Y, STD, "pgdm")(x, sigma)
    torch.testing.assert_close(got, straight(x, sigma), rtol=1e-9, atol=1e-9)
    assert torch.isfinite(guidance.observed(prior, curved, Y, STD, "dps")(x, sigma)).all()
    for rule in ("mmps", "tmpd"):
        with pytest.raises(ValueError, match=r"must be linear for this rule.*rule='dps' or 'pgdm'"):
            guidance.observed(prior, curved, Y, STD, rule)(x, sigma)


# Discipline


@pytest.mark.parametrize("rule", RULES)
def test_an_item_does_not_see_its_batch(rule: Rule) -> None:
    prior, x = mixture(EDM()), 3 * random(6, DIMENSION)
    sigma = torch.tensor([0.01, 0.1, 0.5, 2.0, 9.0, 80.0]).double()
    model = guidance.observed(prior, lambda v: v @ MATRIX.T, Y, STD, rule)
    alone = torch.cat([model(x[i : i + 1], sigma[i : i + 1]) for i in range(6)])
    torch.testing.assert_close(model(x, sigma), alone, rtol=1e-10, atol=1e-10)
    assert torch.equal(model(x, sigma), model(x, sigma))


def test_runs_in_a_batch_are_what_they_are_alone() -> None:
    model = guidance.observed(mixture(), MASK, HIDDEN_Y.float(), STD)
    batch, wanted, runs = Batch(), [], []
    for i, name in enumerate(("dpmpp_2m", "heun", "euler_ancestral")):
        sampler = build_sampler(name, "karras", 4 + i)
        x = start_state(VP(), sampler.sigmas[0], (1 + i, DIMENSION), seed=i, dtype=torch.float32)
        runs.append(batch.add(sampler.start(x, seed=i)))
        wanted.append(sampler.sample(model, x, seed=i))
    while batch:
        batch.tick(model)
    for run, want in zip(runs, wanted, strict=True):
        torch.testing.assert_close(run.x, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dtype_is_kept_and_inputs_are_not_written(rule: Rule, dtype: torch.dtype) -> None:
    x, sigma, y, matrix = random(4, DIMENSION).to(dtype), torch.tensor([0.1, 0.5, 2.0, 9.0]), Y.clone(), MATRIX.clone()
    before = x.clone()
    weights = torch.ones(DIMENSION, dtype=dtype, requires_grad=True)

    def network(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        calls.append(x.shape)
        return mixture(EDM())(x, sigma) * weights

    for mode in (torch.no_grad, torch.enable_grad, torch.inference_mode):
        calls: list[Any] = []
        with mode():
            found = guidance.observed(network, matrix, y, STD, rule)(x, sigma)
        assert found.dtype == dtype
        assert not found.requires_grad
        assert calls == [x.shape]
        assert torch.isfinite(found).all()
    assert torch.equal(x, before)
    assert x.grad is None
    assert weights.grad is None
    assert torch.equal(y, Y)
    assert torch.equal(matrix, MATRIX)


def test_in_inference_mode_with_tensors_made_there() -> None:
    sampler = build_sampler("dpmpp_2m", "karras", 5)
    x = start_state(VP(), sampler.sigmas[0], (2, DIMENSION), dtype=torch.float32)
    want = sampler.sample(guidance.observed(mixture(), MASK, HIDDEN_Y.float(), STD), x)
    with torch.inference_mode():
        model = guidance.observed(mixture(), MASK.clone(), HIDDEN_Y.float().clone(), STD)
        assert torch.equal(sampler.sample(model, x.clone()), want)
        matrix = guidance.observed(mixture(), ROWS.clone(), Y.clone(), STD, "pgdm")
        assert torch.isfinite(sampler.sample(matrix, x.clone())).all()


def test_with_guidance_inside_and_outside() -> None:
    first, second = exact.Gaussian(MEAN, FULL), exact.Gaussian(-MEAN, 0.5)
    x, sigma = random(3, DIMENSION), torch.tensor([0.3, 1.0, 4.0]).double()
    inside = guidance.observed(guidance.cfg(first, second, 2.0), MATRIX, Y, STD)
    denoised, twin = inside(x, sigma)
    plain = guidance.cfg(first, second, 2.0)(x, sigma)
    torch.testing.assert_close(denoised - plain[0], twin - plain[1])  # both are moved by as much
    assert (denoised - plain[0]).abs().max() > 0.1
    outside = guidance.cfg(guidance.observed(first, MATRIX, Y, STD), guidance.observed(second, MATRIX, Y, STD), 2.0)
    c, u = (model.given(MATRIX, Y, STD)(x, sigma) for model in (first, second))
    torch.testing.assert_close(outside(x, sigma)[0], u + 2 * (c - u), rtol=1e-8, atol=1e-8)
    again = guidance.observed(guidance.observed(first, MATRIX[:1], Y[:1], STD), MATRIX[1:], Y[1:], STD)
    with pytest.raises(ValueError, match="must have a gradient with respect to x"):
        again(x, sigma)
    sampler = build_sampler("euler_cfg_pp", "karras", 6)
    assert torch.isfinite(sampler.sample(inside, start_state(VP(), sampler.sigmas[0], (2, DIMENSION)))).all()


def test_a_network_inside_a_denoiser_tells_its_process() -> None:
    network = Denoiser(lambda x, t: 0.3 * x, Flow(), "flow")
    sampler = build_sampler("euler", "simple", 4, process=Flow())
    x = start_state(Flow(), 1.0, (2, DIMENSION))
    want = sampler.sample(guidance.observed(lambda x, s: network(x, s), MATRIX, Y, STD, process=Flow()), x)
    assert torch.equal(sampler.sample(guidance.observed(network, MATRIX, Y, STD), x), want)
    with pytest.raises(ValueError, match="the observation is for VP"):
        sampler.sample(guidance.observed(lambda x, s: network(x, s), MATRIX, Y, STD), x)
    with pytest.raises(ValueError, match="must mean the same states"):
        build_sampler("euler", "karras", 4).sample(guidance.observed(network, MATRIX, Y, STD), 14 * x)


# Mistakes


NOT_ONE: Any = 3


def never(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    raise AssertionError("the model was called")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: guidance.observed(NOT_ONE, MATRIX, Y, STD), r"denoiser must be callable, \(x, sigma\) -> denoised"),
        (lambda: guidance.observed(never, NOT_ONE, Y, STD), "operator must be a mask, a matrix, a differentiable"),
        (lambda: guidance.observed(never, MATRIX.long(), Y, STD), "operator must be a bool or floating-point tensor"),
        (lambda: guidance.observed(never, MATRIX * math.nan, Y, STD), "operator must be finite"),
        (lambda: guidance.observed(never, MATRIX, NOT_ONE, STD), "y must be a floating-point tensor; got int"),
        (lambda: guidance.observed(never, MATRIX, Y * math.inf, STD), "y must be finite where it is observed"),
        (lambda: guidance.observed(never, MASK, Y, STD), r"y must broadcast with the mask; got shape \(3,\)"),
        (lambda: guidance.observed(never, MATRIX, Y, -0.1), "observed: std must be .* at least 0; got -0.1"),
        (lambda: guidance.observed(never, MATRIX, Y, 0.0, "dps"), "std must be above 0 for rule 'dps'"),
        (lambda: guidance.observed(never, MATRIX, Y, 0.0, "tmpd"), "std must be above 0 for rule 'tmpd'"),
        (lambda: guidance.observed(never, MATRIX, Y, STD, cast(Any, "mpms")), "did you mean 'mmps'"),
        (lambda: guidance.observed(never, MATRIX, Y, STD, zeta=1.0), "zeta is an option of 'dps'; rule 'mmps' has"),
        (lambda: guidance.observed(never, MATRIX, Y, STD, iterations=0), "iterations must be at least 1"),
        (lambda: guidance.observed(never, MATRIX, Y, STD, "pgdm", data_std=0.0), "data_std must be"),
        (lambda: guidance.observed(never, MATRIX, Y, STD, process=NOT_ONE), "process must be a ksched process"),
    ],
)
def test_mistakes_in_arguments(build: Callable[[], Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        build()


@pytest.mark.parametrize(
    ("operator", "y", "message"),
    [
        (MATRIX[:, :4], Y, r"a matrix must have a column for each of the 5 values.*as in mask\[None\]"),
        (MATRIX, Y[:2], r"y must broadcast to the operator's result.* has shape \(2, 3\); got \(2,\)"),
        (MASK[:4], HIDDEN_Y[:4], r"a mask must broadcast to the state's shape \(2, 5\); got \(4,\)"),
        (lambda v: v.sum(), Y, "operator must return a batch of 2"),
        (lambda v: None, Y, "operator must return a tensor; got NoneType"),
        (lambda v: v.detach()[:, :3], Y, "operator must be differentiable by torch"),
        (lambda v: v[:, :3] + 1, Y, "operator must be linear for this rule"),
        ((lambda v: v[:, :3], lambda v: v), Y, "transpose must return the state's shape"),
        ((lambda v: v @ MATRIX.T.to(v), lambda v: 2 * v @ MATRIX.to(v)), Y, "transpose must match its forward"),
    ],
)
def test_mistakes_are_seen_before_the_first_model_call(operator: Any, y: torch.Tensor, message: str) -> None:
    model = guidance.observed(never, operator, y, STD)
    with pytest.raises((TypeError, ValueError), match=message):
        model(torch.ones(2, DIMENSION), torch.ones(2))


def test_a_denoiser_that_hides_its_gradient() -> None:
    def hidden(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return x / 2

    with pytest.raises(
        ValueError, match=r"must have a gradient with respect to x, and it has none; remove torch.no_grad\(\)"
    ):
        guidance.observed(hidden, MATRIX, Y, STD)(torch.ones(2, DIMENSION), torch.ones(2))
