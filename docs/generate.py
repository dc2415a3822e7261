"""Writes the pages and pictures that are generated from the registries, before the documentation is built."""

from __future__ import annotations

import contextlib
import io
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import api
import benchmark_tables
import migration_tables
import numpy as np
import torch
from catalogue import catalogue, prose, table
from docstrings import is_type
from equations import equation, use_when
from flow_model_picture import flow_model
from gallery_pages import gallery
from landing_picture import landing
from named_noise_picture import named_noise
from numpydoc.docscrape import FunctionDoc
from recipe_page import recipe_page
from references import cited
from sampler_names import words
from small_pictures import RESULTS, draw_errors, draw_schedules, measured_as, schedule_families

import ksched
from ksched import VP, Dialect, Flow, NoiseSchedule, SamplerType, calculate_sigmas
from ksched.dialects.diffusers.scheduler_use import ANSWERED_NO, REFUSED_USE, SUPPORTED_USE
from ksched.dialects.peer import Peer, SamplerPeer
from ksched.dialects.peer_samplers import SAMPLER_PEERS
from ksched.dialects.peer_schedules import PEERS
from ksched.names.spelling import spelling_key
from ksched.options import Option
from ksched.pictures.plots import save
from ksched.plan.analysis import table as plan_table
from ksched.samplers.coordinates import VIEW_OPTIONS, view
from ksched.samplers.facts import allowed, sampler_facts
from ksched.samplers.registry import dialect_options, samplers
from ksched.samplers.spec import SamplerSpec
from ksched.schedules import DIALECTS, SCHEDULES, schedule_options
from ksched.schedules.grid import Grid

__all__ = ["on_site", "write"]

STEPS = 20
LEVELS = (14.6, 5, 1.5, 0.4, 0)
FLOW_LEVELS = (1, 0.75, 0.5, 0.25, 0)  # example levels for samplers that run only on flow processes
PROGRAMS = {
    Dialect.COMFYUI: "ComfyUI",
    Dialect.K_DIFFUSION: "k-diffusion",
    Dialect.DIFFUSERS: "diffusers",
    Dialect.A1111: "A1111, Forge and reForge",
    Dialect.SD_CPP: "stable-diffusion.cpp",
    Dialect.SKRAMPLE: "skrample",
    Dialect.RES4LYF: "RES4LYF",
    Dialect.SDNEXT: "SD.Next",
}


def write(folder: Path) -> None:
    """Write everything into a folder, if any of the inputs changed.

    Outdated files in the folder are removed.
    """
    stamp, now = folder / "stamp.txt", fingerprint_of_inputs()
    if stamp.exists() and stamp.read_text(encoding="utf-8") == now:
        return
    stamp.unlink(missing_ok=True)
    write_all(folder)
    stamp.write_text(now, encoding="utf-8")


def fingerprint_of_inputs() -> str:
    """Hash every file that the pages are made from."""
    here = Path(__file__).parent
    inputs = [*here.rglob("*.py"), *here.glob("*.toml"), *here.glob("*.bib"), here / "reference.md"]
    package = Path(ksched.__file__).parent
    inputs += [path for folder in (package, RESULTS.parent) for path in folder.rglob("*") if path.suffix != ".pyc"]
    files = sorted(path for path in inputs if path.is_file() and "_build" not in path.parts)
    return sha256("".join(f"{path}{path.stat().st_mtime_ns}" for path in files).encode()).hexdigest()


def write_all(folder: Path) -> None:
    """Write every page and picture."""
    write_changed(folder.parent / "catalogue.md", catalogue())  # committed, for readers of a clone
    pages = {Path("peers.md"): peers(), Path("scheduler-use.md"): scheduler_use(), Path("recipes.md"): recipe_page()}
    pages |= {Path("schedules", f"{name}.md"): schedule_page(name) for name in SCHEDULES}
    for part in ("schedules", "samplers", "api"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    measured = draw_errors(folder / "samplers", [spec.name for spec in samplers()])
    pages |= {Path("samplers", f"{spec.name}.md"): sampler_page(spec, measured) for spec in samplers()}
    pages |= api.pages() | gallery(folder / "gallery")
    for path in (path for ending in ("md", "rst") for path in folder.rglob(f"*.{ending}")):
        if path.relative_to(folder) not in pages:
            path.unlink()
    for path, text in pages.items():
        write_changed(folder / path, text)
    save({folder / "schedules.svg": schedule_families()})
    save({folder / "named_noise.png": named_noise()}, dpi=80)
    save({folder / "flow_model.png": flow_model()}, dpi=80)
    save({folder / "landing.svg": landing()})
    draw_schedules(folder / "schedules")
    benchmark_tables.write(folder / "benchmarks")
    migration_tables.write(folder / "migration")


def write_changed(path: Path, text: str) -> None:
    """Write a file only if its text changes, so that Sphinx does not read it again."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def written(options: Mapping[str, Any]) -> str:
    """Format options as code: `eta=0.0`, `order=2`."""
    return ", ".join(f"`{name}={value!r}`".replace("'", '"') for name, value in options.items())


def on_site(page: str) -> str:
    """Return the catalogue for the site, where names link to generated pages that a clone does not have."""
    named: dict[str, list[str]] = {"samplers": [spec.name for spec in samplers()], "schedules": list(SCHEDULES)}
    for folder, names in named.items():
        page = re.sub(rf"^\| `({'|'.join(names)})` \|", rf"| [`\1`](generated/{folder}/\1.md) |", page, flags=re.M)
    parts = [page, "## Options of every sampler"]
    parts += [
        "These options change how a sampler uses the noise levels. Each reproduces what some program always does."
    ]
    parts += [option_table(VIEW_OPTIONS, view, linked_from="generated/samplers/"), "## The schedules drawn"]
    parts += [f"The noise levels of every schedule, with {STEPS} steps on Stable Diffusion's process."]
    parts += ["![Noise levels of every schedule](generated/schedules.svg)"]
    pages = [*(f"samplers/{spec.name}" for spec in samplers()), *(f"schedules/{name}" for name in SCHEDULES)]
    parts += ["```{toctree}\n:hidden:\n\n" + "\n".join(f"generated/{page}" for page in pages) + "\n```"]
    return "\n\n".join(parts) + "\n"


def peers() -> str:
    """Return the page of names in other programs."""
    parts = ["# Names in other programs"]
    parts += [
        "`ksched.peers` has these tables as data: each row is a `Peer` or a `SamplerPeer`. `find_peer` and "
        "`find_sampler` find a row, and `peer_sigmas` returns the sigmas that a program uses under a schedule's name. "
        "All of them ignore case and punctuation. `process` is the process that the model was trained on. `explain` "
        "says how a program's sampler differs from ksched's sampler of that name."
    ]
    parts += [
        "```{doctest}\n"
        ">>> import ksched\n"
        ">>> from ksched.peers import find_peer, find_sampler, peer_sigmas\n"
        '>>> peer_sigmas("a1111", "KL Optimal", 4).round(4)\n'
        "array([14.6146,  2.1427,  0.9616,  0.4198,  0.0292])\n"
        '>>> find_peer("comfyui", "BetaSamplingScheduler").schedule.value\n'
        "'beta'\n"
        '>>> row = find_sampler("diffusers", "sde-dpmsolver")\n'
        ">>> row.sampler.value, dict(row.options)\n"
        "('dpm_multistep', {'predict': 'eps', 'eta': 1.0})\n"
        '>>> text = ksched.explain("diffusers:UniPCMultistepScheduler", "comfyui:uni_pc")\n'
        + "\n".join(explained("diffusers:UniPCMultistepScheduler", "comfyui:uni_pc"))
        + "\n```"
    ]
    for program, title in PROGRAMS.items():
        columns = ["name", "here", "note"]
        parts += [f"## {title}"]
        tables: dict[str, Sequence[Peer | SamplerPeer]] = {"Samplers": SAMPLER_PEERS, "Schedules": PEERS}
        for kind, rows in tables.items():
            found = [
                [f"`{peer.name}`", f"`{peer.call}`" if peer.call else "none", peer.note]
                for peer in rows
                if peer.program is program
            ]
            parts += [f"### {kind} of {title}", table(columns, found)]
    return "\n\n".join(parts) + "\n"


def scheduler_use() -> str:
    """Return the page on how diffusers' pipelines use a scheduler."""
    supported = [[f"`{use}`", "works", ""] for use in SUPPORTED_USE]
    answered = [[f"`{use}`", "no", why] for use, why in ANSWERED_NO.items()]
    refused = [[f"`{use}`", "refused", why] for use, why in REFUSED_USE.items()]
    lead = (
        "This table lists every attribute, method, keyword and assignment that the pipelines of diffusers 0.42.1 use "
        "on a scheduler, and what `KSchedScheduler` does with it. The list is read from the pipelines' source. A test "
        "reads the installed pipelines and fails if one of them has a use that is not listed here. `call step(eta=)` "
        "is a keyword, `assign sigmas[...]` sets an item, and `ask` means that a pipeline checks whether the scheduler "
        "has the attribute."
    )
    rows = sorted([*supported, *answered, *refused], key=lambda row: row[0].casefold())
    return "\n\n".join(["# How pipelines use a scheduler", lead, table(["use", "here", "why"], rows)]) + "\n"


def explained(a: str, b: str) -> list[str]:
    """Return the lines that `explain` prints."""
    with contextlib.redirect_stdout(io.StringIO()):
        return ksched.explain(a, b).splitlines()


def text_of(parameter: Any) -> str:
    """Return a docstring's description of a parameter, without the type."""
    typed = parameter.desc and is_type(parameter.type)
    return prose(parameter.desc if typed else [parameter.type, *parameter.desc]).removesuffix(".")


def option_table(options: Mapping[str, Option], function: Callable[..., Any], linked_from: str = "") -> str:
    """Build a table of options with their descriptions from the docstring."""
    doc: Any = FunctionDoc(function)
    texts = {part: text_of(p) for p in doc["Parameters"] for part in p.name.split(", ")}
    rows = []
    for option in options.values():
        text = linked(texts.get(option.name, ""), linked_from)
        if option.quirks:
            which = "Any other value" if option.kind in (int, float) else f"`{option.quirks[0]!r}`".replace("'", '"')
            text += f". {which} reproduces another program's behaviour; not covered by the proofs"
        rows.append([f"`{option.name}`", f"`{option.default!r}`".replace("'", '"'), allowed(option, "`"), text])
    return table(["name", "default", "values", "what it does"], rows)


def linked(text: str, folder: str = "", but: str = "") -> str:
    """Turn the names of samplers in a text into links to their pages."""

    def link(match: re.Match[str]) -> str:
        name = match[1]
        return f"[`{name}`]({folder}{name}.md)" if name in known and name != but else match[0]

    known = {spec.name for spec in samplers()}
    return re.sub(r"`(\w+)`", link, text)


def sampler_page(spec: SamplerSpec, measured: Set[str]) -> str:
    """Return the page of a sampler."""
    doc: Any = FunctionDoc(spec.function)
    parts = [f"# {spec.name}", linked(prose(doc["Summary"]), but=spec.name)]
    parts += [linked(prose(doc["Extended Summary"]), but=spec.name)] if any(doc["Extended Summary"]) else []
    parts += ["\n".join(f"- **{name}**: {text}" for name, text in sampler_facts(spec).items())]
    own = "".join(f", {option}" for option in spec.own_options.values() if not isinstance(option.default, float))
    own += ", process=ksched.Flow()" if spec.flow_only else ""
    parts += [f'```python\nksched.build_sampler("{spec.name}", "karras", {STEPS}{own})\n```'.replace("'", '"')]
    parts[1:1] = [f"**Use it when** {use_when(spec)}"]
    parts += ["## Equation", equation(spec)]
    if spec.name in measured:
        text = "Distance from the exact solution at equal NFE, each sampler with its best schedule; others are grey"
        other = measured_as().get(spec.name, spec.name)
        text += f" (its plan equals that of [`{other}`]({other}.md))" if other != spec.name else ""
        parts += ["## Error", f"![{text}]({spec.name}.svg)", f"{text}. [How it is measured](../../accuracy.md)."]
    if spec.own_options:
        parts += ["## Options", option_table(spec.own_options, spec.function)]
        parts += ["It also takes the [options of every sampler](../../catalogue.md#options-of-every-sampler)."]
    parts += ["## A run", adaptive_run(spec)] if spec.adaptive else ["## Its plan", example_plan(spec)]
    same = list(same_tables(spec))
    if same:
        parts += [
            "## Equal samplers",
            "With these options, the plan equals that of another sampler on two test grids.",
        ]
        parts += ["Without guidance, when both predictions are equal:"] if spec.uncond else []
        rows = [[written(options) or "defaults", ", ".join(twins)] for options, twins in same]
        parts += [table(["with", f"`{spec.name}` is"], rows)]
    parts += dialects_of(spec)
    peers_ = [peer for peer in SAMPLER_PEERS if peer.sampler == spec.name]
    rows = [[f"`{p.name}`", PROGRAMS[p.program], written(p.options), linked(p.note, but=spec.name)] for p in peers_]
    parts += ["## Other names"] if rows or spec.name in list(SamplerType) else []
    parts += [table(["name", "in", "with", "note"], rows)] if rows else []
    seen = {spelling_key(peer.name) for peer in peers_}
    more = [f"`{word}`" for word in words(spec) if spelling_key(word) not in seen]
    parts += [f"Other accepted spellings: {', '.join(more)}."] if more else []
    parts += ["## Source", linked(spec_source(spec.source, doc["Notes"]), but=spec.name)]
    parts += papers(spec.source, doc["Notes"])
    return "\n\n".join(parts) + "\n"


def example_plan(spec: SamplerSpec) -> str:
    """Return the printed plan for four steps, as an executed example."""
    how: dict[str, Any] = {"restart_steps": 2, "s_max": 5.0, "s_min": 0.4} if spec.name == "restart" else {}
    options = "".join(f", {name}={value!r}" for name, value in how.items())
    levels: tuple[float, ...] = LEVELS
    if spec.flow_only:
        levels, how["process"], options = FLOW_LEVELS, Flow(), f"{options}, process=ksched.Flow()"
    plan = ksched.build_sampler(spec.name, sigmas=levels, **how).plan
    code = f'>>> import ksched\n>>> print(ksched.build_sampler("{spec.name}", sigmas={list(levels)}{options}).plan)'
    said = "`x` are states, `D` predictions, `xi` noises"
    said += ", `U` unconditional predictions." if spec.uncond else "."
    return f"```{{doctest}}\n{code}\n{plan}\n```\n\n{said} [Why a sampler is a plan](../../why-a-plan.md)."


def adaptive_run(spec: SamplerSpec) -> str:
    """Return a run that counts its steps, as an executed example."""
    model = ksched.exact.GaussianMixture([0.4, 0.6], [[-1.0], [1.0]], 0.01)
    run: Any = ksched.build_sampler(spec.name, sigmas=[14.6, 0.03, 0]).start(
        torch.linspace(-20, 20, 8).double()[:, None]
    )
    while not run.done:
        run.feed(model(run.x, run.sigma))
    return (
        "It chooses its steps from the model's predictions, so it has no plan to print. It runs like the others.\n\n"
        "```{doctest}\n"
        ">>> import ksched, torch\n"
        ">>> model = ksched.exact.GaussianMixture([0.4, 0.6], [[-1.0], [1.0]], 0.01)\n"
        f'>>> sampler = ksched.build_sampler("{spec.name}", sigmas=[14.6, 0.03, 0])\n'
        ">>> x = torch.linspace(-20, 20, 8).double()[:, None]\n"
        ">>> run = sampler.start(x)\n"
        ">>> while not run.done:\n"
        "...     run.feed(model(run.x, run.sigma))\n"
        ">>> run.accepted, run.rejected, run.nfe\n"
        f"({run.accepted}, {run.rejected}, {run.nfe})\n"
        "```"
    )


def dialects_of(spec: SamplerSpec) -> list[str]:
    """List what the name means in other programs, if it differs."""
    means = {dialect: dict(dialect_options(spec, dialect)) for dialect in Dialect}
    as_ve = [PROGRAMS[dialect] for dialect, options in means.items() if options.pop("as_ve", False)]
    rows = [[f"`{dialect}`", written(options)] for dialect, options in means.items() if options]
    parts = [table(["dialect", "meaning"], rows)] if rows else []
    if as_ve:
        parts += [
            f"On flow processes, {'; '.join(as_ve)} use the formulas for states `x0 + sigma * eps`; their dialects set "
            "`as_ve=True`. On all other processes this option changes nothing."
        ]
    return ["## Dialects", *parts] if parts else []


# --------------------------------------------------------------------------------------- which samplers are the same

#: two grids, one that ends at 0 and one that does not, for both forms of a state; long enough for restarts
GRIDS = (
    Grid.of([*calculate_sigmas("karras", 38)[:-1], 0.0], VP()),
    Grid.of(np.linspace(0.98, 0.05, 9) ** 1.2, Flow()),
)
Options = tuple[tuple[str, Any], ...]


def variants(spec: SamplerSpec) -> Iterator[dict[str, Any]]:
    """Yield the default options, then variants with one or two of them changed, without quirks."""
    moves = [(option.name, value) for option in spec.own_options.values() for value in other_values(option)]
    for count in range(3):
        for some in itertools.combinations(moves, count):
            if len({name for name, _ in some}) == count:
                yield dict(some)


def other_values(option: Option) -> list[Any]:
    """Return a few values of an option that may reduce the sampler to a simpler one."""
    if get_origin(option.kind) is Literal:
        values = list(get_args(option.kind))
    elif option.kind is int:
        values = [n for n in range(5) if option.low <= n <= option.high]
    elif option.kind is float:
        values = [0.0, 1.0] if option.name in ("eta", "tau") else []
    else:
        values = [True, False]
    return [value for value in values if value != option.default and not option.is_peer_value(value)]


def fingerprint(spec: SamplerSpec, options: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the plans of a sampler on the grids, with both predictions taken as equal."""
    found: list[Any] = []
    for grid in (grid for grid in GRIDS if spec.runs_on(grid.process)):
        plan = spec.plan(grid, options)
        numbers, ends = plan_table(plan), 1 + 2 * plan.nfe
        numbers = np.hstack([numbers[:, :1], numbers[:, 1:ends:2] + numbers[:, 2:ends:2], numbers[:, ends:]])
        found += [plan.draws, numbers.shape, (np.round(numbers, 8) + 0.0).tobytes()]
    return tuple(found)


@cache
def groups() -> list[dict[str, Options]]:
    """Group samplers with equal plans, each with the fewest options that make them equal."""
    known: dict[tuple[Any, ...], dict[str, Options]] = {}
    for spec in samplers():
        for options in () if spec.adaptive else variants(spec):
            known.setdefault(fingerprint(spec, options), {}).setdefault(spec.name, tuple(options.items()))
    return [group for group in known.values() if len(group) > 1]


def follows(a: str, b: str, group: Mapping[str, Options]) -> bool:
    """Whether two samplers of a group are also equal without an option that both of them set."""

    def without(name: str, gone: tuple[str, Any]) -> Options:
        return tuple(option for option in group[name] if option != gone)

    shared = {*group[a]} & {*group[b]}
    less = [{a: without(a, gone), b: without(b, gone)} for gone in shared]
    return any(pair.items() <= other.items() for pair in less for other in groups())


def same_tables(spec: SamplerSpec) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Yield the options with which a sampler equals others, and the others."""
    left_out = {other.name for other in samplers() if other.uncond and not spec.uncond} | {spec.name}
    for group in groups():
        if spec.name not in group:
            continue
        twins = [
            f"[`{name}`]({name}.md)" + (f" with {written(dict(options))}" if options else "")
            for name, options in group.items()
            if name not in left_out and not follows(spec.name, name, group)
        ]
        if twins:
            yield dict(group[spec.name]), twins


def schedule_page(name: NoiseSchedule) -> str:
    """Return the page of a schedule."""
    spec = SCHEDULES[name]
    doc: Any = FunctionDoc(spec.function)
    parts = [f"# {name}", prose(doc["Summary"])]
    parts += [prose(doc["Extended Summary"])] if any(doc["Extended Summary"]) else []
    parts += [f"**Rule:** {spec.formula}", f"![{name}, {STEPS} steps, among all others]({name}.svg)"]
    options = schedule_options(name)
    call = "".join(f", {option}" for option in options.values()).replace("'", '"')
    parts += [f'```python\nksched.calculate_sigmas("{name}", {STEPS}, process{call})\n```']
    texts = {part: text_of(p) for p in doc["Parameters"] for part in p.name.split(", ")}
    parts += ["## Options", option_table(options, spec.function)] if options else []
    if "sigma_min" in texts:
        parts += [
            f"`sigma_min`: {texts['sigma_min']}. `sigma_max`: the first level; the process's sigma_max by default."
        ]
    else:
        parts += ["`sigma_min`, `sigma_max`: the last level above 0 and the first level; the process's own by default."]
    rows = [[f"`{dialect}`", written(changes[name])] for dialect, changes in DIALECTS.items() if name in changes]
    parts += ["## Dialects", table(["dialect", "meaning"], rows)] if rows else []
    others = [[f"`{peer.name}`", peer.program, peer.note] for peer in PEERS if peer.schedule is name]
    parts += ["## Other names", table(["name", "in", "note"], others)] if others else []
    parts += ["## Source", spec_source(spec.source, doc["Notes"]), *papers(spec.source, doc["Notes"])]
    parts += [f"As a function: `{spec.function.__name__}`."]
    return "\n\n".join(parts) + "\n"


def papers(source: str, notes: Sequence[str]) -> list[str]:
    """Cite the papers of a source."""
    keys = cited(" ".join([source, *notes]))
    return ["Papers: " + "; ".join(f"{{cite:t}}`{key}`" for key in keys) + "."] if keys else []


def spec_source(source: str, notes: Sequence[str]) -> str:
    """Describe the origin of a schedule: its notes, preceded by the source if they do not name it."""
    text = prose(notes)
    return text if source in " ".join(notes) else f"{prose([source])}. {text}".strip()
