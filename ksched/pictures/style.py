"""Shared by all plots: fonts, colours, markers, and the groups of schedules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ksched.names.enums import NoiseSchedule
from ksched.names.sampler_type import ScheduleName
from ksched.schedules.select import FAMILIES, schedule_name, schedule_spec

__all__ = ["STYLE", "families", "line_look"]


STYLE: Any = {
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


# Okabe and Ito's colours, which colour-blind readers can tell apart, without yellow, which is too pale for a line; then
# three of Tol's muted colours.
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


def families(
    schedules: Sequence[ScheduleName | NoiseSchedule | str] = tuple(NoiseSchedule),
) -> dict[str, list[NoiseSchedule | str]]:
    """Group schedules by the kind of rule that they follow, under headings."""
    found: dict[str, list[NoiseSchedule | str]] = {heading: [] for heading in FAMILIES.values()}
    for name in map(schedule_name, schedules):
        found[FAMILIES[schedule_spec(name).family]].append(name)
    return {heading: names for heading, names in found.items() if names}


def line_look(k: int, count: int = 1) -> dict[str, Any]:
    """Colour and marker of line k of ``count``; later lines are thinner, so that coinciding lines stay visible."""
    n = len(_COLOURS)
    share = k / max(count - 1, 1)
    return {
        "color": _COLOURS[k % n],
        "marker": _MARKERS[(k + k // n) % len(_MARKERS)],
        "linewidth": 2.8 - 1.6 * share,
        "markersize": 6.5 - 2.5 * share,
        "zorder": 2 + share / 2,
    }
