"""Mu, the log of a flow process's shift, for a resolution: larger images need more steps at high noise."""

from __future__ import annotations

import sys

from ksched.options import Option, check_steps

__all__ = ["mu_for_flux2", "mu_for_tokens"]


def _number(owner: str, name: str, value: float, low: float = -sys.float_info.max) -> float:
    checked: float = Option(name, float, None, low, sys.float_info.max).check(owner, value)
    return checked


def mu_for_tokens(
    tokens: float,
    *,
    base_mu: float = 0.5,
    max_mu: float = 1.15,
    base_tokens: float = 256,
    max_tokens: float = 4096,
) -> float:
    """Mu for a resolution, for `shift_mu` and `ksched.Flow.of_mu`: a straight line through two points.

    Parameters
    ----------
    tokens : float
        Length of the latent sequence; for Flux ``width * height / 256`` of the image in pixels.
    base_mu, max_mu : float
        mu at ``base_tokens`` and at ``max_tokens``.

    Returns
    -------
    mu

    Raises
    ------
    TypeError, ValueError
        For tokens that are not positive, or two points at the same number of tokens.

    Notes
    -----
    The defaults are Flux's (diffusers' ``calculate_shift``; ComfyUI's ModelSamplingFlux calls the two mu base_shift and
    max_shift). LTX-Video uses base_mu 0.95, max_mu 2.05, base_tokens 1024.
    """
    given = {"tokens": tokens, "base_tokens": base_tokens, "max_tokens": max_tokens}
    tokens, base, most = (_number("mu_for_tokens", k, v, sys.float_info.min) for k, v in given.items())
    low, high = (_number("mu_for_tokens", k, v) for k, v in (("base_mu", base_mu), ("max_mu", max_mu)))
    if base == most:
        raise ValueError(f"mu_for_tokens: base_tokens and max_tokens must differ; got {base} for both")
    return float(low + (high - low) * (tokens - base) / (most - base))


def mu_for_flux2(tokens: float, steps: int) -> float:
    """Mu for a resolution and a number of steps, as fitted for FLUX.2.

    Parameters
    ----------
    tokens : float
        Length of the latent sequence, ``round(width * height / 256)`` of the image in pixels.
    steps : int
        Number of steps; it has an effect up to 4300 tokens.

    Returns
    -------
    mu

    Raises
    ------
    TypeError, ValueError
        For tokens that are not positive, steps below 1.

    Notes
    -----
    Up to 4300 tokens, mu is a line in steps through its values at 10 and at 200 steps, each of which is a line in
    tokens. Beyond, it is the value at 200 steps. The numbers are those of ComfyUI's Flux2Scheduler.
    """
    tokens = _number("mu_for_flux2", "tokens", tokens, sys.float_info.min)
    steps = check_steps(steps)
    at_10, at_200 = 8.73809524e-5 * tokens + 1.89833333, 1.6927e-4 * tokens + 0.45666666
    return float(at_200 if tokens > 4300 else at_10 + (at_200 - at_10) * (steps - 10) / 190)
