"""Several questions about one image: how useful one question's token selection is for the others (ours).

    Is there a red star?  What color is the circle?  How many squares are there?  What is left of the ring?

Exact match. A unit is a scene, since its questions are about the same image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.tasks.base import Sums, Task
from bench.tasks.micro import sample, scenes
from compress.micro.worlds import MICRO, World
from compress.samples import Sample

EACH = 4  # questions about a scene


class Scenes(Task):
    """Four questions about each scene, exact match; miniature only."""

    name = "scenes"
    metric = "accuracy"

    def micro(self, n: int, split: str = "test", world: World = MICRO) -> list[Sample]:
        """`n` samples; the last scene may have fewer questions than the others, but at least two."""
        made: list[Sample] = []
        families = world.asked[self.name]
        for _, scene in scenes(world, self.name, split):
            rng = world.rng_of(split, scene.seed, 2)
            asked = {one.text: one for name in families if (one := world.ask[name](scene, rng)) is not None}
            if len(asked) < EACH:
                continue
            made += [
                sample(world, self.name, len(made) + turn, scene, one)
                for turn, one in enumerate(list(asked.values())[:EACH])
            ]
            if len(made) >= n:
                break
        return made[: max(2, n if n % EACH != 1 else n - 1)]

    def unit(self, sample: Sample) -> str:
        return str(sample.info["seed"])

    def credit(self, samples: Sequence[Sample], predictions: Sequence[str]) -> Sums:
        gained, possible = self.statistics(samples, predictions).T
        return gained / possible

    def statistics(self, samples: Sequence[Sample], predictions: Sequence[str]) -> Sums:
        """[U, 2] Credit and number of questions of every scene."""
        places: dict[str, list[float]] = {}
        for one, said in zip(samples, predictions, strict=True):
            places.setdefault(self.unit(one), []).append(self.correct(one, said))
        return np.array([[sum(credits), len(credits)] for credits in places.values()], float)
