"""The commands, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from ksched import __version__
from ksched.cli import compare, generate, levels, names, pictures, show

__all__ = ["make_app"]


def make_app() -> typer.Typer:
    """All commands, in the order of the help."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
    app.callback()(_common)
    app.command("demo")(pictures.draw_demo)
    app.command("generate")(generate.generate_images)
    app.command("compare")(compare.compare_images)
    app.command("show")(show.show_config)
    app.command("list")(names.list_names)
    app.command("sigmas")(levels.print_sigmas)
    app.command("plot")(pictures.draw_schedules)
    app.command("plan")(levels.print_plan)
    return app


def _show_version(asked: bool) -> None:
    if asked:
        print(f"ksched {__version__}")
        raise typer.Exit


def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Sampling mathematics for diffusion models: noise schedules and samplers as tables."""
