"""Plots of noise schedules, and of a run from noise to image.

Every plotting function returns a new ``matplotlib.figure.Figure`` and does not touch pyplot or its settings. Write the
figure with ``figure.savefig``.
"""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import zoom

from ksched.names.enums import Dialect, NoiseSchedule
from ksched.names.sampler_type import ScheduleName
from ksched.processes import Flow, Process, default_process
from ksched.schedules.select import calculate_sigmas, schedule_name, schedule_options
from ksched.storage.files import remove_parts, write_whole
from ksched.types import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes


__all__ = [
    "ErrorRow",
    "digit_strip",
    "error_curves",
    "error_map",
    "families",
    "save",
    "schedule_curves",
    "sigma_curves",
]


try:
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

    from ksched.pictures.errors import ErrorRow, error_curves, error_map
    from ksched.pictures.style import STYLE, families, line_look
except ImportError as error:
    raise ImportError('pictures need matplotlib: pip install "ksched[plot]"') from error


def _number(value: float, _: object = None) -> str:
    return f"{value:.3g}"


def _plural(steps: int) -> str:
    return f"{steps} {'step' if steps == 1 else 'steps'}"


def save(figures: Mapping[Path, Figure], dpi: float = 110) -> tuple[Path, ...]:
    """Write figures in the format of their file name, each complete or not at all, and create missing folders.

    Raises
    ------
    OSError
        If a path is a folder or cannot be written.
    ValueError
        If matplotlib does not support the format.
    """
    packed = {}
    for path, figure in figures.items():
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        buffer = BytesIO()
        figure.savefig(buffer, format=path.suffix[1:] or "png", dpi=dpi)
        packed[path] = buffer.getvalue()
    for path, content in packed.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
        remove_parts([path])
    return tuple(packed)


def schedule_curves(
    schedules: Sequence[ScheduleName | NoiseSchedule | str],
    steps: int,
    process: Process | None = None,
    *,
    dialect: Dialect | str = Dialect.KSCHED,
    options: Mapping[str, Any] | None = None,
) -> Figure:
    """Draw sigma, half log-SNR and timestep of schedules against the step, side by side.

    Parameters
    ----------
    schedules : sequence of str
        Names of schedules; up to ten are easy to tell apart.
    steps : int
        Number of steps, at least 1.
    process : Process, optional
        Process that the model was trained on; None is Stable Diffusion's VP process.
    dialect : str
        Program whose definition of the schedules is used.
    **options
        Options of the schedules; each applies to every schedule that has it.

    Returns
    -------
    Figure
        Three panels with one line per schedule. Values that are infinite, or 0 on a logarithmic axis, are left out, and
        so is the timestep at the final sigma of 0, where the model is not called.

    Raises
    ------
    TypeError
        If none of the schedules has an option.
    ValueError
        If there is no schedule, if a dialect gives a sigma that the process does not have, or as `calculate_sigmas`
        raises it.
    """
    process = default_process() if process is None else process
    dialect = Dialect.parse(dialect)
    given = dict(options or {})
    names = list(dict.fromkeys(map(schedule_name, schedules)))
    if not names:
        raise ValueError("schedule_curves needs at least one schedule; got none")
    grids = _grids(names, steps, process, dialect, given)
    linear = isinstance(process, Flow)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(14, 4.9 + 0.3 * math.ceil(len(grids) / 6)), layout="constrained")
        panels = figure.subplots(1, 3)
        for k, (label, sigmas) in enumerate(grids.items()):
            look = line_look(k, len(grids)) | ({} if len(sigmas) <= 60 else {"marker": ""})
            above = sigmas[sigmas > 0]
            lams = np.array([process.level(float(sigma)).lam for sigma in sigmas])
            finite = np.isfinite(lams)
            drawn = sigmas if linear else above
            panels[0].plot(np.arange(len(drawn)), drawn, label=label, **look)
            panels[1].plot(np.flatnonzero(finite), lams[finite], **look)
            panels[2].plot(np.arange(len(above)), process.timestep(above), **look)
        panels[0].set(title="sigma", yscale="linear" if linear else "log")
        panels[1].set(title="half log-SNR")
        panels[2].set(title="timestep")
        if not linear:
            panels[0].yaxis.set_major_formatter(FuncFormatter(_number))
            panels[0].yaxis.set_minor_locator(NullLocator())
        longest = max(map(len, grids.values())) - 1
        for axes in panels:
            axes.set(xlabel="step", xlim=(-0.03 * longest - 0.1, 1.03 * longest + 0.1))
            axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ends = f"sigma {process.sigma_min:.3g} to {process.sigma_max:.3g}"
        words = "" if dialect is Dialect.KSCHED else f", in the dialect {dialect}"
        figure.suptitle(f"Noise schedules: {_plural(steps)} on {type(process).__name__}, {ends}{words}")
        figure.legend(loc="outside lower center", ncols=min(len(grids), 6))
    return figure


def _grids(
    names: Sequence[NoiseSchedule | str], steps: int, process: Process, dialect: Dialect, given: Mapping[str, Any]
) -> dict[str, Array]:
    """Return the sigmas of schedules by the label of their line; each option goes to every schedule that has it."""
    for option in given:
        if not any(option in schedule_options(name) for name in names):
            raise TypeError(f"none of {', '.join(names)} has an option {option!r}")
    grids = {}
    for name in names:
        own = {option: value for option, value in given.items() if option in schedule_options(name)}
        label = " ".join([str(name), *(f"{option}={value}" for option, value in own.items())])
        grids[label] = sigmas = calculate_sigmas(name, steps, process, dialect=dialect, **own)
        if sigmas.max() > process.sigma_limit:
            raise ValueError(
                f"{name} in the dialect {dialect} starts at sigma {sigmas.max():.6g}, but the largest sigma of "
                f"{process!r} is {process.sigma_limit:g}"
            )
    return grids


def sigma_curves(
    schedules: Sequence[ScheduleName | NoiseSchedule | str], steps: int, process: Process | None = None
) -> Figure:
    """Draw the sigmas of schedules, grouped by family.

    Parameters
    ----------
    schedules : sequence of str
        Names of schedules.
    steps : int
        Number of steps, at least 1.
    process : Process, optional
        Process that the model was trained on; None is Stable Diffusion's VP process.

    Returns
    -------
    Figure
        One row per family of schedules: on the left, sigma against the step; on the right, one line per schedule with a
        dot at each sigma. The final sigma of 0 cannot be shown on a logarithmic axis.
    """
    process = default_process() if process is None else process
    groups = families(schedules)
    heights = [max(1.75, 0.34 * len(names)) for names in groups.values()]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(13, sum(heights) + 0.55 * len(groups) + 1.1), layout="constrained")
        grid = figure.subplots(
            len(groups), 2, squeeze=False, sharex="col", height_ratios=heights, width_ratios=(1, 1.15)
        )
        for (curves, rows), (heading, names) in zip(grid, groups.items(), strict=True):
            for k, name in enumerate(names):
                sigmas = calculate_sigmas(name, steps, process)[:-1]
                look = line_look(k, len(names))
                curves.plot(np.arange(steps), sigmas, label=str(name), **look)
                rows.plot(sigmas, np.full(steps, k), label=str(name), **look | {"linewidth": 1, "markersize": 5})
            curves.set(yscale="log", ylabel="sigma")
            curves.set_title(heading, loc="left")
            rows.set(xscale="log")
            rows.set_yticks(range(len(names)), [str(name) for name in names])
            rows.set_ylim(len(names) - 0.5, -0.5)
            rows.grid(axis="y", visible=False)
            for k, tick in enumerate(rows.get_yticklabels()):
                tick.set_color(line_look(k)["color"])
            for axis in (curves.yaxis, rows.xaxis):
                axis.set_major_formatter(FuncFormatter(_number))
                axis.set_minor_locator(NullLocator())
        grid[-1, 0].set_xlabel("step")
        grid[-1, 0].set_xlim(-0.04 * steps - 0.2, steps - 0.8 + 0.04 * steps)
        grid[-1, 0].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        grid[-1, 1].set_xlabel("sigma  (the run goes from right to left)")
        ends = f"sigma {process.sigma_min:.3g} to {process.sigma_max:.3g}"
        figure.suptitle(f"Noise schedules: {_plural(steps)} on {type(process).__name__}, {ends}; after the last dot, 0")
    return figure


def digit_strip(
    states: Array, denoised: Array, titles: Sequence[str], result: Array, *, scales: Sequence[float], title: str = ""
) -> Figure:
    """Draw a run from noise to image: states, the model's predictions for them, and the result.

    Parameters
    ----------
    states, denoised : array
        States and x0 predictions, shape (moments, items, height, width).
    titles : sequence of str
        Title of each moment.
    result : array
        Final samples, shape (items, height, width), with paper -1 and ink 1.
    scales : sequence of float
        Root mean square of the states at each moment, so that all are shown with the same contrast.
    title : str
        Title of the figure.
    """
    moments = len(states)
    with mpl.rc_context({**STYLE, "axes.titlesize": 13}):
        figure = Figure(figsize=(2.0 * moments + 4.6, 4.7), layout="constrained")
        grid = figure.add_gridspec(2, moments + 1, width_ratios=[*[1] * moments, 2.2])
        for k in range(moments):
            above, below = figure.add_subplot(grid[0, k]), figure.add_subplot(grid[1, k])
            _show(above, states[k] / scales[k], spread=2.0)
            _show(below, denoised[k])
            above.set_title(titles[k])
            if k == 0:
                above.set_ylabel("state")
                below.set_ylabel("predicted image")
        last = figure.add_subplot(grid[:, moments])
        _show(last, result)
        last.set_title("result, sorted by digit")
        figure.suptitle(title)
    return figure


def _show(axes: Axes, images: Array, spread: float = 0.95) -> None:
    """Show images side by side in a nearly square block, each enlarged by cubic splines."""
    factor = 8
    columns = math.ceil(math.sqrt(len(images)))
    height, width = (factor * n for n in images.shape[1:])
    gap = factor
    block = np.full((math.ceil(len(images) / columns) * (height + gap) + gap, columns * (width + gap) + gap), -spread)
    for k, image in enumerate(images):
        top, left = gap + k // columns * (height + gap), gap + k % columns * (width + gap)
        block[top : top + height, left : left + width] = zoom(image, factor, order=3, mode="nearest", grid_mode=True)
    axes.imshow(block, cmap="gray_r", vmin=-spread, vmax=spread, interpolation="antialiased")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(True)
    axes.spines[:].set_color("0.8")
