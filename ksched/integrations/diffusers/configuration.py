"""What the settings of a `KSchedScheduler` mean: the model's process, the iterations of a run, and invalid settings."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch

from ksched import guidance
from ksched.dialects.diffusers.classes import CLASSES, settings_of, stock_class
from ksched.dialects.diffusers.iterations import Iterations, check_drivable, own_iterations, stock_iterations
from ksched.dialects.diffusers.process import is_flow, process_of
from ksched.dialects.diffusers.releveled import releveled
from ksched.dialects.diffusers.request import NotRepresentedError
from ksched.integrations.diffusers.class_of import Translation, defaults_of, own_table, step_arguments_of
from ksched.integrations.diffusers.places import check_places
from ksched.names.enums import Dialect
from ksched.options import check_steps
from ksched.processes import Flow, Process
from ksched.samplers.registry import dialect_options, sampler_spec
from ksched.schedules.grid import Grid
from ksched.schedules.select import schedule_name, schedule_options
from ksched.types import Array

__all__ = ["Configuration", "check_parameters", "run_request"]


_LAYOUTS = ("calls", "steps")


#: parameters of which at least one must be given, unless the model is a flow model
_SAY_WHAT_MODEL = {"beta_start", "beta_end", "beta_schedule", "trained_betas", "sigma_data"}


class Configuration:
    """The meaning of one configuration; a pipeline that changes its configuration gets a new object.

    Attributes
    ----------
    entries : object
        The diffusers configuration, whose entries are also attributes.
    assigned : mapping or None
        Settings that programs have assigned since, which are not saved.
    """

    def __init__(self, entries: Any, assigned: Mapping[str, Any] | None = None) -> None:
        self.entries = entries
        self.assigned = dict(assigned or {})
        self._written = _written(entries)

    def __reduce__(self) -> tuple[Any, ...]:
        return Configuration, (self.entries, self.assigned)  # cached results are not copied

    @property
    def is_stock(self) -> bool:
        """Whether this is an unchanged diffusers class."""
        return self.entries.stock_class is not None and self.entries.sampler is None and self.entries.schedule is None

    @property
    def settings(self) -> dict[str, Any]:
        """The entries that are settings and have a value."""
        its = {key: getattr(self.entries, key, value) for key, value in self.entries.items() if key[0] != "_"}
        return {**{key: value for key, value in its.items() if value is not None}, **self.assigned}

    @property
    def current(self) -> Configuration:
        """The current configuration, since diffusers lets pipelines assign to an entry."""
        return self if _written(self.entries) == self._written else Configuration(self.entries, self.assigned)

    @property
    def is_flow(self) -> bool:
        """Whether the model is a flow model."""
        return is_flow(self.settings, self.entries.stock_class)

    @cached_property
    def trained(self) -> Process:
        """The process that the model was trained on, without a shift that is only known later."""
        plain = {"use_dynamic_shifting": False, "invert_sigmas": False, "original_inference_steps": None}
        settings = {**self.settings, **plain}
        if self.is_stock and "trained_betas" not in self.assigned:
            settings |= own_table(self.entries.stock_class, settings)
        return process_of(settings, self.entries.stock_class)

    @property
    def order(self) -> int:
        """Number of iterations per step, before a run is known."""
        if self.is_stock:
            return stock_class(self.entries.stock_class).calls
        calls = sampler_spec(self.entries.sampler).calls if self.entries.sampler else 1
        return calls if self.entries.layout == "steps" and isinstance(calls, int) else 1

    @property
    def tells_end(self) -> bool:
        """Whether a list of timesteps includes the end."""
        stock = self.entries.stock_class
        return stock is not None and stock_class(stock).tells_end

    @cached_property
    def takes_eta(self) -> bool:
        """Whether pipelines should pass their user's eta to ``step``, because it is DDIM's."""
        entries = self.entries
        if "eta" in (entries.sampler_options or {}):
            return False
        if entries.sampler is not None:
            return "eta" in (sampler_spec(entries.sampler).arguments(Dialect.DIFFUSERS) or ())
        return entries.stock_class is not None and "eta" in step_arguments_of(entries.stock_class)

    def takes_as_number(self, request: Mapping[str, Any]) -> bool:
        """Whether a list stands for its length: the even list of flow pipelines, when sigmas were chosen."""
        entries = self.entries
        own_levels = entries.sampler is not None and sampler_spec(entries.sampler).levels is not None
        even = request.get("timesteps") is None and _is_even(request.get("sigmas"))
        return (own_levels or entries.schedule is not None) and self.is_flow and even

    @property
    def option_names(self) -> list[str]:
        """Names of the options of the chosen sampler and schedule."""
        sampler, schedule = self.entries.sampler, self.entries.schedule
        names = [] if sampler is None else [*sampler_spec(sampler).options]
        return names if schedule is None else [*names, *schedule_options(schedule)]

    # ---------------------------------------------------------------------------------------------------- iterations

    def iterations(
        self, request: Mapping[str, Any], given: Mapping[str, Any] | None = None, levels: Array | None = None
    ) -> Iterations:
        """Iterations of a run.

        Parameters
        ----------
        request : mapping
            Arguments of ``set_timesteps``, from `run_request`.
        given : mapping or None
            Options of the sampler passed to ``step``.
        levels : ndarray of float64 or None
            Contract sigmas that a program has written, instead of those that would result.
        """
        how = {name: request.get(name) for name in ("timesteps", "sigmas", "mu")}
        part = ("original_inference_steps", "strength", "max_timesteps", "intermediate_timesteps")
        how |= {name: request[name] for name in part if name in request}
        steps = request.get("num_inference_steps")
        if self.is_stock:
            return self._stock_iterations(steps, {**how, "levels": levels}, given)
        made = self._own_iterations(steps, how, given)
        return made if levels is None else releveled(made, levels, self.settings, self.entries.stock_class)

    def _stock_iterations(self, steps: int | None, how: dict[str, Any], given: Mapping[str, Any] | None) -> Iterations:
        settings, stock = self.settings, self.entries.stock_class
        if "trained_betas" not in self.assigned:
            settings |= own_table(stock, settings)
        how["mu"] = how["mu"] if settings.get("use_dynamic_shifting") else None
        if how["timesteps"] is not None or how["sigmas"] is not None:
            steps = None
        elif "shift" in self.assigned and steps is not None and how["mu"] is None:
            # an even list down to the lowest sigma of the class's table, with the configured shift
            lowest = Flow(self.entries.shift).sigma_at(1 / self.entries.num_train_timesteps)
            steps, how["sigmas"] = None, np.linspace(1, lowest, check_steps(steps)).tolist()
        options, layout = self.entries.sampler_options, self.entries.layout
        return stock_iterations(stock, settings, steps, given=given, options=options, layout=layout, **how)

    def _own_iterations(self, steps: int | None, how: dict[str, Any], given: Mapping[str, Any] | None) -> Iterations:
        entries = self.entries
        if self.takes_as_number(how):
            steps, how["sigmas"] = len(how["sigmas"]), None
        return own_iterations(
            self.settings,
            steps,
            sampler=entries.sampler if entries.sampler or entries.stock_class else "euler",
            schedule=entries.schedule,
            stock=entries.stock_class,
            dialect=Dialect.parse(entries.dialect or "ksched"),
            layout=entries.layout or "calls",
            sampler_options={**(entries.sampler_options or {}), **(given or {})},
            schedule_options=entries.schedule_options,
            **how,
        )

    def ten_steps(self) -> Iterations:
        """A run to find out what the settings mean; not every method has one of ten steps."""
        return self.iterations({"num_inference_steps": 10, "mu": 1.0})

    def through_training(self) -> Iterations:
        """Iterations at every training timestep."""
        even = {"timestep_spacing": "linspace", "use_karras_sigmas": False, "steps_offset": 0}
        given = {name: value for name, value in self.settings.items() if name not in even}
        length, options = int(self.entries.num_train_timesteps), self.entries.sampler_options
        return stock_iterations(self.entries.stock_class, {**given, **even}, length, options=options, layout="steps")

    def check_representable(self) -> None:
        """Raise an error if the settings of a diffusers class cannot be represented for any number of steps."""
        if not self.is_stock:
            return
        try:
            self.ten_steps()
        except NotRepresentedError as error:
            name = self.entries.stock_class
            raise NotRepresentedError(f"{name} with these settings has no drop-in in ksched: {error}") from None
        except ValueError:
            pass  # not every method has a run of ten steps

    @property
    def translation(self) -> Translation:
        """How the diffusers class and its settings are represented."""
        config, name = dict(self.entries), self.entries.stock_class
        if name is None:
            return Translation("", str(self.entries.sampler or "euler"))
        its = set(defaults_of(name)) & set(config)
        bearing = settings_of(name)
        used = {key: config[key] for key in sorted(its & bearing)}
        ignored = {key: config[key] for key in sorted(its - bearing)}
        different = {}
        if name in ("DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler"):
            different["noise"] = "drawn anew for every interval from the generator, not from torchsde's Brownian tree"
        sampler, options = self.entries.sampler, dict(self.entries.sampler_options or {})
        if self.is_stock:
            try:
                method = self.ten_steps().method
                sampler, options = method.sampler, dict(method.options)
            except ValueError as error:
                different["ten steps"] = str(error)
        return Translation(name, str(sampler), options, used, ignored, different)

    def edited(self, denoised: torch.Tensor) -> torch.Tensor | None:
        """The prediction edited as the settings require; None if they do not."""
        entries = self.entries
        applies = settings_of(entries.stock_class) if self.is_stock else {"thresholding", "clip_sample"}

        def same(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            return x

        if entries.thresholding and "thresholding" in applies:
            edit = guidance.dynamic_thresholding(same, entries.dynamic_thresholding_ratio, entries.sample_max_value)
        elif entries.clip_sample and "clip_sample" in applies:
            edit = guidance.clip(same, -entries.clip_sample_range, entries.clip_sample_range)
        else:
            return None
        edited: torch.Tensor = edit(denoised, denoised.new_zeros(len(denoised)))
        return edited


def _written(entries: Any) -> tuple[int, ...]:
    """A mark that changes when an entry is assigned to."""
    return tuple(map(id, vars(entries).values())) if hasattr(entries, "__dict__") else ()


# ---------------------------------------------------------------------------------------- parameters of the constructor
def check_parameters(entries: Any) -> None:
    """Raise an error for invalid parameters of `KSchedScheduler`; warn if they say nothing about the model.

    Raises
    ------
    TypeError, ValueError
        If a name or option is unknown, a name is positional, or no pipeline can drive the sampler.
    """
    check_places(entries)
    if entries.layout is not None and entries.layout not in _LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(map(repr, _LAYOUTS))}; got {entries.layout!r}")
    if entries.schedule is not None:
        schedule_name(entries.schedule)
    if entries.dialect is not None:
        Dialect.parse(entries.dialect)
    seed = entries.noise_seed
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise TypeError(f"noise_seed must be a whole number or None; got {seed!r}")
    _check_choice(entries)
    if entries.stock_class is None and not _says_what_model(entries):
        warnings.warn(
            "the parameters do not say what the model was trained on, so DDPM's linear betas are used; create the "
            "scheduler with KSchedScheduler.from_config(pipe.scheduler.config, ...), or pass beta_schedule",
            UserWarning,
            stacklevel=4,  # past the constructor and what diffusers wraps around it
        )


def _check_choice(entries: Any) -> None:
    """Raise an error if sampler, schedule and dialect do not go together."""
    sampler, schedule = entries.sampler, entries.schedule
    if sampler is not None:
        check_drivable(sampler_spec(sampler), schedule)
    named = sampler is not None or schedule is not None
    if not named and entries.stock_class is not None and entries.dialect not in (None, "diffusers"):
        raise ValueError(
            f"dialect needs a sampler or schedule, since it says what their names mean; got only {entries.dialect!r}"
        )
    if schedule is None and entries.schedule_options:
        raise ValueError("schedule_options need a schedule; pass schedule= too")
    facts = CLASSES.get(entries.stock_class or "")
    if sampler is not None and facts is not None and facts.mean_velocity and not _steps_as_euler(entries):
        warnings.warn(
            f"networks of {entries.stock_class} return the mean velocity on the way to the next sigma, but sampler "
            f"{sampler!r} uses it as the velocity at the current sigma, which gives another result. Use sampler "
            "'euler'; this one is right only in a loop that passes the network the same time twice",
            UserWarning,
            stacklevel=5,  # past the constructor and what diffusers wraps around it
        )


def _steps_as_euler(entries: Any) -> bool:
    """Whether every step of the sampler goes straight to the next sigma along the network's output."""
    spec = sampler_spec(entries.sampler)
    if spec.levels is not None or spec.adaptive:
        return False
    meant = dialect_options(spec, Dialect.parse(entries.dialect or "ksched"))
    grid = Grid.of([0.9, 0.75, 0.6, 0.4, 0.2, 0.0], Flow())
    try:
        plan = spec.plan(grid, {**meant, **(entries.sampler_options or {})})
    except ValueError:
        return False  # not every method has a run of five steps
    return not plan.draws and plan.goals == plan.sigmas[1:]


def _says_what_model(entries: Any) -> bool:
    flow = {"prediction_type": entries.prediction_type, "use_flow_sigmas": entries.use_flow_sigmas}
    return is_flow(flow, None) or not set(entries.get("_use_default_values", ())) >= _SAY_WHAT_MODEL


# --------------------------------------------------------------------------------------------- arguments of a run
def run_request(
    configuration: Configuration,
    num_inference_steps: int | None,
    timesteps: Any,
    sigmas: Any,
    mu: float | None,
    original_inference_steps: int | None,
    strength: float,
    angles: Mapping[str, float | None] | None = None,
) -> dict[str, Any]:
    """Arguments of ``set_timesteps``, checked, by name; those for a part of the training only if they are given.

    Raises
    ------
    TypeError, ValueError
        If there is neither a number nor a list; both, where only flow pipelines may pass both; or an argument is out of
        range.
    """
    request = {
        "num_inference_steps": num_inference_steps,
        "mu": mu,
        "timesteps": _listed(timesteps),
        "sigmas": _listed(sigmas),
        **_part(original_inference_steps, strength),
        **{name: float(value) for name, value in (angles or {}).items() if value is not None},
    }
    lists = [values for values in (request["timesteps"], request["sigmas"]) if values is not None]
    if num_inference_steps is None and not lists:
        raise ValueError("pass num_inference_steps, or a list of timesteps or sigmas")
    if num_inference_steps is not None and lists:
        both = f"num_inference_steps={num_inference_steps} and a list of {len(lists[0])}"
        if not configuration.is_flow and not configuration.tells_end:
            raise ValueError(f"pass num_inference_steps or a list of timesteps or sigmas, not both; got {both}")
        more = int(configuration.tells_end)
        if any(len(values) != num_inference_steps + more for values in lists):
            raise ValueError(f"num_inference_steps must be the length of the list; got {both}")
    return request


def _listed(values: Any) -> list[float] | None:
    """A list, array or tensor as a list of numbers."""
    if values is None:
        return None
    values = values.tolist() if hasattr(values, "tolist") else values
    return [float(value) for value in values]


def _part(original: Any, strength: Any) -> dict[str, Any]:
    """Arguments of ``set_timesteps`` that select a part of the training; empty for all of it."""
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
    """Whether a list is the even one with which flow pipelines ask for a number of steps."""
    if not sigmas:
        return False
    count = len(sigmas)
    evens = np.linspace(1, 1 / count, count), np.linspace(0, 1, count)  # the second is Cosmos 2's, of shares
    return any(bool(np.allclose(sigmas, even, rtol=0, atol=1e-6)) for even in evens)
