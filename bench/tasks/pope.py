"""POPE in miniature: is the object there? Negatives are random, popular or adversarial; mean F1 of the three.

is there a red star ? -> no
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.tasks.base import Sums, Task, normal
from bench.tasks.micro import sample, scenes
from compress.micro import questions as q
from compress.micro.world import rng_of
from compress.samples import Sample


class Pope(Task):
    """Object existence against random, popular and adversarial negatives, mean F1 (POPE)."""

    name = "pope"
    metric = "F1"

    def micro(self, n: int, split: str = "test") -> list[Sample]:
        made: list[Sample] = []
        for number, picture in scenes(self.name, split):
            if len(made) >= n:
                break
            subset = q.NEGATIVES[number % 3]
            rng = rng_of(split, picture.seed, 2)
            no = q.exist(picture, rng, negative=subset)
            yes = q.exist(picture, rng)
            while yes is None or yes.answer != "yes":
                yes = q.exist(picture, rng)
            if no is None:
                continue
            for question in (yes, no):
                made.append(sample(self.name, len(made), picture, question, subset=subset))
        return made[:n]

    def correct(self, sample: Sample, prediction: str) -> float:
        """Whether it is on the right side; what does not say yes says no."""
        return float(says_yes(prediction) == (sample.answers[0] == "yes"))

    def statistics(self, samples: Sequence[Sample], predictions: Sequence[str]) -> Sums:
        """[U, 9], per sample: true positives, false positives, false negatives in its subset's columns."""
        sums = np.zeros((len(samples), 9))
        for row, (one, prediction) in enumerate(zip(samples, predictions, strict=True)):
            yes, truth = says_yes(prediction), one.answers[0] == "yes"
            at = 3 * q.NEGATIVES.index(one.info["subset"])
            sums[row, at] = yes and truth
            sums[row, at + 1] = yes and not truth
            sums[row, at + 2] = not yes and truth
        return sums

    def value(self, sums: Sums) -> Sums:
        parts = sums.reshape(*sums.shape[:-1], 3, 3)
        f1 = 2 * parts[..., 0] / np.maximum(2 * parts[..., 0] + parts[..., 1] + parts[..., 2], 1e-12)
        asked = parts.sum(-1) > 0
        return 100 * (f1 * asked).sum(-1) / np.maximum(asked.sum(-1), 1)


def says_yes(prediction: str) -> bool:
    return "yes" in normal(prediction).split()
