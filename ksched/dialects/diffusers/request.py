"""What a scheduler class of diffusers asks for, and why some of it is refused."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeGuard

from ksched.dialects.diffusers.betas import Settings
from ksched.dialects.diffusers.level_blocks import DiffusersLevels
from ksched.plan.plan import Plan
from ksched.processes import VE, VP, Flow, Process

__all__ = [
    "EDITED_TCD",
    "ENDS_ON_NOISE",
    "NOT_A_NUMBER",
    "FlowToData",
    "NotRepresentedError",
    "Request",
    "Run",
    "SigmaTold",
    "falling",
    "flow_of",
    "has_sigma_data",
    "is_told_data",
    "level_after",
    "level_of",
    "shows_data",
    "stride_of",
]


ENDS_ON_NOISE = (
    "invert_sigmas=True makes its stochastic steps end on noise; choose a sampler, such as lcm, which takes the "
    "inverted time as it is meant"
)


NOT_A_NUMBER = "its noise is not a number: the square root of a logarithm"


EDITED_TCD = "it edits the prediction and keeps the noise of the one before, which tcd here has no place for"


class NotRepresentedError(ValueError):
    """A setting of a class that no option of ours repeats; the text says why."""


@dataclass(frozen=True)
class FlowToData(Flow):
    """A `Flow` whose network is told how much data there is, and answers ``x0 - eps`` (``invert_sigmas``).

    Its time runs from 0, noise, to ``timestep_scale``, data. Sigma is the noise std, as everywhere; the class has it
    the other way round too if ``shows_data``.
    """

    timestep_scale: float = 1000.0
    shows_data: bool = True
    reverse_time: bool = field(default=True, kw_only=True)


@dataclass(frozen=True)
class SigmaTold(VE):
    """States ``x0 + sigma * eps`` under a class of flow models, whose list of levels goes above 1 (Cosmos 2).

    The velocity that it is handed is eps. Timesteps are ``timestep_scale`` times sigma.
    """

    timestep_scale: float = 1000.0

    def _timestep(self, sigma: Any, xp: Any) -> Any:
        return self.timestep_scale * sigma

    def _sigma(self, timestep: Any, xp: Any) -> Any:
        return timestep / self.timestep_scale


def is_told_data(process: Process) -> TypeGuard[FlowToData]:
    """Whether the network is told how much data there is: ``invert_sigmas`` means that, which no process says."""
    return isinstance(process, FlowToData)


def has_sigma_data(process: Process) -> bool:
    """Whether networks answer with the F of EDM's preconditioning, as those of classes with ``sigma_data`` do."""
    return "edm" in process.predictions


def shows_data(process: Process) -> bool:
    """Whether the class has the share of data in its list of sigmas."""
    return is_told_data(process) and process.shows_data


class Request(NamedTuple):
    """What a class asks for.

    Attributes
    ----------
    sampler, process, options : as for `ksched.build_sampler`, in the diffusers dialect
    sigmas : levels of the run, falling
    calls : levels of the model calls where they are no falling list, and are not the plan's own
    literal : the class's own loop over the levels of its calls, in place of the sampler; it may start at any of them
    pair : the model answers with the edited prediction and the one that eps comes from
    noise_by_step : one noise is drawn at every step, used or not
    draws_before : how many noises nobody uses are drawn before that, at each step but the first of a run
    read_at : levels at which the class takes the answers of the calls to be, where they are other ones
    learned_variance : of "learned" or "learned_range", if the noise is scaled by an output of the model
    boundary : of LCM, whose ``step`` returns the consistency function's answer beside the next state (see `lcm`)
    """

    sampler: str
    sigmas: Sequence[float]
    process: Process
    options: Mapping[str, Any] = {}
    calls: Sequence[float] | None = None
    literal: Callable[[int, Mapping[str, Any]], Plan] | None = None
    pair: bool = False
    noise_by_step: bool = False
    draws_before: Sequence[int] = ()
    read_at: Sequence[float] | None = None
    learned_variance: str | None = None
    boundary: float = 0.0


class Run(NamedTuple):
    """A run of a class: its name, configuration, levels, number of steps, and what ``step`` is told every time."""

    scheduler: str
    config: Settings
    levels: DiffusersLevels
    steps: int
    given: Settings

    @property
    def sigmas(self) -> list[float]:
        """Levels of a class that has a list of them."""
        assert self.levels.sigmas is not None
        return [float(sigma) for sigma in self.levels.sigmas]

    @property
    def timesteps(self) -> list[float]:
        """Timesteps of the model calls."""
        return [float(t) for t in self.levels.timesteps]


# ------------------------------------------------------------------------------------------------------------ processes
def level_of(process: VP, timestep: float) -> float:
    """Sigma over alpha at a whole timestep; above all others where that is beyond the table, as steps_offset may be."""
    beyond = max(int(timestep) - len(process.betas) + 1, 0)
    alpha_bar = float(process.alphas_cumprod[int(timestep) - beyond])
    return math.sqrt((1 - alpha_bar) / alpha_bar) * (1 + 1e-3 * beyond) if alpha_bar > 0 else math.inf


def level_after(process: VP, s: Settings, timestep: float, to_one: bool) -> float:
    """The level of a timestep, or of the end where that is below all."""
    if timestep >= 0:
        return level_of(process, timestep)
    return 0.0 if s.get("set_alpha_to_one", to_one) else level_of(process, 0)


def flow_of(run: Run) -> Flow:
    """The process of a flow class's run; the shift is in the levels already."""
    kind = FlowToData if run.config.get("invert_sigmas") else Flow
    return kind(timestep_scale=float(run.config.get("num_train_timesteps", 1000)))


def stride_of(run: Run) -> int:
    """Timesteps of a step, in classes that go by them."""
    return int(run.config.get("num_train_timesteps", 1000) // run.steps)


#: ratio of two levels that only rounding tells apart
_SAME = 1 - 1e-12


def falling(sigmas: Sequence[float]) -> tuple[list[float], bool]:
    """Levels without the repeats, which are steps of length 0; and whether the last was one."""
    kept = [sigmas[0]]
    for sigma in sigmas[1:]:
        if sigma < _SAME * kept[-1] or sigma > 1.001 * kept[-1]:  # rounding makes some repeats rise
            kept.append(sigma)
    return kept, len(sigmas) > 1 and sigmas[-1] > 0 and sigmas[-1] >= _SAME * sigmas[-2]
