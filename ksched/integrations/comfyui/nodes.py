"""Nodes made from the registry: every sampler and schedule with its options, and noise by item.

A node is data, `Node`, from which both forms are made that ComfyUI knows: classes with INPUT_TYPES (V1), and schemas
(V3).
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

import torch

from ksched.integrations.comfyui.sampling import NoiseKind, calculate_sigmas, process_of, sampler_function
from ksched.names.dialects import DIALECTS as SAMPLER_DIALECTS
from ksched.names.enums import Dialect, NoiseSchedule, SamplerType
from ksched.noise.seeded import SeededNoise
from ksched.options import Option, check_options
from ksched.plan.rows import Draw
from ksched.samplers.facts import option_texts, sampler_facts
from ksched.samplers.registry import sampler_spec, samplers
from ksched.samplers.spec import SamplerSpec
from ksched.schedules import DIALECTS as SCHEDULE_DIALECTS
from ksched.schedules import SCHEDULES, schedule_options

__all__ = ["NODES", "NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "Input", "Node", "comfy_entrypoint"]

#: ComfyUI's own stand-in for infinity, which its numbers cannot be
_LARGEST = 999999999.9
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
    choices : of a COMBO
    required : whether the node runs only with it
    """

    name: str
    kind: str
    tooltip: str
    default: Any = None
    low: float | None = None
    high: float | None = None
    step: float | None = None
    choices: tuple[str, ...] = ()
    required: bool = False

    @property
    def _numbers(self) -> dict[str, Any]:
        named = {"min": self.low, "max": self.high, "step": self.step}
        return {name: value for name, value in named.items() if value is not None}

    @property
    def v1(self) -> tuple[Any, dict[str, Any]]:
        """As an entry of INPUT_TYPES."""
        how: dict[str, Any] = {"tooltip": self.tooltip, **self._numbers}
        if self.default is not None:
            how["default"] = self.default
        if self.kind == "FLOAT":
            how["round"] = False
        return (list(self.choices) if self.kind == "COMBO" else self.kind), how

    def v3(self, io: Any) -> Any:
        """As an input of a schema."""
        how: dict[str, Any] = {"tooltip": self.tooltip, "optional": not self.required, **self._numbers}
        if self.default is not None:
            how["default"] = self.default
        if self.kind == "FLOAT":
            how["round"] = False
        if self.kind == "COMBO":
            how["options"] = list(self.choices)
        return getattr(io, self.kind.title()).Input(self.name, **how)


@dataclass(frozen=True)
class Node:
    """One node.

    Attributes
    ----------
    name : unique among all nodes of ComfyUI
    title, category, description : as ComfyUI shows them
    output : "SAMPLER", "SIGMAS" or "NOISE"
    inputs : what it is given
    run : from the inputs by name to the output; those that are not required may be left out
    """

    name: str
    title: str
    category: str
    description: str
    output: str
    inputs: tuple[Input, ...]
    run: Callable[..., Any]

    @property
    def v1(self) -> type:
        """As a class with INPUT_TYPES."""
        groups: dict[str, dict[str, Any]] = {"required": {}, "optional": {}}
        for given in self.inputs:
            groups["required" if given.required else "optional"][given.name] = given.v1

        def input_types(cls: type, /) -> dict[str, dict[str, Any]]:
            return groups

        def execute(self: Any, **given: Any) -> tuple[Any]:
            return (run(**given),)

        run = self.run
        members: dict[str, Any] = {
            "__doc__": self.description,
            "__module__": __name__,
            "INPUT_TYPES": classmethod(input_types),
            "RETURN_TYPES": (self.output,),
            "FUNCTION": "execute",
            "CATEGORY": self.category,
            "DESCRIPTION": self.description,
            "execute": execute,
        }
        return type(self.name, (), members)

    def v3(self, io: Any) -> type:
        """As a subclass of ``io.ComfyNode``."""
        node = self

        def define_schema(cls: type, /) -> Any:
            return io.Schema(
                node_id=node.name,
                display_name=node.title,
                category=node.category,
                description=node.description,
                inputs=[given.v3(io) for given in node.inputs],
                outputs=[getattr(io, node.output.title()).Output()],
            )

        def execute(cls: type, /, **given: Any) -> Any:
            return io.NodeOutput(node.run(**given))

        members = {
            "__doc__": self.description,
            "__module__": __name__,
            "define_schema": classmethod(define_schema),
            "execute": classmethod(execute),
        }
        return type(self.name, (io.ComfyNode,), members)


# -------------------------------------------------------------------------------------------------- inputs from options


def _input_of(option: Option, text: str, decided: bool) -> Input:
    """An option as an input; one that a dialect decides has a value for that."""
    if decided or get_origin(option.kind) is Literal:
        values = (True, False) if option.kind is bool else get_args(option.kind)
        choices = tuple(map(str, values))
        if decided:
            return Input(option.name, "COMBO", text, _AS_DIALECT, choices=(_AS_DIALECT, *choices))
        return Input(option.name, "COMBO", text, str(option.default), choices=choices)
    if option.kind is bool:
        return Input(option.name, "BOOLEAN", text, option.default)
    low, high = max(option.low, -_LARGEST), min(option.high, _LARGEST)
    default = min(max(option.default, low), high)
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
    return math.inf if given == _LARGEST and option.high == math.inf else given


def _values(known: Mapping[str, Option], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the inputs give, those left to the dialect not among them."""
    return {name: _value_of(known[name], value) for name, value in given.items() if value != _AS_DIALECT}


def _read(text: str, owner: str, known: Mapping[str, Option]) -> dict[str, Any]:
    """Options written as text, "eta=0.5, s_noise=1.01", checked."""
    given: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.replace(";", ",").replace("\n", ",").split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise ValueError(f"options are written name=value, such as eta=0.5, with commas between; got {part!r}")
        given[name] = _value_of(known[name], value) if name in known else value
    return check_options(owner, known, given)


def _decided(spec: SamplerSpec) -> set[str]:
    if spec.name not in list(SamplerType):
        return set()
    return {name for dialect in _DIALECTS for name in SAMPLER_DIALECTS[dialect].get(SamplerType(spec.name), {})}


def _decided_schedule(schedule: NoiseSchedule) -> set[str]:
    return {name for dialect in _DIALECTS for name in SCHEDULE_DIALECTS[dialect].get(schedule, {})}


_DIALECT = Input(
    "dialect",
    "COMBO",
    "comfyui: as ComfyUI's own of this name computes it. ksched: the published method, right on flow models too",
    Dialect.COMFYUI.value,
    choices=tuple(dialect.value for dialect in _DIALECTS),
)
_NOISE = Input(
    "noise",
    "COMBO",
    "of the steps. seeded: an image's noise depends on the seed plus its place in the batch alone. brownian: the same, "
    "and the picture stays when the number of steps changes. comfyui: what ComfyUI's own sampler would draw",
    "seeded",
    choices=get_args(NoiseKind),
)
_MODEL = Input("model", "MODEL", "the model that will be sampled: its noise levels are used", required=True)
_STEPS = Input("steps", "INT", "number of steps", 20, 1, 10000, 1, required=True)
_DENOISE = Input(
    "denoise",
    "FLOAT",
    "1 is the whole schedule; below, the last steps of a longer one, as for KSampler",
    1.0,
    0.0,
    1.0,
    0.01,
    required=True,
)


def _options_input(example: str) -> Input:
    return Input("options", "STRING", f"name=value with commas between, such as {example}; empty leaves all as is", "")


# ---------------------------------------------------------------------------------------------------------------- nodes

_UNDER = "sampling/custom_sampling"


def _ksampler(name: str, dialect: str, noise: NoiseKind, options: Mapping[str, Any]) -> Any:
    """A SAMPLER of ComfyUI's with our function."""
    function = sampler_function(name, dialect=dialect, noise=noise, **options)
    # ComfyUI runs the same for its own ddim: under a mask the noise of the kept part is another one
    own = {"random": True} if name == SamplerType.DDIM and Dialect.parse(dialect) is Dialect.COMFYUI else {}
    return importlib.import_module("comfy.samplers").KSAMPLER(function, {}, own)


def _any_sampler() -> Node:
    def run(sampler: str, dialect: str = Dialect.COMFYUI.value, noise: NoiseKind = "seeded", options: str = "") -> Any:
        spec = sampler_spec(sampler)
        return _ksampler(spec.key, dialect, noise, _read(options, f"sampler {spec.name}", spec.options))

    names = tuple(spec.name for spec in samplers())
    choice = Input("sampler", "COMBO", "how a run steps between noise levels", "euler", choices=names, required=True)
    return Node(
        "KSchedSampler",
        "ksched sampler",
        f"{_UNDER}/samplers/ksched",
        "Any sampler of ksched.",
        "SAMPLER",
        (choice, _DIALECT, _NOISE, _options_input("eta=0.5, s_noise=1.01")),
        run,
    )


def _one_sampler(spec: SamplerSpec) -> Node:
    def run(dialect: str = Dialect.COMFYUI.value, noise: NoiseKind = "seeded", **given: Any) -> Any:
        return _ksampler(spec.name, dialect, noise, _values(spec.own_options, given))

    texts, decided = option_texts(spec.function), _decided(spec)
    inputs = [
        _input_of(option, texts.get(name, "an option of this sampler"), name in decided)
        for name, option in spec.own_options.items()
    ]
    noisy = "s_noise" in spec.own_options or spec.draws != 0
    facts = "; ".join(f"{name}: {value}" for name, value in sampler_facts(spec).items())
    return Node(
        f"KSchedSampler_{spec.name}",
        f"ksched {spec.name}",
        f"{_UNDER}/samplers/ksched",
        f"{_plain(spec.summary)} {facts}. Source: {spec.source}.",
        "SAMPLER",
        (*inputs, _DIALECT, *([_NOISE] if noisy else [])),
        run,
    )


def _levels(
    model: Any, schedule: NoiseSchedule, steps: int, denoise: float, dialect: str, options: Mapping[str, Any]
) -> torch.Tensor:
    """As BasicScheduler: less than 1 is the end of a longer schedule, 0 nothing."""
    if denoise <= 0:
        return torch.zeros(0)
    total = int(steps / denoise) if denoise < 1 else steps
    sampling = model.get_model_object("model_sampling")
    return calculate_sigmas(sampling, schedule, total, dialect=dialect, **options)[-(steps + 1) :]


def _any_schedule() -> Node:
    def run(
        model: Any,
        schedule: str,
        steps: int,
        denoise: float,
        dialect: str = Dialect.COMFYUI.value,
        options: str = "",
    ) -> torch.Tensor:
        name = NoiseSchedule.parse(schedule)
        known = {**schedule_options(name), **_RANGE}
        return _levels(model, name, steps, denoise, dialect, _read(options, f"schedule {name}", known))

    names = tuple(name.value for name in NoiseSchedule)
    choice = Input("schedule", "COMBO", "which noise levels a run visits", "karras", choices=names, required=True)
    return Node(
        "KSchedSigmas",
        "ksched sigmas",
        f"{_UNDER}/schedulers/ksched",
        "Any noise schedule of ksched.",
        "SIGMAS",
        (_MODEL, choice, _STEPS, _DENOISE, _DIALECT, _options_input("rho=5, sigma_max=12")),
        run,
    )


_PLAN = Input("plan", "STRING", '"auto", or the JSON of a plan', "auto", required=True)


def _plan_sampler() -> Node:
    def run(plan: str) -> Any:
        return _ksampler(sampler_spec(plan.strip()).key, Dialect.KSCHED.value, "seeded", {})

    text = "The sampler of a tuned plan, or the best one known; on levels of its own, which 'ksched plan sigmas' makes."
    where = f"{_UNDER}/samplers/ksched"
    return Node("KSchedPlanSampler", "ksched plan sampler", where, text, "SAMPLER", (_PLAN,), run)


def _plan_sigmas() -> Node:
    def run(model: Any, plan: str, steps: int) -> torch.Tensor:
        spec = sampler_spec(plan.strip())
        if spec.levels is None:
            raise ValueError(f"plan must be 'auto' or the JSON of a plan; sampler {spec.name} takes a schedule")
        process = process_of(model.get_model_object("model_sampling"))
        return torch.tensor(list(spec.levels(steps, process)), dtype=torch.float32)

    text = "The noise levels of a tuned plan, or of the best one known for a number of steps."
    where = f"{_UNDER}/schedulers/ksched"
    return Node("KSchedPlanSigmas", "ksched plan sigmas", where, text, "SIGMAS", (_MODEL, _PLAN, _STEPS), run)


_RANGE = {
    "sigma_min": Option("sigma_min", float, 0.0, 0.0, _LARGEST),
    "sigma_max": Option("sigma_max", float, 0.0, 0.0, _LARGEST),
}
_RANGE_TEXTS = {
    "sigma_min": "lowest noise level above 0; 0 is that of the model",
    "sigma_max": "highest noise level; 0 is that of the model",
}


def _one_schedule(schedule: NoiseSchedule) -> Node:
    spec, own = SCHEDULES[schedule], schedule_options(schedule)
    names = {"table": "model"} if "model" in own else {}  # there is a model among the inputs already

    def run(model: Any, steps: int, denoise: float, dialect: str = Dialect.COMFYUI.value, **given: Any) -> torch.Tensor:
        options = _values({**own, **_RANGE}, {names.get(name, name): value for name, value in given.items()})
        options = {name: value for name, value in options.items() if name not in _RANGE or value > 0}
        return _levels(model, schedule, steps, denoise, dialect, options)

    texts, decided = option_texts(spec.function), _decided_schedule(schedule)
    inputs = [
        _input_of(option._replace(name="table" if name in names.values() else name), texts[name], name in decided)
        for name, option in own.items()
    ]
    inputs += [_input_of(option, _RANGE_TEXTS[name], False) for name, option in _RANGE.items()]
    return Node(
        f"KSchedSigmas_{schedule.value}",
        f"ksched {schedule.value} sigmas",
        f"{_UNDER}/schedulers/ksched",
        f"{spec.formula.capitalize()}. Source: {spec.source}.",
        "SIGMAS",
        (_MODEL, _STEPS, _DENOISE, *inputs, _DIALECT),
        run,
    )


@dataclass(frozen=True)
class _NoiseByItem:
    """A NOISE of ComfyUI's: the start noise of an item depends on its seed and nothing else."""

    seed: int

    def generate_noise(self, latent: Mapping[str, Any]) -> torch.Tensor:
        """Noise for a LATENT, on the processor; item i has the seed plus i, or plus its batch index if it has one."""
        samples = latent["samples"]
        places = latent.get("batch_index") or range(samples.shape[0])
        like = torch.empty(samples.shape, dtype=samples.dtype)
        return SeededNoise(tuple(self.seed + int(i) for i in places))(Draw(math.inf, math.inf), like)


def _noise() -> Node:
    def run(seed: int) -> _NoiseByItem:
        return _NoiseByItem(seed)

    text = "of the first image of the batch; the next has the next one"
    seed = Input("seed", "INT", text, 0, 0, 2**64 - 1, 1, required=True)
    return Node(
        "KSchedNoise",
        "ksched noise",
        f"{_UNDER}/noise",
        "Start noise by item: an image alone is the image in its batch, on every machine.",
        "NOISE",
        (seed,),
        run,
    )


def _plain(text: str) -> str:
    return text.replace("`", "")


def _nodes() -> Iterator[Node]:
    yield _any_sampler()
    yield _any_schedule()
    yield _plan_sampler()
    yield _plan_sigmas()
    yield _noise()
    yield from map(_one_sampler, samplers())
    yield from map(_one_schedule, NoiseSchedule)


#: All nodes: one for any sampler, one for any schedule, two for a plan, one for noise, then one for each sampler and
#: each schedule.
NODES: tuple[Node, ...] = tuple(_nodes())
#: What ComfyUI looks for in a node package.
NODE_CLASS_MAPPINGS: dict[str, type] = {node.name: node.v1 for node in NODES}
#: Their titles.
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {node.name: node.title for node in NODES}


async def comfy_entrypoint() -> Any:
    """What ComfyUI looks for in a node package of the newer kind: the same nodes, as schemas.

    Raises
    ------
    ImportError : this ComfyUI does not know them
    """
    api: Any = importlib.import_module("comfy_api.latest")

    async def get_node_list(self: Any) -> list[type]:
        return [node.v3(api.io) for node in NODES]

    return type("KSchedExtension", (api.ComfyExtension,), {"get_node_list": get_node_list})()
