"""VQAv2 in miniature: counting and open questions, ten annotators who do not always agree, soft accuracy.

how many red objects are there ? -> two (8 annotators), three (2)
"""

from __future__ import annotations

from bench.tasks.base import Task
from bench.tasks.micro import annotators, asked, sample
from compress.micro import questions as q
from compress.micro.language import COUNTS
from compress.micro.world import COLORS, rng_of
from compress.samples import Sample


class VQAv2(Task):
    """Counting and open questions, ten annotators, soft accuracy (VQAv2)."""

    name = "vqav2"
    metric = "soft accuracy"

    def micro(self, n: int, split: str = "test") -> list[Sample]:
        pools = {"count": COUNTS, "color": tuple(COLORS), "shape": q.KINDS, "exist": ("yes", "no")}
        made = []
        for i, (picture, question) in enumerate(
            asked(self.name, split, n, [q.count, q.color, q.count, q.exist, q.shape])
        ):
            rng = rng_of(split, picture.seed, 4)
            answers = annotators(question.answer, pools[question.family], rng, agree=0.88)
            made.append(sample(self.name, i, picture, question, answers))
        return made
