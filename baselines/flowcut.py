from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt

import torch
from torch import Tensor

from compress.base import Merge, Selection, TowerSelector, TowerView, Traits, View, top_k


@dataclass
class FlowCut(TowerSelector):
    """Drop patches inside the tower, block by block, by the attention of CLS and by its values.

    "FlowCut: Rethinking Redundancy via Information Flow for Efficient Vision-Language Models" (Tong et al.,
    2025, arXiv 2505.19536). In every block but the last whose output is used:
    1. A patch scores by the sum of two shares, that of the attention of CLS (mean over heads) and that of
       softmax(<v_CLS, v>) of the block's values (mean over heads), times the L1 norm of its mean value.
    2. What counts is the running score: half of that of the block before, and half of the new one.
    3. In every second block the lowest go: of R blocks to come, and n patches of which K are to stay,
       (n - K) / sqrt(R) * (1 - (H / log n)^2), where H is the entropy of the attention of CLS. The last
       of these blocks leaves K, so that the image decides how many there are before, and the budget after it.
    Positions are contiguous.

    Departures: the official code drops from all images of a batch what the one with the largest number loses;
    here an image does not depend on its batch. For several tiles it leaves half of the budget in each, and
    cuts to the budget in decoder layer 1; here all is cut in the tower, to the same count in every tile. Its
    version for Qwen2-VL, whose tower has no CLS, is not available.
    """

    positions = "compact"
    merge_after = "block"
    image_decides = True

    def tower(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        return dict.fromkeys(range(max(1, layers - 1)), keep)

    def choices(self, model: Traits) -> tuple[str, ...]:
        return ("every tile is cut to the same count, in the tower alone",) if model.tiles else ()

    def merge(self, view: TowerView, keep: int) -> Merge:
        return self.cut(view, self.leaves(view.cls().mean(0), keep, view.left))

    @classmethod
    def cut(cls, view: TowerView, count: int) -> Merge:
        """What becomes of the patches if `count` stay."""
        score = cls.score(view.cls(), view.values())
        if view.carried is not None:
            score = view.carried / 2 + score / 2
        kept = top_k(score, count)
        into = torch.full_like(view.index, -1)
        return Merge(kept, into.index_copy(0, kept, torch.arange(count, device=kept.device)), score[kept])

    @staticmethod
    def score(attention: Tensor, values: Tensor) -> Tensor:
        """Scores [N] in one block, from the attention [H, N] of CLS and values [1 + N, H, d], CLS first."""
        values = values.float()
        alike = torch.einsum("hd,nhd->hn", values[0], values).softmax(-1).mean(0)[1:]
        attended = attention.mean(0)
        return (attended / attended.sum() + alike / alike.sum()) * values[1:].mean(1).abs().sum(1)

    @staticmethod
    def leaves(attention: Tensor, keep: int, left: int) -> int:
        """How many of N > `keep` patches a block leaves, by attention [N] of CLS; `left` blocks follow."""
        tokens = len(attention)
        if not left:
            return keep
        if left % 2:
            return tokens
        share = attention / attention.sum()
        entropy = -float(share.xlogy(share).sum())
        drop = round((tokens - keep) / sqrt(left) * (1 - (entropy / log(tokens)) ** 2))
        return max(tokens - drop, keep)

    def select(self, view: View, keep: int) -> Selection:
        raise NotImplementedError("the patches were dropped inside the tower")
