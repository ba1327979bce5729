"""Facility location: tokens that stand for as much as possible of all tokens' weight."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def likeness(features: Tensor, sharpness: float = 1.0) -> Tensor:
    """[N, N] from features [N, D]: max(0, cosine)^sharpness, float32."""
    unit = F.normalize(features.float(), dim=-1)
    return (unit @ unit.T).clamp(min=0) ** sharpness


def cover(
    relevance: Tensor, alike: Tensor, keep: int, kept: Tensor | None = None, saliency: Tensor | None = None
) -> Tensor:
    """Indices [keep] in the order in which they add most to sum_j relevance_j max_{i kept} alike_ij.

    What a token adds counts `saliency` [N] times. `relevance` [N], `saliency` and `alike` [N, N], symmetric,
    are not negative. Among equals the lower index wins. Tokens that are `kept` [K] already cover what they
    can, and are not chosen again.
    """
    covered = torch.zeros_like(relevance)
    taken = torch.zeros_like(relevance, dtype=torch.bool)
    chosen = [taken.nonzero()[:, 0]]
    if kept is not None:
        covered, taken = alike[kept].amax(0), taken.index_fill(0, kept, True)
    for _ in range(keep):
        gain = (alike - covered).clamp(min=0) @ relevance
        if saliency is not None:
            gain = gain * saliency
        # [1] and not a number, for which a GPU would be waited for.
        best = gain.masked_fill(taken, -1).argmax(keepdim=True)
        taken = taken.index_fill(0, best, True)
        covered = covered.maximum(alike[best][0])
        chosen.append(best)
    return torch.cat(chosen)
