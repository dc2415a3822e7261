"""The executor: `Run` is one run of a plan, and holds everything that changes while it lasts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

import torch

from ksched.execution.call_levels import CallLevels
from ksched.execution.items import item_numbers, seeds_of
from ksched.execution.layout import Segment
from ksched.execution.progress import Progress
from ksched.execution.registers import Registers, check_state
from ksched.execution.saved_state import CopiedBySaving, OwnNoise, StateCheck, saved_noise
from ksched.noise.seeded import SeededNoise
from ksched.noise.sources import CallableNoise, Noise, Seed, noise_source, reseeded, scheme_of
from ksched.plan.plan import Plan
from ksched.processes import Process
from ksched.processes.agreement import Levels

__all__ = ["Run"]


class Run(Progress, CopiedBySaving):
    """One run of a plan, driven by whoever holds it: read `x` and `sigma`, call the model, `feed` the answer.

    Parameters
    ----------
    plan : what to run
    x : start state, batch first; it is copied, never written to
    seed : one whole number, or one per item of the batch; needed if the plan draws noise
    noise : instead of a seed, ``(sigma_from, sigma_to) -> tensor like x`` of unit variance; or "brownian", with a seed:
        a picture stays when the number of steps changes (see `ksched.noise.BrownianNoise`); or another kind by its name
    process : names the timesteps of the levels; None if the model needs none
    levels : what a model that knows its process may check, of `ksched.processes.agreement.levels_of`; None is nothing
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
        self._registers.noise, self._seeds = noise_source(bool(plan.draws), x.shape[0], seed, noise, process)
        self._registers.begin(x)

    def _set_up(
        self,
        plan: Plan,
        x: torch.Tensor,
        process: Process | None,
        levels: Levels | None,
        check_start: Callable[[torch.Tensor], None] | None = None,
    ) -> None:
        """All that does not depend on numbers: of ``x`` shape, dtype and device count."""
        self.plan, self.process, self.levels = plan, process, levels
        self._check_start = check_start
        #: why the run left a batch before it was done, None if it did not; `Batch.add` clears it
        self.error: Exception | None = None
        self._registers = Registers(plan, x)
        self._call_levels = CallLevels(self._registers, process, levels)

    @property
    def x(self) -> torch.Tensor:
        """The state the model must see next, or the result; in the dtype of the start state, never written again.

        Raises
        ------
        RuntimeError : there is none: an exception such as Ctrl-C ended a call of `feed` while it was formed, or the run
            left a batch with an error
        """
        if self.error is not None:
            raise self._failure()
        return self._registers.state()

    @property
    def seeds(self) -> tuple[int, ...] | None:
        """Of the items; None if the run draws no noise, or noise of the caller's own."""
        return self._seeds

    def _failure(self) -> RuntimeError:
        """Why there is no state."""
        self._registers.check_whole()
        failure = RuntimeError(f"the run left its batch with an error: {self.error}")
        failure.__cause__ = self.error
        return failure

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
        if self._check_start is not None:
            self._look_at_start()
        self._registers.answer(denoised, uncond)

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
        if self._check_start is not None:
            self._look_at_start()
        self._registers.answer(output, None, (of_x, of_output))

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
        if self._registers.turn is None:
            raise RuntimeError("the run is done: there is no state left to replace")
        check_state(x)
        self._registers.check_whole()
        self._registers.replace(x)

    def take(self, indices: Any) -> Self:
        """Go on with these items, in place; the batch may shrink, grow or be none, and an item may be taken twice.

        Parameters
        ----------
        indices : numbers of items in the order that they shall have, a list, tuple, range, array or tensor; those
            below 0 count from the end. Or a mask, True for every item that stays

        Returns
        -------
        the run itself

        Raises
        ------
        TypeError, ValueError, IndexError : no such indices; the run is as it was then
        RuntimeError : there is no state, as for `x`, or another thread is feeding the run

        Notes
        -----
        The first copy of an item goes on as the item would have, bit for bit. Each further one has noise of its own
        from now on: its seed is a hash of the item's seed and of the copy's number, from 1, where numbers are passed
        over whose seed an item of the run has already. A noise function of one's own is asked for the new shape.

        Tensors that were handed out before stay as they are. Gradients flow through, where the run records them. A run
        that is done can be taken from too, and one in a `Batch` between any two ticks: its rows are others then. A
        saved state is loaded by a run of as many items as were there when it was saved.
        """
        if self.error is not None:
            raise self._failure()
        registers = self._registers
        registers.check_whole()
        numbers = item_numbers(indices, self.shape[0])
        seeds = None if self._seeds is None else seeds_of(self._seeds, numbers)
        if self._check_start is not None:
            self._look_at_start()
        registers.take(numbers, registers.noise if seeds is None else reseeded(registers.noise, seeds))
        self._seeds, self._call_levels = seeds, CallLevels(registers, self.process, self.levels)
        return self

    def network_input(self, norm: float) -> torch.Tensor:
        """The state over ``norm`` in the dtype of the start state, as a network wants it; never written again."""
        return self._registers.state(norm)

    def state_dict(self) -> dict[str, Any]:
        """Everything a run needs to go on, in another process too: numbers, strings and copies of tensors."""
        registers = self._registers
        registers.check_whole()
        return {
            "version": 3,
            "plan": self.plan.digest,
            "calls": registers.calls,
            "replaced": registers.replaced,
            "seeds": self._seeds,
            "noise": scheme_of(registers.noise),
            "dtype": str(registers.dtype).removeprefix("torch."),
            "registers": registers.held(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state_dict` was taken, bit for bit; this run's own state and seeds are forgotten.

        Raises
        ------
        ValueError : not such a state, a damaged one, or one of another plan or noise; the run is as it was then
        """
        self.loading(state)()

    def loading(self, state: Mapping[str, Any]) -> Callable[[], None]:
        """Check all of a state without touching the run, which goes on from there when the result is called."""
        if not isinstance(state, Mapping) or state.get("version") != 3:
            raise ValueError("state must come from Run.state_dict(), version 3")
        if state.get("plan") != self.plan.digest:
            raise ValueError("the state belongs to another plan; build the sampler with the same options and sigmas")
        registers = self._registers
        check = StateCheck(state, self.shape, registers.dtype)
        calls, replaced = check.whole("calls", len(registers.layout.segments)), check.truth("replaced")
        names = [str(register) for register, _ in registers.layout.held[calls]]
        tensors = check.tensors("registers", names, registers.compute)
        noise, seeds = saved_noise(check, bool(self.plan.draws), registers.noise, self._seeds, self.process)

        def load() -> None:
            self._seeds = seeds
            registers.resume(calls, replaced, tensors, noise)
            self._call_levels = CallLevels(registers, self.process, self.levels)
            self.error = None

        return load

    def __reduce_ex__(self, protocol: object) -> tuple[Any, ...]:
        """A copy, or a pickle, is a run of its own that goes on from the same state."""
        if self._registers.recorded:
            raise TypeError(
                "a run that records gradients cannot be copied or pickled; its state_dict() leaves them out"
            )
        noise = self._registers.noise
        own = OwnNoise(noise.function if isinstance(noise, CallableNoise) else None)
        return _restored, (self.plan, self.process, self.levels, own, self.state_dict())

    def _look_at_start(self) -> None:
        """Let the state of the first model call be looked at, once."""
        registers, check = self._registers, self._check_start
        if check is not None and not registers.calls and (start := registers.untouched()) is not None:
            check(start)
        self._check_start = None

    def hold_answer(self, denoised: torch.Tensor, uncond: torch.Tensor | None) -> tuple[Segment, bool]:
        """Check an answer and hold it, for a `Batch`, which then forms the states of all its runs."""
        if self._check_start is not None:
            self._look_at_start()
        return self._registers.hold_answer(denoised, uncond)


def _restored(
    plan: Plan,
    process: Process | None,
    levels: Levels | None,
    noise: OwnNoise,
    state: Mapping[str, Any],
) -> Run:
    """A run that goes on from a state, as copies and pickles need it."""
    like = next(iter(state["registers"].values()))
    run = Run.__new__(Run)
    run._set_up(plan, like.to(getattr(torch, state["dtype"])), process, levels)
    own = noise.function
    run._registers.noise, run._seeds = (SeededNoise(()) if own is None else CallableNoise(own)), None
    run.load_state_dict(state)
    return run
