from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.crops import best_of_each, equal_shares, rows_of_each, share_out, tile_of
from compress.base import Selection, Selector, Traits, View


@dataclass
class GPrune(Selector):
    """Keep the tokens that collect the most information when it propagates in a graph of similar tokens.

    "What Kind of Visual Tokens Do We Need? Training-free Visual Token Pruning for Multi-modal Large Language
    Models from the Perspective of Graph" (Jiang et al., AAAI 2025, arXiv 2501.02268). Reads the projected
    features alone, prunes at the decoder's input; positions stay original. Tokens are linked if their cosine
    is at least `similarity`. The norms of the tokens propagate `iterations` times along the softmax of the
    links; the result is divided by the number of links. Thumbnail and crops of a tiled image are two graphs
    that keep the same share; all newlines stay. Each frame of a video is a graph, with equal budgets (ours).

    Departures: newlines count, and take at most half of the budget. A link below the threshold is left out of
    the softmax, where the code gives it a score of -5000; its weight is 0 in both.
    """

    similarity: float = 0.5
    temperature: float = 0.03
    iterations: int = 5

    def choices(self, model: Traits) -> tuple[str, ...]:
        if model.tiles:
            return ("newlines all stay, up to half of the budget",) if model.newlines else ()
        return ("an image without crops is one graph",)

    def select(self, view: View, keep: int) -> Selection:
        tile = tile_of(view)
        newlines, tokens = (tile < 0).nonzero()[: keep // 2, 0], (tile >= 0).nonzero()[:, 0]
        graph = tile[tokens] if view.crop is None else tile[tokens].clamp(max=1)
        sizes = graph.bincount()
        scores = view.visual.new_empty(len(tokens), dtype=torch.float32)
        for rows in rows_of_each(graph, len(sizes)):
            scores[rows] = self.importance(view.visual[tokens[rows]])
        left = keep - len(newlines)
        counts = share_out(sizes, sizes, left) if view.frame is None else equal_shares(view, left)
        kept = tokens[best_of_each(scores, graph, counts)]
        return Selection(torch.cat([kept, newlines]).sort().values)

    def importance(self, features: Tensor) -> Tensor:
        """Return the scores [N] of the nodes of one graph, in float32, from their features [N, D]."""
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            cosine = F.normalize(features, dim=-1) @ F.normalize(features, dim=-1).T
            linked = (cosine >= self.similarity).fill_diagonal_(True)
            flow = (cosine / self.temperature).masked_fill(~linked, -torch.inf).softmax(1)
            score = features.norm(dim=1)
            for _ in range(self.iterations):
                score = score @ flow
            return score / linked.sum(1)
