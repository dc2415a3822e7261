"""Synthetic mixtures of Gaussians that stand in for all models: `auto` is fitted to them, and `tune` to some besides.

Members have a standard deviation of 1 give or take a quarter, as data is scaled for a network: single Gaussians with
the spectrum of images; mixtures of 4 to 12 Gaussians in 16 to 64 dimensions with covariances that are partly alike,
whose variance falls as a power of the number of the axis; clouds of 100 points smoothed; and mixtures under
classifier-free guidance of scale 2 to 9, every item towards a component of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ksched.tuning.batched_mixtures import Mixtures
from ksched.tuning.fit import Problem, exact_ends
from ksched.types import Array

__all__ = ["LARGE", "SMALL", "SMALLEST", "Kind", "zoo"]


@dataclass(frozen=True)
class Kind:
    """Members of one shape.

    Attributes
    ----------
    members : how many
    dimension, components : of each
    of : "mixture", "cloud" or "gaussian"
    guided : towards one component, another for every run
    items : runs of every member; guided ones need more, since few of them explode
    """

    members: int
    dimension: int
    components: int
    of: str = "mixture"
    guided: bool = False
    items: int = 16


#: of every kind, for what is fitted once and for all
LARGE = (
    Kind(4, 16, 12),
    Kind(4, 32, 5),
    Kind(6, 64, 10),
    Kind(6, 48, 100, "cloud"),
    Kind(5, 256, 1, "gaussian"),
    Kind(6, 24, 8, guided=True, items=40),
    Kind(6, 64, 10, guided=True, items=40),
)


#: some, for what is fitted on the spot
SMALL = (
    Kind(4, 16, 6),
    Kind(2, 32, 10),
    Kind(2, 32, 40, "cloud"),
    Kind(3, 16, 6, guided=True, items=40),
    Kind(1, 32, 10, guided=True, items=40),
)


#: fewer, where a fit takes many calls
SMALLEST = (
    Kind(4, 16, 6),
    Kind(2, 32, 40, "cloud"),
    Kind(3, 16, 6, guided=True, items=24),
)


class _Member(NamedTuple):
    """As for `Mixtures`, with the cluster that every component belongs to."""

    logs: Array
    means: Array
    variances: Array
    clusters: npt.NDArray[np.int_]
    axes: Array | None = None


def _turn(rng: np.random.Generator, dimension: int) -> Array:
    rotation: Array = np.linalg.qr(rng.standard_normal((dimension, dimension)))[0]
    return rotation


def _spectrum(dimension: int, slope: float) -> Array:
    """Variances that fall as a power of the number of the axis, of mean 1."""
    variances = np.arange(1, dimension + 1.0) ** -slope
    falling: Array = np.maximum(variances / variances.mean(), 1e-4)
    return falling


def _gaussian(rng: np.random.Generator, kind: Kind) -> _Member:
    variances = _spectrum(kind.dimension, rng.uniform(0.8, 2.5))
    return _Member(np.zeros(1), np.zeros((1, kind.dimension)), variances[None], np.arange(1))


def _cloud(rng: np.random.Generator, kind: Kind) -> _Member:
    """Points in clusters, each with the same width."""
    clusters, between = int(rng.integers(3, 12)), rng.uniform(0.3, 0.8)
    root = _turn(rng, kind.dimension) * np.sqrt(_spectrum(kind.dimension, rng.uniform(0.8, 3.0)))
    centres = rng.standard_normal((clusters, kind.dimension)) @ root.T
    cluster = rng.integers(0, clusters, kind.components)
    roots = [_turn(rng, kind.dimension) * np.sqrt(_spectrum(kind.dimension, rng.uniform(0.8, 2.5))) for _ in centres]
    within = np.stack([roots[c] @ rng.standard_normal(kind.dimension) for c in cluster])
    points = math.sqrt(between) * centres[cluster] + math.sqrt(1 - between) * within
    points = points - points.mean(0)
    width = rng.uniform(0.15, 0.4)
    points *= math.sqrt((1 - width**2) / (points**2).mean())
    logs = np.full(kind.components, -math.log(kind.components))
    return _Member(logs, points, np.full(kind.components, width**2), cluster)


def _mixture(rng: np.random.Generator, kind: Kind) -> _Member:
    """Components whose covariances are more or less those of the whole, of different size."""
    count, dimension = kind.components, kind.dimension
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
    return _Member(np.log(weights), means, np.maximum(variances, 1e-4), np.arange(count), axes)


def _members(kind: Kind, seed: int) -> Mixtures:
    rng = np.random.default_rng(seed)
    make = {"gaussian": _gaussian, "cloud": _cloud, "mixture": _mixture}[kind.of]
    made = [make(rng, kind) for _ in range(kind.members)]
    scale = np.exp(rng.uniform(-0.25, 0.25, kind.members))[:, None, None]
    logs, means = np.stack([m.logs for m in made]), np.stack([m.means for m in made])
    variances = np.stack([m.variances for m in made])
    variances *= scale**2 if variances.ndim == 3 else scale[..., 0] ** 2
    axes = None if made[0].axes is None else np.stack([m.axes for m in made if m.axes is not None])
    outside = scales = None
    if kind.guided:
        outside = np.full((kind.members, kind.items, kind.components), -1e9)
        for member, one in zip(outside, made, strict=True):
            for item in member:
                item[one.clusters == rng.choice(one.clusters)] = 0
        scales = rng.uniform(2.0, 9.0, (kind.members, 1, 1))
    return Mixtures(logs, means * scale, variances, axes, outside, scales)


def zoo(s: float, kinds: Sequence[Kind], seed: int, *, steps: int = 200) -> list[Problem]:
    """Problems of every kind, in float32, which is enough to fit to.

    Parameters
    ----------
    s : level that runs start from, in flow coordinates
    seed : of the members and their start states
    steps : of the runs whose ends are taken for exact
    """
    problems = []
    for number, kind in enumerate(kinds):
        members = _members(kind, seed + number)
        generator = torch.Generator().manual_seed(seed + 100 + number)
        shape = (kind.members, kind.items, kind.dimension)
        start = s * torch.randn(shape, generator=generator, dtype=torch.float64)
        ends = exact_ends(members, start, s, steps=steps)
        made = members.to(torch.float32), start.float(), ends.float()
        problems.append(Problem.of(*made, models=True))
    return problems
