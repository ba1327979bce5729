"""Recipes: a table or figure as a short YAML file, computed in steps that are cached and never repeated."""
