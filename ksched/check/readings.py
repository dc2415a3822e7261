"""Possible readings of a network: how its input is scaled, what its timesteps mean, what its output is."""

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
    """The number that a state ``x0 + rho * eps`` is divided by before it is passed to the network."""

    description: str
    divisor: Callable[[float], float]
    data_std: float = 1.0  # standard deviation of the data that the scaling assumes


class TimestepConvention(NamedTuple):
    """The timestep passed to the network for every noise-to-signal ratio."""

    kind: Mistake
    description: str
    timestep: Callable[[float], float]
    process: Process | None = None  # the process whose timesteps they are, if it is another one


class OutputType(NamedTuple):
    """What an answer is: a prediction type, or its negative.

    "denoised" is the answer of a denoiser. ``skip`` is for denoisers that forgot to scale the state for their network:
    it says how much of the state they pass through.
    """

    base: Base
    sign: int = 1
    skip: Literal["", "all", "v"] = ""


#: the output type of each prediction type; two of them are the negative of another one
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
    excess: Array  # (levels,): squared error to the target, minus that of the linear yardstick, over the target's power
    errors: Array  # (levels, rows): squared error of x0
    cost: float  # number of mistakes that the claim must contain


@dataclass(frozen=True)
class Claim:
    """What the user believes: a network of a process with a prediction type, or a denoiser if that is None."""

    model: Callable[..., Any]
    process: Process
    prediction: Prediction | None

    @classmethod
    def of(cls, model: Callable[..., Any], process: Process | None, prediction: Prediction | str | None) -> Claim:
        """The claim made by the arguments of `ksched.check_model`; an error if they contradict each other."""
        prediction = None if prediction is None else Prediction.parse(prediction)
        if isinstance(model, Denoiser):
            if process not in (None, model.process) or prediction not in (None, model.prediction):
                raise ValueError("process and prediction must be left out or match the Denoiser; got different ones")
            denoiser = model
            model, process, prediction = denoiser.network, denoiser.process, Prediction.parse(denoiser.prediction)
        if not callable(model):
            raise TypeError(f"model must be callable; got {type(model).__name__}")
        process = process_of_model(model) if process is None else process
        process = check_process(process)
        if is_denoiser(model):
            if prediction is not None:
                raise ValueError(f"{type(model).__name__} is already a denoiser; leave out the prediction")
        elif prediction is not None:
            Denoiser(model, process, prediction)  # an error if the process cannot have this prediction
        return cls(model, process, prediction)

    def __str__(self) -> str:
        what = "denoiser" if self.prediction is None else f"{self.prediction} network"
        return f"{what} of {self.process!r}"

    @cached_property
    def scaling(self) -> InputScaling:
        """How the state is scaled, according to the claim."""
        if self.prediction is None:
            process = self.process
            return InputScaling("the state", lambda rho: 1 / process.alpha(sigma_at(process, rho)))
        return input_scaling_of(self.process)

    @cached_property
    def timesteps(self) -> TimestepConvention:
        """The timestep passed to the model, according to the claim; sigma for a denoiser."""
        if self.prediction is None:
            process = self.process
            return TimestepConvention("timestep", "sigma", lambda rho: sigma_at(process, rho))
        return TimestepConvention("timestep", "the process's timesteps", timesteps_of(self.process))

    @cached_property
    def output(self) -> OutputType:
        """What the answer is, according to the claim."""
        if self.prediction is None:
            return OutputType("denoised")
        return _OUTPUTS[self.prediction]


def target_weights(output: OutputType, rho: float, scaling: InputScaling) -> tuple[float, float]:
    """The target's p and q, the weights of x0 and of eps."""
    data_std = scaling.data_std
    norm = math.hypot(data_std, rho)
    p, q = {
        "epsilon": (0.0, 1.0),
        "score": (0.0, -scaling.divisor(rho) / rho),  # one over the noise's standard deviation in the input
        "sample": (1.0, 0.0),
        "denoised": (1.0, 0.0),
        "flow": (-1.0, 1.0),
        "v_prediction": (-rho / norm / data_std, data_std / norm),
    }[output.base]
    return p, q


def input_scaling_of(process: Process) -> InputScaling:
    """How the state is scaled for networks of a process."""

    def divisor(rho: float) -> float:
        sigma = sigma_at(process, rho)
        return float(process.input_norm(sigma) / process.alpha(sigma))

    data_std = process.sigma_data
    known = {1.4142: "over sqrt(1 + sigma ** 2)", 2.0: "over 1 + sigma", 1.0: "as it is"}
    description = known.get(round(divisor(1.0), 4), f"over sqrt({data_std:g} ** 2 + sigma ** 2)")
    return InputScaling(description, divisor, data_std)


def timesteps_of(process: Process) -> Callable[[float], float]:
    """The function from noise-to-signal ratio to timestep."""
    return lambda rho: float(process.timestep(sigma_at(process, rho)))


def sigma_at(process: Process, rho: float) -> float:
    """Contract sigma of a noise-to-signal ratio."""
    return process.level_at(-math.log(rho)).label


def noise_to_signal(process: Process, sigma: float) -> float:
    """Noise-to-signal ratio at a contract sigma; for a flow, at most that of the last level with a signal."""
    return math.exp(-process.level(min(sigma, 0.999) if process.is_flow else sigma).lam)
