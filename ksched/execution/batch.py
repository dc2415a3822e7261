"""Continuous batching: runs of all kinds advance together, one model call for all of them at a time."""

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

    `ksched.Streams` and `ksched.Frames` are members too, each among its own kind: of the same parts with states of
    those shapes, or as many frames. With `Streams`, `x`, `sigma`, `timestep` and answers are mappings by the names of
    the parts; with `Frames`, `sigma` and `timestep` have shape (rows, frames).

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
        self._runs: list[Any] = []  # members
        self._lock = threading.Lock()

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(_NOT_COPIED)

    @property
    def runs(self) -> tuple[Any, ...]:
        """Those in the batch, in the order of their rows."""
        return tuple(self._runs)

    def __len__(self) -> int:
        return len(self._runs)

    def add(self, run: M) -> M:
        """Let a run join, from its present state on; it is returned.

        Raises
        ------
        TypeError, ValueError : no run, one that is done or in the batch already, or states that do not fit the others
        RuntimeError : a model call of the batch is being made or answered
        """
        self._check_idle()
        if not isinstance(run, Run | AdaptiveRun | JointRun):
            raise TypeError(f"run must come from Sampler.start; got {type(run).__name__}")
        if run.done:
            raise ValueError("the run is done: there is no model call left to share")
        if _shares_a_run(run, self._runs):
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

    def remove(self, run: M) -> M:
        """Let a run leave before it is done; it is returned, and may go on alone or join again.

        Raises
        ------
        ValueError : the run is not in the batch
        RuntimeError : a model call of the batch is being made or answered
        """
        self._check_idle()
        for i, other in enumerate(self._runs):
            if other is run:
                del self._runs[i]
                return run
        raise ValueError("the run is not in the batch: it was never added, is done, or was removed")

    @property
    def rows(self) -> tuple[slice, ...]:
        """Where in the batch the items of each run are."""
        ends = accumulate(map(_items, self._runs), initial=0)
        return tuple(slice(start, end) for start, end in pairwise(ends))

    @property
    def x(self) -> Any:
        """The states that the model must see next, one below the other; never written again.

        Raises
        ------
        RuntimeError : the batch is empty
        """
        return _joined([run.x for run in self._runs])

    @property
    def sigma(self) -> Any:
        """Contract sigma of every row, as each run's own process means it; shape (rows,)."""
        return _joined([run.sigma for run in self._runs], marked=True)

    @property
    def timestep(self) -> Any:
        """The timestep that each run's own process gives its level, for the network; shape (rows,)."""
        return _joined([run.timestep for run in self._runs])

    @property
    def needs_uncond(self) -> bool:
        """Whether the next answer must come with its unconditional twin, because a run needs it."""
        return any(run.needs_uncond for run in self._runs)

    def feed(self, denoised: Any, uncond: torch.Tensor | None = None) -> list[Any]:
        """Answer the model call at `x` and advance all runs to their next ones.

        Parameters
        ----------
        denoised : the x0 predictions, of the shape of `x`; as free as that of `Run.feed`. Where `x` is a mapping, one
            as `Streams.feed` takes it: with a prediction, or a pair of them, for every part that is not done everywhere
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
        del inputs  # whoever holds a state keeps a run from writing over it
        rows = self._checked("D", output)
        return self._advance(
            [
                (run, (Answer(run, output[part], None, (of_x, of_output)),))
                for run, part, (_, of_x, of_output) in zip(runs, rows, numbers, strict=True)
            ]
        )

    def _advance(self, work: Sequence[tuple[Any, Sequence[Answer]]]) -> list[Any]:
        """Give every run its answer; returns those that are done or failed, which leave."""
        advance_together(work)
        for run in self._runs:
            if not isinstance(run, _SINGLE) and run.error is None:
                run.advanced()
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


def _asked(runs: Sequence[Any]) -> Mapping[str, Asked] | None:
    """What the next answer must be for every part; None unless the states are mappings."""
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
    """A part of every run, one below the other; ``marked`` sigmas go on telling of their levels."""
    if not parts:
        raise RuntimeError("the batch is empty: there is no model call to make")
    if isinstance(parts[0], MappingProxyType):
        return MappingProxyType({name: _joined([p[name] for p in parts], marked=marked) for name in parts[0]})
    together = torch.cat(parts)
    if marked:
        mark(together, tuple(each for part in parts for each in marks_of(part)))
        carry_joined(together, parts)
    return together


def _rows(pair: tuple[torch.Tensor, torch.Tensor | None], part: slice) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The rows of one run."""
    denoised, uncond = pair
    return denoised[part], None if uncond is None else uncond[part]


def _items(run: Member) -> int:
    return run.shape[0] if isinstance(run, _SINGLE) else run.items


def _shares_a_run(run: Member, others: Sequence[Member]) -> bool:
    """Whether a run, or one that it is made of, is among others."""
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
