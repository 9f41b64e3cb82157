"""Recipes: YAML to validated objects that know the line of every value."""

from sslcli.recipe.model import Recipe, Step
from sslcli.recipe.read import load_recipe, recipe_problems

__all__ = ["Recipe", "Step", "load_recipe", "recipe_problems"]
