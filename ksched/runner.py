"""The executor: `Sampler` says what to run and never changes; `Run` is one run of it, and holds all that does."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import torch

from ksched.grid import Grid
from ksched.kernels import combine
from ksched.noise import CallableNoise, NoiseSource, Seed, SeededNoise, item_seeds
from ksched.options import Option, check_options
from ksched.plan import Draw, Plan, Register
from ksched.processes import Level, Process, default_process
from ksched.registry import SamplerSpec, sampler_spec
from ksched.schedules import calculate_sigmas, schedule_options
from ksched.tape import trace
from ksched.types import Array, ArrayLike, Dialect, NoiseSchedule, SamplerType

__all__ = ["Live", "Run", "Sampler", "StepInfo", "build_sampler"]

Model: TypeAlias = Callable[[torch.Tensor, torch.Tensor], Any]
Noise: TypeAlias = Callable[[float, float], Any]


@dataclass(frozen=True)
class StepInfo:
    """What a callback is given once a step, when the step's first model call has been answered.

    Attributes
    ----------
    step, steps : number of the step, from 0, and how many there are
    sigma, sigma_next : contract sigma of the level the step leaves and of the one it goes to
    x : the state at ``sigma`` that the model saw
    denoised : its prediction of x0
    nfe : model calls so far
    """

    step: int
    steps: int
    sigma: float
    sigma_next: float
    x: torch.Tensor
    denoised: torch.Tensor
    nfe: int


class Run:
    """One run of a plan, driven by whoever holds it: read `x` and `sigma`, call the model, `feed` the answer.

    Parameters
    ----------
    plan : what to run
    x : start state, batch first; it is copied, never written to
    seed : one whole number, or one per item of the batch; needed if the plan draws noise
    noise : instead of a seed, ``(sigma_from, sigma_to) -> tensor like x`` of unit variance
    process : names the timesteps of the levels; None if the model needs none

    Raises
    ------
    TypeError, ValueError : a state that is not a floating-point tensor with a batch axis; seed and noise both missing
        where noise is drawn, or both given
    """

    def __init__(
        self,
        plan: Plan,
        x: torch.Tensor,
        *,
        seed: Seed | None = None,
        noise: Noise | None = None,
        process: Process | None = None,
    ) -> None:
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"x must be a torch tensor; got {type(x).__name__}")
        if not x.is_floating_point():
            raise TypeError(f"x must be a floating-point tensor; got {x.dtype}")
        if x.ndim == 0:
            raise ValueError("x must have a batch axis first; got a tensor of no dimensions")
        self.plan = plan
        self.process = process
        self._dtype = x.dtype
        self._compute = torch.promote_types(x.dtype, torch.float32)  # half precision is for the model, not for sums
        self._noise, self._seeds = _noise_source(plan, x.shape[0], seed, noise)
        self._row, self._calls = 0, 0
        self._registers: dict[Register, torch.Tensor] = {}
        self._advance(0, {Register("x", 0): x.to(self._compute, copy=True)})

    @property
    def done(self) -> bool:
        """Whether the result has been reached."""
        return self._row == len(self.plan.rows) - 1

    @property
    def x(self) -> torch.Tensor:
        """The state the model must see next, or the result; in the dtype of the start state, never written again."""
        return self._registers[Register("x", self._row)].to(self._dtype)

    @property
    def level(self) -> Level:
        """The level the model must be called at.

        Raises
        ------
        RuntimeError : the run is done
        """
        level = self.plan.rows[self._row].level
        if level is None:
            raise RuntimeError("the run is done: there is no level left to call the model at")
        return level

    @property
    def sigma(self) -> torch.Tensor:
        """Contract sigma for the model, shape (batch,); float32 (float64 if the state is)."""
        return self._per_item(self.level.label)

    @property
    def timestep(self) -> torch.Tensor:
        """The process's timestep for the network, shape (batch,), of `sigma`'s dtype.

        Raises
        ------
        RuntimeError : the run was started without a process
        """
        if self.process is None:
            raise RuntimeError("a bare plan knows no timesteps; start the run from a Sampler, or give a process")
        return self._per_item(self.process.timestep(self.level.label))

    @property
    def step(self) -> int:
        """The schedule step that the next model call belongs to; the number of steps when done."""
        return self.plan.steps if self.done else self.plan.rows[self._row].step

    @property
    def nfe(self) -> int:
        """Model calls answered so far."""
        return self._calls

    @property
    def needs_uncond(self) -> bool:
        """Whether the next answer must come with its unconditional twin."""
        return self.plan.rows[self._row].both

    def feed(self, denoised: torch.Tensor, uncond: torch.Tensor | None = None) -> None:
        """Answer the model call at `x` and advance to the next one.

        Parameters
        ----------
        denoised : the model's x0 prediction, of the state's shape; it may be `x` itself, a view of it, or a buffer
            that the next call will overwrite
        uncond : its unconditional twin, for samplers that need it

        Raises
        ------
        RuntimeError : the run is done
        TypeError, ValueError : a prediction that is missing, no tensor, or of another shape
        """
        row = self.plan.rows[self._row]
        if row.level is None:
            raise RuntimeError("the run is done: it takes no further prediction")
        outputs = {"D": denoised, "U": uncond} if row.both else {"D": denoised}
        registers = dict(self._registers)
        for kind, value in outputs.items():
            self._store(registers, kind, value)
        self._advance(self._row + 1, registers)
        self._calls += 1

    def state_dict(self) -> dict[str, Any]:
        """Everything a run needs to go on, in another process too: numbers, strings and copies of tensors."""
        return {
            "version": 1,
            "plan": self.plan.digest,
            "row": self._row,
            "calls": self._calls,
            "seeds": self._seeds,
            "dtype": str(self._dtype).removeprefix("torch."),
            "registers": {str(name): value.detach().clone() for name, value in self._registers.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state_dict` was taken, bit for bit; this run's own state and seeds are forgotten.

        Raises
        ------
        ValueError : not such a state, or one of another plan
        """
        if not isinstance(state, Mapping) or state.get("version") != 1:
            raise ValueError("state must come from Run.state_dict(), version 1")
        if state["plan"] != self.plan.digest:
            raise ValueError("the state belongs to another plan; build the sampler with the same options and sigmas")
        device = next(iter(self._registers.values())).device
        names = {str(r): r for k, row in enumerate(self.plan.rows) for r, _ in (*row.terms, (Register("x", k), 0))}
        self._row, self._calls, self._seeds = int(state["row"]), int(state["calls"]), state["seeds"]
        self._dtype = getattr(torch, state["dtype"])
        self._compute = torch.promote_types(self._dtype, torch.float32)
        if self._seeds is not None:
            self._noise = SeededNoise(tuple(self._seeds))
        self._registers = {names[name]: value.to(device, copy=True) for name, value in state["registers"].items()}

    def _per_item(self, value: float) -> torch.Tensor:
        x = self._registers[Register("x", self._row)]
        return torch.full((x.shape[0],), value, dtype=self._compute, device=x.device)

    def _store(self, registers: dict[Register, torch.Tensor], kind: str, value: Any) -> None:
        """Keep an output: as it is if it is used up before the model runs again, else as a copy of our own."""
        what = {"D": "denoised", "U": "uncond"}[kind]
        state = registers[Register("x", self._row)]
        if value is None and kind == "U":
            raise TypeError("this sampler needs (denoised, uncond) from the model; it returned denoised alone")
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{what} must be a tensor; got {type(value).__name__}")
        if value.device != state.device:
            raise ValueError(f"{what} must be on the state's device {state.device}; got {value.device}")
        if value.shape != state.shape:
            raise ValueError(f"{what} must have the state's shape {tuple(state.shape)}; got {tuple(value.shape)}")
        register = Register(kind, self._calls)
        last = self.plan.last_use.get(register, -1)
        again = any(row.level is not None for row in self.plan.rows[self._row + 1 : last])
        if last > self._row:
            registers[register] = value.to(self._compute, copy=again)

    def _advance(self, row: int, registers: dict[Register, torch.Tensor]) -> None:
        """Form states from ``row`` on up to the next one that the model must see, or the result.

        The run changes only when all has gone well, so that a mistake in a prediction or in own noise loses nothing.
        """
        rows, last = self.plan.rows, self.plan.last_use
        while True:
            if rows[row].terms:  # all but the start state
                like = registers[Register("x", row - 1)]
                for register, _ in rows[row].terms:
                    if register not in registers:  # only noise is not made before it is needed
                        registers[register] = self._noise(self.plan.draws[register.number], like)
                newest = Register("x", row)
                registers[newest] = combine([(registers[register], value) for register, value in rows[row].terms])
                registers = {r: v for r, v in registers.items() if r == newest or last.get(r, -1) > row}
            if rows[row].level is not None or row == len(rows) - 1:
                break
            row += 1
        self._row, self._registers = row, registers


def _noise_source(
    plan: Plan, batch: int, seed: Seed | None, noise: Noise | None
) -> tuple[NoiseSource, tuple[int, ...] | None]:
    if seed is not None and noise is not None:
        raise ValueError("give either seed or noise, not both")
    if noise is not None:
        if not callable(noise):
            raise TypeError(f"noise must be callable, (sigma_from, sigma_to) -> tensor; got {type(noise).__name__}")
        return CallableNoise(noise), None
    if seed is None:
        if plan.draws:
            raise ValueError("this sampler draws noise: give seed=<int>, one seed per batch item, or noise=<callable>")
        return SeededNoise(()), None
    seeds = item_seeds(seed, batch)
    return SeededNoise(seeds), seeds


def answer(model: Model, x: torch.Tensor, sigma: torch.Tensor, both: bool) -> tuple[Any, Any]:
    """One model call, as (denoised, uncond); a model may always return the pair, a sampler may not need it."""
    result = model(x, sigma)
    denoised, uncond = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    return denoised, uncond if both else None


def drive(
    run: Run, denoiser: Model, callback: Callable[[StepInfo], object] | None = None, progress: bool = False
) -> torch.Tensor:
    """Call the model until the run is done and return the result."""
    if not callable(denoiser):
        raise TypeError(f"denoiser must be callable, (x, sigma) -> denoised; got {type(denoiser).__name__}")
    bar = _progress_bar(run.plan.steps, run.step) if progress else None
    told = run.step - 1
    try:
        while not run.done:
            x, sigma, step = run.x, run.level.label, run.step
            denoised, uncond = answer(denoiser, x, run.sigma, run.needs_uncond)
            run.feed(denoised, uncond)
            if callback is not None and step > told:
                told = step
                after = run.plan.sigmas[step + 1]
                # a copy: the model may overwrite its output at the next call
                callback(StepInfo(step, run.plan.steps, sigma, after, x, denoised.clone(), run.nfe))
            if bar is not None:
                bar.update(run.step - step)
    finally:
        if bar is not None:
            bar.close()
    return run.x


def _progress_bar(steps: int, done: int) -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError('progress=True needs tqdm: pip install "ksched[cli]"') from error
    return tqdm(total=steps, initial=done, unit="step")


class Live:
    """The verbs of a run on tensors: a sampler function called with it simply runs.

    The oracle of the tests and the debugger's friend: put a breakpoint into the sampler. Nothing is fused or freed.
    """

    def __init__(self, denoiser: Model, x: torch.Tensor, noise: NoiseSource) -> None:
        self._denoiser = denoiser
        self._like = x
        self._noise = noise
        self._visit = 0

    def denoise(self, x: torch.Tensor, level: Level) -> torch.Tensor:
        """The model's x0 prediction."""
        return self._call(x, level, both=False)[0]

    def denoise_both(self, x: torch.Tensor, level: Level) -> tuple[torch.Tensor, torch.Tensor]:
        """The prediction and its unconditional twin."""
        return self._call(x, level, both=True)

    def noise(self, start: Level, end: Level, stream: int = 0) -> torch.Tensor:
        """Noise of the interval."""
        self._visit += end.label > start.label
        return self._noise(Draw(start.label, end.label, self._visit, stream), self._like)

    def keep(self, value: torch.Tensor) -> torch.Tensor:
        """The value itself."""
        return value

    def _call(self, x: torch.Tensor, level: Level, both: bool) -> tuple[torch.Tensor, Any]:
        sigma = torch.full((x.shape[0],), level.label, dtype=x.dtype, device=x.device)
        denoised, uncond = answer(self._denoiser, x, sigma, both)
        return denoised.clone(), None if uncond is None else uncond.clone()


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
    dialect : whose noise levels the schedule's name means
    """

    spec: SamplerSpec
    grid: Grid
    options: tuple[tuple[str, Any], ...] = ()
    schedule: NoiseSchedule | None = None
    dialect: Dialect = Dialect.KSCHED
    plan: Plan = field(init=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "plan", trace(self.spec.function, self.grid, dict(self.options)))

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
        """Declared order of convergence."""
        return self.spec.order

    def start(self, x: torch.Tensor, *, seed: Seed | None = None, noise: Noise | None = None) -> Run:
        """A run to drive yourself; arguments and errors as for `Run`."""
        return Run(self.plan, x, seed=seed, noise=noise, process=self.process)

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
        noise : instead of a seed, ``(sigma_from, sigma_to) -> tensor like x`` of unit variance
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

    def live(
        self, denoiser: Model, x: torch.Tensor, *, seed: Seed | None = None, noise: Noise | None = None
    ) -> torch.Tensor:
        """The same run without a plan: the sampler function executed on tensors, in ``x``'s dtype throughout."""
        source, _ = _noise_source(self.plan, x.shape[0], seed, noise)
        result: torch.Tensor = self.spec.function(Live(denoiser, x, source), self.grid, x, **dict(self.options))
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
    sampler: SamplerType | str = SamplerType.EULER,
    schedule: NoiseSchedule | str = NoiseSchedule.SIMPLE,
    steps: int = 20,
    *,
    process: Process | None = None,
    sigmas: ArrayLike | None = None,
    dialect: Dialect | str = Dialect.KSCHED,
    **options: Any,
) -> Sampler:
    """A sampler with a schedule on a process.

    Parameters
    ----------
    sampler : a `SamplerType`, any spelling `SamplerType.parse` knows, or a name given to `register_sampler`
    schedule : a `NoiseSchedule` or any spelling `NoiseSchedule.parse` knows
    steps : number of schedule steps, >= 1
    process : what the model was trained on; None is Stable Diffusion's VP table
    sigmas : noise levels to run exactly as given, instead of schedule and steps; strictly decreasing
    dialect : whose noise levels the schedule's name means (see `ksched.calculate_sigmas`); the sampler is the published
        method in all of them
    options : options of the sampler, and of the schedule where the sampler has none of that name; ``sigma_min`` and
        ``sigma_max`` are the schedule's range

    Raises
    ------
    TypeError, ValueError : an unknown name or option, a value out of range, sigmas that are not a grid
    """
    spec = sampler_spec(sampler)
    process = default_process() if process is None else process
    if not isinstance(process, Process):
        raise TypeError(f"process must be a ksched process such as VP() or Flow(); got {process!r}")
    dialect = Dialect.parse(dialect)
    schedule = NoiseSchedule.parse(schedule)
    own = {name: value for name, value in options.items() if name in spec.options}
    rest = {name: value for name, value in options.items() if name not in spec.options}
    owner = f"sampler {spec.name}"
    given = tuple(check_options(owner, spec.options, own).items())
    if sigmas is not None:
        check_options(f"{owner} on custom sigmas", spec.options, rest)  # refuses them all
        return Sampler(spec, Grid.of(sigmas, process), given, None, dialect)
    span = {name: Option(name, float, None) for name in ("sigma_min", "sigma_max")}
    shared = {**spec.options, **schedule_options(schedule), **span}
    for name in rest.keys() - shared.keys():
        check_options(f"{owner} with schedule {schedule.value}", shared, {name: None})
    levels = calculate_sigmas(schedule, steps, process, dialect=dialect, **rest)
    return Sampler(spec, Grid.of(levels, process), given, schedule, dialect)
