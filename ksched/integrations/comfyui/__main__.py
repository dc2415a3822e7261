"""``python -m ksched.integrations.comfyui install PATH``: install the nodes into ComfyUI."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ksched.storage.files import path_of, write_whole

__all__ = ["install", "main"]

_STAR = "from ksched.integrations.comfyui import *"
_SCHEMAS = "from ksched.integrations.comfyui import comfy_entrypoint"
_MENUS = "from ksched.integrations.comfyui import register\n\nregister()"


def install(comfyui: Path | str, *, menus: bool = False, schemas: bool = False) -> Path:
    """Write the node package ``custom_nodes/ksched`` of ComfyUI: a folder with one file of two to six lines.

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
        The file.

    Raises
    ------
    ValueError
        If there is no ComfyUI, or a package ``ksched`` that this command did not write.
    """
    nodes = path_of("the folder of ComfyUI", comfyui) / "custom_nodes"
    if not nodes.is_dir():
        raise ValueError(f"ComfyUI's folder must contain a folder custom_nodes; {comfyui} does not. Check the path")
    file = nodes / "ksched" / "__init__.py"
    if file.parent.exists() and not (file.exists() and "ksched.integrations.comfyui" in file.read_text()):
        raise ValueError(f"{file.parent} exists and was not written by ksched; move it away first")
    file.parent.mkdir(exist_ok=True)
    lines = ['"""ksched\'s nodes for ComfyUI."""', "", _SCHEMAS if schemas else _STAR, *([_MENUS] if menus else [])]
    write_whole(file, ("\n".join(lines) + "\n").encode())
    return file


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after an error, with one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m ksched.integrations.comfyui")
    command = parser.add_subparsers(required=True).add_parser("install", help="write custom_nodes/ksched")
    command.add_argument("path", help="folder of ComfyUI")
    command.add_argument("--menus", action="store_true", help="also add the names to the menus of KSampler")
    command.add_argument("--schemas", action="store_true", help="nodes of the newer kind (V3)")
    given = parser.parse_args(arguments)
    try:
        print(install(given.path, menus=given.menus, schemas=given.schemas))
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
