"""VizWiz in miniature: blurred, dark or cut photographs, and questions that have no answer.

what color is the star ? (no star, or a finger before it) -> unanswerable
"""

from __future__ import annotations

from bench.tasks.base import Task
from bench.tasks.micro import annotators, asked, sample
from compress.micro import questions as q
from compress.micro.world import COLORS, SPOILS, rng_of
from compress.samples import Sample


class VizWiz(Task):
    """Bad photographs and unanswerable questions, ten annotators, soft accuracy (VizWiz)."""

    name = "vizwiz"
    metric = "soft accuracy"

    def micro(self, n: int, split: str = "test") -> list[Sample]:
        askers = [q.color, q.shape, q.missing, q.exist]
        made = []
        for i, (picture, question) in enumerate(asked(self.name, split, n, askers, lambda i: SPOILS[i % 3])):
            others = ("yes", "no") if question.family == "exist" else (*COLORS, "unanswerable")
            answers = annotators(question.answer, others, rng_of(split, picture.seed, 4), agree=0.85)
            made.append(sample(self.name, i, picture, question, answers))
        return made
