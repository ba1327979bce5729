"""Variation operators with DEAP's signatures and an explicit random generator.

Crossovers are `cx(ind1, ind2, rng) -> (ind1, ind2)`, mutations `mut(ind, sizes, rng, ...) -> (ind,)`. Both
change their arguments in place, as DEAP's do, and work in any `deap.base.Toolbox`. `sizes` are the items per
group. `bind` adapts DEAP's own operators, which draw from the global generator, to the same interface.
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
    """Return the `k` individuals with the smallest losses, stably sorted: DEAP's `selBest` on plain numbers.

    `rng` is unused; it makes all selections interchangeable.
    """
    return sorted(individuals, key=attrgetter("fitness.wvalues"), reverse=True)[:k]


def half_split(ind1: Individual, ind2: Individual, rng: Random | None = None) -> Pair:
    """Exchange the second halves, so that each child has half of its genes from each parent.

    The paper's crossover. `rng` is unused; it makes all crossovers interchangeable.
    """
    middle = len(ind1) // 2
    ind1[middle:], ind2[middle:] = ind2[middle:], ind1[middle:]
    return ind1, ind2


def one_point(ind1: Individual, ind2: Individual, rng: Random) -> Pair:
    """Exchange all genes from a random place, not the first, to the end."""
    place = rng.randint(1, max(1, len(ind1) - 1))
    ind1[place:], ind2[place:] = ind2[place:], ind1[place:]
    return ind1, ind2


def two_point(ind1: Individual, ind2: Individual, rng: Random) -> Pair:
    """Exchange the genes between two different random places."""
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

    The paper's mutation. If the move would leave the group, `edge` decides: "bounce" moves in the other
    direction, "stay" does not move, "wrap" continues at the other end. Groups of one item never move and use
    no random numbers.
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
    """Return the groups with more than one item."""
    return [group for group, size in enumerate(sizes) if size > 1]


def reset(ind: Individual, sizes: Sequence[int], rng: Random, probability: float = 0.2) -> tuple[Individual]:
    """Replace each pick, with the given probability, by a different random one of its group, if any."""
    draw = rng.random
    for group, size in enumerate(sizes):
        if size > 1 and draw() < probability:
            ind[group] = other(ind[group], size, rng)
    return (ind,)


def other(pick: int, size: int, rng: Random) -> int:
    """Draw a uniform pick among the `size` - 1 that differ from `pick`."""
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
    """DEAP's toolbox, extended so that decorated operators still receive `sizes` and `rng`."""

    def decorate(self, alias: str, *decorators: Callable[[Operator], Operator]) -> None:
        """Wrap a registered operator, as DEAP does; the decorators need no `functools.wraps`."""
        for decorator in decorators:
            inner = getattr(self, alias).func
            super().decorate(alias, decorator)
            outer = getattr(self, alias).func
            if outer is not inner and not hasattr(outer, "__wrapped__") and _passes_keywords(outer):
                outer.__wrapped__ = inner  # inspect.signature follows it


def _passes_keywords(operator: Operator) -> bool:
    """Return whether an operator takes arbitrary keyword arguments."""
    return any(each.kind is each.VAR_KEYWORD for each in inspect.signature(operator).parameters.values())


def bind(operator: Operator, sizes: Sequence[int], rng: Random) -> Operator:
    """Bind the parameters `sizes` and `rng` of an operator, if it has them and they are not bound yet.

    An operator without an `rng` parameter may draw from Python's global generator, as DEAP's do. During its
    calls the global generator has the state of `rng`, so that the search stays reproducible and resumable.
    """
    names, taken = _parameters(operator), getattr(operator, "keywords", {})
    offer = {"sizes": sizes, "rng": rng}
    bound = partial(operator, **{key: offer[key] for key in offer if key in names and key not in taken})
    return bound if "rng" in names else Lent(bound, rng)


def _parameters(operator: Operator) -> frozenset[str]:
    """Return the names of an operator's parameters, bound keywords included."""
    if type(operator) is partial and not operator.args:
        return _of_function(operator.func)
    return frozenset(inspect.signature(operator).parameters)


@lru_cache(maxsize=256)
def _of_function(function: Operator) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)  # cached: it is slow, and needed in every search


class Lent:
    """An operator for the global generator that draws from `rng` and leaves the global state unchanged."""

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
