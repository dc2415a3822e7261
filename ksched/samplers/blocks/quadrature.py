"""Gauss-Legendre quadrature."""

from __future__ import annotations

from functools import cache

import numpy as np

from ksched.types import Array

__all__ = ["gauss_legendre"]


@cache
def gauss_legendre(count: int) -> tuple[Array, Array]:
    """Nodes in (-1, 1) and weights of the Gauss-Legendre rule."""
    places, weights = np.polynomial.legendre.leggauss(count)
    return places, weights
