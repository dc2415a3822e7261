"""Noise is a value: a function of item seed and position, the same for any batch, dtype and order."""

from __future__ import annotations

import itertools
import math
import pickle
from itertools import pairwise
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest

import ksched
import ksched.noise as noise_module
from ksched import Run, build_sampler
from ksched.exact import Gaussian
from ksched.noise import BrownianNoise, SeededNoise, brownian_sampler, item_seeds, seeded_source
from ksched.plan import Draw
from ksched.registry import samplers
from ksched.types import Array

DRAW = Draw(3.0, 1.5)
LIKE = torch.empty(3, 4, 8, 8)
GOLDEN_WORDS = [11306833477422497918, 12036253230668913766]
GOLDEN = {
    (math.inf, 14.6): [-0.3281221, 0.5842119, -1.181887, -0.6621572],
    (14.6, 5.0): [0.114333, -0.3630484, 1.4159021, 0.3015391],
    (5.0, 1.5): [0.4667878, -0.1439705, 1.2178601, 1.4168783],
    (1.5, 0.1): [1.6302902, -0.24881, 0.1724758, 2.285383],
}


def test_every_part_of_the_key_matters_and_nothing_else() -> None:
    base = SeededNoise((1, 2, 3))(DRAW, LIKE)
    for other in (Draw(3.0, 1.5000001), Draw(3.0000001, 1.5), Draw(3.0, 1.5, 1), Draw(3.0, 1.5, 0, 1)):
        assert not torch.equal(base, SeededNoise((1, 2, 3))(other, LIKE))
    assert torch.equal(base, SeededNoise((1, 2, 3))(DRAW, LIKE))
    assert torch.equal(base.flip(0), SeededNoise((3, 2, 1))(DRAW, LIKE))
    assert torch.equal(base[1:2], SeededNoise((2,))(DRAW, LIKE[:1]))
    assert not torch.equal(base[:1], SeededNoise((1 + 2**64,))(DRAW, LIKE[:1])), "seeds are not cut to 64 bits"
    assert torch.isfinite(SeededNoise((-1,))(DRAW, LIKE[:1])).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_all_dtypes_see_the_same_noise(dtype: torch.dtype) -> None:
    base = SeededNoise((1, 2, 3))(DRAW, LIKE)
    assert torch.equal(SeededNoise((1, 2, 3))(DRAW, LIKE.to(dtype)), base.to(dtype))


def test_it_is_normal() -> None:
    noise = SeededNoise(tuple(range(64)))(DRAW, torch.empty(64, 4, 32, 32)).double()
    n = noise.numel()
    for power, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        spread = {1: 1.0, 2: 2.0, 3: 15.0, 4: 96.0}[power] ** 0.5
        assert abs(float((noise**power).mean()) - moment) < 5 * spread / n**0.5
    across = np.corrcoef(noise.reshape(64, -1).numpy())
    assert np.abs(across - np.eye(64)).max() < 6 / 4096**0.5


def test_item_seeds() -> None:
    assert item_seeds(5, 3) == (5, 6, 7)
    assert item_seeds([9, 9, 1], 3) == (9, 9, 1)
    assert item_seeds(np.int64(5), 1) == (5,)
    assert item_seeds(np.array([5, 6]), 2) == (5, 6)


def test_the_rule_has_not_changed() -> None:
    """Bytes of the key, which must never change under this scheme's name: pictures depend on it."""
    from ksched.noise import _key

    assert _key(0, Draw(14.6, 5.0)) == 6478448714343511172
    keys = {_key(seed, Draw(a, b)) for seed in range(20) for a in (1.0, 2.0) for b in (0.5, 0.25)}
    assert len(keys) == 80


# --- Brownian paths ---

VP, FLOW = ksched.VP(), ksched.Flow(3.0)
CELL = 1 / noise_module._CELLS


def sigma_of(lam: float, process: ksched.Process = VP) -> float:
    return process.sigma_limit if lam == -math.inf else process.level_at(lam).label


def brownian(
    *draws: Draw, seeds: tuple[int, ...] = (7,), process: ksched.Process = VP, size: int = 4096
) -> list[Array]:
    """Noises of a fresh source, float64, flattened."""
    source = BrownianNoise(seeds, process)
    return [source(draw, torch.empty(len(seeds), size)).double().numpy().ravel() for draw in draws]


def v_share(a: float, b: float, c: float) -> float:
    """Share of [a, b] in [a, c], in the clock exp(2 lam)."""
    return math.expm1(2 * (b - a)) / math.expm1(2 * (c - a)) if a > -math.inf else math.exp(2 * (b - c))


def test_covariances_of_a_path_are_exactly_those_of_brownian_motion() -> None:
    """In the coefficients, so without chance: shared time over the root of both durations, 0 for disjoint intervals."""
    rng = np.random.default_rng(0)
    low, wide, cells = noise_module._LOWEST, noise_module._WIDE, noise_module._CELLS
    ends = np.concatenate(
        [rng.integers(low, 8 * cells, 30), rng.integers(0, 2 * cells, 20), [low, wide, 0, cells, 1, 2]]
    )
    pairs = [tuple(sorted(pair)) for pair in rng.choice(ends, (150, 2)).tolist() if pair[0] != pair[1]]
    forms = [dict(noise_module._increment(a, b)[0]) for a, b in pairs]
    nodes = {node: i for i, node in enumerate(dict.fromkeys(node for form in forms for node in form))}
    matrix = np.zeros((len(forms), len(nodes)))
    for row, form in zip(matrix, forms, strict=True):
        row[[nodes[node] for node in form]] = list(form.values())
    a, b = np.array(pairs, dtype=float).T * CELL
    clock = np.exp(2 * np.stack([a, b]))
    clock[np.stack([a, b]) == low * CELL] = 0
    shared = np.minimum(clock[1][:, None], clock[1]) - np.maximum(clock[0][:, None], clock[0])
    durations = clock[1] - clock[0]
    expected = np.maximum(shared, 0) / np.sqrt(durations[:, None] * durations)
    np.testing.assert_allclose(matrix @ matrix.T, expected, atol=1e-12)


@pytest.mark.parametrize("process", [VP, FLOW], ids=["VP", "Flow"])
@pytest.mark.parametrize(
    "lams",
    [
        (-math.inf, -6.0, 0.5),
        (-5.0, -3.5, 2.0),
        (0.0, 1.0, 2.0),
        (0.25, 0.25 + CELL, 3.5),
        (1.5, 1.5 + 1 / 4, 1.75 + CELL),
    ],
    ids=str,
)
def test_a_noise_is_the_combination_of_its_parts(lams: tuple[float, float, float], process: ksched.Process) -> None:
    """Exactly where ends lie on cells, but for the rounding of sums of 20 float32 numbers below 8."""
    a, b, c = (sigma_of(lam, process) for lam in lams)
    whole, first, second = brownian(Draw(a, c), Draw(a, b), Draw(b, c), process=process)
    share = v_share(*lams)
    np.testing.assert_allclose(whole, math.sqrt(share) * first + math.sqrt(1 - share) * second, rtol=0, atol=2e-6)


def test_between_cells_the_combination_is_near() -> None:
    """An end moves by half a cell at most, and a weight by no more than that over the interval's length."""
    rng = np.random.default_rng(1)
    for _ in range(20):
        a = float(rng.uniform(-3, 3))
        b, c = a + float(rng.uniform(0.1, 1)), a + float(rng.uniform(1.1, 2))
        whole, first, second = brownian(*(Draw(sigma_of(s), sigma_of(t)) for s, t in ((a, c), (a, b), (b, c))))
        share = v_share(a, b, c)
        gap = whole - math.sqrt(share) * first - math.sqrt(1 - share) * second
        assert gap.std() < CELL / min(b - a, c - b)


@pytest.mark.parametrize("steps", [3, 20, 300])
def test_noises_of_a_run_are_independent_normals(steps: int) -> None:
    """Mean, variance, kurtosis, and correlations between noises, items and neighbours, within 5 standard errors."""
    grid = build_sampler("euler_ancestral", "karras", steps).sigmas.tolist()[:-1]
    draws = [Draw(s, t) for s, t in pairwise(grid)][:60]
    noises = np.stack([noise.reshape(4, -1) for noise in brownian(*draws, seeds=(1, 2, 3, 10**30), size=16384)], axis=1)
    size = noises.shape[-1]
    for power, moment, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        means = (noises**power).mean(-1)
        assert np.abs(means - moment).max() < 5 * (spread / size) ** 0.5
        assert abs(means.mean() - moment) < 5 * (spread / noises.size) ** 0.5
    flat = noises.reshape(-1, size)
    assert np.abs(np.corrcoef(flat) - np.eye(len(flat))).max() < 6 / size**0.5
    for apart in range(1, 9):
        assert abs((noises[..., apart:] * noises[..., :-apart]).mean()) < 5 / noises.size**0.5
    assert kstest(noises[0, 0], "norm").statistic < 1.95 / size**0.5, "at the level of 0.1 %"


def test_the_table_of_normals() -> None:
    table = noise_module._table().view(np.float32).reshape(-1, 4).astype(np.float64)
    assert table.shape == (65536, 4)
    for column in table.T:
        assert len(np.unique(column)) == 16384
        np.testing.assert_allclose([column.mean(), column.var(), (column**4).mean()], [0, 1, 3], atol=3e-3)
        assert abs(column.mean()) < 1e-12
        assert abs(column.var() - 1) < 1e-8, "float32 numbers, rounded independently"
        assert kstest(column[::4], "norm").statistic < 1e-3
    powers = np.stack([p for p in itertools.product(range(4), repeat=4) if 2 <= sum(p) <= 4 and max(p) < sum(p)])
    for power in powers:
        mean = np.prod(table**power, axis=1).mean()
        independent = math.prod((1, 0, 1, 0)[p] for p in power.tolist())
        assert abs(mean - independent) < (1e-12 if sum(power) < 4 else 8e-3), f"{power}: {mean}"


def test_the_table_is_the_same_on_every_machine() -> None:
    """No number is near the middle between two of float32, so that last digits of log and sqrt do not matter."""
    half = np.array([NormalDist().inv_cdf(0.5 + (i + 0.5) / 16384) for i in range(8192)])
    half /= math.sqrt((half**2).mean())
    near = half.astype(np.float32)
    for other in (np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(9))):
        middle = (near.astype(np.float64) + other.astype(np.float64)) / 2
        assert (np.abs(half - middle) > 1e-12 * half).all()
    assert set(near.tolist()) == set(np.abs(noise_module._table().view(np.float32)).tolist())


ASKED = [
    Draw(sigma_of(-math.inf), 20.0),
    Draw(20.0, 3.0),
    Draw(3.0, 1.5),
    Draw(3.0, 1.5, 0, 1),
    Draw(1.5, 1.49),
    Draw(1.5, 2.5, 1),
    Draw(2.5, 0.7, 1),
    Draw(0.7, 0.03, 1),
    Draw(0.03, 0.0, 1),
    Draw(3.0, 0.7),
]


def test_a_noise_depends_on_nothing_but_seed_and_draw() -> None:
    """Not on what was asked before, in which order, how often, or in which shape, dtype and batch."""
    like = torch.empty(3, 2, 5, 7)
    alone = {draw: BrownianNoise((1, 2, 3), VP)(draw, like) for draw in ASKED}
    source = BrownianNoise((1, 2, 3), VP)
    rng = np.random.default_rng(0)
    for i in rng.integers(0, len(ASKED), 60).tolist():
        assert torch.equal(source(ASKED[i], like), alone[ASKED[i]])
        source(ASKED[i], like[..., :3])
    for draw in ASKED:
        assert torch.equal(BrownianNoise((3, 2, 1), VP)(draw, like), alone[draw].flip(0))
        assert torch.equal(BrownianNoise((2,), VP)(draw, like[:1]), alone[draw][1:2])
        for dtype in (torch.float64, torch.bfloat16, torch.float16):
            assert torch.equal(BrownianNoise((1, 2, 3), VP)(draw, like.to(dtype)), alone[draw].to(dtype))
    assert BrownianNoise((), VP)(ASKED[1], like[:0]).shape == (0, 2, 5, 7)


def test_long_states_are_made_in_pieces_that_do_not_show() -> None:
    long = brownian(Draw(3.0, 1.5), size=16 * noise_module._CHUNK + 50)[0]
    np.testing.assert_array_equal(long[:4096], brownian(Draw(3.0, 1.5))[0])
    assert abs(long[-50:]).min() > 0


def test_paths_of_their_own() -> None:
    """Another visit, stream, seed or direction is another path; so is less than a cell, and what ends at sigma 0."""
    near = sigma_of(1.0 + CELL / 8)
    draws = [Draw(3.0, 1.5), Draw(3.0, 1.5, 1), Draw(3.0, 1.5, 0, 1), Draw(1.5, 3.0), Draw(1.5, 0.0), Draw(0.0, 1.5)]
    draws += [
        Draw(sigma_of(1.0), near),
        Draw(near, sigma_of(1.0 + CELL / 4)),
        Draw(near, sigma_of(1.0)),
        Draw(0.0, 0.0),
    ]
    noises = brownian(*draws, size=65536) + brownian(draws[0], seeds=(8,), size=65536)
    assert np.abs(np.corrcoef(noises) - np.eye(len(noises))).max() < 5 / 256
    assert np.abs(np.var(noises, axis=1) - 1).max() < 5 * math.sqrt(2) / 256
    whole, first, second = brownian(Draw(1.0, 4.0), Draw(1.0, 2.0), Draw(2.0, 4.0))  # in sigma**2 when it rises
    assert np.std(whole - math.sqrt(3 / 15) * first - math.sqrt(12 / 15) * second) < CELL / math.log(2)


def test_little_is_kept_between_intervals() -> None:
    source = BrownianNoise((1, 2), VP)
    like = torch.empty(2, 4, 64, 64)
    for sampler in (build_sampler("euler_ancestral", "karras", steps) for steps in (3, 20, 100)):
        for visit in range(3):
            for s, t in pairwise(sampler.sigmas.tolist()):
                source(Draw(s, t, visit), like)
                kept = sum(bits.nbytes for nodes in source._kept.values() for bits in nodes.values())
                assert kept <= like.nbytes * 11 / 8


def test_the_path_has_not_changed() -> None:
    """Bits and values, which must never change under this scheme's name: pictures depend on them."""
    source = BrownianNoise((7,), VP)
    assert source._words(noise_module._Path(1, 2, True), -5, 2).tolist() == GOLDEN_WORDS
    for sigmas, numbers in GOLDEN.items():
        assert source(Draw(*sigmas), LIKE[:1]).ravel()[:4].tolist() == pytest.approx(numbers, abs=1e-6)
    terms, onward = noise_module._increment(-172, 70)
    assert [node for node, _ in terms] == [-192, -128, -64, 0, 64, -160, -176, -168, -172, 96, 80, 72, 68, 70]
    assert onward == (64, 96, 80, 72, 68, 70)


# --- Brownian paths in runs ---


def start(process: ksched.Process, batch: int = 4, size: int = 64) -> torch.Tensor:
    eps = torch.randn(batch, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x: torch.Tensor = process.add_noise(0 * eps, eps, process.sigma_max)
    return x


@pytest.mark.parametrize("process", [VP, FLOW], ids=["VP", "Flow"])
@pytest.mark.parametrize("name", ["euler_ancestral", "dpmpp_2m_sde"])
def test_with_a_constant_prediction_all_grids_meet(name: str, process: ksched.Process) -> None:
    """States at common levels agree to the rounding of float32 noise: the clock is the right one."""
    results = []
    for steps in (2, 11, 88):
        lams = np.linspace(-2.5, 3.0, steps + 1)
        sampler = build_sampler(
            name, process=process, sigmas=[sigma_of(lam, process) for lam in lams.tolist()], eta=1.0
        )
        x = sigma_of(-2.5, process) * start(VP) / VP.sigma_max
        results.append(sampler.sample(lambda x, sigma: 0 * x + 0.7, x, seed=3, noise="brownian"))
    scale = process.noise_std(sigma_of(3.0, process))
    for other in results[1:]:
        assert float((other - results[0]).abs().max()) < 1e-5 * scale


@pytest.mark.parametrize("name", [s.name for s in samplers() if "eta" in s.options and s.draws != 0 and not s.adaptive])
def test_the_picture_stays_when_the_number_of_steps_changes(name: str) -> None:
    """Results of 20, 40 and 80 steps are nearer to each other than with new noise: by 4 to 8 times, most of them.

    What is left is the sampler's own error and, at many steps, the rounding to cells.
    """
    exact = Gaussian([0.0] * 64, [0.25] * 64, VP)

    def model(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        denoised = exact(x, sigma)
        return denoised, denoised

    def gaps(noise: Any) -> list[float]:
        runs = [build_sampler(name, "simple", n, eta=1.0).sample(model, x, seed=5, noise=noise) for n in (20, 40, 80)]
        return [float((a - b).square().mean().sqrt()) for a, b in pairwise(runs)]

    x = start(VP, 16)
    for path, plain in zip(gaps("brownian"), gaps(None), strict=True):
        assert path < plain / 2


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_a_run_on_a_path_resumes_bit_for_bit(eta: float) -> None:
    sampler = build_sampler("dpmpp_2m_sde", "karras", 8, eta=eta)
    x = start(VP).float()
    whole = sampler.sample(lambda x, sigma: x / 3, x, seed=7, noise="brownian")
    assert not torch.equal(whole, sampler.sample(lambda x, sigma: x / 3, x, seed=7))
    run = sampler.start(x, seed=7, noise="brownian")
    while not run.done:
        state = pickle.loads(pickle.dumps(run.state_dict()))
        run = sampler.start(torch.zeros_like(x), seed=1)
        run.load_state_dict(state)
        run.feed(run.x / 3)
    assert torch.equal(run.x, whole)
    half = sampler.start(x[2:], seed=[9, 10], noise="brownian")
    while not half.done:
        half.feed(half.x / 3)
    assert torch.equal(half.x, whole[2:]), "items do not depend on their batch"


def test_a_run_split_in_two_is_the_same_run() -> None:
    grid = build_sampler("euler_ancestral", "karras", 8).sigmas.tolist()
    x = start(VP)
    whole, early, late = (build_sampler("euler_ancestral", sigmas=sigmas) for sigmas in (grid, grid[:5], grid[4:]))
    middle = early.sample(lambda x, sigma: x / 3, x, seed=7, noise="brownian")
    result = late.sample(lambda x, sigma: x / 3, middle, seed=7, noise="brownian")
    assert torch.equal(result, whole.sample(lambda x, sigma: x / 3, x, seed=7, noise="brownian"))


def test_the_path_as_a_function() -> None:
    x = torch.empty(2, 3, 8, dtype=torch.float64)
    noise = brownian_sampler(x, 5)
    expected = BrownianNoise((5, 6), VP)(Draw(3.0, 1.5), x)
    assert torch.equal(noise(3.0, 1.5), expected)
    assert torch.equal(noise(torch.tensor(3.0), torch.tensor(1.5)), expected)
    assert torch.equal(brownian_sampler(x, [5, 6], FLOW)(0.9, 0.5), BrownianNoise((5, 6), FLOW)(Draw(0.9, 0.5), x))
    sampler = build_sampler("euler_ancestral", "karras", 5)
    by_name = sampler.sample(lambda x, sigma: x / 3, x * 0 + 9, seed=5, noise="brownian")
    assert torch.equal(sampler.sample(lambda x, sigma: x / 3, x * 0 + 9, noise=noise), by_name)


def test_what_is_refused() -> None:
    x = torch.ones(2, 4)
    sampler = build_sampler("euler_ancestral", "karras", 5)
    with pytest.raises(ValueError, match=r'noise must be "brownian" or callable.*got \'brown\''):
        sampler.start(x, seed=1, noise="brown")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="give seed=<int>"):
        sampler.start(x, noise="brownian")
    with pytest.raises(ValueError, match="needs a process"):
        Run(sampler.plan, x, seed=1, noise="brownian")
    with pytest.raises(ValueError, match="one seed per item; got 3 for a batch of 2"):
        BrownianNoise((1, 2, 3), VP)(DRAW, x)
    with pytest.raises(ValueError, match='"seeded" or "brownian"; got \'other\''):
        seeded_source("other", (1,), VP)
    assert build_sampler("euler", "karras", 5).start(x, noise="brownian").nfe == 0, "nothing is drawn"
