"""Claims of papers on learned timesteps and coefficients, tested with solvers that were fitted once to exact data.

The data are the scanned digits that ksched ships, 64 values, on EDM's range. Claims about Euler steps are tested on a
flow with even times. ``python benchmarks/papers.py --fit`` fits the solvers and stores their levels and rows (see
`ksched.tuning.fit`) in ``results/papers_fitted.json``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _families import _mixture
from _learned import METHODS, Fitted, Multistep, oss
from learned_solvers import Data

import ksched
from ksched.tuning.fit import Denoise, Problem

STORED = Path(__file__).parent / "results" / "papers_fitted.json"
CALLS = (5, 10)
BUDGET = 60_000  # model calls that a fit may make; a backward pass counts as two more
ITEMS, STEPS = 160, 120  # start states of the test, and steps of exact runs


class Scanned(Data):
    """The digits, on a range."""

    @cached_property
    def denoise(self) -> Denoise:
        """In flow coordinates of data of standard deviation 1."""
        made = ksched.exact.digits()
        return _mixture(made.weights, made.means, made.covariances).denoise

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of one item."""
        return (64,)


@cache
def judge(of: str) -> tuple[Scanned, Problem]:
    """Return the data on a range, and test runs that no fit used."""
    bed = Scanned(of, "digits")
    return bed, bed.problem(bed.denoise, bed.starts(ITEMS, 5), STEPS)


@torch.no_grad()
def error(of: str, levels: Any, rows: Any) -> float:
    """Mean relative error of a method."""
    found = judge(of)[1].errors(torch.as_tensor(levels).double(), torch.as_tensor(rows).double())
    return float(found.mean())


def even(calls: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Euler's method on even timesteps of a flow."""
    times = np.linspace(1, 0, calls + 1)
    ratios = [math.inf, *(times[1:-1] / (1 - times[1:-1])).tolist(), 0.0]
    return Multistep(ratios, ratios[-2], width=1).rows(torch.zeros(0, dtype=torch.float64))


def fit_all() -> None:
    """Fit and store all methods that the claims are about."""
    stored: dict[str, Any] = {}
    for calls in CALLS:
        for name in ("ipndm", "GITS", "OSS", "levels", "LD3", "LD3, hard", "S4S", "S4S-Alt"):
            stored[f"edm, {name}, {calls}"] = _kept(METHODS[name](Scanned("edm", "digits"), calls, BUDGET))
            print(name, calls, error("edm", *stored[f"edm, {name}, {calls}"].values()), flush=True)
        found = oss(Scanned("flow", "digits"), calls, BUDGET, width=1)
        stored[f"flow, OSS, {calls}"] = _kept(found)
    STORED.write_text(json.dumps(stored) + "\n")


def _kept(found: Fitted) -> dict[str, Any]:
    """Levels and rows, to eight digits."""
    return {
        "levels": [float(f"{value:.8g}") for value in found.levels.tolist()],
        "rows": [[float(f"{value:.8g}") for value in row] for row in found.rows.tolist()],
    }


@cache
def _stored() -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(STORED.read_text())
    return found


def errors(of: str, *names: str) -> dict[str, float]:
    """Errors of stored methods at both numbers of calls."""
    keys = [(name, calls) for name in names for calls in CALLS]
    return {f"{name}, {calls} calls": error(of, *_stored()[f"{of}, {name}, {calls}"].values()) for name, calls in keys}


def better(found: Mapping[str, float], one: str, other: str) -> bool:
    """Whether one method has the smaller error at both numbers of calls."""
    return all(found[f"{one}, {calls} calls"] < found[f"{other}, {calls} calls"] for calls in CALLS)


def learned_timesteps() -> tuple[bool, dict[str, float]]:
    """Errors of `ipndm` on Karras's levels, on the levels of both dynamic programs, and on learned levels."""
    found = errors("edm", "ipndm", "GITS", "OSS", "levels")
    return all(better(found, "levels", name) for name in ("ipndm", "GITS", "OSS")), found


def soft_teacher() -> tuple[bool, dict[str, float]]:
    """Errors with and without a ball around the start states, from start states that are not moved."""
    found = errors("edm", "LD3", "LD3, hard")
    return better(found, "LD3", "LD3, hard"), found


def learned_coefficients() -> tuple[bool, dict[str, float]]:
    """Errors of `ipndm`, with free weights, and with free weights and levels."""
    found = errors("edm", "ipndm", "S4S", "S4S-Alt")
    return better(found, "S4S", "ipndm") and better(found, "S4S-Alt", "S4S"), found


def trajectory_geometry() -> tuple[bool, dict[str, float]]:
    """Errors of `ipndm` on both schedules."""
    found = errors("edm", "ipndm", "GITS")
    return better(found, "GITS", "ipndm"), found


def optimal_stepsizes() -> tuple[bool, dict[str, float]]:
    """Errors of Euler's method on a flow."""
    found = errors("flow", "OSS")
    found |= {f"even, {calls} calls": error("flow", *even(calls)) for calls in CALLS}
    return better(found, "OSS", "even"), found


#: short name, paper, number at arXiv, what it says in our words, and what measures it
CLAIMED = (
    (
        "learned-timesteps",
        "LD3 (Tong et al. 2024)",
        "2405.15506",
        "Timesteps learned by gradients through the whole run are better than those that a dynamic program chooses by "
        "the errors of single steps.",
        learned_timesteps,
    ),
    (
        "soft-teacher",
        "LD3 (Tong et al. 2024)",
        "2405.15506",
        "A student whose start states may move in a small ball learns better timesteps than one that must match.",
        soft_teacher,
    ),
    (
        "learned-coefficients",
        "S4S (Frankel et al. 2025)",
        "2502.17423",
        "Learned coefficients improve a solver on any schedule; learning the timesteps as well improves it further.",
        learned_coefficients,
    ),
    (
        "trajectory-geometry",
        "GITS (Chen et al. 2024)",
        "2405.11326",
        "Timesteps that a dynamic program chooses by the shape of the runs are better than Karras's at 5 to 10 calls.",
        trajectory_geometry,
    ),
    (
        "optimal-stepsizes",
        "OSS (Pei et al. 2025)",
        "2503.21774",
        "Euler steps that a dynamic program distils from a run of many steps are better than as many even ones.",
        optimal_stepsizes,
    ),
)
