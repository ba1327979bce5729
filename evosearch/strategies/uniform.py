"""Random masks without groups, for estimating the contribution of each item."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evosearch.grouping import Ints
from evosearch.individual import Individual
from evosearch.strategies.base import Strategy, sized


@dataclass
class Uniform(Strategy):
    """Random sets of G of all N items, without groups: an unbiased sample for attribution.

    It does not search for an optimum. The genome consists of ascending item indices, and items outside all
    groups can be kept too.
    """

    batch: int = 48

    def __post_init__(self) -> None:
        sized(1, batch=self.batch)

    def ask(self) -> list[Individual]:
        items = range(self.space.items)
        return [Individual(sorted(self.rng.sample(items, len(self.space)))) for _ in range(self.batch)]

    def tell(self, individuals: Sequence[Individual], losses: Sequence[float]) -> None:
        pass  # nothing to learn

    def decode(self, individuals: Sequence[Individual]) -> Ints:
        return np.array(individuals, dtype=np.int64)
