"""`KSchedScheduler` keeps or replaces the old class's settings, for every choice of sampler and schedule; keywords."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from representatives import each, in_turn, short

diffusers = pytest.importorskip("diffusers")

from ksched.dialects.diffusers.classes import CLASSES, LEVELS, METHOD, settings_of  # noqa: E402
from ksched.dialects.diffusers.networks import prediction_of  # noqa: E402
from ksched.integrations.diffusers.class_of import defaults_of  # noqa: E402
from ksched.integrations.diffusers.scheduler import KSchedScheduler  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
CHOICES: list[dict[str, Any]] = [
    {"sampler": "dpmpp_2m"},
    {"schedule": "karras"},
    {"sampler": "heun", "schedule": "simple"},
]


def run(scheduler: Any, model: Any, **given: Any) -> torch.Tensor:
    """A pipeline's loop over a state of a few numbers."""
    how = {"generator": torch.Generator().manual_seed(0)} if isinstance(scheduler, KSchedScheduler) else {}
    scheduler.set_timesteps(**(given or {"num_inference_steps": 5}))
    x = torch.linspace(-2, 2, 48).view(1, 3, 4, 4) * getattr(scheduler, "init_noise_sigma", 1.0)
    for t in scheduler.timesteps:
        seen = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(model(seen, t), t, x, **how, return_dict=False)[0]
    return x


# ----------------------------------------------------------------------------------------------------------- sigma_data


EDM = ["EDMEuler", "EDMDPMSolverMultistep"]


def test_row_4_edm_with_sigma_data_of_one() -> None:
    stock = diffusers.EDMEulerScheduler(sigma_data=1.0, prediction_type="epsilon")
    ours = KSchedScheduler.from_diffusers(stock)
    for scheduler in (stock, ours):
        scheduler.set_timesteps(5)
        x = torch.ones(1, 1, 2, 2) * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            x = scheduler.step(0.3 * scheduler.scale_model_input(x, t), t, x, return_dict=False)[0]
        torch.testing.assert_close(x, torch.full_like(x, 0.84976), rtol=0, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("data", [0.25, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("name", EDM)
def test_row_4_edm_as_stock(name: str, data: float, prediction: str) -> None:
    stock = getattr(diffusers, f"{name}Scheduler")(sigma_data=data, prediction_type=prediction)

    def model(x: torch.Tensor, t: Any) -> torch.Tensor:
        return torch.tanh(0.7 * x + t)

    torch.testing.assert_close(
        run(KSchedScheduler.from_diffusers(stock), model), run(stock, model), rtol=1e-4, atol=1e-4
    )


PREDICTIONS = ["epsilon", "v_prediction", "sample"]


@short(lambda data, prediction, how: data == in_turn(PREDICTIONS.index(prediction) + len(str(how)), [0.25, 1.0]))
@pytest.mark.parametrize("how", [{}, *CHOICES], ids=str)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("data", [0.25, 1.0])
@pytest.mark.parametrize("name", [*EDM, "CosineDPMSolverMultistep"])
def test_row_4_edm_with_any_choice(name: str, data: float, prediction: str, how: dict[str, Any]) -> None:
    """A perfect model, as EDM's preconditioning has it (Karras et al. 2022, table 1)."""
    config = {"_class_name": f"{name}Scheduler", "sigma_data": data, "prediction_type": prediction}
    ours = KSchedScheduler.from_diffusers(config, **how)

    def perfect(seen: torch.Tensor, t: Any) -> torch.Tensor:
        sigma = ours._iterations.sigmas[ours._index(t)]
        norm = (sigma**2 + data**2) ** 0.5
        x = seen * norm
        f = (2 - data**2 / norm**2 * x) * norm / (sigma * data)
        answers: dict[str, torch.Tensor] = {"epsilon": f, "v_prediction": -f, "sample": torch.full_like(x, 2.0)}
        return answers[prediction]

    x = run(ours, perfect)
    torch.testing.assert_close(x, torch.full_like(x, 2.0), rtol=0, atol=2e-3)


def test_sigma_data_without_a_class() -> None:
    for data in (0.5, 1.0):
        ours = KSchedScheduler(sampler="euler", schedule="karras", sigma_data=data, prediction_type="epsilon")
        f = torch.full((1, 3, 4, 4), 0.3)
        ours.set_timesteps(2)
        sigma, x = 80.0, torch.ones(1, 3, 4, 4)
        _, denoised = ours.step(f, ours.timesteps[0], x, return_dict=False)
        norm = (sigma**2 + data**2) ** 0.5
        torch.testing.assert_close(denoised, data**2 / norm**2 * x + sigma * data / norm * f, rtol=1e-4, atol=1e-6)


# ----------------------------------------------------------------------------- time from 0, which is noise, to 1: data


def flow(**config: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**config)


def of_two(x: torch.Tensor, share: Any) -> torch.Tensor:
    """What a perfect model of data that is 2 answers where it is told how much data there is: x0 - eps."""
    velocity: torch.Tensor = (2 - x) / (1 - torch.as_tensor(share, dtype=torch.float32))
    return velocity


INVERTED: list[dict[str, Any]] = [
    {"num_train_timesteps": 1},  # OmniGen
    {"shift": 3.0, "shift_terminal": 0.1},  # Mochi, LongCat without
    {"use_karras_sigmas": True},
    {"stochastic_sampling": True},
    {"use_dynamic_shifting": True, "time_shift_type": "linear"},
]
LISTED = [1.0, 0.9, 0.6, 0.4, 0.15]


@pytest.mark.parametrize("given", [{"num_inference_steps": 6}, {"sigmas": LISTED}], ids=["steps", "sigmas"])
@pytest.mark.parametrize("how", [*CHOICES, {"sampler": "euler_ancestral", "schedule": "beta"}], ids=str)
@pytest.mark.parametrize("config", INVERTED, ids=str)
def test_row_3_inverted_sigmas(config: dict[str, Any], how: dict[str, Any], given: dict[str, Any]) -> None:
    if config.get("stochastic_sampling") and "sampler" not in how:
        pytest.skip("the class's own method, which ends on noise")
    length = config.get("num_train_timesteps", 1000)
    ours = KSchedScheduler.from_config(flow(invert_sigmas=True, **config).config, **how)
    mu = {"mu": 2.0} if config.get("use_dynamic_shifting") else {}
    ours.set_timesteps(**given, **mu)
    told = ours.timesteps / length
    assert 0 <= float(told[0]) < 1e-5
    assert bool((told.diff() > -1e-6).all())
    assert float(told[-1]) < 1
    x, generator = torch.linspace(-2, 2, 48).view(1, 3, 4, 4), torch.Generator().manual_seed(0)
    for t in ours.timesteps:
        x, denoised = ours.step(of_two(x, t / length), t, x, generator, return_dict=False)
        torch.testing.assert_close(denoised, torch.full_like(x, 2.0), rtol=0, atol=1e-3)
    torch.testing.assert_close(x, torch.full_like(x, 2.0), rtol=0, atol=1e-3)


@pytest.mark.parametrize("given", [{"num_inference_steps": 6}, {"sigmas": LISTED}, {"timesteps": [1000, 700, 300]}])
@pytest.mark.parametrize("config", INVERTED[1:], ids=str)
def test_row_3_inverted_sigmas_as_stock(config: dict[str, Any], given: dict[str, Any]) -> None:
    stock = flow(invert_sigmas=True, **config)
    if config.get("stochastic_sampling"):
        with pytest.raises(ValueError, match="invert_sigmas"):
            KSchedScheduler.from_diffusers(stock)
        return
    mu = {"mu": 2.0} if config.get("use_dynamic_shifting") else {}
    ours = KSchedScheduler.from_diffusers(stock)

    def model(x: torch.Tensor, t: Any) -> torch.Tensor:
        return torch.tanh(x + t / 1000)

    torch.testing.assert_close(run(ours, model, **given, **mu), run(stock, model, **given, **mu), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.timesteps, stock.timesteps, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(ours.sigmas, stock.sigmas, rtol=1e-5, atol=1e-6)


def test_row_3_omnigen_as_stock() -> None:
    stock = flow(invert_sigmas=True, num_train_timesteps=1)
    ours = KSchedScheduler.from_diffusers(stock)
    given = {"sigmas": [1 - k / 6 for k in range(6)]}
    torch.testing.assert_close(run(ours, of_two, **given), run(stock, of_two, **given), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours.sigmas, stock.sigmas, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("how", [{}, *CHOICES], ids=str)
def test_noise_by_the_level_where_sigmas_are_inverted(how: dict[str, Any]) -> None:
    ours = KSchedScheduler.from_config(flow(invert_sigmas=True, shift=3.0).config, **how)
    ours.set_timesteps(6)
    ones, zeros = torch.ones(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    for t in ours.timesteps[1:3]:
        share = float(t) / 1000
        torch.testing.assert_close(ours.scale_noise(ones, t[None], zeros), share * ones, rtol=0, atol=1e-4)
        torch.testing.assert_close(ours.scale_noise(zeros, t[None], ones), (1 - share) * ones, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours.get_velocity(2 * ones, ones, ours.timesteps[:1]), ones)


def test_inverted_sigmas_are_saved(tmp_path: Any) -> None:
    made = KSchedScheduler.from_config(
        flow(invert_sigmas=True, num_train_timesteps=1).config, sampler="dpmpp_2m", schedule="simple"
    )
    made.save_pretrained(tmp_path)
    x = run(KSchedScheduler.from_pretrained(tmp_path), of_two)
    torch.testing.assert_close(x, torch.full_like(x, 2.0), rtol=0, atol=1e-3)


FLOWS: list[tuple[str, dict[str, Any]]] = [
    ("FlowMatchEulerDiscrete", {"shift": 3.0}),
    ("FlowMatchHeunDiscrete", {"shift": 2.0}),
    ("UniPCMultistep", {"use_flow_sigmas": True, "flow_shift": 3.0, "prediction_type": "flow_prediction"}),
    ("DPMSolverMultistep", {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}),
]


@each("flow", FLOWS)
def test_a_velocity_of_the_other_sign(flow: tuple[str, dict[str, Any]], tmp_path: Any) -> None:
    """x0 - eps, which no class of diffusers has a word for, with every choice, saved, and in training."""
    name, settings = flow
    stock = getattr(diffusers, f"{name}Scheduler")(**settings)

    def velocity(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return torch.tanh(x) * (1 + t / 1000)

    for how in ({}, *CHOICES):
        expected = run(KSchedScheduler.from_config(stock.config, **how), velocity)
        negative = KSchedScheduler.from_config(stock.config, prediction_type="velocity_to_data", **how)
        negative.save_pretrained(tmp_path)
        for scheduler in (negative, KSchedScheduler.from_pretrained(tmp_path)):
            assert torch.equal(run(scheduler, lambda x, t: -velocity(x, t)), expected)
        x0, eps = torch.full((1, 2), 3.0), torch.ones(1, 2)
        assert torch.equal(negative.get_velocity(x0, eps, torch.tensor([500])), x0 - eps)
        assert prediction_of(negative) == "velocity_to_data"


def test_a_network_told_how_much_data_there_is() -> None:
    from ksched import build_sampler
    from ksched.dialects.diffusers import networks

    def network(hidden: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        assert float(timestep.max()) < length
        return of_two(hidden, (timestep / length).view(-1, 1))

    for length in (1, 1000):
        scheduler = flow(invert_sigmas=True, num_train_timesteps=length, shift=3.0)
        denoiser = networks.from_diffusers(network, scheduler)
        sampler = build_sampler("dpmpp_2m", "simple", 5, process=denoiser.process)
        x = sampler.sample(denoiser, torch.randn(2, 3, generator=torch.Generator().manual_seed(0)))
        torch.testing.assert_close(x, torch.full_like(x, 2.0), rtol=0, atol=1e-4)
    with pytest.raises(ValueError, match="invert_sigmas=True"):
        networks.process_of(scheduler)


# ------------------------------------------------------------------------------------- every setting of every class


#: another value than the default for every setting of every class
VALUES: dict[str, list[Any]] = {
    "num_train_timesteps": [500],
    "beta_start": [0.00085],
    "beta_end": [0.012],
    "beta_schedule": ["scaled_linear", "squaredcos_cap_v2"],
    "trained_betas": [np.linspace(0.001, 0.02, 1000).tolist()],
    "prediction_type": ["v_prediction", "sample"],
    "timestep_spacing": ["leading", "trailing", "linspace"],
    "steps_offset": [1],
    "rescale_betas_zero_snr": [True],
    "snr_shift_scale": [1.0],
    "use_karras_sigmas": [True],
    "use_exponential_sigmas": [True],
    "use_beta_sigmas": [True],
    "use_lu_lambdas": [True],
    "interpolation_type": ["log_linear"],
    "timestep_type": ["continuous"],
    "sigma_min": [0.05],
    "sigma_max": [8.0],
    "sigma_data": [1.0, 0.25],
    "sigma_schedule": ["exponential"],
    "rho": [5.0],
    "final_sigmas_type": ["sigma_min"],
    "lambda_min_clipped": [-1.0],
    "use_flow_sigmas": [True],
    "flow_shift": [3.0],
    "shift": [3.0],
    "use_dynamic_shifting": [True],
    "time_shift_type": ["linear"],
    "shift_terminal": [0.1],
    "invert_sigmas": [True],
    "base_shift": [0.6],
    "max_shift": [2.0],
    "base_image_seq_len": [128],
    "max_image_seq_len": [8192],
    "thresholding": [True],
    "dynamic_thresholding_ratio": [0.9],
    "sample_max_value": [3.0],
    "clip_sample": [True],
    "clip_sample_range": [3.0],
    "variance_type": ["fixed_large", "fixed_large_log", "learned", "learned_range"],
    "solver_order": [3],
    "algorithm_type": ["sde-dpmsolver++", "noise_prediction"],
    "solver_type": ["heun", "bh1"],
    "lower_order_final": [False, True],
    "euler_at_final": [True],
    "predict_x0": [False],
    "disable_corrector": [[0], [2]],
    "solver_p": [None],
    "predictor_order": [3],
    "corrector_order": [3],
    "tau_func": [None],
    "skip_prk_steps": [True],
    "set_alpha_to_one": [False],
    "timestep_scaling": [5.0],
    "original_inference_steps": [20],
    "stochastic_sampling": [True],
    "scale_factors": [[0.5, 1.0]],
    "upscale_mode": ["nearest"],
    "eta": [0.5],
    "s_noise": [0.9],
    "noise_sampler_seed": [3],
}
OWN_CHOICES: list[dict[str, Any]] = [{"sampler": "dpmpp_2m"}, {"sampler": "heun", "schedule": "simple"}]


TABLE = "num_train_timesteps beta_start beta_end beta_schedule trained_betas rescale_betas_zero_snr snr_shift_scale"


def truth(name: str, config: dict[str, Any]) -> Any:
    """A model of data that is .8 at every point, from what the class itself says of its levels.

    It is handed what the network sees and is told, and answers as its configuration says that it does.
    """
    s, data = {**defaults_of(name), **config}, 0.8
    if name == "SCMScheduler":

        def of_angle(seen: torch.Tensor, t: Any) -> torch.Tensor:
            answer: torch.Tensor = (math.cos(float(t)) * seen - data) / max(math.sin(float(t)), 1e-9)
            return answer

        return of_angle
    if name.startswith(("FlowMa", "LTX", "MiniMax")) or s.get("use_flow_sigmas"):
        share = name.startswith("MiniMax")
        length = 1 if share else s["num_train_timesteps"]
        sign = -1 if share or s.get("invert_sigmas") else 1

        def flow_model(seen: torch.Tensor, t: Any) -> torch.Tensor:
            sigma = 1 - float(t) / length if sign < 0 else float(t) / length
            velocity: torch.Tensor = sign * (seen - data) / sigma
            return velocity

        return flow_model
    table: np.ndarray | None = None
    if s.get("sigma_data") is None and s.get("timestep_type") != "continuous":
        told = {key: value for key, value in s.items() if key in TABLE.split()}
        table_of = diffusers.CogVideoXDDIMScheduler if "snr_shift_scale" in s else diffusers.DDIMScheduler
        alpha_bar = table_of(**told).alphas_cumprod.double().numpy()
        table = 0.5 * (np.log1p(-alpha_bar) - np.log(np.maximum(alpha_bar, 2.0**-24)))
    size = s.get("sigma_data") or 1.0

    def model(seen: torch.Tensor, t: Any) -> torch.Tensor:
        if table is not None:
            sigma = math.exp(np.interp(float(t), np.arange(len(table)), table))
        else:
            sigma = math.tan(float(t) * math.pi / 2) if name.startswith("Cosine") else math.exp(4 * float(t))
        a, b = size / math.hypot(size, sigma), sigma / math.hypot(size, sigma)
        if s.get("sigma_data") is not None:  # the network sees (x0 + sigma * eps) / norm, and answers with F
            v = (a * seen * size - data) / (b * size)
            return {"epsilon": -v, "v_prediction": v, "sample": torch.full_like(seen, data)}[s["prediction_type"]]
        eps = (seen - a * data) / b
        v = a * eps - b * data
        kinds = {"epsilon": eps, "v_prediction": v, "sample": torch.full_like(seen, data)}
        answer = kinds[s.get("prediction_type", "epsilon")]
        return torch.cat([answer, 0 * answer], 1) if str(s.get("variance_type")).startswith("learned") else answer

    return model


def configured(name: str, config: dict[str, Any]) -> dict[str, Any]:
    """A whole configuration that has a setting, with what that needs."""
    more: dict[str, Any] = {}
    if "beta_start" in defaults_of(name) and not config.keys() & {"beta_start", "beta_end", "beta_schedule"}:
        more |= SD
    if config.keys() & {"flow_shift", "use_flow_sigmas", "shift_terminal"} and name.startswith(
        ("DPM", "Uni", "DEIS", "SA")
    ):
        more |= {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    if config.keys() & {"timestep_type", "rescale_betas_zero_snr"}:
        more |= {"prediction_type": "v_prediction"}
    return more | config


NAMES = [name for name in CLASSES if "Parallel" not in name and name != "DPMSolverSDEScheduler"]  # needs torchsde


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_represented_or_refused(name: str) -> None:
    cases = [{}, *({setting: value} for setting in defaults_of(name) for value in VALUES[setting])]
    for number, case in enumerate(cases):
        config, how = configured(name, case), OWN_CHOICES[number % 2]
        if name == "IPNDMScheduler" or "Inverse" in name or "scale_factors" in case:
            with pytest.raises(ValueError, match=r"leave out sampler and schedule|scale_factors=None"):
                KSchedScheduler.from_diffusers({"_class_name": name, **config}, **how)
            continue
        ours = KSchedScheduler.from_diffusers({"_class_name": name, **config}, **how)
        mu = {"mu": 1.0} if ours.config.use_dynamic_shifting else {}
        x = run(ours, truth(name, config), num_inference_steps=8, **mu)
        last = float(ours._iterations.sigmas[-1])
        assert (last > 0) == ("final_sigmas_type" in case), case
        # where the run ends above 0, so much noise is left
        assert (x - 0.8).abs().max() < (4 * last if last else 2e-3), case


def test_the_lists_of_settings_are_of_settings_that_there_are() -> None:
    there = {setting for name in CLASSES for setting in settings_of(name) | set(defaults_of(name))}
    assert there - {"tau"} >= (LEVELS | METHOD) - {"noise_sampler_seed", "tau"}
    assert not LEVELS & METHOD


@pytest.mark.parametrize("how", OWN_CHOICES, ids=str)
def test_the_noisy_end_is_cut_where_the_class_cuts_it(how: dict[str, Any]) -> None:
    stock = diffusers.DPMSolverMultistepScheduler(beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1)
    ours = KSchedScheduler.from_config(stock.config, **how)
    ours.set_timesteps(8)
    stock.set_timesteps(8)
    assert abs(float(ours.timesteps[0]) - float(stock.timesteps[0])) <= 1
    assert float(ours._iterations.sigmas[0]) <= math.exp(5.1)
    with pytest.raises(ValueError, match="lambda_min_clipped=99 cuts every level"):
        KSchedScheduler.from_diffusers(stock, sampler="euler", schedule="simple", lambda_min_clipped=99).set_timesteps(
            4
        )


def test_learned_variance_on_levels_of_ours() -> None:
    """The network's variance is the noise's, as on the levels of the class."""
    stock = diffusers.DDPMScheduler(variance_type="learned", clip_sample=False)
    quiet, loud = (
        run(
            KSchedScheduler.from_diffusers(stock, schedule="karras"),
            lambda x, t, size=size: torch.cat([0 * x, size + 0 * x], 1),
        )
        for size in (0.0, 0.01)
    )
    without = KSchedScheduler.from_diffusers(
        diffusers.DDPMScheduler(clip_sample=False), schedule="karras", sampler_options={"s_noise": 0.0}
    )
    torch.testing.assert_close(quiet, run(without, lambda x, t: 0 * x))
    assert (loud - quiet).std() > 0.05


@pytest.mark.parametrize("name", ["KDPM2Discrete", "KDPM2AncestralDiscrete", "LMSDiscrete", "LCM", "TCD"])
def test_a_class_that_cannot_be_told_keeps_its_settings(name: str) -> None:
    stock = getattr(diffusers, f"{name}Scheduler")()
    ours = KSchedScheduler.from_config(stock.config, sampler="euler", schedule="karras")
    torch.testing.assert_close(ours.alphas_cumprod, stock.alphas_cumprod, rtol=1e-4, atol=0)


def test_classes_with_a_loop_of_their_own() -> None:
    how = {"sampler": "dpmpp_2m", "schedule": "karras"}
    for name in ("CogVideoXDPM", "RePaint", "UnCLIP"):
        stock = getattr(diffusers, f"{name}Scheduler")()
        for config in (stock, {"_class_name": f"{name}Scheduler"}):
            ours = KSchedScheduler.from_diffusers(config, **how)
            assert ours.config.prediction_type in (None, stock.config.get("prediction_type", "epsilon"))
            torch.testing.assert_close(ours.alphas_cumprod.float(), stock.alphas_cumprod.float(), rtol=1e-3, atol=1e-6)
    for name in (
        "KarrasVe",
        "CMStochasticIterative",
        "ScoreSdeVe",
        "DDPMWuerstchen",
        "Helios",
    ):
        with pytest.raises(ValueError, match="has no drop-in in ksched"):
            KSchedScheduler.from_diffusers(getattr(diffusers, f"{name}Scheduler")(), **how)
    mine = KSchedScheduler.from_config({"_class_name": "MineScheduler", **SD}, **how)  # of someone else's
    assert mine.config.beta_start == 0.00085


# ------------------------------------------------------------------------------------ where a class divides by nothing
def test_inversion_from_x0_predictions_needs_noise_in_its_first_state() -> None:
    """The class divides by the noise of an image that has none, and answers with no number."""

    def model(x: torch.Tensor, t: Any) -> torch.Tensor:
        return torch.tanh(x + t / 1000)

    stock = diffusers.DDIMInverseScheduler(prediction_type="sample")
    assert not torch.isfinite(run(stock, model)).all()
    with pytest.raises(ValueError, match="set set_alpha_to_one=False"):
        run(KSchedScheduler.from_diffusers(stock), model)
    stock = diffusers.DDIMInverseScheduler(prediction_type="sample", set_alpha_to_one=False)
    torch.testing.assert_close(run(KSchedScheduler.from_diffusers(stock), model), run(stock, model), rtol=1e-4, atol=0)


def test_one_step_of_ipndm_answers_with_the_prediction() -> None:
    """The class divides by an alpha of 0, replaced by 1e-8, and so returns 0 for any network output."""
    stock = diffusers.IPNDMScheduler()

    def model(x: torch.Tensor, t: Any) -> torch.Tensor:
        return torch.full_like(x, -0.7)

    assert run(stock, model, num_inference_steps=1).abs().max() == 0
    made = run(KSchedScheduler.from_diffusers(stock), model, num_inference_steps=1)
    torch.testing.assert_close(made, torch.full_like(made, 0.7))


def test_a_level_that_a_list_for_flow_maps_repeats_changes_nothing() -> None:
    """The class finds its place by the timestep, does the step without length twice, and skips the one after it."""
    stock = diffusers.FlowMapEulerDiscreteScheduler()

    def model(x: torch.Tensor, t: Any) -> torch.Tensor:
        return x * 0.5 + 0.1

    once, twice = ({"sigmas": [0.9, *[0.6] * count, 0.3]} for count in (1, 2))
    ours = KSchedScheduler.from_diffusers(stock)
    torch.testing.assert_close(run(ours, model, **twice), run(stock, model, **once))
    assert (run(stock, model, **twice) - run(stock, model, **once)).abs().max() > 0.1


def test_a_function_is_no_option() -> None:
    with pytest.raises(ValueError, match="tau_func is a function"):
        KSchedScheduler.from_diffusers(diffusers.SASolverScheduler(tau_func=lambda t: 0.5))


# ------------------------------------------------------------------------------------------------------------- keywords


def test_options_as_keywords() -> None:
    config = diffusers.DDIMScheduler(**SD).config
    ours = KSchedScheduler.from_config(config, sampler="euler_ancestral", schedule="karras", eta=0.0, rho=5.0)
    assert ours.config.sampler_options == {"eta": 0.0}
    assert ours.config.schedule_options == {"rho": 5.0}
    x = run(ours, lambda x, t: torch.tanh(x))
    calm = KSchedScheduler.from_config(config, sampler="euler", schedule="karras", schedule_options={"rho": 5.0})
    torch.testing.assert_close(x, run(calm, lambda x, t: torch.tanh(x)), rtol=1e-4, atol=1e-4)


#: (class, keywords, the options that they become)
BECOME: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("DDIM", {"sampler": "dpmpp_2m_sde", "schedule": "karras", "solver_type": "heun"}, {"solver_type": "heun"}),
    ("DDIM", {"sampler": "sa_solver", "schedule": "karras", "predictor_order": 2}, {"predictor_order": 2}),
    ("DDIM", {"sampler": "lcm", "schedule": "simple", "sigma_data": 0.4}, {"sigma_data": 0.4}),
    ("DDIM", {"sampler": "er_sde", "s_noise": 0.9}, {"s_noise": 0.9}),
    ("DDIM", {"eta": 0.5}, {"eta": 0.5}),
    ("TCD", {"eta": 0.5}, {"eta": 0.5}),
    ("EulerAncestralDiscrete", {"eta": 0.5, "schedule": "karras"}, {"eta": 0.5}),
    ("EulerAncestralDiscrete", {"eta": 0.5}, {"eta": 0.5}),
    ("LTXEulerAncestralRF", {"sampler": "euler_ancestral", "eta": 0.5}, {"eta": 0.5}),
    ("DDIM", {"sampler": "euler_ancestral", "eta": 0.5, "sampler_options": {"eta": 0.5, "s_noise": 0.9}},
     {"eta": 0.5, "s_noise": 0.9}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "keywords", "options"), BECOME)
def test_keywords_that_become_options(name: str, keywords: dict[str, Any], options: dict[str, Any]) -> None:
    ours = KSchedScheduler.from_diffusers({"_class_name": f"{name}Scheduler"}, **keywords)
    assert ours.config.sampler_options == options
    ours.set_timesteps(5)
    again = KSchedScheduler.from_config(ours.config)
    assert again.config.sampler_options == options


def test_options_of_a_saved_scheduler_are_changed_one_by_one(tmp_path: Any) -> None:
    config = diffusers.DDIMScheduler(**SD).config
    how = {"sampler": "euler_ancestral", "schedule": "karras"}
    KSchedScheduler.from_config(config, **how, eta=0.3, s_noise=0.9).save_pretrained(tmp_path)
    ours = KSchedScheduler.from_pretrained(tmp_path, eta=0.5)
    assert ours.config.sampler_options == {"eta": 0.5, "s_noise": 0.9}
    with pytest.raises(TypeError, match=r"no parameter 'etaa'.*did you mean 'eta'"):
        KSchedScheduler.from_pretrained(tmp_path, etaa=0.5)
    assert KSchedScheduler.from_pretrained(tmp_path, variant=None, torch_dtype=torch.float16, _commit_hash="a")


#: (class, keywords, what is said)
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("DDIM", {"use_karras_sigma": True}, "no parameter 'use_karras_sigma'.*did you mean 'use_karras_sigmas'"),
    ("DDIM", {"sampler": "euler", "schedule": "karras", "use_karras_sigma": True}, "did you mean 'use_karras_sigmas'"),
    ("DDIM", {"sampler": "euler_ancestral", "etta": 0.0}, "did you mean 'eta'"),
    ("DDIM", {"sampler": "euler", "schedule": "karras", "rh": 5.0}, "did you mean 'rho'"),
    ("DDIM", {"sampler": "euler", "shcedule": "karras"}, "did you mean 'schedule'"),
    ("DDIM", {"predition_type": "sample"}, "did you mean 'prediction_type'"),
    ("DDIM", {"sampler": "euler", "nonsense": 1}, "no parameter 'nonsense'"),
    ("DDIM", {"sampler": "euler", "schedule": "karras", "eta": 1.0}, "no parameter 'eta'"),
    ("EulerDiscrete", {"sampler": "euler_ancestral", "eta": 0.0, "sampler_options": {"eta": 1.0}}, "given twice"),
    ("EulerDiscrete", {"schedule": "karras", "rho": 5.0, "schedule_options": {"rho": 7.0}}, "given twice"),
    ("EulerDiscrete", {"sampler": "euler", "schedule": "simple", "use_karras_sigmas": True}, "'simple' replaces"),
    ("EulerDiscrete", {"schedule": "karras", "timestep_spacing": "trailing"}, "schedule='karras' replaces"),
    ("DPMSolverMultistep", {"sampler": "euler", "algorithm_type": "sde-dpmsolver++"}, "sampler='euler' replaces"),
    ("DPMSolverMultistep", {"sampler": "euler", "solver_order": 3}, "sampler='euler' replaces"),
    ("LCM", {"sampler": "lcm", "timestep_scaling": 5.0}, "sampler='lcm' replaces"),
    ("DDIM", {"use_karras_sigmas": True}, "DDIMScheduler has no such setting"),
    ("UniPCMultistep", {"shift": 3.0}, "UniPCMultistepScheduler has no such setting"),
    ("DDIM", {"sampler": "euler", "schedule": "simple", "shift": 3.0}, "this is not a flow model"),
    ("DDIM", {"sampler": "euler", "schedule": "simple", "invert_sigmas": True}, "this is not a flow model"),
    ("FlowMatchEulerDiscrete", {"sampler": "euler", "beta_start": 0.001}, "no table of betas"),
    ("FlowMatchEulerDiscrete", {"sampler": "euler", "schedule": "simple", "flow_shift": 3.0}, "'shift' instead"),
    ("FlowMatchEulerDiscrete", {"sampler": "euler", "prediction_type": "epsilon"}, "predict 'flow_prediction'"),
    ("EDMEuler", {"sampler": "euler", "beta_end": 0.1}, "no table of betas"),
    ("EulerDiscrete", {"sampler": "euler", "sigma_data": 0.5}, "has no such setting"),
    ("DDIM", {"sampler": "euler", "final_sigmas_type": "sigma_min"}, "has no such setting"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "keywords", "says"), REFUSED)
def test_keywords_that_nothing_would_heed(name: str, keywords: dict[str, Any], says: str) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        KSchedScheduler.from_diffusers({"_class_name": f"{name}Scheduler"}, **keywords)


#: keywords that say what holds anyway, or nothing
ACCEPTED: list[tuple[str, dict[str, Any]]] = [
    ("EulerDiscrete", {"sampler": "euler", "schedule": "karras", "use_karras_sigmas": True}),
    ("EulerDiscrete", {"sampler": "euler", "schedule": "simple", "use_karras_sigmas": False}),
    ("EulerDiscrete", {"sampler": "euler", "use_karras_sigmas": True}),
    ("EulerDiscrete", {"sampler": "euler", "schedule": "simple", "timestep_spacing": "linspace"}),
    ("EulerDiscrete", {"timestep_spacing": "trailing"}),
    ("EulerDiscrete", {"sampler": "dpmpp_2m", "timestep_spacing": "trailing"}),
    ("DDIM", {"sampler": "euler", "schedule": "simple", "shift": 1.0}),
    ("DDPM", {"sampler": "euler", "schedule": "simple", "variance_type": "fixed_small"}),
    ("DDIM", {"sampler": "euler", "schedule": "simple", "thresholding": True, "sample_max_value": 2.0}),
    ("DDIM", {"sampler": "euler", "schedule": "simple", "sigma_max": 10.0, "rescale_betas_zero_snr": None}),
    ("DDIM", {"sampler": "euler", "schedule": "simple", "prediction_type": "flow_prediction", "shift": 3.0}),
    ("UniPCMultistep", {"use_flow_sigmas": True, "sampler": "euler", "shift": 3.0}),
    ("FlowMatchEulerDiscrete", {"sampler": "euler", "schedule": "simple", "shift": 3.0, "max_shift": 2.0}),
    ("FlowMatchEulerDiscrete", {"schedule": "ltxv", "max_shift": 2.0}),
    ("DDIM", {"trained_betas": [0.01, 0.02], "num_train_timesteps": 2}),
    ("DPMSolverSDE", {"prediction_type": "v_prediction"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "keywords"), ACCEPTED)
def test_keywords_that_are_heeded_or_say_nothing(name: str, keywords: dict[str, Any]) -> None:
    ours = KSchedScheduler.from_diffusers({"_class_name": f"{name}Scheduler"}, **keywords)
    for key, value in keywords.items():
        assert ours.config[key] == value or value is None


def test_what_a_configuration_carries_along_is_not_judged() -> None:
    config = {**diffusers.DDIMScheduler(**SD).config, "use_karras_sigmas": True, "shift": 3.0, "nonsense": 1, "_x": 2}
    ours = KSchedScheduler.from_config(config, sampler="euler", schedule="simple", nonsense=3)
    assert ours.config.nonsense == 3
    ours.set_timesteps(3)
    made, unused = KSchedScheduler.from_config(
        config, return_unused_kwargs=True, sampler="euler", schedule="simple", other=1, _private=2
    )
    assert made.config.sampler == "euler"
    assert unused["other"] == 1
    assert unused["_private"] == 2


# ---------------------------------------------------------------------------------------------------------- constructor


def test_names_by_place() -> None:
    with pytest.raises(TypeError, match=r"give sampler='dpmpp_2m', schedule='karras' by keyword"):
        KSchedScheduler("dpmpp_2m", "karras")
    with pytest.raises(TypeError, match=r"give sampler='dpmpp_2m' by keyword"):
        KSchedScheduler("dpmpp_2m")
    with pytest.raises(TypeError, match="num_train_timesteps must be a whole number"):
        KSchedScheduler(num_train_timesteps="1000")
    with pytest.raises(ValueError, match="num_train_timesteps must be at least 1"):
        KSchedScheduler(num_train_timesteps=0)
    with pytest.raises(TypeError, match="positional argument"):
        KSchedScheduler(1000, 0.0001, 0.02, "linear", None, "dpmpp_2m")
    assert KSchedScheduler(1000, 0.00085, 0.012, "scaled_linear", sampler="euler").config.beta_start == 0.00085


@pytest.mark.filterwarnings("error::UserWarning")
def test_betas_that_nobody_chose(tmp_path: Any) -> None:
    with pytest.warns(UserWarning, match=r"DDPM's linear betas.*from_config\(pipe.scheduler.config"):
        made = KSchedScheduler(sampler="dpmpp_2m", schedule="karras")
    torch.testing.assert_close(made.alphas_cumprod, diffusers.DDPMScheduler().alphas_cumprod, rtol=1e-4, atol=1e-7)
    made.save_pretrained(tmp_path)
    KSchedScheduler.from_pretrained(tmp_path)
    KSchedScheduler(sampler="dpmpp_2m", schedule="karras", beta_schedule="linear")
    KSchedScheduler(sampler="dpmpp_2m", prediction_type="flow_prediction")
    KSchedScheduler(sampler="dpmpp_2m", sigma_data=0.5)
    KSchedScheduler(stock_class="DDPMScheduler", sampler="dpmpp_2m")
    KSchedScheduler.from_config(diffusers.DDPMScheduler().config, sampler="dpmpp_2m", schedule="karras")


def test_a_saved_configuration_with_the_words_of_an_earlier_version() -> None:
    config = diffusers.DPMSolverMultistepScheduler().config
    now = KSchedScheduler.from_config(config, sampler="deis", sampler_options={"order": 2})
    for earlier in (
        KSchedScheduler.from_config({**now.config, "sampler_options": {"max_order": 2}}),
        KSchedScheduler.from_config(config, sampler="deis", max_order=2),
    ):
        x = torch.ones(1, 3)
        results = []
        for scheduler in (now, earlier):
            scheduler.set_timesteps(4)
            state = x * scheduler.init_noise_sigma
            for t in scheduler.timesteps:
                state = scheduler.step(0.3 * scheduler.scale_model_input(state, t), t, state).prev_sample
            results.append(state)
        assert torch.equal(*results)
