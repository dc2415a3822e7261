"""Faults that people hit in ``set_timesteps`` and ``step`` of `KSchedScheduler`, by the number of their row."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch

diffusers = pytest.importorskip("diffusers")

from ksched.integrations.diffusers import KSchedScheduler  # noqa: E402

# what diffusers warns of is its own affair
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("error::UserWarning"),
]

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
Flow = diffusers.FlowMatchEulerDiscreteScheduler
Scheduler = Any


def named(scheduler: Scheduler, **how: Any) -> Scheduler:
    return KSchedScheduler.from_config(scheduler.config, **how)


def of_sd(**how: Any) -> Scheduler:
    return named(diffusers.EulerDiscreteScheduler(**SD), **{"schedule": "karras", **how})


def network(x: torch.Tensor, t: Any) -> torch.Tensor:
    return torch.tanh(0.7 * x + 0.001 * float(t) + torch.linspace(-1, 1, x.numel()).view_as(x))


def start(*shape: int) -> torch.Tensor:
    return torch.randn(shape or (2, 3, 4), generator=torch.Generator().manual_seed(1))


def run(scheduler: Scheduler, x: torch.Tensor, *, first: int = 0, **given: Any) -> torch.Tensor:
    """A plain loop, on what ``set_timesteps`` has made."""
    if first:
        scheduler.set_begin_index(first)
    for t in scheduler.timesteps[first:]:
        seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(network(seen, t), t, x, return_dict=False, **given)[0]
    return x


def same(ours: Scheduler, stock: Scheduler, x: torch.Tensor, *, first: int = 0, **given: Any) -> None:
    scale = getattr(stock, "init_noise_sigma", 1.0)
    seeds = [{"generator": torch.Generator().manual_seed(3)} if "generator" in given else {} for _ in range(2)]
    got, want = (
        run(s, x * scale, first=first, **{**given, **seed}) for s, seed in zip((ours, stock), seeds, strict=True)
    )
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


# ------------------------------------------------------------------------------------------------------------- row 6
def rounded(n: int) -> Any:
    """CogView4's and GLM-Image's list."""
    return np.linspace(1000, 1, n).astype(np.int64).astype(np.float32)


LISTS: dict[str, dict[str, Any]] = {
    "CogView4": {"timesteps": rounded(5), "sigmas": rounded(5) / 1000},
    "Mochi": {"sigmas": [1.0, 0.9937, 0.9875, 0.5, 0.25]},
    "Stable Audio 3": {"sigmas": [1.0, 0.93, 0.71, 0.2]},
    "LTX condition": {"timesteps": [1000.0, 990.0, 700.0, 100.0]},
    "ACE-Step": {"sigmas": [1.0, 0.955, 0.9, 0.8, 0.6, 0.3]},
}


@pytest.mark.parametrize("schedule", ["karras", "simple", "beta"])
@pytest.mark.parametrize("given", LISTS.values(), ids=LISTS)
def test_row_6_a_list_that_goes_before_a_schedule_is_said(given: dict[str, Any], schedule: str) -> None:
    ours = named(Flow(shift=2.0), sampler="dpmpp_2m", schedule=schedule)
    for _ in range(2):
        with pytest.warns(UserWarning, match=f"goes before schedule='{schedule}'") as caught:
            ours.set_timesteps(**given)
        assert len(caught) == 1
        assert caught[0].filename == __file__
    plain = named(Flow(shift=2.0), sampler="dpmpp_2m")
    plain.set_timesteps(**given)
    torch.testing.assert_close(ours.sigmas, plain.sigmas)


def test_row_6_levels_of_a_sampler_are_said_too() -> None:
    ours = named(Flow(), sampler="auto")
    with pytest.warns(UserWarning, match="goes before the noise levels of its own"):
        ours.set_timesteps(sigmas=[1.0, 0.8, 0.3])
    ours.set_timesteps(sigmas=np.linspace(1, 1 / 4, 4))  # the even list is a number
    assert len(ours.timesteps) == 4


def test_row_6_a_vp_list_is_said() -> None:
    with pytest.warns(UserWarning, match="list of 3 timesteps"):
        of_sd(sampler="euler").set_timesteps(timesteps=[900, 500, 100])
    with pytest.warns(UserWarning, match="list of 3 sigmas"):
        of_sd(sampler="euler").set_timesteps(sigmas=[9.0, 1.0, 0.0])


def test_row_6_a_number_and_an_even_list_say_nothing() -> None:
    ours = named(Flow(use_dynamic_shifting=True), sampler="euler", schedule="karras")
    ours.set_timesteps(5, mu=1.0)
    want = ours.sigmas
    ours.set_timesteps(sigmas=np.linspace(1, 1 / 5, 5), mu=1.0)
    torch.testing.assert_close(ours.sigmas, want)


@pytest.mark.parametrize(
    ("timesteps", "sigmas"),
    [([900.0, 500.0], [1.0, 0.2]), ([900.0, 500.0, 100.0], [0.9, 0.5]), ([1000, 400, 300], [1.0, 0.4, 0.25])],
)
def test_row_6_lists_that_contradict_each_other(timesteps: list[float], sigmas: list[float]) -> None:
    with pytest.raises(ValueError, match=r"contradict each other|must have one length"):
        named(Flow(), sampler="dpmpp_2m").set_timesteps(timesteps=timesteps, sigmas=sigmas)


def test_row_6_lists_that_agree() -> None:
    ours = named(Flow(shift=3.0), sampler="dpmpp_2m")
    for share in ([1.0, 0.6, 0.1], [1.0, 0.8182, 0.25]):  # before the shift, and after it
        ours.set_timesteps(timesteps=[1000 * value for value in share], sigmas=[1.0, 0.6, 0.1])
        np.testing.assert_allclose(ours.timesteps, [1000 * value for value in share], rtol=1e-6)
    vp = named(diffusers.EulerDiscreteScheduler(**SD), sampler="dpmpp_2m")
    vp.set_timesteps(timesteps=[999, 500], sigmas=[14.6146, 1.6183, 0.0])
    with pytest.raises(ValueError, match="contradict"):
        vp.set_timesteps(timesteps=[999, 300], sigmas=[14.6146, 1.6183, 0.0])


# ------------------------------------------------------------------------------------------------------------- row 7
def result(sampler: str, sampler_options: dict[str, Any] | None = None, **given: Any) -> torch.Tensor:
    ours = of_sd(sampler=sampler, sampler_options=sampler_options)
    ours.set_timesteps(6)
    return run(ours, start() * 14.6, generator=torch.Generator().manual_seed(0), **given)


@pytest.mark.parametrize(
    ("sampler", "given"),
    [
        ("euler_ancestral", {"eta": 0.0}),
        ("euler_ancestral", {"eta": 0.4, "s_noise": 0.8}),
        ("dpmpp_2m_sde", {"eta": 0.5}),
        ("dpmpp_2m_sde", {"s_noise": 0.9}),
        ("ddim", {"eta": 0.7}),
        ("sa_solver", {"tau": 0.3}),
        ("dpmpp_sde", {"eta": 0.2}),
    ],
)
def test_row_7_options_that_step_is_given(sampler: str, given: dict[str, Any]) -> None:
    torch.testing.assert_close(result(sampler, **given), result(sampler, given), rtol=1e-5, atol=1e-5)
    assert not torch.equal(result(sampler, **given), result(sampler))


@pytest.mark.parametrize(
    ("sampler", "given"),
    [
        ("euler", {"eta": 0.5}),
        ("euler", {"s_noise": 0.5}),
        ("euler", {"s_tmin": 0.5}),
        ("heun", {"s_tmax": 5.0}),
        ("dpmpp_2m", {"use_clipped_model_output": True}),
        ("euler_ancestral", {"use_clipped_model_output": True}),
        ("dpmpp_2m", {"s_tmin": 0.1, "eta": 1.0}),
    ],
)
def test_row_7_what_changes_nothing_is_said(sampler: str, given: dict[str, Any]) -> None:
    with pytest.warns(UserWarning, match="changes nothing") as caught:
        got = result(sampler, **given)
    assert len(caught) == 1
    assert all(name in str(caught[0].message) for name in given)
    torch.testing.assert_close(got, result(sampler))


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "euler_ancestral", "heun", "lcm"])
def test_row_7_what_pipelines_always_pass_stays_legal(sampler: str) -> None:
    """They look for eta in the signature, and `DDIMPipeline` passes it whatever that says."""
    ours = of_sd(sampler=sampler)
    takes = inspect.signature(ours.step).parameters
    assert "generator" in takes
    assert "eta" not in takes
    want = result(sampler)
    idle = {"eta": 0.0, "use_clipped_model_output": None, "s_churn": 0.0, "s_tmin": 0.0, "s_tmax": math.inf}
    torch.testing.assert_close(result(sampler, **idle, s_noise=1.0), want)


def test_row_7_eta_is_in_the_signature_where_it_is_ddims() -> None:
    def takes(scheduler: Scheduler) -> bool:
        return "eta" in inspect.signature(scheduler.step).parameters

    assert takes(of_sd(sampler="ddim"))
    assert takes(KSchedScheduler.from_diffusers(diffusers.DDIMScheduler(**SD)))
    assert takes(KSchedScheduler.from_diffusers(diffusers.TCDScheduler(**SD)))
    assert not takes(of_sd(sampler="ddim", eta=0.3))
    assert not takes(KSchedScheduler.from_diffusers(diffusers.EulerAncestralDiscreteScheduler(**SD)))


def test_row_7_an_option_given_twice() -> None:
    with pytest.raises(ValueError, match="eta is given twice: 0.5 to step, and 0.3 in sampler_options"):
        result("euler_ancestral", {"eta": 0.3}, eta=0.5)
    torch.testing.assert_close(result("ddim", {"eta": 0.3}, eta=0.0), result("ddim", {"eta": 0.3}))


def test_row_7_an_option_that_would_move_the_model_calls() -> None:
    with pytest.raises(ValueError, match="eta would change the model calls, which are fixed by now"):
        result("dpm_2_ancestral", eta=0.2)


def test_row_7_an_option_that_changes_amid_a_run() -> None:
    ours = of_sd(sampler="euler_ancestral")
    ours.set_timesteps(3)
    x = ours.step(start(), ours.timesteps[0], start(), eta=0.5)[0]
    with pytest.warns(UserWarning, match="eta=0.7 in the middle of a run"):
        ours.step(start(), ours.timesteps[1], x, eta=0.7)


@pytest.mark.parametrize(
    ("function", "given", "near"),
    [
        ("step", {"etaa": 0.5}, "eta"),
        ("step", {"eat": 0.5}, "eta"),
        ("step", {"s_chrun": 0.5}, "s_churn"),
        ("step", {"use_cliped_model_output": True}, "use_clipped_model_output"),
        ("set_timesteps", {"sigmass": [1.0]}, "sigmas"),
        ("set_timesteps", {"num_inference_step": 4}, "num_inference_steps"),
        ("set_timesteps", {"original_inference_step": 4}, "original_inference_steps"),
    ],
)
def test_row_7_unknown_keywords_are_refused_with_the_near_word(function: str, given: Any, near: str) -> None:
    ours = of_sd(sampler="euler_ancestral")
    ours.set_timesteps(3)
    with pytest.raises(TypeError, match=f"{function} takes no '{next(iter(given))}'; did you mean '{near}'"):
        ours.set_timesteps(3, **given) if function == "set_timesteps" else ours.step(start(), 1, start(), **given)
    with pytest.raises(TypeError, match="it takes"):
        ours.set_timesteps(3, zzz=1) if function == "set_timesteps" else ours.step(start(), 1, start(), zzz=1)


def test_row_7_mu_of_a_model_that_is_no_flow_model() -> None:
    with pytest.warns(UserWarning, match=r"mu=1.0 changes nothing"):
        of_sd(sampler="euler").set_timesteps(5, mu=1.0)
    named(Flow(), sampler="euler").set_timesteps(5, mu=1.0)  # pipelines of flow models pass it always
