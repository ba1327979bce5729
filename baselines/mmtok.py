from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.crops import chosen_of_each
from compress.base import INPUT, VISION, Selection, Selector, Traits, View
from compress.coverage import cover

# Words and phrases of a question that the official code leaves out.
STOP_WORDS = frozenset(
    "a an the is are was were be been being have has had do does did it they he she we you i what where when "
    "why how who which and or but so if then question answer to for with by from at into onto upon".split()
)
FORMATS = (
    "Answer the question using a single word or phrase.",
    "Answer with the option's letter from the given choices directly.",
)


@dataclass
class MMTok(Selector):
    """Greedy cover of the question's words and of all patches at once.

    "MMTok: Multimodal Coverage Maximization for Efficient Inference of VLMs" (Dong et al., ICLR 2026, arXiv
    2508.18264). Reads the tower's features, projected features and the decoder's embeddings of the question's
    words without stop words; prunes before the decoder; positions are contiguous. A word is covered by
    projected features, a patch by the tower's features, in both cases by the softmax over all patches of the
    cosine over a temperature. The kept patches maximise the mean coverage of the words plus `alpha` times
    that of the patches, greedily. All tiles of an image keep equally many patches.

    `features=projected` is for models without a prunable tower output (ours): it compares the tokens at the
    decoder's input, from all tiles and frames at once.

    Departures: the code excludes patches of the padding around an image; here they are ordinary patches. For
    Qwen2.5-VL the code has a `text_temperature` of 0.01 and keeps stop words.
    """

    alpha: float = 0.5
    text_temperature: float = 0.02
    vision_temperature: float = 0.2
    features: Literal["tower", "projected"] = "tower"
    positions = "compact"
    reads_text = True

    def __post_init__(self) -> None:
        if self.alpha < 0:
            raise ValueError(f"alpha={self.alpha}: choose 0 or more")
        for name in ("text_temperature", "vision_temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}={getattr(self, name)}: choose a number above 0")

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        return {VISION if self.features == "tower" else INPUT: keep}

    def choices(self, model: Traits) -> tuple[str, ...]:
        if self.features == "projected":
            return ("patches are compared by projected features",)
        return ("tiles share the budget equally",) if model.tiles else ()

    def select(self, view: View, keep: int) -> Selection:
        words = view.words(keywords)
        if self.features == "projected":
            return Selection(self.order(words, view.visual, view.visual, keep).sort().values)
        projected = view.projected()

        def choose(rows: Tensor, share: int) -> Tensor:
            return self.order(words, projected[rows], view.hidden[rows], share)

        return Selection(chosen_of_each(view, keep, choose))

    def order(self, words: Tensor, projected: Tensor, features: Tensor, keep: int) -> Tensor:
        """Return indices [keep] in order of selection.

        `words` [M, D] are embeddings of the question, `projected` [N, D] and `features` [N, C] are of the
        patches.
        """
        asked = _coverage(words, projected, self.text_temperature)
        seen = self.alpha * _coverage(features, features, self.vision_temperature)
        covering = torch.cat([asked, seen]).T
        return cover(torch.ones_like(covering[0]), covering, keep)


def keywords(question: str) -> list[str]:
    """Return the words of a question without stop words; all of them if no others are left."""
    for phrase in FORMATS:
        question = question.replace(phrase, "")
    words = [word for word in re.findall(r"\w+", question) if word.lower() not in STOP_WORDS]
    return words or question.split()


def _coverage(covered: Tensor, covering: Tensor, temperature: float) -> Tensor:
    """Return how far each of N tokens covers each of M others, [M, N], in shares of their mean."""
    cosine = F.normalize(covered.float(), dim=-1) @ F.normalize(covering.float(), dim=-1).T
    return (cosine / temperature).softmax(-1) / len(covered)
