"""Named noise: its distribution, its bits, and its effect on the distribution of a run."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from representatives import each

import ksched
from ksched import VP, arrays, build_sampler, noise, steer
from ksched.noise import BrownianNoise, Colored, Correlated, Offset, Pyramid, SeededNoise, seeded_source
from ksched.noise.correlated import _TORCH
from ksched.noise.kinds import NoiseName, drawn, kind_of_scheme
from ksched.noise.sources import noise_source
from ksched.plan.analysis import gaussian_covariance, gaussian_distance
from ksched.plan.rows import Draw

DRAW = Draw(3.0, 1.5)
KINDS: dict[str, Correlated] = {
    "pink": Colored(1.0),
    "brown": Colored(2.0),
    "violet": Colored(-2.0),
    "over frames": Colored(0.5, axes=(1, -1, -2)),
    "pyramid": Pyramid(0.5),
    "two levels": Pyramid(0.7, 2, axes=(-1,)),
    "offset": Offset(0.4),
    "published offset": Offset(0.4, unit_variance=False),
    "pyramid on a path": Pyramid(0.5, brownian=True),
}
SIZE = (3, 5, 6)


def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x) / (1 + sigma.reshape(-1, *[1] * (x.ndim - 1)))


def source(kind: Correlated, seeds: tuple[int, ...]) -> Any:
    return seeded_source(kind, seeds, VP())


# The law


@each("name", KINDS)
def test_the_covariance_is_that_of_the_numbers_drawn(name: str) -> None:
    """Also of variance 1 at every place, or as the docstring of the published form says."""
    kind = KINDS[name]
    exact = kind.covariance(SIZE)
    assert np.diag(exact) == pytest.approx(kind.std((1, *SIZE)) ** 2, abs=1e-6)
    assert kind.std((1, *SIZE)) == pytest.approx(math.sqrt(1.16) if name == "published offset" else 1.0, abs=1e-12)
    count = 600
    numbers = source(kind, tuple(range(count)))(DRAW, torch.empty(count, *SIZE)).reshape(count, -1).double().numpy()
    found = numbers.T @ numbers / count
    error = np.sqrt((np.outer(np.diag(exact), np.diag(exact)) + exact**2) / count)  # of an estimate
    assert (np.abs(found - exact) / error).max() < 6
    assert np.abs(numbers.mean(0)).max() < 6 / math.sqrt(count)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.floats(-8, 8))
@settings(max_examples=30)
def test_a_colour_is_a_power_law_on_states_of_every_shape(shape: list[int], exponent: float) -> None:
    """Its covariance is that of a stationary field whose spectrum is a power of the frequency."""
    exact = Colored(exponent, axes=tuple(range(1, len(shape) + 1))).covariance(shape)
    assert np.diag(exact) == pytest.approx(1, abs=1e-5)
    field = exact[0].reshape(shape)  # correlation with the place in a corner
    spectrum = np.fft.fftn(field).real
    squares = sum(f**2 for f in np.meshgrid(*map(np.fft.fftfreq, shape), indexing="ij"))
    frequency = np.maximum(np.sqrt(squares), 1 / max(shape))
    expected = frequency**-exponent / np.mean(frequency**-exponent)
    np.testing.assert_allclose(spectrum, expected, rtol=1e-4, atol=1e-5 * expected.max())


def test_offset_changes_the_mean_of_a_channel_and_nothing_else() -> None:
    places = SIZE[1] * SIZE[2]
    exact = Offset(0.4, unit_variance=False).covariance(SIZE) - np.eye(3 * places)
    same_channel = np.kron(np.eye(3), np.ones((places, places)))
    np.testing.assert_allclose(exact, 0.16 * same_channel, atol=1e-6)


# Bits


@each("name", KINDS)
def test_an_item_has_its_noise_whatever_the_batch_dtype_and_library(name: str) -> None:
    kind = KINDS[name]
    whole = source(kind, (7, 8, 9))(DRAW, torch.empty(3, *SIZE))
    alone = source(kind, (8,))(DRAW, torch.empty(1, *SIZE))
    assert torch.equal(whole[1:2], alone)
    assert torch.equal(source(kind, (9, 7))(DRAW, torch.empty(2, *SIZE)), whole[[2, 0]])
    half = source(kind, (7, 8, 9))(DRAW, torch.empty(3, *SIZE, dtype=torch.bfloat16))
    assert torch.equal(half, whole.bfloat16())
    base = source(kind, (7, 8, 9)).base

    def white(own: Draw, shape: tuple[int, ...]) -> torch.Tensor:
        return base(own, torch.empty(shape))  # type: ignore[no-any-return]

    on_device = drawn(kind, DRAW, (3, *SIZE), white, _TORCH)  # as a GPU would form it
    if isinstance(kind, Colored):
        torch.testing.assert_close(on_device, whole, rtol=1e-5, atol=3e-6)
    else:
        assert torch.equal(on_device, whole)
    limited = source(kind, (7, 8, 9))(DRAW._replace(limit=0.5), torch.empty(3, *SIZE))
    bound = 0.5 * kind.std((1, *SIZE))
    assert torch.equal(limited, whole.clamp(-np.float32(bound), np.float32(bound)))


def test_golden_numbers() -> None:
    """If this fails, pictures change: a new rule needs a new name."""
    golden = {
        "ksched colored 1": (Colored(1.0), [1.6245679, -1.3430359, 0.8019533]),
        "ksched pyramid 1": (Pyramid(), [1.9451432, -1.2951659, 1.6829814]),
        "ksched offset 1": (Offset(), [1.8437271, -1.6658865, 1.2784548]),
    }
    for scheme, (kind, numbers) in golden.items():
        drawn_now = source(kind, (1, 2))(DRAW, torch.empty(2, 4, 16, 12))
        assert kind.scheme.startswith(scheme)
        assert drawn_now[1, 2].ravel()[:3].tolist() == pytest.approx(numbers, abs=2e-6)


def test_what_is_white_is_plain_noise_bit_for_bit() -> None:
    like = torch.empty(2, 4, 8, 8)
    plain = SeededNoise((3, 4))(DRAW, like)
    for kind in (Colored(0), Pyramid(0.0), Offset(0)):
        assert torch.equal(source(kind, (3, 4))(DRAW, like), plain)
    sampler = build_sampler("euler_ancestral", "karras", 4)
    x = sampler.initial_state(like.shape, seed=3)
    assert torch.equal(sampler.initial_state(like.shape, seed=3, noise="white"), x)
    for choice in ("white", Colored(0), Pyramid(0)):
        assert sampler.start(x, seed=3, noise=choice).state_dict()["noise"] == "ksched noise 3"
    on_path = sampler.start(x, seed=3, noise=Colored(0, brownian=True))
    assert on_path.state_dict()["noise"] == "ksched brownian 3"
    flat = source(Colored(2.0), (3, 4))(DRAW, torch.empty(2))  # no axis in space
    assert torch.equal(flat, SeededNoise((3, 4))(DRAW, torch.empty(2)))


# Runs


@each("choice", [*get_args(NoiseName), KINDS["two levels"], KINDS["pyramid on a path"]])
def test_every_way_to_run_has_the_same_noise(choice: Any) -> None:
    """Loop, single items, steps, a saved state, copies, batches, live, matrices and arrays."""
    sampler = build_sampler("dpmpp_2m_sde", "karras", 5)
    x = sampler.initial_state((3, *SIZE), seed=[7, 8, 9], noise=choice)
    result = sampler.sample(model, x, seed=[7, 8, 9], noise=choice)
    assert torch.equal(sampler.initial_state((1, *SIZE), seed=8, noise=choice), x[1:2])
    assert torch.equal(sampler.sample(model, x[1:2], seed=8, noise=choice), result[1:2])
    run = sampler.start(x, seed=[7, 8, 9], noise=choice)
    for _ in range(3):
        run.feed(model(run.x, run.sigma))
    loaded = sampler.start(torch.zeros_like(x), seed=0)
    loaded.load_state_dict(run.state_dict())
    others = [loaded, copy.deepcopy(run), pickle.loads(pickle.dumps(run))]
    fewer = copy.deepcopy(run).take([2, 0])
    assert isinstance(fewer, ksched.Run)
    for other in (run, *others, fewer):
        while not other.done:
            other.feed(model(other.x, other.sigma))
    assert all(torch.equal(other.x, result) for other in (run, *others))
    assert torch.equal(fewer.x, result[[2, 0]])
    batch = ksched.batch.Batch()
    rows = [sampler.start(x[i : i + 1], seed=7 + i, noise=choice) for i in range(3)]
    for row in rows:
        batch.add(row)
    while batch:
        batch.tick(model)
    assert torch.equal(torch.cat([row.x for row in rows]), result)
    torch.testing.assert_close(sampler.live(model, x, seed=[7, 8, 9], noise=choice), result)
    first = source_of(choice, (7, 8, 9))(sampler.plan.draws[0], x)
    assert torch.equal(sampler.matrices.noises(x, seed=[7, 8, 9], noise=choice)(0)[0], first)
    if choice != "brownian" and not getattr(choice, "brownian", False):
        start = arrays.initial_state(sampler, x.shape, seed=[7, 8, 9], noise=choice)
        assert np.array_equal(start, x.numpy())
        table = arrays.noise(sampler, x.shape, seed=[7, 8, 9], noise=choice)
        assert np.array_equal(table[1, 0], first.numpy())


def source_of(choice: Any, seeds: tuple[int, ...]) -> Any:
    return noise_source(True, len(seeds), seeds, choice, VP())[0]


def test_frames_have_their_slice_also_after_a_save() -> None:
    sampler = build_sampler("euler_ancestral", "karras", 4)
    x = sampler.initial_state((2, 3, 2, 4, 4), seed=1)
    kind = Colored(1.0, axes=(1, -2, -1))  # from frame to frame too

    def clip(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x) / (1 + sigma.reshape(*sigma.shape, 1, 1, 1))

    assert torch.equal(
        ksched.frames(sampler, x, offset=0, seed=5, noise=kind).sample(clip),
        sampler.sample(lambda x, s: clip(x, s[:, None].expand(2, 3)), x, seed=5, noise=kind),
    )
    rolling = ksched.frames(sampler, x, offset=2, seed=5, noise=kind)
    for _ in range(3):
        rolling.feed(clip(rolling.x, rolling.sigma))
    copied = pickle.loads(pickle.dumps(rolling))
    assert torch.equal(copied.sample(clip), rolling.sample(clip))


def test_a_path_keeps_the_picture_when_the_number_of_steps_changes() -> None:
    digits = ksched.exact.digits()

    def apart(kind: Correlated) -> float:
        results = []
        for steps in (8, 16):
            sampler = build_sampler("er_sde", "exponential", steps)
            x = sampler.initial_state((2, 1, 8, 8), seed=0, noise=kind)
            results.append(sampler.sample(digits, x, seed=7, noise=kind))
        return float((results[0] - results[1]).square().mean().sqrt())

    assert apart(Pyramid(brownian=True)) < 0.5 * apart(Pyramid())


# What it does to the law of a run


@each("name", ["dpmpp_2m", "er_sde"])
def test_the_law_of_a_run_is_what_the_table_says(name: str) -> None:
    """Results of the sampler against the covariance that is computed from its plan."""
    data = Colored(1.5).covariance((1, 4, 4))
    gaussian = ksched.exact.Gaussian(np.zeros(16), data)
    sampler = build_sampler(name, "karras", 5)
    kind, count = Pyramid(0.8), 1500
    given_covariance = kind.covariance((1, 4, 4))
    for start in (None, kind):
        exact = gaussian_covariance(
            sampler.plan, data, start=None if start is None else given_covariance, steps=given_covariance
        )
        x = sampler.initial_state((count, 1, 4, 4), seed=0, dtype=torch.float64, noise=start)
        found = sampler.sample(gaussian, x, seed=0, noise=kind).reshape(count, -1).numpy()
        error = np.sqrt((np.outer(np.diag(exact), np.diag(exact)) + exact**2) / count)
        assert (np.abs(found.T @ found / count - exact) / error).max() < 5


def test_gaussian_covariance_of_white_noise_is_the_law_along_each_axis() -> None:
    data = Colored(1.5).covariance((1, 4, 4))
    sampler = build_sampler("dpmpp_2m_sde", "karras", 6)
    variances, axes = np.linalg.eigh(data)
    along = np.diag(axes.T @ gaussian_covariance(sampler.plan, data) @ axes)
    for variance, found in zip(variances, along, strict=True):
        law = ksched.analysis.gaussian_law(sampler.plan, std=math.sqrt(max(variance, 0)))
        noise_std = sampler.process.noise_std(float(sampler.sigmas[0]))
        # that starts from the exact law, this from pure noise: the share of the start is what differs
        assert found <= law.variance * (1 + 1e-9)
        assert found >= law.variance * noise_std**2 / (noise_std**2 + variance) * (1 - 1e-9)


@given(st.integers(1, 5), st.integers(0, 99))
def test_gaussian_distance_is_the_one_of_normal_laws(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (m @ m.T for m in rng.normal(size=(2, size, size)))
    assert gaussian_distance(a, a) == pytest.approx(0, abs=1e-5)
    assert gaussian_distance(a, b) == pytest.approx(gaussian_distance(b, a), abs=1e-5)
    stds = rng.uniform(0.1, 2, (2, size))
    between = gaussian_distance(np.diag(stds[0] ** 2), np.diag(stds[1] ** 2))
    assert between == pytest.approx(float(np.linalg.norm(stds[0] - stds[1])), abs=1e-5)


def test_an_exact_ode_multiplies_the_spectrum_of_the_data_by_that_of_the_noise() -> None:
    """And `dpmpp_2m_sde` forgets its start, so that only the noise of the steps counts."""
    data, pink = Colored(2.0).covariance((1, 8, 8)), Colored(1.0).covariance((1, 8, 8))
    variances, axes = np.linalg.eigh(data)
    gains = np.diag(axes.T @ pink @ axes)
    ode, sde = (build_sampler(name, "karras", 200).plan for name in ("dpmpp_2m", "dpmpp_2m_sde"))
    found = np.diag(axes.T @ gaussian_covariance(ode, data, start=pink) @ axes)
    start_short_of = 14.6146**2 / (14.6146**2 + variances)  # where the schedule begins, noise does not hide all
    np.testing.assert_allclose(found, variances * gains * start_short_of, rtol=1e-2)
    size = math.sqrt(np.trace(data))
    for plan, start, steps, low, high in (
        (ode, pink, None, 0.2, 1.0),
        (ode, None, pink, 0.0, 0.05),
        (sde, pink, None, 0.0, 0.05),
        (sde, None, pink, 0.2, 1.0),
    ):
        result = gaussian_covariance(plan, data, start=start, steps=steps)
        assert low <= gaussian_distance(result, data) / size <= high


# What is refused


SAMPLER = build_sampler("euler_ancestral", "karras", 3)
X = torch.ones(2, 3)
WRONG: Any = {3}
WORDS: Any = ["a"]
BROWNS: Any = "browns"
FUNCTION: Any = len


@each(
    "case",
    [
        (lambda: Colored(9), "Colored: exponent must be at least -8 and at most 8; got 9"),
        (lambda: Colored(WRONG), "Colored: exponent must be a number; got "),
        (lambda: Pyramid(-1), "Pyramid: strength must be at least 0 and at most 100"),
        (lambda: Pyramid(levels=0), "Pyramid: levels must be at least 1"),
        (lambda: Offset(unit_variance=WRONG), "Offset: unit_variance must be True or False"),
        (lambda: Offset(axes=WORDS), r"Offset: axes must be whole numbers, .* got \['a'\]"),
        (lambda: source(Offset(axes=(0,)), (1,))(DRAW, torch.empty(1, 2, 2)), "axes must be different axes of a state"),
        (lambda: source(Offset(axes=(1, -2)), (1,))(DRAW, torch.empty(1, 2, 2)), "axes must be different axes"),
        (lambda: source(Offset(), (1,))(DRAW, torch.empty(2, 2, 2)), "one seed per item; got 1 seeds for a batch of 2"),
        (lambda: SAMPLER.initial_state((2, 3), seed=0, noise=BROWNS), 'noise must be "white", .*"offset", .*browns'),
        (lambda: SAMPLER.initial_state((2, 3), seed=0, noise=FUNCTION), "noise must be a name, such as .* got builtin"),
        (lambda: SAMPLER.start(torch.ones(2, 3), noise="pink"), "give seed=<int>"),
        (lambda: arrays.noise(SAMPLER, (2, 3), seed=0, noise="brownian"), "Brownian path needs a run on tensors"),
        (
            lambda: steer.sample(SAMPLER, model, X, len, seed=0, proposal=model, noise="pink"),
            "proposal needs independent noise",
        ),
    ],
)
def test_mistakes(case: tuple[Any, str]) -> None:
    build, message = case
    with pytest.raises((TypeError, ValueError), match=message):
        build()


def test_states_of_unknown_rules_are_refused() -> None:
    run = SAMPLER.start(X, seed=1, noise=Pyramid(0.3, 2))
    state = run.state_dict()
    scheme = state["noise"]
    assert kind_of_scheme(scheme) == Pyramid(0.3, 2)
    for wrong in ("ksched pyramid 2 {}", "ksched pyramid 1 {}", "ksched pyramid 1", scheme.replace("0.3", "-1")):
        with pytest.raises(ValueError, match=r"makes noise by 'ksched noise 3'.* 'ksched offset 1'"):
            run.load_state_dict({**state, "noise": wrong})


def test_both_bases_are_used() -> None:
    """The white noise behind a kind is plain noise, or noise of a Brownian path, from the same seeds."""
    seeded, path = source(Pyramid(), (1,)), source(Pyramid(brownian=True), (1,))
    assert isinstance(seeded.base, SeededNoise)
    assert isinstance(path.base, BrownianNoise)
    assert noise.scheme_of(seeded).startswith("ksched pyramid 1")
