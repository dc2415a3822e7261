"""The plot of the landing page: error against NFE, from the recorded benchmarks."""

from __future__ import annotations

import json

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from small_pictures import RESULTS, THEME, error_rows

__all__ = ["landing"]

COLOURS = {"euler": "#9A8C7C", "dpmpp_2m": "#8A6FD1", "best pair in ComfyUI": "#3B8EDB", "auto": "#E0662F"}


def landing() -> Figure:
    """Draw error against NFE: two samplers with their best schedules, ComfyUI's best pair, and `auto`."""
    tuned = json.loads(RESULTS.with_name("tuned.json").read_text(encoding="utf-8"))["auto"]["sd"]
    seed = str(json.loads(RESULTS.read_text(encoding="utf-8"))["seed"])
    curves = {name: error_rows()["sd"][name] for name in ("euler", "dpmpp_2m")}
    curves["best pair in ComfyUI"] = {int(calls): cell["peer"]["error"] for calls, cell in tuned.items()}
    curves["auto"] = {int(calls): cell["seeds"][seed]["main"] for calls, cell in tuned.items()}
    with mpl.rc_context({**THEME, "font.size": 12}):
        figure = Figure(figsize=(5.8, 3.3), layout="constrained")
        axes = figure.subplots()
        for name, curve in curves.items():
            calls, errors = zip(*sorted(curve.items()), strict=True)
            axes.plot(calls, errors, "o-", color=COLOURS[name], label=name, linewidth=2.4, markersize=6)
        axes.set(xscale="log", yscale="log", xlabel="model calls (NFE)", ylabel="error")
        axes.set_xticks(calls, [str(n) for n in calls])
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.grid(True, axis="y")
        axes.legend(frameon=False)
    return figure
