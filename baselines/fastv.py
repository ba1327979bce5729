from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from compress.base import Scorer, View, scaled_layer


@dataclass
class FastV(Scorer):
    """Keep the tokens that the last prompt token attends to in an early decoder layer.

    "An Image is Worth 1/2 Tokens After Layer 2" (Chen et al., ECCV 2024, arXiv 2403.06764). Reads the
    attention of layer K - 1, drops before layer K, once, at prefill; positions stay original. `layer` is the
    K of a 32-layer decoder and scales with depth: K = 1 of 12 layers.

    Departures: the paper ranks by attention from all tokens (`queries=all`: visual ones, and text before the
    image, included), we follow its code, the last token only; the code without a cache ranks anew for every
    generated token, we follow the cached one.
    """

    layer: int = 2
    queries: Literal["last", "all"] = "last"
    reads_text = True

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        return {scaled_layer(self.layer, layers): keep}

    def score(self, view: View) -> Tensor:
        return self.rank(view.attention(view.depth - 1, [-1] if self.queries == "last" else None))

    @staticmethod
    def rank(attention: Tensor) -> Tensor:
        """Scores [N] from the attention of R tokens to the visual ones [H, R, N]: the mean over both."""
        return attention.mean((0, 1))
