"""The executor: `Run` is one run of a plan, and holds everything that changes while it lasts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from ksched.execution.buffers import Buffers, Noises
from ksched.execution.layout import DENOISED, UNCOND, Operations, Turn, layout
from ksched.execution.registers import FED_TWICE, WRITTEN, check_output, check_state, writes_to
from ksched.execution.saved_state import StateCheck, saved_noise
from ksched.kernels.available import out_of_place
from ksched.noise.seeded import SeededNoise
from ksched.noise.sources import CallableNoise, Noise, Seed, noise_source, scheme_of
from ksched.plan.plan import Plan
from ksched.processes import Level, Process
from ksched.processes.agreement import Levels, mark

__all__ = ["Run"]


_INTERRUPTED = (
    "the run was interrupted while its next state was formed, and has none: start a new one, or load a state that was "
    "saved before"
)


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
    levels : what a model that knows its process may check, from
        `ksched.processes.agreement.levels_of`; None tells it nothing
    check_start : is called with the state of the first model call when that has been answered

    Raises
    ------
    TypeError, ValueError : a state that is not a floating-point tensor with a batch axis; seed and noise both missing
        where noise is drawn, or both given

    Notes
    -----
    Registers are held in float32 at least, in buffers of the run's own. A buffer that was handed out (`x`) is written
    to again only when nobody holds it or a view of it any more. While gradients are recorded nothing is overwritten.
    """

    def __init__(
        self,
        plan: Plan,
        x: torch.Tensor,
        *,
        seed: Seed | None = None,
        noise: Noise | None = None,
        process: Process | None = None,
        levels: Levels | None = None,
        check_start: Callable[[torch.Tensor], None] | None = None,
    ) -> None:
        check_state(x)
        self._set_up(plan, x, process, levels, check_start)
        self._noise, self._seeds = noise_source(bool(plan.draws), x.shape[0], seed, noise, process)
        self._recorded = out_of_place(x)  # whether gradients are, or something else that needs every value
        if self._recorded:
            self._registers.tensors[0] = x.to(self._compute, copy=True)
        else:
            self._registers.tensors[0] = self._registers.writable(0).copy_(x.detach())
        before = self._program.before
        self._registers.form(before.operations, self._recorded, self._draw(before, self._recorded))
        self._reach(0)

    def _set_up(
        self,
        plan: Plan,
        x: torch.Tensor,
        process: Process | None,
        levels: Levels | None,
        check_start: Callable[[torch.Tensor], None] | None = None,
    ) -> None:
        """All that does not depend on numbers: of ``x`` shape, dtype and device count."""
        self.plan, self.process = plan, process
        self.levels = levels
        self._check_start = check_start
        self._fed = False  # whether an answer is being taken
        #: why the run left a batch before it was done, None if it did not; `Batch.add` clears it
        self.error: Exception | None = None
        self._dtype = x.dtype
        self._compute = torch.promote_types(x.dtype, torch.float32)  # half precision is for the model, not for sums
        self._program = layout(plan)
        self._handed_out = [0] * self._program.buffers  # writes to each state of a call when it was formed
        self._registers = Buffers(x, self._compute, self._program.buffers)
        self._shown: Buffers | None = None  # the state in the model's dtype
        self._per_call: dict[str, Sequence[torch.Tensor]] = {}
        self._recorded = False

    def _reach(self, calls: int) -> None:
        """Stand after so many model calls: which turn comes next, None if none, and where the state is."""
        program = self._program
        self._calls = calls
        self._turn = program.turns[calls] if calls < len(program.turns) else None
        self._place = program.states[calls]
        self._replaced = False
        state = self._registers.tensors[self._place]
        self._handed_out[self._place] = writes_to(state) if self._recorded else state._version
        self._whole = True  # until the next state is being formed

    @property
    def shape(self) -> torch.Size:
        """Of the states, batch first."""
        return self._registers.shape

    @property
    def dtype(self) -> torch.dtype:
        """Of the states that the model sees, and of the result."""
        return self._dtype

    @property
    def device(self) -> torch.device:
        """Where the states are."""
        return self._registers.device

    @property
    def done(self) -> bool:
        """Whether the result has been reached."""
        return self._turn is None

    @property
    def x(self) -> torch.Tensor:
        """The state the model must see next, or the result; in the dtype of the start state, never written again.

        Raises
        ------
        RuntimeError : there is none: an exception such as Ctrl-C ended a call of `feed` while it was formed, or the run
            left a batch with an error
        """
        if not self._whole or self.error is not None:
            raise self._failure()
        state = self._registers.alias(self._place)
        return state if self._compute is self._dtype else self._converted(state, 1.0)

    def _failure(self) -> RuntimeError:
        """Why there is no state."""
        if not self._whole:
            return RuntimeError(_INTERRUPTED)
        failure = RuntimeError(f"the run left its batch with an error: {self.error}")
        failure.__cause__ = self.error
        return failure

    @property
    def level(self) -> Level:
        """The level the model must be called at.

        Raises
        ------
        RuntimeError : the run is done
        """
        if self.done:
            raise RuntimeError("the run is done: there is no level left to call the model at")
        return self.plan.levels[self._calls]

    @property
    def sigma(self) -> torch.Tensor:
        """Contract sigma for the model, shape (batch,); float32 (float64 if the state is).

        Raises
        ------
        RuntimeError : the run is done
        """
        return self._per_item("sigma")

    @property
    def timestep(self) -> torch.Tensor:
        """The process's timestep for the network, shape (batch,), of `sigma`'s dtype.

        Raises
        ------
        RuntimeError : the run is done, or was started without a process
        """
        if self.process is None:
            raise RuntimeError("a bare plan knows no timesteps; start the run from a Sampler, or give a process")
        return self._per_item("timestep")

    @property
    def step(self) -> int:
        """The schedule step that the next model call belongs to; the number of steps when done."""
        return self.plan.steps if self.done else self.plan.call_steps[self._calls]

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
        return self._turn is not None and self._turn.both

    @property
    def takes_output(self) -> bool:
        """Whether `feed_output` will do for all calls: no sampler of classifier-free guidance's two predictions."""
        return not self._program.both

    def feed(self, denoised: torch.Tensor, uncond: torch.Tensor | None = None) -> None:
        """Answer the model call at `x` and advance to the next one.

        Parameters
        ----------
        denoised : the model's x0 prediction, of the state's shape; it may be `x` itself, a view of it, or a buffer
            that the next call will overwrite
        uncond : its unconditional twin, for samplers that need it

        Raises
        ------
        RuntimeError : the run is done, was interrupted, or is fed by another thread; `x` was written to
        TypeError, ValueError : a prediction that is missing, no tensor, or of another shape
        """
        self._answer(denoised, uncond)

    def feed_output(self, output: torch.Tensor, of_x: float, of_output: float) -> None:
        """Answer with what a network returned, where the x0 prediction is ``of_x * x + of_output * output``.

        The two numbers go into the coefficients of the plan, so that no pass over memory is spent on the prediction;
        otherwise it is `feed`. `ksched.Denoiser.conversions` knows the numbers for epsilon, v, flow and EDM's F.

        Parameters
        ----------
        output : of the state's shape; as free as the prediction of `feed`
        of_x, of_output : host numbers

        Raises
        ------
        RuntimeError : the run is done
        TypeError, ValueError : as for `feed`; a sampler that needs the unconditional twin, which must be fed
        """
        if self.needs_uncond:
            raise TypeError("this sampler needs (denoised, uncond), which feed takes")
        self._answer(output, None, (of_x, of_output))

    def replace(self, x: torch.Tensor) -> None:
        """Go on from another state in place of `x`, such as an edited one; what earlier steps left stays.

        Parameters
        ----------
        x : of the state's shape, on its device; it is copied, never written to

        Raises
        ------
        RuntimeError : the run is done
        TypeError, ValueError : no floating-point tensor, or of another shape or device
        """
        if self._turn is None:
            raise RuntimeError("the run is done: there is no state left to replace")
        check_state(x)
        if not self._whole:
            raise RuntimeError(_INTERRUPTED)
        registers, place = self._registers, self._place
        if x.shape != registers.shape or x.device != registers.device:
            wanted = f"{tuple(registers.shape)} on {registers.device}"
            raise ValueError(f"x must be like the state, {wanted}; got {tuple(x.shape)} on {x.device}")
        self._whole, self._replaced = False, True
        self._recorded |= out_of_place(x)
        if self._recorded:
            registers.tensors[place] = x.to(self._compute, copy=True)
        else:
            registers.tensors[place] = registers.writable(place).copy_(x)
        self._handed_out[place] = writes_to(registers.tensors[place])
        self._whole = True

    def network_input(self, norm: float) -> torch.Tensor:
        """The state over ``norm`` in the dtype of the start state, as a network wants it; never written again."""
        if not self._whole:
            raise RuntimeError(_INTERRUPTED)
        state = self._registers.alias(self._place)
        if norm == 1 and self._compute is self._dtype:
            return state
        return self._converted(state, 1 / norm)

    def state_dict(self) -> dict[str, Any]:
        """Everything a run needs to go on, in another process too: numbers, strings and copies of tensors."""
        if not self._whole:
            raise RuntimeError(_INTERRUPTED)
        held = self._program.held[self._calls]
        return {
            "version": 3,
            "plan": self.plan.digest,
            "calls": self._calls,
            "replaced": self._replaced,
            "seeds": self._seeds,
            "noise": scheme_of(self._noise),
            "dtype": str(self._dtype).removeprefix("torch."),
            "registers": {str(r): self._registers.tensors[place].detach().clone() for r, place in held},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state_dict` was taken, bit for bit; this run's own state and seeds are forgotten.

        Raises
        ------
        ValueError : not such a state, a damaged one, or one of another plan or noise; the run is as it was then
        """
        if not isinstance(state, Mapping) or state.get("version") != 3:
            raise ValueError("state must come from Run.state_dict(), version 3")
        if state.get("plan") != self.plan.digest:
            raise ValueError("the state belongs to another plan; build the sampler with the same options and sigmas")
        check = StateCheck(state, self.shape, self._dtype)
        calls, replaced = check.whole("calls", len(self._program.turns)), check.truth("replaced")
        held = self._program.held[calls]
        tensors = check.tensors("registers", [str(register) for register, _ in held], self._compute)
        noise, seeds = saved_noise(check, bool(self.plan.draws), self._noise, self._seeds, self.process)
        self._whole = False
        self._noise, self._seeds = noise, seeds
        registers = Buffers(tensors[0].to(self.device), self._compute, self._program.buffers)
        for (_, place), tensor in zip(held, tensors, strict=True):
            registers.tensors[place] = registers.writable(place).copy_(tensor)
            self._handed_out[place] = writes_to(registers.tensors[place])
        self._registers = registers
        self._shown, self._per_call, self._recorded = None, {}, False
        self.error, self._fed = None, False
        self._reach(calls)
        self._replaced = replaced

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        """A copy, or a pickle, is a run of its own that goes on from the same state."""
        if self._recorded:
            raise TypeError(
                "a run that records gradients cannot be copied or pickled; its state_dict() leaves them out"
            )
        own = self._noise.function if isinstance(self._noise, CallableNoise) else None
        return _restored, (self.plan, self.process, self.levels, own, self.state_dict())

    def __deepcopy__(self, memo: object) -> Run:
        restore, parts = self.__reduce_ex__(4)
        copy: Run = restore(*parts)
        return copy

    def _answer(
        self, denoised: torch.Tensor, uncond: torch.Tensor | None, conversion: tuple[float, float] | None = None
    ) -> None:
        """Take an answer and form what comes after it."""
        if self._fed:
            raise RuntimeError(FED_TWICE)
        self._fed = True
        try:
            turn, recorded = self._take(denoised, uncond)
            noises = self._draw(turn, recorded) if turn.draws else None
            operations = turn.operations if conversion is None else self._operations(turn, conversion)
            self._whole = False
            self._registers.form(operations, recorded, noises)
            self._reach(self._calls + 1)
        finally:
            self._forget()
            self._fed = False

    def _operations(self, turn: Turn, conversion: tuple[float, float] | None) -> Operations:
        """What an answer is followed by."""
        return turn.operations if conversion is None else turn.of_output(*conversion, replaced=self._replaced)

    def _take(self, denoised: torch.Tensor, uncond: torch.Tensor | None) -> tuple[Turn, bool]:
        """Check an answer and put it among the registers; says what to do now, and whether new tensors must be made."""
        turn = self._turn
        if not self._whole:
            raise RuntimeError(_INTERRUPTED)
        if turn is None:
            raise RuntimeError("the run is done: it takes no further prediction")
        registers = self._registers
        tensors = registers.tensors
        if (
            type(denoised) is not torch.Tensor
            or denoised.shape != registers.shape
            or denoised.device != registers.device
        ):
            check_output("D", denoised, registers.shape, registers.device)  # most answers need not pay for the call
        # Own buffers ask for no new tensors; what was recorded may.
        x, handed_out = tensors[turn.x], self._handed_out
        if self._check_start is not None and not self._calls and not self._recorded:
            self._check_start(x)
        if self._recorded:
            recorded = out_of_place(denoised) or torch.is_grad_enabled() or out_of_place(x)
            written = writes_to(x) != handed_out[turn.x]
        else:
            recorded = out_of_place(denoised)
            written = x._version != handed_out[turn.x]
        for place in turn.earlier:
            written = written or writes_to(tensors[place]) != handed_out[place]
        if written:
            raise RuntimeError(WRITTEN)
        if turn.both:
            check_output("U", uncond, registers.shape, registers.device)
            assert uncond is not None
            recorded = recorded or out_of_place(uncond)
            tensors[UNCOND] = self._as_read(uncond, recorded)
        tensors[DENOISED] = denoised if denoised.dtype is self._compute else self._as_read(denoised, recorded)
        self._recorded |= recorded
        return turn, recorded

    def _as_read(self, output: torch.Tensor, recorded: bool) -> torch.Tensor:
        """An output of the model as sums take it."""
        return output if self._registers.mixed and not recorded else output.to(self._compute)

    def _draw(self, turn: Turn, recorded: bool) -> Noises | None:
        """Draw the noises of a turn, before anything is overwritten: own noise may fail, and loses nothing then.

        Returns those that are drawn on the way, if the registers can.
        """
        tensors, writable, source = self._registers.tensors, self._registers.writable, self._noise
        passing: Sequence[tuple[int, int]] = ()
        if turn.passing and not recorded and self._registers.makes_noise and isinstance(source, SeededNoise):
            passing = turn.passing
        for number, place in turn.draws:
            draw, like = self.plan.draws[number], tensors[turn.x]
            if (number, place) in passing:
                tensors[place] = None
            elif isinstance(source, CallableNoise):  # a copy, since whoever draws may use the tensor again
                noise = source(draw, like)
                tensors[place] = noise.clone() if recorded else writable(place).copy_(noise)
            else:
                tensors[place] = source(draw, like, out=None if recorded else writable(place))
        if not passing or not isinstance(source, SeededNoise):
            return None
        return [place for _, place in passing], [source.keys(self.plan.draws[number]) for number, _ in passing]

    def _forget(self) -> None:
        """Let go of the model's answer."""
        tensors = self._registers.tensors
        tensors[DENOISED] = tensors[UNCOND] = None

    def _per_item(self, name: str) -> torch.Tensor:
        """Sigma or timestep of the present level, for every item."""
        if self._turn is None:
            raise RuntimeError("the run is done: there is no level left to call the model at")
        found = self._per_call.get(name)
        if found is None:
            found = self._per_call[name] = self._table(name)
        return found[self._calls]

    def _table(self, name: str) -> Sequence[torch.Tensor]:
        """Those of all model calls, brought to the device at once."""
        values = self.plan.call_sigmas
        if name == "timestep":
            assert self.process is not None
            values = self.process.timestep(values)
        table = self._uploaded(values)
        if name == "sigma" and self.levels is not None:
            for sigma in table:
                mark(sigma, (self.levels,))
        return table

    def _uploaded(self, values: Any) -> Sequence[torch.Tensor]:
        """Host numbers, each for every item of the batch, on the device."""
        device, batch = self._registers.device, self._registers.shape[0]
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():  # nothing can come from the host then
            return [torch.full((batch,), value, dtype=self._compute, device=device) for value in values.tolist()]
        table = torch.tensor(values.tolist(), dtype=self._compute, device="cpu").view(-1, 1)
        if batch > 1:
            table = table.expand(-1, batch).contiguous()
        return table.to(device, non_blocking=True).unbind()

    def _converted(self, state: torch.Tensor, scale: float) -> torch.Tensor:
        """A state, scaled, in the model's dtype."""
        if out_of_place(state):
            return (state if scale == 1 else state * scale).to(self._dtype)
        if self._shown is None:
            self._shown = Buffers(state, self._dtype, 1)
        shown = self._shown.writable(0)
        self._shown.tensors[0] = shown.copy_(state) if scale == 1 else torch.mul(state, scale, out=shown)
        return self._shown.alias(0)


def _restored(
    plan: Plan,
    process: Process | None,
    levels: Levels | None,
    noise: Callable[[float, float], Any] | None,
    state: Mapping[str, Any],
) -> Run:
    """A run that goes on from a state, as copies and pickles need it."""
    like = next(iter(state["registers"].values()))
    run = Run.__new__(Run)
    run._set_up(plan, like.to(getattr(torch, state["dtype"])), process, levels)
    run._noise, run._seeds = (SeededNoise(()) if noise is None else CallableNoise(noise)), None
    run.load_state_dict(state)
    return run
