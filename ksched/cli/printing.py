"""Print the names of the files that a command wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

__all__ = ["Printed", "print_files", "print_json", "printed_files"]


def print_json(facts: Any) -> None:
    """Print the results of a command as JSON."""
    print(json.dumps(facts, indent=2, allow_nan=False))


class Printed:
    """Prints the files of a command: one line as each is written, or all as JSON at the end."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.files: list[str] = []

    def file(self, path: Path) -> None:
        """Report that a file was written."""
        self.files.append(str(path))
        if not self.as_json:
            print(path, flush=True)


@contextmanager
def printed_files(as_json: bool) -> Iterator[Printed]:
    """Print files as they are written; JSON is printed at the end, even after Ctrl-C."""
    printed = Printed(as_json)
    try:
        yield printed
    except typer.Exit:
        if as_json:
            print_json({"files": printed.files})
        raise
    if as_json:
        print_json({"files": printed.files})


def print_files(files: Sequence[Path], as_json: bool = False, **facts: Any) -> None:
    """Print the files that a command wrote, one per line, or as JSON together with other facts."""
    if as_json:
        print_json({**facts, "files": list(map(str, files))})
        return
    for file in files:
        print(file)
