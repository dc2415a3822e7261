"""Many mixtures of Gaussians at once, as exact and differentiable denoisers."""

from __future__ import annotations

import numpy as np
import torch

from ksched.types import Array

__all__ = ["Mixtures"]


class Mixtures:
    """Mixtures of Gaussians of equal size, as one denoiser of states (members, items, dimension) in flow coordinates.

    `ksched.exact.GaussianMixture` is one mixture. This class batches many, with or without guidance, which makes
    fitting several times as fast.

    Parameters
    ----------
    logs : ndarray of float64
        Log-weights (members, components).
    means : ndarray of float64
        Means (members, components, dimension).
    variances : ndarray of float64
        Variances (members, components, dimension), or (members, components) if equal in all directions.
    axes : ndarray of float64 or None
        Axes of the variances (members, components, dimension, axis); None uses the coordinates.
    outside, scales : ndarray of float64 or None
        ``outside`` is -1e9 for every component that an item is not guided to (members, items, components); ``scales``
        says how far to go from the prediction of the whole mixture to that of the component (members, 1, 1). None is no
        guidance.
    """

    def __init__(
        self,
        logs: Array,
        means: Array,
        variances: Array,
        axes: Array | None,
        outside: Array | None,
        scales: Array | None,
    ) -> None:
        arrays: dict[str, Array | None] = {"logs": logs, "means": means, "variances": variances}
        arrays |= {"outside": outside, "scales": scales}
        if axes is not None:
            members, components, dimension, _ = axes.shape
            arrays["basis"] = axes.transpose(0, 2, 1, 3).reshape(members, dimension, components * dimension)
            arrays["centres"] = np.einsum("mkij,mki->mkj", axes, means)
        self.of = {name: torch.from_numpy(np.array(a, order="C")) for name, a in arrays.items() if a is not None}

    def to(self, dtype: torch.dtype) -> Mixtures:
        """The same in another dtype."""
        other = object.__new__(Mixtures)
        other.of = {name: tensor.to(dtype) for name, tensor in self.of.items()}
        return other

    def __call__(self, y: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """Posterior means, with guidance applied if there is any."""
        a, means, variances = 1 - s, self.of["means"], self.of["variances"]
        logits, total, pull = self._logits(y, s)
        share = self._share(logits)
        if pull is None:
            gain = (a * variances / total)[:, None]
            return (share * (1 - a * gain)) @ means + (share * gain).sum(-1, keepdim=True) * y
        parts = share[..., None] * pull * (a * variances)[:, None]
        inside = parts.flatten(2) @ self.of["basis"].mT if "basis" in self.of else parts.sum(2)
        return share @ means + inside

    def log_density(self, y: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        """Log-density of states up to a constant, without guidance: (members, items)."""
        return self._logits(y, s)[0].logsumexp(-1)

    def _logits(self, y: torch.Tensor, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Log of weight times density, variances of y, and the pull of y to each component along the component's axes.

        Shapes are (members, items, components), that of the variances, and (members, items, components, dimension). The
        pull is None if the variances are equal in all directions.
        """
        a, of = 1 - s, self.of
        means, variances = of["means"], of["variances"]
        total = a * a * variances + s * s
        if variances.ndim == 2:
            distance = y.square().sum(-1, keepdim=True) - 2 * a * y @ means.mT
            distance = distance + a * a * means.square().sum(-1)[:, None]
            log = of["logs"] - y.shape[-1] / 2 * total.log()
            return log[:, None] - distance / 2 / total[:, None], total, None
        along = (y @ of["basis"]).view(*y.shape[:2], *means.shape[1:]) if "basis" in of else y[:, :, None]
        apart = along - a * of.get("centres", means)[:, None]
        pull = apart / total[:, None]
        log = of["logs"] - total.log().sum(-1) / 2
        return log[:, None] - (apart * pull).sum(-1) / 2, total, pull

    def _share(self, logits: torch.Tensor) -> torch.Tensor:
        """Weights of the components: posterior probabilities, pushed apart by guidance."""
        share = logits.softmax(-1)
        if "scales" not in self.of:
            return share
        return share + self.of["scales"] * ((logits + self.of["outside"]).softmax(-1) - share)
