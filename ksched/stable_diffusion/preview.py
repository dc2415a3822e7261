"""Small preview images during a run, made without the decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from PIL import Image

if TYPE_CHECKING:
    from ksched.stable_diffusion.components import Components

__all__ = ["Preview"]


class Preview:
    """Images of latents with one pixel per cell, by a linear map that approximates the decoder."""

    def __init__(self, model: Components) -> None:
        """Fit colours to channels and a constant, on one random latent with patches of 4 cells."""
        channels = model.pipeline.vae.config.latent_channels
        noise = torch.randn((1, channels, 8, 8), generator=torch.Generator("cpu").manual_seed(0))
        cells = torch.nn.functional.interpolate(noise, scale_factor=4.0, mode="nearest")
        colours = torch.nn.functional.adaptive_avg_pool2d(model.decode(cells.to(model.device)), (32, 32))
        self._map = torch.linalg.lstsq(_rows(cells), colours.cpu().flatten(2)[0].T).solution

    def __call__(self, latents: torch.Tensor) -> Image.Image:
        """The image of a batch of one."""
        colours = (_rows(latents.float().cpu()) @ self._map).clamp(0, 1)
        pixels = (255 * colours).round().byte().reshape(*latents.shape[2:], -1)
        return Image.fromarray(pixels.numpy())


def _rows(cells: torch.Tensor) -> torch.Tensor:
    """The channels of each cell of one latent, with a 1 appended."""
    return torch.cat([cells, torch.ones_like(cells[:, :1])], 1).flatten(2)[0].T
