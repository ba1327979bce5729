from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.lattices import lattice
from baselines.videos import cosine, frames_of, newlines_of
from compress.base import Selection, Selector, View, top_k

WHOLE = 255.0  # novelty of the first frame, above all other values


@dataclass
class EVS(Selector):
    """Keep the tokens of a video that differ most from the same place in the previous frame.

    "Efficient Video Sampling: Pruning Temporally Redundant Tokens for Faster VLM Inference" (Bagrov et al.,
    2025, arXiv 2510.14624), in the variant on embeddings, as in vLLM, written from the published rule. Acts
    at the decoder's input; positions stay original. Novelty is 1 - cosine; the first frame stays whole. A
    frame is compared with all tokens of the previous frame, kept or not. All newlines stay, up to half of the
    budget.

    Departure: a budget below one frame, which the rule raises to one, is spread evenly over the first frame.
    """

    video = True

    def select(self, view: View, keep: int) -> Selection:
        rows, newlines = frames_of(view, "evs"), newlines_of(view, keep)
        share = keep - len(newlines)
        if share < rows.shape[1]:
            kept = rows[0, torch.tensor(lattice(*view.grid, share), device=rows.device)]
        else:
            kept = rows.flatten()[top_k(self.novelty(view.hidden[rows]).flatten(), share)]
        return Selection(torch.cat([kept, newlines]).sort().values)

    @staticmethod
    def novelty(frames: Tensor) -> Tensor:
        """Return the novelty [F, n] of the tokens of frames [F, n, C]."""
        changed = 1 - cosine(frames[1:], frames[:-1])
        return torch.cat([torch.full_like(frames[:1, :, 0], WHOLE, dtype=torch.float32), changed])
