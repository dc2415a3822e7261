"""The registers of a run: states, answers and noises of one layout, and what is checked of each."""

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


WRITTEN = (
    "the model, like a callback, must leave the x that it is called with as it is; it wrote to it: give it x.clone()"
)


FED_TWICE = "a run belongs to one thread at a time, and another one is feeding it, or was interrupted while it did"


INTERRUPTED = (
    "the run was interrupted while its next state was formed, and has none: start a new one, or load a state that was "
    "saved before"
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
    """Raise unless an output of the model, "D" or "U", is a tensor like the state."""
    if isinstance(value, torch.Tensor) and value.shape == shape and value.device == device:
        return
    what = {"D": "denoised", "U": "uncond"}[kind]
    if value is None and kind == "U":
        raise TypeError("this sampler needs (denoised, uncond) from the model; it returned denoised alone")
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{what} must be a tensor; got {type(value).__name__}")
    if value.device != device:
        raise ValueError(f"{what} must be on the state's device {device}; got {value.device}")
    raise ValueError(f"{what} must have the state's shape {tuple(shape)}; got {tuple(value.shape)}")


class Registers:
    """The registers of one run of a plan, and the operations on them.

    Parameters
    ----------
    plan : what is run
    like : a state, for shape, dtype and device

    Attributes
    ----------
    dtype : of the states that the model sees; registers are held in float32 at least
    noise : where draws come from
    calls : model calls answered so far
    turn : what comes after the answer that is waited for; None when the run is done
    replaced : whether the state is another one than the plan formed
    whole : whether there is a state: not while one is being formed
    recorded : whether gradients, or something else, follow every value, so that nothing is overwritten
    busy : whether an answer is being taken
    """

    def __init__(self, plan: Plan, like: torch.Tensor) -> None:
        self.plan, self.layout = plan, layout(plan)
        self.dtype = like.dtype
        self.compute = torch.promote_types(like.dtype, torch.float32)  # half precision is for the model, not for sums
        self.buffers = Buffers(like, self.compute, self.layout.buffers)
        self.noise: NoiseSource = SeededNoise(())
        self.recorded = self.replaced = self.busy = False
        self._handed_out = [0] * self.layout.buffers  # writes to each state of a call when it was formed
        self._shown: Buffers | None = None  # the state in the model's dtype

    @property
    def shape(self) -> torch.Size:
        """Of the states, batch first."""
        return self.buffers.shape

    @property
    def device(self) -> torch.device:
        """Where the states are."""
        return self.buffers.device

    def begin(self, x: torch.Tensor) -> None:
        """Take the start state, and form the one of the first model call."""
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
        """Stand after so many model calls."""
        program = self.layout
        self.calls = calls
        self.turn = program.segments[calls] if calls < len(program.segments) else None
        self.place = program.states[calls]
        self.replaced = False
        state = self.buffers.tensors[self.place]
        self._handed_out[self.place] = writes_to(state) if self.recorded else state._version
        self.whole = True  # until the next state is being formed

    def check_whole(self) -> None:
        """Raise RuntimeError if there is no state, since an exception ended the forming of it."""
        if not self.whole:
            raise RuntimeError(INTERRUPTED)

    def state(self, norm: float = 1.0) -> torch.Tensor:
        """The state that the model must see, over ``norm``, in the model's dtype; never written again."""
        if not self.whole:
            raise RuntimeError(INTERRUPTED)
        state = self.buffers.alias(self.place)
        return state if norm == 1 and self.compute is self.dtype else self._converted(state, 1 / norm)

    def full_state(self) -> torch.Tensor:
        """The state as it is held, in float32 at least; never written again."""
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
        """Go on from another state of the same shape and device."""
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
        """Take an answer of the model, and form the state of the next call.

        Parameters
        ----------
        denoised, uncond : what the model returned
        conversion : None if that is the x0 prediction; else ``(of_x, of_output)``, and the prediction is
            ``of_x * x + of_output * denoised``
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
        """Let no other thread feed the run."""
        if self.busy:
            raise RuntimeError(FED_TWICE)
        self.busy = True

    def release(self) -> None:
        """Let go of the model's answer, and of the run."""
        tensors = self.buffers.tensors
        tensors[DENOISED] = tensors[UNCOND] = None
        self.busy = False

    def operations(self, turn: Segment, conversion: tuple[float, float] | None) -> Operations:
        """What an answer is followed by."""
        return turn.operations if conversion is None else turn.of_output(*conversion, replaced=self.replaced)

    def hold_answer(self, denoised: torch.Tensor, uncond: torch.Tensor | None) -> tuple[Segment, bool]:
        """Check an answer and put it among the registers; says what to do now, and whether new tensors must be made."""
        turn, buffers = self.turn, self.buffers
        if not self.whole:
            raise RuntimeError(INTERRUPTED)
        if turn is None:
            raise RuntimeError("the run is done: it takes no further prediction")
        if type(denoised) is not torch.Tensor or denoised.shape != buffers.shape or denoised.device != buffers.device:
            check_output("D", denoised, buffers.shape, buffers.device)  # most answers need not pay for the call
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
        """Whether new tensors must be made of an answer; raises if a state that was handed out has been written to."""
        tensors, handed_out = self.buffers.tensors, self._handed_out
        x = tensors[turn.x]
        # Own buffers ask for no new tensors; what was recorded may.
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
        """The state that the model was called on; None if it was written to or is followed, or the run is done."""
        if self.turn is None or self.recorded:
            return None
        state: torch.Tensor = self.buffers.tensors[self.turn.x]
        return state if state._version == self._handed_out[self.turn.x] else None

    def _as_read(self, output: torch.Tensor, recorded: bool) -> torch.Tensor:
        """An output of the model as sums take it."""
        return output if self.buffers.mixed and not recorded else output.to(self.compute)

    def draw(self, turn: Segment, recorded: bool) -> None:
        """Draw the noises of a segment, before anything is overwritten: own noise may fail, and loses nothing then."""
        tensors, writable, source = self.buffers.tensors, self.buffers.writable, self.noise
        for number, place in turn.draws:
            draw, like = self.plan.draws[number], tensors[turn.x]
            if isinstance(source, CallableNoise):  # a copy, since whoever draws may use the tensor again
                noise = source(draw, like)
                tensors[place] = noise.clone() if recorded else writable(place).copy_(noise)
            else:
                tensors[place] = source(draw, like, out=None if recorded else writable(place))

    def held(self) -> Mapping[str, torch.Tensor]:
        """Copies of what later operations need, by the names of the plan's registers."""
        tensors = self.buffers.tensors
        return {str(r): tensors[place].detach().clone() for r, place in self.layout.held[self.calls]}

    def resume(self, calls: int, replaced: bool, tensors: Sequence[torch.Tensor], noise: NoiseSource) -> None:
        """Stand after so many calls with the registers that `held` gave then, in their order."""
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
        """Stand where the registers stand with the items of these numbers, in new memory.

        Parameters
        ----------
        numbers : of items, each from 0
        noise : of the new items
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
