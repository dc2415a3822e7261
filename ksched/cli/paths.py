"""Settings for options that take a path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

__all__ = ["PATH"]


def _path(text: str) -> Path:
    """Parse a path; an empty one, as from an unset shell variable, would mean the current folder and is refused."""
    if not str(text):
        raise typer.BadParameter("must not be empty; write . for the current folder")
    return Path(text)


#: arguments of ``typer.Option``
PATH: dict[str, Any] = {"parser": _path, "metavar": "PATH"}
