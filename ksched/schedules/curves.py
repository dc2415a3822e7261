"""Schedules that are curves from 1 to 0, made for flow models or few steps and scaled to a process.

A curve gives ``steps + 1`` shares of the noise, from 1 to 0. On a flow process a share is a sigma, before it is scaled
to the requested part of the range; on other processes it is a share of sigma_max or of the training table, as each
schedule documents. Arguments, errors and results are those of `ksched.schedules.training_table`.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np

from ksched.options import Between, Count, Finite, Positive, WholePositive, check_steps
from ksched.processes import Flow, Process
from ksched.processes.resolution_shift import mu_for_flux2, mu_for_tokens
from ksched.schedules.power import finish
from ksched.schedules.span import Span
from ksched.types import Array

__all__ = [
    "calculate_bong_tangent_sigmas",
    "calculate_cosine_sigmas",
    "calculate_flux2_sigmas",
    "calculate_ideogram4_sigmas",
    "calculate_linear_quadratic_sigmas",
    "calculate_logit_normal_sigmas",
    "calculate_ltxv_sigmas",
    "calculate_sway_sigmas",
]


def _scaled(span: Span, curve: Array) -> Array:
    """``curve`` times sigma_max."""
    levels = span.sigma_max * curve
    levels[0] = span.sigma_max
    return levels


def _no_sigma_min(name: str, sigma_min: float | None) -> None:
    if sigma_min is not None:
        raise ValueError(
            f"sigma_min must be left out for {name}, which reaches 0 along its own curve; got {sigma_min}. Give "
            f"sigma_max."
        )


def calculate_linear_quadratic_sigmas(
    steps: int,
    process: Process,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    threshold_noise: Positive = 0.025,
    linear_steps: Count = 0,
) -> Array:
    """Noise levels that fall slowly and evenly at first, then quadratically to 0, in shares of sigma_max.

    Parameters
    ----------
    sigma_min : float or None
        Must be None: the curve reaches 0 by itself.
    threshold_noise : float
        Share of the noise that the linear part removes, below 1.
    linear_steps : int
        Number of steps in the linear part; 0 means half of all steps.

    Notes
    -----
    Mochi's schedule, multiplied by sigma_max as in ComfyUI.
    """
    steps = check_steps(steps)
    _no_sigma_min("linear_quadratic", sigma_min)
    span = Span.of(process, None, sigma_max)
    if not threshold_noise < 1:
        raise ValueError(f"threshold_noise must be below 1; got {threshold_noise}")
    if steps == 1:
        return np.array([span.sigma_max, 0.0])
    linear = linear_steps or steps // 2
    if linear >= steps:
        raise ValueError(f"linear_steps must be below steps; got {linear} of {steps}")
    slope, rest = threshold_noise / linear, steps - linear
    # the parabola that continues with the same value and slope and reaches 1 at the last step
    i = np.arange(rest)
    bend = (1 - threshold_noise - slope * rest) / rest**2
    removed = np.concatenate([np.arange(linear) * slope, threshold_noise + slope * i + bend * i**2, [1.0]])
    return _scaled(span, 1 - removed)


def calculate_bong_tangent_sigmas(
    steps: int, process: Process, *, sigma_min: float | None = None, sigma_max: float | None = None
) -> Array:
    """Noise levels along two arctangents that meet half way down, in shares of sigma_max.

    Parameters
    ----------
    sigma_min : float or None
        Must be None: the curve reaches 0 by itself.

    Notes
    -----
    RES4LYF's ``bong_tangent`` with its constants: pivots at 0.6 of the points, slopes 8 / points. There it always runs
    from 1 to 0; for flow processes that is the same.
    """
    steps = check_steps(steps)
    _no_sigma_min("bong_tangent", sigma_min)
    span = Span.of(process, None, sigma_max)
    points = steps + 2
    first = min(max(int(points * 0.6), 1), points)
    slope = 0.2 * 40 / points

    def piece(count: int, pivot: int, top: float, bottom: float) -> Array:
        if count < 2:
            return np.full(count, top)
        curve: Array = (2 / math.pi * np.arctan(-slope * (np.arange(count) - pivot)) + 1) / 2
        scaled: Array = bottom + (top - bottom) * (curve - curve[-1]) / (curve[0] - curve[-1])
        return scaled

    pivot = int(points * 0.6)
    curve = np.concatenate([piece(first, pivot, 1.0, 0.5)[:-1], piece(points - first, pivot - first, 0.5, 0.0)])
    return _scaled(span, np.array([1.0, 0.0]) if steps == 1 else curve)


def calculate_cosine_sigmas(
    steps: int, process: Process, *, sigma_min: float | None = None, sigma_max: float | None = None
) -> Array:
    """Noise levels on half a cosine of the square root of the share of steps done, then 0.

    Notes
    -----
    reForge's "Cosine". A single step starts from sigma_max; reForge's starts from its square root.
    """
    steps = check_steps(steps)
    span = Span.of(process, sigma_min, sigma_max)
    share = (1 - np.cos(math.pi * (1 - np.sqrt(np.linspace(0, 1, steps))))) / 2
    return finish(span.sigma_min + (span.sigma_max - span.sigma_min) * share, span.sigma_min, span.sigma_max)


def stretched_to(levels: Array, terminal: float) -> Array:
    """Non-zero flow levels with alpha scaled so that the last level is exactly ``terminal``."""
    result: Array = 1 - (1 - levels) * ((1 - terminal) / (1 - levels[-1]))
    result[-1] = terminal
    return result


def _shifted(steps: int, mu: float) -> Array:
    """Even shares shifted by exp(mu)."""
    share: Array = np.linspace(1, 0, steps + 1)
    shifted: Array = Flow(math.exp(mu)).sigma_at(share)
    return shifted


def _on(span: Span, curve: Array) -> Array:
    """A curve as sigmas of a flow process, or as positions in the training table of another process."""
    if span.process.is_flow:
        return _scaled(span, curve)
    low, high = span.positions
    return span.at(low + curve[:-1] * (high - low))


def calculate_ltxv_sigmas(
    steps: int,
    process: Process,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    tokens: WholePositive = 4096,
    base_shift: Finite = 0.95,
    max_shift: Finite = 2.05,
    stretch: bool = True,
    terminal: Positive = 0.1,
) -> Array:
    """Evenly spaced flow levels, shifted for the number of tokens and stretched to end at a given level.

    On non-flow processes the same curve runs over the training table. The process's own shift is not applied on top.

    Parameters
    ----------
    sigma_min : float or None
        Must be None: ``terminal`` sets where the curve ends.
    tokens : int
        Length of the latent sequence.
    base_shift, max_shift : float
        mu at 1024 and at 4096 tokens, linear between them and beyond.
    stretch, terminal : bool and float
        Move the last non-zero level to ``terminal`` and the others in proportion; a single step is unchanged.

    Notes
    -----
    LTX-Video's schedule as in ComfyUI's ``LTXVScheduler``.
    """
    steps = check_steps(steps)
    _no_sigma_min("ltxv", sigma_min)
    span = Span.of(process, None, sigma_max)
    mu = mu_for_tokens(tokens, base_mu=base_shift, max_mu=max_shift, base_tokens=1024)
    curve = _shifted(steps, mu)
    if stretch and steps > 1:
        if not terminal < 1:
            raise ValueError(f"terminal must be below 1; got {terminal}")
        curve[:-1] = stretched_to(curve[:-1], terminal)
    return _on(span, curve)


def calculate_flux2_sigmas(
    steps: int,
    process: Process,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    width: WholePositive = 1024,
    height: WholePositive = 1024,
) -> Array:
    """Evenly spaced flow levels, shifted for the image size and the number of steps.

    On non-flow processes the same curve runs over the training table. The process's own shift is not applied on top.

    Parameters
    ----------
    sigma_min : float or None
        Must be None: the curve reaches 0 by itself.
    width, height : int
        Image size in pixels.

    Notes
    -----
    ComfyUI's ``Flux2Scheduler``, with `mu_for_flux2` for tokens of 16 x 16 pixels.
    """
    steps = check_steps(steps)
    _no_sigma_min("flux2", sigma_min)
    span = Span.of(process, None, sigma_max)
    return _on(span, _shifted(steps, mu_for_flux2(round(width * height / 256), steps)))


def calculate_sway_sigmas(
    steps: int,
    process: Process,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    coefficient: Annotated[float, Between(-1.0, 1.75)] = -1.0,
) -> Array:
    """Evenly spaced flow levels, moved towards noise by a cosine.

    On non-flow processes the same curve runs over the training table. The process's own shift is not applied on top.

    Parameters
    ----------
    sigma_min : float or None
        Must be None: the curve reaches 0 by itself.
    coefficient : float
        Below 0, steps near noise are small; above 0, steps near data are small; 0 spaces levels evenly.

    Notes
    -----
    Sway sampling of F5-TTS, Chen et al. 2024, arXiv:2410.06885, section 3.3: t + s * (cos(pi / 2 * t) - 1 + t) with
    t = 1 - sigma. F5-TTS uses the coefficient -1.
    """
    steps = check_steps(steps)
    _no_sigma_min("sway", sigma_min)
    span = Span.of(process, None, sigma_max)
    share = np.linspace(0, 1, steps + 1)
    # 1 - cos, written with the sine of half the angle to avoid cancellation at small values
    bend = share - 2 * np.sin(math.pi / 4 * share) ** 2
    curve: Array = 1 - share - coefficient * bend
    curve[-1] = 0.0
    return _on(span, curve)


def calculate_logit_normal_sigmas(
    steps: int,
    process: Process,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    mu: Annotated[float, Between(-20.0, 20.0)] = 0.0,
    std: Annotated[float, Between(0.1, 5.0)] = 1.0,
    clamp: bool = False,
    domain: Literal["table", "sigma"] = "table",
) -> Array:
    """Flow levels at evenly spaced quantiles of a logit-normal distribution.

    On non-flow processes the same curve runs over the training table. The process's own shift is not applied on top.

    Parameters
    ----------
    sigma_min : float or None
        Must be None: the curve reaches 0 by itself.
    mu, std : float
        Mean and standard deviation of the logit of sigma.
    clamp : bool
        Keep the log-SNR between -18 and 15, so that the first level is 0.99988.
    domain : str
        "sigma" reads the curve as shares of sigma_max on every process (skrample).

    Raises
    ------
    ValueError
        If the options put two levels on one number.

    Notes
    -----
    The distribution of training times of Esser et al. 2024, arXiv:2403.03206, section 3.1, with mean 0 and std 1.
    skrample's ``Probit`` has std 3; Ideogram 4's own program has 1.5 and 1.75.
    """
    from scipy.special import expit, ndtri

    steps = check_steps(steps)
    _no_sigma_min("logit_normal", sigma_min)
    span = Span.of(process, None, sigma_max)
    curve: Array = expit(mu + std * ndtri(np.linspace(1, 0, steps + 1)))
    whole = span.process.is_flow or domain == "sigma"
    if clamp:
        curve[:-1] = np.clip(curve[:-1], expit(-7.5), expit(9.0))
        return span.sigma_max * curve if whole else _on(span, curve)
    if not (np.diff(curve) < 0).all():
        raise ValueError(
            "levels must differ, but two fall on one number; use a smaller image, mu or std, or fewer steps"
        )
    return _scaled(span, curve) if whole else _on(span, curve)


def calculate_ideogram4_sigmas(
    steps: int,
    process: Process,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    width: WholePositive = 1024,
    height: WholePositive = 1024,
    mu: Annotated[float, Between(-10.0, 10.0)] = 0.0,
    std: Annotated[float, Between(0.1, 5.0)] = 1.5,
    clamp: bool = False,
) -> Array:
    """`calculate_logit_normal_sigmas` with a mean that depends on the image size.

    On non-flow processes the same curve runs over the training table. The process's own shift is not applied on top.

    Parameters
    ----------
    sigma_min : float or None
        Must be None: the curve reaches 0 by itself.
    width, height : int
        Image size in pixels.
    mu : float
        Mean of the logit of sigma at 512 x 512 pixels; half the log of the ratio of pixels is added for other sizes.
    std : float
        Standard deviation of the logit of sigma.
    clamp : bool
        Keep the log-SNR between -18 and 15, so that the first level is 0.99988, as in the model's own program.

    Raises
    ------
    ValueError
        If the options put two levels on one number.

    Notes
    -----
    Ideogram 4's own program, https://github.com/ideogram-oss/ideogram4, docs/pipeline.md, "Noise schedule". It uses mu
    0 and std 1.5 for 48 steps, std 1.75 for 20, and mu 0.5 and std 1.75 for 12.
    """
    _no_sigma_min("ideogram4", sigma_min)
    mean = mu + 0.5 * (math.log(width) + math.log(height) - 2 * math.log(512))
    return calculate_logit_normal_sigmas(steps, process, sigma_max=sigma_max, mu=mean, std=std, clamp=clamp)
