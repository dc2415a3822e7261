"""The executor: when it reuses its own buffers, gradients, and folded conversions."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import NAMES, half, process_for, start_state
from representatives import each, in_turn, is_kind, is_plain_form, short

from ksched import EDM, VP, Denoiser, Flow, Process, build_sampler
from ksched.execution.layout import layout
from ksched.plan.plan import Plan
from ksched.plan.rows import Register, Row

LATENT = (2, 4, 8, 8)


@each("name", NAMES)
def test_no_more_buffers_than_live_registers(name: str) -> None:
    plan = build_sampler(name, "karras", 12, process=process_for(name)).plan
    assert layout(plan).buffers <= plan.live_registers


LARGE = (1, 4, 128, 128)


@short(is_kind)
@pytest.mark.parametrize("name", NAMES)
def test_what_a_run_handed_out_is_no_memory_of_the_next(name: str) -> None:
    sampler = build_sampler(name, "karras", 4, process=process_for(name))
    x = start_state(process_for(name), sampler.sigmas[0], LARGE, dtype=torch.float32)
    kept: list[torch.Tensor] = []

    def model(x: torch.Tensor, sigma: torch.Tensor) -> Any:
        kept.append(x[:, 1])
        return half(x, sigma)

    kept.append(sampler.sample(model, x, seed=0))
    copies = [value.clone() for value in kept]
    for seed in (1, 2):
        sampler.sample(half, x, seed=seed)
    assert all(map(torch.equal, kept, copies))


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "heun", "euler_ancestral"])
def test_the_loop_makes_no_new_state(name: str) -> None:
    """Where nobody keeps what the run hands out, every state is formed in the same few blocks of memory."""
    sampler = build_sampler(name, "karras", 12)
    x = start_state(VP(), sampler.sigmas[0], LATENT, dtype=torch.float32)
    answer, blocks = torch.zeros_like(x), set()

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        blocks.add(x.data_ptr())
        return answer

    sampler.sample(model, x, seed=0)
    assert len(blocks) <= layout(sampler.plan).buffers


@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_2m_sde", "seeds_3"])
def test_a_run_is_where_its_start_is(name: str) -> None:
    """Whatever torch's default device is."""
    sampler = build_sampler(name, "karras", 4)
    x = start_state(VP(), sampler.sigmas[0], LARGE, dtype=torch.float32)
    expected = sampler.sample(half, x, seed=1)
    for _ in range(2):
        with torch.device("meta"):
            result = sampler.sample(half, x, seed=1)
        assert torch.equal(result, expected)


@short(lambda name, keep: is_kind(name) and keep == in_turn(NAMES.index(name), ["tensor", "view", "array"]))
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("keep", ["tensor", "view", "array"])
def test_what_was_handed_out_is_never_written_again(name: str, keep: str) -> None:
    sampler = build_sampler(name, "karras", 6, process=process_for(name))
    x = start_state(process_for(name), sampler.sigmas[0], dtype=torch.float32)
    seen: list[tuple[Any, torch.Tensor]] = []

    def model(x: torch.Tensor, sigma: torch.Tensor) -> Any:
        seen.append(({"tensor": x, "view": x[:, 1:], "array": x.numpy()}[keep], x.clone()))
        return half(x, sigma)

    sampler.sample(model, x, seed=0)
    for kept, copy in seen:
        assert torch.equal(torch.as_tensor(kept), copy[:, 1:] if keep == "view" else copy)


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m", "dpmpp_2m_sde", "uni_pc", "euler_cfg_pp"])
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    sampler = build_sampler(name, "karras", 4)
    start = start_state(VP(), sampler.sigmas[0], (2, 3)).requires_grad_()
    weight = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)

    def result(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        def model(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return torch.tanh(weight * x), torch.sin(weight * x)

        return sampler.sample(model, x, seed=2)

    assert torch.autograd.gradcheck(result, (start, weight))
    with torch.no_grad():
        assert torch.equal(result(start, weight), result(start.detach(), weight)), "the same numbers, recorded or not"
    assert torch.equal(result(start, weight).detach(), result(start.detach(), weight))


NETWORKS: list[tuple[Process, str]] = [
    (VP(), "epsilon"),
    (VP(), "v_prediction"),
    (EDM(), "edm"),
    (Flow(3.0), "flow"),
    (VP(), "sample"),
]


@short(
    lambda name, process, prediction: (
        is_plain_form(name) or (is_kind(name) and (process, prediction) == in_turn(NAMES.index(name), NETWORKS))
    )
)
@pytest.mark.parametrize(
    ("process", "prediction"),
    NETWORKS,
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
@pytest.mark.parametrize("name", NAMES)
def test_a_conversion_in_the_coefficients_is_the_conversion(name: str, process: Process, prediction: str) -> None:
    """A `Denoiser` gives the raw network output; a function around it gives the x0 prediction."""
    if process != process_for(name, process):
        process, prediction = Flow(3.0), "flow"
    sampler = build_sampler(name, "karras", 5, process=process)
    denoiser = Denoiser(lambda x, timestep: torch.tanh(x) * 0.8, process, prediction)
    x = start_state(process, sampler.sigmas[0])

    def function(x: torch.Tensor, sigma: torch.Tensor) -> Any:
        return denoiser(x, sigma), denoiser(x, sigma)

    expected = sampler.sample(function, x, seed=1)
    if sampler.spec.uncond:
        with pytest.raises(TypeError, match=r"needs \(denoised, uncond\)"):
            sampler.sample(denoiser, x, seed=1)
        return
    result = sampler.sample(denoiser, x, seed=1)
    assert (result - expected).abs().max() <= 1e-9 * max(1.0, float(expected.abs().max()))


def test_a_compiled_model_compiles_once() -> None:
    """Sigma is a tensor and states look alike, so that nothing tells one model call from another."""
    compiled = []

    def backend(graph: Any, inputs: Any) -> Any:
        compiled.append(graph)
        return graph.forward

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return x / (1 + sigma.reshape(-1, 1, 1, 1) ** 2)

    sampler = build_sampler("dpmpp_2m", "karras", 8)
    x = start_state(VP(), sampler.sigmas[0], LATENT, dtype=torch.float32)
    result = sampler.sample(torch.compile(model, fullgraph=True, backend=backend), x)
    assert len(compiled) == 1
    assert torch.equal(result, sampler.sample(model, x))


def test_a_recorded_run_has_a_start_of_its_own() -> None:
    """Also with gradients, the caller may reuse the start tensor."""
    sampler = build_sampler("dpmpp_2m", "karras", 4)
    start = start_state(VP(), sampler.sigmas[0]).requires_grad_() * 1.0
    expected = sampler.sample(half, start).detach()
    run = sampler.start(start)
    with torch.no_grad():
        start.zero_()
    while not run.done:
        run.feed(*half(run.x, run.sigma))
    assert torch.equal(run.x.detach(), expected)


@pytest.mark.parametrize("name", ["dpmpp_2m", "heun", "dpmpp_2m_sde"])
def test_a_start_in_odd_memory(name: str) -> None:
    """A view that has gaps, or that is one item several times, is a start like its copy."""
    sampler = build_sampler(name, "karras", 4)
    whole = start_state(VP(), sampler.sigmas[0], (2, 4, 8, 8), dtype=torch.float32)
    for x in (whole[:, :, ::2, 1:], whole[:1].expand(3, 4, 8, 8), whole.mT):
        assert torch.equal(sampler.sample(half, x, seed=1), sampler.sample(half, x.clone().contiguous(), seed=1))


@pytest.mark.parametrize("name", ["seeds_3", "dpmpp_sde", "euler_ancestral"])
def test_a_run_has_noises_of_its_own(name: str) -> None:
    """Whoever draws may fill one tensor again and again, with gradients too, and where a noise is used in more rows."""
    sampler = build_sampler(name, "karras", 4)
    start = start_state(VP(), sampler.sigmas[0])
    buffer = torch.empty_like(start)

    def noise(sigma: float, sigma_next: float) -> torch.Tensor:
        return buffer.fill_(math.sin(1000 * sigma + sigma_next))

    expected = sampler.sample(half, start, noise=lambda sigma, sigma_next: noise(sigma, sigma_next).clone())
    for x in (start, start.clone().requires_grad_()):
        result = sampler.sample(half, x, noise=noise).detach()
        torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)


def test_a_conversion_is_told_in_terms_of_what_is_still_there() -> None:
    """Where a row wrote over what the state of the call was formed of, before the prediction is read."""
    process = VP()
    first, middle, last = process.level(10.0), process.level(2.0), process.level(0.5)
    x0, x1, x2, x3, predicted = *(Register("x", k) for k in range(4)), Register("D", 1)
    rows = (
        Row((), first, 0),
        Row(((x0, 0.5),), middle, 0),
        Row(((x0, 2.0),), None, 0),  # in the place of x0
        Row(((x2, 1.0), (predicted, 1.0)), None, 0),
        Row(((x1, 1.0), (x3, 1.0)), None, 0),
    )
    sampler = build_sampler(Plan(rows, (), first, last, (10.0, 0.5)), process=process)
    denoiser = Denoiser(lambda x, timestep: torch.tanh(x), process)
    x = sampler.initial_state((2, 3), seed=0, dtype=torch.float64)
    assert torch.allclose(sampler.sample(denoiser, x), sampler.sample(lambda x, sigma: denoiser(x, sigma), x))
