"""Estimation of distribution: learn how often good candidates contain each item."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from random import Random

from evosearch.grouping import Grouping
from evosearch.individual import Individual
from evosearch.strategies.base import Strategy, share, sized


@dataclass
class Marginals(Strategy):
    """Estimation of distribution: draw items by their frequency among the best candidates.

    Univariate marginals (UMDA), one per group: the frequencies are those among the `elite` best of all
    candidates so far, not only of the last batch, which works better for a few hundred evaluations.
    `smoothing` is the share of uniform draws, so that no item gets probability zero.
    """

    batch: int = 24
    elite: int = 8
    smoothing: float = 0.05

    def __post_init__(self) -> None:
        sized(1, batch=self.batch, elite=self.elite)
        share(smoothing=self.smoothing)

    def begin(self, space: Grouping, rng: Random) -> None:
        super().begin(space, rng)
        self._best: list[Individual] = []

    def ask(self) -> list[Individual]:
        if not self._best:
            return self.scatter(self.batch)
        draw = self.rng.random
        tables = [list(accumulate(weights)) for weights in self._weights()]
        return [
            Individual(bisect(table, draw() * table[-1], hi=len(table) - 1) for table in tables)
            for _ in range(self.batch)
        ]

    def tell(self, individuals: Sequence[Individual], losses: Sequence[float]) -> None:
        seen = {tuple(one): one for one in (*self._best, *individuals)}  # a candidate drawn twice counts once
        self._best = sorted(seen.values(), key=lambda one: one.loss)[: self.elite]

    def _weights(self) -> list[list[float]]:
        """Return the probability of every pick, per group."""
        weights = [[self.smoothing / size] * size for size in self.space.sizes]
        each = (1 - self.smoothing) / len(self._best)
        for one in self._best:
            for group, pick in enumerate(one):
                weights[group][pick] += each
        return weights
