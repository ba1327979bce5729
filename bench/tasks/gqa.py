"""GQA in miniature: open questions on attributes and relations, exact match.

what color is the star ? -> red          is the star left of the circle ? -> yes
"""

from __future__ import annotations

from bench.tasks.base import Task
from bench.tasks.micro import asked, sample
from compress.micro import questions as q
from compress.samples import Sample


class GQA(Task):
    """Open attribute and relation questions, exact match (GQA)."""

    name = "gqa"
    metric = "accuracy"

    def micro(self, n: int, split: str = "test") -> list[Sample]:
        made = asked(self.name, split, n, [q.color, q.shape, q.relation])
        return [sample(self.name, i, picture, question) for i, (picture, question) in enumerate(made)]
