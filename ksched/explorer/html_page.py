"""The page as one file: HTML, styles, scripts and plans."""

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

#: scripts in order of their dependencies
SCRIPTS = ("noise", "mixture", "plans", "store", "settings", "charts", "cloud", "panel", "about", "main")

#: marks a file as an explorer page, which may be overwritten
_MARK = '<meta name="generator" content="ksched explore">'

_LABELS = {"vp": "Stable Diffusion (VP)", "edm": "EDM", "flow": "flow matching"}


def page_html(selection: Selection | None = None, shown: Sequence[Case] = ()) -> str:
    """Build the whole page, which needs no other file and no network.

    Parameters
    ----------
    selection : Selection, optional
        The plans to store; None is a wide range of samplers and schedules.
    shown : sequence of Case
        One or two of these plans, which the page shows first.
    """
    data = json.dumps(content(selection or Selection(), shown), separators=(",", ":"), allow_nan=False)
    parts = {"STYLE": _asset("page.css"), "SCRIPT": script(), "CONTENT": data.replace("</", "<\\/"), "MARK": _MARK}
    text = _asset("page.html")
    for name, part in parts.items():
        text = text.replace(f"@{name}@", part)
    return text


def is_page(text: str) -> bool:
    """Whether a text is a page made by `page_html`."""
    return _MARK in text[:2000]


def fragment(shown: Sequence[Case]) -> str:
    """Return the part of the page's address after # that shows one plan, or two side by side."""
    runs = ("/".join(quote(str(part), safe="=,") for part in case.names if part != "") for case in shown)
    return "&".join(f"{letter}={run}" for letter, run in zip("ab", runs, strict=False))


def content(selection: Selection, shown: Sequence[Case] = ()) -> dict[str, Any]:
    """Return the input of the scripts: names and texts for the menus, data sets, and the packed plans."""
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
    """Return the samplers by heading, with a few facts about each."""
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
    """Describe the default of eta, if the sampler has that option."""
    eta = spec.own_options.get("eta")
    return "" if eta is None else options_text({"eta": eta.default})


def script() -> str:
    """Join all scripts into one; in a single file, modules need no imports and exports."""
    texts = [_asset(f"{name}.mjs") for name in SCRIPTS]
    plain = [re.sub(r"^import .*?;\n", "", text, flags=re.MULTILINE | re.DOTALL) for text in texts]
    return "\n".join(re.sub(r"^export ", "", text, flags=re.MULTILINE) for text in plain)


def _asset(name: str) -> str:
    return files("ksched.explorer").joinpath("page", name).read_text(encoding="utf-8")
