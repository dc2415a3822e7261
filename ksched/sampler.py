"""`Sampler`: what a run will do, as an immutable object with a sampler, its options and the noise levels."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from ksched.execution.in_parallel import InParallel
from ksched.names.enums import Dialect, NoiseSchedule, SamplerType
from ksched.names.sampler_type import SamplerName
from ksched.options import Option, check_calls, check_options, check_steps, one_number, our_words, settled
from ksched.plan.plan import Plan
from ksched.processes import Process
from ksched.processes.agreement import KnowsProcess, process_given
from ksched.samplers.registry import dialect_options, plan_spec, sampler_spec
from ksched.samplers.spec import SamplerSpec
from ksched.schedules.grid import Grid, check_sigmas
from ksched.schedules.select import Schedule, calculate_sigmas, schedule_name, schedule_options
from ksched.tensor_runs import TensorRuns
from ksched.types import Array, ArrayLike, set_fields

__all__ = ["Sampler", "build_sampler"]

_ARGUMENTS = ("schedule", "steps", "calls", "process", "sigmas", "dialect")  # of `build_sampler`


@dataclass(frozen=True, repr=False)
class Sampler(TensorRuns, InParallel):
    """A sampler on a fixed grid of noise levels: it describes a run before any tensor exists.

    `build_sampler` makes it. The plan is traced at that moment, so mistakes show up there. A `Sampler` is immutable and
    hashable, and threads may share it.

    Attributes
    ----------
    spec : SamplerSpec
        The sampler function and its declared facts.
    grid : Grid
        The noise levels (sigmas) of the run.
    options : tuple of tuple
        The sampler options that were given.
    schedule : NoiseSchedule, str or None
        The schedule's name; None for custom sigmas.
    dialect : Dialect
        The program whose meaning of sampler and schedule names applies.
    """

    spec: SamplerSpec
    grid: Grid
    options: tuple[tuple[str, Any], ...] = ()
    schedule: NoiseSchedule | str | None = None
    dialect: Dialect = Dialect.KSCHED
    _plan: Plan | None = field(init=False, compare=False)

    def __post_init__(self) -> None:
        set_fields(self, _plan=None if self.spec.adaptive else self.spec.plan(self.grid, dict(self.options)))

    @property
    def plan(self) -> Plan:
        """The sampler's table of numbers: one row per state update.

        Raises
        ------
        TraceError
            The sampler is adaptive: it chooses its steps from the model's answers.
        """
        return self.spec.plan(self.grid, dict(self.options)) if self._plan is None else self._plan

    @property
    def process(self) -> Process:
        """The noise process that the model was trained on."""
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
        """Number of steps of the schedule."""
        return len(self.grid)

    @property
    def nfe(self) -> int:
        """Number of model calls of a run (NFE)."""
        return self.plan.nfe

    @property
    def order(self) -> int:
        """Declared order of convergence; 0 for a sampler that does not converge to the ODE."""
        return self.spec.order

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.options)
        schedule = "custom sigmas" if self.schedule is None else str(self.schedule)
        return f"Sampler({self.spec.name}, {schedule}, steps={self.steps}, process={self.process!r}{options})"


def _frozen(values: list[float]) -> Array:
    array = np.array(values, dtype=np.float64)
    array.setflags(write=False)
    return array


def build_sampler(
    sampler: SamplerName | SamplerType | str | Plan = SamplerType.EULER,
    schedule: Schedule | None = None,
    steps: int | None = None,
    *,
    calls: int | None = None,
    process: Process | KnowsProcess | None = None,
    sigmas: ArrayLike | None = None,
    dialect: Dialect | str = Dialect.KSCHED,
    **options: Any,
) -> Sampler:
    """A sampler with a noise schedule, for a model's process.

    Parameters
    ----------
    sampler : str, SamplerType or Plan
        A `SamplerType`, any spelling that `SamplerType.parse` reads, or a name registered with `register_sampler`;
        "auto" for the best method known at this number of steps, with its own noise levels (see
        `ksched.samplers.auto.auto`); or a `Plan`, such as one from `ksched.tune`.
    schedule : str, NoiseSchedule, callable or None
        A `NoiseSchedule`, any spelling that `NoiseSchedule.parse` reads, a name registered with `register_schedule`, or
        a function of the same form; None means simple. Leave it out for "auto" and for plans.
    steps : int or None
        Number of schedule steps, at least 1; None means 20, or the plan's own number.
    calls : int or None
        Number of model calls (NFE) to spend, instead of ``steps``. You get as many steps as fit: a sampler that makes
        two calls per step gets half as many.
    process : Process, KnowsProcess or None
        The noise process that the model was trained on, or any object with an attribute ``process``, such as a
        `Denoiser`; None means Stable Diffusion's VP table.
    sigmas : array_like or None
        Noise levels to run exactly as given, instead of schedule and steps; strictly decreasing.
    dialect : Dialect or str
        The program whose behaviour the names mean, where programs differ. It sets options: for schedules they are in
        `ksched.schedules.DIALECTS`, for samplers on each sampler's page. Our own dialect is the published method.
    options : number, str, bool, sequence of float or Window
        Options of the sampler, and of the schedule where the sampler has none of that name. ``sigma_min`` and
        ``sigma_max`` set the schedule's range. Options for the amount of noise, such as eta, may be one number, one
        number per step, or a `ksched.window`.

    Raises
    ------
    TypeError, ValueError
        For an unknown name or option; a value out of range; sigmas that are not strictly decreasing; a plan made for
        another process; two arguments that exclude each other, such as a schedule and sigmas; fewer calls than one step
        makes; calls for an adaptive sampler.
    """
    spec = plan_spec(sampler) if isinstance(sampler, Plan) else sampler_spec(sampler)
    process = process_given(process)
    dialect = Dialect.parse(dialect)
    if sigmas is not None:
        _check_alone(sigmas, schedule, steps, calls, process)
    if calls is None:
        return _built(spec, schedule, steps, process, sigmas, dialect, options)
    if steps is not None:
        raise ValueError(f"give either steps or calls, not both; got steps={steps!r}, calls={calls!r}")
    return _most_steps(spec, calls, lambda n: _built(spec, schedule, n, process, None, dialect, options))


def _check_alone(sigmas: ArrayLike, schedule: Any, steps: Any, calls: Any, process: Process) -> None:
    """Refuse arguments that custom sigmas would override."""
    if schedule is not None:
        raise ValueError(
            f"give either a schedule or sigmas, not both: sigmas are run exactly as given; got schedule={schedule!r}"
        )
    count = len(check_sigmas(sigmas, process.sigma_limit)) - 1
    if steps is not None and check_steps(steps) != count:
        raise ValueError(f"leave out steps when you give sigmas: these sigmas make {count} steps; got steps={steps}")
    if calls is not None:
        raise ValueError(f"leave out calls when you give sigmas: these sigmas make {count} steps; got calls={calls}")


def _most_steps(spec: SamplerSpec, calls: int, build: Callable[[int], Sampler]) -> Sampler:
    """The sampler with the most steps that makes at most ``calls`` model calls."""
    calls = check_calls(calls)
    if spec.adaptive:
        raise TypeError(
            f"{spec.name} is adaptive: its error estimate decides the number of model calls; leave out calls"
        )
    if spec.steps:  # a plan brings its own steps
        fits = [own for own in map(build, sorted(spec.steps, reverse=True)) if own.nfe <= calls]
        if not fits:
            raise ValueError(f"{spec.name} makes {build(spec.steps[0]).nfe} model calls; got calls={calls}")
        return fits[0]
    steps = _guessed_steps(spec, calls)
    built = build(steps)
    while built.nfe > calls:
        # the excess shrinks steps quickly: every step makes at least one call, and the guess is only a little off
        if steps == 1:
            raise ValueError(f"one step of {spec.name} makes {built.nfe} model calls; got calls={calls}")
        steps = max(1, min(steps - 1, steps * calls // built.nfe + 1))
        built = build(steps)
    while built.nfe < calls:
        try:
            more = build(built.steps + 1)
        except ValueError:  # this schedule or method has no more steps
            break
        if more.nfe > calls:
            break
        built = more
    return built


def _guessed_steps(spec: SamplerSpec, calls: int) -> int:
    """Number of steps that makes about ``calls`` model calls, from the sampler's declaration."""
    try:
        return max(1, bisect_right(range(1, calls + 1), calls, key=lambda steps: spec.nfe(steps, True)))
    except TypeError:  # the number of calls depends on the levels
        return calls


def _built(
    spec: SamplerSpec,
    schedule: Schedule | None,
    steps: int | None,
    process: Process,
    sigmas: ArrayLike | None,
    dialect: Dialect,
    options: dict[str, Any],
) -> Sampler:
    if spec.levels is not None and schedule is not None:
        raise ValueError(f"sampler {spec.name} brings its own noise levels; leave out schedule, got {schedule!r}")
    schedule = NoiseSchedule.SIMPLE if schedule is None else schedule
    name = schedule_name(schedule)
    options = our_words(spec.options, options)
    own = {name: value for name, value in options.items() if name in spec.options}
    rest = {name: value for name, value in options.items() if name not in spec.options}
    owner = f"sampler {spec.name}"
    for option, value in own.items() if spec.adaptive else ():
        one_number(f"{owner}: {option}", value, "an adaptive sampler's steps are not known in advance")
    given = check_options(owner, spec.options, {**dialect_options(spec, dialect), **own})

    def made(levels: ArrayLike, name: NoiseSchedule | str | None) -> Sampler:
        grid = Grid.of(levels, process)
        return Sampler(spec, grid, settled(owner, given, len(grid)), name, dialect)

    if sigmas is not None:
        check_options(f"{owner} on custom sigmas", spec.options, rest, beside=_ARGUMENTS)  # refuses all of them
        return made(sigmas, None)
    if spec.levels is not None:
        check_options(owner, spec.options, rest, beside=_ARGUMENTS)
        asked = (spec.steps or (20,))[0] if steps is None else steps
        return made(spec.levels(asked, process, **own), None)
    span = {name: Option(name, float, None) for name in ("sigma_min", "sigma_max")}
    shared = {**spec.options, **schedule_options(schedule), **span}
    for option in rest.keys() - shared.keys():
        check_options(f"{owner} with schedule {name}", shared, {option: None}, beside=_ARGUMENTS)
    levels = calculate_sigmas(schedule, 20 if steps is None else steps, process, dialect=dialect, **rest)
    return made(levels, name)
