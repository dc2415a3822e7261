"""``ksched recipes``: what public models are sampled with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer
from rich import box
from rich.table import Table

from ksched.cli.common import AsJSON, plain_number, screen
from ksched.model_settings.elsewhere import elsewhere
from ksched.model_settings.library import recipes
from ksched.model_settings.one_model import GUIDANCE_KINDS, Recipe
from ksched.names.spelling import did_you_mean

__all__ = ["show_recipes"]


def complete_recipe(incomplete: str) -> list[str]:
    """Names of recipes that a shell may complete a word to."""
    return [name for name in recipes if name.startswith(incomplete)]


def show_recipes(
    words: Annotated[
        list[str] | None,
        typer.Argument(help="A model, to read all of it; or words to search for.", autocompletion=complete_recipe),
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", "-n", min=1, help="Number of steps.")] = None,
    width: Annotated[int | None, typer.Option(min=1, help="Width in pixels.")] = None,
    height: Annotated[int | None, typer.Option(min=1, help="Height in pixels.")] = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Frames of a clip.")] = None,
    as_json: AsJSON = False,
) -> None:
    """List what public models are sampled with; with the name of one, everything about it, with sources.

    Its page has the levels of a run, and the settings of diffusers, ComfyUI and A1111 that mean the same.
    """
    text = " ".join(words or ())
    how = {"steps": steps, "width": width, "height": height, "frames": frames}
    if text in recipes:
        facts = _facts(recipes[text], how)
        print(json.dumps(facts, indent=2, allow_nan=False) if as_json else _page(recipes[text], facts))
        return
    if any(value is not None for value in how.values()):
        raise ValueError("steps and sizes are of one model: name it; 'ksched recipes' lists them")
    found = recipes.search(text)
    if not found:
        raise ValueError(f"no recipe has the words {text!r}{did_you_mean(text, recipes, alike=0.5)}")
    if as_json:
        print(json.dumps([_short(recipe) for recipe in found], indent=2, allow_nan=False))
        return
    _print_table(found)


def _print_table(found: Sequence[Recipe]) -> None:
    table = Table(box=box.SIMPLE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("model", no_wrap=True)
    for column in ("makes", "sampler", "steps", "guidance", "levels"):
        table.add_column(column)
    for recipe in found:
        short = _short(recipe)
        levels = recipe.schedule or "a list of its own"
        table.add_row(recipe.name, recipe.makes, recipe.sampler, str(recipe.steps), short["guidance"] or "-", levels)
    screen().print(table)


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
    """All that is known of a recipe, and the run that it makes."""
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
    """Everything about a recipe, as text."""
    kind = recipe.guidance.get("kind")
    lines = [f"{recipe.name}: {recipe.title}"]
    rows = {name: facts[name] for name in ("makes", "sampler", "steps", "prediction", "process")}
    rows["levels"] = recipe.schedule or "a list that it was distilled for"
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
