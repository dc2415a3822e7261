"""The exact posterior of a Gaussian mixture given a noisy linear observation, which is a mixture again."""

from __future__ import annotations

import numpy as np

from ksched.types import Array

__all__ = ["posterior"]


def posterior(
    weights: Array, means: Array, covariances: Array, matrix: Array, y: Array, std: float
) -> tuple[Array, Array, Array]:
    """Weights, means and covariances of the posterior given ``y = matrix @ x0 + std * noise``.

    Parameters
    ----------
    weights, means, covariances : ndarray of float64
        Parts of the prior, with shapes as in `GaussianMixture`.
    matrix : ndarray of float64
        Shape (observations, dimension).
    y : ndarray of float64
        Shape (observations,).
    std : float
        Standard deviation of the noise, at least 0.

    Returns
    -------
    tuple of ndarray of float64
        float64 arrays. Weights may be 0 by underflow. Covariances are matrices, or variances if all of them were 0.

    Raises
    ------
    ValueError
        If shapes do not fit, std is negative, or the observation is impossible or has no density under a component.
    """
    if matrix.ndim != 2 or matrix.shape[1] != means.shape[1] or y.shape != matrix.shape[:1]:
        raise ValueError(
            f"operator must have shape (observations, {means.shape[1]}) and y shape (observations,); got "
            f"{matrix.shape} and {y.shape}"
        )
    if not 0 <= std < np.inf:
        raise ValueError(f"std must be at least 0 and finite; got {std}")
    flat = covariances.ndim == 2
    seen = matrix * covariances[:, None] if flat else matrix @ covariances  # A C, (components, observations, dimension)
    total = seen @ matrix.T + std**2 * np.eye(len(y))
    apart = y - means @ matrix.T
    try:
        root = np.linalg.cholesky(total)
    except np.linalg.LinAlgError:
        raise ValueError(
            f"the observation must have a density under every component, but with std={std} it has none; pass a std "
            "above 0, or an operator with linearly independent rows"
        ) from None
    white = np.linalg.solve(root, apart[..., None])[..., 0]
    reached = np.linalg.solve(root, seen)
    log = np.log(weights) - np.log(np.diagonal(root, axis1=1, axis2=2)).sum(1) - (white**2).sum(1) / 2
    shares = np.exp(log - log.max())
    moved = means + np.einsum("kij,ki->kj", reached, white)
    if flat and not covariances.any():
        return shares / shares.sum(), moved, covariances
    whole = np.apply_along_axis(np.diag, 1, covariances) if flat else covariances
    left = whole - reached.swapaxes(1, 2) @ reached
    return shares / shares.sum(), moved, (left + left.swapaxes(1, 2)) / 2
