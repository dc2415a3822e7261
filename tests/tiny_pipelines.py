"""Pipelines of diffusers with tiny networks of random weights, made offline: every tokenizer is built in memory.

``build(name)`` is a `Tiny`: the pipeline, a call that runs it, and what a test of schedulers wants to know.
Images are noise; what can be checked is that a run is finite, repeatable, and equal for schedulers that are equal.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

import diffusers
import numpy as np
import torch
import transformers
from diffusers.utils import logging as diffusers_logging
from PIL import Image
from transformers.utils import logging as transformers_logging

diffusers_logging.set_verbosity_error()
diffusers_logging.disable_progress_bar()
transformers_logging.set_verbosity_error()


def seeded(factory: Callable[[], Any], seed: int = 0) -> Any:
    """Build a module under a private RNG state and put it in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = factory()
    if isinstance(module, torch.nn.Module):
        module.eval().requires_grad_(False)
    return module


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


def toy_image(side: int = 32) -> Image.Image:
    ramp = np.linspace(0, 255, side, dtype=np.uint8)
    rgb = np.stack(
        [np.tile(ramp, (side, 1)), np.tile(ramp[:, None], (1, side)), np.full((side, side), 90, np.uint8)], -1
    )
    return Image.fromarray(rgb)


def toy_mask(side: int = 32) -> Image.Image:
    m = np.zeros((side, side), np.uint8)
    m[side // 4 : 3 * side // 4, side // 4 : 3 * side // 4] = 255
    return Image.fromarray(m)


# -------------------------------------------------------------------- tokenizers and text encoders, made in memory

_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789 .,-"


def clip_tokenizer(length: int = 77) -> Any:
    """A real CLIPTokenizer over single characters: no merges, so no vocabulary file is needed."""
    pieces = [c for c in _ALPHABET if c != " "]
    tokens = pieces + [p + "</w>" for p in pieces] + ["<|startoftext|>", "<|endoftext|>"]
    vocab = {tok: i for i, tok in enumerate(tokens)}
    return transformers.CLIPTokenizer(vocab=vocab, merges=[], model_max_length=length)


def t5_like_tokenizer(length: int = 64) -> Any:
    """Character tokenizer that behaves like T5's (pad 0, eos 1, unk 2) behind the generic fast class."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    vocab = {"<pad>": 0, "</s>": 1, "<unk>": 2, **{c: i + 3 for i, c in enumerate(_ALPHABET)}}
    tok = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tok.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tok.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tok, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=length
    )


def clip_text(width: int = 16, projected: bool = False, layers: int = 2, seed: int = 0) -> Any:
    n = len(clip_tokenizer().get_vocab())
    cfg = transformers.CLIPTextConfig(
        vocab_size=n,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=77,
        projection_dim=width,
        bos_token_id=n - 2,
        eos_token_id=n - 1,
        pad_token_id=n - 1,
    )
    cls = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
    return seeded(lambda: cls(cfg), seed)


def t5_text(width: int = 16, umt5: bool = False, seed: int = 0) -> Any:
    kw = {
        "vocab_size": 3 + len(_ALPHABET),
        "d_model": width,
        "d_kv": 8,
        "d_ff": 2 * width,
        "num_layers": 1,
        "num_heads": 2,
        "dropout_rate": 0.0,
        "feed_forward_proj": "gated-gelu",
    }
    if umt5:
        return seeded(lambda: transformers.UMT5EncoderModel(transformers.UMT5Config(**kw)), seed)
    return seeded(lambda: transformers.T5EncoderModel(transformers.T5Config(**kw)), seed)


# ------------------------------------------------------------------------------------- image autoencoder and UNets


def kl_vae(
    latent: int = 4, blocks: tuple[int, ...] = (8, 8), scaling: float = 0.18215, shift: float | None = None
) -> Any:
    """AutoencoderKL; spatial factor 2 ** (len(blocks) - 1)."""
    flow = shift is not None
    return seeded(
        lambda: diffusers.AutoencoderKL(
            in_channels=3,
            out_channels=3,
            latent_channels=latent,
            block_out_channels=blocks,
            down_block_types=("DownEncoderBlock2D",) * len(blocks),
            up_block_types=("UpDecoderBlock2D",) * len(blocks),
            layers_per_block=1,
            norm_num_groups=2,
            sample_size=32,
            scaling_factor=scaling,
            shift_factor=shift,
            use_quant_conv=not flow,
            use_post_quant_conv=not flow,
        )
    )


def cond_unet(context: int = 16, channels: int = 4, **extra: Any) -> Any:
    cfg: dict[str, Any] = {
        "sample_size": 16,
        "in_channels": channels,
        "out_channels": 4,
        "block_out_channels": (8, 16),
        "layers_per_block": 1,
        "norm_num_groups": 2,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "cross_attention_dim": context,
        "attention_head_dim": 2,
    }
    cfg.update(extra)
    return seeded(lambda: diffusers.UNet2DConditionModel(**cfg))


SD_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
PROMPT = "a red fox"

# Stock schedulers used as references for each family.
VP_STOCK = ("EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "DDIMScheduler", "HeunDiscreteScheduler")
FLOW_STOCK = ("FlowMatchEulerDiscreteScheduler", "FlowMatchLCMScheduler")


@dataclass
class Tiny:
    """A ready pipeline plus what a scheduler test needs to know about it."""

    name: str
    pipe: Any
    call: Callable[[Any, int, torch.Generator], Any]
    family: str  # "eps" | "v" | "flow" | "eps+var" | "edm"
    stock: tuple[str, ...] = VP_STOCK
    stock_kwargs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def run(self, steps: int = 3, seed: int = 0) -> np.ndarray:
        # most flow pipelines (and DiT) hand no generator to step, and a scheduler then draws from the global state
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            out = self.call(self.pipe, steps, rng(seed))
        if isinstance(out, torch.Tensor):
            out = out.float().cpu().numpy()
        return np.asarray(out)

    def use(self, scheduler: Any) -> Tiny:
        if isinstance(self.pipe, diffusers.ModularPipeline):
            self.pipe.update_components(scheduler=scheduler)
        else:
            self.pipe.scheduler = scheduler
        return self

    def use_stock(self, class_name: str) -> Tiny:
        cls = getattr(diffusers, class_name)
        return self.use(cls.from_config(self.pipe.scheduler.config, **self.stock_kwargs.get(class_name, {})))


REGISTRY: dict[str, Callable[[], Tiny]] = {}


def _register(fn: Callable[[], Tiny]) -> Callable[[], Tiny]:
    REGISTRY[fn.__name__] = fn
    return fn


def _quiet(node: Any) -> None:
    """Turn progress bars off, also in the nested blocks of a modular pipeline."""
    if hasattr(node, "set_progress_bar_config"):
        node.set_progress_bar_config(disable=True)
    for child in (getattr(node, "_blocks", None), *getattr(node, "sub_blocks", {}).values()):
        if child is not None:
            _quiet(child)


def build(name: str) -> Tiny:
    """A new pipeline of that name."""
    tiny = REGISTRY[name]()
    _quiet(tiny.pipe)
    return tiny


# ------------------------------------------------------------------------------------- Stable Diffusion 1.x family


def _sd_parts(**unet_extra: Any) -> dict[str, Any]:
    return {
        "vae": kl_vae(),
        "text_encoder": clip_text(),
        "tokenizer": clip_tokenizer(),
        "unet": cond_unet(**unet_extra),
        "scheduler": diffusers.PNDMScheduler(**SD_BETAS, skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1),
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }


@_register
def sd15() -> Tiny:
    return Tiny(
        "sd15",
        diffusers.StableDiffusionPipeline(**_sd_parts()),
        lambda p, n, g: (
            p(
                PROMPT, height=32, width=32, num_inference_steps=n, guidance_scale=5.0, generator=g, output_type="np"
            ).images
        ),
        "eps",
    )


@_register
def sd15_v() -> Tiny:
    parts = _sd_parts()
    parts["scheduler"] = diffusers.DDIMScheduler(
        **SD_BETAS,
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
    )
    return Tiny(
        "sd15_v",
        diffusers.StableDiffusionPipeline(**parts),
        lambda p, n, g: (
            p(
                PROMPT,
                height=32,
                width=32,
                num_inference_steps=n,
                guidance_scale=5.0,
                guidance_rescale=0.7,
                generator=g,
                output_type="np",
            ).images
        ),
        "v",
    )


@_register
def sd15_img2img() -> Tiny:
    return Tiny(
        "sd15_img2img",
        diffusers.StableDiffusionImg2ImgPipeline(**_sd_parts()),
        lambda p, n, g: (
            p(
                PROMPT,
                image=toy_image(),
                strength=0.6,
                num_inference_steps=2 * n,
                guidance_scale=4.0,
                generator=g,
                output_type="np",
            ).images
        ),
        "eps",
    )


@_register
def sd15_inpaint() -> Tiny:
    """4-channel UNet: the pipeline re-noises the known region inside the loop (add_noise mid-run)."""
    return Tiny(
        "sd15_inpaint",
        diffusers.StableDiffusionInpaintPipeline(**_sd_parts()),
        lambda p, n, g: (
            p(
                PROMPT,
                image=toy_image(),
                mask_image=toy_mask(),
                height=32,
                width=32,
                strength=0.8,
                num_inference_steps=2 * n,
                generator=g,
                output_type="np",
            ).images
        ),
        "eps",
    )


@_register
def sd15_inpaint9() -> Tiny:
    """9-channel UNet: mask and masked image go into the network; strength 1.0."""
    return Tiny(
        "sd15_inpaint9",
        diffusers.StableDiffusionInpaintPipeline(**_sd_parts(channels=9)),
        lambda p, n, g: (
            p(
                PROMPT,
                image=toy_image(),
                mask_image=toy_mask(),
                height=32,
                width=32,
                num_inference_steps=n,
                generator=g,
                output_type="np",
            ).images
        ),
        "eps",
    )


def _lcm_parts() -> dict[str, Any]:
    """The guidance scale is an input of the UNet, so a step is one call of it."""
    scheduler = diffusers.LCMScheduler(**SD_BETAS, clip_sample=False, set_alpha_to_one=True)
    return {**_sd_parts(time_cond_proj_dim=8), "scheduler": scheduler}


LCM_STOCK = ("LCMScheduler",)


@_register
def lcm() -> Tiny:
    return Tiny(
        "lcm",
        diffusers.LatentConsistencyModelPipeline(**_lcm_parts()),
        lambda p, n, g: (
            p(
                PROMPT,
                height=32,
                width=32,
                num_inference_steps=n,
                original_inference_steps=40,
                guidance_scale=8.0,
                generator=g,
                output_type="np",
            ).images
        ),
        "eps",
        LCM_STOCK,
    )


@_register
def lcm_img2img() -> Tiny:
    """The strength goes to the scheduler's set_timesteps, as no other pipeline has it."""
    return Tiny(
        "lcm_img2img",
        diffusers.LatentConsistencyModelImg2ImgPipeline(**_lcm_parts()),
        lambda p, n, g: (
            p(
                PROMPT,
                image=toy_image(),
                strength=0.6,
                num_inference_steps=n,
                guidance_scale=8.0,
                generator=g,
                output_type="np",
            ).images
        ),
        "eps",
        LCM_STOCK,
    )


@_register
def sd15_controlnet() -> Tiny:
    parts = _sd_parts()
    parts["controlnet"] = seeded(
        lambda: diffusers.ControlNetModel(
            in_channels=4,
            block_out_channels=(8, 16),
            layers_per_block=1,
            norm_num_groups=2,
            attention_head_dim=2,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            cross_attention_dim=16,
            conditioning_embedding_out_channels=(4, 8),
        )
    )
    return Tiny(
        "sd15_controlnet",
        diffusers.StableDiffusionControlNetPipeline(**parts),
        lambda p, n, g: (
            p(
                PROMPT, image=toy_image(32), height=32, width=32, num_inference_steps=n, generator=g, output_type="np"
            ).images
        ),
        "eps",
    )


# ------------------------------------------------------------------------------------------------------------ SDXL


def _sdxl_parts() -> dict[str, Any]:
    time_dim = 8
    unet = cond_unet(
        context=32,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=time_dim,
        transformer_layers_per_block=(1, 1),
        projection_class_embeddings_input_dim=16 + 6 * time_dim,
    )
    return {
        "vae": kl_vae(scaling=0.13025),
        "text_encoder": clip_text(projected=False),
        "text_encoder_2": clip_text(projected=True, seed=1),
        "tokenizer": clip_tokenizer(),
        "tokenizer_2": clip_tokenizer(),
        "unet": unet,
        "scheduler": diffusers.EulerDiscreteScheduler(**SD_BETAS, steps_offset=1, timestep_spacing="leading"),
    }


@_register
def sdxl() -> Tiny:
    return Tiny(
        "sdxl",
        diffusers.StableDiffusionXLPipeline(**_sdxl_parts(), add_watermarker=False),
        lambda p, n, g: (
            p(
                PROMPT, height=32, width=32, num_inference_steps=n, guidance_scale=5.0, generator=g, output_type="np"
            ).images
        ),
        "eps",
    )


@_register
def sdxl_split() -> Tiny:
    """denoising_end: the pipeline filters timesteps by value against num_train_timesteps."""
    return Tiny(
        "sdxl_split",
        diffusers.StableDiffusionXLPipeline(**_sdxl_parts(), add_watermarker=False),
        lambda p, n, g: (
            p(
                PROMPT,
                height=32,
                width=32,
                num_inference_steps=2 * n,
                denoising_end=0.6,
                generator=g,
                output_type="latent",
            ).images
        ),
        "eps",
    )


@_register
def sdxl_img2img() -> Tiny:
    """denoising_start: refiner-style; order-2 schedulers get an odd/even correction."""
    return Tiny(
        "sdxl_img2img",
        diffusers.StableDiffusionXLImg2ImgPipeline(**_sdxl_parts(), add_watermarker=False),
        lambda p, n, g: (
            p(
                PROMPT, image=toy_image(), denoising_start=0.5, num_inference_steps=2 * n, generator=g, output_type="np"
            ).images
        ),
        "eps",
    )


@_register
def sdxl_inpaint() -> Tiny:
    return Tiny(
        "sdxl_inpaint",
        diffusers.StableDiffusionXLInpaintPipeline(**_sdxl_parts(), add_watermarker=False),
        lambda p, n, g: (
            p(
                PROMPT,
                image=toy_image(),
                mask_image=toy_mask(),
                height=32,
                width=32,
                strength=0.7,
                num_inference_steps=2 * n,
                generator=g,
                output_type="np",
            ).images
        ),
        "eps",
    )


# -------------------------------------------------------------------------------------- Flow-matching image models


def _sd3_parts(latent: int = 4) -> dict[str, Any]:
    return {
        "transformer": seeded(
            lambda: diffusers.SD3Transformer2DModel(
                sample_size=16,
                patch_size=1,
                in_channels=latent,
                out_channels=latent,
                num_layers=1,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=32,
                caption_projection_dim=16,
                pooled_projection_dim=32,
                pos_embed_max_size=32,
            )
        ),
        "vae": kl_vae(latent, scaling=1.5305, shift=0.0609),
        "text_encoder": clip_text(projected=True),
        "tokenizer": clip_tokenizer(),
        "text_encoder_2": clip_text(projected=True, seed=1),
        "tokenizer_2": clip_tokenizer(),
        "text_encoder_3": None,
        "tokenizer_3": None,
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
    }


@_register
def sd3() -> Tiny:
    return Tiny(
        "sd3",
        diffusers.StableDiffusion3Pipeline(**_sd3_parts()),
        lambda p, n, g: (
            p(
                PROMPT,
                height=32,
                width=32,
                num_inference_steps=n,
                guidance_scale=4.0,
                generator=g,
                max_sequence_length=16,
                output_type="np",
            ).images
        ),
        "flow",
        FLOW_STOCK,
    )


@_register
def sd3_img2img() -> Tiny:
    return Tiny(
        "sd3_img2img",
        diffusers.StableDiffusion3Img2ImgPipeline(**_sd3_parts()),
        lambda p, n, g: (
            p(
                PROMPT,
                image=toy_image(),
                height=32,
                width=32,
                strength=0.6,
                num_inference_steps=2 * n,
                guidance_scale=4.0,
                generator=g,
                max_sequence_length=16,
                output_type="np",
            ).images
        ),
        "flow",
        FLOW_STOCK,
    )


@_register
def sd3_inpaint() -> Tiny:
    return Tiny(
        "sd3_inpaint",
        diffusers.StableDiffusion3InpaintPipeline(**_sd3_parts(16)),
        lambda p, n, g: (
            p(
                PROMPT,
                image=toy_image(),
                mask_image=toy_mask(),
                height=32,
                width=32,
                strength=0.7,
                num_inference_steps=2 * n,
                guidance_scale=4.0,
                generator=g,
                max_sequence_length=16,
                output_type="np",
            ).images
        ),
        "flow",
        FLOW_STOCK,
    )


def _flux_parts() -> dict[str, Any]:
    return {
        "transformer": seeded(
            lambda: diffusers.FluxTransformer2DModel(
                patch_size=1,
                in_channels=16,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=16,
                pooled_projection_dim=16,
                guidance_embeds=True,
                axes_dims_rope=(2, 2, 4),
            )
        ),
        "vae": kl_vae(scaling=0.3611, shift=0.1159),
        "text_encoder": clip_text(),
        "tokenizer": clip_tokenizer(),
        "text_encoder_2": t5_text(),
        "tokenizer_2": t5_like_tokenizer(),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    }


@_register
def flux() -> Tiny:
    return Tiny(
        "flux",
        diffusers.FluxPipeline(**_flux_parts()),
        lambda p, n, g: (
            p(
                PROMPT,
                height=32,
                width=32,
                num_inference_steps=n,
                guidance_scale=3.5,
                generator=g,
                max_sequence_length=16,
                output_type="np",
            ).images
        ),
        "flow",
        FLOW_STOCK,
    )


@_register
def flux_img2img() -> Tiny:
    return Tiny(
        "flux_img2img",
        diffusers.FluxImg2ImgPipeline(**_flux_parts()),
        lambda p, n, g: (
            p(
                PROMPT,
                image=toy_image(),
                height=32,
                width=32,
                strength=0.6,
                num_inference_steps=2 * n,
                guidance_scale=3.5,
                generator=g,
                max_sequence_length=16,
                output_type="np",
            ).images
        ),
        "flow",
        FLOW_STOCK,
    )


@_register
def auraflow() -> Tiny:
    return Tiny(
        "auraflow",
        diffusers.AuraFlowPipeline(
            transformer=seeded(
                lambda: diffusers.AuraFlowTransformer2DModel(
                    sample_size=16,
                    patch_size=2,
                    in_channels=4,
                    out_channels=4,
                    num_mmdit_layers=1,
                    num_single_dit_layers=1,
                    attention_head_dim=8,
                    num_attention_heads=2,
                    caption_projection_dim=16,
                    joint_attention_dim=16,
                    pos_embed_max_size=256,
                )
            ),
            vae=kl_vae(scaling=0.13025),
            text_encoder=t5_text(umt5=True),
            tokenizer=t5_like_tokenizer(),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=1.73),
        ),
        lambda p, n, g: (
            p(
                PROMPT,
                height=32,
                width=32,
                num_inference_steps=n,
                generator=g,
                max_sequence_length=16,
                output_type="np",
            ).images
        ),
        "flow",
        FLOW_STOCK,
    )


@_register
def pixart_sigma() -> Tiny:
    """Learned-variance transformer (8 output channels): the pipeline drops the variance half."""
    return Tiny(
        "pixart_sigma",
        diffusers.PixArtSigmaPipeline(
            transformer=seeded(
                lambda: diffusers.PixArtTransformer2DModel(
                    sample_size=16,
                    num_layers=1,
                    patch_size=2,
                    attention_head_dim=8,
                    num_attention_heads=2,
                    in_channels=4,
                    out_channels=8,
                    cross_attention_dim=16,
                    caption_channels=16,
                    use_additional_conditions=False,
                )
            ),
            vae=kl_vae(),
            text_encoder=t5_text(),
            tokenizer=t5_like_tokenizer(300),
            scheduler=diffusers.DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02),
        ),
        lambda p, n, g: (
            p(
                PROMPT,
                height=32,
                width=32,
                num_inference_steps=n,
                generator=g,
                use_resolution_binning=False,
                max_sequence_length=16,
                output_type="np",
            ).images
        ),
        "eps",
    )


# ----------------------------------------------------------------------------------- DiT / pixel-space DDPM family


@_register
def dit() -> Tiny:
    return Tiny(
        "dit",
        diffusers.DiTPipeline(
            transformer=seeded(
                lambda: diffusers.DiTTransformer2DModel(
                    sample_size=8,
                    num_layers=1,
                    patch_size=2,
                    attention_head_dim=8,
                    num_attention_heads=2,
                    in_channels=4,
                    out_channels=8,
                    num_embeds_ada_norm=1000,
                    norm_type="ada_norm_zero",
                    norm_elementwise_affine=False,
                    activation_fn="gelu-approximate",
                )
            ),
            vae=kl_vae(),
            scheduler=diffusers.DDIMScheduler(),
        ),
        lambda p, n, g: p(class_labels=[1], num_inference_steps=n, generator=g, output_type="np").images,
        "eps",
        ("DDIMScheduler", "DPMSolverMultistepScheduler", "DDPMScheduler"),
    )


def _pixel_unet(channels: int = 3) -> Any:
    return seeded(
        lambda: diffusers.UNet2DModel(
            sample_size=16,
            in_channels=channels,
            out_channels=channels,
            layers_per_block=1,
            block_out_channels=(8, 16),
            norm_num_groups=2,
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=4,
        )
    )


@_register
def ddpm() -> Tiny:
    return Tiny(
        "ddpm",
        diffusers.DDPMPipeline(unet=_pixel_unet(), scheduler=diffusers.DDPMScheduler()),
        lambda p, n, g: p(batch_size=1, num_inference_steps=n, generator=g, output_type="np").images,
        "eps",
        ("DDPMScheduler", "DDIMScheduler", "DPMSolverMultistepScheduler"),
    )


@_register
def deepfloyd_if() -> Tiny:
    """Pixel model with learned variance: 6 output channels reach step() when variance_type is learned*."""
    unet = cond_unet(
        context=16,
        channels=3,
        out_channels=6,
        encoder_hid_dim=16,
        encoder_hid_dim_type="text_proj",
        act_fn="gelu",
        class_embed_type=None,
        resnet_time_scale_shift="scale_shift",
    )
    pipe = diffusers.IFPipeline(
        tokenizer=t5_like_tokenizer(77),
        text_encoder=t5_text(),
        unet=unet,
        scheduler=diffusers.DDPMScheduler(
            num_train_timesteps=1000,
            beta_schedule="squaredcos_cap_v2",
            beta_start=0.0001,
            beta_end=0.02,
            thresholding=True,
            dynamic_thresholding_ratio=0.95,
            sample_max_value=1.5,
            prediction_type="epsilon",
            variance_type="learned_range",
        ),
        safety_checker=None,
        feature_extractor=None,
        watermarker=None,
        requires_safety_checker=False,
    )
    return Tiny(
        "deepfloyd_if",
        pipe,
        lambda p, n, g: (
            p(
                PROMPT, height=16, width=16, num_inference_steps=n, guidance_scale=5.0, generator=g, output_type="np"
            ).images
        ),
        "eps+var",
        ("DDPMScheduler", "DPMSolverMultistepScheduler"),
    )


# ----------------------------------------------------------------------------------------------------------- video


@_register
def wan() -> Tiny:
    return Tiny(
        "wan",
        diffusers.WanPipeline(
            tokenizer=t5_like_tokenizer(),
            text_encoder=t5_text(umt5=True),
            vae=seeded(
                lambda: diffusers.AutoencoderKLWan(
                    base_dim=4,
                    z_dim=16,
                    dim_mult=[1, 1, 1, 1],
                    num_res_blocks=1,
                    temperal_downsample=[False, True, True],
                )
            ),
            transformer=seeded(
                lambda: diffusers.WanTransformer3DModel(
                    patch_size=(1, 2, 2),
                    num_attention_heads=2,
                    attention_head_dim=12,
                    in_channels=16,
                    out_channels=16,
                    text_dim=16,
                    freq_dim=32,
                    ffn_dim=32,
                    num_layers=1,
                    rope_max_seq_len=32,
                )
            ),
            scheduler=diffusers.UniPCMultistepScheduler(
                prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, num_train_timesteps=1000
            ),
        ),
        lambda p, n, g: (
            p(
                PROMPT,
                height=16,
                width=16,
                num_frames=5,
                num_inference_steps=n,
                guidance_scale=4.0,
                generator=g,
                max_sequence_length=16,
                output_type="np",
            ).frames
        ),
        "flow",
        ("UniPCMultistepScheduler", "FlowMatchEulerDiscreteScheduler", "DPMSolverMultistepScheduler"),
        {"FlowMatchEulerDiscreteScheduler": {"shift": 3.0}},
    )


@_register
def ltx() -> Tiny:
    vae = seeded(
        lambda: diffusers.AutoencoderKLLTXVideo(
            in_channels=3,
            out_channels=3,
            latent_channels=8,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1),
            spatio_temporal_scaling=(True, True, False, False),
            decoder_spatio_temporal_scaling=(True, True, False, False),
            decoder_inject_noise=(False,) * 5,
            upsample_residual=(False,) * 4,
            upsample_factor=(1,) * 4,
            timestep_conditioning=False,
            patch_size=1,
            patch_size_t=1,
            encoder_causal=True,
            decoder_causal=False,
        )
    )
    return Tiny(
        "ltx",
        diffusers.LTXPipeline(
            tokenizer=t5_like_tokenizer(),
            text_encoder=t5_text(),
            vae=vae,
            transformer=seeded(
                lambda: diffusers.LTXVideoTransformer3DModel(
                    in_channels=8,
                    out_channels=8,
                    patch_size=1,
                    patch_size_t=1,
                    num_attention_heads=2,
                    attention_head_dim=8,
                    cross_attention_dim=16,
                    num_layers=1,
                    caption_channels=16,
                )
            ),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.1),
        ),
        lambda p, n, g: (
            p(
                PROMPT,
                height=32,
                width=32,
                num_frames=9,
                num_inference_steps=n,
                guidance_scale=3.0,
                generator=g,
                max_sequence_length=16,
                output_type="np",
            ).frames
        ),
        "flow",
        FLOW_STOCK,
    )


@_register
def svd() -> Tiny:
    """Image-to-video with continuous log-sigma timesteps, v-prediction and Karras sigmas up to 700."""
    vision = seeded(
        lambda: transformers.CLIPVisionModelWithProjection(
            transformers.CLIPVisionConfig(
                hidden_size=16,
                intermediate_size=32,
                projection_dim=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                image_size=224,
                patch_size=56,
            )
        )
    )
    return Tiny(
        "svd",
        diffusers.StableVideoDiffusionPipeline(
            vae=seeded(
                lambda: diffusers.AutoencoderKLTemporalDecoder(
                    block_out_channels=(32, 32),
                    down_block_types=("DownEncoderBlock2D", "DownEncoderBlock2D"),
                    latent_channels=4,
                    layers_per_block=1,
                )
            ),
            image_encoder=vision,
            unet=seeded(
                lambda: diffusers.UNetSpatioTemporalConditionModel(
                    sample_size=16,
                    in_channels=8,
                    out_channels=4,
                    block_out_channels=(32, 64),
                    layers_per_block=1,
                    down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
                    up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
                    cross_attention_dim=16,
                    num_attention_heads=2,
                    addition_time_embed_dim=8,
                    projection_class_embeddings_input_dim=24,
                )
            ),
            scheduler=diffusers.EulerDiscreteScheduler(
                **SD_BETAS,
                prediction_type="v_prediction",
                timestep_type="continuous",
                timestep_spacing="leading",
                steps_offset=1,
                use_karras_sigmas=True,
                sigma_min=0.002,
                sigma_max=700.0,
            ),
            feature_extractor=transformers.CLIPImageProcessor(),
        ),
        lambda p, n, g: (
            p(
                toy_image(),
                height=32,
                width=32,
                num_frames=2,
                num_inference_steps=n,
                decode_chunk_size=1,
                generator=g,
                output_type="np",
            ).frames
        ),
        "edm",
        ("EulerDiscreteScheduler",),
    )


@_register
def cogvideox() -> Tiny:
    """Passes old_pred_original_sample only to CogVideoXDPMScheduler (isinstance check)."""
    return Tiny(
        "cogvideox",
        diffusers.CogVideoXPipeline(
            tokenizer=t5_like_tokenizer(),
            text_encoder=t5_text(),
            vae=seeded(
                lambda: diffusers.AutoencoderKLCogVideoX(
                    in_channels=3,
                    out_channels=3,
                    latent_channels=4,
                    layers_per_block=1,
                    norm_num_groups=2,
                    down_block_types=("CogVideoXDownBlock3D",) * 4,
                    up_block_types=("CogVideoXUpBlock3D",) * 4,
                    block_out_channels=(4, 4, 4, 4),
                    temporal_compression_ratio=4,
                )
            ),
            transformer=seeded(
                lambda: diffusers.CogVideoXTransformer3DModel(
                    num_attention_heads=4,
                    attention_head_dim=8,
                    in_channels=4,
                    out_channels=4,
                    time_embed_dim=4,
                    text_embed_dim=16,
                    num_layers=1,
                    sample_width=2,
                    sample_height=2,
                    sample_frames=9,
                    patch_size=2,
                    temporal_compression_ratio=4,
                    max_text_seq_length=16,
                )
            ),
            scheduler=diffusers.CogVideoXDDIMScheduler(
                **SD_BETAS, prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
            ),
        ),
        lambda p, n, g: (
            p(
                PROMPT,
                height=16,
                width=16,
                num_frames=5,
                num_inference_steps=n,
                generator=g,
                max_sequence_length=16,
                output_type="np",
            ).frames
        ),
        "v",
        ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler", "DDIMScheduler"),
    )


# --------------------------------------- modular pipelines (diffusers >= 0.36): same components, other driver code


def _modular(blocks_name: str, parts: dict[str, Any]) -> Any:
    import diffusers.modular_pipelines as mp

    pipe = getattr(mp, blocks_name)().init_pipeline()
    pipe.update_components(**{k: v for k, v in parts.items() if k in pipe._component_specs})
    return pipe


@_register
def sdxl_modular() -> Tiny:
    return Tiny(
        "sdxl_modular",
        _modular("StableDiffusionXLAutoBlocks", _sdxl_parts()),
        lambda p, n, g: p(
            prompt=PROMPT, height=32, width=32, num_inference_steps=n, generator=g, output_type="np", output="images"
        ),
        "eps",
        # no Heun here: upstream, modular guiders compare the model-call index with num_inference_steps, so CFG
        # switches off half-way for order-2 schedulers and SDXL's denoiser then crashes (seen on 0.42.1).
        ("EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "DDIMScheduler"),
    )


@_register
def flux_modular() -> Tiny:
    return Tiny(
        "flux_modular",
        _modular("FluxAutoBlocks", _flux_parts()),
        lambda p, n, g: p(
            prompt=PROMPT,
            height=32,
            width=32,
            num_inference_steps=n,
            generator=g,
            max_sequence_length=16,
            output_type="np",
            output="images",
        ),
        "flow",
        FLOW_STOCK,
    )
