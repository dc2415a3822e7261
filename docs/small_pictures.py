"""Small plots for the pages of samplers and schedules: one line highlighted, readable on white and on black."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from ksched import VP, Flow, calculate_sigmas
from ksched.pictures.plots import families
from ksched.schedules import SCHEDULES
from ksched.storage.files import write_whole

__all__ = ["RESULTS", "THEME", "draw_errors", "draw_schedules", "error_rows", "measured_as", "schedule_families"]

STEPS = 20
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results" / "accuracy.json"
RANGES = {"sd": "Stable Diffusion", "edm": "EDM", "flow": "flow matching"}
BLUE, GREY = "#3B8EDB", "#808080"  # visible on white and on black
#: no background, and grey text that is legible on light and dark pages
THEME: dict[Any, Any] = {
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "axes.edgecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.titlecolor": GREY,
    "text.color": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "legend.framealpha": 0.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 10.5,
    "axes.prop_cycle": cycler(color=[BLUE, "#E0662F", "#3FA66B", "#D64550", "#8A6FD1", "#9A8C7C"]),
    "svg.fonttype": "none",
    "svg.hashsalt": "ksched",
}
Curve = dict[int, float]


@cache
def error_rows() -> dict[str, dict[str, Curve]]:
    """Return the smallest error of every sampler over its options and schedules, by range and NFE."""
    data = json.loads(RESULTS.read_text(encoding="utf-8"))
    found: dict[str, dict[str, Curve]] = {}
    for name in RANGES:
        least: defaultdict[str, Curve] = defaultdict(dict)
        for calls, cell in data["ranges"][name].items():
            for sampler, (_, error) in cell["samplers"].items():
                curve = least[sampler.partition(":")[0]]
                curve[int(calls)] = min(error, curve.get(int(calls), np.inf))
        found[name] = dict(least)
    return found


@cache
def measured_as() -> Mapping[str, str]:
    """Map a sampler to the one under whose name it was measured because their plans are equal."""
    same = json.loads(RESULTS.read_text(encoding="utf-8"))["same"]
    return {other.partition(":")[0]: name.partition(":")[0] for name, others in same.items() for other in others}


def drawn(axes: Axes, curves: Iterable[Sequence[tuple[float, float]]], title: str) -> None:
    """Draw all curves in grey, as a background."""
    axes.add_collection(LineCollection(list(curves), colors=GREY, alpha=0.35, linewidths=0.8))
    axes.set_title(title, fontsize=10.5)


def write_each(folder: Path, figure: Figure, lines: Mapping[str, Sequence[Sequence[tuple[float, float]]]]) -> None:
    """Write a file per name: the figure, drawn once, with the name's own line on top of each panel."""
    buffer = StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    picture = re.sub(r"(\.\d\d)\d+", r"\1", buffer.getvalue())
    height, scale = figure.get_figheight() * 72, 72 / figure.dpi
    for name, panels in lines.items():
        parts = []
        for axes, line in zip(figure.axes, panels, strict=True):
            points = [(x * scale, height - y * scale) for x, y in axes.transData.transform(np.reshape(line, (-1, 2)))]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{BLUE}" stroke-width="2.2"/>')
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{BLUE}"/>' for x, y in points]
        text = picture.replace("</svg>", "\n".join([*parts, "</svg>"]))
        write_whole(folder / f"{name}.svg", text.encode())


def draw_errors(folder: Path, names: Sequence[str]) -> set[str]:
    """Draw error against NFE for every measured sampler; return their names."""
    with mpl.rc_context(THEME):
        figure = Figure(figsize=(6.2, 2.4), layout="constrained")
        for axes, (key, title) in zip(figure.subplots(1, 3, sharey=True), RANGES.items(), strict=True):
            drawn(axes, [sorted(curve.items()) for curve in error_rows()[key].values()], title)
            axes.set(xscale="log", yscale="log", xlim=(4.6, 22), ylim=(2e-3, 2), xlabel="model calls")
            axes.set_xticks([5, 8, 12, 20], ["5", "8", "12", "20"])
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.grid(True, axis="y")
        figure.axes[0].set_ylabel("error")
        figure.axes[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        own = {name: [error_rows()[key].get(measured_as().get(name, name), {}) for key in RANGES] for name in names}
        measured = {name: [sorted(c.items()) for c in curves] for name, curves in own.items() if any(curves)}
        write_each(folder, figure, measured)
    return set(measured)


def draw_schedules(folder: Path) -> None:
    """Draw the sigmas of every schedule among all others, on VP and on flow."""
    processes = {"VP: sigma by step": VP(), "Flow: sigma by step": Flow()}
    lines: dict[str, list[Sequence[tuple[float, float]]]] = {str(name): [] for name in SCHEDULES}
    with mpl.rc_context(THEME):
        figure = Figure(figsize=(5.6, 2.3), layout="constrained")
        for axes, (title, process) in zip(figure.subplots(1, 2), processes.items(), strict=True):
            flow = isinstance(process, Flow)
            for name in SCHEDULES:
                sigmas = calculate_sigmas(name, STEPS, process)[: None if flow else -1]
                lines[str(name)].append(list(enumerate(map(float, sigmas))))
            drawn(axes, [line[-1] for line in lines.values()], title)
            high = max(y for line in lines.values() for _, y in line[-1])
            axes.set(yscale="linear" if flow else "log", xticks=range(0, STEPS + 1, 5), xlim=(-0.7, STEPS + 0.7))
            axes.set_ylim((-0.03, 1.05) if flow else (0.01, 2 * high))
            if not flow:
                axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        write_each(folder, figure, lines)


def schedule_families() -> Figure:
    """Draw sigma against the step for every schedule, with one panel per family."""
    groups = families(list(SCHEDULES))
    rows = -(-len(groups) // 2)
    with mpl.rc_context({**THEME, "font.size": 10}):
        figure = Figure(figsize=(6.6, 2.75 * rows), layout="constrained")
        panels = figure.subplots(rows, 2, sharex=True, sharey=True, squeeze=False).flat
        for axes, (heading, names) in zip(panels, groups.items(), strict=False):
            for k, name in enumerate(names):
                sigmas = calculate_sigmas(name, STEPS, VP())[:-1]
                look = {"color": f"C{k % 6}", "linestyle": ("-", "--")[k >= 6]}
                axes.plot(np.arange(len(sigmas)), sigmas, label=str(name), linewidth=1.6, **look)
            axes.set_yscale("log")
            axes.set_title(heading, fontsize=10)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.legend(fontsize=8, frameon=False, ncols=1 + (len(names) > 5), loc="lower left")
        for axes in list(panels):
            axes.set_axis_off()
    return figure
