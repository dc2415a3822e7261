"""`set_timesteps` and `step` of `KSchedScheduler`."""

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
class KSchedOutput(SchedulerOutput):  # type: ignore[misc]
    """What `KSchedScheduler.step` returns.

    Attributes
    ----------
    prev_sample : the state for the next model call, or the result
    pred_original_sample : the x0 prediction of this call
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
        """Fix the iterations of a run, and forget everything of the last one.

        Parameters
        ----------
        num_inference_steps : number of model calls or of steps, see ``layout``
        device : of `timesteps`
        timesteps : what the network is to be told, falling, in place of a number
        sigmas : noise levels in place of a number, falling. Those of flow models are shifted as ``shift`` or ``mu``
            say, and a 0 follows them; others are run as they are, to the last one. With a ``schedule`` given, flow
            pipelines' ``linspace(1, 1 / n, n)`` is read as the number n; any other list goes before the schedule, and
            a `UserWarning` says so
        mu : of the shift, where ``use_dynamic_shifting`` is set
        original_inference_steps : of models that were distilled as LCM's, on that many timesteps of the training,
            evenly spaced; None takes the configuration's
        strength : of LCM's and TCD's pipelines too: the share of those timesteps that is gone through, from the lowest.
            Other pipelines cut `timesteps` themselves
        max_timesteps, intermediate_timesteps : of SANA-Sprint's pipelines: angles of the first call, and of the second
            one of two

        Raises
        ------
        TypeError, ValueError : none of the three, lists that are no grid or contradict each other, a mu that is
            missing, an unknown keyword
        """
        if unknown:
            check_known("set_timesteps", unknown, _NAMES)
        run, part = self._run, (original_inference_steps, strength)
        angles = {"max_timesteps": max_timesteps, "intermediate_timesteps": intermediate_timesteps}
        request = run_request(run.configuration, num_inference_steps, timesteps, sigmas, mu, *part, angles)
        iterations = run.set_timesteps(request, device)
        warn_of_list(run.configuration, request)
        count = len(iterations) if num_inference_steps is None else num_inference_steps
        self._attributes.kept["num_inference_steps"] = count  # as if assigned, but without the class that is replaced
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
        """From a state and what the network made of it to the state for the next model call.

        Parameters
        ----------
        model_output : what the network returned; a second half of its channels, the variance, is used or left out
        timestep : of this call; read only to find the first iteration where `set_begin_index` was not called
        sample : the state, edited or not
        generator : one, or one per item of the batch; not used with ``noise_seed``
        return_dict : return a `KSchedOutput`, not a tuple of the same
        eta, s_churn, s_tmin, s_tmax, s_noise, options : options of the sampler; those of the first call hold for the
            run. A `UserWarning` says which change nothing. To churn with a sampler that is named, give s_churn in
            ``sampler_options``
        use_clipped_model_output : of DDIM: take eps from the edited prediction
        variance_noise : noise of this step, in place of one that is drawn
        pred_original_sample : the x0 prediction of this call, in place of what the output says
        per_token_timesteps : timestep of every token, shape (batch, tokens), where the output is minus the velocity
            (LTX); those that are not at the level of the iteration go on from their own with an Euler step
        r_timestep : of networks of two times: the timestep to go to; None is the next one

        Raises
        ------
        RuntimeError : the run is over
        TypeError : an unknown keyword
        ValueError : `set_timesteps` was not called; tensors that do not fit together; an option given twice
        """
        run = self._run
        run.prepare()
        self._attributes.meet(run, sample, self._step_index)
        output, variance = split_variance(model_output, sample)
        churn = {"s_churn": s_churn, "s_tmin": s_tmin, "s_tmax": s_tmax, "s_noise": s_noise}
        given = {"eta": eta, **churn, **options}
        if options:
            check_known("step", options.keys() - run.option_names, {*_STEP_NAMES, *run.option_names})
        if self._step_index is None:  # also where a loop has set it back to None to begin again
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


#: arguments of the two
_NAMES = inspect.signature(Stepping.set_timesteps).parameters.keys() - {"self", "unknown"}
_STEP_NAMES = inspect.signature(Stepping.step).parameters.keys() - {"self", "options"}
