"""A run of the demo's model, from noise to digits, and its picture."""

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


_MOMENTS = (-math.inf, -0.8, 0.3, 1.4)  # half log-SNR of the columns in the picture of a run


class Trajectory(NamedTuple):
    """A run, as recorded by its callback."""

    sampler: Sampler
    steps: tuple[StepInfo, ...]
    result: torch.Tensor


@one_thread()
def trajectory(sampler: Sampler, seed: int = 0, items: int = 64) -> Trajectory:
    """Sample digits from pure noise and record the run."""
    model = _paired(digits(sampler.process))
    x = sampler.initial_state((items, 64), seed=seed)
    steps: list[StepInfo] = []
    result = sampler.sample(model, x, seed=seed, callback=steps.append)
    return Trajectory(sampler, tuple(steps), result)


def draw_digits(shown: Trajectory, title: str) -> Figure:
    """Draw a run: state and prediction at a few noise levels, and the result, sorted by digit."""
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
    """Wrap the model for samplers that also need an unconditional prediction; the digits have no condition."""

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        denoised = model(x, sigma)
        return denoised, denoised

    return denoise
