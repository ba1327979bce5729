from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.crops import chosen_of_each
from compress.base import ClsSelector, Selection, Traits, View
from compress.coverage import cover, likeness


@dataclass
class SCOPE(ClsSelector):
    """Greedy cover of the tower's features, in which patches that CLS attends to count for more.

    "SCOPE: Saliency-Coverage Oriented Token Pruning for Efficient Multimodel LLMs" (Deng et al., NeurIPS
    2025, arXiv 2510.24214). Reads CLS attention, summed over heads, of the tower layer whose output the
    projector reads, and the tower's features; drops between tower and projector; positions are contiguous. A
    patch covers others as far as it is like them, by cosine; the one with the largest gain in cover times
    attention^`alpha` is next. Every tile of an image keeps as many patches.
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
        """Indices [keep] in the order in which they are chosen, of patches with attention [N], features
        [N, C]."""
        alike = likeness(features)
        return cover(torch.ones_like(alike[0]), alike, keep, saliency=attention.float() ** self.alpha)
