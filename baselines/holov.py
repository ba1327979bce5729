from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from baselines.crops import share_out
from compress.base import ClsSelector, Selection, Traits, View

EPSILON = 1e-6


@dataclass
class HoloV(ClsSelector):
    """Share the budget over stretches of the image by CLS attention, and spend it there by the same.

    "Don't Just Chase 'Highlighted Tokens' in MLLMs: Revisiting Visual Holistic Context Retention" (Zou et
    al., NeurIPS 2025, arXiv 2510.02912). Reads CLS attention, mean over heads, of the tower layer whose
    output the projector reads; drops between tower and projector; positions are contiguous. `chunks`
    consecutive runs of tokens get budgets in proportion to their scores; 0 stands for the official number, 16
    for 64 of 576 tokens. A chunk passes its tokens on in falling order of attention; one that is kept whole
    stays as it was.

    Departures: the paper speaks of spatial crops, the code cuts the flattened raster. The code's score adds
    the variance of similarities, scaled to the mean of attention, so it always adds `alpha` times that mean:
    attention alone decides. The code pads with zero vectors where a chunk is full; here the others share the
    surplus, or it is lost (`surplus`). The paper's similarities are of projected features, here of the
    tower's: they cancel.
    """

    alpha: float = 0.09
    chunks: int = 0
    surplus: Literal["shared", "lost"] = "shared"
    order: Literal["attention", "raster"] = "attention"
    layer: int = -2

    def __post_init__(self) -> None:
        if self.chunks < 0:
            raise ValueError(f"chunks={self.chunks}: choose 1 or more, or 0 for the official number")

    @property
    def tower_layers(self) -> tuple[int, ...]:
        return (self.layer,)

    def choices(self, model: Traits) -> tuple[str, ...]:
        return ("chunks are runs of all tiles' tokens",) if model.tiles else ()

    def select(self, view: View, keep: int) -> Selection:
        attention = self.attended(view, self.layer).mean(0)
        index = self.kept(attention, view.hidden, self.count(len(attention), keep), keep)
        if self.order == "raster":
            index = index.sort().values
        return Selection(index, reordered=True)

    def count(self, tokens: int, keep: int) -> int:
        """How many chunks there are."""
        return min(self.chunks or max(1, int(1024 / 576 * tokens / keep)), tokens)

    def kept(self, attention: Tensor, features: Tensor, chunks: int, keep: int) -> Tensor:
        """Indices in the order in which they go on, of attention [N] and features [N, D]."""
        scores = self.scores(attention, features, chunks)
        room = scores.new_tensor([len(part) for part in attention.tensor_split(chunks)], dtype=torch.long)
        counts = self.allocation(scores, keep).minimum(room)
        if self.surplus == "shared":
            counts = counts + share_out(scores, room - counts, keep - int(counts.sum()))
        index = []
        rows = torch.arange(len(attention), device=attention.device).tensor_split(chunks)
        for part, count in zip(rows, counts.tolist(), strict=True):
            best = attention[part].sort(descending=True, stable=True).indices[:count]
            index.append(part if count == len(part) else part[best])
        return torch.cat(index)

    def scores(self, attention: Tensor, features: Tensor, chunks: int) -> Tensor:
        """Scores [chunks]; the first ones have one token more where N is no multiple."""
        unit = features.float() / (features.float().norm(dim=1, keepdim=True) + EPSILON)
        found = []
        for weight, vectors in zip(attention.tensor_split(chunks), unit.tensor_split(chunks), strict=True):
            others = len(weight) - 1
            if not others:
                found.append(weight[0])  # official: not times 1000
                continue
            alike = (vectors @ vectors.T).fill_diagonal_(0)
            mean = alike.sum(1, keepdim=True) / others
            variance = (alike - mean).square().sum(1) / others
            scale = 1000 * weight.mean() / (variance.mean() + EPSILON)
            found.append((1000 * weight + self.alpha * scale * variance).mean())
        return torch.stack(found)

    @staticmethod
    def allocation(scores: Tensor, keep: int) -> Tensor:
        """Tokens [C] of each chunk, however many it has; what rounding leaves goes to the largest."""
        share = scores / (scores.sum() + EPSILON)
        counts = (share * keep).long()
        more = share.topk(min(len(share), keep - int(counts.sum()))).indices
        return counts.index_add(0, more, torch.ones_like(more))
