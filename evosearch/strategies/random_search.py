"""Random search, the baseline of all strategies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from evosearch.individual import Individual
from evosearch.strategies.base import Strategy, sized


@dataclass
class RandomSearch(Strategy):
    """Uniform candidates, one random item per group: the baseline of all other strategies."""

    batch: int = 48

    def __post_init__(self) -> None:
        sized(1, batch=self.batch)

    def ask(self) -> list[Individual]:
        return self.scatter(self.batch)

    def tell(self, individuals: Sequence[Individual], losses: Sequence[float]) -> None:
        pass  # nothing to learn
