"""MMBench in miniature: multiple choice under circular evaluation, and the same in a second vocabulary.

    what color is the star ? a red b blue c green d pink -> a

A question counts only if all four rotations of its options are answered right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.tasks.base import Sums, Task, normal
from bench.tasks.micro import asked, sample
from compress.micro import questions as q
from compress.micro.language import LETTERS
from compress.micro.questions import Question
from compress.micro.world import Scene
from compress.samples import Sample


class MMBench(Task):
    """Multiple choice, circular evaluation over four rotations (MMBench)."""

    name = "mmbench"
    metric = "circular accuracy"
    chinese = False

    def micro(self, n: int, split: str = "test") -> list[Sample]:
        def ask(picture: Scene, rng: np.random.Generator) -> Question | None:
            return q.choose(picture, rng, self.chinese)

        made: list[Sample] = []
        for number, (picture, question) in enumerate(asked("mmbench", split, -(-n // 4), [ask])):
            right = question.options[LETTERS.index(question.answer)]
            stem = question.text.split(f" a {question.options[0]}")[0]
            for turn in range(4):
                options = (*question.options[turn:], *question.options[:turn])
                rotated = q.with_options(
                    Question(stem, right, question.family, question.about), options, right
                )
                made.append(sample(self.name, len(made), picture, rotated, item=number))
        return made[:n]

    def credit(self, samples: Sequence[Sample], predictions: Sequence[str]) -> Sums:
        """Per question: 1 if all its rotations are right, else 0; [U]."""
        right: dict[int, bool] = {}
        for one, prediction in zip(samples, predictions, strict=True):
            hit = normal(prediction) == one.answers[0]
            right[one.info["item"]] = right.get(one.info["item"], True) and hit
        return np.array(list(right.values()), float)


class MMBenchCN(MMBench):
    """The same questions in a second vocabulary (MMBench-CN)."""

    name = "mmbench-cn"
    chinese = True
