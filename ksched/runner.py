"""The executor: `Run` is one run of a plan, and holds everything that changes while it lasts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import torch

from ksched.kernels import combine
from ksched.noise import BrownianNoise, CallableNoise, NoiseSource, Seed, SeededNoise, item_seeds, seeded_source
from ksched.plan import Plan, Register
from ksched.processes import Level, Process

__all__ = ["Model", "Noise", "Run", "StepInfo", "answer", "check_output", "check_state", "drive", "noise_source"]

Model: TypeAlias = Callable[[torch.Tensor, torch.Tensor], Any]
Noise: TypeAlias = Callable[[float, float], Any] | Literal["brownian"]


@dataclass(frozen=True)
class StepInfo:
    """What a callback is given once a step, when the step's first model call has been answered.

    Attributes
    ----------
    step, steps : number of the step, from 0, and how many there are; for an adaptive sampler, of the try, and None
    sigma, sigma_next : contract sigma of the level the step leaves and of the one it goes to; for an adaptive sampler,
        of the last one above 0
    x : the state at ``sigma`` that the model saw
    denoised : its prediction of x0
    nfe : model calls so far
    """

    step: int
    steps: int | None
    sigma: float
    sigma_next: float
    x: torch.Tensor
    denoised: torch.Tensor
    nfe: int


def check_state(x: Any) -> None:
    """Raise unless ``x`` is a floating-point tensor with a batch axis."""
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"x must be a torch tensor; got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"x must be a floating-point tensor; got {x.dtype}")
    if x.ndim == 0:
        raise ValueError("x must have a batch axis first; got a tensor of no dimensions")


def check_output(kind: str, value: Any, state: torch.Tensor) -> None:
    """Raise unless an output of the model, "D" or "U", is a tensor like the state."""
    what = {"D": "denoised", "U": "uncond"}[kind]
    if value is None and kind == "U":
        raise TypeError("this sampler needs (denoised, uncond) from the model; it returned denoised alone")
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{what} must be a tensor; got {type(value).__name__}")
    if value.device != state.device:
        raise ValueError(f"{what} must be on the state's device {state.device}; got {value.device}")
    if value.shape != state.shape:
        raise ValueError(f"{what} must have the state's shape {tuple(state.shape)}; got {tuple(value.shape)}")


class Run:
    """One run of a plan, driven by whoever holds it: read `x` and `sigma`, call the model, `feed` the answer.

    Parameters
    ----------
    plan : what to run
    x : start state, batch first; it is copied, never written to
    seed : one whole number, or one per item of the batch; needed if the plan draws noise
    noise : instead of a seed, ``(sigma_from, sigma_to) -> tensor like x`` of unit variance; or "brownian", with a seed:
        a picture stays when the number of steps changes (see `ksched.noise.BrownianNoise`)
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
        check_state(x)
        self.plan = plan
        self.process = process
        self._dtype = x.dtype
        self._compute = torch.promote_types(x.dtype, torch.float32)  # half precision is for the model, not for sums
        self._noise, self._seeds = noise_source(bool(plan.draws), x.shape[0], seed, noise, process)
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
    def steps(self) -> int:
        """Number of schedule steps."""
        return self.plan.steps

    @property
    def accepted(self) -> int:
        """Steps done: a plan has no others."""
        return self.step

    @property
    def rejected(self) -> int:
        """Tries that were rejected: none."""
        return 0

    @property
    def sigma_next(self) -> float:
        """Contract sigma that the present step goes to."""
        return self.plan.sigmas[self.step + 1]

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
            check_output(kind, value, registers[Register("x", self._row)])
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
            "noise": "brownian" if isinstance(self._noise, BrownianNoise) else "seeded",
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
            self._noise = seeded_source(state["noise"], tuple(self._seeds), self.process)
        self._registers = {names[name]: value.to(device, copy=True) for name, value in state["registers"].items()}

    def _per_item(self, value: float) -> torch.Tensor:
        x = self._registers[Register("x", self._row)]
        return torch.full((x.shape[0],), value, dtype=self._compute, device=x.device)

    def _store(self, registers: dict[Register, torch.Tensor], kind: str, value: Any) -> None:
        """Keep an output: as it is if it is used up before the model runs again, else as a copy of our own."""
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
                for register, _ in sorted(rows[row].terms):  # noises in the order of their numbers
                    if register not in registers:  # only noise is not made before it is needed
                        registers[register] = self._noise(self.plan.draws[register.number], like)
                newest = Register("x", row)
                registers[newest] = combine([(registers[register], value) for register, value in rows[row].terms])
                registers = {r: v for r, v in registers.items() if r == newest or last.get(r, -1) > row}
            if rows[row].level is not None or row == len(rows) - 1:
                break
            row += 1
        self._row, self._registers = row, registers


def noise_source(
    draws: bool, batch: int, seed: Seed | None, noise: Noise | None, process: Process | None = None
) -> tuple[NoiseSource, tuple[int, ...] | None]:
    """Where a run's noise comes from, and the seeds of its items; arguments and errors as for `Run`."""
    kind = "seeded"
    if isinstance(noise, str):
        if noise != "brownian":
            raise ValueError(f'noise must be "brownian" or callable, (sigma_from, sigma_to) -> tensor; got {noise!r}')
        kind, noise = noise, None
    if seed is not None and noise is not None:
        raise ValueError("give either seed or noise, not both")
    if noise is not None:
        if not callable(noise):
            raise TypeError(f"noise must be callable, (sigma_from, sigma_to) -> tensor; got {type(noise).__name__}")
        return CallableNoise(noise), None
    if seed is None:
        if draws:
            raise ValueError("this sampler draws noise: give seed=<int>, one seed per batch item, or noise=<callable>")
        return SeededNoise(()), None
    seeds = item_seeds(seed, batch)
    return seeded_source(kind, seeds, process), seeds


def answer(model: Model, x: torch.Tensor, sigma: torch.Tensor, both: bool) -> tuple[Any, Any]:
    """One model call, as (denoised, uncond); a model may always return the pair, a sampler may not need it."""
    result = model(x, sigma)
    denoised, uncond = result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    return denoised, uncond if both else None


class Driven(Protocol):
    """What `drive` needs of a run: a `Run`, or one of an adaptive sampler."""

    @property
    def done(self) -> bool: ...
    @property
    def x(self) -> torch.Tensor: ...
    @property
    def level(self) -> Level: ...
    @property
    def sigma(self) -> torch.Tensor: ...
    @property
    def sigma_next(self) -> float: ...
    @property
    def step(self) -> int: ...
    @property
    def steps(self) -> int | None: ...
    @property
    def nfe(self) -> int: ...
    @property
    def needs_uncond(self) -> bool: ...
    def feed(self, denoised: Any, uncond: Any = None) -> None: ...


def drive(
    run: Driven, denoiser: Model, callback: Callable[[StepInfo], object] | None = None, progress: bool = False
) -> torch.Tensor:
    """Call the model until the run is done and return the result."""
    if not callable(denoiser):
        raise TypeError(f"denoiser must be callable, (x, sigma) -> denoised; got {type(denoiser).__name__}")
    bar = _progress_bar(run.steps, run.step) if progress else None
    told = run.step - 1
    try:
        while not run.done:
            x, sigma, step, after = run.x, run.level.label, run.step, run.sigma_next
            denoised, uncond = answer(denoiser, x, run.sigma, run.needs_uncond)
            run.feed(denoised, uncond)
            if callback is not None and step > told:
                told = step
                # a copy: the model may overwrite its output at the next call
                callback(StepInfo(step, run.steps, sigma, after, x, denoised.clone(), run.nfe))
            if bar is not None:
                bar.update(run.step - step)
    finally:
        if bar is not None:
            bar.close()
    return run.x


def _progress_bar(steps: int | None, done: int) -> Any:
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError('progress=True needs tqdm: pip install "ksched[cli]"') from error
    return tqdm(total=steps, initial=done, unit="step")
