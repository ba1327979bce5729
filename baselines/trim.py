from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.prumerge import PruMerge
from compress.base import VISION, Selection, Selector, Traits, View, top_k


@dataclass
class TRIM(Selector):
    """Keep the patches that CLIP says the question is about, and the mean of all others.

    "Less is More: A Simple yet Effective Token Reduction Method for Efficient Multi-modal LLMs" (Song et al.,
    COLING 2025, arXiv 2409.10994). Reads patches and question in CLIP's joint space, as products without any
    normalisation; acts between tower and projector; positions are contiguous. The score is *minus* the
    product. The last token is the mean of the patches that do not stay. `adaptive` lets the upper fence of
    the scores' quartiles say how many stay. `clip` is the folder or hub name of the CLIP, by default the one
    that the model's configuration names.

    Departures: the code takes the fence over a batch, here over an image; it fails for images in tiles, here
    their patches are those of one image.
    """

    adaptive: bool = False
    clip: str = ""
    depth = VISION
    positions = "compact"
    reads_text = True

    @property
    def reads_clip(self) -> str | None:
        return self.clip

    def choices(self, model: Traits) -> tuple[str, ...]:
        return ("all tiles share the budget",) if model.tiles else ()

    def select(self, view: View, keep: int) -> Selection:
        scores = self.scores(*view.clip(True))
        kept = top_k(scores, int(len(scores) * PruMerge.ratio(scores)) if self.adaptive else keep - 1)
        rest = kept.new_full((min(1, len(scores) - len(kept)),), -1)
        return Selection(torch.cat([kept, rest]), self.summed(view.hidden, kept))

    @staticmethod
    def scores(patches: Tensor, text: Tensor) -> Tensor:
        """Scores [N], which add up to 1, from patches [N, P] and text [1, P]."""
        return (-patches.float() @ text[0].float()).softmax(0)

    @staticmethod
    def summed(features: Tensor, kept: Tensor) -> Tensor:
        """Features [K + 1, C]: those of the kept patches, then the mean of the others, if there are any."""
        others = torch.ones(len(features), dtype=torch.bool, device=kept.device).index_fill(0, kept, False)
        mean = features[others].float().mean(0, keepdim=True).to(features)
        return torch.cat([features[kept], mean[: min(1, len(features) - len(kept))]])
