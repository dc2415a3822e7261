"""k-diffusion's functions on ksched's plans: every ``sample_*`` and ``get_sigmas_*``, and its noise sampler.

A program written for ``k_diffusion.sampling`` can import this module in its place. The functions of k-diffusion have
its signatures and give its numbers (dialect "k_diffusion"); every other sampler and schedule has a function of the same
form, named ``sample_`` or ``get_sigmas_`` and our name, also those given to `register_sampler`.

A sampler is called as ``sample_euler(model, x, sigmas, extra_args=None, callback=None, disable=None, ...)``:

- ``model(x, sigma, **extra_args)`` returns denoised, for CFG++ samplers (denoised, uncond); sigma has x's dtype and one
  number per item;
- ``sigmas`` are run as they are: strictly decreasing, or an error says where not, before the first model call. Those
  that draw no noise also run on levels that rise, from data to noise;
- ``callback`` gets a dictionary with x, i, sigma, sigma_hat and denoised once per step;
- ``disable`` is that of tqdm's progress bar, which is left out where tqdm is not installed;
- ``noise_sampler(sigma, sigma_next)`` makes the noise. Without one it is drawn from torch's global generator, which is
  what programs for k-diffusion expect and nothing else in ksched does: by ``torch.randn_like``, or, where a host has
  put its own in place of ``k_diffusion.sampling.torch``, as A1111 does, by that; for DPM++ SDE, 2M SDE and 3M SDE by a
  `BrownianTreeNoiseSampler`. Noise that would be multiplied by 0 is not drawn.

What programs import beside the samplers is here as well: `to_d`, `append_zero`, `append_dims`, `get_ancestral_step`,
`default_noise_sampler`, `BatchedBrownianTree`, `PIDStepSizeController`, `linear_multistep_coeff` and `DPMSolver`.

Three keywords are ours, and every sampler takes them besides those it shows: ``seed``, one whole number (item i takes
``seed + i``) or one per item, for ksched's own noise, which leaves the global generator alone; ``process``, what the
model was trained on, if `process_of` cannot tell; ``dialect``, whose numbers the name means.
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
