from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.crops import equal_shares, rows_of_each, share_out, tile_of
from compress.base import VISION, Selection, Selector, Traits, View


@dataclass
class PruMerge(Selector):
    """Keep patches with outlying CLS attention, add similar patches to them, and sum the rest in one token.

    "LLaVA-PruMerge: Adaptive Token Reduction for Efficient Large Multimodal Models" (Shang et al., ICCV 2025,
    arXiv 2403.15388). Reads keys and CLS scores of the tower's last layer as one wide head; acts between
    tower and projector; positions are contiguous. The decoder gets the centres in falling order of attention,
    then one token for all other patches. With `adaptive` the centres are the outliers above the upper fence
    of the attention's quartiles; otherwise there are keep - 1 centres.

    Departures: the paper averages a centre with its nearest *pruned* patches, the code adds its nearest
    patches, pruned or not, with their attention as unnormalised weights (`merging`). The code computes the
    fence over a batch, here it is computed per image, with at least one centre. Training-free; the published
    numbers are those of fine-tuned models. The tiles of an image are compressed separately, as in the runs of
    HiRED's authors, with budgets in proportion to their patches; the frames of a video with equal budgets.
    """

    adaptive: bool = False
    merging: Literal["code", "paper"] = "code"
    order: Literal["attention", "raster"] = "attention"
    heads: Literal["one", "all"] = "one"  # "all": the tower's own attention, mean over its heads
    neighbours: int = 32
    layer: int = -1
    depth = VISION
    positions = "compact"

    @property
    def tower_layers(self) -> tuple[int, ...]:
        return (self.layer,)

    def choices(self, model: Traits) -> tuple[str, ...]:
        return ("tiles are compressed one by one, with budgets like their patches",) if model.tiles else ()

    def select(self, view: View, keep: int) -> Selection:
        tiles = len(view.need_cls("prumerge"))
        owner = tile_of(view)
        scores, keys = view.scores(self.layer), view.keys(self.layer).flatten(1)
        sizes = owner.bincount(minlength=tiles)
        budgets = share_out(sizes, sizes, keep) if view.frame is None else equal_shares(view, keep)
        index, tokens = [], []
        for tile, (rows, budget) in enumerate(zip(rows_of_each(owner, tiles), budgets.tolist(), strict=True)):
            if len(rows) and (budget or self.adaptive):
                attention = self.attention(torch.cat([scores[:, [tile]], scores[:, tiles + rows]], 1))
                centres = self.centres(attention, budget)
                rest = rows.new_full((min(1, len(rows) - len(centres)),), -1)
                index += [rows[centres], rest]
                tokens.append(self.fused(attention, keys[rows], view.hidden[rows], centres))
        return Selection(torch.cat(index), torch.cat(tokens))

    def centres(self, attention: Tensor, keep: int) -> Tensor:
        """Return the centres in output order; together with the token of the rest they are `keep`."""
        if self.adaptive:
            centres = self.outlying(attention, self.ratio(attention))
        else:
            centres = self.budgeted(attention, keep - 1)
        return centres.sort().values if self.order == "raster" else centres

    def attention(self, scores: Tensor) -> Tensor:
        """Return the attention [N] of CLS to the patches from its scaled scores [H, 1 + N], CLS first."""
        if self.heads == "all":
            return scores.float().softmax(-1).mean(0)[1:]
        return (scores.float().sum(0) / len(scores) ** 0.5).softmax(-1)[1:]

    @staticmethod
    def ratio(attention: Tensor) -> float:
        """Return the share of `attention`, of any shape, above Q3 + 1.5 (Q3 - Q1)."""
        low, high = attention.flatten().quantile(attention.new_tensor([0.25, 0.75]))
        return float((attention > high + 1.5 * (high - low)).double().mean())

    def outlying(self, attention: Tensor, ratio: float) -> Tensor:
        """Return the centres if a share `ratio` of the patches are outliers, by falling attention [N]."""
        return ranked(attention)[: max(1, int(len(attention) * ratio))]

    def budgeted(self, attention: Tensor, count: int) -> Tensor:
        """Return the `count` centres, by falling attention [N]."""
        return ranked(attention)[:count]

    def fused(self, attention: Tensor, keys: Tensor, features: Tensor, centres: Tensor) -> Tensor:
        """Return features [n + 1, C]: the n centres merged with their neighbours, then the rest, if any.

        attention [N], keys [N, d], features [N, C], centres [n].
        """
        dropped = torch.ones_like(attention, dtype=torch.bool).index_fill(0, centres, False)
        allowed = dropped.expand(len(centres), -1)
        if self.merging == "code":
            allowed = torch.ones_like(allowed).scatter(1, centres[:, None], False)
        unit = F.normalize(keys.float(), dim=-1)
        cosine = (unit[centres] @ unit.T).masked_fill(~allowed, -torch.inf)  # [n, N]
        near = cosine.sort(dim=1, descending=True, stable=True).indices[:, : self.neighbours]
        weights = torch.zeros_like(allowed, dtype=attention.dtype)
        weights = weights.scatter(1, near, attention[near]) * allowed  # drop neighbours that are not allowed
        own = attention[centres] if self.merging == "paper" else torch.ones_like(attention[centres])
        weights = weights.scatter(1, centres[:, None], own[:, None])
        if self.merging == "paper":
            weights = weights / weights.sum(1, keepdim=True)
        if dropped.any():
            weights = torch.cat([weights, (attention * dropped)[None]])
        return (weights @ features.float()).to(features.dtype)


@dataclass
class PruMergePlus(PruMerge):
    """PruMerge with more centres, spread over the image, so that no region is left out.

    Same paper and code. With `adaptive`, as officially, every step-th patch is added to the outliers, where
    step is a third of the number of patches per outlier; the last patch of the image is never added. With a
    budget, a quarter of the keep - 1 centres are those with the highest attention, the official proportion of
    one outlier to three samples. The others are spaced evenly among the remaining patches, so that none is
    counted twice and the total is exact.
    """

    salient: float = 0.25  # share of the centres chosen by attention, with a budget

    def __post_init__(self) -> None:
        if not 0 <= self.salient <= 1:
            raise ValueError(f"salient={self.salient}: choose a share of the centres from 0 to 1")

    def outlying(self, attention: Tensor, ratio: float) -> Tensor:
        outliers = super().outlying(attention, ratio)
        step = len(attention) // len(outliers) // 3
        spread = torch.arange(0, len(attention) - 1, step, device=attention.device)
        return torch.cat([outliers, spread[~torch.isin(spread, outliers)]])

    def budgeted(self, attention: Tensor, count: int) -> Tensor:
        order, salient = ranked(attention), ceil(count * self.salient)
        others, samples = order[salient:].sort().values, count - salient
        places = torch.arange(samples, device=order.device) * len(others) // max(1, samples)
        return torch.cat([order[:salient], others[places]])


def ranked(attention: Tensor) -> Tensor:
    """Return all indices by falling `attention`; among equals the lower index comes first."""
    return attention.sort(descending=True, stable=True).indices
