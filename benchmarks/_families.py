"""Families of data with exact denoisers, in flow coordinates; no shipped plan was fitted to them.

The data has standard deviation 1, and states are ``y = (1 - s) * x0 + s * eps`` whatever the process, so one denoiser
serves all ranges (see `ksched.tuning.fit`). None of the generators here appears in `ksched.tuning.reference_mixtures`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from ksched.tuning.batched_mixtures import Mixtures
from ksched.tuning.canonical_plan import flow_level
from ksched.tuning.fit import Denoise, Problem, exact_ends
from ksched.types import Array

SEED, ITEMS, TRUTH_STEPS = 41, 192, 400
LEAST = 1e-4  # variance of any axis


@dataclass(frozen=True)
class Family:
    """A denoiser of states (1, items, dimension), its dimension, and a function that draws samples."""

    denoise: Denoise
    dimension: int
    draw: Callable[[int, np.random.Generator], Array]


def _scaled(weights: Array, means: Array, covariances: Array) -> tuple[Array, Array, Array]:
    """Shift and scale data to mean 0 and a mean variance of 1."""
    means = means - weights @ means
    power = float(weights @ (means**2).mean(1) + weights @ np.trace(covariances, axis1=1, axis2=2) / means.shape[1])
    return weights, means / math.sqrt(power), covariances / power


def _mixture(weights: Array, means: Array, covariances: Array, scale: float = 1.0, seed: int = 0) -> Family:
    """A mixture of Gaussians; with a scale, item i guided towards a component drawn by its weight."""
    weights, means, covariances = _scaled(weights, means, covariances)
    values, axes = np.linalg.eigh(covariances)
    outside = scales = None
    if scale != 1:
        towards = np.random.default_rng(seed).choice(len(weights), ITEMS, p=weights)
        outside = np.full((1, ITEMS, len(weights)), -1e9)
        outside[0, np.arange(ITEMS), towards] = 0
        scales = np.full((1, 1, 1), scale)
    values = np.maximum(values, LEAST)
    made = Mixtures(np.log(weights)[None], means[None], values[None], axes[None], outside, scales)

    def draw(count: int, rng: np.random.Generator) -> Array:
        which = rng.choice(len(weights), count, p=weights)
        along = rng.standard_normal((count, means.shape[1])) * np.sqrt(values[which])
        drawn: Array = means[which] + np.einsum("nij,nj->ni", axes[which], along)
        return drawn

    return Family(made, means.shape[1], draw)


def _cells(points: Array, count: int, seed: int, scale: float = 1.0) -> Family:
    """A full covariance per k-means cell, shrunk by a tenth towards that of all data."""
    from scipy.cluster.vq import kmeans2

    _, cell = kmeans2(points, count, minit="++", seed=np.random.default_rng(seed))
    groups = [group for group in (points[cell == k] for k in range(count)) if len(group) > 8]
    weights = np.array([len(group) for group in groups], dtype=np.float64)
    every = np.cov(points.T)
    covariances = np.stack([0.9 * np.cov(group.T) + 0.02 * every for group in groups])
    return _mixture(weights / weights.sum(), np.stack([g.mean(0) for g in groups]), covariances, scale, seed)


def _standardised(points: Array) -> Array:
    found: Array = (points - points.mean(0)) / points.std(0)
    return found


def _tabular(seed: int, scale: float = 1.0) -> Family:
    """Measurements of breast cancers: 30 correlated columns."""
    from sklearn.datasets import load_breast_cancer

    return _cells(_standardised(load_breast_cancer(return_X_y=True)[0]), 6, seed, scale)


def _wine(seed: int) -> Family:
    """Analyses of wines: 13 columns."""
    from sklearn.datasets import load_wine

    return _cells(_standardised(load_wine(return_X_y=True)[0]), 3, seed)


def _photo(seed: int, scale: float = 1.0) -> Family:
    """Grey patches of two photographs, 9 x 9."""
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(seed)
    greys = [image.mean(2) for image in load_sample_images().images]
    patches = []
    for n in range(6000):
        grey = greys[n % len(greys)]
        top, left = (int(rng.integers(0, length - 9)) for length in grey.shape)
        patches.append(grey[top : top + 9, left : left + 9].ravel())
    points = np.array(patches)
    return _cells((points - points.mean()) / points.std(), 14, seed, scale)


def _two_level(seed: int, scale: float = 1.0) -> Family:
    """Six groups of five narrow Gaussians, each group flat in a different plane."""
    rng, dimension = np.random.default_rng(seed), 20
    groups = 2.0 * rng.standard_normal((6, dimension))
    means = (groups[:, None] + 0.6 * rng.standard_normal((6, 5, dimension))).reshape(30, dimension)
    covariances = []
    for _ in means:
        root = np.linalg.qr(rng.standard_normal((dimension, dimension)))[0] * rng.uniform(0.02, 0.5, dimension)
        covariances.append(root @ root.T)
    return _mixture(np.full(30, 1 / 30), means, np.stack(covariances), scale, seed)


def _curve(seed: int) -> Family:
    """Forty Gaussians along a knot, long along it and thin across, in twelve dimensions."""
    rng, dimension, count = np.random.default_rng(seed), 12, 40
    axes = np.linalg.qr(rng.standard_normal((dimension, dimension)))[0][:3]
    t = np.linspace(0, 2 * np.pi, count, endpoint=False)

    def knot(t: Array) -> Array:
        r = 2 + np.cos(3 * t)
        return np.stack([r * np.cos(2 * t), r * np.sin(2 * t), np.sin(3 * t)], 1) @ axes

    along = (knot(t + 1e-4) - knot(t - 1e-4)) / 2e-4 * (2 * np.pi / count) / 2
    covariances = along[:, :, None] * along[:, None] + 0.01 * np.eye(dimension)
    return _mixture(np.full(count, 1 / count), knot(t), covariances)


def _roll(seed: int) -> Family:
    """A rolled-up sheet in three dimensions (Swiss roll): 1200 points, smoothed."""
    rng = np.random.default_rng(seed)
    t = 1.5 * np.pi * (1 + 2 * rng.random(1200))
    points = np.stack([t * np.cos(t), 21 * rng.random(1200), t * np.sin(t)], 1)
    points = (points - points.mean(0)) / points.std()
    width = 0.1
    points *= math.sqrt((1 - width**2) / (points**2).mean())

    def draw(count: int, rng: np.random.Generator) -> Array:
        drawn: Array = points[rng.integers(0, len(points), count)] + width * rng.standard_normal((count, 3))
        return drawn

    logs, variances = np.full((1, 1200), -math.log(1200)), np.full((1, 1200), width**2)
    return Family(Mixtures(logs, points[None], variances, None, None, None), 3, draw)


def _sparse(seed: int) -> Family:
    """Independent values, mostly near 0 and sometimes large: 2 ** 48 modes, too many for an explicit mixture."""
    rng, dimension = np.random.default_rng(seed), 48
    share = torch.from_numpy(rng.uniform(0.1, 0.4, dimension))
    narrow = torch.from_numpy(rng.uniform(0.02, 0.2, dimension)) ** 2
    wide = (1 - (1 - share) * narrow) / share

    def denoise(y: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        a = 1 - s
        ones = [a * a * variance + s * s for variance in (narrow, wide)]
        logs = [p.log() - one.log() / 2 - y * y / 2 / one for p, one in zip((1 - share, share), ones, strict=True)]
        second = (logs[1] - logs[0]).sigmoid()
        return a * y * ((1 - second) * narrow / ones[0] + second * wide / ones[1])

    def draw(count: int, rng: np.random.Generator) -> Array:
        second = rng.random((count, dimension)) < share.numpy()
        drawn: Array = rng.standard_normal((count, dimension)) * np.sqrt(np.where(second, wide, narrow))
        return drawn

    return Family(denoise, dimension, draw)


def _signal(seed: int) -> Family:
    """Snippets of 64 values from three kinds of signal, each with its own spectrum and amplitude."""
    rng, length = np.random.default_rng(seed), 64
    lags = np.abs(np.subtract.outer(np.arange(length), np.arange(length)))
    kinds = [
        np.exp(-lags / 12) * np.cos(lags * 2 * np.pi / 9),
        np.exp(-((lags / 10) ** 2)),
        np.exp(-lags / 3.0),
    ]
    covariances = np.stack([kind * loud for kind in kinds for loud in (0.3, 1.0, 3.0)])
    means = 0.3 * rng.standard_normal((9, 1)) * np.ones(length)
    return _mixture(np.full(9, 1 / 9), means, covariances)


#: families of the headline figures, and others
FAMILIES: Mapping[str, Callable[[int], Family]] = {
    "tabular": _tabular,
    "photo": _photo,
    "two_level": _two_level,
    "curve": _curve,
    "wine": _wine,
    "roll": _roll,
    "sparse": _sparse,
    "signal": _signal,
}
GUIDED: Mapping[str, Callable[[int, float], Family]] = {"tabular": _tabular, "photo": _photo, "two_level": _two_level}
HEADLINE = ("tabular", "photo", "two_level")


@cache
def problem(name: str, start: float, scale: float = 1.0, seed: int = SEED) -> Problem:
    """A family with start states at a noise-to-signal ratio, and the exact solution for each; float64."""
    family = FAMILIES[name](seed) if scale == 1 else GUIDED[name](seed, scale)
    s = flow_level(start)
    generator = torch.Generator().manual_seed(seed)
    x = s * torch.randn(1, ITEMS, family.dimension, generator=generator, dtype=torch.float64)
    ends = exact_ends(family.denoise, x, s, steps=TRUTH_STEPS, low=1e-5)
    return Problem.of(family.denoise, x, ends, models=True)
