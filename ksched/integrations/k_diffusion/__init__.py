"""Drop-in replacement for k-diffusion's ``sample_*`` and ``get_sigmas_*`` functions and its noise sampler.

A program written for ``k_diffusion.sampling`` can import this module instead. k-diffusion's functions have its
signatures and return its numbers (dialect "k_diffusion"). Every other sampler and schedule, including those given to
`register_sampler`, has a function of the same form, named ``sample_`` or ``get_sigmas_`` plus ksched's name.

Call a sampler as ``sample_euler(model, x, sigmas, extra_args=None, callback=None, disable=None, ...)``:

- ``model(x, sigma, **extra_args)`` returns denoised, or (denoised, uncond) for CFG++ samplers; sigma has x's dtype and
  one number per item;
- ``sigmas`` must be strictly decreasing; otherwise an error before the first model call says where they are not.
  Samplers that draw no noise also run on rising sigmas, from data to noise;
- ``callback`` gets a dictionary with x, i, sigma, sigma_hat and denoised once per step;
- ``disable`` turns tqdm's progress bar off; without tqdm there is none;
- ``noise_sampler(sigma, sigma_next)`` makes the noise. Without one, noise comes from torch's global generator, which
  programs for k-diffusion expect and nothing else in ksched uses. It is drawn by ``torch.randn_like``, or by a host's
  replacement for it in ``k_diffusion.sampling.torch``, such as A1111's. DPM++ SDE, 2M SDE and 3M SDE use a
  `BrownianTreeNoiseSampler`. Noise that would be multiplied by 0 is not drawn.

Other objects that programs import from k-diffusion are here as well: `to_d`, `append_zero`, `append_dims`,
`get_ancestral_step`, `default_noise_sampler`, `BatchedBrownianTree`, `PIDStepSizeController`, `linear_multistep_coeff`
and `DPMSolver`.

Every sampler takes three more keywords, which are ksched's: ``seed``, one whole number (item i uses ``seed + i``) or
one per item, selects ksched's own noise and leaves the global generator alone; ``process`` is the process that the
model was trained on, if `process_of` cannot find it; ``dialect`` is the program whose numbers the name means.
"""

from typing import Any

from ksched.integrations.k_diffusion.dpm_solver import DPMSolver
from ksched.integrations.k_diffusion.noise import BatchedBrownianTree, BrownianTreeNoiseSampler
from ksched.integrations.k_diffusion.pieces import (
    PIDStepSizeController,
    append_dims,
    append_zero,
    default_noise_sampler,
    get_ancestral_step,
    linear_multistep_coeff,
    to_d,
)
from ksched.integrations.k_diffusion.process import process_of
from ksched.integrations.k_diffusion.samplers import log_likelihood, sampler_function
from ksched.integrations.k_diffusion.schedules import schedule_function
from ksched.names.enums import NoiseSchedule
from ksched.samplers.registry import AUTO
from ksched.samplers.registry import samplers as _samplers

__all__ = [
    "BatchedBrownianTree",
    "BrownianTreeNoiseSampler",
    "DPMSolver",
    "PIDStepSizeController",
    "append_dims",
    "append_zero",
    "default_noise_sampler",
    "get_ancestral_step",
    "linear_multistep_coeff",
    "log_likelihood",
    "process_of",
    "to_d",
]


def __getattr__(name: str) -> Any:
    for spec in (*_samplers(), AUTO):
        if name == f"sample_{spec.name}":
            return sampler_function(spec)
    for schedule in NoiseSchedule:
        if name == f"get_sigmas_{schedule.value}":
            return schedule_function(schedule)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    names = [*(f"sample_{s.name}" for s in (*_samplers(), AUTO)), *(f"get_sigmas_{s.value}" for s in NoiseSchedule)]
    return sorted([*__all__, *names])
