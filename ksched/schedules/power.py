"""Schedules between two bounds, evenly spaced in some function of sigma; they need no process.

Every function takes ``steps``, ``sigma_min`` and ``sigma_max``: the noise std of the last non-zero level and of the
first level, 0 < sigma_min < sigma_max. Anything else raises a TypeError or ValueError. It returns float64 of shape
(steps + 1,), strictly decreasing from exactly sigma_max to exactly sigma_min and then 0, unless an option says
otherwise. A single step runs from sigma_max to 0.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from ksched.options import Count, Exponent, Finite, NonNegative, Positive, check_steps
from ksched.types import Array

__all__ = [
    "calculate_exponential_sigmas",
    "calculate_karras_sigmas",
    "calculate_kl_optimal_sigmas",
    "calculate_laplace_sigmas",
    "calculate_linear_sigmas",
    "calculate_phi_sigmas",
    "calculate_piecewise_sigmas",
    "calculate_polyexponential_sigmas",
    "calculate_vp_sigmas",
]


def check_bounds(sigma_min: float, sigma_max: float) -> tuple[float, float]:
    """The two bounds as floats, or a ValueError unless 0 < sigma_min < sigma_max < inf."""
    low, high = float(sigma_min), float(sigma_max)
    if not 0 < low < high < math.inf:
        raise ValueError(
            f"sigma_min must be > 0 and < sigma_max, both finite; got sigma_min={low}, sigma_max={high}. "
            "The final 0 is appended for you."
        )
    return low, high


def finish(levels: Array, sigma_min: float, sigma_max: float) -> Array:
    """Levels with the ends set to exactly ``sigma_max`` and ``sigma_min``, and a final 0."""
    levels[-1], levels[0] = sigma_min, sigma_max
    return np.append(levels, 0.0)


def calculate_karras_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: Exponent = 7.0) -> Array:
    """Noise levels evenly spaced in ``sigma ** (1 / rho)``.

    Parameters
    ----------
    rho : float
        7 in the paper; 1 is linear in sigma, large values approach exponential.

    Notes
    -----
    Karras et al. 2022, eq. 5, arXiv:2206.00364.
    """
    steps = check_steps(steps)
    low, high = check_bounds(sigma_min, sigma_max)
    if not 0.01 <= rho <= 1000:
        raise ValueError(f"rho must be at least 0.01 and at most 1000; got {rho}")
    # high * (...) ** rho instead of high ** (1 / rho) first: it does not overflow for any rho in range
    ratio = (low / high) ** (1 / rho)
    return finish(high * np.linspace(1, ratio, steps) ** rho, low, high)


def calculate_exponential_sigmas(steps: int, sigma_min: float, sigma_max: float) -> Array:
    """Noise levels evenly spaced in log sigma.

    Notes
    -----
    k-diffusion's ``get_sigmas_exponential``; diffusers' ``use_exponential_sigmas`` and ``use_lu_lambdas``.
    """
    steps = check_steps(steps)
    low, high = check_bounds(sigma_min, sigma_max)
    return finish(np.exp(np.linspace(math.log(high), math.log(low), steps)), low, high)


def calculate_polyexponential_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: Exponent = 1.0) -> Array:
    """Noise levels whose log sigma falls as a power of the remaining share of steps.

    Parameters
    ----------
    rho : float
        1 is `exponential`; larger values spend more steps at low noise.

    Notes
    -----
    k-diffusion's ``get_sigmas_polyexponential``.
    """
    steps = check_steps(steps)
    low, high = check_bounds(sigma_min, sigma_max)
    share = np.linspace(1, 0, steps) ** rho
    return finish(np.exp(math.log(low) + math.log(high / low) * share), low, high)


def calculate_linear_sigmas(steps: int, sigma_min: float, sigma_max: float) -> Array:
    """Noise levels evenly spaced in sigma: `calculate_karras_sigmas` at ``rho = 1``.

    Notes
    -----
    On a flow process, the evenly spaced curve that reaches 0, ``linspace(1, 0, steps + 1)``, is `simple` with shift 1.
    """
    return calculate_karras_sigmas(steps, sigma_min, sigma_max, rho=1.0)


def calculate_kl_optimal_sigmas(
    steps: int, sigma_min: float, sigma_max: float, final: Literal["zero", "sigma_min"] = "zero"
) -> Array:
    """Noise levels evenly spaced in the angle ``atan(sigma)``.

    Parameters
    ----------
    final : str
        "sigma_min" ends at sigma_min after ``steps`` equal strides, without a 0 (A1111).

    Notes
    -----
    Sabour et al. 2024, arXiv:2404.14507, the optimal schedule for Gaussian data of unit variance.
    """
    steps = check_steps(steps)
    low, high = check_bounds(sigma_min, sigma_max)
    points = steps if final == "zero" else steps + 1
    levels = finish(np.tan(np.linspace(math.atan(high), math.atan(low), points)), low, high)
    return levels if final == "zero" else levels[:-1]


def calculate_vp_sigmas(
    steps: int,
    sigma_min: float,
    sigma_max: float,
    beta_d: Positive = 19.9,
    beta_min: Positive = 0.1,
    eps_s: Positive = 1e-3,
    own_range: bool = False,
) -> Array:
    """Noise levels evenly spaced in the time of the continuous VP process.

    Parameters
    ----------
    beta_d, beta_min : float
        Slope and start of that process's linear beta.
    eps_s, own_range : float and bool
        With ``own_range``, levels run from time 1 to ``eps_s`` (by default sigma 152 to 0.0105) and ignore sigma_min
        and sigma_max (k-diffusion).

    Notes
    -----
    Song et al. 2021, arXiv:2011.13456; ``sigma = sqrt(exp(beta_d t ** 2 / 2 + beta_min t) - 1)``.
    """
    steps = check_steps(steps)
    low, high = check_bounds(sigma_min, sigma_max)

    def time(sigma: float) -> float:
        exponent = math.log1p(sigma**2)
        return 2 * exponent / (beta_min + math.sqrt(beta_min**2 + 2 * beta_d * exponent))

    times = np.linspace(1, eps_s, steps) if own_range else np.linspace(time(high), time(low), steps)
    levels = np.sqrt(np.expm1(beta_d * times**2 / 2 + beta_min * times))
    return np.append(levels, 0.0) if own_range else finish(levels, low, high)


def calculate_laplace_sigmas(
    steps: int,
    sigma_min: float,
    sigma_max: float,
    mu: Finite = 0.0,
    beta: Positive = 0.5,
    ends: Literal["truncate", "clamp"] = "truncate",
) -> Array:
    """Noise levels at quantiles of a Laplace distribution of log sigma: dense around ``exp(mu)``.

    Parameters
    ----------
    mu, beta : float
        Centre and width of the distribution.
    ends : str
        "truncate" uses the part of the distribution inside the range; "clamp" uses all of it and repeats the ends of
        the range, with no final 0 and only ``steps`` levels (ComfyUI).

    Notes
    -----
    Hang et al. 2024, arXiv:2407.03297.
    """
    steps = check_steps(steps)
    low, high = check_bounds(sigma_min, sigma_max)
    u = np.linspace(0, 1, steps)
    if ends == "clamp":
        log_sigma = mu - beta * np.sign(0.5 - u) * np.log(1 - 2 * np.abs(0.5 - u) + 1e-5)
        return np.clip(np.exp(np.clip(log_sigma, math.log(low) - 1, math.log(high) + 1)), low, high)
    # Distances of the ends from the centre, in widths. Log probabilities give quantiles whose tails do not cancel.
    top, bottom = (math.log(high) - mu) / beta, (math.log(low) - mu) / beta
    above_top, above_bottom = (0.5 * math.exp(-z) if z > 0 else 1 - 0.5 * math.exp(z) for z in (top, bottom))
    below_top, below_bottom = (0.5 * math.exp(z) if z < 0 else 1 - 0.5 * math.exp(-z) for z in (top, bottom))
    above = above_top * (1 - u) + above_bottom * u  # probability of more noise than this level
    below = below_top * (1 - u) + below_bottom * u
    with np.errstate(divide="ignore"):
        z = np.where(above < 0.5, -np.log(2 * above), np.log(2 * below))
    return finish(np.exp(mu + beta * z), low, high)


def calculate_phi_sigmas(steps: int, sigma_min: float, sigma_max: float, power: Exponent = 2.0) -> Array:
    """Noise levels that fall towards sigma_min as the remaining share of steps to a power of the golden ratio.

    Parameters
    ----------
    power : float
        p in the exponent ``phi ** p``.

    Notes
    -----
    reForge's "Phi". A single step starts from sigma_max; reForge's starts from its square root.
    """
    steps = check_steps(steps)
    low, high = check_bounds(sigma_min, sigma_max)
    share = np.linspace(1, 0, steps) ** (((1 + 5**0.5) / 2) ** power)
    return finish(low + (high - low) * share, low, high)


def calculate_piecewise_sigmas(
    steps: int,
    sigma_min: float,
    sigma_max: float,
    sigma_between: NonNegative = 0.0,
    high_steps: Count = 0,
    rho: Exponent = 7.0,
) -> Array:
    """Noise levels that fall exponentially to a middle level, and from there to sigma_min as `karras` does.

    Parameters
    ----------
    sigma_between : float
        The level at which the rule changes; 0 means the geometric mean of sigma_min and sigma_max.
    high_steps : int
        Steps down to that level, at most steps - 2 so that sigma_min is reached; 0 means half of all steps, rounded up.
    rho : as for `karras`

    Raises
    ------
    ValueError
        If sigma_between is outside the range.

    Notes
    -----
    ECMWF's anemoi, ``PiecewiseSigmaSchedule``, for weather models, with sigma_between 10. There, two and three steps
    end at the middle level.
    """
    steps = check_steps(steps)
    low, high = check_bounds(sigma_min, sigma_max)
    between = sigma_between or math.sqrt(low) * math.sqrt(high)
    if not low < between < high:
        raise ValueError(f"sigma_between must be above sigma_min={low} and below sigma_max={high}; got {between}")
    if steps < 3:
        return calculate_exponential_sigmas(steps, low, high)
    first = min(high_steps or steps - steps // 2, steps - 2)
    above = calculate_exponential_sigmas(first + 1, between, high)[:-2]
    return np.concatenate([above, calculate_karras_sigmas(steps - first, low, between, rho)])
