"""What a strategy is: it proposes batches of candidates and learns from their losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evosearch.grouping import Grouping, Ints
from evosearch.individual import Individual
from evosearch.operators import other


@dataclass
class Strategy(ABC):
    """A way to search, under one protocol: `begin` once, then `ask` and `tell` in turn.

    Fields are the options and nothing else; `begin` makes all state, so that one object can serve many
    searches. `ask` returns a batch, which the search evaluates in one call of the fitness, or nothing when
    the strategy has finished. A candidate may be proposed again at no cost: its loss is remembered. All
    randomness comes from the given generator, and everything pickles, since a checkpoint holds the strategy
    as it is.
    """

    def begin(self, space: Grouping, rng: Random) -> None:
        """Start afresh on a search space; forget earlier searches."""
        self.space = space
        self.rng = rng

    @abstractmethod
    def ask(self) -> Sequence[Individual]:
        """The next batch of candidates; empty when there is nothing more to propose."""

    @abstractmethod
    def tell(self, individuals: Sequence[Individual], losses: Sequence[float]) -> None:
        """Take the losses of the batch last asked for, in its order; the individuals' fitness holds the
        same."""

    def decode(self, individuals: Sequence[Individual]) -> Ints:
        """The item indices [P, G] that genomes stand for, rows ascending; genomes are picks by default."""
        lengths = {len(one) for one in individuals}
        if lengths != {len(self.space)}:
            raise ValueError(
                f"candidates have {min(lengths)} to {max(lengths)} genes: operators must keep one for each "
                f"of {len(self.space)} groups"
            )
        return self.space.indices(genomes(individuals))

    def settings(self) -> dict[str, object]:
        """Everything that decides how it searches: with equal settings and seeds, searches are equal."""
        named = {field.name: getattr(self, field.name) for field in fields(self) if field.init}
        return {"strategy": type(self).__name__} | named

    def scatter(self, count: int) -> list[Individual]:
        """`count` candidates drawn uniformly, one item per group."""
        return [Individual(picks) for picks in self.space.random(self.rng, count).tolist()]

    def neighbour(self, base: Individual, group: int, pick: int | None = None) -> Individual:
        """`base` with another pick in one group, a random one unless given."""
        twin = Individual(base)
        twin[group] = other(base[group], self.space.sizes[group], self.rng) if pick is None else pick
        return twin


def genomes(individuals: Sequence[Individual]) -> NDArray[Any]:
    """Genes [P, G] of genomes of one length."""
    try:  # those below 256, as picks are in groups of usual size, pass in half the time as bytes
        genes = np.frombuffer(b"".join([bytes(one[:]) for one in individuals]), np.uint8).astype(np.int64)
        return genes.reshape(len(individuals), -1)
    except (TypeError, ValueError):
        return np.array(individuals)


def at_least(smallest: int, **options: int) -> None:
    """Raise ValueError for an option below `smallest`."""
    for name, value in options.items():
        if value < smallest:
            raise ValueError(f"{name}={value}: choose {smallest} or more")


def share(**options: float) -> None:
    """Raise ValueError for an option outside [0, 1]."""
    for name, value in options.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value}: choose a number between 0 and 1")
