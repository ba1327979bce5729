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
    """Keep tokens by early CLS attention per window and late CLS attention overall, then by the prompt's.

    "VScan: Rethinking Visual Token Reduction for Efficient Large Vision-Language Models" (Zhang et al., TMLR
    2026, arXiv 2505.22654). Reads CLS attention, mean over heads, of an early tower layer and of the one
    whose output the projector reads. Acts at the decoder's input, where every other token is merged into the
    most similar kept one, and before decoder layer `stage` of 32, where a share `ratio` of the tokens is kept
    by the attention of the last prompt token. Positions are contiguous. Half of the tokens are the best of
    the windows. All tiles of an image keep equally many tokens. `shallow` is layer 5 of CLIP-L's 24, as a
    share of the tower's depth. `window` is the side of a window; 0 means the official one, 6. With
    `cls=received` the official rule for Qwen2.5-VL applies: the side is 4, and a window's tokens must also be
    among the best of all windows.

    Departures: if half of the budget is not a multiple of the number of windows, the code keeps fewer tokens;
    here the late layer selects the rest. A border narrower than a window belongs to the last window.
    Newlines, which the code keeps and does not count, take at most half of the budget.
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
        """Return the window [N] of each patch at `row` [N] and `column` [N] of a tile, and their number."""
        side = self.window or (6 if self.cls == "own" else 4)
        down, across = (max(1, (int(place.max()) + 1) // side) for place in (row, column))
        at = (row // side).clamp(max=down - 1), (column // side).clamp(max=across - 1)
        return at[0] * across + at[1], down * across

    @staticmethod
    def local(attention: Tensor, window: Tensor, windows: int, keep: int) -> Tensor:
        """Return the ascending best patches of each window [N], equally many of each, at most `keep`."""
        return best_of_each(attention, window, torch.full((windows,), keep // windows))

    @staticmethod
    def capped(attention: Tensor, window: Tensor, windows: int, keep: int) -> Tensor:
        """Return the ascending `keep` best patches, with at most ceil(keep / windows) of each window [N]."""
        order = attention.sort(descending=True, stable=True).indices
        members = F.one_hot(window[order], windows)
        rank = (members.cumsum(0) * members).sum(1)  # inside the window, from 1
        return order[rank <= ceil(keep / windows)][:keep].sort().values

    @staticmethod
    def remaining(attention: Tensor, local: Tensor, keep: int) -> Tensor:
        """Return the ascending `keep` best patches that are not `local`."""
        return top_k(attention.index_fill(0, local, -1), keep)

    @staticmethod
    def merged(features: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        """Average each kept token with the others nearest to it; return means [K, D] and assignment [N]."""
        unit = F.normalize(features.float(), dim=-1)
        nearest = (unit @ unit[kept].T).argmax(1)
        nearest[kept] = torch.arange(len(kept), device=kept.device)
        total = torch.zeros_like(unit[kept]).index_add(0, nearest, features.float())
        size = torch.zeros_like(total[:, :1]).index_add(0, nearest, torch.ones_like(unit[:, :1]))
        return (total / size).to(features.dtype), nearest
