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
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from scipy.ndimage import zoom

from ksched.names.enums import Dialect, NoiseSchedule
from ksched.processes import Flow, Process, default_process
from ksched.schedules import SCHEDULES, calculate_sigmas, schedule_options
from ksched.schedules.select import FAMILIES
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
    from matplotlib.collections import PatchCollection
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, MaxNLocator, NullLocator
except ImportError as error:
    raise ImportError('pictures need matplotlib: pip install "ksched[plot]"') from error


#: (calls, error) pairs by sampler, then by schedule
Curves = Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]


class ErrorRow(NamedTuple):
    """A row of `error_map`: one sampler at one number of model calls.

    Attributes
    ----------
    name : of the sampler
    errors : by schedule; one alone, under "", for a sampler that takes no schedule; none where it cannot run
    steps, calls : how many it makes
    note : what is written in the row where there are no errors
    """

    name: str
    errors: Mapping[str, float]
    steps: str = ""
    calls: str = ""
    note: str = ""


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


def families(schedules: Sequence[NoiseSchedule | str] = tuple(NoiseSchedule)) -> dict[str, list[NoiseSchedule]]:
    """Schedules by the kind of rule that they follow: headings and what stands under them."""
    members = [NoiseSchedule.parse(name) for name in schedules]
    found = {text: [name for name in members if SCHEDULES[name].family == family] for family, text in FAMILIES.items()}
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


def error_curves(groups: Mapping[str, Curves], *, title: str = "", columns: int = 5) -> Figure:
    """Errors against model calls on logarithmic axes, one panel per sampler with a line per schedule.

    Parameters
    ----------
    groups : by heading, errors that may be compared with each other: sampler to schedule to (model calls, error) pairs
    title : over the whole
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
    heights = [2.5 * n + 0.6 for n in rows]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(2.6 * columns + 0.8, sum(heights) + 1.1), layout="constrained")
        figure.suptitle(title)
        parts = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
        handles: dict[str, Any] = {}
        for part, n, (heading, curves) in zip(parts, rows, groups.items(), strict=True):
            part.suptitle(heading, fontsize=14, x=0.01, ha="left")
            panels = part.subplots(n, columns, squeeze=False, sharex=True, sharey=True)
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


#: inches of `error_map`: a row, a column, the gap between groups of columns, and what lies around the table
_ROW, _COLUMN, _GAP, _LEFT, _RIGHT, _TOP, _BOTTOM = 0.255, 0.43, 0.1, 2.72, 1.2, 2.1, 0.55


def error_map(maps: Mapping[str, Mapping[str, Sequence[ErrorRow]]], *, title: str = "") -> Figure:
    """Errors of every sampler on every schedule as coloured tables of percents, one below the other.

    Parameters
    ----------
    maps : by heading, such as "8 model calls": rows by the heading of their group; "" needs no heading
    title : over the whole

    Returns
    -------
    the tables, coloured by the logarithm of the error on one scale. Columns are grouped as in `families`. The smallest
    error of each kind is framed, where a kind is the groups whose headings end alike: in ", with noise" or not
    """
    names = dict.fromkeys(
        name for groups in maps.values() for rows in groups.values() for r in rows for name in r.errors
    )
    columns: dict[str, list[str]] = {h: [str(n) for n in members if n in names] for h, members in families().items()}
    known = {name for members in columns.values() for name in members}
    columns["Others"] = [*columns.get("Others", []), *(name for name in names if name and name not in known)]
    columns = {heading: members for heading, members in columns.items() if members}
    places: dict[str, float] = {}
    for k, members in enumerate(columns.values()):
        for name in members:
            places[name] = len(places) * _COLUMN + k * _GAP
    width = max(places.values(), default=0.0) + _COLUMN
    heights = [sum(len(rows) + bool(heading) for heading, rows in groups.items()) * _ROW for groups in maps.values()]
    values = [v for groups in maps.values() for rows in groups.values() for r in rows for v in r.errors.values()]
    low = math.log(max(min((v for v in values if v > 0), default=1e-3), 1e-6))
    scale = Normalize(low, max(0.0, low + 1))  # an error as large as the spread of the data is the darkest
    size = (_LEFT + width + _RIGHT, sum(heights) + len(heights) * (_TOP + _BOTTOM) + 0.55)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=size)
        figure.text(0.15 / size[0], 1 - 0.3 / size[1], title, fontsize=17, va="center")
        top = size[1] - 0.55
        for (heading, groups), height in zip(maps.items(), heights, strict=True):
            bottom = top - _TOP - height
            box = (_LEFT / size[0], bottom / size[1], width / size[0], height / size[1])
            axes = figure.add_axes(box, xlim=(0, width), ylim=(height, 0))
            axes.set_axis_off()
            figure.text(0.15 / size[0], (top - 0.35) / size[1], heading, fontsize=24, weight="bold", va="center")
            _error_table(axes, groups, columns, places, scale)
            top = bottom - _BOTTOM
    return figure


def _error_table(
    axes: Axes,
    groups: Mapping[str, Sequence[ErrorRow]],
    columns: Mapping[str, Sequence[str]],
    places: Mapping[str, float],
    scale: Normalize,
) -> None:
    """One table of `error_map`; the axes are in inches, from the top."""
    colours, width, y = mpl.colormaps["viridis_r"], axes.get_xlim()[1], 0.0
    cells: list[Rectangle] = []
    best: dict[bool, tuple[float, Rectangle]] = {}

    def write(x: float, y: float, text: str, **how: Any) -> None:
        axes.text(x, y, text, **{"va": "center", "fontsize": 13.5, "clip_on": False, **how})

    for name, x in places.items():
        write(x + _COLUMN / 2, -0.1, name, rotation=50, ha="left", va="bottom", rotation_mode="anchor", fontsize=14)
    write(width + 0.35, -0.1, "steps", ha="center")
    write(width + 0.92, -0.1, "calls", ha="center")
    for heading, rows in groups.items():
        if heading:
            write(-_LEFT + 0.15, y + _ROW * 0.55, heading, weight="bold", fontsize=14)
            y += _ROW
        for row in rows:
            middle = y + _ROW * 0.53
            write(-0.1, middle, row.name, ha="right", fontsize=14.5, weight="bold" if "" in row.errors else "normal")
            write(width + 0.35, middle, row.steps, ha="center")
            write(width + 0.92, middle, row.calls, ha="center")
            if not row.errors:
                axes.add_patch(Rectangle((0, y), width, _ROW, facecolor="0.93", hatch="////", edgecolor="0.8", lw=0))
                write(width / 2, middle, row.note, ha="center", bbox={"facecolor": "0.97", "lw": 0, "pad": 1.5})
            for name, value in row.errors.items():
                x, wide = (places[name], _COLUMN) if name else (0.0, width)
                share = float(scale(math.log(max(value, 1e-12))))
                cells.append(Rectangle((x, y), wide, _ROW, facecolor=colours(share), edgecolor="white", lw=0.6))
                text = _short(value) if name else f"{_short(value)}   (on its own noise levels)"
                write(x + wide / 2, middle, text, ha="center", color="white" if share > 0.45 else "black")
                noisy = heading.endswith(", with noise")
                if noisy not in best or value < best[noisy][0] * (1 - 1e-9):  # the first of equal ones
                    frame = Rectangle((x, y), wide, _ROW, fill=False, edgecolor="#D55E00", linewidth=3, clip_on=False)
                    best[noisy] = (value, frame)
            y += _ROW
    axes.add_collection(PatchCollection(cells, match_original=True), autolim=False)
    for _, frame in best.values():
        axes.add_patch(frame)
    for heading, names in columns.items():
        left, right = places[names[0]] + 0.04, places[names[-1]] + _COLUMN - 0.04
        axes.plot([left, right], [y + 0.08] * 2, color="0.5", linewidth=1, clip_on=False)
        write(left, y + 0.25, heading.lower(), color="0.3")


def _short(value: float) -> str:
    """An error in percent, in at most three characters where it is at most 10."""
    percent = 100 * value
    if percent >= 999.5:
        return f"{percent / 1000:.0f}k"
    return f"{percent:.0f}" if percent >= 9.95 else f"{percent:.1f}" if percent >= 0.095 else f"{percent:.2f}"


def _ticks(axes: Axes, limits: tuple[float, float]) -> None:
    """Few round numbers of model calls, percents of error."""
    ticks = [t for t in (1, 2, 4, 10, 20, 40, 100, 200, 400, 1000, 2000, 4000) if limits[0] <= t <= limits[1]]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([str(t) for t in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    axes.yaxis.set_minor_locator(NullLocator())
