"""Denoisers with closed-form truth, for measuring samplers: Gaussian mixtures, single Gaussians, finitely many points.

For such data the posterior mean ``E[x0 | x]`` that a network only approximates is a formula, and the probability-flow
ODE can be followed to 1e-10, so what a sampler gets wrong is its own error and nothing else. All formulas live in flow
coordinates ``y = x / (alpha + std)``, ``s = std / (alpha + std)``, ``a = 1 - s``: there ``y = a * x0 + s * eps`` and
``dy/ds = (y - E[x0 | y]) / s``, so that every process is the same one, on s in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, overload

import numpy as np
import torch

from ksched.exact.conditioning import posterior
from ksched.exact.coordinates import Level, Place, flattened, level_of, place_of
from ksched.exact.paths import follow
from ksched.processes import Process, default_process
from ksched.processes.agreement import check_sigma
from ksched.types import Array, ArrayLike, set_fields

__all__ = ["Gaussian", "GaussianMixture", "finite_array"]


_LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True, eq=False, repr=False, init=False)
class GaussianMixture:
    """A mixture of Gaussians as a denoiser, ``denoiser(x, sigma) -> E[x0 | x]``.

    Parameters
    ----------
    weights : share of every component, shape (components,), positive, sum 1
    means : shape (components, dimension)
    covariances : matrices (components, dimension, dimension), variances of the coordinates (components, dimension), one
        variance per component (components,), or one number for all
    process : what a state at sigma is; None is `default_process`, states ``x0 + sigma * eps``
    labels : what every component stands for, shape (components,); () says nothing

    Raises
    ------
    ValueError : shapes that do not fit, weights that are not positive or do not sum to 1, covariances that are not
        symmetric positive semi-definite, or a number that is not finite
    """

    weights: Array
    means: Array
    covariances: Array
    process: Process
    labels: tuple[int, ...]

    def __init__(
        self,
        weights: ArrayLike,
        means: ArrayLike,
        covariances: ArrayLike,
        process: Process | None = None,
        *,
        labels: Sequence[int] = (),
    ) -> None:
        w, m, c = _parts(weights, means, covariances)
        if len(labels) not in (0, len(w)):
            raise ValueError(f"labels must name all {len(w)} components or none; got {len(labels)}")
        for array in (w, m, c):
            array.setflags(write=False)
        owner = process or default_process()
        set_fields(self, weights=w, means=m, covariances=c, process=owner, labels=tuple(labels))
        _ = self._spread  # refuses a wrong covariance now

    @cached_property
    def _spread(self) -> tuple[Array, Array | None]:
        """Variances (components, dimension) along axes (components, dimension, axis), where None is the coordinates."""
        return _principal(self.covariances)

    @property
    def dimension(self) -> int:
        """Number of values of one item."""
        return int(self.means.shape[1])

    @property
    def mean(self) -> Array:
        """Mean of the whole distribution, shape (dimension,)."""
        return self.weights @ self.means

    @property
    def covariance(self) -> Array:
        """Covariance of the whole distribution, shape (dimension, dimension)."""
        within: Array = np.tensordot(self.weights, self.covariances, 1)
        apart = self.means - self.mean
        return (within if within.ndim == 2 else np.diag(within)) + (self.weights * apart.T) @ apart

    def sample(self, n: int, seed: int) -> Array:
        """``n`` independent draws of x0, float64, shape (n, dimension), from a generator seeded with ``seed``."""
        return _draws(np.random.default_rng(seed), n, self.weights, self.means, *self._spread)

    def only(self, label: int) -> GaussianMixture:
        """The components that carry ``label``, as a mixture of their own: the conditional distribution."""
        keep = np.array([own == label for own in self.labels], dtype=bool)
        if not keep.any():
            raise ValueError(f"label must be one of {sorted(set(self.labels))}; got {label!r}")
        weights = self.weights[keep] / self.weights[keep].sum()
        return GaussianMixture(
            weights, self.means[keep], self.covariances[keep], self.process, labels=[label] * len(weights)
        )

    def given(self, operator: ArrayLike, y: ArrayLike, std: float) -> GaussianMixture:
        """The exact posterior of x0 given ``y = operator @ x0 + std * noise``: again a mixture, or a `Gaussian`.

        Parameters
        ----------
        operator : shape (observations, dimension); rows of the unit matrix for a mask
        y : shape (observations,)
        std : of the noise, at least 0

        Raises
        ------
        ValueError : shapes that do not fit, a number that is not finite, an observation without a density
        """
        a, b = finite_array("operator", _host(operator)), finite_array("y", _host(y))
        w, m, c = posterior(self.weights, self.means, self.covariances, a, b, float(std))
        return self._posterior(w, m, c)

    def _posterior(self, w: Array, m: Array, c: Array) -> GaussianMixture:
        kept = np.flatnonzero(w > 0)  # what underflows has no share
        labels = [self.labels[k] for k in kept] if self.labels else ()
        return GaussianMixture(w[kept], m[kept], c[kept], self.process, labels=labels)

    def __call__(self, x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        """Posterior mean ``E[x0 | x]`` of states at a noise level.

        Parameters
        ----------
        x : states, shape ``(batch, *shape)`` with prod(shape) = `dimension`
        sigma : contract sigma; a float, or a tensor of shape (batch,), each item at its own level

        Returns
        -------
        tensor like x; computed in float64 if x is float64, else in float32

        Raises
        ------
        ValueError : x or sigma of another shape, a float that is no noise level of the process, or sigmas of a run
            whose process means other states
        """
        check_sigma(self.process, sigma)
        return self._denoised(self._place(x, sigma)).reshape(x.shape).to(x.dtype)

    def log_density(self, x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        """Log-density of states at a noise level, in nats, shape (batch,); parameters and errors as for a call.

        Where the data fills no volume (finitely many points) there is a density at sigma > 0 only.
        """
        at = self._place(x, sigma)
        return self._joint(at)[0].logsumexp(1) - self.dimension * (at.scale[:, 0].log() + _LOG_2PI / 2)

    def responsibilities(self, x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        """Posterior probability of every component, shape (batch, components); parameters and errors as for a call."""
        return self._joint(self._place(x, sigma))[0].softmax(1)

    @overload
    def solve(self, x: torch.Tensor, sigmas: ArrayLike) -> torch.Tensor: ...
    @overload
    def solve(self, x: Array, sigmas: ArrayLike) -> Array: ...
    def solve(self, x: torch.Tensor | Array, sigmas: ArrayLike) -> torch.Tensor | Array:
        """States of the exact probability-flow ODE at every one of ``sigmas``, to 1e-10 or better.

        Parameters
        ----------
        x : states at ``sigmas[0]``, shape ``(batch, *shape)`` with prod(shape) = `dimension`; tensor or array
        sigmas : contract sigmas in the order of the visit, falling or rising; 0 is allowed

        Returns
        -------
        float64, shape ``(len(sigmas), *x.shape)``, the first x; a tensor on x's device for a tensor, else an array

        Raises
        ------
        ValueError : x of another shape, sigmas that are no noise levels of the process, or a path that rises from sigma
            0 although the data fills no volume (the state there does not tell which path led to it)

        Notes
        -----
        Closed form for a `Gaussian`; else DOP853 (Hairer, Norsett and Wanner 1993) with relative tolerance 1e-13.
        """
        levels = [level_of(self.process, float(sigma)) for sigma in np.ravel(np.asarray(sigmas, dtype=np.float64))]
        if not levels:
            raise ValueError("sigmas must start with the level x stands at; got none")
        host = x.detach().cpu().double() if isinstance(x, torch.Tensor) else torch.from_numpy(np.array(x, np.float64))
        result = _visited(self._path, host, flattened(host, self.dimension), levels)
        return result.to(x.device) if isinstance(x, torch.Tensor) else result.numpy()

    @cached_property
    def _floor(self) -> float:
        """The s below which paths are straight, because the noise hides no detail of the data; 0 if it always does."""
        return 0.0 if self._spread[0].min() > 0 else 1e-8

    def _settled(self, at: Place) -> torch.Tensor:
        """Which items follow straight lines from here down to s = 0, shape (batch,)."""
        return (at.s[:, 0] <= self._floor).expand(len(at.y))

    def _path(self, y: torch.Tensor, s: float, target: float) -> torch.Tensor:
        """The states at ``target`` of the paths through y at s."""
        if s == 0 < target and self._floor > 0:
            raise ValueError("a path can rise from sigma 0 only if the data fills a volume; start at a sigma above 0")
        return follow(
            y,
            s,
            target,
            denoised=self._denoised,
            slope=self._slope,
            settled=self._settled,
            halves=self._floor > 0,
        )

    def _place(self, x: torch.Tensor, sigma: float | torch.Tensor) -> Place:
        return place_of(self.process, flattened(x, self.dimension), sigma)

    @cached_property
    def _uploaded(self) -> dict[Any, tuple[torch.Tensor, ...]]:
        return {}

    def _parameters(self, like: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """`_arrays` as tensors beside ``like``, uploaded once per device and dtype."""
        key = like.device, like.dtype
        if key not in self._uploaded:
            kind = np.float64 if like.dtype == torch.float64 else np.float32
            arrays = _arrays(self.weights, self.means, *self._spread)
            self._uploaded[key] = tuple(torch.from_numpy(a.astype(kind)).to(like.device) for a in arrays)
        return self._uploaded[key]

    def _along(self, y: torch.Tensor) -> torch.Tensor:
        """Vectors (batch, dimension) along every component's axes: (batch, components, dimension), or 1 for all."""
        _, means, _, _, *basis = self._parameters(y)
        return (y @ basis[0]).view(-1, *means.shape) if basis else y[:, None]

    def _together(self, parts: torch.Tensor) -> torch.Tensor:
        """Sum over components of vectors along their axes: (batch, components, dimension) to (batch, dimension)."""
        basis = self._parameters(parts)[4:]
        return parts.flatten(1) @ basis[0].T if basis else parts.sum(1)

    def _joint(self, at: Place) -> tuple[torch.Tensor, torch.Tensor]:
        """Log of weight times density, and what pulls y to each component.

        Shapes (batch, components), without the factor ``(2 pi) ** (-dimension / 2)``, and (batch, components,
        dimension): ``(a^2 C + s^2)^-1 (y - a m)`` along the component's axes.
        """
        log_weights, _, variances, centres, *_ = self._parameters(at.y)
        a, s = at.a[..., None], at.divisors()[1][..., None]
        total = a * a * variances + s * s
        apart = self._along(at.y) - a * centres
        pull = apart / total
        return log_weights - (total.log().sum(-1) + (apart * pull).sum(-1)) / 2, pull

    def _denoised(self, at: Place) -> torch.Tensor:
        """Posterior mean, shape (batch, dimension).

        ``(y + s^2 score) / a`` where the signal is the larger, so that sigma 0 returns x bit for bit; the mean of
        ``m + a C (a^2 C + s^2)^-1 (y - a m)`` where the noise is, so that alpha may be 0.
        """
        _, means, variances, *_ = self._parameters(at.y)
        joint, pull = self._joint(at)
        share, clear, (a, s) = joint.softmax(1), at.a > at.s, at.divisors()
        base = torch.where(clear, at.y / a, share @ means)
        gain = torch.where(clear[..., None], (-s * s / a)[..., None], at.a[..., None] * variances)
        return base + self._together(share[..., None] * gain * pull)

    def _slope(self, at: Place) -> torch.Tensor:
        """dy/ds, shape (batch, dimension): ``(y - D) / s`` with D as above, divided by hand, no 0 / 0 at s = 0."""
        _, means, variances, *_ = self._parameters(at.y)
        joint, pull = self._joint(at)
        share, clear, (a, s) = joint.softmax(1), at.a > at.s, at.divisors()
        base = torch.where(clear, -at.y / a, (at.y - share @ means) / s)
        gain = torch.where(clear[..., None], (s / a)[..., None], (-at.a / s)[..., None] * variances)
        return base + self._together(share[..., None] * gain * pull)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(<{len(self.weights)} parts, dimension {self.dimension}>, {self.process!r})"


class Gaussian(GaussianMixture):
    """One Gaussian as a denoiser, ``denoiser(x, sigma) -> E[x0 | x]``: a mixture of one, whose ODE has a closed form.

    Parameters
    ----------
    mean : shape (dimension,); a number is dimension 1
    covariance : one variance, the variances of the coordinates (dimension,), or a matrix (dimension, dimension)
    process : what a state at sigma is; None is `default_process`, states ``x0 + sigma * eps``

    Raises
    ------
    ValueError : shapes that do not fit, a covariance that is not symmetric positive semi-definite, or a number that is
        not finite
    """

    def __init__(self, mean: ArrayLike, covariance: ArrayLike, process: Process | None = None) -> None:
        c = np.asarray(covariance, dtype=np.float64)
        super().__init__([1.0], np.ravel(np.asarray(mean, np.float64))[None], c[None] if c.ndim else c, process)

    def _posterior(self, w: Array, m: Array, c: Array) -> Gaussian:
        return Gaussian(m[0], c[0], self.process)

    def _path(self, y: torch.Tensor, s: float, target: float) -> torch.Tensor:
        """Every axis keeps its z-score."""
        _, means, variances, centres, *_ = self._parameters(y)
        if s == 0 < target and self._floor > 0:
            return super()._path(y, s, target)  # which says why not
        ratio = ((1 - target) ** 2 * variances + target**2) / ((1 - s) ** 2 * variances + s**2)
        apart = self._along(y) - (1 - s) * centres
        return (1 - target) * means + self._together(apart * ratio.nan_to_num(1.0).sqrt())  # 0 / 0: from 0 to 0


def _visited(
    path: Callable[..., torch.Tensor], x: torch.Tensor, flat: torch.Tensor, levels: list[Level]
) -> torch.Tensor:
    """States at all levels, shape (levels, *x.shape), by steps along paths in flow coordinates."""
    y, states = flat / levels[0].scale, [x]
    with torch.no_grad():
        for left, reached in pairwise(levels):
            y = path(y, left.s, reached.s)
            states.append((reached.scale * y).reshape(x.shape))
    return torch.stack(states)


def _arrays(weights: Array, means: Array, variances: Array, axes: Array | None) -> list[Array]:
    """Log-weights, means, variances, means along the axes; and the axes, unless they are the coordinates."""
    if axes is None:
        return [np.log(weights), means, variances, means]
    # All axes side by side, (dimension, components * dimension): one matrix product serves every component.
    basis = axes.transpose(1, 0, 2).reshape(means.shape[1], -1)
    return [np.log(weights), means, variances, np.einsum("kij,ki->kj", axes, means), basis]


def _draws(
    rng: np.random.Generator, n: int, weights: Array, means: Array, variances: Array, axes: Array | None
) -> Array:
    """Independent draws of a mixture, shape (n, dimension)."""
    part = rng.choice(len(weights), size=n, p=weights)
    apart = rng.standard_normal((n, means.shape[1]))
    if axes is None:
        return means[part] + apart * np.sqrt(variances[part])
    for k in np.unique(part):  # by the symmetric root, as the signs of axes differ between machines
        apart[part == k] = apart[part == k] @ (axes[k] * np.sqrt(variances[k])) @ axes[k].T
    return means[part] + apart


def _host(values: Any) -> Any:
    """A tensor as an array; anything else as it is."""
    return values.detach().cpu().double().numpy() if isinstance(values, torch.Tensor) else values


def _parts(weights: ArrayLike, means: ArrayLike, covariances: ArrayLike) -> tuple[Array, Array, Array]:
    """Weights (components,) with sum 1, means (components, dimension), and variances or matrices for each component."""
    w, m, c = (
        finite_array("weights", weights),
        finite_array("means", means),
        finite_array("covariances", covariances),
    )
    if w.ndim != 1 or not (w > 0).all() or abs(w.sum() - 1) > 1e-6:
        raise ValueError(f"weights must be one list of positive numbers with sum 1; got {w}")
    if m.ndim != 2 or len(m) != len(w) or not m.size:
        raise ValueError(f"means must have shape (components, dimension), {len(w)} components; got {m.shape}")
    if c.ndim < 2 and c.size in (1, len(w)):
        c = np.repeat(np.broadcast_to(c, w.shape)[:, None], m.shape[1], axis=1)
    if c.shape not in (m.shape, (*m.shape, m.shape[1])):
        raise ValueError(f"covariances must be variances or matrices that fit means of {m.shape}; got {c.shape}")
    return w / w.sum(), m, c


def _principal(c: Array) -> tuple[Array, Array | None]:
    """Variances along the principal axes of covariances, and the axes; None for those that are variances already."""
    if c.ndim == 2:
        variances, axes, rounding = c, None, np.zeros(())
    else:
        if np.abs(c - c.swapaxes(1, 2)).max() > 1e-6 * np.abs(c).max():
            raise ValueError("covariances must be symmetric; got a matrix that differs from its transpose")
        variances, axes = np.linalg.eigh(c)
        # The zeros of a singular matrix come back with rounding size and either sign.
        rounding = 1e-14 * variances.max(axis=1, keepdims=True)
    if variances.min() < -1e-6 * np.abs(variances).max():
        raise ValueError(f"covariances must have no negative eigenvalue or variance; got {variances.min():.6g}")
    return np.where(variances > rounding, variances, 0.0), axes


def finite_array(name: str, values: ArrayLike) -> Array:
    """A float64 array of its own; raises ValueError unless all of it is finite."""
    array = np.array(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite; got {array[~np.isfinite(array)].flat[0]}")
    return array
