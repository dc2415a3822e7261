"""The inputs of a run: start noise, the number of model calls, and contradictory arguments."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from cases import NAMES, process_for
from representatives import each

import ksched
from ksched import EDM, VP, Flow, Process, build_sampler


def one(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Exact for data of std .5 on processes with alpha 1."""
    return x * 0.25 / (0.25 + sigma.reshape(-1, *[1] * (x.ndim - 1)) ** 2)


@pytest.mark.parametrize(
    ("process", "std"),
    [
        (VP(), VP().sigma_max),
        (Flow(3.0), 1.0),
        (EDM(), 80.0),
        (VP(variance_preserving=True), math.sqrt(1 - 1 / (1 + VP().sigma_max ** 2))),
    ],
)
def test_a_start_has_the_noise_of_the_first_level(process: Process, std: float) -> None:
    x = build_sampler("euler", "simple", 5, process=process).initial_state((8, 4, 32, 32), seed=3)
    assert (x.dtype, x.shape) == (torch.float32, (8, 4, 32, 32))
    assert float(x.std()) == pytest.approx(std, rel=0.02)
    infinite = build_sampler("euler", sigmas=[math.inf, 1, 0], process=VP(variance_preserving=True))
    assert float(infinite.initial_state((1, 4096), seed=0).std()) == pytest.approx(1, rel=0.05)


def test_a_start_is_made_item_by_item() -> None:
    sampler = build_sampler("euler", "karras", 5)
    whole = sampler.initial_state((3, 2, 5), seed=7)
    assert torch.equal(sampler.initial_state((1, 2, 5), seed=9), whole[2:])
    assert torch.equal(sampler.initial_state((2, 2, 5), seed=[8, 7]), whole[[1, 0]])
    assert torch.equal(sampler.initial_state((3, 2, 5), seed=7, dtype=torch.float64).float(), whole)
    other = build_sampler("heun", "exponential", 9)  # the same noise, whatever the sampler
    ratio = float(other.sigmas[0] / sampler.sigmas[0])
    assert torch.allclose(other.initial_state((3, 2, 5), seed=7), whole * ratio)
    assert len(sampler.initial_state((0, 4), seed=1)) == 0


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"shape": ()}, ValueError, "shape must have a batch axis first"),
        ({"shape": 5}, TypeError, "shape must be a list of whole numbers"),
        ({"shape": (2, 1.5)}, TypeError, "shape must be a list of whole numbers"),
        ({"shape": (2, -1)}, ValueError, "no negative size"),
        ({"seed": 1.5}, TypeError, "seed must be a whole number"),
        ({"seed": [1, 2, 3]}, ValueError, "one per batch item"),
        ({"dtype": torch.int64}, TypeError, "floating-point"),
    ],
)
def test_a_start_that_cannot_be_is_refused(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    given: dict[str, Any] = {"shape": (2, 3), "seed": 0} | arguments
    with pytest.raises(kind, match=message):
        build_sampler("euler", "karras", 5).initial_state(**given)


@pytest.mark.parametrize("name", ["heun", "dpmpp_2m", "dpm_adaptive"])
def test_data_of_one_half_comes_out_as_one_half(name: str) -> None:
    """Not scaled by hand, the same noise ends at .035."""
    sampler = build_sampler(name, "karras", 20)
    x = sampler.initial_state((4096, 1), seed=7)
    assert float(sampler.sample(one, x).std()) == pytest.approx(0.5, abs=0.03)


WRONG = [
    (VP(), 1.0, True),
    (VP(), 14.6, False),
    (VP(), 14.6 * 2.9, False),
    (VP(), 14.6 * 3.6, True),
    (Flow(3.0), 14.6, True),
    (Flow(3.0), 0.2, True),
    (Flow(3.0), 0.4, False),
    (EDM(), 1.0, True),
]


@pytest.mark.parametrize(("process", "std", "warned"), WRONG)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_a_start_of_the_wrong_spread_is_warned_of_once(
    process: Process, std: float, warned: bool, dtype: torch.dtype
) -> None:
    sampler = build_sampler("euler", "simple", 6, process=process)
    x = (std * torch.randn(4, 80, 2, generator=torch.Generator().manual_seed(0))).to(dtype)
    for start in (x, x.transpose(1, 2)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            sampler.sample(lambda x, sigma: x / 2, start)
        assert [w.category for w in caught] == [RuntimeWarning] * warned
        if warned:
            assert "the start of a run must be a state at sigma" in str(caught[0].message)


def test_a_start_is_not_judged_where_it_may_be_anything() -> None:
    """An image that is noised little, a few numbers, a level that does not hide the data."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build_sampler("euler", sigmas=[2.0, 1.0, 0]).sample(one, 0.01 * torch.ones(1, 400))
        build_sampler("euler", sigmas=[2.4, 1.0, 0], process=EDM()).sample(one, 100 * torch.ones(1, 400))
        build_sampler("euler", "karras", 3).sample(one, torch.ones(1, 255))
        sampler = build_sampler("euler", "karras", 3)  # a start that is only there to be replaced by a saved state
        x = sampler.initial_state((1, 400), seed=0)
        for start in (torch.zeros_like(x), torch.full_like(x, math.nan), torch.full_like(x, 1e38)):
            sampler.start(start).load_state_dict(sampler.start(x).state_dict())
    with pytest.warns(RuntimeWarning, match="whose spread is about 14.61; got a spread of nan"):
        sampler.sample(one, torch.full_like(x, math.nan))
    with pytest.warns(RuntimeWarning, match="whose spread is about 2.6"):  # five times EDM's sigma_data
        build_sampler("euler", sigmas=[2.6, 1.0, 0], process=EDM()).sample(one, 0.01 * torch.ones(1, 400))


# Model calls


@each("name", NAMES)
def test_calls_buy_as_many_steps_as_they_allow(name: str) -> None:
    for calls in (1, 2, 7, 20):
        if calls == 1 and name in ("fireflow", "stork"):  # whose first step makes two
            with pytest.raises(ValueError, match=f"one step of {name} makes 2 model calls; got calls=1"):
                build_sampler(name, calls=1)
            continue
        sampler = build_sampler(name, "karras", calls=calls, process=process_for(name))
        assert sampler.nfe <= calls
        assert build_sampler(name, "karras", sampler.steps + 1, process=process_for(name)).nfe > calls
        assert sampler == build_sampler(name, "karras", sampler.steps, process=process_for(name))


def test_calls_for_auto_plans_and_options() -> None:
    assert build_sampler("auto", calls=8) == build_sampler("auto", steps=8)
    plan = build_sampler("heun", "karras", 4).plan
    assert build_sampler(plan, calls=7).plan == plan
    with pytest.raises(ValueError, match="makes 7 model calls; got calls=6"):
        build_sampler(plan, calls=6)
    nine: Any = np.int64(9)
    assert build_sampler("heun", "karras", calls=nine, rho=5.0, process=Flow()).nfe == 9


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"calls": 0}, ValueError, "calls must be a whole number of at least 1; got 0"),
        ({"calls": -3}, ValueError, "calls must be a whole number"),
        ({"calls": 2.5}, TypeError, "calls must be a whole number"),
        ({"calls": True}, TypeError, "calls must be a whole number"),
        ({"calls": 8, "steps": 4}, ValueError, "either steps or calls"),
        ({"calls": 8, "sampler": "dpm_adaptive"}, TypeError, "leave out calls"),
        ({"calls": 3, "sampler": "dormand_prince", "sigma_min": 0.1, "schedule": "karras", "end": 1}, TypeError, "end"),
    ],
)
def test_calls_that_make_no_sense(arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        build_sampler(**({"sampler": "euler"} | arguments))


# Contradictions


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schedule": "karras"}, "either a schedule or sigmas"),
        ({"schedule": "simple"}, "either a schedule or sigmas"),
        ({"steps": 3}, "these sigmas make 2 steps; got steps=3"),
        ({"calls": 2}, "leave out calls when you give sigmas"),
    ],
)
@pytest.mark.parametrize("sampler", ["euler", "auto"])
def test_row_9_two_instructions_that_contradict_each_other(
    sampler: str, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build_sampler(sampler, sigmas=[3, 2, 0], **arguments)


def test_two_instructions_that_agree() -> None:
    assert build_sampler("euler", sigmas=[3, 2, 0], steps=2).steps == 2
    with pytest.raises(TypeError, match="no option 'rho'"):
        build_sampler("euler", sigmas=[3, 2, 0], rho=7.0)
    with pytest.raises(ValueError, match="either seed or noise"):
        ksched.build_sampler("euler_ancestral", "karras", 3).sample(
            one, torch.ones(1, 2), seed=1, noise=lambda a, b: torch.ones(1, 2)
        )
