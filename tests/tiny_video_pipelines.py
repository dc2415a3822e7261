"""More tiny pipelines: those that use their scheduler in more than a loop. Prompts are embedded beforehand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from tiny_pipelines import (
    FLOW_STOCK,
    PROMPT,
    REGISTRY,
    Tiny,
    _quiet,
    _sd_parts,
    kl_vae,
    rng,
    seeded,
    t5_like_tokenizer,
    t5_text,
    toy_image,
)

__all__ = ["MORE", "build_more"]


MORE: dict[str, Callable[[], Tiny]] = {}


def _more(fn: Callable[[], Tiny]) -> Callable[[], Tiny]:
    MORE[fn.__name__] = fn
    return fn


def build_more(name: str) -> Tiny:
    """A new pipeline of that name."""
    tiny = MORE[name]()
    _quiet(tiny.pipe)
    return tiny


def embedded(width: int = 16, length: int = 8, seed: int = 5) -> torch.Tensor:
    """A prompt."""
    return torch.randn(1, length, width, generator=rng(seed))


class Harmless:
    """In place of Cosmos' guard, which is a package of its own."""

    def to(self, device: Any) -> Harmless:
        return self

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, video: Any) -> Any:
        return video


# ------------------------------------------------------------------------------------------------------------- Cosmos
def cosmos_transformer(channels: int = 16, **more: Any) -> Any:
    return seeded(
        lambda: diffusers.CosmosTransformer3DModel(
            in_channels=channels,
            out_channels=16,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=1,
            mlp_ratio=2,
            text_embed_dim=16,
            adaln_lora_dim=4,
            max_size=(4, 32, 32),
            patch_size=(1, 2, 2),
            rope_scale=(2.0, 1.0, 1.0),
            **more,
        )
    )


def wan_vae() -> Any:
    return seeded(
        lambda: diffusers.AutoencoderKLWan(
            base_dim=4, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True]
        )
    )


def cosmos_parts(channels: int, scheduler: Any) -> dict[str, Any]:
    return {
        "text_encoder": t5_text(),
        "tokenizer": t5_like_tokenizer(),
        "transformer": cosmos_transformer(channels, concat_padding_mask=False, extra_pos_embed_type="learnable"),
        "vae": wan_vae(),
        "scheduler": scheduler,
        "safety_checker": Harmless(),
    }


def cosmos_vae() -> Any:
    return seeded(
        lambda: diffusers.AutoencoderKLCosmos(
            in_channels=3,
            out_channels=3,
            latent_channels=16,
            encoder_block_out_channels=(8, 8, 8, 8),
            decode_block_out_channels=(8, 8, 8, 8),
            attention_resolutions=(8,),
            resolution=64,
            num_layers=1,
            patch_size=4,
            patch_type="haar",
            scaling_factor=1.0,
            spatial_compression_ratio=4,
            temporal_compression_ratio=4,
        )
    )


def edm() -> Any:
    return diffusers.EDMEulerScheduler(
        sigma_min=0.002, sigma_max=80.0, sigma_data=0.5, sigma_schedule="karras", final_sigmas_type="sigma_min"
    )


COSMOS = {"prompt_embeds": embedded(), "negative_prompt_embeds": embedded(seed=6), "height": 32, "width": 32}


@_more
def cosmos1() -> Tiny:
    """Counts ``_step_index`` back, to do every step twice: for x0 of both halves, and towards the guided one."""
    parts = {**cosmos_parts(16, edm()), "vae": cosmos_vae()}
    return Tiny(
        "cosmos1",
        diffusers.CosmosTextToWorldPipeline(**parts),
        lambda p, n, g: (
            p(
                **COSMOS, num_frames=9, num_inference_steps=n, guidance_scale=3.0, generator=g, output_type="latent"
            ).frames
        ),
        "edm",
        ("EDMEulerScheduler",),
    )


@_more
def cosmos1_video() -> Tiny:
    """Asks for ``_get_conditioning_c_in`` too."""
    parts = {**cosmos_parts(17, edm()), "vae": cosmos_vae()}
    return Tiny(
        "cosmos1_video",
        diffusers.CosmosVideoToWorldPipeline(**parts),
        lambda p, n, g: (
            p(
                image=toy_image(32),
                **COSMOS,
                num_frames=9,
                num_inference_steps=n,
                guidance_scale=3.0,
                generator=g,
                output_type="latent",
            ).frames
        ),
        "edm",
        ("EDMEulerScheduler",),
    )


def cosmos2_scheduler() -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)


@_more
def cosmos2() -> Tiny:
    """Registers a range up to 80 in the configuration of a flow class, and writes over its last sigma."""
    return Tiny(
        "cosmos2",
        diffusers.Cosmos2TextToImagePipeline(**cosmos_parts(16, cosmos2_scheduler())),
        lambda p, n, g: (
            p(**COSMOS, num_inference_steps=n, guidance_scale=3.0, generator=g, output_type="latent").images
        ),
        "flow",
        ("FlowMatchEulerDiscreteScheduler",),
    )


@_more
def cosmos2_video() -> Tiny:
    return Tiny(
        "cosmos2_video",
        diffusers.Cosmos2VideoToWorldPipeline(**cosmos_parts(17, cosmos2_scheduler())),
        lambda p, n, g: (
            p(
                image=toy_image(32),
                **COSMOS,
                num_frames=5,
                num_inference_steps=n,
                guidance_scale=3.0,
                generator=g,
                output_type="latent",
            ).frames
        ),
        "flow",
        ("FlowMatchEulerDiscreteScheduler",),
    )


# -------------------------------------------------------------------------------------------------------------- others
@_more
def cogview4() -> Tiny:
    """Gives whole timesteps and sigmas at once."""
    return Tiny(
        "cogview4",
        diffusers.CogView4Pipeline(
            tokenizer=None,
            text_encoder=None,
            vae=kl_vae(shift=0.0),
            transformer=seeded(
                lambda: diffusers.CogView4Transformer2DModel(
                    patch_size=2,
                    in_channels=4,
                    num_layers=1,
                    attention_head_dim=4,
                    num_attention_heads=4,
                    out_channels=4,
                    text_embed_dim=16,
                    time_embed_dim=8,
                    condition_dim=4,
                )
            ),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
                use_dynamic_shifting=True, time_shift_type="linear", base_shift=0.25, max_shift=0.75
            ),
        ),
        lambda p, n, g: (
            p(
                prompt_embeds=embedded(),
                negative_prompt_embeds=embedded(seed=6),
                height=32,
                width=32,
                num_inference_steps=n,
                generator=g,
                output_type="latent",
            ).images
        ),
        "flow",
        ("FlowMatchEulerDiscreteScheduler",),
    )


@_more
def mochi() -> Tiny:
    """OmniGen's setting too: time from 0 to 1, and velocity towards the data."""
    return Tiny(
        "mochi",
        diffusers.MochiPipeline(
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True, num_train_timesteps=1),
            vae=seeded(
                lambda: diffusers.AutoencoderKLMochi(
                    latent_channels=12,
                    out_channels=3,
                    encoder_block_out_channels=(32, 32, 32, 32),
                    decoder_block_out_channels=(32, 32, 32, 32),
                    layers_per_block=(1, 1, 1, 1, 1),
                )
            ),
            text_encoder=t5_text(),
            tokenizer=t5_like_tokenizer(),
            transformer=seeded(
                lambda: diffusers.MochiTransformer3DModel(
                    patch_size=2,
                    num_attention_heads=2,
                    attention_head_dim=8,
                    num_layers=1,
                    pooled_projection_dim=16,
                    in_channels=12,
                    qk_norm="rms_norm",
                    text_embed_dim=16,
                    time_embed_dim=4,
                    max_sequence_length=16,
                )
            ),
        ),
        lambda p, n, g: (
            p(
                "a red fox",
                height=16,
                width=16,
                num_frames=7,
                num_inference_steps=n,
                generator=g,
                max_sequence_length=16,
                output_type="latent",
            ).frames
        ),
        "flow",
        ("FlowMatchEulerDiscreteScheduler",),
    )


@_more
def ltx_condition() -> Tiny:
    """Tells ``step`` the timestep of every token."""
    parts = REGISTRY["ltx"]().pipe.components
    parts["scheduler"] = diffusers.FlowMatchEulerDiscreteScheduler()
    return Tiny(
        "ltx_condition",
        diffusers.LTXConditionPipeline(**parts),
        lambda p, n, g: (
            p(
                image=toy_image(32),
                strength=0.8,
                prompt="a red fox",
                height=32,
                width=32,
                num_frames=9,
                num_inference_steps=n,
                generator=g,
                max_sequence_length=16,
                output_type="latent",
            ).frames
        ),
        "flow",
        FLOW_STOCK[:1],
    )


@_more
def sana_sprint() -> Tiny:
    return Tiny(
        "sana_sprint",
        diffusers.SanaSprintPipeline(
            tokenizer=t5_like_tokenizer(),
            text_encoder=t5_text(),
            vae=seeded(
                lambda: diffusers.AutoencoderDC(
                    in_channels=3,
                    latent_channels=4,
                    attention_head_dim=2,
                    encoder_block_types=("ResBlock", "EfficientViTBlock"),
                    decoder_block_types=("ResBlock", "EfficientViTBlock"),
                    encoder_block_out_channels=(8, 8),
                    decoder_block_out_channels=(8, 8),
                    encoder_qkv_multiscales=((), (5,)),
                    decoder_qkv_multiscales=((), (5,)),
                    encoder_layers_per_block=(1, 1),
                    decoder_layers_per_block=[1, 1],
                    downsample_block_type="conv",
                    upsample_block_type="interpolate",
                    decoder_norm_types="rms_norm",
                    decoder_act_fns="silu",
                )
            ),
            transformer=seeded(
                lambda: diffusers.SanaTransformer2DModel(
                    patch_size=1,
                    in_channels=4,
                    out_channels=4,
                    num_layers=1,
                    num_attention_heads=2,
                    attention_head_dim=4,
                    num_cross_attention_heads=2,
                    cross_attention_head_dim=4,
                    cross_attention_dim=8,
                    caption_channels=16,
                    sample_size=32,
                    qk_norm="rms_norm_across_heads",
                    guidance_embeds=True,
                )
            ),
            scheduler=diffusers.SCMScheduler(prediction_type="trigflow", sigma_data=0.5),
        ),
        lambda p, n, g: (
            p(
                prompt_embeds=embedded(),
                prompt_attention_mask=torch.ones(1, 8, dtype=torch.long),
                height=32,
                width=32,
                num_inference_steps=n,
                intermediate_timesteps=1.3 if n == 2 else None,
                generator=g,
                use_resolution_binning=False,
                output_type="latent",
            ).images
        ),
        "trig",
        ("SCMScheduler",),
    )


@_more
def anyflow() -> Tiny:
    """A network that is told two times."""
    return Tiny(
        "anyflow",
        diffusers.AnyFlowPipeline(
            tokenizer=t5_like_tokenizer(),
            text_encoder=t5_text(umt5=True),
            transformer=seeded(
                lambda: diffusers.AnyFlowTransformer3DModel(
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
            vae=wan_vae(),
            scheduler=diffusers.FlowMapEulerDiscreteScheduler(shift=5.0),
        ),
        lambda p, n, g: (
            p(
                prompt_embeds=embedded(),
                height=16,
                width=16,
                num_frames=5,
                num_inference_steps=n,
                generator=g,
                output_type="latent",
            ).frames
        ),
        "flow map",
        ("FlowMapEulerDiscreteScheduler",),
    )


@_more
def panorama() -> Tiny:
    """Three views that overlap, each of which has the scheduler as it left it."""
    parts = {**_sd_parts(), "vae": kl_vae(blocks=(8, 8, 8, 8))}  # views are counted in eighths of a picture
    parts["scheduler"] = diffusers.DDIMScheduler.from_config(parts["scheduler"].config)
    return Tiny(
        "panorama",
        diffusers.StableDiffusionPanoramaPipeline(**parts),
        lambda p, n, g: (
            p(
                PROMPT,
                height=64,
                width=640,
                num_inference_steps=n,
                guidance_scale=3.0,
                generator=g,
                output_type="latent",
            ).images
        ),
        "eps",
    )
