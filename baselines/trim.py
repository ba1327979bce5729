from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.prumerge import PruMerge
from compress.base import VISION, Selection, Selector, Traits, View, top_k


@dataclass
class TRIM(Selector):
    """Keep the patches that are most relevant to the question by CLIP, and the mean of all others.

    "Less is More: A Simple yet Effective Token Reduction Method for Efficient Multi-modal LLMs" (Song et al.,
    COLING 2025, arXiv 2409.10994). Reads dot products of patches and question in CLIP's joint space, without
    normalisation; acts between tower and projector; positions are contiguous. The score is *minus* the
    product. The last token is the mean of the pruned patches. With `adaptive` the number of kept patches is
    that of outliers above the upper fence of the scores' quartiles. `clip` is the folder or hub name of the
    CLIP model. Default: the one in the model's configuration.

    Departures: the code computes the fence over a batch, here over an image; it fails for images in tiles,
    here the patches of all tiles are treated as those of one image.
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
        """Return scores [N], which add up to 1, from patches [N, P] and text [1, P]."""
        return (-patches.float() @ text[0].float()).softmax(0)

    @staticmethod
    def summed(features: Tensor, kept: Tensor) -> Tensor:
        """Return features [K + 1, C]: those of the kept patches, then the mean of the others, if any."""
        others = torch.ones(len(features), dtype=torch.bool, device=kept.device).index_fill(0, kept, False)
        mean = features[others].float().mean(0, keepdim=True).to(features)
        return torch.cat([features[kept], mean[: min(1, len(features) - len(kept))]])
