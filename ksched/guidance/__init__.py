"""Wrappers that change a prediction, not a sampler: guidance, clipping, thresholding, inpainting, observations.

Each takes denoisers and returns one, so all of them work with every sampler and inside one another. A denoiser is
called ``(x, sigma)``, x batch first and sigma of shape (batch,), and returns ``denoised`` or ``(denoised, uncond)``.
Guidance knows the unconditional prediction and returns the pair, which CFG++ samplers need and others leave alone.
Clipping, thresholding and inpainting do to ``uncond``, if it is there, what they do to ``denoised``: where the two are
equal they stay equal.

`experts` asks one of several denoisers, by the noise level.

`observed` and `chunked` look through the denoiser by autograd, whether or not gradients are on, and return none.

Sums are formed in at least float32 and returned in x's dtype; nothing is read back from the device, but for the first
call of `observed`. A wrapper holds no state, with the one exception that `Momentum` says.
"""

from ksched.guidance.chunking import chunked
from ksched.guidance.classifier_free import Momentum, apg, cfg, cfg_zero_star, perp_neg, rescale
from ksched.guidance.edits import clip, dynamic_thresholding, inpaint
from ksched.guidance.frequency import fdg
from ksched.guidance.inputs import batched
from ksched.guidance.magnitude import mag, tcfg
from ksched.guidance.posterior import observed
from ksched.guidance.routing import experts
from ksched.guidance.scale import interval, within

__all__ = [
    "Momentum",
    "apg",
    "batched",
    "cfg",
    "cfg_zero_star",
    "chunked",
    "clip",
    "dynamic_thresholding",
    "experts",
    "fdg",
    "inpaint",
    "interval",
    "mag",
    "observed",
    "perp_neg",
    "rescale",
    "tcfg",
    "within",
]
