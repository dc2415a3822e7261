"""``ksched recipes``: sampling settings of public models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich.table import Table

from ksched.cli.common import AsJSON, plain_number, screen
from ksched.cli.printing import print_json
from ksched.cli.values import starting_with, whole
from ksched.model_settings.elsewhere import elsewhere
from ksched.model_settings.library import recipes
from ksched.model_settings.one_model import GUIDANCE_KINDS, Recipe
from ksched.names.spelling import did_you_mean

__all__ = ["show_recipes"]


complete_recipe = starting_with(lambda: recipes)


def show_recipes(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME|WORDS",
            help="Name of a model to show in detail, or words to search for.",
            autocompletion=complete_recipe,
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option("--steps", "-n", **whole(1), help="Number of steps.", show_default="the model's")
    ] = None,
    width: Annotated[
        int | None, typer.Option("--width", **whole(1), help="Width in pixels.", show_default="the model's")
    ] = None,
    height: Annotated[
        int | None, typer.Option("--height", **whole(1), help="Height in pixels.", show_default="the model's")
    ] = None,
    frames: Annotated[
        int | None, typer.Option("--frames", **whole(1), help="Frames of a video.", show_default="the model's")
    ] = None,
    as_json: AsJSON = False,
) -> None:
    """List the sampling settings of public models; with a name, show everything about that model.

    Its page has the noise levels of a run, the sources of every setting, and the settings of diffusers, ComfyUI and
    A1111 that mean the same.

    Examples
    --------
    ksched recipes
    ksched recipes lightning
    ksched recipes flux.1-dev --width 1360 --height 768
    ksched recipes sdxl --json
    """
    text = " ".join(words or ())
    how = {"steps": steps, "width": width, "height": height, "frames": frames}
    if text in recipes:
        facts = _facts(recipes[text], how)
        if as_json:
            print_json(facts)
        else:
            print(_page(recipes[text], facts))
        return
    if any(value is not None for value in how.values()):
        raise ValueError("--steps and sizes apply to one model; name it ('ksched recipes' lists all)")
    found = recipes.search(text)
    if not found:
        raise ValueError(f"no recipe contains {text!r}{did_you_mean(text, recipes, alike=0.5)}")
    if as_json:
        print_json([_short(recipe) for recipe in found])
        return
    _print_table(found)


def _print_table(found: Sequence[Recipe]) -> None:
    """Print a row for each model; names are never cut, and a narrow screen shows fewer columns."""
    console = screen()
    columns = ["model", "makes", "sampler", "steps", "guidance", "levels"]
    for least, names in ((100, ("levels",)), (76, ("guidance", "makes")), (52, ("sampler",)), (40, ("steps",))):
        columns = [name for name in columns if console.width >= least or name not in names]
    table = Table(box=None, show_edge=False, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, no_wrap=column == "model", overflow="fold")
    for recipe in found:
        cells = {**_short(recipe), "model": recipe.name, "levels": recipe.schedule or "its own list"}
        cells["guidance"] = cells["guidance"] or "-"
        table.add_row(*(str(cells[column]) for column in columns))
    console.print(table)


def _short(recipe: Recipe) -> dict[str, Any]:
    guidance = " ".join(str(recipe.guidance[key]) for key in ("kind", "scale") if key in recipe.guidance)
    return {
        "name": recipe.name,
        "title": recipe.title,
        "makes": recipe.makes,
        "sampler": recipe.sampler,
        "steps": recipe.steps,
        "guidance": guidance,
    }


def _facts(recipe: Recipe, how: dict[str, int | None]) -> dict[str, Any]:
    """Return everything known about a recipe, and the run that it makes."""
    sampler = recipe.build(**how)
    return {
        **_short(recipe),
        "guidance": dict(recipe.guidance),
        "prediction": recipe.prediction,
        "process": repr(sampler.process),
        "schedule": recipe.schedule,
        "distilled": recipe.distilled,
        "experts": dict(recipe.experts),
        "streams": list(recipe.streams),
        "latent": dict(recipe.latent),
        "size": {name: value for name, value in recipe.size._asdict().items() if value is not None},
        "resolution": recipe.resolution.words(),
        "sigmas": [plain_number(sigma) for sigma in sampler.plan.call_sigmas.tolist()],
        "timesteps": sampler.timesteps.tolist(),
        "diffusers": {"pipeline": recipe.pipeline, "scheduler": recipe.scheduler, "config": dict(recipe.config)},
        **{str(program): str(setting) for program, setting in elsewhere(recipe).items()},
        "notes": list(recipe.notes),
        "sources": {fact: list(places) for fact, places in recipe.sources.items()},
    }


def _page(recipe: Recipe, facts: dict[str, Any]) -> str:
    """Format everything about a recipe as text."""
    kind = recipe.guidance.get("kind")
    lines = [f"{recipe.name}: {recipe.title}"]
    rows = {name: facts[name] for name in ("makes", "sampler", "steps", "prediction", "process")}
    rows["levels"] = recipe.schedule or "the list that the model was distilled for"
    shown = ("guidance", "experts", "streams", "size", "resolution", "latent")
    rows |= {name: _words(facts[name]) for name in shown if facts[name]}
    if kind:
        rows["guidance"] = f"{_words({k: v for k, v in facts['guidance'].items() if k != 'kind'})} {kind}".strip()
        rows["guidance"] += f" ({GUIDANCE_KINDS[kind]})"
    rows["sigmas"] = _numbers(facts["sigmas"])
    rows["timesteps"] = _numbers(facts["timesteps"])
    lines += [f"  {name:<11} {value}" for name, value in rows.items()]
    lines += ["  elsewhere"]
    settings = ", ".join(f"{name}={value!r}" for name, value in recipe.config.items())
    lines += [f"    {'diffusers':<9} {recipe.scheduler}({settings})" if recipe.scheduler else "    diffusers no class"]
    lines += [f"    {program:<9} {facts[program]}" for program in ("comfyui", "a1111")]
    lines += [f"  note        {note}" for note in recipe.notes]
    lines += ["  sources"]
    lines += [f"    {fact:<9} {place}" for fact, places in recipe.sources.items() for place in places]
    return "\n".join(lines)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(each)}" for name, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _numbers(values: Sequence[Any], most: int = 8) -> str:
    shown = [f"{value:.6g}" if isinstance(value, float) else str(value) for value in values]
    return " ".join(shown if len(shown) <= most else [*shown[: most - 2], "...", *shown[-2:]])
