"""Inputs of nodes: options of samplers and schedules as ComfyUI shows them, and how their values are read back."""

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

#: ComfyUI's stand-in for infinity, which its number inputs cannot hold
LARGEST = 999999999.9
#: the value of an option that the dialect decides
_AS_DIALECT = "as the dialect"
#: ksched's own schedules are all correct; the other dialects would change numbers that the node's inputs show
_DIALECTS = (Dialect.COMFYUI, Dialect.KSCHED)


@dataclass(frozen=True)
class Input:
    """One input of a node.

    Attributes
    ----------
    name, tooltip : str
        As ComfyUI shows them.
    kind : str
        "MODEL", "INT", "FLOAT", "BOOLEAN", "STRING" or "COMBO".
    default, low, high, step : object, float or None
        For numbers; all other kinds but MODEL have only a default.
    choices : tuple of str or callable
        Choices of a COMBO, or a function that returns them whenever ComfyUI asks.
    required : bool
        Whether the node needs it to run.
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
        """The entry of INPUT_TYPES."""
        how: dict[str, Any] = {"tooltip": self.tooltip, **self._numbers}
        if self.default is not None:
            how["default"] = self.default
        if self.kind == "FLOAT":
            how["round"] = False
        return (self._menu if self.kind == "COMBO" else self.kind), how

    def v3(self, io: Any) -> Any:
        """The input of a schema."""
        how: dict[str, Any] = {"tooltip": self.tooltip, "optional": not self.required, **self._numbers}
        if self.default is not None:
            how["default"] = self.default
        if self.kind == "FLOAT":
            how["round"] = False
        if self.kind == "COMBO":
            how["options"] = self._menu
        return getattr(io, self.kind.title()).Input(self.name, **how)


def input_of(option: Option, text: str, decided: bool) -> Input:
    """An option as an input; if a dialect decides it, the choices include leaving it to the dialect."""
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
    """The value of an input as a value of the option."""
    if isinstance(given, str) and option.kind is bool:
        return {"true": True, "false": False}.get(given.lower(), given)
    if get_origin(option.kind) is Literal:
        return next((value for value in get_args(option.kind) if str(value) == str(given)), given)
    if isinstance(given, str):
        try:
            return option.kind(given)
        except ValueError:
            return given  # the option will raise an error
    return math.inf if given == LARGEST and option.high == math.inf else given


def option_values(known: Mapping[str, Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options given by the inputs, without those left to the dialect."""
    return {name: _value_of(known[name], value) for name, value in given.items() if value != _AS_DIALECT}


def read_options(text: str, owner: str, known: Mapping[str, Option]) -> dict[str, Any]:
    """Options written as text, such as "eta=0.5, s_noise=1.01", checked."""
    given: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.replace(";", ",").replace("\n", ",").split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ValueError(f"options must be name=value, separated by commas, such as eta=0.5; got {part!r}")
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
    "program whose noise levels the name means. comfyui: as ComfyUI computes them. ksched: as published",
    Dialect.COMFYUI.value,
    choices=tuple(dialect.value for dialect in _DIALECTS),
)
METHOD = Input(
    "dialect",
    "COMBO",
    "program whose method the name means. auto: ComfyUI's own where it is right, and the published one on flow models "
    "where ComfyUI's overshoots, as with some CFG++ and noisy samplers. comfyui: ComfyUI's own numbers on flow models "
    "too. ksched: the published method on all models",
    AUTO,
    choices=(AUTO, *(dialect.value for dialect in _DIALECTS)),
)
NOISE = Input(
    "noise",
    "COMBO",
    "noise of the steps. seeded: an image's noise depends only on the seed plus its place in the batch, or its "
    "index if NOISE comes from ksched noise. brownian: the same, and the image stays similar at other numbers of "
    "steps. "
    "comfyui: the noise of ComfyUI's own sampler, also under a mask. pink, brown, blue, violet, pyramid, offset: noise "
    "that is not white; it changes the distribution of the results",
    "seeded",
    choices=get_args(NoiseKind),
)
MODEL = Input("model", "MODEL", "the model to be sampled; its noise levels are used", required=True)
STEPS = Input("steps", "INT", "number of steps", 20, 1, 10000, 1, required=True)
DENOISE = Input(
    "denoise",
    "FLOAT",
    "1 is the whole schedule; less is the last steps of a longer one, as in KSampler",
    1.0,
    0.0,
    1.0,
    0.01,
    required=True,
)


def options_input(example: str) -> Input:
    """An input for options written as text."""
    return Input("options", "STRING", f"name=value, separated by commas, such as {example}; empty for the defaults", "")


RANGE = {
    "sigma_min": Option("sigma_min", float, 0.0, 0.0, LARGEST),
    "sigma_max": Option("sigma_max", float, 0.0, 0.0, LARGEST),
}
RANGE_TEXTS = {
    "sigma_min": "lowest sigma above 0; 0 uses the model's",
    "sigma_max": "highest sigma; 0 uses the model's",
}
