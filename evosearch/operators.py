"""Variation operators with DEAP's signatures that take their own generator.

Crossovers are `cx(ind1, ind2, rng) -> (ind1, ind2)`, mutations `mut(ind, sizes, rng, ...) -> (ind,)`; both
change what they are given, as DEAP's do, and work in any `deap.base.Toolbox`. `sizes` are the items per
group. `bind` makes DEAP's own operators, which draw from the global generator, fit the same place.
"""

from __future__ import annotations

import inspect
import random as global_random
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from operator import attrgetter
from random import Random
from typing import Any, Literal

from deap import base

from evosearch.individual import Individual

Operator = Callable[..., Any]
Boundary = Literal["bounce", "stay", "wrap"]
Pair = tuple[Individual, Individual]


def best(individuals: Iterable[Individual], k: int, rng: Random | None = None) -> list[Individual]:
    """The `k` with the smallest losses, equals in their order: DEAP's `selBest` on plain numbers.

    Nothing is drawn; `rng` is there so that selections can stand in for each other.
    """
    return sorted(individuals, key=attrgetter("fitness.wvalues"), reverse=True)[:k]


def half_split(ind1: Individual, ind2: Individual, rng: Random | None = None) -> Pair:
    """Exchange the second halves, so that each child is half of one parent and half of the other.

    The paper's crossover. Nothing is drawn; `rng` is there so that crossovers can stand in for each other.
    """
    middle = len(ind1) // 2
    ind1[middle:], ind2[middle:] = ind2[middle:], ind1[middle:]
    return ind1, ind2


def one_point(ind1: Individual, ind2: Individual, rng: Random) -> Pair:
    """Exchange everything from a random place on, which is not the first."""
    place = rng.randint(1, max(1, len(ind1) - 1))
    ind1[place:], ind2[place:] = ind2[place:], ind1[place:]
    return ind1, ind2


def two_point(ind1: Individual, ind2: Individual, rng: Random) -> Pair:
    """Exchange what lies between two different random places."""
    start, end = sorted(rng.sample(range(len(ind1) + 1), 2))
    ind1[start:end], ind2[start:end] = ind2[start:end], ind1[start:end]
    return ind1, ind2


def uniform(ind1: Individual, ind2: Individual, rng: Random, probability: float = 0.5) -> Pair:
    """Exchange each group independently with the given probability."""
    for group in range(len(ind1)):
        if rng.random() < probability:
            ind1[group], ind2[group] = ind2[group], ind1[group]
    return ind1, ind2


def shift(
    ind: Individual, sizes: Sequence[int], rng: Random, probability: float = 0.2, edge: Boundary = "bounce"
) -> tuple[Individual]:
    """Move each pick, with the given probability, one place left or right inside its group.

    The paper's mutation. Where the move would leave the group, `edge` decides: "bounce" goes the other way,
    "stay" does not move, "wrap" goes on at the other end. Groups of one never move, and draw nothing.
    """
    draw = rng.random
    moved = [group for group in _with_choice(tuple(sizes)) if draw() < probability]
    sides = rng.getrandbits(len(moved))
    for group in moved:
        pick = ind[group] + (1 if sides & 1 else -1)
        sides >>= 1
        if not 0 <= pick < sizes[group]:
            if edge == "stay":
                continue
            pick = 2 * ind[group] - pick if edge == "bounce" else pick % sizes[group]
        ind[group] = pick
    return (ind,)


@lru_cache(maxsize=1024)
def _with_choice(sizes: tuple[int, ...]) -> list[int]:
    """Groups of more than one item."""
    return [group for group, size in enumerate(sizes) if size > 1]


def reset(ind: Individual, sizes: Sequence[int], rng: Random, probability: float = 0.2) -> tuple[Individual]:
    """Replace each pick, with the given probability, by a different random one of its group, if there is
    one."""
    draw = rng.random
    for group, size in enumerate(sizes):
        if size > 1 and draw() < probability:
            ind[group] = other(ind[group], size, rng)
    return (ind,)


def other(pick: int, size: int, rng: Random) -> int:
    """A uniform pick among the `size` - 1 that are not `pick`."""
    place = int(rng.random() * (size - 1))
    return place + (place >= pick)


CROSSOVERS: dict[str, Operator] = {
    "half-split": half_split,
    "one-point": one_point,
    "two-point": two_point,
    "uniform": uniform,
}
MUTATIONS: dict[str, Operator] = {"shift": shift, "reset": reset}


class Toolbox(base.Toolbox):
    """DEAP's toolbox, in which a decorated operator still gets the `sizes` and `rng` that it asks for."""

    def decorate(self, alias: str, *decorators: Callable[[Operator], Operator]) -> None:
        """Wrap a registered operator, as DEAP does; the decorators need no `functools.wraps`."""
        for decorator in decorators:
            inner = getattr(self, alias).func
            super().decorate(alias, decorator)
            outer = getattr(self, alias).func
            if outer is not inner and not hasattr(outer, "__wrapped__") and _passes_keywords(outer):
                outer.__wrapped__ = inner  # inspect.signature follows it


def _passes_keywords(operator: Operator) -> bool:
    """Whether it takes any keyword, and so leaves their names to what it calls."""
    return any(each.kind is each.VAR_KEYWORD for each in inspect.signature(operator).parameters.values())


def bind(operator: Operator, sizes: Sequence[int], rng: Random) -> Operator:
    """Give an operator what it asks for by name (`sizes`, `rng`), unless it was bound already.

    An operator without an `rng` parameter may draw from Python's global generator, as DEAP's do; it is lent
    ours for the call, so that any DEAP operator keeps a search reproducible and resumable.
    """
    names, taken = _parameters(operator), getattr(operator, "keywords", {})
    offer = {"sizes": sizes, "rng": rng}
    bound = partial(operator, **{key: offer[key] for key in offer if key in names and key not in taken})
    return bound if "rng" in names else Lent(bound, rng)


def _parameters(operator: Operator) -> frozenset[str]:
    """Names of what it takes, bound keywords included."""
    if type(operator) is partial and not operator.args:
        return _of_function(operator.func)
    return frozenset(inspect.signature(operator).parameters)


@lru_cache(maxsize=256)
def _of_function(function: Operator) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)  # slow, and once per search otherwise


class Lent:
    """An operator that draws from `rng` although it was written for the global generator, which is left as it
    was."""

    def __init__(self, operator: Operator, rng: Random) -> None:
        self.operator = operator
        self.rng = rng

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        outside = global_random.getstate()
        global_random.setstate(self.rng.getstate())
        try:
            return self.operator(*args, **kwargs)
        finally:
            self.rng.setstate(global_random.getstate())
            global_random.setstate(outside)
