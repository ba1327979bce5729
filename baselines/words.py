from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.base import Scorer, Selection, View, top_k
from compress.coverage import cover, likeness


@dataclass
class Words(Scorer):
    """Keep the tokens most similar to a word of the question: the control for methods that read it (ours).

    It has no learned parameters. A token's score is its largest cosine with the embedding of a prompt token
    after the image. A `share` of the budget is spent on the highest scores, the rest on a greedy cover of all
    tokens (`cover`). Acts at the decoder's input.
    """

    share: float = 1.0
    reads_text = True

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share={self.share}: choose a share of the budget in (0, 1]")

    def score(self, view: View) -> Tensor:
        words = view.text[view.before :]
        if not len(words):
            raise ValueError("words reads the question behind the image: put the question there")
        return (F.normalize(view.visual.float(), dim=-1) @ F.normalize(words.float(), dim=-1).T).amax(-1)

    def select(self, view: View, keep: int) -> Selection:
        asked = top_k(self.score(view), max(1, round(self.share * keep)))
        if len(asked) < keep:
            alike = likeness(view.visual)
            asked = torch.cat([asked, cover(torch.ones_like(alike[0]), alike, keep - len(asked), asked)])
        return Selection(asked.sort().values)


@dataclass
class WordsCover(Words):
    """Spend half of the budget on tokens similar to words of the question, the rest on a cover (ours).

    It is `words` with another default of `share`.
    """

    share: float = 0.5
