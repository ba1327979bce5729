from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.base import (
    VISION,
    Merge,
    Selection,
    TowerSelector,
    TowerView,
    Traits,
    View,
    scaled_layer,
    top_k,
)

STAGES = (2, 6, 10, 14)  # decoder layers, of 32, after which tokens are pruned


@dataclass
class MustDrop(TowerSelector):
    """Merge uniform windows early in the tower, then prune tokens that the text and CLS ignore.

    "Multi-Stage Vision Token Dropping: Towards Efficient Multimodal Large Language Model" (Liu et al., 2024,
    arXiv 2411.10803).
    1. After tower layer 0, windows of `window` x `window` patches are scored by the mean cosine between their
       patches; each of the most uniform windows is merged into one token. Merged tokens come first, by
       falling score.
    2. Key tokens are the share `key_rate` of the remaining tokens with the most attention from CLS in the
       last tower layer.
    3. After decoder layers 2, 6, 10 and 14 of 32 a token is scored by the attention (mean over heads) of all
       text after the image. Key tokens always stay. Positions are contiguous.
    4. After the prefill the KV caches of these layers are cropped to the tokens that passed all stages.

    The official code has thresholds and no budget. Here the budget decides: each of the five stages keeps the
    same share of its input. The tower merges whole windows; the decoder stages keep the key tokens and those
    with the largest sums of attention. If not all key tokens fit, CLS attention decides among them. With
    `adaptive` the thresholds decide: windows with a score of at least `similarity` are merged, and a token is
    pruned if its share of the sum is below `global_threshold` and its largest attention below
    `individual_threshold`. The defaults are the official ones for an average of 192 of 576 on TextVQA; for
    128 they are 0.0012 and 0.001, for 64 0.011 and 0.01.

    `stages="tower"` only merges windows; the budget must then correspond to whole windows. Patches beyond the
    last full window are never merged.

    Departure: the official code merges as many windows in all images of a batch as in the one with the fewest
    above the threshold; here an image does not depend on its batch.
    """

    window: int = 3
    key_rate: float = 0.08
    similarity: float = 0.8
    global_threshold: float = 0.001
    individual_threshold: float = 0.001
    adaptive: bool = False
    stages: Literal["all", "tower"] = "all"
    positions = "compact"
    merge_after = "block"
    reads_text = True

    @property
    def tower_layers(self) -> tuple[int, ...]:
        return (-1,) if self.stages == "all" else ()

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        if self.stages == "tower":
            return {VISION: keep}
        share = (keep / tokens) ** (1 / (1 + len(STAGES)))
        counts = {VISION: tokens - int(tokens * (1 - share) / self.saving) * self.saving}
        for stage, layer in enumerate(STAGES, 2):
            counts[scaled_layer(layer + 1, layers)] = round(tokens * share**stage)
        return counts

    def tower(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        if self.adaptive:
            return {0: 0}
        windows, rest = divmod(tokens - keep, self.saving)
        if rest and self.stages == "tower":
            most = tokens // self.window**2
            near = sorted({tokens - min(count, most) * self.saving for count in (windows, windows + 1)})
            raise ValueError(
                f"keep={keep}: one window of {self.window} x {self.window} merged takes {self.saving} of "
                f"{tokens} tokens; the nearest possible budgets are {' and '.join(map(str, near))}"
            )
        return {0: tokens - windows * self.saving}

    def choices(self, model: Traits) -> tuple[str, ...]:
        counts = () if self.adaptive else ("counts stand in for thresholds, the same share at every stage",)
        tiles = ("windows merge in every tile alike, key tokens are a share of all tiles'",)
        return (*counts, *(tiles if model.tiles else ()))

    def cut_caches_from(self, layers: int) -> int | None:
        return scaled_layer(STAGES[0] + 1, layers) - 1 if self.stages == "all" else None

    @property
    def saving(self) -> int:
        """The number of tokens that merging one window saves."""
        if self.window < 2:
            raise ValueError(f"window={self.window}: choose 2 or more")
        return self.window**2 - 1

    def merge(self, view: TowerView, keep: int) -> Merge:
        tokens = len(view.hidden)
        score, patches = self.windows(view.hidden, view.grid, self.window)
        count = (tokens - keep) // self.saving
        if self.adaptive:
            count = int((score >= self.similarity).sum())
        elif count > len(score):
            raise ValueError(
                f"{keep} patches cannot be reached in the tower: {view.grid[0]} x {view.grid[1]} have "
                f"{len(score)} windows of {self.window} x {self.window}, which leave "
                f"{tokens - len(score) * self.saving} or more"
            )
        best = patches[score.sort(descending=True, stable=True).indices[:count]]
        alone = torch.ones_like(view.index, dtype=torch.bool).index_fill(0, best.flatten(), False)
        into = count - 1 + alone.cumsum(0)
        into[best] = torch.arange(count, device=into.device)[:, None]
        middle = best[:, self.window // 2 * (self.window + 1)]
        return Merge(torch.cat([middle, alone.nonzero()[:, 0]]), into)

    def select(self, view: View, keep: int) -> Selection:
        attention = view.attention(view.depth - 1, range(view.before, len(view.text))).mean(0)
        assert view.inputs is not None  # set at the decoder stages
        key = self.key_tokens(view.cls(-1), self.key_rate, len(view.inputs))
        if self.adaptive:
            stays = self.important(attention, self.global_threshold, self.individual_threshold)
            return Selection(stays.index_fill(0, key, True).nonzero()[:, 0])
        return Selection(top_k(attention.sum(0).index_fill(0, key[:keep], torch.inf), keep))

    @staticmethod
    def windows(hidden: Tensor, grid: tuple[int, int], side: int) -> tuple[Tensor, Tensor]:
        """Return the mean cosine [W] between different patches of each window, and its patches [W, side^2].

        hidden [rows * columns, C]. Windows are in row-major order from the upper left; leftover patches
        belong to none.
        """
        down, across = grid[0] // side, grid[1] // side
        place = torch.arange(grid[0] * grid[1], device=hidden.device).view(grid)
        place = place[: down * side, : across * side].reshape(down, side, across, side)
        patches = place.transpose(1, 2).reshape(down * across, side * side)
        unit = F.normalize(hidden.float(), dim=-1)[patches]
        cosine = unit @ unit.mT
        between = cosine.sum((1, 2)) - cosine.diagonal(dim1=1, dim2=2).sum(1)
        return between / (side**2 * (side**2 - 1)), patches

    @staticmethod
    def key_tokens(cls: Tensor, rate: float, entered: int) -> Tensor:
        """Return the tokens with the most CLS attention [H, N], by falling attention.

        Their number is the share `rate` of the tokens that `entered` the decoder, rounded up.
        """
        return cls.mean(0).sort(descending=True, stable=True).indices[: ceil(rate * entered)]

    @staticmethod
    def important(attention: Tensor, whole: float, single: float) -> Tensor:
        """Return a mask of tokens with enough of the text's attention [T, N]: in total, or from any word."""
        total = attention.sum(0)
        return (total >= whole * total.sum()) | (attention.amax(0) >= single)
