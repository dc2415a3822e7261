"""Pictures: noise schedules, a run from noise to image, and errors against model calls.

Every function returns a new ``matplotlib.figure.Figure`` and leaves pyplot and its settings alone; ``figure.savefig``
writes it.
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

from ksched.files import remove_parts, write_whole
from ksched.processes import Flow, Process, default_process
from ksched.schedules import SCHEDULES, calculate_sigmas, schedule_options
from ksched.types import Array, Dialect, NoiseSchedule

try:
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, MaxNLocator, NullLocator
except ImportError as error:
    raise ImportError('pictures need matplotlib: pip install "ksched[plot]"') from error

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

__all__ = ["digit_strip", "error_curves", "families", "save", "schedule_curves", "sigma_curves"]

#: (calls, error) pairs by sampler, then by schedule
Curves = Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]
#: error by sampler, then by schedule, at one number of steps
Errors = Mapping[str, Mapping[str, float]]

_STYLE: Any = {
    "font.size": 13,
    "axes.titlesize": 14,
    "axes.labelsize": 13,
    "figure.titlesize": 16,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "0.5",
    "axes.grid": True,
    "grid.color": "0.9",
    "lines.linewidth": 1.8,
    "lines.markersize": 5,
    "legend.frameon": False,
    "savefig.facecolor": "white",
}
# Okabe and Ito's colours, told apart by colour-blind readers too, without yellow, which is too pale for a line; then
# three of Tol's muted ones.
_COLOURS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#56B4E9",
    "#E69F00",
    "#000000",
    "#882255",
    "#999933",
    "#332288",
)
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

_FAMILIES = {
    "power": "Even in some function of sigma",
    "training_table": "Over the training steps",
    "curves": "Curves from 1 to 0",
    "published": "Published tables",
}


def families(schedules: Sequence[NoiseSchedule | str] = tuple(NoiseSchedule)) -> dict[str, list[NoiseSchedule]]:
    """Schedules by the kind of rule that they follow: headings and what stands under them."""
    found: dict[str, list[NoiseSchedule]] = {heading: [] for heading in [*_FAMILIES.values(), "Others"]}
    for name in map(NoiseSchedule.parse, schedules):
        module = SCHEDULES[name].function.__module__.rpartition(".")[2]
        found[_FAMILIES.get(module, "Others")].append(name)
    return {heading: names for heading, names in found.items() if names}


def _look(k: int, count: int = 1) -> dict[str, Any]:
    """Colour and marker of the k-th of ``count`` lines; later ones are thinner and leave equal ones in sight."""
    n = len(_COLOURS)
    share = k / max(count - 1, 1)
    return {
        "color": _COLOURS[k % n],
        "marker": _MARKERS[(k + k // n) % len(_MARKERS)],
        "linewidth": 2.8 - 1.6 * share,
        "markersize": 6.5 - 2.5 * share,
        "zorder": 2 + share / 2,
    }


def _number(value: float, _: object = None) -> str:
    return f"{value:.3g}"


def _plural(steps: int) -> str:
    return f"{steps} {'step' if steps == 1 else 'steps'}"


def save(figures: Mapping[Path, Figure], dpi: float = 110) -> tuple[Path, ...]:
    """Write figures, each file complete or not at all, in the format that its name ends in; folders are made.

    Raises
    ------
    OSError : a path is a folder or cannot be written
    ValueError : a format that matplotlib does not have
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
    schedules: Sequence[NoiseSchedule | str],
    steps: int,
    process: Process | None = None,
    *,
    dialect: Dialect | str = Dialect.KSCHED,
    options: Mapping[str, Any] | None = None,
) -> Figure:
    """Sigma, half log-SNR and timestep of the steps of schedules, side by side.

    Parameters
    ----------
    schedules : which ones; up to ten are told apart at a glance
    steps : number of steps, >= 1
    process : what the model was trained on; None is Stable Diffusion's VP table
    dialect : whose numbers the names mean
    options : of the schedules; each goes to all that have it

    Returns
    -------
    three panels over the step, a line per schedule. What is infinite or 0 on a logarithmic axis is left out, and so is
    the timestep of the last 0, where the model is not called

    Raises
    ------
    TypeError : an option that none of the schedules has
    ValueError : no schedule; levels that the process does not have, as a dialect may give; or as for `calculate_sigmas`
    """
    process = default_process() if process is None else process
    dialect = Dialect.parse(dialect)
    given = dict(options or {})
    names = list(dict.fromkeys(map(NoiseSchedule.parse, schedules)))
    if not names:
        raise ValueError("schedule_curves needs at least one schedule; got none")
    for option in given:
        if not any(option in schedule_options(name) for name in names):
            raise TypeError(f"none of {', '.join(names)} has an option {option!r}")
    grids = {}
    for name in names:
        own = {option: value for option, value in given.items() if option in schedule_options(name)}
        label = " ".join([name.value, *(f"{option}={value}" for option, value in own.items())])
        grids[label] = sigmas = calculate_sigmas(name, steps, process, dialect=dialect, **own)
        if sigmas.max() > process.sigma_limit:
            raise ValueError(
                f"{name} in the dialect of {dialect} goes to sigma {sigmas.max():.6g}, whatever the process; "
                f"{process!r} has none above {process.sigma_limit:g}"
            )
    linear = isinstance(process, Flow)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(14, 4.9 + 0.3 * math.ceil(len(grids) / 6)), layout="constrained")
        panels = figure.subplots(1, 3)
        for k, (label, sigmas) in enumerate(grids.items()):
            look = _look(k, len(grids)) | ({} if len(sigmas) <= 60 else {"marker": ""})
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
        words = "" if dialect is Dialect.KSCHED else f", in the dialect of {dialect}"
        figure.suptitle(f"Noise schedules: {_plural(steps)} on {type(process).__name__}, {ends}{words}")
        figure.legend(loc="outside lower center", ncols=min(len(grids), 6))
    return figure


def sigma_curves(schedules: Sequence[NoiseSchedule | str], steps: int, process: Process | None = None) -> Figure:
    """The noise levels that schedules visit, by the kind of rule.

    Parameters
    ----------
    schedules : which ones
    steps : number of steps, >= 1
    process : what the model was trained on; None is Stable Diffusion's VP table

    Returns
    -------
    a row for each family of schedules: left, sigma by step; right, a line per schedule with a dot at each of its
    levels. The last level, 0, has no place on a logarithmic axis
    """
    process = default_process() if process is None else process
    groups = families(schedules)
    heights = [max(1.75, 0.34 * len(names)) for names in groups.values()]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(13, sum(heights) + 0.55 * len(groups) + 1.1), layout="constrained")
        grid = figure.subplots(
            len(groups), 2, squeeze=False, sharex="col", height_ratios=heights, width_ratios=(1, 1.15)
        )
        for (curves, rows), (heading, names) in zip(grid, groups.items(), strict=True):
            for k, name in enumerate(names):
                sigmas = calculate_sigmas(name, steps, process)[:-1]
                look = _look(k, len(names))
                curves.plot(np.arange(steps), sigmas, label=name.value, **look)
                rows.plot(sigmas, np.full(steps, k), label=name.value, **look | {"linewidth": 1, "markersize": 5})
            curves.set(yscale="log", ylabel="sigma")
            curves.set_title(heading, loc="left")
            rows.set(xscale="log")
            rows.set_yticks(range(len(names)), [name.value for name in names])
            rows.set_ylim(len(names) - 0.5, -0.5)
            rows.grid(axis="y", visible=False)
            for k, tick in enumerate(rows.get_yticklabels()):
                tick.set_color(_look(k)["color"])
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
    """A run from noise to image: what the model saw at some moments, what it predicted there, and the result.

    Parameters
    ----------
    states, denoised : states and x0 predictions, shape (moments, items, height, width)
    titles : what to write over each moment
    result : shape (items, height, width), paper -1 and ink 1
    scales : rms of the states at each moment, to show all of them at one contrast
    title : over the whole
    """
    moments = len(states)
    with mpl.rc_context({**_STYLE, "axes.titlesize": 13}):
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
    """Images side by side in a near-square block, each enlarged by cubic splines on its own."""
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


def error_curves(
    groups: Mapping[str, Curves],
    *,
    maps: Mapping[str, Errors] | None = None,
    title: str = "",
    map_title: str = "",
    curves_title: str = "",
    columns: int = 5,
) -> Figure:
    """Errors against model calls on logarithmic axes, one panel per sampler with a line per schedule.

    Parameters
    ----------
    groups : by heading, errors that may be compared with each other: sampler to schedule to (model calls, error) pairs
    maps : by the same headings, errors at one number of steps, to be drawn as a coloured table above the panels, its
        columns sorted by the error of the first heading
    title : over the whole
    map_title, curves_title : over the tables and over the panels of each heading
    columns : panels side by side
    """
    columns = min(columns, max(map(len, groups.values())))
    rows = [math.ceil(len(curves) / columns) for curves in groups.values()]
    points = [
        point for curves in groups.values() for lines in curves.values() for line in lines.values() for point in line
    ]
    calls = sorted({point[0] for point in points})
    errors = [error for _, error in points if error > 0]
    limits = (calls[0] / 1.15, calls[-1] * 1.15), (min(errors) / 1.4, max(errors) * 1.4)
    shown = dict.fromkeys(schedule for curves in groups.values() for lines in curves.values() for schedule in lines)
    looks = {schedule: _look(k, len(shown)) for k, schedule in enumerate(shown)}
    tables = [0.3 * len((maps or {}).get(heading, {})) for heading in groups]
    tables = [height + 1.6 if height else 0.0 for height in tables]
    heights = [2.5 * n + 0.6 + table for n, table in zip(rows, tables, strict=True)]
    with mpl.rc_context(_STYLE):
        width = max(2.6 * columns + 0.8, 14.2 if any(tables) else 0)
        figure = Figure(figsize=(width, sum(heights) + 1.1), layout="constrained")
        figure.suptitle(title)
        parts = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
        handles: dict[str, Any] = {}
        for part, n, table, (heading, curves) in zip(parts, rows, tables, groups.items(), strict=True):
            part.suptitle(heading, fontsize=14, x=0.01, ha="left", weight="bold" if table else "normal")
            place = part
            if table:
                upper, place = part.subfigures(2, 1, height_ratios=(table, 2.5 * n + 0.6))
                assert maps is not None
                _error_map(upper, maps[heading], _ranked(next(iter(maps.values()))), limits[1], map_title)
                place.suptitle(curves_title, fontsize=12, x=0.01, ha="left")
            panels = place.subplots(n, columns, squeeze=False, sharex=True, sharey=True)
            for axes in panels.flat[len(curves) :]:
                axes.set_visible(False)
            for axes, (sampler, lines) in zip(panels.flat, curves.items(), strict=False):
                for schedule, line in lines.items():
                    (handles[schedule],) = axes.plot(*np.transpose(line), **looks[schedule])
                axes.set(xscale="log", yscale="log", xlim=limits[0], ylim=limits[1])
                axes.set_title(sampler, fontsize=13)
                _ticks(axes, limits[0])
            for axes in panels[:, 0]:
                axes.set_ylabel("relative error")
            for axes in panels[-1]:
                axes.set_xlabel("model calls")
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=min(len(handles), 8), fontsize=13
        )
    return figure


def _ranked(errors: Errors) -> list[str]:
    """Schedules from the smallest mean log error to the largest."""
    names = dict.fromkeys(name for row in errors.values() for name in row)
    means = {
        name: np.mean([math.log(max(row[name], 1e-12)) for row in errors.values() if name in row]) for name in names
    }
    return sorted(names, key=lambda name: float(means[name]))


def _error_map(
    place: SubFigure, errors: Errors, schedules: Sequence[str], limits: tuple[float, float], title: str
) -> None:
    """Errors as a table of percents, coloured by their logarithm, the smallest framed."""
    values = np.array([[row.get(name, math.nan) for name in schedules] for row in errors.values()])
    axes = place.subplots()
    low = math.log(np.nanmin(np.maximum(values, limits[0])))
    high = max(0.0, low + 1)  # an error as large as the spread of the data is as dark as it gets
    axes.imshow(np.log(np.maximum(values, limits[0])), cmap="viridis_r", vmin=low, vmax=high, aspect="auto")
    for (i, k), value in np.ndenumerate(values):
        if not math.isnan(value):
            dark = (math.log(max(value, limits[0])) - low) / (high - low) > 0.45
            axes.text(k, i, _percent(value), ha="center", va="center", fontsize=10, color="white" if dark else "black")
    i, k = np.unravel_index(np.nanargmin(values), values.shape)
    axes.add_patch(Rectangle((float(k) - 0.5, float(i) - 0.5), 1, 1, fill=False, edgecolor="#D55E00", linewidth=2.5))
    axes.set_yticks(range(len(errors)), list(errors))
    axes.set_xticks(range(len(schedules)), list(schedules), rotation=40, ha="left", rotation_mode="anchor")
    axes.xaxis.tick_top()
    axes.tick_params(length=0, labelsize=11)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(title, loc="left", fontsize=12)


def _percent(value: float) -> str:
    return f"{100 * value:.{2 if value < 0.01 else 1 if value < 0.1 else 0}f}"


def _ticks(axes: Axes, limits: tuple[float, float]) -> None:
    """Few round numbers of model calls, percents of error."""
    ticks = [t for t in (1, 2, 4, 10, 20, 40, 100, 200, 400, 1000, 2000, 4000) if limits[0] <= t <= limits[1]]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([str(t) for t in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    axes.yaxis.set_minor_locator(NullLocator())
