"""`frames`: a clip whose frames have separate noise levels, in rolling, pyramid and autoregressive orders."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ksched.denoisers.answer import Model, answer, pair_of
from ksched.execution.layout import layout
from ksched.execution.registers import check_output, check_state
from ksched.execution.run import Run
from ksched.execution.saved_state import CopiedBySaving, OwnNoise, StateCheck, saved_noise
from ksched.execution.together import Answer
from ksched.joint_runs.orders import Order, check_table, order_of_offset, order_of_table
from ksched.joint_runs.progress import FramesProgress
from ksched.noise.clip import ClipNoise
from ksched.noise.sources import CallableNoise, Noise, NoiseSource, Seed, noise_source, scheme_of
from ksched.plan.plan import Plan
from ksched.plan.rows import Draw
from ksched.processes.agreement import check_agreement
from ksched.sampler import Sampler
from ksched.schedules.grid import Grid

__all__ = ["Frames", "frames"]


class Frames(FramesProgress, CopiedBySaving):
    """A run of a clip whose frames have separate noise levels; `frames` makes it, and you drive it like a `Run`."""

    def __init__(
        self,
        sampler: Sampler,
        x: torch.Tensor,
        order: Order,
        source: NoiseSource,
        seeds: tuple[int, ...] | None,
    ) -> None:
        self.sampler, self.order = sampler, order
        self._seeds, self._tick = seeds, 0
        starts = {begin: sampler_from(sampler, begin) for begin in order.begins if begin < sampler.steps}
        self._plans = [starts[begin].plan if begin in starts else None for begin in order.begins]
        needs = [{} if plan is None else _needs(plan) for plan in self._plans]
        self._shape, self._dtype, self._device = x.shape, x.dtype, x.device
        self._noise = ClipNoise(source, x.shape, needs)
        self._runs = []
        self._clean: dict[int, torch.Tensor] = {}
        for k, begin in enumerate(order.begins):
            if begin in starts:
                noise: Any = self._noise.frame(k)
                run = starts[begin].start(x[:, k], noise=noise)
                assert isinstance(run, Run)
                self._runs.append(run)
            else:
                self._runs.append(None)
                self._clean[k] = x[:, k].clone() if x.requires_grad else x[:, k].detach().clone()
        self._noise.forget(order.calls[0])
        self._uploaded: dict[str, torch.Tensor] = {}

    def feed(self, denoised: torch.Tensor, uncond: torch.Tensor | None = None) -> None:
        """Answer the model call at `x` and advance the frames whose turn it is; the others do not change.

        Parameters
        ----------
        denoised, uncond : as for `Run.feed`, for all frames

        Raises
        ------
        RuntimeError, TypeError, ValueError
            As for `Run.feed`; no frame has advanced then.
        """
        if self.done:
            raise RuntimeError("the frames are done and take no further prediction")
        check_output("D", denoised, self._shape, self._device)
        if self.needs_uncond:
            check_output("U", uncond, self._shape, self._device)
        self._advance(self.answers(denoised, uncond))

    def tell(self, answer: Any) -> None:
        """Feed a model's output."""
        self.feed(*pair_of(answer))

    def answers(self, denoised: Any, uncond: Any = None) -> list[Answer]:
        """The answers for the runs of the frames whose turn it is."""
        moving = self.moving
        outputs = _by_frame(denoised, moving)
        twins = _by_frame(uncond, moving) if self.needs_uncond else {}
        return [Answer(run, outputs[k], twins.get(k)) for k in moving if (run := self._runs[k]) is not None]

    def advanced(self) -> None:
        """Count the call, and drop noise that no frame waits for."""
        self._tick += 1
        self._noise.forget(self.order.calls[self._tick])

    def sample(self, model: Model) -> torch.Tensor:
        """Call a model until all frames are done, and return the clip.

        Parameters
        ----------
        model : callable
            ``(x, sigma) -> denoised``, or (denoised, uncond), with x of shape (batch, frames, ...) and sigma of shape
            (batch, frames).

        Raises
        ------
        TypeError, ValueError
            As for `feed`; a model whose own process means other states.

        Notes
        -----
        Gradients are recorded only if the clip requires them.
        """
        if not callable(model):
            raise TypeError(f"model must be callable, (x, sigma) -> denoised; got {type(model).__name__}")
        check_agreement(model, self.sampler.process, self.sampler.sigmas)
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.records):
            while not self.done:
                self.feed(*answer(model, self.x, self.sigma, self.needs_uncond))
        return self.x

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume, in another process too: numbers, strings and copies of tensors."""
        return {
            "version": 1,
            "order": _digest(self.order),
            "calls": self._tick,
            "seeds": self._seeds,
            "noise": scheme_of(self._noise.source),
            "dtype": str(self._dtype).removeprefix("torch."),
            "frames": [None if run is None else run.state_dict() for run in self._runs],
            "clean": [tensor.detach().clone() for tensor in self._clean.values()],
            "drawn": [
                self._noise.clips[draw].detach().clone() for draw in self._pending(self._tick, self._noise.source)
            ],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from where `state_dict` was taken, bit for bit; this run's own seeds are replaced.

        Raises
        ------
        ValueError
            For a state that is damaged, of another kind, or of another order, sampler or noise; nothing changes then.
        """
        self.loading(state)()

    def loading(self, state: Mapping[str, Any]) -> Callable[[], None]:
        """Check a whole state without changing the run; calling the result makes the run continue from it."""
        if not isinstance(state, Mapping) or state.get("version") != 1 or "order" not in state:
            raise ValueError("state must come from Frames.state_dict(), version 1")
        if state["order"] != _digest(self.order):
            raise ValueError("the state belongs to frames in another order, or to another number of steps or frames")
        check = StateCheck(state, self._shape, self._dtype)
        tick = check.whole("calls", self.ticks)
        draws = any(plan is not None and plan.draws for plan in self._plans)
        source, seeds = saved_noise(check, draws, self._noise.source, self._seeds, self.sampler.process)
        frames = _parts(check, "frames", len(self._runs))
        loads = [run.loading(part) for run, part in zip(self._runs, frames, strict=True) if run is not None]
        answered = [calls for calls, run in zip(self.order.calls[tick], self._runs, strict=True) if run is not None]
        if [part["calls"] for part in frames if part is not None] != answered:
            raise ValueError("the state is damaged: its frames are not where their order puts them after its calls")
        clean = _tensors(check, "clean", [(*self._shape[:1], *self._shape[2:])] * len(self._clean), self._dtype)
        pending = self._pending(tick, source)
        compute = torch.promote_types(self._dtype, torch.float32)
        drawn = _tensors(check, "drawn", [tuple(self._shape)] * len(pending), compute)

        def load() -> None:
            self._seeds, self._tick, self.error = seeds, tick, None
            self._noise = ClipNoise(source, self._shape, self._noise.needs)
            self._noise.clips = {d: clip.clone().to(self._device) for d, clip in zip(pending, drawn, strict=True)}
            self._clean = {k: x.clone().to(self._device) for k, x in zip(self._clean, clean, strict=True)}
            for each in loads:
                each()
            for k, run in enumerate(self._runs):
                if run is not None:
                    run.registers.noise = self._noise.frame(k)

        return load

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        """A copy, or a pickle, is an independent run that continues from the same state."""
        if any(run.registers.recorded for run in self.members):
            raise TypeError(
                "frames that record gradients cannot be copied or pickled; their state_dict() leaves them out"
            )
        source = self._noise.source
        own = OwnNoise(source.function if isinstance(source, CallableNoise) else None)
        like = torch.empty(self._shape, dtype=self._dtype, device=self._device)
        return _restored, (self.sampler, like, self.order, own, self.state_dict())

    def _pending(self, tick: int, source: NoiseSource) -> list[Draw]:
        """Draws of your own noise that only some frames have used; seeded draws can be made again."""
        return self._noise.pending(self.order.calls[tick]) if isinstance(source, CallableNoise) else []


def frames(
    sampler: Sampler,
    x: torch.Tensor,
    *,
    offset: int | None = None,
    context: int = 0,
    schedule: Any = None,
    seed: Seed | None = None,
    noise: Noise | None = None,
) -> Frames:
    """A run of a clip whose frames are denoised in an order: one after another, or overlapping.

    Parameters
    ----------
    sampler : Sampler
        From `build_sampler`; any sampler that is not adaptive.
    x : Tensor
        Start of the clip, shape (batch, frames, ...): for each frame the state at ``sampler.sigmas[0]``, or a clean
        frame if it is context.
    offset : int or None
        Number of ticks (model calls) by which each frame starts after the one before it; None means 0, all at once. A
        frame waits at its first level until then, and does not change once it is done.
    context : int
        Number of first frames that are given clean and stay so; the next frame starts at once.
    schedule : array_like or None
        Instead of both, a table of step numbers, shape (rows, frames): the number of steps that each frame has made at
        each row. The first row is where each frame starts; a clean frame has the full number of steps there, and a
        frame that starts at step n is given at ``sampler.sigmas[n]``. The last row has the full number of steps
        everywhere. Between two rows, each frame makes its steps and then waits for the others, for any number of calls
        per step. `ksched.joint_runs.pyramid` and `ksched.joint_runs.autoregressive` make such tables.
    seed, noise : as for `Sampler.sample`; a function returns noise for the whole clip, and is called once for each
        interval, when the first frame needs it

    Returns
    -------
    `Frames`: drive it with ``x``, ``sigma`` and ``feed``, or call ``sample(model)``

    Raises
    ------
    TypeError, ValueError
        For an adaptive sampler; a tensor that is not a clip; an invalid offset, context or schedule, or both kinds;
        seed and noise as for `Sampler.sample`; a start at a step where a plan of your own cannot start.

    Notes
    -----
    A frame's noise is its slice of the item's noise. With offset 0 the result is that of ``sampler.sample`` bit for
    bit, and a frame gets the same noise in any order. Your own noise is kept until the last frame has used its part.

    Examples
    --------
    >>> import ksched
    >>> sampler = ksched.build_sampler("euler", "simple", 3, process=ksched.Flow())
    >>> clip = sampler.initial_state((1, 3, 4), seed=1)
    >>> run = ksched.frames(sampler, clip, offset=2)
    >>> while not run.done:
    ...     print(run.tick, [round(float(sigma), 2) for sigma in run.sigma[0]])
    ...     run.feed(run.x * (1 - run.sigma[..., None]))
    0 [1.0, 1.0, 1.0]
    1 [0.67, 1.0, 1.0]
    2 [0.33, 1.0, 1.0]
    3 [0.0, 0.67, 1.0]
    4 [0.0, 0.33, 1.0]
    5 [0.0, 0.0, 0.67]
    6 [0.0, 0.0, 0.33]
    """
    if not isinstance(sampler, Sampler):
        raise TypeError(f"sampler must come from build_sampler; got {type(sampler).__name__}")
    if sampler.spec.adaptive:
        raise TypeError(
            f"frames need a sampler that has a plan; {sampler.spec.name} is adaptive: it chooses its steps from the "
            f"model's "
            "answers"
        )
    check_state(x)
    if x.ndim < 2 or not x.shape[1]:
        raise ValueError(f"x must be a clip of shape (batch, frames, ...); got {tuple(x.shape)}")
    count, steps = x.shape[1], sampler.steps
    if schedule is None:
        order = order_of_offset(0 if offset is None else offset, context, count, steps, sampler.nfe)
    elif offset is not None or context:
        raise ValueError("give either offset and context, or schedule; its first row says which frames are context")
    else:
        table = check_table(schedule, count, steps)
        begins = table[0].tolist()
        order = order_of_table(table, [_call_steps(sampler, begin) for begin in begins])
    draws = any(sampler_from(sampler, begin).plan.draws for begin in set(order.begins) if begin < steps)
    source, seeds = noise_source(draws, x.shape[0], seed, noise, sampler.process)
    return Frames(sampler, x, order, source, seeds)


def sampler_from(sampler: Sampler, step: int) -> Sampler:
    """The same sampler on its levels from a step on.

    Raises
    ------
    ValueError
        For a sampler with its own levels, such as a plan, or one that refuses the remaining levels.
    """
    if not step:
        return sampler
    refusal = f"a frame cannot start at step {step} of {sampler.spec.name}"
    if sampler.spec.levels is not None:
        raise ValueError(f"{refusal}, which runs only on all of its own levels")
    try:
        return replace(sampler, grid=Grid(sampler.grid.process, sampler.grid.levels[step:]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{refusal}: {error}") from error


def _call_steps(sampler: Sampler, begin: int) -> list[int]:
    """The step of each call of a frame that starts at step ``begin``."""
    if begin == sampler.steps:
        return []
    return [begin + step for step in sampler_from(sampler, begin).plan.call_steps]


def _needs(plan: Plan) -> dict[Draw, int]:
    """The draws of a plan, each with the number of calls after which it has been made."""
    laid_out = layout(plan)
    segments = (laid_out.before, *laid_out.segments)
    return {plan.draws[number]: calls for calls, segment in enumerate(segments) for number, _ in segment.draws}


def _by_frame(output: torch.Tensor, moving: Sequence[int]) -> dict[int, torch.Tensor]:
    """The predictions of some frames, contiguous in memory, so that sums equal those of a whole clip."""
    if not moving:
        return {}
    first, last = moving[0], moving[-1] + 1
    parts = output[:, first:last].transpose(0, 1).contiguous()
    return {k: parts[k - first] for k in moving}


def _digest(order: Order) -> str:
    """Fingerprint of an order."""
    return hashlib.sha256(repr((order.begins, order.calls)).encode()).hexdigest()


def _parts(check: StateCheck, name: str, count: int) -> list[Any]:
    """A list in a state, checked."""
    value = check.part(name)
    if not isinstance(value, list | tuple) or len(value) != count:
        raise ValueError(f"the state is damaged: its part {name!r} must be a list of {count}")
    return list(value)


def _tensors(check: StateCheck, name: str, shapes: Sequence[Sequence[int]], dtype: torch.dtype) -> list[torch.Tensor]:
    """Tensors in a state, checked."""
    values = _parts(check, name, len(shapes))
    for value, shape in zip(values, shapes, strict=True):
        if not isinstance(value, torch.Tensor) or value.shape != tuple(shape) or value.dtype != dtype:
            raise ValueError(
                f"the state is damaged: its part {name!r} must be tensors of shape {tuple(shape)}, {dtype}"
            )
    return values


def _restored(sampler: Sampler, like: torch.Tensor, order: Order, noise: OwnNoise, state: Mapping[str, Any]) -> Frames:
    """Frames that continue from a saved state, for copies and pickles."""
    own = noise.function
    silent = CallableNoise(lambda start, end: torch.zeros_like(like))  # nothing is drawn before the state is loaded
    restored = Frames(sampler, like.zero_(), order, silent, None)
    if own is not None:
        restored._noise.source = CallableNoise(own)
    restored.load_state_dict(state)
    return restored
