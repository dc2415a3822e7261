"""Words that users write: swapped names, labels, misspelled options, prediction types, curves, boundaries."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_comfy as comfy
import numpy as np
import pytest
import torch

import ksched
from ksched import Denoiser, Flow, NoiseSchedule, Prediction, SamplerType, build_sampler, calculate_sigmas, schedules
from ksched.integrations import comfyui
from ksched.names.absent import SAMPLERS_ELSEWHERE, SCHEDULES_ELSEWHERE
from ksched.processes import VP
from ksched.schedules.select import _REGISTERED
from ksched.stable_diffusion import SamplingConfig
from ksched.testing import check_schedule


def said(call: Callable[[], object]) -> str:
    """The message of what must be refused."""
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    return str(caught.value)


@pytest.fixture
def curve() -> Iterator[str]:
    """The name of a schedule that is registered for one test."""

    def even(steps: int, sigma_max: float, power: float = 1.0) -> Any:
        return sigma_max * np.linspace(1, 0, steps + 1) ** power

    ksched.register_schedule("even_curve", even, formula="even in sigma")
    yield "even_curve"
    del _REGISTERED["even_curve"]
    NoiseSchedule.registered().remove("even_curve")


# ------------------------------------------------------------------------------------------------- row 33: what is said
@pytest.mark.parametrize(
    "call",
    [
        lambda: build_sampler("karras", "euler"),
        lambda: build_sampler("Karras"),
        lambda: build_sampler("karras", steps=8),
        lambda: SamplerType.parse("karras"),
        lambda: SamplingConfig("fox", sampler="karras", schedule="euler"),
    ],
)
def test_row_33_a_schedule_where_a_sampler_is_asked(call: Callable[[], object]) -> None:
    assert "arras' is a noise schedule; swap the two, or pass a sampler such as 'euler'" in said(call)


@pytest.mark.parametrize(
    "call",
    [
        lambda: calculate_sigmas("euler", 5),
        lambda: calculate_sigmas("Euler", 5),
        lambda: build_sampler("heun", "euler"),
        lambda: schedules.stretch("euler", 5, 0.5),
        lambda: ksched.explain("karras+euler"),
        lambda: SamplingConfig("fox", schedule="euler"),
        lambda: ksched.plots.schedule_curves(["euler"], 5),
    ],
)
def test_row_33_a_sampler_where_a_schedule_is_asked(call: Callable[[], object]) -> None:
    message = said(call)
    assert "uler' is a sampler; swap the two, or pass a noise schedule such as 'simple'" in message


def test_row_33_registered_names_are_known_to_be_swapped(curve: str) -> None:
    assert "'even_curve' is a noise schedule; swap the two" in said(lambda: build_sampler(curve, "euler"))
    assert said(lambda: build_sampler("euler", "evn_curve")).endswith("did you mean even_curve?")


@pytest.mark.parametrize("label", ["DPM++ 2M Karras", "dpmpp_2m_karras", "DPM++ 2M SDE Exponential", "euler simple"])
def test_row_33_a_label_points_to_parse_label(label: str) -> None:
    sampler, schedule = ksched.parse_label(label)
    for call in (lambda: build_sampler(label), lambda: calculate_sigmas(label, 5)):
        message = said(call)
        assert f"is sampler {sampler.value!r} with noise schedule {schedule.value!r}" in message
        assert "parse_label" in message


@pytest.mark.parametrize(
    ("call", "near"),
    [
        (lambda: build_sampler("euler_ancestral", "karras", 8, eat=0.5), "'eta'"),
        (lambda: build_sampler("euler", "karras", 8, s_chrun=1.0), "'s_churn'"),
        (lambda: build_sampler("euler", "karras", 8, step=5), "'steps'"),
        (lambda: build_sampler("euler", "karras", 8, proces=VP()), "'process'"),
        (lambda: build_sampler("euler", sigma=[1, 0]), "'sigmas'"),
        (lambda: build_sampler("euler", sigmas=[1, 0], dialekt="comfyui"), "'dialect'"),
        (lambda: build_sampler("auto", steps=8, proccess=VP()), "'process'"),
        (lambda: calculate_sigmas("karras", 8, roh=5.0), "'rho'"),
        (lambda: calculate_sigmas("karras", 8, sigmamax=5.0), "'sigma_max'"),
        (lambda: calculate_sigmas("beta", 8, alhpa=1.0), "'alpha'"),
        (lambda: SamplingConfig("fox", sampler_options={"s_chrun": 1.0}), "'s_churn'"),
        (lambda: SamplingConfig("fox", schedule="karras", schedule_options={"roh": 1.0}), "'rho'"),
    ],
)
def test_row_33_options_have_near_misses(call: Callable[[], object], near: str) -> None:
    message = said(call)
    assert "did you mean" in message
    assert near in message


def test_row_33_messages_are_short() -> None:
    odd = ["zzz", "", "x" * 10_000, "?!", "sampler"]
    for name in odd:
        for kind in (SamplerType, NoiseSchedule, Prediction, ksched.Dialect):
            assert len(said(lambda name=name, kind=kind: kind.parse(name))) < 200  # type: ignore[misc]
    for program in ("comfyui", "diffusers", "a1111"):
        assert len(said(lambda program=program: ksched.peers.find_sampler(program, "zzz"))) < 400  # type: ignore[misc]


# -------------------------------------------------------------------------------------- row 32: prediction types
WORDS = {
    "epsilon": "eps epsilon noise EPS Epsilon pred_noise",
    "v_prediction": "v v_prediction v-prediction V_PREDICTION vpred v_pred",
    "sample": "x0 x_start x_0 pred_x0 sample denoised pred_original_sample START_X",
    "flow": "velocity flow flow_prediction rectified_flow flow-matching FLOW",
    "edm": "F edm EDM F_theta",
    "score": "score score_function grad_log_p",
    "velocity_to_data": "velocity_to_data x0_minus_eps data-minus-noise",
}


@pytest.mark.parametrize(("meant", "word"), [(meant, word) for meant, words in WORDS.items() for word in words.split()])
def test_row_32_everyones_words(meant: str, word: str) -> None:
    assert Prediction.parse(word) is Prediction(meant)
    process = Flow() if meant in ("flow", "velocity_to_data") else ksched.EDM() if meant == "edm" else VP()
    denoiser = Denoiser(torch.zeros_like, process, word)
    assert denoiser.prediction == meant
    assert denoiser == Denoiser(torch.zeros_like, process, meant)
    claimed = ksched.check_model(torch.zeros_like, process, prediction=word, data=torch.eye(8), levels=3)
    assert f"{meant} network" in str(claimed)


def test_row_32_words_with_spaces_and_near_misses() -> None:
    assert Prediction.parse("rectified flow") is Prediction.FLOW
    assert said(lambda: Prediction.parse("epsilom")).endswith("did you mean epsilon?")
    assert "known: epsilon, v_prediction, sample, flow, score, velocity_to_data, edm" in said(
        lambda: Denoiser(torch.zeros_like, VP(), "qqq")
    )
    assert "got 'velocity', which is 'flow'" in said(lambda: Denoiser(torch.zeros_like, VP(), "velocity"))
    assert "got 'data_minus_noise', which is 'velocity_to_data'" in said(
        lambda: Denoiser(torch.zeros_like, VP(), "data_minus_noise")
    )


def test_row_32_in_configurations_of_schedulers() -> None:
    read = ksched.networks.prediction_of
    assert read({"_class_name": "DDIMScheduler", "prediction_type": "eps"}) is Prediction.EPSILON
    assert read({"_class_name": "DDIMScheduler", "prediction_type": "v"}) is Prediction.V_PREDICTION
    assert read({"_class_name": "EDMEulerScheduler", "prediction_type": "eps"}) is Prediction.EDM
    assert isinstance(ksched.networks.process_of({"prediction_type": "velocity"}), Flow)
    assert isinstance(ksched.networks.process_of({"prediction_type": "of nobody"}), VP)  # which is not asked here
    assert "did you mean epsilon?" in said(lambda: SamplingConfig("fox", process={"prediction_type": "epsilom"}))


def test_row_32_a_denoiser_goes_through_pickle() -> None:
    denoiser = pickle.loads(pickle.dumps(Denoiser(torch.zeros_like, VP(), "x0")))
    assert denoiser.prediction is Prediction.SAMPLE


# ----------------------------------------------------------------------------------- row 36: curves of one's own
CURVES: dict[str, Callable[..., Any]] = {
    "steps": lambda steps: np.linspace(1, 0, steps + 1),
    "a list": lambda n: [1 - i / n for i in range(n + 1)],
    "a tensor": lambda n: torch.linspace(1, 0, n + 1, dtype=torch.float64),
    "range by name": lambda n, sigma_min, sigma_max: np.linspace(sigma_max, 0, n + 1),
    "range by place": lambda n, low, high: np.linspace(high, 0, n + 1),
    "one end": lambda n, sigma_max: np.linspace(sigma_max, 0, n + 1),
    "process": lambda n, process: np.linspace(process.sigma_max, 0, n + 1),
    "all": lambda n, process, sigma_min, sigma_max: np.linspace(sigma_max, 0, n + 1),
}


@pytest.mark.parametrize("name", CURVES)
def test_row_36_a_function_is_a_schedule(name: str) -> None:
    flow, curve = Flow(3.0), CURVES[name]
    sampler = build_sampler("euler", curve, 8, process=flow)
    assert np.allclose(sampler.sigmas, np.linspace(1, 0, 9), atol=1e-12)
    assert np.array_equal(calculate_sigmas(curve, 8, flow), sampler.sigmas)
    assert sampler.plan == build_sampler("euler", sigmas=sampler.sigmas, process=flow).plan
    assert "<lambda>" in repr(sampler)
    assert build_sampler("heun", curve, calls=9, process=flow).nfe <= 9


def test_row_36_options_of_a_curve_are_checked(curve: str) -> None:
    assert np.allclose(calculate_sigmas(curve, 2, Flow(), power=2.0), [1, 0.25, 0])
    assert calculate_sigmas(curve, 2, sigma_max=5.0)[0] == 5
    assert build_sampler("euler", curve, 2, process=Flow(), power=2.0).sigmas[1] == 0.25
    assert "did you mean 'power'?" in said(lambda: calculate_sigmas(curve, 2, pwoer=2.0))
    assert "power must be a number" in said(lambda: calculate_sigmas(curve, 2, power="2"))
    assert "takes no sigma_max" in said(lambda: calculate_sigmas(CURVES["steps"], 2, sigma_max=5.0))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda n: np.linspace(1, 0, n), "must return steps + 1 = 5 levels, the last 0; got 4"),
        (lambda n: np.linspace(0, 1, n + 1), "must be strictly decreasing"),
        (lambda n: np.zeros(n + 1), "must be strictly decreasing"),
        (lambda n: np.linspace(2, 0, n + 1), "must be at most 1"),
        (lambda n: np.linspace(1, -1, n + 1), "must be >= 0"),
        (lambda n: np.full(n + 1, np.nan), "must be finite"),
        (lambda n: None, "must be a one-dimensional list"),
        (lambda n: "karras", "must be a list of numbers"),
        (lambda n: [[1, 0]], "must be a one-dimensional list"),
        (lambda a, b: a, r"function must take (steps)"),
    ],
)
def test_row_36_what_a_curve_returns_is_checked_in_one_sentence(function: Callable[..., Any], message: str) -> None:
    found = said(lambda: build_sampler("euler", function, 4, process=Flow()))
    assert message in found
    assert ". " not in found


def test_row_36_a_registered_curve_works_by_name(curve: str) -> None:
    levels = calculate_sigmas(curve, 6)
    assert build_sampler("dpmpp_2m", curve, 6).schedule == curve
    assert np.array_equal(build_sampler("dpmpp_2m", curve, 6).sigmas, levels)
    config = SamplingConfig("fox", schedule=curve, schedule_options={"power": 2.0})
    assert SamplingConfig.from_json(config.to_json()) == config
    assert "even in sigma" in ksched.explain(f"euler+{curve}")
    assert ksched.plots.schedule_curves([curve, "karras"], 5) is not None
    assert ksched.plots.sigma_curves([curve, "karras"], 5) is not None
    assert len(schedules.stretch(curve, 4, 0.5)) == 5
    check_schedule(curve, process=VP(), final_zero=True)
    check_schedule(CURVES["steps"])
    for name in (curve, "karras", "euler", "Euler a", "dpmpp 2m"):
        assert "is taken" in said(lambda name=name: ksched.register_schedule(name, CURVES["steps"]))  # type: ignore[misc]
    assert "must be callable" in said(lambda: ksched.register_schedule("other", 3))  # type: ignore[arg-type]


def test_row_36_in_the_drop_ins(curve: str) -> None:
    diffusers = pytest.importorskip("diffusers")
    from ksched.integrations.diffusers import KSchedScheduler

    stock = diffusers.FlowMatchEulerDiscreteScheduler()
    made = KSchedScheduler.from_config(stock.config, sampler="euler", schedule=curve, power=2.0)
    made.set_timesteps(4)
    assert np.allclose(made.sigmas.numpy(), np.linspace(1, 0, 5) ** 2, atol=1e-6)
    again = KSchedScheduler.from_config(made.config)
    again.set_timesteps(4)
    assert torch.equal(again.sigmas, made.sigmas)


def test_row_36_in_the_menus_of_comfyui(curve: str) -> None:
    flow = comfy.sampling(comfy.CONST, comfy.ModelSamplingDiscreteFlow, 3.0)
    levels = comfyui.calculate_sigmas(flow, curve, 4, power=2.0)
    assert np.allclose(levels, np.linspace(1, 0, 5) ** 2, atol=1e-6)
    with comfy.installed() as host:
        assert f"ksched_{curve}" in comfyui.register(samplers=False)
        handler = host.SCHEDULER_HANDLERS[f"ksched_{curve}"].handler
        assert torch.equal(handler(flow, 4), comfyui.calculate_sigmas(flow, curve, 4))


# --------------------------------------------------------------------------------------------------- row 38: boundaries
def test_row_38_split_at_a_level() -> None:
    for sigma, steps in ((0.875, 2), (0.9, 2), (1.0, 1), (2.0, 0), (0.8, 3), (0.5, 4), (0.1, 4), (0.0, 4), (0.95, 1)):
        high, low = schedules.split_at([1, 0.9, 0.8, 0.5, 0], sigma)
        assert (high.tolist(), low.tolist()) == tuple(
            part.tolist() for part in schedules.split([1, 0.9, 0.8, 0.5, 0], steps)
        )
    assert "must be a number" in said(lambda: schedules.split_at([1, 0], "0.5"))  # type: ignore[arg-type]
    assert "must be" in said(lambda: schedules.split_at([1, 0], float("nan")))


def test_row_38_a_place_is_a_sigma_a_share_or_a_timestep() -> None:
    flow = Flow(5.0)
    levels = calculate_sigmas("simple", 40, flow)
    for sigma in (0.875, 0.9, 0.3):
        step = schedules.step_at(levels, sigma=sigma)
        assert step == (levels[:-1] >= sigma).sum()
        assert step == schedules.step_at(levels, timestep=1000 * sigma, process=flow)
    for percent in (0.0, 0.25, 0.5, 0.9, 1.0):
        step = schedules.step_at(levels, percent=percent, process=flow)
        assert step == schedules.step_at(levels, sigma=flow.sigma_after(percent))
    vp = calculate_sigmas("normal", 20)
    assert schedules.step_at(vp, percent=0.5, process=VP()) in (10, 11)
    for bad, message in (
        ({}, "takes exactly one of"),
        ({"sigma": 1.0, "percent": 0.5}, "takes exactly one of"),
        ({"percent": 0.5}, "give process="),
        ({"percent": 1.5, "process": flow}, "at most 1"),
        ({"sigma": True}, "must be a number"),
    ):
        assert message in said(lambda bad=bad: schedules.step_at(levels, **bad))  # type: ignore[misc]


# ------------------------------------------------------------------------------------------- row 42: names of elsewhere
def test_row_42_what_is_known_under_other_names() -> None:
    for word, name in {
        "rf_solver": "midpoint",
        "RF-Solver": "midpoint",
        "pingpong": "lcm",
        "euler_ge": "gradient_estimation",
        "edm": "heun",
    }.items():
        assert SamplerType.parse(word) == name
    for word, name in {"ays": "align_your_steps", "edm": "karras", "sgm": "sgm_uniform"}.items():
        assert NoiseSchedule.parse(word) == name


@pytest.mark.parametrize("name", ["res_8s", "abnorsett_2m", "stork_4"])
def test_row_42_a_sampler_that_is_not_here_names_the_nearest(name: str) -> None:
    message = said(lambda: build_sampler(name))
    assert f"ksched has no sampler {name!r}: " in message
    assert any(f"'{member}'" in message for member in SamplerType)


@pytest.mark.parametrize("name", ["lognormal", "epss", "manual"])
def test_row_42_a_schedule_that_is_not_here_names_the_nearest(name: str) -> None:
    message = said(lambda: calculate_sigmas(name, 5))
    assert f"ksched has no noise schedule {name!r}: " in message
    assert "'" in message.partition(": ")[2] or "sigmas=" in message


def test_row_42_names_in_the_messages_exist() -> None:
    words = {*SamplerType, *NoiseSchedule, *Prediction}
    for kind, table in (
        (SamplerType, SAMPLERS_ELSEWHERE),
        (NoiseSchedule, SCHEDULES_ELSEWHERE),
    ):
        for name, instead in table.items():
            assert not kind.is_name(name), name
            assert set(re.findall(r"'(\w+)'", instead)) <= words, instead


# ------------------------------------------------------------------------------------------ row 40: names as types
TYPED = """
from ksched import SamplerName, ScheduleName, build_sampler

right: SamplerName = "dpmpp_2m"
wrong: SamplerName = "dpmp_2m"
curve: ScheduleName = "karas"


def run(name: SamplerName, schedule: ScheduleName) -> None:
    build_sampler(name, schedule, 8)


run("euler", "karras")
run("eulr", "karras")
"""


def test_row_40_a_typo_in_a_name_fails_a_type_checker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = pytest.importorskip("mypy.api")
    monkeypatch.setenv("MYPYPATH", str(Path(ksched.__file__).parents[1]))
    file = tmp_path / "typed.py"
    file.write_text(TYPED)
    how = ["--follow-imports", "silent", "--ignore-missing-imports", "--no-site-packages"]  # which take half a minute
    out, _, code = api.run([str(file), *how, "--config-file", "", "--cache-dir", str(tmp_path / "cache")])
    assert code == 1, out
    lines = [line for line in out.splitlines() if "error:" in line]
    assert [int(line.partition("typed.py:")[2].partition(":")[0]) for line in lines] == [5, 6, 14]
