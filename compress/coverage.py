"""Facility location: tokens that stand for as much as possible of all tokens' weight."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 48  # tokens whose gain is computed together
LAZY = ("cpu",)  # kinds of device on which few gains are computed: a GPU would be waited for


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

    def gain(rows: Tensor | slice) -> Tensor:
        added = (alike[rows] - covered).clamp(min=0) @ relevance
        return added if saliency is None else added * saliency[rows]

    most = covered
    for number in range(keep):
        if number and alike.device.type in LAZY:
            most = _raised(most, gain)
        else:
            most = gain(slice(None)).masked_fill(taken, -1)
        # [1] and not a number, for which a GPU would be waited for.
        best = most.argmax(keepdim=True)
        taken, most = taken.index_fill(0, best, True), most.index_fill(0, best, -1)
        covered = covered.maximum(alike[best][0])
        chosen.append(best)
    return torch.cat(chosen)


def _raised(most: Tensor, gain: Callable[[Tensor], Tensor]) -> Tensor:
    """Of what tokens add at `most` [N], as much brought up to date that the largest is right; -1 stays.

    What a token adds never grows (submodularity), so few are computed anew (Minoux, 1978).
    """
    known = most < 0
    while not known[most.argmax()]:
        rows = most.masked_fill(known, -1).topk(min(BLOCK, int((~known).sum()))).indices
        most, known = most.index_copy(0, rows, gain(rows)), known.index_fill(0, rows, True)
    return most
