"""Shared functions of methods with a budget per tile of an image or frame of a video. A frame is a tile.

Tile 0 is the thumbnail, the others are crops of the image in row-major order. The tokens of the crops are in
raster order over the grid of all crops put together, without padding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from baselines.videos import evenly, frames_of
from compress.base import View, top_k

GridShape = tuple[int, int]  # rows x columns


def share_out(wanted: Tensor, room: Tensor, keep: int) -> Tensor:
    """Return integers [P] proportional to `wanted` [P], at most `room` [P], with sum `keep`.

    Webster's rule: the next token goes to the part with the largest wanted / (tokens so far + 1/2), so no
    part loses a token when `keep` rises. `keep` must not exceed the sum of `room`.
    """
    seats = torch.arange(int(room.max()), device=room.device)
    claims = wanted.double().clamp(min=1e-9)[:, None] / (seats + 0.5)
    claims[seats >= room[:, None]] = -1
    return (top_k(claims.flatten(), keep) // len(seats)).bincount(minlength=len(room))


def best_of_each(scores: Tensor, part: Tensor, counts: Tensor) -> Tensor:
    """Return the ascending indices of the counts[p] best `scores` [N] among the tokens of each part p."""
    best = [
        rows[top_k(scores[rows], count)]
        for rows, count in zip(rows_of_each(part, len(counts)), counts.tolist(), strict=True)
    ]
    return torch.cat(best).sort().values


def chosen_of_each(view: View, keep: int, choose: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Return the ascending rows that `choose` selects in each tile or frame, with equal shares of `keep`.

    `choose` takes the rows of a tile and its share, and returns indices into these rows.
    """
    shares = equal_shares(view, keep)
    parts = zip(rows_of_each(tile_of(view), len(shares)), shares.tolist(), strict=True)
    return torch.cat([rows[choose(rows, share)] for rows, share in parts]).sort().values


def tile_of(view: View) -> Tensor:
    """Return the tile or frame [N] of each token; 0 for all tokens of an image without crops."""
    if view.frame is not None:
        return view.frame
    return torch.zeros_like(view.index) if view.crop is None else view.crop


def equal_shares(view: View, keep: int) -> Tensor:
    """Return the number of tokens [P] that each tile or frame keeps, as equal as possible.

    The first tiles keep one more; of the frames, those that keep one more are evenly spaced in time.
    """
    tile = tile_of(view)
    room = tile[tile >= 0].bincount()  # newlines belong to no tile
    if view.frame is not None:
        return room.new_tensor(evenly(room.tolist(), min(keep, int(room.sum()))))
    return share_out(torch.ones_like(room), room, keep)


def rows_of_each(part: Tensor, parts: int) -> list[Tensor]:
    """Return the ascending rows of each part."""
    return [(part == number).nonzero()[:, 0] for number in range(parts)]


def stitched(view: View) -> tuple[GridShape, GridShape]:
    """Return rows x columns of all crops' tokens, and of the crops, for a view of a tiled image at VISION.

    A row of tokens ends where the index skips a newline, or where the crop number falls. A single column of
    crops without newlines is as wide as a tile.
    """
    assert view.crop is not None
    crop, index = view.crop[view.crop > 0], view.index[view.crop > 0]
    ends = ((index.diff() > 1) | (crop.diff() < 0)).nonzero()[:, 0]
    columns = int(ends[0]) + 1 if len(ends) else view.grid[1]
    across = int(crop[:columns].max() - crop[:columns].min()) + 1
    return (len(crop) // columns, columns), (int(crop.max()) // across, across)


def places(view: View) -> tuple[Tensor, Tensor]:
    """Return row and column [N] of every token in its unpadded tile or frame; undefined for newlines."""
    if view.frame is not None:
        rows = frames_of(view, "places")
        place = torch.zeros_like(view.index).index_copy(
            0, rows.flatten(), torch.arange(rows.shape[1], device=rows.device).repeat(len(rows))
        )
        return place // view.grid[1], place % view.grid[1]
    row, column = view.index // view.grid[1], view.index % view.grid[1]
    if view.crop is None or not (view.crop > 0).any():
        return row, column
    local = (view.crop > 0).nonzero()[:, 0]
    place = torch.arange(len(local), device=row.device)
    (_, columns), _ = stitched(view)
    row[local], column[local] = place // columns, place % columns
    for rows in rows_of_each(view.crop, int(view.crop.max()) + 1):
        if len(rows):
            row[rows] -= row[rows].min()
            column[rows] -= column[rows].min()
    return row, column


def crop_of_cell(side: int, shape: GridShape) -> Tensor:
    """Return the crop, from 0, of each thumbnail cell [side * side]; remainders go to the last crops."""
    row, column = ((torch.arange(side) // (side // count)).clamp(max=count - 1) for count in shape)
    return (row[:, None] * shape[1] + column).flatten()
