from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from compress.base import Selection, Selector, View, scaled_layer, top_k


@dataclass
class PACT(Selector):
    """Prune tokens with little early attention, cluster the rest by their keys, and weigh attention by size.

    "PACT: Pruning and Clustering-Based Token Reduction for Faster Visual Language Models" (Dhouib et al.,
    CVPR 2025, arXiv 2504.08966). Acts once, before decoder layer `layer` of 32, on its input; reads the
    queries and keys that this layer will compute. Positions stay original.
    1. A token scores by the attention of the mean query of all tokens up to the last visual one, without
       rotation and without a mask (mean over heads), times the L2 norm of its hidden state. The share `kept`
       of tokens with the best scores are candidates.
    2. Candidates are visited by falling density of their rotated keys. A candidate becomes a centre unless an
       earlier centre is within `cutoff` (1 - cosine).
    3. Every candidate joins its nearest centre, and so does every other token within `recovery` times the
       cutoff of its nearest centre. The remaining tokens are pruned. A cluster is replaced by the mean of its
       tokens, at the position of its centre.
    4. All later layers add the logarithm of a cluster's size to the attention logits of its token.

    The official code has no budget: `cutoff` is 0.21, and the image decides how many tokens stay, as here
    with `adaptive`. With a budget the cutoff is the smallest distance between candidates that yields at most
    as many centres as the budget, found by bisection; if it yields fewer, the candidates farthest from their
    centre become centres too. With a budget above the share `kept`, as many tokens are candidates.
    """

    layer: int = 4
    kept: float = 0.55
    cutoff: float = 0.21
    recovery: float = 1.5
    adaptive: bool = False
    attends_by_size = True

    def __post_init__(self) -> None:
        if not 0 < self.kept <= 1 or self.cutoff < 0 or self.recovery < 0:
            raise ValueError(
                f"kept={self.kept}, cutoff={self.cutoff}, recovery={self.recovery}: choose a share above 0, "
                f"up to 1, and numbers of 0 or more"
            )

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        return {scaled_layer(self.layer, layers): keep}

    def select(self, view: View, keep: int) -> Selection:
        scores = self.scores(*view.unrotated(view.depth), view.hidden)
        candidates = self.candidates(scores, keep)
        unit = F.normalize(view.decoder_keys(view.depth)[0].flatten(1).float(), dim=-1)
        distance = self.distances(unit[candidates])
        centres, cutoff = self.cluster(distance, 0 if self.adaptive else keep)
        index = candidates[centres]
        into = self.assigned(unit, index, candidates, cutoff)
        return Selection(index, self.means(view.hidden, index, into), into)

    @staticmethod
    def scores(queries: Tensor, keys: Tensor, visual: Tensor, hidden: Tensor) -> Tensor:
        """Return the importance [N] of visual tokens with states `hidden` [N, C] at rows `visual` [N] of M.

        queries [M, H, d] and keys [M, G, d] are not rotated, and their products are logits.
        """
        mean = queries.float().mean(0)  # [H, d]
        keys = keys.float().repeat_interleave(len(mean) // keys.shape[1], dim=1)
        attention = torch.einsum("hd,mhd->hm", mean, keys).softmax(-1).mean(0)
        return attention[visual] * hidden.float().norm(dim=-1)

    def candidates(self, scores: Tensor, keep: int) -> Tensor:
        """Return ascending indices of the best `scores` [N]: the share `kept`, and at least `keep`."""
        return top_k(scores, max(1, keep, int(self.kept * len(scores))))

    @staticmethod
    def distances(unit: Tensor) -> Tensor:
        """Return 1 - cosine, at least 0, between all unit vectors [F, d] as [F, F]."""
        return (1 - unit @ unit.T).clamp(min=0).fill_diagonal_(0)

    def cluster(self, distance: Tensor, keep: int) -> tuple[Tensor, float]:
        """Return ascending centres [K] for distances [F, F], and the cutoff; `keep` 0 uses `self.cutoff`."""
        order = (-(distance / 2).square()).exp().sum(1).sort(descending=True, stable=True).indices
        ordered = distance[order[:, None], order].float().cpu().numpy()  # the loop is on the host
        cutoff = self.cutoff
        if keep:
            apart = np.unique(ordered[np.triu_indices(len(ordered))])
            cutoff = float(apart[bisect_left(apart, -keep, key=lambda one: -len(centres_of(ordered, one)))])
        found = centres_of(ordered, cutoff)
        while len(found) < keep:
            nearest = ordered[:, found].min(1)
            nearest[found] = -1
            found.append(int(nearest.argmax()))
        return order[found].sort().values, cutoff

    def assigned(self, unit: Tensor, centres: Tensor, candidates: Tensor, cutoff: float) -> Tensor:
        """Return the centre [N], in 0 .. K - 1, that each token joins by its unit key [N, d]; -1 = none."""
        nearest, into = (1 - unit @ unit[centres].T).clamp(min=0).min(1)
        joins = (nearest <= self.recovery * cutoff).index_fill(0, candidates, True)
        into = into.where(joins, -1)
        return into.index_copy(0, centres, torch.arange(len(centres), device=into.device))

    @staticmethod
    def means(hidden: Tensor, index: Tensor, into: Tensor) -> Tensor:
        """Return the means [K, C] of all clusters; a centre without other tokens stays bitwise the same."""
        joined = F.one_hot(into + 1, len(index) + 1)[:, 1:]
        counts = joined.sum(0)[:, None]
        found = joined.T.float() @ hidden.float() / counts
        return torch.where(counts > 1, found.to(hidden), hidden[index])


def centres_of(distance: NDArray[np.floating], cutoff: float) -> list[int]:
    """Return the candidates not within `cutoff` of an earlier centre, for ordered distances [F, F]."""
    near, free, found = distance <= cutoff, np.ones(len(distance), dtype=bool), list[int]()
    for candidate in range(len(distance)):
        if free[candidate]:
            found.append(candidate)
            free &= ~near[candidate]
    return found
