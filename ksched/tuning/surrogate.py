"""A mixture of Gaussians fitted to samples. It stands in for the model: its denoiser is exact and costs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.cluster.vq import kmeans2

from ksched.tuning.batched_mixtures import Mixtures
from ksched.tuning.fit import Problem, exact_ends
from ksched.tuning.independent_values import IndependentValues
from ksched.types import Array

__all__ = ["Surrogate", "fit_surrogate", "problem_of"]

#: number of directions that the mixture models, and of further ones, in which the data is treated as one Gaussian
_DIRECTIONS, _BEYOND = 64, 256
_COMPONENTS = (1, 2, 4, 8, 16, 24, 32, 48)
#: noise at which densities are compared: finer detail says little about how a run goes
_NOISED = 0.15
_CLEARLY = 0.02  # nats for each value by which independent values must be likelier
_LEAST = 1e-4  # smallest variance, relative to the mean variance


@dataclass(frozen=True, eq=False)
class Surrogate:
    """A denoiser of states (1, items, dimension), in flow coordinates, for data of standard deviation 1.

    Attributes
    ----------
    mixture : Mixtures, IndependentValues or None
        Mixture in the leading directions; None if the data is treated as one Gaussian.
    rest : Mixtures or None
        One Gaussian in the other directions.
    split : int
        Number of leading directions.
    dimension : int
        Number of all directions.
    components : int
        Number of components of the mixture; 1 for one Gaussian.
    """

    mixture: Mixtures | IndependentValues | None
    rest: Mixtures | None
    split: int
    dimension: int
    components: int

    @property
    def has_modes(self) -> bool:
        """Whether it is more than one Gaussian, which says nothing about how runs part."""
        return self.components > 1 or isinstance(self.mixture, IndependentValues)

    def __call__(self, y: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """Posterior means."""
        parts = ((self.mixture, y[..., : self.split]), (self.rest, y[..., self.split :]))
        return torch.cat([part(own, s) for part, own in parts if part is not None], -1)

    def to(self, dtype: torch.dtype) -> Surrogate:
        """The same denoiser in another dtype."""
        mixture = self.mixture and self.mixture.to(dtype)
        rest = self.rest and self.rest.to(dtype)
        return Surrogate(mixture, rest, self.split, self.dimension, self.components)


@dataclass(frozen=True)
class _Parts:
    """Weights, means, variances, axes and labels of components."""

    weights: Array
    means: Array
    variances: Array
    axes: Array
    labels: Array

    def mixture(self, items: int = 0, guidance: float = 1.0, rng: np.random.Generator | None = None) -> Mixtures:
        """A denoiser of these parts; with guidance, for a number of items, each guided to a label drawn by weight."""
        outside = scales = None
        if rng is not None and guidance != 1:
            towards = rng.choice(self.labels, items, p=self.weights)
            outside = np.where(self.labels == towards[:, None], 0.0, -1e9)[None]
            scales = np.full((1, 1, 1), guidance)
        logs, axes = np.log(self.weights)[None], self.axes[None]
        return Mixtures(logs, self.means[None], self.variances[None], axes, outside, scales)


def fit_surrogate(
    samples: Array,
    rng: np.random.Generator,
    *,
    labels: Array | None = None,
    guidance: float = 1.0,
    items: int = 0,
    components: Sequence[int] = _COMPONENTS,
) -> Surrogate:
    """A mixture with the number of components that best predicts samples left out of the fit.

    Parameters
    ----------
    samples : ndarray of float64
        Samples of standard deviation 1, shape (samples, dimension).
    rng : Generator
        Generator for k-means and for the split.
    labels : ndarray of float64 or None
        Class of each sample, for guidance; None guides towards single components.
    guidance : float
        Scale of classifier-free guidance; 1 is none.
    items : int
        Number of states that a guided mixture will be called on.
    components : sequence of int
        Numbers of components to choose from.

    Notes
    -----
    The components are cells of k-means in the leading principal directions, each with its own mean and covariance. The
    fewer samples a cell has, the more its covariance is shrunk towards the average over all cells. The remaining
    directions are treated as one Gaussian.

    Where independent values predict the samples better than any such mixture, they are the surrogate instead.
    """
    count, dimension = samples.shape
    mean = samples.mean(0)
    _, values, axes = np.linalg.svd(samples - mean, full_matrices=False)
    variances = _shrunk(values**2 / (count - 1), count, dimension)
    split = min(dimension, _DIRECTIONS, max(count // 4, 1))
    z, centre = samples @ axes.T, axes @ mean
    first = z[:, :split]
    names = np.zeros(count, dtype=int) if labels is None else np.unique(labels, return_inverse=True)[1]
    kept = rng.permutation(count)
    train, test = kept[: count * 4 // 5], kept[count * 4 // 5 :]
    noised = torch.from_numpy((1 - _NOISED) * first[test] + _NOISED * rng.standard_normal((len(test), split)))[None]
    scores = {}
    for k in components:
        if k == 1 or k * 12 <= len(train):
            parts = _cells(first[train], names[train], k, rng)
            scores[k] = float(parts.mixture().log_density(noised, torch.tensor(_NOISED)).mean())
    best = max(scores, key=lambda k: scores[k])
    if guidance == 1 and split == dimension:
        of = IndependentValues.of(samples[train])
        score = float(of.log_density(noised @ torch.from_numpy(axes), torch.tensor(_NOISED)).mean())
        if score > scores[best] + _CLEARLY * dimension:
            return Surrogate(IndependentValues.of(samples), None, dimension, dimension, 1)
    least = _LEAST * float(variances.mean())
    if best == 1 and guidance == 1:
        split = 0
    chosen = _cells(first, names, best if best > 1 or guidance == 1 else 8, rng)
    mixture = chosen.mixture(items, guidance, rng) if split else None
    beyond = np.arange(split, len(variances))
    if len(beyond) > _BEYOND:
        beyond = beyond[np.linspace(0, len(beyond) - 1, _BEYOND).astype(int)]
    rest = None
    if len(beyond):
        spread = np.maximum(variances[beyond], least)
        rest = Mixtures(np.zeros((1, 1)), centre[None, None, beyond], spread[None, None], None, None, None)
    return Surrogate(mixture, rest, split, split + len(beyond), best)


def problem_of(surrogate: Surrogate, s: float, items: int, rng: np.random.Generator, noise: float = 0.0) -> Problem:
    """Runs of a surrogate from noise at level s with their exact results, in float32, which is enough for fitting.

    Parameters
    ----------
    items : int
        Number of runs.
    noise : float
        As for `Problem`.
    """
    start = s * torch.from_numpy(rng.standard_normal((1, items, surrogate.dimension)))
    ends = exact_ends(surrogate, start, s, steps=100)
    return Problem.of(surrogate.to(torch.float32), start.float(), ends.float(), models=True, noise=noise)


def _shrunk(variances: Array, count: int, dimension: int) -> Array:
    """Variances along the principal directions of ``count`` samples, shrunk towards their mean.

    With few samples the largest variances come out too large and the smallest too small. The amount of shrinkage is the
    one that Ledoit & Wolf 2004 (https://doi.org/10.1016/S0047-259X(03)00096-4) find best for normal data.
    """
    total, squares = variances.sum(), (variances**2).sum()
    mean = total / dimension
    apart = squares - total * mean
    share = 1.0 if apart <= 0 else min(1.0, (squares + total**2) / count / apart)
    shrunk: Array = (1 - share) * variances + share * mean
    return shrunk


def _cells(points: Array, names: npt.NDArray[np.int_], count: int, rng: np.random.Generator) -> _Parts:
    """One Gaussian per cell of k-means; with several labels, each gets cells in proportion to its samples."""
    groups = []
    for name in np.unique(names):
        own = points[names == name]
        share = max(1, round(count * len(own) / len(points)))
        if share == 1 or len(own) < 2 * share:
            cells = np.zeros(len(own), dtype=int)
        else:
            _, cells = kmeans2(own, share, iter=30, minit="++", missing="warn", rng=rng)
        groups += [(name, own[cells == k]) for k in np.unique(cells)]
    single = np.unique(names).size == 1  # then every component is its own label
    dimension = points.shape[1]
    within = sum(((g - g.mean(0)).T @ (g - g.mean(0)) for _, g in groups), np.zeros((dimension, dimension)))
    within /= max(len(points) - len(groups), 1)
    within = _toward_round(within, len(points))
    means, variances, axes, weights, labels = [], [], [], [], []
    for k, (name, group) in enumerate(groups):
        own = (group - group.mean(0)).T @ (group - group.mean(0)) / max(len(group) - 1, 1)
        share = dimension / (dimension + len(group))
        values, vectors = np.linalg.eigh((1 - share) * own + share * within)
        means.append(group.mean(0))
        variances.append(np.maximum(values, _LEAST * np.trace(within) / dimension))
        axes.append(vectors)
        weights.append(len(group) / len(points))
        labels.append(k if single else name)
    return _Parts(np.array(weights), np.array(means), np.array(variances), np.array(axes), np.array(labels))


def _toward_round(covariance: Array, count: int) -> Array:
    values, vectors = np.linalg.eigh(covariance)
    rounder: Array = (vectors * _shrunk(values, count, len(values))) @ vectors.T
    return rounder
