from __future__ import annotations

from dataclasses import dataclass
from math import log, sqrt

import torch
from torch import Tensor

from compress.base import (
    VISION,
    Merge,
    Selection,
    TowerSelector,
    TowerView,
    Traits,
    View,
    scaled_layer,
    top_k,
)

LAYER = 1  # of a decoder with 32, after which the prompt decides


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
    With `ahead` above 1 the tower leaves so many times the budget, and after decoder layer 1 of 32 the best
    tokens stay by the same score, in which the last token of the prompt takes the place of CLS. There the
    shares are those of visual tokens alone, and products of values are scaled as those of keys are. For an
    image of 5 tiles the official code does so with 2.5: half of the budget leaves each tile. Positions are
    contiguous.

    Departures: the official code drops from all images of a batch what the one with the largest number loses;
    here an image does not depend on its batch. Every tile is cut to the same count, and by default the tower
    alone cuts tiles. The authors' version for Qwen2-VL, whose tower has no CLS, is left out: it drops patches
    before four neighbours are merged into a token, so that its tokens consist of patches of different places
    and have no position of their own.
    """

    ahead: float = 1.0
    positions = "compact"
    merge_after = "block"
    image_decides = True

    def __post_init__(self) -> None:
        if not self.ahead >= 1:
            raise ValueError(f"ahead={self.ahead}: choose 1 or more times the budget")
        self.reads_text = self.ahead > 1

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        if self.ahead == 1:
            return {VISION: keep}
        return {VISION: min(tokens, round(self.ahead * keep)), scaled_layer(LAYER + 1, layers): keep}

    def tower(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        return dict.fromkeys(range(max(1, layers - 1)), keep)

    def choices(self, model: Traits) -> tuple[str, ...]:
        where = ", in the tower alone" if self.ahead == 1 else ""
        return (f"every tile is cut to the same count{where}",) if model.tiles else ()

    def merge(self, view: TowerView, keep: int) -> Merge:
        return self.cut(view, self.leaves(view.cls().mean(0), keep, view.left))

    @classmethod
    def cut(cls, view: TowerView, count: int) -> Merge:
        """What becomes of the patches if `count` stay."""
        attention, values = view.cls(), view.values().float()
        score = cls.score(attention.mean(0), value_shares(values[0], values)[1:], values[1:])
        if view.carried is not None:
            score = view.carried / 2 + score / 2
        kept = top_k(score, count)
        into = torch.full_like(view.index, -1)
        return Merge(kept, into.index_copy(0, kept, torch.arange(count, device=kept.device)), score[kept])

    @staticmethod
    def score(attended: Tensor, alike: Tensor, values: Tensor) -> Tensor:
        """Scores [N] in one layer, from attention [N], likeness [N] and values [N, H, d] of the tokens."""
        return (attended / attended.sum() + alike / alike.sum()) * values.mean(1).abs().sum(1)

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
        """The stage in the decoder."""
        attention = view.attention(view.depth - 1, [-1])[:, 0]
        visual, text = (values.float() for values in view.decoder_values(view.depth - 1))
        attended = (attention / attention.sum(1, keepdim=True)).mean(0)
        alike = value_shares(text[-1] / sqrt(text.shape[-1]), visual)
        return Selection(top_k(self.score(attended, alike, visual), keep))


def value_shares(one: Tensor, values: Tensor) -> Tensor:
    """The softmax [N] over tokens, mean over heads, of the products of `one` [H, d] and values [N, H, d]."""
    return torch.einsum("hd,nhd->hn", one, values).softmax(-1).mean(0)
