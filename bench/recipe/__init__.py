"""Recipes: a table or figure as a short YAML, worked off in steps that are never done twice."""
