from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evosearch.groupers.base import Floats, Grouper
from evosearch.grouping import Ints


@dataclass(frozen=True, eq=False)
class GridGroups(Grouper):
    """Rectangular blocks of neighbouring items on a rows x columns grid; the vectors are ignored."""

    grid: tuple[int, int]

    def labels(self, vectors: Floats) -> Ints:
        rows, columns = self.grid
        if rows * columns != len(vectors):
            raise ValueError(f"a grid of {rows} x {columns} does not hold {len(vectors)} items")
        labels = np.empty((rows, columns), dtype=np.int64)
        for number, block in enumerate(blocks(rows, columns, self.groups)):
            labels[block] = number
        return labels.ravel()


def blocks(rows: int, columns: int, count: int) -> list[tuple[slice, slice]]:
    """Divide a rectangle into exactly `count` blocks of similar area by halving the longer side."""
    done: list[tuple[slice, slice]] = []
    open_ = [(0, rows, 0, columns, count)]
    while open_:
        top, bottom, left, right, share = open_.pop()
        height, width = bottom - top, right - left
        if share == 1:
            done.append((slice(top, bottom), slice(left, right)))
            continue
        area = height * width
        if height >= width:
            middle, first = top + height // 2, (height // 2) * width
        else:
            middle, first = left + width // 2, (width // 2) * height
        fair = (2 * share * first + area) // (2 * area)  # rounded to nearest
        part = min(max(fair, 1, share - (area - first)), first, share - 1)  # a block has at least one item
        if height >= width:
            open_ += [(middle, bottom, left, right, share - part), (top, middle, left, right, part)]
        else:
            open_ += [(top, bottom, middle, right, share - part), (top, bottom, left, middle, part)]
    return done
