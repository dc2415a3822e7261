"""The registers of a run (states, answers and noises of one layout) and their checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ksched.execution.buffers import Buffers
from ksched.execution.layout import DENOISED, UNCOND, Operations, Segment, layout
from ksched.kernels.torch_internals import out_of_place, writes_to
from ksched.noise.seeded import SeededNoise
from ksched.noise.sources import CallableNoise, NoiseSource
from ksched.plan.plan import Plan

__all__ = ["FED_TWICE", "WRITTEN", "Registers", "check_output", "check_state"]


WRITTEN = "the model and the callback must not modify x, the state they receive; one of them wrote to it: use x.clone()"


FED_TWICE = "a run belongs to one thread at a time; another thread is feeding it, or was interrupted while it did"


INTERRUPTED = (
    "the run was interrupted while its next state was formed, so it has no state: start a new run, or load a state "
    "that "
    "was saved before"
)


def check_state(x: Any) -> None:
    """Raise unless ``x`` is a floating-point tensor with a batch axis."""
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"x must be a torch tensor; got {type(x).__name__}")
    if not x.is_floating_point():
        raise TypeError(f"x must be a floating-point tensor; got {x.dtype}")
    if x.ndim == 0:
        raise ValueError("x must have a batch axis first; got a tensor of no dimensions")


def check_output(kind: str, value: Any, shape: Sequence[int], device: torch.device) -> None:
    """Raise unless a model output, "D" or "U", is a tensor like the state."""
    if isinstance(value, torch.Tensor) and value.shape == shape and value.device == device:
        return
    what = {"D": "denoised", "U": "uncond"}[kind]
    if value is None and kind == "U":
        raise TypeError("this sampler needs (denoised, uncond) from the model; it returned only denoised")
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{what} must be a tensor; got {type(value).__name__}")
    if value.device != device:
        raise ValueError(f"{what} must be on the state's device {device}; got {value.device}")
    raise ValueError(f"{what} must have the state's shape {tuple(shape)}; got {tuple(value.shape)}")


class Registers:
    """The registers of one run of a plan, and the operations on them.

    Parameters
    ----------
    plan : Plan
        The plan that is run.
    like : Tensor
        A state, for shape, dtype and device.

    Attributes
    ----------
    dtype : dtype
        Dtype of the states that the model receives; registers are held in at least float32.
    noise : NoiseSource
        The source of draws.
    calls : int
        Number of model calls answered so far.
    turn : Segment or None
        The work after the awaited answer; None when the run is done.
    replaced : bool
        Whether the state was replaced by another than the plan's.
    whole : bool
        Whether there is a state; False while one is being formed.
    recorded : bool
        Whether gradients, or something else, track every value, so that nothing is overwritten.
    busy : bool
        Whether an answer is being processed.
    """

    def __init__(self, plan: Plan, like: torch.Tensor) -> None:
        self.plan, self.layout = plan, layout(plan)
        self.dtype = like.dtype
        # half precision is only for the model, not for sums
        self.compute = torch.promote_types(like.dtype, torch.float32)
        self.buffers = Buffers(like, self.compute, self.layout.buffers)
        self.noise: NoiseSource = SeededNoise(())
        self.recorded = self.replaced = self.busy = False
        self._handed_out = [0] * self.layout.buffers  # write counter of each call's state when it was formed
        self._shown: Buffers | None = None  # the state in the model's dtype

    @property
    def shape(self) -> torch.Size:
        """Shape of the states, batch first."""
        return self.buffers.shape

    @property
    def device(self) -> torch.device:
        """Device of the states."""
        return self.buffers.device

    def begin(self, x: torch.Tensor) -> None:
        """Take the start state, and form the state of the first model call."""
        self.recorded = out_of_place(x)
        if self.recorded:
            self.buffers.tensors[0] = x.to(self.compute, copy=True)
        else:
            self.buffers.tensors[0] = self.buffers.writable(0).copy_(x.detach())
        before = self.layout.before
        self.draw(before, self.recorded)
        self.buffers.form(before.operations, self.recorded)
        self.reach(0)

    def reach(self, calls: int) -> None:
        """Move to the position after so many model calls."""
        program = self.layout
        self.calls = calls
        self.turn = program.segments[calls] if calls < len(program.segments) else None
        self.place = program.states[calls]
        self.replaced = False
        state = self.buffers.tensors[self.place]
        self._handed_out[self.place] = writes_to(state) if self.recorded else state._version
        self.whole = True  # until the next state is formed

    def check_whole(self) -> None:
        """Raise RuntimeError if there is no state because an exception interrupted its forming."""
        if not self.whole:
            raise RuntimeError(INTERRUPTED)

    def state(self, norm: float = 1.0) -> torch.Tensor:
        """The state that the model must evaluate, over ``norm``, in the model's dtype; never modified later."""
        if not self.whole:
            raise RuntimeError(INTERRUPTED)
        state = self.buffers.alias(self.place)
        return state if norm == 1 and self.compute is self.dtype else self._converted(state, 1 / norm)

    def full_state(self) -> torch.Tensor:
        """The state as it is held, in at least float32; never modified later."""
        self.check_whole()
        return self.buffers.alias(self.place)

    def _converted(self, state: torch.Tensor, scale: float) -> torch.Tensor:
        """A state, scaled, in the model's dtype."""
        if out_of_place(state):
            return (state if scale == 1 else state * scale).to(self.dtype)
        if self._shown is None:
            self._shown = Buffers(state, self.dtype, 1)
        shown = self._shown.writable(0)
        self._shown.tensors[0] = shown.copy_(state) if scale == 1 else torch.mul(state, scale, out=shown)
        return self._shown.alias(0)

    def replace(self, x: torch.Tensor) -> None:
        """Continue from another state of the same shape and device."""
        buffers, place = self.buffers, self.place
        if x.shape != buffers.shape or x.device != buffers.device:
            wanted = f"{tuple(buffers.shape)} on {buffers.device}"
            raise ValueError(f"x must be like the state, {wanted}; got {tuple(x.shape)} on {x.device}")
        self.whole, self.replaced = False, True
        self.recorded |= out_of_place(x)
        if self.recorded:
            buffers.tensors[place] = x.to(self.compute, copy=True)
        else:
            buffers.tensors[place] = buffers.writable(place).copy_(x)
        self._handed_out[place] = writes_to(buffers.tensors[place])
        self.whole = True

    def answer(
        self, denoised: torch.Tensor, uncond: torch.Tensor | None, conversion: tuple[float, float] | None = None
    ) -> None:
        """Take a model answer, and form the state of the next call.

        Parameters
        ----------
        denoised, uncond : Tensor or None
            The model's outputs.
        conversion : tuple of float or None
            None if ``denoised`` is the x0 prediction; else ``(of_x, of_output)``, and the prediction is ``of_x * x +
            of_output * denoised``.
        """
        self.hold()
        try:
            turn, recorded = self.hold_answer(denoised, uncond)
            if turn.draws:
                self.draw(turn, recorded)
            operations = turn.operations if conversion is None else self.operations(turn, conversion)
            self.whole = False
            self.buffers.form(operations, recorded)
            self.reach(self.calls + 1)
        finally:
            self.release()

    def hold(self) -> None:
        """Block other threads from feeding the run."""
        if self.busy:
            raise RuntimeError(FED_TWICE)
        self.busy = True

    def release(self) -> None:
        """Drop the model's answer, and unblock the run."""
        tensors = self.buffers.tensors
        tensors[DENOISED] = tensors[UNCOND] = None
        self.busy = False

    def operations(self, turn: Segment, conversion: tuple[float, float] | None) -> Operations:
        """The operations that follow an answer."""
        return turn.operations if conversion is None else turn.of_output(*conversion, replaced=self.replaced)

    def hold_answer(self, denoised: torch.Tensor, uncond: torch.Tensor | None) -> tuple[Segment, bool]:
        """Check an answer and store it in the registers; returns the next work, and whether to make new tensors."""
        turn, buffers = self.turn, self.buffers
        if not self.whole:
            raise RuntimeError(INTERRUPTED)
        if turn is None:
            raise RuntimeError("the run is done and takes no further prediction")
        if type(denoised) is not torch.Tensor or denoised.shape != buffers.shape or denoised.device != buffers.device:
            check_output("D", denoised, buffers.shape, buffers.device)  # saves the call for most answers
        recorded = self._follows(turn, denoised)
        tensors = buffers.tensors
        if turn.both:
            check_output("U", uncond, buffers.shape, buffers.device)
            assert uncond is not None
            recorded = recorded or out_of_place(uncond)
            tensors[UNCOND] = self._as_read(uncond, recorded)
        tensors[DENOISED] = denoised if denoised.dtype is self.compute else self._as_read(denoised, recorded)
        self.recorded |= recorded
        return turn, recorded

    def _follows(self, turn: Segment, denoised: torch.Tensor) -> bool:
        """Whether an answer needs new tensors; raises if a state that was handed out was written to."""
        tensors, handed_out = self.buffers.tensors, self._handed_out
        x = tensors[turn.x]
        # the run's own buffers need no new tensors; recorded ones may
        if self.recorded:
            recorded = out_of_place(denoised) or torch.is_grad_enabled() or out_of_place(x)
            written = writes_to(x) != handed_out[turn.x]
        else:
            recorded = out_of_place(denoised)
            written = x._version != handed_out[turn.x]
        for place in turn.earlier:
            written = written or writes_to(tensors[place]) != handed_out[place]
        if written:
            raise RuntimeError(WRITTEN)
        return recorded

    def untouched(self) -> torch.Tensor | None:
        """The state on which the model was called; None if it was written to or is tracked, or the run is done."""
        if self.turn is None or self.recorded:
            return None
        state: torch.Tensor = self.buffers.tensors[self.turn.x]
        return state if state._version == self._handed_out[self.turn.x] else None

    def _as_read(self, output: torch.Tensor, recorded: bool) -> torch.Tensor:
        """A model output in the form that sums take."""
        return output if self.buffers.mixed and not recorded else output.to(self.compute)

    def draw(self, turn: Segment, recorded: bool) -> None:
        """Draw the noises of a segment before anything is overwritten: if your own noise fails, nothing is lost."""
        tensors, writable, source = self.buffers.tensors, self.buffers.writable, self.noise
        for number, place in turn.draws:
            draw, like = self.plan.draws[number], tensors[turn.x]
            if isinstance(source, CallableNoise):  # a copy, because the noise function may reuse its tensor
                noise = source(draw, like)
                tensors[place] = noise.clone() if recorded else writable(place).copy_(noise)
            else:
                tensors[place] = source(draw, like, out=None if recorded else writable(place))

    def held(self) -> Mapping[str, torch.Tensor]:
        """Copies of what later operations need, by the names of the plan's registers."""
        tensors = self.buffers.tensors
        return {str(r): tensors[place].detach().clone() for r, place in self.layout.held[self.calls]}

    def resume(self, calls: int, replaced: bool, tensors: Sequence[torch.Tensor], noise: NoiseSource) -> None:
        """Move to the position after so many calls, with the registers that `held` returned there, in that order."""
        self.whole = False
        buffers = Buffers(tensors[0].to(self.device), self.compute, self.layout.buffers)
        for (_, place), tensor in zip(self.layout.held[calls], tensors, strict=True):
            buffers.tensors[place] = buffers.writable(place).copy_(tensor)
            self._handed_out[place] = writes_to(buffers.tensors[place])
        self.buffers, self.noise = buffers, noise
        self._shown, self.recorded, self.busy = None, False, False
        self.reach(calls)
        self.replaced = replaced

    def take(self, numbers: Sequence[int], noise: NoiseSource) -> None:
        """Continue with the items at these indices, in new memory.

        Parameters
        ----------
        numbers : sequence of int
            Item indices, from 0.
        noise : NoiseSource
            Noise of the new items.
        """
        if self.busy:
            raise RuntimeError(FED_TWICE)
        old, turn = self.buffers, self.turn
        read = () if turn is None else (turn.x, *turn.earlier)
        if any(writes_to(old.tensors[place]) != self._handed_out[place] for place in read):
            raise RuntimeError(WRITTEN)
        new = Buffers(old.tensors[self.place], self.compute, self.layout.buffers, items=len(numbers))
        index = torch.tensor(numbers, dtype=torch.int64, device="cpu").to(self.device, non_blocking=True)
        handed_out = list(self._handed_out)
        for _, place in self.layout.held[self.calls]:
            if self.recorded:
                new.tensors[place] = old.tensors[place].index_select(0, index)
            else:
                new.tensors[place] = torch.index_select(old.tensors[place], 0, index, out=new.writable(place))
            handed_out[place] = writes_to(new.tensors[place])
        self.buffers, self._handed_out, self.noise, self._shown = new, handed_out, noise, None
