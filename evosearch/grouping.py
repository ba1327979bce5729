"""The search space: disjoint groups of items. A candidate keeps one item of each group."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heapify, heappop, heappush
from random import Random

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Grouping:
    """Disjoint groups of item indices; a solution keeps exactly one item of each group.

    Items are sorted within each group, so that "one place left or right" is defined. `items` is N, the total
    number of items; items outside all groups are never kept. A *pick* is a place inside its group, an *index*
    is an item: `indices` and `picks` convert populations of P candidates over G groups.
    """

    groups: tuple[tuple[int, ...], ...]
    items: int

    def __post_init__(self) -> None:
        groups = tuple(tuple(sorted(int(i) for i in group)) for group in self.groups)
        members = [i for group in groups for i in group]
        if not groups or not all(groups):
            raise ValueError("a grouping needs at least one group, and every group at least one item")
        if len(set(members)) < len(members):
            twice = next(i for i in sorted(members) if members.count(i) > 1)
            raise ValueError(f"item {twice} is in two places: groups must be disjoint")
        if min(members) < 0 or max(members) >= self.items:
            raise ValueError(
                f"groups hold items {min(members)} to {max(members)}, but there are {self.items} (from 0)"
            )
        object.__setattr__(self, "groups", groups)

    @classmethod
    def from_labels(cls, labels: Iterable[int]) -> Grouping:
        """Group the items that share a label, any integers [N]; groups come in order of their first item."""
        members: dict[int, list[int]] = {}
        for item, label in enumerate(labels):
            members.setdefault(int(label), []).append(item)
        return cls(tuple(map(tuple, members.values())), sum(map(len, members.values())))

    def __len__(self) -> int:
        return len(self.groups)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """Items per group."""
        return tuple(map(len, self.groups))

    @property
    def candidates(self) -> int:
        """The number of different solutions."""
        return math.prod(self.sizes)

    def largest(self, count: int) -> Grouping:
        """Return exactly `count` groups: the largest ones, or if there are too few, the largest ones halved.

        Groups are sorted by falling size, equal sizes by their smallest item. A group is halved in order; the
        first half of an odd number has one more. ValueError if `count` is below 1 or above the number of
        grouped items.
        """
        total = sum(self.sizes)
        if not 1 <= count <= total:
            raise ValueError(f"cannot make {count} groups of {total} items: choose between 1 and {total}")
        heap = [(-len(group), group[0], group) for group in self.groups]
        heapify(heap)
        while len(heap) < count:
            _, _, group = heappop(heap)
            middle = (len(group) + 1) // 2
            for half in (group[:middle], group[middle:]):
                heappush(heap, (-len(half), half[0], half))
        return Grouping(tuple(group for _, _, group in sorted(heap)[:count]), self.items)

    def indices(self, picks: npt.ArrayLike | Sequence[Sequence[int]]) -> Ints:
        """Convert picks [P, G] to indices [P, G], rows ascending; ValueError for a pick outside its group."""
        places = np.asarray(picks)
        if places.ndim != 2 or places.shape[1] != len(self) or places.dtype.kind not in "iu":
            raise ValueError(
                f"picks must be whole numbers [P, {len(self)}], not {places.dtype} {list(places.shape)}"
            )
        outside = (places < 0) | (places >= self._sizes)
        if outside.any():
            row, group = np.argwhere(outside)[0]
            raise ValueError(
                f"candidate {row} picks item {places[row, group]} of group {group}, which has items 0 to "
                f"{self.sizes[group] - 1}: operators must keep every pick inside its group"
            )
        indices = self._table[self._starts + places]
        indices.sort(axis=1)
        return indices

    def picks(self, indices: npt.ArrayLike) -> Ints:
        """Convert item indices [P, G], rows in any order, to picks [P, G].

        ValueError unless each row has one item of each group.
        """
        rows = np.asarray(indices, dtype=np.int64)
        if rows.ndim != 2 or rows.shape[1] != len(self) or ((rows < 0) | (rows >= self.items)).any():
            raise ValueError(f"indices must be [P, {len(self)}] and lie between 0 and {self.items - 1}")
        group, place = self._homes[rows].transpose(2, 0, 1)
        wrong = (np.sort(group, axis=1) != np.arange(len(self))).any(axis=1)
        if wrong.any():
            raise ValueError(f"candidate {wrong.argmax()} does not hold exactly one item of each group")
        picks = np.empty_like(rows)
        np.put_along_axis(picks, group, place, axis=1)
        return picks

    def mask(self, indices: npt.ArrayLike) -> Bools:
        """Convert item indices [..., G] to masks [..., N], true for kept items."""
        rows = np.asarray(indices, dtype=np.int64)
        mask = np.zeros((*rows.shape[:-1], self.items), dtype=bool)
        np.put_along_axis(mask, rows, True, axis=-1)
        return mask

    def random(self, rng: Random, count: int) -> Ints:
        """Draw uniform picks [count, G]; the same generator state gives the same picks on every machine."""
        words = np.frombuffer(rng.randbytes(8 * count * len(self)), "<u4").astype(np.int64)
        high, low = words.reshape(count, len(self), 2).transpose(2, 0, 1)
        drawn = ((high >> 5 << 26) + (low >> 6)) / 2**53  # rng.random() on many pairs of words
        return (drawn * self._sizes).astype(np.int64)

    @cached_property
    def _sizes(self) -> Ints:
        return np.array(self.sizes, dtype=np.int64)

    @cached_property
    def _table(self) -> Ints:
        return np.array([item for group in self.groups for item in group], dtype=np.int64)

    @cached_property
    def _starts(self) -> Ints:
        return np.cumsum(self._sizes) - self._sizes

    @cached_property
    def _homes(self) -> Ints:
        """Group and place of every item, [N, 2]; -1 for items outside all groups."""
        homes = np.full((self.items, 2), -1, dtype=np.int64)
        for number, group in enumerate(self.groups):
            homes[list(group)] = [(number, place) for place in range(len(group))]
        return homes
