"""The executor: a `Run` is one run of a plan and holds everything that changes during it."""

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
    """One run of a plan that you drive yourself: read `x` and `sigma`, call the model, `feed` the answer.

    Parameters
    ----------
    plan : Plan
        The plan to run.
    x : Tensor
        Start state, batch first; it is copied and never modified.
    seed : int, sequence of int or None
        One whole number, or one per item of the batch; needed if the plan draws noise.
    noise : callable, str or None
        A function ``(sigma_from, sigma_to) -> tensor like x`` of unit variance, instead of a seed; or, with a seed,
        "brownian", which keeps the picture when the number of steps changes (see `ksched.noise.BrownianNoise`), or the
        name of another kind of noise.
    process : Process or None
        Gives the timesteps of the levels; None if the model needs none.
    levels : tuple or None
        Levels for a model that checks its process, from `ksched.processes.agreement.levels_of`; None for none.
    check_start : callable or None
        Called with the state of the first model call when that call has been answered.

    Raises
    ------
    TypeError, ValueError
        For a state that is not a floating-point tensor with a batch axis; seed and noise both missing although noise is
        drawn, or both given.

    Notes
    -----
    Registers are held in at least float32, in the run's own buffers. A buffer that was handed out (`x`) is overwritten
    only when nobody holds it, or a view of it, any more. While gradients are recorded, nothing is overwritten.
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
        """Everything that does not depend on numbers; of ``x``, only shape, dtype and device matter."""
        self.plan, self.process, self.levels = plan, process, levels
        self._check_start = check_start
        #: the error with which the run left a batch early; None if it did not. `Batch.add` clears it
        self.error: Exception | None = None
        self._registers = Registers(plan, x)
        self._call_levels = CallLevels(self._registers, process, levels)

    @property
    def x(self) -> torch.Tensor:
        """The state that the model must evaluate next, or the result; in the start's dtype, never modified later.

        Raises
        ------
        RuntimeError
            If there is no state: an exception such as Ctrl-C interrupted `feed` while the state was formed, or the run
            left a batch with an error.
        """
        if self.error is not None:
            raise self._failure()
        return self._registers.state()

    @property
    def seeds(self) -> tuple[int, ...] | None:
        """Seeds of the items; None if the run draws no noise, or noise of your own."""
        return self._seeds

    def _failure(self) -> RuntimeError:
        """The error that says why there is no state."""
        self._registers.check_whole()
        failure = RuntimeError(f"the run left its batch with an error: {self.error}")
        failure.__cause__ = self.error
        return failure

    def feed(self, denoised: torch.Tensor, uncond: torch.Tensor | None = None) -> None:
        """Answer the model call at `x` and advance to the next one.

        Parameters
        ----------
        denoised : Tensor
            The model's x0 prediction, of the state's shape; it may be `x` itself, a view of it, or a buffer that the
            next call will overwrite.
        uncond : Tensor or None
            The unconditional prediction, for samplers that need it.

        Raises
        ------
        RuntimeError
            If the run is done, was interrupted, or is fed by another thread; `x` was written to.
        TypeError, ValueError
            For a prediction that is missing, not a tensor, or of the wrong shape.
        """
        if self._check_start is not None:
            self._look_at_start()
        self._registers.answer(denoised, uncond)

    def feed_output(self, output: torch.Tensor, of_x: float, of_output: float) -> None:
        """Answer with a network's raw output, from which the x0 prediction is ``of_x * x + of_output * output``.

        The two numbers go into the plan's coefficients, so converting the output costs no pass over memory. Otherwise
        it is like `feed`. `ksched.Denoiser.conversions` gives the numbers for epsilon, v, flow and EDM's F.

        Parameters
        ----------
        output : Tensor
            Of the state's shape, with the same freedom as the prediction of `feed`.
        of_x, of_output : float
            Host numbers.

        Raises
        ------
        RuntimeError
            If the run is done.
        TypeError, ValueError
            As for `feed`; a sampler that needs the unconditional prediction, which `feed` takes.
        """
        if self.needs_uncond:
            raise TypeError("this sampler needs (denoised, uncond); pass both to feed instead of feed_output")
        if self._check_start is not None:
            self._look_at_start()
        self._registers.answer(output, None, (of_x, of_output))

    def replace(self, x: torch.Tensor) -> None:
        """Continue from another state instead of `x`, such as an edited one; the sampler's memory stays.

        Parameters
        ----------
        x : Tensor
            Of the state's shape, on its device; it is copied and never modified.

        Raises
        ------
        RuntimeError
            If the run is done.
        TypeError, ValueError
            For anything that is not a floating-point tensor, or of the wrong shape or device.
        """
        if self._registers.turn is None:
            raise RuntimeError("the run is done, so there is no state left to replace")
        check_state(x)
        self._registers.check_whole()
        self._registers.replace(x)

    def take(self, indices: Any) -> Self:
        """Continue with these items, in place; the batch may shrink, grow or be empty, and an item may occur twice.

        Parameters
        ----------
        indices : sequence of int, array or Tensor
            Item indices in the new order: a list, tuple, range, array or tensor; negative ones count from the end. Or a
            mask, with True for every item to keep.

        Returns
        -------
        the run itself

        Raises
        ------
        TypeError, ValueError, IndexError
            For invalid indices; the run is then unchanged.
        RuntimeError
            If there is no state, as for `x`, or another thread is feeding the run.

        Notes
        -----
        An item's first copy continues exactly as the item would have, bit for bit. Each further copy has its own noise
        from now on: its seed is a hash of the item's seed and the copy's number, from 1. Numbers whose seed an item of
        the run already has are skipped. Your own noise function is called with the new shape.

        Tensors that were handed out before stay unchanged. Gradients flow through if the run records them. You can also
        take from a finished run, and from a run in a `Batch` between any two ticks; its rows change then. A saved state
        can be loaded by a run with as many items as there were when it was saved.
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
        """The state over ``norm`` in the start state's dtype, as a network's input; never modified later."""
        return self._registers.state(norm)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume the run, in another process too: numbers, strings and copies of tensors."""
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
        """Resume from where `state_dict` was taken, bit for bit; this run's own state and seeds are replaced.

        Raises
        ------
        ValueError
            For a state that is damaged, of another kind, or of another plan or noise; the run is then unchanged.
        """
        self.loading(state)()

    def loading(self, state: Mapping[str, Any]) -> Callable[[], None]:
        """Check a whole state without changing the run; calling the result makes the run continue from it."""
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
        """A copy, or a pickle, is an independent run that continues from the same state."""
        if self._registers.recorded:
            raise TypeError(
                "a run that records gradients cannot be copied or pickled; its state_dict() leaves them out"
            )
        noise = self._registers.noise
        own = OwnNoise(noise.function if isinstance(noise, CallableNoise) else None)
        return _restored, (self.plan, self.process, self.levels, own, self.state_dict())

    def _look_at_start(self) -> None:
        """Run the check of the first model call's state, once."""
        registers, check = self._registers, self._check_start
        if check is not None and not registers.calls and (start := registers.untouched()) is not None:
            check(start)
        self._check_start = None

    def hold_answer(self, denoised: torch.Tensor, uncond: torch.Tensor | None) -> tuple[Segment, bool]:
        """Check an answer and store it, for a `Batch`, which then forms the states of all its runs."""
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
    """A run that continues from a saved state, for copies and pickles."""
    like = next(iter(state["registers"].values()))
    run = Run.__new__(Run)
    run._set_up(plan, like.to(getattr(torch, state["dtype"])), process, levels)
    own = noise.function
    run._registers.noise, run._seeds = (SeededNoise(()) if own is None else CallableNoise(own)), None
    run.load_state_dict(state)
    return run
