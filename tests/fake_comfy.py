"""The parts of ComfyUI that ksched touches, in small: models, guidance, KSAMPLER and the menus, by the same names.

Written from the contract of 2026, not from ComfyUI's code. In it, flow models have a noise scale, their start noise is
the same at the highest level as below, and every ``model_sampling`` gives the sigma at a fraction of a run. A model
here is exact for normal data. With a condition the data have another mean than without, so guidance has an effect.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import torch

# -------------------------------------------------------------------------------------------------------- noise levels


class EPS:
    """States ``x0 + sigma * eps``."""

    sigma_max: Any

    def noise_scaling(self, sigma: Any, noise: Any, latent: Any, max_denoise: bool = False) -> Any:
        return latent + noise * ((1 + sigma**2) ** 0.5 if max_denoise else sigma)

    def inverse_noise_scaling(self, sigma: Any, latent: Any) -> Any:
        return latent


class V_PREDICTION(EPS): ...  # noqa: N801 - ComfyUI's names


class X0(EPS): ...


class V_PREDICTION_DDPM(EPS): ...  # noqa: N801 - CogVideoX


class CONST(EPS):
    """States ``(1 - sigma) * x0 + sigma * noise_scale * eps``; older versions know no noise_scale."""

    def noise_scaling(self, sigma: Any, noise: Any, latent: Any, max_denoise: bool = False) -> Any:
        return sigma * getattr(self, "noise_scale", 1.0) * noise + (1 - sigma) * latent

    def inverse_noise_scaling(self, sigma: Any, latent: Any) -> Any:
        return latent / (1 - sigma)


class _Levels:
    """A table of levels, noisiest last."""

    sigmas: torch.Tensor

    @property
    def sigma_min(self) -> torch.Tensor:
        return self.sigmas[0]

    @property
    def sigma_max(self) -> torch.Tensor:
        return self.sigmas[-1]

    def percent_to_sigma(self, percent: float) -> float:
        """The level at a share of the run's time; before everything ComfyUI's stand-in for infinity."""
        if percent <= 0:
            return 1.0 if isinstance(self, CONST) else 999999999.9
        return 0.0 if percent >= 1 else self._inside(1 - percent)

    def _inside(self, left: float) -> float:
        """The level with a share of the time left: between entries of the table on a line in log sigma."""
        place = left * (len(self.sigmas) - 1)
        below = min(int(place), len(self.sigmas) - 2)
        low, high = self.sigmas[below].log(), self.sigmas[below + 1].log()
        return float((low + (place - below) * (high - low)).exp())


class ModelSamplingDiscrete(_Levels):
    def __init__(self, zsnr: bool = False) -> None:
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        root = torch.cumprod(1 - betas, 0).sqrt()
        if zsnr:
            root = (root - root[-1]) * root[0] / (root[0] - root[-1])
            root[-1] = 4.8973451890853435e-08**0.5
        self.sigmas = ((1 - root**2) / root**2).sqrt().float()


class ModelSamplingDiscreteDistilled(ModelSamplingDiscrete):
    def __init__(self) -> None:
        super().__init__()
        self.skip_steps = 20
        self.sigmas = self.sigmas[19::20]


class ModelSamplingDiscreteEDM(ModelSamplingDiscrete): ...


class StableCascadeSampling(ModelSamplingDiscrete):
    shift = 2.0


class ModelSamplingContinuousEDM(_Levels):
    sigma_data = 1.0

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 120.0) -> None:
        self.sigmas = torch.linspace(math.log(sigma_min), math.log(sigma_max), 1000).exp()


class ModelSamplingContinuousV(ModelSamplingContinuousEDM): ...


class ModelSamplingCosmosRFlow(ModelSamplingContinuousEDM): ...


class ModelSamplingDiscreteFlow(_Levels):
    def __init__(self, shift: float = 1.0, multiplier: float = 1000, noise_scale: float = 1.0) -> None:
        self.shift, self.multiplier = shift, multiplier
        self.set_noise_scale(noise_scale)
        u = torch.arange(1, 1001) / 1000
        self.sigmas = shift * u / (1 + (shift - 1) * u)

    def set_noise_scale(self, noise_scale: float) -> None:
        self.noise_scale = float(noise_scale)

    def _inside(self, left: float) -> float:
        return self.shift * left / (1 + (self.shift - 1) * left)


class ModelSamplingAV(ModelSamplingDiscreteFlow):
    """Pictures and sound in one latent, on the schedule of the pictures."""

    audio_shift: float | None = None

    @property
    def audio_scale(self) -> float:
        return 1.0 if self.audio_shift is None else self.shift / self.audio_shift


class ModelSamplingFlux(_Levels):
    def __init__(self, shift: float = 1.15) -> None:
        self.shift = shift
        u = torch.arange(1, 10001) / 10000
        self.sigmas = math.exp(shift) / (math.exp(shift) + 1 / u - 1)

    def _inside(self, left: float) -> float:
        return math.exp(self.shift) / (math.exp(self.shift) + 1 / left - 1)


def sampling(kind: type, levels: type, *how: Any) -> Any:
    """A ``model_sampling`` of two bases, made on the spot as ComfyUI makes them."""
    return type("ModelSampling", (levels, kind), {})(*how)


# ------------------------------------------------------------------------------------------------ models and guidance


class Guider:
    """What stands between a sampler and a model: guidance, and the functions that are shown its result."""

    def __init__(self, model_sampling: Any, cfg: float = 1.0) -> None:
        self.inner_model = SimpleNamespace(model_sampling=model_sampling)
        self.cfg = cfg
        self.calls = 0

    def sample(
        self,
        noise: Any,
        latent_image: Any,
        sampler: Any,
        sigmas: torch.Tensor,
        denoise_mask: Any = None,
        callback: Any = None,
        disable_pbar: bool = True,
        seed: Any = None,
    ) -> Any:
        """A run of a SAMPLER; the seed, and nothing else of a NOISE, is among what the sampler is told."""
        if len(sigmas) == 0:
            return latent_image
        if isinstance(latent_image, NestedTensor):  # samplers see one tensor
            parts = latent_image.unbind()
            noise, packed = packed_latents(noise.unbind()), packed_latents(parts)
            result = self.sample(noise, packed, sampler, sigmas, denoise_mask, callback, disable_pbar, seed)
            pieces = result.split([part[0].numel() for part in parts], dim=-1)
            return NestedTensor([piece.reshape(part.shape) for piece, part in zip(pieces, parts, strict=True)])
        told = {"model_options": {"transformer_options": {"sample_sigmas": sigmas}}, "seed": seed}
        return sampler.sample(self, sigmas, told, callback, noise, latent_image, denoise_mask, disable_pbar)

    def predict(self, x: torch.Tensor, sigma: torch.Tensor, mean: float) -> torch.Tensor:
        """The prediction of x0 for normal data of this mean and variance 1/4."""
        s = sigma.reshape(-1, *[1] * (x.ndim - 1))
        sampling = self.inner_model.model_sampling
        alpha, std = (
            (1 - s, s * getattr(sampling, "noise_scale", 1.0)) if isinstance(sampling, CONST) else (s * 0 + 1, s)
        )
        return mean + (x - alpha * mean) * (alpha / 4) / (alpha**2 / 4 + std**2)

    def __call__(self, x: Any, sigma: Any, model_options: Any = None, seed: Any = None) -> torch.Tensor:
        self.calls += 1
        options = model_options or {}
        cond, uncond = self.predict(x, sigma, 0.5), None
        if self.cfg != 1 or options.get("disable_cfg1_optimization"):
            uncond = self.predict(x, sigma, -0.5)
        denoised = cond if uncond is None else uncond + self.cfg * (cond - uncond)
        for function in options.get("sampler_post_cfg_function", []):
            denoised = function({"denoised": denoised, "uncond_denoised": uncond, "sigma": sigma, "input": x})
        return denoised


class Masked:
    """The model as a sampler sees it: keeps the part that is not masked."""

    def __init__(self, model: Any, latent: torch.Tensor, noise: torch.Tensor) -> None:
        self.inner_model, self.latent, self.noise = model, latent, noise

    def __call__(self, x: Any, sigma: Any, denoise_mask: Any, **more: Any) -> torch.Tensor:
        if denoise_mask is None:
            return self.inner_model(x, sigma, **more)  # type: ignore[no-any-return]
        s = sigma.reshape(-1, *[1] * (x.ndim - 1))
        kept = self.inner_model.inner_model.model_sampling.noise_scaling(s, self.noise, self.latent)
        out = self.inner_model(torch.lerp(kept, x, denoise_mask), sigma, **more)
        return torch.lerp(self.latent, out, denoise_mask)


class KSAMPLER:
    def __init__(self, function: Any, extra_options: Any = None, inpaint_options: Any = None) -> None:
        self.sampler_function = function
        self.extra_options, self.inpaint_options = extra_options or {}, inpaint_options or {}

    def sample(
        self,
        model_wrap: Any,
        sigmas: torch.Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: torch.Tensor,
        latent_image: torch.Tensor,
        denoise_mask: Any = None,
        disable_pbar: bool = True,
    ) -> torch.Tensor:
        part = model_wrap.inner_model.model_sampling
        extra_args["denoise_mask"] = denoise_mask
        kept = noise
        if self.inpaint_options.get("random"):  # other noise for what a mask covers, of the whole batch
            kept = torch.randn(noise.shape, generator=torch.Generator().manual_seed(extra_args["seed"] + 1)).to(noise)
        start = part.noise_scaling(sigmas[0], noise, latent_image, bool(sigmas[0] >= part.sigma_max * (1 - 1e-5)))
        total = len(sigmas) - 1
        told = None if callback is None else lambda d: callback(d["i"], d["denoised"], d["x"], total)
        model = Masked(model_wrap, latent_image, kept)
        x = self.sampler_function(
            model, start, sigmas, extra_args=extra_args, callback=told, disable=disable_pbar, **self.extra_options
        )
        return part.inverse_noise_scaling(sigmas[-1], x)  # type: ignore[no-any-return]


# --------------------------------------------------------------------------------------------------------------- nodes


class NestedTensor:
    """A latent of several parts."""

    is_nested = True

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        self.tensors = tensors

    @property
    def shape(self) -> torch.Size:
        return self.tensors[0].shape

    def unbind(self) -> list[torch.Tensor]:
        return self.tensors


def packed_latents(tensors: list[torch.Tensor]) -> torch.Tensor:
    """All parts of a latent, each in a row."""
    return torch.cat([tensor.reshape(len(tensor), 1, -1) for tensor in tensors], dim=-1)


class DisableNoise:
    """A NOISE that adds no noise."""

    seed = 0

    def generate_noise(self, latent: dict[str, Any]) -> torch.Tensor:
        return torch.zeros_like(latent["samples"])


def patcher(model_sampling: Any) -> Any:
    """A MODEL, as far as nodes ask it."""
    return SimpleNamespace(get_model_object={"model_sampling": model_sampling}.__getitem__)


def latent_from_batch(latent: dict[str, Any], first: int, length: int) -> dict[str, Any]:
    """LatentFromBatch: some images of a batch, which keep their indices."""
    part = slice(first, first + length)
    whole = latent.get("batch_index") or list(range(len(latent["samples"])))
    found = {**latent, "samples": latent["samples"][part].clone(), "batch_index": whole[part]}
    if len(latent.get("noise_mask", ())) > 1:
        found["noise_mask"] = latent["noise_mask"][part]
    return found


def sampler_custom_advanced(
    noise: Any, guider: Any, sampler: Any, sigmas: torch.Tensor, latent: dict[str, Any]
) -> dict[str, Any]:
    """SamplerCustomAdvanced; its LATENT keeps all but the samples."""
    samples = guider.sample(
        noise.generate_noise(latent),
        latent["samples"],
        sampler,
        sigmas,
        denoise_mask=latent.get("noise_mask"),
        seed=noise.seed,
    )
    return {**latent, "samples": samples}


# ------------------------------------------------------------------------------------------------------------- modules


class SchedulerHandler(NamedTuple):
    handler: Callable[..., torch.Tensor]
    use_ms: bool = True


def sample_euler(
    model: Any, x: Any, sigmas: Any, extra_args: Any = None, callback: Any = None, disable: Any = None
) -> Any:
    """Euler's method, to compare with."""
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i].expand(len(x)), **(extra_args or {}))
        if callback is not None:
            callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})
        x = x + (x - denoised) / sigmas[i] * (sigmas[i + 1] - sigmas[i])
    return x


def default_noise_sampler(x: torch.Tensor, seed: int) -> Any:
    """One stream for the batch."""
    generator = torch.Generator().manual_seed(seed + 1)
    return lambda sigma, sigma_next: torch.randn(x.shape, generator=generator)


def modules() -> dict[str, ModuleType]:
    """New modules by name, as `sys.modules` has them inside ComfyUI."""
    names = ("comfy", "comfy.samplers", "comfy.k_diffusion", "comfy.k_diffusion.sampling")
    made: dict[str, Any] = {name: ModuleType(name) for name in names}
    functions, samplers = made["comfy.k_diffusion.sampling"], made["comfy.samplers"]
    functions.default_noise_sampler = default_noise_sampler
    functions.sample_euler, functions.sample_dpm_2 = sample_euler, sample_euler
    samplers.KSAMPLER, samplers.SchedulerHandler = KSAMPLER, SchedulerHandler
    samplers.SAMPLER_NAMES = ["euler", "dpm_2"]
    samplers.SCHEDULER_HANDLERS = {"simple": SchedulerHandler(lambda ms, steps: ms.sigmas.flip(0)[:steps])}
    samplers.SCHEDULER_NAMES = list(samplers.SCHEDULER_HANDLERS)
    samplers.KSampler = type(
        "KSampler",
        (),
        {
            "SAMPLERS": samplers.SAMPLER_NAMES,
            "SCHEDULERS": samplers.SCHEDULER_NAMES,
            "DISCARD_PENULTIMATE_SIGMA_SAMPLERS": {"dpm_2"},
        },
    )
    return made


@contextmanager
def installed() -> Iterator[Any]:
    """The modules where imports find them; gives ``comfy.samplers``."""
    made = modules()
    before = {name: sys.modules.get(name) for name in made}
    sys.modules.update(made)
    try:
        yield made["comfy.samplers"]
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module
