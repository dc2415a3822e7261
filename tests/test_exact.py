"""The exact denoisers against quadrature, plain numpy, equal quantiles and Runge-Kutta."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from importlib import resources
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from cases import quick
from hypothesis import given, settings
from hypothesis import strategies as st
from representatives import short
from scipy.optimize import brentq
from scipy.special import ndtr
from torch.utils._python_dispatch import TorchDispatchMode

from ksched.exact.empirical import Empirical
from ksched.exact.handwritten import digits
from ksched.exact.mixture import Gaussian, GaussianMixture
from ksched.processes import EDM, VE, VP, Flow, Process

Array = npt.NDArray[np.float64]

PRESERVING = VP(zero_terminal_snr=True, variance_preserving=True)
PROCESSES: list[tuple[Process, float]] = [  # with the sigma that a run may start at
    (VP(), 14.6),
    (EDM(), 80.0),
    (VE(), 50.0),
    (Flow(), 1.0),
    (PRESERVING, math.inf),
]
every_process = pytest.mark.parametrize(("process", "top"), PROCESSES, ids=["VP", "EDM", "VE", "Flow", "preserving"])

WEIGHTS, MEANS, VARIANCES = np.array([0.2, 0.5, 0.3]), np.array([-2.0, 0.3, 1.1]), np.array([0.04, 0.3, 0.01])


def line(process: Process) -> GaussianMixture:
    """Three Gaussians on a line."""
    return GaussianMixture(WEIGHTS, MEANS[:, None], VARIANCES, process)


def cloud(process: Process | None = None, dimension: int = 6, parts: int = 4, seed: int = 0) -> GaussianMixture:
    """A mixture with full covariances, badly conditioned ones among them."""
    rng = np.random.default_rng(seed)
    factors = rng.standard_normal((parts, dimension, dimension)) * np.geomspace(0.02, 0.5, dimension)
    weights = rng.uniform(0.2, 1, parts)
    means = rng.standard_normal((parts, dimension))
    return GaussianMixture(weights / weights.sum(), means, factors @ factors.swapaxes(1, 2), process)


def states(truth: GaussianMixture, sigma: float, n: int = 5, seed: int = 1) -> torch.Tensor:
    """Noised draws: states where the density lives."""
    noise = np.random.default_rng(seed).standard_normal((n, truth.dimension))
    x0 = truth.sample(n, seed)
    return torch.from_numpy(truth.process.alpha(sigma) * x0 + truth.process.noise_std(sigma) * noise)


def shares(log: Array) -> Array:
    """What is in proportion to the exponentials and adds up to 1, in each row."""
    weights = np.exp(log - log.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def textbook(truth: GaussianMixture, x: Array, alpha: float, std: float) -> Array:
    """Posterior means by the conditional-Gaussian formula, matrices inverted one by one."""
    covariances = truth.covariances
    if covariances.ndim == 2:
        covariances = np.stack([np.diag(c) for c in covariances])
    marginal = alpha**2 * covariances + std**2 * np.eye(truth.dimension)
    result = np.empty_like(x)
    for i, row in enumerate(x):
        log = [
            np.log(w) - ((row - alpha * m) @ np.linalg.solve(v, row - alpha * m) + np.linalg.slogdet(v)[1]) / 2
            for w, m, v in zip(truth.weights, truth.means, marginal, strict=True)
        ]
        share = shares(np.array(log))
        parts = [
            m + alpha * c @ np.linalg.solve(v, row - alpha * m)
            for m, c, v in zip(truth.means, covariances, marginal, strict=True)
        ]
        result[i] = share @ np.array(parts)
    return result


def close(got: Any, want: Any, tolerance: float) -> None:
    got, want = np.asarray(got), np.asarray(want)
    assert np.isfinite(got).all()
    assert np.abs(got - want).max() <= tolerance * max(1.0, np.abs(want).max())


# ------------------------------------------------------------------------------------------------ the posterior mean


@every_process
def test_the_quick_denoiser_of_other_tests_is_this_one(process: Process, top: float) -> None:
    truth = GaussianMixture([0.3, 0.7], [[1.0, -0.5, 0.2], [-0.6, 0.3, 0.0]], [0.09, 0.04], process)
    x = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for sigma in (0.03, 0.3, min(0.99 * top, 12.0)):
        level = torch.full((7,), sigma, dtype=torch.float64)
        torch.testing.assert_close(quick(truth)(x, level), truth(x, level), rtol=1e-9, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    weight=st.floats(0.05, 0.95),
    means=st.tuples(st.floats(-3, 3), st.floats(-3, 3)),
    stds=st.tuples(st.floats(0.1, 2), st.floats(0.1, 2)),
    sigma=st.floats(0.02, 0.98),
    z=st.floats(-3, 3),
    flow=st.booleans(),
)
def test_posterior_mean_is_the_quadrature_of_bayes_rule(
    weight: float, means: tuple[float, float], stds: tuple[float, float], sigma: float, z: float, flow: bool
) -> None:
    process: Process = Flow() if flow else EDM()
    alpha = 1 - sigma if flow else 1.0
    truth = GaussianMixture([weight, 1 - weight], np.array(means)[:, None], np.array(stds) ** 2, process)
    x = alpha * truth.mean[0] + z * math.sqrt(alpha**2 * truth.covariance[0, 0] + sigma**2)
    # The integrand is a sum of Gaussians, for which the trapezium rule converges faster than any power.
    span = np.linspace(-30, 30, 60_001)
    prior = sum(
        w / s * np.exp(-(((span - m) / s) ** 2) / 2) for w, m, s in zip((weight, 1 - weight), means, stds, strict=True)
    )
    log_joint = np.log(prior + 1e-300) - ((x - alpha * span) / sigma) ** 2 / 2
    joint = np.exp(log_joint - log_joint.max())
    close(truth(torch.tensor([[x]], dtype=torch.float64), sigma), [[span @ joint / joint.sum()]], 1e-9)


@every_process
@pytest.mark.parametrize("part", [1.0, 0.3, 0.01])
def test_posterior_mean_in_several_dimensions(process: Process, top: float, part: float) -> None:
    truth, sigma = cloud(process), top if part == 1 else part * min(top, 10.0)
    x = states(truth, sigma)
    want = textbook(truth, x.numpy(), process.alpha(sigma), process.noise_std(sigma))
    close(truth(x, sigma), want, 1e-10)


@pytest.mark.parametrize("shape", [(), (3,), (3, 5)], ids=["one number", "per component", "per coordinate"])
def test_variances_are_diagonal_matrices(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    variances, means = rng.uniform(0.1, 1, shape), rng.standard_normal((3, 5))
    full = np.broadcast_to(variances[..., None] if len(shape) == 1 else variances, (3, 5))[:, None] * np.eye(5)
    short, long = (GaussianMixture(WEIGHTS, means, c) for c in (variances, full))
    x = states(long, 0.7)
    close(short(x, 0.7), long(x, 0.7), 1e-13)
    close(short.solve(x, [0.7, 0.2, 0]), long.solve(x, [0.7, 0.2, 0]), 1e-11)
    close(short.covariance, long.covariance, 1e-14)


def test_finitely_many_points_are_averaged_by_nearness() -> None:
    data = np.random.default_rng(0).standard_normal((40, 3))
    x = np.random.default_rng(1).standard_normal((6, 3))
    log = -((x[:, None] - data) ** 2).sum(-1) / (2 * 0.6**2)
    weights = shares(log)
    truth = Empirical(data)
    close(truth(torch.from_numpy(x), 0.6), weights @ data, 1e-13)
    close(truth.responsibilities(torch.from_numpy(x), 0.6), weights, 1e-13)


@every_process
@pytest.mark.parametrize("make", [cloud, lambda process: Empirical(cloud().sample(20, 0), process)])
def test_density_and_posterior_mean_satisfy_tweedies_formula(
    process: Process, top: float, make: Callable[[Process], GaussianMixture]
) -> None:
    truth, sigma = make(process), 0.4 * min(top, 2.0)
    x = states(truth, sigma).requires_grad_()
    (score,) = torch.autograd.grad(truth.log_density(x, sigma).sum(), x)
    alpha, std = process.alpha(sigma), process.noise_std(sigma)
    close((x + std**2 * score).detach(), alpha * truth(x, sigma).detach(), 1e-11)


def test_log_density_is_normalised() -> None:
    for process in (Flow(), EDM()):
        span = torch.linspace(-12, 12, 20_001, dtype=torch.float64)[:, None]
        for truth in (line(process), Empirical([-1.0, 2.0], process)):
            assert float(truth.log_density(span, 0.5).exp().sum() * 24 / 20_000) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sigma_zero_returns_x_for_smooth_data_and_the_nearest_point_for_points(dtype: torch.dtype) -> None:
    data = np.random.default_rng(0).standard_normal((30, 4))
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((5, 4))).to(dtype)
    nearest = data[np.linalg.norm(x.numpy()[:, None] - data, axis=-1).argmin(1)]
    for process, _ in PROCESSES:
        for sigma in (0.0, torch.zeros(5, dtype=dtype)):
            assert torch.equal(cloud(process, dimension=4)(x, sigma), x)
            assert torch.equal(Gaussian(np.ones(4), 0.3, process)(x, sigma), x)
            assert torch.equal(Empirical(data, process)(x, sigma), torch.from_numpy(nearest).to(dtype))


def test_singular_data_is_projected_on_at_sigma_zero() -> None:
    axis = np.array([0.6, 0.8])
    truth = Gaussian([0.0, 0.0], np.outer(axis, axis))
    x = torch.tensor([[1.0, 2.0], [0.3, -0.1]], dtype=torch.float64)
    close(truth(x, 0.0), (x.numpy() @ axis)[:, None] * axis, 1e-14)
    close(truth.solve(x, [0.5, 0.0])[-1], truth(x, 0.5) * math.sqrt(1.25), 1e-12)
    mixture = GaussianMixture([1.0], truth.means, truth.covariances)
    close(mixture.solve(x, [0.5, 0.0]), truth.solve(x, [0.5, 0.0]), 1e-10)


@pytest.mark.parametrize("make", [cloud, lambda process: Empirical(cloud().sample(20, 0), process)])
@every_process
def test_items_at_their_own_sigma_equal_items_one_at_a_time(
    process: Process, top: float, make: Callable[[Process], GaussianMixture]
) -> None:
    truth = make(process)
    sigmas = [0.0, 0.01, 0.5, 0.9, top]
    x = torch.cat([states(truth, sigma, 1, seed) for seed, sigma in enumerate(sigmas)]).reshape(5, 1, 2, 3)
    together = truth(x, torch.tensor(sigmas, dtype=torch.float64))
    assert together.shape == x.shape
    for i, sigma in enumerate(sigmas):
        close(together[i : i + 1], truth(x[i : i + 1], sigma), 1e-13)


# ------------------------------------------------------------------------------------------------------------- solve


def equal_quantile(cdf: Callable[[float, float], float], x: float, start: float, end: float) -> float:
    """Where the ODE on a line must lead: it keeps the order of points, so it keeps their quantile."""
    want = cdf(x, start)
    return float(brentq(lambda value: cdf(value, end) - want, -300, 300, xtol=1e-14, rtol=1e-14))


@every_process
def test_solve_keeps_quantiles_on_a_line(process: Process, top: float) -> None:
    def cdf(x: float, sigma: float) -> float:
        alpha, std = process.alpha(sigma), process.noise_std(sigma)
        return float(WEIGHTS @ ndtr((x - alpha * MEANS) / np.sqrt(alpha**2 * VARIANCES + std**2)))

    sigmas = [top, 0.9, 0.3, 0.05, 0.0]
    x = states(line(process), top, 6)
    path = line(process).solve(x, sigmas)
    assert torch.equal(path[0], x)
    for level, at in zip(sigmas[1:], path[1:], strict=True):
        close(at[:, 0], [equal_quantile(cdf, float(v), top, level) for v in x], 1e-10)


@every_process
def test_solve_keeps_quantiles_of_points_on_a_line_and_ends_on_them(process: Process, top: float) -> None:
    points = np.array([-1.5, -0.2, 0.1, 2.0])

    def cdf(x: float, sigma: float) -> float:
        return float(ndtr((x - process.alpha(sigma) * points) / process.noise_std(sigma)).mean())

    sigmas = [top, 0.9, 0.3, 0.05, 0.0]
    x = states(Empirical(points, process), top, 6)
    path = Empirical(points, process).solve(x, sigmas)
    for level, at in zip(sigmas[1:-1], path[1:-1], strict=True):
        close(at[:, 0], [equal_quantile(cdf, float(v), top, level) for v in x], 1e-10)
    close(path[-1][:, 0], [points[int(4 * cdf(float(v), top))] for v in x], 1e-14)


@short(lambda process, points: points == isinstance(process, Flow))
@pytest.mark.parametrize("process", [EDM(), Flow()], ids=["EDM", "Flow"])
@pytest.mark.parametrize("points", [False, True], ids=["mixture", "points"])
def test_solve_is_fine_runge_kutta_in_several_dimensions(process: Process, points: bool) -> None:
    truth = Empirical(cloud().sample(12, 0), process) if points else cloud(process)
    start, end = 0.95, 0.1

    def slope(log_sigma: float, x: Array) -> Array:  # dx / dlog(sigma) = x - D in both forms
        sigma = math.exp(log_sigma)
        alpha = process.alpha(sigma)
        if not points:
            return x - textbook(truth, x, alpha, sigma)
        log = -((x[:, None] - alpha * truth.means) ** 2).sum(-1) / (2 * sigma**2)
        return np.asarray(x - shares(log) @ truth.means)

    def runge_kutta(steps: int) -> Array:
        at, h, x = math.log(start), math.log(end / start) / steps, states(truth, start, 2).numpy()
        for _ in range(steps):
            k1 = slope(at, x)
            k2 = slope(at + h / 2, x + h / 2 * k1)
            k3 = slope(at + h / 2, x + h / 2 * k2)
            k4 = slope(at + h, x + h * k3)
            x, at = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), at + h
        return x

    steps = 800 if points else 80
    fine, coarse = runge_kutta(2 * steps), runge_kutta(steps)
    extrapolated = fine + (fine - coarse) / 15
    error = np.abs(fine - coarse).max() / 15  # of `fine`; the extrapolated value is better
    assert error < 1e-7
    close(truth.solve(states(truth, start, 2), [start, end])[-1], extrapolated, max(error / 10, 1e-10))


@every_process
def test_gaussian_closed_form_is_the_integrated_path(process: Process, top: float) -> None:
    rng = np.random.default_rng(3)
    factor = rng.standard_normal((5, 5)) * np.geomspace(0.01, 1, 5)
    mean, covariance = rng.standard_normal(5), factor @ factor.T
    gaussian = Gaussian(mean, covariance, process)
    mixture = GaussianMixture([1.0], [mean], [covariance], process)
    sigmas = [top, 0.8, 0.1, 0.01, 0.0]
    x = states(gaussian, top)
    path = gaussian.solve(x, sigmas)
    close(mixture.solve(x, sigmas), path, 1e-10)
    # And the path in words: along every principal axis the z-score stays what it is.
    for sigma, at in zip(sigmas, path, strict=True):
        alpha, std = process.alpha(sigma), process.noise_std(sigma)
        variances, axes = np.linalg.eigh(covariance)
        z = (at.numpy() - alpha * mean) @ axes / np.sqrt(alpha**2 * variances + std**2)
        z_start = (x.numpy() - process.alpha(top) * mean) @ axes
        z_start /= np.sqrt(process.alpha(top) ** 2 * variances + process.noise_std(top) ** 2)
        close(z, z_start, 1e-8)


@short(lambda process: isinstance(process, EDM | Flow))
@every_process
def test_solve_down_and_up_returns_to_the_start(process: Process, top: float) -> None:
    truth, sigmas = cloud(process, dimension=3), [top, 0.7, 0.02, 0.0]
    x = states(truth, top)
    down = truth.solve(x, sigmas)
    close(truth.solve(down[-1], sigmas[::-1]).flip(0), down, 1e-10)
    points = Empirical(truth.sample(9, 0), process)
    down = points.solve(x, [top, 0.8, 0.5])
    close(points.solve(down[-1], [0.5, 0.8, top])[-1], x, 1e-9)


@settings(max_examples=3, deadline=None)
@given(split=st.floats(0.01, 10), seed=st.integers(0, 100))
def test_solve_does_not_depend_on_the_stops(split: float, seed: int) -> None:
    truth = cloud(dimension=3, seed=seed)
    x = states(truth, 14.6, 2, seed)
    close(truth.solve(x, [14.6, split, 0.005])[-1], truth.solve(x, [14.6, 0.005])[-1], 1e-10)


def test_solve_ends_at_points_from_anywhere_even_halfway_between_them() -> None:
    truth = Empirical([[-1.0, 0.0], [1.0, 0.0], [1.0, 1e-3], [1.0, 1e-3]])
    x = torch.tensor([[0.0, 0.0], [30.0, 5.0], [-30.0, 5.0], [3.0, -9.0]], dtype=torch.float64)
    ends = truth.solve(x, [14.6, 0.0])[-1]
    assert (torch.cdist(ends[1:], torch.tensor(truth.means)).amin(1) < 1e-12).all()
    tie = Empirical([-1.0, 1.0]).solve(torch.zeros(1, 1, dtype=torch.float64), [5.0, 0.0])
    close(tie[-1], [[0.0]], 1e-14)  # the one path that never decides


def test_solve_takes_arrays_and_tensors_of_any_float_and_shape() -> None:
    truth = cloud()
    x = states(truth, 2.0).reshape(5, 1, 2, 3)
    path = truth.solve(x, [2.0, 1.0, 0.0])
    assert path.shape == (3, 5, 1, 2, 3)
    assert path.dtype == torch.float64
    array = truth.solve(x.numpy(), np.array([2.0, 1.0, 0.0]))
    assert isinstance(array, np.ndarray)
    assert array.dtype == np.float64
    np.testing.assert_array_equal(array, path.numpy())
    assert truth.solve(x.float(), [2.0, 1.0]).dtype == torch.float64
    assert torch.equal(truth.solve(x, [2.0])[0], x)


# ------------------------------------------------------------------------------------------------- draws and moments


@pytest.mark.parametrize("truth", [cloud(), Gaussian([1.0, -2.0], [0.5, 2.0]), Empirical(cloud().sample(50, 0))])
def test_draws_have_the_moments_and_repeat_with_the_seed(truth: GaussianMixture) -> None:
    before = str(np.random.get_state()), torch.get_rng_state()  # noqa: NPY002
    draws = truth.sample(40_000, 7)
    assert draws.shape == (40_000, truth.dimension)
    spread = np.sqrt(np.diag(truth.covariance))
    assert (np.abs(draws.mean(0) - truth.mean) < 5 * spread / 200).all()  # five standard errors
    assert np.abs(np.cov(draws.T) - truth.covariance).max() < 0.05 * spread.max() ** 2
    np.testing.assert_array_equal(truth.sample(5, 3), truth.sample(5, 3))
    assert (truth.sample(5, 3) != truth.sample(5, 4)).any()
    assert before[0] == str(np.random.get_state())  # noqa: NPY002
    assert torch.equal(before[1], torch.get_rng_state())


# ---------------------------------------------------------------------------------------------------- dtype, devices


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Fails on a float64 tensor, a value read back, or a shape that depends on values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        assert not any(word in name for word in ("_local_scalar_dense", "nonzero", "masked_select")), name
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            assert not isinstance(value, torch.Tensor) or value.dtype != torch.float64, name
        return result


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    "truth", [cloud(), cloud(PRESERVING), Gaussian(np.zeros(6), 1.0), Empirical(np.eye(6), Flow())], ids=repr
)
def test_a_call_stays_on_the_device_and_out_of_float64(truth: GaussianMixture, dtype: torch.dtype) -> None:
    double = states(truth, 0.8, 4).reshape(4, 2, 3).to(dtype)
    with Watch():  # type: ignore[no-untyped-call]
        results = [truth(double, sigma) for sigma in (0.8, torch.full((4,), 0.8), torch.tensor(0.8))]
        truth.log_density(double, 0.8)
    want = truth(double.double(), 0.8)
    for got in results:
        assert got.dtype == dtype
        assert got.shape == double.shape
        close(got.double(), want, 4 * torch.finfo(dtype).eps if dtype != torch.float32 else 2e-5)


def test_float64_stays_float64_although_sigma_is_float32() -> None:
    truth = cloud()
    x = states(truth, 0.75)
    close(truth(x, torch.full((5,), 0.75)), truth(x, 0.75), 1e-14)  # 0.75 is a float32


def test_float32_keeps_its_digits_from_end_to_end() -> None:
    for process, top in PROCESSES:
        for truth in (cloud(process), Empirical(cloud().sample(20, 0), process)):
            for sigma in (1e-6, 0.01, 0.5, top):
                x = states(truth, sigma).float()
                close(truth(x, sigma), truth(x.double(), sigma), 2e-4)


def test_denoisers_are_frozen_and_picklable() -> None:
    truth = cloud()
    x = states(truth, 1.0)
    with pytest.raises(AttributeError):
        truth.weights = WEIGHTS  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        truth.means[0] = 0
    assert torch.equal(pickle.loads(pickle.dumps(truth))(x, 1.0), truth(x, 1.0))


# --------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GaussianMixture([], np.zeros((0, 2)), 1.0), "weights must be one list"),
        (lambda: GaussianMixture([0.5, 0.6], np.zeros((2, 2)), 1.0), r"sum 1; got \[0.5 0.6\]"),
        (lambda: GaussianMixture([1.0, 0.0], np.zeros((2, 2)), 1.0), "positive numbers"),
        (lambda: GaussianMixture([0.5, np.nan], np.zeros((2, 2)), 1.0), "weights must be finite; got nan"),
        (lambda: GaussianMixture([0.5, 0.5], np.zeros((3, 2)), 1.0), r"2 components; got \(3, 2\)"),
        (lambda: GaussianMixture([1.0], np.zeros(2), 1.0), "means must have shape"),
        (lambda: GaussianMixture([1.0], np.zeros((1, 0)), 1.0), "means must have shape"),
        (lambda: GaussianMixture([1.0], [[np.inf]], 1.0), "means must be finite; got inf"),
        (
            lambda: GaussianMixture([0.5, 0.5], np.zeros((2, 2)), [1.0, 1.0, 1.0]),
            r"fit means of shape \(2, 2\); got \(3,\)",
        ),
        (lambda: GaussianMixture([1.0], [[0.0, 0.0]], [[[1.0, 0.5], [0.0, 1.0]]]), "covariances must be symmetric"),
        (lambda: GaussianMixture([1.0], [[0.0, 0.0]], [[[1.0, 2.0], [2.0, 1.0]]]), "no negative eigenvalue.*got -1"),
        (lambda: GaussianMixture([1.0], [[0.0]], -0.5), "no negative eigenvalue or variance; got -0.5"),
        (lambda: GaussianMixture([1.0], [[0.0]], 1.0, labels=[1, 2]), "labels must name all of the 1 components"),
        (lambda: Gaussian([0.0, 0.0], np.eye(3)), "covariances must be variances or matrices"),
        (lambda: Gaussian([0.0, np.nan], 1.0), "means must be finite"),
        (lambda: Empirical([]), "at least one point"),
        (lambda: Empirical(1.0), "data must have shape"),
        (lambda: Empirical([[1.0, np.nan]]), "data must be finite; got nan"),
        (lambda: cloud().only(3), r"label must be one of \[\]; got 3"),
        (lambda: cloud()(torch.zeros(2, 5), 1.0), r"prod\(shape\) = 6; got torch.float32 of shape \(2, 5\)"),
        (lambda: cloud()(torch.zeros(6), 1.0), r"\(batch, \*shape\)"),
        (lambda: cloud()(torch.zeros(2, 6, dtype=torch.int64), 1.0), "x must be floating point"),
        (lambda: cloud()(torch.zeros(2, 6), torch.ones(3)), "one for each of 2 items; got 3"),
        (lambda: cloud()(torch.zeros(2, 6), -1.0), "sigma must be a noise level of VP.*; got -1.0"),
        (lambda: cloud()(torch.zeros(2, 6), math.nan), "got nan"),
        (lambda: cloud()(torch.zeros(2, 6), math.inf), "got inf"),
        (lambda: cloud(Flow())(torch.zeros(2, 6), 1.5), "sigma must be a noise level of Flow.*; got 1.5"),
        (lambda: cloud().solve(torch.zeros(2, 5), [1.0, 0.0]), r"prod\(shape\) = 6"),
        (lambda: cloud().solve(torch.zeros(2, 6), []), "sigmas must start with the sigma of x"),
        (lambda: cloud().solve(torch.zeros(2, 6), [1.0, -1.0]), "got -1.0"),
        (lambda: Empirical(np.eye(6)).solve(torch.zeros(2, 6), [0.0, 1.0]), "fills a volume; start at a sigma above 0"),
        (lambda: Gaussian([0.0, 0.0], [1.0, 0.0]).solve(torch.zeros(2, 2), [0.0, 1.0]), "fills a volume"),
    ],
)
def test_bad_input_is_refused_with_a_reason(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# ------------------------------------------------------------------------------------------------------------ digits


def test_digits_are_small_labelled_and_look_like_ink_on_paper() -> None:
    file = resources.files("ksched") / "data" / "digits.npz"
    assert len(file.read_bytes()) <= 300_000
    with resources.as_file(file) as path, np.load(path, allow_pickle=False) as parts:
        assert "fit_digits.py" in str(parts["about"])
    truth = digits()
    assert sorted(set(truth.labels)) == list(range(10))
    assert truth.weights.sum() == pytest.approx(1)
    draws = truth.sample(500, 0)
    assert draws.shape == (500, 64)
    assert np.isfinite(draws).all()
    assert np.abs(draws).max() < 3  # pixels in [-1, 1] and the Gaussian tails beyond
    # The left and right edges of the real images are all but empty, the middle is not.
    picture = draws.mean(0).reshape(8, 8)
    assert picture[:, [0, 7]].max() < -0.8
    assert picture[3:5, 3:5].mean() > -0.3


def test_digits_of_one_label_are_recognised_by_the_whole_mixture() -> None:
    truth = digits(Flow())
    labels = np.array(truth.labels)
    for label in range(10):
        alone = truth.only(label)
        assert set(alone.labels) == {label}
        assert alone.process is truth.process
        part = truth.responsibilities(torch.from_numpy(alone.sample(40, label)), 0.05).argmax(1).numpy()
        assert (labels[part] == label).mean() >= 0.95


def test_digits_come_out_of_a_plain_euler_loop() -> None:
    truth = digits()
    sigmas = [*np.linspace(14.6 ** (1 / 7), 0.029 ** (1 / 7), 30) ** 7, 0.0]
    start = 14.6 * torch.from_numpy(np.random.default_rng(0).standard_normal((16, 1, 8, 8)))
    x = start.clone()
    for s, t in pairwise(sigmas):
        x = x + (t - s) / s * (x - truth(x, s))
    own = truth.log_density(torch.from_numpy(truth.sample(400, 0)), 0.0)
    assert (truth.log_density(x, 0.0) > own.min()).all()
    exact = truth.solve(start[:2], [14.6, 0.0])[-1]
    assert (x[:2] - exact).abs().mean() < 0.1
