"""Common parts of all guidance rules: calling both denoisers, and the network outputs behind the predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch

from ksched.denoisers.answer import Model, answer
from ksched.denoisers.denoiser import Denoiser
from ksched.guidance.tensors import PairModel, check_callable, checked_prediction, per_item
from ksched.names.enums import Prediction
from ksched.processes import Process

__all__ = ["Rule", "guided", "output_origin"]


#: Computes the guided prediction from the state, sigma, the conditional and the unconditional prediction.
Rule: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def guided(cond: Model, uncond: Model | None, rule: Rule) -> PairModel:
    """A denoiser that returns (guided, uncond), where the rule combines the two predictions into ``guided``."""
    check_callable("cond", cond)
    if uncond is not None:
        check_callable("uncond", uncond)

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first, second = answer(cond, x, sigma, both=uncond is None)
        if uncond is None and second is None:
            raise TypeError("with uncond=None, cond must return the pair (cond, uncond); it returned one prediction")
        # Copied if another call follows: captured networks return the same buffer every time.
        c = checked_prediction("cond", first, x, copy=uncond is not None)
        if uncond is not None:
            second = answer(uncond, x, sigma, both=False)[0]
        u = checked_prediction("uncond", second, x)
        return rule(x.to(c.dtype), sigma, c, u).to(x.dtype), u.to(x.dtype)

    return denoise


def output_origin(
    process: Process, prediction: Prediction | str
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The x0 prediction for a network output of 0; an output is proportional to the distance from it."""
    prediction = Denoiser(torch.zeros_like, process, prediction).prediction  # an error if the process cannot have it

    def origin(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        # `Denoiser` with an output of 0, without looking up the timestep in the training table.
        sigma = per_item(sigma.to(x.dtype), x)
        a, s = process.alpha(sigma), process.noise_std(sigma)
        if prediction == "sample":
            return torch.zeros_like(x)
        if prediction in ("epsilon", "score"):
            return x / a
        if prediction in ("flow", "velocity_to_data"):
            return x / (a + s / process.noise_scale)
        data = process.sigma_data
        gain: torch.Tensor = a * data**2 / process.input_norm(sigma) ** 2
        return gain * x

    return origin
