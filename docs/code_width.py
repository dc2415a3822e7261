"""Code in the pages fits the column of the site: a line of more than 88 characters is a warning."""

from __future__ import annotations

import re

from sphinx.application import Sphinx
from sphinx.util import logging

__all__ = ["setup", "wide_lines"]

log = logging.getLogger(__name__)

WIDTH = 88


def wide_lines(text: str) -> list[str]:
    """Lines of code that are too long, in the fenced blocks of a page; what code prints is as wide as it is."""
    found = []
    for block in re.findall(r"^```\{?(?:python|doctest|testcode|bash|toml|yaml)\}?\n(.*?)^```", text, re.M | re.S):
        lines = block.splitlines()
        if ">>>" in block:
            lines = [line for line in lines if line.startswith((">>> ", "... "))]
        found += [line for line in lines if len(line) > WIDTH]
    return found


def check(_: Sphinx, page: str, source: list[str]) -> None:
    """Warn of a page."""
    if not page.startswith("generated/"):
        for line in wide_lines(source[0]):
            log.warning("code of %d characters: %s", len(line), line, location=page, type="ksched", subtype="width")


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx's hook."""
    app.connect("source-read", check)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
