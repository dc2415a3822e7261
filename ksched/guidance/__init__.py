"""Wrappers around denoisers: guidance, clipping, thresholding, inpainting, observations.

Each takes denoisers and returns a denoiser, so all of them work with every sampler and nest in each other. A denoiser
is called as ``(x, sigma)``, with x batch first and sigma of shape (batch,), and returns ``denoised`` or
``(denoised, uncond)``. Guidance computes the unconditional prediction and returns the pair, which CFG++ samplers need
and other samplers ignore. Clipping, thresholding and inpainting treat ``uncond``, if there is one, like ``denoised``,
so predictions that are equal stay equal.

`experts` chooses one of several denoisers by sigma.

`observed` and `chunked` differentiate the denoiser by autograd, even where gradients are off; their results carry no
gradient.

Sums are computed in at least float32 and returned in x's dtype. Nothing is read back from the device except in the
first call of `observed`. Wrappers hold no state, except `Momentum`.
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
