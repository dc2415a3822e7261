"""What `StableDiffusion` uses of a pipeline's modules, through the pipeline's own methods if it has them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from ksched.denoisers.denoiser import Denoiser

__all__ = ["decode", "encode", "expanded", "text_inputs"]


@torch.no_grad()
def text_inputs(
    pipe: Any, prompt: str, negative: str, scale: float, size: tuple[int, int]
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Inputs of the network besides the state, with the prompt and with the negative one, for a batch of 1.

    Parameters
    ----------
    pipe : object
        The pipeline.
    prompt, negative : str
        Texts.
    scale : float
        Guidance scale, for networks with guidance built in; they get no second inputs.
    size : tuple of int
        Width and height in pixels.
    """
    device = pipe._execution_device
    # SDXL treats None differently from "": it uses zeros
    encode_prompt = partial(
        pipe.encode_prompt,
        prompt=prompt,
        negative_prompt=negative or None,
        device=device,
        num_images_per_prompt=1,
        do_classifier_free_guidance=True,
    )
    if hasattr(pipe, "transformer"):
        with_text, without, pooled, unpooled = encode_prompt(prompt_2=None, prompt_3=None)
        return (
            {"encoder_hidden_states": with_text, "pooled_projections": pooled},
            {"encoder_hidden_states": without, "pooled_projections": unpooled},
        )
    with_text, without, *rest = encode_prompt()
    cond, uncond = {"encoder_hidden_states": with_text}, {"encoder_hidden_states": without}
    if rest:
        second, shape = pipe.text_encoder_2, size[::-1]
        width = rest[0].shape[-1] if second is None else second.config.projection_dim
        told = pipe._get_add_time_ids(
            shape, (0, 0), shape, dtype=with_text.dtype, text_encoder_projection_dim=width
        ).to(device)
        for inputs, pooled in zip((cond, uncond), rest, strict=True):
            inputs["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": told}
    if dim := pipe.unet.config.time_cond_proj_dim:  # distilled with guidance built in, like LCM
        weight = pipe.get_guidance_scale_embedding(torch.tensor([scale - 1.0]), embedding_dim=dim)
        return {**cond, "timestep_cond": weight.to(device, with_text.dtype)}, None
    return cond, uncond


def expanded(model: Denoiser, inputs: Mapping[str, Any], x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """A denoiser whose inputs for one item are used for every item."""

    def expand(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: expand(inner) for name, inner in value.items()}
        return value.expand(len(x), *value.shape[1:])

    return model(x, sigma, **expand(inputs))


@torch.no_grad()
def encode(pipe: Any, pixels: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
    """Latents of images; see `StableDiffusion.encode`."""
    vae = pipe.vae
    with _in_float32(vae):
        found = vae.encode(pixels.to(pipe._execution_device, vae.dtype)).latent_dist
        drawn = torch.cat([found.sample(generator) for generator in generators]).float()
    mean, std = _scale(vae.config, drawn)
    latents: torch.Tensor = (drawn - mean) / std
    return latents


@torch.no_grad()
def decode(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    """Images of latents; see `StableDiffusion.decode`."""
    vae = pipe.vae
    mean, std = _scale(vae.config, latents)
    with _in_float32(vae):
        image = vae.decode((latents * std + mean).to(vae.dtype), return_dict=False)[0]
    plain = None
    if getattr(pipe, "safety_checker", None) is not None:
        image, flagged = pipe.run_safety_checker(image, image.device, pipe.dtype)
        plain = [not black for black in flagged]  # blacked-out images need no denormalization
    if getattr(pipe, "watermark", None) is not None:
        image = pipe.watermark.apply_watermark(image)
    pixels: torch.Tensor = pipe.image_processor.postprocess(image, output_type="pt", do_denormalize=plain).float()
    return pixels


def _scale(config: Any, like: torch.Tensor) -> tuple[Any, Any]:
    """Mean and std of a VAE's latents, by which they are normalized for the network."""
    mean, std = (getattr(config, name, None) for name in ("latents_mean", "latents_std"))
    if mean is not None and std is not None:
        mean, std = (like.new_tensor(value).reshape(1, -1, 1, 1) for value in (mean, std))
        return mean, std / config.scaling_factor
    return getattr(config, "shift_factor", None) or 0.0, 1 / config.scaling_factor


@contextmanager
def _in_float32(vae: Any) -> Iterator[None]:
    """Run a VAE in single precision if its configuration says that it overflows in half precision."""
    overflows = vae.dtype == torch.float16 and getattr(vae.config, "force_upcast", False)
    if overflows:
        vae.to(dtype=torch.float32)
    try:
        yield
    finally:
        if overflows:
            vae.to(dtype=torch.float16)
