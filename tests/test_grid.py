"""Functions from levels to levels: their properties, ComfyUI's numbers, and what they refuse."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from representatives import each

from ksched import VP, Flow, NoiseSchedule, build_sampler, calculate_sigmas
from ksched.processes.resolution_shift import mu_for_flux2, mu_for_tokens
from ksched.schedules.flow_transforms import shift, shift_mu, stretch_terminal
from ksched.schedules.transforms import (
    drop_penultimate,
    extend,
    flip,
    set_first,
    split,
    split_at_strength,
    stretch,
    truncate,
)
from ksched.testing.levels import check_sigma_curve
from ksched.testing.strategies import sigma_curves
from ksched.types import Array

curves = sigma_curves(VP(variance_preserving=True), most=20)
flow_curves = sigma_curves(Flow(), most=20)
strengths = st.sampled_from([0.0, 1.0, 0.5]) | st.floats(0, 1)
rules = st.sampled_from(["down", "nearest", "a1111"])

# ComfyUI 0.3.64, karras with 8 steps on Stable Diffusion's table, in float64
KARRAS8 = [
    14.614641229333643,
    7.902935044282733,
    4.027737513108827,
    1.9103565118234898,
    0.8288677368653491,
    0.3211195201990215,
    0.1071983932920969,
    0.02916715815172038,
    0.0,
]
EXTENDED = {
    "linear": [3.3219438460137143, 2.616150178918602, 1.5498602535041095, 1.1893639951847295],
    "cosine": [2.9690470124661585, 2.1940317765051933, 1.3696121243444197, 0.9737597588020281],
    "sine": [3.744062248427123, 2.9690470124661577, 1.7654644898868108, 1.3696121243444193],
}
EXTENDED_LAST = {
    "linear": [0.6596183313099065, 0.49036892575446395],
    "cosine": [0.5749936285321853, 0.38914488250606405],
    "sine": [0.7608423745583065, 0.5749936285321853],
}


# Strength


@given(sigmas=curves, strength=strengths, rule=rules)
def test_truncate_is_a_suffix(sigmas: Array, strength: float, rule: Any) -> None:
    cut = truncate(sigmas, strength, rule=rule)
    assert len(cut) >= 1
    np.testing.assert_array_equal(cut, sigmas[len(sigmas) - len(cut) :])


@given(sigmas=curves, rule=rules)
def test_truncate_at_the_ends(sigmas: Array, rule: Any) -> None:
    np.testing.assert_array_equal(truncate(sigmas, 1, rule=rule), sigmas)
    if rule != "a1111":
        np.testing.assert_array_equal(truncate(sigmas, 0, rule=rule), sigmas[-1:])


@given(sigmas=curves, weak=strengths, strong=strengths, rule=rules)
def test_truncate_keeps_more_for_more_strength(sigmas: Array, weak: float, strong: float, rule: Any) -> None:
    weak, strong = sorted((weak, strong))
    assert len(truncate(sigmas, weak, rule=rule)) <= len(truncate(sigmas, strong, rule=rule))


@pytest.mark.parametrize(
    ("steps", "strength", "down", "nearest", "a1111"),
    [
        (20, 0.75, 15, 15, 16),
        (50, 0.58, 28, 29, 29),  # 50 * 0.58 is 28.999999999999996
        (10, 0.05, 0, 0, 1),
        (10, 0.15, 1, 2, 2),
        (10, 0.25, 2, 2, 3),
        (1, 0.5, 0, 0, 1),
        (1000, 1.0, 1000, 1000, 1000),
        (2000, 1.0, 2000, 2000, 1999),
    ],
)
def test_each_rule_keeps_as_many_steps_as_its_program(
    steps: int, strength: float, down: int, nearest: int, a1111: int
) -> None:
    sigmas = np.arange(steps, -1.0, -1.0)
    assert len(truncate(sigmas, strength)) - 1 == down
    assert len(truncate(sigmas, strength, rule="nearest")) - 1 == nearest
    assert len(truncate(sigmas, strength, rule="a1111")) - 1 == a1111


def test_strength_0_returns_the_image_as_it_came() -> None:
    image = torch.linspace(-1, 1, 6).reshape(1, 6)
    for name in ("euler", "dpmpp_2m", "ddpm"):
        sampler = build_sampler(name, sigmas=truncate(KARRAS8, 0))
        assert torch.equal(sampler.sample(lambda x, sigma: pytest.fail("the model was called"), image, seed=0), image)


SCHEDULES = ["karras", "exponential", "simple", "sgm_uniform", "normal", "ddim_uniform"]


@given(schedule=st.sampled_from(SCHEDULES), steps=st.integers(1, 40), strength=st.floats(0, 1), drop_one=st.booleans())
def test_stretch_always_has_its_steps(schedule: str, steps: int, strength: float, drop_one: bool) -> None:
    sigmas = stretch(schedule, steps, max(strength, 0.01), drop_penultimate=drop_one)
    check_sigma_curve(sigmas, steps=steps)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_stretch_at_strength_1_is_the_schedule(schedule: str) -> None:
    for process in (None, Flow(3.0)):
        want = calculate_sigmas(schedule, 9, process)
        np.testing.assert_array_equal(stretch(NoiseSchedule(schedule), 9, 1.0, process), want)


def test_stretch_is_the_end_of_a_longer_grid() -> None:
    np.testing.assert_array_equal(
        stretch("karras", 7, 0.33, rho=5.0), truncate(calculate_sigmas("karras", 21, rho=5.0), 1 / 3)
    )
    longer = calculate_sigmas("simple", 17, Flow())  # one more than int(8 / 0.5)
    np.testing.assert_array_equal(stretch("simple", 8, 0.5, Flow(), drop_penultimate=True), [*longer[8:-2], longer[-1]])


# Parts


def joined(high: Array, low: Array) -> Array:
    assert high[-1] == low[0]
    return np.concatenate([high, low[1:]])


@given(sigmas=curves, where=st.floats(0, 1), strength=strengths, rule=rules)
def test_the_parts_of_a_split_are_the_whole(sigmas: Array, where: float, strength: float, rule: Any) -> None:
    step = round(where * (len(sigmas) - 1))
    high, low = split(sigmas, step)
    assert len(high) == step + 1
    np.testing.assert_array_equal(joined(high, low), sigmas)
    high, low = split_at_strength(sigmas, strength, rule=rule)
    np.testing.assert_array_equal(joined(high, low), sigmas)
    np.testing.assert_array_equal(low, truncate(sigmas, strength, rule=rule))


def test_a_split_run_is_the_whole_run() -> None:
    def denoiser(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x) / (1 + sigma.reshape(-1, 1))

    x = torch.linspace(-9, 9, 6, dtype=torch.float64).reshape(2, 3)
    high, low = split(KARRAS8, 3)
    half = build_sampler("euler", sigmas=high).sample(denoiser, x)
    parts = build_sampler("euler", sigmas=low).sample(denoiser, half)
    torch.testing.assert_close(
        parts, build_sampler("euler", sigmas=KARRAS8).sample(denoiser, x), rtol=1e-14, atol=1e-14
    )


@given(sigmas=curves)
def test_flip_is_undone_by_flip(sigmas: Array) -> None:
    np.testing.assert_array_equal(flip(flip(sigmas, zero=0)), sigmas)
    if sigmas[-1] > 0 or sigmas[-2] > 1e-4:
        rising = flip(sigmas)
        assert (np.diff(rising) > 0).all()
        assert rising[0] == (sigmas[-1] or 1e-4)
        np.testing.assert_array_equal(flip(rising)[:-1], sigmas[:-1])


@given(sigmas=curves, steps=st.integers(1, 5), spacing=st.sampled_from(["linear", "cosine", "sine"]))
def test_extend_keeps_every_level(sigmas: Array, steps: int, spacing: Any) -> None:
    finite = sigmas[np.isfinite(sigmas)]
    every = extend(finite, steps, end_at=0.0, spacing=spacing)
    assert len(every) == steps * (len(finite) - 1) + 1
    assert (np.diff(every) < 0).all()
    np.testing.assert_array_equal(every[::steps], finite)
    np.testing.assert_array_equal(extend(sigmas, steps, start_at=0.0, end_at=1.0, spacing=spacing), sigmas)


# Shift


@given(sigmas=flow_curves, a=st.floats(-1, 1), b=st.floats(-1, 1))
def test_shifts_multiply(sigmas: Array, a: float, b: float) -> None:
    a, b = 10**a, 10**b
    once = shift(sigmas, a)
    np.testing.assert_allclose(shift(once, b), shift(sigmas, a * b), rtol=1e-12)
    np.testing.assert_allclose(shift(once, 1 / a), sigmas, rtol=1e-12)
    np.testing.assert_allclose(shift_mu(sigmas, math.log(a)), once, rtol=1e-12)
    np.testing.assert_array_equal(shift(sigmas, 1), sigmas)
    np.testing.assert_array_equal(shift_mu(sigmas, 0), sigmas)
    for level in (0.0, 1.0):
        np.testing.assert_array_equal(once == level, sigmas == level)
    inside = (sigmas > 0) & (sigmas < 1)
    ratio = once[inside] / (1 - once[inside]) / (sigmas[inside] / (1 - sigmas[inside]))
    np.testing.assert_allclose(ratio, a, rtol=1e-9)


def test_shift_is_that_of_the_flow_process() -> None:
    np.testing.assert_allclose(
        shift(calculate_sigmas("simple", 8, Flow()), 3.0), calculate_sigmas("simple", 8, Flow(3.0)), rtol=1e-14
    )
    np.testing.assert_allclose(shift([1, 0.75, 0.5, 0.25, 0], 3), [1, 0.9, 0.75, 0.5, 0], rtol=1e-15)


@given(sigmas=flow_curves, terminal=st.floats(0.01, 0.99))
def test_stretch_terminal_scales_alpha(sigmas: Array, terminal: float) -> None:
    result = stretch_terminal(sigmas, terminal)
    last = np.count_nonzero(sigmas) - 1
    assert (result[-1] == 0) == (sigmas[-1] == 0)
    assert (result[0] == 1) == (sigmas[0] == 1) or last == 0
    if last == 0:
        np.testing.assert_array_equal(result, sigmas)
        return
    assert result[last] == terminal
    alpha, before = 1 - result[: last + 1], 1 - sigmas[: last + 1]
    np.testing.assert_allclose(alpha * before[-1], before * alpha[-1], rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(stretch_terminal(result, sigmas[last]), sigmas, rtol=1e-12, atol=1e-14)


def test_stretch_terminal_is_a_number_at_one_step() -> None:
    np.testing.assert_array_equal(stretch_terminal([1.0, 0.0], 0.1), [1.0, 0.0])
    np.testing.assert_allclose(stretch_terminal([1.0, 0.75, 0.5, 0.0], 0.1), [1.0, 0.55, 0.1, 0.0], rtol=1e-15)


def test_mu_of_a_resolution() -> None:
    assert (mu_for_tokens(256), mu_for_tokens(4096)) == (0.5, 1.15)
    ltxv = {"base_mu": 0.95, "max_mu": 2.05, "base_tokens": 1024}
    assert [mu_for_tokens(n, **ltxv) for n in (1024, 2560, 4096)] == pytest.approx([0.95, 1.5, 2.05], rel=1e-15)
    # ComfyUI's ModelSamplingFlux: (max_shift, base_shift, width, height) -> shift
    for high, low, width, height, want in (
        (1.15, 0.5, 1024, 1024, 1.15),
        (1.15, 0.5, 512, 768, 0.7166666666666666),
        (1.3, 0.4, 1536, 640, 1.24),
    ):
        mu = mu_for_tokens(width * height / 256, base_mu=low, max_mu=high)
        assert mu == pytest.approx(want, rel=1e-12)


def test_mu_of_flux2() -> None:
    for tokens in (256, 4096, 4300):
        at_200 = 1.6927e-4 * tokens + 0.45666666
        assert mu_for_flux2(tokens, 200) == pytest.approx(at_200, rel=1e-12)
        assert mu_for_flux2(tokens, 10) == pytest.approx(8.73809524e-5 * tokens + 1.89833333, rel=1e-12)
        middle = (mu_for_flux2(tokens, 10) + mu_for_flux2(tokens, 200)) / 2
        assert mu_for_flux2(tokens, 105) == pytest.approx(middle, rel=1e-12)
    assert mu_for_flux2(4301, 10) == mu_for_flux2(4301, 50) == pytest.approx(1.6927e-4 * 4301 + 0.45666666, rel=1e-12)


# ComfyUI's numbers


def test_parts_are_those_of_comfyui() -> None:
    np.testing.assert_allclose(KARRAS8, calculate_sigmas("karras", 8), rtol=1e-13)
    for step in (0, 3, 8):
        high, low = split(KARRAS8, step)
        assert (high.tolist(), low.tolist()) == (KARRAS8[: step + 1], KARRAS8[step:])
    for strength, low_steps in ((1.0, 8), (0.5, 4), (0.25, 2)):
        high, low = split_at_strength(KARRAS8, strength)
        assert (high.tolist(), low.tolist()) == (KARRAS8[: 9 - low_steps], KARRAS8[8 - low_steps :])
    high, low = split_at_strength(KARRAS8, 0)  # where ComfyUI's high part is empty
    assert (high.tolist(), low.tolist()) == (KARRAS8, [0.0])


def test_changes_are_those_of_comfyui() -> None:
    assert flip(KARRAS8).tolist() == [1e-4, *KARRAS8[-2::-1]]
    assert set_first(KARRAS8, 136.0).tolist() == [136.0, *KARRAS8[1:]]
    assert drop_penultimate(KARRAS8).tolist() == [*KARRAS8[:7], 0.0]
    for spacing, middle in (
        ("linear", 11.258788136808189),
        ("cosine", 9.868748272552452),
        ("sine", 12.648828001063924),
    ):
        want = [KARRAS8[0], middle, *KARRAS8[1:]]
        np.testing.assert_allclose(extend(KARRAS8, spacing=spacing), want, rtol=1e-12)  # type: ignore[arg-type]
        inner, last = EXTENDED[spacing], EXTENDED_LAST[spacing]
        want = [*KARRAS8[:3], *inner[:2], KARRAS8[3], *inner[2:], KARRAS8[4], *last, *KARRAS8[5:]]
        got = extend(KARRAS8, 3, start_at=5.0, end_at=0.5, spacing=spacing)  # type: ignore[arg-type]
        np.testing.assert_allclose(got, want, rtol=1e-12)


def test_denoise_is_that_of_comfyui() -> None:
    want = [0.3551823657501254, 0.24794990271076306, 0.16975657575723424, 0.11372917360243628]
    want += [0.07436283815469347, 0.04730565613706944, 0.02916715815172038, 0.0]
    np.testing.assert_allclose(stretch("karras", 7, 0.33), want, rtol=1e-12)


# Purity and refusals


CALLS: list[Callable[[Any], Any]] = [
    lambda x: truncate(x, 0.5),
    lambda x: split(x, 1)[0],
    lambda x: split_at_strength(x, 0.5)[1],
    flip,
    lambda x: extend(x, end_at=0.0),
    lambda x: set_first(x, 0.95),
    drop_penultimate,
    lambda x: shift(x, 3.0),
    lambda x: shift_mu(x, 1.0),
    lambda x: stretch_terminal(x, 0.1),
]


@pytest.mark.parametrize("call", CALLS)
def test_every_function_is_pure_and_takes_any_list(call: Callable[[Any], Array]) -> None:
    values = [0.9, 0.6, 0.3, 0.0]
    given = np.array(values)
    want = call(given).tolist()
    call(given)[:] = -1
    assert given.tolist() == values
    given.setflags(write=False)
    for form in (given, values, tuple(values), torch.tensor(values, dtype=torch.float64)):
        got = call(form)
        assert got.dtype == np.float64
        assert got.flags.writeable
        assert got.tolist() == want


@each("call", CALLS)
@pytest.mark.parametrize(
    ("sigmas", "kind", "message"),
    [
        ([0.9, 0.5, 0.5, 0.0], ValueError, r"strictly decreasing; got sigmas\[1\]=0.5, sigmas\[2\]=0.5"),
        ([0.9, math.nan, 0.1, 0.0], ValueError, r"must be finite.*got sigmas\[1\]=nan"),
        ([0.9, 0.5, -0.1], ValueError, r"must be >= 0; got sigmas\[2\]=-0.1"),
        ([], ValueError, r"at least one number; got shape \(0,\)"),
        ([[1.0, 0.0]], ValueError, r"one-dimensional list.*got shape \(1, 2\)"),
        ("karras", TypeError, "sigmas must be a list of numbers; got 'karras'"),
        (None, (TypeError, ValueError), "sigmas must be"),
    ],
)
def test_levels_that_are_none_are_refused(call: Callable[[Any], Any], sigmas: Any, kind: Any, message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        call(sigmas)
    assert "\n" not in str(caught.value)


REFUSED: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: truncate(KARRAS8, 1.5), ValueError, "truncate: strength must be at least 0 and at most 1; got 1.5"),
    (lambda: truncate(KARRAS8, math.nan), ValueError, "strength must be at least 0 and at most 1; got nan"),
    (lambda: truncate(KARRAS8, "half"), TypeError, "strength must be a number; got 'half'"),  # type: ignore[arg-type]
    (lambda: truncate(KARRAS8, 0.5, rule="up"), ValueError, "rule must be one of 'down', 'nearest', 'a1111'; got 'up'"),  # type: ignore[arg-type]
    (lambda: split_at_strength(KARRAS8, -1), ValueError, "split_at_strength: strength must be at least 0"),
    (lambda: stretch("karras", 8, 0), ValueError, "strength must be above 0 and at most 1; got 0.*use truncate"),
    (lambda: stretch("karras", 8, 1.01), ValueError, r"above 0 and at most 1; got 1\.01"),
    (lambda: stretch("karras", 8, 1e-7), ValueError, "steps / strength must be at most ten million; got 8 / 1e-07"),
    (lambda: stretch("karras", 0, 0.5), ValueError, "steps must be at least 1; got 0"),
    (lambda: stretch("karas", 8, 0.5), ValueError, "unknown noise schedule 'karas'"),
    (lambda: stretch("karras", 8, 0.5, roh=7), TypeError, "schedule karras has no option 'roh'"),
    (lambda: split(KARRAS8, 9), ValueError, "split: step must be at least 0 and at most 8; got 9"),
    (lambda: split(KARRAS8, -1), ValueError, "step must be at least 0 and at most 8; got -1"),
    (lambda: split(KARRAS8, 1.5), TypeError, r"step must be a whole number; got 1\.5"),  # type: ignore[arg-type]
    (lambda: flip([1.0, 1e-5, 0.0]), ValueError, "zero must be below the next level; got zero=0.0001, next 1e-05"),
    (lambda: flip(KARRAS8, zero=-1), ValueError, "flip: zero must be a finite number of at least 0; got -1"),
    (lambda: flip([1.0, 3.0, 2.0]), ValueError, "strictly decreasing"),
    (lambda: extend(KARRAS8, 0), ValueError, "steps must be at least 1; got 0"),
    (
        lambda: extend(KARRAS8, spacing="log"),  # type: ignore[arg-type]
        ValueError,
        "spacing must be one of 'linear', 'cosine', 'sine'; got 'log'",
    ),
    (lambda: extend(KARRAS8, end_at=math.nan), ValueError, "extend: end_at must be .*; got nan"),
    (lambda: extend([math.inf, 1, 0]), ValueError, "start_at must be finite for levels that start at infinity"),
    (
        lambda: extend([1 + 2**-52, 1], 4, end_at=0),
        ValueError,
        r"extend must keep the levels apart in float64; got result\[\d\]=1.0.*Use a milder",
    ),
    (lambda: set_first(KARRAS8, 7), ValueError, r"strictly decreasing; got sigmas\[0\]=7.0, sigmas\[1\]=7.9029"),
    (lambda: set_first(KARRAS8, math.nan), ValueError, "set_first: sigma must be .*; got nan"),
    (lambda: drop_penultimate([1, 0]), ValueError, "sigmas must have at least two steps; got 2 levels"),
    (lambda: stretch("karras", 1, 0.5, drop_penultimate=1), TypeError, "drop_penultimate must be True or False; got 1"),  # type: ignore[arg-type]
    (lambda: shift(KARRAS8, 3), ValueError, r"shift: sigmas must be levels of a flow process, at most 1; got .*=14.6"),
    (lambda: shift_mu(KARRAS8, 3), ValueError, "shift_mu: sigmas must be levels of a flow process"),
    (lambda: shift([1, 0], 0), ValueError, "shift: s must be a finite number above 0; got 0"),
    (lambda: shift([1, 0], math.inf), ValueError, "s must be a finite number above 0; got inf"),
    (lambda: shift([1, 0.9, 0.8, 0], 1e300), ValueError, r"shift must keep the levels apart.*result\[1\]=1.0"),
    (lambda: shift_mu([1, 0], math.nan), ValueError, "shift_mu: mu must be .*; got nan"),
    (lambda: stretch_terminal([1, 0.5, 0], 0), ValueError, "terminal must be above 0 and below 1; got 0"),
    (lambda: stretch_terminal([1, 0.5, 0], 1), ValueError, "terminal must be above 0 and below 1; got 1"),
    (lambda: stretch_terminal(KARRAS8, 0.1), ValueError, "stretch_terminal: sigmas must be levels of a flow process"),
    (lambda: mu_for_tokens(0), ValueError, "mu_for_tokens: tokens must be a finite number above 0; got 0"),
    (lambda: mu_for_tokens(9, max_tokens=256), ValueError, "base_tokens and max_tokens must differ; got 256.0 for"),
    (lambda: mu_for_flux2(-1, 4), ValueError, "mu_for_flux2: tokens must be a finite number above 0; got -1"),
    (lambda: mu_for_flux2(4096, 0), ValueError, "steps must be at least 1; got 0"),
]


@pytest.mark.parametrize(("act", "kind", "message"), REFUSED, ids=[message[:40] for *_, message in REFUSED])
def test_nonsense_is_refused_in_one_sentence(act: Callable[[], Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        act()
    assert "\n" not in str(caught.value)
