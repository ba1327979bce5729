"""Questions about clips of things that appear, move, change colour and disappear (ours).

Which way does the star move?  Which came first, the star or the ring?  How many rings are there in all?  What
color was the circle first?  What does the sign show, which is there for two of sixteen frames?

Exact match. Most questions need more than one frame; a clip is compressed under one budget.
"""

from __future__ import annotations

from typing import ClassVar

from bench.tasks.base import Task
from compress.micro.worlds import VIDEO, World
from compress.samples import Sample


class Clips(Task):
    """Order, motion, counts, changes and a needle on short clips, exact match; miniature only."""

    name = "clips"
    metric = "accuracy"

    videos: ClassVar[bool] = True

    def micro(self, n: int, split: str = "test", world: World = VIDEO) -> list[Sample]:
        return super().micro(n, split, world)
