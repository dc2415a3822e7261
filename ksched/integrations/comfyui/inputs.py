"""Inputs of nodes: options of samplers and schedules as ComfyUI shows them, and read back from what it hands over."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from ksched.integrations.comfyui.noise import NoiseKind
from ksched.integrations.comfyui.sampling import AUTO
from ksched.names.enums import Dialect, NoiseSchedule
from ksched.options import Option, check_options
from ksched.samplers.registry import dialect_options
from ksched.samplers.spec import SamplerSpec
from ksched.schedules import DIALECTS as SCHEDULE_DIALECTS

__all__ = [
    "DENOISE",
    "DIALECT",
    "LARGEST",
    "METHOD",
    "MODEL",
    "NOISE",
    "RANGE",
    "RANGE_TEXTS",
    "STEPS",
    "Input",
    "decided_of_sampler",
    "decided_of_schedule",
    "input_of",
    "option_values",
    "options_input",
    "read_options",
]

#: ComfyUI's own stand-in for infinity, which its numbers cannot be
LARGEST = 999999999.9
#: the value of an option that a dialect decides
_AS_DIALECT = "as the dialect"
#: ours are all right; others change numbers that a node's inputs say
_DIALECTS = (Dialect.COMFYUI, Dialect.KSCHED)


@dataclass(frozen=True)
class Input:
    """One input of a node.

    Attributes
    ----------
    name, tooltip : as ComfyUI shows them
    kind : "MODEL", "INT", "FLOAT", "BOOLEAN", "STRING" or "COMBO"
    default, low, high, step : of a number; default of all others but MODEL
    choices : of a COMBO; those of a function are what it returns whenever ComfyUI asks
    required : whether the node runs only with it
    """

    name: str
    kind: str
    tooltip: str
    default: Any = None
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: tuple[str, ...] | Callable[[], Iterable[str]] = ()
    required: bool = False

    @property
    def _numbers(self) -> dict[str, Any]:
        named = {"min": self.low, "max": self.high, "step": self.step}
        return {name: value for name, value in named.items() if value is not None}

    @property
    def _menu(self) -> list[str]:
        return list(self.choices() if callable(self.choices) else self.choices)

    @property
    def v1(self) -> tuple[Any, dict[str, Any]]:
        """As an entry of INPUT_TYPES."""
        how: dict[str, Any] = {"tooltip": self.tooltip, **self._numbers}
        if self.default is not None:
            how["default"] = self.default
        if self.kind == "FLOAT":
            how["round"] = False
        return (self._menu if self.kind == "COMBO" else self.kind), how

    def v3(self, io: Any) -> Any:
        """As an input of a schema."""
        how: dict[str, Any] = {"tooltip": self.tooltip, "optional": not self.required, **self._numbers}
        if self.default is not None:
            how["default"] = self.default
        if self.kind == "FLOAT":
            how["round"] = False
        if self.kind == "COMBO":
            how["options"] = self._menu
        return getattr(io, self.kind.title()).Input(self.name, **how)


def input_of(option: Option, text: str, decided: bool) -> Input:
    """An option as an input; one that a dialect decides has a value for that."""
    if decided or get_origin(option.kind) is Literal:
        values = (True, False) if option.kind is bool else get_args(option.kind)
        choices = tuple(map(str, values))
        if decided:
            return Input(option.name, "COMBO", text, _AS_DIALECT, choices=(_AS_DIALECT, *choices))
        return Input(option.name, "COMBO", text, str(option.default), choices=choices)
    if option.kind is bool:
        return Input(option.name, "BOOLEAN", text, option.default)
    low, high = max(option.low, -LARGEST), min(option.high, LARGEST)
    default = min(max(option.default or 0, low), high)
    if option.kind is int:
        return Input(option.name, "INT", text, int(default), int(low), int(high), 1)
    step = 0.01 if abs(default) >= 0.02 or default == 0 else 0.0001
    return Input(option.name, "FLOAT", text, float(default), float(low), float(high), step)


def _value_of(option: Option, given: Any) -> Any:
    """What an input says, as a value of the option."""
    if isinstance(given, str) and option.kind is bool:
        return {"true": True, "false": False}.get(given.lower(), given)
    if get_origin(option.kind) is Literal:
        return next((value for value in get_args(option.kind) if str(value) == str(given)), given)
    if isinstance(given, str):
        try:
            return option.kind(given)
        except ValueError:
            return given  # for the option to refuse
    return math.inf if given == LARGEST and option.high == math.inf else given


def option_values(known: Mapping[str, Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the inputs give, those left to the dialect not among them."""
    return {name: _value_of(known[name], value) for name, value in given.items() if value != _AS_DIALECT}


def read_options(text: str, owner: str, known: Mapping[str, Option]) -> dict[str, Any]:
    """Options written as text, "eta=0.5, s_noise=1.01", checked."""
    given: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.replace(";", ",").replace("\n", ",").split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ValueError(f"options are written name=value, such as eta=0.5, with commas between; got {part!r}")
        given[name] = _value_of(known[name], value) if name in known else value
    return check_options(owner, known, given)


def decided_of_sampler(spec: SamplerSpec) -> set[str]:
    """Names of the options of a sampler that a dialect decides."""
    return {name for dialect in _DIALECTS for name in dialect_options(spec, dialect)}


def decided_of_schedule(schedule: NoiseSchedule) -> set[str]:
    """Names of the options of a schedule that a dialect decides."""
    return {name for dialect in _DIALECTS for name in SCHEDULE_DIALECTS[dialect].get(schedule, {})}


DIALECT = Input(
    "dialect",
    "COMBO",
    "whose levels the name means. comfyui: as ComfyUI computes them. ksched: as published",
    Dialect.COMFYUI.value,
    choices=tuple(dialect.value for dialect in _DIALECTS),
)
METHOD = Input(
    "dialect",
    "COMBO",
    "whose method the name means. auto: ComfyUI's own where that is right; the published one on flow models where "
    "ComfyUI's own overshoots, as some with CFG++ or noise do. comfyui: ComfyUI's own numbers on flow models too. "
    "ksched: the published method on all models",
    AUTO,
    choices=(AUTO, *(dialect.value for dialect in _DIALECTS)),
)
NOISE = Input(
    "noise",
    "COMBO",
    "of the steps. seeded: an image's noise depends on the seed plus its place in the batch alone, or its index where "
    "ksched noise is the NOISE. brownian: the same, and the picture stays when the number of steps changes. comfyui: "
    "what ComfyUI's own sampler would draw, also under a mask. pink, brown, blue, violet, pyramid, offset: noise that "
    "is not white; it moves the law of the results",
    "seeded",
    choices=get_args(NoiseKind),
)
MODEL = Input("model", "MODEL", "the model that will be sampled: its noise levels are used", required=True)
STEPS = Input("steps", "INT", "number of steps", 20, 1, 10000, 1, required=True)
DENOISE = Input(
    "denoise",
    "FLOAT",
    "1 is the whole schedule; below, the last steps of a longer one, as for KSampler",
    1.0,
    0.0,
    1.0,
    0.01,
    required=True,
)


def options_input(example: str) -> Input:
    """An input for options written as text."""
    return Input("options", "STRING", f"name=value with commas between, such as {example}; empty leaves all as is", "")


RANGE = {
    "sigma_min": Option("sigma_min", float, 0.0, 0.0, LARGEST),
    "sigma_max": Option("sigma_max", float, 0.0, 0.0, LARGEST),
}
RANGE_TEXTS = {
    "sigma_min": "lowest noise level above 0; 0 is that of the model",
    "sigma_max": "highest noise level; 0 is that of the model",
}
