"""What ksched touches of ComfyUI, in small: models, guidance, KSAMPLER and the menus, by the same names.

Written from the contract, not from ComfyUI's code. A model here is exact for normal data, of another mean with a
condition than without, so that guidance has something to do.
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
        self.shift, self.multiplier, self.noise_scale = shift, multiplier, noise_scale
        u = torch.arange(1, 1001) / 1000
        self.sigmas = shift * u / (1 + (shift - 1) * u)


class ModelSamplingFlux(_Levels):
    def __init__(self, shift: float = 1.15) -> None:
        self.shift = shift
        u = torch.arange(1, 10001) / 10000
        self.sigmas = math.exp(shift) / (math.exp(shift) + 1 / u - 1)


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
    """What a sampler is given for a model: keeps what is not masked."""

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
        start = part.noise_scaling(sigmas[0], noise, latent_image, bool(sigmas[0] >= part.sigma_max * (1 - 1e-5)))
        total = len(sigmas) - 1
        told = None if callback is None else lambda d: callback(d["i"], d["denoised"], d["x"], total)
        model = Masked(model_wrap, latent_image, noise)
        x = self.sampler_function(
            model, start, sigmas, extra_args=extra_args, callback=told, disable=disable_pbar, **self.extra_options
        )
        return part.inverse_noise_scaling(sigmas[-1], x)  # type: ignore[no-any-return]


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
