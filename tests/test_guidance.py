"""Guidance and edits of the prediction: every wrapper with every sampler, exact reductions, no side effects."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from cases import NAMES, PROCESSES, SPECS, process_for, start_state
from hypothesis import given
from hypothesis import strategies as st
from representatives import each, in_turn, is_form, short
from torch.utils._python_dispatch import TorchDispatchMode

from ksched import EDM, VE, VP, Denoiser, Flow, Process, Sampler, build_sampler, guidance
from ksched.denoisers.denoiser import Prediction
from ksched.guidance import frequency
from ksched.noise.seeded import SeededNoise
from ksched.noise.sources import item_seeds
from ksched.plan.rows import Draw
from ksched.samplers.spec import SamplerSpec

Model = Callable[[torch.Tensor, torch.Tensor], Any]

SHAPE = (2, 3, 4)
THREE: dict[str, Process] = {"vp": VP(), "ve": VE(), "flow": Flow(3.0)}


def level(sigma: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return sigma.to(x.dtype).reshape(-1, *[1] * (x.ndim - 1))


def cond(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    return torch.sin(x) / (1 + level(sigma, x)) + 0.3


def uncond(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    return torch.cos(2 * x) / (2 + level(sigma, x)) - 0.1


def other(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    return 0.5 * x / (1 + level(sigma, x)) + 0.2


def pair(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return cond(x, sigma), uncond(x, sigma)


def same(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return cond(x, sigma), cond(x, sigma)


def gentle(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    return 0.1 * torch.sin(x)


def mask_of(shape: tuple[int, ...], seed: int = 3) -> torch.Tensor:
    """A third kept, a third sampled, a third between."""
    u = torch.rand(shape, generator=torch.Generator().manual_seed(seed))
    return (3 * u - 1).clamp(0, 1)


def data_of(shape: tuple[int, ...], seed: int = 4) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def native(process: Process) -> Prediction:
    """What networks of a process usually predict."""
    return cast(Prediction, process.predictions[0])


def wrappers(process: Process, shape: tuple[int, ...] = SHAPE) -> dict[str, Model]:
    """Every wrapper, on models that give what it needs. Made anew at each call, since one has momentum."""
    flow = process if isinstance(process, Flow) else Flow()
    prediction = native(process)
    mask, original = mask_of((1, *shape[1:])), data_of(shape)
    return {
        "cfg": guidance.cfg(cond, uncond, 4.0),
        "cfg_pair": guidance.cfg(pair, None, 4.0),
        "cfg_function": guidance.cfg(cond, uncond, lambda sigma: 1 + 3 * sigma / (1 + sigma)),
        "cfg_within": guidance.cfg(cond, uncond, guidance.within(4.0, 0.3, 3.0)),
        "batched": guidance.cfg(
            guidance.batched(conditioned, {"c": torch.ones(1, 2)}, {"c": torch.zeros(1, 2)}), None, 3.0
        ),
        "rescale": guidance.rescale(cond, uncond, 4.0, process, prediction),
        "apg": guidance.apg(cond, uncond, 4.0, eta=0.2, norm_threshold=1.0),
        "apg_momentum": guidance.apg(cond, uncond, 4.0, momentum=guidance.Momentum(-0.5)),
        "cfg_zero_star": guidance.cfg_zero_star(cond, uncond, 4.0, flow),
        "perp_neg": guidance.perp_neg(cond, other, uncond, 4.0),
        "fdg": guidance.fdg(cond, uncond, [4.0, guidance.within(2.0, 0.3, 3.0)], parallel=0.5),
        "tcfg": guidance.tcfg(cond, uncond, 4.0, process, prediction),
        "mag": guidance.mag(cond, uncond, 4.0, process, prediction, alpha=0.5),
        "interval": guidance.interval(guidance.cfg(cond, uncond, 4.0), cond, 0.3, 3.0),
        "clip": guidance.clip(pair),
        "dynamic_thresholding": guidance.dynamic_thresholding(pair, 0.9),
        "inpaint": guidance.inpaint(pair, mask, original, process, noise=5),
        "inpaint_function": guidance.inpaint(
            pair,
            lambda sigma: (mask > level(sigma, mask) / (1 + level(sigma, mask))).float(),
            original,
            process,
            noise=5,
        ),
        "nested": guidance.inpaint(
            guidance.clip(guidance.rescale(pair, None, 4.0, process, prediction)), mask, original, process, noise=5
        ),
    }


def conditioned(x: torch.Tensor, sigma: torch.Tensor, *, c: torch.Tensor, gain: float = 1.0) -> torch.Tensor:
    """A network with an embedding per item."""
    return gain * (cond(x, sigma) + level(c.mean(1), x) * other(x, sigma))


WRAPPERS = list(wrappers(THREE["vp"]))


@pytest.fixture(params=THREE)
def process(request: pytest.FixtureRequest) -> Process:
    return THREE[request.param]


@pytest.fixture
def state() -> tuple[torch.Tensor, torch.Tensor]:
    x = 2 * torch.randn(5, 2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, torch.tensor([0.02, 0.3, 0.5, 0.8, 0.95], dtype=torch.float64)


# With every sampler


@short(lambda spec: is_form(spec.name))
@pytest.mark.parametrize("spec", SPECS, ids=NAMES)
def test_every_wrapper_with_every_sampler(spec: SamplerSpec, process: Process) -> None:
    process = process_for(spec, process)
    sampler = build_sampler(spec.name, "karras", 4, process=process)
    x = start_state(process, sampler.sigmas[0], SHAPE, dtype=torch.float32)
    for wrapper, model in wrappers(process).items():
        outputs: list[torch.Tensor] = []
        result = sampler.sample(watched(model, outputs), x, seed=0)
        assert torch.isfinite(result).all(), wrapper
        assert result.shape == x.shape, wrapper
        assert torch.equal(result, outputs[-1]) or not spec.ends_at_denoised, wrapper


def in_turn_of_process(wrapper: str, process: Process) -> bool:
    """Each wrapper on one of the processes; `test_dtype_and_precision` has it on all."""
    return process == in_turn(WRAPPERS.index(wrapper), THREE.values())


def watched(model: Model, outputs: list[torch.Tensor]) -> Model:
    def watch(x: torch.Tensor, sigma: torch.Tensor) -> Any:
        result = model(x, sigma)
        outputs.append(result[0] if isinstance(result, tuple) else result)
        return result

    return watch


@short(in_turn_of_process)
@pytest.mark.parametrize("wrapper", [name for name in WRAPPERS if "momentum" not in name])
def test_a_wrapper_is_the_same_after_a_run(wrapper: str, process: Process) -> None:
    sampler = build_sampler("euler", "karras", 4, process=process)
    x = start_state(process, sampler.sigmas[0], SHAPE, dtype=torch.float32)
    model = wrappers(process)[wrapper]
    assert torch.equal(sampler.sample(model, x), sampler.sample(model, x))


def both_in_a_run(run: Any, grid: Any, x: Any) -> Any:
    """Euler with the slope of the unconditional prediction, as CFG++ samplers do it."""
    for s, t in grid.steps():
        denoised, twin = run.denoise_both(x, s)
        x = t.alpha * denoised + t.sigma / s.sigma * (x - s.alpha * twin)
    return x


@short(in_turn_of_process)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_samplers_that_need_the_pair_get_it(wrapper: str, process: Process) -> None:
    spec = SamplerSpec("both", both_in_a_run, 1, "this file")
    euler = build_sampler("euler", "karras", 4, process=process)
    sampler = Sampler(spec, euler.grid)
    x = start_state(process, sampler.sigmas[0], SHAPE, dtype=torch.float32)
    guided = sampler.sample(wrappers(process)[wrapper], x)
    assert torch.isfinite(guided).all()
    if wrapper != "inpaint_function":  # there is a difference to be seen: the twin is not the prediction
        assert not torch.equal(guided, euler.sample(wrappers(process)[wrapper], x))


@pytest.mark.parametrize("edit", ["clip", "dynamic_thresholding", "inpaint"])
def test_edits_keep_equal_predictions_equal(edit: str, state: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, sigma = state
    build: dict[str, Callable[[Model], Model]] = {
        "clip": lambda model: guidance.clip(model, -0.2, 0.2),
        "dynamic_thresholding": lambda model: guidance.dynamic_thresholding(model, 0.5),
        "inpaint": lambda model: guidance.inpaint(model, mask_of((1, 1, 3, 4)), data_of((5, 2, 3, 4)), VP(), noise=0),
    }
    denoised, twin = build[edit](same)(x, sigma)
    assert torch.equal(denoised, twin)
    single = build[edit](cond)(x, sigma)
    assert isinstance(single, torch.Tensor)
    assert torch.equal(single, denoised)
    assert not torch.equal(*build[edit](pair)(x, sigma))


# Reductions, exact


def test_scale_1_is_the_conditional_prediction(process: Process, state: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, sigma = state
    flow = Flow()
    for guided in (
        guidance.cfg(cond, uncond, 1),
        guidance.cfg(cond, uncond, lambda sigma: 1.0),
        guidance.cfg(cond, uncond, lambda sigma: sigma * 0 + 1),
        guidance.cfg(cond, uncond, guidance.within(9.0, 1.5, 2.0)),
        guidance.apg(cond, uncond, 1.0, norm_threshold=0.5, momentum=guidance.Momentum(0.5)),
        guidance.cfg_zero_star(cond, uncond, 1.0, flow),
        guidance.perp_neg(cond, other, uncond, 1.0, negative_scale=0.0),
        guidance.fdg(cond, uncond, (1.0, 1.0, 1.0), parallel=0.3),
        guidance.tcfg(cond, uncond, 1.0, process, native(process)),
        guidance.mag(cond, uncond, 1.0, process, native(process)),
        guidance.interval(guidance.cfg(cond, uncond, 9.0), cond, 1.5, 2.0),
    ):
        denoised, twin = guided(x, sigma)
        assert torch.equal(denoised, cond(x, sigma))
        assert torch.equal(twin, uncond(x, sigma))
    rescaled, _ = guidance.rescale(cond, uncond, 1.0, process, native(process), phi=1.0)(x, sigma)
    torch.testing.assert_close(rescaled, cond(x, sigma), rtol=1e-12, atol=1e-12)


def test_what_reduces_to_cfg(process: Process, state: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, sigma = state
    expected = guidance.cfg(cond, uncond, 6.5)(x, sigma)
    for guided in (
        guidance.cfg(pair, None, 6.5),
        guidance.cfg(cond, uncond, guidance.within(6.5, 0, math.inf)),
        guidance.rescale(cond, uncond, 6.5, process, native(process), phi=0.0),
        guidance.apg(cond, uncond, 6.5, eta=1.0),
        guidance.apg(cond, uncond, 6.5, eta=1.0, norm_threshold=1e9, momentum=guidance.Momentum(0.0)),
        guidance.perp_neg(cond, other, uncond, 6.5, negative_scale=0.0),
        guidance.perp_neg(cond, uncond, uncond, 6.5),
        guidance.fdg(cond, uncond, [6.5]),
        guidance.mag(cond, uncond, 6.5, process, native(process), alpha=0.0),
        guidance.interval(guidance.cfg(cond, uncond, 6.5), other, 0, math.inf),
    ):
        denoised, twin = guided(x, sigma)
        assert torch.equal(denoised, expected[0])
        assert torch.equal(twin, expected[1])
    for scales in ((6.5, 6.5), (6.5,) * 5):
        torch.testing.assert_close(guidance.fdg(cond, uncond, scales)(x, sigma)[0], expected[0], rtol=1e-13, atol=1e-13)
    zero, _ = guidance.cfg(cond, uncond, 0.0)(x, sigma)
    torch.testing.assert_close(zero, uncond(x, sigma), rtol=1e-14, atol=1e-15)


def test_guidance_by_the_same_prediction_changes_nothing(state: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, sigma = state
    for guided in (
        guidance.cfg(cond, cond, 8.0),
        guidance.apg(cond, cond, 8.0, norm_threshold=2.5),
        guidance.perp_neg(cond, cond, cond, 8.0),
        guidance.cfg_zero_star(cond, cond, 8.0, Flow()),
        guidance.fdg(cond, cond, (8.0, 3.0), parallel=0.2),
        guidance.tcfg(cond, cond, 8.0, VP(), "epsilon"),
        guidance.mag(cond, cond, 8.0, VP(), "epsilon"),
    ):
        torch.testing.assert_close(guided(x, sigma)[0], cond(x, sigma), rtol=1e-13, atol=1e-13)


def test_edits_that_change_nothing(state: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, sigma = state
    assert torch.equal(guidance.clip(cond, -100, 100)(x, sigma), cond(x, sigma))
    assert torch.equal(guidance.clip(cond, -math.inf, math.inf)(x, sigma), cond(x, sigma))
    assert torch.equal(guidance.dynamic_thresholding(gentle)(x, sigma), gentle(x, sigma))  # s = 1
    everywhere = guidance.inpaint(cond, torch.ones(1, 1, 1, 1), data_of((5, 2, 3, 4)), VP(), noise=0)
    assert torch.equal(everywhere(x, sigma), cond(x, sigma))


# Formulas, against numpy


def numbers(x: torch.Tensor, sigma: torch.Tensor) -> tuple[Any, ...]:
    return tuple(m(x, sigma).numpy() for m in (cond, uncond, other))


def items(*arrays: Any) -> Any:
    """One item at a time: what holds per item must not know the batch."""
    return zip(*arrays, strict=True)


def test_cfg(state: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, sigma = state
    c, u, _ = numbers(x, sigma)
    for scale, factor in (
        (7.5, np.full(5, 7.5)),
        (lambda sigma: 2 + sigma, 2 + sigma.numpy()),
        (guidance.within(5.3, 0.3, 0.8), np.array([1.0, 1, 5.3, 5.3, 1])),
    ):
        want = u + factor.reshape(-1, 1, 1, 1) * (c - u)
        np.testing.assert_allclose(guidance.cfg(cond, uncond, scale)(x, sigma)[0], want, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", PROCESSES)
@each("prediction", ["sample", "epsilon", "v_prediction", "flow", "edm"])
def test_rescale_measures_what_the_network_returns(
    name: str, prediction: Prediction, state: tuple[torch.Tensor, torch.Tensor]
) -> None:
    x, sigma = state
    process = PROCESSES[name]
    fits = prediction in process.predictions
    if not fits or (prediction == "epsilon" and getattr(process, "zero_terminal_snr", False)):
        with pytest.raises(ValueError, match=r"predict"):
            guidance.rescale(cond, uncond, 5.0, process, prediction)
        return
    denoised, _ = guidance.rescale(cond, uncond, 5.0, process, prediction, phi=0.7)(x, sigma)
    # The network's output is found through `Denoiser`, which is affine in it.
    zero = Denoiser(lambda x, t: torch.zeros_like(x), process, prediction)(x, sigma).numpy()
    gain = Denoiser(lambda x, t: torch.ones_like(x), process, prediction)(x, sigma).numpy() - zero
    c, u, _ = numbers(x, sigma)
    for i, (ci, ui, zi, gi) in enumerate(items(c, u, zero, gain)):
        positive, negative = (ci - zi) / gi, (ui - zi) / gi
        guided = negative + 5 * (positive - negative)
        rescaled = guided * positive.std(ddof=1) / guided.std(ddof=1)
        want = zi + gi * (0.7 * rescaled + 0.3 * guided)
        np.testing.assert_allclose(denoised[i], want, rtol=1e-9, atol=1e-9)


def test_apg(state: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, sigma = state
    momentum = guidance.Momentum(-0.6)
    guided = guidance.apg(cond, uncond, 5.0, eta=0.3, norm_threshold=2.0, momentum=momentum)
    running = np.zeros(x.shape)
    clipped = set()
    for call in range(3):
        x_now, sigma_now = x / (1 + call), sigma / (1 + call)
        denoised, _ = guided(x_now, sigma_now)
        c, u, _ = numbers(x_now, sigma_now)
        running = (c - u) - 0.6 * running
        for i, (ci, di) in enumerate(items(c, running)):
            clipped.add(bool(np.linalg.norm(di) > 2.0))
            direction = di * min(1, 2.0 / np.linalg.norm(di))
            unit = ci / np.linalg.norm(ci)
            parallel = (direction * unit).sum() * unit
            want = ci + 4 * (direction - parallel + 0.3 * parallel)
            np.testing.assert_allclose(denoised[i], want, rtol=1e-12, atol=1e-12)
    assert clipped == {True, False}
    assert momentum.average is not None
    np.testing.assert_allclose(momentum.average, running, rtol=1e-12, atol=1e-12)


def test_cfg_zero_star(state: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, sigma = state
    denoised, _ = guidance.cfg_zero_star(cond, uncond, 5.0, Flow())(x, sigma)
    c, u, _ = numbers(x, sigma)
    for i, (xi, ci, ui, si) in enumerate(items(x.numpy(), c, u, sigma.numpy())):
        positive, negative = (xi - ci) / si, (xi - ui) / si
        star = (positive * negative).sum() / (negative**2).sum()
        velocity = star * negative + 5 * (positive - star * negative)
        np.testing.assert_allclose(denoised[i], xi - si * velocity, rtol=1e-12, atol=1e-12)


def test_zero_init_is_a_shorter_run() -> None:
    """What the docstring says of the paper's zero-init: no velocity in the first k steps, then the rest."""
    process = Flow()
    sampler = build_sampler("euler", "simple", 8, process=process)
    x = start_state(process, 1.0)

    def frozen(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return torch.where(level(sigma, x) > float(sampler.sigmas[2]), x, cond(x, sigma))  # (x - D) / sigma = 0

    shorter = build_sampler("euler", sigmas=sampler.sigmas[2:], process=process)
    torch.testing.assert_close(sampler.sample(frozen, x), shorter.sample(cond, x), rtol=1e-14, atol=1e-14)


def test_perp_neg(state: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, sigma = state
    denoised, _ = guidance.perp_neg(cond, other, uncond, 5.0, negative_scale=0.8)(x, sigma)
    for i, (c, u, n) in enumerate(items(*numbers(x, sigma))):
        p, m = c - u, n - u
        across = m - (m * p).sum() / (p * p).sum() * p
        assert abs((across * p).sum()) < 1e-12
        np.testing.assert_allclose(denoised[i], u + 5 * (p - 0.8 * across), rtol=1e-12, atol=1e-12)


@each("shape", [(2, 4, 32, 16), (3, 2, 8, 64)])
def test_fdg_tcfg_and_mag_are_those_of_diffusers(
    shape: tuple[int, ...], process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """diffusers combines network outputs; ksched does the same to the x0 predictions that these stand for."""
    bands = pytest.importorskip("diffusers.guiders.frequency_decoupled_guidance")
    tangential = importlib.import_module("diffusers.guiders.tangential_classifier_free_guidance")
    magnitude = importlib.import_module("diffusers.guiders.magnitude_aware_guidance")
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)  # they decompose in float32
    monkeypatch.setattr(bands, "_CAN_USE_KORNIA", True)
    monkeypatch.setattr(bands, "build_laplacian_pyramid_func", pyramid_as_in_kornia)
    monkeypatch.setattr(bands, "upsample_and_blur_func", enlarged_as_in_kornia)
    c, u = data_of(shape, 1).double(), data_of(shape, 2).double()
    u, x = u + 0.7 * c, 3 * data_of(shape, 3).double()
    sigma = torch.linspace(0.3, 0.9, len(x), dtype=torch.float64)
    told = native(process)

    def theirs_of(combined: torch.Tensor) -> torch.Tensor:
        return Denoiser(lambda x, t: combined, process, told)(x, sigma)

    ours_c, ours_u = Denoiser(lambda x, t: c, process, told), Denoiser(lambda x, t: u, process, told)
    expected = {
        "tcfg": tangential.normalized_guidance(c, u, 7.5),
        "mag": magnitude.mambo_guidance(c.flatten(1), u.flatten(1), 9.0, 2.0).view(shape),
        "fdg": bands.FrequencyDecoupledGuidance(guidance_scales=[7.0, 3.0, 2.0]).forward(c, u).pred,
    }
    got = {
        "tcfg": guidance.tcfg(ours_c, ours_u, 7.5, process, told),
        "mag": guidance.mag(ours_c, ours_u, 9.0, process, told, alpha=2.0),
        "fdg": guidance.fdg(ours_c, ours_u, [7.0, 3.0, 2.0]),
    }
    for name, combined in expected.items():
        torch.testing.assert_close(got[name](x, sigma)[0], theirs_of(combined), rtol=1e-9, atol=1e-9)
    original = bands.FrequencyDecoupledGuidance([6.0, 2.0], parallel_weights=0.3, use_original_formulation=True)
    ours = guidance.fdg(lambda x, s: c, lambda x, s: u, [7.0, 3.0], parallel=0.3)
    torch.testing.assert_close(ours(x, sigma)[0], original.forward(c, u).pred, rtol=1e-9, atol=1e-9)


def enlarged_as_in_kornia(x: torch.Tensor) -> torch.Tensor:
    """Kornia's pyrup, with the results of kornia 0.9."""
    return blurred(torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False))


def pyramid_as_in_kornia(x: torch.Tensor, levels: int) -> list[torch.Tensor]:
    result = []
    for _ in range(levels - 1):
        smaller = torch.nn.functional.interpolate(blurred(x), scale_factor=0.5, mode="bilinear", align_corners=False)
        result.append(x - enlarged_as_in_kornia(smaller))
        x = smaller
    return [*result, x]


def blurred(x: torch.Tensor) -> torch.Tensor:
    row = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=x.dtype) / 16
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2), mode="reflect")
    kernel = (row[:, None] * row).expand(x.shape[1], 1, 5, 5)
    return torch.nn.functional.conv2d(padded, kernel, groups=x.shape[1])


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 5), st.integers(0, 9))
def test_bands_of_a_pyramid_add_up(shape: list[int], levels: int, seed: int) -> None:
    """States of every rank and size, also of a single place, where kornia's needs powers of two."""
    x = data_of((2, *shape), seed).double()
    bands = frequency.laplacian(x, levels)
    torch.testing.assert_close(frequency.collapsed(bands), x, rtol=1e-12, atol=1e-12)
    ones = frequency.laplacian(torch.ones_like(x), levels)  # a constant is of the coarsest band alone
    assert all(float(band.abs().max()) < 1e-14 for band in ones[:-1])


def test_fdg_guides_each_band_by_its_own_scale() -> None:
    """A direction that is constant in space gets the last scale, one from place to place the first."""
    sigma = torch.ones(1)
    flat, fine = torch.ones(1, 1, 16, 16), torch.ones(1, 1, 16, 16)
    fine[..., ::2] = -1
    for direction, scale, error in ((flat, 3.0, 1e-6), (fine, 9.0, 0.02)):
        both = direction, torch.zeros_like(direction)
        guided = guidance.fdg(lambda x, s, both=both: both, None, (9.0, 3.0))  # type: ignore[misc]
        inner = guided(torch.zeros_like(flat), sigma)[0][..., 4:-4, 4:-4]
        assert (inner - scale * direction[..., 4:-4, 4:-4]).abs().max() <= error * scale


def test_mag_lowers_the_scale_where_predictions_are_far_apart() -> None:
    c, u, sigma = torch.tensor([[3.0, 4.0], [0.1, 0.0]]), torch.tensor([[3.0, 0.0], [1.0, 0.0]]), torch.ones(2)
    guided, _ = guidance.mag(lambda x, s: c, lambda x, s: u, 5.0, VP(), "sample", alpha=0.5)(c, sigma)
    for i, ratio in enumerate((4 / 3, 0.9)):
        torch.testing.assert_close(guided[i], u[i] + (1 + 4 * math.exp(-0.5 * ratio)) * (c - u)[i])


def test_tcfg_damps_what_the_conditional_output_has_not() -> None:
    c, u = torch.tensor([[2.0, 0.0, 0.0]]), torch.tensor([[0.6, 0.5, 0.0]])
    sigma = torch.ones(1)

    def of(c: torch.Tensor, u: torch.Tensor, scale: float = 0.0) -> torch.Tensor:
        return guidance.tcfg(lambda x, s: c, lambda x, s: u, scale, VP(), "sample")(c, sigma)[0]  # at scale 0 it is u'

    damped = of(c, u)
    first = np.linalg.svd(np.concatenate([c, u]))[2][0]
    assert damped[0].numpy() == pytest.approx(first * float(u[0].numpy() @ first), abs=1e-6)
    assert float(damped.norm()) < float(u.norm())
    torch.testing.assert_close(of(c, 0.3 * c, 5.0), c + 4 * 0.7 * c)  # parallel: cfg
    perpendicular = torch.tensor([[0.0, 2.0, 0.0]])
    assert torch.equal(of(c, perpendicular), perpendicular), "of no direction more than of another: undamped"


@short(lambda shape, percentile: shape == (2, 3, 4, 5) or percentile == 0.9)
@pytest.mark.parametrize("percentile", [0.0, 0.5, 0.9, 0.995, 1.0])
@pytest.mark.parametrize("max_value", [0.5, 1.0, 1.5, math.inf])
@pytest.mark.parametrize("shape", [(3, 1), (3, 2), (2, 3, 4, 5), (2, 1000), (4,)])
def test_thresholding_as_in_diffusers(shape: tuple[int, ...], max_value: float, percentile: float) -> None:
    prediction = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    got = guidance.dynamic_thresholding(lambda x, sigma: prediction, percentile, max_value)(prediction, torch.ones(1))
    flat = prediction.reshape(shape[0], -1)
    s = torch.quantile(flat.abs(), percentile, dim=1).clamp(1, max_value)[:, None]
    want = (flat.clamp(-s, s) / s).reshape(shape)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    assert got.abs().max() <= 1
    if max_value == 1:
        assert torch.equal(got, guidance.clip(lambda x, sigma: prediction)(prediction, torch.ones(1)))


@pytest.mark.exhaustive
def test_thresholding_of_large_items() -> None:
    """More values than torch.quantile takes."""
    size = 2**24 + 1
    x = torch.linspace(-4, 4, size)[None]
    got = guidance.dynamic_thresholding(lambda x, sigma: x, 0.995)(x, torch.ones(1))
    torch.testing.assert_close(got, x.clamp(-3.98, 3.98) / 3.98)


def test_thresholding_is_per_item(state: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, sigma = state
    edit = guidance.dynamic_thresholding(lambda x, sigma: 3 * x, 0.8)
    alone = torch.cat([edit(x[i : i + 1], sigma[i : i + 1]) for i in range(len(x))])
    assert torch.equal(edit(x, sigma), alone)


@short(in_turn_of_process)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_an_item_does_not_see_its_batch(wrapper: str, process: Process) -> None:
    x = data_of(SHAPE, 7)
    sigma = torch.tensor([0.2, 0.7])
    both = wrappers(process)[wrapper](x, sigma)[0]
    if "inpaint" not in wrapper and wrapper != "nested":  # whose original is of the batch's shape
        alone = torch.cat([wrappers(process)[wrapper](x[i : i + 1], sigma[i : i + 1])[0] for i in range(2)])
        torch.testing.assert_close(both, alone)


# One call for both


def test_batched_is_two_calls(state: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, sigma = state
    positive, negative = (
        torch.randn(5, 2, generator=torch.Generator().manual_seed(0)).double(),
        torch.zeros(1, 2).double(),
    )
    calls: list[tuple[int, ...]] = []

    def model(
        x: torch.Tensor, sigma: torch.Tensor, *, c: torch.Tensor, more: dict[str, Any], gain: float
    ) -> torch.Tensor:
        calls.append((*x.shape, *sigma.shape, *c.shape, *more["d"].shape))
        return conditioned(x, sigma, c=c + more["d"], gain=gain)

    d = torch.ones(1, 2).double()
    two = guidance.batched(
        model, {"c": positive, "more": {"d": d}, "gain": 2.0}, {"c": negative, "more": {"d": d}, "gain": 2.0}
    )
    c, u = two(x, sigma)
    assert calls == [(10, 2, 3, 4, 10, 10, 2, 10, 2)]
    assert torch.equal(c, conditioned(x, sigma, c=positive + d, gain=2.0))
    assert torch.equal(u, conditioned(x, sigma, c=(negative + d).expand(5, 2), gain=2.0))


def test_batched_network_behind_a_denoiser() -> None:
    denoiser = Denoiser(lambda x, t, c: x * c[:, :1], VP(), "v_prediction")
    x, sigma = data_of((3, 4)), torch.tensor([0.1, 1.0, 9.0])
    two = guidance.batched(denoiser, {"c": torch.ones(3, 1)}, {"c": torch.zeros(1, 1)})
    c, u = two(x, sigma)
    assert torch.equal(c, denoiser(x, sigma, c=torch.ones(3, 1)))
    assert torch.equal(u, denoiser(x, sigma, c=torch.zeros(3, 1)))


@pytest.mark.parametrize(
    ("positive", "negative", "message"),
    [
        ({"c": torch.ones(1, 2)}, {"d": torch.ones(1, 2)}, r"inputs must have the same names in both; got \['c'\]"),
        ({"c": torch.ones(1, 3, 2)}, {"c": torch.ones(1, 4, 2)}, r"inputs\['c'\] must have the same shape in both"),
        ({"c": torch.ones(())}, {"c": torch.ones(())}, "batch axis first"),
        ({"c": torch.ones(1)}, {"c": 1.0}, r"inputs\['c'\] must be tensors in both or in neither"),
        ({"c": 1.0}, {"c": 2.0}, "must be equal in both, as it is not a tensor; got 1.0 and 2.0"),
        ({"m": {"c": 1}}, {"m": {}}, r"inputs\['m'\] must have the same names"),
        (torch.ones(1), {"c": 2.0}, "inputs must be mappings of names to values; got Tensor and dict"),
        (3, 3, "inputs must be mappings of names to values; got int and int"),
    ],
)
def test_batched_refuses_what_cannot_be_joined(positive: Any, negative: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        guidance.batched(conditioned, positive, negative)


# Inpainting


@short(lambda spec, process: is_form(spec.name) and process == in_turn(SPECS.index(spec), THREE.values()))
@pytest.mark.parametrize("spec", SPECS, ids=NAMES)
def test_what_is_kept_is_kept_bit_for_bit(spec: SamplerSpec, process: Process) -> None:
    process = process_for(spec, process)
    sampler = build_sampler(spec.name, "karras", 5, process=process)
    shape = (2, 3, 4, 4)
    mask = mask_of((1, 1, 4, 4))
    mask[..., 0, 0] = 0
    kept, sampled = (mask == 0).expand(shape), (mask == 1).expand(shape)
    assert sampled.any()
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        original = data_of(shape).to(dtype)
        original[:, :, 0, 0] = -0.0
        x = start_state(process, sampler.sigmas[0], shape, dtype=dtype)
        result = sampler.sample(guidance.inpaint(pair, mask, original, process, noise=1), x, seed=2)
        assert result.dtype == dtype
        if spec.ends_at_denoised:
            assert torch.equal(result[kept], original[kept])
            assert torch.equal(torch.signbit(result[kept]), torch.signbit(original[kept]))
        else:  # its end is a sum whose weights add up to 1
            torch.testing.assert_close(result[kept], original[kept])
        assert (result[sampled] != original[sampled]).any()


def test_a_prediction_that_overflows_cannot_reach_what_is_kept() -> None:
    original, mask = data_of((1, 4)), torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    model = guidance.inpaint(lambda x, sigma: x * math.inf, mask, original, VP(), noise=0)
    assert torch.equal(model(torch.ones(1, 4), torch.ones(1))[:, :2], original[:, :2])


def test_inpaint_formula(process: Process, state: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, sigma = state
    original, noise = data_of((5, 2, 3, 4)).double(), data_of((5, 2, 3, 4), 9).double()
    mask = mask_of((5, 1, 3, 4)).double()
    seen: list[torch.Tensor] = []

    def model(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        seen.append(x)
        return pair(x, sigma)

    got, twin = guidance.inpaint(model, mask, original, process, noise=noise)(x, sigma)
    s = sigma.numpy().reshape(-1, 1, 1, 1)
    m, o = mask.numpy(), original.numpy()
    alpha = 1 - s if isinstance(process, Flow) else 1.0
    mixed = x.numpy() * m + (alpha * o + s * noise.numpy()) * (1 - m)
    np.testing.assert_allclose(seen[0], mixed, rtol=1e-13, atol=1e-13)
    for result, prediction in ((got, cond), (twin, uncond)):
        np.testing.assert_allclose(result, prediction(seen[0], sigma).numpy() * m + o * (1 - m), rtol=1e-13, atol=1e-13)


def test_inpaint_noise_of_a_seed_is_the_start_noise_of_that_seed() -> None:
    """One rule from (seed, draw) to numbers, so the kept part can be noised by the noise that the state starts from."""
    original = data_of(SHAPE)
    noise = SeededNoise(item_seeds(11, 2))(Draw(math.inf, math.inf), original)
    x, sigma = data_of(SHAPE, 8), torch.tensor([0.5, 2.0])
    mask = torch.zeros(1, 1, 1)
    seen: list[torch.Tensor] = []

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x

    for chosen in (11, [11, 12], noise):
        guidance.inpaint(model, mask, original, VP(), noise=chosen)(x, sigma)
    assert torch.equal(seen[0], VP().add_noise(original, noise, sigma))
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])


def test_differential_diffusion() -> None:
    """The mask opens as sigma falls. Pixels that it never opens are kept; each other is freed at its own sigma."""
    process = VP()
    strength = torch.tensor([[0.0, 0.3, 0.7, 1.0]])
    original = data_of((2, 4))

    def mask(sigma: torch.Tensor) -> torch.Tensor:
        return (strength > process.timestep(sigma)[:, None] / 999).float()

    opened: list[list[bool]] = []

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        opened.append((mask(sigma)[0] > 0).tolist())
        return gentle(x, sigma)

    sampler = build_sampler("euler", "simple", 8, process=process)
    x = start_state(process, sampler.sigmas[0], (2, 4), dtype=torch.float32)
    result = sampler.sample(guidance.inpaint(model, mask, original, process, noise=0), x)
    assert torch.equal(result[:, 0], original[:, 0])
    assert opened[-1] == [False, True, True, True]
    shares = [sum(row) for row in opened]
    assert shares == sorted(shares)
    assert len(set(shares)) > 2


# Discipline: device, dtype, gradient, buffers


class Discipline(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Refuses float64 tensors and everything that reads a tensor back to the host."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.__name__.partition(".")[0]
        assert name not in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "item"), f"{name} reads back"
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            assert not (isinstance(value, torch.Tensor) and value.dtype == torch.float64), f"{name} made float64"
        return result


@short(in_turn_of_process)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_no_float64_tensor_and_no_read_back(wrapper: str, process: Process) -> None:
    model = wrappers(process)[wrapper]
    for dtype in (torch.float32, torch.bfloat16):
        x, sigma = data_of(SHAPE, 7).to(dtype), torch.tensor([0.2, 0.7])
        with Discipline():  # type: ignore[no-untyped-call]
            model(x, sigma)
            model(x, sigma)


DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@short(
    lambda wrapper, dtype, process: process == in_turn(WRAPPERS.index(wrapper) + DTYPES.index(dtype), THREE.values())
)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_dtype_and_precision(wrapper: str, dtype: torch.dtype, process: Process) -> None:
    """The result has x's dtype and, the models being given the same numbers, only one rounding to it."""
    x, sigma = data_of(SHAPE, 7).to(dtype), torch.tensor([0.25, 0.75], dtype=torch.float64)
    exact = wrappers(process)[wrapper](x.double(), sigma)
    got = wrappers(process)[wrapper](x, sigma.to(torch.promote_types(dtype, torch.float32)))
    assert isinstance(got, tuple)
    for value, truth in zip(got, exact, strict=True):
        assert value.dtype == dtype
        # models compute in x's dtype; guidance multiplies their rounding by twice the scale at most
        tolerance = 60 * torch.finfo(dtype).eps * max(1, float(truth.abs().max()))
        assert (value.double() - truth).abs().max() <= tolerance


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_once(dtype: torch.dtype) -> None:
    """Predictions that lie close together are told apart before they are multiplied."""
    c = 3 + 0.1 * data_of((4, 50)).to(dtype)
    u = 3 + 0.1 * data_of((4, 50), 5).to(dtype)
    x, sigma = torch.zeros_like(c), torch.ones(4)
    for build in (
        lambda c, u: guidance.cfg(lambda x, s: c, lambda x, s: u, 7.3),
        lambda c, u: guidance.apg(lambda x, s: c, lambda x, s: u, 7.3, norm_threshold=0.5),
        lambda c, u: guidance.rescale(lambda x, s: c, lambda x, s: u, 7.3, VP(), "sample"),
        lambda c, u: guidance.perp_neg(lambda x, s: c, lambda x, s: c.flip(1), lambda x, s: u, 7.3),
        lambda c, u: guidance.fdg(lambda x, s: c, lambda x, s: u, (7.3, 2.0)),
        lambda c, u: guidance.tcfg(lambda x, s: c, lambda x, s: u, 7.3, VP(), "sample"),
        lambda c, u: guidance.mag(lambda x, s: c, lambda x, s: u, 7.3, VP(), "sample"),
        lambda c, u: guidance.inpaint(lambda x, s: c, mask_of((4, 50)), u, VP(), noise=0),
        lambda c, u: guidance.dynamic_thresholding(lambda x, s: c, 0.9),
    ):
        got, truth = build(c, u)(x, sigma), build(c.double(), u.double())(x.double(), sigma.double())
        got, truth = (value[0] if isinstance(value, tuple) else value for value in (got, truth))
        assert got.dtype == dtype
        assert ((got.double() - truth).abs() <= 0.51 * torch.finfo(dtype).eps * truth.abs().clamp_min(0.25)).all()


@short(in_turn_of_process)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_gradients_flow(wrapper: str, process: Process) -> None:
    x = data_of(SHAPE, 7).double().requires_grad_()
    sigma = torch.tensor([0.2, 0.7], dtype=torch.float64)
    model = wrappers(process)[wrapper]
    weights = data_of(SHAPE, 1).double()

    def loss(x: torch.Tensor) -> torch.Tensor:
        again = wrappers(process)[wrapper] if "momentum" in wrapper else model
        total: torch.Tensor = (weights * again(x, sigma)[0]).sum()
        return total

    (gradient,) = torch.autograd.grad(loss(x), x)
    assert torch.isfinite(gradient).all()
    with torch.no_grad():
        direction, step = data_of(SHAPE, 2).double(), 1e-6
        slope = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=1e-6, atol=1e-6)


def test_gradients_are_finite_where_there_is_no_direction() -> None:
    x = data_of(SHAPE, 7).requires_grad_()
    sigma = torch.ones(2)

    def still(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return x * 0

    for guided in (
        guidance.apg(still, still, 5.0, norm_threshold=2.0),
        guidance.rescale(still, still, 5.0, VP(), "sample"),
        guidance.rescale(lambda x, s: x, lambda x, s: 2 * x, 2.0, VP(), "sample"),  # the guided output is 0, not cond
        guidance.perp_neg(still, still, still, 5.0),
        guidance.cfg_zero_star(lambda x, s: x, lambda x, s: x, 5.0, Flow()),
        guidance.fdg(still, still, (5.0, 3.0), parallel=0.5),
        guidance.tcfg(still, still, 5.0, VP(), "sample"),
        guidance.tcfg(lambda x, s: x, lambda x, s: x, 5.0, VP(), "sample"),
        guidance.mag(still, still, 5.0, VP(), "sample"),
        guidance.mag(lambda x, s: x, still, 5.0, VP(), "sample", alpha=0.0),
    ):
        denoised, _ = guided(x, sigma)
        assert torch.isfinite(denoised).all()
        (gradient,) = torch.autograd.grad(denoised.sum(), x)
        assert torch.isfinite(gradient).all()


def test_a_network_that_returns_one_buffer_for_all(state: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Captured networks write every answer into the same memory."""
    x, sigma = state
    buffer = torch.empty_like(x)

    def into(model: Model) -> Model:
        return lambda x, sigma: buffer.copy_(model(x, sigma))

    c, u, o = into(cond), into(uncond), into(other)
    for build in (
        lambda c, u, o: guidance.cfg(c, u, 3.0),
        lambda c, u, o: guidance.apg(c, u, 3.0, norm_threshold=1.0),
        lambda c, u, o: guidance.rescale(c, u, 3.0, VP(), "sample"),
        lambda c, u, o: guidance.perp_neg(c, o, u, 3.0),
        lambda c, u, o: guidance.interval(guidance.cfg(c, u, 3.0), o, 0.3, 0.8),
    ):
        for got, want in zip(build(c, u, o)(x, sigma), build(cond, uncond, other)(x, sigma), strict=True):
            assert torch.equal(got, want)


@short(in_turn_of_process)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_arguments_are_not_written_to(wrapper: str, process: Process) -> None:
    x, sigma = data_of(SHAPE, 7), torch.tensor([0.2, 0.7])
    before = x.clone(), sigma.clone()
    wrappers(process)[wrapper](x, sigma)
    assert torch.equal(x, before[0])
    assert torch.equal(sigma, before[1])


def test_momentum_belongs_to_one_run() -> None:
    """With a new one a run can be repeated, with the old one it is another run; a resumed run takes it along."""
    sampler = build_sampler("euler", "karras", 6)
    x = start_state(VP(), sampler.sigmas[0], SHAPE)

    def model(momentum: guidance.Momentum) -> Model:
        return guidance.apg(cond, uncond, 5.0, momentum=momentum)

    used = guidance.Momentum(-0.5)
    whole = sampler.sample(model(used), x)
    assert torch.equal(whole, sampler.sample(model(guidance.Momentum(-0.5)), x))
    assert not torch.equal(whole, sampler.sample(model(used), x))
    first, momentum = sampler.start(x), guidance.Momentum(-0.5)
    for _ in range(3):
        first.feed(*model(momentum)(first.x, first.sigma))
    second = sampler.start(x)
    second.load_state_dict(first.state_dict())
    taken_along = guidance.Momentum(-0.5, momentum.average)
    while not second.done:
        second.feed(*model(taken_along)(second.x, second.sigma))
    assert torch.equal(second.x, whole)
    with pytest.raises(ValueError, match=r"in one run only; this one has shape \(2, 3, 4\)"):
        model(used)(x[:1], torch.ones(1))


def test_interval_bounds_are_those_of_the_paper(state: tuple[torch.Tensor, torch.Tensor]) -> None:
    """The lower bound is outside, the upper inside, in float32 as well."""
    levels = build_sampler("euler", "karras", 6).sigmas
    x, sigma = torch.zeros(7, 1), torch.tensor(levels, dtype=torch.float32)
    model = guidance.interval(lambda x, s: x + 1, lambda x, s: x, float(levels[4]), float(levels[2]))
    assert model(x, sigma)[:, 0].tolist() == [0, 0, 1, 1, 0, 0, 0]
    assert guidance.within(3.0, float(levels[4]), float(levels[2]))(sigma).tolist() == [1, 1, 3, 3, 1, 1, 1]
    assert isinstance(model(x, sigma), torch.Tensor)
    paired = guidance.interval(pair, other, 0.3, 0.8)(*state)
    assert torch.equal(paired[1], uncond(*state))


# Mistakes


NOT_A_MODEL: Any = 3


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: guidance.cfg(NOT_A_MODEL, uncond, 3), r"cond must be callable, \(x, sigma\) -> denoised; got int"),
        (lambda: guidance.cfg(cond, NOT_A_MODEL, 3), "uncond must be callable"),
        (lambda: guidance.cfg(cond, uncond, math.nan), "cfg: scale must be a finite number; got nan"),
        (lambda: guidance.cfg(cond, uncond, "high"), "cfg: scale must be a number; got 'high'"),  # type: ignore[arg-type]
        (lambda: guidance.within(math.inf, 0, 1), "within: scale must be a finite number; got inf"),
        (
            lambda: guidance.within(3, 2, 1),
            "within: sigma_low must be below sigma_high; got sigma_low=2.0, sigma_high=1.0",
        ),
        (lambda: guidance.interval(cond, other, -1, 1), "interval: sigma_low must be a number of at least 0; got -1"),
        (lambda: guidance.interval(NOT_A_MODEL, other, 0, 1), "guided must be callable"),
        (lambda: guidance.interval(cond, NOT_A_MODEL, 0, 1), "unguided must be callable"),
        (
            lambda: guidance.rescale(cond, uncond, 3, VP(), "flow"),
            "a VP network predicts epsilon, score, v_prediction or",
        ),
        (
            lambda: guidance.rescale(cond, uncond, 3, VP(), "sample", phi=2),
            "rescale: phi must be at least 0 and at most 1",
        ),
        (lambda: guidance.cfg_zero_star(cond, uncond, 3, EDM()), "a EDM network predicts"),
        (lambda: guidance.apg(cond, uncond, 3, norm_threshold=0), "norm_threshold must be a number above 0; got 0"),
        (lambda: guidance.apg(cond, uncond, 3, eta=math.inf), "apg: eta must be a finite number"),
        (lambda: guidance.apg(cond, uncond, 3, momentum=-0.5), r"momentum must be a new .*Momentum"),  # type: ignore[arg-type]
        (lambda: guidance.Momentum(2.0), "Momentum: beta must be at least -1 and at most 1"),
        (lambda: guidance.perp_neg(cond, NOT_A_MODEL, uncond, 3), "negative must be callable"),
        (lambda: guidance.fdg(cond, uncond, 3), r"fdg: scales must be a list of scales, .* got 3"),  # type: ignore[arg-type]
        (lambda: guidance.fdg(cond, uncond, [3, math.nan]), "fdg: scale must be a finite number; got nan"),
        (lambda: guidance.mag(cond, uncond, 3, VP(), "sample", alpha=-1), "mag: alpha must be a finite number of at"),
        (lambda: guidance.tcfg(cond, uncond, 3, VP(), "flow"), "a VP network predicts epsilon, score, v_prediction or"),
        (lambda: guidance.clip(NOT_A_MODEL), "denoiser must be callable"),
        (lambda: guidance.clip(cond, 1, -1), "clip: low must be below high; got low=1.0, high=-1.0"),
        (lambda: guidance.clip(cond, math.nan, 1), "clip: low must be a number"),
        (lambda: guidance.dynamic_thresholding(cond, 99.5), "percentile must be at least 0 and at most 1; got 99.5"),
        (
            lambda: guidance.dynamic_thresholding(cond, max_value=0),
            "max_value must be a number above 0; got 0",
        ),
        (lambda: guidance.batched(NOT_A_MODEL, {}, {}), r"model must be callable, \(x, sigma, \*\*inputs\)"),
    ],
)
def test_mistakes_in_arguments(build: Callable[[], Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        build()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"denoiser": 3}, "denoiser must be callable"),
        ({"process": "vp"}, "process must be a ksched process"),
        (
            {"original": torch.ones(2, 4, dtype=torch.int64)},
            "original must be a floating-point tensor, batch first; got",
        ),
        ({"original": np.ones((2, 4))}, "original must be a floating-point tensor, batch first; got ndarray"),
        ({"mask": torch.ones(4)}, r"mask must have the rank of original, \(2, 4\), .*; got \(4,\)"),
        ({"mask": torch.ones(3, 4)}, r"got \(3, 4\)"),
        ({"mask": 255 * torch.ones(2, 4)}, r"mask must lie in \[0, 1\], 1 where to sample; got 255.0 to 255.0"),
        ({"mask": 1.0}, "mask must be a tensor or a function sigma -> tensor; got float"),
        ({"noise": torch.ones(1, 4)}, r"noise must have original's shape \(2, 4\); got \(1, 4\)"),
        ({"noise": [1, 2, 3]}, "got 3 seeds for a batch of 2"),
        ({"noise": 0.5}, "seed must be a whole number"),
    ],
)
def test_mistakes_in_inpainting(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"denoiser": cond, "mask": torch.ones(2, 4), "original": torch.ones(2, 4), "process": VP()}
    with pytest.raises((TypeError, ValueError), match=message):
        guidance.inpaint(**{**good, "noise": 0, **change})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: guidance.cfg(lambda x, s: None, uncond, 3), "cond must return a tensor; got NoneType"),
        (
            lambda: guidance.cfg(cond, lambda x, s: x[0], 3),
            r"uncond must return the state's shape \(2, 3, 4\); got \(3, 4\)",
        ),
        (lambda: guidance.cfg(cond, None, 3), r"with uncond=None, cond must return the pair \(cond, uncond\)"),
        (lambda: guidance.cfg(cond, uncond, lambda s: torch.ones(3)), r"one per item, shape \(2,\); got \(3,\)"),
        (lambda: guidance.cfg(cond, uncond, lambda s: math.nan), r"cfg: scale\(sigma\) must be a finite number"),
        (lambda: guidance.clip(lambda x, s: (x, None, 3)), "denoiser must return a tensor; got tuple"),
        (lambda: guidance.clip(lambda x, s: (x, x[:1])), r"uncond must return the state's shape"),
        (lambda: guidance.batched(lambda x, s: x[:2], {}, {}), r"model must return the state's shape \(4, 3, 4\)"),
        (
            lambda: guidance.batched(conditioned, {"c": torch.ones(3, 2)}, {"c": torch.ones(3, 2)}),
            r"inputs\['c'\] must have a batch axis of length 2 or 1; got 3",
        ),
        (
            lambda: guidance.inpaint(cond, torch.ones(1, 1, 1), torch.ones(1, 3, 4), VP(), noise=0),
            r"original must have the state's shape \(2, 3, 4\) and be on its device cpu; got \(1, 3, 4\) on cpu",
        ),
        (
            lambda: guidance.inpaint(cond, lambda s: torch.ones(4), torch.ones(2, 3, 4), VP(), noise=0),
            "mask must have the rank of original",
        ),
        (
            lambda: guidance.inpaint(cond, lambda s: 1.0, torch.ones(2, 3, 4), VP(), noise=0),  # type: ignore[arg-type,return-value]
            r"mask\(sigma\) must return a tensor; got float",
        ),
    ],
)
def test_mistakes_at_a_call(build: Callable[[], Model], message: str) -> None:
    model = build()
    with pytest.raises((TypeError, ValueError), match=message):
        model(torch.ones(SHAPE), torch.ones(2))


def test_a_whole_guided_run_has_the_guided_law() -> None:
    """On Gaussian data of one variance guidance moves the mean: scale w samples ``u + w (c - u)``, exactly known."""
    from ksched.exact.mixture import Gaussian

    process = VE()
    positive, negative = (Gaussian([m], 0.5, process) for m in (1.0, -0.5))
    sampler = build_sampler("dpmpp_2m", "karras", 40, process=process)
    x = start_state(process, sampler.sigmas[0], (16, 1))
    got = sampler.sample(guidance.cfg(positive, negative, 3.0), x)
    truth = Gaussian([-0.5 + 3 * 1.5], 0.5, process).solve(x, [sampler.sigmas[0], 0.0])[-1]
    torch.testing.assert_close(got, truth, rtol=2e-3, atol=2e-3)
