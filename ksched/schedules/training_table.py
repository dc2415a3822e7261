"""Schedules over the range that the model was trained on: its table of noise levels, or its own time.

The table is `Process.sigmas`, walked by index. Time is the index again for a discrete (VP) process, the unshifted u for
flow, log sigma for EDM and VE, and an angle for v-prediction. Every function takes ``steps``, the process, and
``sigma_min`` and ``sigma_max`` for a part of the training range. It raises a TypeError or ValueError for steps below 1
or a range outside training. It returns float64 of shape (steps + 1,), strictly decreasing to 0, unless an option says
otherwise.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

import numpy as np

from ksched.options import Exponent, NonNegative, check_steps
from ksched.processes import Process
from ksched.schedules.span import Entries, Span
from ksched.types import Array

__all__ = [
    "calculate_beta57_sigmas",
    "calculate_beta_sigmas",
    "calculate_ddim_uniform_sigmas",
    "calculate_leading_sigmas",
    "calculate_logsnr_sigmas",
    "calculate_normal_sigmas",
    "calculate_sd_turbo_sigmas",
    "calculate_sgm_uniform_sigmas",
    "calculate_simple_sigmas",
    "calculate_smoothstep_sigmas",
    "calculate_trailing_sigmas",
]


def calculate_simple_sigmas(
    steps: int,
    process: Process,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    entries: Entries = "auto",
) -> Array:
    """Noise levels at evenly strided training steps, counted down from the noisiest.

    Parameters
    ----------
    entries : str
        "auto" uses whole entries of a discrete table and even strides on other processes; "never" strides evenly;
        "always" uses whole entries, and repeats some if there are more steps than entries.

    Notes
    -----
    ComfyUI's ``simple``: table entry ``L - 1 - floor(i L / steps)`` of L. On a flow process this is even in unshifted
    time, ``linspace(1, 0, steps + 1)`` for shift 1; on EDM and VE it is even in log sigma. With more steps than
    entries, levels are spread evenly over the table.
    """
    steps = check_steps(steps)
    span = Span.of(process, sigma_min, sigma_max)
    if entries == "always":
        table = process.sigmas
        return np.append(table[len(table) - 1 - np.arange(steps) * len(table) // steps], 0.0)
    if span.crowded(steps):
        return span.spread(steps)
    low, high = span.positions
    strides = np.arange(steps) * (high - low + 1) / steps
    return span.at(high - (np.floor(strides) if span.whole(entries) else strides))


def calculate_ddim_uniform_sigmas(
    steps: int,
    process: Process,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    stride: Literal["even", "whole"] = "even",
) -> Array:
    """Noise levels at evenly strided training steps, counted up from the second cleanest.

    The first level is one stride below sigma_max, as in the paper; a single step starts from sigma_max.

    Parameters
    ----------
    stride : str
        "even" makes exactly the requested number of steps; "whole" rounds the stride down to whole entries, which can
        make more steps (ComfyUI).

    Notes
    -----
    The linear subsequence of DDIM (Song et al. 2020, arXiv:2010.02502, appendix D.2), entries ``1 + floor(i L /
    steps)`` of L. If steps divides L, the two strides agree.
    """
    steps = check_steps(steps)
    span = Span.of(process, sigma_min, sigma_max)
    if stride == "whole":
        table = process.sigmas
        zero = [] if math.isclose(table[1], 0, abs_tol=1e-5) else [0.0]
        return np.append(table[1 :: max(len(table) // (steps + (not zero)), 1)][::-1], zero)
    if steps == 1:
        return np.array([span.sigma_max, 0.0])
    if span.crowded(steps):
        return span.spread(steps)
    low, high = span.positions
    length = high - low + 1
    # the entry after the cleanest, if the stride leaves room for it
    start = min(1.0, max(0.0, length / steps - 1))
    offsets = start + np.arange(steps)[::-1] * length / steps
    return span.at(low + (np.floor(offsets) if process.is_discrete else offsets))


def _times(span: Span, shift_twice: bool) -> tuple[float, float]:
    """Highest and lowest time of a span, with the shift applied twice if requested."""
    process = span.process
    if shift_twice and process.shift != 1:
        process = dataclasses.replace(process, shift=1.0)  # type: ignore[type-var]  # every process is a dataclass
    return process.time(span.sigma_max), process.time(span.sigma_min)


def calculate_sgm_uniform_sigmas(
    steps: int,
    process: Process,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    shift_twice: bool = False,
) -> Array:
    """Noise levels evenly spaced in timestep from the noisiest; the last of ``steps + 1`` points is replaced by 0.

    Parameters
    ----------
    shift_twice : bool
        Treat shifted levels as unshifted times, so that the process's shift acts twice (ComfyUI).

    Notes
    -----
    ComfyUI's ``sgm_uniform`` (Stability's generative-models). Close to `trailing`, which rounds.
    """
    steps = check_steps(steps)
    span = Span.of(process, sigma_min, sigma_max)
    return span.at_time(np.linspace(*_times(span, shift_twice), steps + 1)[:-1])


def calculate_normal_sigmas(
    steps: int,
    process: Process,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    shift_twice: bool = False,
    zero: Literal["append", "unless_reached"] = "append",
) -> Array:
    """Noise levels evenly spaced in timestep over the whole range, both ends included, then 0.

    Parameters
    ----------
    shift_twice : bool
        Treat shifted levels as unshifted times, so that the process's shift acts twice (ComfyUI).
    zero : str
        "unless_reached" uses one more point and appends no 0 if sigma_min is below 1e-5 (ComfyUI).

    Notes
    -----
    ComfyUI's ``normal``; A1111's "Uniform"; k-diffusion's ``DiscreteSchedule.get_sigmas``; diffusers' "linspace".
    """
    steps = check_steps(steps)
    span = Span.of(process, sigma_min, sigma_max)
    times = _times(span, shift_twice)
    if zero == "unless_reached" and math.isclose(process.sigma_at(times[1]), 0, abs_tol=1e-5):
        return span.at_time(np.linspace(*times, steps + 1))[:-1]
    return span.at_time(np.linspace(*times, steps))


def calculate_trailing_sigmas(
    steps: int, process: Process, *, sigma_min: float | None = None, sigma_max: float | None = None
) -> Array:
    """Noise levels at training steps ``round(L - i L / steps) - 1`` of L: even strides down from the noisiest.

    Notes
    -----
    diffusers' "trailing" (Lin et al. 2023, arXiv:2305.08891, table 2); Forge's "Turbo". It rounds the strides where
    `simple` truncates them.
    """
    steps = check_steps(steps)
    span = Span.of(process, sigma_min, sigma_max)
    if span.crowded(steps):
        return span.spread(steps)
    low, high = span.positions
    strides: Array = np.arange(steps) * (high - low + 1) / steps
    if process.is_discrete:  # round as counted from below, in whole entries below the top
        strides = math.floor(high) - np.rint(math.floor(high) - strides)
    return span.at(np.maximum(high - strides, low))


def calculate_leading_sigmas(
    steps: int,
    process: Process,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    steps_offset: NonNegative = 1.0,
) -> Array:
    """Noise levels at training steps ``i (L // steps) + offset``: whole strides up from the cleanest.

    The first level may lie far below sigma_max; a single step starts from sigma_max.

    Parameters
    ----------
    steps_offset : float
        Position of the last level in the table.

    Notes
    -----
    diffusers' "leading", with Stable Diffusion's offset.
    """
    steps = check_steps(steps)
    span = Span.of(process, sigma_min, sigma_max)
    if steps == 1:
        return np.array([span.sigma_max, 0.0])
    low, high = span.positions
    stride = (high - low + 1) // steps
    if stride < 1 or (steps - 1) * stride + steps_offset > high - low:
        return span.spread(steps)
    strides: Array = np.arange(steps, dtype=np.float64)[::-1] * stride
    return span.at(low + steps_offset + strides)


def calculate_sd_turbo_sigmas(
    steps: int, process: Process, *, sigma_min: float | None = None, sigma_max: float | None = None
) -> Array:
    """The first levels of ten even strides of training steps, then 0: for models distilled to few steps.

    Beyond ten steps it equals `trailing`. To start lower, use `truncate`.

    Notes
    -----
    ComfyUI's ``SDTurboScheduler``: timesteps 999, 899, ... 99.
    """
    steps = check_steps(steps)
    ten = calculate_trailing_sigmas(max(steps, 10), process, sigma_min=sigma_min, sigma_max=sigma_max)
    return np.append(ten[:steps], 0.0)


def calculate_beta_sigmas(
    steps: int,
    process: Process,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    alpha: Exponent = 0.6,
    beta: Exponent = 0.6,
    entries: Entries = "never",
    domain: Literal["table", "sigma"] = "table",
) -> Array:
    """Noise levels at quantiles of a beta distribution over the training table: dense at both ends.

    Parameters
    ----------
    alpha, beta : float
        Parameters of the distribution; 1, 1 is even.
    entries : str
        "always" rounds to whole entries and drops repeats, so there may be fewer steps (ComfyUI).
    domain : str
        "sigma" applies the quantiles between sigma_min and sigma_max themselves, both included (A1111, diffusers).

    Notes
    -----
    Lee et al. 2024, arXiv:2407.12173, in ComfyUI's form: positions ``(L - 1) * quantile(1 - i / steps)``.
    """
    from scipy.special import betaincinv

    steps = check_steps(steps)
    span = Span.of(process, sigma_min, sigma_max)
    if domain == "sigma":
        share = betaincinv(alpha, beta, 1 - np.linspace(0, 1, steps))
        return np.append(span.sigma_min + (span.sigma_max - span.sigma_min) * share, 0.0)
    share = betaincinv(alpha, beta, 1 - np.arange(steps) / steps)
    if span.whole(entries):
        places = np.rint(share * (len(process.sigmas) - 1)).astype(int)
        return np.append(process.sigmas[places[np.append(True, np.diff(places) != 0)]], 0.0)
    low, high = span.positions
    return span.at(low + (high - low) * share)


def calculate_beta57_sigmas(
    steps: int,
    process: Process,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    entries: Entries = "never",
) -> Array:
    """`calculate_beta_sigmas` with alpha 0.5 and beta 0.7.

    Parameters
    ----------
    entries : as for `calculate_beta_sigmas`

    Notes
    -----
    RES4LYF's ``beta57``.
    """
    return calculate_beta_sigmas(
        steps, process, sigma_min=sigma_min, sigma_max=sigma_max, alpha=0.5, beta=0.7, entries=entries
    )


def calculate_smoothstep_sigmas(
    steps: int,
    process: Process,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    entries: Entries = "never",
) -> Array:
    """Noise levels at positions ``u ** 2 * (3 - 2 * u)`` of the training table for even u: dense at both ends.

    Parameters
    ----------
    entries : str
        "always" rounds to whole entries, so levels may repeat (stable-diffusion.cpp).

    Notes
    -----
    stable-diffusion.cpp's ``smoothstep``: u = 1 - i / steps. Close to `beta`.
    """
    steps = check_steps(steps)
    span = Span.of(process, sigma_min, sigma_max)
    u = 1 - np.arange(steps) / steps
    share = u**2 * (3 - 2 * u)
    if span.whole(entries):
        table = process.sigmas
        return np.append(table[np.rint(share * (len(table) - 1)).astype(int)], 0.0)
    low, high = span.positions
    return span.at(low + (high - low) * share)


def calculate_logsnr_sigmas(
    steps: int, process: Process, *, sigma_min: float | None = None, sigma_max: float | None = None
) -> Array:
    """Noise levels evenly spaced in log-SNR, then 0; from pure noise, evenly spaced from the table's second level on.

    Notes
    -----
    DPM-Solver's "logSNR" (Lu et al. 2022, arXiv:2206.00927). On VE and VP it is `exponential`; on flow, the log-SNR is
    computed from sigma / (1 - sigma).
    """
    steps = check_steps(steps)
    span = Span.of(process, sigma_min, sigma_max)
    first, last = process.level(span.sigma_max), process.level(span.sigma_min)
    if steps == 1:
        return np.array([span.sigma_max, 0.0])
    if math.isfinite(first.lam):
        lams = np.linspace(first.lam, last.lam, steps)
    else:
        second = process.level(process.sigma_at_position(process.position(span.sigma_max) - 1)).lam
        lams = np.append(
            -math.inf, np.linspace(second, last.lam, steps - 1) if steps > 2 else [(second + last.lam) / 2]
        )
    levels = np.array([process.level_at(float(lam)).label for lam in lams[1:]])
    return np.concatenate([[span.sigma_max], levels, [0.0]])
