"""Shapes of synthetic data: the distributions that members of a zoo are drawn from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ksched.types import Array

__all__ = ["SHAPES", "Member"]


class Member(NamedTuple):
    """One drawn distribution: arrays as for `Mixtures`, and the cluster of every component."""

    logs: Array
    means: Array
    variances: Array
    clusters: npt.NDArray[np.int_]
    axes: Array | None = None


def _turn(rng: np.random.Generator, dimension: int) -> Array:
    rotation: Array = np.linalg.qr(rng.standard_normal((dimension, dimension)))[0]
    return rotation


def _spectrum(dimension: int, slope: float) -> Array:
    """Variances with mean 1 that fall as a power of the axis number."""
    variances = np.arange(1, dimension + 1.0) ** -slope
    falling: Array = np.maximum(variances / variances.mean(), 1e-4)
    return falling


def _gaussian(rng: np.random.Generator, dimension: int, components: int) -> Member:
    variances = _spectrum(dimension, rng.uniform(0.8, 2.5))
    return Member(np.zeros(1), np.zeros((1, dimension)), variances[None], np.arange(1))


def _cloud(rng: np.random.Generator, dimension: int, components: int) -> Member:
    """Clusters of points, each smoothed to the same width."""
    clusters, between = int(rng.integers(3, 12)), rng.uniform(0.3, 0.8)
    root = _turn(rng, dimension) * np.sqrt(_spectrum(dimension, rng.uniform(0.8, 3.0)))
    centres = rng.standard_normal((clusters, dimension)) @ root.T
    cluster = rng.integers(0, clusters, components)
    roots = [_turn(rng, dimension) * np.sqrt(_spectrum(dimension, rng.uniform(0.8, 2.5))) for _ in centres]
    within = np.stack([roots[c] @ rng.standard_normal(dimension) for c in cluster])
    points = math.sqrt(between) * centres[cluster] + math.sqrt(1 - between) * within
    points = points - points.mean(0)
    width = rng.uniform(0.15, 0.4)
    points *= math.sqrt((1 - width**2) / (points**2).mean())
    logs = np.full(components, -math.log(components))
    return Member(logs, points, np.full(components, width**2), cluster)


def _mixture(rng: np.random.Generator, dimension: int, components: int) -> Member:
    """Components of different size with covariances more or less like that of the whole."""
    count = components
    slope, between = rng.uniform(0.8, 3.0), rng.uniform(0.15, 0.75)
    common = _turn(rng, dimension)
    weights = np.maximum(rng.dirichlet(np.full(count, 3.0)), 0.01)
    weights /= weights.sum()
    means = rng.standard_normal((count, dimension)) @ (common * np.sqrt(_spectrum(dimension, slope))).T
    means -= weights @ means
    means *= math.sqrt(between * dimension / (weights[:, None] * means**2).sum())
    variances, axes = np.empty((count, dimension)), np.empty((count, dimension, dimension))
    for k in range(count):
        variances[k] = _spectrum(dimension, max(0.5, slope + rng.normal(0, 0.4))) * math.exp(rng.normal(0, 0.5))
        other = rng.standard_normal((dimension, dimension)) / math.sqrt(dimension)
        axes[k] = np.linalg.qr(common + rng.choice([0.1, 0.5, 2.0]) * other)[0]
    variances *= (1 - between) * dimension / (weights[:, None] * variances).sum()
    return Member(np.log(weights), means, np.maximum(variances, 1e-4), np.arange(count), axes)


def _spectra(rng: np.random.Generator, dimension: int, components: int) -> Member:
    """One Gaussian with a spectrum between white and a power of 3."""
    variances = _spectrum(dimension, rng.uniform(0.0, 3.0))
    return Member(np.zeros(1), np.zeros((1, dimension)), variances[None], np.arange(1))


def _smoothed(points: Array, width: float, clusters: npt.NDArray[np.int_]) -> Member:
    """Points of mean 0, each with the same isotropic Gaussian around it; the mean variance in all is 1."""
    points = points - points.mean(0)
    points = points * math.sqrt((1 - width**2) / (points**2).mean())
    count = len(points)
    return Member(np.full(count, -math.log(count)), points, np.full(count, width**2), clusters)


def _tree(rng: np.random.Generator, dimension: int, components: int) -> Member:
    """Points in groups of groups of groups, closer together at each level down."""
    branches, points = rng.integers(2, 7, 2), np.zeros((1, dimension))
    root = _turn(rng, dimension) * np.sqrt(_spectrum(dimension, rng.uniform(0.0, 2.0)))
    size, shrink = 1.0, rng.uniform(0.2, 0.6)
    for count in (*branches, -(-components // int(branches.prod()))):
        points = (points[:, None] + size * rng.standard_normal((len(points), count, dimension)) @ root.T).reshape(
            -1, dimension
        )
        size *= shrink
    cluster = np.arange(len(points)) * branches[0] // len(points)
    kept = np.sort(rng.permutation(len(points))[:components])
    return _smoothed(points[kept], math.exp(rng.uniform(math.log(0.04), math.log(0.4))), cluster[kept])


def _curve(rng: np.random.Generator, dimension: int, components: int) -> Member:
    """Points spaced unevenly along a closed curve of a few frequencies."""
    t = np.sort(rng.random(components)) * 2 * np.pi
    frequencies = np.arange(1, rng.integers(3, 7))
    waves = np.concatenate([np.cos(np.outer(t, frequencies)), np.sin(np.outer(t, frequencies))], 1)
    falls = np.tile(frequencies ** -rng.uniform(0.5, 1.5), 2)
    points = (waves * falls) @ rng.standard_normal((waves.shape[1], dimension))
    cluster = (t / (2 * np.pi) * 6).astype(int)
    return _smoothed(points, math.exp(rng.uniform(math.log(0.05), math.log(0.3))), cluster)


def _flakes(rng: np.random.Generator, dimension: int, components: int) -> Member:
    """Components of any shape, each wide in a few directions of its own and thin in the others, in groups or apart."""
    groups = int(rng.integers(2, 6))
    centres = rng.uniform(0.5, 2.0) * rng.standard_normal((groups, dimension))
    cluster = np.arange(components) % groups
    means = centres[cluster] + rng.uniform(0.2, 1.0) * rng.standard_normal((components, dimension))
    thin = math.exp(rng.uniform(math.log(0.01), math.log(0.3)))
    variances = np.exp(rng.uniform(2 * math.log(thin), 0.0, (components, dimension)))
    axes = np.stack([_turn(rng, dimension) for _ in range(components)])
    weights = np.maximum(rng.dirichlet(np.full(components, 2.0)), 0.3 / components)
    weights /= weights.sum()
    means -= weights @ means
    power = (weights[:, None] * (means**2 + variances)).sum() / dimension
    return Member(np.log(weights), means / math.sqrt(power), variances / power, cluster, axes)


def _scales(rng: np.random.Generator, dimension: int, components: int) -> Member:
    """Components along nearly the same axes and of very different size, as patches of photographs are."""
    slope, between = rng.uniform(1.5, 3.5), rng.uniform(0.2, 0.8)
    common, turned = _turn(rng, dimension), rng.uniform(0.0, 0.4)
    weights = np.maximum(rng.dirichlet(np.full(components, 2.0)), 0.3 / components)
    weights /= weights.sum()
    means = rng.standard_normal((components, dimension)) @ (common * np.sqrt(_spectrum(dimension, slope + 1))).T
    means -= weights @ means
    means *= math.sqrt(between * dimension / (weights[:, None] * means**2).sum())
    sizes = np.exp(rng.normal(0, rng.uniform(0.7, 1.8), components))
    variances = sizes[:, None] * _spectrum(dimension, slope)
    variances *= (1 - between) * dimension / (weights[:, None] * variances).sum()
    axes = np.stack(
        [np.linalg.qr(common + turned * _turn(rng, dimension) / math.sqrt(dimension))[0] for _ in range(components)]
    )
    return Member(np.log(weights), means, np.maximum(variances, 1e-4), np.arange(components), axes)


SHAPES: Mapping[str, Callable[[np.random.Generator, int, int], Member]] = {
    "gaussian": _gaussian,
    "cloud": _cloud,
    "mixture": _mixture,
    "spectra": _spectra,
    "tree": _tree,
    "curve": _curve,
    "flakes": _flakes,
    "scales": _scales,
}
