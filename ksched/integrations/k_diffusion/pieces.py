"""Small functions and classes that programs import from k-diffusion, with its names and numbers.

Katherine Crowson's k-diffusion (MIT) has them in ``k_diffusion.sampling``, and `append_dims` in ``k_diffusion.utils``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from ksched.integrations.k_diffusion.noise import global_noise
from ksched.samplers.adaptive import pid_factor
from ksched.samplers.blocks.quadrature import gauss_legendre

__all__ = [
    "PIDStepSizeController",
    "append_dims",
    "append_zero",
    "default_noise_sampler",
    "get_ancestral_step",
    "linear_multistep_coeff",
    "to_d",
]


def append_zero(x: torch.Tensor) -> torch.Tensor:
    """Levels with a 0 appended."""
    return torch.nn.functional.pad(x, (0, 1))


def append_dims(x: torch.Tensor, target_dims: int) -> torch.Tensor:
    """A tensor with axes of length 1 appended until it has ``target_dims`` axes.

    Raises
    ------
    ValueError
        If it already has more.
    """
    if x.ndim > target_dims:
        raise ValueError(f"target_dims must be at least the number of axes, {x.ndim}; got {target_dims}")
    return x.reshape(x.shape + (1,) * (target_dims - x.ndim))


def to_d(x: torch.Tensor, sigma: torch.Tensor, denoised: torch.Tensor) -> torch.Tensor:
    """The slope dx / dsigma of the probability-flow ODE at a state ``x0 + sigma * eps``."""
    return (x - denoised) / append_dims(sigma, x.ndim)


def get_ancestral_step(sigma_from: Any, sigma_to: Any, eta: float = 1.0) -> tuple[Any, Any]:
    """The sigma to step down to, and the standard deviation of the noise that leads back up.

    Parameters
    ----------
    sigma_from, sigma_to : object
        Object Sigmas before and after the step; numbers or tensors.
    eta : float
        Share of the noise that is new; 0 is none.

    Returns
    -------
    tuple of object
        Tuple of object (sigma_down, sigma_up), whose squares sum to that of ``sigma_to``.
    """
    if not eta:
        return sigma_to, 0.0
    lost = (1 - (sigma_to / sigma_from) ** 2) ** 0.5  # share of sigma_to's noise that a full renewal replaces
    up = min(sigma_to, eta * sigma_to * lost)
    return (sigma_to**2 - up**2) ** 0.5, up


def default_noise_sampler(x: torch.Tensor) -> Callable[[Any, Any], torch.Tensor]:
    """Noise like ``x`` from torch's global generator, independent of the interval."""
    return global_noise(x, None)


def linear_multistep_coeff(order: int, t: Any, i: int, j: int) -> float:
    """Weight of the slope ``j`` steps back in the Adams-Bashforth step from ``t[i]`` to ``t[i + 1]``.

    Parameters
    ----------
    order : int
        Number of slopes used, at most ``i + 1``.
    t : object
        Object Times; here sigmas.
    i : int
        Index of the step.
    j : int
        Int 0 is the newest slope.

    Raises
    ------
    ValueError
        If there are not yet that many slopes.
    """
    if order > i + 1:
        raise ValueError(f"order must be at most {i + 1} in step {i}, which has no more slopes; got {order}")
    start, end = float(t[i]), float(t[i + 1])
    own, others = float(t[i - j]), [float(t[i - k]) for k in range(order) if k != j]
    places, weights = gauss_legendre(max(1, order))  # exact for the polynomial, whose degree is order - 1
    times = (start + end) / 2 + (end - start) / 2 * places
    return float(
        (end - start)
        / 2
        * sum(w * math.prod((u - o) / (own - o) for o in others) for w, u in zip(weights, times, strict=True))
    )


class PIDStepSizeController:
    """A PID controller of step sizes.

    Parameters
    ----------
    h : float
        Length of the first step.
    pcoeff, icoeff, dcoeff : float
        Coefficients of the error, its sum and its change.
    order : float
        Order of the error estimate.
    accept_safety : float
        Smallest factor of the step size with which a step is accepted.
    eps : float
        Added to errors, so that they can be inverted.
    """

    def __init__(
        self,
        h: float,
        pcoeff: float,
        icoeff: float,
        dcoeff: float,
        order: float = 1,
        accept_safety: float = 0.81,
        eps: float = 1e-8,
    ) -> None:
        self.h = h
        self.b1, self.b2, self.b3 = (pcoeff + icoeff + dcoeff) / order, -(pcoeff + 2 * dcoeff) / order, dcoeff / order
        self.accept_safety = accept_safety
        self.eps = eps
        self.errs: list[float] = []

    def limiter(self, x: float) -> float:
        """A factor limited smoothly to between 1 - pi / 4 and 1 + pi / 2."""
        return 1 + math.atan(x - 1)

    def propose_step(self, error: Any) -> bool:
        """Whether a step with this error is accepted; sets ``h`` to the length of the next step."""
        now = 1 / (float(error) + self.eps)
        last, older = self.errs[1:] or (now, now)
        factor = self.limiter(pid_factor((now, last, older), (self.b1, self.b2, self.b3)))
        accept = factor >= self.accept_safety
        self.errs = [now, now, last] if accept else [now, last, older]
        self.h *= factor
        return accept
