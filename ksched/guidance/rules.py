"""What rules of guidance share: two predictions asked for and combined, and the network outputs behind them."""

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


#: From the state, sigma, and the predictions with the condition and without, to the guided one.
Rule: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def guided(cond: Model, uncond: Model | None, rule: Rule) -> PairModel:
    """A denoiser that returns (what the rule makes of the two predictions, uncond)."""
    check_callable("cond", cond)
    if uncond is not None:
        check_callable("uncond", uncond)

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first, second = answer(cond, x, sigma, both=uncond is None)
        if uncond is None and second is None:
            raise TypeError("cond must return (cond, uncond) where uncond is None; it returned one prediction")
        # A copy if another call follows: captured networks return the same buffer every time.
        c = checked_prediction("cond", first, x, copy=uncond is not None)
        if uncond is not None:
            second = answer(uncond, x, sigma, both=False)[0]
        u = checked_prediction("uncond", second, x)
        return rule(x.to(c.dtype), sigma, c, u).to(x.dtype), u.to(x.dtype)

    return denoise


def output_origin(
    process: Process, prediction: Prediction | str
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The x0 prediction that a network output of 0 stands for; an output is a multiple of the distance to it."""
    prediction = Denoiser(torch.zeros_like, process, prediction).prediction  # refuses what the process cannot have

    def origin(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        # `Denoiser` with its output at 0, without its walk of the training table for the timestep.
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
