"""Weights of sums: phi functions, moments, Lagrange interpolation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np

from ksched.plan.protocol import Vector

__all__ = ["V", "combine", "lagrange_weights", "moments", "phi"]


V = TypeVar("V", bound=Vector)


def combine(weights: Iterable[float], values: Iterable[V]) -> V:
    """Sum of ``weight * value``, leaving out terms of weight 0."""
    terms = [weight * value for weight, value in zip(weights, values, strict=True) if weight != 0]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


# --------------------------------------------------------------------------------------------- methods in log-SNR
def phi(k: int, z: float) -> float:
    """phi_k(z) of exponential integrators: phi_0 = exp, phi_k = (phi_{k-1} - 1 / (k-1)!) / z; phi_k(0) = 1 / k!."""
    if abs(z) < 1:  # here the recursion cancels and the series does not
        term = total = 1 / math.factorial(k)
        for n in range(1, 20):
            term *= z / (n + k)
            total += term
        return total
    return math.exp(z) if k == 0 else (phi(k - 1, z) - 1 / math.factorial(k - 1)) / z


def moments(z: float, count: int) -> list[float]:
    """Integrals of ``exp(z * (1 - u)) * u ** k`` over u from 0 to 1, for k below ``count``."""
    return [math.factorial(k) * phi(k + 1, z) for k in range(count)]


def lagrange_weights(nodes: Sequence[float], integrals: Sequence[float]) -> list[float]:
    """Weights of values at nodes in the integral of the polynomial through them; the first node is 0.

    Parameters
    ----------
    nodes : sequence of float
        All different.
    integrals : sequence of float
        Integrals of the powers 0, 1, ... of the variable, with any weight function; one for each node.
    """
    others = np.array(nodes[1:])
    if not len(others):
        return [integrals[0]]
    powers = others ** np.arange(1, len(nodes))[:, None]
    scale = np.abs(powers).max(axis=1)  # rows scaled to one size, because nodes may lie far apart
    weights = np.linalg.solve(powers / scale[:, None], np.array(integrals[1:]) / scale).tolist()
    return [integrals[0] - sum(weights), *weights]
