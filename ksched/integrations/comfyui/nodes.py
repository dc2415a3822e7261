"""Nodes made from the registry: every sampler and schedule with its options, and noise by item.

A `Node` is data, from which both forms that ComfyUI knows are made: classes with INPUT_TYPES (V1), and schemas (V3).
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
    name : str
        Name that is unique among all nodes of ComfyUI.
    title, category, description : str
        As ComfyUI shows them.
    output : str
        "SAMPLER", "SIGMAS", "NOISE" or "FLOAT".
    inputs : tuple of Input
        Inputs of the node.
    run : callable
        Function from the inputs, by name, to the output; inputs that are not required may be left out.
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
        """The node as a class with INPUT_TYPES."""
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
        """The node as a subclass of ``io.ComfyNode``."""
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
    """A SAMPLER for ComfyUI with a ksched function."""
    function = sampler_function(name, dialect=dialect, noise=noise, **options)
    # under a mask, some of ComfyUI's own samplers draw noise for the whole batch, not by item
    own = noise == "comfyui" and node_dialect(dialect) in (AUTO, Dialect.COMFYUI)
    inpaint = _inpainting(sampler_spec(name)) if own else {}
    return importlib.import_module("comfy.samplers").KSAMPLER(function, {}, inpaint)


def _inpainting(spec: SamplerSpec) -> dict[str, Any]:
    """Options of ComfyUI's own sampler with this name for runs under a mask."""
    return {name: value for peer in spec.peers for name, value in peer.inpaint.items()}


def _any_sampler() -> Node:
    def run(sampler: str, dialect: str = AUTO, noise: NoiseKind = "seeded", options: str = "") -> Any:
        spec = sampler_spec(sampler)
        return _ksampler(spec.key, dialect, noise, read_options(options, f"sampler {spec.name}", spec.options))

    def names() -> list[str]:
        return [spec.name for spec in samplers()]

    choice = Input("sampler", "COMBO", "method that steps between noise levels", "euler", choices=names, required=True)
    return Node(
        "KSchedSampler",
        "ksched sampler",
        f"{_UNDER}/samplers/ksched",
        "Any ksched sampler.",
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
    """An option whose default is not a number, with the default of ComfyUI's node, whose inputs are numbers."""
    if option.default is not None:
        return option
    of_nodes = (peer.options for peer in spec.peers if peer.program is Dialect.COMFYUI and option.name in peer.options)
    return option._replace(default=next(of_nodes, {option.name: option.low})[option.name])


def _levels(
    model: Any, schedule: str, steps: int, denoise: float, dialect: str, options: Mapping[str, Any]
) -> torch.Tensor:
    """Sigmas as from BasicScheduler: denoise below 1 is the end of a longer schedule, 0 is empty."""
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

    text = "schedule of the run's noise levels"
    choice = Input("schedule", "COMBO", text, "karras", choices=schedules, required=True)
    return Node(
        "KSchedSigmas",
        "ksched sigmas",
        f"{_UNDER}/schedulers/ksched",
        "Any ksched noise schedule.",
        "SIGMAS",
        (MODEL, choice, STEPS, DENOISE, DIALECT, options_input("rho=5, sigma_max=12")),
        run,
    )


_PLAN = Input("plan", "STRING", '"auto", or the JSON of a plan', "auto", required=True)


def _plan_sampler() -> Node:
    def run(plan: str) -> Any:
        return _ksampler(sampler_spec(plan.strip()).key, Dialect.KSCHED.value, "seeded", {})

    text = "The sampler of a tuned plan, or the best one known. It needs the sigmas of 'ksched plan sigmas'."
    where = f"{_UNDER}/samplers/ksched"
    return Node("KSchedPlanSampler", "ksched plan sampler", where, text, "SAMPLER", (_PLAN,), run)


def _plan_sigmas() -> Node:
    def run(model: Any, plan: str, steps: int) -> torch.Tensor:
        spec = sampler_spec(plan.strip())
        if spec.levels is None:
            raise ValueError(f"plan must be 'auto' or the JSON of a plan; sampler {spec.name} takes a schedule")
        process = process_of(model.get_model_object("model_sampling"))
        return torch.tensor(list(spec.levels(steps, process)), dtype=torch.float32)

    text = "The sigmas of a tuned plan, or of the best plan known for this number of steps."
    where = f"{_UNDER}/schedulers/ksched"
    return Node("KSchedPlanSigmas", "ksched plan sigmas", where, text, "SIGMAS", (MODEL, _PLAN, STEPS), run)


def _percent() -> Node:
    def run(model: Any, percent: float, actual: bool = False) -> float:
        process = process_of(model.get_model_object("model_sampling"))
        if actual and percent in (0, 1):
            return process.sigma_min if percent else process.sigma_max
        return min(process.sigma_after(percent), LARGEST)

    text = "completed share of the run: 0 is the start, 1 the end"
    share = Input("percent", "FLOAT", text, 0.0, 0.0, 1.0, 0.0001, required=True)
    text = "at 0 and 1, return the model's highest and lowest sigma instead of one above all others and 0"
    return Node(
        "KSchedPercentToSigma",
        "ksched percent to sigma",
        f"{_UNDER}/sigmas/ksched",
        "The sigma at a share of a run, as ComfyUI's SamplingPercentToSigma computes it: where a patch that says "
        '"start at 20 %" starts.',
        "FLOAT",
        (MODEL, share, Input("actual", "BOOLEAN", text, False)),
        run,
    )


def _one_schedule(schedule: NoiseSchedule) -> Node:
    spec, own = SCHEDULES[schedule], schedule_options(schedule)
    names = {"table": "model"} if "model" in own else {}  # the inputs already include a model

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

    text = "seed of the first image of the batch; the next image has the next seed"
    seed = Input("seed", "INT", text, 0, 0, 2**64 - 1, 1, required=True)
    text = "off to continue a run that ended elsewhere: no noise at its start, and this seed's noise in its steps"
    return Node(
        "KSchedNoise",
        "ksched noise",
        f"{_UNDER}/noise",
        "Noise by item, at the start and in the steps of ksched's samplers: an image is the same alone and in a batch, "
        "on every machine.",
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


#: All nodes: one for any sampler, one for any schedule, two for plans, one for a share of a run, one for noise, then
#: one for each sampler and each schedule.
NODES: tuple[Node, ...] = tuple(_nodes())
#: The classes that ComfyUI looks for in a node package.
NODE_CLASS_MAPPINGS: dict[str, type] = {node.name: node.v1 for node in NODES}
#: Their titles.
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {node.name: node.title for node in NODES}


async def comfy_entrypoint() -> Any:
    """The entry point that ComfyUI looks for in a node package of the newer kind: the same nodes, as schemas.

    Raises
    ------
    ImportError
        If this ComfyUI has no ``comfy_api.latest``.
    """
    api: Any = importlib.import_module("comfy_api.latest")

    async def get_node_list(self: Any) -> list[type]:
        return [node.v3(api.io) for node in NODES]

    return type("KSchedExtension", (api.ComfyExtension,), {"get_node_list": get_node_list})()
