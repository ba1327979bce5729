from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.base import INPUT, Selection, Selector, View, scaled_layer


@dataclass
class DART(Selector):
    """Keep a few pivot tokens and the tokens least similar to them.

    "Stop Looking for Important Tokens in Multimodal Language Models: Duplication Matters More" (Wen et al.,
    EMNLP 2025, arXiv 2502.11494). Reads the rotated keys of layer K - 1 and the hidden states after it,
    passed through the decoder's final norm; prunes once, before layer K; positions stay original. `layer` is
    the K of a 32-layer decoder and scales with depth; 0 acts before the decoder, see `DARTInput`.

    Pivots are the visual tokens, and the tokens after the image, whose keys have the largest L1 norms. The
    pivots in turn select their share of the remaining visual tokens, smallest cosine first. Text pivots are
    not kept themselves.

    `pivot_order`: the official code iterates over a set of absolute positions, so that CPython's hashing
    determines the order ("cpython_set"); "norm" takes image pivots, then text pivots, by falling norm.

    `budget`: for a budget B the official code gives each of P pivots B // P tokens and keeps the image pivots
    in addition: 196 for 192. "strict" counts the image pivots and gives the remainder of the division to the
    first pivots; it is the default because a budget must mean the same for all methods. "official" keeps the
    official, larger count.
    """

    layer: int = 2
    image_pivots: int = 4
    text_pivots: int = 4
    pivot_order: Literal["cpython_set", "norm"] = "cpython_set"
    budget: Literal["strict", "official"] = "strict"
    reads_text = True

    def __post_init__(self) -> None:
        if self.image_pivots < 1 or self.text_pivots < 0:
            raise ValueError(
                f"image_pivots={self.image_pivots}, text_pivots={self.text_pivots}: choose 1 image pivot or "
                "more, and 0 text pivots or more"
            )

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        if self.budget == "official":
            pivots = self.image_pivots + self.text_pivots
            keep = min(tokens, keep // pivots * pivots + self.image_pivots)
        return {scaled_layer(self.layer, layers) if self.layer else INPUT: keep}

    def select(self, view: View, keep: int) -> Selection:
        keys, states = self.features(view)
        image, _, order = self.pivots(keys.float().abs().sum(1), len(view.hidden), view.before, keep)
        return Selection(self.spread(states, len(view.hidden), image, order, keep))

    def features(self, view: View) -> tuple[Tensor, Tensor]:
        """Return keys [N + T, d] and states [N + T, C] of visual tokens and the T tokens after the image."""
        if view.depth == INPUT:
            embeddings = torch.cat([view.visual, view.text[view.before :]])
            return embeddings, embeddings
        assert view.context is not None  # set at every depth of the decoder
        visual, others = view.decoder_keys(view.depth - 1)
        states = torch.cat([view.hidden, view.context[view.before :]])
        return torch.cat([visual, others[view.before :]]).flatten(1), view.norm(states)

    def pivots(self, norms: Tensor, tokens: int, before: int, keep: int) -> tuple[Tensor, Tensor, list[int]]:
        """Return image pivots [I <= keep], text pivots, and the order in which all of them select.

        norms [N + T] belong to N = `tokens` visual tokens, which `before` other tokens precede, and to the T
        tokens after them.
        """
        image = norms[:tokens].sort(descending=True, stable=True).indices[: min(self.image_pivots, keep)]
        text = norms[tokens:].sort(descending=True, stable=True).indices[: self.text_pivots] + tokens
        order = torch.cat([image, text]).tolist()
        if self.pivot_order == "cpython_set":
            order = [position - before for position in set(before + pivot for pivot in order)]
        return image, text, order

    @staticmethod
    def shares(tokens: int, pivots: int) -> list[int]:
        """Return the share of `tokens` of each pivot; the remainder goes to the first pivots."""
        share, rest = divmod(tokens, pivots)
        return [share + (place < rest) for place in range(pivots)]

    @classmethod
    def spread(cls, states: Tensor, tokens: int, image: Tensor, order: list[int], keep: int) -> Tensor:
        """Return indices [keep] of the image pivots and the tokens that each pivot selects among `tokens`."""
        unit = F.normalize(states.float(), dim=-1)
        free = torch.ones(tokens, dtype=torch.bool, device=states.device).index_fill(0, image, False)
        for pivot, share in zip(order, cls.shares(keep - len(image), len(order)), strict=True):
            cosine = (unit[:tokens] @ unit[pivot]).masked_fill(~free, torch.inf)
            free[cosine.sort(stable=True).indices[:share]] = False
        return (~free).nonzero()[:, 0]


@dataclass
class DARTInput(DART):
    """DART before the decoder: norms and cosines of the input embeddings.

    An interpretation: published comparisons apply DART "before the LLM" without describing its features.
    """

    layer: int = 0
