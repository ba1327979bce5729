from __future__ import annotations

from dataclasses import dataclass

from baselines.crops import best_of_each, equal_shares, tile_of
from compress.base import ClsSelector, Selection, Traits, View


@dataclass
class FasterVLM(ClsSelector):
    """Keep the patches with the most attention from CLS.

    "[CLS] Attention is All You Need for Training-Free Visual Token Pruning: Make VLM Inference Faster" (Zhang
    et al., 2024, arXiv 2412.01818, first version; the later ones are VisPruner). Reads CLS attention, mean
    over heads, of the tower layer whose output the projector reads; prunes between tower and projector;
    positions are contiguous. All tiles of an image keep equally many patches.
    """

    layer: int = -2

    @property
    def tower_layers(self) -> tuple[int, ...]:
        return (self.layer,)

    def choices(self, model: Traits) -> tuple[str, ...]:
        return ("tiles share the budget equally",) if model.tiles else ()

    def select(self, view: View, keep: int) -> Selection:
        attention = self.attended(view, self.layer).mean(0)
        return Selection(best_of_each(attention, tile_of(view), equal_shares(view, keep)))
