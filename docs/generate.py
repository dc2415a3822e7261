"""The pages and pictures that follow from the registries, written before the documentation is built."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpydoc.docscrape import FunctionDoc

from ksched import VP, Dialect, Flow, NoiseSchedule, calculate_sigmas
from ksched.options import Option
from ksched.peers import PEERS
from ksched.plots import families, save, sigma_curves
from ksched.registry import samplers
from ksched.schedules import DIALECTS, SCHEDULES, schedule_options

__all__ = ["write"]

STEPS = 20


def write(folder: Path) -> None:
    """Write everything into a folder; what is in it and no longer follows from anything is removed."""
    pages = {Path("catalogue.md"): catalogue(), Path("peers.md"): peers()}
    pages |= {Path("schedules", f"{name}.md"): schedule_page(name) for name in SCHEDULES}
    (folder / "schedules").mkdir(parents=True, exist_ok=True)
    for path in folder.rglob("*.md"):
        if path.relative_to(folder) not in pages:
            path.unlink()
    for path, text in pages.items():
        (folder / path).write_text(text)
    save({folder / "schedules.png": sigma_curves(list(SCHEDULES), STEPS, VP())}, dpi=80)
    draw_each(folder / "schedules")


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def prose(lines: Iterable[str]) -> str:
    """Text of a docstring as Markdown on one line, with papers as links."""
    text = " ".join(line.strip() for line in lines).replace("``", "`").strip()
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def catalogue() -> str:
    """The page of everything that exists."""
    found = []
    for spec in samplers():
        calls = f"{spec.calls} a step" + (f", {spec.calls_to_zero} to 0" if spec.calls_to_zero != spec.calls else "")
        weak = "" if spec.weak_order is None else spec.weak_order
        options = ", ".join(f"`{option}`" for option in spec.options.values())
        found.append([f"`{spec.name}`", spec.order, weak, calls, "yes" if spec.draws else "no", options, spec.source])
    parts = ["# What exists", "Any sampler with any schedule on any process.", "## Samplers"]
    parts += [table(["name", "order", "weak order", "model calls", "noise", "options", "source"], found)]
    parts += [
        "Order is that of the deterministic form; weak order that of the law where noise is drawn.",
        "## Schedules",
    ]
    for heading, names in families().items():
        rows = []
        for name in names:
            options = ", ".join(f"`{option}`" for option in schedule_options(name).values())
            link = f"[`{name}`](schedules/{name}.md)"
            rows.append([link, SCHEDULES[name].formula, options, prose([SCHEDULES[name].source])])
        parts += [f"### {heading}", table(["name", "rule", "options", "source"], rows)]
    parts += ["All take `sigma_min` and `sigma_max`. [What other programs call them](peers.md) is a page of its own."]
    parts += ["![Noise levels of every schedule](schedules.png)"]
    parts += ["```{toctree}\n:hidden:\n\n" + "\n".join(f"schedules/{name}" for name in SCHEDULES) + "\n```"]
    return "\n\n".join(parts) + "\n"


def peers() -> str:
    """The page of other programs' names."""
    parts = ["# Names of other programs"]
    parts += [
        "`ksched.peers` holds these tables as data. `peer_sigmas` gives the levels that a program's name means, "
        "`find_peer` the row; both read any case and punctuation. `process` is what the model was trained on."
    ]
    parts += [
        "```{doctest}\n"
        ">>> from ksched.peers import find_peer, peer_sigmas\n"
        '>>> peer_sigmas("a1111", "KL Optimal", 4).round(4)\n'
        "array([14.6146,  2.1427,  0.9616,  0.4198,  0.0292])\n"
        '>>> find_peer("comfyui", "BetaSamplingScheduler").schedule.value\n'
        "'beta'\n"
        "```"
    ]
    titles = {
        Dialect.COMFYUI: "ComfyUI",
        Dialect.K_DIFFUSION: "k-diffusion",
        Dialect.DIFFUSERS: "diffusers",
        Dialect.A1111: "A1111, Forge and reForge",
    }
    for program, title in titles.items():
        rows = [
            [f"`{peer.name}`", f"`{peer.call}`" if peer.call else "none", peer.note]
            for peer in PEERS
            if peer.program is program
        ]
        parts += [f"## {title}", table(["name", "here", "note"], rows)]
    return "\n\n".join(parts) + "\n"


def schedule_page(name: NoiseSchedule) -> str:
    """The page of a schedule."""
    spec = SCHEDULES[name]
    doc: Any = FunctionDoc(spec.function)
    parts = [f"# {name}", prose(doc["Summary"])]
    parts += [prose(doc["Extended Summary"])] if any(doc["Extended Summary"]) else []
    parts += [f"**Rule:** {spec.formula}", f"![{name}, {STEPS} steps, among all others]({name}.png)"]
    options = schedule_options(name)
    call = "".join(f", {option}" for option in options.values()).replace("'", '"')
    parts += [f'```python\nksched.calculate_sigmas("{name}", {STEPS}, process{call})\n```']
    texts = {part: prose([p.type, *p.desc]) for p in doc["Parameters"] for part in p.name.split(", ")}
    if options:
        rows = [
            [f"`{option.name}`", f"`{option.default!r}`".replace("'", '"'), allowed(option), texts.get(option.name, "")]
            for option in options.values()
        ]
        parts += ["## Options", table(["name", "default", "values", "what it does"], rows)]
    if "sigma_min" in texts:
        parts += [f"`sigma_min` {texts['sigma_min']}. `sigma_max`: the first level; the process's own if not given."]
    else:
        parts += ["`sigma_min`, `sigma_max`: the last level above 0 and the first; the process's own if not given."]
    rows = [
        [f"`{dialect}`", ", ".join(f"`{key}={value!r}`".replace("'", '"') for key, value in changes[name].items())]
        for dialect, changes in DIALECTS.items()
        if name in changes
    ]
    parts += ["## Dialects", table(["in the dialect of", "it means"], rows)] if rows else []
    others = [[f"`{peer.name}`", peer.program, peer.note] for peer in PEERS if peer.schedule is name]
    parts += ["## Other names", table(["name", "in", "note"], others)] if others else []
    parts += ["## Source", spec_source(spec.source, doc["Notes"])]
    return "\n\n".join(parts) + "\n"


def spec_source(source: str, notes: Sequence[str]) -> str:
    """Where a schedule comes from: its notes, with the source in front if they do not name it."""
    text = prose(notes)
    return text if source in " ".join(notes) else f"{prose([source])}. {text}".strip()


def allowed(option: Option) -> str:
    """The values that an option takes."""
    if get_origin(option.kind) is Literal:
        return ", ".join(f"`{value!r}`".replace("'", '"') for value in get_args(option.kind))
    if option.kind is bool:
        return "`True`, `False`"
    word = "whole number" if option.kind is int else "number"
    if option.high >= 2**31:
        if option.low <= -1e300:
            return f"any {word}"
        return f"{word} above 0" if 0 < option.low < 1e-300 else f"{word} from {option.low:g}"
    return f"{word} from {option.low:g} to {option.high:g}"


def draw_each(folder: Path) -> None:
    """A small picture of every schedule among all the others, on VP and on flow: one figure, drawn again and again."""
    processes = {"VP: sigma by step": VP(), "Flow: sigma by step": Flow()}
    with mpl.rc_context({"axes.spines.top": False, "axes.spines.right": False, "font.size": 9}):
        figure = Figure(figsize=(7.2, 2.5), layout="constrained")
        lines = []
        for axes, (title, process) in zip(figure.subplots(1, 2), processes.items(), strict=True):
            flow = isinstance(process, Flow)
            grids = {name: calculate_sigmas(name, STEPS, process)[: None if flow else -1] for name in SCHEDULES}
            for sigmas in grids.values():
                axes.plot(np.arange(len(sigmas)), sigmas, color="0.85", linewidth=0.7)
            (line,) = axes.plot([], [], "o-", color="#0072B2", markersize=3.5, linewidth=1.6)
            axes.set(title=title, yscale="linear" if flow else "log", xticks=range(0, STEPS + 1, 5))
            lines.append((line, grids))
        for name in SCHEDULES:
            for line, grids in lines:
                line.set_data(np.arange(len(grids[name])), grids[name])
            save({folder / f"{name}.png": figure}, dpi=100)
