"""`Sampler` says what to run and never changes: a sampler, its options and the levels of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ksched.grid import Grid
from ksched.inversion import invert, rising_plans
from ksched.live import Live, LiveRun
from ksched.loop import Model, StepInfo, drive
from ksched.matrices import Matrices
from ksched.noise import Seed
from ksched.options import Option, check_options
from ksched.plan import Plan
from ksched.processes import Process, default_process
from ksched.registry import SamplerSpec, dialect_options, plan_spec, sampler_spec
from ksched.runner import Noise, Run, check_state, noise_source
from ksched.schedules import calculate_sigmas, schedule_options
from ksched.types import Array, ArrayLike, Dialect, NoiseSchedule, SamplerType

__all__ = ["Sampler", "build_sampler"]


@dataclass(frozen=True, repr=False)
class Sampler:
    """A sampler on a grid: what a run will do, before any tensor exists. Immutable, hashable, shared freely by threads.

    Made by `build_sampler`. The plan is traced when the sampler is built, so that mistakes show there.

    Attributes
    ----------
    spec : the sampler function and its declared facts
    grid : the levels
    options : the sampler's options that were given
    schedule : the schedule's name, None for custom sigmas
    dialect : whose noise levels and methods the names mean
    """

    spec: SamplerSpec
    grid: Grid
    options: tuple[tuple[str, Any], ...] = ()
    schedule: NoiseSchedule | None = None
    dialect: Dialect = Dialect.KSCHED
    _plan: Plan | None = field(init=False, compare=False)

    def __post_init__(self) -> None:
        plan = None if self.spec.adaptive else self.spec.plan(self.grid, dict(self.options))
        object.__setattr__(self, "_plan", plan)

    @property
    def plan(self) -> Plan:
        """The table of numbers that the sampler is.

        Raises
        ------
        TraceError : the sampler is adaptive: it chooses its steps by what the model answers
        """
        return self.spec.plan(self.grid, dict(self.options)) if self._plan is None else self._plan

    @cached_property
    def matrices(self) -> Matrices:
        """The plan as tensors for a step that is compiled, exported or captured once.

        Raises
        ------
        TraceError : the sampler is adaptive: it has no plan
        """
        return Matrices(self.plan, self.process)

    @property
    def process(self) -> Process:
        """What the model was trained on."""
        return self.grid.process

    @cached_property
    def sigmas(self) -> Array:
        """Contract sigmas of the grid, host float64, shape (steps + 1,), read-only."""
        return _frozen([level.label for level in self.grid.levels])

    @cached_property
    def timesteps(self) -> Array:
        """The process's timestep of every model call, host float64, shape (nfe,), read-only."""
        return _frozen([self.process.timestep(level.label) for level in self.plan.levels])

    @property
    def steps(self) -> int:
        """Number of schedule steps."""
        return len(self.grid)

    @property
    def nfe(self) -> int:
        """Number of model calls of a run."""
        return self.plan.nfe

    @property
    def order(self) -> int:
        """Declared order of convergence; 0 for a sampler that does not converge to the ODE."""
        return self.spec.order

    def start(self, x: torch.Tensor, *, seed: Seed | None = None, noise: Noise | None = None) -> Run | LiveRun:
        """A run to drive yourself; arguments and errors as for `Run`. That of an adaptive sampler is a `LiveRun`."""
        if self._plan is None:
            return LiveRun(self.spec, self.grid, dict(self.options), x, seed=seed, noise=noise)
        return Run(self._plan, x, seed=seed, noise=noise, process=self.process)

    def sample(
        self,
        denoiser: Model,
        x: torch.Tensor,
        *,
        seed: Seed | None = None,
        noise: Noise | None = None,
        callback: Callable[[StepInfo], object] | None = None,
        progress: bool = False,
    ) -> torch.Tensor:
        """Run to the end.

        Parameters
        ----------
        denoiser : ``(x, sigma) -> denoised``, sigma a float32 tensor of shape (batch,); may return (denoised, uncond)
        x : start state at the level ``sigmas[0]``, batch first; from pure noise that is ``sigmas[0] * eps``, and in
            general ``process.add_noise(0 * eps, eps, sigmas[0])``
        seed : one whole number (item i takes ``seed + i``) or one per item; needed if the sampler draws noise
        noise : instead of a seed, ``(sigma_from, sigma_to) -> tensor like x`` of unit variance; or, with a seed,
            "brownian": parts of one path, which keep the picture when the number of steps changes
        callback : called with a `StepInfo` once a step; an exception it raises ends the run
        progress : show a progress bar (needs the extra ``cli``)

        Returns
        -------
        tensor of ``x``'s shape, dtype and device: the state at ``sigmas[-1]``, x0 itself where that is 0

        Raises
        ------
        TypeError, ValueError : bad arguments, before the first model call; a prediction of another shape

        Notes
        -----
        Gradients are recorded only if ``x`` asks for them.
        """
        run = self.start(x, seed=seed, noise=noise)
        with torch.set_grad_enabled(torch.is_grad_enabled() and x.requires_grad):
            return drive(run, denoiser, callback, progress)

    def invert(
        self, denoiser: Model, x: torch.Tensor, *, rounds: int = 25, tolerance: float | None = None
    ) -> torch.Tensor:
        """The start that `sample` turns into ``x``: the grid run upwards, then corrected until the way back fits.

        Parameters
        ----------
        denoiser : as for `sample`, and the same
        x : what the run should end at, at the level ``sigmas[-1]``, batch first
        rounds : how often to correct, at most; each costs a run down and one up. 0 only runs upwards, which is what is
            commonly called inversion (DDIM inversion with `euler`) and comes back roughly
        tolerance : largest error of the way back, relative to ``x``, at which to stop; None is that of rounding

        Returns
        -------
        tensor like ``x``: the state at ``sigmas[0]``

        Raises
        ------
        TypeError, ValueError : a state that `sample` would not take; a sampler that draws noise, or is adaptive

        Warns
        -----
        RuntimeWarning : the way back does not fit; the best start found is returned

        Notes
        -----
        For linear models, such as the exact ones of normal data, it is exact. Upwards, a last level of 0 is one of at
        most 0.0001. No gradients are recorded.
        """
        check_state(x)
        if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 0:
            raise ValueError(f"rounds must be a whole number of at least 0; got {rounds!r}")
        options = dict(self.options)
        ups = rising_plans(self.spec, self.grid, options)
        with torch.no_grad():
            return invert(self.plan, ups, denoiser, x, rounds, tolerance)

    def live(
        self, denoiser: Model, x: torch.Tensor, *, seed: Seed | None = None, noise: Noise | None = None
    ) -> torch.Tensor:
        """The same run without a plan: the sampler function executed on tensors, in ``x``'s dtype throughout."""
        draws = self._plan is None or bool(self._plan.draws)
        source, _ = noise_source(draws, x.shape[0], seed, noise, self.process)
        result: torch.Tensor = self.spec(Live(denoiser, x, source), self.grid, x, **dict(self.options))
        return result

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.options)
        schedule = "custom sigmas" if self.schedule is None else self.schedule.value
        return f"Sampler({self.spec.name}, {schedule}, steps={self.steps}, process={self.process!r}{options})"


def _frozen(values: list[float]) -> Array:
    array = np.array(values, dtype=np.float64)
    array.setflags(write=False)
    return array


def build_sampler(
    sampler: SamplerType | str | Plan = SamplerType.EULER,
    schedule: NoiseSchedule | str | None = None,
    steps: int | None = None,
    *,
    process: Process | None = None,
    sigmas: ArrayLike | None = None,
    dialect: Dialect | str = Dialect.KSCHED,
    **options: Any,
) -> Sampler:
    """A sampler with a schedule on a process.

    Parameters
    ----------
    sampler : a `SamplerType`, any spelling `SamplerType.parse` knows, or a name given to `register_sampler`; "auto",
        the best method known for the number of steps, with its own levels (see `ksched.samplers.auto.auto`); or a
        `Plan`, such as `ksched.tune` makes
    schedule : a `NoiseSchedule` or any spelling `NoiseSchedule.parse` knows; None is simple. "auto" and plans take none
    steps : number of schedule steps, >= 1; None is 20, or as many as the plan has
    process : what the model was trained on; None is Stable Diffusion's VP table
    sigmas : noise levels to run exactly as given, instead of schedule and steps; strictly decreasing
    dialect : whose behaviour the names mean, where programs differ: tables of options, `ksched.DIALECTS` for schedules
        and `ksched.registry.DIALECTS` for samplers; ours is the published method
    options : options of the sampler, and of the schedule where the sampler has none of that name; ``sigma_min`` and
        ``sigma_max`` are the schedule's range

    Raises
    ------
    TypeError, ValueError : an unknown name or option, a value out of range, sigmas that are not a grid, a plan for
        another process
    """
    spec = plan_spec(sampler) if isinstance(sampler, Plan) else sampler_spec(sampler)
    process = default_process() if process is None else process
    if not isinstance(process, Process):
        raise TypeError(f"process must be a ksched process such as VP() or Flow(); got {process!r}")
    dialect = Dialect.parse(dialect)
    if spec.levels is not None and schedule is not None and sigmas is None:
        raise ValueError(f"sampler {spec.name} has noise levels of its own; leave out schedule, got {schedule!r}")
    schedule = NoiseSchedule.SIMPLE if schedule is None else NoiseSchedule.parse(schedule)
    own = {name: value for name, value in options.items() if name in spec.options}
    rest = {name: value for name, value in options.items() if name not in spec.options}
    owner = f"sampler {spec.name}"
    given = tuple(check_options(owner, spec.options, {**dialect_options(spec, dialect), **own}).items())
    if sigmas is not None:
        check_options(f"{owner} on custom sigmas", spec.options, rest)  # refuses them all
        return Sampler(spec, Grid.of(sigmas, process), given, None, dialect)
    if spec.levels is not None:
        check_options(owner, spec.options, rest)
        asked = (spec.steps or (20,))[0] if steps is None else steps
        return Sampler(spec, Grid.of(spec.levels(asked, process, **own), process), given, None, dialect)
    span = {name: Option(name, float, None) for name in ("sigma_min", "sigma_max")}
    shared = {**spec.options, **schedule_options(schedule), **span}
    for name in rest.keys() - shared.keys():
        check_options(f"{owner} with schedule {schedule.value}", shared, {name: None})
    levels = calculate_sigmas(schedule, 20 if steps is None else steps, process, dialect=dialect, **rest)
    return Sampler(spec, Grid.of(levels, process), given, schedule, dialect)
