"""The scheduler of one request: a run that an engine advances with the network's outputs."""

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
    """The denoising state of one request, with the methods that engines call on a scheduler.

    Latents are the network's input: the state, divided by `Process.input_norm` if the network needs that. After the
    last step they are the result.

    Parameters
    ----------
    sampler : Sampler
        Sampler of the request. Its plan may call the model several times per step and draw noise.
    prediction : Prediction or str
        What the network returns, a word that `Prediction.parse` knows.
    edited : bool
        Whether the pipeline changes latents between two steps, for example to hold a first frame. The next step then
        continues from the latents passed to it. Otherwise the run's own, more precise state is used and latents on a
        GPU are not read, since comparing them would make the server wait for the device. On the CPU they are compared.

    Attributes
    ----------
    order : int
        1, the number of model calls per entry of `timesteps`.
    init_noise_sigma : float
        1.0; start latents are used unscaled.
    run : Run or None
        The `Run`; None before `start`.

    Raises
    ------
    TypeError, ValueError
        If the sampler needs both predictions of classifier-free guidance, but these contracts pass on one; the sampler
        is adaptive, so its timesteps are not known in advance; the process cannot have the prediction.
    """

    order = 1
    init_noise_sigma = 1.0

    def __init__(self, sampler: Sampler, *, prediction: Prediction | str, edited: bool = False) -> None:
        if not isinstance(sampler, Sampler):
            raise TypeError(f"sampler must be a Sampler from ksched.build_sampler; got {sampler!r}")
        if any(row.both for row in sampler.plan.rows):
            raise TypeError(
                f"the sampler must need one prediction per call; {sampler.spec.name} also needs the unconditional one, "
                "which the step contracts of servers do not pass on. Use a sampler without cfg_pp in its name"
            )
        self.sampler, self.edited = sampler, edited
        self._conversions = Denoiser(_no_network, sampler.process, prediction).conversions(sampler.plan.call_sigmas)
        self.run: Run | None = None

    def start(self, x: torch.Tensor, seed: Seed | None = None) -> torch.Tensor:
        """Begin, and return the first latents.

        Parameters
        ----------
        x : Tensor
            Start state from `Sampler.initial_state`; pure noise for flow models.
        seed : int, sequence of int or None
            Seed of the steps' noise, one number or one per item; needed if the sampler draws noise.
        """
        self.run = self._run(x, seed)
        return self.latents

    @property
    def latents(self) -> torch.Tensor:
        """The next input of the network, or the result; a new tensor that the engine may keep."""
        run = self._started()
        return (run.x if run.done else run.network_input(self._conversions[run.nfe][0])).clone()

    @property
    def timesteps(self) -> torch.Tensor:
        """The timestep of every model call, float32, shape (calls,)."""
        device = None if self.run is None else self.run.device
        return torch.tensor(self.sampler.timesteps, dtype=torch.float32, device=device)

    @property
    def sigmas(self) -> torch.Tensor:
        """Contract sigma of every model call, and of the end, float32, shape (calls + 1,)."""
        values = [*self.sampler.plan.call_sigmas.tolist(), self.sampler.plan.end.label]
        return torch.tensor(values, dtype=torch.float32, device=None if self.run is None else self.run.device)

    @property
    def step_index(self) -> int:
        """Number of model calls so far."""
        return 0 if self.run is None else self.run.nfe

    @property
    def done(self) -> bool:
        """Whether `latents` are the result."""
        return self._started().done

    def scale_model_input(self, sample: torch.Tensor, timestep: Any = None) -> torch.Tensor:
        """The latents unchanged, since they are scaled already."""
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
        model_output : Tensor
            Output of the network, with guidance applied.
        timestep : object
            Ignored; the run knows its timestep.
        sample : Tensor or None
            The latents; see ``edited``.
        return_dict : bool
            Must be False.

        Raises
        ------
        RuntimeError
            If the request has not been started, or is done.
        ValueError
            If latents on the CPU were changed without ``edited``, or the output has another shape.
        """
        if return_dict:
            raise ValueError("return_dict must be False: the result is a tuple of one tensor")
        step_together([self], [model_output], [sample])
        return (self.latents,)

    def taken(self, output: torch.Tensor, sample: torch.Tensor | None) -> tuple[Run, tuple[Answer]]:
        """The arguments with which `advance_together` advances this request, alone or among others."""
        run = self._started()
        if run.done:
            raise RuntimeError("the request is done; start a new one to take more steps")
        norm, of_x, of_output = self._conversions[run.nfe]
        check_output("D", output, run.shape, run.device)  # before the state of any request changes
        if sample is not None and self.edited:
            run.replace(sample * norm if norm != 1 else sample)
        elif sample is not None and sample.is_cpu and not torch.equal(sample, run.network_input(norm).to(sample)):
            raise ValueError("the latents were changed since the last step; pass RequestScheduler edited=True")
        return run, (Answer(run, output, None, (of_x, of_output)),)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to continue the request elsewhere, as from `Run.state_dict`."""
        return self._started().state_dict()

    def resume(self, state: Mapping[str, Any]) -> torch.Tensor:
        """Continue bit for bit from a `state_dict`, with a scheduler of the same sampler.

        Returns
        -------
        Tensor
            The latents.
        """
        like = next(iter(state["registers"].values()))
        run = self._run(torch.zeros_like(like, dtype=getattr(torch, state["dtype"])), state["seeds"])
        run.load_state_dict(state)
        self.run = run
        return self.latents

    def _run(self, x: torch.Tensor, seed: Seed | None) -> Run:
        run = self.sampler.start(x, seed=seed)
        assert isinstance(run, Run)  # an adaptive sampler is refused in __init__
        return run

    def _started(self) -> Run:
        if self.run is None:
            raise RuntimeError("the request has not been started; call start or resume first")
        return self.run


def step_together(
    schedulers: Sequence[RequestScheduler],
    outputs: Sequence[torch.Tensor],
    samples: Sequence[torch.Tensor | None] | None = None,
) -> None:
    """Advance requests with any samplers at once; on a GPU, all with latents of one shape take one launch.

    Parameters
    ----------
    outputs : sequence of Tensor
        Output of the network for each request.
    samples : sequence of Tensor or None
        Latents of each request, as for `RequestScheduler.step`; None for none.

    Raises
    ------
    RuntimeError, TypeError, ValueError
        As for `RequestScheduler.step`. Outputs are checked before any request advances. A later failure of one request,
        such as a modified state, is raised after all others have advanced.
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
