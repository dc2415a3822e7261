"""Formulas as MathML, which browsers render without scripts, fonts or network."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging

__all__ = ["mathml", "setup"]

log = logging.getLogger(__name__)

#: LaTeX commands that docutils does not know, with replacements that it does
REWRITTEN = (
    (r"\\([td]?frac)\s*(\w)\s*(\w)", r"\\\1{\2}{\3}"),
    (r"\\[bB]igg?l(?![a-zA-Z])", r"\\left"),
    (r"\\[bB]igg?r(?![a-zA-Z])", r"\\right"),
    (r"\\iff(?![a-zA-Z])", r"\\Longleftrightarrow"),
    (r"\\dots(?![a-zA-Z])", r"\\ldots"),
)


def mathml(text: str, block: bool) -> str:
    """Convert a LaTeX formula to MathML."""
    for pattern, new in REWRITTEN:
        text = re.sub(pattern, new, text)
    return re.sub(r"\n\s*", "", tex2mathml(text, as_block=block))


def shown(self: Any, node: nodes.Element, block: bool) -> None:
    """Write a formula and skip the rest of its node."""
    try:
        found = mathml(node.astext().strip(), block)
    except MathError as error:
        log.warning("formula %r: %s", node.astext(), error, location=node, type="ksched", subtype="math")
        found = self.encode(node.astext())
    self.body.append(f'<div class="math">{found}</div>' if block else found)
    raise nodes.SkipNode


def visit_math(self: Any, node: nodes.Element) -> None:
    """Write an inline formula."""
    shown(self, node, False)


def visit_display(self: Any, node: nodes.Element) -> None:
    """Write a display formula."""
    shown(self, node, True)


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx's hook."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_display, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
