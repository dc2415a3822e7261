"""The scheduler of one request: a run that an engine steps with what its network returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ksched.denoisers.denoiser import Denoiser
from ksched.execution.registers import check_output
from ksched.execution.run import Run
from ksched.execution.together import Answer, advance_together
from ksched.names.enums import Prediction
from ksched.noise.sources import Seed
from ksched.sampler import Sampler

__all__ = ["RequestScheduler", "step_together"]


class RequestScheduler:
    """All that the denoising of one request needs to remember, with the methods that engines call on a scheduler.

    Latents are what the network sees: the state, over `Process.input_norm` where a network wants that. After the last
    step they are the result.

    Parameters
    ----------
    sampler : of the request. Its plan may call the model several times a step, and draw noise
    prediction : what the network returns, a word that `Prediction.parse` knows
    edited : whether the pipeline changes latents between two steps, as it does to hold a first frame. The next step
        then goes on from the latents that it is given. If not, the run's own state counts, in all its precision, and
        latents are not read: a server must not wait for a device to compare them. On the CPU they are compared

    Attributes
    ----------
    order : 1, of model calls per entry of `timesteps`
    init_noise_sigma : 1.0: start latents are taken as they are
    run : the `Run`, None before `start`

    Raises
    ------
    TypeError, ValueError : a sampler of classifier-free guidance's two predictions, as these contracts hand over one;
        an adaptive one, whose timesteps nobody knows; a prediction that the process cannot have
    """

    order = 1
    init_noise_sigma = 1.0

    def __init__(self, sampler: Sampler, *, prediction: Prediction | str, edited: bool = False) -> None:
        if any(row.both for row in sampler.plan.rows):
            raise TypeError(
                f"{sampler.spec.name} needs the unconditional prediction too, which the step contracts of servers do "
                "not hand over; take a sampler without cfg_pp in its name"
            )
        self.sampler, self.edited = sampler, edited
        self._conversions = Denoiser(_no_network, sampler.process, prediction).conversions(sampler.plan.call_sigmas)
        self.run: Run | None = None

    def start(self, x: torch.Tensor, seed: Seed | None = None) -> torch.Tensor:
        """Begin, and return the first latents.

        Parameters
        ----------
        x : start state, as `Sampler.initial_state` makes it; pure noise for flow models
        seed : of the steps' noise, one number or one per item; needed if the sampler draws any
        """
        self.run = self._run(x, seed)
        return self.latents

    @property
    def latents(self) -> torch.Tensor:
        """What the network must see next, or the result: a tensor of the engine's own."""
        run = self._started()
        return (run.x if run.done else run.network_input(self._conversions[run.nfe][0])).clone()

    @property
    def timesteps(self) -> torch.Tensor:
        """The timestep of every model call, float32, shape (calls,)."""
        device = None if self.run is None else self.run.device
        return torch.tensor(self.sampler.timesteps, dtype=torch.float32, device=device)

    @property
    def sigmas(self) -> torch.Tensor:
        """Contract sigma of every model call and of the end, float32, shape (calls + 1,)."""
        values = [*self.sampler.plan.call_sigmas.tolist(), self.sampler.plan.end.label]
        return torch.tensor(values, dtype=torch.float32, device=None if self.run is None else self.run.device)

    @property
    def step_index(self) -> int:
        """Model calls answered so far."""
        return 0 if self.run is None else self.run.nfe

    @property
    def done(self) -> bool:
        """Whether `latents` are the result."""
        return self._started().done

    def scale_model_input(self, sample: torch.Tensor, timestep: Any = None) -> torch.Tensor:
        """The latents as they are: they are scaled already."""
        return sample

    def step(
        self,
        model_output: torch.Tensor,
        timestep: Any = None,
        sample: torch.Tensor | None = None,
        *,
        return_dict: bool = False,
    ) -> tuple[torch.Tensor]:
        """The next latents, as a tuple of one.

        Parameters
        ----------
        model_output : what the network returned, guided
        timestep : not read: the run knows where it is
        sample : the latents; see ``edited``
        return_dict : must be False

        Raises
        ------
        RuntimeError : not started, or done
        ValueError : latents on the CPU that were changed, without ``edited``; an output of another shape
        """
        if return_dict:
            raise ValueError("return_dict must be False: the result is a tuple of one tensor")
        step_together([self], [model_output], [sample])
        return (self.latents,)

    def taken(self, output: torch.Tensor, sample: torch.Tensor | None) -> tuple[Run, tuple[Answer]]:
        """What `advance_together` needs to advance this request alone or among others."""
        run = self._started()
        if run.done:
            raise RuntimeError("the request is done: there is no step left")
        norm, of_x, of_output = self._conversions[run.nfe]
        check_output("D", output, run.shape, run.device)  # before the state of any request changes
        if sample is not None and self.edited:
            run.replace(sample * norm if norm != 1 else sample)
        elif sample is not None and sample.is_cpu and not torch.equal(sample, run.network_input(norm).to(sample)):
            raise ValueError("the latents were changed since the last step; make the RequestScheduler with edited=True")
        return run, (Answer(run, output, None, (of_x, of_output)),)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the request needs to go on elsewhere, as of `Run.state_dict`."""
        return self._started().state_dict()

    def resume(self, state: Mapping[str, Any]) -> torch.Tensor:
        """Go on from where `state_dict` was taken, bit for bit, with a scheduler of the same sampler.

        Returns
        -------
        the latents
        """
        like = next(iter(state["registers"].values()))
        run = self._run(torch.zeros_like(like, dtype=getattr(torch, state["dtype"])), state["seeds"])
        run.load_state_dict(state)
        self.run = run
        return self.latents

    def _run(self, x: torch.Tensor, seed: Seed | None) -> Run:
        run = self.sampler.start(x, seed=seed)
        assert isinstance(run, Run)  # of an adaptive sampler there is no request
        return run

    def _started(self) -> Run:
        if self.run is None:
            raise RuntimeError("the request has not been started: call start or resume first")
        return self.run


def step_together(
    schedulers: Sequence[RequestScheduler],
    outputs: Sequence[torch.Tensor],
    samples: Sequence[torch.Tensor | None] | None = None,
) -> None:
    """Advance requests of any samplers at once: on a GPU, in one launch for all whose latents have one shape.

    Parameters
    ----------
    outputs : what the network returned for each
    samples : the latents of each, as for `RequestScheduler.step`; None is none

    Raises
    ------
    RuntimeError, TypeError, ValueError : as for `RequestScheduler.step`. Outputs are checked before any request
        advances. What fails for one later, such as a state that was written to, is raised when all others have advanced
    """
    samples = [None] * len(outputs) if samples is None else samples
    groups: dict[Any, list[tuple[Run, tuple[Answer]]]] = {}
    for scheduler, output, sample in zip(schedulers, outputs, samples, strict=True):
        work = scheduler.taken(output, sample)
        groups.setdefault((work[0].shape[1:], work[0].dtype, work[0].device), []).append(work)
    for group in groups.values():
        advance_together(group)
    failed = [run for group in groups.values() for run, _ in group if run.error is not None]
    errors = [run.error for run in failed if run.error is not None]
    for run in failed:
        run.error = None  # it has not advanced
    if errors:
        raise errors[0]


def _no_network(x: Any, timestep: Any) -> Any:
    raise RuntimeError("the engine calls the network")
