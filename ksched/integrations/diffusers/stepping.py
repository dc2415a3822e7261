"""The methods `set_timesteps` and `step` of `KSchedScheduler`."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput

from ksched.integrations.diffusers.answers import split_variance
from ksched.integrations.diffusers.attributes import Attributes
from ksched.integrations.diffusers.configuration import run_request
from ksched.integrations.diffusers.driver import Driver, Told
from ksched.integrations.diffusers.other_steps import per_token, to_other_time
from ksched.integrations.diffusers.step_arguments import StepMethod, check_known, warn_of_list

__all__ = ["KSchedOutput", "Stepping"]


@dataclass
class KSchedOutput(SchedulerOutput):  # type: ignore[misc]  # diffusers is untyped
    """The result of `KSchedScheduler.step`.

    Attributes
    ----------
    prev_sample : Tensor
        State for the next model call, or the result.
    pred_original_sample : Tensor or None
        x0 prediction of this call.
    """

    prev_sample: torch.Tensor
    pred_original_sample: torch.Tensor | None = None


class Stepping:
    """The two methods that every pipeline calls."""

    _begin_index: int | None
    _step_index: int | None
    _attributes: Attributes

    @property
    def step_index(self) -> int | None:
        """Number of the next iteration; None before the first."""
        raise NotImplementedError

    @property
    def _run(self) -> Driver:
        raise NotImplementedError

    def _index(self, timestep: Any) -> int:
        raise NotImplementedError

    def set_timesteps(
        self, num_inference_steps: int | None = None, device: Any = None, timesteps: Any = None, sigmas: Any = None,
        mu: float | None = None, *, original_inference_steps: int | None = None, strength: float = 1.0,
        max_timesteps: float | None = None, intermediate_timesteps: float | None = None, **unknown: Any,
    ) -> None:  # fmt: skip
        """Set the timesteps of a run, and forget everything about the last run.

        Parameters
        ----------
        num_inference_steps : int or None
            Number of model calls or of steps, see ``layout``.
        device : object
            Device of `timesteps`.
        timesteps : object
            Falling timesteps for the network, instead of a number.
        sigmas : object
            Falling sigmas, instead of a number. Those of flow models are shifted by ``shift`` or ``mu`` and followed by
            a 0; others are run unchanged, to the last one. If a ``schedule`` is chosen, the list
            ``linspace(1, 1 / n, n)`` of flow pipelines means the number n; any other list overrides the schedule, with
            a `UserWarning`.
        mu : float or None
            Mu of the shift, if ``use_dynamic_shifting`` is set.
        original_inference_steps : int or None
            For models distilled like LCM's, the number of evenly spaced training timesteps that they were distilled on;
            None takes the configuration's.
        strength : float
            For the pipelines of LCM and TCD: share of those timesteps to run, starting from the lowest. Other pipelines
            cut `timesteps` themselves.
        max_timesteps, intermediate_timesteps : float or None
            For SANA-Sprint's pipelines: angle of the first call, and of the second of two.

        Raises
        ------
        TypeError, ValueError
            If neither a number nor a list is given, lists are no valid grid or contradict each other, mu is missing, or
            a keyword is unknown.
        """
        if unknown:
            check_known("set_timesteps", unknown, _NAMES)
        run, part = self._run, (original_inference_steps, strength)
        angles = {"max_timesteps": max_timesteps, "intermediate_timesteps": intermediate_timesteps}
        request = run_request(run.configuration, num_inference_steps, timesteps, sigmas, mu, *part, angles)
        iterations = run.set_timesteps(request, device)
        warn_of_list(run.configuration, request)
        count = len(iterations) if num_inference_steps is None else num_inference_steps
        self._attributes.kept["num_inference_steps"] = count  # as if assigned, without asking the replaced class
        self._begin_index = self._step_index = None
        self._attributes.forget()

    @StepMethod
    def step(
        self, model_output: torch.Tensor, timestep: Any, sample: torch.Tensor, generator: Any = None,
        return_dict: bool = True, *, eta: float | None = None, use_clipped_model_output: bool | None = False,
        s_churn: float | None = None, s_tmin: float | None = None, s_tmax: float | None = None,
        s_noise: float | None = None, variance_noise: torch.Tensor | None = None,
        pred_original_sample: torch.Tensor | None = None, per_token_timesteps: torch.Tensor | None = None,
        r_timestep: Any = None, **options: Any,
    ) -> KSchedOutput | tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        """Advance from a state to the state for the next model call, given the network's output.

        Parameters
        ----------
        model_output : Tensor
            Output of the network. If it has twice the channels, the second half, the variance, is used or ignored as
            the class requires.
        timestep : object
            Timestep of this call; used only to find the first iteration if `set_begin_index` was not called.
        sample : Tensor
            The state; it may have been edited.
        generator : object
            One generator, or one per item of the batch; not used with ``noise_seed``.
        return_dict : bool
            Return a `KSchedOutput` instead of a tuple.
        eta, s_churn, s_tmin, s_tmax, s_noise, options : float, object or None
            Options of the sampler; those of the first call hold for the whole run. A `UserWarning` names those that
            have no effect. To churn with a sampler chosen by name, put s_churn into ``sampler_options``.
        use_clipped_model_output : bool or None
            For DDIM: compute eps from the edited prediction.
        variance_noise : Tensor or None
            Noise of this step, instead of newly drawn noise.
        pred_original_sample : Tensor or None
            x0 prediction of this call, instead of the one in the output.
        per_token_timesteps : Tensor or None
            Timestep of every token, shape (batch, tokens), if the output is minus the velocity (LTX). Tokens that are
            not at the iteration's sigma take an Euler step from their own.
        r_timestep : object
            For networks of two times: timestep at which the step ends; None is the next one.

        Raises
        ------
        RuntimeError
            If the run is over.
        TypeError
            If a keyword is unknown.
        ValueError
            If `set_timesteps` was not called; tensors do not fit together; an option is given twice.
        """
        run = self._run
        run.prepare()
        self._attributes.meet(run, sample, self._step_index)
        output, variance = split_variance(model_output, sample)
        churn = {"s_churn": s_churn, "s_tmin": s_tmin, "s_tmax": s_tmax, "s_noise": s_noise}
        given = {"eta": eta, **churn, **options}
        if options:
            check_known("step", options.keys() - run.option_names, {*_STEP_NAMES, *run.option_names})
        if self._step_index is None:  # also if a loop has reset it to None to begin again
            first = self.step_index
            first = self._index(timestep) if first is None else first
            run.begin(first, given, use_clipped_model_output)
            self._step_index = first
        else:
            run.check_same(given)
        if r_timestep is not None:
            previous, prediction = to_other_time(run, self._step_index, output, timestep, r_timestep, sample)
        else:
            told = Told(pred_original_sample, variance_noise)
            told = told if per_token_timesteps is None else per_token(run, told, output, sample, per_token_timesteps)
            previous, prediction = run.step(self._step_index, output, variance, sample, generator, told)
        self._step_index += 1
        return KSchedOutput(previous, prediction) if return_dict else (previous, prediction)


#: arguments of the two methods
_NAMES = inspect.signature(Stepping.set_timesteps).parameters.keys() - {"self", "unknown"}
_STEP_NAMES = inspect.signature(Stepping.step).parameters.keys() - {"self", "options"}
