from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from compress.base import Selection, Selector, View, scaled_layer, top_k


@dataclass
class PyramidDrop(Selector):
    """Drop tokens in several stages, each time those that the last instruction token attends to least.

    "PyramidDrop: Accelerating Your Large Vision-Language Models via Pyramid Visual Redundancy Reduction"
    (Xing et al., CVPR 2025, arXiv 2410.17247). A stage before layer K reads the attention row that K itself
    would compute on what enters it; positions are renumbered after every stage.

    `stages` are layers of a 32-layer decoder and scale with depth. A stage keeps `ratio` of the stage before
    it; `ratio=None` solves for one ratio for all stages, the first included (the paper's lambda). In both
    forms the first count follows from the budget.

    Departure: the official stages 8/16/24 with lambda = 0.5 of 576 tokens spend 270 on average and cannot
    spend less than 144, so the default acts before 2/10/20, where 312/156/78 average to exactly 192 and
    184/92/46 to 128; the settings behind the paper's own 192, 128 and 64 are not published. With
    `stages=8/16/24,adaptive=true` the official ratios of the entered tokens decide, whatever the budget.
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
            assert view.inputs is not None  # as at every depth of the decoder
            keep = self.share(len(view.inputs), len(scores))
        return Selection(top_k(scores, keep))

    @staticmethod
    def rank(attention: Tensor) -> Tensor:
        """Scores [N] from the last token's attention to the visual tokens [H, 1, N]: the mean over heads."""
        return attention[:, 0].mean(0)

    def share(self, entered: int, now: int) -> int:
        """Official count of the stage that `now` tokens enter: the first power of `ratio` below it."""
        assert self.ratio is not None  # as `adaptive` demands
        count, share = entered, 1.0
        while count >= now > 1:
            share *= self.ratio
            count = max(1, int(entered * share))
        return min(count, now)
