"""Simulated annealing in batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from evosearch.grouping import Grouping
from evosearch.individual import Individual
from evosearch.strategies.base import Strategy, sized

FROZEN = 4  # batches without an accepted change after which a state is final


@dataclass
class Annealing(Strategy):
    """Change single groups, accept improvements and, depending on the temperature, some deteriorations.

    A batch tries one random change in each of many groups, all from the same state. Metropolis' rule decides
    about each change separately, and all accepted changes are applied together. The next batch measures this
    joint state, which must pass the rule as well, at the temperature times its number of changes; otherwise
    the previous state is restored. The initial temperature is `heat` times the mean absolute change in loss
    of the first changes, and it is multiplied by `cooling` after every batch. After `FROZEN` batches without
    an accepted change the state is final, and annealing restarts at random.
    """

    batch: int = 24
    heat: float = 0.5
    cooling: float = 0.6

    def __post_init__(self) -> None:
        sized(2, batch=self.batch)
        if self.heat <= 0 or not 0 < self.cooling <= 1:
            raise ValueError(
                f"heat={self.heat}, cooling={self.cooling}: choose heat above 0 and cooling in (0, 1]"
            )

    def begin(self, space: Grouping, rng: Random) -> None:
        super().begin(space, rng)
        self._free = [group for group, size in enumerate(space.sizes) if size > 1]
        self._restart()

    def _restart(self) -> None:
        self._state: Individual | None = None  # proposed; measured with the batch of its changes
        self._before: Individual | None = None  # the last accepted state
        self._loss = math.inf  # of `_before`
        self._taken = 1  # changes between `_before` and `_state`
        self._temperature: float | None = None
        self._still = 0  # batches in which nothing was accepted

    def ask(self) -> list[Individual]:
        if self._state is None:
            return self.scatter(self.batch)
        if not self._free:
            return []
        count = min(self.batch - 1, len(self._free))
        state = self._state
        self._changed = self.rng.sample(self._free, count)
        return [state, *(self.neighbour(state, group) for group in self._changed)]

    def tell(self, individuals: Sequence[Individual], losses: Sequence[float]) -> None:
        if self._state is None:
            self._state = individuals[min(range(len(losses)), key=losses.__getitem__)]
            return
        here, around = losses[0], losses[1:]
        if self._temperature is None:
            self._temperature = self.heat * sum(abs(loss - here) for loss in around) / len(around)
        if self._before is not None and not self._accepts(here - self._loss, self._taken):
            self._state = self._before
        else:
            self._before, self._loss = individuals[0], here
            joint = Individual(self._state)
            kept = [i for i, loss in enumerate(around) if self._accepts(loss - here)]
            for i in kept:
                joint[self._changed[i]] = individuals[i + 1][self._changed[i]]
            self._state, self._taken = joint, max(1, len(kept))
            self._still = 0 if kept else self._still + 1
        self._temperature *= self.cooling
        if self._still == FROZEN:
            self._restart()

    def _accepts(self, worse: float, changes: int = 1) -> bool:
        """Apply Metropolis' rule at the current temperature."""
        assert self._temperature is not None
        heat = self._temperature * changes
        return worse <= 0 or (heat > 0 and self.rng.random() < math.exp(-worse / heat))
