"""Writes the explorer into the built site, where docs/explorer.md shows it."""

from __future__ import annotations

from pathlib import Path

from sphinx.application import Sphinx

__all__ = ["setup"]

#: file name in the built site
NAME = "explorer-app.html"


def write(app: Sphinx, failure: Exception | None) -> None:
    """Write the page after the site is built; only HTML builders need it."""
    if failure is None and app.builder.format == "html":
        from ksched.explorer import page_html

        Path(app.outdir, NAME).write_text(page_html(), encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Write the page at the end of every build."""
    app.connect("build-finished", write)
