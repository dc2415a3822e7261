"""``ksched show``: the settings of a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ksched.cli.common import AsJSON
from ksched.cli.paths import PATH
from ksched.cli.sheets import sheet_of

__all__ = ["show_config"]


def show_config(
    picture: Annotated[Path, typer.Argument(**{**PATH, "metavar": "PICTURE"}, help="A .png that ksched wrote.")],
    toml: Annotated[bool, typer.Option("--toml", help="Print TOML.")] = False,
    as_json: AsJSON = False,
) -> None:
    """Print the settings that a picture stores, as JSON.

    Saved in a file that ends in .json or .toml, they are an input of ksched generate.

    Examples
    --------
    ksched show seven.png
    ksched show seven.png --toml > seven.toml
    """
    from ksched.stable_diffusion import read_config

    if toml and as_json:
        raise ValueError("give one of --toml and --json")
    sheet = sheet_of(picture)
    if sheet is not None:
        if toml:
            raise ValueError(f"{picture} is a sheet of several configurations, which can be printed as JSON only")
        print(json.dumps(sheet, indent=1))
        return
    config = read_config(picture)
    print(config.to_toml().rstrip("\n") if toml else config.to_json(indent=1))
