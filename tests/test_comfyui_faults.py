"""What people hit in ComfyUI, row by row: which method a node is on flow models, and whose noise an image has."""

from __future__ import annotations

from typing import Any

import fake_comfy as comfy
import numpy as np
import pytest
import torch
from representatives import each

import ksched
from ksched import exact
from ksched.integrations.comfyui import sampler_function
from ksched.integrations.comfyui.nodes import NODES
from ksched.samplers.registry import samplers

FLOW: Any = comfy.sampling(comfy.CONST, comfy.ModelSamplingDiscreteFlow, 3.0)
EPS: Any = comfy.sampling(comfy.EPS, comfy.ModelSamplingDiscrete)
KINDS = {"flow": FLOW, "eps": EPS}
NODE = {node.name: node for node in NODES}
NAMES = [spec.name for spec in samplers()]


def levels(kind: str, steps: int = 6) -> torch.Tensor:
    return ksched.integrations.comfyui.calculate_sigmas(KINDS[kind], "simple", steps).double()


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


# -------------------------------------------------------------------------------------------------------------- row 1b


def denoiser(process: ksched.Process) -> ksched.Denoiser:
    """Exact for data of mean 0 and std 1/2, from a network that predicts x0."""

    def network(x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        sigma = torch.as_tensor(process.sigma(timestep.double()))
        alpha = torch.as_tensor(process.alpha(sigma.numpy())).reshape(-1, 1)
        return x * alpha * 0.25 / (alpha**2 * 0.25 + sigma.reshape(-1, 1) ** 2)

    return ksched.Denoiser(network, process, prediction="sample")


@pytest.mark.parametrize("name", ["dpmpp_2m_sde", "euler", "dpmpp_2m", "euler_ancestral"])
def test_row_1b_a_function_takes_the_process_of_a_denoiser(name: str) -> None:
    process = ksched.Flow()
    sigmas = torch.tensor([1.0, 0.5, 0.2, 0.0])
    model, x = denoiser(process), normal(4, 8)
    expected = ksched.build_sampler(name, sigmas=sigmas, process=process, dialect="comfyui").sample(model, x, seed=1)
    function = sampler_function(name)
    assert torch.equal(function(model, x, sigmas, {"seed": 1}), expected)

    class Around:
        """Guidance of a program's own."""

        inner_model = model

        def __call__(self, x: torch.Tensor, sigma: torch.Tensor, **more: Any) -> Any:
            return self.inner_model(x, sigma)

    torch.testing.assert_close(function(Around(), x, sigmas, {"seed": 1}), expected)


def test_row_1b_a_model_that_knows_its_process_shows_both_predictions() -> None:
    """CFG++ takes them as `Sampler.sample` does."""

    class Pair:
        process = ksched.Flow()

        def __call__(self, x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return 0.9 * x, 0.7 * x

    sigmas, x = torch.tensor([1.0, 0.5, 0.2, 0.0]), normal(4, 1)
    sampler = ksched.build_sampler("euler_cfg_pp", sigmas=sigmas, process=Pair.process, dialect="comfyui")
    result = sampler_function("euler_cfg_pp")(Pair(), x, sigmas, {"seed": 1, "model_options": {}})
    assert torch.equal(result, sampler.sample(Pair(), x))


# -------------------------------------------------------------------------------------------------------------- row 11

#: whose ComfyUI's own overshoots on flow, and a sampler of the same kind of first order that does not
OVERSHOOT = {
    "dpmpp_2m_cfg_pp": "euler_cfg_pp",
    "res_multistep_cfg_pp": "euler_cfg_pp",
    "gradient_estimation_cfg_pp": "euler_cfg_pp",
    "dpmpp_2s_ancestral_cfg_pp": "euler_ancestral_cfg_pp",
    "res_multistep_ancestral_cfg_pp": "euler_ancestral_cfg_pp",
    "res_multistep_ancestral": "euler_ancestral",
    "ddpm": "euler_ancestral",
    "tcd": "euler_ancestral",
    "restart": "euler_ancestral",
}


class Mixture(comfy.Guider):
    """Guidance from a mixture of two to one of them."""

    def __init__(self) -> None:
        super().__init__(FLOW, 1.3)
        process, var = ksched.Flow(3.0), np.array([[0.05]])
        self._uncond = exact.GaussianMixture(
            [0.7, 0.3], np.array([[-1.0], [1.0]]), np.stack([var, var]), process=process
        )
        self._cond = exact.Gaussian(np.array([-1.0]), var, process=process)

    def predict(self, x: torch.Tensor, sigma: torch.Tensor, mean: float) -> torch.Tensor:
        return (self._cond if mean > 0 else self._uncond)(x, sigma)


def guided_mean(name: str, **how: Any) -> float:
    noise = normal(2000, 1).double()
    with comfy.installed():
        sampler = NODE[f"KSchedSampler_{name}"].run(**how)
    return float(Mixture().sample(noise, torch.zeros_like(noise), sampler, levels("flow", 24), seed=3).mean())


@pytest.mark.parametrize("name", OVERSHOOT)
def test_row_11_a_node_does_not_overshoot_on_flow(name: str) -> None:
    """ComfyUI's own does, which is there for whoever asks for it."""
    right = guided_mean(OVERSHOOT[name])
    assert guided_mean(name) == pytest.approx(right, abs=0.06)
    assert guided_mean(name) == guided_mean(name, dialect="auto") == guided_mean(name, dialect="ksched")
    assert guided_mean(name, dialect="comfyui") < right - 0.15


@pytest.mark.parametrize("kind", KINDS)
@each("name", [name for name in NAMES if name != "restart"])  # which draws nothing in so few steps
def test_row_11_elsewhere_a_node_is_comfyui_s_own(name: str, kind: str) -> None:
    noise = normal(2, 4).double()

    def result(dialect: str) -> torch.Tensor:
        sampler = comfy.KSAMPLER(sampler_function(name, dialect=dialect))
        return comfy.Guider(KINDS[kind], 1.5).sample(noise, torch.zeros_like(noise), sampler, levels(kind), seed=3)

    own = "ksched" if kind == "flow" and name in OVERSHOOT else "comfyui"
    assert torch.equal(result("auto"), result(own))
    if own == "ksched":
        assert not torch.allclose(result("comfyui"), result("auto"))


@pytest.mark.parametrize(("name", "options"), [("euler", {"s_churn": 4.0}), ("dpm_adaptive", {"eta": 1.0})])
def test_row_11_what_draws_noise_by_an_option_does_not_overshoot(name: str, options: dict[str, float]) -> None:
    noise = normal(2000, 1).double()

    def result(dialect: str, **given: Any) -> torch.Tensor:
        sampler = comfy.KSAMPLER(sampler_function(name, dialect=dialect, **given))
        return comfy.Guider(FLOW).sample(noise, torch.zeros_like(noise), sampler, levels("flow", 24), seed=3)

    assert torch.equal(result("auto", **options), result("ksched", **options))
    assert not torch.allclose(result("auto", **options), result("comfyui", **options))
    assert torch.equal(result("auto"), result("comfyui"))
    assert torch.equal(result("auto", as_ve=True, **options), result("comfyui", **options))


def test_row_11_the_tooltip_says_so() -> None:
    for name in ("KSchedSampler", "KSchedSampler_ddpm"):
        (shown,) = (given for given in NODE[name].inputs if given.name == "dialect")
        assert (shown.default, shown.choices) == ("auto", ("auto", "comfyui", "ksched"))
        assert "on flow models where ComfyUI's own overshoots" in shown.tooltip
        assert "comfyui: ComfyUI's own numbers on flow models too" in shown.tooltip
    (shown,) = (given for given in NODE["KSchedSigmas"].inputs if given.name == "dialect")
    assert (shown.default, shown.choices) == ("comfyui", ("comfyui", "ksched"))


# -------------------------------------------------------------------------------------------------------------- row 12

STOCHASTIC = [spec.name for spec in samplers() if spec.draws != 0]


def batch(count: int = 4, **more: Any) -> dict[str, Any]:
    return {"samples": torch.zeros(count, 2, 3, 3), **more}


def sampled(sampler: Any, latent: dict[str, Any], kind: str = "flow", **how: Any) -> dict[str, Any]:
    """A run of SamplerCustomAdvanced with ksched's noise of seed 7."""
    noise = how.pop("noise", None) or NODE["KSchedNoise"].run(seed=7)
    sigmas = how.pop("sigmas", levels(kind)).float()
    return comfy.sampler_custom_advanced(noise, comfy.Guider(KINDS[kind], 1.5), sampler, sigmas, latent)


def sampler_of(name: str, **how: Any) -> Any:
    with comfy.installed():
        return NODE["KSchedSampler"].run(name, **how)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("noise", ["seeded", "brownian"])
@each("name", STOCHASTIC)
def test_row_12_an_image_out_of_a_batch_is_the_image_in_its_batch(name: str, noise: str, kind: str) -> None:
    sampler = sampler_of(name, noise=noise)
    whole = sampled(sampler, batch(), kind)["samples"]
    assert not torch.allclose(whole[0], whole[2])
    for first, length in ((2, 1), (3, 1), (1, 2)):
        part = sampled(sampler, comfy.latent_from_batch(batch(), first, length), kind)["samples"]
        assert torch.equal(part, whole[first : first + length])


@pytest.mark.parametrize("noise", ["seeded", "brownian"])
@pytest.mark.parametrize("indices", [[0, 0, 0, 0], [3, 2, 1, 0], [2, 2, 0, 1], [3]])
def test_row_12_indices_may_repeat_or_run_backwards(indices: list[int], noise: str) -> None:
    sampler = sampler_of("euler_ancestral", noise=noise)
    whole = sampled(sampler, batch())["samples"]
    found = sampled(sampler, batch(len(indices), batch_index=indices))["samples"]
    assert torch.equal(found, whole[indices])


def test_row_12_one_noise_serves_a_batch_and_then_a_part_of_it() -> None:
    """And a part of that part; without an index the items are counted."""
    sampler, noise = sampler_of("dpmpp_2m_sde"), NODE["KSchedNoise"].run(seed=7)
    whole = sampled(sampler, batch(), noise=noise)
    assert "batch_index" not in whole
    part = comfy.latent_from_batch(comfy.latent_from_batch(batch(), 1, 3), 1, 1)
    assert part["batch_index"] == [2]
    assert torch.equal(sampled(sampler, part, noise=noise)["samples"], whole["samples"][2:3])
    assert torch.equal(sampled(sampler, batch(), noise=noise)["samples"], whole["samples"])


def test_row_12_a_second_run_goes_on_with_the_noise_of_the_whole() -> None:
    """SplitSigmas over two samplers: the second NOISE has no start, and the steps have theirs."""
    sigmas = levels("flow", 8)
    for noise in ("seeded", "brownian"):
        sampler = sampler_of("euler_ancestral", noise=noise)
        latent = comfy.latent_from_batch(batch(), 2, 2)
        whole = sampled(sampler, latent, sigmas=sigmas)["samples"]
        first = sampled(sampler, latent, sigmas=sigmas[:4])
        quiet = NODE["KSchedNoise"].run(seed=7, start=False)
        assert not quiet.generate_noise(latent).any()
        second = sampled(sampler, first, sigmas=sigmas[3:], noise=quiet)["samples"]
        torch.testing.assert_close(second, whole, rtol=0, atol=2e-6)
        other = sampled(sampler, first, sigmas=sigmas[3:], noise=comfy.DisableNoise())["samples"]
        assert not torch.allclose(other, whole, atol=1e-2)


@pytest.mark.parametrize("name", ["euler_ancestral", "ddim", "dpmpp_2m_sde", "lcm"])
def test_row_12_an_image_under_a_mask(name: str) -> None:
    mask = torch.zeros(4, 1, 3, 3)
    mask[..., 1:] = 1
    samples = normal(4, 2, 3, 3)
    latent = {"samples": samples, "noise_mask": mask}
    sampler = sampler_of(name)
    whole = sampled(sampler, latent)["samples"]
    torch.testing.assert_close(whole[..., 0], samples[..., 0], rtol=1e-5, atol=1e-5)
    part = sampled(sampler, comfy.latent_from_batch(latent, 2, 1))["samples"]
    assert torch.equal(part, whole[2:3])


def test_row_12_a_seed_of_another_latent_is_a_number() -> None:
    """AddNoise asks a NOISE for the noise of one latent, and another may be sampled with its seed."""
    noise = NODE["KSchedNoise"].run(seed=7)
    noise.generate_noise(batch(2, batch_index=[5, 6]))
    x, sigmas = normal(3, 2, 3, 3), levels("flow").float()
    function = sampler_function("euler_ancestral")
    guider = comfy.Guider(FLOW)
    assert torch.equal(function(guider, x, sigmas, {"seed": noise.seed}), function(guider, x, sigmas, {"seed": 7}))
    assert noise.seed + 1 == 8


def test_row_12_a_latent_of_parts_has_noise_for_each() -> None:
    """Pictures and sound; ComfyUI packs them before a sampler sees them."""
    parts = comfy.NestedTensor([torch.zeros(2, 4, 3, 3), torch.zeros(2, 5)])
    noise = NODE["KSchedNoise"].run(seed=7)
    drawn = noise.generate_noise({"samples": parts, "batch_index": [1, 0]})
    assert isinstance(drawn, comfy.NestedTensor)
    pictures, sound = drawn.unbind()
    assert torch.equal(pictures, noise.generate_noise({"samples": parts.unbind()[0]})[[1, 0]])
    assert sound.shape == (2, 5)
    assert not torch.equal(sound[:, :5], pictures.reshape(2, -1)[:, :5])
