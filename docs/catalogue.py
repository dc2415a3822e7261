"""Writes the catalogue of samplers, schedules and processes from the registries; the page is committed."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Mapping, Sequence

import ksched
from ksched.pictures.plots import families as schedule_families
from ksched.processes import EDM, VE, VP, AngleV, Cascade, Flow, FlowVE, TrigFlow
from ksched.samplers.registry import families
from ksched.samplers.spec import SamplerSpec
from ksched.schedules import SCHEDULES, schedule_options
from ksched.schedules.select import schedule_spec

__all__ = ["catalogue", "prose", "table"]

PROCESSES = (VP, EDM, VE, Flow, FlowVE, AngleV, Cascade, TrigFlow)


def catalogue() -> str:
    """The page: every sampler, schedule and process with its properties."""
    ours = {heading: specs for heading, specs in families().items() if heading != "Others"}
    count = sum(map(len, ours.values()))
    parts = ["# Catalogue: every sampler, schedule and process"]
    parts += [
        f"{count} samplers (solvers), {len(SCHEDULES)} noise schedules and {len(PROCESSES)} processes. "
        f"Any sampler runs with any schedule on any process, {flow_only(ours)}. This covers every sampler in "
        "ComfyUI and k-diffusion and every continuous-time scheduler in diffusers."
    ]
    parts += [
        "`ksched list` prints these names, and `ksched list NAME` describes one of them. "
        "[How to choose a sampler](choose.md) compares them, and the page on [accuracy](accuracy.md) has the "
        "measurements. `ksched.peers` has their names in ComfyUI with RES4LYF, k-diffusion, diffusers, A1111, Forge, "
        "SD.Next, stable-diffusion.cpp and skrample."
    ]
    parts += ["## Samplers"]
    parts += [
        "- **order**: the order of convergence of the probability-flow ODE solver.\n"
        "- **weak order**: for samplers that can draw noise (SDE), the order of the mean and variance.\n"
        "- **calls**: model calls (NFE) per step. A step to sigma 0 often takes fewer.\n"
        "- **noises**: random draws per step with default options; an empty cell means deterministic.\n"
        "- **options**: keyword arguments of `build_sampler`, with their defaults."
    ]
    parts += [
        "`auto` is not in the tables. It takes no schedule. For the NFE that you give it, it picks a plan whose "
        "coefficients and noise levels were fitted for that number, and makes one call per step."
    ]
    excused = [f"`{spec.name}`" for specs in ours.values() for spec in specs if not spec.keeps_variance]
    parts += [
        "If all data is a single point, every state of every sampler has exactly the mean and the variance of its "
        f"noise level. The exceptions are {', '.join(excused[:-1])} and {excused[-1]}, whose variance differs in "
        "the same way as in the programs that they come from."
    ]
    for heading, specs in ours.items():
        module = sys.modules[specs[0].function.__module__]  # its docstring describes the family
        columns = ["name", "order", "weak order", "calls", "noises", "options", "source"]
        parts += [f"### {heading}", prose([(module.__doc__ or "").strip()]), table(columns, map(sampler_row, specs))]
    parts += ["## Schedules"]
    parts += ["Every schedule also takes `sigma_min` and `sigma_max`; the defaults are the process's own."]
    for heading, names in schedule_families().items():
        rows = []
        for name in names:
            options = ", ".join(f"`{option}`" for option in schedule_options(name).values())
            spec = schedule_spec(name)
            rows.append([f"`{name}`", spec.formula, options, prose([spec.source])])
        parts += [f"### {heading}", table(["name", "rule", "options", "source"], rows)]
    parts += ["## Processes"]
    parts += [
        "A process is the forward process that a model was trained on: how much signal and noise a state has at each "
        "timestep. "
        "`VP.scaled_linear()`, `VP.linear()` and `VP.cosine()` have the usual tables of betas."
    ]
    rows = [[f"`{kind.__name__}`", first_line(kind), arguments(kind)] for kind in PROCESSES]
    parts += [table(["name", "what it is", "arguments"], rows)]
    return "\n\n".join(parts) + "\n"


def flow_only(families: Mapping[str, Sequence[SamplerSpec]]) -> str:
    """Names the samplers that run only on flow processes."""
    names = [f"`{spec.name}`" for specs in families.values() for spec in specs if spec.flow_only]
    return f"except {', '.join(names[:-1])} and {names[-1]}, which need a flow process"


def sampler_row(spec: SamplerSpec) -> list[object]:
    """A row of the table of samplers."""
    return [
        f"`{spec.name}`",
        spec.order,
        "" if spec.weak_order is None else spec.weak_order,
        spec.calls if isinstance(spec.calls, int) else "varies",
        "varies" if spec.draws is None else spec.draws or "",
        ", ".join(f"`{option}`" for option in spec.own_options.values()),
        prose([spec.source]),
    ]


def first_line(kind: type[ksched.Process]) -> str:
    """The first line of a class's docstring."""
    return prose([inspect.cleandoc(kind.__doc__ or "").partition("\n")[0]])


def arguments(kind: type[ksched.Process]) -> str:
    """The arguments of a class with their defaults, as code."""
    return ", ".join(f"`{name}={p.default!r}`" for name, p in inspect.signature(kind).parameters.items())


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def prose(lines: Iterable[str]) -> str:
    """Text of a docstring as Markdown on one line, with papers as links."""
    text = " ".join(line.strip() for line in lines).replace("``", "`").strip()
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)
