"""Settings of the class that `KSchedScheduler` replaces, with every choice of sampler and schedule; keywords."""

from __future__ import annotations

from typing import Any

import pytest
import torch

diffusers = pytest.importorskip("diffusers")

from ksched.integrations.diffusers import KSchedScheduler  # noqa: E402

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


# ------------------------------------------------------------------------------------------------------------ sigma_data


EDM = ["EDMEuler", "EDMDPMSolverMultistep"]


def test_edm_with_sigma_data_of_one() -> None:
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
def test_edm_as_stock(name: str, data: float, prediction: str) -> None:
    stock = getattr(diffusers, f"{name}Scheduler")(sigma_data=data, prediction_type=prediction)

    def model(x: torch.Tensor, t: Any) -> torch.Tensor:
        return torch.tanh(0.7 * x + t)

    torch.testing.assert_close(
        run(KSchedScheduler.from_diffusers(stock), model), run(stock, model), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("how", [{}, *CHOICES], ids=str)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("data", [0.25, 1.0])
@pytest.mark.parametrize("name", [*EDM, "CosineDPMSolverMultistep"])
def test_edm_with_any_choice(name: str, data: float, prediction: str, how: dict[str, Any]) -> None:
    """A perfect model, as EDM's preconditioning has it (Karras et al. 2022, table 1)."""
    config = {"_class_name": f"{name}Scheduler", "sigma_data": data, "prediction_type": prediction}
    ours = KSchedScheduler.from_diffusers(config, **how)

    def perfect(seen: torch.Tensor, t: Any) -> torch.Tensor:
        sigma = ours._iterations.sigmas[ours._index(t)]
        norm = (sigma**2 + data**2) ** 0.5
        x = seen * norm
        f = (2 - data**2 / norm**2 * x) * norm / (sigma * data)
        return {"epsilon": f, "v_prediction": -f, "sample": torch.full_like(x, 2.0)}[prediction]

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


# -------------------------------------------------------------------------------- time from 0, which is noise, to 1: data


def flow(**config: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(**config)


def of_two(x: torch.Tensor, share: Any) -> torch.Tensor:
    """What a perfect model of data that is 2 answers where it is told how much data there is: x0 - eps."""
    share = torch.as_tensor(share, dtype=torch.float32)
    return (2 - x) / (1 - share)


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
def test_inverted_sigmas(config: dict[str, Any], how: dict[str, Any], given: dict[str, Any]) -> None:
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
def test_inverted_sigmas_as_stock(config: dict[str, Any], given: dict[str, Any]) -> None:
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


def test_omnigen_as_stock() -> None:
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


def test_a_network_told_how_much_data_there_is() -> None:
    from ksched import build_sampler, networks

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
