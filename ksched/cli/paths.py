"""What options that are paths have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

__all__ = ["PATH"]


def _path(text: str) -> Path:
    """A path of an option; that of an unset variable of the shell would be the current folder."""
    if not str(text):
        raise typer.BadParameter("must not be empty; write . for the current folder")
    return Path(text)


#: arguments of ``typer.Option``
PATH: dict[str, Any] = {"parser": _path, "metavar": "PATH"}
