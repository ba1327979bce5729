from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.crops import best_of_each, equal_shares, places, rows_of_each, tile_of
from compress.base import INPUT, ClsSelector, Selection, Traits, View, scaled_layer, top_k


@dataclass
class VScan(ClsSelector):
    """Keep what CLS attends to early in every window and late in all of the image, then what the prompt does.

    "VScan: Rethinking Visual Token Reduction for Efficient Large Vision-Language Models" (Zhang et al., TMLR
    2026, arXiv 2505.22654). Reads CLS attention, mean over heads, of an early tower layer and of the one
    whose output the projector reads. Acts at the decoder's input, where every other token is merged into the
    kept one most like it, and before decoder layer `stage` of 32, where `ratio` of the tokens pass by the
    attention of the last prompt token. Positions are contiguous. Half of the tokens are the windows' best.
    Every tile of an image keeps as many tokens. `shallow` is layer 5 of CLIP-L's 24, as a share of the tower.
    `window` is a side, 0 the official one: 6. With `cls=received` the official rule for Qwen2.5-VL holds: it
    is 4, and a window's tokens must be among the best of all windows as well.

    Departures: where half of the budget is no multiple of the windows, the code keeps fewer tokens; here
    the late layer chooses the rest. A border narrower than a window belongs to the last one. Newlines, which
    the code passes on and does not count, take half of the budget at most.
    """

    ratio: float = 1 / 3
    stage: int = 16
    window: int = 0
    shallow: float = 5 / 24
    deep: int = -2
    reads_text = True

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio={self.ratio}: choose a share of the tokens above 0, up to 1")
        if self.window < 0:
            raise ValueError(f"window={self.window}: choose a side of 1 or more, or 0 for the official one")

    @property
    def tower_layers(self) -> tuple[float, ...]:
        return (self.shallow, self.deep)

    def choices(self, model: Traits) -> tuple[str, ...]:
        newlines = ("newlines all stay, up to half of the budget",) if model.newlines else ()
        return ("tiles share the budget equally", *newlines) if model.tiles else ()

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        return {INPUT: min(tokens, round(keep / self.ratio)), scaled_layer(self.stage, layers): keep}

    def select(self, view: View, keep: int) -> Selection:
        if view.depth > INPUT:
            return Selection(top_k(view.attention(view.depth, [-1])[:, 0].mean(0), keep))
        tile, (row, column) = tile_of(view), places(view)
        shallow, deep = (self.attended(view, layer).mean(0) for layer in self.tower_layers)
        newlines = (tile < 0).nonzero()[: keep // 2, 0]
        shares = equal_shares(view, keep - len(newlines))
        index, tokens = [newlines], [view.hidden[newlines]]
        joined = torch.full_like(tile, -1)  # the kept token that each one is merged into
        for rows, share in zip(rows_of_each(tile, len(shares)), shares.tolist(), strict=True):
            if share:
                window, windows = self.windows(row[rows], column[rows])
                best = self.local if self.cls == "own" else self.capped
                local = best(shallow[rows], window, windows, share // 2)
                kept = torch.cat([local, self.remaining(deep[rows], local, share - len(local))]).sort().values
                index.append(rows[kept])
                merged, nearest = self.merged(view.hidden[rows], kept)
                joined[rows] = rows[kept][nearest]
                tokens.append(merged)
        order = torch.cat(index).sort()
        into = torch.searchsorted(order.values, joined).where(joined >= 0, -1)
        return Selection(order.values, torch.cat(tokens)[order.indices], into)

    def windows(self, row: Tensor, column: Tensor) -> tuple[Tensor, int]:
        """The window [N] of each patch at `row` [N] and `column` [N] of a tile, and how many there are."""
        side = self.window or (6 if self.cls == "own" else 4)
        down, across = (max(1, (int(place.max()) + 1) // side) for place in (row, column))
        at = (row // side).clamp(max=down - 1), (column // side).clamp(max=across - 1)
        return at[0] * across + at[1], down * across

    @staticmethod
    def local(attention: Tensor, window: Tensor, windows: int, keep: int) -> Tensor:
        """The best patches of every window [N], as many of each, at most `keep` together; ascending."""
        return best_of_each(attention, window, torch.full((windows,), keep // windows))

    @staticmethod
    def capped(attention: Tensor, window: Tensor, windows: int, keep: int) -> Tensor:
        """The `keep` best patches, at most an equal share, rounded up, of each window [N]; ascending."""
        order = attention.sort(descending=True, stable=True).indices
        members = F.one_hot(window[order], windows)
        rank = (members.cumsum(0) * members).sum(1)  # inside the window, from 1
        return order[rank <= ceil(keep / windows)][:keep].sort().values

    @staticmethod
    def remaining(attention: Tensor, local: Tensor, keep: int) -> Tensor:
        """The `keep` best patches that are not `local`, ascending."""
        return top_k(attention.index_fill(0, local, -1), keep)

    @staticmethod
    def merged(features: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Means [K, D] of each kept token and of the others that are most like it; which one that is, [N]."""
        unit = F.normalize(features.float(), dim=-1)
        nearest = (unit @ unit[kept].T).argmax(1)
        nearest[kept] = torch.arange(len(kept), device=kept.device)
        total = torch.zeros_like(unit[kept]).index_add(0, nearest, features.float())
        size = torch.zeros_like(total[:, :1]).index_add(0, nearest, torch.ones_like(unit[:, :1]))
        return (total / size).to(features.dtype), nearest
