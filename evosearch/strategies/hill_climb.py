"""Hill climbing that makes use of batches."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from evosearch.grouping import Grouping
from evosearch.individual import Individual
from evosearch.strategies.base import Strategy, at_least


@dataclass
class HillClimb(Strategy):
    """Change one group at a time and keep what helps; a batch tries one change in each of many groups.

    Textbook climbing takes one step per batch and would use a few hundred evaluations for a dozen steps. Here
    all changes of a batch that helped alone are taken together, and the next batch starts from that joint
    candidate and measures it as well. If the joint one is worse than the best single change (they did not add
    up), climbing goes on from the best seen. Changes are tried in a fixed random order, over and over; when
    all of them have failed on the best candidate it is a local optimum, and a new climb starts at random.
    """

    batch: int = 24

    def __post_init__(self) -> None:
        at_least(2, batch=self.batch)

    def begin(self, space: Grouping, rng: Random) -> None:
        super().begin(space, rng)
        self._changes = deque(self._order())  # (group, pick)
        self._base: Individual | None = None  # what the next changes are made to; None: start a climb

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
        """The base with every change that helped; of two in one group, the better."""
        helped = [
            (loss, change) for loss, change in zip(losses[1:], self._tried, strict=True) if loss < losses[0]
        ]
        joint = Individual(base)
        for _, (group, pick) in sorted(helped, reverse=True):
            joint[group] = pick
        return joint

    def _order(self) -> list[tuple[int, int]]:
        """Every pick of every group with a choice, shuffled; those close together are of different groups."""
        decks = [list(range(size)) if size > 1 else [] for size in self.space.sizes]
        for deck in decks:
            self.rng.shuffle(deck)
        changes: list[tuple[int, int]] = []
        while any(decks):
            layer = [(group, deck.pop()) for group, deck in enumerate(decks) if deck]
            self.rng.shuffle(layer)
            changes += layer
        return changes
