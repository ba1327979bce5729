from __future__ import annotations

from dataclasses import dataclass
from math import isqrt
from typing import Literal

import torch
from torch import Tensor

from baselines.crops import best_of_each, crop_of_cell, share_out, stitched
from compress.base import ClsSelector, Selection, View, top_k


@dataclass
class HiRED(ClsSelector):
    """Distribute the budget over tiles by early CLS attention, then select tokens by late CLS attention.

    "HiRED: Attention-Guided Token Dropping for Efficient Inference of High-Resolution Vision-Language Models"
    (Arif et al., AAAI 2025, arXiv 2408.10945). Reads the attention of CLS, summed over heads, in the tower's
    first layer and in the one whose output the projector reads; prunes between tower and projector;
    positions are contiguous. The thumbnail gets `alpha` of the budget. The crops share the rest in proportion
    to how many of the thumbnail's most attended patches, a share 1 - alpha, each crop contains. An image
    without crops is pruned by late attention alone.

    Departures: the paper assigns to a crop the thumbnail patches that it covers ("spatial"), the code
    consecutive runs of the flattened thumbnail ("flat_chunks"); the paper's late layer is the last one
    (`late=-1`); the code loses tokens to rounding, here the crops share them.
    """

    alpha: float = 0.5
    crop_mapping: Literal["flat_chunks", "spatial"] = "flat_chunks"
    early: int = 0
    late: int = -2

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha={self.alpha}: choose a share of the budget from 0 to 1")

    @property
    def tower_layers(self) -> tuple[int, ...]:
        return (self.early, self.late)

    def select(self, view: View, keep: int) -> Selection:
        if view.frame is not None:
            raise ValueError(
                "hired shares the budget by the thumbnail of an image in tiles, and a video has none: choose "
                "another method"
            )
        late = self.attended(view, self.late).sum(0)
        if view.crop is None:
            return Selection(top_k(late, keep))
        early = self.attended(view, self.early).sum(0)[view.crop == 0]
        if self.crop_mapping == "spatial":
            _, shape = stitched(view)
            region = crop_of_cell(isqrt(len(early)), shape)
        else:
            region = self.flat_chunks(len(early), int(view.crop.max()))
        sizes = view.crop[view.crop >= 0].bincount()  # newlines belong to no tile
        budgets = self.budgets(early, region.to(early.device), sizes, keep)
        return Selection(best_of_each(late, view.crop, budgets))

    def budgets(self, early: Tensor, region: Tensor, sizes: Tensor, keep: int, exact: bool = True) -> Tensor:
        """Return the numbers of tokens [P] that the tiles of `sizes` [P] keep, the thumbnail first.

        early [n] is the attention of the thumbnail, region [n] the crop, from 0, that each of its patches is
        assigned to. With `exact` the numbers add up to `keep`; without, they are rounded down as in the
        official code.
        """
        thumbnail = min(int(keep * self.alpha), int(sizes[0]))
        rest = min(keep - thumbnail, int(sizes[1:].sum()))
        if not rest:
            return sizes.new_tensor([keep if exact else thumbnail] + [0] * (len(sizes) - 1))
        marked = top_k(early, int(len(early) * (1 - self.alpha)))
        marks = region[marked].bincount(minlength=len(sizes) - 1)
        if exact:
            return torch.cat([sizes.new_tensor([keep - rest]), share_out(marks, sizes[1:], rest)])
        crops = (marks / marks.sum() * rest).floor().long().minimum(sizes[1:])
        return torch.cat([sizes.new_tensor([thumbnail]), crops])

    @staticmethod
    def flat_chunks(tokens: int, crops: int) -> Tensor:
        """Assign each of the `tokens` to one of `crops` equal runs."""
        return torch.arange(tokens) * crops // tokens
