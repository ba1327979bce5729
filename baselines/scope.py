from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.crops import chosen_of_each
from compress.base import ClsSelector, Selection, Traits, View
from compress.coverage import cover, likeness


@dataclass
class SCOPE(ClsSelector):
    """Greedy cover of the tower's features, weighted by the attention of CLS.

    "SCOPE: Saliency-Coverage Oriented Token Pruning for Efficient Multimodel LLMs" (Deng et al., NeurIPS
    2025, arXiv 2510.24214). Reads CLS attention, summed over heads, of the tower layer whose output the
    projector reads, and the tower's features; prunes between tower and projector; positions are contiguous. A
    patch covers others by their cosine similarity. The patch with the largest gain in coverage times
    attention^`alpha` is selected next. All tiles of an image keep equally many patches.
    """

    alpha: float = 1.0
    layer: int = -2

    @property
    def tower_layers(self) -> tuple[int, ...]:
        return (self.layer,)

    def choices(self, model: Traits) -> tuple[str, ...]:
        return ("tiles share the budget equally",) if model.tiles else ()

    def select(self, view: View, keep: int) -> Selection:
        attention = self.attended(view, self.layer).sum(0)

        def choose(rows: Tensor, share: int) -> Tensor:
            return self.order(attention[rows], view.hidden[rows], share)

        return Selection(chosen_of_each(view, keep, choose))

    def order(self, attention: Tensor, features: Tensor, keep: int) -> Tensor:
        """Return indices [keep] in order of selection, for patches with attention [N], features [N, C]."""
        alike = likeness(features)
        return cover(torch.ones_like(alike[0]), alike, keep, saliency=attention.float() ** self.alpha)
