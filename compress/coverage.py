"""Facility location: tokens that stand for as much as possible of all tokens' weight."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 24  # tokens whose gain is computed together
LAZY = ("cpu",)  # kinds of device on which few gains are computed: a GPU would be waited for


def likeness(features: Tensor, sharpness: float = 1.0) -> Tensor:
    """[N, N] from features [N, D]: max(0, cosine)^sharpness, float32."""
    unit = F.normalize(features.float(), dim=-1)
    return (unit @ unit.T).clamp(min=0) ** sharpness


def cover(
    relevance: Tensor, alike: Tensor, keep: int, kept: Tensor | None = None, saliency: Tensor | None = None
) -> Tensor:
    """Indices [keep] in the order in which they add most to sum_j relevance_j max_{i kept} alike_ij.

    A token's gain counts `saliency` [N] times. `relevance` [N], `saliency` and `alike` [N, N], symmetric, are
    not negative. Among equals the lower index wins. Tokens that are `kept` [K] already cover what they
    can, and are not chosen again.
    """
    covered = torch.zeros_like(relevance)
    taken = torch.zeros_like(relevance, dtype=torch.bool)
    if kept is not None:
        covered, taken = alike[kept].amax(0), taken.index_fill(0, kept, True)
    if alike.device.type in LAZY:
        weight = torch.ones_like(relevance) if saliency is None else saliency
        told = [one.detach().float().numpy() for one in (relevance, alike, covered, weight)]
        return torch.from_numpy(_lazily(keep, taken.numpy(), *told))
    chosen = [taken.nonzero()[:0, 0]]
    for _ in range(keep):
        added = (alike - covered).clamp(min=0) @ relevance
        if saliency is not None:
            added = added * saliency
        # [1] and not a number, for which a GPU would be waited for.
        best = added.masked_fill(taken, -1).argmax(keepdim=True)
        taken, covered = taken.index_fill(0, best, True), covered.maximum(alike[best][0])
        chosen.append(best)
    return torch.cat(chosen)


def _lazily(
    keep: int, taken: np.ndarray, relevance: np.ndarray, alike: np.ndarray, covered: np.ndarray,
    saliency: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """As `cover`, with few gains computed anew for each token (Minoux, 1978): a gain never grows, so that of
    an earlier step bounds it (submodularity). numpy starts small operations sooner than torch."""

    def gain(rows: np.ndarray | slice) -> np.ndarray:
        added: np.ndarray = np.maximum(alike[rows] - covered, 0) @ relevance * saliency[rows]
        return added

    bound = np.where(taken, -1, gain(slice(None)))
    chosen = np.empty(keep, np.int64)
    for number in range(keep):
        known = (bound < 0) | (number == 0)
        while not known[best := bound.argmax()]:
            stale = np.where(known, -1, bound)
            rows = np.argpartition(stale, -BLOCK)[-BLOCK:] if len(stale) > BLOCK else np.arange(len(stale))
            rows = rows[~known[rows]]
            bound[rows], known[rows] = gain(rows), True
        chosen[number], bound[best] = best, -1
        np.maximum(covered, alike[best], out=covered)
    return chosen
