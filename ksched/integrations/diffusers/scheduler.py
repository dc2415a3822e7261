"""`KSchedScheduler`, a scheduler of diffusers whose steps are ksched's."""

from __future__ import annotations

import contextlib
import inspect
import math
import warnings
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin, SchedulerOutput
from diffusers.utils.torch_utils import randn_tensor

from ksched import guidance
from ksched.dialects.diffusers.classes import CLASSES, NotRepresentedError, check_replaced, settings_of, stock_class
from ksched.dialects.diffusers.iterations import Iterations, own_iterations, stock_iterations
from ksched.dialects.diffusers.process import is_flow, process_of
from ksched.execution.run import Run
from ksched.integrations.diffusers.class_of import Translation, adopted, defaults_of, is_foreign, own_table
from ksched.integrations.diffusers.driver import identity_mark, split_variance
from ksched.integrations.diffusers.keywords import LOADING, near, place
from ksched.names.enums import Dialect, NoiseSchedule
from ksched.processes import VP, Process
from ksched.samplers.euler import boundary_scaling
from ksched.samplers.registry import sampler_spec
from ksched.schedules.select import schedule_options

__all__ = ["KSchedOutput", "KSchedScheduler"]

_LAYOUTS = ("calls", "steps")


#: parameters of which a model that is no flow model needs one
_SAY_WHAT_MODEL = {"beta_start", "beta_end", "beta_schedule", "trained_betas", "sigma_data"}


#: parameters that no scheduler of diffusers has
_OURS = ("sampler", "schedule", "sampler_options", "schedule_options", "dialect", "noise_seed", "layout", "stock_class")


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


class KSchedScheduler(SchedulerMixin, ConfigMixin):  # type: ignore[misc]
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
    prediction_type : what the network predicts, "epsilon", "v_prediction", "sample" or "flow_prediction"
    rescale_betas_zero_snr, sigma_data, variance_type : of the model too
    timestep_spacing, steps_offset, final_sigmas_type, sigma_min, sigma_max : levels of ``stock_class``
    use_karras_sigmas, use_exponential_sigmas, use_beta_sigmas, use_lu_lambdas : levels too; None is its default
    use_flow_sigmas, flow_shift, shift, use_dynamic_shifting, time_shift_type, shift_terminal : of flow models
    base_shift, max_shift, base_image_seq_len, max_image_seq_len : of flow models, for the pipeline
    invert_sigmas : of flow models whose network is told how much data there is, from 0 to 1, and answers x0 - eps
        (OmniGen, Mochi); with every sampler and schedule
    thresholding, dynamic_thresholding_ratio, sample_max_value : edit of the prediction
    clip_sample, clip_sample_range : edit of the prediction
    solver_order, algorithm_type, solver_type, lower_order_final, euler_at_final : method of ``stock_class``

    Raises
    ------
    TypeError, ValueError : an unknown name or option, a name given by place, or a sampler that no pipeline can drive

    Examples
    --------
    >>> from diffusers import DDIMScheduler
    >>> from ksched.integrations.diffusers import KSchedScheduler
    >>> stock = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    >>> ours = KSchedScheduler.from_config(stock.config, sampler="dpmpp_2m", schedule="karras")
    >>> ours.set_timesteps(4)
    >>> [round(t, 1) for t in ours.timesteps.tolist()]
    [999.0, 687.2, 145.9, 0.0]
    """

    _compatibles = [e.name for e in KarrasDiffusionSchedulers]  # noqa: RUF012 - as diffusers has it

    @register_to_config  # type: ignore[misc, untyped-decorator, unused-ignore]
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: Any = None,
        *,
        sampler: str | None = None,
        schedule: str | None = None,
        sampler_options: dict[str, Any] | None = None,
        schedule_options: dict[str, Any] | None = None,
        dialect: str | None = None,
        noise_seed: int | None = None,
        layout: str | None = None,
        stock_class: str | None = None,
        prediction_type: str | None = None,
        timestep_spacing: str | None = None,
        steps_offset: int = 0,
        rescale_betas_zero_snr: bool = False,
        use_karras_sigmas: bool | None = None,
        use_exponential_sigmas: bool | None = None,
        use_beta_sigmas: bool | None = None,
        use_lu_lambdas: bool | None = None,
        use_flow_sigmas: bool | None = None,
        flow_shift: float | None = None,
        shift: float = 1.0,
        use_dynamic_shifting: bool = False,
        time_shift_type: str = "exponential",
        base_shift: float | None = 0.5,
        max_shift: float | None = 1.15,
        base_image_seq_len: int | None = 256,
        max_image_seq_len: int | None = 4096,
        shift_terminal: float | None = None,
        invert_sigmas: bool = False,
        final_sigmas_type: str | None = None,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        sigma_data: float | None = None,
        thresholding: bool = False,
        dynamic_thresholding_ratio: float = 0.995,
        sample_max_value: float = 1.0,
        clip_sample: bool = False,
        clip_sample_range: float = 1.0,
        variance_type: str | None = None,
        solver_order: int = 2,
        algorithm_type: str | None = None,
        solver_type: str | None = None,
        lower_order_final: bool | None = None,
        euler_at_final: bool = False,
    ) -> None:
        _check_length(num_train_timesteps, beta_start)
        if layout is not None and layout not in _LAYOUTS:
            raise ValueError(f"layout must be one of {', '.join(map(repr, _LAYOUTS))}; got {layout!r}")
        if schedule is not None:
            NoiseSchedule.parse(schedule)
        if dialect is not None:
            Dialect.parse(dialect)
        if noise_seed is not None and (isinstance(noise_seed, bool) or not isinstance(noise_seed, int)):
            raise TypeError(f"noise_seed must be a whole number or None; got {noise_seed!r}")
        if sampler is not None:
            spec = sampler_spec(sampler)
            if spec.uncond or spec.adaptive or (spec.levels is not None and schedule is not None):
                own_iterations({}, 1, sampler=sampler, schedule=schedule, stock=None)  # says why not
        if sampler is None and schedule is None and stock_class is not None and dialect not in (None, "diffusers"):
            raise ValueError(f"dialect says what sampler and schedule mean: give one of them; got {dialect!r} alone")
        if schedule is None and schedule_options:
            raise ValueError("schedule_options need a schedule")
        told = is_flow({"prediction_type": prediction_type, "use_flow_sigmas": use_flow_sigmas}, None)
        told = told or not set(self.config.get("_use_default_values", ())) >= _SAY_WHAT_MODEL
        if stock_class is None and not told:
            warnings.warn(
                "nothing says what the model was trained on, so it is taken for one with DDPM's linear betas; make "
                "the scheduler with KSchedScheduler.from_config(pipe.scheduler.config, ...), or give beta_schedule",
                UserWarning,
                stacklevel=3,
            )
        self.num_inference_steps: int | None = None
        self._asked: dict[str, Any] | None = None
        self._iterations: Iterations | None = None
        self._made_of: Any = None
        self._process: tuple[Any, Process] | None = None
        self._timesteps: torch.Tensor | None = None
        self._fill_in()
        self._forget()

    def _fill_in(self, chosen: Set[str] = frozenset()) -> None:
        """Let what nobody chose be as it is in the class that this stands for.

        `_use_default_values` lists it: it goes when the configuration is given to a class with other defaults.
        """
        stock, parameters = self._entries.stock_class, inspect.signature(type(self).__init__).parameters
        unchosen = set(self.config.get("_use_default_values", ())) - chosen
        if stock in CLASSES:
            its = {key: value for key, value in defaults_of(stock).items() if key not in chosen}
            its = {key: value for key, value in its.items() if key in unchosen or key not in parameters}
            self.register_to_config(**its)
            unchosen |= its.keys()
        if "_use_default_values" in self.config:  # else everything was chosen, as in a file
            self.register_to_config(_use_default_values=sorted(unchosen - {"stock_class"}))

    # ------------------------------------------------------------------------------------------------- made of others

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
            that would change nothing, as the sampler or the schedule takes its place, or the model has no such thing;
            an option that is given twice with different values; a setting of the class that no sampler represents
        """
        if not isinstance(config, Mapping):
            return super().from_config(config, return_unused_kwargs, **kwargs)
        parameters = {
            name: parameter.default
            for name, parameter in inspect.signature(cls.__init__).parameters.items()
            if name != "self"
        }
        unused = {key: kwargs.pop(key) for key in [*kwargs] if key in LOADING or key.startswith("_")}
        # What nobody chose goes: it is filled in anew, by the class that this is.
        unchosen = {"_use_default_values", *config.get("_use_default_values", ())}
        kept = adopted(dict(config), kwargs) if is_foreign(config, cls.__name__) else dict(config)
        if is_foreign(config, cls.__name__) and "stock_class" not in kept:
            unchosen = {"_use_default_values"}  # no class is known that would fill them in
        kept = {key: value for key, value in kept.items() if key not in unchosen}
        placed = place(kwargs, kept, parameters, frozenset(_OURS))
        changes = placed.settings
        for key, options in (
            ("sampler_options", placed.sampler_options),
            ("schedule_options", placed.schedule_options),
        ):
            if options:
                changes[key] = _merged(key, kwargs, kept, options)
        hidden = {key: value for key, value in kept.items() if key not in parameters and not key.startswith("_")}
        hidden |= {key: changes.pop(key) for key in [*changes] if key not in parameters}
        both: Any = super().from_config({key: kept[key] for key in kept.keys() - hidden.keys()}, True, **changes)
        made: KSchedScheduler = both[0]
        made.register_to_config(**hidden)
        made._fill_in(chosen=hidden.keys())
        if placed.unknown:
            unused |= made._take(placed.unknown, kwargs, return_unused_kwargs)
        if not made._is_stock:
            check_replaced(made._entries.stock_class, made._settings)
        return (made, {**both[1], **unused}) if return_unused_kwargs else made

    def _take(self, given: Mapping[str, Any], keywords: Mapping[str, Any], unknown_is_fine: bool) -> dict[str, Any]:
        """Take options of the class's own method, where no sampler is named; return, or refuse, what is none."""
        options: Set[str] = frozenset()
        if self._entries.sampler is None and self._entries.stock_class is not None:
            with contextlib.suppress(ValueError):  # ten steps are not for everyone
                method = self._built({"num_inference_steps": 10, "mu": 1.0}).method
                options = frozenset(sampler_spec(method.sampler).options)
        if taken := {name: value for name, value in given.items() if name in options}:
            merged = _merged("sampler_options", keywords, self.config, taken)
            self.register_to_config(sampler_options=merged)
            self._fill_in(chosen={"sampler_options"})
        rest = {name: value for name, value in given.items() if name not in options}
        if rest and not unknown_is_fine:
            name, choice = next(iter(rest)), _chosen_options(self)
            stock = self._entries.stock_class
            names = {*self.config, *(() if stock is None else settings_of(stock)), *options, *choice}
            hint = near(name, (known for known in names if known[0] != "_"))
            hint = hint or ", and neither the sampler nor the schedule has such an option. Leave it out"
            raise TypeError(f"from_config has no parameter {name!r}{hint}")
        return rest

    @classmethod
    def from_diffusers(cls, scheduler: Any, **kwargs: Any) -> KSchedScheduler:
        """The scheduler of ours that does what one of diffusers does.

        Parameters
        ----------
        scheduler : an instance, or its configuration, with ``_class_name``
        kwargs : parameters to set or change, such as ``noise_seed``

        Returns
        -------
        a scheduler whose `translation` says what became of every setting

        Raises
        ------
        ValueError : a class that has no counterpart, or a setting that no option of ours repeats; the message says why
        """
        config = dict(scheduler if isinstance(scheduler, Mapping) else scheduler.config)
        if not isinstance(scheduler, Mapping):
            config["_class_name"] = type(scheduler).__name__
        if config.get("_class_name") != cls.__name__:  # what is left over from one of ours
            config = {name: value for name, value in config.items() if name not in _OURS}
        made: KSchedScheduler = cls.from_config(config, **kwargs)
        name = made._entries.stock_class
        if name is not None and made._is_stock:
            made._check_settings(name)
        return made

    def _check_settings(self, name: str) -> None:
        """Raise for settings that cannot be represented, whatever the number of steps."""
        try:
            self._built({"num_inference_steps": 10, "mu": 1.0 if self._entries.use_dynamic_shifting else None})
        except NotRepresentedError as error:
            raise NotRepresentedError(f"{name} with these settings has no drop-in here: {error}") from None
        except ValueError:
            pass  # ten steps are not for everyone

    @property
    def translation(self) -> Translation:
        """What became of the class of diffusers and its settings."""
        config, name = dict(self.config), self._entries.stock_class
        if name is None:
            return Translation("", str(self._entries.sampler or "euler"))
        its = set(defaults_of(name)) & set(config)
        bearing = settings_of(name)
        used = {key: config[key] for key in sorted(its & bearing)}
        ignored = {key: config[key] for key in sorted(its - bearing)}
        different = {}
        if name in ("DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler"):
            different["noise"] = "new for every interval from the generator, not from torchsde's Brownian tree"
        sampler, options = self._entries.sampler, dict(self._entries.sampler_options or {})
        if self._is_stock:
            try:
                method = self._built({"num_inference_steps": 10, "mu": 1.0}).method
                sampler, options = method.sampler, dict(method.options)
            except ValueError as error:
                different["ten steps"] = str(error)
        return Translation(name, str(sampler), options, used, ignored, different)

    # ------------------------------------------------------------------------------------------------------- the run

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        timesteps: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
        *,
        original_inference_steps: int | None = None,
        strength: float = 1.0,
    ) -> None:
        """Fix the iterations of a run, and forget everything of the last one.

        Parameters
        ----------
        num_inference_steps : number of model calls or of steps, see ``layout``
        device : of `timesteps`
        timesteps : what the network is to be told, falling, in place of a number
        sigmas : noise levels in place of a number, falling. Those of flow models are shifted as ``shift`` or ``mu``
            say, and a 0 follows them; others are run as they are, to the last one
        mu : of the shift, where ``use_dynamic_shifting`` is set
        original_inference_steps : of models that were distilled as LCM's, on that many timesteps of the training,
            evenly spaced; None takes the configuration's
        strength : of LCM's and TCD's pipelines too: the share of those timesteps that is gone through, from the lowest.
            Other pipelines cut `timesteps` themselves

        Raises
        ------
        TypeError, ValueError : none of the three, lists that are no grid, a mu that is missing

        Notes
        -----
        Flow pipelines ask for n steps by ``linspace(1, 1 / n, n)``. With a ``schedule`` given, that list is read as the
        number n; every other list is run.
        """
        asked: dict[str, Any] = {"num_inference_steps": num_inference_steps, "mu": mu}
        asked |= {"timesteps": _listed(timesteps), "sigmas": _listed(sigmas)}
        asked |= _part(original_inference_steps, strength)
        lists = [values for values in (asked["timesteps"], asked["sigmas"]) if values is not None]
        if num_inference_steps is None and not lists:
            raise ValueError("give num_inference_steps, or a list of timesteps or sigmas")
        if num_inference_steps is not None and lists:
            both = f"num_inference_steps={num_inference_steps} and a list of {len(lists[0])}"
            if not is_flow(self._settings, self._entries.stock_class):
                raise ValueError(f"give num_inference_steps or a list of timesteps or sigmas, not both; got {both}")
            if any(len(values) != num_inference_steps for values in lists):
                raise ValueError(f"num_inference_steps must be the length of the list; got {both}")
        same = self._iterations is not None and self._made_of is self.config and self._asked == asked
        if not same:  # plans are worth keeping, as a pipeline asks for the same run again and again
            self._iterations = self._built(asked)
        assert self._iterations is not None
        self._asked, self._made_of = asked, self.config
        self.num_inference_steps = len(self._iterations) if num_inference_steps is None else num_inference_steps
        kind = torch.int64 if self._iterations.whole else torch.float32
        self._timesteps = torch.tensor(self._iterations.timesteps.tolist(), dtype=torch.float64).to(kind).to(device)
        self._forget()

    def _built(self, asked: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> Iterations:
        """Iterations for arguments of `set_timesteps`."""
        config, stock = self._settings, self._entries.stock_class
        steps = asked.get("num_inference_steps")
        lists: dict[str, Any] = {"timesteps": asked.get("timesteps"), "sigmas": asked.get("sigmas")}
        how: dict[str, Any] = {**lists, "mu": asked.get("mu")}
        how |= {name: asked[name] for name in ("original_inference_steps", "strength") if name in asked}
        if self._is_stock:
            config |= own_table(stock, config)
            how["mu"] = how["mu"] if config.get("use_dynamic_shifting") else None
            if lists["timesteps"] is not None or lists["sigmas"] is not None:
                steps = None
            options, layout = self._entries.sampler_options, self._entries.layout
            return stock_iterations(stock, config, steps, given=given, options=options, layout=layout, **how)
        only_even = lists["timesteps"] is None and _is_even(lists["sigmas"])
        own = self._entries.sampler is not None and sampler_spec(self._entries.sampler).levels is not None
        if (own or self._entries.schedule is not None) and is_flow(config, stock) and only_even:
            steps, how["sigmas"] = len(lists["sigmas"]), None
        return own_iterations(
            config,
            steps,
            sampler=self._entries.sampler if self._entries.sampler or stock else "euler",
            schedule=self._entries.schedule,
            stock=stock,
            dialect=Dialect.parse(self._entries.dialect or "ksched"),
            layout=self._entries.layout or "calls",
            sampler_options={**(self._entries.sampler_options or {}), **(given or {})},
            schedule_options=self._entries.schedule_options,
            **how,
        )

    @property
    def _entries(self) -> Any:
        """The configuration, whose entries are attributes too."""
        return self.config

    @property
    def _is_stock(self) -> bool:
        """Whether this is a class of diffusers as it is."""
        return (
            self._entries.stock_class is not None and self._entries.sampler is None and self._entries.schedule is None
        )

    @property
    def _settings(self) -> dict[str, Any]:
        """The configuration as plain settings, as it is now: pipelines replace it."""
        entries = self.config.items()
        return {key: value for key, value in entries if not key.startswith("_") and value is not None}

    def _forget(self) -> None:
        self._begin_index: int | None = None
        self._step_index: int | None = None
        self._run: Run | None = None
        self._given: tuple[Any, ...] | None = None
        self._saved: dict[str, Any] | None = None
        self._first = 0
        self._extra: dict[str, Any] = {}
        self._churn: dict[str, Any] | None = None
        self._generator: Any = None
        self._drawn: torch.Tensor | None = None
        self._like: torch.Tensor | None = None

    @property
    def timesteps(self) -> torch.Tensor:
        """What the network is told at every iteration; before `set_timesteps` every timestep of the training."""
        if self._timesteps is None:
            length = self._entries.num_train_timesteps
            self._timesteps = torch.arange(length - 1, -1, -1, dtype=torch.float32)
        return self._timesteps

    @property
    def sigmas(self) -> torch.Tensor:
        """Noise level of every iteration, and of the end, on the host; 1 minus that with ``invert_sigmas``."""
        if self._iterations is None:
            return torch.tensor([*self._trained.sigmas[::-1].tolist(), 0.0], dtype=torch.float32)
        return torch.tensor(self._iterations.shown.tolist(), dtype=torch.float32)

    @property
    def init_noise_sigma(self) -> torch.Tensor:
        """What a pipeline multiplies its start noise by."""
        if self._iterations is not None:
            return torch.tensor(self._iterations.init_noise_sigma, dtype=torch.float32)
        plain = isinstance(self._trained, VP) and not self._trained.variance_preserving
        first = self._trained.sigma_max if plain or hasattr(self._trained, "sigma_data") else 1.0
        leading = self._entries.timestep_spacing == "leading" or hasattr(self._trained, "sigma_data")
        return torch.tensor(math.hypot(first, 1.0) if leading and first != 1 else first, dtype=torch.float32)

    @property
    def order(self) -> int:
        """Iterations of a step, as pipelines count them."""
        if self._iterations is not None:
            return self._iterations.order
        if self._is_stock:
            return stock_class(self._entries.stock_class).calls
        calls = sampler_spec(self._entries.sampler).calls if self._entries.sampler else 1
        return calls if self._entries.layout == "steps" and isinstance(calls, int) else 1

    @property
    def step_index(self) -> int | None:
        """Number of the next iteration; None before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Number of the first iteration, as the pipeline has set it."""
        return self._begin_index

    def previous_timestep(self, timestep: Any) -> Any:
        """The timestep of the iteration after that of another one; -1 after the last."""
        if self._timesteps is None:
            return timestep - 1
        place = self._place(timestep)
        return self.timesteps[place + 1] if place is not None and place + 1 < len(self.timesteps) else torch.tensor(-1)

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Say which iteration the run begins with."""
        self._begin_index = int(begin_index)

    def scale_model_input(self, sample: torch.Tensor, timestep: Any = None, *args: Any, **kwargs: Any) -> torch.Tensor:
        """The state as the network wants it, of its own size; what else it is given is for other schedulers."""
        if self._iterations is None:
            norm = float(self._trained.input_norm(float(self._trained.sigma(float(timestep)))))
        else:
            index = self._index(timestep)
            norm = self._iterations.conversions[min(index, len(self._iterations) - 1)][0]
        return sample if norm == 1 else sample / norm

    def step(
        self,
        model_output: torch.Tensor,
        timestep: Any,
        sample: torch.Tensor,
        generator: Any = None,
        return_dict: bool = True,
        *,
        eta: float | None = None,
        use_clipped_model_output: bool = False,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = math.inf,
        s_noise: float = 1.0,
    ) -> KSchedOutput | tuple[torch.Tensor, torch.Tensor]:
        """From a state and what the network made of it to the state for the next model call.

        Parameters
        ----------
        model_output : what the network returned; a second half of its channels, the variance, is used or left out
        timestep : of this call; read only to find the first iteration where `set_begin_index` was not called
        sample : the state, edited or not
        generator : one, or one per item of the batch; not used with ``noise_seed``
        return_dict : return a `KSchedOutput`, not a tuple of the same
        eta : of the samplers ddim and tcd, unless ``sampler_options`` has it
        use_clipped_model_output : of DDIM: take eps from the edited prediction
        s_churn, s_tmin, s_tmax, s_noise : of Euler classes of diffusers; those of the first call hold for the run. In
            ``sampler_options`` they are of every sampler that churns

        Raises
        ------
        RuntimeError : the run is over
        ValueError : `set_timesteps` was not called; tensors that do not fit together
        """
        if self._iterations is None:
            self._go_through_training()
        assert self._iterations is not None
        output, variance = split_variance(model_output, sample)
        if self._step_index is None:
            self._run = None  # some loops set step_index back to None to begin again
            self._first = self._index(timestep)
            churn = {"s_churn": s_churn, "s_tmin": s_tmin, "s_tmax": s_tmax, "s_noise": s_noise} if s_churn else {}
            self._choose({"eta": eta, "use_clipped_model_output": use_clipped_model_output, **churn})
            self._step_index = self._first
        index, iterations = self._step_index, self._iterations
        if index >= len(iterations):
            raise RuntimeError(f"the run of {len(iterations)} iterations is over; call set_timesteps for another")
        _, of_x, of_output = iterations.conversions[index]
        compute = torch.promote_types(sample.dtype, torch.float32)
        denoised = output.to(compute) * of_output
        if of_x != 0:
            denoised = denoised.add(sample.to(compute), alpha=of_x)
        self._generator, self._like = generator, output
        edited = self._edited(denoised)
        run, told = self._running(index, sample), denoised if edited is None else edited
        request = iterations.method.request
        if request is not None and request.noise_by_step and self._entries.noise_seed is None:
            self._drawn = self._new_noise()
        if run is None or run.done:  # a last step of no length
            previous: torch.Tensor = sample
        else:
            share: float | None = 0.0
            if self._given is None or identity_mark(sample) != self._given:
                share = iterations.method.share_of_state(run)
                if share is None:
                    run.replace(sample)
                elif share != -of_x or edited is not None:
                    edited = told + share * (sample.to(compute) - run.x)
            if run.needs_uncond:
                run.feed(told, denoised)
            elif edited is not None:
                run.feed(edited)
            else:
                run.feed_output(output, of_x, of_output)
            previous = run.x
            if iterations.method.share_of_state(run) is not None:
                previous = previous.clone()  # where this is edited in place, what it was is still needed
        self._given = identity_mark(previous)
        if request is not None and request.learned_variance is not None and iterations.timesteps[index] > 0:
            noise = self._new_noise() * self._std(variance, index, request.learned_variance)
            previous, self._given = (previous.to(compute) + noise).to(previous.dtype), None
        if request is not None and request.boundary:  # LCM's pipelines show what the consistency function answers
            level = iterations.levels[index]
            of_state, of_told = boundary_scaling(level, float(iterations.timesteps[index]), request.boundary)
            told = (of_told * told).add(sample.to(compute), alpha=of_state)
        self._step_index += 1
        self._generator = self._like = self._drawn = None
        previous, told = previous.to(sample.dtype), told.to(sample.dtype)
        return KSchedOutput(previous, told) if return_dict else (previous, told)

    def _go_through_training(self) -> None:
        """Take every timestep of the training for an iteration, as some classes do before `set_timesteps`."""
        if not (self._is_stock and CLASSES[self._entries.stock_class].begins_untold):
            raise ValueError("call set_timesteps before step: the number of inference steps is not known")
        length = int(self._entries.num_train_timesteps)
        even = {"timestep_spacing": "linspace", "use_karras_sigmas": False, "steps_offset": 0}
        given = {name: value for name, value in self._settings.items() if name not in even}
        layout = {"options": self._entries.sampler_options, "layout": "steps"}
        self._iterations = stock_iterations(self._entries.stock_class, {**given, **even}, length, **layout)
        self._asked = {"num_inference_steps": length}
        self._made_of = None

    def _choose(self, given: Mapping[str, Any]) -> None:
        """Take what `step` is told into the method, at the first call."""
        assert self._iterations is not None
        assert self._asked is not None
        method, own = self._iterations.method, self._entries.sampler_options or {}
        options = sampler_spec(method.sampler).options
        told = {name: value for name, value in given.items() if name in options and value is not None}
        if method.sampler not in ("ddim", "tcd") or "eta" in own:
            told.pop("eta", None)
        if method.request is not None and method.request.pair and given.get("use_clipped_model_output"):
            told["pair"] = False
        self._extra = told
        if given.get("s_churn"):
            if not self._is_stock or "s_churn" not in told or method.sampler != "euler":
                raise ValueError(
                    "step takes s_churn for Euler classes of diffusers alone, which churn after the model call; "
                    "give it in sampler_options, with sampler euler, heun or dpm_2"
                )
            self._iterations, self._extra, self._made_of = self._built(self._asked, told), {}, None
            self._churn = told

    def _running(self, index: int, sample: torch.Tensor) -> Run | None:
        """The run, with the state that was handed over; None if no model call is left for it."""
        assert self._iterations is not None
        if self._run is None:
            plan = self._iterations.method.plan(self._first, self._extra)
            if plan is None:
                return None
            if not plan.draws:
                run = Run(plan, sample)
            elif self._entries.noise_seed is not None:
                run = Run(plan, sample, seed=self._entries.noise_seed)
            else:
                run = Run(plan, sample, noise=self._noise)
            if self._saved is not None:  # a copy of a scheduler goes on where that was
                run.load_state_dict(self._saved)
                self._saved = None
            else:
                self._given = identity_mark(sample)
            self._run = run
        return self._run

    def _noise(self, sigma_from: float, sigma_to: float) -> torch.Tensor:
        """Noise of the generator, as diffusers draws it."""
        return self._new_noise() if self._drawn is None else self._drawn

    def _new_noise(self) -> torch.Tensor:
        like = self._like
        assert like is not None
        noise: torch.Tensor = randn_tensor(
            tuple(like.shape), generator=self._generator, device=like.device, dtype=like.dtype
        )
        return noise

    def _edited(self, denoised: torch.Tensor) -> torch.Tensor | None:
        """The prediction as the configuration has it edited, None if it has not."""
        config, name = self._entries, self._entries.stock_class
        applies = settings_of(name) if name is not None and self._is_stock else None

        def same(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            return x

        if config.thresholding and (applies is None or "thresholding" in applies):
            edit = guidance.dynamic_thresholding(same, config.dynamic_thresholding_ratio, config.sample_max_value)
        elif config.clip_sample and (applies is None or "clip_sample" in applies):
            edit = guidance.clip(same, -config.clip_sample_range, config.clip_sample_range)
        else:
            return None
        edited: torch.Tensor = edit(denoised, denoised.new_zeros(len(denoised)))
        return edited

    def _std(self, variance: torch.Tensor | None, index: int, kind: str) -> torch.Tensor:
        """Std of DDPM's noise, by what the network says of it (Nichol & Dhariwal 2021, arXiv:2102.09672, eq. 15)."""
        assert self._iterations is not None
        if variance is None:
            raise ValueError(f"variance_type {kind!r} needs twice as many channels from the model as the state has")
        s, t = self._iterations.levels[index : index + 2]
        beta = 1 - (s.alpha / t.alpha) ** 2
        posterior = max((t.sigma / s.sigma) ** 2 * beta, 1e-20)
        if kind == "learned":
            return variance.sqrt()
        share = (variance.to(torch.float32) + 1) / 2
        return (0.5 * (share * math.log(beta) + (1 - share) * math.log(posterior))).exp()

    # -------------------------------------------------------------------------------------------- where a timestep is

    def _index(self, timestep: Any) -> int:
        """The iteration that is next: counted, or set, or where the timestep is among `timesteps`."""
        if self._step_index is not None:
            return self._step_index
        if self._begin_index is not None:
            return self._begin_index
        found = self._place(timestep)
        return 0 if found is None else found

    def _place(self, timestep: Any) -> int | None:
        """The iteration of a timestep, by where it is in memory, or else the nearest."""
        own = self.timesteps
        if isinstance(timestep, torch.Tensor) and timestep.numel():
            offset, rest = divmod(timestep.data_ptr() - own.data_ptr(), own.element_size())
            if timestep.device == own.device and not rest and 0 <= offset < len(own):
                return int(offset)
            timestep = float(timestep.flatten()[0])
        if timestep is None or self._iterations is None:
            return None
        return int(np.argmin(np.abs(self._iterations.timesteps - float(timestep))))

    # ----------------------------------------------------------------------------------------------- noise by the level

    @property
    def _trained(self) -> Process:
        """What the model was trained on, without a shift that is known only later."""
        if self._process is None or self._process[0] is not self.config:
            plain = {"use_dynamic_shifting": False, "invert_sigmas": False, "original_inference_steps": None}
            settings = {**self._settings, **plain}
            if self._is_stock:
                settings |= own_table(self._entries.stock_class, settings)
            self._process = self.config, process_of(settings, self._entries.stock_class)
        return self._process[1]

    def _mixture(self, timesteps: Any, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Signal scale and noise std at timesteps, to be multiplied by states.

        The level is that of the run's place where it has one: after a step the present one, else where it begins.
        """
        iterations, stock = self._iterations, self._entries.stock_class
        if self._is_stock and CLASSES[stock].noises_by_timestep and not is_flow(self._settings, stock):
            iterations = None
        if iterations is not None and (self._step_index is not None or self._begin_index is not None):
            levels = [iterations.levels[self._index(None)]]
        else:
            process = self._trained if iterations is None else iterations.process
            asked = [float(t) for t in torch.as_tensor(timesteps).flatten().tolist()]
            levels = []
            for t in asked:
                place = None if iterations is None else int(np.argmin(np.abs(iterations.timesteps - t)))
                near = place is not None and abs(iterations.timesteps[place] - t) <= 1e-4 * max(abs(t), 1.0)  # type: ignore[union-attr]
                if near and place is not None and iterations is not None:
                    levels.append(iterations.levels[place])
                else:
                    levels.append(process.level(float(process.sigma(t))))
        shape = (-1,) + (1,) * (like.ndim - 1)
        dtype = torch.promote_types(like.dtype, torch.float32)
        parts = (
            torch.tensor([getattr(level, name) for level in levels], dtype=dtype, device=like.device).view(shape)
            for name in ("alpha", "sigma")
        )
        alpha, sigma = parts
        return alpha, sigma

    def add_noise(self, original_samples: torch.Tensor, noise: torch.Tensor, timesteps: Any) -> torch.Tensor:
        """Clean samples with noise, at the level of the run's place, or of timesteps if it has none yet."""
        alpha, sigma = self._mixture(timesteps, original_samples)
        return (alpha * original_samples + sigma * noise).to(original_samples.dtype)

    def scale_noise(self, sample: torch.Tensor, timestep: Any, noise: torch.Tensor | None = None) -> torch.Tensor:
        """`add_noise` in the order of arguments that flow pipelines have."""
        if noise is None:
            raise ValueError("scale_noise needs the noise")
        return self.add_noise(sample, noise, timestep)

    def get_velocity(self, sample: torch.Tensor, noise: torch.Tensor, timesteps: Any) -> torch.Tensor:
        """What a network of v or flow prediction should answer with at timesteps of the training."""
        process = self._trained
        if process.is_flow:
            return sample - noise if self._entries.invert_sigmas else noise - sample
        levels = [process.level(float(process.sigma(float(t)))) for t in torch.as_tensor(timesteps).flatten().tolist()]
        sizes = [math.hypot(level.alpha, level.sigma) for level in levels]
        shape = (-1,) + (1,) * (sample.ndim - 1)
        alpha = sample.new_tensor([v.alpha / size for v, size in zip(levels, sizes, strict=True)]).view(shape)
        sigma = sample.new_tensor([v.sigma / size for v, size in zip(levels, sizes, strict=True)]).view(shape)
        return alpha * noise - sigma * sample

    @property
    def betas(self) -> torch.Tensor:
        """Of the training table, if there is one."""
        return torch.tensor(self._table.betas, dtype=torch.float32)

    @property
    def alphas_cumprod(self) -> torch.Tensor:
        """Of the training table, if there is one."""
        return torch.tensor(self._table.alphas_cumprod.tolist(), dtype=torch.float32)

    @property
    def _table(self) -> VP:
        process = self._trained
        if not isinstance(process, VP):
            raise AttributeError(f"{type(self).__name__!r} object has no table of betas: the model is no VP model")
        return process

    def __len__(self) -> int:
        return int(self._entries.num_train_timesteps)

    # --------------------------------------------------------------------------------------------------------- copies

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        if self._run is not None:
            state["_saved"] = self._run.state_dict()
        for name in ("_run", "_given", "_generator", "_iterations", "_made_of", "_process", "_drawn", "_like"):
            state[name] = None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self._asked is not None:
            self._iterations = self._built(self._asked, self._churn)


# -------------------------------------------------------------------------------------------------------------- tensors
def _listed(values: Any) -> list[float] | None:
    """A list, array or tensor as numbers."""
    if values is None:
        return None
    values = values.tolist() if hasattr(values, "tolist") else values
    return [float(value) for value in values]


def _merged(
    key: str, given: Mapping[str, Any], config: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Options that were given one by one with those that were given, or are configured, as a whole."""
    whole = given.get(key) or {}
    for name, value in options.items():
        if name in whole and whole[name] != value:
            raise ValueError(f"{name} is given twice: {name}={value!r}, and {whole[name]!r} in {key}. Leave one out")
    return {**(whole if key in given else config.get(key) or {}), **options}


def _chosen_options(scheduler: KSchedScheduler) -> list[str]:
    """Names of the options of the sampler and the schedule that are chosen."""
    sampler, schedule = scheduler._entries.sampler, scheduler._entries.schedule
    names = [] if sampler is None else [*sampler_spec(sampler).options]
    return names if schedule is None else [*names, *schedule_options(NoiseSchedule.parse(schedule))]


def _check_length(length: Any, following: Any) -> None:
    """Refuse a number of timesteps that is none, such as the name of a sampler given by place."""
    if isinstance(length, str):
        words = [f"sampler={length!r}"] + ([f"schedule={following!r}"] if isinstance(following, str) else [])
        raise TypeError(
            f"num_train_timesteps must be a whole number; got {length!r}. If these are names, give "
            f"{', '.join(words)} by keyword"
        )
    if isinstance(length, bool) or not isinstance(length, Real) or float(length) % 1 != 0:
        raise TypeError(f"num_train_timesteps must be a whole number; got {length!r}")
    if not float(length) >= 1:
        raise ValueError(f"num_train_timesteps must be at least 1; got {length}")


def _part(original: Any, strength: Any) -> dict[str, Any]:
    """The part of a training that is run, as `set_timesteps` is told it; nothing where that is all of it."""
    if isinstance(strength, bool) or not isinstance(strength, Real):
        raise TypeError(f"strength must be a number above 0 and at most 1; got {strength!r}")
    if not 0 < float(strength) <= 1:
        raise ValueError(f"strength must be a number above 0 and at most 1; got {strength!r}")
    if original is not None and (isinstance(original, bool) or not isinstance(original, Integral) or original < 1):
        kind = ValueError if isinstance(original, Integral) and not isinstance(original, bool) else TypeError
        raise kind(f"original_inference_steps must be a whole number of at least 1, or None; got {original!r}")
    told = {} if original is None else {"original_inference_steps": int(original)}
    return told if strength == 1 else {**told, "strength": float(strength)}


def _is_even(sigmas: Sequence[float] | None) -> bool:
    """Whether a list is the one by which flow pipelines ask for its length."""
    if not sigmas:
        return False
    return bool(np.allclose(sigmas, np.linspace(1, 1 / len(sigmas), len(sigmas)), rtol=0, atol=1e-6))
