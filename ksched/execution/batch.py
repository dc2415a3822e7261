"""Continuous batching: runs of all kinds advance together, one model call for all of them at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise
from typing import Any, NoReturn, TypeAlias

import torch

from ksched.denoisers.answer import Model, answer
from ksched.denoisers.denoiser import Denoiser
from ksched.execution.adaptive_run import AdaptiveRun
from ksched.execution.buffers import form_together
from ksched.execution.registers import Registers, check_output
from ksched.execution.run import Run
from ksched.processes.agreement import check_once, mark, process_of_model

__all__ = ["Batch"]

#: a run, its answer, the unconditional twin, and how the answer of a network becomes a prediction
_Answered: TypeAlias = tuple[Run | AdaptiveRun, torch.Tensor, torch.Tensor | None, tuple[float, float] | None]


class Batch:
    """Runs that share their model calls: with different samplers, schedules, steps, processes, seeds and starts.

    Runs join with `add` and leave when they are done, or with `remove`, between any two calls. What a run sees is what
    it would see alone, so its result is that of `Sampler.sample`, however the others come and go.

    Attributes
    ----------
    runs : those in the batch, in the order of their rows; a run of several items has several rows

    Notes
    -----
    All runs need states of one shape (but for the number of items), dtype and device. Between two ticks a run may
    change how many it has, by `Run.take`; `rows` is then another.

    A run that fails, such as an adaptive one whose model answers NaN, leaves alone: it is returned with those that are
    done, its ``error`` says why, and reading its ``x`` raises that. The others go on.

    A batch belongs to one thread, and a second one gets an error; another thread hands it runs by a queue. On a GPU the
    states of all runs are formed in one launch, or in two or three where samplers form one state from another.

    Examples
    --------
    >>> import ksched, torch
    >>> def model(x, sigma):
    ...     return x / (1 + sigma.reshape(-1, 1) ** 2)  # exact for standard normal data
    >>> x = 14.6146 * torch.ones(1, 3)
    >>> fast, good = ksched.build_sampler("euler", "karras", 4), ksched.build_sampler("dpmpp_2m_sde", "simple", 6)
    >>> batch = ksched.batch.Batch()
    >>> first = batch.add(fast.start(x))
    >>> batch.tick(model)
    []
    >>> second = batch.add(good.start(x, seed=7))  # joins while the first is under way
    >>> while batch:
    ...     for run in batch.tick(model):
    ...         print("first" if run is first else "second", "is done after", run.nfe, "calls")
    first is done after 4 calls
    second is done after 6 calls
    >>> torch.equal(second.x, good.sample(model, x, seed=7))
    True
    """

    def __init__(self) -> None:
        self._runs: list[Run | AdaptiveRun] = []
        self._lock = threading.Lock()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(_NOT_COPIED)

    @property
    def runs(self) -> tuple[Run | AdaptiveRun, ...]:
        """Those in the batch, in the order of their rows."""
        return tuple(self._runs)

    def __len__(self) -> int:
        return len(self._runs)

    def add(self, run: Run | AdaptiveRun) -> Run | AdaptiveRun:
        """Let a run join, from its present state on; it is returned.

        Raises
        ------
        TypeError, ValueError : no run, one that is done or in the batch already, or states that do not fit the others
        RuntimeError : a model call of the batch is being made or answered
        """
        self._check_idle()
        if not isinstance(run, Run | AdaptiveRun):
            raise TypeError(f"run must come from Sampler.start; got {type(run).__name__}")
        if run.done:
            raise ValueError("the run is done: there is no model call left to share")
        if any(run is other for other in self._runs):
            raise ValueError("the run is in the batch already")
        if self._runs:
            ours, new = _kind(self._runs[0]), _kind(run)
            if ours != new:
                raise ValueError(
                    f"runs of a batch must have items of one shape, dtype and device; here they are {ours}, got {new}"
                )
        run.error = None
        self._runs.append(run)
        return run

    def remove(self, run: Run | AdaptiveRun) -> Run | AdaptiveRun:
        """Let a run leave before it is done; it is returned, and may go on alone or join again.

        Raises
        ------
        ValueError : the run is not in the batch
        RuntimeError : a model call of the batch is being made or answered
        """
        self._check_idle()
        for i, other in enumerate(self._runs):
            if other is run:
                return self._runs.pop(i)
        raise ValueError("the run is not in the batch: it was never added, is done, or was removed")

    @property
    def rows(self) -> tuple[slice, ...]:
        """Where in the batch the items of each run are."""
        ends = accumulate((run.shape[0] for run in self._runs), initial=0)
        return tuple(slice(start, end) for start, end in pairwise(ends))

    @property
    def x(self) -> torch.Tensor:
        """The states that the model must see next, one below the other; never written again.

        Raises
        ------
        RuntimeError : the batch is empty
        """
        return _joined(self._runs, lambda run: run.x)

    @property
    def sigma(self) -> torch.Tensor:
        """Contract sigma of every row, as each run's own process means it; shape (rows,)."""
        sigma = _joined(self._runs, lambda run: run.sigma)
        mark(sigma, tuple(run.levels for run in self._runs if run.levels is not None))
        return sigma

    @property
    def timestep(self) -> torch.Tensor:
        """The timestep that each run's own process gives its level, for the network; shape (rows,)."""
        return _joined(self._runs, lambda run: run.timestep)

    @property
    def needs_uncond(self) -> bool:
        """Whether the next answer must come with its unconditional twin, because a run needs it."""
        return any(run.needs_uncond for run in self._runs)

    def feed(self, denoised: torch.Tensor, uncond: torch.Tensor | None = None) -> list[Run | AdaptiveRun]:
        """Answer the model call at `x` and advance all runs to their next ones.

        Parameters
        ----------
        denoised : the x0 predictions, of the shape of `x`; as free as that of `Run.feed`
        uncond : their unconditional twins, if `needs_uncond`

        Returns
        -------
        the runs that are done now, which have left the batch; their ``x`` is the result. With them those that failed,
        whose ``error`` says why

        Raises
        ------
        RuntimeError : the batch is empty, or another thread is at work on it
        TypeError, ValueError : as for `Run.feed`. All is checked, and own noise drawn, before any run advances, so that
            a mistake loses nothing
        """
        with self._at_work():
            return self._feed(denoised, uncond)

    def _feed(self, denoised: torch.Tensor, uncond: torch.Tensor | None) -> list[Run | AdaptiveRun]:
        rows = self._checked("D", denoised)
        if self.needs_uncond:
            self._checked("U", uncond)
        twins = [
            None if uncond is None or not run.needs_uncond else uncond[part]
            for run, part in zip(self._runs, rows, strict=True)
        ]
        return self._advance([denoised[part] for part in rows], twins, [None] * len(rows))

    def tick(self, model: Model) -> list[Run | AdaptiveRun]:
        """One model call, and what `feed` makes of its answer.

        Parameters
        ----------
        model : ``(x, sigma) -> denoised``, or (denoised, uncond), for states and sigmas of all rows. The network of a
            `Denoiser` is asked itself, as `Sampler.sample` does, if its process is that of all runs

        Raises
        ------
        RuntimeError, TypeError, ValueError : as for `feed`; and a model that knows its process, where it means other
            states than that of a run

        Notes
        -----
        Gradients are recorded only if a state asks for them.
        """
        with self._at_work():
            return self._ticked(model)

    def _ticked(self, model: Model) -> list[Run | AdaptiveRun]:
        if (own := process_of_model(model)) is not None:
            for levels in filter(None, (run.levels for run in self._runs)):
                check_once(own, levels)
        with torch.set_grad_enabled(torch.is_grad_enabled() and any(run.x.requires_grad for run in self._runs)):
            if isinstance(model, Denoiser):
                runs = [run for run in self._runs if isinstance(run, Run) and run.takes_output]
                if len(runs) == len(self._runs) and all(run.process == model.process for run in runs):
                    return self._tick_of(model, runs)
            return self._feed(*answer(model, self.x, self.sigma, self.needs_uncond))

    def _tick_of(self, denoiser: Denoiser, runs: list[Run]) -> list[Run | AdaptiveRun]:
        """One call of a denoiser's network."""
        numbers = [denoiser.conversions(run.plan.call_sigmas)[run.nfe] for run in runs]
        inputs = [run.network_input(norm) for run, (norm, _, _) in zip(runs, numbers, strict=True)]
        output = denoiser.output(torch.cat(inputs), self.timestep)
        del inputs  # whoever holds a state keeps a run from writing over it
        rows = self._checked("D", output)
        conversions = [(of_x, of_output) for _, of_x, of_output in numbers]
        return self._advance([output[part] for part in rows], [None] * len(rows), conversions)

    def _advance(
        self,
        outputs: Sequence[torch.Tensor],
        twins: Sequence[torch.Tensor | None],
        conversions: Sequence[tuple[float, float] | None],
    ) -> list[Run | AdaptiveRun]:
        """Give every run its answer; returns those that are done or failed, which leave."""
        given = list(zip(self._runs, outputs, twins, conversions, strict=True))
        held: list[Registers] = []
        try:
            for run in self._runs:
                if isinstance(run, Run):
                    run.registers.hold()
                    held.append(run.registers)
            _advance_all(given)
        except BaseException:
            for each in self._runs:  # whoever calls learns of one error, and all runs stay
                each.error = None
            raise
        finally:
            for registers in held:
                registers.release()
        leaving = [run for run in self._runs if run.done or run.error is not None]
        self._runs = [run for run in self._runs if not (run.done or run.error is not None)]
        return leaving

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Let nobody else in."""
        if not self._lock.acquire(False):
            raise RuntimeError(_BUSY)
        try:
            yield
        finally:
            self._lock.release()

    def _check_idle(self) -> None:
        if self._lock.locked():
            raise RuntimeError(_BUSY)

    def _checked(self, kind: str, output: Any) -> tuple[slice, ...]:
        """Raise unless there is a prediction for every row; returns the rows of each run."""
        if not self._runs:
            raise RuntimeError("the batch is empty: there is no model call to answer")
        rows, first = self.rows, self._runs[0]
        check_output(kind, output, (rows[-1].stop, *first.shape[1:]), first.device)
        return rows


_NOT_COPIED = (
    "a batch cannot be copied or pickled: keep the state_dict() of each run, and add runs that loaded these to a new "
    "batch"
)

_BUSY = (
    "a batch belongs to one thread, and a model call of this one is being made or answered; hand runs to that thread "
    "by a queue"
)


def _joined(runs: Sequence[Run | AdaptiveRun], part: Callable[[Any], torch.Tensor]) -> torch.Tensor:
    """A part of every run, one below the other."""
    if not runs:
        raise RuntimeError("the batch is empty: there is no model call to make")
    return torch.cat([part(run) for run in runs])


def _advance_all(given: Sequence[_Answered]) -> None:
    """Take all answers and draw all noise before any run advances; then form the states of all at once."""
    turns = []
    for run, output, twin, numbers in given:
        if isinstance(run, Run):
            with _failing_alone(run):
                turns.append((run.registers, *run.hold_answer(output, twin), numbers))
    for registers, turn, recorded, _ in turns:
        registers.draw(turn, recorded)
    for run, output, twin, _ in given:
        if isinstance(run, AdaptiveRun):
            with _failing_alone(run):
                run.feed(output, twin)
    together = []
    for registers, turn, recorded, numbers in turns:
        operations = registers.operations(turn, numbers)
        registers.whole = False
        if recorded:
            registers.buffers.form(operations, recorded)
        else:
            together.append((registers.buffers, operations))
    form_together(together)
    for registers, *_ in turns:
        registers.reach(registers.calls + 1)


@contextmanager
def _failing_alone(run: Run | AdaptiveRun) -> Iterator[None]:
    """Let a run's own error be its own: it is noted, and the other runs go on."""
    try:
        yield
    except Exception as error:
        run.error = error


def _kind(run: Run | AdaptiveRun) -> tuple[tuple[int, ...], torch.dtype, torch.device]:
    return tuple(run.shape[1:]), run.dtype, run.device
