"""The base class of strategies, which propose batches of candidates and learn from their losses."""

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
    """A search strategy: the search calls `begin` once, then `ask` and `tell` alternately.

    Fields are options only; `begin` creates all state, so that one object can serve many searches. `ask`
    returns a batch, which the search evaluates in one call of the fitness, or an empty batch when the
    strategy has finished. A candidate may be proposed again at no cost, since losses are cached. All
    randomness must come from the given generator, and all state must be picklable, since a checkpoint
    contains the strategy.
    """

    def begin(self, space: Grouping, rng: Random) -> None:
        """Reset all state for a search on `space`."""
        self.space = space
        self.rng = rng

    @abstractmethod
    def ask(self) -> Sequence[Individual]:
        """Return the next batch of candidates; empty if the strategy has finished."""

    @abstractmethod
    def tell(self, individuals: Sequence[Individual], losses: Sequence[float]) -> None:
        """Learn from the losses of the last batch, in its order; the individuals' fitness holds them too."""

    def decode(self, individuals: Sequence[Individual]) -> Ints:
        """Convert genomes, by default picks, to item indices [P, G], rows ascending."""
        lengths = {len(one) for one in individuals}
        if lengths != {len(self.space)}:
            raise ValueError(
                f"candidates have {min(lengths)} to {max(lengths)} genes: operators must keep one for each "
                f"of {len(self.space)} groups"
            )
        return self.space.indices(genomes(individuals))

    def settings(self) -> dict[str, object]:
        """Return all settings of the strategy: equal settings and seeds give equal searches."""
        named = {field.name: getattr(self, field.name) for field in fields(self) if field.init}
        return {"strategy": type(self).__name__} | named

    def scatter(self, count: int) -> list[Individual]:
        """Draw `count` uniform candidates, one item per group."""
        return [Individual(picks) for picks in self.space.random(self.rng, count).tolist()]

    def neighbour(self, base: Individual, group: int, pick: int | None = None) -> Individual:
        """Return `base` with another pick in one group. Default: a random one."""
        twin = Individual(base)
        twin[group] = other(base[group], self.space.sizes[group], self.rng) if pick is None else pick
        return twin


def genomes(individuals: Sequence[Individual]) -> NDArray[Any]:
    """Return the genes [P, G] of genomes of one length."""
    try:  # bytes take half the time; picks are below 256 in groups of usual size
        genes = np.frombuffer(b"".join([bytes(one[:]) for one in individuals]), np.uint8).astype(np.int64)
        return genes.reshape(len(individuals), -1)
    except (TypeError, ValueError):
        return np.array(individuals)


MOST = 1_000_000  # individuals at once


def sized(smallest: int, **options: int) -> None:
    """Raise ValueError for a number of individuals below `smallest` or above a million."""
    for name, value in options.items():
        if value < smallest:
            raise ValueError(f"{name}={value}: choose {smallest} or more")
        if value > MOST:
            raise ValueError(f"{name}={value}: choose {MOST} or fewer")


def share(**options: float) -> None:
    """Raise ValueError for an option outside [0, 1]."""
    for name, value in options.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value}: choose a number between 0 and 1")
