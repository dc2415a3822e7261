"""Functions that move the noise levels of flow processes, from 1 to 0: the shifts of flow-matching models."""

from __future__ import annotations

import math
import sys

import numpy as np

from ksched.schedules.curves import stretched_to
from ksched.schedules.grid import check_sigmas
from ksched.schedules.transforms import distinct, option_value
from ksched.types import Array, ArrayLike

__all__ = ["shift", "shift_mu", "stretch_terminal"]


def _flow_sigmas(owner: str, sigmas: ArrayLike) -> Array:
    values = check_sigmas(sigmas, math.inf)
    if values[0] > 1:
        raise ValueError(
            f"{owner}: sigmas must be levels of a flow process, at most 1; got sigmas[0]={values[0]}. "
            "On other processes, change sigma_min and sigma_max instead."
        )
    return values


def shift(sigmas: ArrayLike, s: float) -> Array:
    """Shift flow levels towards noise: ``s * sigma / (1 + (s - 1) * sigma)``, which multiplies sigma / alpha by ``s``.

    Parameters
    ----------
    sigmas : array_like
        Levels of a flow process, strictly decreasing, from at most 1.
    s : float
        Above 0; values above 1 spend more steps at high noise, 1 changes nothing.

    Returns
    -------
    ndarray of float64
        Of the same length; 1 and 0 are unchanged.

    Raises
    ------
    TypeError, ValueError
        For levels out of order or above 1; a shift that is not positive, or so extreme that two levels become equal.

    Notes
    -----
    Esser et al. 2024, arXiv:2403.03206, eq. 23. ``shift(shift(x, a), b)`` is ``shift(x, a * b)``, so ``shift(x, 1 /
    s)`` undoes it. Levels that a schedule makes for ``Flow(s)`` already include the shift.
    """
    values = _flow_sigmas("shift", sigmas)
    s = option_value("shift", "s", float, s, sys.float_info.min)
    return _shifted("shift", values, s)


def _shifted(owner: str, values: Array, s: float) -> Array:
    return distinct(owner, values / (values + (1 - values) / s))  # this form keeps 1 and 0 exact


def shift_mu(sigmas: ArrayLike, mu: float) -> Array:
    """`shift` by ``exp(mu)``, in Flux's notation.

    Parameters
    ----------
    sigmas : array_like
        Levels of a flow process, strictly decreasing, from at most 1.
    mu : float
        Any number; 0 changes nothing. See `mu_for_tokens`.

    Returns
    -------
    ndarray of float64
        Of the same length.

    Raises
    ------
    TypeError, ValueError
        As for `shift`.
    """
    values = _flow_sigmas("shift_mu", sigmas)
    mu = option_value("shift_mu", "mu", float, mu, -700, 700)  # the exponential of more overflows float64
    return _shifted("shift_mu", values, math.exp(mu))


def stretch_terminal(sigmas: ArrayLike, terminal: float) -> Array:
    """Flow levels with alpha scaled so that the last non-zero level is ``terminal``.

    Parameters
    ----------
    sigmas : array_like
        Levels of a flow process, strictly decreasing, from at most 1.
    terminal : float
        Level to end at before the final 0, above 0 and below 1.

    Returns
    -------
    ndarray of float64
        Of the same length; 1 and a final 0 are unchanged. A single step has only its start, which is kept.

    Raises
    ------
    TypeError, ValueError
        For levels out of order or above 1, ``terminal`` outside 0 to 1.

    Notes
    -----
    diffusers' ``shift_terminal`` and ComfyUI's LTXVScheduler; both return NaN for a single step.
    """
    values = _flow_sigmas("stretch_terminal", sigmas)
    terminal = option_value("stretch_terminal", "terminal", float, terminal, 0, 1)
    if terminal in (0, 1):
        raise ValueError(f"stretch_terminal: terminal must be above 0 and below 1; got {terminal}")
    count = int(np.count_nonzero(values))
    if count > 1:
        values[:count] = stretched_to(values[:count], terminal)
    return distinct("stretch_terminal", values)
