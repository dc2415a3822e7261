"""Exact denoisers for measuring samplers: Gaussian mixtures, single Gaussians, finitely many points.

For such data the posterior mean ``E[x0 | x]``, which a network only approximates, has a closed form, and the
probability-flow ODE can be solved to 1e-10. The measured error is therefore the sampler's own. All formulas use flow
coordinates ``y = x / (alpha + std)``, ``s = std / (alpha + std)``, ``a = 1 - s``. There ``y = a * x0 + s * eps`` and
``dy/ds = (y - E[x0 | y]) / s``, so all processes become the same, on s in [0, 1].
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
    """A mixture of Gaussians as an exact denoiser, ``denoiser(x, sigma) -> E[x0 | x]``.

    Parameters
    ----------
    weights : ndarray of float64
        Weight of every component, shape (components,), positive, with sum 1.
    means : ndarray of float64
        Shape (components, dimension).
    covariances : ndarray of float64
        Matrices (components, dimension, dimension), variances of the coordinates (components, dimension), one variance
        per component (components,), or one number for all.
    process : Process
        Process of the states; None is `default_process`, states ``x0 + sigma * eps``.
    labels : tuple of int
        Class of every component, shape (components,); () for none.

    Raises
    ------
    ValueError
        If shapes do not fit, weights are not positive or do not sum to 1, covariances are not symmetric positive
        semi-definite, or a number is not finite.
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
            raise ValueError(f"labels must name all of the {len(w)} components, or none; got {len(labels)}")
        for array in (w, m, c):
            array.setflags(write=False)
        owner = process or default_process()
        set_fields(self, weights=w, means=m, covariances=c, process=owner, labels=tuple(labels))
        _ = self._spread  # an error now if a covariance is wrong

    @cached_property
    def _spread(self) -> tuple[Array, Array | None]:
        """Variances (components, dimension) along axes (components, dimension, axis); None for coordinate axes."""
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
        """The components with ``label`` as a mixture of their own: the conditional distribution."""
        keep = np.array([own == label for own in self.labels], dtype=bool)
        if not keep.any():
            raise ValueError(f"label must be one of {sorted(set(self.labels))}; got {label!r}")
        weights = self.weights[keep] / self.weights[keep].sum()
        return GaussianMixture(
            weights, self.means[keep], self.covariances[keep], self.process, labels=[label] * len(weights)
        )

    def given(self, operator: ArrayLike, y: ArrayLike, std: float) -> GaussianMixture:
        """The exact posterior of x0 given ``y = operator @ x0 + std * noise``, a mixture or `Gaussian` again.

        Parameters
        ----------
        operator : array_like
            Shape (observations, dimension); for a mask, rows of the identity matrix.
        y : array_like
            Shape (observations,).
        std : float
            Standard deviation of the noise, at least 0.

        Raises
        ------
        ValueError
            If shapes do not fit, a number is not finite, or the observation has no density.
        """
        a, b = finite_array("operator", _host(operator)), finite_array("y", _host(y))
        w, m, c = posterior(self.weights, self.means, self.covariances, a, b, float(std))
        return self._posterior(w, m, c)

    def _posterior(self, w: Array, m: Array, c: Array) -> GaussianMixture:
        kept = np.flatnonzero(w > 0)  # weights may underflow to 0
        labels = [self.labels[k] for k in kept] if self.labels else ()
        return GaussianMixture(w[kept], m[kept], c[kept], self.process, labels=labels)

    def __call__(self, x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        """Posterior mean ``E[x0 | x]`` of states at a sigma.

        Parameters
        ----------
        x : Tensor
            States, shape ``(batch, *shape)`` with prod(shape) = `dimension`.
        sigma : float or Tensor
            Contract sigma, a float or a tensor of shape (batch,) with one sigma per item.

        Returns
        -------
        Tensor
            Tensor like x, computed in float64 if x is float64 and in float32 otherwise.

        Raises
        ------
        ValueError
            If x or sigma has another shape, a float is not a sigma of the process, or sigma comes from a run on a
            process with other states.
        """
        check_sigma(self.process, sigma)
        return self._denoised(self._place(x, sigma)).reshape(x.shape).to(x.dtype)

    def log_density(self, x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        """Log-density of states at a sigma, in nats, shape (batch,); parameters and errors as for a call.

        If the data fills no volume (finitely many points), there is a density only at sigma > 0.
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
        """States of the exact probability-flow ODE at each of ``sigmas``, to 1e-10 or better.

        Parameters
        ----------
        x : Tensor or ndarray of float64
            States at ``sigmas[0]``, shape ``(batch, *shape)`` with prod(shape) = `dimension`; tensor or array.
        sigmas : array_like
            Contract sigmas in the order in which they are visited, falling or rising; 0 is allowed.

        Returns
        -------
        Tensor or ndarray of float64
            float64, shape ``(len(sigmas), *x.shape)``, starting with x; a tensor on x's device if x is a tensor,
            otherwise an array.

        Raises
        ------
        ValueError
            If x has another shape, a sigma is not one of the process, or a path rises from sigma 0 although the data
            fills no volume (the state at 0 does not determine the path).

        Notes
        -----
        A `Gaussian` has a closed form. Otherwise DOP853 (Hairer, Norsett and Wanner 1993) is used with a relative
        tolerance of 1e-13.
        """
        levels = [level_of(self.process, float(sigma)) for sigma in np.ravel(np.asarray(sigmas, dtype=np.float64))]
        if not levels:
            raise ValueError("sigmas must start with the sigma of x; got an empty list")
        host = x.detach().cpu().double() if isinstance(x, torch.Tensor) else torch.from_numpy(np.array(x, np.float64))
        result = _visited(self._path, host, flattened(host, self.dimension), levels)
        return result.to(x.device) if isinstance(x, torch.Tensor) else result.numpy()

    @cached_property
    def _floor(self) -> float:
        """The s below which paths are straight, because noise no longer blurs any detail; 0 if it always does."""
        return 0.0 if self._spread[0].min() > 0 else 1e-8

    def _settled(self, at: Place) -> torch.Tensor:
        """Items whose path is straight from here down to s = 0, shape (batch,)."""
        return (at.s[:, 0] <= self._floor).expand(len(at.y))

    def _path(self, y: torch.Tensor, s: float, target: float) -> torch.Tensor:
        """States at ``target`` on the paths that pass through y at s."""
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
        """`_arrays` as tensors with the device and dtype of ``like``, uploaded once for each."""
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
        """Log of weight times density, and the pull of y to each component.

        The first has shape (batch, components) and leaves out the factor ``(2 pi) ** (-dimension / 2)``. The second has
        shape (batch, components, dimension): ``(a^2 C + s^2)^-1 (y - a m)`` along the component's axes.
        """
        log_weights, _, variances, centres, *_ = self._parameters(at.y)
        a, s = at.a[..., None], at.divisors()[1][..., None]
        total = a * a * variances + s * s
        apart = self._along(at.y) - a * centres
        pull = apart / total
        return log_weights - (total.log().sum(-1) + (apart * pull).sum(-1)) / 2, pull

    def _denoised(self, at: Place) -> torch.Tensor:
        """Posterior mean, shape (batch, dimension).

        Where the signal is larger it is ``(y + s^2 score) / a``, so that sigma 0 returns x bit for bit. Where the noise
        is larger it is the mean of ``m + a C (a^2 C + s^2)^-1 (y - a m)``, so that alpha may be 0.
        """
        _, means, variances, *_ = self._parameters(at.y)
        joint, pull = self._joint(at)
        share, clear, (a, s) = joint.softmax(1), at.a > at.s, at.divisors()
        base = torch.where(clear, at.y / a, share @ means)
        gain = torch.where(clear[..., None], (-s * s / a)[..., None], at.a[..., None] * variances)
        return base + self._together(share[..., None] * gain * pull)

    def _slope(self, at: Place) -> torch.Tensor:
        """dy/ds, shape (batch, dimension): ``(y - D) / s`` with D as above, simplified to avoid 0 / 0 at s = 0."""
        _, means, variances, *_ = self._parameters(at.y)
        joint, pull = self._joint(at)
        share, clear, (a, s) = joint.softmax(1), at.a > at.s, at.divisors()
        base = torch.where(clear, -at.y / a, (at.y - share @ means) / s)
        gain = torch.where(clear[..., None], (s / a)[..., None], (-at.a / s)[..., None] * variances)
        return base + self._together(share[..., None] * gain * pull)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(<{len(self.weights)} parts, dimension {self.dimension}>, {self.process!r})"


class Gaussian(GaussianMixture):
    """One Gaussian as an exact denoiser, ``denoiser(x, sigma) -> E[x0 | x]``; its ODE has a closed form.

    Parameters
    ----------
    mean : array_like
        Shape (dimension,); a number has dimension 1.
    covariance : array_like
        One variance, the variances of the coordinates (dimension,), or a matrix (dimension, dimension).
    process : Process or None
        Process of the states; None is `default_process`, states ``x0 + sigma * eps``.

    Raises
    ------
    ValueError
        If shapes do not fit, the covariance is not symmetric positive semi-definite, or a number is not finite.
    """

    def __init__(self, mean: ArrayLike, covariance: ArrayLike, process: Process | None = None) -> None:
        c = np.asarray(covariance, dtype=np.float64)
        super().__init__([1.0], np.ravel(np.asarray(mean, np.float64))[None], c[None] if c.ndim else c, process)

    def _posterior(self, w: Array, m: Array, c: Array) -> Gaussian:
        return Gaussian(m[0], c[0], self.process)

    def _path(self, y: torch.Tensor, s: float, target: float) -> torch.Tensor:
        """States on the exact path, along which every axis keeps its z-score."""
        _, means, variances, centres, *_ = self._parameters(y)
        if s == 0 < target and self._floor > 0:
            return super()._path(y, s, target)  # raises the error
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
    """A tensor as an array; anything else unchanged."""
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
        raise ValueError(f"covariances must be variances or matrices that fit means of shape {m.shape}; got {c.shape}")
    return w / w.sum(), m, c


def _principal(c: Array) -> tuple[Array, Array | None]:
    """Variances along the principal axes of covariances, and the axes; axes are None if variances were given."""
    if c.ndim == 2:
        variances, axes, rounding = c, None, np.zeros(())
    else:
        if np.abs(c - c.swapaxes(1, 2)).max() > 1e-6 * np.abs(c).max():
            raise ValueError("covariances must be symmetric; got a matrix that differs from its transpose")
        variances, axes = np.linalg.eigh(c)
        # eigh returns the zeros of a singular matrix with rounding errors of either sign.
        rounding = 1e-14 * variances.max(axis=1, keepdims=True)
    if variances.min() < -1e-6 * np.abs(variances).max():
        raise ValueError(f"covariances must have no negative eigenvalue or variance; got {variances.min():.6g}")
    return np.where(variances > rounding, variances, 0.0), axes


def finite_array(name: str, values: ArrayLike) -> Array:
    """A new float64 array; raises ValueError unless all of it is finite."""
    array = np.array(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite; got {array[~np.isfinite(array)].flat[0]}")
    return array
