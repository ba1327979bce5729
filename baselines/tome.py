from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.base import Merge, Selection, TowerSelector, TowerView, Traits, View


class Pairing(NamedTuple):
    source: Tensor  # [r] tokens that are merged, most similar pair first
    target: Tensor  # [r] tokens that they are merged into
    stay: Tensor  # the other tokens of the sources' half
    others: Tensor  # all tokens of the targets' half

    def merge(self) -> Merge:
        index = torch.cat([self.stay, self.others])
        into = index.new_empty(len(index) + len(self.source))
        into[index] = torch.arange(len(index), device=index.device)
        into[self.source] = into[self.target]
        return Merge(index, into)


@dataclass
class ToMe(TowerSelector):
    """Merge the most similar patches in every tower layer, from one half of them into the other.

    "Token Merging: Your ViT But Faster" (Bolya et al., ICLR 2023, arXiv 2210.09461). In each layer whose
    output is used, patches are merged between attention and MLP by the similarity of that layer's keys (mean
    over heads); later layers weigh the attention to a merged token by its size. Positions are contiguous.

    The paper removes r patches per layer. Here the budget determines the total, and the layers share it
    evenly, the first ones removing one more: 17 in 16 layers and 16 in 7 for 192 of 576. With `inflection`
    the shares are on a line from 1 - inflection to 1 + inflection times the even share, as in the official
    code: 1 merges late, -1 early. A layer can merge at most half of its patches; other layers merge the
    excess.
    """

    inflection: float = 0.0
    proportional: bool = True  # weigh attention by size; False = all tokens have size 1
    positions = "compact"

    def tower(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        if not -1 <= self.inflection <= 1:
            raise ValueError(f"inflection={self.inflection}: choose between -1 and 1")
        least = [ceil(tokens / 2**layer) for layer in range(layers + 1)]  # minimum that enters a layer
        if keep < least[-1]:
            raise ValueError(
                f"keep={keep}: tome merges at most half of the patches in each of {layers} tower layers, so "
                f"that {least[-1]} of {tokens} is the smallest budget"
            )
        counts, left = {}, keep
        for layer in reversed(range(layers)):
            counts[layer] = left
            removed = min(int(self.share(layer, layers) * (tokens - left)), left)
            left = max(left + removed, least[layer])
        return dict(sorted(counts.items()))

    def choices(self, model: Traits) -> tuple[str, ...]:
        alike = ("every tile merges down to the same count",) if model.tiles else ()
        return ("tower layers that the projector depends on share what the budget asks to merge", *alike)

    def share(self, layer: int, layers: int) -> float:
        """Return a layer's share of the tokens that it and the layers before it remove."""
        line = [1 + self.inflection * (2 * each / max(1, layers - 1) - 1) for each in range(layer + 1)]
        return line[layer] / (sum(line) or 1)

    def merge(self, view: TowerView, keep: int) -> Merge:
        return self.match(view.keys().mean(1), len(view.hidden) - keep).merge()

    @staticmethod
    def match(metric: Tensor, r: int, cls: bool = True) -> Pairing:
        """Find the most similar token at an odd position for each token at an even position.

        metric [N, d] of the patches; 0 <= r <= N // 2. With `cls` patches start at position 1, and those that
        stay are sorted; without, they are in the order of their scores, as in the official code.
        """
        unit = F.normalize(metric.float(), dim=-1)
        even = torch.arange(int(cls), len(unit), 2, device=unit.device)
        odd = torch.arange(int(not cls), len(unit), 2, device=unit.device)
        score, nearest = (unit[even] @ unit[odd].T).max(1)
        order = score.sort(descending=True, stable=True).indices
        stay = even[order[r:]]
        return Pairing(even[order[:r]], odd[nearest[order[:r]]], stay.sort().values if cls else stay, odd)

    def select(self, view: View, keep: int) -> Selection:
        raise NotImplementedError("the patches were merged inside the tower")
