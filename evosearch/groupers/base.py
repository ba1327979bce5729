"""Groupers, which partition vectors into groups of items that compete for one place.

A grouper is called with vectors [N, D] and returns exactly `groups` groups: its own partition of the items,
reduced or split by `Grouping.largest`. `partition` returns all groups before this step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evosearch.grouping import Grouping, Ints

Floats = npt.NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Grouper(ABC):
    """Vectors [N, D] -> Grouping with exactly `groups` groups; fields are the options."""

    groups: int

    def __call__(self, vectors: npt.ArrayLike) -> Grouping:
        return self.partition(vectors).largest(self.groups)

    def partition(self, vectors: npt.ArrayLike) -> Grouping:
        """Return all groups of all items, before `Grouping.largest` makes them exactly `groups`."""
        array = np.asarray(vectors)
        if array.ndim != 2 or not 1 <= self.groups <= len(array):
            raise ValueError(
                f"vectors {list(array.shape)} cannot make {self.groups} groups: give [N, D] and 1 to N groups"
            )
        if not np.isfinite(array).all():
            raise ValueError("vectors to be grouped hold values that are not finite")
        return Grouping.from_labels(self.labels(array.astype(np.float32, copy=False)))

    @abstractmethod
    def labels(self, vectors: Floats) -> Ints:
        """Return the group number of every item, [N]; the order of the numbers has no meaning."""
