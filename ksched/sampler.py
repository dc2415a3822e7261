"""`Sampler` says what to run and never changes: a sampler, its options and the levels of a run."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ksched.denoisers.answer import Model
from ksched.execution.adaptive_run import AdaptiveRun
from ksched.execution.compiled import CompiledStep
from ksched.execution.live import EagerContext
from ksched.execution.loop import StepInfo, drive
from ksched.execution.registers import check_state
from ksched.execution.run import Run
from ksched.execution.start_check import StartCheck
from ksched.names.enums import Dialect, NoiseSchedule, SamplerType
from ksched.names.sampler_type import SamplerName
from ksched.noise.seeded import SeededNoise
from ksched.noise.sources import Noise, noise_source
from ksched.noise.streams import Seed, checked_shape, item_seeds
from ksched.options import Option, check_calls, check_options, check_steps, check_whole, our_words
from ksched.plan.plan import Plan
from ksched.plan.rows import Draw
from ksched.policy.stochastic_steps import StochasticSteps
from ksched.probability_flow.inversion import invert, rising_plans
from ksched.processes import Process
from ksched.processes.agreement import KnowsProcess, Levels, check_agreement, levels_of, process_given
from ksched.samplers.registry import dialect_options, plan_spec, sampler_spec
from ksched.samplers.spec import SamplerSpec
from ksched.schedules.grid import Grid, check_sigmas
from ksched.schedules.select import Schedule, calculate_sigmas, schedule_name, schedule_options
from ksched.types import Array, ArrayLike

__all__ = ["Sampler", "build_sampler"]

_ARGUMENTS = ("schedule", "steps", "calls", "process", "sigmas", "dialect")  # of `build_sampler`


@dataclass(frozen=True, repr=False)
class Sampler(StochasticSteps):
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
        object.__setattr__(self, "_plan", None if self.spec.adaptive else self.spec.plan(self.grid, dict(self.options)))

    @property
    def plan(self) -> Plan:
        """The table of numbers that the sampler is.

        Raises
        ------
        TraceError : the sampler is adaptive: it chooses its steps by what the model answers
        """
        return self.spec.plan(self.grid, dict(self.options)) if self._plan is None else self._plan

    @cached_property
    def matrices(self) -> CompiledStep:
        """The plan as tensors for a step that is compiled, exported or captured once.

        Raises
        ------
        TraceError : the sampler is adaptive: it has no plan
        """
        return CompiledStep(self.plan, self.process)

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

    @cached_property
    def _levels(self) -> Levels:
        """What a model that knows its process may check."""
        return levels_of(self.process, self.sigmas)

    def initial_state(
        self,
        shape: Sequence[int],
        *,
        seed: Seed,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> torch.Tensor:
        """Pure noise at the level ``sigmas[0]``, scaled as `sample` wants it: the start of a run from nothing.

        Parameters
        ----------
        shape : of the state, batch first
        seed : one whole number (item i takes ``seed + i``) or one per item. An item's noise depends on its seed and on
            nothing else: not on the batch, the device, the sampler or the number of steps
        dtype : floating point; None is torch's default
        device : None is torch's default

        Returns
        -------
        tensor of that shape: noise std of the process at ``sigmas[0]``, times normal noise

        Raises
        ------
        TypeError, ValueError : a shape without a batch axis, seeds that are not whole numbers or not one per item, a
            dtype that is not floating point

        Notes
        -----
        The noise is independent of that of the steps, so the same seed may be given to `sample`. To start from an image
        instead, noise it: ``process.add_noise(x0, noise, sigmas[0])``.

        Examples
        --------
        >>> import ksched
        >>> sampler = ksched.build_sampler("euler", "karras", 10)
        >>> x = sampler.initial_state((2, 4, 64, 64), seed=7)
        >>> bool(abs(x.std() / sampler.sigmas[0] - 1) < 0.02)
        True
        """
        like = torch.empty(checked_shape(shape), dtype=dtype, device=device)
        check_state(like)
        eps = SeededNoise(item_seeds(seed, len(like)))(Draw(math.inf, math.inf), like)
        return eps.mul_(float(self.process.noise_std(float(self.sigmas[0]))))

    def start(self, x: torch.Tensor, *, seed: Seed | None = None, noise: Noise | None = None) -> Run | AdaptiveRun:
        """A run to drive yourself; arguments and errors as for `Run`. That of an adaptive sampler is a `AdaptiveRun`.

        Warns
        -----
        RuntimeWarning : when the first model call is answered: ``x`` cannot be a state at ``sigmas[0]``, its spread is
            off by more than 3 times; looked at on the processor only, in 64 numbers, where noise hides the data
        """
        check_state(x)
        self._start_check.check_dtype(x.dtype)
        how: dict[str, Any] = {"seed": seed, "noise": noise, "levels": self._levels}
        if self._start_check.judges(x):
            how["check_start"] = self._start_check
        if self._plan is None:
            return AdaptiveRun(self.spec, self.grid, dict(self.options), x, **how)
        return Run(self._plan, x, process=self.process, **how)

    @cached_property
    def _start_check(self) -> StartCheck:
        return StartCheck(self.process, self.grid.levels[0])

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
        x : start state at the level ``sigmas[0]``, batch first: from pure noise that of `initial_state`, from an image
            ``process.add_noise(x0, eps, sigmas[0])``
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
        TypeError, ValueError : bad arguments, before the first model call, among them a denoiser that knows its
            process, as `ksched.Denoiser` does, where it means other states than the sampler's; a prediction of another
            shape

        Warns
        -----
        RuntimeWarning : as for `start`

        Notes
        -----
        Gradients are recorded only if ``x`` asks for them.
        """
        check_agreement(denoiser, self.process, self.sigmas)
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
        TypeError, ValueError : a state or a denoiser that `sample` would not take; a sampler that draws noise, or is
            adaptive

        Warns
        -----
        RuntimeWarning : the way back does not fit for some items, which it names; the best start found is returned for
            them, and the others do not depend on them

        Notes
        -----
        For linear models, such as the exact ones of normal data, it is exact. Upwards, a last level of 0 is one of at
        most 0.0001. No gradients are recorded.
        """
        check_state(x)
        check_whole("rounds", rounds, 0)
        check_agreement(denoiser, self.process, self.sigmas)
        ups = rising_plans(self.spec, self.grid, dict(self.options))
        return invert(self.plan, ups, denoiser, x, rounds, tolerance)

    def live(
        self, denoiser: Model, x: torch.Tensor, *, seed: Seed | None = None, noise: Noise | None = None
    ) -> torch.Tensor:
        """The same run without a plan: the sampler function executed on tensors, in ``x``'s dtype throughout.

        Arguments, errors and warnings are those of `sample`.
        """
        check_state(x)
        check_agreement(denoiser, self.process, self.sigmas)
        if self._start_check.judges(x):
            self._start_check(x.detach().contiguous())
        draws = bool(dict(self.options).get("eta")) if self._plan is None else bool(self._plan.draws)
        source, _ = noise_source(draws, x.shape[0], seed, noise, self.process)
        context = EagerContext(denoiser, x, source, noise_scale=self.process.noise_scale)
        result: torch.Tensor = self.spec(context, self.grid, x, **dict(self.options))
        return result

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
        ``sigma_max`` are the schedule's range

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
    given = tuple(check_options(owner, spec.options, {**dialect_options(spec, dialect), **own}).items())
    if sigmas is not None:
        check_options(f"{owner} on custom sigmas", spec.options, rest, beside=_ARGUMENTS)  # refuses them all
        return Sampler(spec, Grid.of(sigmas, process), given, None, dialect)
    if spec.levels is not None:
        check_options(owner, spec.options, rest, beside=_ARGUMENTS)
        asked = (spec.steps or (20,))[0] if steps is None else steps
        return Sampler(spec, Grid.of(spec.levels(asked, process, **own), process), given, None, dialect)
    span = {name: Option(name, float, None) for name in ("sigma_min", "sigma_max")}
    shared = {**spec.options, **schedule_options(schedule), **span}
    for option in rest.keys() - shared.keys():
        check_options(f"{owner} with schedule {name}", shared, {option: None}, beside=_ARGUMENTS)
    levels = calculate_sigmas(schedule, 20 if steps is None else steps, process, dialect=dialect, **rest)
    return Sampler(spec, Grid.of(levels, process), given, name, dialect)
