"""The mapping of all recipes, read from its data file when first used."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib import resources
from typing import Any

from ksched.model_settings.one_model import Recipe
from ksched.names.spelling import few, nearest, spelling_key

__all__ = ["Recipes", "recipes"]


class Recipes(Mapping[str, Recipe]):
    """Sampling settings of public models: a read-only mapping from the name of a model to its `Recipe`.

    Names are lower-case with hyphens, and with versions as the authors write them. Other spellings are also found if
    they differ only in case, spaces, dashes and dots.

    Examples
    --------
    >>> import ksched
    >>> recipe = ksched.recipes["flux.1-dev"]
    >>> recipe.sampler, recipe.steps, recipe.guidance["scale"]
    ('euler', 28, 3.5)
    >>> recipe.build(steps=4, width=1024, height=1024).sigmas.round(4)
    array([1.    , 0.9045, 0.7595, 0.5128, 0.    ])
    """

    @cached_property
    def _rows(self) -> dict[str, Recipe]:
        text = (resources.files("ksched") / "data" / "recipes.json").read_text(encoding="utf-8")
        data: dict[str, Any] = json.loads(text)
        return {name: Recipe.of(name, row, data["sources"]) for name, row in data["models"].items()}

    @cached_property
    def _spellings(self) -> dict[str, str]:
        return {spelling_key(name): name for name in self._rows}

    def __getitem__(self, name: str) -> Recipe:
        if not isinstance(name, str):
            raise KeyError(name)
        if name in self._rows:
            return self._rows[name]
        known = self._spellings.get(spelling_key(name))
        if known is not None:
            return self._rows[known]
        near = nearest(name, self._rows, alike=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {few(self._rows)}"
        raise KeyError(f"no recipe for {name!r}; {hint}")

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and (name in self._rows or spelling_key(name) in self._spellings)

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"<{len(self)} recipes: {few(self._rows)}>"

    def search(self, words: str) -> list[Recipe]:
        """Recipes whose name, title or kind contains all of these words."""
        keys = [spelling_key(word) for word in words.split()]
        texts = {name: spelling_key(f"{name} {own.title} {own.makes}") for name, own in self._rows.items()}
        return [own for name, own in self._rows.items() if all(key in texts[name] for key in keys)]


#: every recipe, by name
recipes = Recipes()
