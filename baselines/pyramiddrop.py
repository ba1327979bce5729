from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from compress.base import Selection, Selector, View, scaled_layer, top_k


@dataclass
class PyramidDrop(Selector):
    """Prune in several stages the tokens with the least attention from the last instruction token.

    "PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy Reduction"
    (Xing et al., CVPR 2025, arXiv 2410.17247). A stage before layer K reads the attention row that layer K
    would compute on its input; positions are renumbered after every stage.

    `stages` are layers of a 32-layer decoder and scale with depth. Each stage keeps a share `ratio` of the
    tokens of the previous stage; `ratio=None` solves for one ratio for all stages, the first included (the
    paper's lambda). In both cases the count of the first stage follows from the budget.

    Departure: the official stages 8/16/24 with lambda = 0.5 of 576 tokens spend 270 on average and cannot
    spend less than 144, so the default acts before 2/10/20, where 312/156/78 average to exactly 192 and
    184/92/46 to 128; the settings behind the paper's own 192, 128 and 64 are not published. With
    `stages=8/16/24,adaptive=true` the official ratios of the entered tokens decide; the budget is ignored.
    """

    stages: str = "2/10/20"
    ratio: float | None = 0.5
    adaptive: bool = False
    positions = "compact"
    reads_text = True

    def __post_init__(self) -> None:
        if not all(stage.isdecimal() for stage in self.stages.split("/")):
            raise ValueError(f"stages={self.stages!r}: write decoder layers with slashes, as in 2/10/20")
        if self.ratio is not None and not 0 < self.ratio < 1:
            raise ValueError(f"ratio={self.ratio}: choose a number between 0 and 1, or none")
        if self.ratio is None and self.adaptive:
            raise ValueError("ratio=none is solved for a budget, adaptive=true asks for none: choose one")

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        depths = [scaled_layer(int(stage), layers) for stage in sorted(self.stages.split("/"), key=int)]
        ratio = self.ratio or (keep / tokens) ** (1 / len(depths))
        return {
            depth: min(tokens, round(keep / ratio**later))
            for later, depth in zip(reversed(range(len(depths))), depths, strict=True)
        }

    def select(self, view: View, keep: int) -> Selection:
        scores = self.rank(view.attention(view.depth, [-1]))
        if self.adaptive:
            assert view.inputs is not None  # set at every depth of the decoder
            keep = self.share(len(view.inputs), len(scores))
        return Selection(top_k(scores, keep))

    @staticmethod
    def rank(attention: Tensor) -> Tensor:
        """Return scores [N]: the last token's attention to visual tokens [H, 1, N], averaged over heads."""
        return attention[:, 0].mean(0)

    def share(self, entered: int, now: int) -> int:
        """Return the official count of a stage with `now` input tokens: the first power of `ratio` below."""
        assert self.ratio is not None  # required by `adaptive`
        count, share = entered, 1.0
        while count >= now > 1:
            share *= self.ratio
            count = max(1, int(entered * share))
        return min(count, now)
