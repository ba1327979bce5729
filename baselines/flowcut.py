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

LAYER = 1  # of a 32-layer decoder; the stage that reads the prompt follows it


@dataclass
class FlowCut(TowerSelector):
    """Prune patches inside the tower, block by block, by the attention of CLS and by their values.

    "FlowCut: Rethinking Redundancy via Information Flow for Efficient Vision-Language Models" (Tong et al.,
    2025, arXiv 2505.19536). In every block but the last whose output is used:
    1. A patch scores by the sum of two shares, that of the attention of CLS (mean over heads) and that of
       softmax(<v_CLS, v>) of the block's values (mean over heads), times the L1 norm of its mean value.
    2. The running score is the mean of the previous running score and the new score.
    3. Every second block prunes the patches with the lowest running scores. With R blocks to follow, n
       patches and a target of K, their number is (n - K) / sqrt(R) * (1 - (H / log n)^2), where H is the
       entropy of the attention of CLS. The last of these blocks leaves exactly K; before it the number
       depends on the image.
    With `ahead` above 1 the tower leaves `ahead` times the budget, and after decoder layer 1 of 32 the tokens
    with the best scores stay; in this score the last prompt token replaces CLS, the shares are normalised
    over the visual tokens alone, and the products of values are scaled like those of keys. For an image of 5
    tiles the official code uses 2.5: each tile leaves half of the budget. Positions are contiguous.

    Departures: the official code prunes the same number from all images of a batch, the largest of any image;
    here an image does not depend on its batch. Every tile is pruned to the same count, and by default tiles
    are pruned in the tower alone. The authors' version for Qwen2-VL, whose tower has no CLS, is left out: it
    prunes patches before four neighbours are merged into a token, so that its tokens combine patches of
    different places and have no position of their own.
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
        if keep < 1:
            raise ValueError(
                f"keep={keep}: FlowCut prunes every tile to the same count, so that 1 of {tokens} patches of "
                f"a tile is the smallest budget"
            )
        return dict.fromkeys(range(max(1, layers - 1)), keep)

    def choices(self, model: Traits) -> tuple[str, ...]:
        where = ", in the tower alone" if self.ahead == 1 else ""
        return (f"every tile is cut to the same count{where}",) if model.tiles else ()

    def merge(self, view: TowerView, keep: int) -> Merge:
        return self.cut(view, self.leaves(view.cls().mean(0), keep, view.left))

    @classmethod
    def cut(cls, view: TowerView, count: int) -> Merge:
        """Prune to the `count` patches with the best running scores."""
        attention, values = view.cls(), view.values().float()
        score = cls.score(attention.mean(0), value_shares(values[0], values)[1:], values[1:])
        if view.carried is not None:
            score = view.carried / 2 + score / 2
        kept = top_k(score, count)
        into = torch.full_like(view.index, -1)
        return Merge(kept, into.index_copy(0, kept, torch.arange(count, device=kept.device)), score[kept])

    @staticmethod
    def score(attended: Tensor, alike: Tensor, values: Tensor) -> Tensor:
        """Return scores [N] in one layer, from attention [N], similarity [N] and values [N, H, d]."""
        return (attended / attended.sum() + alike / alike.sum()) * values.mean(1).abs().sum(1)

    @staticmethod
    def leaves(attention: Tensor, keep: int, left: int) -> int:
        """Return how many of N > `keep` patches a block keeps, by CLS attention [N]; `left` blocks follow."""
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
        """Select tokens at the decoder stage."""
        attention = view.attention(view.depth - 1, [-1])[:, 0]
        visual, text = (values.float() for values in view.decoder_values(view.depth - 1))
        attended = (attention / attention.sum(1, keepdim=True)).mean(0)
        alike = value_shares(text[-1] / sqrt(text.shape[-1]), visual)
        return Selection(top_k(self.score(attended, alike, visual), keep))


def value_shares(one: Tensor, values: Tensor) -> Tensor:
    """Return the softmax [N] over tokens of `one` [H, d] times values [N, H, d], averaged over heads."""
    return torch.einsum("hd,nhd->hn", one, values).softmax(-1).mean(0)
