"""Known problems in ``set_timesteps`` and ``step`` of `KSchedScheduler`, by row of the list of faults."""

from __future__ import annotations

import inspect
import math
from itertools import pairwise
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
        with pytest.warns(UserWarning, match=f"overrides schedule='{schedule}'") as caught:
            ours.set_timesteps(**given)
        assert len(caught) == 1
        assert caught[0].filename == __file__
    plain = named(Flow(shift=2.0), sampler="dpmpp_2m")
    plain.set_timesteps(**given)
    torch.testing.assert_close(ours.sigmas, plain.sigmas)


def test_row_6_levels_of_a_sampler_are_said_too() -> None:
    ours = named(Flow(), sampler="auto")
    with pytest.warns(UserWarning, match="overrides the sampler's own sigmas"):
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
    with pytest.raises(ValueError, match=r"must agree|must have the same length"):
        named(Flow(), sampler="dpmpp_2m").set_timesteps(timesteps=timesteps, sigmas=sigmas)


def test_row_6_lists_that_agree() -> None:
    ours = named(Flow(shift=3.0), sampler="dpmpp_2m")
    for share in ([1.0, 0.6, 0.1], [1.0, 0.8182, 0.25]):  # before the shift, and after it
        ours.set_timesteps(timesteps=[1000 * value for value in share], sigmas=[1.0, 0.6, 0.1])
        np.testing.assert_allclose(ours.timesteps, [1000 * value for value in share], rtol=1e-6)
    vp = named(diffusers.EulerDiscreteScheduler(**SD), sampler="dpmpp_2m")
    vp.set_timesteps(timesteps=[999, 500], sigmas=[14.6146, 1.6183, 0.0])
    with pytest.raises(ValueError, match="must agree"):
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
    with pytest.warns(UserWarning, match="has no effect") as caught:
        got = result(sampler, **given)
    assert len(caught) == 1
    assert all(name in str(caught[0].message) for name in given)
    torch.testing.assert_close(got, result(sampler))


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "euler_ancestral", "heun", "lcm"])
def test_row_7_what_pipelines_always_pass_stays_legal(sampler: str) -> None:
    """Pipelines look for eta in the signature, and `DDIMPipeline` passes it in any case."""
    ours = of_sd(sampler=sampler)
    takes = inspect.signature(ours.step).parameters
    assert "generator" in takes
    assert "eta" not in takes
    want = result(sampler)
    idle: dict[str, Any] = {
        "eta": 0.0,
        "use_clipped_model_output": None,
        "s_churn": 0.0,
        "s_tmin": 0.0,
        "s_tmax": math.inf,
    }
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
    with pytest.raises(ValueError, match=r"eta is given twice: 0\.5 to step, and 0\.3 in sampler_options"):
        result("euler_ancestral", {"eta": 0.3}, eta=0.5)
    torch.testing.assert_close(result("ddim", {"eta": 0.3}, eta=0.0), result("ddim", {"eta": 0.3}))


def test_row_7_an_option_that_would_move_the_model_calls() -> None:
    with pytest.raises(ValueError, match="eta would change the model calls, which are fixed already"):
        result("dpm_2_ancestral", eta=0.2)


def test_row_7_an_option_that_changes_amid_a_run() -> None:
    ours = of_sd(sampler="euler_ancestral", noise_seed=1)
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
    ours = of_sd(sampler="euler_ancestral", noise_seed=1)
    ours.set_timesteps(3)
    with pytest.raises(TypeError, match=f"{function} takes no '{next(iter(given))}'; did you mean '{near}'"):
        ours.set_timesteps(3, **given) if function == "set_timesteps" else ours.step(start(), 1, start(), **given)
    with pytest.raises(TypeError, match="it takes"):
        ours.set_timesteps(3, zzz=1) if function == "set_timesteps" else ours.step(start(), 1, start(), zzz=1)


def test_row_7_mu_of_a_model_that_is_no_flow_model() -> None:
    with pytest.warns(UserWarning, match=r"mu=1.0 has no effect"):
        of_sd(sampler="euler").set_timesteps(5, mu=1.0)
    named(Flow(), sampler="euler").set_timesteps(5, mu=1.0)  # pipelines of flow models pass it always


# ------------------------------------------------------------------------------------------------------ rows 18 and 19
def cosmos2() -> Scheduler:
    """What Cosmos Predict2's pipelines make of their scheduler."""
    stock = Flow(use_karras_sigmas=True)
    stock.register_to_config(sigma_max=80.0, sigma_min=0.002, sigma_data=1.0, final_sigmas_type="sigma_min")
    return stock


def test_row_18_the_levels_of_cosmos_2() -> None:
    stock = cosmos2()
    ours = KSchedScheduler.from_diffusers(stock)
    for scheduler in (stock, ours):
        scheduler.set_timesteps(sigmas=torch.linspace(0, 1, 5, dtype=torch.float64))
    torch.testing.assert_close(ours.sigmas, stock.sigmas.float(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(ours.timesteps, stock.timesteps.float(), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(ours.sigmas[:5], [80, 17.528, 2.5152, 0.16975, 0.002], rtol=1e-4)
    same(ours, stock, 80 * start())


def test_row_18_what_cosmos_2_writes_is_not_lost() -> None:
    stock = cosmos2()
    ours = KSchedScheduler.from_diffusers(stock)
    for scheduler in (stock, ours):
        scheduler.set_timesteps(sigmas=torch.linspace(0, 1, 5, dtype=torch.float64))
        scheduler.sigmas[-1] = scheduler.sigmas[-2]
    torch.testing.assert_close(ours.sigmas, stock.sigmas.float(), rtol=1e-5, atol=1e-7)
    same(ours, stock, 80 * start())


@pytest.mark.parametrize(
    "how",
    [{"sampler": "dpmpp_2m"}, {"sampler": "euler", "schedule": "karras"}, {"schedule": "exponential"}],
    ids=str,
)
def test_row_18_own_samplers_on_cosmos_2(how: dict[str, Any]) -> None:
    ours = named(cosmos2(), **how)
    assert ours.config.stock_class == "FlowMatchEulerDiscreteScheduler"
    ours.set_timesteps(sigmas=torch.linspace(0, 1, 9, dtype=torch.float64))
    ours.sigmas[-1] = ours.sigmas[-2]
    x = 80 * start()
    for i, t in enumerate(ours.timesteps):
        x = ours.step((x - 0.5) / ours.sigmas[i], t, x, return_dict=False)[0]
    assert (x - 0.5).abs().max() < 0.01  # sigma is .002 at the end


def test_row_18_other_rules_and_ranges() -> None:
    for rule in ("use_exponential_sigmas", "use_beta_sigmas"):
        stock = Flow(**{rule: True}, shift=3.0)
        stock.register_to_config(sigma_max=40.0, sigma_min=0.01)
        ours = KSchedScheduler.from_diffusers(stock)
        for scheduler in (stock, ours):
            scheduler.set_timesteps(6)
        same(ours, stock, 40 * start())


@pytest.mark.parametrize("data", [0.5, 1.0])
@pytest.mark.parametrize("guided", [False, True])
def test_row_19_a_step_again_towards_a_prediction(guided: bool, data: float) -> None:
    """Cosmos 1's loop: a step for the prediction, of a batch of both halves, the same again towards the guided one."""
    stock = diffusers.EDMEulerScheduler(sigma_data=data)
    results = []
    for scheduler in (stock, KSchedScheduler.from_diffusers(stock), named(stock, sampler="dpmpp_2m")):
        scheduler.set_timesteps(6)
        x = start() * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            state = torch.cat([x, x]) if guided else x
            output = network(scheduler.scale_model_input(state, t), 1.0)
            x0 = scheduler.step(output, t, state, return_dict=False)[1]
            scheduler._step_index -= 1
            x0 = 1.5 * x0.chunk(2)[1] - 0.5 * x0.chunk(2)[0] if guided else 0.9 * x0
            x = scheduler.step(x0, t, x, return_dict=False, pred_original_sample=x0)[0]
        results.append(x)
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-4)
    assert torch.isfinite(results[2]).all()


def test_row_19_history_is_kept_where_a_step_is_done_again() -> None:
    """With dpmpp_2m, towards the same prediction, it is the plain run."""
    results = []
    for again in (False, True):
        ours = of_sd(sampler="dpmpp_2m")
        ours.set_timesteps(7)
        x = 14.6 * start()
        for t in ours.timesteps:
            output = network(ours.scale_model_input(x, t), t)
            after, x0 = ours.step(output, t, x, return_dict=False)
            if again:
                ours._step_index -= 1
                after = ours.step(torch.zeros_like(x), t, x, return_dict=False, pred_original_sample=x0)[0]
            x = after
        results.append(x)
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-5)


def test_row_19_preconditioning() -> None:
    stock = diffusers.EDMEulerScheduler(sigma_data=0.7)
    ours = KSchedScheduler.from_diffusers(stock)
    sigma, x = torch.tensor(3.0), start()
    assert ours._get_conditioning_c_in(sigma) == stock._get_conditioning_c_in(sigma)
    assert ours.precondition_noise(sigma) == stock.precondition_noise(sigma)
    torch.testing.assert_close(ours.precondition_inputs(x, sigma), stock.precondition_inputs(x, sigma))
    torch.testing.assert_close(ours.precondition_outputs(x, 2 * x, sigma), stock.precondition_outputs(x, 2 * x, sigma))
    assert not hasattr(of_sd(sampler="euler"), "precondition_inputs")


# -------------------------------------------------------------------------------------------------------------- row 20
def token_loop(scheduler: Scheduler, strength: float) -> torch.Tensor:
    """LTX's loop with a condition: minus the velocity goes in, tokens that are not yet to move are put back."""
    x, kept = start(2, 5, 4), start(2, 5, 4)
    mask = torch.tensor([[0.0, 0.0, strength, 1.0, 0.0]]).expand(2, 5)
    x = torch.where(mask[..., None] > 0, mask[..., None] * kept + (1 - mask[..., None]) * x, x)
    for t in scheduler.timesteps:
        told = torch.minimum(t.expand(2, 5), (1 - mask) * 1000.0)
        v = torch.tanh(0.8 * x) + 0.2 * told[..., None] / 1000
        moved = scheduler.step(-v, t, x, per_token_timesteps=told, return_dict=False)[0]
        x = torch.where((t / 1000 - 1e-6 < (1 - mask))[..., None], moved, x)
    return x


def test_row_20_the_row_itself() -> None:
    ours = KSchedScheduler.from_diffusers(Flow())
    ours.set_timesteps(4)
    x = torch.ones(1, 3, 1)
    x = ours.step(x, ours.timesteps[0], x, per_token_timesteps=torch.tensor([[1000.0, 1000.0, 0.0]]))[0]
    np.testing.assert_allclose(x.flatten(), [1.333, 1.333, 1.0], atol=1e-3)


@pytest.mark.parametrize("strength", [0.5, 1.0])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_row_20_tokens_at_levels_of_their_own(shift: float, strength: float) -> None:
    stock = Flow(shift=shift)
    results = []
    for scheduler in (stock, KSchedScheduler.from_diffusers(stock), named(stock, sampler="euler")):
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 6, 6))
        results.append(token_loop(scheduler, strength))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-4, atol=1e-4)


def test_row_20_other_samplers() -> None:
    for how in ({"sampler": "dpmpp_2m"}, {"sampler": "uni_pc"}, {"sampler": "euler_ancestral", "noise_seed": 3}):
        ours = named(Flow(shift=3.0), **how)
        ours.set_timesteps(12)
        assert torch.isfinite(token_loop(ours, 0.5)).all()
    # tokens that are all at the level of the run make it the plain run
    results = []
    for tokens in (False, True):
        ours = named(Flow(shift=3.0), sampler="dpmpp_2m")
        ours.set_timesteps(8)
        x = start(2, 5, 4)
        for t in ours.timesteps:
            v = torch.tanh(x + 0.001 * t)
            x = ours.step(-v if tokens else v, t, x, **({"per_token_timesteps": t.expand(2, 5)} if tokens else {}))[0]
        results.append(x)
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", ["heun", "rk4", "dpm_2"])
def test_row_20_those_that_cannot_say_so(sampler: str) -> None:
    ours = named(Flow(), sampler=sampler)
    ours.set_timesteps(8)
    x = start(2, 5, 4)
    with pytest.raises(ValueError, match="a sampler with one model call per step"):
        ours.step(x, ours.timesteps[0], x, per_token_timesteps=torch.full((2, 5), 1000.0))


# -------------------------------------------------------------------------------------------------------------- row 21
@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize(
    "sigmas", [[0.6, 0.909, 0.844, 0.4], [0.9, 0.8, 0.8, 0.4], [0.5, 0.5, 0.7, 0.7, 0.2], [1.0, 0.5, 0.0]], ids=str
)
def test_row_21_lists_that_rise_or_repeat(sigmas: list[float], stochastic: bool, first: int) -> None:
    stock = Flow(stochastic_sampling=stochastic)
    ours = KSchedScheduler.from_diffusers(stock)
    for scheduler in (stock, ours):
        scheduler.set_timesteps(sigmas=sigmas)
    torch.testing.assert_close(ours.sigmas, stock.sigmas)
    stock.set_begin_index(first)
    ours.set_begin_index(first)
    given = {"generator": None} if stochastic else {}
    same(ours, stock, start(), first=first, **given)


@pytest.mark.parametrize("shift", [1e6, 1e7, 1e8])
def test_row_21_very_large_shifts(shift: float) -> None:
    stock = Flow(shift=shift)
    ours = KSchedScheduler.from_diffusers(stock)
    for scheduler in (stock, ours):
        scheduler.set_timesteps(50)
        scheduler.set_begin_index(0)
    same(ours, stock, start())


def test_row_21_other_classes_on_lists_that_rise() -> None:
    uni_pc = diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    for stock, sigmas in (
        (uni_pc, np.array([0.6, 0.909, 0.844, 0.4])),
        (diffusers.EulerDiscreteScheduler(**SD), [5.0, 9.0, 3.0, 3.0, 0.0]),
    ):
        ours = KSchedScheduler.from_diffusers(stock)
        for scheduler in (stock, ours):
            scheduler.set_timesteps(sigmas=sigmas)
            scheduler.set_begin_index(0)
        same(ours, stock, start())


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m", "heun", "uni_pc"])
def test_row_21_own_samplers(sampler: str) -> None:
    """If sigma rises at the first step, that is an Euler step, and the sampler continues from there."""
    ours, plain = named(Flow(), sampler=sampler), named(Flow(), sampler=sampler)
    ours.set_timesteps(sigmas=[0.6, 0.909, 0.844, 0.4])
    plain.set_timesteps(sigmas=[0.909, 0.844, 0.4])
    np.testing.assert_allclose(ours.sigmas[:2], [0.6, 0.909])
    x = start()
    risen = x + (0.909 - 0.6) * network(x, 600.0)
    torch.testing.assert_close(run(ours, x), run(plain, risen), rtol=1e-4, atol=1e-5)
    ours.set_timesteps(sigmas=[0.6, 0.909, 0.844, 0.4])
    torch.testing.assert_close(run(ours, x, first=1), run(plain_again(plain), x), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="except at the first step"):
        ours.set_timesteps(sigmas=[0.9, 0.6, 0.8, 0.3])


def test_row_21_noise_that_no_step_upwards_has() -> None:
    """All 1100 timesteps of this table rise once, from 4096 to 25615; the class answers with no number."""
    stock = diffusers.EulerAncestralDiscreteScheduler(num_train_timesteps=1100, rescale_betas_zero_snr=True)
    with pytest.raises(ValueError, match="no step to a higher sigma, but these sigmas rise from 4096 to 25615"):
        KSchedScheduler.from_diffusers(stock).set_timesteps(1100)


def plain_again(scheduler: Scheduler) -> Scheduler:
    scheduler.set_timesteps(sigmas=[0.909, 0.844, 0.4])
    return scheduler


# -------------------------------------------------------------------------------------------------------------- row 24
def test_row_24_minimax() -> None:
    for config, given in (({}, {"num_inference_steps": 7}), ({"shift": 3.0}, {"sigmas": [1.0, 0.6, 0.2, 0.0]})):
        stock = diffusers.MiniMaxH3Scheduler(**config)
        ours = KSchedScheduler.from_diffusers(stock)
        for scheduler in (stock, ours):
            scheduler.set_timesteps(**given)
        torch.testing.assert_close(ours.sigmas, stock.sigmas)
        torch.testing.assert_close(ours.timesteps, stock.timesteps)
        same(ours, stock, start())


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("data", [0.5, 1.0])
def test_row_24_scm(data: float, steps: int) -> None:
    stock = diffusers.SCMScheduler(sigma_data=data)
    ours = KSchedScheduler.from_diffusers(stock)
    x, results = data * start(), []
    for scheduler in (stock, ours):
        scheduler.set_timesteps(steps, max_timesteps=1.57080, intermediate_timesteps=1.3 if steps == 2 else None)
        state, generator = x, torch.Generator().manual_seed(3)
        for t in scheduler.timesteps[:-1]:
            output = data * network(state / data, t)
            state, denoised = scheduler.step(output, t, state, generator=generator, return_dict=False)
        results.append((scheduler.timesteps, state, denoised))
    for ours_, stock_ in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(ours_, stock_, rtol=1e-4, atol=1e-4)


def test_row_24_scm_with_a_list_and_its_refusals() -> None:
    stock = diffusers.SCMScheduler()
    ours = KSchedScheduler.from_diffusers(stock)
    stock.set_timesteps(2, timesteps=[1.5, 1.0, 0.0], max_timesteps=None)
    ours.set_timesteps(2, timesteps=[1.5, 1.0, 0.0])
    torch.testing.assert_close(ours.timesteps, stock.timesteps)
    with pytest.raises(ValueError, match="intermediate_timesteps needs steps=2"):
        ours.set_timesteps(3, intermediate_timesteps=1.3)
    with pytest.raises(ValueError, match="not both"):
        ours.set_timesteps(2, timesteps=[1.5, 1.0, 0.0], max_timesteps=1.5)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize(
    "config", [{}, {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}, {"set_alpha_to_one": False}]
)
def test_row_24_cogvideox_dpm(config: dict[str, Any], prediction: str) -> None:
    if "rescale_betas_zero_snr" in config and prediction == "epsilon":
        return  # says nothing of pure noise
    stock = diffusers.CogVideoXDPMScheduler(**config, prediction_type=prediction)
    stock.set_timesteps(6)
    want, old, generator = start(), None, torch.Generator().manual_seed(3)
    for i, t in enumerate(stock.timesteps):
        back = stock.timesteps[i - 1] if i else None
        want, old = stock.step(network(want, t), old, t, back, want, generator=generator, return_dict=False)
    ours = KSchedScheduler.from_diffusers(stock)
    for protocol in ("its own", "plain"):
        ours.set_timesteps(6)
        assert torch.equal(ours.timesteps, stock.timesteps)
        x, old, generator = start(), None, torch.Generator().manual_seed(3)
        for i, t in enumerate(ours.timesteps):
            back = ours.timesteps[i - 1] if i else None
            if protocol == "plain":
                x = ours.step(network(x, t), t, x, generator=generator, return_dict=False)[0]
            else:
                x, old = ours.step(network(x, t), old, t, back, x, generator=generator, return_dict=False)
        torch.testing.assert_close(x, want, rtol=1e-4, atol=1e-4)


def test_row_24_networks_of_two_times() -> None:
    """AnyFlow: the network is told where it is and where it goes, on the schedule or off it."""
    stock = diffusers.FlowMapEulerDiscreteScheduler(shift=5.0)
    for targets in (None, [900.0, 500.0, 321.0, 0.0]):
        results = []
        for scheduler in (stock, KSchedScheduler.from_diffusers(stock)):
            scheduler.set_timesteps(4)
            x = start()
            for i, t in enumerate(scheduler.timesteps):
                r = scheduler.sigmas[i + 1] * 1000 if targets is None else torch.tensor(targets[i])
                told = {} if targets is None else {"r_timestep": r}
                here = t if targets is None or i == 0 else torch.tensor(targets[i - 1])
                x = scheduler.step(network(x, float(here) + float(r)), here, x, **told, return_dict=False)[0]
            results.append(x)
        torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-4)
        assert scheduler.step_index == 4


@pytest.mark.parametrize("given", [{"sigmas": [1.0, 0.6, 0.2]}, {"timesteps": [1000.0, 500.0]}], ids=str)
def test_row_24_lists_of_networks_of_two_times(given: dict[str, Any]) -> None:
    stock = diffusers.FlowMapEulerDiscreteScheduler(shift=3.0)
    ours = KSchedScheduler.from_diffusers(stock)
    for scheduler in (stock, ours):
        scheduler.set_timesteps(**given)
    same(ours, stock, start())


@pytest.mark.parametrize(
    "how", [{"sampler": "dpmpp_2m"}, {"sampler": "heun"}, {"sampler": "ddim", "eta": 0.5}], ids=str
)
def test_row_24_other_samplers_are_warned_of_where_networks_answer_with_a_mean_velocity(how: dict[str, Any]) -> None:
    stock = diffusers.FlowMapEulerDiscreteScheduler(shift=3.0)
    with pytest.warns(UserWarning, match="return the mean velocity") as told:
        KSchedScheduler.from_diffusers(stock, **how)
    assert len(told) == 1
    with pytest.warns(UserWarning, match="return the mean velocity"):
        KSchedScheduler.from_config({**stock.config, "_class_name": type(stock).__name__}, schedule="karras", **how)


@pytest.mark.parametrize(
    "how",
    [{}, {"schedule": "karras"}, {"sampler": "euler"}, {"sampler": "ddim"}, {"sampler": "euler_ancestral", "eta": 0.0}],
    ids=str,
)
def test_row_24_steps_along_what_a_network_of_two_times_answers_are_not(how: dict[str, Any]) -> None:
    stock = diffusers.FlowMapEulerDiscreteScheduler(shift=3.0)
    made = KSchedScheduler.from_diffusers(stock, **how)
    made.set_timesteps(4)
    x = start()
    for t, (sigma, after) in zip(made.timesteps, pairwise(made.sigmas), strict=True):
        along = x + (after - sigma) * network(x, t)
        x = made.step(network(x, t), t, x, return_dict=False)[0]
        torch.testing.assert_close(x, along, rtol=1e-5, atol=1e-5)


# -------------------------------------------------------------------------------------------------------------- row 60
UPWARDS: list[tuple[str, dict[str, Any]]] = [
    ("DDIMInverse", {"clip_sample": False}),
    ("DDIMInverse", {}),
    ("DDIMInverse", {"prediction_type": "v_prediction", "timestep_spacing": "trailing"}),
    ("DDIMInverse", {"prediction_type": "sample", "set_alpha_to_one": False}),
    ("DPMSolverMultistepInverse", {"solver_order": 1}),
    ("DPMSolverMultistepInverse", {"solver_order": 3}),
    ("DPMSolverMultistepInverse", {"use_karras_sigmas": True}),
    ("DPMSolverMultistepInverse", {"solver_type": "heun", "prediction_type": "v_prediction"}),
]


@pytest.mark.parametrize("steps", [6, 20])
@pytest.mark.parametrize(("name", "config"), UPWARDS)
def test_row_60_inverse_classes_run_upwards(name: str, config: dict[str, Any], steps: int) -> None:
    stock = getattr(diffusers, f"{name}Scheduler")(**SD, **config)
    ours = KSchedScheduler.from_diffusers(stock)
    for scheduler in (stock, ours):
        scheduler.set_timesteps(steps)
    assert torch.equal(ours.timesteps, stock.timesteps)
    same(ours, stock, start())


CHURN: list[tuple[str, dict[str, Any]]] = [
    ("EDMEuler", {}),
    ("EDMEuler", {"sigma_data": 1.0, "prediction_type": "v_prediction"}),
    ("EulerDiscrete", {**SD, "prediction_type": "v_prediction"}),
    ("EulerDiscrete", SD),
    ("FlowMatchHeunDiscrete", {"shift": 3.0}),
]


@pytest.mark.parametrize("given", [{"s_churn": 2.0}, {"s_churn": 3.0, "s_tmin": 0.2, "s_noise": 0.9}], ids=str)
@pytest.mark.parametrize(("name", "config"), CHURN)
def test_row_60_churn(name: str, config: dict[str, Any], given: dict[str, Any]) -> None:
    stock = getattr(diffusers, f"{name}Scheduler")(**config)
    ours = KSchedScheduler.from_diffusers(stock)
    for scheduler in (stock, ours):
        scheduler.set_timesteps(6)
    same(ours, stock, start(), generator=None, **given)


@pytest.mark.parametrize("steps", [7, 10])
@pytest.mark.parametrize("spacing", ["linspace", "trailing", "leading"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_row_60_pndm_and_ddim(prediction: str, spacing: str, steps: int) -> None:
    for name, more in (("PNDM", {}), ("PNDM", {"skip_prk_steps": True}), ("DDIM", {"clip_sample": False})):
        config = {**SD, **more, "timestep_spacing": spacing, "prediction_type": prediction}
        stock = getattr(diffusers, f"{name}Scheduler")(**config)
        ours = KSchedScheduler.from_diffusers(stock)
        for scheduler in (stock, ours):
            scheduler.set_timesteps(steps)
        assert torch.equal(ours.timesteps, stock.timesteps)
        same(ours, stock, start())
