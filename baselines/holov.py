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
    """Distribute the budget over chunks of the image by CLS attention, then select tokens by the same.

    "Don't Just Chase 'Highlighted Tokens' in MLLMs: Revisiting Visual Holistic Context Retention" (Zou et
    al., NeurIPS 2025, arXiv 2510.02912). Reads CLS attention, mean over heads, of the tower layer whose
    output the projector reads; prunes between tower and projector; positions are contiguous. `chunks`
    consecutive runs of tokens get budgets in proportion to their scores; 0 means the official number, 16 for
    64 of 576 tokens. The tokens of a chunk are ordered by falling attention, or in raster order if the whole
    chunk is kept.

    Departures: the paper describes spatial crops, the code divides the flattened raster. The code's score
    adds the variance of similarities, scaled to the mean of attention, so it always adds `alpha` times that
    mean: attention alone decides. The code pads with zero vectors if a chunk is full; here the others share
    the surplus, or it is lost (`surplus`). The paper uses similarities of projected features, here they are
    those of the tower's features, which makes no difference, since they cancel.
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
        """Return the number of chunks."""
        return min(self.chunks or max(1, int(1024 / 576 * tokens / keep)), tokens)

    def kept(self, attention: Tensor, features: Tensor, chunks: int, keep: int) -> Tensor:
        """Return the kept indices in output order, for attention [N] and features [N, D]."""
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
        """Return scores [chunks]; the first chunks have one token more if N is not a multiple of `chunks`."""
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
        """Return the tokens [C] of each chunk, ignoring its size; remainders go to the largest shares."""
        share = scores / (scores.sum() + EPSILON)
        counts = (share * keep).long()
        more = share.topk(min(len(share), keep - int(counts.sum()))).indices
        return counts.index_add(0, more, torch.ones_like(more))
