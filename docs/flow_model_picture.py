"""The plot of the tutorial "Train a flow model and sample it", made by the tutorial's own program."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

import ksched

__all__ = ["flow_model"]

PAGE = Path(__file__).with_name("train-a-flow-model.md")
SAMPLERS = ("euler", "heun", "ipndm", "auto")
CALLS = (4, 8)


def flow_model() -> Figure:
    """Draw samples of the trained network from four samplers at 4 and 8 NFE, on top of the data."""
    program = re.search(r"^```\{testcode\}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert program, "the page begins with the program"
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(None):
        exec(program[1], names)
    data, x = names["two_moons"](2000).numpy(), names["x"]
    figure = Figure(figsize=(9, 2.9), layout="constrained")
    axes = figure.subplots(len(CALLS), len(SAMPLERS), sharex=True, sharey=True, squeeze=False)
    for row, calls in zip(axes, CALLS, strict=True):
        for cell, name in zip(row, SAMPLERS, strict=True):
            sampler = ksched.build_sampler(name, calls=calls, process=names["process"])
            samples = sampler.sample(names["model"], x).numpy()
            cell.scatter(*data.T, s=2, color="0.75", linewidths=0)
            cell.scatter(*samples.T, s=3, color="#0072B2", linewidths=0)
            cell.set(xticks=[], yticks=[], aspect="equal", title=f"{name}, {calls} calls")
    return figure
