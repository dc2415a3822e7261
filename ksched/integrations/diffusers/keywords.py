"""Keywords of `KSchedScheduler.from_config`: where each one belongs, and which would have no effect.

Settings in a configuration are accepted as they are, because configurations also carry settings of other classes. A
keyword is an instruction: it is followed, or it raises an error.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Set
from typing import Any, NamedTuple

import numpy as np

from ksched.dialects.diffusers.classes import CLASSES, LEVELS, METHOD, settings_of
from ksched.dialects.diffusers.process import is_flow
from ksched.dialects.diffusers.words import prediction_word
from ksched.integrations.diffusers.class_of import defaults_of
from ksched.options import our_words
from ksched.samplers.registry import sampler_spec
from ksched.schedules.select import schedule_name, schedule_options

__all__ = ["LOADING", "Placed", "near", "place"]


Settings = Mapping[str, Any]


#: keywords that libraries pass to every ``from_pretrained``, whatever it loads
LOADING = frozenset((
    "variant", "torch_dtype", "dtype", "use_safetensors", "low_cpu_mem_usage", "device_map", "max_memory",
    "offload_folder", "offload_state_dict", "quantization_config", "trust_remote_code", "use_auth_token",
    "output_loading_info", "disable_mmap",
))  # fmt: skip


#: settings that pipelines read from a configuration
_READ = frozenset((
    "base_shift", "max_shift", "base_image_seq_len", "max_image_seq_len", "variance_type",
))  # fmt: skip


_FLOW = frozenset((
    "shift", "flow_shift", "use_dynamic_shifting", "time_shift_type", "shift_terminal", "invert_sigmas",
))  # fmt: skip


_TABLE = frozenset((
    "beta_start", "beta_end", "beta_schedule", "trained_betas", "rescale_betas_zero_snr", "timestep_type",
))  # fmt: skip


#: settings that only some classes use
_OF_CLASS = frozenset((
    "sigma_data", "snr_shift_scale", "original_inference_steps", "final_sigmas_type", "lambda_min_clipped",
))  # fmt: skip


#: settings of a class that are the same as a ksched schedule
_SAME = {"use_karras_sigmas": "karras", "use_exponential_sigmas": "exponential", "use_beta_sigmas": "beta"}


class Placed(NamedTuple):
    """Keywords, sorted by where they belong.

    Attributes
    ----------
    settings : dict
        Parameters of the constructor, and settings of the replaced class.
    sampler_options, schedule_options : dict
        Options of the sampler and of the schedule.
    unknown : dict
        All others.
    """

    settings: dict[str, Any]
    sampler_options: dict[str, Any]
    schedule_options: dict[str, Any]
    unknown: dict[str, Any]


def near(name: str, names: Iterable[str], cutoff: float = 0.7) -> str:
    """The text "; did you mean ...?" with the most similar name; empty if none is similar."""
    found = difflib.get_close_matches(name, sorted(names), n=1, cutoff=cutoff)
    return f"; did you mean {found[0]!r}?" if found else ""


def place(keywords: Settings, config: Settings, parameters: Settings, own: Set[str]) -> Placed:
    """Sort the keywords of a call by where they belong.

    Parameters
    ----------
    keywords : mapping
        The keywords.
    config : mapping
        Configuration that they change, with ``stock_class`` if its class is known.
    parameters : mapping
        Parameters of the constructor, with their defaults.
    own : set of str
        Those of them that no diffusers scheduler has.

    Raises
    ------
    TypeError, ValueError
        If a keyword would have no effect, or is given twice with different values.
    """
    choice = _Choice({**config, **{key: value for key, value in keywords.items() if key in parameters}})
    keywords = our_words({*choice.sampler_options, *parameters}, keywords)
    placed = Placed({}, {}, {}, {})
    for name, value in keywords.items():
        known = any(name in names for names in (parameters, choice.settings, config))
        why = "" if name in own or not known else choice.lost(name, value)
        heeded, is_option = known and not why, choice.has_option(name)
        if heeded and not (is_option and name in _READ):
            placed.settings[name] = value
        elif is_option:
            (placed.sampler_options if choice.is_of_sampler(name) else placed.schedule_options)[name] = value
            if heeded:  # pipelines read it, too
                placed.settings[name] = value
        elif not known:
            placed.unknown[name] = value
        elif _changes_nothing(value, _now(name, config, parameters, choice.stock)):
            placed.settings[name] = value
        else:
            raise ValueError(f"{name}={value!r} would have no effect: {why}")
    return placed


class _Choice:
    """The chosen sampler and schedule, and what they replace."""

    def __init__(self, config: Settings) -> None:
        self.config = config
        stock = config.get("stock_class")
        self.stock: str | None = stock if stock in CLASSES else None
        self.sampler: str | None = config.get("sampler")
        self.schedule: str | None = config.get("schedule")
        spec = None if self.sampler is None else sampler_spec(self.sampler)
        self.own_levels = spec is not None and spec.levels is not None
        self.sampler_options: Set[str] = frozenset() if spec is None else frozenset(spec.options)
        self.schedule_options: Set[str] = frozenset()
        if self.schedule is not None:
            self.schedule_options = frozenset(schedule_options(self.schedule))
        self.settings: Set[str] = frozenset()
        if self.stock is not None:
            self.settings = frozenset(defaults_of(self.stock)) | settings_of(self.stock)

    def has_option(self, name: str) -> bool:
        """Whether the sampler or the schedule has an option with this name."""
        return name in self.sampler_options or name in self.schedule_options

    def is_of_sampler(self, name: str) -> bool:
        """Whether an option belongs to the sampler and not to the schedule.

        Raises
        ------
        TypeError
            If both have it.
        """
        if name in self.sampler_options and name in self.schedule_options:
            raise TypeError(
                f"{name} is an option of both sampler {self.sampler} and schedule {self.schedule}; put it into "
                "sampler_options or schedule_options"
            )
        return name in self.sampler_options

    def lost(self, name: str, value: Any) -> str:
        """Why a setting would have no effect; empty if it has one."""
        if name == "prediction_type" and self._is_other_sign(value):
            return ""
        if self.stock is not None and self.sampler is None and self.schedule is None:
            return "" if name in _READ else self._missing(name)
        if name in METHOD and self.sampler is not None:
            return (
                f"it belongs to the method that sampler={self.sampler!r} replaces; the options of that sampler are "
                f"{', '.join(sorted(self.sampler_options)) or 'none'}"
            )
        if name in LEVELS and (self.own_levels or self.schedule is not None):
            return self._lost_of_levels(name, value)
        if name in METHOD | LEVELS | _OF_CLASS:
            if self.stock is None and name in LEVELS:
                return "it sets the sigmas of a class, and the class is not known. Choose a schedule"
            return self._missing(name)
        return self._lost_of_model(name)

    def _missing(self, name: str) -> str:
        """A message if the class does not have a setting; empty if it does, or is not known."""
        has = self.stock is None or name in self.settings
        return "" if has else f"{self.stock} has no such setting{near(name, self.settings)}"

    def _lost_of_levels(self, name: str, value: Any) -> str:
        if self.own_levels or self.schedule is None:
            return f"it sets the sigmas that sampler={self.sampler!r} replaces. Leave one of the two out"
        if value is True and _SAME.get(name) == str(schedule_name(self.schedule)):
            return ""
        return f"it sets the sigmas that schedule={self.schedule!r} replaces. Leave one of the two out"

    def _is_other_sign(self, prediction: Any) -> bool:
        """Whether a prediction is the velocity towards the data, for a class that has only the opposite one."""
        facts = None if self.stock is None else CLASSES[self.stock]
        if facts is None or facts.told_share or facts.mean_velocity:
            return False
        return facts.prediction == "flow_prediction" and prediction_word(prediction) == "velocity_to_data"

    def _lost_of_model(self, name: str) -> str:
        flow, config = is_flow(self.config, self.stock), self.config
        if name == "prediction_type" and self.stock is not None and CLASSES[self.stock].prediction:
            return f"networks of {self.stock} predict {CLASSES[self.stock].prediction!r}"
        if name in _FLOW:
            if not flow:
                return "this is not a flow model. Leave it out, or say prediction_type='flow_prediction'"
            if name == "flow_shift" and "shift" in self.settings:
                return f"{self.stock} has 'shift' instead"
            of_flow_shift = config.get("flow_shift") not in (None, 1.0, config.get("shift"))
            if name == "shift" and of_flow_shift and self._missing(name):
                return f"flow_shift={config['flow_shift']} is the shift of {self.stock}. Change that one"
        of_edm = "sigma_data" in self.settings if self.stock is not None else config.get("sigma_data") is not None
        if name in _TABLE and (flow or of_edm):
            return "this model has no table of betas. Leave it out"
        return ""


def _changes_nothing(value: Any, now: Any) -> bool:
    return value is None or value is False or _same(value, now)


def _now(name: str, config: Settings, parameters: Settings, stock: str | None) -> Any:
    """The value of a setting without the keyword."""
    if name in config:
        return config[name]
    its = {} if stock is None else defaults_of(stock)
    return its[name] if name in its else parameters.get(name)


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and bool(
        np.array_equal(np.asarray(one, dtype=object), np.asarray(other, dtype=object))
    )
