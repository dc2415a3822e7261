"""The exact denoiser of a finite data set."""

from __future__ import annotations

import numpy as np
import torch

from ksched.exact.coordinates import Place
from ksched.exact.mixture import GaussianMixture, finite_array
from ksched.processes import Process
from ksched.types import ArrayLike

__all__ = ["Empirical"]


class Empirical(GaussianMixture):
    """Finitely many points, all equally likely, as a denoiser: the mean of the points weighted by nearness.

    Parameters
    ----------
    data : shape ``(points, *shape)``; a plain list of numbers is dimension 1
    process : what a state at sigma is; None is `default_process`, states ``x0 + sigma * eps``

    Raises
    ------
    ValueError : no points, or a number that is not finite

    Notes
    -----
    The mixture whose components have no width. At sigma 0 the result is the nearest point.
    """

    def __init__(self, data: ArrayLike, process: Process | None = None) -> None:
        points = finite_array("data", data)
        if not (points.ndim and points.size):
            raise ValueError(f"data must have shape (points, *shape) and hold a point; got shape {points.shape}")
        n = len(points)
        super().__init__(np.full(n, 1 / n), points.reshape(n, -1), 0.0, process)

    def _joint(self, at: Place) -> tuple[torch.Tensor, torch.Tensor]:
        log_weights, points, *_ = self._parameters(at.y)
        a, s = at.divisors()
        # Differences, not expanded squares: points that are close to each other stay apart in float32.
        distance = torch.cdist(at.y / a, points, compute_mode="donot_use_mm_for_euclid_dist")
        return log_weights - (distance * (a / s)) ** 2 / 2 - self.dimension * s.log(), points

    def _denoised(self, at: Place) -> torch.Tensor:
        joint, points = self._joint(at)
        return joint.softmax(1) @ points

    def _slope(self, at: Place) -> torch.Tensor:
        return (at.y - self._denoised(at)) / at.s

    def _settled(self, at: Place) -> torch.Tensor:
        # Once the nearest point has all the weight it keeps it: on the way down its odds only grow.
        joint, points = self._joint(at)
        apart = (joint.softmax(1) @ points - points[joint.argmax(1)]).abs().amax(1)
        return (apart <= 1e-14 * points.abs().max()) | super()._settled(at)
