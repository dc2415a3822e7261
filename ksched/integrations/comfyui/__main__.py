"""``python -m ksched.integrations.comfyui install PATH``: install the nodes into ComfyUI, or ``uninstall`` them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from ksched.storage.files import path_of
from ksched.storage.installed import Removed, put, report, take_out

__all__ = ["install", "main", "uninstall"]

_STAR = "from ksched.integrations.comfyui import *"
_SCHEMAS = "from ksched.integrations.comfyui import comfy_entrypoint"
_MENUS = "from ksched.integrations.comfyui import register\n\nregister()"
_EXAMPLE = "example_workflows/ksched.json"  # where ComfyUI looks for a package's templates


def install(comfyui: Path | str, *, menus: bool = False, schemas: bool = False) -> Path:
    """Write the node package ``custom_nodes/ksched`` of ComfyUI: a file of two to six lines, and a workflow.

    Parameters
    ----------
    comfyui : Path or str
        ComfyUI's folder, which contains ``custom_nodes``.
    menus : bool
        Also add ksched's names to the menus of KSampler.
    schemas : bool
        Write nodes of the newer kind (V3), for a ComfyUI that has ``comfy_api.latest``.

    Returns
    -------
    Path
        The file with the nodes.

    Raises
    ------
    ValueError
        If there is no ComfyUI, or a package ``ksched`` that this command did not write.
    """
    folder = _folder(comfyui)
    lines = ['"""ksched\'s nodes for ComfyUI."""', "", _SCHEMAS if schemas else _STAR, *([_MENUS] if menus else [])]
    workflow = files("ksched.integrations.comfyui").joinpath(*_EXAMPLE.split("/")).read_bytes()
    put(folder, {"__init__.py": ("\n".join(lines) + "\n").encode(), _EXAMPLE: workflow}, _of_an_earlier_version)
    return folder / "__init__.py"


def uninstall(comfyui: Path | str) -> Removed:
    """Remove the files that `install` wrote. Changed files, and files of others, stay.

    Raises
    ------
    ValueError
        If there is no ComfyUI, or nothing that `install` wrote.
    """
    return take_out(_folder(comfyui), _of_an_earlier_version)


def _folder(comfyui: Path | str) -> Path:
    nodes = path_of("the folder of ComfyUI", comfyui) / "custom_nodes"
    if not nodes.is_dir():
        raise ValueError(f"ComfyUI's folder must contain a folder custom_nodes; {comfyui} does not. Check the path")
    return nodes / "ksched"


def _of_an_earlier_version(path: Path) -> bool:
    """Whether a file was written by a version that kept no list of its files."""
    ours = '"""ksched\'s nodes for ComfyUI."""\n\nfrom ksched.integrations.comfyui import '
    return path.name == "__init__.py" and path.read_text(encoding="utf-8").startswith(ours)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after an error, with one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m ksched.integrations.comfyui")
    commands = parser.add_subparsers(required=True, dest="command")
    adding = commands.add_parser("install", help="write custom_nodes/ksched")
    adding.add_argument("--menus", action="store_true", help="also add the names to the menus of KSampler")
    adding.add_argument("--schemas", action="store_true", help="nodes of the newer kind (V3)")
    removing = commands.add_parser("uninstall", help="remove what install wrote")
    for command in (adding, removing):
        command.add_argument("path", help="folder of ComfyUI")
    given = parser.parse_args(arguments)
    if given.command == "install":
        return report(lambda: install(given.path, menus=given.menus, schemas=given.schemas))
    return report(lambda: uninstall(given.path).text)


if __name__ == "__main__":
    sys.exit(main())
