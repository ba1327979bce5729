from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.base import VISION, Selection, Selector, View, top_k


class Zipped(NamedTuple):
    dominant: Tensor  # [D - 1] patches that stay as they are, ascending
    targets: Tensor  # [C] patches that stand for the merged rest, ascending
    merged: Tensor  # [C, width] their new features


@dataclass
class VisionZip(Selector):
    """Keep the patches CLS looks at, merge the rest into a few by similarity of their keys, and pass CLS on.

    "VisionZip: Longer is Better but Not Necessary in Vision Language Models" (Yang et al., CVPR 2025, arXiv
    2412.04467). Reads CLS attention (summed over heads) and keys (mean over heads) of the tower layer whose
    output the projector reads; acts between tower and projector; positions are contiguous. The decoder gets
    CLS, the dominant patches in order, then the contextual tokens. Of 64 tokens 54 are dominant, CLS among
    them, and 10 contextual; other budgets split alike, as the official 108 + 20 of 128 and 162 + 30 of 192.

    A contextual token is a sum, as in the official code: the target plus the mean of what joined it.
    """

    contextual: float = 10 / 64  # share of the budget
    layer: int = -2
    depth = VISION
    positions = "compact"

    @property
    def tower_layers(self) -> tuple[int, ...]:  # type: ignore[override]
        return (self.layer,)

    def select(self, view: View, keep: int) -> Selection:
        if view.cls_token is None:
            raise ValueError("visionzip needs a vision tower with a CLS token")
        contextual = round(keep * self.contextual)
        attention, keys = view.cls(self.layer).sum(0), view.keys(self.layer).mean(1)
        zipped = self.zip(attention, keys, view.hidden, keep - contextual, contextual)
        index = torch.cat([zipped.dominant.new_tensor([-1]), zipped.dominant, zipped.targets])
        tokens = torch.cat([view.cls_token[None], view.hidden[zipped.dominant], zipped.merged])
        return Selection(index, tokens)

    @staticmethod
    def zip(attention: Tensor, keys: Tensor, features: Tensor, dominant: int, contextual: int) -> Zipped:
        """Split N patches into `dominant` - 1 kept ones, as CLS is the first, and `contextual` merged ones.

        attention [N], keys [N, d], features [N, C]. Targets are every (N - dominant + 1) // contextual-th
        remaining patch; each other one joins the target with the most similar key.
        """
        kept = top_k(attention, dominant - 1)
        left = torch.ones_like(attention, dtype=torch.bool).index_fill(0, kept, False).nonzero()[:, 0]
        stride = max(1, len(left) // max(1, contextual))
        is_target = torch.zeros_like(left, dtype=torch.bool)
        is_target[: stride * contextual : stride] = True
        targets, others = left[is_target], left[~is_target]
        merged = features[targets]
        if len(targets) and len(others):
            unit = F.normalize(keys, dim=-1)
            nearest = (unit[others] @ unit[targets].T).argmax(1)
            groups = F.one_hot(nearest, len(targets)).to(features)  # [others, C]
            merged = merged + groups.T @ features[others] / groups.sum(0).clamp(min=1)[:, None]
        return Zipped(kept, targets, merged)
