"""The commands, put together."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Annotated, Any

import typer
import typer.main

from ksched import __version__
from ksched.cli import compare, demo, doctor, explore, generate, list_names, plan, plot, recipes, show, sigmas, tune
from ksched.cli.help import Command, Group, text_and_examples

__all__ = ["make_app", "make_command"]

#: commands by purpose, in the order of the help
_COMMANDS: dict[str, dict[str, Callable[..., Any]]] = {
    "Images": {
        "generate": generate.generate_images,
        "compare": compare.compare_images,
        "show": show.show_config,
    },
    "Samplers and schedules": {
        "list": list_names.list_names,
        "recipes": recipes.show_recipes,
        "sigmas": sigmas.print_sigmas,
        "plot": plot.draw_schedules,
        "plan": plan.print_plan,
        "explore": explore.explore_plans,
        "tune": tune.tune_plan,
    },
    "This installation": {
        "demo": demo.draw_demo,
        "doctor": doctor.check_installation,
    },
}


@cache
def make_command() -> Any:
    """Return all commands, ready to run: ``make_command().main(["list"], standalone_mode=False)``."""
    return typer.main.get_command(make_app())


def make_app() -> typer.Typer:
    """Build the typer app with all commands, in the order of the help."""
    settings = {"help_option_names": ["-h", "--help"]}
    app = typer.Typer(
        cls=_with_examples(Group, _common),
        context_settings=settings,
        pretty_exceptions_enable=False,
        invoke_without_command=True,
        rich_markup_mode=None,
    )
    app.callback(help=text_and_examples(_common)[0])(_common)
    for panel, commands in _COMMANDS.items():
        for name, function in commands.items():
            kind = _with_examples(Command, function)
            text = text_and_examples(function)[0]
            app.command(name, cls=kind, help=text, rich_help_panel=panel, context_settings=settings)(function)
    return app


def _with_examples(kind: Any, function: Callable[..., Any]) -> Any:
    """Subclass a command class with the examples of a function's docstring."""
    return type(kind.__name__, (kind,), {"examples": text_and_examples(function)[1]})


def _show_version(asked: bool) -> None:
    if asked:
        print(f"ksched {__version__}")
        raise typer.Exit


def _common(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Samplers and noise schedules for diffusion and flow models, as tables that you can print, check and run.

    Examples
    --------
    ksched generate "a handwritten seven" --out seven.png
    ksched list
    ksched plan dpmpp_2m karras --steps 10
    ksched doctor
    """
    if context.invoked_subcommand is None:
        print(context.get_help())
