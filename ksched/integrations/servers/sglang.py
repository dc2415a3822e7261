"""SGLang Diffusion's step contract: a scheduler per request, and one solver step for the packed rows of many.

A denoising context holds the ``scheduler``, ``timesteps`` and ``latents`` of a request. A request that steps alone
calls ``scheduler.scale_model_input`` and ``scheduler.step``. Requests that step together have one forward pass, and
their rows go to a solver: ``build_batched_solver(states, device)``, then ``step_rows`` at every step while the group
lasts. SGLang's own solver takes Euler on flow models alone; this one takes every sampler, each request its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch

from ksched.integrations.servers.request import RequestScheduler, step_together
from ksched.names.enums import Prediction
from ksched.noise.sources import Seed
from ksched.sampler import Sampler

__all__ = ["PackedSolver", "build_batched_solver", "prepare", "resume", "scheduler_is_batchable"]


def prepare(
    context: Any,
    sampler: Sampler,
    *,
    prediction: Prediction | str = "flow",
    seed: Seed | None = None,
    edited: bool = False,
) -> None:
    """Put a scheduler of a request's own into its denoising context.

    Parameters
    ----------
    context : as the engine's denoising stage prepares it, with pure noise of std 1 in ``latents``
    sampler : of the request
    prediction, edited : as for `RequestScheduler`
    seed : of the steps' noise; needed if the sampler draws any
    """
    scheduler = RequestScheduler(sampler, prediction=prediction, edited=edited)
    start = sampler.process.noise_std(sampler.plan.start.label)
    _put(context, scheduler, scheduler.start(context.latents * start, seed=seed))


def resume(
    context: Any,
    sampler: Sampler,
    saved: Mapping[str, Any],
    *,
    prediction: Prediction | str = "flow",
    edited: bool = False,
) -> None:
    """As `prepare`, for a request that goes on from its ``scheduler.state_dict()``, here or in another role."""
    scheduler = RequestScheduler(sampler, prediction=prediction, edited=edited)
    _put(context, scheduler, scheduler.resume(saved))


def scheduler_is_batchable(scheduler: Any, *, diagnose: bool = False) -> bool:
    """Whether a request may step with others: its scheduler is a `RequestScheduler` of any sampler."""
    return isinstance(scheduler, RequestScheduler)


def build_batched_solver(states: Sequence[Any], device: torch.device) -> PackedSolver:
    """The solver of requests that step together.

    Parameters
    ----------
    states : of the requests, each with its ``denoising_context``
    device : not read: rows are where the latents are

    Raises
    ------
    ValueError : no requests, or one whose scheduler `prepare` has not made
    """
    return PackedSolver(states)


class PackedSolver:
    """One step of many requests at a time, each with its sampler.

    Requests may be at different steps. A group that changes needs a new solver, which costs nothing: the state is in
    the schedulers of the requests.
    """

    def __init__(self, states: Sequence[Any]) -> None:
        if not states or not all(scheduler_is_batchable(_scheduler(state)) for state in states):
            raise ValueError("a packed step needs requests whose schedulers were made by ksched; prepare makes them")

    @classmethod
    def try_build(cls, states: Sequence[Any], device: torch.device) -> Self:
        """As `build_batched_solver`."""
        return cls(states)

    def scale_model_input(self, packed_sample: torch.Tensor) -> torch.Tensor:
        """The latents as they are: they are scaled already."""
        return packed_sample

    def step_rows(
        self, packed_model_output: torch.Tensor, packed_sample: torch.Tensor, states: Sequence[Any]
    ) -> torch.Tensor:
        """The next latents of all rows.

        Parameters
        ----------
        packed_model_output : of the network, the rows of each request below those of the one before; where sequences
            differ in length, each is at the start of its rows
        packed_sample : the latents in the same order. What is beyond the end of a shorter sequence is left as it is
        states : of the requests, in the order of their rows

        Raises
        ------
        ValueError : another number of rows
        """
        schedulers = [_scheduler(state) for state in states]
        rows, top = [], 0
        for scheduler in schedulers:
            shape = scheduler.run.shape
            rows.append((slice(top, top + shape[0]), *(slice(0, length) for length in shape[1:])))
            top += shape[0]
        if top != len(packed_model_output) or top != len(packed_sample):
            raise ValueError(f"the requests have {top} rows; got {len(packed_model_output)} and {len(packed_sample)}")
        outputs, samples = ([packed[place] for place in rows] for packed in (packed_model_output, packed_sample))
        step_together(schedulers, outputs, samples)
        packed = packed_sample.clone()
        for place, scheduler in zip(rows, schedulers, strict=True):
            packed[place] = scheduler.latents
        return packed


def _scheduler(state: Any) -> Any:
    return state.denoising_context.scheduler


def _put(context: Any, scheduler: RequestScheduler, latents: torch.Tensor) -> None:
    context.scheduler, context.timesteps, context.latents = scheduler, scheduler.timesteps, latents
