"""The page's data sets: two-dimensional Gaussian mixtures with two classes and standard deviation 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ksched.exact import GaussianMixture
    from ksched.processes import Process
    from ksched.types import Array

__all__ = ["DATA_SETS", "as_data", "as_mixture"]

Parts = tuple["Array", float, list[int]]  # means, one standard deviation for all components, classes


def _moons() -> Parts:
    angles = np.linspace(0, math.pi, 9)
    upper = np.stack([np.cos(angles) - 0.5, np.sin(angles) - 0.25], axis=1)
    return np.concatenate([upper, -upper]), 0.11, [0] * 9 + [1] * 9


def _ring() -> Parts:
    angles = np.arange(8) * math.pi / 4
    return np.stack([np.cos(angles), np.sin(angles)], axis=1), 0.09, [0, 1] * 4


def _spiral() -> Parts:
    turns = np.linspace(0.16, 1, 12)
    arm = turns[:, None] * np.stack([np.cos(1.6 * math.pi * turns), np.sin(1.6 * math.pi * turns)], axis=1)
    return np.concatenate([arm, -arm]), 0.06, [0] * 12 + [1] * 12


def _grid() -> Parts:
    places = [(i, j) for i in range(-1, 2) for j in range(-1, 2)]
    return np.array(places, dtype=np.float64), 0.12, [(i + j) % 2 for i, j in places]


#: by name, the page's title and the function that makes the data set
DATA_SETS: Mapping[str, tuple[str, Callable[[], Parts]]] = {
    "moons": ("two moons", _moons),
    "ring": ("ring of eight", _ring),
    "spiral": ("spiral", _spiral),
    "grid": ("three by three", _grid),
}


def as_data(name: str) -> dict[str, Any]:
    """Return a data set as plain data: weights, means, variances and labels of its components.

    Notes
    -----
    The data is scaled so that the average variance of a coordinate is 1. Numbers are rounded, so that the page and
    Python use the same ones.
    """
    means, width, labels = DATA_SETS[name][1]()
    scale = 1 / math.sqrt((means - means.mean(0)).var(axis=0).mean() + width * width)
    return {
        "weights": [1 / len(means)] * len(means),
        "means": [[round(float(value), 6) for value in mean] for mean in scale * means],
        "variances": [round((scale * width) ** 2, 9)] * len(means),
        "labels": labels,
    }


def as_mixture(name: str, process: Process) -> GaussianMixture:
    """Return a data set as a denoiser in Python, which needs torch."""
    from ksched.exact import GaussianMixture

    data = as_data(name)
    return GaussianMixture(data["weights"], data["means"], data["variances"], process, labels=data["labels"])
