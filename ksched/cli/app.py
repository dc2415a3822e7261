"""The commands, put together."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Annotated, Any

import typer

from ksched import __version__
from ksched.cli import compare, demo, explore, generate, list_names, plan, plot, recipes, show, sigmas, tune

__all__ = ["make_app"]


def make_app() -> typer.Typer:
    """All commands, in the order of the help."""
    app = typer.Typer(pretty_exceptions_enable=False, invoke_without_command=True)
    app.callback()(_common)
    commands: dict[str, Callable[..., Any]] = {
        "demo": demo.draw_demo,
        "generate": generate.generate_images,
        "compare": compare.compare_images,
        "show": show.show_config,
        "list": list_names.list_names,
        "recipes": recipes.show_recipes,
        "sigmas": sigmas.print_sigmas,
        "plot": plot.draw_schedules,
        "plan": plan.print_plan,
        "explore": explore.explore_plans,
        "tune": tune.tune_plan,
    }
    for name, function in commands.items():
        app.command(name, help=_paragraphs(function.__doc__ or ""))(function)
    return app


def _paragraphs(text: str) -> str:
    """A docstring whose lines may be broken anew, which typer does not do."""
    return re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.cleandoc(text))


def _show_version(asked: bool) -> None:
    if asked:
        print(f"ksched {__version__}")
        raise typer.Exit


def _common(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Sampling mathematics for diffusion models: noise schedules and samplers as tables."""
    if context.invoked_subcommand is None:
        print(context.get_help())
