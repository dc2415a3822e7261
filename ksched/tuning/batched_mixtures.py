"""Many mixtures of Gaussians at once, as exact denoisers that gradients go through."""

from __future__ import annotations

import numpy as np
import torch

from ksched.types import Array

__all__ = ["Mixtures"]


class Mixtures:
    """Mixtures of Gaussians of one shape as a denoiser of states (members, items, dimension) in flow coordinates.

    `ksched.exact.GaussianMixture` is one mixture; this is many at once, with or without guidance, which is several
    times as fast to fit to.

    Parameters
    ----------
    logs : log-weights (members, components)
    means : (members, components, dimension)
    variances : (members, components, dimension), or (members, components) where they are the same in all directions
    axes : of the variances (members, components, dimension, axis); None is the coordinates
    outside, scales : -1e9 for every component that an item is not guided to (members, items, components), and how far
        to go from the prediction of the whole to that of the component (members, 1, 1); None is 0
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
        """Posterior means, or what guidance makes of them."""
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
        """Log-density of states, but for a constant, without guidance: (members, items)."""
        return self._logits(y, s)[0].logsumexp(-1)

    def _logits(self, y: torch.Tensor, s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Log of weight times density, variances of y, and what pulls y to each component, along its axes.

        Shapes (members, items, components), as the variances, and (members, items, components, dimension); no pull
        where the variances are the same in all directions.
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
        """Weights of the components: posterior probabilities, which guidance moves apart."""
        share = logits.softmax(-1)
        if "scales" not in self.of:
            return share
        return share + self.of["scales"] * ((logits + self.of["outside"]).softmax(-1) - share)
