"""What a network may be taken for: how it wants its input scaled, what its timesteps mean, what its output is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, TypeAlias

from ksched.check.report import Mistake
from ksched.denoisers.calling import is_denoiser
from ksched.denoisers.denoiser import Denoiser
from ksched.names.enums import Prediction
from ksched.processes import Process
from ksched.processes.agreement import process_of_model
from ksched.processes.base import check_process
from ksched.types import Array

__all__ = [
    "Base",
    "Claim",
    "Hypothesis",
    "InputScaling",
    "OutputType",
    "TimestepConvention",
    "input_scaling_of",
    "noise_to_signal",
    "sigma_at",
    "target_weights",
    "timesteps_of",
]


Base: TypeAlias = Literal["epsilon", "score", "sample", "v_prediction", "flow", "denoised"]


class InputScaling(NamedTuple):
    """What a state ``x0 + rho * eps`` is divided by before the network sees it."""

    description: str
    divisor: Callable[[float], float]
    data_std: float = 1.0  # that goes with it


class TimestepConvention(NamedTuple):
    """The number that the network gets as its timestep, for every ratio of noise to signal."""

    kind: Mistake
    description: str
    timestep: Callable[[float], float]
    process: Process | None = None  # whose timesteps they are, of another table


class OutputType(NamedTuple):
    """What an answer is: a prediction type in its plain sign, or its negative.

    "denoised" is the answer of a denoiser; ``skip`` says how much of the state it carries over itself, for one that
    forgot to scale the state for its network.
    """

    base: Base
    sign: int = 1
    skip: Literal["", "all", "v"] = ""


#: what is claimed with each prediction type: two of them are another one with the opposite sign
_OUTPUTS: Mapping[Prediction, OutputType] = {
    Prediction.EPSILON: OutputType("epsilon"),
    Prediction.SCORE: OutputType("score"),
    Prediction.SAMPLE: OutputType("sample"),
    Prediction.V_PREDICTION: OutputType("v_prediction"),
    Prediction.EDM: OutputType("v_prediction", -1),
    Prediction.FLOW: OutputType("flow"),
    Prediction.VELOCITY_TO_DATA: OutputType("flow", -1),
}


class Hypothesis(NamedTuple):
    """A way to use a model, and how well the model's answers fit it."""

    scaling: InputScaling
    timesteps: TimestepConvention
    output: OutputType
    excess: Array  # (levels,): squared error of the target beyond the linear yardstick, over the target's power
    errors: Array  # (levels, rows): squared error of x0
    cost: float  # how many things about the claim must be wrong


@dataclass(frozen=True)
class Claim:
    """What a model is taken for: a network of a process with a prediction type, or with None a denoiser."""

    model: Callable[..., Any]
    process: Process
    prediction: Prediction | None

    @classmethod
    def of(cls, model: Callable[..., Any], process: Process | None, prediction: Prediction | str | None) -> Claim:
        """The claim that the arguments of `ksched.check_model` make, or an error where they contradict each other."""
        prediction = None if prediction is None else Prediction.parse(prediction)
        if isinstance(model, Denoiser):
            if process not in (None, model.process) or prediction not in (None, model.prediction):
                raise ValueError("a Denoiser has a process and a prediction already; got others beside it")
            denoiser = model
            model, process, prediction = denoiser.network, denoiser.process, Prediction.parse(denoiser.prediction)
        if not callable(model):
            raise TypeError(f"model must be callable; got {type(model).__name__}")
        process = process_of_model(model) if process is None else process
        process = check_process(process)
        if is_denoiser(model):
            if prediction is not None:
                raise ValueError(f"{type(model).__name__} is a denoiser already; leave the prediction out")
        elif prediction is not None:
            Denoiser(model, process, prediction)  # refuses what the process cannot have
        return cls(model, process, prediction)

    def __str__(self) -> str:
        what = "denoiser" if self.prediction is None else f"{self.prediction} network"
        return f"{what} of {self.process!r}"

    @cached_property
    def scaling(self) -> InputScaling:
        """How the claim has the state scaled."""
        if self.prediction is None:
            process = self.process
            return InputScaling("the state", lambda rho: 1 / process.alpha(sigma_at(process, rho)))
        return input_scaling_of(self.process)

    @cached_property
    def timesteps(self) -> TimestepConvention:
        """What the claim gives the model as its timestep: sigma, for a denoiser."""
        if self.prediction is None:
            process = self.process
            return TimestepConvention("timestep", "sigma", lambda rho: sigma_at(process, rho))
        return TimestepConvention("timestep", "its timesteps", timesteps_of(self.process))

    @cached_property
    def output(self) -> OutputType:
        """What the claim takes the answer for."""
        if self.prediction is None:
            return OutputType("denoised")
        return _OUTPUTS[self.prediction]


def target_weights(output: OutputType, rho: float, scaling: InputScaling) -> tuple[float, float]:
    """The target's p and q, of x0 and of eps."""
    data_std = scaling.data_std
    norm = math.hypot(data_std, rho)
    p, q = {
        "epsilon": (0.0, 1.0),
        "score": (0.0, -scaling.divisor(rho) / rho),  # one over the std of the noise in the input
        "sample": (1.0, 0.0),
        "denoised": (1.0, 0.0),
        "flow": (-1.0, 1.0),
        "v_prediction": (-rho / norm / data_std, data_std / norm),
    }[output.base]
    return p, q


def input_scaling_of(process: Process) -> InputScaling:
    """How networks of a process have the state scaled."""

    def divisor(rho: float) -> float:
        sigma = sigma_at(process, rho)
        return float(process.input_norm(sigma) / process.alpha(sigma))

    data_std = process.sigma_data
    known = {1.4142: "over sqrt(1 + sigma ** 2)", 2.0: "over 1 + sigma", 1.0: "as it is"}
    description = known.get(round(divisor(1.0), 4), f"over sqrt({data_std:g} ** 2 + sigma ** 2)")
    return InputScaling(description, divisor, data_std)


def timesteps_of(process: Process) -> Callable[[float], float]:
    """Timestep of a ratio of noise to signal."""
    return lambda rho: float(process.timestep(sigma_at(process, rho)))


def sigma_at(process: Process, rho: float) -> float:
    """Contract sigma of a ratio of noise to signal."""
    return process.level_at(-math.log(rho)).label


def noise_to_signal(process: Process, sigma: float) -> float:
    """Ratio of noise to signal at a contract sigma; a flow's at the last level with a signal."""
    return math.exp(-process.level(min(sigma, 0.999) if process.is_flow else sigma).lam)
