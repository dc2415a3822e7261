"""Schedules that were searched for and published as tables of numbers. Data files hold the numbers and their sources.

Between the published step counts a table is interpolated: log sigma over the share of steps done. Its last level is
replaced by 0. Arguments, errors and results are those of `ksched.schedules.training_table`.
"""

from __future__ import annotations

import json
import math
from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal

import numpy as np

from ksched.options import Between, check_steps
from ksched.processes import Process
from ksched.schedules.span import Span
from ksched.types import Array

__all__ = [
    "calculate_align_your_steps_sigmas",
    "calculate_gits_sigmas",
    "calculate_optimal_steps_sigmas",
    "published_tables",
]

Coefficient = Annotated[float, Between(0.8, 1.5)]


@cache
def published_tables() -> dict[str, Any]:
    """The data file: for each family, its source and tables."""
    text = (resources.files("ksched") / "data" / "published_grids.json").read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    return data


def _from_table(steps: int, span: Span, table: list[float], *, fit_range: bool, keep_last: bool = False) -> Array:
    """Levels of a table: interpolated, fitted to the span, ending in 0."""
    levels = np.array(table)
    if fit_range:  # affine in log sigma; the identity if the table was made for this range
        share = np.log(levels / levels[-1]) / math.log(levels[0] / levels[-1])
        levels = span.sigma_min * np.exp(share * math.log(span.sigma_max / span.sigma_min))
        levels[0] = span.sigma_max
    points = steps if keep_last else steps + 1
    if points != len(levels):
        places = np.linspace(0, 1, points)
        # upwards from the last level, so that a single point is the last one, as in the programs that keep it
        levels = np.exp(np.interp(places, np.linspace(0, 1, len(levels)), np.log(levels[::-1])))[::-1]
        if fit_range and points > 1:
            levels[0] = span.sigma_max
    return np.append(levels if keep_last else levels[:-1], 0.0)


def calculate_align_your_steps_sigmas(
    steps: int,
    process: Process,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    model: Literal["sd1", "sdxl", "svd"] = "sd1",
    version: Literal["published", "a1111", "forge_11", "forge_32", "forge_gits"] = "published",
    fit_range: bool = True,
    last: Literal["replace", "keep"] = "replace",
) -> Array:
    """Noise levels optimised for a family of models, published for 10 steps.

    Parameters
    ----------
    model : str
        The family that the table was optimised for; "svd" has only the published version.
    version : str
        "a1111" and "forge_11" have three digits, "forge_32" has more points, "forge_gits" has levels after GITS.
    fit_range : bool
        Stretch the table in log sigma to the process's range; False uses its numbers unchanged.
    last : str
        "replace" replaces the table's last level by 0, "keep" appends 0 after it (A1111).

    Notes
    -----
    Sabour et al. 2024, arXiv:2404.14507.
    """
    steps = check_steps(steps)
    span = Span.of(process, sigma_min, sigma_max)
    family = {"published": "align_your_steps", "forge_gits": "gits_forge"}.get(version, f"align_your_steps_{version}")
    tables = published_tables()[family]["sigmas"]
    if model not in tables:
        raise ValueError(f"version {version!r} has tables for {' and '.join(tables)}; got model {model!r}")
    return _from_table(steps, span, tables[model], fit_range=fit_range, keep_last=last == "keep")


def calculate_gits_sigmas(
    steps: int,
    process: Process,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    coefficient: Coefficient = 1.2,
    fit_range: bool = True,
) -> Array:
    """Noise levels found from the curvature of sampling trajectories, published for 2 to 20 steps.

    Parameters
    ----------
    coefficient : float
        0.8 to 1.5 in steps of 0.05; larger values spend more steps at low noise.
    fit_range : bool
        Stretch the table in log sigma to the range of the process; False uses its numbers unchanged.

    Notes
    -----
    Chen et al. 2024, arXiv:2405.11326.
    """
    steps = check_steps(steps)
    span = Span.of(process, sigma_min, sigma_max)
    tables = published_tables()["gits"]["sigmas"]
    if f"{coefficient:.2f}" not in tables or abs(coefficient * 20 - round(coefficient * 20)) > 1e-6:
        raise ValueError(f"coefficient must be one of {', '.join(tables)}; got {coefficient}")
    rows = tables[f"{coefficient:.2f}"]
    return _from_table(steps, span, rows[min(max(steps, 2), 20) - 2], fit_range=fit_range)


def calculate_optimal_steps_sigmas(
    steps: int,
    process: Process,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    model: Literal["flux", "wan", "chroma"] = "flux",
    fit_range: bool = True,
) -> Array:
    """Noise levels optimised for flow models by dynamic programming.

    Parameters
    ----------
    model : str
        The model that the table was optimised for.
    fit_range : bool
        Stretch the table in log sigma to the range of the process; False uses its numbers unchanged.

    Notes
    -----
    Pei et al. 2025, arXiv:2503.21774.
    """
    steps = check_steps(steps)
    span = Span.of(process, sigma_min, sigma_max)
    return _from_table(steps, span, published_tables()["optimal_steps"]["sigmas"][model], fit_range=fit_range)
