"""`KSchedScheduler`, a diffusers scheduler whose steps are ksched's."""

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


class KSchedScheduler(Stepping, TrainingNoise, SchedulerMixin, ConfigMixin):  # type: ignore[misc]  # untyped bases
    """A scheduler for diffusers pipelines that runs any ksched sampler on any ksched schedule.

    Create it by ``from_config`` with the configuration of the pipeline's scheduler, so that the model's process and
    prediction type are kept; or by `from_diffusers`, to get a `KSchedScheduler` that does the same as the original.
    Pass parameters by keyword.

    Parameters
    ----------
    sampler, schedule : str or None
        Names, as for `ksched.build_sampler`; None does what ``stock_class`` does. "auto" and the JSON of a plan are
        samplers that take no schedule.
    sampler_options, schedule_options : dict or None
        Options of the sampler and of the schedule.
    dialect : str or None
        Program whose numbers the names mean; None is ksched, or diffusers if neither name is given.
    noise_seed : int or None
        Seed of the noise, by item of the batch (item i uses ``noise_seed + i``); None uses the ``generator`` passed to
        `step`, or the global random state, as diffusers does.
    layout : str or None
        "calls": ``num_inference_steps`` counts model calls (NFE), and a sampler with several calls per step takes as
        many steps as fit. "steps": it counts steps, and `order` is the number of calls in each. None is "steps" for a
        class that is used unchanged, and "calls" otherwise.
    stock_class : str or None
        The diffusers class that the configuration belongs to; ``from_config`` fills it in.
    num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas : int, float, str or object
        The model's training table, as in diffusers. The defaults are DDPM's linear betas, with a `UserWarning` if
        nothing else is known of the model.
    prediction_type : str or None
        What the network predicts: "epsilon", "score", "v_prediction", "sample", "flow_prediction", or
        "velocity_to_data" for a flow model that predicts x0 - eps.
    rescale_betas_zero_snr, sigma_data, variance_type : bool, float, str or None
        Further facts about the model.
    timestep_spacing, steps_offset, final_sigmas_type, sigma_min, sigma_max : str, int, float or None
        Timesteps and sigmas of ``stock_class``.
    use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas, use_lu_lambdas : bool or None
        Schedule of ``stock_class``; None is its default.
    use_flow_sigmas, flow_shift, shift, use_dynamic_shifting, time_shift_type, shift_terminal : bool, float, str or None
        Shift of flow models.
    base_shift, max_shift, base_image_seq_len, max_image_seq_len : float, int or None
        Settings of flow models that the pipeline reads.
    invert_sigmas : bool
        For flow models whose network is called with the share of data, from 0 to 1, and returns x0 - eps (OmniGen,
        Mochi); works with every sampler and schedule.
    thresholding, dynamic_thresholding_ratio, sample_max_value, clip_sample, clip_sample_range : bool or float
        Edits of the prediction.
    solver_order, algorithm_type, solver_type, lower_order_final, euler_at_final : int, str, bool or None
        Method of ``stock_class``.

    Raises
    ------
    TypeError, ValueError
        If a name or option is unknown, a name is positional, or no pipeline can drive the sampler.
    """

    _compatibles = [e.name for e in KarrasDiffusionSchedulers]  # noqa: RUF012 - diffusers reads it from the class

    @register_to_config  # type: ignore[misc, untyped-decorator, unused-ignore]  # diffusers is untyped
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
        """A scheduler with the configuration of another one, ksched's or diffusers'.

        Parameters
        ----------
        config : object
            ``scheduler.config``, or the content of a ``scheduler_config.json``.
        return_unused_kwargs : bool
            Return (scheduler, unused arguments).
        kwargs : object
            Parameters to set or change, settings of the replaced class, and options of the sampler and of the schedule.
            Keywords that diffusers passes to everything that it loads are ignored.

        Raises
        ------
        TypeError
            If a keyword is none of these.
        ValueError
            If ``sampler`` or ``schedule`` is missing and cannot be derived from the class; a keyword would have no
            effect; an option is given twice; no sampler can represent a setting of the class.
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
        """A `KSchedScheduler` that does the same as a diffusers scheduler; see `translation` for every setting.

        Parameters
        ----------
        scheduler : object
            An instance, or its configuration with ``_class_name``.
        kwargs : object
            Parameters to set or change, such as ``noise_seed``.

        Raises
        ------
        ValueError
            If the class has no counterpart, or no option can represent a setting; the message says why.
        """
        check_scheduler(scheduler)
        made: KSchedScheduler = cls.from_config(named(cls, scheduler), **kwargs)
        made._run.configuration.check_representable()
        return made

    @property
    def translation(self) -> Translation:
        """How the diffusers class and its settings are represented."""
        return self._run.configuration.translation

    @property
    def _run(self) -> Driver:
        """The run, with the current configuration, since pipelines replace it."""
        if self._driver.configuration.entries is not self.config:
            self._driver.configuration = Configuration(self.config, self._attributes.assigned)
        return self._driver

    @property
    def _iterations(self) -> Iterations | None:
        return self._driver.iterations

    @property
    def step_laws(self) -> tuple[StepLaw, ...]:
        """The probability distribution of every step of the run, for `ksched.integrations.rl`.

        Raises
        ------
        ValueError
            If `set_timesteps` has not been called, or steps are not normally distributed.
        """
        run = self._run
        self._attributes.levels.heed(run)
        if run.iterations is None:
            raise ValueError("set_timesteps must be called first, since the scheduler has no steps before")
        return step_laws(run.iterations, run.configuration)

    num_inference_steps = Shown("The number passed to `set_timesteps`, or the length of its list.")
    # before `set_timesteps` these are the replaced class's own
    timesteps = Shown("The network's timestep at every iteration.")
    sigmas = Shown("Sigma of every iteration and of the end, on the host; 1 minus that with ``invert_sigmas``.")
    init_noise_sigma = Shown("The factor by which a pipeline multiplies its start noise.")
    betas = Shown("Betas of the training table, if there is one.")
    alphas_cumprod = Shown("Cumulative products of the training table, if there is one.")

    @property
    def order(self) -> int:
        """Number of iterations per step, as pipelines count them."""
        return self._run.order

    @property
    def step_index(self) -> int | None:
        """Number of the next iteration; None before the first."""
        stock = None if self._step_index is not None else self._attributes.stock.before_a_run(self._run)
        return self._step_index if stock is None else getattr(stock, "step_index", None)

    @property
    def begin_index(self) -> int | None:
        """Number of the first iteration, as set by the pipeline."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Set the iteration with which the run begins."""
        self._begin_index = int(begin_index)
        if (stock := self._attributes.stock.before_a_run(self._run)) is not None:
            stock._begin_index = self._begin_index

    def previous_timestep(self, timestep: Any) -> Any:
        """The timestep of the iteration after another one; -1 after the last."""
        return self._run.after(timestep)

    @property
    def _next(self) -> int | None:
        """The next iteration, if it was counted or set."""
        return self._begin_index if self._step_index is None else self._step_index

    def _index(self, timestep: Any) -> int:
        """The next iteration; if it is not known, the place of the timestep in `timesteps`."""
        return self._run.index(self._next, timestep)

    def scale_model_input(self, sample: torch.Tensor, timestep: Any = None, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The state scaled for the network; further arguments are for other schedulers and ignored."""
        run = self._run
        self._attributes.kept["is_scale_input_called"] = True
        if (scaled := self._as_stock("scale_model_input", sample, timestep)) is not None:
            return scaled
        self._attributes.levels.heed(run)
        norm = run.input_norm(self._next, timestep)
        return sample if norm == 1 else sample / norm

    def __getstate__(self) -> dict[str, Any]:
        own = {"_driver": copy.copy(self._driver), "_attributes": self._attributes.copied()}
        return {**self.__dict__, **own}  # so that even a shallow copy has a run of its own

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
