from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.lattices import bands, slices
from baselines.videos import frames_of, merged_into, newlines_of
from compress.base import INPUT, Selection, Selector, Traits, View


@dataclass
class Pool(Selector):
    """Average pooling: cut the image into cells and give the decoder the mean of each.

    The control beside `grid`: as many cells, as evenly spread, but all tokens have a say. The rows of the
    image are cut into about sqrt(keep) bands and each band into its share of cells, so that the count is
    exact for every budget; where square windows fit (36 or 16 tokens of 12 x 12, 144 or 64 of 24 x 24) it is
    ordinary k x k pooling. In an image in tiles, a cell is a run of tokens in the order in which the decoder
    reads them. In a video, runs of frames are pooled together, so that cells are as many tokens deep in time
    as they are wide; newlines all stay, up to half of the budget. Acts on the projected tokens; a cell takes
    the place of its middle token.
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
    """A partition of a grid into `keep` rectangles, row-major, and the token in the middle of each.

    The first [rows * columns] says which rectangle a token is in, the second is [keep].
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
    """The same of a video: a partition of its runs of frames into `keep` boxes, and their middle tokens."""
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
    """Start and end of one of `count` nearly equal parts of `length`."""
    return number * length // count, (number + 1) * length // count


def means(values: Tensor, into: Tensor, count: int) -> Tensor:
    """Mean [count, C] of the rows of `values` [N, C] that go `into` [N] each cell."""
    into = into.to(values.device)
    total = values.new_zeros(count, values.shape[1], dtype=torch.float32).index_add(0, into, values.float())
    return (total / torch.bincount(into, minlength=count)[:, None]).to(values)
