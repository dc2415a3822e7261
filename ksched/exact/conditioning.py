"""Gaussian mixtures given a noisy linear observation of a draw: the posterior is a mixture again."""

from __future__ import annotations

import numpy as np

from ksched.types import Array

__all__ = ["posterior"]


def posterior(
    weights: Array, means: Array, covariances: Array, matrix: Array, y: Array, std: float
) -> tuple[Array, Array, Array]:
    """Weights, means and covariances given ``y = matrix @ x0 + std * noise``.

    Parameters
    ----------
    weights, means, covariances : of the prior, shapes as in `GaussianMixture`
    matrix : shape (observations, dimension)
    y : shape (observations,)
    std : of the noise, at least 0

    Returns
    -------
    float64; weights may be 0 by underflow. Covariances are matrices, or variances where all of them were 0

    Raises
    ------
    ValueError : shapes that do not fit, a negative std, an observation that a component forbids or leaves no density
    """
    if matrix.ndim != 2 or matrix.shape[1] != means.shape[1] or y.shape != matrix.shape[:1]:
        raise ValueError(
            f"operator must have shape (observations, {means.shape[1]}) and y shape (observations,); got "
            f"{matrix.shape} and {y.shape}"
        )
    if not 0 <= std < np.inf:
        raise ValueError(f"std must be a number of at least 0; got {std}")
    flat = covariances.ndim == 2
    seen = matrix * covariances[:, None] if flat else matrix @ covariances  # A C, (components, observations, dimension)
    total = seen @ matrix.T + std**2 * np.eye(len(y))
    apart = y - means @ matrix.T
    try:
        root = np.linalg.cholesky(total)
    except np.linalg.LinAlgError:
        raise ValueError(
            f"the observation must have a density under every component, and with std={std} it has none: give a std "
            "above 0, or an operator whose rows do not depend on each other"
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
