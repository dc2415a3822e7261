"""Known problems in ComfyUI, one test each: the method that a node uses on flow models, the noise of an image."""

from __future__ import annotations

from functools import cache
from typing import Any

import fake_comfy as comfy
import numpy as np
import pytest
import torch
from cases import process_for, quick
from representatives import each, short

import ksched
from ksched import exact
from ksched.integrations.comfyui import calculate_sigmas, sampler_function
from ksched.integrations.comfyui.nodes import NODES
from ksched.samplers.registry import samplers

FLOW: Any = comfy.sampling(comfy.CONST, comfy.ModelSamplingDiscreteFlow, 3.0)
EPS: Any = comfy.sampling(comfy.EPS, comfy.ModelSamplingDiscrete)
KINDS = {"flow": FLOW, "eps": EPS}
NODE = {node.name: node for node in NODES}
NAMES = [spec.name for spec in samplers()]


def levels(kind: str, steps: int = 6) -> torch.Tensor:
    return calculate_sigmas(KINDS[kind], "simple", steps).double()


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
        self._uncond = quick(
            exact.GaussianMixture([0.7, 0.3], np.array([[-1.0], [1.0]]), np.stack([var, var]), process=process)
        )
        self._cond = quick(exact.Gaussian(np.array([-1.0]), var, process=process))

    def predict(self, x: torch.Tensor, sigma: torch.Tensor, mean: float) -> torch.Tensor:
        return (self._cond if mean > 0 else self._uncond)(x, sigma)


@cache
def guided_mean(name: str, count: int = 2000, **how: Any) -> float:
    noise = normal(count, 1).double()
    with comfy.installed():
        sampler = NODE[f"KSchedSampler_{name}"].run(**how)
    return float(Mixture().sample(noise, torch.zeros_like(noise), sampler, levels("flow", 24), seed=3).mean())


@short(lambda name: name in ("ddpm", "dpmpp_2m_cfg_pp", "restart", "gradient_estimation_cfg_pp"))
@pytest.mark.parametrize("name", OVERSHOOT)
def test_row_11_a_node_does_not_overshoot_on_flow(name: str) -> None:
    """ComfyUI's own method does; it stays available as dialect ``comfyui``."""
    right = guided_mean(OVERSHOOT[name])
    assert guided_mean(name) == pytest.approx(right, abs=0.06)
    few = {guided_mean(name, 20, **how) for how in ({}, {"dialect": "auto"}, {"dialect": "ksched"})}
    assert len(few) == 1
    assert guided_mean(name, dialect="comfyui") < right - 0.15


def kind_for(name: str, kind: str) -> str:
    """A kind of model that a sampler runs on: that one, or a flow model."""
    return "flow" if process_for(name).is_flow else kind


@pytest.mark.parametrize("kind", KINDS)
@each("name", [name for name in NAMES if name != "restart"])  # which draws nothing in so few steps
def test_row_11_elsewhere_a_node_is_comfyui_s_own(name: str, kind: str) -> None:
    noise, kind = normal(2, 4).double(), kind_for(name, kind)

    def result(dialect: str) -> torch.Tensor:
        sampler = comfy.KSAMPLER(sampler_function(name, dialect=dialect))
        guider = comfy.Guider(KINDS[kind], 1.5)
        found: torch.Tensor = guider.sample(noise, torch.zeros_like(noise), sampler, levels(kind), seed=3)
        return found

    own = "ksched" if kind == "flow" and name in OVERSHOOT else "comfyui"
    assert torch.equal(result("auto"), result(own))
    if own == "ksched":
        assert not torch.allclose(result("comfyui"), result("auto"))


@pytest.mark.parametrize(("name", "options"), [("euler", {"s_churn": 4.0}), ("dpm_adaptive", {"eta": 1.0})])
def test_row_11_what_draws_noise_by_an_option_does_not_overshoot(name: str, options: dict[str, float]) -> None:
    noise = normal(50, 1).double()

    def result(dialect: str, **given: Any) -> torch.Tensor:
        sampler = comfy.KSAMPLER(sampler_function(name, dialect=dialect, **given))
        guider = comfy.Guider(FLOW)
        found: torch.Tensor = guider.sample(noise, torch.zeros_like(noise), sampler, levels("flow", 24), seed=3)
        return found

    assert torch.equal(result("auto", **options), result("ksched", **options))
    assert not torch.allclose(result("auto", **options), result("comfyui", **options))
    assert torch.equal(result("auto"), result("comfyui"))
    assert torch.equal(result("auto", as_ve=True, **options), result("comfyui", **options))


def test_row_11_the_tooltip_says_so() -> None:
    for name in ("KSchedSampler", "KSchedSampler_ddpm"):
        (shown,) = (given for given in NODE[name].inputs if given.name == "dialect")
        assert (shown.default, shown.choices) == ("auto", ("auto", "comfyui", "ksched"))
        assert "on flow models where ComfyUI's overshoots" in shown.tooltip
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
    sampler, kind = sampler_of(name, noise=noise), kind_for(name, kind)
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
    """SplitSigmas over two samplers: the second NOISE has no start noise, and its steps have the usual noise."""
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


def test_row_12_an_image_and_its_sound_out_of_a_batch() -> None:
    def latent(**more: Any) -> dict[str, Any]:
        count = len(more.get("batch_index", range(4)))
        return {"samples": comfy.NestedTensor([torch.zeros(count, 4, 3, 3), torch.zeros(count, 5)]), **more}

    sampler = sampler_of("euler_ancestral")
    whole = sampled(sampler, latent())["samples"].unbind()
    part = sampled(sampler, latent(batch_index=[2]))["samples"].unbind()
    for all_of_them, one in zip(whole, part, strict=True):
        assert torch.equal(one, all_of_them[2:3])


# -------------------------------------------------------------------------------------------------------------- row 14


def factors(**options: Any) -> list[float]:
    """Of the noises of a run of `lcm` from 1 to 0 in quarters."""
    sampler = ksched.build_sampler("lcm", sigmas=[1, 0.75, 0.5, 0.25, 0], process=ksched.Flow(), **options)
    return [value for row in sampler.plan.rows for register, value in row.terms if register.kind == "xi"]


@pytest.mark.parametrize("dialect", ["comfyui", "ksched"])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.75, 0.5, 0.25]),
        ({"s_noise": 2.0}, [1.5, 1.0, 0.5]),
        ({"s_noise": 2.0, "s_noise_end": None}, [1.5, 1.0, 0.5]),
        ({"s_noise": 2.0, "s_noise_end": 1}, [1.5, 5 / 6, 1 / 3]),
        ({"s_noise": 0.0, "s_noise_end": 3.0}, [0.5, 0.5]),
    ],
)
def test_row_14_the_factor_of_the_noise(dialect: str, options: dict[str, Any], expected: list[float]) -> None:
    assert factors(dialect=dialect, **options) == pytest.approx(expected, rel=1e-12)


def test_row_14_one_and_two_steps() -> None:
    for sigmas, expected in (([1, 0], []), ([1, 0.5], [1.0]), ([1, 0.5, 0], [1.0]), ([1, 0.5, 0.25], [1.0, 0.25])):
        sampler = ksched.build_sampler("lcm", sigmas=sigmas, process=ksched.Flow(), s_noise=2.0, s_noise_end=1.0)
        terms = [term for row in sampler.plan.rows for term in row.terms if term[0].kind == "xi"]
        assert [value for _, value in terms] == pytest.approx(expected)


@pytest.mark.parametrize("noise", ["seeded", "brownian"])
def test_row_14_noise_is_limited(noise: str) -> None:
    """The same numbers as without, but for those beyond, and by item."""
    drawn: dict[float, list[torch.Tensor]] = {}

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        drawn[clip].append(x.clone())
        return torch.zeros_like(x)

    x = normal(2, 4000).double()
    for clip in (0.0, 2.5, 0.5):
        drawn[clip] = []
        sampler = ksched.build_sampler(
            "lcm", sigmas=[1, 0.75, 0], process=ksched.Flow(noise_scale=8.0), noise_clip_std=clip
        )
        how: dict[str, Any] = {"noise": "brownian"} if noise == "brownian" else {}
        sampler.sample(model, 8 * x, seed=4, **how)
        live = sampler.live(model, 8 * x, seed=4, **how)
        torch.testing.assert_close(live, torch.zeros_like(x))
        torch.testing.assert_close(drawn[clip][1], drawn[clip][3], rtol=1e-6, atol=1e-6)
    for clip in (2.5, 0.5):
        bound = 0.75 * 8 * clip
        assert drawn[0.0][1].abs().max() > bound
        torch.testing.assert_close(drawn[clip][1], drawn[0.0][1].clamp(-bound, bound), rtol=1e-6, atol=1e-6)


def test_row_14_noise_of_a_batch_is_limited_by_its_own_std() -> None:
    """ComfyUI's noise, and one's own: nobody knows how wide it is. What was given is not written to."""
    wide = 3 * normal(2, 4000)
    kept = wide.clone()
    seen: list[torch.Tensor] = []

    def model(x: torch.Tensor, sigma: torch.Tensor, mean: float) -> torch.Tensor:
        seen.append(x.clone())
        return torch.zeros_like(x)

    function = sampler_function("lcm", noise_clip_std=1.5)
    guider = comfy.Guider(FLOW)
    guider.predict = model  # type: ignore[method-assign]
    function(guider, normal(2, 4000), torch.tensor([1.0, 0.5, 0.0]), {}, noise_sampler=lambda s, t: wide)
    bound = 1.5 * wide.std()
    torch.testing.assert_close(seen[1], 0.5 * wide.clamp(-bound, bound))
    assert torch.equal(wide, kept)


def test_row_14_a_run_with_limited_noise_goes_on_and_its_plan_is_saved() -> None:
    sampler = ksched.build_sampler("lcm", "simple", 4, process=ksched.Flow(), noise_clip_std=1.0)
    x = normal(2, 50)

    def model(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return 0.3 * x

    whole = sampler.sample(model, x, seed=1)
    again = ksched.build_sampler(ksched.Plan.from_json(sampler.plan.to_json()), process=ksched.Flow())
    assert torch.equal(again.sample(model, x, seed=1), whole)
    run, later = sampler.start(x, seed=1), sampler.start(x, seed=1)
    for _ in range(2):
        run.feed(model(run.x, run.sigma))
    later.load_state_dict(run.state_dict())
    while not later.done:
        later.feed(model(later.x, later.sigma))
    assert torch.equal(later.x, whole)
    assert sampler.plan != ksched.build_sampler("lcm", "simple", 4, process=ksched.Flow()).plan


def test_row_14_the_node_has_the_inputs_of_sampler_lcm() -> None:
    node = NODE["KSchedSampler_lcm"]
    shown = {given.name: given.default for given in node.inputs}
    assert (shown["s_noise"], shown["s_noise_end"], shown["noise_clip_std"]) == (1.0, 1.0, 0.0)
    with comfy.installed():
        made = node.run(s_noise=2.0, s_noise_end=1.0, noise_clip_std=2.5)
    sigmas = levels("flow", 4).float()
    options: dict[str, Any] = {"s_noise": 2.0, "s_noise_end": 1.0, "noise_clip_std": 2.5}
    results = [
        function(comfy.Guider(FLOW), normal(2, 4), sigmas, {"seed": 3})
        for function in (made.sampler_function, sampler_function("lcm", **options))
    ]
    assert torch.equal(*results)
    assert ksched.SamplerType.parse("SamplerLCM") == "lcm"


# -------------------------------------------------------------------------------------------------------------- row 15


def noisy_ends(sigmas: Any, process: ksched.Process, **how: Any) -> list[float]:
    sampler = ksched.build_sampler("sa_solver", sigmas=sigmas, process=process, **how)
    return [draw.sigma_to for draw in sampler.plan.draws]


def test_row_15_the_stochastic_part_has_no_end_in_comfyui() -> None:
    """At shift 12, 80 % of a run is at 0.75 exactly."""
    sigmas = [1, 0.9, 0.8, 0.75, 0.6, 0.4, 0.2, 0]
    process = ksched.Flow(12.0)
    assert process.sigma_after(0.8) == 0.75
    assert noisy_ends(sigmas, process, dialect="comfyui") == [0.9, 0.8]
    assert noisy_ends(sigmas, process) == [0.9, 0.8, 0.75]


def test_row_15_its_levels_are_float32_there_and_the_ends_are_not() -> None:
    """ComfyUI itself, for these numbers: it draws into 0.2, which is 1e-9 above the end, and not into 0.8, as far above
    the start."""
    process = ksched.Flow()
    sigmas = ksched.calculate_sigmas("simple", 10, process, dialect="comfyui")
    expected = [
        level
        for level in sigmas[1:-1]
        if process.sigma_after(0.2) >= torch.tensor(level, dtype=torch.float32).item() > process.sigma_after(0.8)
    ]
    assert expected == pytest.approx([0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    assert noisy_ends(sigmas, process, dialect="comfyui") == expected
    in_nodes = torch.tensor(sigmas.tolist(), dtype=torch.float32).tolist()
    assert noisy_ends(in_nodes, process, dialect="comfyui") == pytest.approx(expected)


@pytest.mark.parametrize("shares", [(0.0, 1.0), (0.5, 0.5), (0.0, 0.0), (1.0, 1.0)])
def test_row_15_whole_and_empty_parts(shares: tuple[float, float]) -> None:
    sigmas, process = [1, 0.75, 0.5, 0.25, 0], ksched.Flow()
    how: dict[str, Any] = {"tau_start": shares[0], "tau_end": shares[1], "dialect": "comfyui"}
    assert noisy_ends(sigmas, process, **how) == ([0.75, 0.5, 0.25] if shares == (0.0, 1.0) else [])


# -------------------------------------------------------------------------------------------------------------- row 38


@each("percent", [0.0, 1e-4, 0.2, 0.5, 0.8, 0.9999, 1.0])
@pytest.mark.parametrize(
    "model",
    [
        FLOW,
        EPS,
        comfy.sampling(comfy.V_PREDICTION, comfy.ModelSamplingDiscrete, True),
        comfy.sampling(comfy.V_PREDICTION, comfy.ModelSamplingContinuousEDM),
        comfy.sampling(comfy.CONST, comfy.ModelSamplingFlux),
        comfy.sampling(comfy.CONST, comfy.ModelSamplingAV, 3.0, 1000, 8.0),
    ],
)
def test_row_38_percent_to_sigma(model: Any, percent: float) -> None:
    node, patcher = NODE["KSchedPercentToSigma"], comfy.patcher(model)
    assert node.output == "FLOAT"
    found = node.run(patcher, percent)
    assert found == pytest.approx(model.percent_to_sigma(percent), rel=2e-5)
    own = {0.0: float(model.sigma_max), 1.0: float(model.sigma_min)}.get(percent, found)
    assert node.run(patcher, percent, actual=True) == pytest.approx(own, rel=1e-5)


# ---------------------------------------------------------------------------------------------------------- Ideogram 4


@pytest.mark.parametrize(("steps", "mu", "std"), [(48, 0.0, 1.5), (20, 0.0, 1.75), (12, 0.5, 1.75), (1, 0.0, 1.5)])
@pytest.mark.parametrize(("width", "height"), [(1024, 1024), (512, 512), (2048, 1536)])
def test_the_schedule_of_ideogram_4(steps: int, mu: float, std: float, width: int, height: int) -> None:
    """The quantiles, and the numbers that diffusers has for it."""
    how: dict[str, Any] = {"width": width, "height": height, "mu": mu, "std": std}
    mean = mu + 0.5 * np.log(width * height / 512**2)
    quantiles = torch.special.ndtri(torch.linspace(1, 0, steps + 1, dtype=torch.float64))
    expected = torch.special.expit(mean + std * quantiles).numpy()
    ours = ksched.calculate_sigmas("ideogram4", steps, ksched.Flow(), **how)
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-15)
    in_comfyui = calculate_sigmas(FLOW, "ideogram4", steps, **how).numpy()
    np.testing.assert_allclose(in_comfyui[1:], ours[1:], rtol=1e-6)
    assert in_comfyui[0] == pytest.approx(1 / (1 + np.exp(-9)), rel=1e-6)
    pipeline = pytest.importorskip("diffusers.pipelines.ideogram4.pipeline_ideogram4")
    theirs = pipeline._logit_normal_sigmas(steps, pipeline._resolution_aware_mu(height, width, mu), std)
    np.testing.assert_allclose(in_comfyui[:-1], theirs.numpy(), rtol=1e-6)


def test_ideogram_4_has_names_and_says_what_it_cannot() -> None:
    for word in ("Ideogram4Scheduler", "ideogram4"):
        assert ksched.NoiseSchedule.parse(word) == "ideogram4"
    made = NODE["KSchedSigmas_ideogram4"].run(comfy.patcher(FLOW), steps=20, denoise=1.0, std=1.75)
    expected = ksched.calculate_sigmas("ideogram4", 20, ksched.Flow(3.0), std=1.75, dialect="comfyui")
    np.testing.assert_allclose(made.numpy(), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="fall on one number"):
        ksched.calculate_sigmas("ideogram4", 200, ksched.Flow(), width=2**31, height=2**31, mu=10.0, std=5.0)
    with pytest.raises(ValueError, match="sigma_min must be left out"):
        ksched.calculate_sigmas("ideogram4", 20, ksched.Flow(), sigma_min=0.1)
