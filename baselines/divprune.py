from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.base import Selection, Selector, View


@dataclass
class DivPrune(Selector):
    """Keep the tokens with the largest minimum distance to each other, without reading the prompt.

    "DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models" (Alvar et al., CVPR 2025,
    arXiv 2503.02175). Reads the aligned embeddings, prunes at the decoder's input; positions are contiguous.
    The first token is the one with the most distant nearest neighbour. Then the token farthest from all
    selected ones, by cosine distance, is added repeatedly. Newlines are candidates like other tokens.

    Departures: the code may select one of several equal tokens twice, here every token is selected at most
    once; the code computes distances in the model's precision, here in float32.
    """

    positions = "compact"

    def select(self, view: View, keep: int) -> Selection:
        return Selection(self.order(view.visual, keep).sort().values)

    @staticmethod
    def order(features: Tensor, keep: int) -> Tensor:
        """Return indices [keep] of features [N, D] in order of selection, 1 <= keep <= N."""
        unit = F.normalize(features.float(), dim=-1)
        distance = 1 - unit @ unit.T
        apart = distance.clone().fill_diagonal_(torch.inf).amin(0)
        # A tensor [1]: a Python number would synchronise with the GPU.
        chosen = [apart.argmax(keepdim=True)]
        nearest = torch.full_like(apart, torch.inf)
        while len(chosen) < keep:
            nearest = nearest.minimum(distance[chosen[-1]][0])
            nearest[chosen[-1]] = -torch.inf  # never twice, even among equals
            chosen.append(nearest.argmax(keepdim=True))
        return torch.cat(chosen)
