"""Steps that a few pipelines take: towards a prediction of theirs, by tokens, and to another time than the next."""

from __future__ import annotations

from typing import Any

import torch

from ksched.integrations.diffusers.driver import Driver, Told

__all__ = ["per_token", "to_other_time"]


def per_token(run: Driver, told: Told, output: torch.Tensor, sample: torch.Tensor, timesteps: torch.Tensor) -> Told:
    """What a call is told whose tokens are at levels of their own.

    Parameters
    ----------
    run : in which it is the next one
    told : of the call
    output, sample : of shape (batch, tokens, channels); the first is minus the velocity
    timesteps : of the tokens, of shape (batch, tokens)

    Raises
    ------
    ValueError : a sampler of several calls per step, or a model that is no flow model

    Notes
    -----
    Every token goes on to the next lower level of the run, by an Euler step. Where a token is at the level of the
    iteration, the sampler's own step takes its place.
    """
    iterations = run.iterations
    assert iterations is not None
    if not iterations.process.is_flow or iterations.method.has_stages:
        raise ValueError(
            "per_token_timesteps are for flow models, and for samplers of one model call per step: a stage amid a step "
            f"is at no level of the run. Take another sampler than {iterations.method.sampler}"
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
    """The state at another time, along the mean velocity that a network of two times answers, and x0.

    Parameters
    ----------
    run : whose timesteps name the levels; others are shares of the timesteps of the training
    index : number of the iteration
    output, sample : of the network
    timestep, target : where the state is, and where it goes; numbers, or one per item
    """
    iterations = run.iterations
    assert iterations is not None
    if not iterations.process.is_flow:
        raise ValueError("r_timestep is of networks of two times, which are flow models; this model is none")

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
