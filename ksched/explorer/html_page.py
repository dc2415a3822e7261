"""The page as one file: its HTML, styles and scripts, with the plans inside."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from ksched import __version__
from ksched.explorer.packing import DIGITS, pack
from ksched.explorer.plane_data import DATA_SETS, as_data
from ksched.explorer.selection import Case, Selection, options_text
from ksched.samplers.registry import families
from ksched.samplers.spec import SamplerSpec
from ksched.schedules.select import schedules

__all__ = ["content", "fragment", "is_page", "page_html", "script"]

#: scripts in the order in which each needs those before it
SCRIPTS = ("noise", "mixture", "plans", "store", "settings", "charts", "cloud", "panel", "about", "main")

#: says in a file that it is such a page, which may be replaced
_MARK = '<meta name="generator" content="ksched explore">'

_LABELS = {"vp": "Stable Diffusion (VP)", "edm": "EDM", "flow": "flow matching"}


def page_html(selection: Selection | None = None, shown: Sequence[Case] = ()) -> str:
    """The whole page, which needs no other file and no network.

    Parameters
    ----------
    selection : which plans it has; None is a broad product of samplers and schedules
    shown : one or two of its plans, which it opens with
    """
    data = json.dumps(content(selection or Selection(), shown), separators=(",", ":"), allow_nan=False)
    parts = {"STYLE": _asset("page.css"), "SCRIPT": script(), "CONTENT": data.replace("</", "<\\/"), "MARK": _MARK}
    text = _asset("page.html")
    for name, part in parts.items():
        text = text.replace(f"@{name}@", part)
    return text


def is_page(text: str) -> bool:
    """Whether a file's text is a page that `page_html` made."""
    return _MARK in text[:2000]


def fragment(shown: Sequence[Case]) -> str:
    """What follows # in the address of a page that shows one plan, or two of them side by side."""
    runs = ("/".join(quote(str(part), safe="=,") for part in case.names if part != "") for case in shown)
    return "&".join(f"{letter}={run}" for letter, run in zip("ab", runs, strict=False))


def content(selection: Selection, shown: Sequence[Case] = ()) -> dict[str, Any]:
    """What the scripts read: names and words for the menus, data sets, and the packed plans."""
    packed = pack(selection)
    return {
        "version": __version__,
        "digits": DIGITS,
        "processes": {name: _LABELS.get(name, name) for name in packed["blocks"]},
        "schedules": {name: spec.formula for name, spec in schedules().items()},
        "trained": list(selection.processes),
        "whole": list(selection.schedules),
        "few": list(selection.few),
        "families": _families(),
        "steps": list(selection.steps),
        "etas": list(selection.etas),
        "data": {name: {"label": label, **as_data(name)} for name, (label, _) in DATA_SETS.items()},
        "start": fragment(shown),
        **packed,
    }


def _families() -> Mapping[str, dict[str, Any]]:
    """Samplers by the heading that they stand under, with a few facts about each."""
    return {
        heading: {
            spec.name: {"summary": spec.summary.replace("`", ""), "defaults": _defaults(spec)}
            for spec in specs
            if not spec.adaptive
        }
        for heading, specs in families().items()
        if not all(spec.adaptive for spec in specs)
    }


def _defaults(spec: SamplerSpec) -> str:
    """What the default of eta is, where there is one."""
    eta = spec.own_options.get("eta")
    return "" if eta is None else options_text({"eta": eta.default})


def script() -> str:
    """All scripts as one: modules without their imports and exports, since in one file they see each other."""
    texts = [_asset(f"{name}.mjs") for name in SCRIPTS]
    plain = [re.sub(r"^import .*?;\n", "", text, flags=re.MULTILINE | re.DOTALL) for text in texts]
    return "\n".join(re.sub(r"^export ", "", text, flags=re.MULTILINE) for text in plain)


def _asset(name: str) -> str:
    return files("ksched.explorer").joinpath("page", name).read_text(encoding="utf-8")
