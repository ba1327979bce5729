from __future__ import annotations

from dataclasses import dataclass

import torch

from compress.base import INPUT, Selection, Selector, Traits, View


@dataclass
class Grid(Selector):
    """Tokens spread evenly over the image: the control that looks at nothing.

    `keep` tokens lie on about sqrt(keep) evenly spaced rows. Where `keep` is not a full lattice the rows
    share the tokens as evenly as whole numbers allow, so that the count is exact for every budget. Of an
    image in tiles, it keeps tokens at even steps in the order in which the decoder reads them.
    """

    depth: int = INPUT

    def choices(self, model: Traits) -> tuple[str, ...]:
        return ("tokens at even steps in reading order",) if model.tiles else ()

    def select(self, view: View, keep: int) -> Selection:
        if view.crop is not None:
            return Selection(torch.tensor(centres(len(view.hidden), keep), device=view.hidden.device))
        if len(view.hidden) != view.grid[0] * view.grid[1]:
            raise ValueError(
                f"grid needs all {view.grid[0]} x {view.grid[1]} tokens, not {len(view.hidden)} of them"
            )
        return Selection(torch.tensor(lattice(*view.grid, keep), device=view.hidden.device))


def lattice(rows: int, columns: int, keep: int) -> list[int]:
    """Ascending indices of `keep` cells spread over a grid, row-major; 1 <= keep <= rows * columns."""
    shares = bands(rows, columns, keep)
    return [
        row * columns + column
        for row, share in zip(centres(rows, len(shares)), shares, strict=True)
        for column in centres(columns, share)
    ]


def bands(rows: int, columns: int, keep: int) -> list[int]:
    """How many of `keep` tokens lie on each of about sqrt(keep) rows, or bands of rows; one or more each."""
    lines = max(1, round((keep * rows / columns) ** 0.5), -(-keep // columns))
    lines = min(lines, rows, keep)
    return [keep * (line + 1) // lines - keep * line // lines for line in range(lines)]


def centres(length: int, count: int) -> list[int]:
    """The middle cells of `count` equal parts of `length` cells: distinct for count <= length."""
    return [(2 * part + 1) * length // (2 * count) for part in range(count)]
