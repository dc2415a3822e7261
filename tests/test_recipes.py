"""Recipes against what the pipelines of diffusers do with their schedulers, and against the published lists."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from importlib import resources
from typing import Any

import numpy as np
import pytest
from representatives import each

import ksched
from ksched.model_settings.one_model import GUIDANCE_KINDS, Recipe

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # inside diffusers

#: of images, or of short clips: diffusers adds float32 levels close to 1, which larger clips would show
SIZES = ((1024, 1024, 9), (768, 512, 25))


def data() -> dict[str, Any]:
    """The data file as it is."""
    found: dict[str, Any] = json.loads(
        (resources.files("ksched") / "data" / "recipes.json").read_text(encoding="utf-8")
    )
    return found


# ------------------------------------------------------------------------ what each pipeline hands to its scheduler
def with_mu(cell: int, frame_cell: int = 0, *, by_frames: bool = False) -> Callable[..., dict[str, Any]]:
    """An even list to 1/n, and the pipeline's own ``calculate_shift`` of the number of tokens."""

    def handed(module: Any, config: Mapping[str, Any], n: int, size: tuple[int, int, int]) -> dict[str, Any]:
        width, height, frames = size
        tokens = (width // cell) * (height // cell) * ((frames - 1) // frame_cell + 1 if by_frames else 1)
        names = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}
        mu = module.calculate_shift(tokens, *(config.get(name, default) for name, default in names.items()))
        return {"sigmas": np.linspace(1.0, 1 / n, n), "mu": mu}

    return handed


def flux2(module: Any, config: Any, n: int, size: tuple[int, int, int]) -> dict[str, Any]:
    mu = module.compute_empirical_mu(image_seq_len=(size[0] // 16) * (size[1] // 16), num_steps=n)
    return {"sigmas": np.linspace(1.0, 1 / n, n), "mu": mu}


def cogview4(module: Any, config: Any, n: int, size: tuple[int, int, int]) -> dict[str, Any]:
    tokens = ((size[1] // 8) * (size[0] // 8)) // 4
    timesteps = np.linspace(1000, 1.0, n).astype(np.int64).astype(np.float32)
    mu = module.calculate_shift(tokens, 256, config.get("base_shift"), config.get("max_shift"))
    return {"timesteps": timesteps, "sigmas": timesteps / 1000, "mu": mu}


def to_zero(module: Any, config: Any, n: int, size: Any) -> dict[str, Any]:
    return {"sigmas": np.linspace(1.0, 0.0, n + 1)[:-1]}


def steps_alone(module: Any, config: Any, n: int, size: Any) -> dict[str, Any]:
    return {"num_inference_steps": n}


def sprint(module: Any, config: Any, n: int, size: Any) -> dict[str, Any]:
    return {"num_inference_steps": n, "max_timesteps": 1.57080, "intermediate_timesteps": 1.3 if n == 2 else None}


HANDED: dict[str, Callable[..., dict[str, Any]]] = {
    "FluxPipeline": with_mu(16),
    "Flux2Pipeline": flux2,
    "QwenImagePipeline": with_mu(16),
    "ZImagePipeline": with_mu(16),
    "Lumina2Pipeline": with_mu(16),
    "LTXPipeline": with_mu(32, 8, by_frames=True),
    "LTX2Pipeline": with_mu(32, 8, by_frames=True),
    "CogView4Pipeline": cogview4,
    "HunyuanVideoPipeline": to_zero,
    "HunyuanVideo15Pipeline": to_zero,
    "SanaSprintPipeline": sprint,
    "MochiPipeline": lambda module, c, n, s: {"sigmas": np.array(module.linear_quadratic_schedule(n, 0.025))},
    "Cosmos2TextToImagePipeline": lambda module, c, n, s: {"sigmas": np.linspace(0, 1, n)},
    "StableAudio3Pipeline": lambda module, c, n, s: {"sigmas": module.logsnr_sigma_schedule(n, -6.2, 2.0)},
    "AceStepPipeline": lambda module, c, n, s: {
        "sigmas": module.AceStepPipeline._get_timestep_schedule(None, n, 3.0).tolist()
    },
}


def reference(recipe: Recipe, n: int, size: tuple[int, int, int]) -> tuple[Any, list[float], list[float]]:
    """The scheduler of a recipe, driven as its pipeline drives it: the scheduler, its sigmas and its timesteps."""
    diffusers = pytest.importorskip("diffusers")
    assert recipe.pipeline is not None
    assert recipe.scheduler is not None
    module = sys.modules[getattr(diffusers, recipe.pipeline).__module__]
    kind: Any = getattr(diffusers, recipe.scheduler)
    scheduler: Any = kind.from_config(dict(recipe.config))
    if recipe.pipeline == "Cosmos2TextToImagePipeline":
        scheduler.register_to_config(sigma_min=0.002, sigma_max=80.0)
    if recipe.prediction in ("epsilon", "v_prediction") and in_float64(recipe):
        scheduler.alphas_cumprod = (1 - scheduler.betas.double()).cumprod(0)  # which it forms in float32
    hand: Callable[..., dict[str, Any]] = HANDED.get(recipe.pipeline, steps_alone)
    handed = hand(module, scheduler.config, n, size)
    if recipe.listed is not None:
        kind = "timesteps" if max(recipe.listed) > 1 else "sigmas"
        handed = {kind: list(recipe.listed), **{key: value for key, value in handed.items() if key == "mu"}}
    count = handed.pop("num_inference_steps", None)
    if recipe.pipeline in ("CogView4Pipeline", "AnyFlowPipeline") or not hasattr(module, "retrieve_timesteps"):
        scheduler.set_timesteps(**({"num_inference_steps": count} if count else {}), **handed)
    else:
        module.retrieve_timesteps(scheduler, count, **handed)
    if recipe.pipeline == "Cosmos2TextToImagePipeline":
        scheduler.sigmas[-1] = scheduler.sigmas[-2]  # as the pipeline does, whose last step then goes nowhere
    sigmas = getattr(scheduler, "sigmas", None)
    listed = [] if sigmas is None or recipe.scheduler in BY_TIMESTEPS else sigmas.tolist()
    return scheduler, listed, scheduler.timesteps.tolist()


def in_float64(recipe: Recipe) -> bool:
    """Whether the table of betas is its product and nothing else."""
    return "beta_start" in recipe.config and not recipe.config.get("rescale_betas_zero_snr")


#: classes that have no list of levels: what their timesteps mean is in the table of betas
BY_TIMESTEPS = {f"{name}Scheduler" for name in ("PNDM", "DDIM", "DDPM", "LCM", "TCD", "SCM", "CogVideoXDDIM")}

CHECKED = [name for name, recipe in ksched.recipes.items() if recipe.pipeline is not None]


def contract(recipe: Recipe, sigmas: list[float]) -> list[float]:
    """Sigmas of a class in ksched's convention; with ``invert_sigmas`` they are the share of data."""
    return [1 - sigma for sigma in sigmas] if recipe.config.get("invert_sigmas") else sigmas


@pytest.mark.parametrize("name", CHECKED)
def test_sigmas_and_timesteps_are_those_of_the_pipeline(name: str) -> None:
    recipe = ksched.recipes[name]
    if recipe.scheduler == "CosineDPMSolverMultistepScheduler":
        pytest.importorskip("torchsde")  # which the class asks for
    counts = [recipe.steps] if recipe.distilled else [recipe.steps, 4, 13]
    for n in counts:
        for size in SIZES:
            scheduler, sigmas, timesteps = reference(recipe, n, size)
            if recipe.resolution.frames == (6, 1):
                size = (*size[:2], 25)
            made = recipe.build(steps=n, width=size[0], height=size[1], frames=size[2])
            told = timesteps[:-1] if recipe.scheduler == "SCMScheduler" else timesteps
            np.testing.assert_allclose(made.timesteps, told[: made.nfe], rtol=1e-6, atol=1e-7 * max(told))
            assert made.nfe <= len(told) <= made.nfe + 1  # one that a class does not use
            calls = made.plan.call_sigmas.tolist()
            if sigmas:
                expected = contract(recipe, sigmas)
                np.testing.assert_allclose(calls, expected[: len(calls)], rtol=1e-6, atol=1e-7)
                if not str(made.spec.name).startswith("plan"):  # which ends where it ends, whatever its last level
                    np.testing.assert_allclose(made.sigmas, expected[: len(made.sigmas)], rtol=1e-6, atol=1e-7)
            elif recipe.scheduler != "SCMScheduler":
                alpha_bar = np.array(scheduler.alphas_cumprod.tolist())[np.array(told[: len(calls)], dtype=int)]
                with np.errstate(divide="ignore"):
                    levels = np.sqrt((1 - alpha_bar) / alpha_bar)
                np.testing.assert_allclose(calls, levels, rtol=1e-6)


def test_a_size_changes_the_levels_where_mu_depends_on_it() -> None:
    small = ksched.recipes["flux.1-dev"].build(width=512, height=512)
    large = ksched.recipes["flux.1-dev"].build(width=1536, height=1536)
    assert small.sigmas[5] < large.sigmas[5]
    still = ksched.recipes["sd3.5-large"]
    assert np.array_equal(still.build(width=512, height=512).sigmas, still.build(width=2048, height=512).sigmas)
    longer = ksched.recipes["ltx-video-0.9"]
    assert not np.array_equal(longer.build(frames=9).sigmas, longer.build(frames=161).sigmas)


# ------------------------------------------------------------------------------------------------------ published lists
TABLE_OF_VP = [14.6146, 4.0817, 1.6129, 0.6932]  # at timesteps 999, 749, 499 and 249

PUBLISHED = {
    # five by u / (1 + 4 u), with u = 1, 3/4, 1/2, 1/4
    "wan2.2-lightning-4": [1.0, 0.9375, 0.8333333, 0.625, 0.0],
    "wan2.2-lightning-8": [1.0, 0.9722224, 0.9375001, 0.8928571, 0.8333333, 0.7500001, 0.625, 0.4166667, 0.0],
    "wan2.2-lightning-i2v-4": [1.0, 0.9375, 0.8333333, 0.625, 0.0],
    "wan2.1-lightx2v-4": [1.0, 0.9375, 0.8333333, 0.625, 0.0],
    "self-forcing-wan2.1-1.3b": [1.0, 0.9375, 0.8333333, 0.625, 0.0],
    "ltx-2-distilled": [1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0],
    "ltx-video-0.9.7-distilled": [1.0, 0.9937, 0.9875, 0.9812, 0.975, 0.9094, 0.725, 0.0],
    "ltx-video-0.9.8-distilled-pass-2": [0.9094, 0.725, 0.4219, 0.0],
    # FastVideo's warped list of eight, 12 u / (1 + 11 u), and its lists on the table of shift 8
    "self-forcing-wan2.2-a14b-8": [1.0, 0.985507, 0.965517, 0.936170, 0.865979, 0.819876, 0.75, 0.631579, 0.0],
    "fastwan2.1-t2v-1.3b": [1.0, 0.7567568, 0.5217391, 0.0],
    "fastwan2.2-ti2v-5b": [1.0, 0.7567568, 0.5217391, 0.0],
    # sin / (sin + cos) of atan 80, 1.5, 1.4 and 1.0
    "rcm-wan2.1-t2v": [0.9876543, 0.9337811, 0.8528954, 0.6089788, 0.0],
    "rcm-wan2.2-i2v": [0.9950249, 0.9337811, 0.8528954, 0.6089788, 0.0],
    "anyflow-wan2.1-t2v": [1.0, 0.9375, 0.8333333, 0.625, 0.0],
    "sdxl-lightning-2": [TABLE_OF_VP[0], TABLE_OF_VP[2], 0.0],
    "sdxl-lightning-4": [*TABLE_OF_VP, 0.0],
    "sdxl-turbo": [TABLE_OF_VP[0], 0.0],
    "hyper-sd15-4": [*TABLE_OF_VP, 0.0291672],  # whose last alpha is not set to 1
    # 28 levels even from 1 to the shifted 1/1000, and shifted again; the program's own numbers at both ends
    "hidream-i1-dev": None,
    "hidream-i1-fast": None,
}


@each("name", list(PUBLISHED))
def test_distilled_models_run_their_published_lists(name: str) -> None:
    recipe = ksched.recipes[name]
    wanted = PUBLISHED[name]
    if wanted is None:
        shift, least = recipe.config["shift"], recipe.config["shift"] / 1000 / (1 + (recipe.config["shift"] - 1) / 1000)
        even = np.linspace(1.0, least, recipe.steps)
        wanted = [*(shift * even / (1 + (shift - 1) * even)), 0.0]
    np.testing.assert_allclose(recipe.build().sigmas, wanted, atol=6e-5 if wanted[0] > 1 else 1e-6)


def test_timesteps_of_lcm_scm_and_dmd2_are_the_published_ones() -> None:
    told = {name: ksched.recipes[name].build().timesteps.tolist() for name in ("lcm-dreamshaper-v7", "dmd2-sdxl-4")}
    assert told == {"lcm-dreamshaper-v7": [999, 759, 499, 259], "dmd2-sdxl-4": [999, 759, 499, 259]}
    sprint = ksched.recipes["sana-sprint"]
    np.testing.assert_allclose(sprint.build().timesteps, [1.5708, 1.3], rtol=1e-12)
    np.testing.assert_allclose(sprint.build(steps=4).timesteps, np.linspace(1.5708, 0, 5)[:-1], rtol=1e-9)
    assert sprint.process == ksched.TrigFlow(0.5, noise_angle=1.5708)  # as its pipeline rounds pi / 2
    with pytest.raises(ValueError, match="noise_angle must be pi / 2"):
        ksched.TrigFlow(noise_angle=1.3)


def test_structures_are_sampled_on_their_programs_levels() -> None:
    for name, least, rho, ends in (
        ("alphafold-3", 4e-4, 7, 16 * 4e-4),
        ("boltz-1", 4e-4, 8, 0),
        ("boltz-2", 1e-4, 7, 0),
    ):
        sampler = ksched.recipes[name].build()
        count = 201 if ends else 200
        share = np.linspace(0, 1, count)
        levels = 16 * (160 ** (1 / rho) + share * (least ** (1 / rho) - 160 ** (1 / rho))) ** rho
        np.testing.assert_allclose(sampler.sigmas, levels if ends else [*levels, 0.0], rtol=1e-9)
        assert sampler.nfe == 200
    assert dict(sampler.options)["step_scale"] == 1.5


def test_edm_is_its_papers_formula() -> None:
    for name, steps in (("edm-cifar10", 18), ("edm2-img512", 32), ("edm2-img64", 32)):
        share = np.linspace(0, 1, steps)
        sigmas = (80 ** (1 / 7) + share * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
        made = ksched.recipes[name].build()
        np.testing.assert_allclose(made.sigmas, [*sigmas, 0.0], rtol=1e-9)
        assert made.nfe == 2 * steps - 1
        assert made.spec.name == "heun"


def test_kandinskys_levels_are_its_programs_formula() -> None:
    for name, shift, steps in (("kandinsky-5-t2i-lite", 3, 50), ("kandinsky-5-t2v-lite-16", 5, 16)):
        time = np.linspace(1, 0, steps + 1)
        np.testing.assert_allclose(
            ksched.recipes[name].build().sigmas, shift * time / (1 + (shift - 1) * time), atol=1e-12
        )


def test_sway_is_denser_at_the_noisy_end() -> None:
    sampler = ksched.recipes["f5-tts"].build(steps=4)
    np.testing.assert_allclose(sampler.sigmas, [1, 0.92388, 0.70711, 0.38268, 0], atol=1e-5)
    np.testing.assert_allclose(sampler.timesteps, [0, 0.07612, 0.29289, 0.61732], atol=1e-5)


def test_fastwan_tells_whole_timesteps_at_the_nearest_levels_of_its_table() -> None:
    sampler = ksched.recipes["fastwan2.1-t2v-1.3b"].build()
    assert sampler.timesteps.tolist() == [1000, 757, 522]
    table = 8 * np.arange(1, 1001) / (1000 + 7 * np.arange(1, 1001))
    nearest = [float(table[np.abs(table * 1000 - t).argmin()]) for t in (1000, 757, 522)]
    np.testing.assert_allclose(sampler.sigmas, [*nearest, 0.0], rtol=1e-12)


# ---------------------------------------------------------------------------------------------------------- the mapping
def test_it_is_a_mapping_that_finds_other_spellings_and_names_near_ones() -> None:
    recipes = ksched.recipes
    assert recipes["FLUX.1 dev"] is recipes["flux.1-dev"]
    assert "Wan2.2 T2V A14B" in recipes
    assert "no such model" not in recipes
    assert len(recipes) == len(list(recipes)) >= 40
    with pytest.raises(KeyError, match=r"did you mean 'flux\.1-dev'"):
        recipes["flux.1-dv"]
    with pytest.raises(TypeError):
        recipes["new"] = recipes["sdxl"]  # type: ignore[index]
    assert [own.name for own in recipes.search("lightning wan t2v")] == []
    assert [own.name for own in recipes.search("lightning wan i2v")] == ["wan2.2-lightning-i2v-4"]


@each("name", list(ksched.recipes))
def test_every_field_has_a_source(name: str) -> None:
    row, recipe = data()["models"][name], ksched.recipes[name]
    for field in (
        "config",
        "steps",
        "guidance",
        "levels",
        "mu",
        "listed",
        "experts",
        "streams",
        "handed",
        "own",
        "latent",
        "size",
        "resolution",
    ):
        if row.get(field) and not (field == "guidance" and row[field] == {}):
            assert recipe.sources.get(field), field
    assert recipe.guidance.get("kind") in {*GUIDANCE_KINDS, None}
    assert recipe.sampler in ksched.SamplerType.__members__.values()
    assert recipe.process is not None
    assert (recipe.schedule is None) == (recipe.sigmas is not None)
    recipe.resolution.check(name, recipe.size)  # its own size keeps to its rules
    for width, height in recipe.resolution.sizes:
        recipe.build(width=width, height=height)
    if {"temporal", "spatial"} <= recipe.latent.keys():
        step, first = recipe.resolution.frames or (recipe.latent["temporal"], 1)
        assert (step % recipe.latent["temporal"], first) == (0, 1)
    assert (recipe.resolution.multiple_of or 0) % recipe.latent.get("spatial", 1) == 0


def test_every_named_place_is_used() -> None:
    used = json.dumps(data()["models"])
    assert all(f'"{short}: ' in used for short in data()["sources"])


def test_experts_have_the_boundary_in_sigma() -> None:
    recipe = ksched.recipes["wan2.2-t2v-a14b"]
    assert dict(recipe.experts) == {"high_noise": 0.875, "low_noise": 0.0}
    lightning = ksched.recipes["wan2.2-lightning-4"].build()
    assert (lightning.plan.call_sigmas >= 0.875).tolist() == [True, True, False, False]  # boundary_step_index 2
    assert (ksched.recipes["wan2.2-lightning-8"].build().plan.call_sigmas >= 0.875).tolist() == [True] * 4 + [False] * 4


@pytest.mark.parametrize(
    ("name", "how", "message"),
    [
        ("sdxl-lightning-4", {"steps": 8}, "distilled for 4 steps"),
        ("wan2.2-lightning-4", {"steps": 5}, "distilled for 4 steps"),
        ("sdxl-turbo", {"guidance": 7.5}, "distilled without guidance"),
        ("sdxl", {"width": 0}, "width"),
        ("qwen-image", {"width": 1300}, r"width must be a multiple of 16; got 1300\. Nearest are 1296 and 1312"),
        ("wan2.2-t2v-a14b", {"frames": 80}, r"frames must be 4 k \+ 1; got 80\. Nearest are 77 and 81"),
        ("sana-1600m", {"height": 24}, r"height must be a multiple of 32; got 24\. The smallest is 32"),
        ("rcm-wan2.1-t2v", {"steps": 5}, "steps must be at most 4"),
        ("sdxl", {"steps": 0}, "steps"),
        ("sdxl", {"guidance": math.nan}, "guidance"),
    ],
)
def test_what_a_model_cannot_do_is_refused(name: str, how: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        ksched.recipes[name].build(**how)


def test_a_run_on_a_recipe_tells_the_network_whole_timesteps() -> None:
    torch = pytest.importorskip("torch")
    sampler = ksched.recipes["wan2.1-t2v-480p"].build(steps=4)
    told: list[float] = []

    def network(x: Any, timestep: Any) -> Any:
        told.append(float(timestep[0]))
        return 0 * x

    denoiser = ksched.Denoiser(network, sampler.process, prediction="flow")
    sampler.sample(denoiser, torch.zeros(1, 4, dtype=torch.float64))
    np.testing.assert_allclose(told, sampler.timesteps, atol=1e-3)
