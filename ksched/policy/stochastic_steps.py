"""The steps of a `ksched.Sampler` as probabilities: rollouts and log-probabilities."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, get_args

from ksched.kernels.torch_needed import need_torch
from ksched.noise.streams import Seed
from ksched.plan.plan import Plan
from ksched.policy.transitions import Transition, transitions
from ksched.processes import Process
from ksched.processes.agreement import check_agreement, levels_of
from ksched.types import is_tensor

if TYPE_CHECKING:
    import torch

    from ksched.denoisers.answer import Model
    from ksched.noise.sources import Noise
    from ksched.policy.predictions import Predictions
    from ksched.policy.scoring import Reduction
    from ksched.policy.trajectory import Trajectory

__all__ = ["StochasticSteps"]


class StochasticSteps:
    """Rollouts and log-probabilities of a sampler; subclasses give the plan and start runs."""

    @property
    @abstractmethod
    def plan(self) -> Plan:
        """The plan to run."""

    @property
    @abstractmethod
    def process(self) -> Process:
        """The noise process that the model was trained on."""

    @abstractmethod
    def start(self, x: torch.Tensor, *, seed: Seed | None = None, noise: Noise | None = None) -> Any:
        """A run of the plan."""

    @cached_property
    def transitions(self) -> tuple[Transition, ...]:
        r"""The law of each noisy step given the states before it: its ``step``, ``std``, and ``mean`` as terms.

        Empty for a sampler that draws no noise. `ksched.policy.transitions.transitions` describes samplers that use a
        noise in several rows.

        Raises
        ------
        TraceError
            The sampler is adaptive, so it has no plan.
        ValueError
            If a step has no normal law, because its noise is clipped at a limit.

        Examples
        --------
        >>> import ksched
        >>> sampler = ksched.build_sampler("dpmpp_2m_sde", process=ksched.Flow(), sigmas=[1, 0.7, 0.3, 0])
        >>> print(*sampler.transitions, sep="\\n")
        step 0: x1 ~ N(+0.300000 D0, 0.7^2)
        step 1: x2 ~ N(+0.078717 x1  +0.676385 D1, 0.295046^2)
        """
        return transitions(self.plan)

    def rollout(
        self, denoiser: Model, x: torch.Tensor, *, seed: Seed | None = None, noise: Noise | None = None
    ) -> Trajectory:
        """Run the sampler and record the run, with the log-probability of each noisy step.

        Parameters
        ----------
        denoiser, x, seed, noise : as for `sample`

        Returns
        -------
        the states, and log-probabilities summed over all numbers of an item. Its ``x`` is the result of `sample`, bit
        for bit

        Raises
        ------
        TypeError, ValueError
            As for `sample`; a sampler that draws no noise, or whose steps have no normal law.

        Notes
        -----
        No gradients are recorded; use `log_prob` for gradients. One state is stored per model call. Noise that is added
        to the first state is not counted.

        Examples
        --------
        >>> import ksched, torch
        >>> sampler = ksched.build_sampler("euler_ancestral", "simple", 4, process=ksched.Flow(3.0))
        >>> model = ksched.exact.Gaussian(0.0, 1.0, process=ksched.Flow(3.0))
        >>> x = sampler.initial_state((2, 8), seed=7)
        >>> path = sampler.rollout(model, x, seed=7)
        >>> path.log_prob.shape, path.steps
        (torch.Size([3, 2]), (0, 1, 2))
        >>> torch.equal(path.x, sampler.sample(model, x, seed=7))
        True
        >>> torch.equal(path.log_prob, sampler.log_prob(model, path))
        True
        """
        need_torch("Sampler.rollout")
        from ksched.execution.run import Run
        from ksched.policy import scoring

        laws = self._laws()
        check_agreement(denoiser, self.process, self.plan.sigmas)
        run = self.start(x, seed=seed, noise=noise)
        assert isinstance(run, Run)
        return scoring.recorded(run, laws, self._predictions(denoiser, x.dtype))

    def log_prob(
        self,
        denoiser: Model,
        path: Trajectory,
        steps: Sequence[int] | None = None,
        reduce: Reduction = "sum",
        *,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Log-probabilities of a recorded run's steps under a model, with gradients into the model.

        Parameters
        ----------
        denoiser : as for `sample`; a model with other weights, or the same one
        path : Trajectory
            From `rollout` of a sampler with the same plan.
        steps : sequence of int or None
            The noisy schedule steps to use; None means all. The model is called only at these steps, and where their
            means read an earlier prediction; at most as many predictions are stored as a mean reads.
        reduce : str
            "sum" or "mean" over all axes but the batch.
        mask : Tensor or None
            Weights of the numbers, of a shape that broadcasts to a state; the mean divides by the sum of the weights.

        Returns
        -------
        tensor of shape (steps, batch), in the order of ``steps``

        Raises
        ------
        TypeError, ValueError
            For anything that is not a recorded path, or one of another plan; steps that draw no noise; a mask of
            another shape.

        Notes
        -----
        A step without noise is conditioned on the recorded states. With the rollout's model, the result is the
        ``log_prob`` of the path bit for bit, in another process too, because means are formed by the same operations.
        The same holds in another batch if the model's answer for an item does not depend on the batch.
        """
        need_torch("Sampler.log_prob")
        from ksched.policy import scoring

        laws = self._laws()
        places = self._checked(denoiser, path, laws, steps, reduce, mask)
        wanted = [laws[place] for place in sorted(places)]
        rows = scoring.log_probs(path, wanted, self._predictions(denoiser, path.dtype), reduce, mask)
        return _ordered(rows, places)

    def kl_divergence(
        self,
        denoiser: Model,
        reference: Model,
        path: Trajectory,
        steps: Sequence[int] | None = None,
        reduce: Reduction = "sum",
        *,
        mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Kullback-Leibler divergence of one model's steps from another's, in closed form.

        Both laws of a step are normal with the same standard deviation, so the divergence is half the squared distance
        of their means over the variance. Parameters, result and errors are those of `log_prob`. Gradients flow into
        both models; freeze the parameters of ``reference`` to save memory.
        """
        need_torch("Sampler.kl_divergence")
        from ksched.policy import scoring

        laws = self._laws()
        places = self._checked(denoiser, path, laws, steps, reduce, mask)
        check_agreement(reference, self.process, self.plan.sigmas)
        wanted = [laws[place] for place in sorted(places)]
        first, second = (self._predictions(model, path.dtype) for model in (denoiser, reference))
        return _ordered(scoring.divergences(path, wanted, first, second, reduce, mask), places)

    def _laws(self) -> tuple[Transition, ...]:
        """Laws of the noisy steps, of which there must be at least one."""
        laws = self.transitions
        if not laws:
            raise ValueError(
                "this sampler draws no noise, so its steps have no probabilities: use one that does, such as "
                "euler_ancestral or dpmpp_2m_sde, or set eta > 0"
            )
        return laws

    def _predictions(self, denoiser: Model, dtype: torch.dtype) -> Predictions:
        from ksched.policy.predictions import Predictions

        return Predictions(denoiser, self.plan, self.process, levels_of(self.process, self.plan.sigmas), dtype)

    def _checked(
        self,
        denoiser: Model,
        path: Trajectory,
        laws: Sequence[Transition],
        steps: Sequence[int] | None,
        reduce: Reduction,
        mask: torch.Tensor | None,
    ) -> list[int]:
        """Positions of the steps among the noisy ones, after checking all arguments."""
        from ksched.policy import scoring
        from ksched.policy.trajectory import Trajectory

        if not isinstance(path, Trajectory):
            raise TypeError(f"path must come from Sampler.rollout; got {type(path).__name__}")
        if path.plan != self.plan.digest:
            raise ValueError("the path belongs to another plan: build the sampler with the same options and sigmas")
        if reduce not in get_args(scoring.Reduction):
            raise ValueError(f'reduce must be "sum" or "mean"; got {reduce!r}')
        if mask is not None:
            _check_mask(mask, path.states[0])
        check_agreement(denoiser, self.process, self.plan.sigmas)
        return scoring.chosen(laws, steps)


def _check_mask(mask: torch.Tensor, state: torch.Tensor) -> None:
    if not is_tensor(mask):
        raise TypeError(f"mask must be a tensor; got {type(mask).__name__}")
    wanted = zip(reversed(mask.shape), reversed(state.shape), strict=False)
    if mask.ndim > state.ndim or any(size not in (1, own) for size, own in wanted):
        raise ValueError(f"mask must broadcast to the state's shape {tuple(state.shape)}; got {tuple(mask.shape)}")
    if mask.device != state.device:
        raise ValueError(f"mask must be on the path's device {state.device}; got {mask.device}")


def _ordered(rows: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
    """Rows reordered from step order to the requested order."""
    order = sorted(range(len(places)), key=lambda k: places[k])
    if order == list(range(len(places))):
        return rows
    back = [order.index(k) for k in range(len(places))]
    return rows[back]
