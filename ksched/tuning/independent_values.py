"""Data whose values are independent of each other, each with a distribution of its own: a surrogate for sparse data.

A mixture of Gaussians needs a component for every combination of modes, so it sees one Gaussian in data such as sparse
codes or wavelet coefficients. Here each value has a mixture of its own, in one dimension, and the number of modes of
the whole is their product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ksched.tuning.batched_mixtures import Mixtures
from ksched.types import Array

__all__ = ["IndependentValues"]

_COMPONENTS, _ROUNDS = 3, 40  # of each value's mixture, and of expectation maximisation
_LEAST = 1e-4  # smallest variance, relative to the mean variance of the values
_FEW = 0.02  # smallest share of a component


@dataclass(frozen=True, eq=False)
class IndependentValues:
    """A denoiser of states (1, items, dimension) in flow coordinates.

    Attributes
    ----------
    values : Mixtures
        A mixture in one dimension for each value: its members are the values.
    """

    values: Mixtures

    @classmethod
    def of(cls, samples: Array) -> IndependentValues:
        """Fitted to samples of shape (samples, dimension), by expectation maximisation for all values at once."""
        x = samples.T[:, :, None]  # (dimension, samples, component)
        centre, spread = x.mean(1, keepdims=True), np.maximum(x.std(1, keepdims=True), 1e-9)
        z = (x - centre) / spread
        means = np.zeros((len(x), _COMPONENTS))
        means[:, 1:] = np.quantile(z[:, :, 0], np.linspace(0.1, 0.9, _COMPONENTS - 1), axis=1).T
        variances = np.tile([0.05, *[1.0] * (_COMPONENTS - 1)], (len(x), 1))
        shares = np.full((len(x), _COMPONENTS), 1 / _COMPONENTS)
        for _ in range(_ROUNDS):
            apart = (z - means[:, None]) ** 2
            logs = np.log(shares)[:, None] - np.log(variances)[:, None] / 2 - apart / variances[:, None] / 2
            parts = np.exp(logs - logs.max(2, keepdims=True))
            parts /= parts.sum(2, keepdims=True)
            weight = parts.sum(1) + 1e-9
            means = (parts * z).sum(1) / weight
            variances = (parts * (z - means[:, None]) ** 2).sum(1) / weight
            variances = np.maximum(variances, 1e-3)
            shares = np.maximum(weight / weight.sum(1, keepdims=True), _FEW)
            shares /= shares.sum(1, keepdims=True)
        least = _LEAST * float((spread**2).mean())
        means = means * spread[:, :, 0] + centre[:, :, 0]
        variances = np.maximum(variances * spread[:, :, 0] ** 2, least)
        return cls(Mixtures(np.log(shares), means[..., None], variances[..., None], None, None, None))

    def __call__(self, y: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """Posterior means."""
        return self.values(y[0].T[..., None], s)[..., 0].T[None]

    def log_density(self, y: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """Log-density of states up to a constant, as for `Mixtures`."""
        return self.values.log_density(y[0].T[..., None], s).sum(0)[None]

    def to(self, dtype: torch.dtype) -> IndependentValues:
        """The same denoiser in another dtype."""
        return IndependentValues(self.values.to(dtype))
