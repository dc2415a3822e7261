"""Plots of errors: against NFE, and for every sampler on every schedule."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.collections import PatchCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, NullLocator

from ksched.pictures.style import STYLE, families, line_look

if TYPE_CHECKING:
    from matplotlib.axes import Axes


__all__ = ["ErrorRow", "error_curves", "error_map"]


#: (calls, error) pairs by sampler, then by schedule
Curves = Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]


class ErrorRow(NamedTuple):
    """A row of `error_map`: one sampler at one NFE.

    Attributes
    ----------
    name : str
        Name of the sampler.
    errors : mapping of str to float
        Errors by schedule. A sampler that takes no schedule has one error, under "". Empty if it cannot run.
    steps, calls : int
        Number of steps and model calls.
    note : str
        Text for a row without errors.
    """

    name: str
    errors: Mapping[str, float]
    steps: str = ""
    calls: str = ""
    note: str = ""


def error_curves(groups: Mapping[str, Curves], *, title: str = "", columns: int = 5) -> Figure:
    """Draw errors against NFE on logarithmic axes, with one panel per sampler and one line per schedule.

    Parameters
    ----------
    groups : mapping of str to mapping
        By heading, groups of comparable errors: for each sampler and schedule, a list of (model calls, error).
    title : str
        Title of the figure.
    columns : int
        Number of panels in a row.
    """
    columns = min(columns, max(map(len, groups.values())))
    rows = [math.ceil(len(curves) / columns) for curves in groups.values()]
    lines = [each for curves in groups.values() for each in curves.values()]
    names = dict.fromkeys(schedule for each in lines for schedule in each)
    looks = {schedule: line_look(k, len(names)) for k, schedule in enumerate(names)}
    limits = _limits([point for each in lines for line in each.values() for point in line])
    heights = [2.5 * n + 0.6 for n in rows]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(2.6 * columns + 0.8, sum(heights) + 1.1), layout="constrained")
        figure.suptitle(title)
        parts = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
        handles: dict[str, Any] = {}
        for part, n, (heading, curves) in zip(parts, rows, groups.items(), strict=True):
            part.suptitle(heading, fontsize=14, x=0.01, ha="left")
            panels = part.subplots(n, columns, squeeze=False, sharex=True, sharey=True)
            handles |= _error_panels(panels, curves, looks, limits)
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=min(len(handles), 8), fontsize=13
        )
    return figure


def _limits(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the limits of the axes for points (model calls, error); errors of 0 do not fit on a logarithmic axis."""
    calls, errors = [count for count, _ in points], [error for _, error in points if error > 0]
    return (min(calls) / 1.15, max(calls) * 1.15), (min(errors) / 1.4, max(errors) * 1.4)


def _error_panels(
    panels: Any,
    curves: Curves,
    looks: Mapping[str, Mapping[str, Any]],
    limits: tuple[tuple[float, float], tuple[float, float]],
) -> dict[str, Any]:
    """Draw the panels of one group of `error_curves`; return a legend handle for every schedule."""
    handles = {}
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
    return handles


#: sizes in `error_map`, in inches: row, column, gap between groups of columns, margins
_ROW, _COLUMN, _GAP, _LEFT, _RIGHT, _TOP, _BOTTOM = 0.255, 0.43, 0.1, 2.72, 1.2, 2.1, 0.55


def error_map(maps: Mapping[str, Mapping[str, Sequence[ErrorRow]]], *, title: str = "") -> Figure:
    """Draw errors of every sampler on every schedule as coloured tables of percentages, one below the other.

    Parameters
    ----------
    maps : mapping of str to mapping
        Rows by heading of the table, such as "8 model calls", and by heading of their group; "" shows no heading.
    title : str
        Title of the figure.

    Returns
    -------
    Figure
        The tables, coloured by the logarithm of the error on one scale. Columns are grouped as in `families`. The
        smallest error is framed, once among groups whose heading ends in ", with noise" and once among the others.
    """
    rows = [row for groups in maps.values() for members in groups.values() for row in members]
    columns = _columns(dict.fromkeys(name for row in rows for name in row.errors))
    places: dict[str, float] = {}
    for k, names in enumerate(columns.values()):
        for name in names:
            places[name] = len(places) * _COLUMN + k * _GAP
    width = max(places.values(), default=0.0) + _COLUMN
    heights = [_height(groups) for groups in maps.values()]
    positive = [value for row in rows for value in row.errors.values() if value > 0]
    low = math.log(max(min(positive, default=1e-3), 1e-6))
    scale = Normalize(low, max(0.0, low + 1))  # an error as large as the spread of the data is the darkest
    size = (_LEFT + width + _RIGHT, sum(heights) + len(heights) * (_TOP + _BOTTOM) + 0.55)
    with mpl.rc_context(STYLE):
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


def _columns(names: Collection[str]) -> dict[str, list[str]]:
    """Return the schedules by heading of their columns: the families, then schedules outside all families."""
    columns = {heading: [str(n) for n in members if n in names] for heading, members in families().items()}
    known = {name for members in columns.values() for name in members}
    columns["Others"] = [*columns.get("Others", []), *(name for name in names if name and name not in known)]
    return {heading: members for heading, members in columns.items() if members}


def _height(groups: Mapping[str, Sequence[ErrorRow]]) -> float:
    """Return the height of a table in inches: its rows and the headings of its groups."""
    return sum(len(rows) + bool(heading) for heading, rows in groups.items()) * _ROW


def _error_table(
    axes: Axes,
    groups: Mapping[str, Sequence[ErrorRow]],
    columns: Mapping[str, Sequence[str]],
    places: Mapping[str, float],
    scale: Normalize,
) -> None:
    """Draw one table of `error_map`; the axes count inches from the top."""
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
                if noisy not in best or value < best[noisy][0] * (1 - 1e-9):  # of equal errors, the first
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
    """Format an error in percent, with at most three characters for errors up to 10."""
    percent = 100 * value
    if percent >= 999.5:
        return f"{percent / 1000:.0f}k"
    return f"{percent:.0f}" if percent >= 9.95 else f"{percent:.1f}" if percent >= 0.095 else f"{percent:.2f}"


def _ticks(axes: Axes, limits: tuple[float, float]) -> None:
    """Set the ticks: a few round numbers of model calls, and errors in percent."""
    ticks = [t for t in (1, 2, 4, 10, 20, 40, 100, 200, 400, 1000, 2000, 4000) if limits[0] <= t <= limits[1]]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([str(t) for t in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    axes.yaxis.set_minor_locator(NullLocator())
