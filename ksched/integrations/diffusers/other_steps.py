"""Steps that only a few pipelines take: towards a prediction of their own, per token, or to a time of their choice."""

from __future__ import annotations

from typing import Any

import torch

from ksched.integrations.diffusers.driver import Driver, Told

__all__ = ["per_token", "to_other_time"]


def per_token(run: Driver, told: Told, output: torch.Tensor, sample: torch.Tensor, timesteps: torch.Tensor) -> Told:
    """The arguments of a call whose tokens have their own sigmas.

    Parameters
    ----------
    run : Driver
        Run in which the call is next.
    told : Told
        Arguments of the call.
    output, sample : Tensor
        Tensors of shape (batch, tokens, channels); ``output`` is minus the velocity.
    timesteps : Tensor
        Timesteps of the tokens, shape (batch, tokens).

    Raises
    ------
    ValueError
        If the sampler makes several calls per step, or the model is not a flow model.

    Notes
    -----
    Every token moves to the next lower sigma of the run by an Euler step. Tokens at the iteration's own sigma take the
    sampler's step instead.
    """
    iterations = run.iterations
    assert iterations is not None
    if not iterations.process.is_flow or iterations.method.has_stages:
        raise ValueError(
            "per_token_timesteps need a flow model and a sampler with one model call per step, since a stage within a "
            f"step has a sigma that is not in the run's list; use another sampler than {iterations.method.sampler}"
        )
    here = timesteps.to(sample.device, torch.float32)[..., None] / run.configuration.entries.num_train_timesteps
    levels = torch.tensor(iterations.sigmas.tolist(), device=sample.device)
    lower = torch.where(levels < here - 1e-6, levels, torch.zeros(())).amax(dim=-1, keepdim=True)
    state, negative = sample.to(torch.float32), output.to(torch.float32)
    level = float(iterations.sigmas[min(run.at, len(iterations) - 1)])
    apart = (here - level).abs() > 1e-6
    return told._replace(prediction=state + here * negative, apart=(apart, state + (here - lower) * negative))


def to_other_time(
    run: Driver, index: int, output: torch.Tensor, timestep: Any, target: Any, sample: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The state at another time, along the mean velocity that a flow map returns, and x0.

    Parameters
    ----------
    run : Driver
        Run whose timesteps name its sigmas; other times are shares of the training timesteps.
    index : int
        Number of the iteration.
    output, sample : Tensor
        Output and input of the network.
    timestep, target : object
        Time of the state, and time to reach; numbers, or one per item.
    """
    iterations = run.iterations
    assert iterations is not None
    if not iterations.process.is_flow:
        raise ValueError("r_timestep is for networks of two times, which are flow models; leave it out for this model")

    def sigma(time: Any) -> torch.Tensor:
        times = torch.as_tensor(time, dtype=torch.float64, device=sample.device)
        place = run.place(float(times.flatten()[0]))
        if place is not None and abs(float(iterations.timesteps[place]) - float(times.flatten()[0])) <= 1e-3:
            times = times.new_tensor(float(iterations.sigmas[place]))
        else:
            times = times / float(run.configuration.entries.num_train_timesteps)
        return times.reshape(times.shape + (1,) * (sample.ndim - times.ndim))

    here, there = sigma(timestep), sigma(target)
    run.leave_at(index + 1)
    state = sample - ((here - there) * output).to(sample.dtype)
    return state, sample - (here * output).to(sample.dtype)
