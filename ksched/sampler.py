"""`Sampler` says what to run and never changes: a sampler, its options and the levels of a run."""

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
    schedule: NoiseSchedule | str | None = None
    dialect: Dialect = Dialect.KSCHED
    _plan: Plan | None = field(init=False, compare=False)

    def __post_init__(self) -> None:
        set_fields(self, _plan=None if self.spec.adaptive else self.spec.plan(self.grid, dict(self.options)))

    @property
    def plan(self) -> Plan:
        """The table of numbers that the sampler is.

        Raises
        ------
        TraceError : the sampler is adaptive: it chooses its steps by what the model answers
        """
        return self.spec.plan(self.grid, dict(self.options)) if self._plan is None else self._plan

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
    """A sampler with a schedule on a process.

    Parameters
    ----------
    sampler : a `SamplerType`, any spelling `SamplerType.parse` knows, or a name given to `register_sampler`; "auto",
        the best method known for the number of steps, with its own levels (see `ksched.samplers.auto.auto`); or a
        `Plan`, such as `ksched.tune` makes
    schedule : a `NoiseSchedule`, any spelling `NoiseSchedule.parse` knows, or a name given to `register_schedule`; or a
        function as that takes it; None is simple. "auto" and plans take none
    steps : number of schedule steps, >= 1; None is 20, or as many as the plan has
    calls : instead of steps, the number of model calls (NFE) to spend: as many steps as they allow. A sampler that
        makes two calls a step gets half as many
    process : what the model was trained on, or anything that knows it by an attribute ``process``, such as a
        `Denoiser`; None is Stable Diffusion's VP table
    sigmas : noise levels to run exactly as given, instead of schedule and steps; strictly decreasing
    dialect : whose behaviour the names mean, where programs differ: options, which `ksched.schedules.DIALECTS` has for
        schedules and the page of each sampler for samplers; ours is the published method
    options : options of the sampler, and of the schedule where the sampler has none of that name; ``sigma_min`` and
        ``sigma_max`` are the schedule's range. What says how much noise is drawn, such as eta, may be one number, one
        for each step, or a `ksched.window`

    Raises
    ------
    TypeError, ValueError : an unknown name or option, a value out of range, sigmas that are not a grid, a plan for
        another process; two instructions of which only one could be followed, such as a schedule beside sigmas; fewer
        calls than one step makes, or calls for an adaptive sampler
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
    """Refuse what would be ignored beside noise levels of one's own."""
    if schedule is not None:
        raise ValueError(
            f"give either a schedule or sigmas, which are run as they are; got both, schedule={schedule!r}"
        )
    count = len(check_sigmas(sigmas, process.sigma_limit)) - 1
    if steps is not None and check_steps(steps) != count:
        raise ValueError(f"steps must be left out where sigmas are given: they make {count} steps; got steps={steps}")
    if calls is not None:
        raise ValueError(f"calls must be left out where sigmas are given: they make {count} steps; got calls={calls}")


def _most_steps(spec: SamplerSpec, calls: int, build: Callable[[int], Sampler]) -> Sampler:
    """The sampler of the most steps that make no more than so many model calls."""
    calls = check_calls(calls)
    if spec.adaptive:
        raise TypeError(f"{spec.name} makes as many model calls as its error estimate asks for; leave out calls")
    if spec.steps:  # a plan, which has its own
        fits = [own for own in map(build, sorted(spec.steps, reverse=True)) if own.nfe <= calls]
        if not fits:
            raise ValueError(f"{spec.name} makes {build(spec.steps[0]).nfe} model calls; got calls={calls}")
        return fits[0]
    steps = _guessed_steps(spec, calls)
    built = build(steps)
    while built.nfe > calls:
        # Down by what is too much at least, if a step makes a call or more; a guess is off by little.
        if steps == 1:
            raise ValueError(f"one step of {spec.name} makes {built.nfe} model calls; got calls={calls}")
        steps = max(1, min(steps - 1, steps * calls // built.nfe + 1))
        built = build(steps)
    while built.nfe < calls:
        try:
            more = build(built.steps + 1)
        except ValueError:  # a schedule or method that has no more steps
            break
        if more.nfe > calls:
            break
        built = more
    return built


def _guessed_steps(spec: SamplerSpec, calls: int) -> int:
    """Steps of about so many model calls, from what the sampler declares."""
    try:
        return max(1, bisect_right(range(1, calls + 1), calls, key=lambda steps: spec.nfe(steps, True)))
    except TypeError:  # it depends on the levels
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
        raise ValueError(f"sampler {spec.name} has noise levels of its own; leave out schedule, got {schedule!r}")
    schedule = NoiseSchedule.SIMPLE if schedule is None else schedule
    name = schedule_name(schedule)
    options = our_words(spec.options, options)
    own = {name: value for name, value in options.items() if name in spec.options}
    rest = {name: value for name, value in options.items() if name not in spec.options}
    owner = f"sampler {spec.name}"
    for option, value in own.items() if spec.adaptive else ():
        one_number(f"{owner}: {option}", value, "the steps of an adaptive sampler are not known beforehand")
    given = check_options(owner, spec.options, {**dialect_options(spec, dialect), **own})

    def made(levels: ArrayLike, name: NoiseSchedule | str | None) -> Sampler:
        grid = Grid.of(levels, process)
        return Sampler(spec, grid, settled(owner, given, len(grid)), name, dialect)

    if sigmas is not None:
        check_options(f"{owner} on custom sigmas", spec.options, rest, beside=_ARGUMENTS)  # refuses them all
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
