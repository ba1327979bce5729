"""Selectors and images for tests of what every family must do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from compress.base import INPUT, Selection, Selector, View, top_k


@dataclass
class Share(Selector):
    """Keeps the tokens of largest norm, a share of those that are there, at several depths."""

    shares: dict[int, float] = field(default_factory=lambda: {INPUT: 0.3})
    adaptive: bool = True

    def schedule(self, tokens: int, keep: int, layers: int) -> dict[int, int]:
        return dict.fromkeys(self.shares, 0)

    def select(self, view: View, keep: int) -> Selection:
        count = max(1, round(self.shares[view.depth] * len(view.hidden)))
        return Selection(top_k(view.hidden.norm(dim=-1), count))


def images_of(shapes: Sequence[tuple[int, int]]) -> list[Image.Image]:
    """Different pictures of these widths and heights, the same every time."""
    rng = np.random.default_rng(1)
    made = []
    for width, height in shapes:
        pixels = rng.integers(0, 80, (height, width, 3), dtype=np.uint8)
        pixels[height // 4 : height // 2, width // 3 : width // 2] = rng.integers(100, 255, 3)
        made.append(Image.fromarray(pixels))
    return made
