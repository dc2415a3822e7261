"""Warns of code lines over 88 characters, which do not fit into the site's column."""

from __future__ import annotations

import re

from sphinx.application import Sphinx
from sphinx.util import logging

__all__ = ["setup", "wide_lines"]

log = logging.getLogger(__name__)

WIDTH = 88


def wide_lines(text: str) -> list[str]:
    """Find the lines of code in a page that are too long; printed output may have any width."""
    found = []
    for block in re.findall(r"^```\{?(?:python|doctest|testcode|bash|toml|yaml)\}?\n(.*?)^```", text, re.M | re.S):
        lines = block.splitlines()
        if ">>>" in block:
            lines = [line for line in lines if line.startswith((">>> ", "... "))]
        found += [line for line in lines if len(line) > WIDTH]
    return found


def check(_: Sphinx, page: str, source: list[str]) -> None:
    """Warn of long lines in a page."""
    if not page.startswith("generated/"):
        for line in wide_lines(source[0]):
            log.warning("code of %d characters: %s", len(line), line, location=page, type="ksched", subtype="width")


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx's hook."""
    app.connect("source-read", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
