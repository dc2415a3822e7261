"""SGLang Diffusion's step contract: one scheduler per request, and one solver step for the packed rows of many.

A denoising context holds the ``scheduler``, ``timesteps`` and ``latents`` of a request. A request that steps alone
calls ``scheduler.scale_model_input`` and ``scheduler.step``. Requests that step together share one forward pass, and
their rows go to a solver: ``build_batched_solver(states, device)``, then ``step_rows`` at every step for as long as the
group exists. SGLang's own solver supports only Euler on flow models; this one supports every sampler, and each request
may have its own.
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
    """Create a scheduler for one request and put it into the request's denoising context.

    Parameters
    ----------
    context : object
        Denoising context prepared by the engine's denoising stage, with noise of std 1 in ``latents``.
    sampler : Sampler
        Sampler of the request.
    prediction, edited : Prediction, str or bool
        As for `RequestScheduler`.
    seed : int, sequence of int or None
        Seed of the steps' noise; needed if the sampler draws noise.
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
    """As `prepare`, for a request that continues from its ``scheduler.state_dict()``, here or in another role."""
    scheduler = RequestScheduler(sampler, prediction=prediction, edited=edited)
    _put(context, scheduler, scheduler.resume(saved))


def scheduler_is_batchable(scheduler: Any, *, diagnose: bool = False) -> bool:
    """Whether a request may step together with others: any sampler's `RequestScheduler` may."""
    return isinstance(scheduler, RequestScheduler)


def build_batched_solver(states: Sequence[Any], device: torch.device) -> PackedSolver:
    """The solver for requests that step together.

    Parameters
    ----------
    states : sequence of object
        States of the requests, each with its ``denoising_context``.
    device : device
        Ignored; rows are on the device of the latents.

    Raises
    ------
    ValueError
        If there are no requests, or a scheduler was not made by `prepare`.
    """
    return PackedSolver(states)


class PackedSolver:
    """Advances many requests by one step at a time, each with its own sampler.

    Requests may be at different steps. When a group changes, build a new solver; this costs nothing, since all state is
    in the requests' schedulers.
    """

    def __init__(self, states: Sequence[Any]) -> None:
        if not states or not all(scheduler_is_batchable(_scheduler(state)) for state in states):
            raise ValueError("a packed step needs requests whose schedulers were made by ksched; call prepare on each")

    @classmethod
    def try_build(cls, states: Sequence[Any], device: torch.device) -> Self:
        """As `build_batched_solver`."""
        return cls(states)

    def scale_model_input(self, packed_sample: torch.Tensor) -> torch.Tensor:
        """The latents unchanged, since they are scaled already."""
        return packed_sample

    def step_rows(
        self, packed_model_output: torch.Tensor, packed_sample: torch.Tensor, states: Sequence[Any]
    ) -> torch.Tensor:
        """The next latents of all rows.

        Parameters
        ----------
        packed_model_output : Tensor
            Outputs of the network, with the rows of the requests below each other; if sequences have different lengths,
            each starts at the beginning of its rows.
        packed_sample : Tensor
            Latents in the same order. Values beyond the end of a shorter sequence stay as they are.
        states : sequence of object
            States of the requests, in the order of their rows.

        Raises
        ------
        ValueError
            If the number of rows is not that of the requests.
        """
        schedulers = [_scheduler(state) for state in states]
        rows, top = [], 0
        for scheduler in schedulers:
            shape = scheduler.run.shape
            rows.append((slice(top, top + shape[0]), *(slice(0, length) for length in shape[1:])))
            top += shape[0]
        if top != len(packed_model_output) or top != len(packed_sample):
            raise ValueError(f"both must have {top} rows; got {len(packed_model_output)} and {len(packed_sample)}")
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
