from __future__ import annotations

from dataclasses import dataclass

from compress.base import Selection, TowerSelector, Traits, View

STRETCH = 2  # how far a scaled image may be from its aspect ratio


@dataclass
class Downsample(TowerSelector):
    """Scale the image down, so that the tower itself sees fewer patches: the control that costs least.

    The patches form the grid of `keep` that is nearest to the image's aspect ratio, off by a factor of 2 at
    most, and of equals the wider one; the tower interpolates its position embeddings. Budgets without such a
    grid are refused.
    """

    def resolution(self, grid: tuple[int, int], keep: int) -> tuple[int, int]:
        possible = grids(*grid)
        if keep not in possible:
            below = [count for count in possible if count < keep]
            near = [max(below)] * bool(below) + [min(count for count in possible if count > keep)]
            raise ValueError(
                f"keep={keep}: no grid of that many patches within {grid[0]} x {grid[1]} stretches the image "
                f"{STRETCH}-fold or less; the nearest possible budgets are {' and '.join(map(str, near))}"
            )
        return possible[keep]

    def choices(self, model: Traits) -> tuple[str, ...]:
        return ("every tile is scaled down alike",) if model.tiles else ()

    def select(self, view: View, keep: int) -> Selection:
        raise NotImplementedError("the image was scaled down before the tower")


def grids(rows: int, columns: int) -> dict[int, tuple[int, int]]:
    """Number of patches -> the least stretched grid within rows x columns that has so many."""
    found: dict[int, tuple[float, tuple[int, int]]] = {}
    for down in range(1, rows + 1):
        for across in range(1, columns + 1):
            wide, high = across * rows, down * columns
            candidate = max(wide, high) / min(wide, high), (down, across)
            if candidate[0] <= STRETCH:
                found[down * across] = min(candidate, found.get(down * across, candidate))
    return {count: grid for count, (_, grid) in found.items()}
