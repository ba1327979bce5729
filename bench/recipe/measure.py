"""Steps that time: latency on a GPU or CPU, and the phone protocol. Thin: the benchmarks do the work."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from bench.recipe.schema import Recipe
from bench.recipe.steps import Shop, Step, Train

Measurement = Step


def missing(recipe: Recipe) -> list[str]:
    """What this installation lacks for the recipe, in words."""
    wanted = {"bench.latency": recipe.latency, "bench.edge": recipe.edge}
    return [
        f"{recipe.name} needs `evocomp bench {name.rpartition('.')[2]}`, which this version does not have"
        for name, asked in wanted.items()
        if asked and find_spec(name) is None
    ]


def measurements(recipe: Recipe, shop: Shop, trains: Mapping[tuple[str, int], Train]) -> list[Measurement]:
    """The timing steps of a recipe."""
    if lacks := missing(recipe):
        raise ValueError("; ".join(lacks))
    return []
