"""What a diffusers scheduler class needs from a sampler, and reasons why some settings have no equal."""

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
    "invert_sigmas=True makes its stochastic steps end on noise; choose a sampler, such as lcm, which handles "
    "inverted time correctly"
)


NOT_A_NUMBER = "its noise is nan: the square root of a negative logarithm"


EDITED_TCD = "it edits the prediction but takes the noise from the unedited one, which ksched's tcd cannot do"


class NotRepresentedError(ValueError):
    """A setting of a class that no ksched option can represent; the text says why."""


@dataclass(frozen=True)
class FlowToData(Flow):
    """A `Flow` whose network is called with the share of data and returns ``x0 - eps`` (``invert_sigmas``).

    Its time runs from 0, noise, to ``timestep_scale``, data. Sigma is the noise std, as everywhere. With
    ``shows_data``, the class's own list of sigmas is inverted as well.
    """

    timestep_scale: float = 1000.0
    shows_data: bool = True
    reverse_time: bool = field(default=True, kw_only=True)


@dataclass(frozen=True)
class SigmaTold(VE):
    """States ``x0 + sigma * eps`` in a class of flow models whose sigmas go above 1 (Cosmos 2).

    The velocity passed to the class is eps. Timesteps are ``timestep_scale`` times sigma.
    """

    timestep_scale: float = 1000.0

    def _timestep(self, sigma: Any, xp: Any) -> Any:
        return self.timestep_scale * sigma

    def _sigma(self, timestep: Any, xp: Any) -> Any:
        return timestep / self.timestep_scale


def is_told_data(process: Process) -> TypeGuard[FlowToData]:
    """Whether the network is called with the share of data (``invert_sigmas``), which no process expresses."""
    return isinstance(process, FlowToData)


def has_sigma_data(process: Process) -> bool:
    """Whether networks return the F of EDM's preconditioning, as in classes with ``sigma_data``."""
    return "edm" in process.predictions


def shows_data(process: Process) -> bool:
    """Whether the class has shares of data in its list of sigmas."""
    return is_told_data(process) and process.shows_data


class Request(NamedTuple):
    """What a class needs from a sampler.

    Attributes
    ----------
    sampler, process, options : str, Process or mapping
        As for `ksched.build_sampler`, in the diffusers dialect.
    sigmas : sequence of float
        Falling sigmas of the run.
    calls : sequence of float or None
        Sigmas of the model calls, if they do not fall or are not the plan's own.
    literal : callable or None
        The class's own loop over the sigmas of its calls, instead of the sampler; it may start at any of them.
    pair : bool
        Whether the model's answer is the edited prediction together with the one that eps comes from.
    noise_by_step : bool
        Whether noise is drawn in every step, even if it is not used.
    draws_before : sequence of int
        For each step but the first of a run, how many unused noises are drawn before that.
    read_at : sequence of float or None
        Sigmas at which the class assumes the answers to be, if they differ from those of the calls.
    learned_variance : str or None
        "learned" or "learned_range" if an output of the model scales the noise.
    boundary : float
        For LCM, whose ``step`` also returns the consistency function's answer (see `lcm`).
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
    """A run of a class: its name, configuration, sigmas, number of steps, and the arguments of every ``step``."""

    scheduler: str
    config: Settings
    levels: DiffusersLevels
    steps: int
    given: Settings

    @property
    def sigmas(self) -> list[float]:
        """Sigmas, for a class with a list of them."""
        assert self.levels.sigmas is not None
        return [float(sigma) for sigma in self.levels.sigmas]

    @property
    def timesteps(self) -> list[float]:
        """Timesteps of the model calls."""
        return [float(t) for t in self.levels.timesteps]


# ------------------------------------------------------------------------------------------------------------ processes
def level_of(process: VP, timestep: float) -> float:
    """Sigma over alpha at a whole timestep; above all others if steps_offset moves it beyond the table."""
    beyond = max(int(timestep) - len(process.betas) + 1, 0)
    alpha_bar = float(process.alphas_cumprod[int(timestep) - beyond])
    return math.sqrt((1 - alpha_bar) / alpha_bar) * (1 + 1e-3 * beyond) if alpha_bar > 0 else math.inf


def level_after(process: VP, s: Settings, timestep: float, to_one: bool) -> float:
    """The level of a timestep; for a negative one, that of the end."""
    if timestep >= 0:
        return level_of(process, timestep)
    return 0.0 if s.get("set_alpha_to_one", to_one) else level_of(process, 0)


def flow_of(run: Run) -> Flow:
    """The process of a flow class's run; the shift is already in the sigmas."""
    kind = FlowToData if run.config.get("invert_sigmas") else Flow
    return kind(timestep_scale=float(run.config.get("num_train_timesteps", 1000)))


def stride_of(run: Run) -> int:
    """Number of timesteps per step, in classes that count them."""
    return int(run.config.get("num_train_timesteps", 1000) // run.steps)


#: ratio of two sigmas above which they differ only by rounding
_SAME = 1 - 1e-12


def falling(sigmas: Sequence[float]) -> tuple[list[float], bool]:
    """Drop repeated sigmas, whose steps have length 0; return the rest, and whether the last one was a repeat."""
    kept = [sigmas[0]]
    for sigma in sigmas[1:]:
        if sigma < _SAME * kept[-1] or sigma > 1.001 * kept[-1]:  # rounding makes some repeats rise
            kept.append(sigma)
    return kept, len(sigmas) > 1 and sigmas[-1] > 0 and sigmas[-1] >= _SAME * sigmas[-2]
