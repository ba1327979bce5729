"""Hill climbing in batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from evosearch.grouping import Grouping
from evosearch.individual import Individual
from evosearch.strategies.base import Strategy, sized


@dataclass
class HillClimb(Strategy):
    """Change single groups and keep improvements; a batch tries one change in each of many groups.

    Standard hill climbing takes one step per batch, a dozen steps in a few hundred evaluations. Here all
    changes of a batch that improve the loss on their own are applied together. The next batch starts from
    this joint candidate and measures it too. If it is worse than the best candidate so far, the search
    continues from the best. Changes are tried cyclically in a fixed random order; if all of them fail on the
    best candidate, it is a local optimum, and a new climb starts at random.
    """

    batch: int = 24

    def __post_init__(self) -> None:
        sized(2, batch=self.batch)

    def begin(self, space: Grouping, rng: Random) -> None:
        super().begin(space, rng)
        self._changes = deque(self._order())  # (group, pick)
        self._base: Individual | None = None  # the start of the next changes; None: start a new climb

    def ask(self) -> list[Individual]:
        if self._base is None:
            return self.scatter(self.batch)
        if not self._changes:
            return []
        self._tried = [self._changes[i] for i in range(min(self.batch - 1, len(self._changes)))]
        self._changes.rotate(-len(self._tried))
        return [self._base, *(self.neighbour(self._base, group, pick) for group, pick in self._tried)]

    def tell(self, individuals: Sequence[Individual], losses: Sequence[float]) -> None:
        leader = min(range(len(losses)), key=losses.__getitem__)
        if self._base is None:
            self._base = self._best = individuals[leader]
            self._lowest, self._failed = losses[leader], 0
            return
        added_up = losses[0] <= self._lowest
        self._failed += len(self._tried) if added_up else 0
        if losses[leader] < self._lowest:
            self._best, self._lowest, self._failed = individuals[leader], losses[leader], 0
        if self._failed >= len(self._changes):
            self._base = None
        else:
            self._base = self._joint(self._base, losses) if added_up else self._best

    def _joint(self, base: Individual, losses: Sequence[float]) -> Individual:
        """Return the base with every change that improved it; of two in one group, the better one."""
        helped = [
            (loss, change) for loss, change in zip(losses[1:], self._tried, strict=True) if loss < losses[0]
        ]
        joint = Individual(base)
        for _, (group, pick) in sorted(helped, reverse=True):
            joint[group] = pick
        return joint

    def _order(self) -> list[tuple[int, int]]:
        """Return all picks of groups with several items, shuffled; neighbours are of different groups."""
        decks = [list(range(size)) if size > 1 else [] for size in self.space.sizes]
        for deck in decks:
            self.rng.shuffle(deck)
        changes: list[tuple[int, int]] = []
        while any(decks):
            layer = [(group, deck.pop()) for group, deck in enumerate(decks) if deck]
            self.rng.shuffle(layer)
            changes += layer
        return changes
