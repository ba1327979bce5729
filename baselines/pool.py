from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.lattices import bands, slices
from baselines.videos import frames_of, merged_into, newlines_of
from compress.base import INPUT, Selection, Selector, Traits, View


@dataclass
class Pool(Selector):
    """Average pooling: divide the image into cells and give the decoder the mean of each cell.

    The control beside `grid`: the same number and spacing, but all tokens contribute. The rows of the image
    are divided into about sqrt(keep) bands and each band into its share of cells, so that the count is exact
    for every budget. If square windows fit (36 or 16 tokens of 12 x 12, 144 or 64 of 24 x 24), it is ordinary
    k x k pooling. In a tiled image, a cell is a run of tokens in the decoder's reading order. In a video,
    runs of frames are pooled together, so that cells span as many tokens in time as in space; all newlines
    stay, up to half of the budget. Acts on the projected tokens; a cell has the position of its middle token.
    """

    depth: int = INPUT

    def choices(self, model: Traits) -> tuple[str, ...]:
        return ("a cell is a run of tokens in reading order",) if model.tiles else ()

    def select(self, view: View, keep: int) -> Selection:
        if view.frame is not None:
            grouped, newlines = frames_of(view, "pool"), newlines_of(view, keep)
            into, middle = boxes(len(grouped), *view.grid, keep - len(newlines))
            values = means(view.hidden[grouped.flatten()], into, len(middle))
            return merged_into(view, grouped, newlines, middle, values, into.to(view.index))
        tokens = len(view.hidden)
        rows, columns = view.grid if view.crop is None else (1, tokens)
        if tokens != rows * columns:
            raise ValueError(f"pool needs all {rows} x {columns} tokens, not {tokens} of them")
        into, middle = cells(rows, columns, keep)
        return Selection(middle.to(view.hidden.device), means(view.hidden, into, keep))


def cells(rows: int, columns: int, keep: int) -> tuple[Tensor, Tensor]:
    """Partition a grid into `keep` row-major rectangles.

    Return the rectangle of each token, [rows * columns], and the token in the middle of each, [keep].
    """
    into = torch.empty(rows, columns, dtype=torch.long)
    middle: list[int] = []
    shares = bands(rows, columns, keep)
    for band, share in enumerate(shares):
        top, bottom = part(rows, len(shares), band)
        for cell in range(share):
            left, right = part(columns, share, cell)
            into[top:bottom, left:right] = len(middle)
            middle.append((top + bottom) // 2 * columns + (left + right) // 2)
    return into.flatten(), torch.tensor(middle)


def boxes(frames: int, rows: int, columns: int, keep: int) -> tuple[Tensor, Tensor]:
    """Partition runs of frames of a video into `keep` boxes; return each token's box and middle tokens."""
    into, middles = torch.empty(frames, rows * columns, dtype=torch.long), [torch.empty(0, dtype=torch.long)]
    shares, done = slices(frames, rows * columns, keep), 0
    for number, share in enumerate(shares):
        start, end = part(frames, len(shares), number)
        cell, middle = cells(rows, columns, share)
        into[start:end] = done + cell
        middles.append(middle + (start + end) // 2 * rows * columns)
        done += share
    return into.flatten(), torch.cat(middles)


def part(length: int, count: int, number: int) -> tuple[int, int]:
    """Return start and end of one of `count` nearly equal parts of `length`."""
    return number * length // count, (number + 1) * length // count


def means(values: Tensor, into: Tensor, count: int) -> Tensor:
    """Return the means [count, C] of the rows of `values` [N, C] that belong to each cell of `into` [N]."""
    into = into.to(values.device)
    total = values.new_zeros(count, values.shape[1], dtype=torch.float32).index_add(0, into, values.float())
    return (total / torch.bincount(into, minlength=count)[:, None]).to(values)
