"""Pictures: noise schedules, a run from noise to image, and errors against model calls.

Every function returns a new ``matplotlib.figure.Figure`` and leaves pyplot and its settings alone; ``figure.savefig``
writes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import zoom

from ksched.processes import Process, default_process
from ksched.schedules import calculate_sigmas
from ksched.types import Array, NoiseSchedule

try:
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, MaxNLocator, NullLocator
except ImportError as error:
    raise ImportError('pictures need matplotlib: pip install "ksched[plot]"') from error

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["digit_strip", "error_curves", "sigma_curves"]

#: (calls, error) pairs by sampler, then by schedule
Curves = Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]

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
# Okabe and Ito's colours, told apart by colour-blind readers too; yellow is too pale for a line.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def _look(name: str) -> dict[str, Any]:
    """Colour, marker and layer of a schedule: the same in every picture."""
    k = list(NoiseSchedule).index(NoiseSchedule.parse(name))
    n = len(_COLOURS)
    dashes = (0, (3, 1.5)) if k == 0 else "-"  # simple and sgm_uniform nearly coincide
    return {"color": _COLOURS[k % n], "marker": _MARKERS[(k + k // n) % n], "linestyle": dashes, "zorder": 3 - k / 100}


def _number(value: float, _: object = None) -> str:
    return f"{value:.3g}"


def sigma_curves(schedules: Sequence[NoiseSchedule | str], steps: int, process: Process | None = None) -> Figure:
    """The noise levels that schedules visit.

    Parameters
    ----------
    schedules : which ones
    steps : number of steps, >= 1
    process : what the model was trained on; None is Stable Diffusion's VP table

    Returns
    -------
    left, sigma by step; right, one row per schedule with a dot at each of its levels. The last level, 0, has no place
    on a logarithmic axis
    """
    process = default_process() if process is None else process
    names = [NoiseSchedule.parse(name) for name in schedules]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(12, 4.8), layout="constrained")
        curves, rows = figure.subplots(1, 2, width_ratios=(1, 1.15))
        for k, name in enumerate(names):
            sigmas = calculate_sigmas(name, steps, process)[:-1]
            look = _look(name)
            curves.plot(np.arange(steps), sigmas, label=name.value, markersize=4, **look)
            rows.plot(sigmas, np.full(steps, k), linewidth=1, **look)
        curves.set(yscale="log", xlabel="step", ylabel="sigma", title="sigma by step")
        curves.set_xlim(-0.04 * steps - 0.2, steps - 0.8 + 0.04 * steps)
        curves.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        rows.set(xscale="log", xlabel="sigma  (the run goes from right to left)", title="where the steps go")
        rows.set_yticks(range(len(names)), [name.value for name in names])
        rows.set_ylim(len(names) - 0.5, -0.5)
        rows.grid(axis="y", visible=False)
        for tick, name in zip(rows.get_yticklabels(), names, strict=True):
            tick.set_color(_look(name)["color"])
        for axis in (curves.yaxis, rows.xaxis):
            axis.set_major_formatter(FuncFormatter(_number))
            axis.set_minor_locator(NullLocator())
        plural = "step" if steps == 1 else "steps"
        ends = f"sigma {process.sigma_min:.3g} to {process.sigma_max:.3g}"
        figure.suptitle(f"Noise schedules: {steps} {plural} on {type(process).__name__}, {ends}; after the last dot, 0")
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
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(2.6 * columns + 0.8, 2.6 * sum(rows) + 0.6 * len(rows) + 1.1), layout="constrained")
        figure.suptitle(title)
        parts = figure.subfigures(len(rows), 1, height_ratios=[2.6 * n + 0.6 for n in rows], squeeze=False)[:, 0]
        handles: dict[str, Any] = {}
        for part, n, (heading, curves) in zip(parts, rows, groups.items(), strict=True):
            part.suptitle(heading, fontsize=14, x=0.01, ha="left")
            panels = part.subplots(n, columns, squeeze=False, sharex=True, sharey=True)
            for axes in panels.flat[len(curves) :]:
                axes.set_visible(False)
            for axes, (sampler, lines) in zip(panels.flat, curves.items(), strict=False):
                for schedule, line in lines.items():
                    (handles[schedule],) = axes.plot(*np.transpose(line), **_look(schedule))
                axes.set(xscale="log", yscale="log", xlim=limits[0], ylim=limits[1])
                axes.set_title(sampler, fontsize=13)
                _ticks(axes, limits[0])
            for axes in panels[:, 0]:
                axes.set_ylabel("relative error")
            for axes in panels[-1]:
                axes.set_xlabel("model calls")
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=len(handles), fontsize=13)
    return figure


def _ticks(axes: Axes, limits: tuple[float, float]) -> None:
    """Few round numbers of model calls, percents of error."""
    ticks = [t for t in (1, 2, 4, 10, 20, 40, 100, 200, 400, 1000, 2000, 4000) if limits[0] <= t <= limits[1]]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(FixedFormatter([str(t) for t in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    axes.yaxis.set_minor_locator(NullLocator())
