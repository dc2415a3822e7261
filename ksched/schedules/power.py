"""Schedules that are even in a power of sigma between two bounds; they need no process."""

from __future__ import annotations

import math

import numpy as np

from ksched.options import Exponent, check_steps
from ksched.types import Array

__all__ = ["calculate_exponential_sigmas", "calculate_karras_sigmas", "calculate_linear_sigmas"]


def check_bounds(sigma_min: float, sigma_max: float) -> tuple[float, float]:
    """The two bounds as floats, 0 < sigma_min < sigma_max < inf, or a ValueError that says so."""
    low, high = float(sigma_min), float(sigma_max)
    if not 0 < low < high < math.inf:
        raise ValueError(
            f"sigma_min must be > 0 and < sigma_max, both finite; got sigma_min={low}, sigma_max={high}. "
            "The final 0 is appended for you."
        )
    return low, high


def finish(levels: Array, sigma_min: float, sigma_max: float) -> Array:
    """Levels from exactly ``sigma_max`` to exactly ``sigma_min``, free of rounding, and a last 0."""
    levels[-1], levels[0] = sigma_min, sigma_max
    return np.append(levels, 0.0)


def calculate_karras_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: Exponent = 7.0) -> Array:
    """Noise levels evenly spaced in ``sigma ** (1 / rho)``.

    Parameters
    ----------
    steps : number of steps, >= 1
    sigma_min, sigma_max : noise std of the last non-zero and of the first level, 0 < sigma_min < sigma_max
    rho : 7 in the paper; 1 is linear in sigma, large values approach exponential

    Returns
    -------
    float64 array, shape (steps + 1,), strictly decreasing, last element 0

    Raises
    ------
    TypeError, ValueError : steps below 1 or not whole, bounds out of order or not finite, rho outside 0.01 to 1000

    Notes
    -----
    Karras et al. 2022, eq. 5, arXiv:2206.00364. One step runs from sigma_max to 0.
    """
    steps = check_steps(steps)
    low, high = check_bounds(sigma_min, sigma_max)
    if not 0.01 <= rho <= 1000:
        raise ValueError(f"rho must be at least 0.01 and at most 1000; got {rho}")
    # high * (...) ** rho, not high ** (1 / rho) first: no overflow for any rho in range
    ratio = (low / high) ** (1 / rho)
    return finish(high * np.linspace(1, ratio, steps) ** rho, low, high)


def calculate_exponential_sigmas(steps: int, sigma_min: float, sigma_max: float) -> Array:
    """Noise levels evenly spaced in log sigma.

    Parameters
    ----------
    steps : number of steps, >= 1
    sigma_min, sigma_max : noise std of the last non-zero and of the first level, 0 < sigma_min < sigma_max

    Returns
    -------
    float64 array, shape (steps + 1,), strictly decreasing, last element 0

    Raises
    ------
    TypeError, ValueError : steps below 1 or not whole, bounds out of order or not finite

    Notes
    -----
    k-diffusion's ``get_sigmas_exponential``; diffusers' ``use_exponential_sigmas`` and ``use_lu_lambdas``.
    """
    steps = check_steps(steps)
    low, high = check_bounds(sigma_min, sigma_max)
    return finish(np.exp(np.linspace(math.log(high), math.log(low), steps)), low, high)


def calculate_linear_sigmas(steps: int, sigma_min: float, sigma_max: float) -> Array:
    """Noise levels evenly spaced in sigma: `calculate_karras_sigmas` at ``rho = 1``.

    Parameters
    ----------
    steps : number of steps, >= 1
    sigma_min, sigma_max : noise std of the last non-zero and of the first level, 0 < sigma_min < sigma_max

    Returns
    -------
    float64 array, shape (steps + 1,), strictly decreasing, last element 0

    Raises
    ------
    TypeError, ValueError : steps below 1 or not whole, bounds out of order or not finite

    Notes
    -----
    On a flow process the curve that reaches 0 by even steps, ``linspace(1, 0, steps + 1)``, is `simple` with shift 1.
    """
    return calculate_karras_sigmas(steps, sigma_min, sigma_max, rho=1.0)
