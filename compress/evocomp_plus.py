from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.base import INPUT, Selection, View, scaled_layer
from compress.evocomp import Learned


@dataclass
class EvoCompPlus(Learned):
    """Keep the tokens that together stand for most of what a trained compressor finds relevant.

    Ours, not the paper's. A label holds one of several equally good tokens, so a thing's relevance is shared
    out among its tokens; ranked one by one, a few tokens of a small thing come before all of the background.
    Here tokens are added greedily to cover relevance (facility location; the greedy set is within 1 - 1/e of
    the best, Nemhauser et al. 1978): the kept set S is to maximise sum_j p_j max_{i in S} s_ij, where p are
    the compressor's probabilities and s_ij = max(0, cos)^`sharpness` of the aligned embeddings. `layer` is
    that of a 32-layer decoder and scales with depth; 0 is the decoder's input.
    """

    layer: int = 0
    sharpness: float = 1.0

    def __post_init__(self) -> None:
        if self.sharpness <= 0:
            raise ValueError(f"sharpness={self.sharpness} is not positive: 1 compares by cosine")

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        return {scaled_layer(self.layer, layers) if self.layer else INPUT: keep}

    def select(self, view: View, keep: int) -> Selection:
        alike = likeness(view.visual, self.sharpness)
        return Selection(cover(self.score(view).sigmoid(), alike, keep).sort().values)


def likeness(features: Tensor, sharpness: float = 1.0) -> Tensor:
    """[N, N] from features [N, D]: max(0, cosine)^sharpness, float32."""
    unit = F.normalize(features.float(), dim=-1)
    return (unit @ unit.T).clamp(min=0) ** sharpness


def cover(relevance: Tensor, alike: Tensor, keep: int) -> Tensor:
    """Indices [keep] in the order in which they add most to sum_j relevance_j max_{i kept} alike_ij.

    `relevance` [N] and `alike` [N, N], symmetric, are not negative. Among equals the lower index wins.
    """
    covered = torch.zeros_like(relevance)
    taken = torch.zeros_like(relevance, dtype=torch.bool)
    chosen: list[Tensor] = []
    for _ in range(keep):
        gain = (alike - covered).clamp(min=0) @ relevance
        chosen.append(gain.masked_fill(taken, -1).argmax())
        taken = taken.index_fill(0, chosen[-1], True)
        covered = covered.maximum(alike[chosen[-1]])
    return torch.stack(chosen)
