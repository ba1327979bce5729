"""Problems with a known optimum, whose losses are sums of whole numbers and so the same on every machine."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest

from evosearch import Grouping


class Planted:
    """Separable: the loss is the summed cost of the kept items, least with the cheapest of each group."""

    def __init__(self, groups: int = 64, size: int = 9, seed: int = 0) -> None:
        rng = Random(seed)
        order = list(range(groups * size))
        rng.shuffle(order)
        self.space = Grouping(tuple(tuple(order[g::groups]) for g in range(groups)), groups * size)
        self.cost = np.array([rng.randrange(1000) for _ in order], dtype=np.float64)
        self.optimum = float(sum(min(self.cost[list(group)]) for group in self.space.groups))
        self.seen: list[tuple[int, ...]] = []

    def __call__(self, indices: np.ndarray) -> np.ndarray:
        self.seen += map(tuple, indices.tolist())
        return self.cost[indices].sum(axis=1)


@pytest.fixture
def planted() -> type[Planted]:
    return Planted
