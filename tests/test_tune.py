"""`tune`: plans fitted to a model or to samples are accepted only if they are better."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import ksched
from ksched import EDM, VE, VP, Flow, Plan, Process, Sampler, build_sampler, tune
from ksched.exact.mixture import Gaussian, GaussianMixture
from ksched.plan import analysis
from ksched.tuning import search
from ksched.tuning.batched_mixtures import Mixtures
from ksched.tuning.canonical_plan import canonical, table_of
from ksched.tuning.fit import Free, OnGrid, Problem, exact_ends
from ksched.tuning.independent_values import IndependentValues
from ksched.tuning.reference_mixtures import zoo
from ksched.tuning.surrogate import fit_surrogate
from ksched.types import Array

exhaustive = pytest.mark.exhaustive
PROCESSES: dict[str, Process] = {"sd": VP(), "edm": EDM(), "flow": Flow(), "vp": VP(variance_preserving=True)}


def mixture(process: Process, scale: float = 1.0) -> GaussianMixture:
    """Five parts in eight dimensions, of standard deviation ``scale``."""
    rng = np.random.default_rng(3)
    means = rng.standard_normal((5, 8)) * 0.8
    turns = [np.linalg.qr(rng.standard_normal((8, 8)))[0] for _ in means]
    covariances = np.array([(q * np.geomspace(1.0, 0.01, 8)) @ q.T for q in turns])
    means -= means.mean(0)
    size = math.sqrt(float(np.mean(means**2) + np.mean(np.trace(covariances, axis1=1, axis2=2)) / 8)) / scale
    return GaussianMixture(np.full(5, 0.2), means / size, covariances / size**2, process, labels=[0, 0, 1, 1, 2])


@cache
def nearly_exact(process: Process) -> Sampler:
    """A sampler of many steps, which take longer to plan than to run."""
    schedule = "exponential" if process.level(process.sigma_max).alpha else "beta"
    return build_sampler("exp_pc", schedule, 150, process=process, end="integral")


@cache
def exact_runs(model: Any, process: Process) -> tuple[torch.Tensor, torch.Tensor]:
    """Start states that tuning has not seen, and where the exact ODE ends."""
    noise = torch.randn(128, 8, generator=torch.Generator().manual_seed(11), dtype=torch.float64)
    start = process.level(process.sigma_max).sigma * noise
    return start, nearly_exact(process).sample(model, start)


def error(plan: Plan, model: Any, process: Process, clean: Any = None) -> float:
    """Mean distance of its runs from where the exact ODE ends."""
    start, ends = exact_runs(clean or model, process)
    found = build_sampler(plan, process=process).sample(model, start)
    return float((found - ends).square().mean(1).sqrt().mean())


def guided(model: GaussianMixture) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Under classifier-free guidance of scale 4 towards label 1."""
    part = model.only(1)

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        uncond = model(x, sigma.double())
        return uncond + 4 * (part(x, sigma.double()) - uncond)

    return denoise


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits of few iterations, where it does not matter how good they are."""
    for kind in search.ITERATIONS:
        monkeypatch.setitem(search.ITERATIONS, kind, 8)
    monkeypatch.setattr(search, "MORE_ITERATIONS", 4)


@pytest.fixture
def shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fits of a third of the iterations, which are good and not yet as good as they get."""
    for kind, iterations in search.ITERATIONS.items():
        monkeypatch.setitem(search.ITERATIONS, kind, iterations // 3)
    monkeypatch.setattr(search, "MORE_ITERATIONS", search.MORE_ITERATIONS // 3)


@pytest.fixture
def one_zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other models that plans are fitted to, made once for all tests: they depend on no data."""
    monkeypatch.setattr(search, "zoo", _zoo)


_zoo = cache(zoo)


# ------------------------------------------------------------------------------------------------------------ the parts


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=tolerance)


def at(s: float) -> torch.Tensor:
    return torch.tensor(s, dtype=torch.float64)


def many(mixture: GaussianMixture, outside: Array | None = None, scales: Array | None = None) -> Mixtures:
    variances, axes = np.linalg.eigh(mixture.covariances)
    parts = np.log(mixture.weights)[None], mixture.means[None], variances[None], axes[None]
    return Mixtures(*parts, outside, scales)


def test_mixtures_are_the_exact_denoiser() -> None:
    one = mixture(Flow())
    y = torch.randn(1, 20, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for s in (0.001, 0.3, 0.9, 1.0):
        close(many(one)(y, at(s))[0], one(y[0], s))
        density = many(one).log_density(y, at(s))[0] - one.log_density(y[0], s)
        close(density, density[:1].expand(20))  # but for a constant


def test_mixtures_of_one_width_are_those_of_that_covariance() -> None:
    rng = np.random.default_rng(0)
    means, variances = rng.standard_normal((2, 4, 3)), rng.uniform(0.1, 1.0, (2, 4))
    logs = np.full((2, 4), -math.log(4))
    round_ones = Mixtures(logs, means, variances, None, None, None)
    same = Mixtures(logs, means, np.repeat(variances[..., None], 3, axis=2), None, None, None)
    y = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for s in (0.05, 0.7):
        close(round_ones(y, at(s)), same(y, at(s)))


def test_guidance_goes_on_from_the_whole_past_the_part() -> None:
    whole = mixture(Flow())
    outside = np.where(np.array(whole.labels) == 1, 0.0, -1e9)[None, None].repeat(6, axis=1)
    guided = many(whole, outside, np.full((1, 1, 1), 4.0))
    y = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    uncond, cond = whole(y[0], 0.6), whole.only(1)(y[0], 0.6)
    close(guided(y, at(0.6))[0], uncond + 4 * (cond - uncond))


def test_exact_ends_are_those_of_the_exact_solution() -> None:
    one = mixture(Flow())
    start = torch.randn(6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for s in (1.0, 0.95):
        ends = exact_ends(lambda y, level: one(y, level.item()), s * start, s, steps=200)
        close(ends, one.solve(s * start, [s, 0.0])[-1], 2e-4)


@pytest.mark.parametrize("name", PROCESSES)
def test_errors_are_those_of_the_run_itself(name: str) -> None:
    """A plan in canonical coordinates, on its own process and on data of another size."""
    process, scale = PROCESSES[name], 3.0
    model, unit = mixture(process, scale), mixture(Flow())
    plan = build_sampler("dpmpp_2m", "simple", 5, process=process).plan
    noise = torch.randn(7, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    end = build_sampler(plan, process=process).sample(model, plan.start.sigma * noise) / scale
    levels, rows = (torch.from_numpy(array) for array in canonical(plan, scale))
    problem = Problem(lambda y, s: unit(y, s.item()), levels[0] * noise, end, torch.tensor(1.0))
    assert problem.errors(levels, rows).max() < 2e-6


@pytest.mark.parametrize("end", ["integral", "denoised"])
def test_numbers_and_tables_are_the_same_thing(end: str) -> None:
    how: dict[str, Any] = {"end": "integral"} if end == "integral" else {}
    table = table_of(build_sampler("exp_pc", "karras", 6, **how).plan)
    family = Free(6, table.levels[0], 0.02, end)
    again = family.table(family.numbers(table))
    assert again.levels == pytest.approx(table.levels, rel=2e-3)  # no gap may vanish
    assert [value for row in again.weights for value in row] == pytest.approx([v for row in table.weights for v in row])


def test_derivatives_with_respect_to_levels_are_right() -> None:
    def plan_of(levels: Any) -> Plan:
        return build_sampler("dpmpp_2m", sigmas=levels).plan

    family = OnGrid(plan_of, 1.0, 4, VP().sigma_max, VP().sigma_min)
    numbers = torch.from_numpy(family.numbers([VP().sigma_max, 4.0, 1.0, 0.2, 0.0])).requires_grad_()
    assert family.levels(numbers.detach().numpy())[1:-1] == pytest.approx([4.0, 1.0, 0.2], rel=2e-3)
    assert torch.autograd.gradcheck(lambda n: family.rows(n)[1], numbers, atol=1e-4, rtol=1e-3)


def test_a_surrogate_has_as_many_parts_as_the_samples_show() -> None:
    rng = np.random.default_rng(0)
    one = fit_surrogate(Gaussian(np.zeros(8), np.geomspace(1, 0.01, 8) * 3).sample(600, 1), rng)
    assert (one.components, one.split) == (1, 0)
    assert fit_surrogate(mixture(VP()).sample(600, 1), rng).components > 1
    wide = fit_surrogate(rng.standard_normal((80, 500)), rng)  # fewer samples than dimensions
    assert torch.isfinite(wide(torch.ones(1, 3, wide.dimension, dtype=torch.float64), at(0.5))).all()


def test_independent_values_have_a_surrogate_of_their_own() -> None:
    """Sparse values have 2 ** 24 modes: no mixture that can be listed, but one of each value. Its denoiser is exact."""
    rng = np.random.default_rng(0)
    share, narrow, wide = 0.25, 0.1, math.sqrt((1 - 0.75 * 0.01) / 0.25)
    samples = rng.standard_normal((800, 24)) * np.where(rng.random((800, 24)) < share, wide, narrow)
    found = fit_surrogate(samples, rng)
    assert isinstance(found.mixture, IndependentValues)
    assert found.has_modes
    y, s = torch.from_numpy(rng.standard_normal((1, 50, 24))), 0.5
    variances = [(0.5 * std) ** 2 + 0.25 for std in (narrow, wide)]
    logs = [math.log(p / math.sqrt(v)) - y**2 / 2 / v for p, v in zip((1 - share, share), variances, strict=True)]
    second = (logs[1] - logs[0]).sigmoid()
    exact = 0.5 * y * ((1 - second) * narrow**2 / variances[0] + second * wide**2 / variances[1])
    assert (found(y, at(s)) - exact).square().mean().sqrt() < 0.1 * exact.square().mean().sqrt()


# ------------------------------------------------------------------------------------------------------- from samples


@pytest.mark.usefixtures("shorter", "one_zoo")
@pytest.mark.parametrize("name", [pytest.param("sd", marks=exhaustive), pytest.param("edm", marks=exhaustive), "flow"])
def test_samples_make_a_plan_that_beats_the_pairs_on_the_real_model(name: str) -> None:
    process = PROCESSES[name]
    model = mixture(process, 0.5)
    plan = tune(model.sample(400, 1), 6, process=process, items=256)
    assert plan.nfe == plan.steps == 6
    assert plan.report["tuned"]
    assert plan.report["data_std"] == pytest.approx(0.5, rel=0.1)
    best = min(
        error(build_sampler(sampler, schedule, 6, process=process).plan, model, process)
        for sampler, schedule in [("dpmpp_2m", "karras"), ("uni_pc", "simple"), ("euler", "simple"), ("lms", "beta")]
    )
    assert error(plan, model, process) < best / 1.3
    ends = canonical(plan, 0.5)[1][-1]
    assert abs(ends[0]) + abs(ends[1:].sum() - 1) < 1e-8  # exact for a constant prediction
    plan = tune(model.sample(400, 1), 6, process=process, items=256, consistent=True)
    assert not plan.tells_others
    assert error(plan, model, process) < best / 1.2
    for state in analysis.marginals(plan):
        assert state.alpha == pytest.approx(state.level.alpha, abs=1e-9)


@pytest.mark.usefixtures("short")
def test_the_same_seed_makes_the_same_plan_and_its_report_is_kept() -> None:
    samples = mixture(VP()).sample(200, 1)
    one, two = tune(samples, 2, seed=3, items=64), tune(torch.from_numpy(samples), 2, seed=3, items=64)
    assert one == two
    assert one.report == two.report
    again = Plan.from_json(one.to_json())
    assert again == one
    assert again.report == json.loads(json.dumps(dict(one.report)))
    assert {"chosen", "why", "errors", "untuned", "compared", "held_out", "seed", "samples"} <= again.report.keys()
    assert tune(samples, 2, seed=4, items=64) != one


@exhaustive
@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_modes_and_threads_of_torch_do_not_matter(mode: Any) -> None:
    model = mixture(VP())
    samples, threads = model.sample(100, 1), torch.get_num_threads()

    def made() -> Plan:
        if mode is torch.no_grad:
            return tune(told(model), 2, shape=(8,), level=2, items=16)
        return tune(samples, 2, items=64)

    expected = made()
    with mode():
        assert made() == expected
    assert torch.get_num_threads() == threads


@exhaustive
def test_samples_of_other_data_mislead_little() -> None:
    """One Gaussian, whose runs are straight, says nothing of a mixture under guidance; the plan is no worse for it."""
    rng = np.random.default_rng(0)
    plan = tune(rng.standard_normal((300, 8)), 6, items=256)
    assert plan.report["components"] == 1
    assert plan.report["tuned"]
    model = mixture(VP())
    for denoiser in (told(model), guided(model)):
        assert error(plan, denoiser, VP()) < 1.3 * error(build_sampler("auto", steps=6).plan, denoiser, VP())


def test_one_step_is_the_prediction() -> None:
    plan = tune(mixture(VP()).sample(100, 1), 1)
    assert [value for _, value in plan.rows[-1].terms] == [1.0]


@pytest.mark.usefixtures("short", "one_zoo")
def test_a_sampler_is_kept_and_its_levels_are_chosen() -> None:
    model = mixture(VP())
    plan = tune(model.sample(300, 1), 6, sampler="DPM++ 2M", items=128)
    assert plan == build_sampler("dpmpp_2m", sigmas=plan.sigmas).plan
    assert plan.report["sampler"] == "dpmpp_2m"
    best = min(
        error(build_sampler("dpmpp_2m", rule, 6).plan, model, VP()) for rule in ("karras", "exponential", "beta")
    )
    assert error(plan, model, VP()) < best
    twice = tune(model.sample(200, 1), 3, sampler="heun", level=0, items=64)
    assert (twice.steps, twice.nfe) == (3, 5)


@pytest.mark.usefixtures("shorter", "one_zoo")
def test_guidance_is_tuned_for() -> None:
    model = mixture(VP())
    samples = model.sample(400, 1)
    labels = [model.labels[k] for k in model.responsibilities(torch.from_numpy(samples), 0.01).argmax(1).tolist()]
    plan = tune(samples, 7, guidance=4.0, labels=labels, items=256)
    assert plan.report["guidance"] == 4.0
    others = [
        build_sampler(s, r, 7).plan for s, r in [("dpmpp_2m", "karras"), ("euler", "simple"), ("uni_pc", "simple")]
    ]
    denoiser = guided(model)
    assert error(plan, denoiser, VP()) < min(error(other, denoiser, VP()) for other in others)


@pytest.mark.usefixtures("short", "one_zoo")
def test_an_end_at_the_prediction_is_kept_to() -> None:
    plan = tune(mixture(VP()).sample(200, 1), 5, end="denoised", items=64)
    assert [value for _, value in plan.rows[-1].terms] == [1.0]


def test_what_is_not_better_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit that goes wrong gives the best pair, and the report says so."""

    def ruined(*_: Any) -> Plan:
        return build_sampler("euler", sigmas=[14.6, 14.0, 13.0, 0.03, 0.0], process=VP()).plan

    monkeypatch.setattr(search.Tuning, "improved", ruined)
    monkeypatch.setattr(search, "shipped", lambda *_: iter(()))
    plan = tune(mixture(VP()).sample(200, 1), 4, items=64)
    assert not plan.report["tuned"]
    assert "no tuned plan was better" in plan.report["why"]
    assert plan.report["chosen"] == plan.report["untuned"]["name"]
    assert any("refused" in row for row in plan.report["compared"])


@pytest.mark.usefixtures("short", "one_zoo")
def test_where_nothing_fitted_is_better_auto_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is accepted, and `auto` is nearer than the best pair: its plan is returned, not the pair's."""
    monkeypatch.setattr(search, "objection", lambda *_: "it may be chance")
    model = mixture(VP())
    plan = tune(model.sample(200, 1), 8, items=64)
    assert plan.report["chosen"].startswith("auto (")
    assert "no tuned plan was clearly better" in plan.report["why"]
    monkeypatch.setattr(search, "shipped", lambda *_: iter(()))
    assert tune(model.sample(200, 1), 8, items=64).report["chosen"] == plan.report["untuned"]["name"]


@pytest.mark.parametrize(
    ("source", "how", "said"),
    [
        (np.zeros((10, 4)), {}, "at least 64 samples"),
        (np.ones((100, 4)), {}, "samples must differ"),
        (np.full((100, 4), np.nan), {}, "samples must be finite; got 400 of 400 values"),
        ("data.npy", {}, "source must be samples or a denoiser; got str"),
        (np.random.default_rng(0).standard_normal((100, 4)), {"steps": 51}, "at most 50"),
        (np.random.default_rng(0).standard_normal((100, 4)), {"steps": 0}, "at least 1"),
        (np.random.default_rng(0).standard_normal((100, 4)), {"level": 2}, "level 2 needs a denoiser"),
        (np.random.default_rng(0).standard_normal((100, 4)), {"level": 7}, "level must be 0, 1 or 2"),
        (
            np.random.default_rng(0).standard_normal((100, 4)),
            {"labels": [1, 2]},
            "labels must have one entry for each of the 100",
        ),
        (np.random.default_rng(0).standard_normal((100, 4)), {"end": "sigma_min"}, "end must be 'integral'"),
        (np.random.default_rng(0).standard_normal((100, 4)), {"guidance": 0.5}, "guidance must be from 1"),
        (np.random.default_rng(0).standard_normal((100, 4)), {"items": 2}, "items must be from 16"),
        (np.random.default_rng(0).standard_normal((100, 4)), {"seed": -1}, "seed must be"),
        (np.random.default_rng(0).standard_normal((100, 4)), {"data_std": 0}, "data_std must be above 0"),
        (np.random.default_rng(0).standard_normal((100, 4)), {"eta": 1}, "tune has no option 'eta'"),
        (np.random.default_rng(0).standard_normal((100, 4)), {"process": "vp"}, "process must be a ksched process"),
        (np.random.default_rng(0).standard_normal((100, 4)), {"sampler": "dpmpp_2m_sde"}, "draws noise"),
        (np.random.default_rng(0).standard_normal((100, 4)), {"sampler": "dpm_adaptive"}, "no sigmas to tune"),
        (np.random.default_rng(0).standard_normal((100, 4)), {"sampler": "auto"}, "no sigmas to tune"),
        (np.random.default_rng(0).standard_normal((100, 4)), {"sampler": "euler", "eta": 2}, "euler has no option"),
    ],
)
def test_bad_samples_and_arguments_are_refused(source: Any, how: dict[str, Any], said: str) -> None:
    with pytest.raises((TypeError, ValueError), match=said):
        tune(source, **{"steps": 4, **how})


# ------------------------------------------------------------------------------------------------------- from a model


def told(model: GaussianMixture) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    return lambda x, sigma: model(x, sigma)


@pytest.mark.usefixtures("shorter", "one_zoo")
@pytest.mark.parametrize("name", ["edm", pytest.param("flow", marks=exhaustive)])
def test_a_denoiser_makes_a_plan(name: str) -> None:
    process = PROCESSES[name]
    model = mixture(process, 0.5)
    plan = tune(told(model), 8, process=process, shape=(8,), batch=50)
    assert plan.report["tuned"]
    assert plan.report["noise_of_the_model"] == 0
    assert plan.report["model_calls"] > 0
    assert plan.report["data_std"] == pytest.approx(0.5, rel=0.2)
    other = build_sampler("dpmpp_2m", "karras", 8, process=process).plan
    assert error(plan, model, process) < error(other, model, process) / 2


@pytest.mark.usefixtures("short", "one_zoo")
def test_strong_guidance_of_a_model_is_borne() -> None:
    """In few steps a high-order method diverges under strong guidance, and the measured spread would be wrong."""
    process = Flow()
    model = mixture(process)
    part = model.only(1)

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        uncond = model(x, sigma.double())
        return uncond + 9 * (part(x, sigma.double()) - uncond)

    plan = tune(denoise, 6, process=process, shape=(8,), items=64)
    assert 0.5 < plan.report["data_std"] < 3
    assert plan.report["errors"]["mean"] < 0.3


@pytest.mark.usefixtures("short", "one_zoo")
def test_level_0_chooses_and_level_2_goes_through_the_model() -> None:
    model = mixture(VP())
    chosen = tune(model, 5, level=0, items=64)  # which tells its dimension
    assert not any(row["name"].startswith("fitted") for row in chosen.report["compared"])
    through = tune(model, 5, level=2, items=64)
    assert "fitted through the model" in [row["name"] for row in through.report["compared"]]
    assert error(through, model, VP()) <= error(chosen, model, VP()) * 1.05


@pytest.mark.usefixtures("short", "one_zoo")
def test_level_1_frees_rows_through_a_model_without_gradients() -> None:
    model = mixture(VP())

    @torch.no_grad()
    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return model(x.double(), sigma.double()).to(x.dtype)

    plan = tune(denoise, 4, shape=(8,))
    assert plan.report["chosen"] == "fitted through the model"
    auto = next(row for row in plan.report["compared"] if row["name"] == "auto (integral)")
    assert plan.report["errors"]["mean"] < auto["mean"] / 1.5
    kept = tune(denoise, 4, shape=(8,), items=32, consistent=True)
    assert "fitted through the model" not in [row["name"] for row in kept.report["compared"]]


def test_level_2_says_so_where_there_are_no_gradients() -> None:
    model = mixture(VP())

    @torch.no_grad()
    def cut(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return model(x, sigma)

    with pytest.raises(ValueError, match="its answer has none"):
        tune(cut, 4, shape=(8,), level=2, items=16)


def noisy(model: GaussianMixture, noise: float, generator: torch.Generator) -> Callable[..., torch.Tensor]:
    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        clean = model(x, sigma.double())
        return clean + noise * torch.randn(clean.shape, generator=generator, dtype=clean.dtype).to(clean)

    return denoise


@pytest.mark.usefixtures("short", "one_zoo")
@pytest.mark.parametrize("noise", [pytest.param(0.01, marks=exhaustive), 0.03])
def test_a_noisy_model_is_not_made_worse(noise: float) -> None:
    model, generator = mixture(VP()), torch.Generator().manual_seed(0)
    denoiser = noisy(model, noise, generator)
    plan = tune(denoiser, 6, shape=(8,), items=64)
    assert plan.report["noise_of_the_model"] == pytest.approx(noise, rel=0.2)
    untuned = plan.report["untuned"]["name"]
    pair = next(p for n, p in ksched.tuning.baselines.untuned(6, VP(), None) if n == untuned)
    errors = []
    for each in (plan, pair):
        generator.manual_seed(7)  # the same noise for both
        errors.append(error(each, denoiser, VP(), model))
    assert errors[0] < 1.05 * errors[1]


def test_errors_of_a_noisy_model_are_not_those_of_its_teacher() -> None:
    model = mixture(VP())
    denoiser = noisy(model, 0.002, torch.Generator().manual_seed(0))
    plan = tune(denoiser, 12, shape=(8,), level=0, items=128)
    assert plan.report["errors"]["mean"] == pytest.approx(error(plan, denoiser, VP(), model), rel=0.25)


def wrong(kind: str) -> Callable[[torch.Tensor, torch.Tensor], Any]:
    model = mixture(VP())

    def answer(x: torch.Tensor, sigma: torch.Tensor) -> Any:
        denoised = model(x, sigma)
        level = sigma.reshape(-1, 1).to(x)
        return {
            "nan": denoised * math.nan,
            "shape": denoised[:, :3],
            "no tensor": 3.0,
            "noise": (x - denoised) / level,
            "state": x,
            "velocity": x - denoised,
        }[kind]

    return answer


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("nan", "finite numbers; got nan or infinity at sigma 14.6"),
        ("shape", r"a tensor of the state's shape, \(16, 8\); got shape \(16, 3\)"),
        ("no tensor", "a tensor of the state's shape.*got float"),
        ("noise", "denoiser"),
        ("state", "denoiser"),
        ("velocity", "denoiser"),
    ],
)
def test_a_wrong_model_is_an_error_that_says_what_is_wrong(kind: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        tune(wrong(kind), 5, shape=(8,), items=16)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({}, "shape must be the shape of one item"),
        ({"shape": (0, 3)}, "positive integers"),
        ({"shape": (8,), "batch": 0}, "batch must be"),
        ({"shape": (8,), "guidance": 3.0}, "apply guidance inside the denoiser"),
        ({"shape": (8,), "data_std": -1.0}, "data_std must be above 0"),
    ],
)
def test_bad_arguments_for_a_model_are_refused_before_it_is_called(how: dict[str, Any], said: str) -> None:
    def never(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the model was called")

    with pytest.raises(ValueError, match=said):
        tune(never, 5, **how)


@pytest.mark.exhaustive
@pytest.mark.usefixtures("short", "one_zoo")
def test_a_process_of_another_range_is_tuned_for_too() -> None:
    process = VE(0.02, 30.0)
    model = mixture(process)
    samples: Array = model.sample(300, 1)
    plan = tune(samples, 6, process=process, items=256)
    other = build_sampler("dpmpp_2m", "karras", 6, process=process).plan
    assert error(plan, model, process) < error(other, model, process) / 1.5
