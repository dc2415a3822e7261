"""``python -m ksched.integrations.comfyui install PATH``: put the nodes into a ComfyUI."""

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
    """Write the node package ``custom_nodes/ksched`` of a ComfyUI: a folder with one file of two to six lines.

    Parameters
    ----------
    comfyui : folder of ComfyUI, which has ``custom_nodes``
    menus : also put our names into the menus of KSampler
    schemas : nodes of the newer kind (V3), for a ComfyUI that has ``comfy_api.latest``

    Returns
    -------
    the file

    Raises
    ------
    ValueError : no ComfyUI there; a package ``ksched`` that this did not write
    """
    nodes = path_of("the folder of ComfyUI", comfyui) / "custom_nodes"
    if not nodes.is_dir():
        raise ValueError(f"a folder of ComfyUI has a folder custom_nodes; {comfyui} has none")
    file = nodes / "ksched" / "__init__.py"
    if file.parent.exists() and not (file.exists() and "ksched.integrations.comfyui" in file.read_text()):
        raise ValueError(f"{file.parent} is something else already; move it away first")
    file.parent.mkdir(exist_ok=True)
    lines = ['"""ksched\'s nodes for ComfyUI."""', "", _SCHEMAS if schemas else _STAR, *([_MENUS] if menus else [])]
    write_whole(file, ("\n".join(lines) + "\n").encode())
    return file


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0, or 2 for a mistake, which is one line on stderr."""
    parser = argparse.ArgumentParser(prog="python -m ksched.integrations.comfyui")
    command = parser.add_subparsers(required=True).add_parser("install", help="write custom_nodes/ksched")
    command.add_argument("path", help="folder of ComfyUI")
    command.add_argument("--menus", action="store_true", help="also put the names into the menus of KSampler")
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
