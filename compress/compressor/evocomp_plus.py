from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from compress.base import INPUT, Selection, View, scaled_layer
from compress.compressor.evocomp import Learned
from compress.coverage import cover, likeness


@dataclass
class EvoCompPlus(Learned):
    """Keep the set of tokens that best covers the relevance predicted by a trained compressor.

    Ours, not the paper's. A label holds one of several equally good tokens, so the relevance of an object is
    spread over its tokens. A ranking of single tokens puts a few tokens of a small object before all of the
    background. This method adds tokens greedily to cover relevance (facility location): the kept set S
    maximises sum_j p_j max_{i in S} s_ij, where p is the relevance and s_ij = max(0, cos)^`sharpness` of the
    aligned embeddings. The greedy set reaches at least 1 - 1/e of the optimum (Nemhauser et al. 1978).

    An object is larger than a token: p of a token is the mean of its own probability and of the average over
    the tokens at most `near` rows and columns away in the same image or frame. For tokens of tiles, and with
    `near=0`, p is the token's own probability. `layer` counts the layers of a 32-layer decoder and scales
    with the depth of other decoders; 0 is the decoder's input.
    """

    layer: int = 0
    sharpness: float = 1.0
    near: int = 1

    def __post_init__(self) -> None:
        if self.near < 0:
            raise ValueError(f"near={self.near}: choose 0 or more rows and columns")
        if self.sharpness <= 0:
            raise ValueError(f"sharpness={self.sharpness} is not positive: 1 compares by cosine")

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        return {scaled_layer(self.layer, layers) if self.layer else INPUT: keep}

    def score(self, view: View) -> Tensor:
        """Return the relevance [N] of the tokens, in [0, 1]."""
        relevance = super().score(view).sigmoid()
        if not self.near:
            return relevance
        frames, rows, columns = view.frames, *view.grid
        if view.crop is not None or len(relevance) != frames * rows * columns:
            return relevance
        grids = relevance.view(frames, 1, rows, columns)
        around = F.avg_pool2d(grids, 2 * self.near + 1, 1, self.near, count_include_pad=False)
        return (relevance + around.flatten()) / 2

    def select(self, view: View, keep: int) -> Selection:
        alike = likeness(view.visual, self.sharpness)
        return Selection(cover(self.score(view), alike, keep).sort().values)
