"""What public models are sampled with, as data with sources: `ksched.recipes`."""

from ksched.model_settings.library import Recipes, recipes
from ksched.model_settings.one_model import Recipe

__all__ = ["Recipe", "Recipes", "recipes"]
