"""`KSchedScheduler`, a scheduler of diffusers whose steps are ksched's."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin

from ksched.dialects.diffusers.attributes import ATTRIBUTES, REFUSED_ATTRIBUTES
from ksched.dialects.diffusers.iterations import Iterations
from ksched.integrations.diffusers.adoption import adopt, complete, fill_in, named
from ksched.integrations.diffusers.attributes import ASSIGNED, Attributes, Shown
from ksched.integrations.diffusers.class_of import Translation
from ksched.integrations.diffusers.configuration import Configuration, check_parameters
from ksched.integrations.diffusers.described import described
from ksched.integrations.diffusers.driver import Driver
from ksched.integrations.diffusers.places import check_arguments, check_scheduler
from ksched.integrations.diffusers.step_laws import StepLaw, step_laws
from ksched.integrations.diffusers.stepping import KSchedOutput, Stepping
from ksched.integrations.diffusers.training_noise import TrainingNoise

__all__ = ["KSchedOutput", "KSchedScheduler"]


class KSchedScheduler(Stepping, TrainingNoise, SchedulerMixin, ConfigMixin):  # type: ignore[misc]
    """A scheduler for pipelines of diffusers that runs a sampler of ksched on a schedule of ksched.

    Make it with ``from_config``, from the configuration of the scheduler that the pipeline has, so that the model's
    process and prediction type are kept; or with `from_diffusers`, for the scheduler itself as one of ours. Parameters
    are given by keyword.

    Parameters
    ----------
    sampler, schedule : names, as for `ksched.build_sampler`; None means what ``stock_class`` does. "auto" and the JSON
        of a plan are samplers that take no schedule
    sampler_options, schedule_options : options of the two
    dialect : whose numbers the names mean; None is ksched's own, or diffusers' where neither of the two is given
    noise_seed : seed of the noise, by item of the batch (item i takes ``noise_seed + i``); None takes the ``generator``
        given to `step`, or the global random state, as diffusers does
    layout : "calls", ``num_inference_steps`` counts model calls, of which a sampler with several per step takes as many
        as fit; "steps", it counts steps, and `order` is the number of calls in each. None is "steps" for a class that
        is left as it is, "calls" otherwise
    stock_class : the class of diffusers whose configuration this is; ``from_config`` fills it in
    num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas : of the model, as in diffusers. The
        defaults are DDPM's linear betas, and a `UserWarning` says so where nothing else is said of the model
    prediction_type : what the network predicts, "epsilon", "score", "v_prediction", "sample", "flow_prediction", or
        "velocity_to_data" for a flow model that predicts x0 - eps
    rescale_betas_zero_snr, sigma_data, variance_type : of the model too
    timestep_spacing, steps_offset, final_sigmas_type, sigma_min, sigma_max : levels of ``stock_class``
    use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas, use_lu_lambdas : levels too; None is its default
    use_flow_sigmas, flow_shift, shift, use_dynamic_shifting, time_shift_type, shift_terminal : of flow models
    base_shift, max_shift, base_image_seq_len, max_image_seq_len : of flow models, for the pipeline
    invert_sigmas : of flow models whose network is told how much data there is, from 0 to 1, and answers x0 - eps
        (OmniGen, Mochi); with every sampler and schedule
    thresholding, dynamic_thresholding_ratio, sample_max_value, clip_sample, clip_sample_range : edit of the prediction
    solver_order, algorithm_type, solver_type, lower_order_final, euler_at_final : method of ``stock_class``

    Raises
    ------
    TypeError, ValueError : an unknown name or option, a name given by place, or a sampler that no pipeline can drive
    """

    _compatibles = [e.name for e in KarrasDiffusionSchedulers]  # noqa: RUF012 - as diffusers has it

    @register_to_config  # type: ignore[misc, untyped-decorator, unused-ignore]
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001, beta_end: float = 0.02,
        beta_schedule: str = "linear", trained_betas: Any = None, *,
        sampler: str | None = None, schedule: str | None = None,
        sampler_options: dict[str, Any] | None = None, schedule_options: dict[str, Any] | None = None,
        dialect: str | None = None, noise_seed: int | None = None,
        layout: str | None = None, stock_class: str | None = None,
        prediction_type: str | None = None, timestep_spacing: str | None = None,
        steps_offset: int = 0, rescale_betas_zero_snr: bool = False,
        use_karras_sigmas: bool | None = None, use_exponential_sigmas: bool | None = None,
        use_beta_sigmas: bool | None = None, use_lu_lambdas: bool | None = None,
        use_flow_sigmas: bool | None = None, flow_shift: float | None = None, shift: float = 1.0,
        use_dynamic_shifting: bool = False, time_shift_type: str = "exponential",
        base_shift: float | None = 0.5, max_shift: float | None = 1.15,
        base_image_seq_len: int | None = 256, max_image_seq_len: int | None = 4096,
        shift_terminal: float | None = None, invert_sigmas: bool = False, final_sigmas_type: str | None = None,
        sigma_min: float | None = None, sigma_max: float | None = None, sigma_data: float | None = None,
        thresholding: bool = False, dynamic_thresholding_ratio: float = 0.995, sample_max_value: float = 1.0,
        clip_sample: bool = False, clip_sample_range: float = 1.0, variance_type: str | None = None,
        solver_order: int = 2, algorithm_type: str | None = None, solver_type: str | None = None,
        lower_order_final: bool | None = None, euler_at_final: bool = False,
    ) -> None:  # fmt: skip
        check_parameters(self.config)
        self._begin_index: int | None = None
        self._step_index: int | None = None
        fill_in(self)
        self._attributes, self._driver = Attributes(), Driver(Configuration(self.config))

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """A scheduler with the configuration of another one, of ours or of diffusers.

        Parameters
        ----------
        config : as ``scheduler.config``, or what a ``scheduler_config.json`` holds
        return_unused_kwargs : return (scheduler, arguments that were not used)
        kwargs : parameters to set or change, settings of the class that is replaced, and options of the sampler and
            of the schedule. Keywords that diffusers hands to everything that it loads are left alone

        Raises
        ------
        TypeError : a keyword that is none of these
        ValueError : ``sampler`` or ``schedule`` is left out, and what they mean in the class cannot be told; a keyword
            that would change nothing; an option given twice; a setting of the class that no sampler represents
        """
        check_arguments(config, return_unused_kwargs)
        if not isinstance(config, Mapping):
            return super().from_config(config, return_unused_kwargs, **kwargs)
        adoption = adopt(cls, config, kwargs)
        both: Any = super().from_config(adoption.known, True, **adoption.changes)
        unused = {**both[1], **complete(both[0], adoption, return_unused_kwargs)}
        return (both[0], unused) if return_unused_kwargs else both[0]

    @classmethod
    def from_diffusers(cls, scheduler: Any, **kwargs: Any) -> KSchedScheduler:
        """The scheduler of ours that does what one of diffusers does; `translation` says what became of every setting.

        Parameters
        ----------
        scheduler : an instance, or its configuration, with ``_class_name``
        kwargs : parameters to set or change, such as ``noise_seed``

        Raises
        ------
        ValueError : a class that has no counterpart, or a setting that no option of ours repeats; the message says why
        """
        check_scheduler(scheduler)
        made: KSchedScheduler = cls.from_config(named(cls, scheduler), **kwargs)
        made._run.configuration.check_representable()
        return made

    @property
    def translation(self) -> Translation:
        """What became of the class of diffusers and its settings."""
        return self._run.configuration.translation

    @property
    def _run(self) -> Driver:
        """The run, with the configuration as it is now: pipelines replace it."""
        if self._driver.configuration.entries is not self.config:
            self._driver.configuration = Configuration(self.config, self._attributes.assigned)
        return self._driver

    @property
    def _iterations(self) -> Iterations | None:
        return self._driver.iterations

    @property
    def step_laws(self) -> tuple[StepLaw, ...]:
        """The law of every iteration of the run, as `ksched.integrations.rl` needs it.

        Raises
        ------
        ValueError : `set_timesteps` has not been called; steps that have no normal law
        """
        run = self._run
        self._attributes.levels.heed(run)
        if run.iterations is None:
            raise ValueError("call set_timesteps first: before that the scheduler has no steps")
        return step_laws(run.iterations, run.configuration)

    num_inference_steps = Shown("What `set_timesteps` was told, or how long its list was.")
    # what the class that is replaced says of itself before `set_timesteps`, ours say too
    timesteps = Shown("What the network is told at every iteration.")
    sigmas = Shown("Noise level of every iteration, and of the end, on the host; 1 minus that with ``invert_sigmas``.")
    init_noise_sigma = Shown("What a pipeline multiplies its start noise by.")
    betas = Shown("Of the training table, if there is one.")
    alphas_cumprod = Shown("Of the training table, if there is one.")

    @property
    def order(self) -> int:
        """Iterations of a step, as pipelines count them."""
        return self._run.order

    @property
    def step_index(self) -> int | None:
        """Number of the next iteration; None before the first."""
        stock = None if self._step_index is not None else self._attributes.stock.before_a_run(self._run)
        return self._step_index if stock is None else getattr(stock, "step_index", None)

    @property
    def begin_index(self) -> int | None:
        """Number of the first iteration, as the pipeline has set it."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Say which iteration the run begins with."""
        self._begin_index = int(begin_index)
        if (stock := self._attributes.stock.before_a_run(self._run)) is not None:
            stock._begin_index = self._begin_index

    def previous_timestep(self, timestep: Any) -> Any:
        """The timestep of the iteration after that of another one; -1 after the last."""
        return self._run.after(timestep)

    @property
    def _next(self) -> int | None:
        """The iteration that is next, if it was counted or set."""
        return self._begin_index if self._step_index is None else self._step_index

    def _index(self, timestep: Any) -> int:
        """The iteration that is next, or else where the timestep is among `timesteps`."""
        return self._run.index(self._next, timestep)

    def scale_model_input(self, sample: torch.Tensor, timestep: Any = None, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The state as the network wants it, of its own size; what else it is given is for other schedulers."""
        run = self._run
        self._attributes.kept["is_scale_input_called"] = True
        if (scaled := self._as_stock("scale_model_input", sample, timestep)) is not None:
            return scaled
        self._attributes.levels.heed(run)
        norm = run.input_norm(self._next, timestep)
        return sample if norm == 1 else sample / norm

    def __getstate__(self) -> dict[str, Any]:
        own = {"_driver": copy.copy(self._driver), "_attributes": self._attributes.copied()}
        return {**self.__dict__, **own}  # a shallow copy goes on by itself too

    def __getattr__(self, name: str) -> Any:
        if (name in ATTRIBUTES or name in REFUSED_ATTRIBUTES) and "_driver" in self.__dict__:
            return self._attributes.read(self, name)
        if "_driver" in self.__dict__ and name in self.config:
            self._attributes.check_setting(self, name)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        known = name in ASSIGNED and "_driver" in self.__dict__
        if not (known and self._attributes.assign(name, value, self._run)):
            super().__setattr__(name, value)

    def __repr__(self) -> str:
        return described(self)
