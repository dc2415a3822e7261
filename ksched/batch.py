"""Continuous batching: runs of all kinds advance together, one model call for all of them at a time."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any

import torch

from ksched.kernels import form_together
from ksched.live import LiveRun
from ksched.loop import Model, answer
from ksched.runner import Run, check_output

__all__ = ["Batch"]


class Batch:
    """Runs that share their model calls: with different samplers, schedules, steps, processes, seeds and starts.

    Runs join with `add` and leave when they are done, or with `remove`, between any two calls. What a run sees is what
    it would see alone, so its result is that of `Sampler.sample`, however the others come and go.

    Attributes
    ----------
    runs : those in the batch, in the order of their rows; a run of several items has several rows

    Notes
    -----
    All runs need states of one shape (but for the number of items), dtype and device.

    A batch belongs to one thread; another thread hands it runs by a queue. Gradients are off only if that thread turned
    them off, which `Sampler.sample` does by itself.

    A `Denoiser` is called as a function. `Sampler.sample` asks its network instead, which rounds otherwise.

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
        self._runs: list[Run | LiveRun] = []

    @property
    def runs(self) -> tuple[Run | LiveRun, ...]:
        """Those in the batch, in the order of their rows."""
        return tuple(self._runs)

    def __len__(self) -> int:
        return len(self._runs)

    def add(self, run: Run | LiveRun) -> Run | LiveRun:
        """Let a run join, from its present state on; it is returned.

        Raises
        ------
        TypeError, ValueError : no run, one that is done or in the batch already, or states that do not fit the others
        """
        if not isinstance(run, Run | LiveRun):
            raise TypeError(f"run must come from Sampler.start; got {type(run).__name__}")
        if run.done:
            raise ValueError("the run is done: there is no model call left to share")
        if any(run is other for other in self._runs):
            raise ValueError("the run is in the batch already")
        if self._runs:
            ours, new = (_kind(other.x) for other in (self._runs[0], run))
            if ours != new:
                raise ValueError(
                    f"runs of a batch must have items of one shape, dtype and device; here they are {ours}, got {new}"
                )
        self._runs.append(run)
        return run

    def remove(self, run: Run | LiveRun) -> Run | LiveRun:
        """Let a run leave before it is done; it is returned, and may go on alone or join again.

        Raises
        ------
        ValueError : the run is not in the batch
        """
        for i, other in enumerate(self._runs):
            if other is run:
                return self._runs.pop(i)
        raise ValueError("the run is not in the batch: it was never added, is done, or was removed")

    @property
    def rows(self) -> tuple[slice, ...]:
        """Where in the batch the items of each run are."""
        ends = accumulate((run.x.shape[0] for run in self._runs), initial=0)
        return tuple(slice(start, end) for start, end in pairwise(ends))

    @property
    def x(self) -> torch.Tensor:
        """The states that the model must see next, one below the other; never written again.

        Raises
        ------
        RuntimeError : the batch is empty
        """
        return self._joined(lambda run: run.x)

    @property
    def sigma(self) -> torch.Tensor:
        """Contract sigma of every row, as each run's own process means it; shape (rows,)."""
        return self._joined(lambda run: run.sigma)

    @property
    def timestep(self) -> torch.Tensor:
        """The timestep that each run's own process gives its level, for the network; shape (rows,)."""
        return self._joined(lambda run: run.timestep)

    @property
    def needs_uncond(self) -> bool:
        """Whether the next answer must come with its unconditional twin, because a run needs it."""
        return any(run.needs_uncond for run in self._runs)

    def feed(self, denoised: torch.Tensor, uncond: torch.Tensor | None = None) -> list[Run | LiveRun]:
        """Answer the model call at `x` and advance all runs to their next ones.

        Parameters
        ----------
        denoised : the x0 predictions, of the shape of `x`; as free as that of `Run.feed`
        uncond : their unconditional twins, if `needs_uncond`

        Returns
        -------
        the runs that are done now, which have left the batch; their ``x`` is the result

        Raises
        ------
        RuntimeError : the batch is empty
        TypeError, ValueError : as for `Run.feed`. All is checked, and own noise drawn, before any run advances, so that
            a mistake loses nothing
        """
        like = self.x
        check_output("D", denoised, like)
        both = self.needs_uncond
        if both:
            check_output("U", uncond, like)
        answers = [
            (run, denoised[rows], uncond[rows] if uncond is not None and run.needs_uncond else None)
            for run, rows in zip(self._runs, self.rows, strict=True)
        ]
        planned = [(run, part, twin) for run, part, twin in answers if isinstance(run, Run)]
        try:
            turns = [(run, *run._take(part, twin)) for run, part, twin in planned]
            for run, turn, recorded in turns:
                run._draw(turn, recorded)
            for live, part, twin in answers:
                if isinstance(live, LiveRun):
                    live.feed(part, twin)
            for run, turn, recorded in turns:
                if recorded:
                    run._registers.form(turn.operations, recorded)
            form_together([(run._registers, turn.operations) for run, turn, recorded in turns if not recorded])
            for run, _, _ in turns:
                run._reach(run._calls + 1)
        finally:
            for run, _, _ in planned:
                run._forget()
        done = [run for run in self._runs if run.done]
        self._runs = [run for run in self._runs if not run.done]
        return done

    def tick(self, model: Model) -> list[Run | LiveRun]:
        """One model call, and what `feed` makes of its answer.

        Parameters
        ----------
        model : ``(x, sigma) -> denoised``, or (denoised, uncond), for states and sigmas of all rows
        """
        return self.feed(*answer(model, self.x, self.sigma, self.needs_uncond))

    def _joined(self, part: Callable[[Any], torch.Tensor]) -> torch.Tensor:
        if not self._runs:
            raise RuntimeError("the batch is empty: there is no model call to make")
        return torch.cat([part(run) for run in self._runs])


def _kind(x: torch.Tensor) -> tuple[tuple[int, ...], torch.dtype, torch.device]:
    return tuple(x.shape[1:]), x.dtype, x.device
