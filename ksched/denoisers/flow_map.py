"""Flow maps: networks that take the time of the state and the time to reach, and return the mean velocity between."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch

from ksched.denoisers.denoiser import Denoiser
from ksched.names.enums import Prediction
from ksched.processes import Flow, Process
from ksched.processes.host_levels import host_goals
from ksched.types import set_fields

__all__ = ["FlowMap"]

#: keyword by which networks take the second time
_SECOND = "r_timestep"


@dataclass(frozen=True)
class FlowMap:
    """A denoiser ``(x, sigma)`` made from a flow map, a network that also takes the sigma at which the step ends.

    Its prediction is the one that takes the state to that sigma: one step of `euler` is the network's jump, however
    long. MeanFlow and AnyFlow train such networks.

    Parameters
    ----------
    network : callable
        Called as ``(x, timestep, r_timestep)``, or with ``r_timestep`` by name if it has such an argument, as AnyFlow's
        transformers do. Both are timesteps of the process, shape (batch,): that of the state, and that at which the
        step ends.
    process : Process
        The process that the network was trained on.
    prediction : Prediction or str
        What the network returns, as for `Denoiser`: "flow" and "velocity_to_data" for the mean velocity between the two
        times; "sample" for the x0 on whose straight line to the state the jump lies.

    Raises
    ------
    TypeError, ValueError
        As for `Denoiser`; at a call, sigma does not say where its step ends, because the sampler's steps are not jumps
        or sigma does not come from a run.

    Notes
    -----
    Sigmas of a run carry the sigma at which their step ends (`ksched.Plan.goals`), also in `Batch`, `Streams`, `frames`
    and `Sampler.parallel`, and through guidance. `euler` and `ddim` jump to the next sigma. `lcm` jumps to 0 and adds
    new noise. Ancestral steps, `ddpm` and `tcd` jump below the next sigma and add noise. All other samplers need the
    velocity at a single time, so they raise an error.

    Geng et al. 2025, "Mean Flows for One-step Generative Modeling", arXiv:2505.13447.

    Examples
    --------
    The mean velocity for data of mean 2 and standard deviation 0.5, whose path from noise to data is known exactly:

    >>> import ksched
    >>> def network(x, t, r):
    ...     t, r = t.reshape(-1, 1), r.reshape(-1, 1)
    ...     std_t, std_r = ((0.25 * (1 - s) ** 2 + s**2).sqrt() for s in (t, r))
    ...     there = 2 * (1 - r) + std_r / std_t * (x - 2 * (1 - t))
    ...     return (x - there) / (t - r)
    >>> flow_map = ksched.FlowMap(network, ksched.Flow(timestep_scale=1.0))
    >>> for steps in (1, 4):
    ...     sampler = ksched.build_sampler("euler", steps=steps, process=flow_map)
    ...     x = sampler.sample(flow_map, sampler.initial_state((10_000, 1), seed=0))
    ...     print(f"{x.mean():.1f} {x.std():.1f}")
    2.0 0.5
    2.0 0.5
    """

    network: Callable[..., Any]
    process: Process = field(default_factory=Flow)
    prediction: Prediction | str = Prediction.FLOW
    _denoiser: Denoiser = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not callable(self.network):
            raise TypeError(
                f"network must be callable, (x, timestep, r_timestep) -> output; got {type(self.network).__name__}"
            )
        network = self.network if _takes_by_name(self.network) else partial(_by_place, self.network)
        denoiser = Denoiser(network, self.process, self.prediction)
        set_fields(self, prediction=denoiser.prediction, _denoiser=denoiser)

    def __call__(
        self, x: torch.Tensor, sigma: torch.Tensor, sigma_next: torch.Tensor | float | None = None, **inputs: Any
    ) -> torch.Tensor:
        """The x0 prediction with which a step of `euler` is the network's jump.

        Parameters
        ----------
        x, sigma : Tensor
            As for `Denoiser`.
        sigma_next : Tensor, float or None
            Contract sigma at which the step ends; None takes the one that ``sigma`` carries from its run.
        inputs : object
            Conditioning, passed to the network.
        """
        if sigma_next is None:
            sigma_next = _goals_of(sigma)
        if not isinstance(sigma_next, torch.Tensor):
            sigma_next = torch.as_tensor(sigma, dtype=torch.promote_types(x.dtype, torch.float32)).new_full(
                (x.shape[0],), float(sigma_next)
            )
        denoised: torch.Tensor = self._denoiser(x, sigma, **{_SECOND: self.process.timestep(sigma_next)}, **inputs)
        return denoised

    def given(self, **inputs: Any) -> FlowMap:
        """The same with conditioning that is passed to the network at every call; see `Denoiser.given`."""
        return replace(self, network=partial(self.network, **inputs))


def _goals_of(sigma: Any) -> torch.Tensor:
    """The sigmas at which the steps from a run's sigmas end, as a tensor like them."""
    goals = host_goals(sigma)
    if goals is None:
        raise ValueError(
            "a flow map must know where the step ends, and this sigma comes from no run or was changed since; use "
            "Sampler.sample, start, parallel, Batch, Streams or frames, or pass sigma_next"
        )
    if any(map(math.isnan, goals)):
        raise ValueError(
            "a flow map needs a sampler whose steps jump from sigma to sigma; this one reads earlier predictions or "
            "several in one step. Use euler, or lcm, which adds new noise"
        )
    told: torch.Tensor = torch.full_like(sigma, goals[0]) if len({*goals}) == 1 else sigma.new_tensor(goals)
    return told.reshape(sigma.shape)


def _takes_by_name(network: Callable[..., Any]) -> bool:
    while isinstance(network, partial) and not network.args:
        network = network.func
    network = getattr(network, "_orig_mod", network)  # as torch.compile keeps it
    try:
        signature = inspect.signature(network.forward if isinstance(network, torch.nn.Module) else network)
    except (TypeError, ValueError):  # built in, without a signature
        return False
    return _SECOND in signature.parameters


def _by_place(network: Callable[..., Any], x: torch.Tensor, t: torch.Tensor, *, r_timestep: Any, **inputs: Any) -> Any:
    return network(x, t, r_timestep, **inputs)
