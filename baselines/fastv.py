from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from compress.base import Scorer, View, scaled_layer


@dataclass
class FastV(Scorer):
    """Keep the tokens with the most attention from the last prompt token in an early decoder layer.

    "An Image is Worth 1/2 Tokens After Layer 2" (Chen et al., ECCV 2024, arXiv 2403.06764). Reads the
    attention of layer K - 1, prunes before layer K, once, at prefill; positions stay original. `layer` is
    the K of a 32-layer decoder and scales with depth: K = 1 of 12 layers.

    Departures: the paper ranks by attention from all tokens (`queries=all`: visual tokens and text before the
    image included), we follow its code, the last token only; the code without a KV cache ranks again for
    every generated token, we follow the version with a cache.
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
        """Return scores [N]: attention [H, R, N] to the visual tokens, averaged over heads and queries."""
        return attention.mean((0, 1))
