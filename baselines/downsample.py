from __future__ import annotations

from dataclasses import dataclass

from compress.base import Selection, TowerSelector, Traits, View

STRETCH = 2  # largest factor by which scaling may change the aspect ratio


@dataclass
class Downsample(TowerSelector):
    """Scale the image down, so that the tower processes fewer patches: the cheapest control.

    The image is scaled to the grid of `keep` patches whose aspect ratio is nearest to the original, within a
    factor of 2; of equally near grids the wider one is taken. The tower interpolates its position embeddings.
    ValueError for a budget without such a grid.
    """

    def resolution(self, grid: tuple[int, int], keep: int) -> tuple[int, int]:
        possible = grids(*grid)
        if keep not in possible:
            below = sorted(count for count in possible if count < keep)
            near = [*below[-1:], min(count for count in possible if count > keep)]
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
    """Map each possible number of patches to the least distorted grid within rows x columns."""
    found: dict[int, tuple[float, tuple[int, int]]] = {}
    for down in range(1, rows + 1):
        for across in range(1, columns + 1):
            wide, high = across * rows, down * columns
            candidate = max(wide, high) / min(wide, high), (down, across)
            if candidate[0] <= STRETCH:
                found[down * across] = min(candidate, found.get(down * across, candidate))
    return {count: grid for count, (_, grid) in found.items()}
