"""Schedules that are even in the process's own time: they walk the table that the model was trained on.

For a discrete (VP) process time is the index into the table; for a flow process it is the unshifted u; for EDM and VE
it is an affine function of log sigma.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ksched.options import check_steps
from ksched.processes import Process
from ksched.schedules.power import check_bounds
from ksched.types import Array

__all__ = [
    "calculate_ddim_uniform_sigmas",
    "calculate_normal_sigmas",
    "calculate_sgm_uniform_sigmas",
    "calculate_simple_sigmas",
]


class _Span(NamedTuple):
    """The stretch of the process's own time that a schedule may use."""

    low: float
    high: float
    sigma_max: float
    process: Process

    @classmethod
    def of(cls, process: Process, sigma_min: float | None, sigma_max: float | None) -> _Span:
        if not isinstance(process, Process):
            raise TypeError(f"process must be a ksched process such as VP() or Flow(); got {process!r}")
        low, high = check_bounds(
            process.sigma_min if sigma_min is None else sigma_min, process.sigma_max if sigma_max is None else sigma_max
        )
        # a rounding error above the range is not a mistake; a level that was never trained is
        if low < process.sigma_min * (1 - 1e-6) or high > process.sigma_max * (1 + 1e-6):
            raise ValueError(
                f"this schedule walks the training range, sigma {process.sigma_min:.6g} to {process.sigma_max:.6g}; "
                f"got sigma_min={low:.6g}, sigma_max={high:.6g}. Take karras, exponential or linear to leave the range."
            )
        return cls(process.time(low), process.time(high), high, process)

    @property
    def length(self) -> float:
        """Time covered by the table entries in the span, the entry at its low end included."""
        return self.high - self.low + self.process.time_unit

    def crowded(self, steps: int) -> bool:
        """Whether the span has fewer table entries than steps, so that strides of whole entries do not fit."""
        return steps > self.length / self.process.time_unit * (1 + 1e-9)

    def offsets(self, steps: int) -> Array:
        """``i * length / steps``, cut to whole table entries where the process is discrete."""
        stride = np.arange(steps) * self.length / steps
        return np.floor(stride) if self.process.rounds_time else stride

    def sigmas(self, time: Array) -> Array:
        """Levels at these times, then 0; rounding neither leaves the span nor moves its end."""
        levels = np.minimum(self.process.sigma_at(time), self.sigma_max)
        if time[0] == self.high:
            levels[0] = self.sigma_max
        return np.append(levels, 0.0)


def calculate_simple_sigmas(
    steps: int, process: Process, *, sigma_min: float | None = None, sigma_max: float | None = None
) -> Array:
    """Noise levels of evenly strided training steps, counted down from the noisiest.

    Parameters
    ----------
    steps : number of steps, >= 1
    process : what the model was trained on
    sigma_min, sigma_max : part of the training range to use; None is all of it

    Returns
    -------
    float64 array, shape (steps + 1,), strictly decreasing, last element 0

    Raises
    ------
    TypeError, ValueError : steps below 1 or not whole, bounds out of order or outside the training range

    Notes
    -----
    ComfyUI's ``simple``: table entry ``L - 1 - floor(i L / steps)`` of L. On other processes than VP nothing is
    rounded: a flow process is walked evenly in unshifted time, ``linspace(1, 0, steps + 1)`` for shift 1, EDM and VE
    evenly in log sigma. With more steps than entries the levels are spread evenly over the table.
    """
    steps = check_steps(steps)
    span = _Span.of(process, sigma_min, sigma_max)
    if span.crowded(steps):
        return span.sigmas(np.linspace(span.high, span.low, steps))
    return span.sigmas(span.high - span.offsets(steps))


def calculate_sgm_uniform_sigmas(
    steps: int, process: Process, *, sigma_min: float | None = None, sigma_max: float | None = None
) -> Array:
    """Noise levels evenly spaced in timestep from the noisiest, the last of ``steps + 1`` points replaced by 0.

    Parameters
    ----------
    steps : number of steps, >= 1
    process : what the model was trained on
    sigma_min, sigma_max : part of the training range to use; None is all of it

    Returns
    -------
    float64 array, shape (steps + 1,), strictly decreasing, last element 0

    Raises
    ------
    TypeError, ValueError : steps below 1 or not whole, bounds out of order or outside the training range

    Notes
    -----
    ComfyUI's ``sgm_uniform`` (Stability's generative-models). Close to diffusers' "trailing", which rounds.
    """
    steps = check_steps(steps)
    span = _Span.of(process, sigma_min, sigma_max)
    return span.sigmas(np.linspace(span.high, span.low, steps + 1)[:-1])


def calculate_normal_sigmas(
    steps: int, process: Process, *, sigma_min: float | None = None, sigma_max: float | None = None
) -> Array:
    """Noise levels evenly spaced in timestep over the whole range, both ends included, then 0.

    Parameters
    ----------
    steps : number of steps, >= 1
    process : what the model was trained on
    sigma_min, sigma_max : part of the training range to use; None is all of it

    Returns
    -------
    float64 array, shape (steps + 1,), strictly decreasing, last element 0

    Raises
    ------
    TypeError, ValueError : steps below 1 or not whole, bounds out of order or outside the training range

    Notes
    -----
    ComfyUI's ``normal``; A1111's "Uniform"; k-diffusion's ``DiscreteSchedule.get_sigmas``.
    """
    steps = check_steps(steps)
    span = _Span.of(process, sigma_min, sigma_max)
    return span.sigmas(np.linspace(span.high, span.low, steps))


def calculate_ddim_uniform_sigmas(
    steps: int, process: Process, *, sigma_min: float | None = None, sigma_max: float | None = None
) -> Array:
    """Noise levels of evenly strided training steps, counted up from the second cleanest.

    Parameters
    ----------
    steps : number of steps, >= 1
    process : what the model was trained on
    sigma_min, sigma_max : part of the training range to use; None is all of it

    Returns
    -------
    float64 array, shape (steps + 1,), strictly decreasing, last element 0. The first level is one stride below
    sigma_max, as in the paper; a single step starts from sigma_max

    Raises
    ------
    TypeError, ValueError : steps below 1 or not whole, bounds out of order or outside the training range

    Notes
    -----
    The linear subsequence of DDIM (Song et al. 2020, arXiv:2010.02502, appendix D.2), entries ``1 + floor(i L /
    steps)`` of L. ComfyUI's rule rounds the stride down, so that its number of levels differs from the number asked
    for when steps does not divide L; where it divides, the two agree (diffusers calls it "leading").
    """
    steps = check_steps(steps)
    span = _Span.of(process, sigma_min, sigma_max)
    if steps == 1:
        return np.array([span.sigma_max, 0.0])
    if span.crowded(steps):
        return span.sigmas(np.linspace(span.high, span.low, steps))
    unit = process.time_unit
    # the entry after the cleanest, as long as the stride leaves room for it
    start = min(unit, max(0.0, span.length / steps - unit))
    offset = start + np.arange(steps)[::-1] * span.length / steps
    return span.sigmas(span.low + (np.floor(offset) if process.rounds_time else offset))
