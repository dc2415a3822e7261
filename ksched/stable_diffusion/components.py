"""A diffusers pipeline taken apart into a denoiser, a process, an encoder and a decoder.

Prompts, weights and images are handled by the pipeline's own methods. This module turns its network into a denoiser,
and a `SamplingConfig` into a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from ksched import guidance
from ksched.denoisers.answer import Model
from ksched.denoisers.denoiser import Denoiser
from ksched.dialects.diffusers.process import scheduled_sigmas, start_std
from ksched.execution.loop import StepInfo
from ksched.names.enums import Prediction
from ksched.noise.kinds import Correlated
from ksched.noise.sources import start_source
from ksched.plan.rows import Draw
from ksched.processes import Process
from ksched.sampler import Sampler, build_sampler
from ksched.samplers.registry import sampler_spec
from ksched.schedules.transforms import split, truncate
from ksched.stable_diffusion import parts
from ksched.stable_diffusion.config import SamplingConfig
from ksched.stable_diffusion.loading import Trained, assembled, for_text
from ksched.stable_diffusion.named_noise import noise_named

__all__ = ["Components", "Drawing"]


class Components:
    """The parts of a model of the Stable Diffusion family; see `ksched.stable_diffusion.StableDiffusion`."""

    def __init__(self, pipeline: Any = None, **modules: Any) -> None:
        if (pipeline is None) == (not modules):
            raise TypeError("pass either a diffusers pipeline or its modules by name (unet=, vae=, ...)")
        self.pipeline: Any = for_text(assembled(modules) if pipeline is None else pipeline)
        self._network: Any = getattr(self.pipeline, "unet", None) or self.pipeline.transformer
        self.name = "model"

    # ------------------------------------------------------------------------------------------------- what it is

    @property
    def process(self) -> Process:
        """The process that the model was trained on, at its own size, with states as its scheduler holds them."""
        return self._trained({}).process(self._tokens(*self.size))

    @property
    def prediction(self) -> Prediction:
        """What the network predicts."""
        return self._trained({}).prediction

    @property
    def device(self) -> torch.device:
        """The device of the states."""
        found: torch.device = self.pipeline._execution_device
        return found

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the images that the model was trained on."""
        sample = self._network.config.sample_size
        high, wide = (sample, sample) if isinstance(sample, int) else sample
        return wide * self._scale, high * self._scale

    @property
    def multiple(self) -> int:
        """The number that width and height must be multiples of."""
        return math.lcm(8, self._scale * self._patch)

    @property
    def _patch(self) -> int:
        patch: int = getattr(self._network.config, "patch_size", None) or 1
        return patch

    @property
    def _scale(self) -> int:
        scale: int = self.pipeline.vae_scale_factor
        return scale

    def _tokens(self, width: int, height: int) -> float:
        return width * height / (self._scale * self._patch) ** 2

    def _trained(self, overrides: Mapping[str, Any]) -> Trained:
        return Trained.of(self.pipeline.scheduler, overrides)

    # --------------------------------------------------------------------------------------------- parts of a run

    def sampler(self, config: SamplingConfig, *, whole: bool = True) -> Sampler:
        """The sampler of a configuration, on this model's process.

        Parameters
        ----------
        config : SamplingConfig
            Configuration with sampler, schedule, steps, options and size.
        whole : bool
            False leaves out the steps that ``strength`` skips.

        Raises
        ------
        TypeError, ValueError
            If options or size do not fit the model, or the strength leaves no step.
        """
        trained, tokens = self._trained(config.process), self._tokens(*self._size(config))
        process = trained.process(tokens)
        for name, value in config.process.items():
            if not self._trained({}).is_changed_by(self._trained({name: value}), name, tokens):
                raise ValueError(f"process: {name}={value!r} has no effect on {process!r}; leave it out")
        Denoiser(self._asked(), process, trained.prediction)  # an error if they do not go together
        own = sampler_spec(config.sampler).levels
        if own is not None:
            sigmas = np.asarray(own(config.steps, process, **config.sampler_options))
        elif config.sigmas is not None:
            sigmas = np.asarray(config.sigmas)
        else:
            sigmas = scheduled_sigmas(
                trained.settings, process, config.schedule, config.steps, options=config.schedule_options
            )
        if not whole and hasattr(self.pipeline, "transformer"):  # these pipelines round the number of skipped steps
            kept = split(sigmas, int(config.steps - config.steps * config.strength))[1]
        else:
            kept = sigmas if whole else truncate(sigmas, config.strength)
        if len(kept) < 2:
            raise ValueError(
                f"steps * strength must be at least 1; got {config.steps} * {config.strength}. Raise one of them"
            )
        return build_sampler(config.sampler, sigmas=kept, process=process, **config.sampler_options)

    def denoiser(
        self,
        prompt: str,
        negative_prompt: str = "",
        guidance_scale: float = 7.5,
        *,
        guidance_rescale: float = 0.0,
        width: int | None = None,
        height: int | None = None,
        process: Process | None = None,
        prediction: Prediction | str | None = None,
        uncond: bool = False,
    ) -> Model:
        """The denoiser for a prompt, for latents of any batch size.

        Parameters
        ----------
        prompt, negative_prompt : str
            Texts.
        guidance_scale : float
            Scale of classifier-free guidance; 1 is none, with one network call per model call.
        guidance_rescale : float
            As for `SamplingConfig`.
        width, height : int or None
            Size of the image in pixels; None is the model's own.
        process, prediction : Process, Prediction, str or None
            Override the model's own.
        uncond : bool
            Return (denoised, uncond) at scale 1 too, for CFG++ samplers.

        Returns
        -------
        callable
            Denoiser ``(x, sigma) -> (denoised, uncond)``, or ``-> denoised`` without guidance. x is float32, of shape
            (batch, channels, height, width) in latent cells.
        """
        model = Denoiser(self._asked(), process or self.process, prediction or self.prediction)
        size = (width or self.size[0], height or self.size[1])
        cond, without = parts.text_inputs(self.pipeline, prompt, negative_prompt, guidance_scale, size)
        if (guidance_scale == 1 and not uncond) or without is None:
            return partial(parts.expanded, model, cond)
        pair = guidance.batched(model, cond, without)
        if guidance_rescale:
            return guidance.rescale(pair, None, guidance_scale, model.process, model.prediction, phi=guidance_rescale)
        return guidance.cfg(pair, None, guidance_scale)

    def _asked(self) -> Callable[..., torch.Tensor]:
        """The network, called in its own dtype whatever the state's."""
        network, dtype = self._network, self._network.dtype

        def ask(x: torch.Tensor, timestep: torch.Tensor, **inputs: Any) -> torch.Tensor:
            output: torch.Tensor = network(x.to(dtype), timestep=timestep, **inputs, return_dict=False)[0]
            return output

        return ask

    def _size(self, config: SamplingConfig) -> tuple[int, int]:
        width, height = config.width or self.size[0], config.height or self.size[1]
        for name, side in (("width", width), ("height", height)):
            if side % self.multiple:
                raise ValueError(f"{name} must be a multiple of {self.multiple} for this model; got {side}")
        return width, height

    @torch.no_grad()
    def encode(self, pixels: torch.Tensor, generators: Sequence[torch.Generator]) -> torch.Tensor:
        """Latents of images, drawn from the VAE's distribution as in diffusers.

        Parameters
        ----------
        pixels : Tensor
            Pixels in [-1, 1], shape (1, 3, height, width).
        generators : sequence of Generator
            One for each item of the result.
        """
        return parts.encode(self.pipeline, pixels, generators)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Images in [0, 1] from latents, float32, shape (batch, 3, height, width)."""
        return parts.decode(self.pipeline, latents)

    # ---------------------------------------------------------------------------------------------------- whole runs

    @torch.no_grad()
    def prepare(
        self, config: SamplingConfig, *, init: torch.Tensor | None = None, mask: torch.Tensor | None = None
    ) -> Drawing:
        """Everything that the images of a configuration share; call the result with seeds.

        Parameters
        ----------
        config : SamplingConfig
            What to draw.
        init : Tensor or None
            Pixels in [-1, 1], shape (1, 3, height, width), to start from; ``strength`` says how much they change.
        mask : Tensor or None
            1 where to draw and 0 where to keep ``init``, shape (1, 1, height, width).
        """
        width, height = self._size(config)
        trained = self._trained(config.process)
        sampler = self.sampler(config, whole=init is None)
        model = self.denoiser(
            config.prompt,
            config.negative_prompt,
            config.guidance_scale,
            guidance_rescale=config.guidance_rescale,
            width=width,
            height=height,
            process=sampler.process,
            prediction=trained.prediction,
            uncond=sampler.spec.uncond,
        )
        shape = (1, self.pipeline.vae.config.latent_channels, height // self._scale, width // self._scale)
        # a cell is drawn if any of its pixels is drawn
        cells = None if mask is None else torch.nn.functional.adaptive_max_pool2d(mask, shape[2:]).to(self.device)
        std = start_std(sampler.process, float(sampler.sigmas[0]), trained.settings)
        anew = init is None or (mask is not None and config.strength == 1)
        noise = noise_named(config.noise)
        return Drawing(self, sampler, model, shape, std if anew else None, init, cells, noise)


@dataclass(frozen=True)
class Drawing:
    """The result of `Components.prepare`.

    Attributes
    ----------
    model, sampler, denoiser : Components, Sampler or callable
        Model, sampler and denoiser of the run.
    shape : tuple of int
        Shape of one latent.
    std : float or None
        Standard deviation of the start noise; None if the run starts from ``init`` with noise.
    init, mask : Tensor or None
        Pixels, and latent cells.
    noise : Correlated, str or None
        Noise of the start and of the steps; None is white. Brownian paths are for the steps alone.
    """

    model: Components
    sampler: Sampler
    denoiser: Model
    shape: tuple[int, ...]
    std: float | None
    init: torch.Tensor | None
    mask: torch.Tensor | None
    noise: Correlated | str | None = None

    @torch.no_grad()
    def __call__(self, seeds: Sequence[int], callback: Callable[[StepInfo], object] | None = None) -> torch.Tensor:
        """Latents of the images for these seeds, drawn at once; ``callback`` as for `ksched.Sampler.sample`."""
        process, first, denoiser = self.sampler.process, self.sampler.sigmas[0], self.denoiser
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        # in this order, because pipelines draw from their generator like this
        clean = None if self.init is None else self.model.encode(self.init, generators)
        eps = torch.cat([torch.randn(self.shape, generator=generator) for generator in generators])
        if isinstance(self.noise, Correlated):  # in place of it, so that all else keeps its numbers
            eps = start_source(tuple(seeds), self.noise, process)(Draw(math.inf, math.inf), eps)
        eps = eps.to(self.model.device)
        if clean is not None and self.mask is not None:
            denoiser = guidance.inpaint(denoiser, self.mask, clean, process, noise=eps)
        x = process.add_noise(clean, eps, first) if self.std is None else eps * self.std
        noise: Any = self.noise
        return self.sampler.sample(denoiser, x, seed=list(seeds), noise=noise, callback=callback)
