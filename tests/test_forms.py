"""The states of a run in any memory layout and dtype, with any kind of model output, and the executor's rounds."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
import torch
from cases import NAMES, SPECS, gaussian_denoiser, paired, process_for, start_state
from representatives import each, in_turn, is_kind, short

from ksched import VP, Denoiser, Flow, build_sampler
from ksched.execution.layout import Combination, Operations, layout
from ksched.plan.plan import Plan


def _rounds_of(plan: Plan) -> list[Operations]:
    return [turn.operations for turn in (layout(plan).before, *layout(plan).segments)]


@each("name", NAMES)
def test_rounds_are_independent_and_whole(name: str) -> None:
    """The operations of a round may run in any order: the result equals that of running them in sequence."""
    for operations in _rounds_of(build_sampler(name, "karras", 6, process=process_for(name)).plan):
        count = 3 + max((source for o in operations for source in (o.out, *(s for s, _ in o.terms))), default=0)
        start = list(np.random.default_rng(1).standard_normal((count, 3)))

        def formed(operations: Sequence[Combination], start: list[Any] = start) -> list[Any]:
            registers = start.copy()
            for operation in operations:
                registers[operation.out] = sum(value * registers[source] for source, value in operation.terms)
            return registers

        expected = formed(operations)
        for order in map(list, permutations(range(max(map(len, operations.rounds), default=0)))):
            shuffled = [part[i] for part in operations.rounds for i in order if i < len(part)]
            assert len(shuffled) == len(operations)
            np.testing.assert_allclose(formed(shuffled), expected, rtol=1e-12)


LAYOUTS, DTYPES = [torch.contiguous_format, torch.channels_last], [torch.bfloat16, torch.float32]
BOTH = list(product(DTYPES, LAYOUTS))


@short(lambda name, dtype, layout: is_kind(name) and (dtype, layout) == in_turn(NAMES.index(name), BOTH))
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_runs_are_right_in_every_layout(name: str, dtype: torch.dtype, layout: torch.memory_format) -> None:
    sampler = build_sampler(name, "karras", 8, process=process_for(name))
    x = start_state(process_for(name), sampler.sigmas[0], (2, 4, 8, 8)).to(dtype, memory_format=layout)
    model = paired(gaussian_denoiser(process_for(name)))
    truth = sampler.sample(model, x.double(), seed=2)
    result = sampler.sample(model, x, seed=2)
    assert (result.dtype, result.stride()) == (dtype, x.stride())
    bound = 40 * torch.finfo(dtype).eps * max(1, float(truth.abs().max()))
    assert (result.double() - truth).abs().max() <= bound


@short(is_kind)
@pytest.mark.parametrize("name", [spec.name for spec in SPECS if not spec.uncond])
def test_conversions_are_right(name: str) -> None:
    sampler = build_sampler(name, "karras", 6, process=Flow(3.0))
    denoiser = Denoiser(lambda x, timestep: torch.tanh(x) * 0.8, Flow(3.0), "flow")
    x = start_state(Flow(3.0), sampler.sigmas[0])
    truth = sampler.sample(denoiser, x, seed=1)
    result = sampler.sample(denoiser, x.float(), seed=1)
    assert (result - truth).abs().max() <= 40 * torch.finfo(torch.float32).eps * max(1, float(truth.abs().max()))


@pytest.mark.parametrize("odd", ["turned", "view", "half", "negated", "nowhere"])
def test_any_output_can_be_read(odd: str) -> None:
    sampler = build_sampler("dpmpp_2m", "karras", 5)
    x = start_state(VP(), sampler.sigmas[0], (2, 4, 8, 8), dtype=torch.float32)

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        if odd == "turned":
            return (x / 3).contiguous(memory_format=torch.channels_last)
        if odd == "view":
            return torch.cat([x, x / 3], dim=-1)[..., 8:]
        if odd == "half":
            return (x / 3).half()
        if odd == "negated":
            return torch.complex(x, -x / 3).conj().imag
        return torch._efficientzerotensor(x.shape)

    result = sampler.sample(model, x)
    assert torch.equal(result, sampler.sample(lambda x, sigma: torch.clone(model(x, sigma).float()).contiguous(), x))


@pytest.mark.parametrize("keep", [False, True])
def test_gradients_are_those_of_the_run(keep: bool) -> None:
    """The way for gradients gives the numbers of the other within rounding, in float32 too."""
    sampler = build_sampler("uni_pc", "karras", 6)
    x = start_state(VP(), sampler.sigmas[0], dtype=torch.float32)
    recorded = sampler.sample(gaussian_denoiser(VP()), x.clone().requires_grad_())
    seen = []

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        seen.append(x if keep else None)
        return gaussian_denoiser(VP())(x, sigma)

    result = sampler.sample(model, x)
    torch.testing.assert_close(result, recorded.detach(), rtol=1e-5, atol=1e-5)
    assert torch.equal(result, sampler.sample(gaussian_denoiser(VP()), x)), (
        "whether the states are kept changes nothing"
    )
