"""Continuous batching: runs of all kinds advance together and share each model call."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

import torch

from ksched.denoisers.answer import answer
from ksched.denoisers.denoiser import Denoiser
from ksched.execution.adaptive_run import AdaptiveRun
from ksched.execution.registers import check_output
from ksched.execution.run import Run
from ksched.execution.together import Answer, Asked, JointRun, Member, advance_together, check_answers
from ksched.processes.agreement import Levels, check_once, mark, marks_of, process_of_model
from ksched.processes.host_levels import carry_joined

__all__ = ["Batch"]

M = TypeVar("M", bound=Member)

_SINGLE = (Run, AdaptiveRun)


class Batch:
    """Runs that share their model calls, with different samplers, schedules, steps, processes, seeds and starts.

    Runs join with `add`. They leave when they are done, or with `remove`, between any two calls. A run sees exactly
    what it would see alone, so its result is that of `Sampler.sample` and does not depend on the other runs.

    Attributes
    ----------
    runs : tuple of Run, AdaptiveRun, Streams or Frames
        The runs in the batch, in the order of their rows; a run of several items has several rows.

    Notes
    -----
    All runs need states of the same item shape, dtype and device. Between two ticks, `Run.take` may change the number
    of items of a run; `rows` then changes too.

    `ksched.Streams` and `ksched.Frames` can be members too. All members must be of one kind: `Streams` with the same
    parts and shapes, or `Frames` with the same number of frames. With `Streams`, `x`, `sigma`, `timestep` and answers
    are mappings by part name; with `Frames`, `sigma` and `timestep` have shape (rows, frames).

    A run that fails, such as an adaptive one whose model returns NaN, leaves the batch. It is returned together with
    the finished runs, its ``error`` says why, and reading its ``x`` raises that error. The other runs continue.

    A batch belongs to one thread; a second one gets an error, so hand runs over through a queue. On a GPU, the states
    of all runs are formed in one kernel launch, or in two or three if samplers form one state from another.

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
        self._runs: list[Any] = []  # members
        self._lock = threading.Lock()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(_NOT_COPIED)

    @property
    def runs(self) -> tuple[Any, ...]:
        """The runs in the batch, in the order of their rows."""
        return tuple(self._runs)

    def __len__(self) -> int:
        return len(self._runs)

    def add(self, run: M) -> M:
        """Add a run, which joins from its present state on; returns the run.

        Raises
        ------
        TypeError, ValueError
            For anything that is not a run; a run that is done or already in the batch; states that do not fit the
            others.
        RuntimeError
            If a model call of the batch is in progress.
        """
        self._check_idle()
        if not isinstance(run, Run | AdaptiveRun | JointRun):
            raise TypeError(f"run must come from Sampler.start; got {type(run).__name__}")
        if run.done:
            raise ValueError("a run must not be done when it joins; this one has no model call left to share")
        if _shares_a_run(run, self._runs):
            raise ValueError("a run can be in a batch only once; this one is already in it")
        if self._runs:
            ours, new = _kind(self._runs[0]), _kind(run)
            if ours != new:
                raise ValueError(
                    f"runs of a batch must have items of one shape, dtype and device; this batch has {ours}, got {new}"
                )
        run.error = None
        self._runs.append(run)
        return run

    def remove(self, run: M) -> M:
        """Remove a run before it is done and return it; it may continue alone or join again.

        Raises
        ------
        ValueError
            If the run is not in the batch.
        RuntimeError
            If a model call of the batch is in progress.
        """
        self._check_idle()
        for i, other in enumerate(self._runs):
            if other is run:
                del self._runs[i]
                return run
        raise ValueError("the run must be in the batch; it was never added, is done, or was removed")

    @property
    def rows(self) -> tuple[slice, ...]:
        """The rows of each run in the batch."""
        ends = accumulate(map(_items, self._runs), initial=0)
        return tuple(slice(start, end) for start, end in pairwise(ends))

    @property
    def x(self) -> Any:
        """The states that the model must evaluate next, concatenated along the batch; never modified later.

        Raises
        ------
        RuntimeError
            If the batch is empty.
        """
        return _joined([run.x for run in self._runs])

    @property
    def sigma(self) -> Any:
        """Contract sigma of each row, by each run's own process; shape (rows,)."""
        return _joined([run.sigma for run in self._runs], marked=True)

    @property
    def timestep(self) -> Any:
        """Timestep of each row for the network, by each run's own process; shape (rows,)."""
        return _joined([run.timestep for run in self._runs])

    @property
    def needs_uncond(self) -> bool:
        """Whether the next answer must include the unconditional prediction, because some run needs it."""
        return any(run.needs_uncond for run in self._runs)

    def feed(self, denoised: Any, uncond: torch.Tensor | None = None) -> list[Any]:
        """Answer the model call at `x` and advance all runs to their next call.

        Parameters
        ----------
        denoised : Tensor or mapping
            The x0 predictions, of the shape of `x`, with the same freedom as in `Run.feed`. If `x` is a mapping, a
            mapping as for `Streams.feed`: a prediction, or a pair of them, for each part that is not done in all runs.
        uncond : Tensor or None
            The unconditional predictions, if `needs_uncond`.

        Returns
        -------
        the runs that are now done and have left the batch (their ``x`` is the result), and the runs that failed, whose
        ``error`` says why

        Raises
        ------
        RuntimeError
            If the batch is empty, or another thread is using it.
        TypeError, ValueError
            As for `Run.feed`. Everything is checked, and your own noise drawn, before any run advances, so a mistake
            loses nothing.
        """
        with self._at_work():
            return self._feed(denoised, uncond)

    def _feed(self, denoised: Any, uncond: torch.Tensor | None) -> list[Any]:
        if (asked := _asked(self._runs)) is not None:
            given = check_answers(denoised, asked)
            return self._advance(
                [
                    (run, run.answers({name: _rows(pair, part) for name, pair in given.items()}))
                    for run, part in zip(self._runs, self.rows, strict=True)
                ]
            )
        rows = self._checked("D", denoised)
        if self.needs_uncond:
            self._checked("U", uncond)
        work = []
        for run, part in zip(self._runs, rows, strict=True):
            own = denoised[part], None if uncond is None or not run.needs_uncond else uncond[part]
            work.append((run, (Answer(run, *own),) if isinstance(run, _SINGLE) else run.answers(*own)))
        return self._advance(work)

    def tick(self, model: Callable[[Any, Any], Any]) -> list[Any]:
        """Make one model call and `feed` its answer.

        Parameters
        ----------
        model : callable
            ``(x, sigma) -> denoised``, or (denoised, uncond), for states and sigmas of all rows. If the process of a
            `Denoiser` is that of all runs, its network is called directly, as in `Sampler.sample`.

        Raises
        ------
        RuntimeError, TypeError, ValueError
            As for `feed`; and if a model knows its process, and that means other states than a run's.

        Notes
        -----
        Gradients are recorded only if a state requires them.
        """
        with self._at_work():
            return self._ticked(model)

    def _ticked(self, model: Callable[[Any, Any], Any]) -> list[Any]:
        if (own := process_of_model(model)) is not None:
            for levels in (each for run in self._runs for each in _levels(run)):
                check_once(own, levels)
        with torch.set_grad_enabled(torch.is_grad_enabled() and any(map(_records, self._runs))):
            if isinstance(model, Denoiser):
                runs = [run for run in self._runs if isinstance(run, Run) and run.takes_output]
                if len(runs) == len(self._runs) and all(run.process == model.process for run in runs):
                    return self._tick_of(model, runs)
            return self._feed(*answer(model, self.x, self.sigma, self.needs_uncond))

    def _tick_of(self, denoiser: Denoiser, runs: list[Run]) -> list[Any]:
        """One call of a denoiser's network."""
        numbers = [denoiser.conversions(run.plan.call_sigmas)[run.nfe] for run in runs]
        inputs = [run.network_input(norm) for run, (norm, _, _) in zip(runs, numbers, strict=True)]
        output = denoiser.output(torch.cat(inputs), self.timestep)
        del inputs  # a run cannot overwrite a state that somebody holds
        rows = self._checked("D", output)
        return self._advance(
            [
                (run, (Answer(run, output[part], None, (of_x, of_output)),))
                for run, part, (_, of_x, of_output) in zip(runs, rows, numbers, strict=True)
            ]
        )

    def _advance(self, work: Sequence[tuple[Any, Sequence[Answer]]]) -> list[Any]:
        """Give each run its answer; returns the runs that are done or failed, which leave the batch."""
        advance_together(work)
        for run in self._runs:
            if not isinstance(run, _SINGLE) and run.error is None:
                run.advanced()
        leaving = [run for run in self._runs if run.done or run.error is not None]
        self._runs = [run for run in self._runs if not (run.done or run.error is not None)]
        return leaving

    @contextmanager
    def _at_work(self) -> Iterator[None]:
        """Lock the batch for the present thread."""
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
        """The rows of each run, after checking that there is a prediction for every row."""
        if not self._runs:
            raise RuntimeError("the batch is empty, so there is no model call to answer")
        rows, first = self.rows, self._runs[0]
        check_output(kind, output, (rows[-1].stop, *first.shape[1:]), first.device)
        return rows


_NOT_COPIED = (
    "a batch cannot be copied or pickled: save the state_dict() of each run, load these into new runs, and add those "
    "to a "
    "new batch"
)

_BUSY = (
    "a batch belongs to one thread, and a model call of this one is in progress; hand runs to that thread through a "
    "queue"
)


def _asked(runs: Sequence[Any]) -> Mapping[str, Asked] | None:
    """What the next answer must contain for each part; None unless the states are mappings."""
    if not runs or isinstance(runs[0], _SINGLE) or isinstance(runs[0].asked, Asked):
        return None
    every = [run.asked for run in runs]
    rows = sum(map(_items, runs))
    return {
        name: Asked(
            (rows, *part.shape[1:]),
            part.device,
            any(asked[name].both for asked in every),
            all(asked[name].done for asked in every),
        )
        for name, part in every[0].items()
    }


def _joined(parts: list[Any], *, marked: bool = False) -> Any:
    """A value of all runs, concatenated along the batch; ``marked`` sigmas keep the levels attached to them."""
    if not parts:
        raise RuntimeError("the batch is empty, so there is no model call to make")
    if isinstance(parts[0], MappingProxyType):
        return MappingProxyType({name: _joined([p[name] for p in parts], marked=marked) for name in parts[0]})
    together = torch.cat(parts)
    if marked:
        mark(together, tuple(each for part in parts for each in marks_of(part)))
        carry_joined(together, parts)
    return together


def _rows(pair: tuple[torch.Tensor, torch.Tensor | None], part: slice) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The rows of one run, from both predictions."""
    denoised, uncond = pair
    return denoised[part], None if uncond is None else uncond[part]


def _items(run: Member) -> int:
    return run.shape[0] if isinstance(run, _SINGLE) else run.items


def _shares_a_run(run: Member, others: Sequence[Member]) -> bool:
    """Whether a run, or a run that it consists of, is among the others."""
    own = {id(part) for part in _parts(run)}
    return any(id(part) in own for other in others for part in _parts(other))


def _parts(run: Member) -> tuple[Member, ...]:
    return (run, *run.members) if isinstance(run, JointRun) else (run,)


def _records(run: Member) -> bool:
    return run.x.requires_grad if isinstance(run, _SINGLE) else run.records


def _levels(run: Member) -> tuple[Levels, ...]:
    if isinstance(run, JointRun):
        return run.all_levels
    return () if run.levels is None else (run.levels,)


def _kind(run: Member) -> Hashable:
    return run.kind if isinstance(run, JointRun) else (tuple(run.shape[1:]), run.dtype, run.device)
