from __future__ import annotations

from dataclasses import dataclass
from random import Random

import numpy as np

from evosearch.groupers.base import Floats, Grouper
from evosearch.grouping import Ints


@dataclass(frozen=True, eq=False)
class RandomGroups(Grouper):
    """Random groups of equal size; the vectors are ignored."""

    seed: int = 0

    def labels(self, vectors: Floats) -> Ints:
        order = list(range(len(vectors)))
        Random(self.seed).shuffle(order)
        labels = np.empty(len(vectors), dtype=np.int64)
        labels[order] = np.arange(len(vectors)) % self.groups
        return labels
