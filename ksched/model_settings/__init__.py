"""Sampling settings of public models, as data with sources: `ksched.recipes`."""

from ksched.model_settings.library import Recipes, recipes
from ksched.model_settings.one_model import Recipe
from ksched.model_settings.resolution import Resolution

__all__ = ["Recipe", "Recipes", "Resolution", "recipes"]
