"""Writes the explorer into the built site, where docs/explorer.md shows it."""

from __future__ import annotations

from pathlib import Path

from sphinx.application import Sphinx

__all__ = ["setup"]

#: its name beside the other pages of the site
NAME = "explorer-app.html"


def write(app: Sphinx, failure: Exception | None) -> None:
    """The page, once the site is there; only for builders that write HTML."""
    if failure is None and app.builder.format == "html":
        from ksched.explorer import page_html

        Path(app.outdir, NAME).write_text(page_html(), encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Write it whenever a build ends."""
    app.connect("build-finished", write)
