"""vLLM-Omni's step contract: ``prepare_encode``, ``denoise_step``, ``step_scheduler`` and ``post_decode``.

Its runner calls the first once per request, the second once for the rows of all requests in a step, the third with each
request's rows, and the last when a request has used up its timesteps. All state is in the runner's state of the
request, which has ``latents``, ``timesteps``, ``step_index`` and ``scheduler``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch

from ksched.integrations.servers.request import RequestScheduler
from ksched.names.enums import Prediction
from ksched.sampler import Sampler

__all__ = ["StepPipeline", "load", "save"]


class StepPipeline:
    """A pipeline with the step contract, in which every request chooses its sampler.

    Everything but the scheduler belongs to the pipeline: text encoding, the network, guidance, decoding.

    Parameters
    ----------
    pipeline : object
        Pipeline with ``prepare_encode``, ``denoise_step`` and ``post_decode``, as vLLM-Omni's ``SupportsStepExecution``
        defines them.
    sampler_of : callable
        Returns the sampler of a request, given the runner's state of it; the user's arguments are in its ``sampling``.
    prediction : Prediction, str or callable
        What the network returns, or a function of the state that returns this.
    edited : bool
        As for `RequestScheduler`.

    Notes
    -----
    The pipeline's ``prepare_encode`` leaves pure noise of std 1 in ``state.latents``; the first state of the run is
    that noise times the std of the sampler's first level. The noise of stochastic steps has the seed
    ``state.sampling.seed``, so it does not depend on the other requests in the batch.
    """

    supports_step_execution: ClassVar[bool] = True

    def __init__(
        self,
        pipeline: Any,
        sampler_of: Callable[[Any], Sampler],
        *,
        prediction: Prediction | str | Callable[[Any], Prediction | str] = "flow",
        edited: bool = False,
    ) -> None:
        if not callable(sampler_of):
            raise TypeError(f"sampler_of must be callable, (state) -> sampler; got {type(sampler_of).__name__}")
        if isinstance(prediction, str):
            Prediction.parse(prediction)  # a misspelt name is refused before any request
        self.pipeline, self.sampler_of, self.prediction, self.edited = pipeline, sampler_of, prediction, edited

    def __getattr__(self, name: str) -> Any:
        """Any other attribute that the runner reads from the pipeline."""
        if name == "pipeline":  # while an instance is being copied
            raise AttributeError(name)
        return getattr(self.pipeline, name)

    def prepare_encode(self, state: Any, **kwargs: Any) -> Any:
        """Let the pipeline encode the request, and put a scheduler into its state."""
        state = self.pipeline.prepare_encode(state, **kwargs)
        scheduler = self._scheduler(state)
        start = scheduler.sampler.process.noise_std(scheduler.sampler.plan.start.label)
        _put(state, scheduler, scheduler.start(state.latents * start, seed=getattr(state.sampling, "seed", None)))
        return state

    def denoise_step(self, input_batch: Any, **kwargs: Any) -> torch.Tensor | None:
        """One call of the network by the pipeline, for the rows of all requests."""
        return self.pipeline.denoise_step(input_batch, **kwargs)  # type: ignore[no-any-return]  # pipeline is untyped

    def step_scheduler(self, state: Any, noise_pred: torch.Tensor, **kwargs: Any) -> None:
        """Advance one request with its rows of the network's output."""
        state.latents = state.scheduler.step(noise_pred, None, state.latents)[0]
        state.step_index = state.scheduler.step_index

    def post_decode(self, state: Any, **kwargs: Any) -> Any:
        """The pipeline's output for a finished request."""
        return self.pipeline.post_decode(state, **kwargs)

    def resume(self, state: Any, saved: Mapping[str, Any], **kwargs: Any) -> Any:
        """As `prepare_encode`, for a request that continues from the result of `save`, here or on another worker."""
        state = self.pipeline.prepare_encode(state, **kwargs)
        load(state, self._scheduler(state), saved)
        return state

    def _scheduler(self, state: Any) -> RequestScheduler:
        prediction = self.prediction
        if not isinstance(prediction, str):
            prediction = prediction(state)
        return RequestScheduler(self.sampler_of(state), prediction=prediction, edited=self.edited)


def save(state: Any) -> dict[str, Any]:
    """The denoising state of a request as numbers, strings and tensors, without what the pipeline encoded."""
    saved: dict[str, Any] = state.scheduler.state_dict()
    return saved


def load(state: Any, scheduler: RequestScheduler, saved: Mapping[str, Any]) -> None:
    """Put a scheduler into the state of a request that continues from the result of `save`."""
    _put(state, scheduler, scheduler.resume(saved))


def _put(state: Any, scheduler: RequestScheduler, latents: torch.Tensor) -> None:
    state.scheduler, state.latents = scheduler, latents
    state.timesteps, state.step_index = scheduler.timesteps, scheduler.step_index
