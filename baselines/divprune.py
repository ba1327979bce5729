from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.base import Selection, Selector, View


@dataclass
class DivPrune(Selector):
    """Keep tokens whose smallest distance to each other is large, whatever the prompt asks.

    "DivPrune: Diversity-based Visual Token Pruning for Large Multimodal Models" (Alvar et al., CVPR 2025,
    arXiv 2503.02175). Reads the aligned embeddings, drops at the decoder's input; positions are contiguous.
    The first token is the one whose nearest neighbour is farthest; then the token farthest from all chosen
    ones is added, by cosine distance. Newlines are candidates like other tokens.

    Departures: the code may gather one of several equal tokens twice, here every token is chosen once; the
    code computes distances in the model's precision, here in float32.
    """

    positions = "compact"

    def select(self, view: View, keep: int) -> Selection:
        return Selection(self.order(view.visual, keep).sort().values)

    @staticmethod
    def order(features: Tensor, keep: int) -> Tensor:
        """Indices [keep] of features [N, D] in the order in which they are chosen, 1 <= keep <= N."""
        unit = F.normalize(features.float(), dim=-1)
        distance = 1 - unit @ unit.T
        apart = distance.clone().fill_diagonal_(torch.inf).amin(0)
        # [1] and not a number, for which a GPU would be waited for.
        chosen = [apart.argmax(keepdim=True)]
        nearest = torch.full_like(apart, torch.inf)
        while len(chosen) < keep:
            nearest = nearest.minimum(distance[chosen[-1]][0])
            nearest[chosen[-1]] = -torch.inf  # never twice, even among equals
            chosen.append(nearest.argmax(keepdim=True))
        return torch.cat(chosen)
