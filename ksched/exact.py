"""Denoisers with closed-form truth, for measuring samplers: Gaussians, their mixtures, and finitely many points.

For such data the posterior mean ``E[x0 | x]`` that a network only approximates is a formula, and the probability-flow
ODE can be followed to 1e-10, so what a sampler gets wrong is its own error and nothing else. All formulas live in flow
coordinates ``y = x / (alpha + std)``, ``s = std / (alpha + std)``, ``a = 1 - s``: there ``y = a * x0 + s * eps``,
``dy/ds = (y - E[x0 | y]) / s``, and every process is the same one on s in [0, 1].
"""

from __future__ import annotations

import io
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from scipy.integrate import DOP853

from ksched.processes import Process, default_process
from ksched.types import Array, ArrayLike

__all__ = ["Empirical", "Gaussian", "GaussianMixture", "digits"]

State = TypeVar("State", torch.Tensor, Array)

# Stands in for a zero s or a, per working dtype: its square is a normal number, and 1 / its square times any
# reasonable squared distance does not overflow.
_TINY = {torch.float32: 1e-15, torch.float64: 1e-140}
_LOG_2PI = math.log(2 * math.pi)


class _Place(NamedTuple):
    """Where a batch stands: states in flow coordinates and their levels."""

    y: torch.Tensor  # (batch, dimension)
    a: torch.Tensor  # (batch, 1) or (1, 1), as are the next two
    s: torch.Tensor
    scale: torch.Tensor  # x = scale * y


class _Exact(ABC):
    """What the three distributions share: the call, the density, the path of the ODE."""

    process: Process

    @property
    @abstractmethod
    def mean(self) -> Array:
        """Mean of the distribution, shape (dimension,)."""

    @property
    @abstractmethod
    def covariance(self) -> Array:
        """Covariance of the distribution, shape (dimension, dimension)."""

    @abstractmethod
    def sample(self, n: int, seed: int) -> Array:
        """``n`` independent draws of x0, shape (n, dimension), from a generator seeded with ``seed``."""

    @abstractmethod
    def _joint(self, at: _Place) -> tuple[torch.Tensor, torch.Tensor]:
        """Log of weight times density of y for every part (batch, parts), but for ``-dimension / 2 * log(2 pi)``, and
        what `_denoised` needs besides."""

    @abstractmethod
    def _denoised(self, at: _Place) -> torch.Tensor:
        """Posterior mean, shape (batch, dimension)."""

    @abstractmethod
    def _slope(self, at: _Place) -> torch.Tensor:
        """dy/ds, shape (batch, dimension)."""

    @property
    def dimension(self) -> int:
        """Number of values of one item."""
        return len(self.mean)

    def __call__(self, x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        """Posterior mean ``E[x0 | x]`` of a state at a noise level.

        Parameters
        ----------
        x : states, shape (batch, *shape) with prod(shape) = `dimension`
        sigma : contract sigma; a float, or a tensor of shape (batch,): every item may stand at its own

        Returns
        -------
        tensor like x; computed in float64 if x is float64, else in float32

        Raises
        ------
        ValueError : x or sigma of another shape, or a float sigma that is no level of the process
        """
        return self._denoised(self._place(x, sigma)).reshape(x.shape).to(x.dtype)

    def log_density(self, x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        """Log of the density of states at a noise level (finitely many points: sigma > 0), shape (batch,), in nats.

        Parameters and errors are those of the call.
        """
        at = self._place(x, sigma)
        constant = self.dimension * (at.scale.log()[:, 0] + _LOG_2PI / 2)
        return self._joint(at)[0].logsumexp(1) - constant

    def responsibilities(self, x: torch.Tensor, sigma: float | torch.Tensor) -> torch.Tensor:
        """Posterior probability of every component or point, shape (batch, parts); parameters as for the call."""
        return self._joint(self._place(x, sigma))[0].softmax(1)

    def solve(self, x: State, sigmas: ArrayLike) -> State:
        """States of the exact probability-flow ODE at every one of ``sigmas``, to about 1e-10.

        Parameters
        ----------
        x : states at ``sigmas[0]``, shape (batch, *shape) with prod(shape) = `dimension`; tensor or array
        sigmas : contract sigmas in the order they are visited, falling or rising; may end at 0

        Returns
        -------
        float64, shape (len(sigmas), *x.shape), the first being x itself; a tensor on x's device for a tensor, else array

        Raises
        ------
        ValueError : x of another shape, sigmas that are no levels of the process, or a path that rises from sigma 0
            although the data fills no volume (the state there does not say which path it came down)

        Notes
        -----
        Closed form for a Gaussian; else DOP853 (Hairer, Norsett & Wanner 1993) with a relative tolerance of 1e-13.
        """
        levels = [self._level(float(sigma)) for sigma in np.ravel(np.asarray(sigmas, dtype=np.float64))]
        if not levels:
            raise ValueError("sigmas must hold the level that x stands at; got none")
        host = x.detach().cpu() if isinstance(x, torch.Tensor) else torch.from_numpy(np.array(x, dtype=np.float64))
        host = host.double()
        y = self._flat(host) / levels[0].scale
        states = [host]
        with torch.no_grad():
            for left, reached in zip(levels, levels[1:], strict=False):
                if left.s == 0 < reached.s and self._floor > 0:
                    raise ValueError("a path can rise from sigma 0 only if the data fills a volume; start above 0")
                y = self._path(y, left.s, reached.s)
                states.append((reached.scale * y).reshape(host.shape))
        result = torch.stack(states)
        return result.to(x.device) if isinstance(x, torch.Tensor) else result.numpy()

    #: s below which paths are straight lines to x0, because the noise hides nothing of the data; 0 if it always does
    _floor: float = 1e-8

    def _settled(self, at: _Place) -> torch.Tensor:
        """Which items follow straight lines from here down to s = 0; shape (batch,)."""
        return torch.full(at.y.shape[:1], float(at.s) <= self._floor)

    def _path(self, y: torch.Tensor, s: float, target: float) -> torch.Tensor:
        """The state at ``target`` on the path through y at s."""
        while s != target:
            at, falling = _here(y, s), target < s
            settled = self._settled(at) if falling else torch.zeros(len(y), dtype=torch.bool)
            # Halving gives items a chance to settle: below that, (y - D) / s is all rounding.
            stop = max(target, s / 2) if falling and self._floor > 0 and not settled.all() else target
            following, live = torch.empty_like(y), ~settled
            if live.any():
                following[live] = self._integrate(y[live], s, stop)
            if settled.any():
                denoised = self._denoised(at)[settled]
                following[settled] = denoised + stop / s * (y[settled] - denoised)
            y, s = following, stop
        return y

    def _integrate(self, y: torch.Tensor, s: float, target: float) -> torch.Tensor:
        """The same by DOP853, all items as one system."""

        def slope(s: float, y: Array) -> Array:
            return self._slope(_here(torch.from_numpy(y).reshape(shape), s)).reshape(-1).numpy()

        shape = y.shape
        solver = DOP853(slope, s, y.reshape(-1).numpy(), target, rtol=1e-13, atol=1e-14)
        while solver.status == "running":
            failure = solver.step()
            if failure:
                raise ArithmeticError(f"the ODE could not be followed below s = {solver.t}: {failure}")
        return torch.from_numpy(solver.y).reshape(shape)

    def _level(self, sigma: float) -> _Level:
        alpha, std = self.process.alpha(sigma), self.process.noise_std(sigma)
        if not (sigma >= 0 and alpha >= 0 and std >= 0 and alpha + std < math.inf):
            raise ValueError(f"sigma must be a noise level of {self.process!r}; got {sigma}")
        return _Level(alpha / (alpha + std), std / (alpha + std), alpha + std)

    def _flat(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim < 2 or math.prod(x.shape[1:]) != self.dimension or not x.is_floating_point():
            raise ValueError(
                f"x must be floating point, of shape (batch, *shape) with prod(shape) = {self.dimension}; "
                f"got {x.dtype} of shape {tuple(x.shape)}"
            )
        return x.reshape(len(x), -1)

    def _place(self, x: torch.Tensor, sigma: float | torch.Tensor) -> _Place:
        flat = self._flat(x)
        flat = flat if flat.dtype == torch.float64 else flat.float()
        if isinstance(sigma, torch.Tensor):
            if sigma.numel() not in (1, len(x)):
                raise ValueError(f"sigma must be one number or one per item, {len(x)}; got shape {tuple(sigma.shape)}")
            sigma = sigma.to(flat).reshape(-1, 1)
            alpha, std = self.process.alpha(sigma), self.process.noise_std(sigma)
            scale = alpha + std
            a, s = alpha / scale, std / scale
        else:
            a, s, scale = (flat.new_full((1, 1), value) for value in self._level(float(sigma)))
        return _Place(flat / scale, a, s, scale)

    @cached_property
    def _tensors(self) -> dict[Any, tuple[torch.Tensor, ...]]:
        return {}

    def _like(self, y: torch.Tensor, *arrays: Array) -> tuple[torch.Tensor, ...]:
        """The parameters as tensors beside y, uploaded once per device and dtype."""
        key = y.device, y.dtype
        if key not in self._tensors:
            kind = np.float64 if y.dtype == torch.float64 else np.float32
            self._tensors[key] = tuple(torch.from_numpy(a.astype(kind)).to(y.device) for a in arrays)
        return self._tensors[key]


class _Level(NamedTuple):
    a: float
    s: float
    scale: float


def _here(y: torch.Tensor, s: float) -> _Place:
    """Float64 states on the host at one s."""
    return _Place(y, y.new_full((1, 1), 1 - s), y.new_full((1, 1), s), y.new_ones((1, 1)))


def _safe(at: _Place) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """y, a and s, the latter two kept off 0 so that they may divide."""
    tiny = _TINY[at.y.dtype]
    return at.y, at.a.clamp_min(tiny), at.s.clamp_min(tiny)


@dataclass(frozen=True, eq=False, repr=False, init=False)
class GaussianMixture(_Exact):
    """A mixture of Gaussians as a denoiser, ``denoiser(x, sigma) -> E[x0 | x]``.

    Parameters
    ----------
    weights : share of every component, shape (components,), positive, sum 1
    means : shape (components, dimension)
    covariances : full matrices (components, dimension, dimension), variances of the coordinates (components, dimension),
        one variance per component (components,), or one for all
    process : what states at a sigma look like; None is `default_process`, states ``x0 + sigma * eps``
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
    labels: tuple[int, ...] = ()

    def __init__(
        self,
        weights: ArrayLike,
        means: ArrayLike,
        covariances: ArrayLike,
        process: Process | None = None,
        *,
        labels: Sequence[int] = (),
    ) -> None:
        w, m, c = (_finite(*pair) for pair in (("weights", weights), ("means", means), ("covariances", covariances)))
        if w.ndim != 1 or not len(w) or not (w > 0).all() or abs(w.sum() - 1) > 1e-6:
            raise ValueError(f"weights must be one list of positive numbers with sum 1; got {w}")
        if m.ndim != 2 or len(m) != len(w) or not m.size:
            raise ValueError(f"means must have shape (components, dimension), {len(w)} components; got {m.shape}")
        if c.ndim < 2 and c.size in (1, len(w)):
            c = np.broadcast_to(c.reshape(-1, 1), m.shape).copy()
        if c.shape not in (m.shape, (*m.shape, m.shape[1])):
            raise ValueError(
                f"covariances must be variances or matrices for {len(w)} components of dimension {m.shape[1]}; "
                f"got shape {c.shape}"
            )
        if len(labels) not in (0, len(w)):
            raise ValueError(f"labels must name all {len(w)} components or none; got {len(labels)}")
        vars(self).update(weights=w / w.sum(), means=m, covariances=c, labels=tuple(labels))
        vars(self).update(process=process or default_process())
        for array in (w, m, c):
            array.setflags(write=False)
        _ = self._eigen  # refuses a wrong covariance now

    @cached_property
    def _eigen(self) -> tuple[Array, Array | None]:
        """Variances (components, dimension) along orthonormal axes (components, dimension, axis); None = coordinates."""
        c = self.covariances
        axes, variances = None, c
        if c.ndim == 3:
            if np.abs(c - c.swapaxes(1, 2)).max() > 1e-6 * np.abs(c).max():
                raise ValueError("covariances must be symmetric; got a matrix that differs from its transpose")
            variances, axes = np.linalg.eigh(c)
        floor = -1e-6 * np.abs(variances).max()
        if variances.min() < floor:
            raise ValueError(f"covariances must have no negative eigenvalue or variance; got {variances.min():.6g}")
        # A singular matrix comes back from eigh with eigenvalues of rounding size, of either sign: they mean 0.
        rounding = 1e-14 * variances.max(axis=1, keepdims=True) if axes is not None else 0.0
        return np.where(variances > rounding, variances, 0.0), axes

    @property
    def _floor(self) -> float:  # type: ignore[override]
        return 0.0 if self._eigen[0].min() > 0 else 1e-8

    @property
    def mean(self) -> Array:
        """Mean of the distribution, shape (dimension,)."""
        return self.weights @ self.means

    @property
    def covariance(self) -> Array:
        """Covariance of the distribution, shape (dimension, dimension)."""
        full = self.covariances if self.covariances.ndim == 3 else self.covariances[:, None] * np.eye(self.dimension)
        apart = self.means - self.mean
        return np.einsum("k,kij->ij", self.weights, full) + (self.weights * apart.T) @ apart

    def sample(self, n: int, seed: int) -> Array:
        """``n`` independent draws of x0, shape (n, dimension), from a generator seeded with ``seed``."""
        rng = np.random.default_rng(seed)
        part = rng.choice(len(self.weights), size=n, p=self.weights)
        variances, axes = self._eigen
        x0 = rng.standard_normal((n, self.dimension)) * np.sqrt(variances[part])
        for k in range(len(self.weights)) if axes is not None else ():
            x0[part == k] = x0[part == k] @ axes[k].T
        return self.means[part] + x0

    def only(self, label: int) -> GaussianMixture:
        """The components that carry ``label``, as a mixture of their own: the conditional distribution."""
        keep = np.array([mine == label for mine in self.labels], dtype=bool)
        if not keep.any():
            raise ValueError(f"label must be one of {sorted(set(self.labels))}; got {label}")
        weights = self.weights[keep] / self.weights[keep].sum()
        labels = (label,) * len(weights)
        return GaussianMixture(weights, self.means[keep], self.covariances[keep], self.process, labels=labels)

    def _parameters(self, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if (y.device, y.dtype) in self._tensors:
            return self._tensors[y.device, y.dtype]
        variances, axes = self._eigen
        if axes is None:
            return self._like(y, np.log(self.weights), self.means, variances, self.means)
        centres = np.einsum("kij,ki->kj", axes, self.means)
        # All axes side by side: one matrix product serves every component.
        basis = axes.transpose(1, 0, 2).reshape(self.dimension, -1)
        return self._like(y, np.log(self.weights), self.means, variances, centres, basis)

    def _joint(self, at: _Place) -> tuple[torch.Tensor, torch.Tensor]:
        log_weights, means, variances, centres, *basis = self._parameters(at.y)
        a, s = at.a[..., None], at.s[..., None].clamp_min(_TINY[at.y.dtype])
        along = (at.y @ basis[0]).view(-1, *means.shape) if basis else at.y[:, None]
        along = along - a * centres
        total = a * a * variances + s * s
        pull = along / total  # (a^2 C + s^2)^-1 (y - a m) along the axes
        return log_weights - (total.log().sum(-1) + (along * pull).sum(-1)) / 2, pull

    def _together(self, parts: torch.Tensor) -> torch.Tensor:
        """Sum of the components' vectors, turned from their axes to coordinates."""
        basis = self._parameters(parts)[4:]
        return parts.flatten(1) @ basis[0].T if basis else parts.sum(1)

    def _denoised(self, at: _Place) -> torch.Tensor:
        means, variances = self._parameters(at.y)[1:3]
        joint, pull = self._joint(at)
        share, (y, a, s) = joint.softmax(1), _safe(at)
        # (y + s^2 score) / a where the signal is the larger, so that sigma 0 returns x bit for bit;
        # the sum of m + a C (...) where the noise is, so that alpha may be 0.
        base = torch.where(at.a > at.s, y / a, share @ means)
        gain = torch.where((at.a > at.s)[..., None], (-s * s / a)[..., None], at.a[..., None] * variances)
        return base + self._together(share[..., None] * gain * pull)

    def _slope(self, at: _Place) -> torch.Tensor:
        # (y - D) / s with D as above, divided out by hand: no 0 / 0 at s = 0.
        means, variances = self._parameters(at.y)[1:3]
        joint, pull = self._joint(at)
        share, (y, a, s) = joint.softmax(1), _safe(at)
        base = torch.where(at.a > at.s, -y / a, (y - share @ means) / s)
        gain = torch.where((at.a > at.s)[..., None], (s / a)[..., None], (-at.a / s)[..., None] * variances)
        return base + self._together(share[..., None] * gain * pull)

    def __repr__(self) -> str:
        parts = f"<{len(self.weights)} components, dimension {self.dimension}>"
        return f"{type(self).__name__}({parts}, {self.process!r})"


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Gaussian(GaussianMixture):
    """One Gaussian as a denoiser, ``denoiser(x, sigma) -> E[x0 | x]``: the mixture of one, whose ODE has a closed form.

    Parameters
    ----------
    mean : shape (dimension,); a number is dimension 1
    covariance : one variance, the variances of the coordinates (dimension,), or a matrix (dimension, dimension)
    process : what states at a sigma look like; None is `default_process`, states ``x0 + sigma * eps``

    Raises
    ------
    ValueError : shapes that do not fit, a covariance that is not symmetric positive semi-definite, a number that is not
        finite
    """

    def __init__(self, mean: ArrayLike, covariance: ArrayLike, process: Process | None = None) -> None:
        means, c = np.ravel(np.asarray(mean, dtype=np.float64)), np.asarray(covariance, dtype=np.float64)
        super().__init__([1.0], means[None], c[None] if c.ndim else c, process)

    @property
    def covariance(self) -> Array:
        """Covariance, shape (dimension, dimension)."""
        c = self.covariances[0]
        return c if c.ndim == 2 else np.diag(c)

    def _path(self, y: torch.Tensor, s: float, target: float) -> torch.Tensor:
        """Every axis keeps its z-score."""
        _, means, variances, centres, *basis = self._parameters(y)
        along = (y @ basis[0] if basis else y) - (1 - s) * centres
        then = (1 - target) ** 2 * variances + target**2
        along = along * (then / ((1 - s) ** 2 * variances + s**2)).sqrt()
        return (1 - target) * means + self._together(along[:, None])


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Empirical(_Exact):
    """Finitely many points, all equally likely, as a denoiser: the average of the data weighted by nearness.

    Parameters
    ----------
    data : shape (points, *shape); a plain list of numbers is dimension 1
    process : what states at a sigma look like; None is `default_process`, states ``x0 + sigma * eps``

    Raises
    ------
    ValueError : no points, or a number that is not finite

    Notes
    -----
    At sigma 0 the result is the nearest point (the mean of those equally near).
    """

    data: Array
    process: Process

    def __init__(self, data: ArrayLike, process: Process | None = None) -> None:
        points = _finite("data", data)
        if not points.ndim or not points.size:
            raise ValueError(f"data must have shape (points, *shape) and hold a point; got shape {points.shape}")
        points = points.reshape(len(points), -1)
        points.setflags(write=False)
        vars(self).update(data=points, process=process or default_process())

    @property
    def mean(self) -> Array:
        """Mean of the points, shape (dimension,)."""
        mean: Array = self.data.mean(0)
        return mean

    @property
    def dimension(self) -> int:
        """Number of values of one item."""
        return int(self.data.shape[1])

    @property
    def covariance(self) -> Array:
        """Covariance of the points (divisor: their number), shape (dimension, dimension)."""
        apart = self.data - self.mean
        return apart.T @ apart / len(apart)

    def sample(self, n: int, seed: int) -> Array:
        """``n`` points drawn with replacement, shape (n, dimension), by a generator seeded with ``seed``."""
        return self.data[np.random.default_rng(seed).integers(len(self.data), size=n)]

    def _joint(self, at: _Place) -> tuple[torch.Tensor, torch.Tensor]:
        (data,) = self._like(at.y, self.data)
        y, a, s = _safe(at)
        # Differences, not the expanded square: points closer to each other than to 0 stay apart in float32.
        distance = torch.cdist(y / a, data, compute_mode="donot_use_mm_for_euclid_dist")
        joint = -((distance * (a / s)) ** 2) / 2 - self.dimension * s.log() - math.log(len(data))
        return joint, data

    def _denoised(self, at: _Place) -> torch.Tensor:
        joint, data = self._joint(at)
        return joint.softmax(1) @ data

    def _slope(self, at: _Place) -> torch.Tensor:
        return (at.y - self._denoised(at)) / at.s

    def _settled(self, at: _Place) -> torch.Tensor:
        # The odds of the nearest point only grow on the way down, so once it has all of them it keeps them.
        joint, data = self._joint(at)
        apart = (joint.softmax(1) @ data - data[joint.argmax(1)]).abs().amax(1)
        return (apart <= 1e-14 * float(data.abs().max())) | super()._settled(at)

    def __repr__(self) -> str:
        return f"Empirical(<{len(self.data)} points, dimension {self.dimension}>, {self.process!r})"


def _finite(name: str, values: ArrayLike) -> Array:
    array = np.array(values, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite; got {array[~np.isfinite(array)].flat[0]}")
    return array


def digits(process: Process | None = None) -> GaussianMixture:
    """Handwritten digits, 8x8 pixels in [-1, 1] (ink is 1): a mixture fitted to real ones, labelled 0 to 9.

    Parameters
    ----------
    process : what states at a sigma look like; None is `default_process`, states ``x0 + sigma * eps``

    Notes
    -----
    Fitted by ``benchmarks/fit_digits.py`` to scikit-learn's ``load_digits`` (Alpaydin & Kaynak 1998, UCI repository).
    """
    packed = io.BytesIO((resources.files("ksched") / "data" / "digits.npz").read_bytes())
    with np.load(packed, allow_pickle=False) as file:
        parts = {name: file[name] for name in ("weights", "means", "factors", "labels")}
    factors = np.zeros((len(parts["means"]), 64, 64))
    rows, columns = np.tril_indices(64)
    factors[:, rows, columns] = parts["factors"]
    weights = parts["weights"].astype(np.float64)
    return GaussianMixture(
        weights / weights.sum(),
        parts["means"],
        factors @ factors.swapaxes(1, 2),
        process,
        labels=[int(label) for label in parts["labels"]],
    )
