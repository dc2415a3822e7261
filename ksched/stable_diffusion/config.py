"""`SamplingConfig`: all that a picture depends on but the model, checked field by field, in JSON and TOML."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any

from ksched.names.enums import NoiseSchedule, Prediction
from ksched.names.labels import parse_label
from ksched.options import Option, check_options, our_words
from ksched.samplers.registry import sampler_spec
from ksched.schedules.grid import check_sigmas
from ksched.schedules.select import schedule_name, schedule_options
from ksched.storage.texts import parse_json, parse_toml
from ksched.types import set_fields

__all__ = ["POPULAR", "PRESETS", "SamplingConfig"]

#: settings by what one wants; the pairs are those of "How to choose a sampler" for so many model calls
PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "fast": {"sampler": "deis", "schedule": "karras", "steps": 8},
        "balanced": {"sampler": "dpmpp_2m", "schedule": "karras", "steps": 20},
        "high_quality": {"sampler": "dpmpp_2m", "schedule": "karras", "steps": 50},
    }
)
#: labels of the pairs that people use most, for menus; `SamplingConfig.from_label` takes any other too
POPULAR = (
    "DPM++ 2M Karras",
    "DPM++ 2M SDE Karras",
    "DPM++ SDE Karras",
    "DPM++ 3M SDE Exponential",
    "Euler a",
    "Euler",
    "Euler Simple",
    "Heun Karras",
    "UniPC",
    "DDIM",
    "LMS Karras",
    "DPM++ 2M Beta",
)

#: what ``process`` may say otherwise than the scheduler of the model does, in its words
_PROCESS: Mapping[str, Option] = {
    "prediction_type": Option("prediction_type", str, None),
    "beta_schedule": Option("beta_schedule", str, None),
    "beta_start": Option("beta_start", float, None, 1e-9, 1.0),
    "beta_end": Option("beta_end", float, None, 1e-9, 1.0),
    "rescale_betas_zero_snr": Option("rescale_betas_zero_snr", bool, None),
    "shift": Option("shift", float, None, 1e-3, 1000.0),
}
_RANGE = {name: Option(name, float, None) for name in ("sigma_min", "sigma_max")}
_LARGEST_SEED = 2**63 - 1  # of a torch.Generator, on every device
_LARGEST_SIDE = 16384
_MOST_STEPS = 1000
_SHORTHANDS = ("label", "preset")


@dataclass(frozen=True)
class SamplingConfig:
    """What to draw and how: a picture is a function of this, the model, and the images that are given.

    Parameters
    ----------
    prompt, negative_prompt : what to draw, and what to keep away from
    steps : of the schedule, 1 to 1000; with ``strength`` the last part of them is run
    guidance_scale : of classifier-free guidance, 0 to 100; 1 is none
    guidance_rescale : share of the contrast that guidance added which is taken away, 0 to 1 (see
        `ksched.guidance.rescale`)
    seed : one whole number, image i takes ``seed + i``; or a list with one for each image
    width, height : in pixels, multiples of 8; None is the size of the given image, or that of the model
    count : number of images; None is as many as there are seeds
    sampler, schedule : names as for `ksched.build_sampler`, kept as ours; CFG++ samplers get what they need. "auto" and
        the JSON of a plan have noise levels of their own: leave the schedule as it is then
    sampler_options, schedule_options : their options; the latter may have ``sigma_min`` and ``sigma_max``
    process : settings of the model's scheduler to override: prediction_type, beta_schedule, beta_start, beta_end,
        rescale_betas_zero_snr, shift
    strength : how much a given image is changed, above 0 to 1: the share of the steps that are run
    sigmas : noise levels to run exactly as given, instead of a schedule; leave the schedule as it is then

    Raises
    ------
    TypeError : a value of the wrong type, an unknown option
    ValueError : a value out of range, an unknown name; the message lists near ones

    Examples
    --------
    >>> from ksched.stable_diffusion import SamplingConfig
    >>> SamplingConfig.from_label("a red fox", "DPM++ 2M Karras", seed=[3, 5]).count
    2
    """

    prompt: str
    negative_prompt: str = ""
    steps: int = 20
    guidance_scale: float = 7.5
    guidance_rescale: float = 0.0
    seed: int | Sequence[int] = 0
    width: int | None = None
    height: int | None = None
    count: int | None = None
    sampler: str = "euler"
    schedule: str = "simple"
    sampler_options: Mapping[str, Any] = field(default_factory=dict)
    schedule_options: Mapping[str, Any] = field(default_factory=dict)
    process: Mapping[str, Any] = field(default_factory=dict)
    strength: float = 0.75
    sigmas: Sequence[float] | None = None

    def __post_init__(self) -> None:
        spec = sampler_spec(_text("sampler", self.sampler))
        schedule = str(schedule_name(_text("schedule", self.schedule)))
        count = None if self.count is None else _whole("count", self.count, 1, 1_000_000)
        seed = _seeds(self.seed, count)
        given: dict[str, Any] = {
            "prompt": _text("prompt", self.prompt),
            "negative_prompt": _text("negative_prompt", self.negative_prompt),
            "steps": _steps(self.steps),
            "guidance_scale": _number("guidance_scale", self.guidance_scale, 0.0, 100.0),
            "guidance_rescale": _number("guidance_rescale", self.guidance_rescale, 0.0, 1.0),
            "seed": seed,
            "width": _side("width", self.width),
            "height": _side("height", self.height),
            "count": count or (1 if isinstance(seed, int) else len(seed)),
            "sampler": spec.key,
            "schedule": schedule,
            "strength": _number("strength", self.strength, 0.0, 1.0),
        }
        if spec.levels is not None:
            if spec.steps and given["steps"] not in spec.steps:
                numbers = " or ".join(map(str, spec.steps))
                raise ValueError(f"steps must be {numbers}, as sampler {spec.name} has; got {given['steps']}")
            self._check_no_schedule(f"sampler {spec.name} has noise levels of its own", schedule)
            if self.sigmas is not None:
                raise ValueError(f"sampler {spec.name} has noise levels of its own; leave out sigmas")
        elif self.sigmas is not None:
            self._check_no_schedule("sigmas are run as they are", schedule)
            given |= _own_levels(self.sigmas, given["steps"])
        if given["strength"] == 0:
            raise ValueError("strength must be above 0; got 0. At 0 there is nothing to run: take the image as it is")
        tables: dict[str, tuple[str, Mapping[str, Option]]] = {
            "sampler_options": (f"sampler {spec.name}", spec.options),
            "schedule_options": (f"schedule {schedule}", {**schedule_options(schedule), **_RANGE}),
            "process": ("process", _PROCESS),
        }
        for name, (owner, known) in tables.items():
            given[name] = MappingProxyType(_options(name, owner, known, getattr(self, name)))
        set_fields(self, **given)

    def _check_no_schedule(self, why: str, schedule: str) -> None:
        if schedule != NoiseSchedule.default():
            raise ValueError(f"{why}; leave out schedule {schedule}")
        if self.schedule_options:
            raise ValueError(f"{why}; leave out schedule_options")

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """One for each image."""
        if isinstance(self.seed, int):
            return tuple(self.seed + i for i in range(self.count or 1))
        return tuple(self.seed)

    def single(self, number: int) -> SamplingConfig:
        """The configuration of one image of the batch, which draws that image alone."""
        return replace(self, seed=self.seeds[number], count=1)

    # ---------------------------------------------------------------------------------------------------- shorthands

    @classmethod
    def from_label(cls, prompt: str, label: str, **changes: Any) -> SamplingConfig:
        """With the sampler and schedule of a label such as "DPM++ 2M Karras" (see `ksched.parse_label`)."""
        return cls.from_dict({"prompt": prompt, "label": label, **changes})

    @classmethod
    def from_preset(cls, prompt: str, preset: str, **changes: Any) -> SamplingConfig:
        """With the sampler, schedule and steps of one of `PRESETS`, and what is changed of them."""
        return cls.from_dict({"prompt": prompt, "preset": preset, **changes})

    # -------------------------------------------------------------------------------------------------- in and out

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> SamplingConfig:
        """From the fields by name, and the shorthands ``label`` and ``preset``.

        Raises
        ------
        TypeError : no mapping of names to values
        ValueError : an unknown field, no prompt, a label beside what it stands for
        """
        if not isinstance(entries, Mapping):
            raise TypeError(f"a configuration must map names of fields to values; got {type(entries).__name__}")
        names = [f.name for f in fields(cls)]
        if "scheduler" in entries:
            raise ValueError(
                "the field 'scheduler' is retired, since it named two things at once: give 'sampler' (such as "
                "'dpmpp_2m') and 'schedule' (such as 'karras')." + _split_of(entries["scheduler"])
            )
        for name in entries:
            if name not in (*names, *_SHORTHANDS):
                near = difflib.get_close_matches(str(name), [*names, *_SHORTHANDS], n=1)
                hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join([*names, *_SHORTHANDS])}"
                raise ValueError(f"unknown field {name!r}; {hint}")
        if "prompt" not in entries:
            raise ValueError("the field 'prompt' is missing; say what to draw, \"\" for anything")
        given = dict(entries)
        preset: Mapping[str, Any] = {}
        if "preset" in given:
            chosen = _text("preset", given.pop("preset"))
            if chosen not in PRESETS:
                raise ValueError(f"preset must be one of {', '.join(PRESETS)}; got {chosen!r}")
            preset = PRESETS[chosen]
        if "label" in given:
            if beside := {"sampler", "schedule"} & given.keys():
                raise ValueError(f"label names sampler and schedule; leave out {' and '.join(sorted(beside))}, or it")
            sampler, schedule = parse_label(given.pop("label"))
            given |= {"sampler": sampler.value, "schedule": schedule}
        return cls(**{**preset, **given})

    def to_dict(self) -> dict[str, Any]:
        """Every field as plain data, without sigmas where there are none; None where the size is left to others."""
        plain: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        if self.sigmas is None:  # as configurations were before there was this field
            del plain["sigmas"]
        else:
            plain["sigmas"] = list(self.sigmas)
        listed = {name: dict(value) for name, value in plain.items() if isinstance(value, Mapping)}
        return plain | listed | {"seed": self.seed if isinstance(self.seed, int) else list(self.seed)}

    def to_json(self, *, indent: int | None = None) -> str:
        """As JSON, which `from_json` reads."""
        return json.dumps(self.to_dict(), indent=indent)

    @classmethod
    def from_json(cls, text: str | bytes) -> SamplingConfig:
        """From JSON; errors as for `from_dict`, and a ValueError for text that is no JSON."""
        try:
            entries = parse_json(text, constants=True)
        except ValueError as error:
            raise ValueError(f"the configuration must be JSON; {error}") from None
        return cls.from_dict(entries)

    def to_toml(self) -> str:
        """As TOML, which `from_toml` reads; fields without a value are left out, as TOML has no null."""
        plain = self.to_dict()
        lines = [f"{name} = {_toml(v)}" for name, v in plain.items() if v is not None and not isinstance(v, dict)]
        for name, table in plain.items():
            if isinstance(table, dict) and table:
                lines += ["", f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items())]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_toml(cls, text: str) -> SamplingConfig:
        """From TOML; errors as for `from_dict`, and a ValueError for text that is no TOML."""
        try:
            entries = parse_toml(text)
        except ValueError as error:
            raise ValueError(f"the configuration must be TOML; {error}") from None
        return cls.from_dict(entries)

    def __hash__(self) -> int:
        return hash(self.to_json())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_dict, (self.to_dict(),)  # a read-only mapping does not pickle


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be text; got {value!r}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{name} must be text that can be written as UTF-8; it has half a surrogate pair")
    return str(value)


def _whole(name: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be a whole number; got {value!r}")
    number = int(value)
    if not low <= number <= high:
        raise ValueError(f"{name} must be at least {low} and at most {high}; got {value}")
    return number


def _steps(value: Any) -> int:
    try:
        return _whole("steps", value, 1, _MOST_STEPS)
    except ValueError as error:
        raise ValueError(str(error).replace(";", ", as many as models are trained with;")) from None


def _own_levels(sigmas: Any, steps: int) -> dict[str, Any]:
    """Noise levels of one's own, checked, and how many steps they make."""
    levels = check_sigmas(sigmas, math.inf).tolist()
    count = _steps(len(levels) - 1)
    if steps not in (count, 20):  # the default, where nothing was said
        raise ValueError(f"steps must be left out where sigmas are given: they make {count} steps; got {steps}")
    return {"sigmas": tuple(levels), "steps": count}


def _number(name: str, value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number; got {value!r}")
    try:
        number = float(value)
    except OverflowError:
        number = math.nan
    if not low <= number <= high:  # NaN is in no range
        raise ValueError(f"{name} must be at least {low:g} and at most {high:g}; got {value}")
    return number


def _side(name: str, value: Any) -> int | None:
    if value is None:
        return None
    side = _whole(name, value, 8, _LARGEST_SIDE)
    if side % 8:
        raise ValueError(f"{name} must be a multiple of 8; got {side}: take {side - side % 8} or {side - side % 8 + 8}")
    return side


def _seeds(seed: Any, count: int | None) -> int | tuple[int, ...]:
    if isinstance(seed, str) or not isinstance(seed, Sequence):
        first = _whole("seed", seed, 0, _LARGEST_SEED)
        _whole("seed of the last image", first + (count or 1) - 1, 0, _LARGEST_SEED)
        return first
    seeds = tuple(_whole(f"seed[{i}]", one, 0, _LARGEST_SEED) for i, one in enumerate(seed))
    if not seeds or count not in (None, len(seeds)):
        raise ValueError(
            f"seed must be one number, or one for each image; got {len(seeds)} seeds for "
            f"{'no number of' if count is None else count} images"
        )
    return seeds


def _options(name: str, owner: str, known: Mapping[str, Option], given: Any) -> dict[str, Any]:
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise TypeError(f"{name} must map names of options to values; got {given!r}")
    given = our_words(known, given)
    for key, value in given.items():
        if isinstance(value, float) and math.isnan(value):
            raise ValueError(f"{owner}: {key} must be a number; got nan")
    texts = {key: _text(key, value) for key, value in given.items() if key in known and known[key].kind is str}
    Prediction.parse(texts.get("prediction_type", Prediction.EPSILON))  # refuses an unknown one
    return {**check_options(owner, known, {key: value for key, value in given.items() if key not in texts}), **texts}


def _split_of(label: Any) -> str:
    """What a name of two things at once stands for, where that can be told."""
    try:
        sampler, schedule = parse_label(str(label).replace("_", " "))
    except ValueError:
        return ""
    return f" {label!r} is sampler {sampler.value!r} with schedule {schedule.value!r}."


def _toml(value: Any) -> str:
    """A value in TOML, whose strings and lists are those of JSON but for one character."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # inf, which JSON does not have
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_toml(each)}" for name, each in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
