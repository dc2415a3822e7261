"""Runs without a plan: a sampler function executed on tensors because it looks at its states, or as a test oracle."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any, NoReturn, TypeVar

import torch

from ksched.execution.adaptive_progress import AdaptiveProgress, ModelCall
from ksched.execution.registers import FED_TWICE, WRITTEN, check_output, check_state
from ksched.execution.saved_state import CopiedBySaving, OwnNoise, StateCheck, saved_noise
from ksched.kernels.torch_internals import out_of_place, writes_to
from ksched.noise.sources import CallableNoise, Noise, Seed, noise_source, scheme_of
from ksched.plan.rows import Draw
from ksched.processes import Level
from ksched.processes.agreement import Levels, mark
from ksched.processes.host_levels import carry
from ksched.samplers.spec import SamplerSpec
from ksched.schedules.grid import Grid

__all__ = ["AdaptiveRun", "S", "finish"]


S = TypeVar("S")

#: a prediction, and the unconditional prediction if it was requested
Answer = tuple[torch.Tensor, torch.Tensor | None]

NOT_PARTED = (
    "an adaptive run chooses its steps from the error of the whole batch, so its items cannot be split or copied; take "
    "needs a sampler that has a plan"
)


class _Waiting(Exception):  # noqa: N818 - control flow, not an error
    """Leaves a sampler where it waits for the model. It is never stored, because its traceback holds all frames."""

    def __init__(self, call: ModelCall) -> None:
        super().__init__("the sampler waits for the model")
        self.call = call


class AdaptiveRun(AdaptiveProgress, CopiedBySaving):
    """One run of an adaptive sampler that you drive yourself, like a `Run`.

    For every answer, the sampler is called again from its last checkpoint with the answers given since then, at most
    those of one try. The run can therefore wait for its model, and be saved and resumed, without a thread. `finish` has
    the model available and calls the sampler once.

    Parameters
    ----------
    spec, grid, options : SamplerSpec, Grid and mapping
        Sampler, grid and options to run.
    x : Tensor
        Start state, batch first; it is copied and never modified.
    seed, noise : as for `Run`; needed if the sampler draws noise
    levels, check_start : as for `Run`

    Raises
    ------
    TypeError, ValueError
        As for `Run`.
    """

    def __init__(
        self,
        spec: SamplerSpec,
        grid: Grid,
        options: Mapping[str, Any],
        x: torch.Tensor,
        *,
        seed: Seed | None = None,
        noise: Noise | None = None,
        levels: Levels | None = None,
        check_start: Callable[[torch.Tensor], None] | None = None,
    ) -> None:
        check_state(x)
        self.process = grid.process
        self.levels = levels
        self._check_start = check_start
        self._fed = False
        #: the error with which the run left a batch early; None if it did not. `Batch.add` clears it
        self.error: Exception | None = None
        self._spec, self._grid, self._options = spec, grid, dict(options)
        self._dtype = x.dtype
        self._compute = torch.promote_types(x.dtype, torch.float32)
        self._start = x.to(self._compute, copy=True)
        self._noise, self._seeds = noise_source(bool(self._options.get("eta")), x.shape[0], seed, noise, grid.process)
        self._calls = 0
        self._state: Any = None  # state of the last checkpoint
        self._state_writes: list[int] = []  # torch's write counters of its tensors
        self._saved: Mapping[str, Any] | None = None  # the same, as loaded
        self._answers: list[Answer] = []  # answers since the checkpoint
        self._drawn: dict[Draw, torch.Tensor] = {}
        self._asked: ModelCall | None = None
        self._result = self._start
        self._advance()

    @property
    def shape(self) -> torch.Size:
        """Shape of the states, batch first."""
        return self._start.shape

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the states that the model receives, and of the result."""
        return self._dtype

    @property
    def device(self) -> torch.device:
        """Device of the states."""
        return self._start.device

    @property
    def done(self) -> bool:
        """Whether the result has been reached."""
        return self._asked is None

    @property
    def x(self) -> torch.Tensor:
        """The state that the model must evaluate next, or the result; errors as for `Run.x`."""
        if self.error is not None:
            raise RuntimeError(f"the run left its batch with an error: {self.error}") from self.error
        return (self._result if self._asked is None else self._asked.x).to(self._dtype)

    @property
    def sigma(self) -> torch.Tensor:
        """Contract sigma for the model, shape (batch,); float32 (float64 if the state is)."""
        sigma = _filled(self._start, self._compute, self.level.label)
        carry(sigma, (self.level.label,) * len(sigma), (math.nan,) * len(sigma))  # no step of an adaptive run is a jump
        if self.levels is not None:
            mark(sigma, (self.levels,))
        return sigma

    @property
    def timestep(self) -> torch.Tensor:
        """The process's timestep for the network, shape (batch,), in `sigma`'s dtype."""
        return _filled(self._start, self._compute, self.process.timestep(self.level.label))

    def feed(self, denoised: torch.Tensor, uncond: torch.Tensor | None = None) -> None:
        """Answer the model call at `x` and advance to the next; arguments and errors as for `Run.feed`."""
        if self._fed:
            raise RuntimeError(FED_TWICE)
        self._fed = True
        try:
            self._answer(denoised, uncond)
        finally:
            self._fed = False

    def _answer(self, denoised: torch.Tensor, uncond: torch.Tensor | None) -> None:
        """Check an answer and continue with it."""
        answer = self._checked(denoised, uncond)
        try:
            with _taken_back_on_error(self):
                self._answers = [*self._answers, answer]
                self._advance()
                self._calls += 1
        except ValueError:
            self._forget_what_is_not_finite()
            raise

    def _checked(self, denoised: torch.Tensor, uncond: torch.Tensor | None) -> Answer:
        """Copies of an answer to the requested model call, after checking it and that the model wrote to nothing."""
        if self._asked is None:
            raise RuntimeError("the run is done and takes no further prediction")
        check_output("D", denoised, self.shape, self.device)
        if self._asked.both:
            check_output("U", uncond, self.shape, self.device)
        if writes_to(self._asked.x) != self._asked.writes or _writes_in(self._state) != self._state_writes:
            raise RuntimeError(WRITTEN)
        if self._check_start is not None and not self._calls and not out_of_place(self._asked.x):
            self._check_start(self._asked.x)
        uncond = None if uncond is None else uncond.to(self._compute, copy=True)
        return denoised.to(self._compute, copy=True), uncond

    def _forget_what_is_not_finite(self) -> None:
        """Request an answer again if it was NaN; this shows only when the last stage of a try has been answered."""
        finite = [all(value.isfinite().all() for value in pair if value is not None) for pair in self._answers]
        if not all(finite):
            self._calls -= len(finite) - finite.index(False)
            self._answers = self._answers[: finite.index(False)]
            self._advance()

    def take(self, indices: object) -> NoReturn:
        """Refused with a TypeError: all items share their steps, chosen from the error of the whole batch."""
        raise TypeError(NOT_PARTED)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume the run, in another process too: numbers, strings and copies of tensors."""
        return {
            "version": 1,
            "live": _key(self._spec, self._grid, self._options),
            "calls": self._calls,
            "seeds": self._seeds,
            "noise": scheme_of(self._noise),
            "dtype": str(self._dtype).removeprefix("torch."),
            "state": {f.name: _copied(getattr(self._state, f.name)) for f in fields(self._state)},
            "answers": [_copied(answers) for answers in self._answers],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from where `state_dict` was taken, bit for bit; this run's own state and seeds are replaced.

        Raises
        ------
        ValueError
            For a state that is damaged, of another kind, or of another sampler or noise; the run is then unchanged.
        """
        if not isinstance(state, Mapping) or state.get("version") != 1 or state["version"] is True:
            raise ValueError("state must come from Run.state_dict(), version 1")
        if state.get("live") != _key(self._spec, self._grid, self._options):
            raise ValueError("the state belongs to another plan; build the sampler with the same options and sigmas")
        check, device = StateCheck(state, self.shape, self._dtype), self.device
        saved, answers = _checked_parts(check, self._state, self._compute)
        tries = int(saved["accepted"]) + int(saved["rejected"]) + 1
        calls = check.whole("calls", self._spec.calls * tries + 2 if isinstance(self._spec.calls, int) else 2**62)
        draws = bool(self._options.get("eta"))
        noise, seeds = saved_noise(check, draws, self._noise, self._seeds, self.process)
        try:
            with _taken_back_on_error(self):
                self._noise, self._seeds, self._calls = noise, seeds, calls
                self.error, self._fed = None, False
                self._saved = {name: _copied(value, device) for name, value in saved.items()}
                self._answers = [_copied(pair, device) for pair in answers]
                self._drawn = {}
                self._advance()
        except Exception as error:
            raise ValueError(f"the state is damaged, so no run can resume from it ({error})") from error

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        """A copy, or a pickle, is an independent run that continues from the same state."""
        if self._start.requires_grad:
            raise TypeError(
                "a run that records gradients cannot be copied or pickled; its state_dict() leaves them out"
            )
        own = OwnNoise(self._noise.function if isinstance(self._noise, CallableNoise) else None)
        start = torch.zeros_like(self._start, dtype=self._dtype)
        parts = self._spec, self._grid, self._options, start, self._seeds, own, self.levels
        return _restored, (*parts, self.state_dict())

    def _advance(self, ask: Callable[[], Answer] | None = None) -> None:
        """Call the sampler from its last checkpoint to the next model call or the result; past calls with `ask`."""
        try:
            self._result = self._spec(_Replay(self, ask), self._grid, self._start, **self._options)
            self._asked = None
        except _Waiting as waiting:
            self._asked = waiting.call


def finish(run: AdaptiveRun, model: Callable[[], Answer]) -> None:
    """Run to the end in one call of the sampler, which computes nothing twice; the result is that of `feed`.

    Parameters
    ----------
    run : AdaptiveRun
        The run; after an error it is where it was before, and meanwhile it takes no other answers.
    model : callable
        Called for every model call, with ``run`` in the state that it has before `feed`; returns the prediction and the
        unconditional prediction or None.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As for `AdaptiveRun.feed`.
    """
    if run._fed:
        raise RuntimeError(FED_TWICE)
    with _taken_back_on_error(run):
        run._fed = True
        if not run.done:
            run._advance(model)
        run._fed = False


@contextmanager
def _taken_back_on_error(run: AdaptiveRun) -> Iterator[None]:
    """Restore a run if an error ends the work on it, so that a mistake or Ctrl-C loses nothing."""
    before = dict(vars(run))
    try:
        yield
    except BaseException:
        vars(run).update(before)
        raise


class _Replay:
    """The sampler context of an `AdaptiveRun`: it replays earlier answers, then uses `ask` if there is one."""

    def __init__(self, run: AdaptiveRun, ask: Callable[[], Answer] | None) -> None:
        self._run = run
        self._ask = ask
        self._answers = iter(list(run._answers))
        self._first = True

    def denoise(self, x: torch.Tensor, level: Level, told: Level | None = None) -> torch.Tensor:
        return self._answer(x, level, told, both=False)[0]

    def denoise_both(self, x: torch.Tensor, level: Level, told: Level | None = None) -> Answer:
        return self._answer(x, level, told, both=True)

    def noise(self, start: Level, end: Level, stream: int = 0, limit: float = math.inf) -> torch.Tensor:
        draw = Draw(start.label, end.label, 0, stream, limit)
        drawn = self._run._drawn
        if draw not in drawn:
            drawn[draw] = self._run._noise(draw, self._run._start) * self._run.process.noise_scale
        return drawn[draw]

    def keep(self, value: torch.Tensor) -> torch.Tensor:
        return value

    def checkpoint(self, state: Any) -> Any:
        run = self._run
        first, self._first = self._first, False
        if first and run._saved is not None:
            named = {f.name: run._saved[f.name] for f in fields(state)}
            shaped = {k: type(v)(*named[k]) if hasattr(v, "_fields") else named[k] for k, v in vars(state).items()}
            run._state, run._saved = replace(state, **shaped), None
            run._state_writes = _writes_in(run._state)
        elif not first or run._state is None:
            run._state, run._answers, run._drawn = state, [], {}
            run._state_writes = _writes_in(state)
        return run._state

    def _answer(self, x: torch.Tensor, level: Level, told: Level | None, both: bool) -> Answer:
        answered = next(self._answers, None)
        if answered is not None:
            return answered
        call = ModelCall(x, told or level, both, writes_to(x), level)
        if self._ask is None:
            raise _Waiting(call)
        run = self._run
        run._asked = call
        answered = run._checked(*self._ask())
        run._calls += 1
        return answered


def _restored(
    spec: SamplerSpec,
    grid: Grid,
    options: Mapping[str, Any],
    start: torch.Tensor,
    seeds: tuple[int, ...] | None,
    noise: OwnNoise,
    levels: Levels | None,
    state: Mapping[str, Any],
) -> AdaptiveRun:
    """A run that continues from a saved state, for copies and pickles."""
    run = AdaptiveRun(spec, grid, options, start, seed=seeds, noise=noise.function, levels=levels)
    run.load_state_dict(state)
    return run


def _filled(x: torch.Tensor, dtype: torch.dtype, value: float) -> torch.Tensor:
    """A tensor with one number per item of a state."""
    return torch.full((len(x),), value, dtype=dtype, device=x.device)


def _key(spec: SamplerSpec, grid: Grid, options: Mapping[str, Any]) -> str:
    """Text that a saved state and a run must share."""
    levels = [level.label for level in grid.levels]
    process = repr(grid.process).replace("keep_every=", "every=")  # the form that the first version wrote
    return f"{spec.name} {sorted(options.items())!r} {levels!r} {process}"


def _checked_parts(
    check: StateCheck, like: Any, compute: torch.dtype
) -> tuple[Mapping[str, Any], Sequence[tuple[Any, Any]]]:
    """The checkpoint of a saved state and the answers since; raises ValueError if they are damaged."""
    saved, answers = check.part("state"), check.part("answers")
    names = {f.name for f in fields(like)}
    if not isinstance(saved, Mapping) or set(saved) != names:
        raise ValueError(f"the state is damaged: its part 'state' must have {', '.join(sorted(names))}")
    for name, value in saved.items():
        check.like(f"state[{name!r}]", value, getattr(like, name), compute)
    if not isinstance(answers, list | tuple) or not all(isinstance(a, tuple) and len(a) == 2 for a in answers):
        raise ValueError("the state is damaged: its part 'answers' must be pairs of tensors")
    for denoised, uncond in answers:
        check.tensor("an answer", denoised, compute)
        if uncond is not None:
            check.tensor("an answer", uncond, compute)
    return saved, answers


def _writes_in(state: Any) -> list[int]:
    """Write counters, by torch, of the tensors of a checkpoint."""
    return [writes_to(value) for value in vars(state).values() if isinstance(value, torch.Tensor)]


def _copied(value: Any, device: torch.device | None = None) -> Any:
    """A copy: numbers unchanged, tensors copied, tuples element by element."""
    if isinstance(value, torch.Tensor):
        return value.detach().clone().to(device if device is not None else value.device)
    return tuple(_copied(part, device) for part in value) if isinstance(value, tuple) else value
