from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.peaks import density_peaks
from compress.base import Selection, Selector, Traits, View, scaled_layer

STAGES, ADAPTIVE_STAGES = (3, 7, 16), (3, 7, 16, 20)  # of 32 layers: after layers 2, 6, 15 (and 19)
COUNTS = (  # tokens of 576 after each stage, merged ones included, in the settings for 64, 96, 128 and 192
    (0, 82, 249, 312, 309, 576),
    (0, 32, 55, 117, 204, 576),
    (0, 18, 27, 39, 113, 576),
)


class Recycled(NamedTuple):
    kept: Tensor  # [K] tokens that stay unchanged, ascending
    candidates: Tensor  # [C] the best of the others, by falling score
    centres: Tensor  # [M] the candidates (0 .. C - 1) that clusters formed around, best first
    assignment: Tensor  # [C] cluster of each candidate
    merged: Tensor  # [M, width] means of the clusters


@dataclass
class SparseVLM(Selector):
    """Keep tokens with attention from relevant prompt words, and merge the best of the rest into a few.

    "SparseVLM: Visual Token Sparsification for Efficient Vision-Language Model Inference" (Zhang et al., ICML
    2025, arXiv 2410.04417), version 1.5. Raters are the tokens after the image that are most similar to the
    visual tokens at the decoder's input; a stage after layer K reads their attention in layer K. Stages
    follow layers 2, 6 and 15 of 32 and scale with depth. Merged tokens come last; positions are renumbered.

    The count of a stage includes its merged tokens. The official counts are tuned for 576 tokens and four
    budgets, which are averages over the tokens that *leave* each layer; ours are interpolated between them by
    the count of the last stage.

    `adaptive=True` is version 1.0: after layers 2, 6, 15 and 19 the number of tokens kept before recycling is
    rank * `scale` + `bias`, where rank is that of the raters' attention. Published values are 13.5 and 0 (for
    192), 9 and 6 (128), 0.8 and 0 (64).

    Departures: the official clustering adds noise to densities, to break ties; here it is off, and `noise`
    draws it from the sample. If no word is more relevant than the mean, all are raters. If a count is below
    the official number of clusters, all of its tokens are merged ones.
    """

    adaptive: bool = False
    scale: float = 13.5
    bias: float = 0.0
    noise: bool = False
    positions = "compact"
    reads_text = True

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        if self.adaptive:
            return {scaled_layer(stage, layers): 0 for stage in ADAPTIVE_STAGES}
        unit = tokens / COUNTS[-1][-1]
        counts = [round(float(np.interp(keep / unit, COUNTS[-1], stage)) * unit) for stage in COUNTS]
        return {scaled_layer(stage, layers): count for stage, count in zip(STAGES, counts, strict=True)}

    def choices(self, model: Traits) -> tuple[str, ...]:
        official = COUNTS[-1][-1]
        if self.adaptive or model.tokens == official:
            return ()
        return (f"counts of stages, given for {official} tokens, are scaled to {model.tokens}",)

    def select(self, view: View, keep: int) -> Selection:
        assert view.inputs is not None  # as at every depth of the decoder
        words = view.text[view.before :]
        if not len(words):
            raise ValueError("sparsevlm asks the words after the image: put the question behind it")
        raters = self.raters(self.relevance(view.inputs, words))
        attention = view.attention(view.depth - 1, view.before + raters)
        kept, merged = self.counts(attention, keep)
        if not merged:
            return Selection(torch.arange(kept, device=view.hidden.device))
        noise = None
        if self.noise:
            generator = torch.Generator().manual_seed(view.seed() % 2**63)
            noise = torch.rand(len(view.hidden), generator=generator)
        parts = self.recycle(self.score(attention), view.hidden, kept, merged, noise)
        index = torch.cat([parts.kept, parts.candidates[parts.centres]])
        return Selection(index, torch.cat([view.hidden[parts.kept], parts.merged]))

    def counts(self, attention: Tensor, keep: int) -> tuple[int, int]:
        """Return how many of N tokens stay unchanged, and into how many the best of the rest are merged."""
        tokens = attention.shape[-1]
        if not self.adaptive:
            kept = self.kept_of(keep, tokens)
            return kept, keep - kept
        kept = self.kept_by_rank(self.rank(attention), tokens)
        return kept, self.clusters(tokens - kept) if kept < tokens else 0

    @staticmethod
    def relevance(visual: Tensor, text: Tensor) -> Tensor:
        """Return the mean softmax [T] over words [T, D] of their products with visual embeddings [N, D]."""
        return (visual.float() @ text.float().T).softmax(1).mean(0)

    @staticmethod
    def raters(relevance: Tensor) -> Tensor:
        """Return indices [R] of the words with above-average relevance; of all words, if there is none."""
        above = relevance > relevance.mean()
        return (above | ~above.any()).nonzero()[:, 0]

    @staticmethod
    def score(attention: Tensor) -> Tensor:
        """Return scores [N]: the raters' attention [H, R, N], averaged over heads and raters."""
        return attention.mean((0, 1))

    @staticmethod
    def rank(attention: Tensor) -> int:
        """Return the rank of the raters' attention [H, R, N], averaged over heads."""
        return int(torch.linalg.matrix_rank(attention.mean(0)))

    def kept_by_rank(self, rank: int, tokens: int) -> int:
        """Return how many of `tokens` version 1.0 keeps before recycling; all if the rank is full."""
        return tokens if rank == tokens else min(max(0, int(rank * self.scale + self.bias)), tokens - 1)

    @staticmethod
    def candidates(dropped: int) -> int:
        """Return how many of the `dropped` tokens are recycled."""
        return int(0.3 * dropped) + 1

    @classmethod
    def clusters(cls, dropped: int) -> int:
        """Return the number of merged tokens for `dropped` tokens."""
        return cls.candidates(dropped) // 10 + 1

    @classmethod
    def kept_of(cls, count: int, tokens: int) -> int:
        """Return the most tokens to keep so that they and the clusters are at most `count`, below `tokens`.

        The sum is exactly `count`, unless the clusters alone exceed it.
        """
        return max((kept for kept in range(count) if kept + cls.clusters(tokens - kept) <= count), default=0)

    @classmethod
    def recycle(
        cls, scores: Tensor, hidden: Tensor, kept: int, clusters: int, noise: Tensor | None = None
    ) -> Recycled:
        """Split N tokens by `scores` [N] and merge the best dropped of `hidden` [N, C] into `clusters`."""
        order = scores.sort(descending=True, stable=True).indices
        candidates = order[kept : kept + cls.candidates(len(order) - kept)]
        points = hidden[candidates].float()
        centres, assignment = density_peaks(points, clusters, clusters, noise)
        members = F.one_hot(assignment, clusters).to(points)  # [C, M]
        merged = members.T @ points / (members.sum(0) + 1e-6)[:, None]
        return Recycled(order[:kept].sort().values, candidates, centres, assignment, merged.to(hidden))
