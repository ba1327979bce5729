"""The paper's evolutionary search, as a DEAP toolbox."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, Literal

from evosearch.grouping import Grouping
from evosearch.individual import Individual
from evosearch.operators import CROSSOVERS, MUTATIONS, Boundary, Operator, Toolbox, best, bind
from evosearch.strategies.base import Strategy, share, sized


@dataclass
class Evolution(Strategy):
    """Half-split crossover and shift mutation of the best; the paper's search.

    The first population is random. In each of `iterations` (None: until the budget is spent) the `parents`
    individuals with the smallest losses survive, and children fill the population up again. Children come in
    pairs: each parent in turn is paired with another one drawn at random, the two are crossed with
    probability `crossover`, and every pick mutates with probability `mutation`.

    The paper does not say whether parents stay in the population. Here they do (elitism), which with the
    defaults makes 36 children per iteration. With `elitist=False` a full population of children replaces all
    individuals, parents included.

    `toolbox` holds the operators under DEAP's usual names `mate`, `mutate` and `select`. To replace one,
    register another: `evolution.toolbox.register("mate", deap.tools.cxTwoPoint)`. Operators return the same
    as DEAP's: a tuple of individuals with one gene per group. `toolbox.decorate` works like DEAP's.
    """

    population: int = 48
    parents: int = 12
    iterations: int | None = 10
    crossover: float = 0.9
    mutation: float = 0.2
    elitist: bool = True
    mate: Literal["half-split", "one-point", "two-point", "uniform"] = "half-split"
    mutate: Literal["shift", "reset"] = "shift"
    edge: Boundary = "bounce"
    toolbox: Toolbox = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        sized(2, parents=self.parents)
        sized(self.parents + 1, population=self.population)
        if self.iterations is not None and self.iterations < 0:
            raise ValueError(f"iterations={self.iterations}: choose 0 or more")
        share(crossover=self.crossover, mutation=self.mutation)
        for option, value, known in (("mate", self.mate, CROSSOVERS), ("mutate", self.mutate, MUTATIONS)):
            if value not in known:
                raise ValueError(f"{option}={value!r}: choose one of {', '.join(known)}")
        if self.edge not in ("bounce", "stay", "wrap"):
            raise ValueError(f"edge={self.edge!r}: choose one of bounce, stay, wrap")
        self.toolbox = Toolbox()
        self.toolbox.register("clone", Individual.clone)
        self.toolbox.register("select", best)
        self.toolbox.register("mate", CROSSOVERS[self.mate])
        edge = {"edge": self.edge} if self.mutate == "shift" else {}
        self.toolbox.register("mutate", MUTATIONS[self.mutate], probability=self.mutation, **edge)

    def begin(self, space: Grouping, rng: Random) -> None:
        super().begin(space, rng)
        for name in ("clone", "select", "mate", "mutate"):
            if not hasattr(self.toolbox, name):
                raise ValueError(f"the toolbox has no operator '{name}': register one")
        self._select, self._mate, self._mutate = (
            bind(operator, space.sizes, rng)
            for operator in (self.toolbox.select, self.toolbox.mate, self.toolbox.mutate)
        )
        self._survivors: list[Individual] = []
        self._done = 0

    def ask(self) -> list[Individual]:
        if not self._survivors:
            return self.scatter(self.population)
        if self._done == self.iterations:
            return []
        self._done += 1
        return self._children(self.population - self.parents if self.elitist else self.population)

    def tell(self, individuals: Sequence[Individual], losses: Sequence[float]) -> None:
        pool = [*self._survivors, *individuals] if self.elitist else individuals
        self._survivors = self._select(pool, self.parents)
        if not self._survivors or not all(type(one) is Individual for one in self._survivors):
            raise ValueError(
                f"select={_spelled(self.toolbox.select)} returned {self._survivors!r:.80}: it must return a "
                f"list of {self.parents} of the individuals that it was given"
            )

    def settings(self) -> dict[str, object]:
        operators = {name: _spelled(getattr(self.toolbox, name)) for name in ("select", "mate", "mutate")}
        return super().settings() | operators

    def _children(self, count: int) -> list[Individual]:
        draw, parents, clone = self.rng.random, self._survivors, self._cloned
        children: list[Individual] = []
        turn = 0
        while len(children) < count:
            other = (turn + 1 + int(draw() * (len(parents) - 1))) % len(parents)
            pair = clone(parents[turn]), clone(parents[other])
            if draw() < self.crossover:
                pair = self._checked("mate", self._mate(*pair), 2)
            for child in pair:
                children += self._checked("mutate", self._mutate(child), 1)
            turn = (turn + 1) % len(parents)
        return children[:count]

    def _cloned(self, one: Individual) -> Individual:
        made = self.toolbox.clone(one)
        if type(made) is not Individual or len(made) != len(self.space):
            raise ValueError(
                f"clone={_spelled(self.toolbox.clone)} returned {made!r:.80}: it must return a copy of the "
                f"individual that it was given"
            )
        return made

    def _checked(self, name: str, returned: Any, count: int) -> Any:
        """Return an operator's result; ValueError unless it is `count` individuals with a gene per group."""
        genes = len(self.space)
        if type(returned) in (tuple, list) and len(returned) == count:
            for one in returned:
                if type(one) is not Individual or len(one) != genes:
                    break
            else:
                return returned
        raise ValueError(
            f"{name}={_spelled(getattr(self.toolbox, name))} returned {returned!r:.80}: it must return a "
            f"tuple of {count} of the individuals that it was given, each with {genes} genes, one per group"
        )


def _spelled(operator: Operator) -> str:
    """Return an operator with its bound arguments as text, such as `shift(probability=0.2)`.

    The text is comparable between processes.
    """
    bound = operator if isinstance(operator, partial) else partial(operator)
    named = getattr(bound.func, "__qualname__", type(bound.func).__name__)
    keywords = (f"{key}={value!r}" for key, value in sorted(bound.keywords.items()))
    return f"{named}({', '.join([*map(repr, bound.args), *keywords])})"
