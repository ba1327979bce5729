"""Facility location: selects tokens that cover as much as possible of the weight of all tokens."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 24  # tokens whose gain is computed together
LAZY = ("cpu",)  # device types with lazy evaluation of gains: on a GPU it would synchronise


def likeness(features: Tensor, sharpness: float = 1.0) -> Tensor:
    """[N, N] from features [N, D]: max(0, cosine)^sharpness, float32."""
    unit = F.normalize(features.float(), dim=-1)
    return (unit @ unit.T).clamp(min=0) ** sharpness


def cover(
    relevance: Tensor, alike: Tensor, keep: int, kept: Tensor | None = None, saliency: Tensor | None = None
) -> Tensor:
    """Indices [keep] in the greedy order that maximises sum_j relevance_j max_{i kept} alike_ij.

    A token's gain is multiplied by `saliency` [N]. `alike` [N, M] says how far each token covers each of the
    things j, of `relevance` [M]; all are not negative. The lower index wins a tie. Tokens in `kept` [K]
    already count as covering tokens and are not chosen again.
    """
    covered = torch.zeros_like(relevance)
    taken = torch.zeros(len(alike), dtype=torch.bool, device=alike.device)
    if kept is not None:
        covered, taken = alike[kept].amax(0), taken.index_fill(0, kept, True)
    if alike.device.type in LAZY:
        weight = torch.ones_like(alike[:, 0]) if saliency is None else saliency
        told = [one.detach().float().numpy() for one in (relevance, alike, covered, weight)]
        return torch.from_numpy(_lazily(keep, taken.numpy(), *told))
    chosen = [taken.nonzero()[:0, 0]]
    for _ in range(keep):
        added = (alike - covered).clamp(min=0) @ relevance
        if saliency is not None:
            added = added * saliency
        # Shape [1] instead of a Python number, which would synchronise with the GPU.
        best = added.masked_fill(taken, -1).argmax(keepdim=True)
        taken, covered = taken.index_fill(0, best, True), covered.maximum(alike[best][0])
        chosen.append(best)
    return torch.cat(chosen)


def _lazily(
    keep: int, taken: np.ndarray, relevance: np.ndarray, alike: np.ndarray, covered: np.ndarray,
    saliency: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """`cover` with lazy evaluation (Minoux, 1978), which recomputes only a few gains for each token.

    Gains never grow (submodularity), so the gain of an earlier step is an upper bound. numpy has less
    overhead than torch for small operations.
    """

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
