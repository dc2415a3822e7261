"""The README's plot of error against NFE: ``python docs/error_by_nfe.py`` writes it.

The numbers come from ``benchmarks/results/``; ``python -m nox -s bench -- accuracy`` and ``-- tuned`` measure them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["curves", "draw"]

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "error_by_nfe.png"
RESULTS = ROOT / "benchmarks" / "results"

#: title of a range, and the most common combinations of sampler and schedule on it
RANGES = {
    "sd": ("Stable Diffusion's noise levels", "euler/normal", "dpmpp_2m/karras"),
    "flow": ("Flow matching", "euler/simple@3", "dpmpp_2m/simple@3"),
}

#: colour and style of each line, readable on white and on black
LOOKS: dict[str, dict[str, Any]] = {
    "euler": {"color": "#8A8A8A", "linewidth": 1.6},
    "dpmpp_2m": {"color": "#8F7BD0", "linewidth": 1.6},
    "best in ComfyUI": {"color": "#2E8FD6", "linewidth": 1.8, "linestyle": (0, (4, 2))},
    "auto": {"color": "#E0641A", "linewidth": 3.0},
}
_GREY = "#7D7D7D"
_APART = 1.42  # smallest ratio between the heights of two labels
_STYLE = {"font.size": 11, "text.color": _GREY, "axes.labelcolor": _GREY, "xtick.color": _GREY, "ytick.color": _GREY}


def curves(of: str, accuracy: Mapping[str, Any], tuned: Mapping[str, Any]) -> dict[str, dict[int, float]]:
    """Return the mean relative errors on one range, by line and NFE."""
    cells: Mapping[str, Any] = accuracy["ranges"][of]
    _, euler, dpmpp_2m = RANGES[of]
    found: dict[str, dict[int, float]] = {}
    for pair in (euler, dpmpp_2m):
        errors = {
            int(calls): float(entry["error"])
            for calls, cell in cells.items()
            for entry in cell["leaders"]
            if f"{entry['sampler']}/{entry['schedule']}" == pair
        }
        found[pair.partition("/")[0]] = errors
    found["best in ComfyUI"] = {int(n): float(cell["peer"]["error"]) for n, cell in tuned["auto"][of].items()}
    found["auto"] = {
        int(n): math.exp(math.fsum(math.log(seed["main"]) for seed in cell["seeds"].values()) / len(cell["seeds"]))
        for n, cell in tuned["auto"][of].items()
    }
    return found


def draw() -> Figure:
    """Draw both ranges side by side on a transparent background, for light and dark pages."""
    accuracy, tuned = (json.loads((RESULTS / f"{name}.json").read_text()) for name in ("accuracy", "tuned"))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8.2, 3.7), layout="constrained", facecolor="none")
        for axes, of in zip(figure.subplots(1, 2, sharey=True), RANGES, strict=True):
            _panel(axes, of, curves(of, accuracy, tuned))
        _name_lines(axes, curves(of, accuracy, tuned))
        figure.supxlabel("model calls (NFE)", fontsize=11, color=_GREY)
        figure.axes[0].set_ylabel("mean relative error")
    return figure


def _panel(axes: Axes, of: str, lines: Mapping[str, Mapping[int, float]]) -> None:
    axes.set_facecolor("none")
    axes.set_title(RANGES[of][0], fontsize=12, loc="left")
    axes.set(xscale="log", yscale="log", xlim=(4.7, 21.5), ylim=(0.0025, 0.34))
    for name, errors in lines.items():
        axes.plot(list(errors), list(errors.values()), marker="o", markersize=4, **LOOKS[name])
    for axis, ticks, labels in (
        (axes.xaxis, [5, 6, 8, 10, 15, 20], ["5", "6", "8", "10", "15", "20"]),
        (axes.yaxis, [0.003, 0.01, 0.03, 0.1, 0.3], ["0.3 %", "1 %", "3 %", "10 %", "30 %"]),
    ):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_major_formatter(FixedFormatter(labels))
        axis.set_minor_locator(NullLocator())
    axes.grid(color=_GREY, alpha=0.25, linewidth=0.7)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _name_lines(axes: Axes, lines: Mapping[str, Mapping[int, float]]) -> None:
    """Write the name of every line at its end; labels that would overlap are moved apart."""
    place = 0.0
    for name, errors in sorted(lines.items(), key=lambda line: line[1][max(line[1])]):
        place = max(errors[max(errors)], place * _APART)
        axes.text(
            1.015 * max(errors) + 0.4,
            place,
            "ksched's auto" if name == "auto" else name,
            color=LOOKS[name]["color"],
            weight="bold" if name == "auto" else "normal",
            va="center",
            clip_on=False,
        )


if __name__ == "__main__":
    draw().savefig(PICTURE, dpi=200, transparent=True)
