"""Where in a run something is: the step of a sigma, of a share of the model's time, or of a timestep."""

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
    """The step at which a run passes a place: how many of its steps start there or before.

    Parameters
    ----------
    sigmas : levels of the run, strictly decreasing
    sigma : the place as a noise level; a step that starts at that very level counts
    percent : the place as a share of the model's time, 0 to 1, as programs mean "start at 20 %"; not of the steps
    timestep : the place as what the network is told
    process : what the model was trained on, for percent and timestep

    Returns
    -------
    0 to the number of steps; what `split` takes, or what to compare `ksched.Run.step` with

    Raises
    ------
    TypeError, ValueError : levels out of order; not exactly one place; no process where one is needed

    Notes
    -----
    ``percent`` is that of ComfyUI's start_percent and end_percent, see `ksched.Process.sigma_after`. A boundary of
    Wan 2.2, 0.875, is a sigma, or the timestep 875.

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
        raise TypeError(f"step_at takes one of sigma, percent and timestep; got {' and '.join(given) or 'none'}")
    limits = (0.0, 1.0) if percent is not None else (-math.inf, math.inf)
    (name,) = given
    place: float = Option(name, float, None, *limits).check("step_at", places[name])
    if name != "sigma":
        if process is None:
            raise TypeError(f"step_at: a {name} is one of the model's time; give process=")
        check_process(process)
        place = process.sigma_after(place) if name == "percent" else float(process.sigma(place))
    starts = values[:-1]
    return int(np.count_nonzero(starts >= place * (1 - 1e-9)))  # but for rounding


def split_at(sigmas: ArrayLike, sigma: float) -> tuple[Array, Array]:
    """`split` at a noise level: the steps that start at it or above, and the rest. No level is inserted.

    Parameters
    ----------
    sigmas : levels, strictly decreasing
    sigma : the boundary; a step that starts at that very level belongs to the first part

    Returns
    -------
    (high, low): the last level of ``high``, the first below the boundary, is the first of ``low``

    Raises
    ------
    TypeError, ValueError : levels out of order, a boundary that is no number

    Notes
    -----
    So models with an expert for high noise and one for low noise are run, such as Wan 2.2 with its boundary 0.875.

    Examples
    --------
    >>> import ksched
    >>> high, low = ksched.schedules.split_at([1, 0.9, 0.8, 0.5, 0], 0.875)
    >>> high.tolist(), low.tolist()
    ([1.0, 0.9, 0.8], [0.8, 0.5, 0.0])
    """
    return split(sigmas, step_at(sigmas, sigma=sigma))
