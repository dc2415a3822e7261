"""The picture of all kinds of named noise, and of samples that start from them."""

from __future__ import annotations

from matplotlib.figure import Figure

import ksched
from ksched import exact, noise

__all__ = ["named_noise"]

SIZE = 24
KINDS: dict[str, noise.Correlated | None] = {
    "white": None,
    "pink": noise.Colored(1),
    "brown": noise.Colored(2),
    "blue": noise.Colored(-1),
    "violet": noise.Colored(-2),
    "pyramid": noise.Pyramid(),
    "offset": noise.Offset(0.5),
}


def named_noise() -> Figure:
    """Draw start noise of every kind, and the samples from it for data with power spectrum 1/f**2."""
    model = exact.Gaussian([0.0] * SIZE**2, noise.Colored(2).covariance((1, SIZE, SIZE)))
    sampler = ksched.build_sampler("dpmpp_2m", "karras", 20)
    figure = Figure(figsize=(1.3 * len(KINDS), 2.9), layout="constrained")
    axes = figure.subplots(2, len(KINDS), squeeze=False)
    for k, (name, kind) in enumerate(KINDS.items()):
        x = sampler.initial_state((1, 1, SIZE, SIZE), seed=1, noise=kind)
        for row, picture in zip(axes[:, k], (x / sampler.sigmas[0], sampler.sample(model, x)), strict=True):
            row.imshow(picture[0, 0].numpy(), cmap="gray", vmin=-2.5, vmax=2.5)
            row.set_axis_off()
        axes[0, k].set_title("offset 0.5" if name == "offset" else name)
    return figure
