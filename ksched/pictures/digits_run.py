"""A run of the demonstration's model, from noise to digits, and its picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from ksched.exact.handwritten import digits
from ksched.exact.mixture import GaussianMixture
from ksched.execution.loop import StepInfo
from ksched.execution.threads import one_thread
from ksched.sampler import Sampler
from ksched.types import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure


__all__ = ["Trajectory", "draw_digits", "trajectory"]


_MOMENTS = (-math.inf, -0.8, 0.3, 1.4)  # half log-SNR at which the picture of a run stops


class Trajectory(NamedTuple):
    """A run, as its callback saw it."""

    sampler: Sampler
    steps: tuple[StepInfo, ...]
    result: torch.Tensor


@one_thread()
def trajectory(sampler: Sampler, seed: int = 0, items: int = 64) -> Trajectory:
    """Digits sampled from pure noise, with all that the callback saw."""
    model = _paired(digits(sampler.process))
    x = sampler.initial_state((items, 64), seed=seed)
    steps: list[StepInfo] = []
    result = sampler.sample(model, x, seed=seed, callback=steps.append)
    return Trajectory(sampler, tuple(steps), result)


def draw_digits(shown: Trajectory, title: str) -> Figure:
    """The picture of a run: its state and prediction at some moments, and its result, sorted by digit."""
    from ksched.pictures import plots

    process = shown.sampler.process
    model = digits(process)
    parts = model.responsibilities(shown.result, float(shown.sampler.sigmas[-1])).argmax(1)
    order = torch.tensor(model.labels)[parts].argsort(stable=True)
    levels = [process.level(step.sigma) for step in shown.steps]
    chosen = [min(range(len(levels)), key=lambda k: abs(max(levels[k].lam, -99) - max(lam, -99))) for lam in _MOMENTS]
    moments = sorted(set(chosen))

    def pictures(tensors: Iterable[torch.Tensor]) -> Array:
        return torch.stack([tensor[order].reshape(-1, 8, 8) for tensor in tensors]).double().numpy()

    states = pictures(shown.steps[k].x for k in moments)
    return plots.digit_strip(
        states,
        pictures(shown.steps[k].denoised for k in moments),
        [f"sigma {shown.steps[k].sigma:.3g}" for k in moments],
        pictures([shown.result])[0],
        scales=np.sqrt((states**2).mean((1, 2, 3))).tolist(),
        title=f"64 digits from noise to image: {title}",
    )


def _paired(model: GaussianMixture) -> Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """The model as samplers with an unconditional twin want it; the digits have no condition."""

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        denoised = model(x, sigma)
        return denoised, denoised

    return denoise
