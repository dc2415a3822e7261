"""Hypothesis strategies for processes, step counts, sigma curves and grids."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import numpy as np

try:
    import hypothesis
    from hypothesis import strategies as st
    from hypothesis.errors import NoSuchExample
except ImportError as error:  # pragma: no cover - tested in a process of its own
    raise ImportError(
        'ksched.testing draws its examples with hypothesis, which is not installed: pip install "ksched[testing]"'
    ) from error

from ksched.options import check_steps
from ksched.processes import EDM, VE, VP, Flow, Process
from ksched.schedules.grid import Grid
from ksched.types import Array

__all__ = ["grids", "processes", "sigma_curves", "smallest_problem", "step_counts"]


T = TypeVar("T")


def step_counts(most: int = 1001) -> st.SearchStrategy[int]:
    """Numbers of steps from 1 to ``most``; half of them are at most 4, where rules tend to break."""
    return st.integers(1, min(4, most)) | st.integers(1, most)


@cache
def _named_processes() -> tuple[Process, ...]:
    return (VP(), VE(), Flow(), EDM(), Flow(3.0), VP(variance_preserving=True), VP.cosine(), VP(zero_terminal_snr=True))


def processes() -> st.SearchStrategy[Process]:
    """Processes of every kind, with the usual settings and with drawn ranges and shifts."""
    exponents = st.floats(-3, 0), st.floats(0.5, 3)
    return st.one_of(
        st.deferred(lambda: st.sampled_from(_named_processes())),
        st.builds(lambda shift: Flow(10**shift), st.floats(-1, 1.5)),
        st.builds(lambda scale: Flow(3.0, noise_scale=10**scale), st.floats(-1, 1.5)),
        st.builds(lambda low, high: VE(10**low, 10**high), *exponents),
        st.builds(lambda low, high: EDM(10**low, 10**high), *exponents),
    )


@st.composite
def _gaps(draw: st.DrawFn, count: int) -> Array:
    """Draw positive gaps between neighbouring levels, in arbitrary units: even, smoothly uneven, or arbitrary."""
    if count > 40 or not draw(st.booleans()):
        u = (np.arange(count) + 0.5) / max(count, 1)
        tilt, depth = draw(st.floats(-6, 6)), draw(st.floats(0, 0.9))
        waves = draw(st.integers(1, 3))
        return np.asarray(np.exp(tilt * u) * (1 + depth * np.cos(2 * math.pi * waves * u)))
    return np.array([10.0 ** draw(st.floats(-4, 1)) for _ in range(count)])  # close pairs and long jumps


def _levels_of_process(draw: st.DrawFn, process: Process, gaps: Array) -> Array:
    """Levels drawn in log-SNR, which reach every order of magnitude and, on flow, come close to 1."""
    first = draw(st.floats(-5, 3))
    span = min(float(gaps.sum()), 20.0) if draw(st.booleans()) else draw(st.floats(0.1, 20))
    lam = first + np.concatenate([[0.0], np.cumsum(gaps)]) * (span / gaps.sum() if len(gaps) else 0.0)
    levels = np.array([process.level_at(float(value)).label for value in lam])
    if process.sigma_limit in (1.0, math.inf) and draw(st.booleans()):
        levels[0] = process.sigma_limit  # pure noise
    return levels


def _levels_in_range(
    draw: st.DrawFn, process: Process, gaps: Array, sigma_min: float | None, sigma_max: float | None
) -> Array:
    """Levels from sigma_max to sigma_min; an end that is None is drawn."""
    if sigma_max is None:
        room = math.log10(min(process.sigma_limit, 1e300) / sigma_min) if sigma_min else 0.0
        sigma_max = (sigma_min or 1.0) * 10 ** draw(st.floats(min(0.1, room), min(6.0, room)))
    if sigma_min is None:
        sigma_min = sigma_max / 10 ** draw(st.floats(0.1, 6))
    if not 0 < sigma_min < sigma_max <= process.sigma_limit:
        raise ValueError(
            f"sigma_min must be above 0, below sigma_max and within the process; got {sigma_min} and {sigma_max}"
        )
    part = np.concatenate([[0.0], np.cumsum(gaps)]) / (gaps.sum() if len(gaps) else 1.0)
    levels: Array = sigma_max * (sigma_min / sigma_max) ** part
    levels[-1] = sigma_min
    levels[0] = sigma_max
    return levels


@st.composite
def sigma_curves(
    draw: st.DrawFn,
    /,
    process: Process | None = None,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    steps: int | None = None,
    most: int = 12,
    final_zero: bool | None = None,
) -> Array:
    """Valid levels: smooth, warped or clustered curves, close pairs, jumps over many orders of magnitude.

    Parameters
    ----------
    process : Process or None
        Process of the contract sigmas; None is a process without a range, that of `ksched.VE`.
    sigma_min, sigma_max : float or None
        Last non-zero and first level; None draws it.
    steps : int or None
        Number of steps; None draws 1 to ``most``.
    final_zero : bool or None
        Whether the last level is 0; None draws it.

    Returns
    -------
    ndarray of float64
        Strategy for strictly decreasing float64 arrays that `ksched.build_sampler` accepts as ``sigmas``. Without
        ``sigma_max``, a curve may start at pure noise if the process has such a level.
    """
    process = VE() if process is None else process
    n = draw(st.integers(1, most)) if steps is None else check_steps(steps)
    ends_at_0 = draw(st.booleans()) if final_zero is None else final_zero
    gaps = draw(_gaps(n - 1 if ends_at_0 else n))
    if sigma_min is None and sigma_max is None:
        levels = _levels_of_process(draw, process, gaps)
    else:
        levels = _levels_in_range(draw, process, gaps, sigma_min, sigma_max)
    levels = np.append(levels, 0.0) if ends_at_0 else levels
    hypothesis.assume((np.diff(levels) < 0).all())  # rounding may join levels of a narrow range
    return levels


@st.composite
def grids(draw: st.DrawFn, /, process: Process | None = None, **how: Any) -> Grid:
    """Grids of `sigma_curves` on a process, or on drawn ones.

    Parameters
    ----------
    process : Process or None
        None draws it from `processes`.
    how : object
        As for `sigma_curves`.
    """
    process = draw(processes()) if process is None else process
    return Grid.of(draw(sigma_curves(process, **how)), process)


# The search for a counterexample
def smallest_problem(examples: st.SearchStrategy[T], problem: Callable[[T], str | None], tries: int) -> str | None:
    """The problem of the simplest example that has one, or None; the same in every run."""
    settings = hypothesis.settings(
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=tries,
        phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),  # the explain phase may return a larger example
    )
    try:
        found = hypothesis.find(examples, lambda example: problem(example) is not None, settings=settings)
    except NoSuchExample:
        return None
    return problem(found)
