"""Positions in a run: the step at a sigma, at a share of the model's time, or at a timestep."""

from __future__ import annotations

import math

import numpy as np

from ksched.options import Option
from ksched.processes import Process
from ksched.processes.base import check_process
from ksched.schedules.grid import check_sigmas
from ksched.schedules.transforms import split
from ksched.types import Array, ArrayLike

__all__ = ["split_at", "step_at"]


def step_at(
    sigmas: ArrayLike,
    *,
    sigma: float | None = None,
    percent: float | None = None,
    timestep: float | None = None,
    process: Process | None = None,
) -> int:
    """The step at which a run passes a position: the number of steps that start there or earlier.

    Parameters
    ----------
    sigmas : array_like
        Levels of the run, strictly decreasing.
    sigma : float or None
        The position as a noise level; a step that starts exactly at this level counts.
    percent : float or None
        The position as a share of the model's time, 0 to 1, as in "start at 20 %"; not a share of the steps.
    timestep : float or None
        The position as a timestep of the network.
    process : Process or None
        The noise process that the model was trained on; needed for percent and timestep.

    Returns
    -------
    0 to the number of steps; pass it to `split`, or compare `ksched.Run.step` with it

    Raises
    ------
    TypeError, ValueError
        For levels out of order; none or several positions; no process where one is needed.

    Notes
    -----
    ``percent`` is the meaning of ComfyUI's start_percent and end_percent, see `ksched.Process.sigma_after`. Wan 2.2's
    boundary, 0.875, is a sigma; as a timestep it is 875.

    Examples
    --------
    >>> import ksched
    >>> levels = ksched.calculate_sigmas("simple", 8, ksched.Flow(5.0))
    >>> ksched.schedules.step_at(levels, sigma=0.875)
    4
    >>> ksched.schedules.step_at(levels, timestep=875, process=ksched.Flow(5.0))
    4
    >>> ksched.schedules.step_at(levels, percent=0.25, process=ksched.Flow(5.0))
    3
    """
    values = check_sigmas(sigmas, math.inf)
    places = {"sigma": sigma, "percent": percent, "timestep": timestep}
    given = [name for name, value in places.items() if value is not None]
    if len(given) != 1:
        raise TypeError(
            f"step_at takes exactly one of sigma, percent and timestep; got {' and '.join(given) or 'none'}"
        )
    limits = (0.0, 1.0) if percent is not None else (-math.inf, math.inf)
    (name,) = given
    place: float = Option(name, float, None, *limits).check("step_at", places[name])
    if name != "sigma":
        if process is None:
            raise TypeError(f"step_at: a {name} needs a process, which defines the model's time; give process=")
        check_process(process)
        place = process.sigma_after(place) if name == "percent" else float(process.sigma(place))
    starts = values[:-1]
    return int(np.count_nonzero(starts >= place * (1 - 1e-9)))  # tolerance for rounding


def split_at(sigmas: ArrayLike, sigma: float) -> tuple[Array, Array]:
    """`split` at a noise level: the steps that start at it or above, and the rest. It inserts no level.

    Parameters
    ----------
    sigmas : array_like
        Levels, strictly decreasing.
    sigma : float
        The boundary; a step that starts exactly at this level belongs to the first part.

    Returns
    -------
    (high, low): the last level of ``high``, the first one below the boundary, is also the first of ``low``

    Raises
    ------
    TypeError, ValueError
        For levels out of order, a boundary that is not a number.

    Notes
    -----
    Use it for models with one expert for high noise and one for low noise, such as Wan 2.2 with its boundary 0.875.

    Examples
    --------
    >>> import ksched
    >>> high, low = ksched.schedules.split_at([1, 0.9, 0.8, 0.5, 0], 0.875)
    >>> high.tolist(), low.tolist()
    ([1.0, 0.9, 0.8], [0.8, 0.5, 0.0])
    """
    return split(sigmas, step_at(sigmas, sigma=sigma))
