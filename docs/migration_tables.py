"""The tables of the migration pages, generated from the names in `ksched.peers`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from catalogue import table

from ksched import Dialect
from ksched.dialects.diffusers.classes import CLASSES
from ksched.dialects.peer_samplers import SAMPLER_PEERS
from ksched.dialects.peer_schedules import PEERS
from ksched.samplers.registry import dialect_options, sampler_spec
from ksched.schedules import DIALECTS

__all__ = ["absent", "diffusers_classes", "sampler_rows", "schedule_rows", "write"]

#: programs that have tables on a migration page
PROGRAMS = (
    Dialect.K_DIFFUSION,
    Dialect.DIFFUSERS,
    Dialect.COMFYUI,
    Dialect.A1111,
    Dialect.RES4LYF,
    Dialect.SKRAMPLE,
)

#: options of a dialect that change a run only on flow models
ON_FLOW = frozenset(("as_ve", "split", "start_after", "from_pure_noise"))


def write(folder: Path) -> None:
    """Write every table as a file for the pages to include."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"diffusers_classes": diffusers_classes()}
    for program in PROGRAMS:
        texts[f"{program}_samplers"] = table(["there", "here", "what differs"], sampler_rows(program))
        texts[f"{program}_schedules"] = table(["there", "here", "what differs"], schedule_rows(program))
        texts[f"{program}_absent"] = absent(program)
    for name, text in texts.items():
        (folder / f"{name}.txt").write_text(text + "\n", encoding="utf-8")


def written(name: str, options: Mapping[str, Any]) -> str:
    """Format a name with options as code."""
    return f'`"{name}"' + "".join(f", {key}={value!r}".replace("'", '"') for key, value in options.items()) + "`"


def differs(own: Mapping[str, Any], note: str) -> str:
    """Describe how a program's method differs, with the note on its name."""
    parts = []
    if flow := [key for key in own if key in ON_FLOW]:
        parts.append("on flow models (" + ", ".join(f"`{key}`" for key in flow) + ")")
    rest = {key: value for key, value in own.items() if key not in ON_FLOW}
    parts += [", ".join(f"`{key}={value!r}`".replace("'", '"') for key, value in rest.items())] if rest else []
    return "; ".join([*parts, *([note] if note else [])])


def sampler_rows(program: Dialect) -> Iterable[list[str]]:
    """Yield a row for every sampler of a program that ksched has."""
    for peer in SAMPLER_PEERS:
        if peer.program is program and peer.sampler is not None:
            own = dialect_options(sampler_spec(peer.sampler), program)
            own = {key: value for key, value in own.items() if key not in peer.options}
            yield [f"`{peer.name}`", written(peer.sampler, peer.options), differs(own, peer.note)]


def schedule_rows(program: Dialect) -> Iterable[list[str]]:
    """Yield a row for every schedule of a program, and for every setting of its noise levels."""
    for peer in PEERS:
        if peer.program is program:
            own = {} if peer.schedule is None else DIALECTS[program].get(peer.schedule, {})
            own = {key: value for key, value in own.items() if key not in peer.options}
            here = "" if peer.schedule is None else written(peer.schedule, peer.options)
            yield [f"`{peer.name}`", here, differs(own, peer.note)]


def absent(program: Dialect) -> str:
    """List the names in a program that ksched does not have, by reason."""
    reasons: dict[str, list[str]] = {}
    for peer in SAMPLER_PEERS:
        if peer.program is program and peer.sampler is None:
            reasons.setdefault(peer.note, []).append(f"`{peer.name}`")
    return "\n".join(f"- {', '.join(names)}: {reason}" for reason, names in reasons.items())


def diffusers_classes() -> str:
    """Build a row for every scheduler class in diffusers."""
    rows = []
    for peer in SAMPLER_PEERS:
        if peer.program is Dialect.DIFFUSERS and peer.name.endswith("Scheduler"):
            here = "" if peer.sampler is None else written(peer.sampler, peer.options)
            rows.append([f"`{peer.name}`", here, "yes" if peer.name in CLASSES else "no", peer.note])
    return table(["class", "`sampler=`", "`from_diffusers`", "what differs"], rows)
