"""`SamplingConfig`: everything that an image depends on except the model, checked field by field, as JSON and TOML."""

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
from ksched.stable_diffusion.named_noise import noise_text
from ksched.storage.texts import parse_json, parse_toml
from ksched.types import set_fields

__all__ = ["POPULAR", "PRESETS", "SamplingConfig"]

#: settings by purpose; the pairs are those of "How to choose a sampler" for these numbers of model calls
PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "fast": {"sampler": "deis", "schedule": "karras", "steps": 8},
        "balanced": {"sampler": "dpmpp_2m", "schedule": "karras", "steps": 20},
        "high_quality": {"sampler": "dpmpp_2m", "schedule": "karras", "steps": 50},
    }
)
#: labels of the most popular pairs, for menus; `SamplingConfig.from_label` accepts any other
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

#: settings of the model's scheduler that ``process`` may override, by the scheduler's names
_PROCESS: Mapping[str, Option] = {
    "prediction_type": Option("prediction_type", str, None),
    "beta_schedule": Option("beta_schedule", str, None),
    "beta_start": Option("beta_start", float, None, 1e-9, 1.0),
    "beta_end": Option("beta_end", float, None, 1e-9, 1.0),
    "rescale_betas_zero_snr": Option("rescale_betas_zero_snr", bool, None),
    "shift": Option("shift", float, None, 1e-3, 1000.0),
}
_RANGE = {name: Option(name, float, None) for name in ("sigma_min", "sigma_max")}
_LARGEST_SEED = 2**63 - 1  # largest seed of a torch.Generator on every device
_LARGEST_SIDE = 16384
_MOST_STEPS = 1000
_SHORTHANDS = ("label", "preset")


@dataclass(frozen=True)
class SamplingConfig:
    """What to draw and how: an image is a function of this, the model, and the given images.

    Parameters
    ----------
    prompt, negative_prompt : str
        What to draw, and what to avoid.
    steps : int
        Number of steps of the schedule, 1 to 1000; with ``strength``, only the last part of them is run.
    guidance_scale : float
        Scale of classifier-free guidance (CFG), 0 to 100; 1 is none.
    guidance_rescale : float
        Share of the contrast added by guidance that is removed again, 0 to 1 (see `ksched.guidance.rescale`).
    seed : int or sequence of int
        One whole number, and then image i uses ``seed + i``; or a list with one for each image.
    width, height : int or None
        Size in pixels, multiples of 8; None is the size of the given image, or the model's.
    count : int or None
        Number of images; None is the number of seeds.
    sampler, schedule : str
        Names as for `ksched.build_sampler`, stored in ksched's spelling; CFG++ samplers get the predictions they need.
        "auto" and the JSON of a plan have their own sigmas; leave out the schedule then.
    sampler_options, schedule_options : mapping
        Options of the two; the latter may include ``sigma_min`` and ``sigma_max``.
    process : mapping
        Settings of the model's scheduler to override: prediction_type, beta_schedule, beta_start, beta_end,
        rescale_betas_zero_snr, shift.
    strength : float
        How much a given image is changed, above 0 to 1: the share of the steps that are run.
    sigmas : sequence of float or None
        Sigmas to run exactly as given, instead of a schedule; leave out the schedule then.
    noise : str or None
        Noise of the start and of the steps, by name, such as "pink", or a kind with options, such as
        "pyramid:strength=0.5" or "colored:exponent=0.5"; None is white. "brownian" is for the steps alone.

    Raises
    ------
    TypeError
        If a value has the wrong type, or an option is unknown.
    ValueError
        If a value is out of range, or a name is unknown; the message lists similar ones.

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
    noise: str | None = None

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
            "noise": noise_text(self.noise),
        }
        if spec.levels is not None:
            if spec.steps and given["steps"] not in spec.steps:
                numbers = " or ".join(map(str, spec.steps))
                raise ValueError(f"steps must be {numbers} for sampler {spec.name}; got {given['steps']}")
            self._check_no_schedule(f"sampler {spec.name} has its own sigmas", schedule)
            if self.sigmas is not None:
                raise ValueError(f"sampler {spec.name} has its own sigmas; leave out sigmas")
        elif self.sigmas is not None:
            self._check_no_schedule("sigmas are run as they are", schedule)
            given |= _own_levels(self.sigmas, given["steps"])
        if given["strength"] == 0:
            raise ValueError("strength must be above 0; got 0. With 0 no step is run: use the image as it is")
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
        """One seed for each image."""
        if isinstance(self.seed, int):
            return tuple(self.seed + i for i in range(self.count or 1))
        return tuple(self.seed)

    def single(self, number: int) -> SamplingConfig:
        """The configuration of one image of the batch, which draws only that image."""
        return replace(self, seed=self.seeds[number], count=1)

    # ---------------------------------------------------------------------------------------------------- shorthands

    @classmethod
    def from_label(cls, prompt: str, label: str, **changes: Any) -> SamplingConfig:
        """A configuration with the sampler and schedule of a label such as "DPM++ 2M Karras"; see `parse_label`."""
        return cls.from_dict({"prompt": prompt, "label": label, **changes})

    @classmethod
    def from_preset(cls, prompt: str, preset: str, **changes: Any) -> SamplingConfig:
        """A configuration with sampler, schedule and steps of one of `PRESETS`, and any changes to them."""
        return cls.from_dict({"prompt": prompt, "preset": preset, **changes})

    # -------------------------------------------------------------------------------------------------- in and out

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> SamplingConfig:
        """A configuration from its fields by name, with the shorthands ``label`` and ``preset``.

        Raises
        ------
        TypeError
            If the entries are not a mapping of names to values.
        ValueError
            If a field is unknown, the prompt is missing, or a label is combined with the fields it stands for.
        """
        if not isinstance(entries, Mapping):
            raise TypeError(f"a configuration must be a mapping of field names to values; got {type(entries).__name__}")
        names = [f.name for f in fields(cls)]
        if "scheduler" in entries:
            raise ValueError(
                "the field 'scheduler' is no longer used, since it meant two things; pass 'sampler' (such as "
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
                raise ValueError(f"label sets sampler and schedule; leave out {' and '.join(sorted(beside))}, or it")
            sampler, schedule = parse_label(given.pop("label"))
            given |= {"sampler": sampler.value, "schedule": schedule}
        return cls(**{**preset, **given})

    def to_dict(self) -> dict[str, Any]:
        """All fields as plain data; ``sigmas`` and ``noise`` only if given, and None for an open size."""
        plain: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in ("sigmas", "noise"):  # keeps the form of configurations from before these fields existed
            if plain[name] is None:
                del plain[name]
        if self.sigmas is not None:
            plain["sigmas"] = list(self.sigmas)
        listed = {name: dict(value) for name, value in plain.items() if isinstance(value, Mapping)}
        return plain | listed | {"seed": self.seed if isinstance(self.seed, int) else list(self.seed)}

    def to_json(self, *, indent: int | None = None) -> str:
        """The configuration as JSON, for `from_json`."""
        return json.dumps(self.to_dict(), indent=indent)

    @classmethod
    def from_json(cls, text: str | bytes) -> SamplingConfig:
        """A configuration from JSON; errors as for `from_dict`, and ValueError for text that is not JSON."""
        try:
            entries = parse_json(text, constants=True)
        except ValueError as error:
            raise ValueError(f"the configuration must be JSON; {error}") from None
        return cls.from_dict(entries)

    def to_toml(self) -> str:
        """The configuration as TOML, for `from_toml`; fields that are None are left out, as TOML has no null."""
        plain = self.to_dict()
        lines = [f"{name} = {_toml(v)}" for name, v in plain.items() if v is not None and not isinstance(v, dict)]
        for name, table in plain.items():
            if isinstance(table, dict) and table:
                lines += ["", f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items())]
        return "\n".join(lines) + "\n"

    @classmethod
    def from_toml(cls, text: str) -> SamplingConfig:
        """A configuration from TOML; errors as for `from_dict`, and ValueError for text that is not TOML."""
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
        raise ValueError(f"{name} must be text that can be written as UTF-8; it contains half a surrogate pair")
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
        raise ValueError(str(error).replace(";", ", the number that models are trained with;")) from None


def _own_levels(sigmas: Any, steps: int) -> dict[str, Any]:
    """The user's own sigmas, checked, and their number of steps."""
    levels = check_sigmas(sigmas, math.inf).tolist()
    count = _steps(len(levels) - 1)
    if steps not in (count, 20):  # 20 is the default, which means not given
        raise ValueError(f"steps must be left out if sigmas are given, which make {count} steps; got {steps}")
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
        raise ValueError(f"{name} must be a multiple of 8; got {side}. Use {side - side % 8} or {side - side % 8 + 8}")
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
        raise TypeError(f"{name} must be a mapping of option names to values; got {given!r}")
    given = our_words(known, given)
    for key, value in given.items():
        if isinstance(value, float) and math.isnan(value):
            raise ValueError(f"{owner}: {key} must be a number; got nan")
    texts = {key: _text(key, value) for key, value in given.items() if key in known and known[key].kind is str}
    Prediction.parse(texts.get("prediction_type", Prediction.EPSILON))  # an error for an unknown one
    return {**check_options(owner, known, {key: value for key, value in given.items() if key not in texts}), **texts}


def _split_of(label: Any) -> str:
    """The sampler and schedule that a label stands for, if they can be found."""
    try:
        sampler, schedule = parse_label(str(label).replace("_", " "))
    except ValueError:
        return ""
    return f" {label!r} is sampler {sampler.value!r} with schedule {schedule.value!r}."


def _toml(value: Any) -> str:
    """A value in TOML, whose strings and lists are those of JSON except for one character."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # inf, which JSON does not have
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_toml(each)}" for name, each in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
