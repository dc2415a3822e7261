"""The adapter beside diffusers' own pipelines, with tiny networks; complete and incomplete model folders."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from representatives import in_turn, short  # noqa: E402
from tiny_pipelines import PROMPT, build, cond_unet, toy_image, toy_mask  # noqa: E402
from transformers import BatchFeature  # noqa: E402

import ksched  # noqa: E402
from ksched.integrations.diffusers.scheduler import KSchedScheduler  # noqa: E402
from ksched.stable_diffusion import SamplingConfig, StableDiffusion  # noqa: E402
from ksched.stable_diffusion.parts import expanded, text_inputs  # noqa: E402

# what diffusers and transformers warn of is their own affair
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::ResourceWarning"),
]

FAMILIES = ("sd15", "sd15_v", "sdxl", "sd3")
_built: dict[str, StableDiffusion] = {}


def tiny(name: str) -> StableDiffusion:
    if name not in _built:
        _built[name] = StableDiffusion(build(name).pipe)
    return _built[name]


def drawn(model: StableDiffusion, config: SamplingConfig) -> npt.NDArray[np.float32]:
    """Images before they are rounded to bytes."""
    pixels: npt.NDArray[np.float32] = model.decode(model.prepare(config)(config.seeds)).numpy()
    return pixels.transpose(0, 2, 3, 1)


def of_pipeline(model: StableDiffusion, config: SamplingConfig) -> npt.NDArray[np.float32]:
    """The same of diffusers' own pipeline, with our scheduler in it."""
    pipe = model.pipeline
    stock = pipe.scheduler
    pipe.scheduler = KSchedScheduler.from_config(
        stock.config, sampler=config.sampler, schedule=config.schedule, noise_seed=config.seed, layout="steps"
    )
    pipe.set_progress_bar_config(disable=True)
    try:
        images: npt.NDArray[np.float32] = pipe(
            config.prompt,
            negative_prompt=config.negative_prompt or None,
            num_inference_steps=config.steps,
            guidance_scale=config.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(config.seeds[0]),
            output_type="np",
        ).images
    finally:
        pipe.scheduler = stock
    return images


PAIRS = [
    ("euler", "karras"),
    ("euler_ancestral", "karras"),
    ("heun", "simple"),
    ("dpmpp_2m", "karras"),
    ("dpmpp_2m_sde", "exponential"),
    ("dpmpp_sde", "karras"),
    ("uni_pc", "beta"),
    ("ddim", "ddim_uniform"),
    ("lms", "normal"),
    ("deis", "sgm_uniform"),
    ("ddpm", "trailing"),
    ("res_multistep", "kl_optimal"),
]
CONFIG = SamplingConfig(PROMPT, negative_prompt="a blue whale", steps=4, guidance_scale=5.0, seed=7)


@short(lambda sampler, schedule: (sampler, schedule) in PAIRS[::3])
@pytest.mark.parametrize(("sampler", "schedule"), PAIRS)
def test_the_image_of_the_pipeline(sampler: str, schedule: str) -> None:
    model, config = tiny("sd15"), replace(CONFIG, sampler=sampler, schedule=schedule)
    want = of_pipeline(model, config)
    # float32 rounding; a colour of eight bits is 4e-3, and that is what these networks show of another sampler
    np.testing.assert_allclose(drawn(model, config), want, rtol=0, atol=1e-5)
    assert np.abs(want - drawn(model, replace(config, schedule="linear"))).max() > 1 / 255


@short(lambda sampler, schedule: (sampler, schedule) in PAIRS[::4])
@pytest.mark.parametrize(("sampler", "schedule"), PAIRS)
def test_the_image_of_the_pipeline_with_trained_weights(sampler: str, schedule: str) -> None:
    if "shipped" not in _built:
        _built["shipped"] = StableDiffusion.from_folder(Path(ksched.__file__).parent / "data" / "handwritten_digits")
    config = SamplingConfig(
        "a handwritten seven", "three", steps=6, guidance_scale=4, seed=11, sampler=sampler, schedule=schedule
    )
    assert np.abs(drawn(_built["shipped"], config) - of_pipeline(_built["shipped"], config)).max() < 1 / 255


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name: str) -> None:
    model, config = tiny(name), replace(CONFIG, sampler="dpmpp_2m_sde", schedule="karras")
    np.testing.assert_allclose(drawn(model, config), of_pipeline(model, config), rtol=0, atol=2e-5)


def test_what_the_scheduler_says_of_a_model() -> None:
    assert tiny("sd15").process == ksched.VP(variance_preserving=True)  # as PNDM holds its states
    assert tiny("sdxl").process == ksched.VP()
    assert tiny("sd3").process == ksched.Flow(3.0, 1000, 1000.0)
    assert getattr(tiny("sd15_v").process, "zero_terminal_snr", False)
    assert [tiny(name).prediction for name in FAMILIES] == ["epsilon", "v_prediction", "epsilon", "flow"]
    assert tiny("sd15").size == (32, 32)


def test_a_configuration_overrides_what_the_scheduler_says() -> None:
    sampler = tiny("sd3").sampler(replace(CONFIG, process={"shift": 6.0}))
    assert sampler.process == ksched.Flow(6.0, 1000, 1000.0)
    model = tiny("sd15_v")
    other = drawn(model, replace(CONFIG, process={"prediction_type": "sample"}))
    assert np.abs(other - drawn(model, CONFIG)).max() > 1 / 255
    assert np.array_equal(other, drawn(model, replace(CONFIG, process={"prediction_type": "x0"})))
    assert tiny("sd15").sampler(replace(CONFIG, process={"prediction_type": "epsilon"})).process == tiny("sd15").process
    with pytest.raises(ValueError, match=r"process: shift=3.0 has no effect on VP\(.*; leave it out"):
        tiny("sd15").sampler(replace(CONFIG, process={"shift": 3.0}))
    with pytest.raises(ValueError, match=r"process: beta_start=0.1 has no effect on Flow\(.*; leave it out"):
        tiny("sd3").sampler(replace(CONFIG, process={"beta_start": 0.1}))
    with pytest.raises(ValueError, match="epsilon cannot be predicted with zero terminal SNR"):
        model.generate(replace(CONFIG, process={"prediction_type": "epsilon"}))


def test_dynamic_shifting_goes_by_the_size() -> None:
    pipe = build("sd3").pipe
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    model = StableDiffusion(pipe)
    small, large = (model.sampler(replace(CONFIG, width=side, height=side)).process for side in (32, 64))
    assert isinstance(small, ksched.Flow)
    assert isinstance(large, ksched.Flow)
    assert 1 < small.shift < large.shift
    np.testing.assert_allclose(drawn(model, CONFIG), of_pipeline(model, CONFIG), rtol=0, atol=1e-5)


STRENGTHS, FROM_IMAGES = [0.5, 1.0], ["euler", "dpmpp_2m", "euler_ancestral"]


@short(lambda sampler, strength: strength == in_turn(FROM_IMAGES.index(sampler), STRENGTHS))
@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("sampler", FROM_IMAGES)
def test_image_to_image_is_that_of_the_pipeline(sampler: str, strength: float) -> None:
    pipe = build("sd15_img2img").pipe
    config = replace(CONFIG, sampler=sampler, schedule="karras", strength=strength)
    model = StableDiffusion(pipe)
    got = model.generate(config, init_image=toy_image())[0]
    pipe.scheduler = KSchedScheduler.from_config(
        pipe.scheduler.config, sampler=sampler, schedule="karras", noise_seed=7, layout="steps"
    )
    want = pipe(
        config.prompt,
        negative_prompt=config.negative_prompt,
        image=toy_image(),
        strength=strength,
        num_inference_steps=config.steps,
        guidance_scale=config.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(7),
    ).images[0]
    assert np.abs(np.array(got).astype(int) - np.array(want)).max() <= 1


@pytest.mark.parametrize("name", ["StableDiffusionXL", "StableDiffusion3"])
def test_image_to_image_of_other_families(name: str) -> None:
    text = tiny({"StableDiffusionXL": "sdxl", "StableDiffusion3": "sd3"}[name]).pipeline
    pipe = getattr(diffusers, f"{name}Img2ImgPipeline")(**text.components)
    pipe.set_progress_bar_config(disable=True)
    config = replace(CONFIG, sampler="dpmpp_2m", strength=0.6)  # which the two families round to 2 and 3 steps of 4
    [got] = StableDiffusion(pipe).generate(config, init_image=toy_image())
    pipe.scheduler = KSchedScheduler.from_config(pipe.scheduler.config, sampler="dpmpp_2m", schedule="simple")
    want = pipe(
        config.prompt,
        negative_prompt=config.negative_prompt,
        image=toy_image(),
        strength=0.6,
        num_inference_steps=config.steps,
        guidance_scale=config.guidance_scale,
        generator=torch.Generator("cpu").manual_seed(7),
        **({"width": 32, "height": 32} if "3" in name else {}),
    ).images[0]
    assert np.abs(np.array(got).astype(int) - np.array(want)).max() <= 1


def test_a_network_with_guidance_inside_is_asked_once() -> None:
    pipe = build("sd15").pipe
    pipe.register_modules(unet=cond_unet(time_cond_proj_dim=8))
    model, config = StableDiffusion(pipe), replace(CONFIG, sampler="lcm", negative_prompt="")
    np.testing.assert_allclose(drawn(model, config), of_pipeline(model, config), rtol=0, atol=1e-5)
    assert np.abs(drawn(model, config) - drawn(model, replace(config, guidance_scale=1.0))).max() > 1e-3


def test_a_safety_checker_is_asked() -> None:
    pipe = build("sd15").pipe

    class Checker(torch.nn.Module):
        device, dtype = torch.device("cpu"), torch.float32

        def forward(self, images: torch.Tensor, clip_input: torch.Tensor) -> tuple[torch.Tensor, list[bool]]:
            return torch.cat([images[:1], torch.zeros_like(images[1:])]), [False, True]

    pipe.safety_checker = Checker()
    pipe.feature_extractor = lambda images, return_tensors: BatchFeature({"pixel_values": torch.zeros(len(images))})
    first, second = StableDiffusion(pipe).generate(replace(CONFIG, count=2), batch_size=2)
    assert np.array(first).any()
    assert not np.array(second).any()


# ------------------------------------------------------------------------------------------------------------ denoiser


def test_the_denoiser_runs_with_the_library_itself() -> None:
    model = tiny("sd15")
    denoiser = model.denoiser(PROMPT, "a blue whale", 5.0)
    sampler = ksched.build_sampler("euler", "karras", 4, process=model.process)
    start = torch.randn((1, 4, 16, 16), generator=torch.Generator("cpu").manual_seed(7))
    with torch.no_grad():
        latents = sampler.sample(denoiser, start)
        pixels = model.decode(latents).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(pixels, drawn(model, replace(CONFIG, schedule="karras")), rtol=0, atol=1e-5)


def test_without_guidance_the_network_is_asked_once() -> None:
    model, seen = tiny("sd15"), []
    hook = model.pipeline.unet.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    try:
        drawn(model, replace(CONFIG, guidance_scale=1.0))
        drawn(model, CONFIG)
        drawn(model, replace(CONFIG, guidance_scale=1.0, sampler="euler_cfg_pp"))
    finally:
        hook.remove()
    assert seen == [1] * 4 + [2] * 4 + [2] * 4


@pytest.mark.parametrize("sampler", ["dpm_adaptive", "dpmpp_2m_cfg_pp", "sa_solver", "restart", "rk4"])
def test_samplers_that_no_pipeline_can_drive_and_others(sampler: str) -> None:
    image = drawn(tiny("sd15"), replace(CONFIG, sampler=sampler, schedule="karras"))
    assert np.isfinite(image).all()


def test_guidance_rescale_is_that_of_the_pipeline() -> None:
    model, config = tiny("sd15_v"), replace(CONFIG, guidance_rescale=0.7, schedule="trailing")
    pipe, stock = model.pipeline, model.pipeline.scheduler
    pipe.scheduler = KSchedScheduler.from_config(stock.config, sampler="euler", schedule="trailing")
    pipe.set_progress_bar_config(disable=True)
    try:
        want = pipe(
            config.prompt,
            negative_prompt=config.negative_prompt,
            num_inference_steps=config.steps,
            guidance_scale=config.guidance_scale,
            guidance_rescale=0.7,
            generator=torch.Generator("cpu").manual_seed(7),
            output_type="np",
        ).images
    finally:
        pipe.scheduler = stock
    np.testing.assert_allclose(drawn(model, config), want, rtol=0, atol=1e-4)


def test_an_image_depends_on_its_own_seed() -> None:
    model, config = tiny("sd15"), replace(CONFIG, sampler="euler_ancestral", count=3)
    together = drawn(model, config)
    for i, seed in enumerate((7, 8, 9)):
        np.testing.assert_allclose(together[i : i + 1], drawn(model, replace(config, seed=seed, count=1)), atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 1 / 255


def test_sizes() -> None:
    model = tiny("sd15")
    assert model.generate(replace(CONFIG, width=48, height=24))[0].size == (48, 24)
    pipe = build("sd3").pipe
    pipe.vae_scale_factor = 16
    with pytest.raises(ValueError, match="width must be a multiple of 16 for this model; got 40"):
        StableDiffusion(pipe).sampler(replace(CONFIG, width=40, height=32))


# ------------------------------------------------------------------------------------------------ pipelines and folders


@pytest.mark.parametrize("name", FAMILIES)
def test_modules_by_name(name: str) -> None:
    whole = tiny(name)
    modules = dict(whole.pipeline.components)
    modules = {key: value for key, value in modules.items() if value is not None}
    again = StableDiffusion(**modules)
    assert type(again.pipeline) is type(whole.pipeline)
    np.testing.assert_array_equal(drawn(again, CONFIG), drawn(whole, CONFIG))


def test_what_is_no_model() -> None:
    with pytest.raises(TypeError, match="pass either a diffusers pipeline or its modules by name"):
        StableDiffusion()
    with pytest.raises(TypeError, match="pipeline must be a diffusers pipeline; got int"):
        StableDiffusion(3)
    modules = dict(tiny("sd15").pipeline.components)
    with pytest.raises(ValueError, match=r"modules must have .*; vae is missing"):
        StableDiffusion(**{name: module for name, module in modules.items() if name != "vae"})
    with pytest.raises(ValueError, match="pipeline must be one of Stable Diffusion 1, 2, XL or 3; got DDPMPipeline"):
        StableDiffusion(build("ddpm").pipe)
    with pytest.raises(ValueError, match="it has 9, as networks trained for inpainting do"):
        StableDiffusion(build("sd15_inpaint9").pipe)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "sd15"
    tiny("sd15").pipeline.save_pretrained(path)
    return path


def test_a_folder(folder: Path) -> None:
    model = StableDiffusion.from_folder(folder)
    assert model.name == "sd15"
    np.testing.assert_array_equal(drawn(model, CONFIG), drawn(tiny("sd15"), CONFIG))
    same = StableDiffusion.from_folder(str(folder), device="cpu", dtype=torch.float32)
    np.testing.assert_array_equal(drawn(same, CONFIG), drawn(model, CONFIG))


def test_half_precision(folder: Path) -> None:
    model = StableDiffusion.from_folder(folder, dtype=torch.bfloat16)
    assert model.pipeline.unet.dtype == torch.bfloat16
    image = drawn(model, CONFIG)
    assert image.dtype == np.float32
    assert np.abs(image - drawn(tiny("sd15"), CONFIG)).mean() < 0.05


def test_slicing_is_the_pipelines_business(folder: Path) -> None:
    model = StableDiffusion.from_folder(folder)
    model.pipeline.enable_attention_slicing()
    model.pipeline.vae.enable_slicing()
    np.testing.assert_allclose(drawn(model, CONFIG), drawn(tiny("sd15"), CONFIG), rtol=0, atol=1e-5)


def test_a_vae_that_overflows_is_run_in_single_precision(folder: Path) -> None:
    model = StableDiffusion.from_folder(folder)
    vae = model.pipeline.vae
    vae.register_to_config(force_upcast=True)
    vae.to(torch.float16)
    seen = []
    hook = vae.decoder.register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
    latents = torch.zeros((1, 4, 16, 16))
    with torch.no_grad():
        model.decode(latents)
    hook.remove()
    assert seen == [torch.float32]
    assert vae.dtype == torch.float16


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"a diffusers folder with model_index.json; .* has none"):
        StableDiffusion.from_folder(tmp_path / "nothing")
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match=r"model_index\.json cannot be read"):
        StableDiffusion.from_folder(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(ValueError, match=r"must contain Stable Diffusion 1, 2, XL or 3; it contains FluxPipeline\."):
        StableDiffusion.from_folder(tmp_path)


def test_a_part_is_missing(folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    shutil.rmtree(broken / "vae")
    with pytest.raises(FileNotFoundError, match=r"broken must contain the parts in model_index\.json; vae is missing"):
        StableDiffusion.from_folder(broken)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_weights_that_end_too_soon(folder: Path, tmp_path: Path, part: str) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    [weights] = (broken / part).glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=rf"{part}/{weights.name} cannot be read: ") as caught:
        StableDiffusion.from_folder(broken)
    assert "\n" not in str(caught.value)


def test_weights_that_are_missing(folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    for weights in (broken / "unet").glob("*.safetensors"):
        weights.unlink()
    with pytest.raises(ValueError, match="broken cannot be read: "):
        StableDiffusion.from_folder(broken)


def test_a_configuration_that_is_no_json(folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    (broken / "unet" / "config.json").write_text("{")
    with pytest.raises(ValueError, match="broken cannot be read: "):
        StableDiffusion.from_folder(broken)


def test_a_folder_of_half_precision_alone(folder: Path, tmp_path: Path) -> None:
    model = StableDiffusion.from_folder(folder)
    model.pipeline.save_pretrained(tmp_path / "half", variant="fp16")
    again = StableDiffusion.from_folder(tmp_path / "half")
    np.testing.assert_array_equal(drawn(again, CONFIG), drawn(model, CONFIG))


def test_a_folder_with_our_scheduler_in_it(folder: Path, tmp_path: Path) -> None:
    model = StableDiffusion.from_folder(folder)
    model.pipeline.scheduler = KSchedScheduler.from_config(
        model.pipeline.scheduler.config, sampler="dpmpp_2m", schedule="karras"
    )
    model.pipeline.save_pretrained(tmp_path / "ours")
    again = StableDiffusion.from_folder(tmp_path / "ours")
    assert again.process == tiny("sd15").process
    np.testing.assert_array_equal(drawn(again, CONFIG), drawn(tiny("sd15"), CONFIG))


def test_masks_and_images_that_do_not_fit() -> None:
    model = tiny("sd15")
    with pytest.raises(ValueError, match="mask needs init_image"):
        model.generate(CONFIG, mask=toy_mask())
    with pytest.raises(ValueError, match=r"mask must have the size of init_image, \(32, 32\); got \(64, 64\)"):
        model.generate(CONFIG, init_image=toy_image(), mask=toy_mask(64))
    with pytest.raises(ValueError, match=r"must be multiples of 8, because .*; got 30 x 30. Crop it, or pass width"):
        model.generate(CONFIG, init_image=toy_image(30), mask=toy_mask(30))
    with pytest.raises(ValueError, match=r"steps \* strength must be at least 1; got 4 \* 0.1"):
        model.generate(replace(CONFIG, strength=0.1), init_image=toy_image())
    with pytest.raises(TypeError, match="init_image must be a Pillow image or a path; got int"):
        model.generate(CONFIG, init_image=3)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=r"init_image must be an existing file; there is none at nowhere.png"):
        model.generate(CONFIG, init_image="nowhere.png")
    assert model.generate(CONFIG, init_image=toy_image(39))[0].size == (32, 32)


def test_answers_that_are_no_numbers() -> None:
    model = StableDiffusion(build("sd15").pipe)
    with torch.no_grad():
        model.pipeline.unet.conv_out.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match=r"returned nan or infinity in .*; load it with"):
        model.generate(CONFIG)


def test_the_network_is_told_height_before_width() -> None:
    """SDXL's time ids are (height, width) of the picture, its crop, and (height, width) again."""
    cond, uncond = text_inputs(tiny("sdxl").pipeline, PROMPT, "", 3.0, (96, 64))
    assert uncond is not None
    for inputs in (cond, uncond):
        assert inputs["added_cond_kwargs"]["time_ids"].tolist() == [[64, 96, 0, 0, 64, 96]]


def test_inputs_of_one_item_are_given_for_every_item() -> None:
    """A network that cannot broadcast gets as many rows of each input as there are states."""
    seen = []

    def network(
        x: torch.Tensor, timestep: torch.Tensor, words: torch.Tensor, more: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        seen.extend([words.shape, more["ids"].shape])
        return x

    inputs = {"words": torch.zeros(1, 7, 4), "more": {"ids": torch.zeros(1, 6)}}
    expanded(ksched.Denoiser(network, ksched.VP()), inputs, torch.zeros(3, 2), torch.ones(3))
    assert seen == [(3, 7, 4), (3, 6)]
