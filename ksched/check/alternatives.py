"""Ways to use a model other than the claimed one, starting with the most similar."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ksched.check.readings import (
    Base,
    Claim,
    InputScaling,
    OutputType,
    TimestepConvention,
    input_scaling_of,
    timesteps_of,
)
from ksched.processes import EDM, VE, VP, AngleV, Flow, FlowVE, Process
from ksched.types import Array

__all__ = ["OF_THE_LEVEL", "Alternatives", "Usage", "output_types"]


#: timesteps of a raw network that was passed as a denoiser
OF_THE_LEVEL = "the timestep of the level"


class Usage(NamedTuple):
    """A way to call a model: its input scaling, its timestep, and how far both are from the claim."""

    scaling: InputScaling
    timesteps: TimestepConvention
    cost: float


class Alternatives:
    """Ways to call a model other than the claimed one, without those that agree at every level of the check."""

    def __init__(self, claim: Claim, ratios: Array) -> None:
        self.claim = claim
        self.ratios = ratios

    # In the order in which they are tried.

    def near(self) -> Iterator[Usage]:
        """The claim and its neighbours, which are safe to try on any model."""
        ours, timesteps = self.claim.scaling, self.claim.timesteps
        yield Usage(ours, timesteps, 0)
        for scaling in self.scalings[1:]:
            yield Usage(scaling, timesteps, 1)
        for table in self.tables:
            yield Usage(ours, table, 1)

    def far(self) -> Iterator[Usage]:
        """Timesteps that a model may never have been trained on, for one that does not match the claim."""
        for timesteps in self.timesteps:
            yield Usage(self.claim.scaling, timesteps, 1)
        if self.claim.prediction is None:  # a raw network was passed
            yield Usage(input_scaling_of(self.claim.process), self.timesteps[0], 1)
        for name, process in _common_processes():
            if process != self.claim.process:
                timesteps = TimestepConvention("process", name, timesteps_of(process), process)
                yield Usage(input_scaling_of(process), timesteps, 2)

    def combined(self) -> Iterator[Usage]:
        """Another input scale together with other timesteps."""
        for scaling in self.scalings[1:]:
            for timesteps in self.timesteps:
                yield Usage(scaling, timesteps, 2)

    # Their parts.

    @cached_property
    def scalings(self) -> list[InputScaling]:
        """Ways to scale the state, the claimed one first."""
        ours = self.claim.scaling
        data_std, divisor = ours.data_std, ours.divisor
        ways = [
            ours,
            InputScaling("unscaled", lambda rho: 1.0, data_std),
            InputScaling("twice", lambda rho: divisor(rho) ** 2, data_std),
            InputScaling("sqrt(1 + sigma ** 2)", lambda rho: math.hypot(1, rho)),
            InputScaling("sqrt(0.25 + sigma ** 2)", lambda rho: math.hypot(0.5, rho), 0.5),
            InputScaling("1 + sigma", lambda rho: 1 + rho),
        ]
        if self.claim.prediction is None:
            ways += [InputScaling("the inverse", lambda rho: divisor(rho) / math.hypot(1, rho))]
        return self._distinct(ways, lambda way: way.divisor)

    @cached_property
    def tables(self) -> list[TimestepConvention]:
        """Timesteps of other tables of betas."""
        process = self.claim.process
        if self.claim.prediction is None or not isinstance(process, VP) or process.log_sigma_timesteps:
            return []
        ways = [
            self.claim.timesteps,
            *(TimestepConvention("table", name, timesteps_of(vp), vp) for name, vp in _other_tables(process).items()),
        ]
        return self._distinct(ways, lambda way: way.timestep)[1:]

    @cached_property
    def timesteps(self) -> list[TimestepConvention]:
        """Other timesteps than the claimed ones, including ranges that may be unsafe for the model."""
        ours = self.claim.timesteps.timestep
        top = max(ours(float(rho)) for rho in self.ratios)
        functions: dict[str, Callable[[float], float]]
        if self.claim.prediction is None:
            functions = {
                OF_THE_LEVEL: timesteps_of(self.claim.process),
                "the noise over the signal": lambda rho: rho,
            }
        elif top > 10:
            limit = 1000.0 if self.claim.process.is_flow else round(top)
            functions = {
                "timesteps from 0 to 1, a thousandth of those": lambda rho: ours(rho) / 1000,
                f"{limit:g} minus the timestep": lambda rho: limit - ours(rho),
                "1 minus a thousandth of the timestep": lambda rho: 1 - ours(rho) / 1000,
            }
        else:
            functions = {
                "timesteps from 0 to 1000, a thousand times those": lambda rho: ours(rho) * 1000,
                "1 minus the timestep": lambda rho: 1 - ours(rho),
                "1000 minus a thousand times the timestep": lambda rho: 1000 * (1 - ours(rho)),
            }
        functions |= {
            "sigma itself": lambda rho: rho,
            "log(sigma)": math.log,
            "log(sigma) / 4": lambda rho: math.log(rho) / 4,
            "sigma / (1 + sigma)": lambda rho: rho / (1 + rho),
            "1000 * sigma / (1 + sigma)": lambda rho: 1000 * rho / (1 + rho),
            "the angle atan(sigma) * 2 / pi": lambda rho: math.atan(rho) * 2 / math.pi,
        }
        others = [TimestepConvention("timestep", name, function) for name, function in functions.items()]
        return self._distinct([self.claim.timesteps, *others], lambda way: way.timestep)[1:]

    def _distinct(self, ways: Sequence[Any], curve: Callable[[Any], Callable[[float], float]]) -> list[Any]:
        """The ways whose curves over the levels differ from all earlier ones."""
        distinct: list[Any] = []
        curves: list[Array] = []
        for way in ways:
            values = np.array([curve(way)(float(rho)) for rho in self.ratios])
            if not any(np.allclose(values, other, rtol=1e-6, atol=1e-6) for other in curves):
                distinct.append(way)
                curves.append(values)
        return distinct


def output_types(claim: Claim, scaling: InputScaling, timesteps: TimestepConvention) -> list[OutputType]:
    """The possible output types for a way of calling; the claimed type comes first if it is the claimed way."""
    bases: tuple[Base, ...] = ("epsilon", "sample", "v_prediction", "flow", "score")
    plain = [OutputType(base, sign) for sign in (1, -1) for base in bases]
    if claim.prediction is not None:
        return sorted(plain, key=lambda output: output != claim.output)
    if scaling is not claim.scaling and timesteps is claim.timesteps:
        return [OutputType("denoised", 1, "all"), OutputType("denoised", 1, "v"), OutputType("denoised")]
    plain = [output for output in plain if output.base != "sample"] + [OutputType("denoised", -1)]
    return [OutputType("denoised"), *plain]


def _other_tables(process: VP) -> dict[str, VP]:
    """Processes that differ only in their table of betas."""
    how: dict[str, Any] = {"snr_shift": process.snr_shift, "keep_every": process.keep_every}
    zero, steps = process.zero_terminal_snr, len(process.betas)
    others = {
        f"table {'without' if zero else 'with'} zero terminal SNR": VP(process.betas, zero_terminal_snr=not zero, **how)
    }
    if steps % process.keep_every == 0:
        for name, make in {"scaled_linear": VP.scaled_linear, "linear": VP.linear, "cosine": VP.cosine}.items():
            for is_zero in (False, True):
                others[f"{name} table{' with zero terminal SNR' * is_zero}"] = make(
                    steps=steps, zero_terminal_snr=is_zero, **how
                )
    return others


def _common_processes() -> list[tuple[str, Process]]:
    """Processes that networks are commonly trained on."""
    return [
        ("VP()", VP()),
        ("VP(zero_terminal_snr=True)", VP(zero_terminal_snr=True)),
        ("VP.linear()", VP.linear()),
        ("VP.cosine()", VP.cosine()),
        ("EDM()", EDM()),
        ("EDM(sigma_data=1.0)", EDM(sigma_data=1.0)),
        ("AngleV()", AngleV()),
        ("Flow()", Flow()),
        ("Flow(timestep_scale=1.0)", Flow(timestep_scale=1.0)),
        ("VE()", VE()),
        ("FlowVE()", FlowVE()),
    ]
