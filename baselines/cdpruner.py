from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.crops import chosen_of_each
from compress.base import INPUT, VISION, Selection, Selector, Traits, View


@dataclass
class CDPruner(Selector):
    """Keep a diverse set of tokens that are relevant to the question: a determinantal point process.

    "Beyond Attention or Similarity: Maximizing Conditional Diversity for Token Pruning in MLLMs" (Zhang et
    al., NeurIPS 2025, arXiv 2506.10967). Reads projected features, and patches and question in CLIP's joint
    space; prunes before the decoder; positions are contiguous. Relevance is *minus* the cosine of patch and
    question, since CLIP's cosine is lower for patches that the question refers to. The kernel is the cosine
    of the features times the relevance of both tokens; a greedy search maximises its determinant. All tiles
    of an image keep equally many tokens; relevance is scaled over all tiles.

    `clip` is the folder or hub name of the CLIP model. Default: the one in the model's configuration.
    `relevance=decoder` is for models without CLIP (ours): relevance is the cosine, not negated, of the
    projected token and the embeddings of the question's words.

    Departures: the code scales relevance over a batch, here over an image. If the kernel's rank is exhausted,
    the code fails; here relevance alone selects the remaining tokens.
    """

    relevance: Literal["clip", "decoder"] = "clip"
    clip: str = ""
    positions = "compact"
    reads_text = True

    @property
    def reads_clip(self) -> str | None:
        return self.clip if self.relevance == "clip" else None

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        return {VISION if self.relevance == "clip" else INPUT: keep}

    def choices(self, model: Traits) -> tuple[str, ...]:
        if self.relevance == "decoder":
            return ("the decoder's embeddings say what the question is about, not CLIP's",)
        return ("tiles share the budget equally",) if model.tiles else ()

    def select(self, view: View, keep: int) -> Selection:
        if self.relevance == "decoder":
            words = view.text[view.before :]
            if not len(words):
                raise ValueError("cdpruner reads the question behind the image: put the question there")
            relevance = self.scaled(self.likeness(view.visual, words))
            return Selection(self.order(view.visual, relevance, keep).sort().values)
        relevance = self.scaled(-self.likeness(*view.clip(False)))
        features = view.projected()

        def choose(rows: Tensor, share: int) -> Tensor:
            return self.order(features[rows], relevance[rows], share)

        return Selection(chosen_of_each(view, keep, choose))

    @staticmethod
    def likeness(tokens: Tensor, text: Tensor) -> Tensor:
        """Return the cosine [N] of tokens [N, P] with text [M, P], averaged over the text."""
        return (F.normalize(tokens.float(), dim=-1) @ F.normalize(text.float(), dim=-1).T).mean(-1)

    @staticmethod
    def scaled(relevance: Tensor) -> Tensor:
        """Scale relevance, of any shape, to about 0 to 1."""
        low, high = relevance.min(), relevance.max()
        return (relevance - low + 1e-6) / (high - low).clamp(min=1e-12)

    @staticmethod
    def order(features: Tensor, relevance: Tensor, keep: int) -> Tensor:
        """Return indices [keep] in order of selection, for features [N, D] and relevance [N] above 0."""
        unit = F.normalize(features.float(), dim=-1)
        kernel = relevance[:, None] * (unit @ unit.T) * relevance
        gain = kernel.diagonal().clone()
        taken = torch.zeros_like(gain, dtype=torch.bool)
        rows, chosen = kernel.new_zeros(keep, len(kernel)), [taken.nonzero()[:, 0]]
        for step in range(keep):
            # A tensor [1]: a Python number would synchronise with the GPU.
            worth = torch.where(gain > 0, gain, relevance - 10)
            best = worth.masked_fill(taken, -torch.inf).argmax(keepdim=True)
            rest = kernel[best][0] - rows[:step].index_select(1, best)[:, 0] @ rows[:step]
            rows[step] = torch.where(gain[best] > 0, rest / gain[best].clamp(min=1e-30).sqrt(), 0)
            gain = gain - rows[step] ** 2
            taken = taken.index_fill(0, best, True)
            chosen.append(best)
        return torch.cat(chosen)
