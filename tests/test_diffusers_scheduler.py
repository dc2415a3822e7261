"""`KSchedScheduler` beside the schedulers of diffusers, in loops like a pipeline's; and what only it promises."""

from __future__ import annotations

import copy
import json
import math
import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import process_for
from representatives import firsts, in_turn, is_form, is_kind, is_schedule_form, short

diffusers = pytest.importorskip("diffusers")

from ksched import VP, NoiseSchedule, SamplerType, build_sampler  # noqa: E402
from ksched.integrations.diffusers.scheduler import KSchedOutput, KSchedScheduler  # noqa: E402
from ksched.samplers import registry  # noqa: E402
from ksched.samplers.registry import sampler_spec  # noqa: E402
from ksched.samplers.runge_kutta import heun  # noqa: E402

# what diffusers warns of is its own affair
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
ZERO_SNR = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}
BATCH = (2, 3, 8, 8)


def start() -> torch.Tensor:
    return torch.randn(BATCH, generator=torch.Generator().manual_seed(5))


def network(x: torch.Tensor, t: Any) -> torch.Tensor:
    """Something smooth that depends on both."""
    return torch.tanh(x * 0.8 + 0.3 * torch.sin(torch.as_tensor(t, dtype=torch.float32) / 300) + 0.1)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def loop(
    scheduler: Any,
    steps: int,
    *,
    begin: int = 0,
    model: Callable[..., torch.Tensor] = network,
    edit: Callable[[torch.Tensor, int], torch.Tensor] = lambda x, i: x,
    generator: Any = None,
    **given: Any,
) -> torch.Tensor:
    """What a pipeline does, from noise or from a noised image."""
    how = {"generator": generator or seeded()}
    scheduler.set_timesteps(steps, **given)
    timesteps = scheduler.timesteps[begin * scheduler.order :]
    if begin and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin * scheduler.order)
    if begin:
        add = scheduler.add_noise if hasattr(scheduler, "add_noise") else None
        x, clean = start(), torch.linspace(-1, 1, start().numel()).view(BATCH)
        t = timesteps[:1].repeat(2)
        x = add(clean, x, t) if add else scheduler.scale_noise(clean, t, x)
    else:
        x = start() * getattr(scheduler, "init_noise_sigma", 1.0)
    for i, t in enumerate(timesteps):
        seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        try:
            x = scheduler.step(model(seen, t), t, x, **how, return_dict=False)[0]
        except TypeError:
            x = scheduler.step(model(seen, t), t, x, return_dict=False)[0]
        x = edit(x, i)
    return x


def compare(stock: Any, steps: int, rtol: float = 2e-5, **how: Any) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        want = loop(stock, steps, **how)
        ours = KSchedScheduler.from_diffusers(stock)
        torch.manual_seed(3)
        got = loop(ours, steps, **how)
    assert got.shape == want.shape
    assert torch.isfinite(want).all()
    assert (got - want).abs().max() <= rtol * max(float(want.abs().max()), 1.0)


#: (class, options); every class, and every option that changes numbers
STOCK: list[tuple[str, dict[str, Any]]] = [
    ("Euler", {}),
    ("Euler", {**SD, "timestep_spacing": "leading", "steps_offset": 1}),
    ("Euler", {**SD, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}),
    ("Euler", {**SD, "use_karras_sigmas": True}),
    ("Euler", {**SD, "use_exponential_sigmas": True}),
    ("Euler", {**SD, "use_beta_sigmas": True}),
    ("Euler", {**SD, "final_sigmas_type": "sigma_min"}),
    ("Euler", {**SD, **ZERO_SNR}),
    ("Euler", {**SD, "prediction_type": "sample"}),
    ("EulerAncestral", SD),
    ("EulerAncestral", {**SD, "prediction_type": "v_prediction", "timestep_spacing": "trailing"}),
    ("Heun", SD),
    ("Heun", {**SD, "use_karras_sigmas": True, "timestep_spacing": "leading"}),
    ("Heun", {**SD, "clip_sample": True, "prediction_type": "v_prediction"}),
    ("LMS", SD),
    ("LMS", {**SD, "use_karras_sigmas": True, "prediction_type": "v_prediction"}),
    ("KDPM2", SD),
    ("KDPM2", {**SD, "use_karras_sigmas": True}),
    ("KDPM2Ancestral", SD),
    ("DDIM", {}),
    ("DDIM", {**SD, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}),
    ("DDIM", {**SD, "clip_sample": False, "timestep_spacing": "trailing"}),
    ("DDIM", {**SD, "thresholding": True, "timestep_spacing": "linspace"}),
    ("DDIM", {**SD, **ZERO_SNR}),
    ("DDPM", {}),
    ("DDPM", {**SD, "clip_sample": False, "variance_type": "fixed_large", "timestep_spacing": "trailing"}),
    ("DDPM", {"variance_type": "fixed_small_log", "prediction_type": "v_prediction"}),
    ("DDPM", {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample", "thresholding": True}),
    ("PNDM", {**SD, "skip_prk_steps": True, "steps_offset": 1}),
    ("PNDM", {**SD, "skip_prk_steps": True, "timestep_spacing": "trailing", "set_alpha_to_one": True}),
    ("PNDM", {**SD, "skip_prk_steps": True, "prediction_type": "v_prediction"}),
    ("PNDM", SD),
    ("LCM", {}),
    ("TCD", {}),
    *(("DPMSolverMultistep", {**SD, **how}) for how in (
        {}, {"use_karras_sigmas": True}, {"use_lu_lambdas": True}, {"use_exponential_sigmas": True},
        {"use_beta_sigmas": True}, {"solver_order": 1}, {"solver_order": 3}, {"solver_type": "heun"},
        {"lower_order_final": False}, {"euler_at_final": True}, {"final_sigmas_type": "sigma_min"},
        {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
        {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min", "solver_order": 3},
        {"algorithm_type": "sde-dpmsolver++"}, {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"},
        {"algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min"},
        {"prediction_type": "v_prediction", "timestep_spacing": "trailing"},
        {"thresholding": True, "sample_max_value": 2.0}, {"timestep_spacing": "leading", "steps_offset": 1},
        ZERO_SNR,
        {"beta_schedule": "squaredcos_cap_v2"}, FLOW,
    )),
    *(("DPMSolverSinglestep", {**SD, **how}) for how in (
        {}, {"solver_order": 3}, {"solver_order": 1}, {"solver_type": "heun"}, {"use_karras_sigmas": True},
        {"lower_order_final": True, "final_sigmas_type": "zero"},
        {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min", "lower_order_final": True},
        {"algorithm_type": "sde-dpmsolver++"}, {"prediction_type": "v_prediction"}, FLOW,
    )),
    *(("UniPCMultistep", {**SD, **how}) for how in (
        {}, {"solver_order": 3}, {"solver_type": "bh1", "final_sigmas_type": "sigma_min"}, {"use_karras_sigmas": True},
        {"predict_x0": False, "final_sigmas_type": "sigma_min"}, {"disable_corrector": [0]},
        {"lower_order_final": False, "final_sigmas_type": "sigma_min"}, {"prediction_type": "v_prediction"}, FLOW,
        {"thresholding": True},
    )),
    *(("DEISMultistep", {**SD, **how}) for how in (
        {}, {"solver_order": 3}, {"use_karras_sigmas": True}, {"prediction_type": "v_prediction"}, FLOW,
    )),
    *(("SASolver", {**SD, **how}) for how in (
        {}, {"predictor_order": 3, "corrector_order": 3}, {"algorithm_type": "noise_prediction"},
        {"use_karras_sigmas": True},
    )),
    ("EDMEuler", {}),
    ("EDMEuler", {"sigma_schedule": "exponential", "prediction_type": "v_prediction"}),
    ("EDMDPMSolverMultistep", {}),
    ("EDMDPMSolverMultistep", {"solver_order": 3}),
    ("EDMDPMSolverMultistep", {"algorithm_type": "sde-dpmsolver++"}),
    ("FlowMatchEuler", {}),
    ("FlowMatchEuler", {"shift": 3.0}),
    ("FlowMatchEuler", {"shift": 3.0, "use_karras_sigmas": True}),
    ("FlowMatchEuler", {"shift": 3.0, "shift_terminal": 0.1}),
    ("FlowMatchEuler", {"stochastic_sampling": True}),
    ("FlowMatchHeun", {"shift": 3.0}),
    ("FlowMatchLCM", {"shift": 3.0}),
]  # fmt: skip


def stock_of(name: str, config: dict[str, Any]) -> Any:
    if name.startswith("KDPM2"):  # goes through all timesteps of the training when it is made, at 1 ms each
        config = {"num_train_timesteps": 200, **config}
    for ending in ("Scheduler", "DiscreteScheduler"):
        if hasattr(diffusers, name + ending):
            return getattr(diffusers, name + ending)(**config)
    raise LookupError(name)


def label(case: Any) -> str:
    return "-".join([case[0], *(f"{k}={v}" for k, v in case[1].items() if k not in SD and k not in FLOW)])


def tolerance(name: str, config: dict[str, Any]) -> float:
    """The relative tolerance. It exceeds float32 rounding only where diffusers' own float32 error does."""
    if name == "DPMSolverMultistep" and (config.get("use_exponential_sigmas") or config.get("use_beta_sigmas")):
        return 5e-3  # it truncates a timestep to 998 instead of 999
    if name == "DEISMultistep" and config.get("use_flow_sigmas"):
        return 1e-3  # alpha is 1 - 0.999, and divided by
    return 2e-4 if config.get("rescale_betas_zero_snr") and name == "Euler" else 2e-5


FIRST_OF_A_CLASS = firsts(STOCK, lambda case: case[0])
COUNTED = ("lower_order_final", "euler_at_final", "solver_order", "skip_prk_steps")  # what looks at the number of steps


def steps_that_differ(case: Any, steps: int) -> bool:
    """Every option runs with one number of steps; a long or an even number is added only where it matters."""
    counts = bool({*COUNTED} & case[1].keys())
    return {4: counts or "Singlestep" in case[0], 5: True, 20: counts or case in FIRST_OF_A_CLASS}[steps]


@short(steps_that_differ)
@pytest.mark.parametrize("case", STOCK, ids=label)
@pytest.mark.parametrize("steps", [4, 5, 20])
def test_as_stock(case: Any, steps: int) -> None:
    compare(stock_of(*case), steps, tolerance(*case))


#: One of each method: where the levels come from makes no difference to a run that begins amid them.
METHODS = firsts(
    STOCK, lambda case: (case[0], [case[1].get(key) for key in (*COUNTED, "algorithm_type", "solver_type")])
)


@short(lambda case, steps: steps == 10 and case in METHODS)
@pytest.mark.parametrize("case", STOCK, ids=label)
@pytest.mark.parametrize("steps", [10, 20])
def test_as_stock_on_an_image(case: Any, steps: int) -> None:
    if case[0] == "PNDM" and not case[1].get("skip_prk_steps"):
        pytest.skip("its warm-up has no other start")
    compare(stock_of(*case), steps, tolerance(*case), begin=4)


def masked(x: torch.Tensor, i: int) -> torch.Tensor:
    """What an inpainting pipeline does between steps."""
    return torch.where(torch.arange(8) < 4, x, torch.full_like(x, 0.1 * i))


@pytest.mark.parametrize(
    "name", ["Euler", "DPMSolverMultistep", "UniPCMultistep", "LMS", "Heun", "PNDM", "DDIM", "KDPM2", "KDPM2Ancestral"]
)
def test_states_that_are_edited(name: str) -> None:
    stock = stock_of(name, {**SD, "skip_prk_steps": True} if name == "PNDM" else SD)

    def in_place(x: torch.Tensor, i: int) -> torch.Tensor:
        return x.mul_(0.9).clamp_(-3, 3)

    compare(stock, 8, edit=masked)
    compare(stock, 8, edit=in_place)
    if name in ("Heun", "KDPM2", "Euler"):  # an edit is an edit of the slope too, whatever the network predicts
        compare(stock_of(name, {**SD, "prediction_type": "v_prediction"}), 8, edit=in_place)


def test_row_16_states_that_are_edited_with_a_runge_kutta_method_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What becomes of an edit between two stages is told by the declared family, not by who wrote the method."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))

    def mine(run: Any, grid: Any, x: Any) -> Any:
        return heun(run, grid, x)

    registry.register_sampler("my_heun", mine, order=2, calls=2, family="runge_kutta")
    config = diffusers.HeunDiscreteScheduler(**SD).config
    results = [
        loop(KSchedScheduler.from_config(config, sampler=name, schedule="karras"), 8, edit=masked)
        for name in ("heun", "my_heun")
    ]
    assert torch.equal(*results)
    with pytest.raises(ValueError, match="family must be one of euler, runge_kutta"):
        registry.register_sampler("your_heun", mine, order=2, family="rungekutta")


@pytest.mark.parametrize(
    ("name", "config", "given"),
    [
        ("Euler", {**SD, "s_churn": 2.0, "s_noise": 1.01}, {}),
        ("Euler", {**SD, "s_churn": 2.0, "s_tmin": 0.5, "s_tmax": 5.0}, {}),
        ("DDIM", {**SD, "clip_sample": False, "eta": 0.7}, {}),
        ("DDIM", {"eta": 1.0}, {}),
        ("DDIM", {"use_clipped_model_output": True}, {}),
        ("TCD", {"eta": 0.6}, {}),
        ("TCD", {"eta": 0.0}, {}),
    ],
)
def test_arguments_of_step(name: str, config: dict[str, Any], given: dict[str, Any]) -> None:
    words = ("s_churn", "s_noise", "s_tmin", "s_tmax", "eta", "use_clipped_model_output")
    how = {word: config[word] for word in words if word in config}
    stock = stock_of(name, {key: value for key, value in config.items() if key not in how})

    def run(scheduler: Any) -> torch.Tensor:
        scheduler.set_timesteps(6)
        x, generator = start() * scheduler.init_noise_sigma, seeded()
        for t in scheduler.timesteps:
            output = network(scheduler.scale_model_input(x, t), t)
            x = scheduler.step(output, t, x, generator=generator, return_dict=False, **how)[0]
        assert isinstance(x, torch.Tensor)
        return x

    torch.testing.assert_close(run(KSchedScheduler.from_diffusers(stock)), run(stock), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["learned", "learned_range"])
def test_learned_variance(kind: str) -> None:
    def model(x: torch.Tensor, t: Any) -> torch.Tensor:
        variance = network(x + 1, t)
        return torch.cat([network(x, t), variance.abs() * 0.1 if kind == "learned" else variance], dim=1)

    compare(stock_of("DDPM", {"variance_type": kind}), 6, model=model)


GIVEN: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("Euler", SD, {"timesteps": [900, 500, 200, 50]}),
    ("Euler", SD, {"sigmas": [14.0, 5.0, 1.0, 0.3, 0.0]}),
    ("Heun", SD, {"timesteps": [900, 500, 200, 50]}),
    ("DPMSolverMultistep", SD, {"timesteps": [900, 500, 200, 50]}),
    ("DDPM", SD, {"timesteps": [900, 500, 200, 50]}),
    ("FlowMatchEuler", {"shift": 3.0}, {"sigmas": [1.0, 0.7, 0.2]}),
    ("FlowMatchEuler", {"use_dynamic_shifting": True}, {"sigmas": [1.0, 0.7, 0.2], "mu": 0.8}),
    ("FlowMatchEuler", {"shift": 3.0}, {"timesteps": [1000.0, 600.0, 100.0], "sigmas": [1.0, 0.6, 0.1]}),
    ("UniPCMultistep", FLOW, {"sigmas": np.array([1.0, 0.7, 0.2])}),
]


@pytest.mark.parametrize(("name", "config", "given"), GIVEN)
def test_levels_that_are_given(name: str, config: dict[str, Any], given: dict[str, Any]) -> None:
    stock = stock_of(name, config)
    x: dict[str, torch.Tensor] = {}
    for which, scheduler in (("stock", stock), ("ours", KSchedScheduler.from_diffusers(stock))):
        scheduler.set_timesteps(**given)
        state, generator = start() * getattr(scheduler, "init_noise_sigma", 1.0), seeded()
        how = {"generator": generator} if name == "DDPM" else {}
        for t in scheduler.timesteps:
            seen = scheduler.scale_model_input(state, t) if hasattr(scheduler, "scale_model_input") else state
            state = scheduler.step(network(seen, t), t, state, return_dict=False, **how)[0]
        x[which] = state
    torch.testing.assert_close(x["ours"], x["stock"], rtol=1e-4, atol=1e-4)


# ----------------------------------------------------------------------------------------------- samplers and schedules

PLAYABLE = [name for name in SamplerType if not sampler_spec(name).uncond and not sampler_spec(name).adaptive]
SOURCES: dict[str, Any] = {
    "PNDM": lambda: stock_of("PNDM", {**SD, "skip_prk_steps": True, "steps_offset": 1}),
    "Euler": lambda: stock_of("Euler", {**SD, "timestep_spacing": "leading"}),
    "FlowMatchEuler": lambda: stock_of("FlowMatchEuler", {"shift": 3.0}),
}


def source_for(sampler: str, source: str) -> Any:
    """A scheduler of a model that a sampler runs on: that one, or one of a flow model."""
    return SOURCES["FlowMatchEuler" if process_for(sampler).is_flow else source]()


@short(
    lambda sampler, schedule, source: (
        is_kind(sampler)
        and schedule == in_turn(PLAYABLE.index(sampler), ["karras", "simple"])
        and (is_form(sampler) or source == in_turn(PLAYABLE.index(sampler), SOURCES))
    )
)
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("schedule", ["karras", "simple"])
@pytest.mark.parametrize("sampler", PLAYABLE)
def test_samplers(sampler: str, schedule: str, source: str) -> None:
    ours = KSchedScheduler.from_config(source_for(sampler, source).config, sampler=str(sampler), schedule=schedule)
    first = loop(ours, 7, generator=seeded(1))
    assert torch.isfinite(first).all()
    assert len(ours.timesteps) <= 7
    assert len(ours.sigmas) == len(ours.timesteps) + 1
    assert ours.order == 1
    assert torch.equal(first, loop(ours, 7, generator=seeded(1)))


@short(lambda sampler, begin: is_kind(sampler) and (begin <= 3 or is_form(sampler)))  # a step has few calls
@pytest.mark.parametrize("begin", [1, 2, 3, 4, 5, 6, 7])
@pytest.mark.parametrize("sampler", PLAYABLE)
def test_samplers_from_anywhere(sampler: str, begin: int) -> None:
    """A run that begins with any model call ends, clean, where the whole run does."""
    ours = KSchedScheduler.from_config(source_for(sampler, "PNDM").config, sampler=str(sampler), schedule="karras")
    clean = torch.linspace(-1, 1, start().numel()).view(BATCH)

    def perfect(x: torch.Tensor, t: Any) -> torch.Tensor:
        level = ours._iterations.levels[ours._index(t)]
        eps: torch.Tensor = (x - level.alpha * clean) / level.sigma
        return eps - clean if process_for(sampler).is_flow else eps  # the velocity

    ours.set_timesteps(9)
    if begin >= len(ours.timesteps):
        return
    ours.set_begin_index(begin)
    x, generator = ours.add_noise(clean, start(), ours.timesteps[begin : begin + 1]), seeded()
    for t in ours.timesteps[begin:]:
        x = ours.step(perfect(x, t), t, x, generator=generator).prev_sample
    if sampler not in ("lcm", "af3"):  # the latter overshoots, by default
        torch.testing.assert_close(x, clean, rtol=0, atol=2e-4)


def test_af3_adds_no_noise_before_the_first_call() -> None:
    """The loop has already called the model. Later steps add noise, and with full-length steps the run ends clean."""
    how: dict[str, Any] = {"sampler": "af3", "sampler_options": {"step_scale": 1.0, "gamma_min": 0.1}}
    ours, clean = KSchedScheduler.from_config(SOURCES["Euler"]().config, schedule="karras", **how), torch.ones(BATCH)
    ours.set_timesteps(9)
    sigmas = [level.label for level in ours._iterations.levels]
    given = build_sampler("euler", "karras", 9, process=VP()).sigmas
    assert sigmas[0] == pytest.approx(given[0])
    assert sigmas[1] == pytest.approx(1.8 * given[1])
    x = ours.add_noise(clean, start(), ours.timesteps[:1])
    for t in ours.timesteps:
        level = ours._iterations.levels[ours._index(t)]
        x = ours.step((x - level.alpha * clean) / level.sigma, t, x, generator=seeded()).prev_sample
    torch.testing.assert_close(x, clean, rtol=0, atol=2e-4)


def test_a_score_is_the_plain_form() -> None:
    """Of a network that sees variance-preserving states: -eps over the std of their noise."""
    results = []
    for how in ({}, {"prediction_type": "score"}):
        ours = KSchedScheduler.from_config(SOURCES["PNDM"]().config, sampler="dpmpp_2m", **how)
        ours.set_timesteps(6)
        x = start().double() * float(ours.init_noise_sigma)
        for t in ours.timesteps:
            eps, level = torch.tanh(ours.scale_model_input(x, t)), ours._iterations.levels[ours._index(t)]
            output = -eps * math.hypot(level.alpha, level.sigma) / level.sigma if how else eps
            x = ours.step(output, t, x).prev_sample
        results.append(x)
    torch.testing.assert_close(results[1], results[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("source", ["PNDM", "Euler"])
@pytest.mark.parametrize("sampler", ["euler", "heun", "dpm_2"])
def test_churn(sampler: str, source: str) -> None:
    """A perfect model ends clean for any noise added on the way and any start of the run."""
    how = {"sampler": sampler, "schedule": "karras", "sampler_options": {"s_churn": 3.0}}
    ours = KSchedScheduler.from_config(SOURCES[source]().config, **how)
    calm = KSchedScheduler.from_config(SOURCES[source]().config, sampler=sampler, schedule="karras")
    clean = torch.linspace(-1, 1, start().numel()).view(BATCH)
    assert not torch.allclose(loop(ours, 9), loop(calm, 9), atol=1e-3)
    for begin in (0, 2, 3, 4):
        ours.set_timesteps(9)
        ours.set_begin_index(begin)
        calm.set_timesteps(9)
        assert len(ours.timesteps) == len(calm.timesteps)
        x, generator = ours.add_noise(clean, start(), ours.timesteps[begin : begin + 1]), seeded()
        draws = generator.get_state()
        for t in ours.timesteps[begin:]:
            level = ours._iterations.levels[ours._index(t)]
            x = ours.step((x - level.alpha * clean) / level.sigma, t, x, generator=generator).prev_sample
        torch.testing.assert_close(x, clean, rtol=0, atol=2e-4)
        assert not torch.equal(draws, generator.get_state())


@short(lambda schedule, sampler, source: sampler == "euler" and (source == "Euler" or is_schedule_form(schedule)))
@pytest.mark.parametrize("schedule", list(NoiseSchedule))
@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
@pytest.mark.parametrize("source", SOURCES)
def test_schedules(schedule: str, sampler: str, source: str) -> None:
    ours = KSchedScheduler.from_config(SOURCES[source]().config, sampler=sampler, schedule=str(schedule))
    result = loop(ours, 6)
    assert torch.isfinite(result).all()
    assert len(ours.timesteps) == 6


# ------------------------------------------------------------- what diffusers asks of every scheduler, in our own words

EULER = {**SD, "sampler": "euler", "schedule": "karras"}
EVERYONE: list[dict[str, Any]] = [
    EULER,
    {**SD, "sampler": "dpmpp_2m_sde", "noise_seed": 3},
    {**SD, "sampler": "heun", "schedule": "simple", "layout": "steps"},
    {**SD, "stock_class": "EulerDiscreteScheduler"},
    {**SD, "stock_class": "DDIMScheduler"},
    {"sampler": "dpmpp_2m", "prediction_type": "flow_prediction", "shift": 3.0},
]


@pytest.fixture(params=EVERYONE, ids=lambda config: str(config.get("sampler") or config.get("stock_class")))
def config(request: Any) -> dict[str, Any]:
    return dict(request.param)


def test_one_step_after_saving(config: dict[str, Any], tmp_path: Path) -> None:
    ours = KSchedScheduler(**config)
    ours.save_pretrained(tmp_path)
    again = KSchedScheduler.from_pretrained(tmp_path)
    steps = []
    for scheduler in (ours, again):
        scheduler.set_timesteps(10)
        steps.append(scheduler.step(start() * 0.1, scheduler.timesteps[0], start(), generator=seeded()).prev_sample)
    assert torch.equal(*steps)


def test_configuration_is_saved(config: dict[str, Any], tmp_path: Path) -> None:
    ours = KSchedScheduler(**config)
    ours.save_config(tmp_path)
    again = KSchedScheduler.from_pretrained(tmp_path)

    def plain(scheduler: Any) -> dict[str, Any]:
        return {key: value for key, value in scheduler.config.items() if key != "_use_default_values"}

    assert plain(again) == plain(ours)
    assert "_use_default_values" in ours.config
    json.loads(ours.to_json_string())


@short(lambda config: config in EVERYONE[:2])
def test_compatible_classes(config: dict[str, Any]) -> None:
    ours = KSchedScheduler(**config)
    assert len(ours.compatibles) == 15
    installed = [
        known for known in ours.compatibles if issubclass(known, diffusers.SchedulerMixin)
    ]  # one needs torchsde
    assert len(installed) >= 14
    for known in installed:
        other = known.from_config(ours.config)
        again = KSchedScheduler.from_config(other.config)
        assert {key: again.config[key] for key in ours.config if key in again.config} == dict(ours.config)


def test_shape_is_kept(config: dict[str, Any]) -> None:
    ours = KSchedScheduler(**config)
    ours.set_timesteps(10)
    x = start()
    for t in ours.timesteps[:2]:
        x = ours.step(0.1 * x, t, x, generator=seeded()).prev_sample
        assert x.shape == BATCH


def test_tuple_and_output_are_the_same(config: dict[str, Any]) -> None:
    ours = KSchedScheduler(**config)
    results = []
    for return_dict in (True, False):
        ours.set_timesteps(10)
        results.append(ours.step(0.1 * start(), ours.timesteps[0], start(), seeded(), return_dict=return_dict))
    output, pair = results
    assert isinstance(output, KSchedOutput)
    assert isinstance(pair, tuple)
    for a, b in zip(output.values(), pair, strict=True):
        assert torch.equal(a, b)
    assert output.to_tuple()[0] is output["prev_sample"] is output.prev_sample


def test_before_set_timesteps(config: dict[str, Any]) -> None:
    ours = KSchedScheduler(**config)
    assert float(ours.init_noise_sigma) > 0
    assert ours.scale_model_input(start(), 0.0).shape == BATCH
    assert ours.add_noise(start(), start(), ours.timesteps[5][None]).shape == BATCH
    assert len(ours) == len(ours.timesteps) == 1000
    assert len(ours.sigmas) == 1001
    if config.get("stock_class") == "EulerDiscreteScheduler":  # goes through all timesteps of the training, as it does
        ours, theirs = KSchedScheduler(**config), diffusers.EulerDiscreteScheduler(**SD)
        steps = [s.step(start(), theirs.timesteps[5], start(), return_dict=False)[0] for s in (ours, theirs)]
        torch.testing.assert_close(*steps, rtol=1e-5, atol=1e-5)
        return
    with pytest.raises(ValueError, match="set_timesteps must be called before step"):
        ours.step(start(), 5, start())


def test_signatures() -> None:
    import inspect

    made = inspect.signature(KSchedScheduler.__init__).parameters.values()
    assert all(p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in made)
    assert not KSchedScheduler._deprecated_kwargs
    known = {"num_inference_steps", "device", "timesteps", "sigmas", "mu"}
    assert known <= set(inspect.signature(KSchedScheduler.set_timesteps).parameters)
    assert list(inspect.signature(KSchedScheduler.step).parameters)[1:6] == [
        "model_output", "timestep", "sample", "generator", "return_dict",
    ]  # fmt: skip


def test_betas_of_ones_own(tmp_path: Path) -> None:
    ours = KSchedScheduler(trained_betas=np.array([0.1, 0.3]))
    ours.save_config(tmp_path)
    again = KSchedScheduler.from_pretrained(tmp_path)
    assert ours.betas.tolist() == again.betas.tolist() == pytest.approx([0.1, 0.3])


def test_attributes() -> None:
    ours = KSchedScheduler(**EULER)
    with pytest.raises(AttributeError, match="'KSchedScheduler' object has no attribute 'nothing'"):
        _ = ours.nothing
    assert ours.config.sampler == ours.config["sampler"] == "euler"


def test_steps_at_a_level_that_is_not_there(config: dict[str, Any]) -> None:
    ours = KSchedScheduler(**config)
    ours.set_timesteps(10)
    assert torch.isfinite(ours.step(0.1 * start(), 0, start(), generator=seeded()).prev_sample).all()


# --------------------------------------------------------------------------------------------------------- own promises


def test_from_config_keeps_the_model() -> None:
    stock = stock_of("DDIM", {**SD, "prediction_type": "v_prediction", "num_train_timesteps": 500})
    ours = KSchedScheduler.from_config(stock.config, sampler="DPM++ 2M", schedule="karras")
    assert ours.config.prediction_type == "v_prediction"
    assert ours.config.beta_start == 0.00085
    torch.testing.assert_close(ours.alphas_cumprod, stock.alphas_cumprod, rtol=1e-5, atol=0)
    ours.set_timesteps(5)
    assert float(ours.timesteps[0]) == pytest.approx(499)


@pytest.mark.parametrize(
    "name", ["Euler", "DDIM", "PNDM", "UniPCMultistep", "FlowMatchEuler", "Heun", "DPMSolverMultistep"]
)
def test_left_out_is_what_the_class_means(name: str, tmp_path: Path) -> None:
    stock = stock_of(name, {"skip_prk_steps": True} if name == "PNDM" else {})
    stock.save_pretrained(tmp_path)
    for ours in (KSchedScheduler.from_config(stock.config), KSchedScheduler.from_pretrained(tmp_path)):
        assert ours.config.stock_class == type(stock).__name__
        torch.testing.assert_close(loop(ours, 6), loop(stock, 6), rtol=1e-4, atol=1e-4)


def test_a_sampler_on_the_levels_of_the_class() -> None:
    stock = stock_of("DPMSolverMultistep", {**SD, "use_karras_sigmas": True})
    ours = KSchedScheduler.from_config(stock.config, sampler="dpmpp_2m")
    ours.set_timesteps(8)
    stock.set_timesteps(8)
    torch.testing.assert_close(ours.sigmas, stock.sigmas, rtol=1e-4, atol=0)
    torch.testing.assert_close(loop(ours, 20), loop(stock, 20), rtol=2e-3, atol=2e-3)  # its timesteps are rounded


def test_a_class_on_levels_of_ours() -> None:
    stock = stock_of("Euler", {**SD, "use_karras_sigmas": True})
    ours = KSchedScheduler.from_config(stock_of("Euler", SD).config, schedule="karras")
    torch.testing.assert_close(loop(ours, 9), loop(stock, 9), rtol=1e-4, atol=1e-4)


OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("Euler", {**SD, **ZERO_SNR}), ("DDIM", {**SD, **ZERO_SNR}), ("PNDM", {**SD, "skip_prk_steps": True}), ("PNDM", SD),
    ("DPMSolverMultistep", SD), ("DPMSolverSinglestep", SD), ("UniPCMultistep", SD), ("UniPCMultistep", FLOW),
    ("DEISMultistep", SD), ("SASolver", SD), ("Heun", SD), ("KDPM2Ancestral", SD), ("EulerAncestral", SD), ("LCM", {}),
    ("TCD", {}), ("DDPM", {}), ("FlowMatchEuler", {"shift": 3.0}), ("FlowMatchHeun", {}), ("FlowMatchLCM", {}),
    ("EDMEuler", {}), ("EDMDPMSolverMultistep", {}),
]  # fmt: skip


@short(lambda case, how: how in ({"schedule": "karras"}, {"sampler": "dpmpp_2m"}) or case in OTHERS[:3])
@pytest.mark.parametrize("case", OTHERS, ids=label)
@pytest.mark.parametrize(
    "how", [{"schedule": "karras"}, {"schedule": "beta"}, {"sampler": "dpmpp_2m"}, {"sampler": "rk4"}]
)
def test_one_of_the_two_is_left_out(case: Any, how: dict[str, Any]) -> None:
    ours = KSchedScheduler.from_diffusers(stock_of(*case), **how)
    assert torch.isfinite(loop(ours, 8)).all()
    assert float(ours.sigmas[-1]) == 0
    assert len(ours.timesteps) <= 8
    if how == {"sampler": "dpmpp_2m"}:
        assert len(ours.timesteps) == 8


def test_leftovers_of_ours() -> None:
    ours = KSchedScheduler.from_config(SOURCES["PNDM"]().config, sampler="dpmpp_2m", schedule="karras")
    stock = diffusers.EulerDiscreteScheduler.from_config(ours.config)
    assert KSchedScheduler.from_config(stock.config).config.sampler == "dpmpp_2m"
    again = KSchedScheduler.from_diffusers(stock)
    assert again.config.sampler is None
    torch.testing.assert_close(loop(again, 5), loop(stock, 5), rtol=1e-4, atol=1e-4)


def test_a_configuration_that_is_replaced() -> None:
    """Constructors of pipelines set steps_offset to 1 in the configuration of a scheduler that is there."""
    ours = KSchedScheduler.from_diffusers(stock_of("DDIM", SD))
    ours.set_timesteps(5)
    assert ours.timesteps[-1] == 0
    ours.set_timesteps(5)
    ours._internal_dict = diffusers.configuration_utils.FrozenDict({**ours.config, "steps_offset": 1})
    ours.set_timesteps(5)
    assert ours.timesteps[-1] == 1


def test_which_class_a_configuration_is_of() -> None:
    for name, config in STOCK:
        if name in (
            "LMS",
            "KDPM2",
            "KDPM2Ancestral",
            "LCM",
            "TCD",
        ):  # the first three have the same settings, as the rest
            continue
        stock = stock_of(name, config)
        assert KSchedScheduler.from_config(stock.config).config.stock_class == type(stock).__name__
    assert KSchedScheduler.from_config(stock_of("LMS", {}).config).config.stock_class == "LMSDiscreteScheduler"


def test_what_is_given_runs() -> None:
    ours = KSchedScheduler.from_config(SOURCES["PNDM"]().config, sampler="dpmpp_2m", schedule="karras")
    ours.set_timesteps(sigmas=[14.6, 5.0, 1.5, 0.4, 0.0])
    assert ours.sigmas.tolist() == pytest.approx([14.6, 5.0, 1.5, 0.4, 0.0])
    assert len(ours.timesteps) == ours.num_inference_steps == 4
    ours.set_timesteps(timesteps=[999, 700, 300, 7])
    assert ours.timesteps.tolist() == [999, 700, 300, 7]
    flow = KSchedScheduler.from_config(SOURCES["FlowMatchEuler"]().config, sampler="dpmpp_2m", schedule="karras")
    assert flow.config.use_flow_sigmas
    flow.set_timesteps(sigmas=[1.0, 0.6, 0.1])
    assert flow.sigmas.tolist() == pytest.approx([1.0, 3 * 0.6 / 2.2, 0.3 / 1.2, 0.0])


def test_a_list_that_only_counts() -> None:
    flow = KSchedScheduler.from_config(SOURCES["FlowMatchEuler"]().config, sampler="euler", schedule="karras")
    flow.set_timesteps(sigmas=np.linspace(1, 1 / 6, 6))
    counted = flow.sigmas
    flow.set_timesteps(6)
    assert torch.equal(counted, flow.sigmas)
    plain = KSchedScheduler.from_config(SOURCES["FlowMatchEuler"]().config, sampler="euler")
    plain.set_timesteps(sigmas=np.linspace(1, 1 / 6, 6))
    assert not torch.allclose(plain.sigmas, counted)


def test_layouts() -> None:
    source = SOURCES["PNDM"]().config
    for sampler, calls in (("heun", 2), ("rk4", 4), ("seeds_3", 3), ("euler", 1)):
        ours = KSchedScheduler.from_config(source, sampler=sampler, schedule="karras")
        ours.set_timesteps(9)
        assert ours.order == 1
        assert 9 - calls < len(ours.timesteps) <= 9
        whole = KSchedScheduler.from_config(source, sampler=sampler, schedule="karras", layout="steps")
        whole.set_timesteps(9)
        assert whole.order == calls
        assert len(whole.timesteps) == sampler_spec(sampler).nfe(9)


def test_a_class_with_options_and_a_layout() -> None:
    stock = stock_of("DDIM", {**SD, "clip_sample": False})
    half = KSchedScheduler.from_diffusers(stock, sampler_options={"eta": 0.5})
    stock.set_timesteps(5)
    x, generator = start(), seeded()
    for t in stock.timesteps:
        x = stock.step(network(x, t), t, x, eta=0.5, generator=generator).prev_sample
    torch.testing.assert_close(loop(half, 5), x, rtol=1e-4, atol=1e-4)
    heun = stock_of("Heun", SD)
    counted = KSchedScheduler.from_diffusers(heun, layout="calls")
    counted.set_timesteps(9)
    assert counted.order == 1
    assert len(counted.timesteps) == 9
    torch.testing.assert_close(loop(counted, 9), loop(heun, 5), rtol=1e-4, atol=1e-4)


def test_noise_of_a_seed() -> None:
    config = SOURCES["FlowMatchEuler"]().config
    runs = []
    for batch in (slice(0, 2), slice(0, 1)):
        ours = KSchedScheduler.from_config(config, sampler="euler_ancestral", schedule="simple", noise_seed=4)
        ours.set_timesteps(5)
        x = start()[batch]
        for t in ours.timesteps:
            x = ours.step(network(x, t), t, x).prev_sample
        runs.append(x)
    assert torch.equal(runs[0][:1], runs[1])


def test_generators_by_item() -> None:
    config = SOURCES["PNDM"]().config
    ours = KSchedScheduler.from_config(config, sampler="dpmpp_2m_sde", schedule="karras")
    both = loop(ours, 6, generator=[seeded(1), seeded(2)])
    again = loop(ours, 6, generator=[seeded(1), seeded(3)])
    assert torch.equal(both[0], again[0])
    assert not torch.equal(both[1], again[1])


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
@pytest.mark.parametrize("sampler", ["dpmpp_2m", "heun", "uni_pc", None])
def test_copies_go_on_by_themselves(sampler: str | None, copied: Callable[[Any], Any]) -> None:
    ours = KSchedScheduler.from_config(SOURCES["PNDM"]().config, sampler=sampler, schedule=sampler and "karras")
    ours.set_timesteps(8)
    x = start()
    for t in ours.timesteps[:3]:
        x = ours.step(network(x, t), t, x).prev_sample
    other, y = copied(ours), x.clone()
    for t in ours.timesteps[3:]:
        x = ours.step(network(x, t), t, x).prev_sample
        y = other.step(network(y, t), t, y).prev_sample
    assert torch.equal(x, y)


def test_a_loop_of_two_runs_in_turn() -> None:
    """Pipelines of panoramas keep what a scheduler holds for each view, and put it back."""
    ours = KSchedScheduler.from_config(SOURCES["PNDM"]().config, sampler="dpmpp_2m", schedule="karras")
    want = loop(ours, 6)
    ours.set_timesteps(6)
    held, states = [copy.deepcopy(ours.__dict__)] * 2, [start(), 2 * start()]
    for t in ours.timesteps:
        for k, x in enumerate(states):
            ours.__dict__.update(held[k])
            states[k] = ours.step(network(x, t), t, x).prev_sample
            held[k] = copy.deepcopy(ours.__dict__)
    assert torch.equal(states[0], want)


@pytest.mark.parametrize("leading", [False, True])
@pytest.mark.parametrize("name", ["Euler", "Heun", "LMS", "DDIM", "DPMSolverMultistep", "LCM", "EDMEuler"])
def test_start_noise_before_a_run_is_known(name: str, leading: bool) -> None:
    theirs = stock_of(name, {"timestep_spacing": "leading"} if leading and name != "EDMEuler" else {})
    ours = KSchedScheduler.from_diffusers(theirs)
    assert float(ours.init_noise_sigma) == pytest.approx(float(theirs.init_noise_sigma), rel=1e-6)


def test_a_copy_of_a_run_that_churns() -> None:
    ours = KSchedScheduler.from_diffusers(stock_of("Euler", SD))
    ours.set_timesteps(6)
    x = start() * ours.init_noise_sigma
    for t in ours.timesteps[:2]:
        x = ours.step(network(x, t), t, x, seeded(), s_churn=3.0).prev_sample
    other = copy.deepcopy(ours)
    assert torch.equal(*(s.step(network(x, t), ours.timesteps[2], x, seeded()).prev_sample for s in (ours, other)))


def test_threads() -> None:
    results: dict[int, torch.Tensor] = {}
    config = SOURCES["Euler"]().config

    def work(number: int) -> None:
        ours = KSchedScheduler.from_config(config, sampler="dpmpp_2m", schedule="karras")
        results[number] = loop(ours, 5 + number % 3)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, result in results.items():
        work(number)
        assert torch.equal(result, results[number])


def test_half_precision() -> None:
    ours = KSchedScheduler.from_config(SOURCES["Euler"]().config, sampler="dpmpp_2m", schedule="karras")
    ours.set_timesteps(6)
    x = (start() * ours.init_noise_sigma).half()
    for t in ours.timesteps:
        x = ours.step(network(ours.scale_model_input(x, t), t).half(), t, x).prev_sample
        assert x.dtype == torch.float16
    want = loop(ours, 6)
    assert (x.float() - want).abs().max() < 0.05


def test_inference_mode() -> None:
    ours = KSchedScheduler.from_config(SOURCES["Euler"]().config, sampler="dpmpp_2m", schedule="karras")
    want = loop(ours, 6, edit=masked)
    with torch.inference_mode():
        assert torch.equal(loop(ours, 6, edit=masked), want)


def test_the_rule_of_add_noise() -> None:
    """By the value of a timestep; then where the run begins; then where it is."""
    ours = KSchedScheduler.from_config(SOURCES["PNDM"]().config, sampler="euler", schedule="karras")
    ours.set_timesteps(5)
    x0, eps = torch.zeros(BATCH), torch.ones(BATCH)

    def std(timestep: Any) -> float:
        return float(ours.add_noise(x0, eps, torch.as_tensor(timestep).reshape(1))[0, 0, 0, 0])

    levels = [s / (1 + s * s) ** 0.5 for s in ours.sigmas.tolist()]
    assert std(ours.timesteps[2]) == pytest.approx(levels[2])
    assert std(999) == pytest.approx(levels[0])
    per_item = ours.add_noise(x0, eps, ours.timesteps[[1, 3]])
    assert per_item[:, 0, 0, 0].tolist() == pytest.approx([levels[1], levels[3]])
    ours.set_begin_index(1)
    assert std(ours.timesteps[4]) == pytest.approx(levels[1])
    ours.step(x0, ours.timesteps[1], eps)
    assert std(ours.timesteps[4]) == pytest.approx(levels[2])
    assert torch.equal(ours.scale_noise(x0, ours.timesteps[4], eps), ours.add_noise(x0, eps, ours.timesteps[4]))


def test_velocity() -> None:
    stock = stock_of("DDPM", SD)
    for name in ("DDPM", "Euler"):
        ours = KSchedScheduler.from_config(stock_of(name, SD).config, sampler="euler", schedule="simple")
        t = torch.tensor([10, 800])
        torch.testing.assert_close(
            ours.get_velocity(start(), start() + 1, t),
            stock.get_velocity(start(), start() + 1, t),
            rtol=1e-4,
            atol=1e-4,
        )


def test_a_place_without_being_told() -> None:
    ours = KSchedScheduler.from_config(SOURCES["PNDM"]().config, sampler="euler", schedule="karras")
    ours.set_timesteps(6)
    want = [ours._index(t) for t in ours.timesteps]
    assert want == list(range(6))
    assert [ours._index(t.clone()) for t in ours.timesteps] == want
    assert [ours._index(float(t)) for t in ours.timesteps] == want


def test_too_many_steps() -> None:
    ours = KSchedScheduler(**EULER)
    ours.set_timesteps(1)
    ours.step(start(), ours.timesteps[0], start())
    with pytest.raises(RuntimeError, match="the run of 1 iterations is over"):
        ours.step(start(), ours.timesteps[0], start())


def test_translation() -> None:
    stock = stock_of("DPMSolverMultistep", {**SD, "algorithm_type": "sde-dpmsolver++", "solver_order": 2})
    found = KSchedScheduler.from_diffusers(stock).translation
    assert found.scheduler == "DPMSolverMultistepScheduler"
    assert found.sampler == "dpm_multistep"
    assert found.options["eta"] == 1.0
    assert found.used["solver_order"] == 2
    assert "variance_type" in found.ignored
    assert "used       solver_order = 2" in str(found)


def test_saved_configurations() -> None:
    stock = stock_of("UniPCMultistep", FLOW)
    saved = json.loads(stock.to_json_string())
    assert saved["_class_name"] == "UniPCMultistepScheduler"
    torch.testing.assert_close(loop(KSchedScheduler.from_diffusers(saved), 5), loop(stock, 5), rtol=1e-4, atol=1e-4)


def test_a_class_that_need_not_be_installed() -> None:
    """DPMSolverSDEScheduler needs torchsde, whose Brownian tree is the one thing that is not repeated."""
    ours = KSchedScheduler.from_diffusers({"_class_name": "DPMSolverSDEScheduler", "use_karras_sigmas": True})
    assert ours.config.beta_start == 0.00085
    assert "Brownian" in ours.translation.different["noise"]
    result = loop(ours, 5)
    assert torch.isfinite(result).all()
    assert ours.order == 2
    assert len(ours.timesteps) == 9
    cosine = KSchedScheduler.from_diffusers({"_class_name": "CosineDPMSolverMultistepScheduler"})
    assert torch.isfinite(loop(cosine, 5)).all()
    assert cosine.timesteps.tolist() == pytest.approx((cosine.sigmas[:-1].atan() / torch.pi * 2).tolist())


def test_bad_input() -> None:
    config = SOURCES["PNDM"]().config
    with pytest.raises(ValueError, match="did you mean"):
        KSchedScheduler.from_config(config, sampler="eular")
    with pytest.raises(ValueError, match="did you mean"):
        KSchedScheduler.from_config(config, sampler="euler", schedule="karass")
    with pytest.raises(ValueError, match="also needs the prediction without guidance"):
        KSchedScheduler.from_config(config, sampler="euler_cfg_pp", schedule="karras")
    with pytest.raises(ValueError, match="chooses its steps"):
        KSchedScheduler.from_config(config, sampler="dpm_adaptive", schedule="karras")
    with pytest.raises(ValueError, match="layout must be one of"):
        KSchedScheduler.from_config(config, layout="k")
    with pytest.raises(TypeError, match="no parameter 'shcedule'; did you mean 'schedule'"):
        KSchedScheduler.from_config(config, sampler="euler", shcedule="karras")
    with pytest.raises(ValueError, match="dialect needs a sampler or schedule"):
        KSchedScheduler.from_config(config, dialect="comfyui")
    with pytest.raises(ValueError, match="schedule_options need a schedule"):
        KSchedScheduler.from_config(config, sampler="euler", schedule_options={"rho": 5.0})
    with pytest.raises(TypeError, match="takes no sampler option 'order'"):
        KSchedScheduler.from_diffusers(stock_of("DDIM", SD), sampler_options={"order": 2}).set_timesteps(3)
    with pytest.raises(TypeError, match="noise_seed must be a whole number"):
        KSchedScheduler.from_config(config, noise_seed=1.5)
    with pytest.raises(ValueError, match="has no drop-in in ksched"):
        KSchedScheduler.from_diffusers({"_class_name": "KarrasVeScheduler"})
    with pytest.raises(ValueError, match="did you mean"):
        KSchedScheduler.from_diffusers({"_class_name": "EulerDiscreetScheduler"})
    ambiguous = stock_of("LMS", SD).config
    with pytest.raises(ValueError, match="must be known, and it is not"):
        KSchedScheduler.from_config(ambiguous)
    ours = KSchedScheduler.from_config(ambiguous, sampler="euler", schedule="karras")
    with pytest.raises(ValueError, match="pass num_inference_steps"):
        ours.set_timesteps()
    with pytest.raises(ValueError, match="strictly decreasing"):
        ours.set_timesteps(sigmas=[1.0, 2.0, 0.0])
    with pytest.raises(ValueError, match="strictly decreasing"):
        ours.set_timesteps(timesteps=[3, 500])
    ours.set_timesteps(3)
    with pytest.raises(ValueError, match="model_output must have sample's shape"):
        ours.step(start()[:, :2], ours.timesteps[0], start())
    with pytest.raises(ValueError, match="put it into sampler_options"):
        ours.step(start(), ours.timesteps[0], start(), s_churn=1.0)
    ours.set_timesteps(3)
    with pytest.raises(TypeError, match="must be tensors"):
        ours.step(None, ours.timesteps[0], start())
    dynamic = KSchedScheduler.from_config(
        stock_of("FlowMatchEuler", {"use_dynamic_shifting": True}).config, sampler="euler", schedule="simple"
    )
    with pytest.raises(ValueError, match="use_dynamic_shifting=True needs mu"):
        dynamic.set_timesteps(4)
    with pytest.raises(TypeError, match="has no option"):
        KSchedScheduler.from_config(
            config, sampler="euler", schedule="karras", sampler_options={"etta": 1}
        ).set_timesteps(2)
    zero = stock_of("DDIM", {**SD, **ZERO_SNR, "prediction_type": "epsilon"})
    with pytest.raises(ValueError, match="zero terminal SNR"):
        KSchedScheduler.from_diffusers(zero).set_timesteps(5)
