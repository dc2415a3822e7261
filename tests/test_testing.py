"""The checks for users' own code: each planted mistake gets the sentence that names it, correct code passes."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from cases import COORDINATES, SPECS, can_be_silent, no_noise
from hypothesis import given
from hypothesis import strategies as st
from representatives import is_form, short

import ksched
from ksched import VE, VP, Flow, NoiseSchedule, Process, calculate_sigmas
from ksched.samplers.blocks.steps import ddim
from ksched.samplers.spec import SamplerSpec
from ksched.schedules.flow_transforms import shift
from ksched.schedules.grid import Grid, check_sigmas
from ksched.testing.levels import check_sigma_curve
from ksched.testing.samplers import check_sampler
from ksched.testing.schedules import check_schedule, check_shift
from ksched.testing.strategies import grids, processes, sigma_curves, step_counts
from ksched.types import Array


def karras(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> Array:
    """As k-diffusion writes it: no care for the last bit."""
    ramp = np.linspace(0, 1, steps)
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return np.append((high + ramp * (low - high)) ** rho, 0.0)


def but(change: Callable[[Array, int], Any]) -> Callable[[int, float, float], Any]:
    """`karras` with its levels changed."""

    def wrong(steps: int, sigma_min: float, sigma_max: float) -> Any:
        return change(karras(steps, sigma_min, sigma_max), steps)

    return wrong


def put(index: int, value: float, at_least: int = 1) -> Callable[[Array, int], Array]:
    def change(levels: Array, steps: int) -> Array:
        if steps >= at_least:
            levels[index] = value
        return levels

    return change


TABLE = karras(20, 0.03, 14.6)
KEPT: dict[tuple[float, ...], Array] = {}


def numpy_noise(steps: int, sigma_min: float, sigma_max: float) -> Array:
    np.random.rand()  # noqa: NPY002 - the mistake
    return karras(steps, sigma_min, sigma_max)


def python_noise(steps: int, sigma_min: float, sigma_max: float) -> Array:
    random.random()
    return karras(steps, sigma_min, sigma_max)


def torch_noise(steps: int, sigma_min: float, sigma_max: float) -> Array:
    torch.rand(1)
    return karras(steps, sigma_min, sigma_max)


def own_noise(steps: int, sigma_min: float, sigma_max: float) -> Array:
    levels = karras(steps, sigma_min, sigma_max)
    levels[1:-1] *= 1 - 1e-3 * np.random.default_rng().random(steps - 1)
    levels[:-1] = np.maximum(levels[:-1], sigma_min)
    return levels


def kept(*args: float) -> Array:
    KEPT.setdefault(args, karras(int(args[0]), *args[1:]))
    return KEPT[args]


def divides_by_zero(steps: int, sigma_min: float, sigma_max: float) -> Array:
    u = np.array([i / (steps - 1) for i in range(steps)])
    return np.append(sigma_max * (sigma_min / sigma_max) ** u, 0.0)


def divides_zero_by_zero(steps: int, sigma_min: float, sigma_max: float) -> Array:
    with np.errstate(invalid="ignore"):
        u = np.arange(steps) / np.float64(steps - 1)
    return np.append(np.tan(u * math.atan(sigma_min) + (1 - u) * math.atan(sigma_max)), 0.0)


SCHEDULES: list[tuple[str, Callable[..., Any], str]] = [
    ("not monotone", but(put(2, 1e3, 3)), r"steps=3.*strictly decreasing; levels\[1\]=.* is followed by a larger one"),
    (
        "repeated",
        but(lambda levels, n: np.append(np.repeat(levels[:-1], 2)[:n], 0.0)),
        r"steps=2.*levels\[0\]=14.* is repeated",
    ),
    ("NaN at one step", divides_zero_by_zero, r"steps=1, .*must be finite; got levels\[0\]=nan"),
    ("error at one step", divides_by_zero, r"steps=1, .*it raised ZeroDivisionError: division by zero"),
    (
        "wrong end at one step",
        lambda steps, sigma_min, sigma_max: np.append(np.linspace(sigma_min, sigma_max, steps)[::-1], 0.0),
        r"steps=1, .*must be sigma_max=14.6; got levels\[0\]=0.03, which is sigma_min.*one step uses the wrong end",
    ),
    ("one too few", but(lambda levels, n: levels[1:]), r"steps \+ 1 = 2 numbers; got 1$"),
    ("one too many", but(lambda levels, n: np.append(levels, -1)), r"steps \+ 1 = 2 numbers; got 3$"),
    ("missing zero", but(lambda levels, n: levels[:-1]), r"steps \+ 1 = 2 numbers; got 1. Is the final 0 missing\?"),
    (
        "ends above zero",
        but(lambda levels, n: np.where(levels == 0, 0.01, levels)),
        r"the last level must be 0; got levels\[1\]=0.01",
    ),
    ("float32 dtype", but(lambda levels, n: levels.astype(np.float32)), "must be float64; got float32"),
    (
        "float32 tensor",
        but(lambda levels, n: torch.tensor(levels, dtype=torch.float32)),
        "must be float64; got float32",
    ),
    ("float32 rounding", but(lambda levels, n: levels.astype(np.float32).astype(float)), "levels"),
    (
        "float32 inside, exact ends",
        but(lambda levels, n: np.r_[levels[:1], levels[1:-2].astype(np.float32), levels[1:][-2:]]),
        r"rounded to float32, as levels\[1\]=",
    ),
    ("whole numbers", but(lambda levels, n: np.arange(n, -1, -1)), "must be float64; got int64"),
    ("numbers as text", but(lambda levels, n: [str(level) for level in levels]), "must be float64; got <U"),
    ("two lists", but(lambda levels, n: np.stack([levels, levels])), r"one list of numbers; got shape \(2, 2\)"),
    ("ragged", but(lambda levels, n: [levels, [1.0]]), "must be (one list of numbers|float64)"),
    ("nothing", lambda steps, sigma_min, sigma_max: None, "must be float64; got NoneType of objects"),
    (
        "sigma_max ignored",
        lambda steps, sigma_min, sigma_max: karras(steps, sigma_min, 14.6),
        "sigma_max is ignored: the levels are the same for sigma_max=14.6 and 0.66",
    ),
    (
        "sigma_min ignored",
        lambda steps, sigma_min, sigma_max: karras(steps, 0.03, sigma_max),
        "steps=2.*sigma_min is ignored: the levels are the same for sigma_min=0.03 and 0.66",
    ),
    (
        "sigma_min halved",
        lambda steps, sigma_min, sigma_max: karras(steps, sigma_min / 2, sigma_max),
        r"steps=2.*the last level above 0 must be at least sigma_min=0.03; got levels\[1\]=0.015",
    ),
    (
        "swapped",
        lambda steps, sigma_min, sigma_max: karras(steps, sigma_max, sigma_min),
        "which is sigma_min: the two are swapped",
    ),
    (
        "swapped from two steps on",
        lambda steps, *ends: karras(steps, *(ends if steps == 1 else ends[::-1])),
        "steps=2.*sigma_min and sigma_max are swapped: levels rise from 0.03.* to 14.",
    ),
    (
        "does not start at sigma_max",
        lambda steps, sigma_min, sigma_max: karras(steps + 1, sigma_min, sigma_max)[1:],
        r"the first level must be sigma_max=14.6; got levels\[0\]=0.03",
    ),
    (
        "starts almost at sigma_max",
        lambda steps, sigma_min, sigma_max: karras(steps, sigma_min, sigma_max * 0.999),
        r"the first level must be sigma_max=14.6; got levels\[0\]=14.5854",
    ),
    ("negative", but(put(-1, -0.5)), r"must be >= 0; got levels\[1\]=-0.5"),
    ("infinite", but(put(0, math.inf)), r"must be finite; got levels\[0\]=inf"),
    ("global numpy noise", numpy_noise, "changed the global random state of numpy"),
    ("global Python noise", python_noise, "changed the global random state of Python"),
    ("global torch noise", torch_noise, "changed the global random state of torch"),
    ("other levels each time", own_noise, r"steps=3, .*must be a function of its arguments; two calls gave different"),
    ("keeps its array", kept, "must return a new array every time; writing to the result changes"),
    (
        "wrong at one number of steps only",
        lambda steps, sigma_min, sigma_max: karras(steps + (steps == 20), sigma_min, sigma_max),
        r"steps=20.*steps \+ 1 = 21 numbers; got 22",
    ),
    (
        "wrong for large sigma_max only",
        lambda steps, sigma_min, sigma_max: karras(steps, sigma_min, min(sigma_max, 700.0)),
        r"\(steps=1, sigma_min=.*the first level must be sigma_max=.*; got levels\[0\]=(700|699.9)",
    ),
]


@pytest.mark.parametrize(("function", "message"), [c[1:] for c in SCHEDULES], ids=[c[0] for c in SCHEDULES])
def test_a_mistake_of_a_schedule_is_named(function: Callable[..., Any], message: str) -> None:
    with pytest.raises(AssertionError, match=message) as caught:
        check_schedule(function)
    assert "\n" not in str(caught.value)
    again = None
    try:
        check_schedule(function)
    except AssertionError as error:
        again = str(error)
    # the same sentence in every run, of a function that is one
    assert again == str(caught.value) or function in (own_noise, kept)


def polyexponential(n: int, low: float, high: float, rho: float = 1.0, device: str = "cpu") -> torch.Tensor:
    ramp = torch.linspace(1, 0, n, dtype=torch.float64) ** rho
    sigmas = torch.exp(ramp * (math.log(high) - math.log(low)) + math.log(low))
    sigmas[0] = high
    return torch.cat([sigmas, sigmas.new_zeros(1)])


@pytest.mark.parametrize(
    ("function", "how"),
    [
        (karras, {}),
        (polyexponential, {}),
        (lambda *given: list(karras(*given)), {}),
        (lambda steps, *, sigma_max: sigma_max * np.linspace(1, 0, steps + 1) ** 2, {}),
        (lambda steps: np.linspace(1, 0, steps + 1), {"process": Flow()}),
        (lambda steps: np.linspace(1, 0.1, steps + 1), {"final_zero": None, "steps": (7, 3)}),
        (lambda steps: shift(np.linspace(1, 0, steps + 1), 3.0), {"process": Flow(3.0), "even": True}),
        (lambda n: np.array([8.0, 4.0, 2.0, 1.0, 0.0]), {"steps": 4, "sigma_min": 1.0, "sigma_max": 8.0}),
        (lambda n: np.array([14.615, 6.475, 3.861, 2.697, 0]), {"steps": [4], "sigma_max": 14.615}),
        (lambda n, a, b: np.geomspace(b, a, n + 1), {"final_zero": False}),
        (karras, {"process": Flow()}),
        (karras, {"sigma_max": 80.0}),
        (karras, {"sigma_min": 20.0}),
        (karras, {"sigma_min": 0.002, "sigma_max": 80.0}),
    ],
)
def test_correct_schedules_of_every_signature_pass(function: Callable[..., Any], how: dict[str, Any]) -> None:
    check_schedule(function, **how)


def test_levels_are_held_to_the_range_that_is_given() -> None:
    def table(steps: int) -> Array:
        return TABLE.copy()

    check_schedule(table, steps=20, sigma_min=0.03, sigma_max=14.6)
    with pytest.raises(AssertionError, match=r"^table\(steps=20\): the first level must be sigma_max=80; got"):
        check_schedule(table, steps=20, sigma_max=80)
    with pytest.raises(AssertionError, match=r"at least sigma_min=0.1; got levels\[19\]=0.03"):
        check_schedule(table, steps=20, sigma_min=0.1)
    with pytest.raises(AssertionError, match=r"table\(steps=1\): levels must be steps \+ 1 = 2 numbers; got 21"):
        check_schedule(table)
    with pytest.raises(AssertionError, match="the last level must be above 0"):
        check_schedule(table, steps=20, final_zero=False)


def test_a_shift_applied_twice_is_named() -> None:
    def twice(steps: int) -> Array:
        return shift(calculate_sigmas("simple", steps, Flow(3.0)), 3.0)

    with pytest.raises(AssertionError, match=r"steps=3.*the shift is applied twice: levels\[1\]=0.947.*gives 0.857"):
        check_schedule(twice, process=Flow(3.0), even=True)
    with pytest.raises(AssertionError, match=r"must be even in the time of Flow.*got time 1, 0.44"):
        check_schedule(lambda steps: np.linspace(1, 0, steps + 1) ** 2, process=Flow(), even=True)


def unshifted(steps: int) -> Array:
    return np.linspace(1, 0, steps + 1)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda n, s: shift(shift(unshifted(n), s), s),
            r"\(steps=2, shift=3.0\): the shift is applied twice: levels\[1\]=0.(9|8999)\d*, but 0.5 shifted once",
        ),
        (lambda n, s: unshifted(n), r"the shift is not applied: levels\[1\]=0.5"),
        (lambda n, s: shift(unshifted(n), 1 / s), r"the shift is applied inversely: levels\[1\]=0.25"),
        (lambda n, s: shift(unshifted(n), s**0.5), r"not applied as one shift: levels\[1\]=0.63"),
        (lambda n, s: 2 * unshifted(n), r"of a flow process must be at most 1; got levels\[0\]=2"),
        (lambda n, s: unshifted(n + 1), r"steps \+ 1 = 2 numbers; got 3"),
        (lambda n, s: unshifted(n).astype(np.float32), "must be float64; got float32"),
    ],
)
def test_a_wrong_shift_is_named(function: Callable[[int, float], Any], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_shift(function)


@pytest.mark.parametrize("name", ["simple", "sgm_uniform", "normal"])
def test_our_flow_schedules_shift_once(name: str) -> None:
    check_shift(lambda steps, s: calculate_sigmas(name, steps, Flow(s)))


@pytest.mark.parametrize(
    ("function", "how", "kind", "message"),
    [
        (lambda a, b: [1.0, 0.0], {}, TypeError, r"function must take \(steps\).*got \(a, b\)"),
        (lambda steps, process: [1.0, 0.0], {}, TypeError, "the function needs a process; pass"),
        (karras, {"sigma_min": 3, "sigma_max": 2}, ValueError, "sigma_min must be above 0 and below sigma_max; got 3"),
        (karras, {"steps": 0}, ValueError, "steps must be at least 1; got 0"),
    ],
)
def test_a_check_that_cannot_be_made_is_refused(
    function: Callable[..., Any], how: dict[str, Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        check_schedule(function, **how)


def test_a_curve_alone() -> None:
    check_sigma_curve([3.0, 1.0, 0.0], steps=2, sigma_max=3, sigma_min=1)
    check_sigma_curve([3.0], steps=0, final_zero=False)
    for wrong, message in (
        ([], "float64|at least one number"),
        ([0.0, 1.0], r"levels\[0\]=0.0 is followed by a larger one: levels\[1\]=1.0"),
        (np.array([0.2, 0.1], np.float32).astype(float), "rounded to float32"),
        (torch.ones(2, dtype=torch.bfloat16), "float64; got bfloat16"),
    ):
        with pytest.raises(AssertionError, match=message):
            check_sigma_curve(wrong, final_zero=None)


# Samplers


def euler(run: Any, grid: Grid, x: Any) -> Any:
    for s, t in grid.steps():
        x = ddim(s, t, x, run.denoise(x, s))
    return x


def second_order(run: Any, grid: Grid, x: Any, *, half: float = 0.5) -> Any:
    """DPM++ 2M with the weight of its correction as an option."""
    last = None
    for s, t in grid.steps():
        denoised = run.denoise(x, s)
        if t.sigma == 0:
            return denoised
        h = t.lam - s.lam
        x = ddim(s, t, x, denoised)
        if last is not None and math.isfinite(h) and math.isfinite(last[1]):
            x = x - half * t.alpha * math.expm1(-h) * h / last[1] * (denoised - last[0])
        last = denoised, h
    return x


def wrong_coefficient(run: Any, grid: Grid, x: Any) -> Any:
    for s, t in grid.steps():
        x = ddim(s, t, x, run.denoise(x, s) * (1.001 if t.sigma > 0 else 1.0))
    return x


def only_ve(run: Any, grid: Grid, x: Any) -> Any:
    """Ancestral Euler as k-diffusion writes it, right where alpha is 1."""
    for s, t in grid.steps():
        up = t.sigma * math.sqrt(1 - min(t.sigma / s.sigma, 1) ** 2)
        down = math.sqrt(t.sigma**2 - up**2)
        denoised = run.denoise(x, s)
        x = x + (down - s.sigma) / s.sigma * (x - denoised)
        if t.sigma > 0:
            x = x + up * run.noise(s, t)
    return x


def too_much_noise(run: Any, grid: Grid, x: Any) -> Any:
    for s, t in grid.steps():
        x = ddim(s, t, x, run.denoise(x, s))
        if t.sigma > 0:
            x = x + 0.1 * t.sigma * run.noise(s, t)
    return x


def ends_early(run: Any, grid: Grid, x: Any) -> Any:
    """The last step mixes two predictions."""
    last = None
    for s, t in grid.steps():
        denoised = run.denoise(x, s)
        x = ddim(s, t, x, denoised if t.sigma > 0 or last is None else 0.5 * denoised + 0.5 * last)
        last = denoised
    return x


def overflows(run: Any, grid: Grid, x: Any) -> Any:
    for s, t in grid.steps():
        x = ddim(s, t, x, run.denoise(x, s)) * (math.inf if len(grid) > 1 else 1.0)
    return x


def log_of_zero(run: Any, grid: Grid, x: Any) -> Any:
    for s, t in grid.steps():
        x = ddim(s, t, x, run.denoise(x, s)) * math.copysign(1, math.log(t.sigma) + 1e9)
    return x


def looks_at_data(run: Any, grid: Grid, x: Any) -> Any:
    return x.clamp(-1, 1)


CALLS = iter(range(10**9))


def remembers(run: Any, grid: Grid, x: Any) -> Any:
    """Right, but takes the midpoint in every second call."""
    odd = next(CALLS) % 2
    for s, t in grid.steps():
        denoised = run.denoise(x, s)
        if odd and t.sigma > 0:
            middle = grid.at((min(max(s.lam, -20), 20) + t.lam) / 2)
            denoised = run.denoise(ddim(s, middle, x, denoised), middle)
        x = ddim(s, t, x, denoised)
    return x


def moves_noise(run: Any, grid: Grid, x: Any) -> Any:
    random.random()
    return euler(run, grid, x)


SAMPLERS: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (wrong_coefficient, {}, r"on VE\(.*the result holds 1.0\d* of the data where its level, .* has 1: a coefficient"),
    (only_ve, {}, r"on VP\(.*holds .* a coefficient is wrong. It is right on VE\(.*use the alpha of the levels"),
    (only_ve, {"processes": [VE(), Flow()]}, r"on Flow\(.*is wrong. It is right on VE\("),
    (too_much_noise, {}, r"(the result|state x1) has noise of variance .* where its level, .* a coefficient is wrong"),
    (ends_early, {}, r"a step to sigma 0 must end at the denoised prediction, \+1 D1; the result is \+0.5 D1 \+0.5 D0"),
    (overflows, {}, "it raised ValueError: .*finite coefficients; got inf"),
    (log_of_zero, {}, r"sigmas=\[.*, 0.0\]: it raised ValueError: math domain error"),
    (looks_at_data, {}, r"a sampler may only add, subtract and scale.*calling or reading .clamp"),
    (remembers, {}, "two traces gave different tables"),
    (moves_noise, {}, "changed the global random state of Python"),
    (euler, {"order": 2}, r"on VE\(.*order 2 is declared, but (1.0\d|0.9\d) is measured"),
    (second_order, {"order": 2, "options": {"half": 1.0}}, "order 2 is declared, but (1.0|0.9)"),
    (ksched.samplers.registry.sampler_spec("ddpm").function, {"order": 1}, "draws noise, so single runs have no order"),
    (ksched.samplers.registry.sampler_spec("ddpm").function, {"weak_order": 2}, "weak order 2 is declared"),
]


@pytest.mark.parametrize(("function", "how", "message"), SAMPLERS)
def test_a_mistake_of_a_sampler_is_named(function: Callable[..., Any], how: dict[str, Any], message: str) -> None:
    with pytest.raises(AssertionError, match=message) as caught:
        check_sampler(function, **how)
    assert "\n" not in str(caught.value)


def test_the_counterexample_is_small() -> None:
    with pytest.raises(AssertionError) as caught:
        check_sampler(wrong_coefficient)
    found = re.search(r"sigmas=\[(.*?)\]", str(caught.value))
    assert found is not None
    assert found[1].count(",") == 1  # one step, ending above 0


@pytest.mark.parametrize(("function", "order"), [(euler, 1), (second_order, 2)])
def test_correct_samplers_pass(function: Callable[..., Any], order: int) -> None:
    check_sampler(function, order=order)


@short(lambda spec: is_form(spec.name) and not spec.uncond)  # proofs of all are in test_marginals.py and test_orders.py
@pytest.mark.parametrize("spec", SPECS, ids=lambda s: str(s.name))
def test_our_samplers_pass(spec: SamplerSpec) -> None:
    high = spec.order > 4  # its errors between 64 and 128 steps are those of rounding
    order = spec.order if can_be_silent(spec) and not high else None
    how: dict[str, Any] = {"ends_at_denoised": spec.ends_at_denoised, "max_examples": 10}
    check_sampler(spec.function, options=no_noise(spec), order=order, **how)
    if spec.weak_order is not None:
        noisy = {"eta": 1.0} if "eta" in spec.own_options else {}
        check_sampler(spec.function, options=noisy, weak_order=spec.weak_order, **how)


# Strategies


@given(data=st.data(), name=st.sampled_from(sorted(COORDINATES)), zero=st.sampled_from([None, True, False]))
def test_drawn_curves_are_valid(data: st.DataObject, name: str, zero: bool | None) -> None:
    process = COORDINATES[name]
    levels = data.draw(sigma_curves(process, final_zero=zero))
    check_sigmas(levels, process.sigma_limit)
    assert 2 <= len(levels) <= 13
    assert zero is None or (levels[-1] == 0) == zero


@given(data=st.data(), steps=st.integers(1, 60), low=st.floats(1e-4, 0.4), high=st.floats(0.5, 1.0))
def test_drawn_curves_keep_what_was_asked(data: st.DataObject, steps: int, low: float, high: float) -> None:
    levels = data.draw(sigma_curves(Flow(), sigma_min=low, sigma_max=high, steps=steps, final_zero=True))
    check_sigma_curve(levels, steps=steps, sigma_min=low if steps > 1 else None, sigma_max=high)
    assert steps == 1 or levels[-2] == low
    above = data.draw(sigma_curves(sigma_min=low, steps=steps, final_zero=False))
    assert above[-1] == low
    below = data.draw(sigma_curves(sigma_max=high, final_zero=True))
    assert below[0] == high


def test_curves_of_an_impossible_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"above 0, below sigma_max and within the process; got 0.5 and 2.0"):
        hypothesis.find(sigma_curves(Flow(), sigma_min=0.5, sigma_max=2.0), lambda levels: True)


def has(strategy: st.SearchStrategy[Any], what: Callable[[Any], bool]) -> bool:
    once = (hypothesis.Phase.generate,)
    settings = hypothesis.settings(derandomize=True, database=None, max_examples=300, deadline=None, phases=once)
    try:
        hypothesis.find(strategy, what, settings=settings)
    except hypothesis.errors.NoSuchExample:
        return False
    return True


def test_drawn_curves_have_every_shape() -> None:
    curves = sigma_curves(COORDINATES["flow"])
    assert has(curves, lambda x: len(x) > 4 and np.ptp(np.diff(x)) > 0.1)
    assert has(curves, lambda x: bool((x[1:-1] / x[2:] > 1e3).any()) if x[-1] > 0 else False)  # jumps
    assert has(curves, lambda x: bool((np.diff(x[:-1]) > -1e-4 * x[:-2]).any()))  # close pairs
    assert has(curves, lambda x: x[0] == 1)
    assert has(sigma_curves(VP(variance_preserving=True)), lambda x: math.isinf(x[0]))
    assert has(grids(), lambda g: isinstance(g.process, Flow) and g.process.shift > 4 and len(g) > 3)
    assert has(processes(), lambda p: isinstance(p, VE) and p.sigma_max > 300)
    assert has(step_counts(), lambda n: n > 900)
    assert not has(step_counts(9), lambda n: not 1 <= n <= 9)


@given(process=processes(), grid=grids(VE(), steps=3))
def test_drawn_processes_and_grids(process: Process, grid: Grid) -> None:
    assert 0 < process.sigma_min < process.sigma_max
    assert len(grid) == 3


@pytest.mark.parametrize("schedule", ["karras", "exponential", "linear"])
def test_our_schedules_pass_as_other_peoples_do(schedule: str) -> None:
    function = getattr(ksched.schedules, f"calculate_{NoiseSchedule(schedule)}_sigmas")
    check_schedule(function)
    check_schedule(function, process=Flow())
