"""Noise by item in ComfyUI: the NOISE of the start, and how the steps learn which items are in the batch."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import torch

from ksched.noise.seeded import SeededNoise
from ksched.plan.rows import Draw
from ksched.samplers.spec import SamplerSpec

__all__ = ["ItemSeed", "NoiseByItem", "NoiseKind", "NoiseSampler", "asked_with_tensors", "comfyui_noise", "seeds_of"]

#: Source of the noise: by item and place in the run; one Brownian path per item; ComfyUI's own stream for the batch; or
#: by item and place again, but not white (`ksched.noise`).
NoiseKind = Literal["seeded", "brownian", "comfyui", "pink", "brown", "blue", "violet", "pyramid", "offset"]

NoiseSampler: TypeAlias = Callable[[Any, Any], Any]


class ItemSeed(int):
    """A seed that also says which items of a batch it is for.

    ComfyUI passes a sampler function only the seed of the NOISE. As a number, this is that seed.
    """

    items: Sequence[int] | None = None


class NoiseByItem:
    """A NOISE for ComfyUI that depends only on an item's seed, at the start and in the steps.

    Parameters
    ----------
    seed : int
        Seed of item 0; item i has the seed plus i.
    start : bool
        False starts without noise, like DisableNoise, to continue a run begun elsewhere; its steps have theirs.
    """

    def __init__(self, seed: int, start: bool = True) -> None:
        self.seed = ItemSeed(seed)
        self.start = start

    def generate_noise(self, latent: Mapping[str, Any]) -> Any:
        """Noise for a LATENT, on the CPU, for each item by its place or its batch index; `seed` then has the items.

        A latent with several parts, such as images and sound, gets independent noise for each.
        """
        samples = latent["samples"]
        items = tuple(int(i) for i in latent.get("batch_index") or range(samples.shape[0]))
        self.seed.items = items
        if not getattr(samples, "is_nested", False):
            return self._drawn(samples, items, 0)
        return type(samples)([self._drawn(part, items, k) for k, part in enumerate(samples.unbind())])

    def _drawn(self, samples: torch.Tensor, items: Sequence[int], part: int) -> torch.Tensor:
        like = torch.empty(samples.shape, dtype=samples.dtype)
        if not self.start:
            return like.zero_()
        return SeededNoise(tuple(int(self.seed) + i for i in items))(Draw(math.inf, math.inf, 0, part), like)


def seeds_of(seed: Any, batch: int) -> Any:
    """The seed of a run for `ksched.Sampler.sample`: one per item if the seed knows the items.

    If the number of items differs, the seed comes from another latent and its items are ignored.
    """
    if not isinstance(seed, ItemSeed):
        return seed
    items = seed.items
    return int(seed) if items is None or len(items) != batch else tuple(int(seed) + i for i in items)


def asked_with_tensors(noise_sampler: NoiseSampler, x: torch.Tensor) -> Callable[[float, float], Any]:
    """A noise sampler that is called with tensors, as those of k-diffusion expect."""
    return lambda sigma, sigma_next: noise_sampler(x.new_full((), sigma), x.new_full((), sigma_next))


def comfyui_noise(spec: SamplerSpec, x: torch.Tensor, sigmas: torch.Tensor, seed: int) -> NoiseSampler:
    """The noise of ComfyUI's own sampler with that name, as the installed version makes it."""
    comfy: Any = importlib.import_module("comfy.k_diffusion.sampling")
    made: NoiseSampler
    if spec.brownian_tree:
        made = comfy.BrownianTreeNoiseSampler(x, sigmas[sigmas > 0].min(), sigmas.max(), seed=seed, cpu=True)
    else:
        made = comfy.default_noise_sampler(x, seed=seed)
    return made
