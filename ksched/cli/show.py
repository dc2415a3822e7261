"""``ksched show``: what made a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ksched.cli.image_options import sheet_of
from ksched.cli.paths import PATH

__all__ = ["show_config"]


def show_config(
    picture: Annotated[Path, typer.Argument(**{**PATH, "metavar": "PICTURE"}, help="A .png that ksched wrote.")],
    toml: Annotated[bool, typer.Option("--toml", help="Print TOML instead of JSON.")] = False,
) -> None:
    """Print the configuration that a picture carries, which ksched generate reads as a file."""
    from ksched.stable_diffusion import read_config

    sheet = sheet_of(picture)
    if sheet is not None:
        if toml:
            raise ValueError(f"{picture} is a sheet of several configurations, which are printed as JSON only")
        print(json.dumps(sheet, indent=1))
        return
    config = read_config(picture)
    print(config.to_toml().rstrip("\n") if toml else config.to_json(indent=1))
