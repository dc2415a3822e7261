"""What a network may be taken for: how it wants its input scaled, what its timesteps mean, what its output is."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

from ksched.check.report import Mistake
from ksched.processes import Process
from ksched.types import Array

__all__ = [
    "Base",
    "Hypothesis",
    "InputScaling",
    "OutputType",
    "TimestepConvention",
    "input_scaling_of",
    "target_weights",
    "timesteps_of",
]


Base: TypeAlias = Literal["epsilon", "sample", "v_prediction", "flow", "denoised"]


# Readings
class InputScaling(NamedTuple):
    """How a state ``x0 + rho * eps`` is shown: divided by what. ``data`` is the std of data that goes with it."""

    says: str
    divisor: Callable[[float], float]
    data: float = 1.0


class TimestepConvention(NamedTuple):
    """What the network is told of the level."""

    kind: Mistake
    says: str
    told: Callable[[float], float]
    process: Process | None = None  # whose timesteps they are, of another table


class OutputType(NamedTuple):
    """What an answer is: a prediction type in its plain sign, or its negative.

    "denoised" is the answer of a denoiser; ``skip`` says how much of the state it carries over itself, for one that
    forgot to scale the state for its network.
    """

    base: Base
    sign: int = 1
    skip: Literal["", "all", "v"] = ""


class Hypothesis(NamedTuple):
    """A way to use a model, and how well it goes."""

    shown: InputScaling
    told: TimestepConvention
    kind: OutputType
    excess: Array  # (levels,): squared error of the target beyond the linear yardstick, over the target's power
    errors: Array  # (levels, rows): squared error of x0
    cost: float  # how many things about the claim must be wrong


def target_weights(kind: OutputType, rho: float, data: float) -> tuple[float, float]:
    """The target's p and q, of x0 and of eps."""
    norm = math.hypot(data, rho)
    p, q = {
        "epsilon": (0.0, 1.0),
        "sample": (1.0, 0.0),
        "denoised": (1.0, 0.0),
        "flow": (-1.0, 1.0),
        "v_prediction": (-rho / norm / data, data / norm),
    }[kind.base]
    return p, q


def input_scaling_of(process: Process) -> InputScaling:
    """How networks of a process are shown the state."""

    def divisor(rho: float) -> float:
        sigma = process.level_at(-math.log(rho)).label
        return float(process.input_norm(sigma) / process.alpha(sigma))

    data = process.sigma_data
    known = {1.4142: "over sqrt(1 + sigma ** 2)", 2.0: "over 1 + sigma", 1.0: "as it is"}
    says = known.get(round(divisor(1.0), 4), f"over sqrt({data:g} ** 2 + sigma ** 2)")
    return InputScaling(says, divisor, data)


def timesteps_of(process: Process) -> Callable[[float], float]:
    """Timestep of a ratio of noise to signal."""
    return lambda rho: float(process.timestep(process.level_at(-math.log(rho)).label))
