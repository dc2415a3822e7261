"""Nodes made from the registry: every sampler and schedule with its options, and noise by item.

A node is data, `Node`, from which both forms are made that ComfyUI knows: classes with INPUT_TYPES (V1), and schemas
(V3).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from ksched.integrations.comfyui.inputs import (
    DENOISE,
    DIALECT,
    LARGEST,
    METHOD,
    MODEL,
    NOISE,
    RANGE,
    RANGE_TEXTS,
    STEPS,
    Input,
    decided_of_sampler,
    decided_of_schedule,
    input_of,
    option_values,
    options_input,
    read_options,
)
from ksched.integrations.comfyui.models import process_of
from ksched.integrations.comfyui.noise import NoiseByItem, NoiseKind
from ksched.integrations.comfyui.sampling import AUTO, calculate_sigmas, node_dialect, sampler_function
from ksched.names.enums import Dialect, NoiseSchedule
from ksched.options import Option
from ksched.samplers.facts import option_texts, sampler_facts
from ksched.samplers.registry import sampler_spec, samplers
from ksched.samplers.spec import SamplerSpec
from ksched.schedules.select import SCHEDULES, schedule_name, schedule_options, schedules

__all__ = ["NODES", "NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "Input", "Node", "comfy_entrypoint"]


@dataclass(frozen=True)
class Node:
    """One node.

    Attributes
    ----------
    name : unique among all nodes of ComfyUI
    title, category, description : as ComfyUI shows them
    output : "SAMPLER", "SIGMAS", "NOISE" or "FLOAT"
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
        inputs = self.inputs

        def input_types(cls: type, /) -> dict[str, dict[str, Any]]:
            groups: dict[str, dict[str, Any]] = {"required": {}, "optional": {}}
            for given in inputs:
                groups["required" if given.required else "optional"][given.name] = given.v1
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


# ---------------------------------------------------------------------------------------------------------------- nodes

_UNDER = "sampling/custom_sampling"


def _ksampler(name: str, dialect: str, noise: NoiseKind, options: Mapping[str, Any]) -> Any:
    """A SAMPLER of ComfyUI's with our function."""
    function = sampler_function(name, dialect=dialect, noise=noise, **options)
    # under a mask, some of ComfyUI's own have noise of the whole batch, not of the item
    own = noise == "comfyui" and node_dialect(dialect) in (AUTO, Dialect.COMFYUI)
    inpaint = _inpainting(sampler_spec(name)) if own else {}
    return importlib.import_module("comfy.samplers").KSAMPLER(function, {}, inpaint)


def _inpainting(spec: SamplerSpec) -> dict[str, Any]:
    """Options of ComfyUI's own sampler of the name for runs under a mask."""
    return {name: value for peer in spec.peers for name, value in peer.inpaint.items()}


def _any_sampler() -> Node:
    def run(sampler: str, dialect: str = AUTO, noise: NoiseKind = "seeded", options: str = "") -> Any:
        spec = sampler_spec(sampler)
        return _ksampler(spec.key, dialect, noise, read_options(options, f"sampler {spec.name}", spec.options))

    def names() -> list[str]:
        return [spec.name for spec in samplers()]

    choice = Input("sampler", "COMBO", "how a run steps between noise levels", "euler", choices=names, required=True)
    return Node(
        "KSchedSampler",
        "ksched sampler",
        f"{_UNDER}/samplers/ksched",
        "Any sampler of ksched.",
        "SAMPLER",
        (choice, METHOD, NOISE, options_input("eta=0.5, s_noise=1.01")),
        run,
    )


def _one_sampler(spec: SamplerSpec) -> Node:
    def run(dialect: str = AUTO, noise: NoiseKind = "seeded", **given: Any) -> Any:
        return _ksampler(spec.name, dialect, noise, option_values(spec.own_options, given))

    texts, decided = option_texts(spec.function), decided_of_sampler(spec)
    inputs = [
        input_of(_with_number(spec, option), texts.get(name, "an option of this sampler"), name in decided)
        for name, option in spec.own_options.items()
    ]
    noisy = "s_noise" in spec.own_options or spec.draws != 0 or bool(_inpainting(spec))
    facts = "; ".join(f"{name}: {value}" for name, value in sampler_facts(spec).items())
    return Node(
        f"KSchedSampler_{spec.name}",
        f"ksched {spec.name}",
        f"{_UNDER}/samplers/ksched",
        f"{_plain(spec.summary)} {facts}. Source: {spec.source}.",
        "SAMPLER",
        (*inputs, METHOD, *([NOISE] if noisy else [])),
        run,
    )


def _with_number(spec: SamplerSpec, option: Option) -> Option:
    """An option whose default is no number, with that of ComfyUI's node of the sampler: its inputs are numbers."""
    if option.default is not None:
        return option
    of_nodes = (peer.options for peer in spec.peers if peer.program is Dialect.COMFYUI and option.name in peer.options)
    return option._replace(default=next(of_nodes, {option.name: option.low})[option.name])


def _levels(
    model: Any, schedule: str, steps: int, denoise: float, dialect: str, options: Mapping[str, Any]
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
        name = schedule_name(schedule)
        known = {**schedule_options(name), **RANGE}
        return _levels(model, name, steps, denoise, dialect, read_options(options, f"schedule {name}", known))

    text = "which noise levels a run visits"
    choice = Input("schedule", "COMBO", text, "karras", choices=schedules, required=True)
    return Node(
        "KSchedSigmas",
        "ksched sigmas",
        f"{_UNDER}/schedulers/ksched",
        "Any noise schedule of ksched.",
        "SIGMAS",
        (MODEL, choice, STEPS, DENOISE, DIALECT, options_input("rho=5, sigma_max=12")),
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
    return Node("KSchedPlanSigmas", "ksched plan sigmas", where, text, "SIGMAS", (MODEL, _PLAN, STEPS), run)


def _percent() -> Node:
    def run(model: Any, percent: float, actual: bool = False) -> float:
        process = process_of(model.get_model_object("model_sampling"))
        if actual and percent in (0, 1):
            return process.sigma_min if percent else process.sigma_max
        return min(process.sigma_after(percent), LARGEST)

    text = "share of the run that is done: 0 is the start, 1 the end"
    share = Input("percent", "FLOAT", text, 0.0, 0.0, 1.0, 0.0001, required=True)
    text = "at 0 and 1, the highest and lowest level of the model, instead of one above all and 0"
    return Node(
        "KSchedPercentToSigma",
        "ksched percent to sigma",
        f"{_UNDER}/sigmas/ksched",
        "The noise level at a share of a run's time, as ComfyUI's SamplingPercentToSigma: where a patch that says "
        '"start at 20 %" starts.',
        "FLOAT",
        (MODEL, share, Input("actual", "BOOLEAN", text, False)),
        run,
    )


def _one_schedule(schedule: NoiseSchedule) -> Node:
    spec, own = SCHEDULES[schedule], schedule_options(schedule)
    names = {"table": "model"} if "model" in own else {}  # there is a model among the inputs already

    def run(model: Any, steps: int, denoise: float, dialect: str = Dialect.COMFYUI.value, **given: Any) -> torch.Tensor:
        options = option_values({**own, **RANGE}, {names.get(name, name): value for name, value in given.items()})
        options = {name: value for name, value in options.items() if name not in RANGE or value > 0}
        return _levels(model, schedule, steps, denoise, dialect, options)

    texts, decided = option_texts(spec.function), decided_of_schedule(schedule)
    inputs = [
        input_of(option._replace(name="table" if name in names.values() else name), texts[name], name in decided)
        for name, option in own.items()
    ]
    inputs += [input_of(option, RANGE_TEXTS[name], False) for name, option in RANGE.items()]
    return Node(
        f"KSchedSigmas_{schedule.value}",
        f"ksched {schedule.value} sigmas",
        f"{_UNDER}/schedulers/ksched",
        f"{spec.formula.capitalize()}. Source: {spec.source}.",
        "SIGMAS",
        (MODEL, STEPS, DENOISE, *inputs, DIALECT),
        run,
    )


def _noise() -> Node:
    def run(seed: int, start: bool = True) -> NoiseByItem:
        return NoiseByItem(seed, start)

    text = "of the first image of the batch; the next has the next one"
    seed = Input("seed", "INT", text, 0, 0, 2**64 - 1, 1, required=True)
    text = "off for a run that goes on where another ended: no noise at its start, that of the seed in its steps"
    return Node(
        "KSchedNoise",
        "ksched noise",
        f"{_UNDER}/noise",
        "Noise by item, at the start and in the steps of ksched's samplers: an image taken out of a batch is the image "
        "in its batch, on every machine.",
        "NOISE",
        (seed, Input("start", "BOOLEAN", text, True)),
        run,
    )


def _plain(text: str) -> str:
    return text.replace("`", "")


def _nodes() -> Iterator[Node]:
    yield _any_sampler()
    yield _any_schedule()
    yield _plan_sampler()
    yield _plan_sigmas()
    yield _percent()
    yield _noise()
    yield from map(_one_sampler, samplers())
    yield from map(_one_schedule, NoiseSchedule)


#: All nodes: one for any sampler, one for any schedule, two for a plan, one each for a share of a run and for noise,
#: then one for each sampler and each schedule.
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
