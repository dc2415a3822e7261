"""``python -m ksched.integrations.k_diffusion install PATH``: install the extension into A1111, Forge or reForge."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from ksched.storage.files import path_of
from ksched.storage.installed import Removed, put, report, take_out

__all__ = ["install", "main", "uninstall"]

_SCRIPT = "scripts/ksched_menus.py"


def install(webui: Path | str) -> Path:
    """Copy the extension to ``extensions/ksched`` of A1111, Forge or reForge.

    Parameters
    ----------
    webui : Path or str
        The program's folder, which contains ``extensions``.

    Returns
    -------
    Path
        The folder of the extension.

    Raises
    ------
    ValueError
        If there is no such program, or a folder ``extensions/ksched`` that this command did not write.
    """
    folder = _folder(webui)
    put(
        folder,
        {_SCRIPT: files("ksched.integrations.k_diffusion").joinpath("extension", *_SCRIPT.split("/")).read_bytes()},
    )
    return folder


def uninstall(webui: Path | str) -> Removed:
    """Remove the files that `install` wrote. Changed files, and files of others, stay.

    Raises
    ------
    ValueError
        If there is no such program, or nothing that `install` wrote.
    """
    return take_out(_folder(webui))


def _folder(webui: Path | str) -> Path:
    extensions = path_of("the folder of the program", webui) / "extensions"
    if not extensions.is_dir():
        raise ValueError(
            f"the folder of A1111, Forge or reForge must contain a folder extensions; {webui} does not. Check the path"
        )
    return extensions / "ksched"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return 0, or 2 after a usage error, which prints one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m ksched.integrations.k_diffusion")
    commands = parser.add_subparsers(required=True, dest="command")
    for name, text in (("install", "write extensions/ksched"), ("uninstall", "remove what install wrote")):
        commands.add_parser(name, help=text).add_argument("path", help="folder of A1111, Forge or reForge")
    given = parser.parse_args(arguments)
    return report(lambda: install(given.path) if given.command == "install" else uninstall(given.path).text)


if __name__ == "__main__":
    sys.exit(main())
