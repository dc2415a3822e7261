"""The step function that trainers of flow models by reinforcement learning call, for diffusers' schedulers and ours.

`sde_step_with_logprob` has the arguments and results of the function of that name in flow_grpo and the programs derived
from it. With a stock scheduler of diffusers it takes flow_grpo's step; with a `KSchedScheduler` it takes its sampler's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, NamedTuple

import torch

from ksched.samplers.policy_steps import POLICY_RULES, PolicyRule

__all__ = ["sde_step_with_logprob"]

#: the peers' words for the rules
_THEIR_WORDS = {"sde": "flow_sde", "cps": "flow_cps"}

Earlier = torch.Tensor | tuple[torch.Tensor, torch.Tensor]


class _Step(NamedTuple):
    """The step of one item as numbers: coefficients of its mean, and the standard deviation of its noise."""

    of_sample: float
    of_output: float
    std: float
    told_std: float  # in the form in which it is returned
    of_earlier: tuple[float, ...] = ()  # coefficients of earlier x0 predictions, the newest first
    conversions: tuple[tuple[float, float], ...] = ()  # those predictions as combinations of (state, output)


def sde_step_with_logprob(
    scheduler: Any,
    model_output: torch.Tensor,
    timestep: torch.Tensor | float,
    sample: torch.Tensor,
    noise_level: float | None = None,
    prev_sample: torch.Tensor | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    *,
    sde_type: str | None = None,
    rule: str | None = None,
    history: Sequence[Earlier] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """A stochastic step, drawn or given, with its log-probability; gradients flow into the model's output.

    Parameters
    ----------
    scheduler : object
        A flow scheduler of diffusers, such as ``FlowMatchEulerDiscreteScheduler``, whose ``timesteps`` and ``sigmas``
        are read and which is not modified; or a `KSchedScheduler`, whose sampler takes the step.
    model_output : Tensor
        Output of the network; for a stock scheduler the velocity, noise minus data.
    timestep : Tensor or float
        Timestep of each item, shape (batch,), among ``scheduler.timesteps``; items may be at different steps.
    sample : Tensor
        State of each item, batch first.
    noise_level : float or None
        Noise level of the rule; None is its default, 0.7 for "flow_sde" and "flow_cps" and 0.3 for "dance_sde"; 0 is
        the ODE step. For a `KSchedScheduler`, set it in the sampler's options instead.
    prev_sample : Tensor or None
        State after the step, to compute its log-probability; None draws one.
    generator : Generator, sequence of Generator or None
        Generator of the noise, or one for each item; None is torch's global one, as in flow_grpo.
    sde_type : str or None
        flow_grpo's word for the rule: "sde" is "flow_sde"; "cps" is "flow_cps" with flow_grpo's log-probability,
        ``-(prev_sample - mean) ** 2`` without any constants, not even the variance.
    rule : str or None
        "flow_sde" (the default), "dance_sde" or "flow_cps", for stock schedulers.
    history : sequence of Earlier or None
        Earlier predictions, the newest first, for samplers with a memory: each is ``(model_output, sample)`` as passed
        to the earlier step, or the x0 prediction. A velocity without its sample does not determine the prediction.

    Returns
    -------
    tuple of Tensor
        (prev_sample, log_prob, prev_sample_mean, std_dev_t), all float32. ``prev_sample`` is the state after the step.
        ``log_prob``, shape (batch,), is the mean over an item's values of the log-density of ``prev_sample``, which is
        held constant; nan where no noise is drawn. ``prev_sample_mean`` is the mean of the step's distribution.
        ``std_dev_t``, shape (batch, 1, ...), times ``sqrt(sigma - sigma_next)`` is the standard deviation of the step;
        with "flow_cps" it is the standard deviation itself.

    Raises
    ------
    TypeError, ValueError
        If arguments do not fit, checked before anything is computed; or a step of a `KSchedScheduler` draws no noise,
        or reads earlier predictions and no history is given.

    Notes
    -----
    Liu et al. 2025, arXiv:2505.05470, and its authors' program. Their step to sigma 0 is as noisy as the others, so for
    stock schedulers it is here too. `ksched.samplers.policy_steps` has the rules as samplers, which end in the
    prediction. `ksched.Sampler.rollout` and ``log_prob`` do the same for whole runs, also for samplers with a memory.
    """
    batch = _check_tensors(model_output, sample, prev_sample)
    laws = getattr(scheduler, "step_laws", None)
    places = _places(scheduler, timestep, batch)
    if laws is None:
        name = _rule_name(rule, sde_type)
        if history is not None:
            raise ValueError("history is for samplers with a memory; leave it out for a stock scheduler")
        steps = _steps_of_rule(scheduler, POLICY_RULES[name], noise_level, places)
    else:
        _check_ours(noise_level, rule, sde_type)
        steps = _steps_of_sampler(laws, places)
    mean = _mean(steps, model_output.float(), sample.float(), history)
    std, told = (_column([getattr(step, name) for step in steps], sample) for name in ("std", "told_std"))
    if prev_sample is not None:
        after = prev_sample.float()
    else:
        after = mean + std * _noise(sample, generator) if any(step.std for step in steps) else mean
    distance = (after.detach() - mean) ** 2
    if sde_type is not None and not POLICY_RULES[_rule_name(rule, sde_type)].per_root:
        log_prob = -distance
    else:
        log_prob = -distance / (2 * std**2) - torch.log(std) - math.log(2 * math.pi) / 2
        log_prob = torch.where(std > 0, log_prob, torch.nan)
    return after, log_prob.mean(dim=tuple(range(1, log_prob.ndim))), mean, told


# ------------------------------------------------------------------------------------------------------------ arguments
def _check_tensors(model_output: Any, sample: Any, prev_sample: Any) -> int:
    """The number of items, after checking that the tensors fit each other."""
    named = {"model_output": model_output, "sample": sample}
    named |= {} if prev_sample is None else {"prev_sample": prev_sample}
    for name, value in named.items():
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            what = value.dtype if isinstance(value, torch.Tensor) else type(value).__name__
            raise TypeError(f"{name} must be a floating-point tensor; got {what}")
        if value.shape != sample.shape:
            raise ValueError(f"{name} must have sample's shape {tuple(sample.shape)}; got {tuple(value.shape)}")
    if sample.ndim < 2:
        raise ValueError(f"sample must have a batch axis and at least one more; got shape {tuple(sample.shape)}")
    return len(sample)


def _places(scheduler: Any, timestep: Any, batch: int) -> list[int]:
    """The index of every item's step."""
    times = getattr(scheduler, "timesteps", None)
    if not isinstance(times, torch.Tensor) or getattr(scheduler, "sigmas", None) is None:
        raise TypeError(f"scheduler must have timesteps and sigmas; got {type(scheduler).__name__}")
    asked = torch.as_tensor(timestep).detach().reshape(-1).to("cpu", torch.float64).tolist()
    if len(asked) not in (1, batch):
        raise ValueError(f"timestep must be one number, or one for each of the {batch} items; got {len(asked)}")
    known: dict[float, list[int]] = {}
    for number, time in enumerate(times.detach().to("cpu", torch.float64).tolist()):
        known.setdefault(time, []).append(number)
    for time in asked:
        if time not in known:
            raise ValueError(
                f"timestep must be one of scheduler.timesteps, exactly as it is there; got {time:g}, and there are "
                f"{times[0]:g} to {times[-1]:g} in {len(times)} steps"
            )
    places = [known[time][:2][-1] for time in asked]  # the second if a timestep occurs twice, as in diffusers
    return places * batch if len(places) < batch else places


def _rule_name(rule: str | None, sde_type: str | None) -> str:
    if rule is not None and sde_type is not None:
        raise ValueError(f"pass either rule or sde_type, not both; got {rule!r} and {sde_type!r}")
    if sde_type is not None and sde_type not in _THEIR_WORDS:
        raise ValueError(f"sde_type must be one of {', '.join(map(repr, _THEIR_WORDS))}; got {sde_type!r}")
    name = next(iter(POLICY_RULES)) if rule is None else rule
    name = name if sde_type is None else _THEIR_WORDS[sde_type]
    if name not in POLICY_RULES:
        raise ValueError(f"rule must be one of {', '.join(map(repr, POLICY_RULES))}; got {rule!r}")
    return name


def _check_ours(noise_level: float | None, rule: str | None, sde_type: str | None) -> None:
    given = {"noise_level": noise_level, "rule": rule, "sde_type": sde_type}
    said = [f"{name}={value!r}" for name, value in given.items() if value is not None]
    if said:
        raise ValueError(
            f"{said[0]} is for stock schedulers, since a KSchedScheduler steps as its sampler does; leave it out, and "
            "create the scheduler with sampler= and sampler_options="
        )


# ---------------------------------------------------------------------------------------------------------------- steps
def _steps_of_rule(scheduler: Any, rule: PolicyRule, noise_level: float | None, places: Sequence[int]) -> list[_Step]:
    """The steps of a stock scheduler, whose sigmas are those of a flow model."""
    sigmas = scheduler.sigmas.detach().double().tolist()
    level = rule.noise_level if noise_level is None else noise_level
    if isinstance(level, bool) or not isinstance(level, Real) or not 0 <= level <= rule.most or level == math.inf:
        most = "" if rule.most == math.inf else f" and at most {rule.most:g}"
        raise ValueError(f"noise_level must be a number of at least 0{most}; got {noise_level!r}")
    if len(sigmas) != len(scheduler.timesteps) + 1 or not 1 >= sigmas[0] > sigmas[-1] >= 0:
        raise ValueError(
            "scheduler must be for flow models, with falling sigmas of at most 1, one more than timesteps; "
            f"got {type(scheduler).__name__} with {len(sigmas)} sigmas from {sigmas[0]:g} to {sigmas[-1]:g}"
        )
    steps = []
    for place in places:
        sigma, after = sigmas[place], sigmas[place + 1]
        of_x, of_velocity, std = rule.terms(sigma, after, sigmas[1], float(level))
        steps.append(_Step(of_x, of_velocity, std, std / math.sqrt(sigma - after) if rule.per_root else std))
    return steps


def _steps_of_sampler(laws: Sequence[Any], places: Sequence[int]) -> list[_Step]:
    """The steps of a ksched sampler."""
    for place in places:
        if place >= len(laws) or laws[place].std == 0:
            raise ValueError(
                f"step {place} of the scheduler draws no noise, so its result has no probability; call scheduler.step "
                "there, and train on the other steps"
            )
        if laws[place].reads_states:
            raise ValueError(
                f"step {place} of the scheduler reads earlier states, which this function does not have; use "
                "sampler.rollout and sampler.log_prob of ksched.build_sampler"
            )
    return [
        _Step(
            laws[place].of_sample,
            laws[place].of_output,
            laws[place].std,
            laws[place].std / math.sqrt(laws[place].length),
            laws[place].of_earlier,
            tuple((before.of_x, before.of_said) for before in reversed(laws[:place])),
        )
        for place in places
    ]


def _mean(
    steps: Sequence[_Step], output: torch.Tensor, sample: torch.Tensor, history: Sequence[Earlier] | None
) -> torch.Tensor:
    """The mean of every item's step."""
    mean = _column([step.of_sample for step in steps], sample) * sample
    mean = mean + _column([step.of_output for step in steps], sample) * output
    most = max(len(step.of_earlier) for step in steps)
    given = [] if history is None else list(history)
    if len(given) < most:
        raise ValueError(
            f"the step reads {most} earlier prediction(s): pass them as history=, the newest first, each "
            f"(model_output, sample) or an x0 prediction; got {len(given)}. Or use sampler.rollout and "
            "sampler.log_prob, which store them"
        )
    for age in range(most):
        weights = [step.of_earlier[age] if age < len(step.of_earlier) else 0.0 for step in steps]
        used = [step.conversions[age] if age < len(step.of_earlier) else (0.0, 0.0) for step in steps]
        mean = mean + _column(weights, sample) * _prediction(given[age], used, sample)
    return mean


def _prediction(earlier: Any, conversions: Sequence[tuple[float, float]], sample: torch.Tensor) -> torch.Tensor:
    """An earlier x0 prediction."""
    parts: tuple[torch.Tensor, ...] = tuple(earlier) if isinstance(earlier, tuple | list) else (earlier,)
    if len(parts) not in (1, 2) or not all(isinstance(part, torch.Tensor) for part in parts):
        raise TypeError("each of history must be (model_output, sample), or an x0 prediction; got neither")
    for part in parts:
        if part.shape != sample.shape:
            raise ValueError(f"history must have sample's shape {tuple(sample.shape)}; got {tuple(part.shape)}")
    if len(parts) == 1:
        return parts[0].float()
    of_x, of_output = (_column(list(column), sample) for column in zip(*conversions, strict=True))
    return of_output * parts[0].float() + of_x * parts[1].float()


def _column(values: Sequence[float], sample: torch.Tensor) -> torch.Tensor:
    """One number for each item, shaped to multiply a state."""
    return torch.tensor(values, dtype=torch.float32, device=sample.device).reshape(-1, *[1] * (sample.ndim - 1))


def _noise(sample: torch.Tensor, generator: Any) -> torch.Tensor:
    """Normal noise like a state, drawn on the generator's device."""
    each = list(generator) if isinstance(generator, list | tuple) else [generator]
    if len(each) not in (1, len(sample)) or not all(g is None or isinstance(g, torch.Generator) for g in each):
        raise TypeError(f"generator must be a torch.Generator, or one for each of the {len(sample)} items")
    shape = sample.shape if len(each) == 1 else (1, *sample.shape[1:])
    drawn = [
        torch.randn(shape, generator=g, device=sample.device if g is None else g.device, dtype=torch.float32)
        for g in each
    ]
    return torch.cat(drawn).to(sample.device)
