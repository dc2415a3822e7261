"""Orders in which the frames of a clip are denoised: tables of step numbers, and the model calls they imply."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ksched.options import check_whole

__all__ = ["Order", "Table", "autoregressive", "check_table", "order_of_offset", "order_of_table", "pyramid"]


#: the number of steps that each frame has made at each row, shape (rows, frames)
Table: TypeAlias = npt.NDArray[np.int64]


def pyramid(steps: int, frames: int, *, lag: int = 1, context: int = 0) -> Table:
    """The table in which each frame lags some steps behind the one before it.

    Parameters
    ----------
    steps : int
        Number of steps of the sampler.
    frames : int
        Number of frames of the clip.
    lag : int
        Number of steps by which each frame lags; 0 denoises all frames at once.
    context : int
        Number of frames that are given clean; the next frame starts at once.

    Returns
    -------
    array of int64, shape (rows, frames), for ``ksched.frames(..., schedule=...)``

    Raises
    ------
    TypeError, ValueError
        For numbers that are not whole, or are out of range.

    Examples
    --------
    >>> import ksched
    >>> ksched.joint_runs.pyramid(3, 3)
    array([[0, 0, 0],
           [1, 0, 0],
           [2, 1, 0],
           [3, 2, 1],
           [3, 3, 2],
           [3, 3, 3]])
    """
    moving = _checked(steps, frames, context)
    check_whole("lag", lag, 0)
    row = np.arange(steps + lag * (moving - 1) + 1)[:, None]
    return _with_context(np.clip(row - lag * np.arange(moving), 0, steps), steps, context)


def autoregressive(steps: int, frames: int, *, block: int = 1, context: int = 0) -> Table:
    """The table in which frames are finished one after another, or block by block.

    Parameters
    ----------
    steps, frames, context : as for `pyramid`
    block : int
        Number of frames denoised at once; the last block has the remaining frames.

    Returns
    -------
    array of int64, as for `pyramid`

    Raises
    ------
    TypeError, ValueError
        As for `pyramid`.

    Examples
    --------
    >>> import ksched
    >>> ksched.joint_runs.autoregressive(2, 4, block=2, context=1)
    array([[2, 0, 0, 0],
           [2, 1, 1, 0],
           [2, 2, 2, 0],
           [2, 2, 2, 1],
           [2, 2, 2, 2]])
    """
    moving = _checked(steps, frames, context)
    check_whole("block", block, 1)
    place = np.arange(moving) // block
    row = np.arange(steps * (int(place[-1]) + 1) + 1)[:, None]
    return _with_context(np.clip(row - steps * place, 0, steps), steps, context)


def _checked(steps: int, frames: int, context: int) -> int:
    """Number of frames that are not context."""
    check_whole("steps", steps, 1)
    check_whole("frames", frames, 1)
    _check_context(context, frames)
    return frames - context


def _check_context(context: int, frames: int) -> None:
    check_whole("context", context, 0)
    if context >= frames:
        raise ValueError(f"context must leave a frame to denoise: at most {frames - 1} of {frames}; got {context}")


def _with_context(table: Table, steps: int, context: int) -> Table:
    return np.hstack([np.full((len(table), context), steps, dtype=np.int64), table])


@dataclass(frozen=True)
class Order:
    """The frames that advance at each model call.

    Attributes
    ----------
    begins : tuple of int
        The step at which each frame starts; the number of steps for a clean frame.
    calls : tuple of tuple of int
        For each tick, and once more for the end, the number of model calls that each frame has answered.
    """

    begins: tuple[int, ...]
    calls: tuple[tuple[int, ...], ...]


def order_of_offset(offset: int, context: int, frames: int, steps: int, calls: int) -> Order:
    """The order in which each frame starts some ticks after the one before it.

    Parameters
    ----------
    offset : int
        Number of ticks.
    context : int
        Number of clean frames; the next frame starts at once.
    frames : int
        Number of frames of the clip.
    steps, calls : int
        Number of steps of the sampler, and of its model calls.
    """
    check_whole("offset", offset, 0)
    _check_context(context, frames)
    starts = [offset * (k - context) for k in range(frames)]
    ticks = max(starts) + calls
    answered = tuple(
        tuple(0 if k < context else min(max(tick - starts[k], 0), calls) for k in range(frames))
        for tick in range(ticks + 1)
    )
    return Order((steps,) * context + (0,) * (frames - context), answered)


def order_of_table(table: Table, call_steps: Sequence[Sequence[int]]) -> Order:
    """The order in which, between two rows of a table, each frame makes its steps' calls and waits for the others.

    Parameters
    ----------
    table : ndarray
        From `check_table`.
    call_steps : sequence of sequence of int
        For each frame, the step of each of its calls, non-decreasing.
    """
    now = [0] * len(call_steps)
    answered = [tuple(now)]
    for row in table.tolist():
        goals = [bisect_left(steps, goal) for steps, goal in zip(call_steps, row, strict=True)]
        while any(done < goal for done, goal in zip(now, goals, strict=True)):
            now = [min(done + 1, goal) if done < goal else done for done, goal in zip(now, goals, strict=True)]
            answered.append(tuple(now))
    return Order(tuple(table[0].tolist()), tuple(answered))


def check_table(table: Any, frames: int, steps: int) -> Table:
    """A table of step numbers as int64, or an error that says what is wrong with it.

    Raises
    ------
    ValueError
        For anything that is not a table of whole numbers from 0 to ``steps`` with a column per frame; a column that
        decreases; a last row that is not ``steps`` everywhere; nothing to denoise.
    """
    wanted = f"schedule must be a table of step numbers from 0 to {steps}, of shape (rows, {frames})"
    try:
        values = np.asarray(table.tolist() if hasattr(table, "tolist") else table)
    except ValueError:
        raise ValueError(f"{wanted}; its rows have different lengths") from None
    if values.ndim != 2 or values.shape[1] != frames or not len(values) or values.dtype.kind not in "iu":
        raise ValueError(f"{wanted}; got shape {values.shape}, {values.dtype}")
    values = values.astype(np.int64)
    if (outside := np.argwhere((values < 0) | (values > steps))).size:
        row, frame = outside[0]
        raise ValueError(f"{wanted}; got {values[row, frame]} in row {row} for frame {frame}")
    if (falling := np.argwhere(np.diff(values, axis=0) < 0)).size:
        row, frame = falling[0]
        raise ValueError(
            f"schedule must not decrease in a column, because a frame never goes back; frame {frame} has "
            f"{values[row, frame]} "
            f"and then {values[row + 1, frame]} in row {row + 1}"
        )
    if (values[-1] != steps).any():
        frame = int(np.flatnonzero(values[-1] != steps)[0])
        raise ValueError(
            f"the last row of schedule must be {steps} for every frame; got {values[-1, frame]} for frame {frame}"
        )
    if (values[0] == steps).all():
        raise ValueError(f"the first row of schedule must leave something to denoise; it has {steps} for every frame")
    return values
