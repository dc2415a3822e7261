"""Fits through a model by differences of runs: no gradients, few model calls, smaller errors."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import ksched
from ksched import VP
from ksched.exact.mixture import GaussianMixture
from ksched.tuning.canonical_plan import flow_level, linear_of
from ksched.tuning.fit import Free, Linear, Problem, exact_ends
from ksched.tuning.least_squares import least_squares
from ksched.types import Array

FIRST, LOW, CALLS = VP().sigma_max, VP().sigma_min, 4


def mixture() -> GaussianMixture:
    rng = np.random.default_rng(5)
    means = rng.standard_normal((4, 6))
    means -= means.mean(0)
    turns = [np.linalg.qr(rng.standard_normal((6, 6)))[0] for _ in means]
    return GaussianMixture(np.full(4, 0.25), means, np.array([(q * np.geomspace(0.8, 0.02, 6)) @ q.T for q in turns]))


class Counted:
    """The denoiser in flow coordinates; it has no gradients, and counts the items that it is called with."""

    def __init__(self) -> None:
        self.model, self.calls = mixture(), 0

    @torch.no_grad()
    def __call__(self, y: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        self.calls += len(y)
        return self.model(y / (1 - s), (s / (1 - s)).expand(len(y)))


def problem(denoise: Counted, items: int, seed: int) -> Problem:
    generator = torch.Generator().manual_seed(seed)
    start = flow_level(FIRST) * torch.randn(items, 6, generator=generator, dtype=torch.float64)
    made = Problem.of(denoise, start, exact_ends(denoise, start, flow_level(FIRST)))
    denoise.calls = 0
    return made


def family(held: Problem) -> tuple[Linear, Array]:
    table = linear_of(ksched.build_sampler("auto", calls=CALLS).plan)
    made = Linear(CALLS, FIRST, LOW).conditioned([held], table)
    return made, made.numbers(table)


def mean_error(held: Problem, made: Linear, numbers: Array) -> float:
    return float(held.errors(*made.rows(torch.from_numpy(numbers))).mean())


def test_few_rounds_lower_the_error_on_other_runs_too() -> None:
    denoise = Counted()
    held, new = problem(denoise, 40, 1), problem(denoise, 40, 2)
    made, start = family(held)
    losses: list[float] = []
    found = least_squares(made, held, start, calls=10**6, rounds=4, progress=losses.append)
    assert mean_error(new, made, found) < mean_error(new, made, start) / 2
    assert losses == sorted(losses, reverse=True)
    assert len(losses) <= 4
    assert losses[-1] == pytest.approx(float(held.means(*made.rows(torch.from_numpy(found)))), rel=1e-9)


def test_a_round_calls_the_model_only_after_the_number_that_moved() -> None:
    denoise = Counted()
    held = problem(denoise, 40, 1)
    made, start = family(held)
    denoise.calls = 0
    least_squares(made, held, start, calls=10**6, rounds=1)
    told = 3 + 2 + 1  # calls from that of each told level on
    rows = sum((i + 2) * (CALLS - 1 - i) for i in range(CALLS))  # calls after each row
    steps, rest = divmod(denoise.calls - 40 * (CALLS + told + rows), 40 * (CALLS - 1))
    assert rest == 0
    assert 1 <= steps <= 4  # one for every damping that was tried; the first prediction is known


def test_the_limit_of_calls_is_kept() -> None:
    denoise = Counted()
    held = problem(denoise, 40, 1)
    made, start = family(held)
    for limit in (500, 2500, 5000):
        denoise.calls = 0
        found = least_squares(made, held, start, calls=limit)
        assert denoise.calls <= limit
        assert (found != start).any() == (limit > 1000)


def test_noise_of_the_model_is_weighed() -> None:
    """Noise that every prediction adds is part of the error, so the weights of the result stay small."""
    held = problem(Counted(), 40, 1)
    made, start = family(held)

    def noise(numbers: Array) -> float:
        return float(made.rows(torch.from_numpy(numbers))[1][-1, 1:].norm())

    exact = least_squares(made, held, start, calls=10**6)
    noisy = least_squares(made, replace(held, noise=0.1), start, calls=10**6)
    assert noise(noisy) < 0.9 * noise(exact)


def test_large_items_are_fitted_on_a_part_of_their_values(monkeypatch: pytest.MonkeyPatch) -> None:
    held, new = problem(Counted(), 40, 1), problem(Counted(), 40, 2)
    made, start = family(held)
    monkeypatch.setattr("ksched.tuning.least_squares._VALUES", 4)
    found = least_squares(made, held, start, calls=10**6)
    assert mean_error(new, made, found) < mean_error(new, made, start) / 1.5


def test_tables_of_means_are_fitted_as_well() -> None:
    held = problem(Counted(), 40, 1)
    means = Free(CALLS, FIRST, LOW, "integral")
    levels = [FIRST, *np.geomspace(5.0, 0.1, CALLS - 1), 0.0]
    start = means.numbers(ksched.tuning.canonical_plan.table_of(ksched.build_sampler("euler", sigmas=levels).plan))
    before, after = (
        float(held.errors(*means.rows(torch.from_numpy(numbers))).mean())
        for numbers in (start, least_squares(means, held, start, calls=10**6))
    )
    assert after < before / 2


def test_the_last_row_may_be_kept_a_mean() -> None:
    held = problem(Counted(), 40, 1)
    table = linear_of(ksched.build_sampler("auto", calls=CALLS).plan)
    made = Linear(CALLS, FIRST, LOW, constant=True).conditioned([held], table)
    start = made.numbers(table)
    np.testing.assert_allclose(
        np.concatenate(made.table(start, table.levels).rows), np.concatenate(table.rows), atol=1e-9
    )
    moved = start + np.random.default_rng(0).normal(size=len(start)) * 0.1
    for numbers in (moved, least_squares(made, held, start, calls=10**6)):
        last = made.rows(torch.from_numpy(numbers))[1][-1]
        assert math.isclose(float(last[1:].sum()), 1)
        assert last[0] == 0
        assert made.table(numbers, table.levels).rows != table.rows


def test_runs_that_explode_say_nothing() -> None:
    held = problem(Counted(), 40, 1)
    made, start = family(held)
    bad = held.ends.clone()
    bad[3] = math.nan
    broken = replace(held, ends=bad)
    found = least_squares(made, broken, start, calls=10**6)
    assert np.isfinite(found).all()
    assert mean_error(held, made, found) < mean_error(held, made, start) / 2
